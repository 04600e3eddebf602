//! Who belongs to the group: changed only for a replica that has lost its log.
//!
//! ```text
//!  {A,B,C}  --readmit(B)-->  {A,C}  --tend-->  {A,C} + learner B  --tend, B has caught up-->  {A,B,C}
//! ```
//!
//! Each arrow between sets of voters is a joint change. Whoever leads carries on from wherever a leader
//! before it stopped: what is to be done next is read off the membership.

use std::collections::{BTreeMap, BTreeSet};

use openraft::async_runtime::watch::WatchReceiver;
use openraft::error::{ClientWriteError, RaftError};
use openraft::{ChangeMembers, EmptyNode};

use super::types::StoredMembership;
use super::{BEHIND, RaftGroup, RequestFailed};
use crate::id::{LogIndex, NodeId};

/// The next thing to do about a group's membership.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// Finish a change that an earlier leader began.
    Finish,
    /// Take members in that have no part in the group: they get the log, and have no vote.
    TakeIn(BTreeSet<NodeId>),
    /// Give members that have caught up a vote.
    Promote(BTreeSet<NodeId>),
}

/// What is to be done so that all of `members` are voters; none where they are, or must catch up first.
pub(super) fn next_change(
    members: &[NodeId],
    voters: &[BTreeSet<NodeId>],
    nodes: &BTreeSet<NodeId>,
    has_caught_up: impl Fn(NodeId) -> bool,
) -> Option<Change> {
    let [voters] = voters else {
        return Some(Change::Finish);
    };
    let lacking = |set: &BTreeSet<NodeId>| -> BTreeSet<NodeId> {
        let lacking = members.iter().copied().filter(|member| !set.contains(member));
        lacking.collect()
    };
    let strangers = lacking(nodes);
    if !strangers.is_empty() {
        return Some(Change::TakeIn(strangers));
    }
    let ready: BTreeSet<NodeId> = lacking(voters)
        .into_iter()
        .filter(|node| has_caught_up(*node))
        .collect();
    (!ready.is_empty()).then_some(Change::Promote(ready))
}

impl RaftGroup {
    /// Takes `node`, whose replica says that it has lost its log, out of the group; on return that is committed. It comes
    /// in again by [`RaftGroup::tend`], as a replica of which nothing is known: openraft's progress of a node lives
    /// as long as the node is in the membership, and answers to messages sent before belong to no stream after.
    ///
    /// A crash, or the end of this leadership, on the way leaves the node a voter, or half out, or out.
    /// Whoever leads next finishes what has begun ([`RaftGroup::tend`]), and the node asks again.
    pub async fn readmit(&self, node: NodeId) -> Result<(), RequestFailed> {
        let _one_at_a_time = self.changing.lock().await;
        let (voters, nodes) = self.members_now();
        if voters.iter().any(|set| set.contains(&node)) {
            self.change(ChangeMembers::RemoveVoters([node].into())).await
        } else if nodes.contains(&node) {
            self.change(ChangeMembers::RemoveNodes([node].into())).await
        } else {
            // It may be out only in this leader's log: it is out for all when an entry behind that is committed.
            self.barrier().await.map_err(|_| RequestFailed::NotLeader)
        }
    }

    /// Does the next thing, if this replica leads, towards all of `members` being voters.
    pub async fn tend(&self, members: &[NodeId]) -> Result<(), RequestFailed> {
        if !self.leadership.borrow().ready {
            return Ok(());
        }
        let _one_at_a_time = self.changing.lock().await;
        let (voters, nodes) = self.members_now();
        let status = self.status();
        let last = status.last.map_or(0, |index| index.0);
        let has_caught_up = |node: NodeId| {
            let matched: Option<LogIndex> = status.matched.get(&node).copied().flatten();
            matched.is_some_and(|index| index.0 + BEHIND >= last)
        };
        let Some(change) = next_change(members, &voters, &nodes, has_caught_up) else {
            return Ok(());
        };
        tracing::info!(group = %self.group, ?change, "changing the group's membership");
        self.change(match change {
            Change::Finish => ChangeMembers::AddVoterIds(BTreeSet::new()),
            Change::Promote(nodes) => ChangeMembers::AddVoterIds(nodes),
            Change::TakeIn(nodes) => ChangeMembers::AddNodes(
                nodes
                    .into_iter()
                    .map(|node| (node, EmptyNode::new()))
                    .collect::<BTreeMap<_, _>>(),
            ),
        })
        .await
    }

    /// The sets of voters (two while they change), and all nodes, by this replica's log.
    fn members_now(&self) -> (Vec<BTreeSet<NodeId>>, BTreeSet<NodeId>) {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        let membership: &StoredMembership = &metrics.membership_config;
        let nodes = membership.nodes().map(|(node, _)| *node).collect();
        (super::voters(membership), nodes)
    }

    /// Changes the membership; whoever is no voter any more then is out altogether.
    async fn change(&self, change: ChangeMembers<NodeId, EmptyNode>) -> Result<(), RequestFailed> {
        match self.raft.change_membership(change, false).await {
            Ok(_) => Ok(()),
            Err(RaftError::APIError(ClientWriteError::ForwardToLeader(_))) => Err(RequestFailed::NotLeader),
            Err(RaftError::APIError(error)) => Err(RequestFailed::Refused(error.to_string())),
            Err(RaftError::Fatal(error)) => Err(self.stopped(&error)),
        }
    }

    /// The voters, of both sets while they change.
    pub(super) fn all_voters(&self) -> BTreeSet<NodeId> {
        self.members_now().0.into_iter().flatten().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(nodes: &[u64]) -> BTreeSet<NodeId> {
        nodes.iter().copied().map(NodeId).collect()
    }

    fn next(voters: &[&[u64]], nodes: &[u64], caught_up: &[u64]) -> Option<Change> {
        let members = [1, 2, 3].map(NodeId);
        let voters: Vec<_> = voters.iter().map(|voters| set(voters)).collect();
        next_change(&members, &voters, &set(nodes), |node| {
            set(caught_up).contains(&node)
        })
    }

    #[test]
    fn a_member_that_was_taken_out_becomes_learner_and_then_voter() {
        assert_eq!(next(&[&[1, 3]], &[1, 3], &[2]), Some(Change::TakeIn(set(&[2]))));
        assert_eq!(next(&[&[1, 3]], &[1, 2, 3], &[]), None, "it must catch up");
        assert_eq!(
            next(&[&[1, 3]], &[1, 2, 3], &[2]),
            Some(Change::Promote(set(&[2])))
        );
        assert_eq!(next(&[&[1, 2, 3]], &[1, 2, 3], &[]), None);
    }

    #[test]
    fn a_change_that_was_left_is_finished_before_anything_else() {
        assert_eq!(
            next(&[&[1, 2, 3], &[1, 3]], &[1, 2, 3], &[2]),
            Some(Change::Finish)
        );
        // A replica that knows no membership knows nobody to change.
        assert_eq!(next(&[], &[], &[]), Some(Change::Finish));
    }
}
