//! One replica of a group: its part in Raft, its PostgreSQL, and what it does next.

mod answering;
mod driver;
mod lead;
mod life;
mod observe;
mod readmission;
mod source;
mod switchover;
mod turns;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

pub use life::{Facts, Feed, Life, Part, Server, Step, decide};
pub use switchover::SwitchoverError;

use self::driver::Driver;
use self::observe::{LogSource, Observed};
use crate::client::Settle;
use crate::config::Config;
use crate::gate::{Gate, Lease};
use crate::id::{GroupId, NodeId};
use crate::log::GroupLog;
use crate::lost_log;
use crate::postgres::{self, Identity, Installation};
use crate::raft::{ProposeError, RaftGroup, RequestFailed, StartError};
use crate::status::{ReplicaStatus, Role};
use crate::transport::{StreamError, Transport};
use crate::wal::{self, Lsn, StandbyStatus, TimelineId};

/// How often old log is looked for.
const PURGE_EVERY: Duration = Duration::from_secs(1);

/// How long the other members leave the beginning of a new group's log to the first.
const OTHERS_BEGIN: Duration = Duration::from_secs(5);

/// Why a replica cannot start, or why a step of its life failed.
#[derive(Debug, thiserror::Error)]
pub enum ReplicaError {
    /// PostgreSQL, its directory or its tools.
    #[error(transparent)]
    Postgres(#[from] postgres::Error),
    /// The folder of the replica's Raft files.
    #[error("cannot make the folder of the replica's Raft files")]
    RaftDir(#[source] std::io::Error),
    /// Raft could not start.
    #[error(transparent)]
    Raft(#[from] StartError),
    /// Raft did not do what it was asked.
    #[error(transparent)]
    Request(#[from] RequestFailed),
    /// The log did not take an entry.
    #[error("the log did not take an entry")]
    Propose(#[from] ProposeError),
    /// The stream of WAL from the own primary.
    #[error("the WAL stream from PostgreSQL failed")]
    Receiver(#[from] wal::ReceiverError),
    /// The own primary's timeline history.
    #[error(transparent)]
    TimelineFile(#[from] wal::HistoryFileError),
    /// The leader's node gives no connection.
    #[error("the leader gives no connection")]
    Source(#[from] StreamError),
    /// A private socket.
    #[error("a private socket failed")]
    Socket(#[source] std::io::Error),
    /// Commits of the own primary do not wait for this node: the gate stays closed.
    #[error("commits do not wait for replication yet")]
    NotSynchronous,
    /// It leads, but cannot serve: nothing can commit, and nothing may be answered.
    #[error("no majority of the group's replicas answers")]
    NoMajority,
    /// It leads, but its PostgreSQL hangs.
    #[error("PostgreSQL lives, but has given no answer for {patience:?}")]
    Silent {
        /// How long it was waited for.
        patience: Duration,
    },
    /// Somebody promoted or moved the own primary behind this node's back.
    #[error("PostgreSQL went on to timeline {timeline} at {at} by itself")]
    ForeignPromotion {
        /// The timeline.
        timeline: TimelineId,
        /// Where it starts.
        at: Lsn,
    },
    /// The server that a step needs is not running any more.
    #[error("PostgreSQL is not running")]
    ServerGone,
    /// A step that needs the group's system came before its birth.
    #[error("the group has no database system yet")]
    NotBorn,
    /// This replica cannot serve, and no other took the leadership from it.
    #[error("no other replica takes the leadership")]
    NobodyElse,
    /// Raft has ended.
    #[error("Raft has stopped")]
    RaftGone,
}

/// What a replica's tasks share.
struct Shared {
    node: NodeId,
    group: GroupId,
    /// How many replicas the group has.
    replicas: usize,
    raft: RaftGroup,
    observed: Observed,
    gate: Gate,
    settle: Option<Arc<dyn Settle>>,
    transport: Transport,
    state: watch::Sender<State>,
    feed: watch::Sender<StandbyStatus>,
    /// Held by the one switchover that is under way.
    switching: tokio::sync::Mutex<()>,
}

#[derive(Clone, Copy, Debug)]
struct State {
    name: &'static str,
    postgres_pid: Option<u32>,
}

impl Shared {
    fn publish_state(&self, name: &'static str, postgres_pid: Option<u32>) {
        self.state.send_replace(State { name, postgres_pid });
    }

    /// The directory was replaced: what was known of the old standby does not hold for the new.
    fn feed_again(&self) {
        self.feed.send_replace(StandbyStatus::default());
    }
}

struct RaftLease(RaftGroup);

impl Lease for RaftLease {
    fn holds(&self) -> bool {
        self.0.holds_lease()
    }
}

/// A handle on a running replica.
#[derive(Clone)]
pub struct Replica {
    shared: Arc<Shared>,
    stop: CancellationToken,
    tasks: Arc<Mutex<Vec<JoinHandle<()>>>>,
}

impl fmt::Debug for Replica {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Replica")
            .field("group", &self.shared.group)
            .finish_non_exhaustive()
    }
}

impl Replica {
    /// Takes the replica's directory and starts its part in Raft, its feed and its driver.
    pub async fn start(
        config: &Config,
        group: GroupId,
        log: GroupLog,
        transport: Transport,
        installation: &Installation,
        settle: Option<Arc<dyn Settle>>,
    ) -> Result<Replica, ReplicaError> {
        let dir = config.data_dir.join(format!("group-{group}"));
        let identity = Identity {
            cluster: config.cluster.clone(),
            node: config.node,
            group,
        };
        let server = postgres::Server::open(&dir, identity, installation.clone(), &config.postgres).await?;
        let raft_dir = lost_log::raft_dir(config, group);
        std::fs::create_dir_all(&raft_dir)
            .and_then(|()| std::fs::File::open(&dir)?.sync_all())
            .map_err(ReplicaError::RaftDir)?;
        let raft = RaftGroup::start(config, group, log, &raft_dir, transport.clone()).await?;
        if raft.is_lost() {
            tracing::warn!(%group, "this replica has lost its log: it is silent until its group has readmitted it, and then rebuilt");
            // What the directory has in common with the log is not known any more. A crash before or after this:
            // the replica is silent still, and the next start comes here again.
            server.write_life(&Life::Empty)?;
        }
        let gate = Gate::new(Arc::new(RaftLease(raft.clone())));
        let (state, _) = watch::channel(State {
            name: "starting",
            postgres_pid: None,
        });
        let (feed, feed_status) = watch::channel(StandbyStatus::default());
        let stop = CancellationToken::new();
        let observed = Observed::start(&raft, stop.clone());
        let shared = Arc::new(Shared {
            node: config.node,
            group,
            replicas: config.groups.get(&group).map_or(1, Vec::len),
            raft,
            observed,
            gate,
            settle,
            transport,
            state,
            feed,
            switching: tokio::sync::Mutex::new(()),
        });

        let endpoint = server.feed_endpoint();
        let listener = wal::listen(&endpoint.dir, endpoint.port).map_err(ReplicaError::Socket)?;
        server.hand_over(&endpoint.socket_path())?;
        let source = LogSource::new(shared.raft.wal(), shared.observed.history.clone());
        let sender = wal::Sender::new(source, &installation.version.to_string(), shared.feed.clone());
        let feeding = tokio::spawn(listener.run(sender, stop.clone()));
        let driver = Driver::open(shared.clone(), server, feed_status).await?;
        let driving = tokio::spawn(driver.run(stop.clone()));
        let purging = tokio::spawn(purge(shared.clone(), config.log.clone(), stop.clone()));
        let members = config.groups.get(&group).cloned().unwrap_or_default();
        let beginning = tokio::spawn(begin(shared.clone(), members.clone(), stop.clone()));
        let coming_back = tokio::spawn(readmission::come_back(
            shared.clone(),
            members.clone(),
            stop.clone(),
        ));
        let tending = tokio::spawn(readmission::tend(shared.clone(), members, stop.clone()));
        let tasks = vec![driving, feeding, purging, beginning, coming_back, tending];
        let tasks = Arc::new(Mutex::new(tasks));
        Ok(Replica { shared, stop, tasks })
    }

    /// What stands in front of this replica's PostgreSQL.
    #[must_use]
    pub fn gate(&self) -> &Gate {
        &self.shared.gate
    }

    /// Whether this replica leads its group in Raft, its gate open or not.
    #[must_use]
    pub fn leads(&self) -> bool {
        matches!(*self.shared.observed.part.borrow(), Part::Leader { .. })
    }

    /// The leader that this replica knows of.
    #[must_use]
    pub fn leader(&self) -> Option<NodeId> {
        match *self.shared.observed.part.borrow() {
            Part::Leader { .. } => Some(self.shared.node),
            Part::Follower { leader } => leader,
            Part::Dead => None,
        }
    }

    /// Returns when this replica knows that a node other than `node` leads.
    pub(crate) fn replaced(&self, node: NodeId) -> BoxFuture<'static, ()> {
        let mut part = self.shared.observed.part.clone();
        let me = self.shared.node;
        async move {
            // What is known here may be older than the connection: first it must name that node.
            let named = |part: &Part| match *part {
                Part::Leader { .. } => me == node,
                Part::Follower { leader } => leader == Some(node),
                Part::Dead => false,
            };
            if part.wait_for(named).await.is_err() {
                std::future::pending::<()>().await;
            }
            let other = |part: &Part| match *part {
                Part::Leader { .. } => me != node,
                Part::Follower { leader } => leader.is_some_and(|leader| leader != node),
                Part::Dead => false,
            };
            if part.wait_for(other).await.is_err() {
                std::future::pending::<()>().await;
            }
        }
        .boxed()
    }

    /// As the leader, takes `node`, whose replica has lost its log, out of the group; see [`RaftGroup::readmit`].
    pub(crate) async fn readmit(&self, node: NodeId) -> Result<(), RequestFailed> {
        if node == self.shared.node || !self.leads() {
            return Err(RequestFailed::NotLeader);
        }
        self.shared.raft.readmit(node).await?;
        tracing::warn!(group = %self.shared.group, %node, "a replica has lost its log: it is out of the group, to be rebuilt");
        Ok(())
    }

    /// What it is doing.
    #[must_use]
    pub fn status(&self) -> ReplicaStatus {
        let state = *self.shared.state.borrow();
        let history = self.shared.observed.history.borrow().clone();
        let feed = *self.shared.feed.borrow();
        let raft = self.shared.raft.status();
        ReplicaStatus {
            group: self.shared.group,
            role: raft.role,
            state: match state.name {
                "leading" if !self.shared.gate.admits_clients() => "opening".to_owned(),
                _ if self.shared.raft.is_lost() => "its log is lost".to_owned(),
                name => name.to_owned(),
            },
            leader: self.leader(),
            term: raft.term,
            commit_index: raft.committed,
            timeline: history.timeline(),
            committed_lsn: history.end(),
            replayed_lsn: if raft.role == Role::Leader {
                history.end()
            } else {
                feed.replayed
            },
            postgres_pid: state.postgres_pid,
        }
    }

    /// Stops it cleanly: the gate closes, PostgreSQL stops, Raft stops.
    pub async fn shutdown(&self) {
        self.stop.cancel();
        let tasks = std::mem::take(&mut *self.tasks.lock());
        for task in tasks {
            if let Err(error) = task.await {
                tracing::error!(group = %self.shared.group, %error, "a task of the replica failed");
            }
        }
        self.shared.raft.shutdown().await;
    }
}

/// Removes log that neither the own standby nor, within bounds, another replica needs.
///
/// The own standby asks from the start of the segment in which it stands (hazard 1 of the design),
/// so what is kept begins at least one whole segment before its flushed position.
async fn purge(shared: Arc<Shared>, bounds: crate::config::LogConfig, stop: CancellationToken) {
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(PURGE_EVERY) => {}
        }
        let end = shared.observed.history.borrow().end();
        let state = *shared.state.borrow();
        let feed = *shared.feed.borrow();
        let own = match state.name {
            "leading" => end,
            "following" => feed.flushed,
            // Being rebuilt, promoted or stopped: what its server will ask for is not known.
            _ => Lsn(0),
        };
        let kept = end.since(shared.raft.wal().first());
        if own == Lsn(0) && kept <= bounds.max_bytes.saturating_mul(4) {
            continue;
        }
        let in_step = shared.raft.in_step();
        if !in_step && kept <= bounds.max_bytes {
            continue;
        }
        // One that is further behind than the log may grow is rebuilt by base backup.
        let own = if kept > bounds.max_bytes { end } else { own };
        let wanted = own.segment_start() - wal::SEGMENT_SIZE;
        let target = wanted.min(end - bounds.keep_bytes);
        if let Err(error) = shared.raft.purge_to(target).await {
            tracing::info!(group = %shared.group, %error, "the log was not shortened this time");
        }
    }
}

/// Begins the group's log, once in its life. The members begin it alike; one of them goes first, so
/// that the groups' first leaders are spread over the nodes.
async fn begin(shared: Arc<Shared>, members: Vec<NodeId>, stop: CancellationToken) {
    let turn = usize::try_from(shared.group.0.saturating_sub(1)).unwrap_or(0);
    let first = members.get(turn % members.len().max(1));
    let wait = if first == Some(&shared.node) {
        Duration::ZERO
    } else {
        OTHERS_BEGIN
    };
    tokio::select! {
        () = stop.cancelled() => return,
        () = tokio::time::sleep(wait) => {}
    }
    if let Err(error) = shared.raft.initialize(&members).await {
        tracing::warn!(group = %shared.group, %error, "the group's log could not be begun");
    }
}
