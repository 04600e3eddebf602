//! Triggers: what each group can fire for its own rows as one server would for all.
//!
//! A row's trigger sees and changes that row alone, since no function of a user can do more (`bodies.rs`). It might give the row another shard
//! key: then `howdah_slot`, which looks at every row that is stored where there are such triggers (`howdah.guard_keys`), refuses it. A
//! statement's trigger would fire once in each group.

use coordinator::catalogue::Placement;

use super::Refusal;
use super::ddl::check_functions;
use super::lexer::{Kind, Token};
use super::relations::{Named, Names};
use super::words::{Words, has_word};

/// PostgreSQL's own trigger functions that look at their row alone.
const OWN: [&str; 3] = [
    "suppress_redundant_updates_trigger",
    "tsvector_update_trigger",
    "tsvector_update_trigger_column",
];

fn unsupported(what: &str) -> Refusal {
    Refusal::unsupported(format!("{what} is not supported"))
}

/// Checks CREATE TRIGGER; the words after that are given.
///
/// # Errors
/// When groups could not fire it as one server would.
pub(super) fn create(mut words: Words<'_>, names: Names<'_>) -> Result<(), Refusal> {
    check_name(words)?;
    words.name();
    let odd = || unsupported("this form of CREATE TRIGGER");
    if words.take(&["instead", "of"]) {
        return Err(unsupported("a trigger INSTEAD OF").detail("Views cannot be written to."));
    }
    let rest = words.rest();
    let on = (0..rest.len()).find(|at| Words::new(&rest[*at..]).sees(&["on"]));
    let (_, table) = rest.split_at(on.ok_or_else(odd)?);
    let mut words = Words::new(table);
    words.take(&["on"]);
    let parts = words.dotted_name().ok_or_else(odd)?;
    let relation = match names.find(&parts)? {
        Named::Table(relation) => relation,
        Named::Unknown => {
            let table = parts.join(".");
            return Err(Refusal::new(
                "42P01",
                format!("relation \"{table}\" does not exist"),
            ));
        }
        Named::View(..) | Named::Temporary | Named::System => {
            return Err(unsupported("a trigger on a relation of this kind")
                .hint("Tables that are not temporary can have triggers."));
        }
    };
    let rest = words.rest();
    if has_word(rest, &["referencing"]) {
        return Err(
            unsupported("REFERENCING in a trigger").detail("A function could read no transition table.")
        );
    }
    let name = &relation.name;
    let for_row = has_word(rest, &["for", "each", "row"]) || has_word(rest, &["for", "row"]);
    match relation.placement {
        Some(Placement::Reference) => {
            return Err(unsupported(&format!("a trigger on reference table \"{name}\""))
                .detail("Every group would fire it for itself, and all must store the same rows.")
                .hint("Compute the values in the statement."));
        }
        Some(Placement::Hash(_)) if !for_row => {
            return Err(unsupported(&format!(
                "a trigger FOR EACH STATEMENT on distributed table \"{name}\""
            ))
            .detail("It would fire once in each group.")
            .hint("Make it FOR EACH ROW."));
        }
        _ => {}
    }
    let called = |at: &usize| Words::new(&rest[*at..]).sees(&["execute"]);
    let at = (0..rest.len()).rfind(called).ok_or_else(odd)?;
    check_functions(&rest[..at], names)?;
    check_called(&rest[at..], names)
}

/// Checks `EXECUTE FUNCTION name(...)`.
fn check_called(tokens: &[Token], names: Names<'_>) -> Result<(), Refusal> {
    let mut words = Words::new(tokens);
    words.take(&["execute"]);
    let _ = words.take_any(&["function", "procedure"]);
    let parts = words.dotted_name().unwrap_or_default();
    let (schema, name) = match parts.as_slice() {
        [name] => (None, name.as_str()),
        [schema, name] => (Some(schema.as_str()), name.as_str()),
        _ => return Err(unsupported("this form of CREATE TRIGGER")),
    };
    if OWN.contains(&name) && schema.is_none_or(|schema| schema == "pg_catalog") {
        return Ok(());
    }
    let mut found = names.catalogue.functions(schema, name);
    if found.any(|function| function.is_trigger && (schema.is_some() || !function.is_shared)) {
        return Ok(());
    }
    let shown = parts.join(".");
    Err(
        Refusal::new("42883", format!("function {shown}() does not exist"))
            .hint("Make it with CREATE FUNCTION ... RETURNS trigger first."),
    )
}

/// Checks that the name which comes next is none of Howdah's own triggers.
///
/// # Errors
/// When it is.
pub(super) fn check_name(mut words: Words<'_>) -> Result<(), Refusal> {
    match words.name() {
        Some(name) if name.starts_with("howdah_") => Err(unsupported("changing what belongs to Howdah")
            .hint("Names that begin with \"howdah_\" are taken.")),
        _ => Ok(()),
    }
}

/// Checks ALTER TRIGGER; the words after that are given.
///
/// # Errors
/// When it is one of Howdah's own, or becomes one.
pub(super) fn alter(words: Words<'_>) -> Result<(), Refusal> {
    let rest = words.rest();
    check_name(words)?;
    (0..rest.len()).try_for_each(|at| check_name(Words::new(&rest[at..])))
}

/// Whether an action of ALTER TABLE enables or disables a trigger.
///
/// # Errors
/// When it is, or may be, one of Howdah's own.
pub(super) fn switches(mut words: Words<'_>) -> Result<bool, Refusal> {
    let Some(switch) = words.take_any(&["enable", "disable"]) else {
        return Ok(false);
    };
    let _ = words.take_any(&["replica", "always"]);
    if !words.take(&["trigger"]) {
        return Ok(false);
    }
    if words.peek() == Some(&Kind::Word("all".to_owned())) {
        let switch = switch.to_uppercase();
        return Err(unsupported(&format!("ALTER TABLE ... {switch} TRIGGER ALL"))
            .detail("Triggers of Howdah's own guard where rows are.")
            .hint(format!("Say {switch} TRIGGER USER.")));
    }
    check_name(words)?;
    Ok(true)
}
