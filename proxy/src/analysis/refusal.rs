//! The error that a client gets instead of a wrong result.

/// A statement that Howdah does not run, in the words that the client is told.
///
/// Maps one to one onto the fields of PostgreSQL's ErrorResponse.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Refusal {
    /// SQLSTATE, five characters: most often `0A000`, feature not supported.
    pub sqlstate: &'static str,
    /// What is wrong; names the construct.
    pub message: String,
    /// Why it is so.
    pub detail: Option<String>,
    /// What to do instead.
    pub hint: Option<String>,
    /// Where in the statement's text: characters from 1, as PostgreSQL counts.
    pub position: Option<usize>,
}

impl Refusal {
    /// A refusal with SQLSTATE `0A000` (feature not supported).
    #[must_use]
    pub fn unsupported(message: impl Into<String>) -> Refusal {
        Refusal::new("0A000", message)
    }

    /// A refusal with the given SQLSTATE.
    #[must_use]
    pub fn new(sqlstate: &'static str, message: impl Into<String>) -> Refusal {
        Refusal {
            sqlstate,
            message: message.into(),
            detail: None,
            hint: None,
            position: None,
        }
    }

    /// The same with words on why.
    #[must_use]
    pub fn detail(mut self, detail: impl Into<String>) -> Refusal {
        self.detail = Some(detail.into());
        self
    }

    /// The same with words on what to do.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Refusal {
        self.hint = Some(hint.into());
        self
    }

    /// The same, pointing at a character of the statement, counted from 1.
    #[must_use]
    pub fn at(mut self, position: usize) -> Refusal {
        self.position = Some(position);
        self
    }
}
