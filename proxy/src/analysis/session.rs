//! SET, RESET, SHOW, DISCARD.

use super::Refusal;
use super::lexer::{Kind, Token};
use super::plan::{Discard, Plan, SessionCommand};
use super::settings;
use super::statement::{any_group, syntax_for_postgres};
use super::timeouts::Timeout;
use super::words::Words;

/// Plans SET ... (not SET TRANSACTION).
pub(super) fn set(tokens: &[Token]) -> Result<Plan, Refusal> {
    let mut words = Words::new(tokens);
    words.take(&["set"]);
    if words.take(&["constraints"]) {
        return Ok(any_group());
    }
    if words.take(&["session", "characteristics", "as", "transaction"]) {
        // By which of the settings it sets: another one of them is not undone by it.
        let sets = |word: &str| words.rest().iter().any(|token| as_text(&token.kind) == word);
        let which = ["isolation", "only", "write", "deferrable"].map(|word| u8::from(sets(word)));
        let which = [which[0], which[1] | which[2], which[3]];
        let value = words.rest().iter().map(|token| as_text(&token.kind)).collect();
        return Ok(command(
            &format!("session characteristics {which:?}"),
            value,
            false,
        ));
    }
    let local = words.take_any(&["local", "session"]) == Some("local");
    if words.take(&["time", "zone"]) {
        // INTERVAL '+01:00' HOUR TO MINUTE is left to PostgreSQL: its words are passed on as they are.
        return Ok(command("timezone", values(words), local));
    }
    if words.take(&["names"]) {
        let value = values(words);
        settings::check("client_encoding", &value)?;
        return Ok(command("client_encoding", value, local));
    }
    if words.take(&["authorization"]) {
        return Ok(command("session_authorization", values(words), local));
    }
    if words.take(&["role"]) {
        return Ok(command("role", values(words), local));
    }
    if words.take(&["schema"]) {
        let value = values(words);
        settings::check("search_path", &value)?;
        return Ok(command("search_path", value, local));
    }
    let Some(parts) = words.dotted_name() else {
        return Ok(syntax_for_postgres());
    };
    if !(words.take_operator("=") || words.take(&["to"])) {
        return Ok(syntax_for_postgres());
    }
    let name = parts.join(".").to_ascii_lowercase();
    if Timeout::named(&name).is_some() && !is_one_value(words.rest()) {
        return Ok(syntax_for_postgres());
    }
    let value = values(words);
    settings::check(&name, &value)?;
    Ok(command(&name, value, local))
}

/// Whether each value is a single token, or a number with its sign.
fn is_one_value(tokens: &[Token]) -> bool {
    super::words::split_commas(tokens).into_iter().all(|value| {
        let kinds: Vec<&Kind> = value.iter().map(|token| &token.kind).collect();
        match kinds.as_slice() {
            [Kind::Word(_) | Kind::Quoted(_) | Kind::Text(_) | Kind::Number(_)] => true,
            [Kind::Operator(sign), Kind::Number(_)] => sign == "-" || sign == "+",
            _ => false,
        }
    })
}

fn command(name: &str, value: Vec<String>, local: bool) -> Plan {
    Plan::Session(SessionCommand::Set {
        name: name.to_owned(),
        value,
        local,
    })
}

fn as_text(kind: &Kind) -> String {
    match kind {
        Kind::Word(text) | Kind::Quoted(text) | Kind::Text(text) | Kind::Bits(text) => text.clone(),
        Kind::Number(text) | Kind::Operator(text) => text.clone(),
        Kind::Parameter(number) => format!("${number}"),
        Kind::Punctuation(mark) => mark.to_string(),
    }
}

/// The values up to the end; none for DEFAULT.
fn values(words: Words<'_>) -> Vec<String> {
    if words.sees(&["default"]) && words.rest().len() == 1 {
        return Vec::new();
    }
    super::words::split_commas(words.rest())
        .into_iter()
        .map(|value| {
            value
                .iter()
                .map(|token| as_text(&token.kind))
                .collect::<Vec<_>>()
                .concat()
        })
        .collect()
}

/// Plans RESET.
pub(super) fn reset(tokens: &[Token]) -> Plan {
    let mut words = Words::new(tokens);
    words.take(&["reset"]);
    let name = if words.take(&["time", "zone"]) {
        Some("timezone".to_owned())
    } else if words.take(&["session", "authorization"]) {
        Some("session_authorization".to_owned())
    } else if words.take(&["all"]) {
        None
    } else {
        match words.dotted_name() {
            Some(parts) => Some(parts.join(".").to_ascii_lowercase()),
            None => return syntax_for_postgres(),
        }
    };
    if !words.is_empty() {
        return syntax_for_postgres();
    }
    Plan::Session(SessionCommand::Reset { name })
}

/// Plans SHOW.
pub(super) fn show(tokens: &[Token]) -> Plan {
    let mut words = Words::new(tokens);
    words.take(&["show"]);
    let name = if words.take(&["time", "zone"]) {
        "timezone".to_owned()
    } else if words.take(&["transaction", "isolation", "level"]) {
        "transaction_isolation".to_owned()
    } else if words.take(&["session", "authorization"]) {
        "session_authorization".to_owned()
    } else {
        match words.dotted_name() {
            Some(parts) => parts.join(".").to_ascii_lowercase(),
            None => return syntax_for_postgres(),
        }
    };
    if !words.is_empty() {
        return syntax_for_postgres();
    }
    Plan::Session(match Timeout::named(&name) {
        Some(timeout) => SessionCommand::ShowTimeout(timeout),
        None => SessionCommand::Show { name },
    })
}

/// Plans DISCARD.
pub(super) fn discard(tokens: &[Token]) -> Plan {
    let mut words = Words::new(tokens);
    words.take(&["discard"]);
    let what = match words.take_any(&["all", "plans", "sequences", "temp", "temporary"]) {
        Some("all") => Discard::All,
        Some("plans") => Discard::Plans,
        Some("sequences") => Discard::Sequences,
        Some(_) => Discard::Temp,
        None => return syntax_for_postgres(),
    };
    if words.is_empty() {
        Plan::Session(SessionCommand::Discard(what))
    } else {
        syntax_for_postgres()
    }
}
