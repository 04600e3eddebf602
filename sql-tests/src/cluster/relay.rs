//! The network between the nodes, so that it can be cut.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use shard::id::NodeId;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use crate::Result;

/// One relay for each ordered pair of nodes. They end with the test's runtime.
#[derive(Debug)]
pub(super) struct Relays {
    addresses: BTreeMap<(NodeId, NodeId), SocketAddr>,
    /// The nodes that are cut off from all others.
    isolated: watch::Sender<BTreeSet<NodeId>>,
}

impl Relays {
    pub(super) async fn start(nodes: &BTreeMap<NodeId, SocketAddr>) -> Result<Relays> {
        let (isolated, watched) = watch::channel(BTreeSet::new());
        let mut addresses = BTreeMap::new();
        for from in nodes.keys() {
            for (to, target) in nodes.iter().filter(|(to, _)| *to != from) {
                let listener = TcpListener::bind("127.0.0.1:0").await?;
                addresses.insert((*from, *to), listener.local_addr()?);
                tokio::spawn(relay(listener, (*from, *to), *target, watched.clone()));
            }
        }
        Ok(Relays { addresses, isolated })
    }

    /// Where `from` finds `to`.
    pub(super) fn address(&self, from: NodeId, to: NodeId) -> Option<SocketAddr> {
        self.addresses.get(&(from, to)).copied()
    }

    pub(super) fn isolate(&self, node: NodeId) {
        self.isolated.send_modify(|isolated| {
            isolated.insert(node);
        });
    }

    pub(super) fn heal(&self) {
        self.isolated.send_modify(BTreeSet::clear);
    }
}

/// Accepts for ever. While the pair is cut, connections are accepted and dropped.
async fn relay(
    listener: TcpListener,
    pair: (NodeId, NodeId),
    target: SocketAddr,
    isolated: watch::Receiver<BTreeSet<NodeId>>,
) {
    let is_cut = move |isolated: &BTreeSet<NodeId>| isolated.contains(&pair.0) || isolated.contains(&pair.1);
    while let Ok((mut accepted, _)) = listener.accept().await {
        if is_cut(&isolated.borrow()) {
            continue;
        }
        let mut watched = isolated.clone();
        tokio::spawn(async move {
            let Ok(mut onward) = TcpStream::connect(target).await else {
                return;
            };
            let _ = (accepted.set_nodelay(true), onward.set_nodelay(true));
            tokio::select! {
                _ = copy_bidirectional(&mut accepted, &mut onward) => {}
                // What is in its buffers is lost with the connection, as in a real network.
                _ = watched.wait_for(is_cut) => {}
            }
        });
    }
}
