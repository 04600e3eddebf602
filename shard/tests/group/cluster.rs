//! Nodes of one cluster, each in a runtime of its own.

use std::collections::BTreeMap;
use std::future::Future;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use shard::client::Groups;
use shard::config::{Config, LogConfig, PostgresConfig, Timing};
use shard::id::{NodeId, Term};
use shard::node::{Node, NodeError};
use shard::status::ReplicaStatus;
use tempfile::TempDir;
use tokio::runtime::Runtime;
use tokio_postgres::Client;

use crate::net::Network;
use crate::sql::{GROUP, PATIENCE, Session, direct, number, within};
use crate::tls::Certificates;

/// One cluster at a time: what the log says is then this cluster's, and two cores are enough.
static TURN: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

/// The lines that the running scenario's nodes logged.
static LINES: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// What tasks say of each other while a runtime ends under them, as in a crash: one that is still polled sees that
/// another is gone already.
const ENDED: [&str; 3] = [
    "operation interrupted",
    "being shutdown",
    "the Raft replica stopped group=1 reason=for no known reason",
];

/// Its parts end in this order: the nodes first.
pub(crate) struct Cluster {
    nodes: BTreeMap<NodeId, Process>,
    pub(crate) net: Network,
    dir: TempDir,
    timing: Timing,
    log: LogConfig,
    certificates: Option<Certificates>,
    crashed: bool,
    _turn: tokio::sync::MutexGuard<'static, ()>,
}

/// A node, and all that runs for it.
struct Process {
    node: Option<Node>,
    runtime: Option<Runtime>,
}

impl Process {
    async fn start(config: Config) -> Result<Process, NodeError> {
        let mut runtime = tokio::runtime::Builder::new_multi_thread();
        let runtime = runtime.worker_threads(2).enable_all().build().unwrap();
        let started = runtime
            .spawn(Node::start(config, None))
            .await
            .expect("starting a node does not panic");
        let mut process = Process {
            node: None,
            runtime: Some(runtime),
        };
        process.node = Some(started?);
        Ok(process)
    }

    fn node(&self) -> &Node {
        self.node.as_ref().expect("it runs until it is consumed")
    }

    async fn stop(mut self) {
        let node = self.node.take().expect("it is stopped once");
        let stopping = self
            .runtime
            .as_ref()
            .expect("it has a runtime")
            .spawn(node.shutdown());
        within(stopping).await.expect("stopping a node does not panic");
    }
}

impl Drop for Process {
    /// All of the node's tasks end where they stand.
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            let ending = std::thread::spawn(move || runtime.shutdown_timeout(Duration::from_secs(10)));
            ending.join().expect("ending a runtime does not panic");
        }
        drop(self.node.take());
    }
}

/// What may differ from the defaults.
#[derive(Default)]
pub(crate) struct Setup {
    pub(crate) timing: Timing,
    pub(crate) log: LogConfig,
    /// For TLS between the nodes.
    pub(crate) certificates: Option<Certificates>,
}

impl Cluster {
    pub(crate) async fn start(count: u64) -> Cluster {
        Cluster::start_with(count, Setup::default()).await
    }

    pub(crate) async fn start_with(count: u64, setup: Setup) -> Cluster {
        let turn = TURN.lock().await;
        LINES.lock().clear();
        let filter = std::env::var("RUST_LOG").unwrap_or_else(|_| "info,openraft=off".into());
        let _ = tracing_subscriber::fmt()
            .with_env_filter(filter)
            .with_ansi(false)
            .with_writer(|| Tee)
            .try_init();
        let dir = tempfile::Builder::new()
            .prefix("howdah-group-")
            .tempdir()
            .unwrap();
        // PostgreSQL runs as a user of its own and must be able to reach its directory.
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        let net = Network::start(count).await;
        let Setup {
            timing,
            log,
            certificates,
        } = setup;
        let mut cluster = Cluster {
            dir,
            net,
            nodes: BTreeMap::new(),
            timing,
            log,
            certificates,
            crashed: false,
            _turn: turn,
        };
        let all: Vec<_> = (1..=count).map(NodeId).collect();
        cluster.start_nodes(&all).await;
        cluster
    }

    pub(crate) fn data_dir(&self, node: NodeId) -> PathBuf {
        self.dir.path().join(format!("n{node}"))
    }

    pub(crate) fn config(&self, node: NodeId) -> Config {
        let nodes = self.net.seen_by(node);
        Config {
            node,
            cluster: "test".into(),
            secret: "a secret of enough bytes".into(),
            tls: self.certificates.as_ref().map(|made| made.of(node)),
            data_dir: self.data_dir(node),
            groups: BTreeMap::from([(GROUP, nodes.keys().copied().collect())]),
            nodes,
            postgres: PostgresConfig::default(),
            timing: self.timing.clone(),
            log: self.log.clone(),
        }
    }

    /// Gives all nodes certificates of another authority while they run, and those that start later.
    pub(crate) fn renew(&mut self, certificates: Certificates) {
        for (&node, process) in &self.nodes {
            process.node().reload().put(Some(certificates.of(node)));
        }
        self.certificates = Some(certificates);
    }

    pub(crate) async fn start_node(&mut self, node: NodeId) {
        let process = within(Process::start(self.config(node))).await.unwrap();
        self.nodes.insert(node, process);
    }

    pub(crate) async fn start_nodes(&mut self, nodes: &[NodeId]) {
        for node in nodes {
            self.start_node(*node).await;
        }
    }

    pub(crate) async fn stop_node(&mut self, node: NodeId) {
        self.nodes.remove(&node).expect("it runs").stop().await;
    }

    /// Ends the node like `kill -9`: nothing is finished, its PostgreSQL goes with it.
    pub(crate) fn crash(&mut self, node: NodeId) {
        self.crashed = true;
        drop(self.nodes.remove(&node).expect("it runs"));
    }

    pub(crate) fn crash_all(&mut self) {
        // Together, as a power failure does.
        self.crashed = true;
        let nodes = std::mem::take(&mut self.nodes);
        let ending: Vec<_> = nodes
            .into_values()
            .map(|node| std::thread::spawn(move || drop(node)))
            .collect();
        ending
            .into_iter()
            .for_each(|thread| thread.join().expect("ending a node does not panic"));
    }

    pub(crate) fn running(&self) -> Vec<NodeId> {
        self.nodes.keys().copied().collect()
    }

    pub(crate) fn others(&self, node: NodeId) -> Vec<NodeId> {
        self.running()
            .into_iter()
            .filter(|other| *other != node)
            .collect()
    }

    /// The way to the groups from `node`.
    pub(crate) fn groups(&self, node: NodeId) -> Arc<dyn Groups> {
        self.nodes[&node].node().groups()
    }

    pub(crate) fn status(&self, node: NodeId) -> ReplicaStatus {
        self.nodes[&node].node().status().replicas.remove(0)
    }

    /// A session with the leader, through any of the running nodes.
    pub(crate) async fn session(&self) -> Session {
        self.session_at(self.running()[0]).await
    }

    /// A session with the leader, through `node`.
    pub(crate) async fn session_at(&self, node: NodeId) -> Session {
        within(Session::open(&*self.groups(node), PATIENCE))
            .await
            .unwrap()
    }

    /// A connection to `node`'s PostgreSQL past the gate.
    pub(crate) async fn direct(&self, node: NodeId) -> Client {
        let dir = self.socket_dir(node);
        let connecting = async {
            loop {
                match direct(&dir).await {
                    Ok(client) => return client,
                    Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
                }
            }
        };
        within(connecting).await
    }

    pub(crate) fn socket_dir(&self, node: NodeId) -> PathBuf {
        self.data_dir(node).join(format!("group-{GROUP}/s"))
    }

    /// Waits for something that one of the nodes comes to.
    pub(crate) async fn until<T>(&self, what: &str, mut reached: impl FnMut(&Cluster) -> Option<T>) -> T {
        let waiting = async {
            loop {
                if let Some(found) = reached(self) {
                    return found;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(PATIENCE, waiting).await.unwrap_or_else(|_| {
            let replicas: Vec<_> = self
                .running()
                .into_iter()
                .map(|node| (node, self.status(node)))
                .collect();
            panic!("{what}: not reached; {replicas:#?}")
        })
    }

    /// The node, out of `among`, that leads with an open gate.
    pub(crate) async fn leader_among(&self, among: &[NodeId]) -> NodeId {
        let leads = |cluster: &Cluster| {
            among
                .iter()
                .copied()
                .find(|node| cluster.groups(*node).leads(GROUP))
        };
        self.until("a leader with an open gate", leads).await
    }

    pub(crate) async fn leader(&self) -> NodeId {
        self.leader_among(&self.running()).await
    }

    pub(crate) fn term(&self, node: NodeId) -> Term {
        self.status(node).term
    }

    /// Waits until every running replica leads or follows, and has replayed all that is committed.
    pub(crate) async fn settled(&self) {
        let settled = |cluster: &Cluster| {
            let replicas: Vec<_> = cluster
                .running()
                .into_iter()
                .map(|node| cluster.status(node))
                .collect();
            let end = replicas.iter().map(|replica| replica.committed_lsn).max();
            let at_rest = |replica: &ReplicaStatus| {
                ["leading", "following"].contains(&replica.state.as_str())
                    && Some(replica.replayed_lsn) == end
            };
            let led = replicas.iter().any(|replica| replica.state == "leading");
            (led && replicas.iter().all(at_rest)).then_some(())
        };
        self.until("every replica leads or follows and has replayed all", settled)
            .await;
    }

    /// Settled, and all PostgreSQL servers give the same (whole) number.
    pub(crate) async fn agree_on(&self, sql: &str) -> i64 {
        self.settled().await;
        let mut answers = BTreeMap::new();
        for node in self.running() {
            answers.insert(node, number(&self.direct(node).await, sql).await.unwrap());
        }
        let first = *answers.values().next().unwrap();
        assert!(
            answers.values().all(|answer| *answer == first),
            "{sql}: {answers:?}"
        );
        first
    }

    /// Bytes of the node's Raft log on disk.
    pub(crate) fn log_bytes(&self, node: NodeId) -> u64 {
        let files = std::fs::read_dir(self.data_dir(node).join("log")).unwrap();
        files
            .filter_map(|file| file.ok()?.metadata().ok())
            .map(|data| data.len())
            .sum()
    }

    /// Lines of the nodes' log that contain `text`.
    pub(crate) fn logged(&self, text: &str) -> Vec<String> {
        LINES
            .lock()
            .iter()
            .filter(|line| line.contains(text))
            .cloned()
            .collect()
    }

    /// Stops all nodes. Fails where a node warned of something that is not among `expected`, nor what a crash makes it say.
    pub(crate) async fn stop(mut self, expected: &[&str]) {
        for (_, node) in std::mem::take(&mut self.nodes) {
            node.stop().await;
        }
        let loud: Vec<_> = self
            .logged(" WARN ")
            .into_iter()
            .chain(self.logged(" ERROR "))
            .collect();
        let unexpected: Vec<_> = loud
            .iter()
            .filter(|line| !expected.iter().any(|text| line.contains(text)))
            .filter(|line| !(self.crashed && ENDED.iter().any(|text| line.contains(text))))
            .collect();
        assert!(unexpected.is_empty(), "unexpected words: {unexpected:#?}");
    }
}

/// To the test's output, and to [`LINES`].
struct Tee;

impl Write for Tee {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let text = String::from_utf8_lossy(bytes);
        LINES.lock().extend(text.lines().map(str::to_owned));
        tracing_subscriber::fmt::TestWriter::new().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Runs a scenario's background work until dropped.
pub(crate) struct Background<T>(tokio::task::JoinHandle<T>);

impl<T: Send + 'static> Background<T> {
    pub(crate) fn spawn(work: impl Future<Output = T> + Send + 'static) -> Background<T> {
        Background(tokio::spawn(work))
    }

    pub(crate) fn is_finished(&self) -> bool {
        self.0.is_finished()
    }

    pub(crate) async fn outcome(mut self) -> T {
        within(&mut self.0).await.expect("background work does not panic")
    }
}

impl<T> Drop for Background<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}
