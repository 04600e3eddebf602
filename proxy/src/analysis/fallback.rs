//! Statements that the parser does not know.

use super::lexer::{Kind, Token};
use super::plan::{Access, Form, Plan, Query, Tag, Target};
use super::refusal::Refusal;
use super::relations::{Named, Names};
use super::{functions, words::Words};

/// A query of PostgreSQL's own catalogues only goes to any group; all else is for PostgreSQL to judge.
pub(super) fn plan(tokens: &[Token], names: Names<'_>) -> Plan {
    if reads_catalogues_only(tokens, names) {
        return Plan::Query(Query {
            access: Access::Read,
            target: Target::Any,
            tag: Tag::Select,
            form: Form::Plain,
            draws: None,
        });
    }
    Plan::Judge(
        Refusal::unsupported("Howdah cannot analyse this statement")
            .detail("PostgreSQL accepts its syntax, but Howdah cannot tell which rows it touches.")
            .hint("Write it in a simpler form."),
    )
}

/// Keywords after which `(` opens no argument list.
const NO_FUNCTION: &[&str] = &[
    "select",
    "from",
    "where",
    "and",
    "or",
    "not",
    "in",
    "on",
    "join",
    "as",
    "any",
    "all",
    "some",
    "exists",
    "array",
    "when",
    "then",
    "else",
    "by",
    "having",
    "using",
    "over",
    "filter",
    "union",
    "except",
    "intersect",
    "values",
    "lateral",
    "case",
    "end",
    "operator",
    "is",
    "like",
    "distinct",
    "limit",
    "offset",
    "between",
    "with",
    "within",
    "ilike",
    "similar",
    "to",
    "cast",
    "extract",
    "position",
    "substring",
    "overlay",
    "trim",
    "row",
    "within",
    "group",
    "partition",
    "materialized",
    "recursive",
];

fn reads_catalogues_only(tokens: &[Token], names: Names<'_>) -> bool {
    let mut words = Words::new(tokens);
    if words.take_any(&["select"]).is_none() {
        return false;
    }
    let writing = [
        "insert", "update", "delete", "merge", "into", "with", "table", "only",
    ];
    let writes = |token: &Token| matches!(&token.kind, Kind::Word(word) if writing.contains(&word.as_str()));
    if tokens.iter().any(writes) {
        return false;
    }
    (0..tokens.len()).all(|at| names_nothing_of_users(tokens, at, names))
}

/// Whether the name that starts here, if one does, is no relation or function of a user.
fn names_nothing_of_users(tokens: &[Token], at: usize, names: Names<'_>) -> bool {
    let before = at
        .checked_sub(1)
        .and_then(|before| tokens.get(before))
        .map(|token| &token.kind);
    if before == Some(&Kind::Punctuation('.')) {
        return true;
    }
    let mut words = Words::new(&tokens[at..]);
    let Some(parts) = words.dotted_name() else {
        return true;
    };
    let borrowed: Vec<&str> = parts.iter().map(String::as_str).collect();
    if words.peek() == Some(&Kind::Punctuation('(')) {
        // `AS alias(column, ...)`, or a type in CAST.
        let alias = matches!(before, Some(Kind::Word(word)) if word == "as");
        let keyword = alias || parts.len() == 1 && NO_FUNCTION.contains(&borrowed[0]);
        return keyword || functions::find_any(&borrowed, names.catalogue).is_ok() || is_type(&borrowed);
    }
    // Any name that is a user's relation anywhere in the path, and any relation after FROM or JOIN.
    match names.find(&parts) {
        Ok(Named::System) => true,
        Ok(Named::Table(_) | Named::View(..) | Named::Temporary) | Err(_) => false,
        Ok(Named::Unknown) => !matches!(before, Some(Kind::Word(word)) if word == "from" || word == "join"),
    }
}

fn is_type(parts: &[&str]) -> bool {
    matches!(
        parts.last(),
        Some(
            &("varchar"
                | "char"
                | "numeric"
                | "bpchar"
                | "timestamp"
                | "time"
                | "interval"
                | "bit"
                | "decimal")
        )
    )
}
