//! What a backend's answer says to the session itself, and how the answers of several groups become one.

use bytes::Bytes;

use super::conn::Audience;
use super::copy_out::Writer;
use super::tuples::{HEADER, TRAILER};
use crate::analysis::{CopyOut, Form, Refusal};
use crate::failure::Failure;

/// What an answer to the session itself said.
#[derive(Debug, Default)]
pub(crate) struct Captured {
    /// The first error.
    pub(crate) error: Option<Failure>,
    /// The last command tag.
    pub(crate) tag: Option<String>,
    /// The first value of the last row.
    pub(crate) value: Option<Bytes>,
    /// What describes statements, where that is kept: ParameterDescription, RowDescription and NoData messages.
    pub(crate) described: Option<Vec<Bytes>>,
    /// Rows that merged statements counted.
    pub(crate) counted: u64,
    /// The types of a described statement's parameters.
    pub(crate) types: Vec<u32>,
    /// Where rows of merged statements are kept instead of passed on.
    pub(crate) kept: Option<Kept>,
    /// How CopyData of merged statements is passed on, where not as it is.
    pub(crate) copy: Option<CopyMerge>,
    /// What makes rows of merged statements CopyData, where the client gets that instead.
    pub(crate) writes: Option<Writer>,
}

/// More than the DataRow of a count has.
const LONGEST_COUNT: usize = 64;

/// DataRow messages that are kept for a while.
#[derive(Debug)]
pub(crate) struct Kept {
    pub(crate) rows: Vec<Bytes>,
    /// How many more bytes may be kept.
    pub(crate) room: usize,
    /// The RowDescription, where that is kept, too; empty until it has come.
    pub(crate) description: Option<Bytes>,
}

impl Kept {
    pub(crate) fn new(room: usize) -> Self {
        Kept {
            rows: Vec::new(),
            room,
            description: None,
        }
    }

    /// With their description, which the client gets when nothing can fail any more (`PORTAL_ONE_RETURNING` in pquery.c).
    pub(crate) fn with_description(room: usize) -> Self {
        Kept {
            description: Some(Bytes::new()),
            ..Kept::new(room)
        }
    }

    fn keep(&mut self, message: &[u8]) -> Result<(), Failure> {
        let Some(room) = self.room.checked_sub(message.len()) else {
            let words = "the rows that this statement returns are too large to be kept";
            return Err(Refusal::new("54000", words)
                .hint("Write fewer rows at a time, or, but for INSERT, fetch all that it returns at once.")
                .into());
        };
        self.room = room;
        self.rows.push(Bytes::copy_from_slice(message));
        Ok(())
    }
}

/// Whether a group's answer is the last of those that are merged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Line {
    Last,
    Before,
}

impl Line {
    /// Of the group that comes at this place, from 0, of so many.
    pub(crate) fn at(index: usize, of: usize) -> Line {
        if index + 1 == of { Line::Last } else { Line::Before }
    }
}

/// CopyData that is merged with that of other groups: what stands around the rows must come once.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CopyMerge {
    what: CopyOut,
    line: Line,
    /// Some has come.
    begun: bool,
}

/// What becomes of a CopyData message.
pub(crate) enum CopyPiece<'a> {
    Whole,
    Nothing,
    /// This much of its body.
    Part(&'a [u8]),
}

impl CopyMerge {
    /// PostgreSQL sends a header line by itself, the binary header with the first row or the trailer, and the trailer by
    /// itself or with the header (`CopySendEndOfRow` in copyto.c).
    pub(crate) fn piece<'a>(&mut self, audience: Audience, body: &'a [u8]) -> CopyPiece<'a> {
        let first = !std::mem::replace(&mut self.begun, true);
        let skips = first && audience == Audience::MergeNext;
        match self.what {
            CopyOut::Rows => CopyPiece::Whole,
            CopyOut::Header if skips => CopyPiece::Nothing,
            CopyOut::Header => CopyPiece::Whole,
            CopyOut::Binary => {
                let start = if skips { HEADER.len().min(body.len()) } else { 0 };
                let header = if first { HEADER.len() } else { 0 };
                let is_end = body.get(header..) == Some(&TRAILER[..]);
                let end = if is_end && self.line == Line::Before {
                    header
                } else {
                    body.len()
                };
                match body.get(start..end) {
                    Some([]) | None => CopyPiece::Nothing,
                    Some(part) => CopyPiece::Part(part),
                }
            }
        }
    }
}

impl Captured {
    /// For an answer that is merged with others of a statement of this form.
    pub(crate) fn merging(form: &Form, line: Line) -> Self {
        let copy = match form {
            Form::CopyOut(what @ (CopyOut::Header | CopyOut::Binary)) => Some(CopyMerge {
                what: *what,
                line,
                begun: false,
            }),
            _ => None,
        };
        Captured {
            kept: (*form == Form::Count).then(|| Kept::new(LONGEST_COUNT)),
            copy,
            ..Captured::default()
        }
    }

    /// Keeps the description of the rows, if it is kept.
    pub(crate) fn keep_description(&mut self, message: &[u8]) -> bool {
        let description = self.kept.as_mut().and_then(|kept| kept.description.as_mut());
        if let Some(description) = description {
            *description = Bytes::copy_from_slice(message);
            return true;
        }
        false
    }

    /// Keeps a row, if rows are kept.
    pub(crate) fn keep(&mut self, message: &[u8]) -> bool {
        let Some(kept) = &mut self.kept else {
            return false;
        };
        if let Err(failure) = kept.keep(message) {
            self.error.get_or_insert(failure);
        }
        true
    }
}
