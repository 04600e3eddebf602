//! How a whole cluster is, put together from what its nodes say.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};
use shard::id::{GroupId, LogIndex, NodeId, Term};
use shard::status::Role;
use shard::wal::Lsn;

/// The whole cluster. Its JSON form is an interface: fields are added, never changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterStatus {
    /// Every node of the configuration, ascending.
    pub nodes: Vec<NodeView>,
    /// Every group of the configuration, ascending.
    pub groups: Vec<GroupStatus>,
}

/// One node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeView {
    /// The node.
    pub id: NodeId,
    /// Its process; none where it did not answer.
    pub pid: Option<u32>,
    /// Where clients reach it.
    pub sql_addr: SocketAddr,
    /// Whether it answered.
    pub state: NodeState,
}

/// Whether a node answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NodeState {
    /// It did.
    Up,
    /// It did not, in time.
    Unreachable,
}

/// One group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupStatus {
    /// The group.
    pub id: GroupId,
    /// The node that leads it, by the highest term in which a node that answered says so.
    pub leader: Option<NodeId>,
    /// The highest term seen.
    pub term: Option<Term>,
    /// The highest position known to be committed.
    pub commit_index: Option<LogIndex>,
    /// The end of the WAL known to be committed, in PostgreSQL's form.
    #[serde(with = "lsn_text")]
    pub committed_lsn: Option<Lsn>,
    /// Every replica of the configuration, ascending by node.
    pub replicas: Vec<ReplicaView>,
}

/// One replica.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplicaView {
    /// Its node.
    pub node: NodeId,
    /// Its Raft role; none where its node did not answer.
    pub role: Option<Role>,
    /// Where it stands in its life; "unreachable" where its node did not answer.
    pub state: String,
    /// Its PostgreSQL's postmaster, while that runs.
    pub postgres_pid: Option<u32>,
    /// Bytes of committed WAL that its PostgreSQL has not replayed yet.
    pub replay_lag_bytes: Option<u64>,
}

impl GroupStatus {
    /// Whether the group has a leader whose gate is open.
    #[must_use]
    pub fn is_serving(&self) -> bool {
        self.replicas
            .iter()
            .any(|replica| Some(replica.node) == self.leader && replica.state == "leading")
    }
}

impl ReplicaView {
    /// Whether it does what a replica of a healthy group does, its PostgreSQL running.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        matches!(self.state.as_str(), "leading" | "following") && self.postgres_pid.is_some()
    }
}

/// A WAL position in PostgreSQL's text form, or null.
mod lsn_text {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};
    use shard::wal::Lsn;

    pub(super) fn serialize<S: Serializer>(lsn: &Option<Lsn>, to: S) -> Result<S::Ok, S::Error> {
        match lsn {
            Some(lsn) => to.collect_str(lsn),
            None => to.serialize_none(),
        }
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Lsn>, D::Error> {
        let text = Option::<String>::deserialize(from)?;
        text.map(|text| text.parse().map_err(D::Error::custom))
            .transpose()
    }
}
