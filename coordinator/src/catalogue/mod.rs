//! What the groups' PostgreSQL servers say about their tables, as the statement analyser needs it.
//!
//! The catalogue is stored where the tables are: in schema `howdah` of each database of each group, so that it
//! commits with the DDL that changes it and outlives any node. Object ids are local to a group, so each group has its
//! own. [`cache`] keeps what a node knows of it fresh; [`bootstrap`] installs the schema.

pub mod bootstrap;
pub mod cache;

mod functions;
mod load;
mod poll;

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::Arc;

pub use functions::{Steadiness, UserFunction};

use crate::hash::KeyColumn;
use crate::slots::{SlotMap, SlotMapError};

/// The version of one group's catalogue in one database. Grows with every transaction that committed DDL there.
/// Versions of different groups or databases have nothing to do with each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CatalogueVersion(pub i64);

impl CatalogueVersion {
    /// Of what a transaction sees of its own definitions before it commits. Two such have nothing to do with each other.
    pub const UNCOMMITTED: CatalogueVersion = CatalogueVersion(-1);
}

impl fmt::Display for CatalogueVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// PostgreSQL's object id, local to one group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Oid(pub u32);

/// One group's catalogue of one database: a consistent snapshot.
#[derive(Clone, Debug)]
pub struct Catalogue {
    version: CatalogueVersion,
    slots: Arc<SlotMap>,
    relations: Vec<Relation>,
    /// schema -> name -> index into `relations`.
    by_name: HashMap<String, HashMap<String, usize>>,
    /// The sequences among them, by their object ids.
    sequences: HashMap<Oid, usize>,
    /// Names of PostgreSQL's and Howdah's own relations, by schema.
    system: HashMap<String, HashSet<String>>,
    /// Functions of users by their names without schemas.
    functions: HashMap<String, Vec<UserFunction>>,
}

/// What a name stands for.
#[derive(Clone, Copy, Debug)]
pub enum Resolved<'a> {
    /// A user's relation.
    Relation(&'a Relation),
    /// One of PostgreSQL's (`pg_catalog`, `information_schema`) or Howdah's own: the same in every group.
    System,
    /// Not known: there is no such relation, or it is newer than this snapshot, or it is a temporary table.
    Unknown,
}

impl Catalogue {
    /// A catalogue of these relations; `system` has the names of PostgreSQL's and Howdah's own, by schema.
    #[must_use]
    pub fn new(
        version: CatalogueVersion,
        slots: Arc<SlotMap>,
        relations: Vec<Relation>,
        system: HashMap<String, HashSet<String>>,
    ) -> Catalogue {
        let mut by_name: HashMap<String, HashMap<String, usize>> = HashMap::new();
        for (place, relation) in relations.iter().enumerate() {
            by_name
                .entry(relation.schema.clone())
                .or_default()
                .insert(relation.name.clone(), place);
        }
        let sequences = relations.iter().enumerate();
        let sequences = sequences.filter(|(_, relation)| relation.sequence.is_some());
        Catalogue {
            version,
            slots,
            sequences: sequences.map(|(place, relation)| (relation.oid, place)).collect(),
            relations,
            by_name,
            system,
            functions: HashMap::new(),
        }
    }

    /// The same with these functions.
    #[must_use]
    pub fn with_functions(mut self, functions: impl IntoIterator<Item = UserFunction>) -> Catalogue {
        for function in functions {
            let name = function.name.clone();
            self.functions.entry(name).or_default().push(function);
        }
        self
    }

    /// The functions of users with this name, in this schema or in any.
    pub fn functions<'c>(
        &'c self,
        schema: Option<&str>,
        name: &str,
    ) -> impl Iterator<Item = &'c UserFunction> {
        let all = self.functions.get(name).map(Vec::as_slice).unwrap_or_default();
        all.iter()
            .filter(move |function| schema.is_none_or(|schema| function.schema == schema))
    }

    /// The version that this is.
    #[must_use]
    pub fn version(&self) -> CatalogueVersion {
        self.version
    }

    /// Where the rows of distributed tables are.
    #[must_use]
    pub fn slots(&self) -> &Arc<SlotMap> {
        &self.slots
    }

    /// Takes the slots of an older one, where they are the same: whoever keeps them for long keeps them once.
    pub(crate) fn share_slots(&mut self, older: &Catalogue) {
        if self.slots == older.slots {
            self.slots = Arc::clone(&older.slots);
        }
    }

    /// A sequence by its object id in this group.
    #[must_use]
    pub fn sequence(&self, oid: Oid) -> Option<&Relation> {
        let place = self.sequences.get(&oid)?;
        self.relations.get(*place)
    }

    /// All users' relations.
    #[must_use]
    pub fn relations(&self) -> &[Relation] {
        &self.relations
    }

    /// What a name in a statement stands for, by PostgreSQL's rules (`RangeVarGetRelid` in `namespace.c`):
    /// without a schema, `pg_catalog` comes first unless the path names it.
    ///
    /// `search_path` has the session's schemas in order, `"$user"` already replaced; names are as PostgreSQL stores
    /// them (case folded). Temporary tables are the session's own and not known here.
    #[must_use]
    pub fn resolve(&self, search_path: &[&str], schema: Option<&str>, name: &str) -> Resolved<'_> {
        if let Some(schema) = schema {
            return self.lookup(schema, name);
        }
        let implicit = (!search_path.contains(&"pg_catalog")).then_some("pg_catalog");
        implicit
            .iter()
            .chain(search_path)
            .map(|schema| self.lookup(schema, name))
            .find(|found| !matches!(found, Resolved::Unknown))
            .unwrap_or(Resolved::Unknown)
    }

    fn lookup(&self, schema: &str, name: &str) -> Resolved<'_> {
        if let Some(index) = self.by_name.get(schema).and_then(|names| names.get(name)) {
            return Resolved::Relation(&self.relations[*index]);
        }
        match self.system.get(schema) {
            Some(names) if names.contains(name) => Resolved::System,
            _ => Resolved::Unknown,
        }
    }
}

/// A user's table, view, ...
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Relation {
    /// Its object id in this group.
    pub oid: Oid,
    /// Its schema.
    pub schema: String,
    /// Its name.
    pub name: String,
    /// What it is.
    pub kind: RelationKind,
    /// Its columns in order, without dropped and system columns.
    pub columns: Vec<Column>,
    /// The columns of its primary key, in the key's order; empty where there is none.
    pub primary_key: Vec<AttributeNumber>,
    /// The columns of each unique index, the primary key's included. Expressions are left out.
    pub unique: Vec<Vec<AttributeNumber>>,
    /// Where its rows are; none for what has no rows of its own.
    pub placement: Option<Placement>,
    /// The query that a view stands for, with every name qualified.
    pub definition: Option<String>,
    /// What is known of it as a sequence; none for what is none.
    pub sequence: Option<SequenceFacts>,
}

/// Where the rows of a table are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Placement {
    /// A distributed table: each row is in the group of its shard key's slot.
    Hash(ShardKey),
    /// A reference table: all rows are in every group.
    Reference,
    /// A local table: all rows are in the group of [`HashSlot::LOCAL`](crate::hash::HashSlot::LOCAL).
    Local,
}

impl Relation {
    /// What spreads its rows over the groups; none for one that is not distributed.
    #[must_use]
    pub fn shard_key(&self) -> Option<&ShardKey> {
        match &self.placement {
            Some(Placement::Hash(key)) => Some(key),
            _ => None,
        }
    }

    /// The column of that name.
    #[must_use]
    pub fn column(&self, name: &str) -> Option<&Column> {
        self.columns.iter().find(|column| column.name == name)
    }

    /// The shard key's column.
    #[must_use]
    pub fn key_column(&self) -> Option<&Column> {
        let number = self.shard_key()?.number;
        self.columns.iter().find(|column| column.number == number)
    }
}

/// What a session must know of a sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SequenceFacts {
    /// Grows whenever its state is set: values that were taken of another generation are not used. Local to a group.
    pub generation: i64,
    /// The table and the column that it belongs to, by OWNED BY or as an identity.
    pub owner: Option<(Oid, AttributeNumber)>,
}

/// `pg_class.relkind`, as far as a statement can name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RelationKind {
    /// A plain table, a partition included.
    Table,
    /// A partitioned table.
    PartitionedTable,
    /// A view.
    View,
    /// A materialized view.
    MaterializedView,
    /// A foreign table.
    ForeignTable,
    /// A sequence.
    Sequence,
}

/// `pg_attribute.attnum`: counted from 1, with holes where columns were dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AttributeNumber(pub i16);

/// A column of a relation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Column {
    /// Its number.
    pub number: AttributeNumber,
    /// Its name.
    pub name: String,
    /// `pg_type.oid` of its type.
    pub type_oid: u32,
    /// `pg_attribute.atttypmod`: -1 for none.
    pub type_modifier: i32,
    /// What PostgreSQL stores where the statement gives nothing.
    pub filled_by: FilledBy,
    /// Whether it is NOT NULL.
    pub not_null: bool,
    /// Of a reference table: whether every group fills it with the same value where a statement gives none.
    pub filled_alike: bool,
    /// The text of its DEFAULT where that tells the time of the transaction or the statement, and calls nothing that counts.
    pub clock: Option<String>,
    /// Of a shard key: the text of its DEFAULT, where all in it is PostgreSQL's own.
    pub key_default: Option<String>,
}

/// What a column gets where a statement gives no value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FilledBy {
    /// NULL.
    Null,
    /// The value of its DEFAULT expression.
    Default,
    /// The next value of this sequence, as `serial` has it: its DEFAULT is `nextval()` and nothing else.
    Sequence(Oid),
    /// A DEFAULT expression that calls `nextval()` and does more.
    Counting,
    /// The next value of its own sequence.
    Identity {
        /// The sequence.
        sequence: Oid,
        /// `GENERATED ALWAYS`: it takes no other value. `BY DEFAULT` does.
        always: bool,
    },
    /// Computed from other columns (`GENERATED ALWAYS AS ... STORED`).
    Generated,
}

/// The column whose hash decides a row's group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShardKey {
    /// Which column.
    pub number: AttributeNumber,
    /// How its values are hashed.
    pub column: KeyColumn,
}

/// Why a catalogue could not be read.
#[derive(Debug, thiserror::Error)]
pub enum CatalogueError {
    /// PostgreSQL or the way to it failed.
    #[error("the catalogue cannot be read")]
    Postgres(#[from] tokio_postgres::Error),
    /// The stored slot map is not one.
    #[error("the stored slot map is damaged")]
    SlotMap(#[from] SlotMapError),
    /// What is stored contradicts itself.
    #[error("the stored catalogue is damaged: {0}")]
    Damaged(String),
}
