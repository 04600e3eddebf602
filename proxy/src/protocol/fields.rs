//! The fields of ErrorResponse and NoticeResponse, as far as we read them.

use super::Body;

/// Some fields of a PostgreSQL error or notice.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Fields {
    /// Severity that no locale translates: ERROR, FATAL, WARNING, ... (field V).
    pub(crate) severity: String,
    /// SQLSTATE (field C).
    pub(crate) code: String,
    /// The primary message (field M).
    pub(crate) message: String,
    /// The C function that reported it (field R): the same in every language.
    pub(crate) routine: String,
}

impl Fields {
    /// Reads a body; what is missing or cut off stays empty.
    pub(crate) fn read(body: &[u8]) -> Fields {
        let mut fields = Fields::default();
        let mut body = Body::new(body);
        while let Ok(kind) = body.u8() {
            if kind == 0 {
                break;
            }
            let Ok(value) = body.cstr() else { break };
            let value = String::from_utf8_lossy(value).into_owned();
            match kind {
                b'V' => fields.severity = value,
                b'C' => fields.code = value,
                b'M' => fields.message = value,
                b'R' => fields.routine = value,
                _ => {}
            }
        }
        fields
    }

    /// Whether this is the WARNING that a commit was ended before it was replicated: PostgreSQL then
    /// reports success although nothing but its own disk holds the transaction (`syncrep.c`).
    pub(crate) fn says_commit_is_unknown(&self) -> bool {
        self.severity == "WARNING" && self.routine == "SyncRepWaitForLSN"
    }

    /// Whether the backend ends with this error.
    pub(crate) fn ends_the_backend(&self) -> bool {
        self.severity == "FATAL" || self.severity == "PANIC"
    }
}
