//! Installs schema `howdah` in the databases of a group, and the SQL that changes it.

use std::time::Duration;

use shard::client::{ConnectError, Groups};
use shard::id::GroupId;
use tokio_postgres::{Client, Transaction};

use crate::connection::{Connection, OpenError};
use crate::slots::SlotMap;

/// The version of `schema.sql`. There is no upgrade yet: another version found is an error.
const SCHEMA_VERSION: i32 = 8;

/// Howdah's own advisory lock ("howdah" in ASCII): one installs, the others find it done.
const INSTALL_LOCK: i64 = 0x686f_7764_6168;

/// Every new group has these; new databases are copies of `template1` and bring the schema with them.
const DATABASES: [&str; 2] = ["template1", "postgres"];

/// What is written into a group's databases when they are new.
#[derive(Clone, Copy, Debug)]
pub struct Identity<'a> {
    /// The cluster's name.
    pub cluster: &'a str,
    /// The group.
    pub group: GroupId,
    /// The first placement, the same for every group. A stored one stays as it is.
    pub slots: &'a SlotMap,
}

/// What [`install`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Installed {
    /// The schema was not there, and now is.
    Now,
    /// It was there.
    Before,
}

/// Installs the schema in `template1` and `postgres` of a group, where it is missing. Any number of nodes may do so at
/// once, and again after a failure.
///
/// # Errors
/// When the group does not answer within `patience`, or holds the schema of another cluster, group or version.
pub async fn bootstrap(
    groups: &dyn Groups,
    identity: Identity<'_>,
    patience: Duration,
) -> Result<(), BootstrapError> {
    for database in DATABASES {
        let mut connection = Connection::open(groups, identity.group, database, patience).await?;
        let installed = install(&mut connection.client, identity).await;
        // Nobody can create a database while someone is connected to template1.
        connection.close().await;
        if installed? == Installed::Now {
            tracing::info!(group = %identity.group, database, "installed schema howdah");
        }
    }
    Ok(())
}

/// Installs the schema in the database that the superuser's `client` is connected to, if it is missing.
///
/// # Errors
/// When PostgreSQL refuses, or the database holds the schema of another cluster, group or version.
pub async fn install(client: &mut Client, identity: Identity<'_>) -> Result<Installed, BootstrapError> {
    let transaction = client.transaction().await?;
    transaction
        .execute("SELECT pg_advisory_xact_lock($1)", &[&INSTALL_LOCK])
        .await?;
    let there: bool = transaction
        .query_one("SELECT to_regclass('howdah.cluster') IS NOT NULL", &[])
        .await?
        .get(0);
    if there {
        check(&transaction, identity).await?;
        return Ok(Installed::Before);
    }
    transaction.batch_execute(include_str!("schema.sql")).await?;
    let epoch = i64::try_from(identity.slots.epoch().0).map_err(|_| BootstrapError::TooLarge)?;
    let group = i32::try_from(identity.group.0).map_err(|_| BootstrapError::TooLarge)?;
    let by_slot = identity
        .slots
        .by_slot()
        .iter()
        .map(|group| i32::try_from(group.0));
    let by_slot: Vec<i32> = by_slot
        .collect::<Result<_, _>>()
        .map_err(|_| BootstrapError::TooLarge)?;
    transaction
        .execute(
            "INSERT INTO howdah.cluster (name, group_id, schema_version, map_epoch) VALUES ($1, $2, $3, $4)",
            &[&identity.cluster, &group, &SCHEMA_VERSION, &epoch],
        )
        .await?;
    transaction
        .execute(
            "INSERT INTO howdah.slot_map (slot, group_id) \
             SELECT place - 1, group_id FROM unnest($1::int4[]) WITH ORDINALITY AS given (group_id, place)",
            &[&by_slot],
        )
        .await?;
    transaction
        .batch_execute(
            "INSERT INTO howdah.catalogue_version (version) VALUES (1); \
             SELECT howdah.rebuild_owns(); GRANT EXECUTE ON FUNCTION howdah.owns(int8) TO PUBLIC",
        )
        .await?;
    transaction.batch_execute(include_str!("hide.sql")).await?;
    // A crash before this leaves nothing of the schema; whoever leads next installs it.
    // A crash after it leaves all of it; whoever leads next finds it done.
    transaction.commit().await?;
    Ok(Installed::Now)
}

/// That what is stored is of this cluster, group and version.
async fn check(transaction: &Transaction<'_>, identity: Identity<'_>) -> Result<(), BootstrapError> {
    let row = transaction
        .query_one("SELECT name, group_id, schema_version FROM howdah.cluster", &[])
        .await?;
    let (name, group, version): (String, i32, i32) = (row.get(0), row.get(1), row.get(2));
    if name != identity.cluster || u32::try_from(group) != Ok(identity.group.0) {
        return Err(BootstrapError::Foreign { cluster: name, group });
    }
    if version != SCHEMA_VERSION {
        return Err(BootstrapError::Version(version));
    }
    Ok(())
}

/// The SQL that gives a table another distribution in one group: `hash` by this column, the default one where none is named,
/// `reference` or `local`. It answers with the former one, and the table stays locked; its rows are moved next ([`Moving`]).
///
/// Its errors are the user's: 42P01, 42703, 42809, 42501, 0A000 (type, unique constraint, foreign key), 55000 (rows that other
/// tables refer to).
#[must_use]
pub fn distribute_table_sql(schema: &str, table: &str, distribution: &str, column: Option<&str>) -> String {
    let relation = literal(&format!("{}.{}", identifier(schema), identifier(table)));
    let column = column.map_or_else(|| "NULL".to_owned(), literal);
    let distribution = literal(distribution);
    format!("SELECT howdah.distribute_table({relation}::pg_catalog.regclass, {distribution}, {column})")
}

/// Takes the lock of who writes to a reference table, on one group.
#[must_use]
pub fn lock_reference_sql(schema: &str, table: &str) -> String {
    let relation = literal(&format!("{}.{}", identifier(schema), identifier(table)));
    format!("SELECT howdah.lock_reference({relation}::pg_catalog.regclass)")
}

/// What moves a table's rows to where another distribution wants them, on each group in turn.
#[derive(Clone, Debug)]
pub struct Moving {
    table: String,
    slot: String,
}

impl Moving {
    /// Of this table, to the groups of this column's hash slots; without one, to that of slot 0.
    #[must_use]
    pub fn new(schema: &str, table: &str, key: Option<&str>) -> Moving {
        let slot = |key| {
            format!(
                "pg_catalog.hash_record_extended(ROW({}), 0) & 4095",
                identifier(key)
            )
        };
        Moving {
            table: format!("{}.{}", identifier(schema), identifier(table)),
            slot: key.map_or_else(|| "0".to_owned(), slot),
        }
    }

    /// Makes the column the shard key, before the rows are moved. Answers false where it must not be.
    #[must_use]
    pub fn begin(&self, key: &str) -> String {
        let relation = literal(&self.table);
        format!(
            "SELECT howdah.move_key({relation}::pg_catalog.regclass, {})",
            literal(key)
        )
    }

    /// Asks for the columns that are stored, as a list.
    #[must_use]
    pub fn columns(&self) -> String {
        format!(
            "SELECT pg_catalog.string_agg(pg_catalog.quote_ident(a.attname), ', ' ORDER BY a.attnum) \
             FROM pg_catalog.pg_attribute a WHERE a.attrelid = {}::pg_catalog.regclass \
             AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = ''",
            literal(&self.table)
        )
    }

    /// The rows that belong elsewhere, each behind its slot.
    #[must_use]
    pub fn read(&self, columns: &str) -> String {
        let Moving { table, slot } = self;
        format!("COPY (SELECT {slot}, {columns} FROM ONLY {table} WHERE NOT howdah.owns({slot})) TO STDOUT")
    }

    /// All rows, without their slots.
    #[must_use]
    pub fn read_all(&self, columns: &str) -> String {
        format!("COPY (SELECT {columns} FROM ONLY {}) TO STDOUT", self.table)
    }

    /// Takes such rows, without their slots.
    #[must_use]
    pub fn write(&self, columns: &str) -> String {
        format!("COPY {} ({columns}) FROM STDIN", self.table)
    }

    /// Takes all rows away.
    #[must_use]
    pub fn delete_all(&self) -> String {
        format!("DELETE FROM ONLY {}", self.table)
    }

    /// Takes those that belong elsewhere away where they were.
    #[must_use]
    pub fn delete(&self) -> String {
        format!(
            "DELETE FROM ONLY {} WHERE NOT howdah.owns({})",
            self.table, self.slot
        )
    }
}

/// Asks for the name of a table's shard key; no row where it has none, or there is no such table.
#[must_use]
pub fn shard_key_sql(schema: &str, table: &str) -> String {
    let relation = literal(&format!("{}.{}", identifier(schema), identifier(table)));
    format!(
        "SELECT a.attname FROM howdah.distributed_tables d \
         JOIN pg_catalog.pg_attribute a ON a.attrelid = d.relid AND a.attnum = d.key_attnum \
         WHERE d.relid = pg_catalog.to_regclass({relation})"
    )
}

/// Asks the home group for the state of a sequence, or of a table's sequences, before ALTER changes it.
#[must_use]
pub fn sequence_states_sql(schema: &str, name: &str) -> String {
    let relation = literal(&qualified(schema, name));
    format!("SELECT howdah.sequence_states({relation})")
}

/// Makes another group's sequences ready for an ALTER, by what [`sequence_states_sql`] has given.
#[must_use]
pub fn open_sequences_sql(states: &str) -> String {
    format!("SELECT howdah.open_sequences({})", literal(states))
}

/// Notes what a statement has done to sequences that is no definition: TRUNCATE ... RESTART IDENTITY.
pub const SEQUENCES_CHANGED: &str = "SELECT howdah.sequences_changed()";

/// Notes on a group that `setval()` was called on the home group.
#[must_use]
pub fn sequence_set_sql(schema: &str, name: &str) -> String {
    let relation = literal(&qualified(schema, name));
    format!("SELECT howdah.sequence_set({relation})")
}

/// Asks for `DROP INDEX` of an index that a failed `CREATE INDEX CONCURRENTLY` has left invalid on this table; no row where
/// there is none.
#[must_use]
pub fn drop_invalid_index_sql(schema: &str, table: &str, index: &str) -> String {
    let drop = format!(
        "DROP INDEX CONCURRENTLY IF EXISTS {}.{}",
        identifier(schema),
        identifier(index)
    );
    format!(
        "SELECT {} FROM pg_catalog.pg_index x \
         JOIN pg_catalog.pg_class i ON i.oid = x.indexrelid JOIN pg_catalog.pg_class t ON t.oid = x.indrelid \
         JOIN pg_catalog.pg_namespace n ON n.oid = t.relnamespace \
         WHERE NOT x.indisvalid AND n.nspname = {} AND t.relname = {} AND i.relname = {}",
        literal(&drop),
        literal(schema),
        literal(table),
        literal(index)
    )
}

/// A relation's name with its schema, quoted.
pub(crate) fn qualified(schema: &str, name: &str) -> String {
    format!("{}.{}", identifier(schema), identifier(name))
}

/// A name as a quoted identifier.
fn identifier(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// A text as a literal that no setting reads otherwise.
fn literal(text: &str) -> String {
    format!("E'{}'", text.replace('\\', "\\\\").replace('\'', "''"))
}

/// Why a group's databases could not be prepared.
#[derive(Debug, thiserror::Error)]
pub enum BootstrapError {
    /// The group's leader cannot be reached.
    #[error("schema howdah cannot be installed")]
    Connect(#[from] ConnectError),
    /// PostgreSQL refused.
    #[error("schema howdah cannot be installed")]
    Postgres(#[from] tokio_postgres::Error),
    /// The data belongs to another cluster or group.
    #[error("the database belongs to group {group} of cluster {cluster:?}")]
    Foreign {
        /// Whose it is.
        cluster: String,
        /// Which part of it.
        group: i32,
    },
    /// The schema was installed by another version of Howdah.
    #[error("schema howdah has version {0}, this program needs version {SCHEMA_VERSION}")]
    Version(i32),
    /// A group id or epoch does not fit PostgreSQL's integers.
    #[error("a group id or slot map epoch is too large to be stored")]
    TooLarge,
}

impl From<OpenError> for BootstrapError {
    fn from(error: OpenError) -> BootstrapError {
        match error {
            OpenError::Connect(error) => BootstrapError::Connect(error),
            OpenError::Postgres(error) => BootstrapError::Postgres(error),
        }
    }
}
