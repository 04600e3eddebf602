//! What CREATE DATABASE and DROP DATABASE must know of a group, and do there beside what PostgreSQL does.
//!
//! They cannot run in a transaction, so each group makes or drops its own database, one after the other, and whoever repeats the
//! statement goes on where it stopped. Two at a time would end in each other's way: a [`Turn`] is for one.
//!
//! A database that some groups have and others lack is either being made or being dropped. The one must be finished, the
//! other must never come back to life with the rows of some groups. They are told apart by what is in it: before all
//! groups have a database nobody can define anything there, so one that is being made is as its template ([`Found::Untouched`]).

use std::convert::Infallible;
use std::future::Future;
use std::time::{Duration, Instant};

use shard::causes::with_causes;
use shard::client::Groups;
use shard::id::GroupId;

use crate::catalogue::bootstrap::{BootstrapError, Identity, install};
use crate::catalogue::{Catalogue, CatalogueError};
use crate::connection::{APPLICATION_NAME, Connection, OpenError, SUPERUSER};

/// Where questions about databases are asked: every group has it, and it cannot be dropped.
const HOME: &str = "postgres";

/// Howdah's own advisory lock, "howdah" in ASCII and one more than the one of `bootstrap`.
const TURN_LOCK: i64 = 0x686f_7764_6169;

/// Between two attempts to get the turn.
const TURN_PAUSE: Duration = Duration::from_millis(50);

/// How long the others may have the turn: time to copy a template on every group. PostgreSQL waits here for as long as it takes.
const TURN_PATIENCE: Duration = Duration::from_secs(60);

/// Between two looks for connections of nodes that stand in the way. PostgreSQL waits for five seconds
/// (`CountOtherDBBackends` in procarray.c).
const CLEAR_EVERY: Duration = Duration::from_millis(50);

/// How long one look may take.
const CLEAR_PATIENCE: Duration = Duration::from_secs(2);

/// How long a backend that is ended may take to be gone.
const GONE_WITHIN: Duration = Duration::from_secs(1);

/// The right to create or drop a database, of one session of the whole cluster.
#[derive(Debug)]
pub struct Turn {
    /// Its session holds the lock; when the node dies PostgreSQL ends it. A new leader of the group knows nothing of it: then two
    /// may be at work, and PostgreSQL's own errors tell one of them.
    connection: Connection,
}

impl Turn {
    /// Waits for the turn; none when others have it for a minute. `patience` is for the first group's leader and its answers.
    ///
    /// # Errors
    /// When the first group does not answer.
    pub async fn take(groups: &dyn Groups, patience: Duration) -> Result<Option<Turn>, DatabaseError> {
        let Some(group) = groups.groups().first().copied() else {
            return Ok(None);
        };
        let began = Instant::now();
        let connection = within(group, patience, Connection::open(groups, group, HOME, patience)).await?;
        loop {
            let asked = async {
                let row = connection
                    .client
                    .query_one("SELECT pg_try_advisory_lock($1)", &[&TURN_LOCK])
                    .await?;
                Ok::<bool, OpenError>(row.try_get(0)?)
            };
            if within(group, patience, asked).await? {
                return Ok(Some(Turn { connection }));
            }
            if began.elapsed() >= TURN_PATIENCE {
                return Ok(None);
            }
            tokio::time::sleep(TURN_PAUSE).await;
        }
    }

    /// Lets the next one.
    pub async fn end(self) {
        self.connection.close().await;
    }
}

/// What a group has of a database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// Nothing.
    Absent,
    /// It is there without schema `howdah`: nobody could use it.
    Unprepared,
    /// Nobody has defined anything in it.
    Untouched,
    /// It has definitions, or is the rest of a DROP DATABASE that PostgreSQL could not finish.
    Used,
}

/// Whether a group has the database.
///
/// # Errors
/// When the group does not answer within `patience`.
pub async fn exists(
    groups: &dyn Groups,
    group: GroupId,
    database: &str,
    patience: Duration,
) -> Result<bool, DatabaseError> {
    let sql = "SELECT EXISTS (SELECT FROM pg_database WHERE datname = $1)";
    within(group, patience, ask(groups, group, database, sql, patience)).await
}

/// The names of all databases that one can connect to, as the first group has them that answers within `patience`; one that
/// this node leads is asked before others.
///
/// # Errors
/// What the last group says when none does.
pub async fn names(groups: &dyn Groups, patience: Duration) -> Result<Vec<String>, DatabaseError> {
    let mut order: Vec<GroupId> = groups.groups().to_vec();
    order.sort_by_key(|group| !groups.leads(*group));
    let mut answer = Ok(Vec::new());
    for group in order {
        answer = within(group, patience, names_on(groups, group, patience)).await;
        if answer.is_ok() {
            break;
        }
    }
    answer
}

/// By group the databases that it has; none for a group that does not answer within `patience`.
pub async fn names_by_group(groups: &dyn Groups, patience: Duration) -> Vec<(GroupId, Option<Vec<String>>)> {
    let ask = |group: GroupId| async move {
        let asked = within(group, patience, names_on(groups, group, patience)).await;
        (group, asked.ok())
    };
    futures::future::join_all(groups.groups().iter().copied().map(ask)).await
}

async fn names_on(groups: &dyn Groups, group: GroupId, patience: Duration) -> Result<Vec<String>, OpenError> {
    let connection = Connection::open(groups, group, HOME, patience).await?;
    let sql = "SELECT datname::text FROM pg_database WHERE datallowconn ORDER BY 1";
    let rows = connection.client.query(sql, &[]).await?;
    rows.iter().map(|row| Ok(row.try_get(0)?)).collect()
}

/// Whether clients are in the database, or something is prepared there: PostgreSQL will not drop it, or not at once.
///
/// # Errors
/// When the group does not answer within `patience`.
pub async fn is_in_use(
    groups: &dyn Groups,
    group: GroupId,
    database: &str,
    patience: Duration,
) -> Result<bool, DatabaseError> {
    let sql = format!(
        "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE datname = $1 AND backend_type = 'client backend' \
            AND application_name <> '{APPLICATION_NAME}') \
         OR EXISTS (SELECT FROM pg_prepared_xacts WHERE database = $1)"
    );
    within(group, patience, ask(groups, group, database, &sql, patience)).await
}

/// What must be the same in all groups: owner, locale and the like, in a form to be compared. None where there is none.
///
/// # Errors
/// When the group does not answer within `patience`.
pub async fn properties(
    groups: &dyn Groups,
    group: GroupId,
    database: &str,
    patience: Duration,
) -> Result<Option<String>, DatabaseError> {
    let sql = "SELECT (SELECT (to_jsonb(d) - '{oid,datdba,datlastsysoid,datfrozenxid,datminmxid,datacl}'::text[] \
               || jsonb_build_object('owner', pg_get_userbyid(d.datdba)))::text \
               FROM pg_database d WHERE d.datname = $1)";
    within(group, patience, ask(groups, group, database, sql, patience)).await
}

/// Asks for one value about a database.
async fn ask<T: for<'a> tokio_postgres::types::FromSql<'a>>(
    groups: &dyn Groups,
    group: GroupId,
    database: &str,
    sql: &str,
    patience: Duration,
) -> Result<T, OpenError> {
    let connection = Connection::open(groups, group, HOME, patience).await?;
    Ok(connection.client.query_one(sql, &[&database]).await?.try_get(0)?)
}

/// What a group has of the database.
///
/// # Errors
/// When the group does not answer within `patience`.
pub async fn find(
    groups: &dyn Groups,
    group: GroupId,
    database: &str,
    patience: Duration,
) -> Result<Found, DatabaseError> {
    let looked = async {
        let sql = "SELECT (SELECT datconnlimit FROM pg_database WHERE datname = $1)";
        match ask::<Option<i32>>(groups, group, database, sql, patience).await? {
            None => return Ok(Found::Absent),
            // DATCONNLIMIT_INVALID_DB: it must be dropped again.
            Some(-2) => return Ok(Found::Used),
            Some(_) => {}
        }
        let Some(template) = definitions(groups, group, "template1", patience).await? else {
            return Ok(Found::Used);
        };
        Ok::<_, OpenError>(match definitions(groups, group, database, patience).await? {
            None => Found::Unprepared,
            Some(own) if own == template => Found::Untouched,
            Some(_) => Found::Used,
        })
    };
    within(group, patience, looked).await
}

/// How often something was defined in a database, and how many relations and schemas it has; none without schema `howdah`.
async fn definitions(
    groups: &dyn Groups,
    group: GroupId,
    database: &str,
    patience: Duration,
) -> Result<Option<(i64, i64, i64)>, OpenError> {
    let connection = Connection::open(groups, group, database, patience).await?;
    let there = connection
        .client
        .query_one("SELECT to_regclass('howdah.catalogue_version') IS NOT NULL", &[])
        .await?;
    let mut found = None;
    if there.try_get(0)? {
        let row = connection
            .client
            .query_one(
                "SELECT version, (SELECT count(*) FROM pg_class WHERE oid >= 16384), \
                 (SELECT count(*) FROM pg_namespace WHERE oid >= 16384) FROM howdah.catalogue_version",
                &[],
            )
            .await?;
        found = Some((row.try_get(0)?, row.try_get(1)?, row.try_get(2)?));
    }
    // It is not to stand in the way of what comes next.
    connection.close().await;
    Ok(found)
}

/// Installs schema `howdah` in a database of the group where it is missing, as in a copy of `template0`.
///
/// # Errors
/// When the group does not answer within `patience`, or the database is of another cluster.
pub async fn prepare(
    groups: &dyn Groups,
    group: GroupId,
    database: &str,
    patience: Duration,
) -> Result<(), DatabaseError> {
    let prepared = async {
        let home = Connection::open(groups, group, HOME, patience).await?;
        let cluster = home
            .client
            .query_one("SELECT name FROM howdah.cluster", &[])
            .await?;
        let catalogue = Catalogue::load(&home.client).await?;
        let identity = Identity {
            cluster: cluster.try_get(0)?,
            group,
            slots: catalogue.slots(),
        };
        let mut connection = Connection::open(groups, group, database, patience).await?;
        // A crash before this leaves a database without the schema, that nobody can use; whoever repeats CREATE DATABASE
        // installs it, or drops the database.
        install(&mut connection.client, identity).await?;
        connection.close().await;
        Ok::<(), PrepareError>(())
    };
    within(group, patience, prepared).await
}

#[derive(Debug, thiserror::Error)]
enum PrepareError {
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error(transparent)]
    Postgres(#[from] tokio_postgres::Error),
    #[error(transparent)]
    Catalogue(#[from] CatalogueError),
    #[error(transparent)]
    Install(#[from] BootstrapError),
}

/// Ends the connections of all nodes to a database of the group, and waits until their backends are gone.
///
/// # Errors
/// When the group does not answer.
pub async fn clear(groups: &dyn Groups, group: GroupId, database: &str) -> Result<(), DatabaseError> {
    let cleared = async {
        let connection = Connection::open(groups, group, HOME, CLEAR_PATIENCE).await?;
        end_ours(&connection, database, GONE_WITHIN).await
    };
    within(group, CLEAR_PATIENCE, cleared).await
}

/// Ends the connections of all nodes to a database of the group, again and again, while PostgreSQL waits for
/// everyone to leave it. It has locked the database then: who is ended cannot come back before it is done.
pub async fn keep_clear(groups: &dyn Groups, group: GroupId, database: &str) -> Infallible {
    let mut kept = None;
    loop {
        tokio::time::sleep(CLEAR_EVERY).await;
        let cleared = async {
            let connection = match kept.take() {
                Some(connection) => connection,
                None => Connection::open(groups, group, HOME, CLEAR_PATIENCE).await?,
            };
            end_ours(&connection, database, Duration::ZERO).await?;
            Ok::<_, OpenError>(connection)
        };
        // Where it fails PostgreSQL's own error comes in the end.
        kept = within(group, CLEAR_PATIENCE, cleared).await.ok();
    }
}

/// Ends them, and waits as long for each to be gone.
async fn end_ours(connection: &Connection, database: &str, patience: Duration) -> Result<(), OpenError> {
    let sql = format!(
        "SELECT pg_terminate_backend(pid, {}) FROM pg_stat_activity \
         WHERE datname = $1 AND application_name = '{APPLICATION_NAME}' AND usename = '{SUPERUSER}'",
        patience.as_millis()
    );
    connection.client.query(&sql, &[&database]).await?;
    Ok(())
}

async fn within<T, E: std::error::Error>(
    group: GroupId,
    patience: Duration,
    asked: impl Future<Output = Result<T, E>>,
) -> Result<T, DatabaseError> {
    let why = match tokio::time::timeout(patience, asked).await {
        Ok(Ok(answer)) => return Ok(answer),
        Ok(Err(error)) => with_causes(&error),
        Err(_) => "no answer in time".to_owned(),
    };
    Err(DatabaseError { group, why })
}

/// A group could not be asked about its databases.
#[derive(Debug, thiserror::Error)]
#[error("group {group} cannot be asked about its databases: {why}")]
pub struct DatabaseError {
    /// The group.
    pub group: GroupId,
    /// In words.
    pub why: String,
}
