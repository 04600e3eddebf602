//! A group's Raft replica: the group's log is agreed on here, by openraft.
//!
//! ```text
//!  propose ──> openraft ──> storage (the node's log on disk)
//!                 │  ^
//!        network  v  │  endpoint          both over crate::transport
//!              other replicas
//!                 │ committed
//!                 v
//!              machine: WalHistory ──> Committed (watch), WalIndex ──> WalReader
//! ```
//!
//! - `types`, `codec`: what an entry is, and its bytes.
//! - `storage`, `network`, `endpoint`: openraft's disk and its two directions of traffic.
//! - `machine`, `index`, `snapshot`: what is committed, where it is, and what remains after a purge.
//! - `membership`, `memory`: who has a vote; a replica that has lost its log, and how it comes back.
//! - `lease`: whether this replica may be sure to be the only leader.
//!
//! **Times.** Of `Timing::election` E, a follower keeps 7/10 E as the lease in which it votes for
//! nobody, and then waits another 3/10 to 7/10 E at random before it asks for votes itself. So an
//! election begins between E and 1.4 E after the leader's last sign of life.
//!
//! **Snapshots.** A snapshot is a [`WalHistory`] at a log position where the WAL stands at a
//! segment's start. It may be far behind what is applied. The log is purged exactly up to the
//! snapshot, after the snapshot is on disk, so at every start the log continues the snapshot.

mod codec;
mod endpoint;
mod error;
#[cfg(any(test, feature = "fuzz"))]
pub(crate) mod fuzz;
mod index;
mod lease;
mod machine;
mod membership;
mod memory;
mod network;
mod observe;
mod snapshot;
mod storage;
#[cfg(test)]
mod tests;
mod types;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use openraft::error::{ClientWriteError, InitializeError, RaftError};
use openraft::impls::ProgressResponder;
use openraft::raft::ClientWriteResult;
use openraft::{EmptyNode, Raft, SnapshotPolicy};
use tokio::sync::{oneshot, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

pub use self::error::{Fatal, ProposeError, RequestFailed, StartError};
pub use self::index::{WalRead, WalReadError, WalReader};
pub use self::memory::Memory;
pub use self::observe::{Leadership, RaftStatus};

use self::endpoint::Endpoint;
use self::index::WalIndex;
use self::lease::Lease;
use self::machine::{Candidates, Machine};
use self::memory::Recollection;
use self::network::Networks;
use self::snapshot::SnapshotSlot;
use self::storage::LogStore;
use self::types::{Outcome, TypeConfig};
use crate::config::{Config, Timing};
use crate::entry::Command;
use crate::id::{GroupId, LogIndex, NodeId, Term};
use crate::log::GroupLog;
use crate::transport::Transport;
use crate::wal::{Applied, Lsn, WalHistory};

/// How long a purge or a transfer may take.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// How many entries a replica may lack that counts as being in step.
const BEHIND: u64 = 4096;

/// What is committed, as far as this replica has applied it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Committed {
    /// The WAL that the log carries up to there.
    pub history: Arc<WalHistory>,
    /// The last applied entry; none before the first.
    pub index: Option<LogIndex>,
    /// That entry's term.
    pub term: Term,
}

/// One replica of a group. Cheap to clone; the replica runs until [`RaftGroup::shutdown`].
#[derive(Clone, Debug)]
pub struct RaftGroup {
    group: GroupId,
    node: NodeId,
    raft: Raft<TypeConfig, Machine>,
    transport: Transport,
    lease: Arc<Lease>,
    candidates: Arc<Candidates>,
    reader: WalReader,
    committed: watch::Receiver<Committed>,
    leadership: watch::Receiver<Leadership>,
    fatal: watch::Receiver<Option<Fatal>>,
    election: Duration,
    /// What it remembered when it was started.
    memory: Memory,
    recollection: Arc<Recollection>,
    /// Held while the membership is being changed.
    changing: Arc<tokio::sync::Mutex<()>>,
    stop: CancellationToken,
}

/// A proposal under way.
#[derive(Debug)]
pub struct Proposal {
    answer: oneshot::Receiver<ClientWriteResult<TypeConfig>>,
}

impl RaftGroup {
    /// Starts this node's replica of `group` on its log and the snapshot in `dir` (which exists).
    ///
    /// All that the log knows to be committed is applied when this returns. A replica with a past
    /// neither votes nor asks for votes for one lease after this. One that has lost its log answers
    /// nothing until [`RaftGroup::readmitted`].
    pub async fn start(
        config: &Config,
        group: GroupId,
        log: GroupLog,
        dir: &Path,
        transport: Transport,
    ) -> Result<RaftGroup, StartError> {
        let node = config.node;
        let members = config
            .groups
            .get(&group)
            .filter(|members| members.contains(&node));
        let members = members.ok_or(StartError::NotMember { group, node })?;
        let unreadable = |source| StartError::Snapshot { group, source };
        let memory = Memory::read(dir).map_err(|source| StartError::Memory { group, source })?;
        if memory == Memory::Lost {
            if log.vote().is_some() || log.last().is_some() {
                return Err(StartError::NotEmpty { group });
            }
            // A crash after it, or before: the replica is silent, and does this again at its next start.
            SnapshotSlot::remove(dir).map_err(unreadable)?;
        }
        let slot = SnapshotSlot::open(dir).map_err(unreadable)?;

        let settings = Arc::new(settings(&config.timing, group)?);
        let promise = Duration::from_millis(settings.election_timeout_max);
        let has_past = log.vote().is_some() || log.last().is_some() || memory != Memory::Whole;
        let has_past = members.len() > 1 && has_past;
        let quiet_until = Instant::now() + if has_past { promise } else { Duration::ZERO };

        let lease = Arc::new(Lease::new(node, promise));
        let index = Arc::new(WalIndex::default());
        let candidates = Arc::new(Candidates::default());
        let (sender, committed) = watch::channel(Committed::default());
        let machine = Machine::open(slot, Arc::clone(&index), Arc::clone(&candidates), sender);
        let store = LogStore::new(log.clone(), Arc::clone(&index));
        let networks = Networks {
            node,
            group,
            transport: transport.clone(),
            lease: Arc::clone(&lease),
        };
        let built = Raft::build(node, settings, networks, store, machine).await;
        let raft = built.map_err(|error| StartError::Recovery {
            group,
            reason: error.to_string(),
        })?;
        let recollection = Arc::new(Recollection::new(dir, memory));
        let endpoint = Endpoint::new(
            raft.clone(),
            Arc::clone(&lease),
            quiet_until,
            Arc::clone(&recollection),
        );
        transport.register(group, Arc::new(endpoint));
        raft.run();

        let stop = CancellationToken::new();
        let observer = observe::Observer {
            group,
            node,
            raft: raft.clone(),
            transport: transport.clone(),
            lease: Arc::clone(&lease),
            committed: committed.clone(),
        };
        let (leadership, fatal) = observer.start(quiet_until, stop.clone());
        Ok(RaftGroup {
            group,
            node,
            raft,
            transport,
            lease,
            candidates,
            reader: WalReader::new(log, index),
            committed,
            leadership,
            fatal,
            election: config.timing.election,
            memory,
            recollection,
            changing: Arc::default(),
            stop,
        })
    }

    /// The group.
    #[must_use]
    pub fn group(&self) -> GroupId {
        self.group
    }

    /// Proposes an entry. Proposals enter the log in the order of these calls, and many may be
    /// under way; waits only where the queue into Raft, which counts entries and not bytes, is
    /// full: the caller bounds the bytes that it has under way.
    pub async fn propose(&self, command: Command) -> Result<Proposal, ProposeError> {
        let (responder, answer) = ProgressResponder::complete_only();
        let sent = self.raft.client_write_ff(command, Some(responder)).await;
        sent.map_err(|_| ProposeError::Stopped)?;
        Ok(Proposal { answer })
    }

    /// Returns when everything that this replica proposed before is applied, or never will be.
    pub async fn barrier(&self) -> Result<(), ProposeError> {
        match self.raft.write_blank().await {
            Ok(_) => Ok(()),
            Err(RaftError::APIError(ClientWriteError::ForwardToLeader(forward))) => {
                Err(ProposeError::NotLeader {
                    leader: forward.leader_id,
                })
            }
            Err(RaftError::APIError(_)) => Err(ProposeError::Unknown),
            Err(RaftError::Fatal(_)) => Err(ProposeError::Stopped),
        }
    }

    /// The other voters, those first whose logs are known to agree furthest. Of equals the next
    /// after this one in the circle of nodes: if each hands on to its first, all have their turn.
    #[must_use]
    pub fn others_by_progress(&self) -> Vec<NodeId> {
        let voters = self.all_voters();
        let mut others: Vec<_> = self
            .status()
            .matched
            .into_iter()
            .filter(|(node, _)| *node != self.node && voters.contains(node))
            .collect();
        others.sort_by_key(|(node, matched)| (std::cmp::Reverse(*matched), *node < self.node, *node));
        others.into_iter().map(|(node, _)| node).collect()
    }

    /// Whether no other replica is known to need log that is older than what this one has applied
    /// a little while ago. A follower knows of nobody.
    #[must_use]
    pub fn in_step(&self) -> bool {
        let status = self.status();
        let applied = status.applied.map_or(0, |index| index.0);
        let near = |matched: &Option<LogIndex>| matched.is_some_and(|index| index.0 + BEHIND >= applied);
        status.matched.values().all(near)
    }

    /// Who leads, and what this replica is to the group.
    #[must_use]
    pub fn leadership(&self) -> watch::Receiver<Leadership> {
        self.leadership.clone()
    }

    /// What is committed. Published once for a run of entries; before the proposals in it are answered.
    #[must_use]
    pub fn committed(&self) -> watch::Receiver<Committed> {
        self.committed.clone()
    }

    /// Set once, when the replica has failed. It must then be stopped loudly.
    #[must_use]
    pub fn fatal(&self) -> watch::Receiver<Option<Fatal>> {
        self.fatal.clone()
    }

    /// Whether no other replica can be leader at this moment. Costs a clock and an atomic.
    ///
    /// True only on a leader. It does not say that all earlier entries are applied here: that is
    /// [`Leadership::ready`].
    #[must_use]
    pub fn holds_lease(&self) -> bool {
        self.lease.holds()
    }

    /// How long [`RaftGroup::holds_lease`] stays true at least; none where it is not.
    #[must_use]
    pub fn lease_remaining(&self) -> Option<Duration> {
        self.lease.remaining()
    }

    /// Reads committed WAL from the log.
    #[must_use]
    pub fn wal(&self) -> WalReader {
        self.reader.clone()
    }

    /// Lets go of log that holds only WAL before `lsn`: takes a snapshot at the last segment start
    /// at or before it, then purges. Gives the position from which the log still holds the WAL;
    /// none where nothing could be let go.
    ///
    /// On the leader a follower that is receiving these entries may put the purge itself off until
    /// it has them or fails.
    pub async fn purge_to(&self, lsn: Lsn) -> Result<Option<Lsn>, RequestFailed> {
        let Some(chosen) = self.candidates.choose(lsn) else {
            return Ok(None);
        };
        self.raft
            .trigger()
            .snapshot()
            .await
            .map_err(|error| self.stopped(&error))?;
        let taken = self.raft.wait(Some(REQUEST_TIMEOUT));
        let taken = taken.metrics(
            |metrics| metrics.snapshot >= Some(chosen.last),
            "the snapshot is taken",
        );
        taken.await.map_err(|_| RequestFailed::Timeout)?;
        let purged = self.raft.trigger().purge_log(chosen.last.index).await;
        purged.map_err(|error| self.stopped(&error))?;
        Ok(Some(chosen.history.end()))
    }

    /// Hands leadership over to `node`. Ends this replica's lease at once and for good.
    ///
    /// Returns when another leads, or after some election times; then this replica, if it still
    /// leads, sends no heartbeats any more, so that the others elect a leader.
    pub async fn transfer_to(&self, node: NodeId) -> Result<(), RequestFailed> {
        let Leadership { leader, term, .. } = *self.leadership.borrow();
        if leader != Some(self.node) {
            return Err(RequestFailed::NotLeader);
        }
        if node == self.node {
            return Ok(());
        }
        // Before anyone hears of the transfer: from then on voters do not keep their promise to us.
        self.lease.revoke(term);
        let asked = self.raft.trigger().transfer_leader(node).await;
        asked.map_err(|error| self.stopped(&error))?;
        if self.deposed(term, self.election * 2).await {
            return Ok(());
        }
        // Openraft takes no more proposals in this term and sends no more heartbeats, so the others
        // elect a leader.
        tracing::info!(group = %self.group, to = %node, "leadership was not taken over; giving it up");
        if self.deposed(term, REQUEST_TIMEOUT).await {
            Ok(())
        } else {
            Err(RequestFailed::Timeout)
        }
    }

    async fn deposed(&self, term: Term, patience: Duration) -> bool {
        let mut leadership = self.leadership.clone();
        let other = leadership.wait_for(|now| now.term > term && now.leader.is_some());
        matches!(tokio::time::timeout(patience, other).await, Ok(Ok(_)))
    }

    /// Whether the group's log has begun on this replica.
    pub async fn is_initialized(&self) -> Result<bool, RequestFailed> {
        self.raft
            .is_initialized()
            .await
            .map_err(|error| self.stopped(&error))
    }

    /// Whether this replica has lost its log, and no leader has readmitted it yet.
    #[must_use]
    pub fn is_lost(&self) -> bool {
        self.recollection.is_silent()
    }

    /// A leader has answered that this replica is out of the group ([`RaftGroup::readmit`], asked for since this
    /// replica started): from now on it takes part again. Blocks for the disk.
    pub fn readmitted(&self) -> std::io::Result<()> {
        self.recollection.readmit()
    }

    /// Begins the group's log. Every member may do so, with the same members, but one that has lost its own.
    /// Does nothing where the log has begun.
    pub async fn initialize(&self, members: &[NodeId]) -> Result<(), RequestFailed> {
        if self.memory != Memory::Whole {
            return Ok(());
        }
        let members: BTreeMap<NodeId, EmptyNode> =
            members.iter().map(|node| (*node, EmptyNode::new())).collect();
        match self.raft.initialize(members).await {
            Ok(()) | Err(RaftError::APIError(InitializeError::NotAllowed(_))) => Ok(()),
            Err(RaftError::APIError(error)) => Err(RequestFailed::Refused(error.to_string())),
            Err(RaftError::Fatal(error)) => Err(self.stopped(&error)),
        }
    }

    /// Figures for the operator and for decisions about purging.
    #[must_use]
    pub fn status(&self) -> RaftStatus {
        observe::status(&self.raft)
    }

    /// Stops the replica. Its log and its snapshot stay.
    pub async fn shutdown(&self) {
        self.stop.cancel();
        self.transport.unregister(self.group);
        if let Err(error) = self.raft.shutdown().await {
            tracing::warn!(group = %self.group, %error, "the replica did not stop in order");
        }
    }

    fn stopped(&self, error: &impl ToString) -> RequestFailed {
        RequestFailed::Stopped(Fatal {
            group: self.group,
            reason: error.to_string(),
        })
    }
}

impl Proposal {
    /// Waits until the entry is applied on this replica, or cannot be any more.
    pub async fn outcome(self) -> Result<Applied, ProposeError> {
        match self.answer.await {
            Ok(Ok(response)) => match response.data {
                Outcome::Applied { end, timeline } => Ok(Applied { end, timeline }),
                Outcome::Rejected(rejected) => Err(rejected.into()),
                Outcome::Nothing => Err(ProposeError::Unknown),
            },
            Ok(Err(ClientWriteError::ForwardToLeader(forward))) => Err(ProposeError::NotLeader {
                leader: forward.leader_id,
            }),
            Ok(Err(_)) => Err(ProposeError::Unknown),
            Err(_) => Err(ProposeError::Stopped),
        }
    }
}

/// openraft's settings for a group. See the module's text for the times.
fn settings(timing: &Timing, group: GroupId) -> Result<openraft::Config, StartError> {
    let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    let (heartbeat, election) = (millis(timing.heartbeat), millis(timing.election));
    let shortest = (election * 3 / 10).max(heartbeat + 1);
    let settings = openraft::Config {
        cluster_name: format!("group {group}"),
        heartbeat_interval: heartbeat,
        election_timeout_min: shortest,
        // Also the lease.
        election_timeout_max: (election * 7 / 10).max(shortest + 1),
        install_snapshot_timeout: 10_000,
        // An append is bounded by bytes: `storage::APPEND_BYTES`.
        max_payload_entries: 4096,
        snapshot_policy: SnapshotPolicy::Never,
        // Purging is the replica's decision alone: `RaftGroup::purge_to`.
        max_in_snapshot_log_to_keep: u64::MAX,
        // Elections begin when the quiet time after the start is over.
        enable_elect: false,
        enable_pre_vote: Some(true),
        // A leader that restarts has no lease, and others may have promised theirs to someone else.
        enable_leader_restore: Some(false),
        backoff: "50ms 100ms 200ms ...500ms".to_owned(),
        ..openraft::Config::default()
    };
    settings
        .validate()
        .map_err(|error| StartError::Timing(error.to_string()))
}

/// The voters of a membership; while it changes, both sets.
fn voters(membership: &types::StoredMembership) -> Vec<BTreeSet<NodeId>> {
    membership.get_joint_config().clone()
}
