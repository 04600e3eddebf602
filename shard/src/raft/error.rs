//! What can go wrong with a replica, by what the caller must do.

use std::io;

use crate::id::{GroupId, NodeId};
use crate::wal::Rejected;

/// Why a replica could not be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The configuration has no such group, or this node is not one of its members.
    #[error("node {node} holds no replica of group {group}")]
    NotMember {
        /// The group.
        group: GroupId,
        /// This node.
        node: NodeId,
    },
    /// The times of failure detection do not fit together.
    #[error("the times of failure detection do not fit together: {0}")]
    Timing(String),
    /// The snapshot cannot be read, or is damaged.
    #[error("the snapshot of group {group} cannot be read")]
    Snapshot {
        /// The group.
        group: GroupId,
        /// What the disk said.
        source: io::Error,
    },
    /// What the replica remembers cannot be read.
    #[error("it cannot be read whether the replica of group {group} has lost its log")]
    Memory {
        /// The group.
        group: GroupId,
        /// What the disk said.
        source: io::Error,
    },
    /// The replica has lost its log, and there is one all the same.
    #[error("the replica of group {group} has lost its log and must begin with an empty one")]
    NotEmpty {
        /// The group.
        group: GroupId,
    },
    /// The log and the snapshot cannot be brought together.
    #[error("the replica of group {group} cannot be recovered: {reason}")]
    Recovery {
        /// The group.
        group: GroupId,
        /// What openraft said.
        reason: String,
    },
}

/// Why a proposal was not applied, as far as is known.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    /// It did not enter the log, and never will: this replica does not lead, or has lost its majority.
    #[error("this replica does not lead its group")]
    NotLeader {
        /// Who leads, where it is known.
        leader: Option<NodeId>,
    },
    /// It was in the log and was committed, but did not continue it: no replica has applied it.
    #[error("the entry does not continue the log")]
    Rejected(#[from] Rejected),
    /// The replica lost its leadership meanwhile: it may be applied or not.
    #[error("leadership was lost before the entry was committed; it may be yet")]
    Unknown,
    /// The replica has stopped: the entry may be applied or not.
    #[error("the replica has stopped")]
    Stopped,
}

/// A replica's Raft stopped for good: its storage failed, or one of its invariants is broken.
/// Nothing of it may be trusted until the process starts again.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the Raft replica of group {group} stopped: {reason}")]
pub struct Fatal {
    /// The group.
    pub group: GroupId,
    /// What openraft said.
    pub reason: String,
}

/// Why a request to a replica was not carried out.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RequestFailed {
    /// The replica has stopped.
    #[error(transparent)]
    Stopped(#[from] Fatal),
    /// Only the leader can do it.
    #[error("this replica does not lead its group")]
    NotLeader,
    /// It did not happen in time. It may still happen.
    #[error("it did not happen in time")]
    Timeout,
    /// It makes no sense for this group.
    #[error("{0}")]
    Refused(String),
}
