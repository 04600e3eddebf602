//! The network between the nodes: relays in user space whose directions can be cut and healed.
//!
//! A cut holds bytes back, as TCP does while packets are lost: what was under way arrives when
//! the cut is healed, however late. Connections to a node that is cut off open, and stay silent.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use shard::id::NodeId;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flow {
    Open,
    Cut,
}

type Flows = BTreeMap<(NodeId, NodeId), watch::Sender<Flow>>;

/// Relays for each ordered pair of nodes. Ends when dropped.
pub(crate) struct Network {
    /// Where each node listens.
    real: BTreeMap<NodeId, SocketAddr>,
    /// Where the first node of a pair reaches the second.
    relays: BTreeMap<(NodeId, NodeId), SocketAddr>,
    /// Whether bytes pass from the first to the second, whoever opened the connection.
    flows: Arc<Flows>,
    _relaying: JoinSet<()>,
}

impl Network {
    pub(crate) async fn start(count: u64) -> Network {
        let nodes = || (1..=count).map(NodeId);
        let ip = own_ip();
        let port = |node: NodeId| 7431 + u16::try_from(node.0).expect("few nodes");
        let real: BTreeMap<_, _> = nodes()
            .map(|node| (node, SocketAddr::from((ip, port(node)))))
            .collect();
        let pairs = || {
            nodes()
                .flat_map(|from| nodes().map(move |to| (from, to)))
                .filter(|(from, to)| from != to)
        };
        let flows: Arc<Flows> = Arc::new(pairs().map(|pair| (pair, watch::channel(Flow::Open).0)).collect());
        let mut relays = BTreeMap::new();
        let mut relaying = JoinSet::new();
        for (from, to) in pairs() {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
            relays.insert((from, to), listener.local_addr().unwrap());
            relaying.spawn(relay(listener, real[&to], flows.clone(), (from, to)));
        }
        Network {
            real,
            relays,
            flows,
            _relaying: relaying,
        }
    }

    /// The nodes' addresses, as `node` is to see them.
    pub(crate) fn seen_by(&self, node: NodeId) -> BTreeMap<NodeId, SocketAddr> {
        let address = |to: &NodeId| {
            if *to == node {
                self.real[to]
            } else {
                self.relays[&(node, *to)]
            }
        };
        self.real.keys().map(|to| (*to, address(to))).collect()
    }

    /// Holds back what `from` sends to `to`.
    pub(crate) fn cut(&self, from: NodeId, to: NodeId) {
        self.flows[&(from, to)].send_replace(Flow::Cut);
    }

    /// Holds back all that `node` sends, and all that is sent to it.
    pub(crate) fn isolate(&self, node: NodeId) {
        for other in self.real.keys().filter(|other| **other != node) {
            self.cut(node, *other);
            self.cut(*other, node);
        }
    }

    pub(crate) fn heal(&self) {
        for flow in self.flows.values() {
            flow.send_replace(Flow::Open);
        }
    }
}

/// A loopback address that is nobody else's: no other socket can have a port there, also while
/// the node that listens on it is down.
fn own_ip() -> Ipv4Addr {
    static CLUSTERS: AtomicU8 = AtomicU8::new(1);
    let [_, _, high, low] = std::process::id().to_be_bytes();
    let cluster = CLUSTERS.fetch_add(1, Ordering::Relaxed);
    Ipv4Addr::new(127, 64 + high % 64, low, cluster)
}

async fn relay(listener: TcpListener, target: SocketAddr, flows: Arc<Flows>, (from, to): (NodeId, NodeId)) {
    let mut connections = JoinSet::new();
    while let Ok((client, _)) = listener.accept().await {
        let (there, back) = (flows[&(from, to)].subscribe(), flows[&(to, from)].subscribe());
        connections.spawn(async move {
            // Where nobody listens the connection ends at once, as if it had been refused.
            let Ok(server) = TcpStream::connect(target).await else {
                return;
            };
            drop((client.set_nodelay(true), server.set_nodelay(true)));
            let (client_read, client_write) = client.into_split();
            let (server_read, server_write) = server.into_split();
            tokio::select! {
                () = pump(client_read, server_write, there) => {}
                () = pump(server_read, client_write, back) => {}
            }
        });
        while connections.try_join_next().is_some() {}
    }
}

/// Carries bytes while the flow is open; returns when either end has closed.
async fn pump(
    mut from: impl AsyncReadExt + Unpin,
    mut to: impl AsyncWriteExt + Unpin,
    mut flow: watch::Receiver<Flow>,
) {
    let mut buffer = vec![0; 256 * 1024];
    loop {
        let count = from.read(&mut buffer).await.unwrap_or(0);
        // What was read while the flow was cut, an end included, passes when it is healed.
        if flow.wait_for(|flow| *flow == Flow::Open).await.is_err() {
            return;
        }
        if count == 0 || to.write_all(&buffer[..count]).await.is_err() {
            return;
        }
    }
}
