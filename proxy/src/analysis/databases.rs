//! CREATE DATABASE and DROP DATABASE: what each group can do so that the databases of all groups are one.

use super::Refusal;
use super::lexer::Kind;
use super::plan::{DatabaseAction, DatabaseChange, Ddl, DdlEffect, Plan};
use super::statement::syntax_for_postgres;
use super::words::Words;

/// Options that each group takes as they are.
const SAME_EVERYWHERE: [&str; 9] = [
    "owner",
    "strategy",
    "locale",
    "lc_collate",
    "lc_ctype",
    "locale_provider",
    "icu_locale",
    "icu_rules",
    "builtin_locale",
];

fn on_all_groups(name: String, action: DatabaseAction) -> Plan {
    Plan::Ddl(Ddl {
        effect: DdlEffect::Database(DatabaseChange { name, action }),
        outside_transaction: true,
        leaves: None,
    })
}

/// Plans what follows CREATE DATABASE (`createdb_opt_list` in gram.y).
pub(super) fn create(mut words: Words<'_>) -> Result<Plan, Refusal> {
    let Some(name) = words.name().filter(|_| !words.sees(&["not", "exists"])) else {
        return Ok(syntax_for_postgres());
    };
    words.take(&["with"]);
    let mut template = "template1".to_owned();
    while !words.is_empty() {
        let option = if words.take(&["connection", "limit"]) {
            Some("connection limit".to_owned())
        } else {
            words.name()
        };
        let Some(option) = option else {
            return Ok(syntax_for_postgres());
        };
        words.take_operator("=");
        if words.take(&["default"]) {
            continue;
        }
        let Some(value) = value(&mut words) else {
            return Ok(syntax_for_postgres());
        };
        check(&option, &value)?;
        if option == "template" {
            template = value;
        }
    }
    Ok(on_all_groups(name, DatabaseAction::Create { template }))
}

/// A word, a string or a number with its sign.
fn value(words: &mut Words<'_>) -> Option<String> {
    let sign = if words.take_operator("-") { "-" } else { "" };
    match words.next()? {
        Kind::Word(value) | Kind::Quoted(value) | Kind::Text(value) | Kind::Number(value) => {
            Some(format!("{sign}{value}"))
        }
        _ => None,
    }
}

fn check(option: &str, value: &str) -> Result<(), Refusal> {
    let refused = |what: &str| Refusal::unsupported(format!("CREATE DATABASE with {what} is not supported"));
    match option {
        "template" if matches!(value, "template0" | "template1") => Ok(()),
        "template" => Err(refused("a template of one's own")
            .detail("Each group would copy it at a moment of its own.")
            .hint("Create the database empty, and copy its tables with pg_dump.")),
        "encoding" => {
            // As `clean_encoding_name` in encnames.c has it.
            let letters = value.chars().filter(char::is_ascii_alphanumeric);
            let name: String = letters.map(|letter| letter.to_ascii_lowercase()).collect();
            if matches!(&*name, "utf8" | "unicode" | "6") {
                Ok(())
            } else {
                Err(refused("another encoding than UTF8")
                    .detail("Shard keys are hashed as UTF-8 has them.")
                    .hint("Clients may have another one: SET client_encoding."))
            }
        }
        "tablespace" if value == "pg_default" => Ok(()),
        "connection limit" if value == "-1" => Ok(()),
        "connection limit" => Err(refused("CONNECTION LIMIT").detail("Each server would count for itself.")),
        "oid" => {
            Err(refused("OID").detail("A database that is made again is told from the old one by its OID."))
        }
        option if SAME_EVERYWHERE.contains(&option) => Ok(()),
        option => Err(refused(&option.to_uppercase())),
    }
}

/// Plans what follows DROP DATABASE. PostgreSQL reads the rest.
pub(super) fn drop(mut words: Words<'_>) -> Result<Plan, Refusal> {
    words.take(&["if", "exists"]);
    let Some(name) = words.name() else {
        return Ok(syntax_for_postgres());
    };
    if name == "postgres" {
        return Err(Refusal::unsupported("database \"postgres\" cannot be dropped")
            .detail("Howdah asks the groups questions there."));
    }
    Ok(on_all_groups(name, DatabaseAction::Drop))
}
