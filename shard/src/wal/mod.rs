//! PostgreSQL's write-ahead log: its positions, what of it the Raft log holds, and both ends of
//! the physical replication protocol that carries it.

mod history;
mod lsn;

pub use history::{Applied, Rejected, WalHistory};
pub use lsn::{Lsn, ParseLsnError, SEGMENT_SIZE, TimelineId};
