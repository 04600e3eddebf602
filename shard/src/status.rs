//! What a node tells about itself and its replicas.

use serde::{Deserialize, Serialize};

use crate::id::{GroupId, LogIndex, NodeId, Term};
use crate::wal::{Lsn, TimelineId};

/// A node's own view, as `howdah status` gathers it from each.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct NodeStatus {
    /// The node.
    pub node: NodeId,
    /// Its process id.
    pub pid: u32,
    /// Its replicas, one for each group that it is a member of.
    pub replicas: Vec<ReplicaStatus>,
}

/// One replica, as its own node sees it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ReplicaStatus {
    /// The group.
    pub group: GroupId,
    /// The Raft role.
    pub role: Role,
    /// Where it stands in its life, in words of DESIGN: "following", "promoting", "leading", ...
    pub state: String,
    /// The leader that it knows of.
    pub leader: Option<NodeId>,
    /// The Raft term.
    pub term: Term,
    /// The last log entry that it knows to be committed.
    pub commit_index: Option<LogIndex>,
    /// The current timeline of the group's WAL.
    pub timeline: Option<TimelineId>,
    /// The end of the WAL that it knows to be committed.
    pub committed_lsn: Lsn,
    /// How far its own PostgreSQL has replayed; on the leader, the committed position.
    pub replayed_lsn: Lsn,
    /// Its PostgreSQL's postmaster; none while that is stopped.
    pub postgres_pid: Option<u32>,
}

/// The Raft role of a replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Leads the group in its term.
    Leader,
    /// Follows a leader, or looks for one.
    Follower,
    /// Asks for votes.
    Candidate,
    /// Receives the log but has no vote.
    Learner,
}
