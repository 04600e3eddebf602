//! PostgreSQL's write-ahead log: its positions, what of it the Raft log holds, and both ends of
//! the physical replication protocol that carries it.

mod answer;
mod command;
mod feed;
mod frame;
#[cfg(any(test, feature = "fuzz"))]
pub(crate) mod fuzz;
mod history;
mod listener;
mod lsn;
mod message;
mod receiver;
mod records;
mod sender;
mod source;
mod standby;
mod streaming;
#[cfg(test)]
mod tests;
mod timeline_file;

pub use frame::WireError;
pub use history::{Applied, Rejected, WalHistory};
pub use listener::{Listener, listen};
pub use lsn::{Lsn, ParseLsnError, SEGMENT_SIZE, TimelineId};
pub use receiver::{APPLICATION_NAME, Identity, Receiver, ReceiverError};
pub use sender::{Sender, SenderError};
pub use source::{ReadError, WalSource};
pub use standby::{RebuildReason, StandbyStatus};
pub use streaming::{Event, MAX_EVENT, StatusSender, Streaming};
pub use timeline_file::{Ancestor, HistoryFileError, parse_history_file};
