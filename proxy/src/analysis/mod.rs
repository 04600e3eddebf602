//! What a statement is and where it may run: pure functions from SQL text to a [`Plan`].
//!
//! A query string is [`split`] into statements; [`analyse`] reads one. Rows are found by the proof in `proof.rs`;
//! what is not proved is refused, never guessed. Nothing here does I/O or panics.

mod added;
mod bodies;
mod bring;
mod calls;
mod check;
mod compute;
mod configure;
mod constants;
mod copies;
mod copy;
mod copy_plan;
mod create_as;
mod create_table;
mod databases;
mod ddl;
mod distribute;
mod distributed;
mod draws;
#[cfg(any(test, feature = "fuzz"))]
mod example;
mod explain;
mod extensions;
mod fallback;
mod feed;
mod fill;
mod functions;
#[cfg(any(test, feature = "fuzz"))]
pub(crate) mod fuzz;
mod grammar;
mod inline;
mod insert;
mod labels;
pub(crate) mod lexer;
mod moves;
mod parse;
mod pins;
pub mod plan;
mod prepared;
mod proof;
mod query;
pub mod refusal;
mod relations;
mod route;
mod routines;
mod scope;
mod sequences;
mod session;
mod settings;
mod sizes;
mod statement;
mod subquery;
mod temporaries;
mod temporary;
#[cfg(test)]
mod tests;
mod timeouts;
mod times;
mod transaction;
mod triggers;
mod upsert;
mod values;
pub(crate) mod words;
mod writes;

pub use bring::Bring;
pub use calls::{REGCLASS, sequence_of};
pub use compute::Computed;
pub use configure::{BOOLEAN, TEXT, parameter_types};
pub use copies::is_of_moment;
pub use copy_plan::{
    CopyFormat, CopyIn, CopyLayout, CopyMade, CopyOut, CopySource, Goes, SuppliedField, copied_alone,
    of_no_rows,
};
pub use distributed::{Gathering, Merge, OrderedBy, Part, Partial, Reading, Values};
pub use draws::{Draw, Draws, Places, SequenceName, Source};
pub use explain::Explained;
pub use feed::{Cut, Feed, FeedColumn, Sent, goes_by_row};
pub use moves::Moves;
pub use plan::*;
pub use refusal::Refusal;
pub use relations::Facts;
pub use sequences::SetSequence;
pub use settings::check as check_setting;
pub use statement::{analyse, command_of, parameters, split, used_parameters};
pub use temporaries::Temporaries;
pub use timeouts::{Timeout, shown as shown_timeout};
pub use values::ValuesRows;
