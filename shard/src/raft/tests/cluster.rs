//! A cluster to break: nodes that can be killed, and a network that can be cut.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio::sync::watch;

use crate::config::{Config, LogConfig, PostgresConfig, Timing};
use crate::entry::{Command, Genesis, TimelineSwitch, WalChunk};
use crate::id::{GroupId, NodeId};
use crate::log::{LogOptions, NodeLog};
use crate::raft::{Proposal, RaftGroup};
use crate::transport::{Handlers, Refusal, StreamHandler, StreamPurpose, Transport};
use crate::wal::{Lsn, SEGMENT_SIZE, TimelineId, WalHistory};

pub(super) const GROUP: GroupId = GroupId(1);
pub(super) const START: Lsn = Lsn(SEGMENT_SIZE);
const PATIENCE: Duration = Duration::from_secs(30);

/// Lets the tests be told about warnings: `RUST_LOG=... cargo test`.
fn trace() {
    let filter = tracing_subscriber::EnvFilter::from_default_env();
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_test_writer()
        .try_init();
}

/// A way from one node to another that can be cut, as a network is: bytes wait, connections stay.
struct Relay {
    address: SocketAddr,
    open: watch::Sender<bool>,
}

impl Relay {
    async fn start(to: SocketAddr) -> Relay {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (open, gate) = watch::channel(true);
        tokio::spawn(async move {
            loop {
                let (inner, _) = listener.accept().await.unwrap();
                let Ok(outer) = TcpStream::connect(to).await else {
                    continue;
                };
                inner.set_nodelay(true).unwrap();
                outer.set_nodelay(true).unwrap();
                let (inner_read, inner_write) = inner.into_split();
                let (outer_read, outer_write) = outer.into_split();
                tokio::spawn(pump(inner_read, outer_write, gate.clone()));
                tokio::spawn(pump(outer_read, inner_write, gate.clone()));
            }
        });
        Relay { address, open }
    }
}

async fn pump(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut gate: watch::Receiver<bool>) {
    let mut buffer = vec![0; 64 << 10];
    while gate.wait_for(|open| *open).await.is_ok() {
        let Ok(length @ 1..) = from.read(&mut buffer).await else {
            return;
        };
        if gate.wait_for(|open| *open).await.is_err() || to.write_all(&buffer[..length]).await.is_err() {
            return;
        }
    }
}

struct NoStreams;

impl Handlers for NoStreams {
    fn stream(
        &self,
        _: GroupId,
        _: StreamPurpose,
        _: NodeId,
    ) -> BoxFuture<'_, Result<StreamHandler, Refusal>> {
        async { Err(Refusal::UnknownGroup) }.boxed()
    }

    fn call(&self, _: NodeId, body: Bytes) -> BoxFuture<'_, Bytes> {
        async { body }.boxed()
    }
}

struct Running {
    runtime: Option<Runtime>,
    log: NodeLog,
    replica: RaftGroup,
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

pub(super) struct Cluster {
    nodes: Vec<NodeId>,
    listening: BTreeMap<NodeId, SocketAddr>,
    relays: BTreeMap<(NodeId, NodeId), Relay>,
    running: BTreeMap<NodeId, Running>,
    folder: TempDir,
    pub(super) timing: Timing,
}

/// A loopback address that is nobody else's: no other socket can have a port there, also while
/// the node that listens on it is down.
fn own_ip() -> Ipv4Addr {
    static CLUSTERS: AtomicU8 = AtomicU8::new(1);
    let [_, _, high, low] = std::process::id().to_be_bytes();
    let cluster = CLUSTERS.fetch_add(1, Ordering::Relaxed);
    Ipv4Addr::new(127, 64 + high % 64, low, cluster)
}

impl Cluster {
    /// Starts nodes 1 to `size` with one group on all of them.
    pub(super) async fn start(size: u64) -> Cluster {
        trace();
        let nodes: Vec<NodeId> = (1..=size).map(NodeId).collect();
        let ip = own_ip();
        let port = |node: NodeId| 7431 + u16::try_from(node.0).expect("few nodes");
        let listening: BTreeMap<_, _> = nodes
            .iter()
            .map(|node| (*node, SocketAddr::from((ip, port(*node)))))
            .collect();
        let mut relays = BTreeMap::new();
        for from in &nodes {
            for to in nodes.iter().filter(|to| *to != from) {
                relays.insert((*from, *to), Relay::start(listening[to]).await);
            }
        }
        let mut cluster = Cluster {
            nodes: nodes.clone(),
            listening,
            relays,
            running: BTreeMap::new(),
            folder: tempfile::tempdir().unwrap(),
            timing: Timing::default(),
        };
        for node in &nodes {
            cluster.start_node(*node).await;
        }
        for node in &nodes {
            cluster.replica(*node).initialize(&nodes).await.unwrap();
        }
        cluster
    }

    fn config(&self, node: NodeId) -> Config {
        let address = |to: &NodeId| match self.relays.get(&(node, *to)) {
            Some(relay) => relay.address,
            None => self.listening[to],
        };
        Config {
            node,
            cluster: "test".into(),
            secret: "a secret of the test".into(),
            tls: None,
            data_dir: self.folder(node),
            nodes: self.nodes.iter().map(|to| (*to, address(to))).collect(),
            groups: [(GROUP, self.nodes.clone())].into(),
            postgres: PostgresConfig::default(),
            timing: self.timing.clone(),
            log: LogConfig::default(),
        }
    }

    pub(super) fn folder(&self, node: NodeId) -> PathBuf {
        self.folder.path().join(node.to_string())
    }

    pub(super) async fn start_node(&mut self, node: NodeId) {
        let config = self.config(node);
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let (log, replica) = runtime.spawn(start_replica(config)).await.unwrap();
        let runtime = Some(runtime);
        self.running.insert(
            node,
            Running {
                runtime,
                log,
                replica,
            },
        );
    }

    /// Ends a node without a word to anyone.
    pub(super) fn kill(&mut self, node: NodeId) {
        self.running.remove(&node).expect("only a running node is killed");
    }

    /// Makes every further write of a node fail.
    pub(super) fn close_log(&self, node: NodeId) {
        self.running[&node].log.close();
    }

    pub(super) fn replica(&self, node: NodeId) -> &RaftGroup {
        &self.running[&node].replica
    }

    pub(super) fn replicas(&self) -> impl Iterator<Item = (NodeId, &RaftGroup)> {
        self.running
            .iter()
            .map(|(node, running)| (*node, &running.replica))
    }

    /// Cuts a node off from all others, or joins it again.
    pub(super) fn connect(&self, node: NodeId, open: bool) {
        for ((from, to), relay) in &self.relays {
            if *from == node || *to == node {
                relay.open.send_replace(open);
            }
        }
    }

    /// Waits for a leader among the running nodes other than `except`, ready to propose.
    pub(super) async fn leader(&self, except: Option<NodeId>) -> NodeId {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let leads = |replica: &RaftGroup| replica.leadership().borrow().ready && replica.holds_lease();
            let others = self.replicas().filter(|(node, _)| Some(*node) != except);
            if let Some((node, _)) = others.into_iter().find(|(_, replica)| leads(replica)) {
                return node;
            }
            assert!(Instant::now() < deadline, "no leader");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Proposes the birth of the group and `count` chunks of `length` bytes, all under way at once.
    pub(super) async fn feed(&self, leader: NodeId, count: u64, length: usize) {
        let replica = self.replica(leader);
        let history = replica.committed().borrow().history.clone();
        let mut proposals: Vec<Proposal> = Vec::new();
        if history.system_id().is_none() {
            proposals.push(replica.propose(genesis(leader)).await.unwrap());
        }
        let mut position = history.end().max(START);
        let timeline = history.timeline().unwrap_or(TimelineId::FIRST);
        for _ in 0..count {
            let chunk = chunk(timeline, position, length);
            position = position + length as u64;
            proposals.push(replica.propose(Command::Wal(chunk)).await.unwrap());
        }
        for proposal in proposals {
            proposal.outcome().await.unwrap();
        }
    }

    /// Waits until every running replica has applied what `node` has.
    pub(super) async fn agree_with(&self, node: NodeId) -> Arc<WalHistory> {
        let expected = self.replica(node).committed().borrow().clone();
        for (other, replica) in self.replicas() {
            let mut committed = replica.committed();
            let caught_up = committed.wait_for(|now| now.index >= expected.index);
            let caught_up = tokio::time::timeout(PATIENCE, caught_up).await;
            let history = caught_up.expect("must catch up").unwrap().history.clone();
            assert_eq!(history, expected.history, "node {other}");
        }
        expected.history
    }
}

async fn start_replica(config: Config) -> (NodeLog, RaftGroup) {
    let folder = config.data_dir.join("group");
    std::fs::create_dir_all(&folder).unwrap();
    let deadline = Instant::now() + PATIENCE;
    let options = LogOptions {
        segment_bytes: 8 << 20,
        cache_bytes: 4 << 20,
    };
    // A killed node lets go of its log and its port when its last task has ended.
    let log = loop {
        match NodeLog::open(&config.data_dir.join("log"), options) {
            Ok(log) => break log,
            Err(error) => assert!(Instant::now() < deadline, "{error}"),
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    };
    let address = config.nodes[&config.node];
    let listener = loop {
        match TcpListener::bind(address).await {
            Ok(listener) => break listener,
            Err(error) => assert!(Instant::now() < deadline, "{error}"),
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    };
    let transport = Transport::serve(&config, listener, Arc::new(NoStreams));
    let started = RaftGroup::start(&config, GROUP, log.group(GROUP), &folder, transport);
    let replica = started.await.unwrap();
    (log, replica)
}

pub(super) fn genesis(origin: NodeId) -> Command {
    Command::Genesis(Genesis {
        system_id: "7412345678901234567".into(),
        start: START,
        origin,
    })
}

pub(super) fn switch(timeline: TimelineId, at: Lsn, after: Lsn, origin: NodeId) -> Command {
    Command::Switch(TimelineSwitch {
        timeline,
        at,
        after,
        origin,
        history: Bytes::from(format!("1\t{at}\tno recovery target specified\n")),
    })
}

/// A chunk whose bytes can be told from its timeline and position.
pub(super) fn chunk(timeline: TimelineId, start: Lsn, length: usize) -> WalChunk {
    let bytes = (start.0..)
        .take(length)
        .map(|position| wal_byte(timeline, Lsn(position)));
    WalChunk {
        timeline,
        start,
        bytes: bytes.collect::<Vec<u8>>().into(),
    }
}

pub(super) fn wal_byte(timeline: TimelineId, position: Lsn) -> u8 {
    let mixed = position
        .0
        .wrapping_mul(0x9E37_79B9_7F4A_7C15)
        .wrapping_add(u64::from(timeline.0));
    mixed.to_be_bytes()[0]
}
