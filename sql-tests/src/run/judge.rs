//! The verdict.

use super::Options;
use crate::Result;
use crate::history::History;

/// What is said of a history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It can be explained by what was promised.
    Valid,
    /// It cannot, and this is why.
    Invalid(String),
    /// No checker has looked at it: it proves nothing.
    Unchecked,
}

/// Judges a history by its workload.
///
/// # Errors
/// When the history is none of that workload.
pub fn judge(_workload: &str, _history: &History, _options: &Options) -> Result<Verdict> {
    // The checkers are called here.
    Ok(Verdict::Unchecked)
}
