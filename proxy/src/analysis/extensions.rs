//! Extensions: those whose functions touch no rows and no other server.

use super::Refusal;
use super::lexer::Kind;
use super::words::Words;

/// Extensions that come with PostgreSQL (contrib), and whose functions compute with their arguments alone, or with `NEW` in a trigger.
const KNOWN: &[&str] = &[
    "btree_gin",
    "btree_gist",
    "citext",
    "cube",
    "dict_int",
    "dict_xsyn",
    "earthdistance",
    "fuzzystrmatch",
    "hstore",
    "insert_username",
    "intarray",
    "isn",
    "ltree",
    "moddatetime",
    "pg_trgm",
    "pgcrypto",
    "seg",
    "unaccent",
    "uuid-ossp",
];

/// Checks CREATE EXTENSION; the words after that are given.
///
/// # Errors
/// When it is none of the known ones.
pub(super) fn create(mut words: Words<'_>) -> Result<(), Refusal> {
    words.take(&["if", "not", "exists"]);
    match words.name() {
        // PostgreSQL has it from the start, and says so.
        Some(name) if name == "plpgsql" => Ok(()),
        Some(name) => check(&name),
        None => Err(Refusal::new("42601", "syntax error in CREATE EXTENSION")),
    }
}

fn check(name: &str) -> Result<(), Refusal> {
    if KNOWN.contains(&name) {
        return Ok(());
    }
    let known = KNOWN.join(", ");
    Err(
        Refusal::unsupported(format!("extension \"{name}\" is not supported"))
            .detail("Its functions could touch rows of other groups unseen, or tell of one server alone.")
            .hint(format!("Extensions that can be used: {known}.")),
    )
}

/// Checks the names in DROP EXTENSION; the words after that are given.
///
/// # Errors
/// When plpgsql is among them, to which Howdah's own schema belongs.
pub(super) fn check_dropped(mut words: Words<'_>) -> Result<(), Refusal> {
    while let Some(kind) = words.next() {
        if matches!(kind, Kind::Word(name) | Kind::Quoted(name) if name == "plpgsql") {
            return Err(Refusal::unsupported("extension \"plpgsql\" cannot be dropped")
                .detail("Howdah's own functions are written in it."));
        }
    }
    Ok(())
}

/// Checks ALTER EXTENSION; the words after that are given.
///
/// # Errors
/// When its members would be others than it has.
pub(super) fn alter(mut words: Words<'_>) -> Result<(), Refusal> {
    let name = words.name().unwrap_or_default();
    check(&name)?;
    if words.sees(&["update"]) || words.sees(&["set", "schema"]) {
        return Ok(());
    }
    Err(
        Refusal::unsupported("this form of ALTER EXTENSION is not supported")
            .hint("UPDATE and SET SCHEMA are."),
    )
}
