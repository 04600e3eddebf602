//! A group of three replicas in one process: real PostgreSQL servers, real sockets, real logs.

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::Duration;

use shard::config::{Config, LogConfig, PostgresConfig, Timing};
use shard::id::{GroupId, NodeId};
use shard::node::Node;
use tempfile::TempDir;
use tokio_postgres::{Client, NoTls};

const GROUP: GroupId = GroupId(1);
const PATIENCE: Duration = Duration::from_secs(60);

struct Cluster {
    dir: TempDir,
    addresses: BTreeMap<NodeId, SocketAddr>,
    nodes: BTreeMap<NodeId, Node>,
}

impl Cluster {
    async fn start(count: u64) -> Cluster {
        let _ = tracing_subscriber::fmt()
            .with_env_filter(std::env::var("RUST_LOG").unwrap_or_else(|_| "info,openraft=error".into()))
            .with_test_writer()
            .try_init();
        let dir = tempfile::Builder::new().prefix("howdah-group-").tempdir().unwrap();
        // PostgreSQL runs as a user of its own and must be able to reach its directory.
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        let listeners: Vec<_> = (0..count).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
        let addresses = (1..=count)
            .map(NodeId)
            .zip(listeners.iter().map(|listener| listener.local_addr().unwrap()))
            .collect();
        drop(listeners);
        let mut cluster = Cluster { dir, addresses, nodes: BTreeMap::new() };
        for node in (1..=count).map(NodeId) {
            cluster.start_node(node).await;
        }
        cluster
    }

    fn data_dir(&self, node: NodeId) -> PathBuf {
        self.dir.path().join(format!("n{node}"))
    }

    async fn start_node(&mut self, node: NodeId) {
        let config = Config {
            node,
            cluster: "test".into(),
            secret: "a secret of enough bytes".into(),
            data_dir: self.data_dir(node),
            nodes: self.addresses.clone(),
            groups: BTreeMap::from([(GROUP, self.addresses.keys().copied().collect())]),
            postgres: PostgresConfig::default(),
            timing: Timing::default(),
            log: LogConfig::default(),
        };
        self.nodes.insert(node, Node::start(config).await.unwrap());
    }

    async fn stop_node(&mut self, node: NodeId) {
        self.nodes.remove(&node).unwrap().shutdown().await;
    }

    /// A client through any of the running nodes.
    async fn client(&self) -> Client {
        let node = self.nodes.values().next().unwrap();
        let backend = node.groups().connect(GROUP, PATIENCE).await.unwrap();
        let (client, connection) = tokio_postgres::Config::new()
            .user("postgres")
            .dbname("postgres")
            .connect_raw(backend, NoTls)
            .await
            .unwrap();
        tokio::spawn(connection);
        client
    }

    async fn leader(&self) -> NodeId {
        loop {
            for (id, node) in &self.nodes {
                if node.groups().leads(GROUP) {
                    return *id;
                }
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Waits until every running replica follows or leads and has replayed all that is committed.
    async fn settled(&self) {
        let settled = async {
            loop {
                let replicas: Vec<_> = self.nodes.values().flat_map(|node| node.status().replicas).collect();
                let end = replicas.iter().map(|replica| replica.committed_lsn).max();
                if replicas.iter().all(|replica| {
                    ["leading", "following"].contains(&replica.state.as_str()) && Some(replica.replayed_lsn) == end
                }) {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        tokio::time::timeout(PATIENCE, settled).await.expect("the replicas settle");
    }

    async fn stop(mut self) {
        for (_, node) in std::mem::take(&mut self.nodes) {
            node.shutdown().await;
        }
    }
}

async fn count(client: &Client) -> i64 {
    client.query_one("SELECT count(*) FROM t", &[]).await.unwrap().get(0)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn acknowledged_rows_survive_the_leader_and_the_old_leader_comes_back() {
    let mut cluster = Cluster::start(3).await;
    let client = cluster.client().await;
    client.batch_execute("CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t SELECT generate_series(1, 1000)").await.unwrap();
    cluster.settled().await;

    for round in 1..=3 {
        let leader = cluster.leader().await;
        cluster.stop_node(leader).await;
        let client = cluster.client().await;
        assert_eq!(count(&client).await, 1000 + round - 1);
        client.execute("INSERT INTO t SELECT max(id) + 1 FROM t", &[]).await.unwrap();
        cluster.start_node(leader).await;
        cluster.settled().await;
    }
    let client = cluster.client().await;
    assert_eq!(count(&client).await, 1003);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_single_replica_goes_on_after_a_restart() {
    let mut cluster = Cluster::start(1).await;
    let client = cluster.client().await;
    client.batch_execute("CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1), (2)").await.unwrap();
    for _ in 0..2 {
        cluster.stop_node(NodeId(1)).await;
        cluster.start_node(NodeId(1)).await;
        assert_eq!(count(&cluster.client().await).await, 2);
    }
    cluster.stop().await;
}
