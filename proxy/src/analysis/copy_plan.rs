//! The answer of the analysis for COPY from the client: what it does with the rows.

use std::ops::Range;
use std::sync::Arc;

use coordinator::hash::{HashSlot, KeyColumn};

use super::distributed::Gathering;
use super::plan::{Form, Query, RelationName};

/// `COPY table (columns) FROM STDIN`.
#[derive(Clone, Debug, PartialEq)]
pub struct CopyIn {
    /// The table.
    pub table: RelationName,
    /// Where each row goes.
    pub goes: Goes,
    /// How many fields the client gives each.
    pub columns: usize,
    /// How the fields are written.
    pub format: CopyFormat,
    /// The fields that the session adds to each.
    pub supplied: Vec<SuppliedField>,
    /// The statement that has these, too; none where there are none.
    pub text: Option<String>,
}

/// A field of a COPY that a sequence fills.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SuppliedField {
    /// The column.
    pub name: String,
    /// Its type.
    pub type_oid: u32,
    /// What fills it.
    pub sequence: RelationName,
    /// As the column's identity, which needs no privilege.
    pub identity: bool,
}

/// Where the rows of a COPY go.
#[derive(Clone, Debug, PartialEq)]
pub enum Goes {
    /// Each to the group of its shard key.
    ByKey {
        /// The key's place among the fields of each row, from 0.
        field: usize,
        /// Its type.
        column: KeyColumn,
        /// Its name.
        name: String,
    },
    /// All to this slot's group.
    To(HashSlot),
    /// All to every group.
    Everywhere,
}

impl Goes {
    /// The key's place among the fields of each row, from 0; any, where nobody asks for the key.
    #[must_use]
    pub fn key_field(&self) -> usize {
        match self {
            Goes::ByKey { field, .. } => *field,
            Goes::To(_) | Goes::Everywhere => 0,
        }
    }

    /// The key's name.
    #[must_use]
    pub fn key_name(&self) -> &str {
        match self {
            Goes::ByKey { name, .. } => name,
            Goes::To(_) | Goes::Everywhere => "",
        }
    }
}

/// The formats of COPY's data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CopyFormat {
    /// Text or CSV.
    Lines(CopyLayout),
    /// Each field in its type's binary form.
    Binary,
}

/// What COPY TO writes besides rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CopyOut {
    /// Nothing.
    Rows,
    /// A line of column names before them.
    Header,
    /// The binary format's header before and its trailer after them.
    Binary,
}

/// COPY TO of a query whose rows the session writes itself, where it is of several groups.
#[derive(Clone, Debug, PartialEq)]
pub struct CopyMade {
    /// How the query is answered.
    pub source: CopySource,
    /// How its rows are written.
    pub format: CopyFormat,
    /// The same as groups say it.
    pub(super) out: CopyOut,
    /// The query in the statement's text, in bytes.
    pub(super) query: Range<usize>,
}

/// How the query of a [`CopyMade`] is answered.
#[derive(Clone, Debug, PartialEq)]
pub enum CopySource {
    /// As a SELECT by itself.
    Gathered(Arc<Gathering>),
    /// By the sum of what each group counts.
    Count,
    /// By the rows of all groups, in no order. Each group can write its own, but for that it takes a snapshot of its own in a transaction that has
    /// none yet.
    Rows,
}

impl CopyMade {
    /// The query, of the statement's text.
    #[must_use]
    pub fn query<'t>(&self, text: &'t str) -> &'t str {
        text.get(self.query.clone()).unwrap_or_default()
    }

    /// The statement for groups that write their own rows.
    #[must_use]
    pub fn by_groups(&self, query: &Query) -> Query {
        Query {
            form: Form::CopyOut(self.out),
            ..query.clone()
        }
    }

    /// How many characters of the text come before the query.
    #[must_use]
    pub fn query_offset(&self, text: &str) -> usize {
        text.get(..self.query.start).unwrap_or_default().chars().count()
    }

    /// See [`of_no_rows`].
    #[must_use]
    pub fn of_no_rows(&self, text: &str) -> String {
        of_no_rows(text, &self.query)
    }
}

/// The same COPY of a query that gives nothing, in the place of the one here in its text; all else is where it was, unless the query was shorter than this one.
#[must_use]
pub fn of_no_rows(text: &str, query: &Range<usize>) -> String {
    let part = |range: Range<usize>| text.get(range).unwrap_or_default();
    let (before, after) = (part(0..query.start), part(query.end..text.len()));
    let width = part(query.clone()).chars().count();
    format!("{before}{:<width$}{after}", "SELECT WHERE false")
}

/// The query of a COPY alone, where it is in the text.
#[must_use]
pub fn copied_alone(text: &str, query: &Range<usize>) -> String {
    let part = |range: Range<usize>| text.get(range).unwrap_or_default();
    let width = part(0..query.start).chars().count();
    format!("{:width$}{}", "", part(query.clone()))
}

/// The format of COPY's text and CSV data. Bytes are of the client's encoding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CopyLayout {
    /// CSV rather than text.
    pub csv: bool,
    /// Between fields.
    pub delimiter: u8,
    /// How NULL is written.
    pub null: String,
    /// The first line is no row.
    pub header: bool,
    /// CSV's quote.
    pub quote: u8,
    /// CSV's escape inside quotes.
    pub escape: u8,
}
