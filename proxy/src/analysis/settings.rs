//! Which settings a session may change.

use super::Refusal;
use super::timeouts::Timeout;

/// Checks a setting that a session, a role or a database is to get. `value` is empty for DEFAULT.
///
/// # Errors
/// For what would break a promise: replication of every commit, or the analysis' reading of SQL.
pub fn check(name: &str, value: &[String]) -> Result<(), Refusal> {
    if let Some(timeout) = Timeout::named(name) {
        return timeout.read(value).map(drop);
    }
    let name = name.to_ascii_lowercase();
    let one = value.first().map(|value| value.to_ascii_lowercase());
    let is = |allowed: &[&str]| one.as_deref().is_none_or(|one| allowed.contains(&one));
    let on = ["on", "true", "yes", "1"];
    let off = ["off", "false", "no", "0"];
    match name.as_str() {
        "synchronous_commit" if !is(&on) => Err(Refusal::unsupported(
            "synchronous_commit cannot be lowered or changed",
        )
        .detail("A commit that does not wait for the group's majority could be lost.")),
        "session_replication_role" if !is(&["origin"]) => {
            Err(Refusal::unsupported("session_replication_role cannot be changed"))
        }
        "standard_conforming_strings" if !is(&on) => Err(Refusal::unsupported(
            "standard_conforming_strings cannot be turned off",
        )
        .hint("Write E'...' for strings with backslash escapes.")),
        "transform_null_equals" if !is(&off) => {
            Err(Refusal::unsupported("transform_null_equals cannot be turned on").hint("Write IS NULL."))
        }
        "allow_system_table_mods" if !is(&off) => Err(Refusal::unsupported(
            "allow_system_table_mods cannot be turned on",
        )),
        "client_encoding" | "names" if !one.as_deref().is_none_or(is_read_as_it_is) => {
            Err(Refusal::unsupported(format!(
                "client encoding \"{}\" is not supported",
                one.unwrap_or_default()
            ))
            .hint("Use UTF8."))
        }
        "track_activities" if !is(&on) => Err(Refusal::unsupported("track_activities cannot be turned off")),
        // Of PostgreSQL 17: a timer of the backend's own, which sees one group's part of the transaction.
        "transaction_timeout" if !is(&["0"]) => {
            Err(Refusal::unsupported("transaction_timeout is not supported")
                .hint("Use statement_timeout and idle_in_transaction_session_timeout."))
        }
        "seed" => Err(Refusal::unsupported("seed cannot be set").detail(
            "Statements of a session run in several backends, each of which has random numbers of its own.",
        )),
        "search_path" => check_search_path(value),
        _ => Ok(()),
    }
}

/// Whether text in this encoding can be read as the server's. Its name is compared as PostgreSQL does (`clean_encoding_name` in
/// encnames.c): asyncpg asks for `'utf-8'`, quotes and all.
fn is_read_as_it_is(encoding: &str) -> bool {
    let clean: String = encoding.chars().filter(char::is_ascii_alphanumeric).collect();
    matches!(clean.as_str(), "utf8" | "unicode" | "sqlascii")
}

/// PostgreSQL's own names must not be hidden by users', and a user's table not by a temporary one.
fn check_search_path(value: &[String]) -> Result<(), Refusal> {
    let schemas: Vec<String> = value
        .iter()
        .flat_map(|value| value.split(','))
        .map(|schema| schema.trim().trim_matches('"').to_ascii_lowercase())
        .collect();
    if schemas.iter().skip(1).any(|schema| schema == "pg_catalog") {
        return Err(Refusal::unsupported("pg_catalog must come first in search_path")
            .hint("Leave pg_catalog out: it is then searched first."));
    }
    if schemas.iter().any(|schema| schema.starts_with("pg_temp")) {
        return Err(Refusal::unsupported(
            "temporary schemas cannot be named in search_path",
        ));
    }
    Ok(())
}
