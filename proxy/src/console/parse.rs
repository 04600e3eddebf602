//! What an operator says: PgBouncer's verbs, and a few of Howdah's own.

use super::show::Subject;
use crate::analysis::Refusal;
use crate::analysis::lexer::{self, Kind};
use crate::analysis::words::Words;
use crate::registry::Which;

/// A command of the console.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Command {
    /// Nothing but white space and comments.
    Empty,
    Show(Subject),
    Help,
    Pause(Which),
    Resume(Which),
    Reconnect(Which),
    Kill(String),
    Reload,
    /// What drivers say by themselves; see [`Courtesy`].
    Courtesy(Courtesy),
}

/// Statements that mean nothing here and that drivers cannot be kept from sending.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Courtesy {
    /// SET of a setting that concerns values and formats which the console does not have.
    Set,
    Begin,
    Commit,
    Rollback,
}

impl Courtesy {
    pub(super) fn tag(self) -> &'static str {
        match self {
            Courtesy::Set => "SET",
            Courtesy::Begin => "BEGIN",
            Courtesy::Commit => "COMMIT",
            Courtesy::Rollback => "ROLLBACK",
        }
    }
}

impl Command {
    /// Whether it only shows: members of `pg_monitor` may.
    pub(super) fn only_shows(&self) -> bool {
        !matches!(
            self,
            Command::Pause(_)
                | Command::Resume(_)
                | Command::Reconnect(_)
                | Command::Kill(_)
                | Command::Reload
        )
    }

    /// The tag of CommandComplete.
    pub(super) fn tag(&self) -> &'static str {
        match self {
            Command::Empty => "",
            Command::Show(_) | Command::Help => "SHOW",
            Command::Pause(_) => "PAUSE",
            Command::Resume(_) => "RESUME",
            Command::Reconnect(_) => "RECONNECT",
            Command::Kill(_) => "KILL",
            Command::Reload => "RELOAD",
            Command::Courtesy(courtesy) => courtesy.tag(),
        }
    }
}

/// What drivers set when they connect (pgjdbc, npgsql, psycopg) and what changes nothing about the console's answers.
const HARMLESS: &[&str] = &[
    "application_name",
    "bytea_output",
    "client_min_messages",
    "extra_float_digits",
    "search_path",
    "standard_conforming_strings",
];

/// Commands of PgBouncer that there are not.
const NOT_HERE: &[(&str, &str)] = &[
    ("disable", "PAUSE makes clients of a database wait."),
    ("enable", "RESUME ends a PAUSE."),
    ("suspend", "Use PAUSE."),
    ("shutdown", "Stop the node with SIGTERM; other nodes go on."),
    ("kill_client", "KILL ends all clients of a database."),
    (
        "wait_close",
        "PAUSE waits until the connections to PostgreSQL are closed.",
    ),
];

/// Words as PgBouncer has them for what it does not know.
fn invalid(text: &str) -> Refusal {
    Refusal::new(
        "42601",
        format!("invalid command '{}', use SHOW HELP;", text.trim()),
    )
    .hint("This is the console, not a database: it takes the commands that SHOW HELP lists.")
}

/// Reads one command.
///
/// # Errors
/// With 42601 for what is none, 0A000 for what only PgBouncer has.
pub(super) fn parse(text: &str) -> Result<Command, Refusal> {
    let mut tokens = lexer::tokens(text).map_err(|_| invalid(text))?;
    while tokens
        .last()
        .is_some_and(|token| token.kind == Kind::Punctuation(';'))
    {
        tokens.pop();
    }
    let mut words = Words::new(&tokens);
    let Some(Kind::Word(verb)) = words.next() else {
        return if tokens.is_empty() {
            Ok(Command::Empty)
        } else {
            Err(invalid(text))
        };
    };
    let command = match verb.as_str() {
        "show" => show(&mut words),
        "pause" => which(&mut words).map(Command::Pause),
        "resume" => which(&mut words).map(Command::Resume),
        "reconnect" => which(&mut words).map(Command::Reconnect),
        "kill" => {
            let Some(database) = words.name() else {
                return Err(Refusal::new("42601", "a database is required").hint("Write KILL database."));
            };
            Some(Command::Kill(database))
        }
        "reload" => Some(Command::Reload),
        "set" => return set(words, text),
        "begin" | "start" => return Ok(Command::Courtesy(Courtesy::Begin)),
        "commit" | "end" => return Ok(Command::Courtesy(Courtesy::Commit)),
        "rollback" | "abort" => return Ok(Command::Courtesy(Courtesy::Rollback)),
        other => match NOT_HERE.iter().find(|(verb, _)| *verb == other) {
            Some((verb, hint)) => {
                let words = format!("{} is not supported", verb.to_uppercase());
                return Err(Refusal::unsupported(words).hint(*hint));
            }
            None => None,
        },
    };
    command.filter(|_| words.is_empty()).ok_or_else(|| invalid(text))
}

fn show(words: &mut Words<'_>) -> Option<Command> {
    let subject = words.name()?;
    if subject == "help" {
        return Some(Command::Help);
    }
    Subject::named(&subject).map(Command::Show)
}

/// A database's name, as SQL reads it, or all.
fn which(words: &mut Words<'_>) -> Option<Which> {
    if words.is_empty() {
        return Some(Which::All);
    }
    words.name().map(Which::Named)
}

fn set(mut words: Words<'_>, text: &str) -> Result<Command, Refusal> {
    words.take_any(&["session", "local"]);
    let Some(name) = words.dotted_name() else {
        return Err(invalid(text));
    };
    let name = name.join(".").to_ascii_lowercase();
    let utf8 = || {
        let value = words.rest().last().map(|token| &token.kind);
        matches!(value, Some(Kind::Text(value) | Kind::Word(value)) if matches!(&*value.to_ascii_lowercase(), "utf8" | "utf-8" | "unicode"))
    };
    let iso = || {
        let mut values = words.rest().iter().map(|token| &token.kind);
        values.any(|value| matches!(value, Kind::Text(value) | Kind::Word(value) if value.to_ascii_lowercase().contains("iso")))
    };
    let harmless = HARMLESS.contains(&name.as_str())
        || (name == "client_encoding" && utf8())
        || (name == "datestyle" && iso());
    if harmless {
        return Ok(Command::Courtesy(Courtesy::Set));
    }
    Err(
        Refusal::unsupported(format!("\"{name}\" cannot be set in the console"))
            .hint("Change the configuration file, and RELOAD."),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_read_as_sql_is_written() {
        let cases = [
            ("SHOW Pools;", Command::Show(Subject::Pools)),
            ("show help", Command::Help),
            (" -- nothing\n ", Command::Empty),
            (";", Command::Empty),
            ("PAUSE", Command::Pause(Which::All)),
            ("pause Shop", Command::Pause(Which::Named("shop".to_owned()))),
            (
                "RESUME \"My Shop\" ;",
                Command::Resume(Which::Named("My Shop".to_owned())),
            ),
            ("/* now */ RECONNECT", Command::Reconnect(Which::All)),
            ("KILL shop", Command::Kill("shop".to_owned())),
            ("RELOAD", Command::Reload),
            ("BEGIN", Command::Courtesy(Courtesy::Begin)),
            ("SET extra_float_digits = 3", Command::Courtesy(Courtesy::Set)),
            ("SET client_encoding TO 'UTF8'", Command::Courtesy(Courtesy::Set)),
        ];
        for (text, command) in cases {
            assert_eq!(parse(text), Ok(command), "{text}");
        }
    }

    #[test]
    fn what_is_no_command_is_refused_with_a_hint() {
        for text in [
            "SELECT 1",
            "SHOW",
            "SHOW TABLES",
            "PAUSE a b",
            "RELOAD now",
            "'",
            "KILL",
        ] {
            let refusal = parse(text).expect_err(text);
            assert_eq!(refusal.sqlstate, "42601", "{text}");
            assert!(refusal.hint.is_some(), "{text}");
        }
        for text in [
            "SHUTDOWN",
            "DISABLE shop",
            "SET pool_mode = 'x'",
            "SET client_encoding = 'LATIN1'",
        ] {
            assert_eq!(parse(text).expect_err(text).sqlstate, "0A000", "{text}");
        }
    }
}
