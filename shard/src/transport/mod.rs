//! The node-to-node port: one TCP listener on each node, and the connections between the nodes.
//!
//! Every connection begins with a `handshake`, within TLS where the configuration has certificates, in which both ends prove
//! that they are of the cluster, and which says what the connection is for. It then serves that one purpose:
//!
//! - Raft: one connection for each ordered pair of nodes carries the requests of all groups and
//!   their answers, pipelined (`frame`, `peer`, `server`).
//! - A stream: raw bytes between a node and the PostgreSQL behind another (`stream`).
//! - Calls: a question and its answer at a time (`call`).
//!
//! Addresses come from the configuration only, so a relay may stand between two nodes. Whatever
//! is sent to the port, the worst that follows is the end of that connection.

mod call;
mod frame;
#[cfg(any(test, feature = "fuzz"))]
pub(crate) mod fuzz;
mod handshake;
mod peer;
mod server;
mod stream;
#[cfg(test)]
pub(crate) mod tests;

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use parking_lot::RwLock;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

pub use self::call::{CallError, MAX_CALL, call_as_client};
pub(crate) use self::frame::Kind;
pub use self::handshake::{HandshakeError, StreamPurpose};
pub(crate) use self::peer::{Lane, RequestError};
pub(crate) use self::server::RaftEndpoint;
pub use self::stream::{Refusal, StreamError};

use self::handshake::{Hello, Purpose, greet};
use self::peer::Peer;
use self::server::Server;
use self::stream::StreamAnswer;
use crate::config::Config;
use crate::id::{GroupId, NodeId};
use crate::tls::{NodeTls, Stream};

const A_DAY: Duration = Duration::from_secs(86_400);

/// Serves an accepted stream until it ends.
pub type StreamHandler = Box<dyn FnOnce(Stream) -> BoxFuture<'static, ()> + Send>;

/// What a node does with streams and calls that reach it.
pub trait Handlers: Send + Sync + 'static {
    /// Decides on a stream to this node's replica of `group`. The handler gets the raw bytes.
    fn stream(
        &self,
        group: GroupId,
        purpose: StreamPurpose,
        from: NodeId,
    ) -> BoxFuture<'_, Result<StreamHandler, Refusal>>;

    /// Answers a call. `from` is `NodeId(0)` for a tool that knows the secret but is no node.
    fn call(&self, from: NodeId, body: Bytes) -> BoxFuture<'_, Bytes>;
}

/// What a node or a tool shows to be let in.
#[derive(Clone)]
pub struct Credentials {
    /// The cluster's name.
    pub cluster: String,
    /// The secret that all nodes of the cluster share.
    pub secret: String,
    /// Its certificate, and whom it believes; none where nodes talk in the clear.
    pub tls: Option<NodeTls>,
}

impl fmt::Debug for Credentials {
    /// Without the secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials")
            .field("cluster", &self.cluster)
            .field("tls", &self.tls)
            .finish_non_exhaustive()
    }
}

/// Who this node is to the others.
#[derive(Debug)]
struct Identity {
    node: NodeId,
    cluster: String,
    /// New connections take them as they are then.
    credentials: RwLock<Arc<Credentials>>,
    nodes: BTreeMap<NodeId, SocketAddr>,
    /// A connection on which a request waits this long without any answer is given up.
    stall: Duration,
}

impl Identity {
    fn of(config: &Config) -> Identity {
        Identity {
            node: config.node,
            cluster: config.cluster.clone(),
            credentials: RwLock::new(Arc::new(Credentials {
                cluster: config.cluster.clone(),
                secret: config.secret.clone(),
                tls: config.tls.clone(),
            })),
            nodes: config.nodes.clone(),
            stall: (config.timing.election * 2).max(Duration::from_secs(2)),
        }
    }

    fn credentials(&self) -> Arc<Credentials> {
        self.credentials.read().clone()
    }

    /// Connects to another node for one purpose.
    async fn dial(&self, to: NodeId, address: SocketAddr, purpose: Purpose) -> Result<Stream, DialError> {
        dial(address, &self.credentials(), &self.hello(to, purpose)).await
    }

    /// Whether the client has proved by certificate to be whom it names. A tool is whoever has any of the cluster's.
    fn believes(&self, tls: Option<&NodeTls>, stream: &Stream, from: NodeId) -> bool {
        let Some(tls) = tls else {
            return true;
        };
        match from {
            NodeId(0) => tls.is_any_of(stream, self.nodes.keys().copied().chain([from])),
            node => tls.is_any_of(stream, [node].into_iter()),
        }
    }

    fn hello(&self, to: NodeId, purpose: Purpose) -> Hello {
        Hello {
            cluster: self.cluster.clone(),
            from: self.node,
            to: Some(to),
            purpose,
        }
    }

    fn address(&self, node: NodeId) -> io::Result<SocketAddr> {
        let known = self.nodes.get(&node).copied();
        known.ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "the node has no address"))
    }

    fn admits(&self, from: NodeId, purpose: Purpose) -> bool {
        match purpose {
            Purpose::Call if from == NodeId(0) => true,
            Purpose::Call | Purpose::Raft | Purpose::Stream(..) => self.nodes.contains_key(&from),
        }
    }
}

/// Says in time that the certificate ends.
async fn watch_certificate(identity: Arc<Identity>) {
    while let Some(tls) = identity.credentials().tls.as_ref() {
        tls.warn_of_its_end();
        tokio::time::sleep(A_DAY).await;
    }
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
enum DialError {
    #[error("cannot connect")]
    Io(#[from] io::Error),
    #[error(transparent)]
    Handshake(#[from] HandshakeError),
}

/// Connects, and shakes hands.
async fn dial(address: SocketAddr, credentials: &Credentials, hello: &Hello) -> Result<Stream, DialError> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    Ok(greet(stream, credentials, hello).await?)
}

/// A node's end of the node-to-node network. Cheap to clone.
#[derive(Clone)]
pub struct Transport {
    identity: Arc<Identity>,
    peers: Arc<BTreeMap<NodeId, Peer>>,
    kept: Arc<call::Kept>,
    server: Arc<Server>,
}

impl fmt::Debug for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Transport")
            .field("node", &self.identity.node)
            .finish_non_exhaustive()
    }
}

impl Transport {
    /// Listens on this node's address and starts to connect to the others.
    ///
    /// Fails where the address cannot be listened on.
    pub async fn bind(config: &Config, handlers: Arc<dyn Handlers>) -> io::Result<Transport> {
        let listener = TcpListener::bind(Identity::of(config).address(config.node)?).await?;
        Ok(Transport::serve(config, listener, handlers))
    }

    /// As [`Transport::bind`], on a listener that the caller made: a test lets the others reach
    /// it through relays, so its own address is not the one in the configuration.
    pub fn serve(config: &Config, listener: TcpListener, handlers: Arc<dyn Handlers>) -> Transport {
        let identity = Arc::new(Identity::of(config));
        let stop = CancellationToken::new();
        let server = Arc::new(Server::new(Arc::clone(&identity), handlers, stop.clone()));
        tokio::spawn(Arc::clone(&server).listen(listener));
        tokio::spawn(
            stop.clone()
                .run_until_cancelled_owned(watch_certificate(Arc::clone(&identity))),
        );
        let others = identity.nodes.keys().filter(|node| **node != identity.node);
        let peers = others
            .map(|node| (*node, Peer::start(Arc::clone(&identity), *node, stop.clone())))
            .collect();
        let kept = Arc::new(call::Kept::new(identity.nodes.keys().copied()));
        Transport {
            identity,
            peers: Arc::new(peers),
            kept,
            server,
        }
    }

    /// Opens a stream to the PostgreSQL of `group`'s replica on `node` (which may be this node).
    pub async fn open_stream(
        &self,
        node: NodeId,
        group: GroupId,
        purpose: StreamPurpose,
        timeout: Duration,
    ) -> Result<Stream, StreamError> {
        stream::open(&self.identity, node, group, purpose, timeout).await
    }

    /// Asks `node` (which may be this node) and waits for its answer.
    pub async fn call(&self, node: NodeId, body: Bytes, timeout: Duration) -> Result<Bytes, CallError> {
        call::call(&self.identity, &self.kept, node, body, timeout).await
    }

    /// Takes over new certificates: new connections begin with them, those that there are go on as they began.
    ///
    /// Whether there is TLS at all stays as it was.
    pub fn renew(&self, tls: NodeTls) {
        let mut credentials = self.identity.credentials.write();
        if credentials.tls.is_some() {
            Arc::make_mut(&mut credentials).tls = Some(tls);
        }
    }

    /// Stops listening and ends every connection.
    pub fn shutdown(&self) {
        self.server.stop.cancel();
    }

    /// Hands the Raft requests for `group` to its replica from now on.
    pub(crate) fn register(&self, group: GroupId, endpoint: Arc<dyn RaftEndpoint>) {
        self.server.endpoints.lock().insert(group, endpoint);
    }

    /// Ends what [`Transport::register`] began.
    pub(crate) fn unregister(&self, group: GroupId) {
        self.server.endpoints.lock().remove(&group);
    }

    /// Queues a Raft request to `node`; see [`Peer::send`].
    pub(crate) async fn request(
        &self,
        node: NodeId,
        lane: Lane,
        kind: Kind,
        group: GroupId,
        body: Vec<Bytes>,
    ) -> oneshot::Receiver<Result<Bytes, RequestError>> {
        match self.peers.get(&node) {
            Some(peer) => peer.send(lane, kind, group, body).await,
            None => {
                let (reply, answer) = oneshot::channel();
                let _ = reply.send(Err(RequestError::NotConnected));
                answer
            }
        }
    }
}
