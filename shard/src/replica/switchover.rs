//! An operator's switchover: the leadership goes to another replica while all is well.
//!
//! Nothing acknowledged can be lost by it. The new leader is elected like any other, so its log holds every
//! committed entry; and what the old one's PostgreSQL wrote and the log does not hold was never acknowledged.
//! It is chosen among those that can serve soon only so that the pause is short.

use std::time::Duration;

use super::{Part, Replica};
use crate::call::{Answer, Question};
use crate::id::{GroupId, NodeId};
use crate::raft::RequestFailed;
use crate::status::{NodeStatus, ReplicaStatus, Role};
use crate::wal::{Lsn, SEGMENT_SIZE};

/// How long another node may take to say how its replica is.
const PATIENCE: Duration = Duration::from_secs(2);

/// The most committed WAL, bytes, that the chosen replica's PostgreSQL may still have to replay: that much is
/// replayed before the group serves again.
const CAUGHT_UP: u64 = SEGMENT_SIZE;

/// Why the leadership was not handed over.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SwitchoverError {
    /// Only the leader can hand it over.
    #[error("node {node} does not lead group {group}{}", and_who(*leader))]
    NotLeader {
        /// The node that was asked.
        node: NodeId,
        /// The group.
        group: GroupId,
        /// Who leads, where that is known.
        leader: Option<NodeId>,
    },
    /// It leads already.
    #[error("node {0} leads group {1} already")]
    LeadsAlready(NodeId, GroupId),
    /// Another switchover of the group has not ended.
    #[error("another switchover of group {0} is under way")]
    UnderWay(GroupId),
    /// No such replica.
    #[error("node {0} holds no replica of group {1}")]
    NoReplica(NodeId, GroupId),
    /// None of those that were asked can lead soon.
    #[error("nobody can take group {group} over: {}", reasons.join("; "))]
    NobodyReady {
        /// The group.
        group: GroupId,
        /// A line on each replica that was asked.
        reasons: Vec<String>,
    },
    /// It was handed over, and not taken.
    #[error("the leadership was given up, but it is not known who leads: {0}")]
    NotTaken(#[from] RequestFailed),
}

fn and_who(leader: Option<NodeId>) -> String {
    leader.map_or_else(
        || ", and knows nobody who does".to_owned(),
        |leader| format!(": node {leader} does"),
    )
}

impl Replica {
    /// Hands the leadership to `to`, or to the follower that is furthest; returns who leads then. The group
    /// serves again when that one's PostgreSQL is promoted.
    ///
    /// # Errors
    /// Where this replica does not lead, or nobody can take over. Only after [`SwitchoverError::NotTaken`] may
    /// the leadership have changed all the same.
    pub async fn switchover(&self, to: Option<NodeId>) -> Result<NodeId, SwitchoverError> {
        let (node, group) = (self.shared.node, self.shared.group);
        let Ok(_one) = self.shared.switching.try_lock() else {
            return Err(SwitchoverError::UnderWay(group));
        };
        let Part::Leader { term, .. } = *self.shared.observed.part.borrow() else {
            return Err(SwitchoverError::NotLeader {
                node,
                group,
                leader: self.leader(),
            });
        };
        let candidates = match to {
            Some(to) if to == node => return Err(SwitchoverError::LeadsAlready(node, group)),
            Some(to) => {
                let others = self.shared.raft.others_by_progress();
                if !others.contains(&to) {
                    return Err(SwitchoverError::NoReplica(to, group));
                }
                vec![to]
            }
            None => self.shared.raft.others_by_progress(),
        };
        let mut reasons = Vec::new();
        for candidate in candidates {
            match self.asks(candidate).await {
                Ok(()) => {
                    tracing::info!(%group, %term, to = %candidate, "the operator hands the leadership over");
                    // A crash from here on is a failover: the others elect a leader without this one.
                    self.shared.raft.transfer_to(candidate).await?;
                    return self.leader().ok_or(RequestFailed::Timeout.into());
                }
                Err(reason) => reasons.push(format!("node {candidate} {reason}")),
            }
        }
        Err(SwitchoverError::NobodyReady { group, reasons })
    }

    /// Asks a node whether its replica can lead soon; the error says why not.
    async fn asks(&self, candidate: NodeId) -> Result<(), String> {
        let question = Question::Status.encode();
        let answer = self.shared.transport.call(candidate, question, PATIENCE).await;
        let answer = answer.map_err(|error| format!("does not answer ({error})"))?;
        match Answer::decode(&answer) {
            Ok(Answer::Status(status)) => can_lead(&status, self.shared.group, self.status().committed_lsn),
            _ => Err("does not say how it is".to_owned()),
        }
    }
}

/// Whether the node's replica of the group can lead soon, the group's WAL being committed up to `committed`.
fn can_lead(node: &NodeStatus, group: GroupId, committed: Lsn) -> Result<(), String> {
    let found = node.replicas.iter().find(|replica| replica.group == group);
    let replica: &ReplicaStatus = found.ok_or("holds no replica of it")?;
    let behind = committed.since(replica.replayed_lsn);
    match replica.role {
        Role::Follower if replica.state != "following" => Err(format!("is still {}", replica.state)),
        Role::Follower if behind > CAUGHT_UP => Err(format!("is {behind} bytes behind")),
        Role::Follower => Ok(()),
        other => Err(format!("is no follower but a {other:?}").to_lowercase()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::Term;

    fn node(role: Role, state: &str, replayed: u64) -> NodeStatus {
        NodeStatus {
            node: NodeId(2),
            pid: 1,
            replicas: vec![ReplicaStatus {
                group: GroupId(1),
                role,
                state: state.to_owned(),
                leader: Some(NodeId(1)),
                term: Term(3),
                commit_index: None,
                timeline: None,
                committed_lsn: Lsn(replayed),
                replayed_lsn: Lsn(replayed),
                postgres_pid: Some(1),
            }],
        }
    }

    #[test]
    fn only_a_follower_whose_postgres_is_near_the_end_can_take_over() {
        let committed = Lsn(100 * SEGMENT_SIZE);
        let asked = |node: &NodeStatus, group| can_lead(node, GroupId(group), committed);
        let good = node(Role::Follower, "following", committed.0 - 5);
        assert_eq!(asked(&good, 1), Ok(()));
        assert_eq!(asked(&good, 2), Err("holds no replica of it".to_owned()));
        let rebuilt = node(Role::Follower, "rebuilding", committed.0);
        assert_eq!(asked(&rebuilt, 1), Err("is still rebuilding".to_owned()));
        let behind = node(Role::Follower, "following", 98 * SEGMENT_SIZE);
        assert_eq!(asked(&behind, 1), Err("is 33554432 bytes behind".to_owned()));
        let learner = node(Role::Learner, "following", committed.0);
        assert_eq!(asked(&learner, 1), Err("is no follower but a learner".to_owned()));
    }
}
