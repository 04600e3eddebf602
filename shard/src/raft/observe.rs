//! What a replica tells of itself.

use std::collections::BTreeMap;
use std::sync::Arc;

use openraft::async_runtime::watch::WatchReceiver;
use openraft::{Raft, ServerState};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::lease::Lease;
use super::machine::Machine;
use super::types::TypeConfig;
use super::{Committed, Fatal, voters};
use crate::id::{GroupId, LogIndex, NodeId, Term};
use crate::status::Role;
use crate::transport::Transport;

/// A replica's view of who leads its group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Leadership {
    /// The Raft term.
    pub term: Term,
    /// What this replica is.
    pub role: Role,
    /// The leader of the term, where it is known.
    pub leader: Option<NodeId>,
    /// This replica leads, and has applied an entry of its own term: with it everything that any
    /// leader before it has committed.
    pub ready: bool,
}

/// Figures of a replica.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RaftStatus {
    /// The Raft term.
    pub term: Term,
    /// What the replica is.
    pub role: Role,
    /// The leader, where it is known.
    pub leader: Option<NodeId>,
    /// The last entry that is known to be committed.
    pub committed: Option<LogIndex>,
    /// The last entry that is applied.
    pub applied: Option<LogIndex>,
    /// The last entry in the log.
    pub last: Option<LogIndex>,
    /// Up to where the log is purged.
    pub purged: Option<LogIndex>,
    /// On the leader: how far each replica's log is known to agree; none where nothing is known yet.
    pub matched: BTreeMap<NodeId, Option<LogIndex>>,
}

pub(crate) fn status(raft: &Raft<TypeConfig, Machine>) -> RaftStatus {
    let metrics = raft.metrics();
    let metrics = metrics.borrow_watched();
    let index = |id: super::types::LogId| LogIndex(id.index);
    let matched = metrics.replication.iter().flatten();
    RaftStatus {
        term: Term(metrics.current_term),
        role: role(metrics.state),
        leader: metrics.current_leader,
        committed: metrics.cluster_committed.max(metrics.local_committed).map(index),
        applied: metrics.last_applied.map(index),
        last: metrics.last_log_index.map(LogIndex),
        purged: metrics.purged.map(index),
        matched: matched.map(|(node, id)| (*node, id.map(index))).collect(),
    }
}

fn role(state: ServerState) -> Role {
    match state {
        ServerState::Leader => Role::Leader,
        ServerState::Candidate => Role::Candidate,
        ServerState::Learner => Role::Learner,
        ServerState::Follower | ServerState::Shutdown => Role::Follower,
    }
}

/// Follows openraft's own reports.
pub(crate) struct Observer {
    pub(crate) group: GroupId,
    pub(crate) node: NodeId,
    pub(crate) raft: Raft<TypeConfig, Machine>,
    pub(crate) transport: Transport,
    pub(crate) lease: Arc<Lease>,
    pub(crate) committed: watch::Receiver<Committed>,
}

impl Observer {
    /// Watches until `stop`, and lets the replica ask for votes from `quiet_until` on.
    pub(crate) fn start(
        mut self,
        quiet_until: Instant,
        stop: CancellationToken,
    ) -> (watch::Receiver<Leadership>, watch::Receiver<Option<Fatal>>) {
        let (leadership, watch_leadership) = watch::channel(self.leadership());
        let (fatal, watch_fatal) = watch::channel(None);
        let raft = self.raft.clone();
        let quiet = stop.clone();
        tokio::spawn(async move {
            tokio::select! {
                () = tokio::time::sleep_until(quiet_until) => raft.runtime_config().elect(true),
                () = quiet.cancelled() => {}
            }
        });
        tokio::spawn(async move {
            tokio::select! {
                // A replica that is shut down stops too, but has not failed.
                biased;
                () = stop.cancelled() => self.lease.revoke(Term(u64::MAX)),
                reason = self.watch(leadership) => {
                    tracing::error!(group = %self.group, %reason, "the Raft replica stopped");
                    self.lease.revoke(Term(u64::MAX));
                    self.transport.unregister(self.group);
                    fatal.send_replace(Some(Fatal { group: self.group, reason }));
                }
            }
        });
        (watch_leadership, watch_fatal)
    }

    /// Publishes every change until Raft stops, and then says why.
    async fn watch(&mut self, leadership: watch::Sender<Leadership>) -> String {
        let mut server = self.raft.server_metrics();
        loop {
            let now = self.leadership();
            leadership.send_if_modified(|last| std::mem::replace(last, now) != now);
            let waits_for_entry = now.role == Role::Leader && !now.ready;
            tokio::select! {
                changed = server.changed() => if changed.is_err() {
                    break;
                },
                changed = self.committed.changed(), if waits_for_entry => if changed.is_err() {
                    break;
                },
            }
        }
        let metrics = self.raft.metrics();
        let state = metrics.borrow_watched().running_state.clone();
        state
            .err()
            .map_or_else(|| "for no known reason".to_owned(), |error| error.to_string())
    }

    fn leadership(&self) -> Leadership {
        let server = self.raft.server_metrics();
        let server = server.borrow_watched();
        let term = Term(server.vote.leader_id.term);
        let leads = server.state == ServerState::Leader && server.vote.committed;
        let leads = leads && server.vote.leader_id.voted_for == self.node;
        self.lease
            .observe(voters(&server.membership_config), leads.then_some(term));
        Leadership {
            term,
            role: role(server.state),
            leader: server.current_leader,
            ready: leads && self.committed.borrow().term == term,
        }
    }
}
