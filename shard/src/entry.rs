//! What a group's Raft log holds: PostgreSQL's WAL, byte for byte, and the changes of its timeline.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::id::NodeId;
use crate::wal::{Lsn, TimelineId};

/// One entry of a group's log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Command {
    /// The group's database system was made. The first entry of every group, once.
    Genesis(Genesis),
    /// The next bytes of WAL.
    Wal(WalChunk),
    /// A new leader promoted its PostgreSQL: WAL goes on in another timeline.
    Switch(TimelineSwitch),
}

/// The birth of a group's database system, by `initdb` on the group's first leader.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Genesis {
    /// PostgreSQL's system identifier, in its decimal text form; the same in every replica.
    pub system_id: String,
    /// Where the group's WAL begins; the start of a segment, on timeline 1.
    pub start: Lsn,
    /// The node that ran `initdb`, and whose PostgreSQL writes timeline 1.
    pub origin: NodeId,
}

/// A run of WAL bytes, contiguous with the chunk before it.
///
/// Invariants: not empty; does not cross the end of a WAL segment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WalChunk {
    /// The timeline that the bytes were written on.
    pub timeline: TimelineId,
    /// The position of the first byte.
    pub start: Lsn,
    /// The bytes, as PostgreSQL wrote them.
    pub bytes: Bytes,
}

impl WalChunk {
    /// The position after the last byte.
    #[must_use]
    pub fn end(&self) -> Lsn {
        self.start + self.bytes.len() as u64
    }
}

/// The moment when a new leader's PostgreSQL left the old timeline for its own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TimelineSwitch {
    /// The new timeline.
    pub timeline: TimelineId,
    /// Where the new timeline leaves the old one. At or before the end of the log: a record whose
    /// tail never reached the log is dropped by the promotion.
    pub at: Lsn,
    /// The end of the log that the promoted server had received. The switch takes effect only
    /// where the log still ends there, so it can never drop WAL that its maker did not have.
    pub after: Lsn,
    /// The node whose PostgreSQL writes the new timeline.
    pub origin: NodeId,
    /// The content of the new timeline's history file, as PostgreSQL wrote it.
    pub history: Bytes,
}
