//! Reads a [`Catalogue`] in one transaction.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use shard::id::GroupId;
use tokio_postgres::{Client, IsolationLevel, Row, Transaction};

use super::{
    AttributeNumber, Catalogue, CatalogueError, CatalogueVersion, Column, FilledBy, Oid, Relation,
    RelationKind, ShardKey,
};
use crate::hash::{KeyColumn, KeyType};
use crate::slots::{MapEpoch, SlotMap};

/// The schemas whose relations are the same in every group.
const SYSTEM: &str = "('pg_catalog', 'information_schema', 'howdah')";

/// The version in SQL. A database that is dropped and created again counts from 1 again: its own object id, which
/// grows, goes in front of the count.
const VERSION: &str = "(SELECT (d.oid::int8 << 31) + v.version FROM howdah.catalogue_version v, pg_catalog.pg_database d \
     WHERE d.datname = pg_catalog.current_database())";

/// Reads only the version: what is asked again and again.
pub(super) async fn version(client: &Client) -> Result<CatalogueVersion, CatalogueError> {
    let row = client
        .query_one("SELECT version FROM howdah.catalogue_version", &[])
        .await?;
    Ok(CatalogueVersion(row.try_get(0)?))
}

impl Catalogue {
    /// Reads the catalogue of the database that `client` is connected to, in one snapshot.
    ///
    /// # Errors
    /// When PostgreSQL does not answer, schema `howdah` is missing (3F000, 42P01), or what is stored is damaged.
    pub async fn load(client: &mut Client) -> Result<Catalogue, CatalogueError> {
        // One snapshot: the version belongs to what is read beside it. Only tables are read, none of the functions
        // that look past the snapshot (format_type, pg_get_expr, ...).
        let transaction = client
            .build_transaction()
            .isolation_level(IsolationLevel::RepeatableRead)
            .read_only(true)
            .start()
            .await?;
        let head = transaction
            .query_one(
                &format!(
                    "SELECT {VERSION}, c.map_epoch, \
                        (SELECT array_agg(m.group_id ORDER BY m.slot) FROM howdah.slot_map m) \
                     FROM howdah.cluster c"
                ),
                &[],
            )
            .await?;
        let mut relations = relations(&transaction).await?;
        let places: HashMap<Oid, usize> = relations
            .iter()
            .enumerate()
            .map(|(place, relation)| (relation.oid, place))
            .collect();
        columns(&transaction, &mut relations, &places).await?;
        keys(&transaction, &mut relations, &places).await?;
        let system = system(&transaction).await?;
        transaction.commit().await?;

        let mut by_name: HashMap<String, HashMap<String, usize>> = HashMap::new();
        for (place, relation) in relations.iter().enumerate() {
            by_name
                .entry(relation.schema.clone())
                .or_default()
                .insert(relation.name.clone(), place);
        }
        Ok(Catalogue {
            version: CatalogueVersion(head.try_get(0)?),
            slots: Arc::new(slot_map(&head)?),
            relations,
            by_name,
            system,
        })
    }
}

fn slot_map(head: &Row) -> Result<SlotMap, CatalogueError> {
    let damaged = |_| CatalogueError::Damaged("a negative number in the slot map".to_owned());
    let epoch = u64::try_from(head.try_get::<_, i64>(1)?).map_err(damaged)?;
    let groups = head.try_get::<_, Option<Vec<i32>>>(2)?.unwrap_or_default();
    let groups = groups.into_iter().map(|group| u32::try_from(group).map(GroupId));
    let groups = groups.collect::<Result<Vec<_>, _>>().map_err(damaged)?;
    Ok(SlotMap::from_groups(MapEpoch(epoch), groups)?)
}

/// Users' relations, still without columns and keys.
async fn relations(transaction: &Transaction<'_>) -> Result<Vec<Relation>, CatalogueError> {
    let sql = format!(
        "SELECT c.oid, n.nspname::text, c.relname::text, c.relkind::text, d.key_attnum, k.atttypid, k.atttypmod \
         FROM pg_catalog.pg_class c \
         JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
         LEFT JOIN howdah.distributed_tables d ON d.relid = c.oid \
         LEFT JOIN pg_catalog.pg_attribute k ON k.attrelid = c.oid AND k.attnum = d.key_attnum \
         WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S') AND c.relpersistence <> 't' \
           AND n.nspname NOT IN {SYSTEM} AND n.nspname !~ '^pg_toast'"
    );
    let rows = transaction.query(&sql, &[]).await?;
    rows.iter()
        .map(|row| {
            let (schema, name): (String, String) = (row.try_get(1)?, row.try_get(2)?);
            let shard_key = match row.try_get::<_, Option<i16>>(4)? {
                None => None,
                Some(number) => {
                    let key_type = row.try_get::<_, Option<u32>>(5)?.and_then(KeyType::from_oid);
                    let key_type = key_type.ok_or_else(|| {
                        CatalogueError::Damaged(format!("no type for the shard key of {schema}.{name}"))
                    })?;
                    let column = KeyColumn {
                        key_type,
                        type_modifier: row.try_get(6)?,
                    };
                    Some(ShardKey {
                        number: AttributeNumber(number),
                        column,
                    })
                }
            };
            Ok(Relation {
                oid: Oid(row.try_get(0)?),
                kind: kind(row.try_get(3)?)?,
                schema,
                name,
                columns: Vec::new(),
                primary_key: Vec::new(),
                unique: Vec::new(),
                shard_key,
            })
        })
        .collect()
}

fn kind(relkind: &str) -> Result<RelationKind, CatalogueError> {
    match relkind {
        "r" => Ok(RelationKind::Table),
        "p" => Ok(RelationKind::PartitionedTable),
        "v" => Ok(RelationKind::View),
        "m" => Ok(RelationKind::MaterializedView),
        "f" => Ok(RelationKind::ForeignTable),
        "S" => Ok(RelationKind::Sequence),
        other => Err(CatalogueError::Damaged(format!("a relation of kind {other:?}"))),
    }
}

async fn columns(
    transaction: &Transaction<'_>,
    relations: &mut [Relation],
    places: &HashMap<Oid, usize>,
) -> Result<(), CatalogueError> {
    let sql = format!(
        "SELECT a.attrelid, a.attnum, a.attname::text, a.atttypid, a.atttypmod, \
            a.atthasdef, a.attidentity <> '', a.attgenerated <> '', a.attnotnull \
         FROM pg_catalog.pg_attribute a \
         JOIN pg_catalog.pg_class c ON c.oid = a.attrelid \
         JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
         WHERE a.attnum > 0 AND NOT a.attisdropped AND c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S') \
           AND c.relpersistence <> 't' AND n.nspname NOT IN {SYSTEM} AND n.nspname !~ '^pg_toast' \
         ORDER BY a.attrelid, a.attnum"
    );
    for row in transaction.query(&sql, &[]).await? {
        let Some(place) = places.get(&Oid(row.try_get(0)?)) else {
            continue;
        };
        let filled_by = match (row.try_get(5)?, row.try_get(6)?, row.try_get(7)?) {
            (_, true, _) => FilledBy::Identity,
            (_, _, true) => FilledBy::Generated,
            (true, _, _) => FilledBy::Default,
            _ => FilledBy::Null,
        };
        relations[*place].columns.push(Column {
            number: AttributeNumber(row.try_get(1)?),
            name: row.try_get(2)?,
            type_oid: row.try_get(3)?,
            type_modifier: row.try_get(4)?,
            filled_by,
            not_null: row.try_get(8)?,
        });
    }
    Ok(())
}

/// Primary keys and unique indexes.
async fn keys(
    transaction: &Transaction<'_>,
    relations: &mut [Relation],
    places: &HashMap<Oid, usize>,
) -> Result<(), CatalogueError> {
    let sql = "SELECT i.indrelid, i.indisprimary, (i.indkey::int2[])[0:i.indnkeyatts - 1] \
               FROM pg_catalog.pg_index i WHERE i.indisunique ORDER BY i.indexrelid";
    for row in transaction.query(sql, &[]).await? {
        let Some(place) = places.get(&Oid(row.try_get(0)?)) else {
            continue;
        };
        let numbers: Vec<i16> = row.try_get(2)?;
        // 0 stands for an expression.
        let numbers: Vec<_> = numbers
            .into_iter()
            .filter(|number| *number != 0)
            .map(AttributeNumber)
            .collect();
        if row.try_get(1)? {
            relations[*place].primary_key.clone_from(&numbers);
        }
        relations[*place].unique.push(numbers);
    }
    Ok(())
}

/// The names that shadow, or are, PostgreSQL's and Howdah's own relations.
async fn system(transaction: &Transaction<'_>) -> Result<HashMap<String, HashSet<String>>, CatalogueError> {
    let sql = format!(
        "SELECT n.nspname::text, c.relname::text FROM pg_catalog.pg_class c \
         JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
         WHERE n.nspname IN {SYSTEM} AND c.relkind IN ('r', 'v', 'm', 'f', 'p', 'S')"
    );
    let mut names: HashMap<String, HashSet<String>> = HashMap::new();
    for row in transaction.query(&sql, &[]).await? {
        names.entry(row.try_get(0)?).or_default().insert(row.try_get(1)?);
    }
    Ok(names)
}
