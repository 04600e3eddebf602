//! The verdict: what the checker of the workload says under what was promised.

use super::Options;
use crate::Result;
use crate::check::{self, Model, Verdict, check};
use crate::client::Isolation;
use crate::history::History;

/// Judges a history by its workload.
///
/// Besides its level a transaction is promised what one PostgreSQL gives, on one group and on several: a session sees its own transactions, and everybody what was
/// acknowledged before.
///
/// # Errors
/// When the history is none of that workload.
pub fn judge(history: &History, options: &Options) -> Result<Verdict> {
    let promised = check::Options {
        model: match options.isolation {
            // Its reads are statements, or name a level themselves; its writes read nothing.
            _ if options.workload == "fractured-read" => Model::RepeatableRead,
            Isolation::ReadCommitted => Model::ReadCommitted,
            Isolation::RepeatableRead => Model::RepeatableRead,
            Isolation::Serializable => Model::Serializable,
        },
        session_order: true,
        real_time: true,
        ..check::Options::default()
    };
    check(&options.workload, history, &promised)
}
