//! Reads a [`Catalogue`] by one statement, and so in one snapshot.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use serde::Deserialize;
use shard::id::GroupId;
use tokio_postgres::Client;

use super::functions::{self, StoredFunction};
use super::{
    AttributeNumber, Catalogue, CatalogueError, CatalogueVersion, Column, FilledBy, Oid, Placement, Relation,
    RelationKind, SequenceFacts, ShardKey, UserFunction,
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
    let row = client.query_one(&format!("SELECT {VERSION}"), &[]).await?;
    Ok(CatalogueVersion(row.try_get(0)?))
}

/// What the statement answers.
#[derive(Debug, Deserialize)]
struct Stored {
    version: i64,
    epoch: i64,
    /// The group of each slot.
    slots: Option<Vec<i32>>,
    relations: Vec<StoredRelation>,
    functions: Vec<StoredFunction>,
    /// Schemas and names that shadow, or are, PostgreSQL's and Howdah's own relations.
    system: Vec<(String, String)>,
}

#[derive(Debug, Deserialize)]
struct StoredRelation {
    oid: u32,
    schema: String,
    name: String,
    /// `pg_class.relkind`.
    kind: String,
    /// `howdah.distributed_tables.distribution`.
    distribution: Option<String>,
    /// Number, type and type modifier of the shard key's column.
    key: Option<(i16, u32, i32)>,
    columns: Vec<StoredColumn>,
    unique: Vec<StoredIndex>,
    /// Of a view.
    definition: Option<String>,
    /// Of a sequence, once it was noticed.
    generation: Option<i64>,
    /// The table and column that a sequence belongs to.
    owner: Option<(u32, i16)>,
}

#[derive(Debug, Deserialize)]
struct StoredColumn {
    number: i16,
    name: String,
    #[serde(rename = "type")]
    type_oid: u32,
    modifier: i32,
    default: bool,
    /// `pg_attribute.attidentity`.
    identity: String,
    generated: bool,
    /// The sequence that its default, or its identity, depends on.
    sequence: Option<u32>,
    /// How its default uses sequences; none where it has none.
    counts: Option<Counts>,
    /// The text of its default, where that tells the time.
    clock: Option<String>,
    /// The text of a shard key's default.
    key_default: Option<String>,
    not_null: bool,
    /// Of a reference table: whether every group fills it with the same value.
    same: Option<bool>,
}

/// The text of a default that tells the time: `now()` is 1299, `transaction_timestamp()` 2647, `statement_timestamp()` 2648, and
/// CURRENT_TIMESTAMP and the like are SQLVALUEFUNCTIONs before CURRENT_ROLE (`SQLValueFunctionOp` in primnodes.h). Only of what is
/// PostgreSQL's own, which has its name whatever the search path is: on anything else it depends.
const CLOCK: &str = "pg_catalog.pg_get_expr(f.adbin, f.adrelid) FROM pg_catalog.pg_attrdef f \
    WHERE f.adrelid = a.attrelid AND f.adnum = a.attnum \
    AND f.adbin::text ~ ':funcid (1299|2647|2648) |SQLVALUEFUNCTION :op [0-8] ' \
    AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend o WHERE o.classid = 2604 AND o.objid = f.oid AND o.deptype = 'n')";

/// The text of a default that depends on nothing but PostgreSQL's own.
const KEY_DEFAULT: &str = "pg_catalog.pg_get_expr(f.adbin, f.adrelid) FROM pg_catalog.pg_attrdef f \
    WHERE f.adrelid = a.attrelid AND f.adnum = a.attnum \
    AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend o WHERE o.classid = 2604 AND o.objid = f.oid AND o.deptype = 'n')";

/// Whether a column gets the same value in every group where a statement gives none: nothing in its default, or its type's, is
/// of the moment, of the session or counted.
const SAME: &str = "NOT EXISTS ( \
        SELECT FROM pg_catalog.pg_attrdef f WHERE f.adrelid = a.attrelid AND f.adnum = a.attnum AND a.attgenerated = '' AND ( \
            f.adbin::text ~ 'SQLVALUEFUNCTION|NEXTVALUEEXPR' OR EXISTS ( \
                SELECT FROM pg_catalog.regexp_matches(f.adbin::text, ':(?:funcid|opfuncid) ([0-9]+)', 'g') AS called (number) \
                JOIN pg_catalog.pg_proc p ON p.oid = called.number[1]::oid WHERE p.provolatile <> 'i'))) \
    AND a.attidentity = '' \
    AND NOT EXISTS (SELECT FROM pg_catalog.pg_type y WHERE y.oid = a.atttypid AND y.typdefaultbin IS NOT NULL)";

/// What a default expression does with sequences.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Counts {
    /// It calls none of their functions.
    Not,
    /// It is `nextval()` of a constant, brought to the column's type.
    Alone,
    /// It calls one of them, and does more.
    More,
}

/// Tells a default expression (`adbin`) by what it calls, as [`Counts`]. Functions by their OIDs (pg_proc.dat): `nextval` is 1574,
/// `currval` 1575, `setval` 1576 and 1765, `lastval` 2559. Around it may stand one cast, by an implicitly called function
/// (`funcformat` 2) or by its text.
const COUNTS: &str = "CASE WHEN f.adbin::text !~ ':funcid (1574|1575|1576|1765|2559) ' THEN 'not' \
    WHEN f.adbin::text ~ '^(\\{FUNCEXPR :funcid [0-9]+ :funcresulttype [0-9]+ :funcretset false :funcvariadic false \
    :funcformat 2 [^{]*|\\{COERCEVIAIO :arg )?\\{FUNCEXPR :funcid 1574 [^{]*\\{CONST [^{]*$' THEN 'alone' ELSE 'more' END";

#[derive(Debug, Deserialize)]
struct StoredIndex {
    primary: bool,
    /// 0 stands for an expression.
    columns: Vec<i16>,
}

impl Catalogue {
    /// The statement that reads the catalogue of a database: one row of one text. Every user may run it.
    ///
    /// Only tables are read, none of the functions that look past the snapshot (`format_type`, `pg_get_expr`, ...): the version
    /// belongs to what is read beside it.
    #[must_use]
    pub fn query() -> String {
        format!(
            "SELECT pg_catalog.json_build_object('version', {VERSION}, 'epoch', own.map_epoch, \
             'slots', (SELECT pg_catalog.json_agg(m.group_id ORDER BY m.slot) FROM howdah.slot_map m), \
             'relations', (SELECT coalesce(pg_catalog.json_agg(pg_catalog.json_build_object( \
                'oid', c.oid::int8, 'schema', n.nspname, 'name', c.relname, 'kind', c.relkind, \
                'definition', (SELECT v.definition FROM howdah.views v WHERE v.relid = c.oid), \
                'distribution', d.distribution, 'key', CASE WHEN d.distribution = 'hash' \
                    THEN pg_catalog.json_build_array(d.key_attnum, k.atttypid::int8, k.atttypmod) END, \
                'generation', (SELECT s.generation FROM howdah.sequences s WHERE s.relid = c.oid), \
                'owner', CASE WHEN c.relkind = 'S' THEN (SELECT pg_catalog.json_build_array(o.refobjid::int8, o.refobjsubid) \
                    FROM pg_catalog.pg_depend o WHERE o.classid = 1259 AND o.objid = c.oid AND o.refclassid = 1259 \
                    AND o.deptype IN ('a', 'i') AND o.refobjsubid > 0 LIMIT 1) END, \
                'columns', (SELECT coalesce(pg_catalog.json_agg(pg_catalog.json_build_object( \
                    'number', a.attnum, 'name', a.attname, 'type', a.atttypid::int8, 'modifier', a.atttypmod, \
                    'default', a.atthasdef, 'identity', a.attidentity, 'generated', a.attgenerated <> '', \
                    'not_null', a.attnotnull, \
                    'counts', CASE WHEN a.atthasdef AND a.attgenerated = '' THEN (SELECT {COUNTS} \
                        FROM pg_catalog.pg_attrdef f WHERE f.adrelid = a.attrelid AND f.adnum = a.attnum) END, \
                    'clock', CASE WHEN a.atthasdef AND a.attgenerated = '' THEN (SELECT {CLOCK}) END, \
                    'key_default', CASE WHEN a.atthasdef AND a.attgenerated = '' AND a.attnum = d.key_attnum THEN (SELECT {KEY_DEFAULT}) END, \
                    'sequence', CASE WHEN a.attidentity <> '' THEN (SELECT o.objid::int8 \
                        FROM pg_catalog.pg_depend o WHERE o.classid = 1259 AND o.refclassid = 1259 \
                        AND o.refobjid = a.attrelid AND o.refobjsubid = a.attnum AND o.deptype = 'i') \
                    WHEN a.atthasdef AND a.attgenerated = '' THEN (SELECT o.refobjid::int8 \
                        FROM pg_catalog.pg_attrdef f JOIN pg_catalog.pg_depend o ON o.classid = 2604 AND o.objid = f.oid \
                        JOIN pg_catalog.pg_sequence q ON q.seqrelid = o.refobjid \
                        WHERE f.adrelid = a.attrelid AND f.adnum = a.attnum AND o.refclassid = 1259 LIMIT 1) END, \
                    'same', CASE WHEN d.distribution = 'reference' THEN {SAME} END) ORDER BY a.attnum), '[]') \
                    FROM pg_catalog.pg_attribute a \
                    WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped), \
                'unique', (SELECT coalesce(pg_catalog.json_agg(pg_catalog.json_build_object( \
                    'primary', i.indisprimary, 'columns', (i.indkey::int2[])[0:i.indnkeyatts - 1]) \
                    ORDER BY i.indexrelid), '[]') \
                    FROM pg_catalog.pg_index i WHERE i.indrelid = c.oid AND i.indisunique))), '[]') \
                FROM pg_catalog.pg_class c \
                JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
                LEFT JOIN howdah.distributed_tables d ON d.relid = c.oid \
                LEFT JOIN pg_catalog.pg_attribute k ON k.attrelid = c.oid AND k.attnum = d.key_attnum \
                WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S') AND c.relpersistence <> 't' \
                    AND n.nspname NOT IN {SYSTEM} AND n.nspname !~ '^pg_toast'), \
             'functions', {}, \
             'system', (SELECT pg_catalog.json_agg(pg_catalog.json_build_array(n.nspname, c.relname)) \
                FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
                WHERE n.nspname IN {SYSTEM} AND c.relkind IN ('r', 'v', 'm', 'f', 'p', 'S')))::text \
             FROM howdah.cluster own",
            functions::query(SYSTEM)
        )
    }

    /// Reads the committed catalogue of the database that `client` is connected to.
    ///
    /// # Errors
    /// When PostgreSQL does not answer, schema `howdah` is missing (3F000, 42P01), or what is stored is damaged.
    pub async fn load(client: &Client) -> Result<Catalogue, CatalogueError> {
        let row = client.query_one(&Catalogue::query(), &[]).await?;
        read(row.try_get(0)?)
    }

    /// What [`Catalogue::query`] has answered in a transaction that has changed tables itself.
    ///
    /// # Errors
    /// When it is no such answer.
    pub fn uncommitted(answer: &str) -> Result<Catalogue, CatalogueError> {
        let mut catalogue = read(answer)?;
        catalogue.version = CatalogueVersion::UNCOMMITTED;
        Ok(catalogue)
    }
}

fn damaged(what: impl Into<String>) -> CatalogueError {
    CatalogueError::Damaged(what.into())
}

fn read(answer: &str) -> Result<Catalogue, CatalogueError> {
    let stored: Stored = serde_json::from_str(answer).map_err(|error| damaged(error.to_string()))?;
    let negative = |_| damaged("a negative number in the slot map");
    let groups = stored.slots.unwrap_or_default().into_iter();
    let groups = groups.map(|group| u32::try_from(group).map(GroupId));
    let groups = groups.collect::<Result<Vec<_>, _>>().map_err(negative)?;
    let epoch = MapEpoch(u64::try_from(stored.epoch).map_err(negative)?);
    let relations = stored.relations.into_iter().map(relation);
    let mut system: HashMap<String, HashSet<String>> = HashMap::new();
    for (schema, name) in stored.system {
        system.entry(schema).or_default().insert(name);
    }
    Ok(Catalogue::new(
        CatalogueVersion(stored.version),
        Arc::new(SlotMap::from_groups(epoch, groups)?),
        relations.collect::<Result<_, _>>()?,
        system,
    )
    .with_functions(stored.functions.into_iter().map(UserFunction::from)))
}

fn relation(stored: StoredRelation) -> Result<Relation, CatalogueError> {
    let placement = match (stored.distribution.as_deref(), stored.key) {
        (None, _) => None,
        (Some("reference"), _) => Some(Placement::Reference),
        (Some("local"), _) => Some(Placement::Local),
        (Some("hash"), Some((number, type_oid, type_modifier))) => {
            let key_type = KeyType::from_oid(type_oid).ok_or_else(|| {
                let (schema, name) = (&stored.schema, &stored.name);
                damaged(format!("no type for the shard key of {schema}.{name}"))
            })?;
            Some(Placement::Hash(ShardKey {
                number: AttributeNumber(number),
                column: KeyColumn {
                    key_type,
                    type_modifier,
                },
            }))
        }
        (Some(other), _) => return Err(damaged(format!("a table of distribution {other:?}"))),
    };
    let numbers = |index: &StoredIndex| {
        let numbers = index.columns.iter().filter(|number| **number != 0);
        numbers.copied().map(AttributeNumber).collect::<Vec<_>>()
    };
    let primary = stored.unique.iter().find(|index| index.primary);
    Ok(Relation {
        oid: Oid(stored.oid),
        kind: kind(&stored.kind)?,
        primary_key: primary.map(numbers).unwrap_or_default(),
        unique: stored.unique.iter().map(numbers).collect(),
        columns: stored.columns.into_iter().map(column).collect(),
        sequence: stored.generation.map(|generation| SequenceFacts {
            generation,
            owner: stored
                .owner
                .map(|(table, column)| (Oid(table), AttributeNumber(column))),
        }),
        schema: stored.schema,
        name: stored.name,
        placement,
        definition: stored.definition,
    })
}

fn column(stored: StoredColumn) -> Column {
    let sequence = stored.sequence.map(Oid);
    let filled_by = match (stored.identity.as_str(), sequence, stored.counts) {
        ("", _, _) if stored.generated => FilledBy::Generated,
        ("", Some(sequence), Some(Counts::Alone)) => FilledBy::Sequence(sequence),
        ("", _, Some(Counts::Alone | Counts::More)) => FilledBy::Counting,
        ("", _, _) if stored.default => FilledBy::Default,
        ("", _, _) => FilledBy::Null,
        (identity, Some(sequence), _) => FilledBy::Identity {
            sequence,
            always: identity == "a",
        },
        (_, None, _) => FilledBy::Counting,
    };
    Column {
        number: AttributeNumber(stored.number),
        name: stored.name,
        type_oid: stored.type_oid,
        type_modifier: stored.modifier,
        filled_by,
        not_null: stored.not_null,
        filled_alike: stored.same.unwrap_or(false),
        clock: stored.clock,
        key_default: stored.key_default,
    }
}

fn kind(relkind: &str) -> Result<RelationKind, CatalogueError> {
    match relkind {
        "r" => Ok(RelationKind::Table),
        "p" => Ok(RelationKind::PartitionedTable),
        "v" => Ok(RelationKind::View),
        "m" => Ok(RelationKind::MaterializedView),
        "f" => Ok(RelationKind::ForeignTable),
        "S" => Ok(RelationKind::Sequence),
        other => Err(damaged(format!("a relation of kind {other:?}"))),
    }
}
