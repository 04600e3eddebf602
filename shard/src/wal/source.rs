//! Where the WAL sender gets its bytes: the committed part of a group's Raft log.

use std::future::Future;
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::watch;

use super::{Lsn, TimelineId, WalHistory};

/// The committed WAL of one group, as its Raft log holds it.
///
/// A handle: cloning is cheap, and all clones see the same log.
pub trait WalSource: Clone + Send + Sync + 'static {
    /// What has been committed so far, and every change of it: `end()` is how far WAL may be read.
    ///
    /// The source sends a new value after every applied entry (it may skip values in a hurry, the
    /// last one always comes). When the source goes away, the channel closes, and senders stop.
    fn committed(&self) -> watch::Receiver<Arc<WalHistory>>;

    /// At least one and at most `max` committed bytes from `from` on, for a reader that follows
    /// timeline `follow`: before that timeline's start, its ancestors' bytes
    /// ([`WalHistory::writer_of`]); never bytes at or after the place where a later timeline left
    /// `follow`, and never bytes that are not committed.
    ///
    /// It may return less than is there, for instance the rest of one log entry.
    fn read(
        &self,
        follow: TimelineId,
        from: Lsn,
        max: usize,
    ) -> impl Future<Output = Result<Bytes, ReadError>> + Send;
}

/// Why WAL could not be read from the log.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The log no longer holds the position: the replica that needs it must be rebuilt.
    #[error("WAL before {first} has been removed from the log")]
    Purged {
        /// The first position that the log holds.
        first: Lsn,
    },
    /// The position is not committed yet, or never will be on that timeline. Ask again after a
    /// change of [`WalSource::committed`].
    #[error("WAL is not committed yet")]
    NotYet,
    /// The log could not be read.
    #[error("the log could not be read")]
    Io(#[from] std::io::Error),
}
