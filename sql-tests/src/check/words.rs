//! Operations and cycles told in words.

use std::fmt::Write;

use super::pairs::{Operation, Outcome};
use super::{Dependency, Edge};
use crate::history::Edn;

/// So many elements of a list of plain numbers are shown, its last ones.
const SHOWN: usize = 6;

/// A value, with long lists of numbers cut to their ends.
pub(crate) fn value(value: &Edn) -> String {
    match value {
        Edn::Vector(elements)
            if elements.len() > SHOWN + 2 && elements.iter().all(|e| matches!(e, Edn::Int(_))) =>
        {
            let hidden = elements.len() - SHOWN;
            let ends: Vec<String> = elements[hidden..].iter().map(Edn::to_string).collect();
            format!("[({hidden} more) {}]", ends.join(" "))
        }
        Edn::Vector(elements) => {
            let elements: Vec<String> = elements.iter().map(self::value).collect();
            format!("[{}]", elements.join(" "))
        }
        other => other.to_string(),
    }
}

/// A list of numbers, cut to its end where it is long.
pub(crate) fn list(elements: &[i64]) -> String {
    value(&Edn::Vector(elements.iter().copied().map(Edn::Int).collect()))
}

/// An operation: what it did, whose it is, and where the history has it.
pub(crate) fn operation(operation: &Operation<'_>) -> String {
    let outcome = match operation.outcome {
        Outcome::Ok => "",
        Outcome::Fail => ", which failed",
        Outcome::Info => ", whose outcome is not known",
    };
    format!(
        "{} by process {} (index {}{outcome})",
        value(operation.value()),
        operation.process,
        operation.index(),
    )
}

/// Why the transaction called `from` comes before the one called `to`.
pub(crate) fn reason(
    kind: Dependency,
    from: &str,
    to: &str,
    process: u64,
    element: Option<(&Edn, i64)>,
) -> String {
    match (kind, element) {
        (Dependency::Ww, Some((key, element))) => {
            format!("{from} appended to key {key} before {to} appended {element} to it")
        }
        (Dependency::Wr, Some((key, element))) => {
            format!("{to} read key {key} up to {element}, which {from} appended")
        }
        (Dependency::Rw, Some((key, element))) => {
            format!("{from} read key {key} without {element}, which {to} appended")
        }
        (Dependency::Realtime, _) => format!("{from} was acknowledged before {to} began"),
        (Dependency::Process, _) => format!("process {process} did {to} after {from}"),
        (kind, None) => format!("{from} comes before {to} by {kind}"),
    }
}

/// A cycle: its transactions, then its edges. `operations` are those where the edges begin.
pub(crate) fn cycle(operations: &[&Operation<'_>], edges: &[Edge]) -> String {
    let mut words = String::from("let");
    for (place, one) in operations.iter().enumerate() {
        // Writing to a string does not fail.
        let _ = write!(words, "\n  T{} = {}", place + 1, operation(one));
    }
    words.push_str("\nThen");
    for edge in edges {
        let _ = write!(words, "\n  {} ({}),", edge.words, edge.kind);
    }
    words.push_str("\nso each of them comes before itself: a cycle.");
    words
}
