//! CREATE TABLE ... AS and SELECT ... INTO: a table that every group makes from a query, and that gets the query's rows.
//!
//! The groups make it of the query without rows, so that its columns are those that PostgreSQL gives the query; it is then a new table like
//! any other, whose shard key is its first column. Then `INSERT INTO table query` is planned and run as if the client had sent it. Its columns have
//! the query's types already, so no value becomes another by that.

use super::Refusal;
use super::create_table::{check_tail, table_name};
use super::ddl::refuse_howdahs;
use super::fill::text_of;
use super::lexer::{Kind, Token};
use super::plan::{Access, CreateAs, Ddl, DdlEffect, Plan};
use super::query;
use super::relations::{Names, is_reserved};
use super::statement::syntax_for_postgres;
use super::temporary::{self, data_of, keyword_at};
use super::words::Words;

/// Plans CREATE TABLE after its name, which is given, if a query comes: these tokens up to AS, and the query behind it.
pub(super) fn create(
    name: &[String],
    if_not_exists: bool,
    (head, query): (&[Token], &[Token]),
    sql: &str,
    names: Names<'_>,
) -> Result<Plan, Refusal> {
    check_tail(head, names)?;
    let (query, rows) = data_of(query);
    if !rows {
        // Where it is there already the groups say so, each for itself.
        return Ok(match planned(query, names)? {
            Ok(()) => Plan::Ddl(Ddl {
                effect: DdlEffect::Reload,
                outside_transaction: false,
                leaves: None,
            }),
            Err(other) => other,
        });
    }
    let text = text_of(query, sql);
    made(name, if_not_exists, (text_of(head, sql), text), query, names)
}

/// Plans `SELECT ... INTO table ...`; none if it is not that.
pub(super) fn select_into(tokens: &[Token], sql: &str, names: Names<'_>) -> Option<Result<Plan, Refusal>> {
    let at = keyword_at(tokens, "into")?;
    let selects = ["select", "with"]
        .iter()
        .any(|word| Words::new(tokens).sees(&[word]));
    let inserts =
        |token: &Token| matches!(&token.kind, Kind::Word(word) if word == "insert" || word == "merge");
    if !selects || tokens[..at].last().is_some_and(inserts) {
        return None;
    }
    let mut words = Words::new(&tokens[at + 1..]);
    if words.take(&["unlogged"]) {
        return Some(Err(Refusal::unsupported("an unlogged table is not supported")
            .detail("It is not replicated, and would be lost with its server.")));
    }
    words.take(&["table"]);
    if matches!(words.peek(), Some(Kind::Word(word)) if is_reserved(word)) {
        return Some(Ok(syntax_for_postgres()));
    }
    let name = words.dotted_name()?;
    if let Err(refusal) = refuse_howdahs(tokens).and_then(|()| temporary::refuse_schema(tokens)) {
        return Some(Err(refusal));
    }
    let (before, after) = (text_of(&tokens[..at], sql), text_of(words.rest(), sql));
    let query: Vec<Token> = tokens[..at].iter().chain(words.rest()).cloned().collect();
    let text = format!("{before} {after}");
    let mut plan = made(&name, false, ("", &text), &query, names);
    if let Ok(Plan::CreateAs(made)) = &mut plan {
        made.selects_into = true;
    }
    Some(plan)
}

/// Whether the query can be run, alone; else what it is instead.
fn planned(query: &[Token], names: Names<'_>) -> Result<Result<(), Plan>, Refusal> {
    temporary::refuse_execute(query)?;
    if query.iter().any(|token| matches!(token.kind, Kind::Parameter(_))) {
        return Err(Refusal::unsupported(
            "CREATE TABLE AS and SELECT INTO with parameters are not supported",
        )
        .hint("Write their values."));
    }
    temporary::refuse_in(query, "CREATE TABLE AS or SELECT INTO", names)?;
    match query::plan(query, names)? {
        Plan::Query(planned) if planned.access == Access::Read => Ok(Ok(())),
        Plan::Query(_) => Err(Refusal::unsupported(
            "CREATE TABLE AS and SELECT INTO of a query that writes, locks or notifies are not supported",
        )
        .hint("Create the table first, and fill it with INSERT ... SELECT.")),
        other => Ok(Err(other)),
    }
}

/// The plan of a table of this name, with the text between that and the query, and the query's own.
fn made(
    name: &[String],
    if_not_exists: bool,
    (head, text): (&str, &str),
    query: &[Token],
    names: Names<'_>,
) -> Result<Plan, Refusal> {
    if let Err(other) = planned(query, names)? {
        return Ok(other);
    }
    let table = table_name(name.to_vec(), names)?;
    let (quoted, first) = (table.quoted(), Words::new(query));
    let selected = if first.sees(&["values"]) {
        // Its columns' types are those of all its rows together, as for the table.
        format!("SELECT * FROM ({text}) AS howdah_rows")
    } else if first.sees(&["table"]) {
        format!("SELECT * FROM{}", text.get("table".len()..).unwrap_or_default())
    } else {
        text.to_owned()
    };
    Ok(Plan::CreateAs(Box::new(CreateAs {
        if_not_exists,
        selects_into: false,
        create: format!("CREATE TABLE {quoted} {head} AS {text} WITH NO DATA"),
        insert: format!("INSERT INTO {quoted} {selected}"),
        names_it: query
            .iter()
            .enumerate()
            .any(|(at, _)| is_bare(query, at, &table.name)),
        table,
    })))
}

/// Whether the token of this number is the name, without a schema or a table before it, and not as one itself.
fn is_bare(tokens: &[Token], at: usize, name: &str) -> bool {
    let named = matches!(&tokens[at].kind, Kind::Word(found) | Kind::Quoted(found) if found == name);
    let point = |at: Option<usize>| {
        at.and_then(|at| tokens.get(at))
            .is_some_and(|token| token.kind == Kind::Punctuation('.'))
    };
    named && !point(at.checked_sub(1)) && !point(at.checked_add(1))
}
