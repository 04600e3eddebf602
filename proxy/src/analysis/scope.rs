//! What column names stand for: the FROM items of a query block and of the blocks around it.

use coordinator::catalogue::Relation;
use coordinator::hash::KeyColumn;
use sqlparser::ast::{Expr, Ident};

use super::relations::misread_column;

/// One use of a table whose rows are not in every group, in a statement ("range table entry").
#[derive(Debug)]
pub(super) struct Instance<'a> {
    pub(super) table: &'a Relation,
    /// The name of its shard key; none where column aliases hide it, or it is a local table.
    pub(super) key_name: Option<&'a str>,
    /// What its shard key is; of a local table, which is always pinned, it means nothing.
    pub(super) key: KeyColumn,
    /// Whether its columns have other names than the table gives them.
    pub(super) renamed: bool,
    /// The first and the last token of its name in the statement.
    pub(super) at: Option<(usize, usize)>,
    /// The token of its alias, if it has one.
    pub(super) alias_at: Option<usize>,
    /// What its columns are qualified with.
    pub(super) called: String,
}

impl Instance<'_> {
    /// Whether its columns have the names that the table gives them.
    pub(super) fn has_own_names(&self) -> bool {
        !self.renamed
    }
}

/// An item of FROM, by the name that columns are qualified with.
#[derive(Debug)]
pub(super) struct Item<'a> {
    pub(super) name: String,
    /// The schema, if the item can be named with it: a table without an alias.
    pub(super) schema: Option<String>,
    /// Its number, if it is a table whose rows are not in every group.
    pub(super) instance: Option<usize>,
    /// The table whose columns it has, by the names that the table gives them; none for what is no table, or has names of its own.
    pub(super) table: Option<&'a Relation>,
    /// The columns of a subquery that are shard keys, and of which instances: a row of it with another value there comes of a row
    /// with another key.
    pub(super) keys: Vec<(String, usize)>,
}

impl Item<'_> {
    /// The instance whose shard key its column of this name is.
    fn key(&self, column: &str, instances: &[Instance<'_>]) -> Option<usize> {
        let own = self.instance.filter(|at| instances[*at].key_name == Some(column));
        own.or_else(|| {
            let mut keys = self.keys.iter();
            keys.find(|(name, _)| name == column).map(|(_, at)| *at)
        })
    }
}

/// One query block's FROM.
#[derive(Debug, Default)]
pub(super) struct Block<'a> {
    pub(super) items: Vec<Item<'a>>,
    /// Whether an unqualified name may be of a merged column that is neither side's (FULL, RIGHT, NATURAL).
    pub(super) merges: bool,
}

/// The blocks that a name is looked up in, the innermost first.
pub(super) type Scope<'s> = [&'s Block<'s>];

/// The instance whose shard key this expression is, and how many blocks outwards it was found.
pub(super) fn key_of(expr: &Expr, scope: &Scope<'_>, instances: &[Instance<'_>]) -> Option<(usize, usize)> {
    match expr {
        Expr::Nested(inner) => key_of(inner, scope, instances),
        Expr::Identifier(name) if !misread_column(name) => unqualified(name, scope, instances),
        Expr::CompoundIdentifier(parts) => qualified(parts, scope, instances),
        _ => None,
    }
}

/// A bare column name. If a table of this block has a column of that name, the name is this block's: PostgreSQL
/// looks outside only when no item here has it, and objects when two have.
fn unqualified(name: &Ident, scope: &Scope<'_>, instances: &[Instance<'_>]) -> Option<(usize, usize)> {
    for (level, block) in scope.iter().enumerate() {
        if block.merges {
            return None;
        }
        let mut found = block.items.iter();
        if let Some(at) = found.find_map(|item| item.key(&name.value, instances)) {
            return Some((level, at));
        }
        let without = |item: &Item<'_>| {
            item.table
                .is_some_and(|table| table.column(&name.value).is_none())
        };
        if !block.items.iter().all(without) {
            return None;
        }
    }
    None
}

fn qualified(parts: &[Ident], scope: &Scope<'_>, instances: &[Instance<'_>]) -> Option<(usize, usize)> {
    let (schema, table, column) = match parts {
        [table, column] => (None, table, column),
        [schema, table, column] => (Some(schema), table, column),
        _ => return None,
    };
    let matches = |item: &&Item| {
        item.name == table.value && schema.is_none_or(|schema| item.schema.as_ref() == Some(&schema.value))
    };
    for (level, block) in scope.iter().enumerate() {
        let mut found = block.items.iter().filter(matches);
        let Some(item) = found.next() else { continue };
        if found.next().is_some() {
            return None;
        }
        return item.key(&column.value, instances).map(|at| (level, at));
    }
    None
}
