//! The functions that say where a table's rows are, by Citus' names.

use coordinator::catalogue::{Relation, Resolved};

use super::Refusal;
use super::lexer::{self, Kind, Token};
use super::plan::{Distribute, Distribution, Plan, RelationName};
use super::relations::Names;
use super::words::{Words, split_commas};

/// What each function takes, in order.
const FUNCTIONS: [(&str, &[&str]); 4] = [
    (
        "create_distributed_table",
        &[
            "table_name",
            "distribution_column",
            "distribution_type",
            "colocate_with",
        ],
    ),
    ("create_reference_table", &["table_name"]),
    ("undistribute_table", &["table_name"]),
    ("alter_distributed_table", &["table_name", "distribution_column"]),
];

/// Plans a call of one of them that is all of a SELECT; none if it is of another function.
pub(super) fn plan(called: &str, arguments: &[Token], names: Names<'_>) -> Option<Result<Plan, Refusal>> {
    let (function, takes) = FUNCTIONS.iter().find(|(name, _)| *name == called)?;
    Some(distribute(function, takes, arguments, names).map(Plan::Distribute))
}

fn distribute(
    function: &'static str,
    takes: &[&str],
    arguments: &[Token],
    names: Names<'_>,
) -> Result<Distribute, Refusal> {
    let given = read(function, takes, arguments)?;
    let text = |place: usize| given.get(place).and_then(|value| value.as_ref()?.as_deref());
    let table = text(0).ok_or_else(|| usage(function))?;
    let relation = find(table, names)?;
    let column = text(1).map(|column| find_column(column, relation)).transpose()?;
    let to = match function {
        "create_reference_table" => Distribution::Reference,
        "undistribute_table" => Distribution::Local,
        "alter_distributed_table" => Distribution::Hash(column.ok_or_else(|| usage(function))?),
        _ => match (given.get(1), column) {
            (_, Some(column)) => Distribution::Hash(column),
            // Citus' tables of one shard.
            (Some(Some(None)), None) => Distribution::Local,
            _ => return Err(usage(function)),
        },
    };
    if let Some(kind) = text(2).filter(|kind| *kind != "hash") {
        return Err(
            Refusal::unsupported(format!("distribution type \"{kind}\" is not supported"))
                .hint("Tables are distributed by the hash of a column: leave it out."),
        );
    }
    if let (Some(other), Distribution::Hash(column)) = (text(3), &to) {
        check_colocation(other, relation, column, names)?;
    }
    Ok(Distribute {
        function,
        table: RelationName::of(relation),
        to,
    })
}

/// Equal keys of one family are in one group, whatever their tables: so all tables with such keys are co-located.
fn check_colocation(other: &str, relation: &Relation, column: &str, names: Names<'_>) -> Result<(), Refusal> {
    if matches!(other, "default" | "none") {
        return Ok(());
    }
    let with = find(other, names)?;
    let theirs = with.shard_key().map(|key| key.column.key_type);
    let ours = relation.column(column).map(|column| column.type_oid);
    let ours = ours.and_then(coordinator::hash::KeyType::from_oid);
    if theirs.is_some() && theirs.map(|key| key.family()) == ours.map(|key| key.family()) {
        return Ok(());
    }
    Err(Refusal::unsupported(format!(
        "table \"{}\" cannot be co-located with table \"{}\"",
        relation.name, with.name
    ))
    .detail("Their shard keys are of types whose values hash differently.")
    .hint("Choose columns of the same type."))
}

fn usage(function: &str) -> Refusal {
    let example = match function {
        "create_distributed_table" => "create_distributed_table('table', 'column')",
        "alter_distributed_table" => "alter_distributed_table('table', distribution_column => 'column')",
        "create_reference_table" => "create_reference_table('table')",
        _ => "undistribute_table('table')",
    };
    Refusal::unsupported(format!("this form of {function}() is not supported"))
        .detail("It takes constants.")
        .hint(format!("Write SELECT {example}."))
}

/// The arguments by place: none where one is not given, `Some(None)` for NULL.
fn read(function: &str, takes: &[&str], arguments: &[Token]) -> Result<Vec<Option<Option<String>>>, Refusal> {
    let mut given = vec![None; takes.len()];
    for (place, argument) in split_commas(arguments).into_iter().enumerate() {
        let named = match argument {
            [name, arrow, rest @ ..] if is_arrow(arrow) => match &name.kind {
                Kind::Word(name) => Some((name.as_str(), rest)),
                _ => None,
            },
            // `:=` and `=>` may be two tokens.
            [name, one, two, rest @ ..] if is_arrow_of_two(one, two) => match &name.kind {
                Kind::Word(name) => Some((name.as_str(), rest)),
                _ => None,
            },
            _ => None,
        };
        let (place, value) = match named {
            Some((name, value)) => {
                let place = takes.iter().position(|known| *known == name);
                let place = place.ok_or_else(|| {
                    Refusal::unsupported(format!("argument \"{name}\" of {function}() is not supported"))
                        .hint("Leave it out.")
                })?;
                (place, value)
            }
            None => (place, argument),
        };
        let value = match value {
            [token] => match &token.kind {
                Kind::Text(text) => Some(text.clone()),
                Kind::Word(word) if word == "null" => None,
                _ => return Err(usage(function)),
            },
            _ => return Err(usage(function)),
        };
        *given.get_mut(place).ok_or_else(|| usage(function))? = Some(value);
    }
    Ok(given)
}

fn is_arrow(token: &Token) -> bool {
    matches!(&token.kind, Kind::Operator(operator) if operator == "=>" || operator == ":=")
}

fn is_arrow_of_two(one: &Token, two: &Token) -> bool {
    let colon = one.kind == Kind::Punctuation(':');
    colon && matches!(&two.kind, Kind::Operator(operator) if operator == "=")
}

fn find<'a>(table: &str, names: Names<'a>) -> Result<&'a Relation, Refusal> {
    let tokens = lexer::tokens(table)?;
    let missing = || Refusal::new("42P01", format!("relation \"{table}\" does not exist"));
    let parts = Words::new(&tokens).dotted_name().ok_or_else(missing)?;
    if names.facts.temporaries.has(&parts) {
        return Err(Refusal::unsupported(format!(
            "\"{table}\" is a temporary table, which cannot be distributed"
        )));
    }
    let schema = parts.len().checked_sub(2).and_then(|at| parts.get(at));
    let name = parts.last().map(String::as_str).unwrap_or_default();
    let path = names.facts.search_path;
    match names.catalogue.resolve(path, schema.map(String::as_str), name) {
        Resolved::Relation(relation) => Ok(relation),
        // As `ALTER TABLE` says it (`RangeVarCallbackForAlterRelation` in tablecmds.c, of permissions).
        Resolved::System => {
            Err(Refusal::new("42809", format!("\"{name}\" is a system catalog"))
                .hint("Name a table of users."))
        }
        Resolved::Unknown => Err(missing()),
    }
}

/// The column is given as PostgreSQL stores it, as Citus takes it.
fn find_column(column: &str, relation: &Relation) -> Result<String, Refusal> {
    match relation.column(column) {
        Some(column) => Ok(column.name.clone()),
        None => {
            let table = &relation.name;
            Err(Refusal::new(
                "42703",
                format!("column \"{column}\" of relation \"{table}\" does not exist"),
            ))
        }
    }
}
