//! PREPARE, EXECUTE, DEALLOCATE, and cursors.

use super::Refusal;
use super::lexer::{Kind, Token};
use super::plan::{Access, Form, Plan, PreparedCommand, Query, Spread, Tag, Target};
use super::query;
use super::relations::Names;
use super::statement::syntax_for_postgres;
use super::words::{Words, split_commas};

/// Plans PREPARE, EXECUTE and DEALLOCATE.
pub(super) fn plan(tokens: &[Token], names: Names<'_>) -> Result<Plan, Refusal> {
    let mut words = Words::new(tokens);
    if words.take(&["deallocate"]) {
        words.take(&["prepare"]);
        let name = if words.take(&["all"]) { None } else { words.name() };
        return Ok(Plan::Prepared(PreparedCommand::Deallocate { name }));
    }
    if words.take(&["execute"]) {
        return execute(words);
    }
    words.take(&["prepare"]);
    let Some(name) = words.name() else {
        return Ok(syntax_for_postgres());
    };
    let types = words.parenthesised().map(split_commas).unwrap_or_default();
    let types = types.into_iter().map(type_oid).collect();
    if !words.take(&["as"]) {
        return Ok(syntax_for_postgres());
    }
    match query::plan(words.rest(), names)? {
        Plan::Query(mut query) => {
            if let Target::Keys(_, spread @ Spread::Rows(_)) = &mut query.target {
                // EXECUTE has the text of no rows to cut.
                *spread = Spread::Refuse(
                    Refusal::unsupported("PREPARE of an INSERT of rows of several groups is not supported")
                        .hint("Prepare it by the protocol, as drivers do, or insert one row per statement."),
                );
            }
            let query = Box::new(query);
            Ok(Plan::Prepared(PreparedCommand::Prepare { name, query, types }))
        }
        other => Ok(other),
    }
}

/// The OID of a type by its plain name, for the types whose values route.
fn type_oid(tokens: &[Token]) -> Option<u32> {
    let words: Option<Vec<&str>> = tokens
        .iter()
        .map(|token| match &token.kind {
            Kind::Word(word) => Some(word.as_str()),
            _ => None,
        })
        .collect();
    Some(match words?.join(" ").as_str() {
        "int2" | "smallint" => 21,
        "int" | "int4" | "integer" => 23,
        "int8" | "bigint" => 20,
        "text" => 25,
        "varchar" | "character varying" => 1043,
        "uuid" => 2950,
        "bool" | "boolean" => 16,
        "date" => 1082,
        "timestamp" | "timestamp without time zone" => 1114,
        "timestamptz" | "timestamp with time zone" => 1184,
        "numeric" | "decimal" => 1700,
        "bytea" => 17,
        "unknown" => 0,
        // Known to be no key's type: float8 stands for whatever it is, it never routes.
        _ => 701,
    })
}

fn execute(mut words: Words<'_>) -> Result<Plan, Refusal> {
    let Some(name) = words.name() else {
        return Ok(syntax_for_postgres());
    };
    let arguments = words.parenthesised();
    if !words.is_empty() {
        return Ok(syntax_for_postgres());
    }
    let parameters = arguments.map(split_commas).unwrap_or_default();
    let parameters: Option<Vec<_>> = parameters.into_iter().map(literal).collect();
    let parameters = parameters.ok_or_else(|| {
        Refusal::unsupported("EXECUTE takes constants only").hint("Write each parameter as a literal.")
    })?;
    Ok(Plan::Prepared(PreparedCommand::Execute { name, parameters }))
}

/// A constant as text; the inner `None` is NULL.
fn literal(tokens: &[Token]) -> Option<Option<String>> {
    let kinds: Vec<&Kind> = tokens.iter().map(|token| &token.kind).collect();
    match kinds.as_slice() {
        [Kind::Text(text) | Kind::Number(text)] => Some(Some(text.clone())),
        [Kind::Operator(minus), Kind::Number(number)] if minus == "-" => Some(Some(format!("-{number}"))),
        [Kind::Word(word)] if word == "null" => Some(None),
        [Kind::Word(word)] if word == "true" || word == "false" => Some(Some(word.clone())),
        _ => None,
    }
}

/// Plans DECLARE, FETCH, MOVE and CLOSE.
pub(super) fn cursor(tokens: &[Token], names: Names<'_>) -> Result<Plan, Refusal> {
    let mut words = Words::new(tokens);
    if words.take(&["declare"]) {
        return declare(words, names);
    }
    let all = words.sees(&["close", "all"]);
    let name = match tokens {
        [
            _,
            ..,
            Token {
                kind: Kind::Word(name) | Kind::Quoted(name),
                ..
            },
        ] => name.clone(),
        _ => return Ok(syntax_for_postgres()),
    };
    let form = Form::Cursor {
        name: (!all).then_some(name),
        closes: words.sees(&["close"]),
    };
    Ok(Plan::Query(Query {
        access: Access::Read,
        target: Target::Any,
        tag: Tag::AsIs,
        form,
    }))
}

fn declare(mut words: Words<'_>, names: Names<'_>) -> Result<Plan, Refusal> {
    let Some(name) = words.name() else {
        return Ok(syntax_for_postgres());
    };
    while words
        .take_any(&["binary", "asensitive", "insensitive", "no", "scroll"])
        .is_some()
    {}
    if !words.take(&["cursor"]) {
        return Ok(syntax_for_postgres());
    }
    let hold = words.take(&["with", "hold"]);
    words.take(&["without", "hold"]);
    if !words.take(&["for"]) {
        return Ok(syntax_for_postgres());
    }
    let several = || {
        Refusal::unsupported("a cursor over rows of several groups is not supported yet")
            .hint("Add WHERE on the shard key, so that the query runs on one group.")
    };
    match query::plan(words.rest(), names)? {
        Plan::Query(query) => {
            let target = query.target.on_one_group(several)?;
            Ok(Plan::Query(Query {
                target,
                tag: Tag::AsIs,
                form: Form::Declare { name, hold },
                ..query
            }))
        }
        other => Ok(other),
    }
}
