//! Functions that measure what is on one server: of a table or a database, the groups' sizes are summed up.

use sqlparser::ast::{Expr, SelectItem, SetExpr, Statement};

use super::Refusal;
use super::check::Findings;
use super::lexer::{Kind, Token};
use super::plan::{Access, Form, Plan, Query, Tag, Target};
use super::relations::{Names, parts};

/// They give bytes.
const SIZES: [&str; 6] = [
    "pg_database_size",
    "pg_indexes_size",
    "pg_relation_size",
    "pg_table_size",
    "pg_tablespace_size",
    "pg_total_relation_size",
];

/// Whether a statement may call one of them.
pub(super) fn measures(tokens: &[Token]) -> bool {
    tokens.iter().any(
        |token| matches!(&token.kind, Kind::Word(name) | Kind::Quoted(name) if SIZES.contains(&name.as_str())),
    )
}

/// Plans a statement without tables that does.
pub(super) fn plan(
    tokens: &[Token],
    statement: &Statement,
    findings: &Findings,
    names: Names<'_>,
) -> Result<Plan, Refusal> {
    let one = findings.queries == 1 && findings.home.is_none() && calls_no_other(tokens);
    if !one || !is_alone(statement) {
        return Err(Refusal::unsupported(
            "the size of a table or a database in an expression is not supported",
        )
        .detail("Each group has its own part of it.")
        .hint(
            "SELECT pg_table_size(...) alone, or another function of sizes, gives the sum of all groups.",
        ));
    }
    Ok(Plan::Query(Query {
        access: Access::Read,
        // A temporary table is on one server alone, and has a name that may hide one of theirs.
        target: match names.facts.temporaries.is_empty() {
            true => Target::All,
            false => {
                return Err(Refusal::unsupported(
                    "sizes are not supported while the session has temporary tables",
                )
                .hint("Ask in another session."));
            }
        },
        tag: Tag::Select,
        form: Form::Count,
        draws: None,
    }))
}

/// Whether a call of one of them is all of a SELECT.
fn is_alone(statement: &Statement) -> bool {
    let Statement::Query(query) = statement else {
        return false;
    };
    let plain = query.with.is_none()
        && query.order_by.is_none()
        && query.limit_clause.is_none()
        && query.fetch.is_none()
        && query.locks.is_empty();
    let SetExpr::Select(select) = &*query.body else {
        return false;
    };
    let bare = select.from.is_empty()
        && select.selection.is_none()
        && select.having.is_none()
        && select.distinct.is_none();
    let [
        SelectItem::UnnamedExpr(Expr::Function(function))
        | SelectItem::ExprWithAlias {
            expr: Expr::Function(function),
            ..
        },
    ] = select.projection.as_slice()
    else {
        return false;
    };
    let name = parts(&function.name).and_then(|parts| parts.last().cloned());
    plain && bare && name.is_some_and(|name| SIZES.contains(&name.as_str()))
}

/// Whether its arguments are of one row.
fn calls_no_other(tokens: &[Token]) -> bool {
    const PLAIN: [&str; 4] = ["current_database", "to_regclass", "regclass", "cast"];
    tokens
        .windows(2)
        .all(|pair| match (&pair[0].kind, &pair[1].kind) {
            (Kind::Word(name) | Kind::Quoted(name), Kind::Punctuation('(')) => {
                PLAIN.contains(&name.as_str()) || SIZES.contains(&name.as_str())
            }
            _ => true,
        })
}
