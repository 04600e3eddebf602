//! PREPARE, EXECUTE, DEALLOCATE, and cursors.

use std::sync::Arc;

use super::Refusal;
use super::lexer::{Kind, Token};
use super::plan::{
    Access, CursorAction, Form, HomeUse, Motion, Plan, PreparedCommand, Query, Spread, Tag, Target,
};
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
        Plan::Query(query) => {
            let mut query = query.ungathered(|| {
                Refusal::unsupported("PREPARE of such a query of rows of several groups is not supported")
                    .hint("Prepare it by the protocol, as drivers do.")
            })?;
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
    let (name, action) = match tokens {
        [
            verb,
            between @ ..,
            Token {
                kind: Kind::Word(name) | Kind::Quoted(name),
                ..
            },
        ] => (name.clone(), action(verb, between)),
        _ => return Ok(syntax_for_postgres()),
    };
    let form = Form::Cursor {
        name: (!all).then_some(name),
        action,
    };
    Ok(Plan::Query(Query {
        access: Access::Read,
        target: Target::Any,
        tag: Tag::AsIs,
        form,
        draws: None,
    }))
}

/// What FETCH, MOVE or CLOSE does, by what stands between that word and the cursor's name.
fn action(verb: &Token, between: &[Token]) -> CursorAction {
    let mut words = Words::new(between);
    let _ = words.take(&["next"]) || words.take(&["forward"]);
    let motion = match words.peek() {
        Some(Kind::Word(word)) if word == "all" => {
            words.next();
            Motion::ForwardAll
        }
        Some(Kind::Number(count)) => {
            words.next();
            match count.parse() {
                Ok(count) if count > 0 => Motion::Forward(count),
                _ => Motion::Other,
            }
        }
        _ => Motion::Forward(1),
    };
    let _ = words.take_any(&["from", "in"]);
    let motion = if words.is_empty() { motion } else { Motion::Other };
    match &verb.kind {
        Kind::Word(word) if word == "fetch" => CursorAction::Fetch(motion),
        Kind::Word(word) if word == "move" => CursorAction::Move(motion),
        _ => CursorAction::Close,
    }
}

fn declare(mut words: Words<'_>, names: Names<'_>) -> Result<Plan, Refusal> {
    let Some(name) = words.name() else {
        return Ok(syntax_for_postgres());
    };
    let (mut plain, mut no) = (true, false);
    while let Some(option) = words.take_any(&["binary", "asensitive", "insensitive", "no", "scroll"]) {
        plain &= !(option == "binary" || (option == "scroll" && !no));
        no = option == "no";
    }
    if !words.take(&["cursor"]) {
        return Ok(syntax_for_postgres());
    }
    let hold = words.take(&["with", "hold"]);
    words.take(&["without", "hold"]);
    if !words.take(&["for"]) {
        return Ok(syntax_for_postgres());
    }
    let several = || {
        Refusal::unsupported("such a cursor over rows of several groups is not supported")
            .detail("There it can only go forward through the rows of a plain query, within its transaction.")
            .hint(
                "Leave SCROLL, BINARY, WITH HOLD and FOR UPDATE out, or add WHERE on the shard key, so that the \
                 query runs on one group.",
            )
    };
    let query_at = words.rest().first().map_or(0, |token| token.range.start);
    match query::plan(words.rest(), names)? {
        Plan::Query(query) => {
            if matches!(query.target, Target::Home(used) if !matches!(used, HomeUse::Temporary | HomeUse::Reference))
            {
                return Err(Refusal::unsupported(
                    "a cursor over functions of locks and notifications is not supported",
                )
                .hint("Call the function in a SELECT of its own."));
            }
            let gathering = match &query.form {
                Form::Gathered(gathering) => Some(Arc::clone(gathering)),
                _ => None,
            };
            let rows = query.form == Form::Plain || gathering.is_some();
            let plain = plain && !hold && query.access == Access::Read && rows;
            let target = if plain {
                query.target
            } else {
                query.target.on_one_group(several)?
            };
            Ok(Plan::Query(Query {
                target,
                tag: Tag::AsIs,
                form: Form::Declare {
                    name,
                    hold,
                    query_at,
                    gathering,
                },
                ..query
            }))
        }
        other => Ok(other),
    }
}
