//! CREATE TABLE: which column becomes the shard key, and whether each group alone can keep its constraints.

use super::Refusal;
use super::create_as;
use super::ddl::{check_functions, without_nextval};
use super::lexer::{Kind, Token};
use super::plan::{Ddl, DdlEffect, Plan, RelationName};
use super::relations::Names;
use super::statement::syntax_for_postgres;
use super::temporary::{self, keyword_at};
use super::words::{Words, has_word, split_commas};

/// Types that can be a shard key, as they are written.
const KEY_TYPES: &[&str] = &[
    "int2",
    "int4",
    "int8",
    "int",
    "integer",
    "smallint",
    "bigint",
    "text",
    "varchar",
    "character",
    "char",
    "bpchar",
    "uuid",
    "bool",
    "boolean",
    "date",
    "timestamp",
    "timestamptz",
    "numeric",
    "decimal",
    "dec",
    "bytea",
    "serial",
    "serial2",
    "serial4",
    "serial8",
    "smallserial",
    "bigserial",
];

/// A column or a constraint inside the parentheses.
struct Column<'a> {
    name: String,
    /// Type and constraints.
    rest: &'a [Token],
}

/// Plans CREATE TABLE; the words after TABLE are given.
pub(super) fn plan(mut words: Words<'_>, sql: &str, names: Names<'_>) -> Result<Plan, Refusal> {
    let if_not_exists = words.take(&["if", "not", "exists"]);
    let Some(parts) = words.dotted_name() else {
        return Ok(syntax_for_postgres());
    };
    if parts.len() == 2 && names.facts.temporaries.concerns(&parts) {
        return temporary::create_table(words, &parts, sql, names);
    }
    if let Some(at) = keyword_at(words.rest(), "as") {
        let (head, query) = words.rest().split_at(at);
        return create_as::create(&parts, if_not_exists, (head, &query[1..]), sql, names);
    }
    if words.sees(&["partition", "of"]) {
        // It has its parent's columns, and is where its parent is (`howdah.register_default`).
        check_functions(words.rest(), names)?;
        return elsewhere();
    }
    let Some(elements) = words.parenthesised() else {
        return Err(Refusal::unsupported("this form of CREATE TABLE is not supported")
            .detail("CREATE TABLE OF takes its columns from elsewhere.")
            .hint("List the columns."));
    };
    check_tail(words.rest(), names)?;
    let table = table_name(parts, names)?;
    let mut columns = Vec::new();
    let mut constraints = Vec::new();
    for element in split_commas(elements) {
        check_element(element, names)?;
        let mut words = Words::new(element);
        if is_constraint(words) {
            constraints.push(element);
        } else if let Some(name) = words.name() {
            columns.push(Column {
                name,
                rest: words.rest(),
            });
        }
    }
    if constraints
        .iter()
        .any(|element| Words::new(element).sees(&["like"]))
    {
        return elsewhere();
    }
    let first = columns.first().map(|column| column.name.clone());
    let key_column = primary_key(&columns, &constraints).or(first);
    let key_column = key_column.filter(|key| can_be_key(&columns, key));
    if let Some(key) = &key_column {
        check_unique(&columns, &constraints, key)?;
    }
    let effect = DdlEffect::CreateTable {
        table,
        if_not_exists,
        key_column,
    };
    Ok(Plan::Ddl(Ddl {
        effect,
        outside_transaction: false,
        leaves: None,
    }))
}

/// The columns come from another table: what stands against them PostgreSQL finds when the table is there (`howdah.on_ddl`).
fn elsewhere() -> Result<Plan, Refusal> {
    Ok(Plan::Ddl(Ddl {
        effect: DdlEffect::Reload,
        outside_transaction: false,
        leaves: None,
    }))
}

pub(super) fn table_name(mut parts: Vec<String>, names: Names<'_>) -> Result<RelationName, Refusal> {
    let name = parts.pop().unwrap_or_default();
    let schema = match parts.as_slice() {
        [] => names
            .facts
            .search_path
            .iter()
            .find(|schema| **schema != "pg_catalog")
            .map(|schema| (*schema).to_owned()),
        [schema] => Some(schema.clone()),
        _ => {
            return Err(Refusal::unsupported(
                "a table's name can have a schema, but no database",
            ));
        }
    };
    let schema = schema.ok_or_else(|| Refusal::new("3F000", "no schema has been selected to create in"))?;
    Ok(RelationName { schema, name })
}

pub(super) fn check_tail(rest: &[Token], names: Names<'_>) -> Result<(), Refusal> {
    for (keyword, what) in [("inherits", "INHERITS"), ("on", "ON COMMIT")] {
        if has_word(rest, &[keyword]) {
            return Err(Refusal::unsupported(format!("{what} is not supported")));
        }
    }
    check_functions(rest, names)
}

fn is_constraint(words: Words<'_>) -> bool {
    let keywords = ["constraint", "primary", "unique", "check", "foreign", "like"];
    keywords.iter().any(|keyword| words.sees(&[keyword])) || is_exclusion(words)
}

fn is_exclusion(mut words: Words<'_>) -> bool {
    words.take(&["exclude"]) && (words.sees(&["using"]) || words.parenthesised().is_some())
}

/// What no column or constraint of a distributed table may have.
pub(super) fn check_element(element: &[Token], names: Names<'_>) -> Result<(), Refusal> {
    let mut after_name = Words::new(element);
    let mut named = after_name;
    if named.take(&["constraint"]) {
        named.name();
    }
    if is_exclusion(named) {
        return Err(Refusal::unsupported("exclusion constraints are not supported")
            .detail("Rows of different groups could exclude each other unseen."));
    }
    let after = if is_constraint(after_name) {
        element
    } else {
        after_name.name();
        after_name.rest()
    };
    check_functions(&without_nextval(after), names)
}

fn primary_key(columns: &[Column<'_>], constraints: &[&[Token]]) -> Option<String> {
    if let Some(column) = columns
        .iter()
        .find(|column| has_word(column.rest, &["primary", "key"]))
    {
        return Some(column.name.clone());
    }
    constraints
        .iter()
        .find(|constraint| has_word(constraint, &["primary", "key"]))
        .and_then(|constraint| constraint_columns(constraint)?.into_iter().next())
}

/// The columns of a PRIMARY KEY or UNIQUE constraint; none if it has no list.
pub(super) fn constraint_columns(constraint: &[Token]) -> Option<Vec<String>> {
    let open = constraint
        .iter()
        .position(|token| token.kind == Kind::Punctuation('('))?;
    let list = Words::new(constraint.get(open..)?).parenthesised()?;
    Some(
        split_commas(list)
            .into_iter()
            .filter_map(|column| Words::new(column).name())
            .collect(),
    )
}

/// Whether the column can be the shard key (`howdah.can_distribute`). Without one the table is a local one.
fn can_be_key(columns: &[Column<'_>], key: &str) -> bool {
    // A name that is no column is PostgreSQL's error to report.
    let Some(column) = columns.iter().find(|column| column.name == key) else {
        return true;
    };
    let mut words = Words::new(column.rest);
    let type_name = words.dotted_name().unwrap_or_default();
    let plain = match type_name.as_slice() {
        [name] => Some(name),
        [schema, name] if schema == "pg_catalog" => Some(name),
        _ => None,
    };
    let known = plain.is_some_and(|name| KEY_TYPES.contains(&name.as_str()));
    let array = has_mark(column.rest, '[') || has_word(column.rest, &["array"]);
    // A nondeterministic collation is for PostgreSQL to find.
    let generated = has_word(column.rest, &["generated"]) && !has_word(column.rest, &["identity"]);
    known && !array && !generated
}

fn has_mark(tokens: &[Token], mark: char) -> bool {
    tokens.iter().any(|token| token.kind == Kind::Punctuation(mark))
}

fn check_unique(columns: &[Column<'_>], constraints: &[&[Token]], key: &str) -> Result<(), Refusal> {
    for column in columns {
        if column.name != key && has_word(column.rest, &["unique"]) {
            return Err(without_key(&column.name, key));
        }
    }
    for constraint in constraints {
        let unique = has_word(constraint, &["unique"]) || has_word(constraint, &["primary", "key"]);
        let listed = constraint_columns(constraint).unwrap_or_default();
        if unique && !listed.iter().any(|column| column == key) {
            return Err(without_key(&listed.join(", "), key));
        }
    }
    Ok(())
}

/// Uniqueness that no group can check alone.
pub(super) fn without_key(columns: &str, key: &str) -> Refusal {
    Refusal::unsupported(format!(
        "a unique constraint on ({columns}) must contain the shard key \"{key}\""
    ))
    .detail("Rows with the same values could be in different groups, where neither sees the other.")
    .hint(format!(
        "Make it unique over ({columns}, {key}). Or create the table without it, have it in every group, \
         SELECT create_reference_table(...), or in one, SELECT undistribute_table(...), and add it then."
    ))
}
