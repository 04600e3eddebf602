//! Writes to reference tables: every group does the same, and must end with the same rows.
//!
//! **Invariant.** What a statement writes to a reference table is a function of what every group has alike: constants, parameters
//! and the rows of reference tables, which no other transaction changes meanwhile (`howdah.lock_reference`). So nothing in it may
//! be of the moment, of chance, of one server, or of the order in which rows lie.

use coordinator::catalogue::Relation;
use sqlparser::ast::{Insert, SelectItem, SetExpr, Statement};

use super::Refusal;
use super::check::Findings;
use super::functions::{self, Volatility};
use super::lexer::{Kind, Token};
use super::proof::Proof;
use super::relations::{Names, parts};
use super::upsert;
use super::words::{Words, has_word};

/// Checks that a statement that writes to this reference table does the same in every group.
///
/// # Errors
/// When it may not.
pub(super) fn check(
    tokens: &[Token],
    table: &Relation,
    statement: &Statement,
    proof: &Proof<'_>,
    findings: &Findings,
) -> Result<(), Refusal> {
    let name = &table.name;
    let refused = |what: &str| {
        Refusal::unsupported(format!(
            "{what} in a statement that writes to reference table \"{name}\" is not supported"
        ))
        .detail("Every group runs the statement for itself, and all must store the same rows.")
    };
    if proof.temporary {
        return Err(refused("a temporary table").hint("Read its rows first, then write them with VALUES."));
    }
    if !proof.instances.is_empty() || proof.writes_rows {
        return Err(refused("a table that is not in every group")
            .hint("Read the rows first, then write them with VALUES."));
    }
    if proof.system {
        return Err(refused("a system catalogue").hint("Read the rows first, then write them with VALUES."));
    }
    if let Some((_, function)) = &findings.home {
        return Err(refused(function).hint("Call it in a SELECT of its own."));
    }
    let own = findings.local.as_ref().or(findings.unsteady.as_ref());
    if let Some(function) = own {
        return Err(refused(&format!("\"{function}\""))
            .hint("Let the application give the value, or read it with SELECT first."));
    }
    let texts = tokens.iter().filter_map(|token| match &token.kind {
        Kind::Text(text) => Some(text),
        _ => None,
    });
    if let Some(text) = texts.into_iter().find(|text| is_of_moment(text)) {
        return Err(refused(&format!("'{text}'")).hint("Let the application give the value."));
    }
    let subqueries = findings.queries > usize::from(matches!(statement, Statement::Insert(_)));
    let word = |word: &str| {
        let is = |token: &Token| matches!(&token.kind, Kind::Word(found) if found == word);
        tokens.iter().any(is)
    };
    let selects = subqueries || word("select");
    if selects && (word("limit") || word("offset") || word("fetch") || word("distinct")) {
        return Err(refused("LIMIT, OFFSET or DISTINCT").hint("Rows lie in another order in each group."));
    }
    if let (true, Some(aggregate)) = (selects, &findings.aggregate) {
        return Err(refused(&format!("\"{aggregate}\"")).hint("Rows lie in another order in each group."));
    }
    let by_default = filled_by_default(table, statement, word("default"));
    by_default.map_or(Ok(()), |column| Err(differs(table, column)))
}

/// Checks that what a COPY of these columns leaves to defaults is the same in every group.
///
/// # Errors
/// When it may not be.
pub(super) fn check_columns(table: &Relation, given: &[&str]) -> Result<(), Refusal> {
    let unlike = unlike(table, |name| given.contains(&name));
    unlike.map_or(Ok(()), |column| Err(differs(table, column)))
}

/// Checks that an action of ALTER TABLE gives the rows that are there the same values in every group.
///
/// # Errors
/// When it may not.
pub(super) fn check_action(table: &[String], action: &[Token], names: Names<'_>) -> Result<(), Refusal> {
    let stores = Words::new(action).sees(&["add"]) || has_word(action, &["using"]);
    let unsteady = action
        .iter()
        .enumerate()
        .find_map(|(at, token)| match &token.kind {
            // By its last name: those of all schemas count.
            Kind::Word(name) | Kind::Quoted(name) => {
                let users = names.catalogue.functions(None, name).next().is_some();
                let found = functions::find_any(&[name], names.catalogue);
                let steady = match found {
                    Ok(found) => found.function.volatility == Volatility::Immutable,
                    Err(_) => !users,
                };
                let next = action.get(at + 1).map(|next| &next.kind);
                let called = next == Some(&Kind::Punctuation('('))
                    || name.starts_with("current_")
                    || name.starts_with("local");
                (called && !steady).then_some(name)
            }
            _ => None,
        });
    match unsteady.filter(|_| stores) {
        None => Ok(()),
        Some(name) => Err(Refusal::unsupported(format!(
            "\"{name}\" for the rows that are in reference table \"{}\" is not supported",
            table.join(".")
        ))
        .detail("Every group computes it for itself, and all must store the same.")
        .hint("Add the column without it, set it with UPDATE, and give it its default then.")),
    }
}

fn differs(table: &Relation, column: &str) -> Refusal {
    Refusal::unsupported(format!(
        "the default of column \"{column}\" of reference table \"{}\" differs from group to group",
        table.name
    ))
    .detail("Every group stores the rows for itself, and all must store the same.")
    .hint(format!("Give column \"{column}\" a value."))
}

/// A column without a value that gets another one in each group.
fn unlike(table: &Relation, given: impl Fn(&str) -> bool) -> Option<&str> {
    let mut columns = table.columns.iter();
    let unlike = columns.find(|column| !column.filled_alike && !given(&column.name));
    unlike.map(|column| column.name.as_str())
}

/// A column that the statement leaves to a default that is not alike in all groups.
fn filled_by_default<'t>(table: &'t Relation, statement: &Statement, says_default: bool) -> Option<&'t str> {
    let given = match statement {
        Statement::Insert(insert) if !says_default => given(table, insert),
        Statement::Update(_) | Statement::Delete(_) if !says_default => return None,
        Statement::Merge(merge) if !says_default && !upsert::inserts(merge) => return None,
        Statement::Merge(merge) if !says_default => upsert::given_columns(table, merge),
        _ => Vec::new(),
    };
    unlike(table, |name| given.iter().any(|given| given == name))
}

/// The columns that every row of an INSERT has a value for.
fn given(table: &Relation, insert: &Insert) -> Vec<String> {
    if !insert.columns.is_empty() {
        let columns = insert.columns.iter().filter_map(parts);
        return columns.filter_map(|mut parts| parts.pop()).collect();
    }
    // The first ones, as many as there are values.
    let values = match insert.source.as_deref().map(|source| &*source.body) {
        Some(SetExpr::Values(values)) => values.rows.iter().map(|row| row.content.len()).min(),
        Some(SetExpr::Select(select)) => {
            let plain = |item: &SelectItem| {
                matches!(
                    item,
                    SelectItem::UnnamedExpr(_) | SelectItem::ExprWithAlias { .. }
                )
            };
            select
                .projection
                .iter()
                .all(plain)
                .then_some(select.projection.len())
        }
        _ => None,
    };
    let columns = table.columns.iter().take(values.unwrap_or(0));
    columns.map(|column| column.name.clone()).collect()
}

/// What PostgreSQL reads as a moment near its own (`datetktbl` in datetime.c).
const MOMENTS: [&str; 4] = ["now", "today", "tomorrow", "yesterday"];

/// Whether a text, read as a time, may be another one in each group.
#[must_use]
pub fn is_of_moment(text: &str) -> bool {
    let mut words = text.split_ascii_whitespace();
    words.any(|word| MOMENTS.iter().any(|moment| word.eq_ignore_ascii_case(moment)))
}

/// Whether FOR UPDATE or the like locks rows of reference tables, where there are others.
pub(super) fn locked(proof: &Proof<'_>) -> bool {
    let other = |name: &String| proof.instances.iter().any(|instance| instance.called == *name);
    proof
        .locked
        .iter()
        .any(|named| !named.as_ref().is_some_and(other))
}
