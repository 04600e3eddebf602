//! A node: its replicas, its end of the node-to-node network, and its way to every group.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;

use crate::call::{Answer, Question};
use crate::client::{Groups, Settle};
use crate::config::{Config, ConfigError};
use crate::gate::{GateError, Guest};
use crate::id::{GroupId, NodeId};
use crate::log::{LogError, NodeLog};
use crate::lost_log::{self, LostLogError, OpenError};
use crate::postgres::Installation;
use crate::reach::Reach;
use crate::replica::{Replica, ReplicaError};
use crate::status::{NodeStatus, ReplicaStatus};
use crate::tls::{NodeTls, Stream};
use crate::transport::{CallError, Handlers, Refusal, StreamHandler, StreamPurpose, Transport};

/// The buffer of each direction of a stream between a client's node and the leader's PostgreSQL.
const RELAY_BUFFER: usize = 64 * 1024;

/// Answers the questions of the crates above ([`Question::Above`]).
pub type Above = Box<dyn Fn(NodeId, Bytes) -> BoxFuture<'static, Bytes> + Send + Sync>;

/// Why a node cannot start.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// The configuration cannot work.
    #[error("the configuration is wrong: {0}")]
    Config(#[from] ConfigError),
    /// No usable PostgreSQL here, or its directories cannot be used.
    #[error(transparent)]
    Postgres(#[from] crate::postgres::Error),
    /// The node's log cannot be opened.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The node's log is damaged or gone, and cannot be replaced.
    #[error(transparent)]
    LostLog(#[from] LostLogError),
    /// The node-to-node address cannot be listened on.
    #[error("cannot listen for other nodes on {address}")]
    Listen {
        /// The address.
        address: std::net::SocketAddr,
        /// What the system said.
        source: std::io::Error,
    },
    /// The data directory cannot be made.
    #[error("cannot use the data directory {}", path.display())]
    DataDir {
        /// The directory.
        path: std::path::PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A replica cannot start.
    #[error("the replica of group {group} cannot start")]
    Replica {
        /// Its group.
        group: GroupId,
        /// Why.
        source: ReplicaError,
    },
}

impl From<OpenError> for NodeError {
    fn from(error: OpenError) -> NodeError {
        match error {
            OpenError::Log(error) => error.into(),
            OpenError::Lost(error) => error.into(),
        }
    }
}

/// A running node. [`Node::shutdown`] stops it cleanly. Where the runtime that it was started in ends
/// and this is dropped, it stops like a crash.
pub struct Node {
    config: Arc<Config>,
    log: NodeLog,
    transport: Transport,
    door: Arc<Door>,
    reach: Arc<Reach>,
}

impl fmt::Debug for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Node")
            .field("node", &self.config.node)
            .finish_non_exhaustive()
    }
}

impl Drop for Node {
    /// Nothing more is written or sent, and the files are let go: the replicas and the port hold each
    /// other, so no count of handles ever tells that the log can be closed.
    fn drop(&mut self) {
        self.transport.shutdown();
        self.log.close();
    }
}

impl Node {
    /// Opens the log, listens, and starts every replica that the configuration gives this node.
    ///
    /// It does not wait for leaders: [`Node::groups`] does where it is asked for a connection. With
    /// `settle`, a replica that becomes leader has it end what was left prepared before clients are let in.
    pub async fn start(config: Config, settle: Option<Arc<dyn Settle>>) -> Result<Node, NodeError> {
        config.validate()?;
        let installation = Installation::find(config.postgres.bin_dir.as_deref())?;
        let config = Arc::new(config);
        let path = config.data_dir.clone();
        std::fs::create_dir_all(&path).map_err(|source| NodeError::DataDir { path, source })?;
        let log = lost_log::open(&config)?;

        let door = Arc::new(Door {
            node: config.node,
            replicas: OnceLock::new(),
            above: OnceLock::new(),
        });
        let handlers: Arc<dyn Handlers> = door.clone();
        let address = config.nodes[&config.node];
        let transport = Transport::bind(&config, handlers)
            .await
            .map_err(|source| NodeError::Listen { address, source })?;

        let mut replicas = BTreeMap::new();
        for (&group, members) in &config.groups {
            if !members.contains(&config.node) {
                continue;
            }
            let log = log.group(group);
            let settle = settle.clone();
            let replica = Replica::start(&config, group, log, transport.clone(), &installation, settle)
                .await
                .map_err(|source| NodeError::Replica { group, source })?;
            replicas.insert(group, replica);
        }
        let reach = Arc::new(Reach::new(&config, transport.clone(), replicas.clone()));
        let first = door.replicas.set(replicas).is_ok();
        debug_assert!(first, "the replicas are set once");
        Ok(Node {
            config,
            log,
            transport,
            door,
            reach,
        })
    }

    /// The way to every group of the cluster.
    #[must_use]
    pub fn groups(&self) -> Arc<dyn Groups> {
        self.reach.clone()
    }

    /// What this node and its replicas are doing.
    #[must_use]
    pub fn status(&self) -> NodeStatus {
        self.door.status()
    }

    /// Lets the crates above answer [`Question::Above`]; the first call counts.
    pub fn answer_above(&self, above: Above) {
        let _already_set = self.door.above.set(above);
    }

    /// A handle that asks the crates above on other nodes; see [`Node::answer_above`].
    #[must_use]
    pub fn asker(&self) -> Asker {
        Asker {
            node: self.config.node,
            nodes: self.config.nodes.keys().copied().collect(),
            transport: self.transport.clone(),
        }
    }

    /// A handle that takes over from a new configuration what can change while the node runs.
    #[must_use]
    pub fn reload(&self) -> Reload {
        Reload {
            transport: self.transport.clone(),
        }
    }

    /// Stops the replicas, their PostgreSQL servers, and the node's network and log.
    pub async fn shutdown(self) {
        if let Some(replicas) = self.door.replicas.get() {
            futures::future::join_all(replicas.values().map(Replica::shutdown)).await;
        }
        self.transport.shutdown();
        self.log.close();
    }
}

/// Takes over what can change while a node runs.
#[derive(Clone, Debug)]
pub struct Reload {
    transport: Transport,
}

impl Reload {
    /// The certificates for the connections between nodes that begin from now on. Whether there is TLS at all stays as it was.
    pub fn put(&self, tls: Option<NodeTls>) {
        if let Some(tls) = tls {
            self.transport.renew(tls);
        }
    }
}

/// Asks the crates above on other nodes.
#[derive(Clone, Debug)]
pub struct Asker {
    node: NodeId,
    nodes: Vec<NodeId>,
    transport: Transport,
}

impl Asker {
    /// All nodes but this one.
    pub fn others(&self) -> impl Iterator<Item = NodeId> {
        self.nodes.iter().copied().filter(|node| *node != self.node)
    }

    /// Asks one node.
    pub async fn ask(&self, node: NodeId, body: Bytes, timeout: Duration) -> Result<Bytes, AskError> {
        ask_above(&self.transport, node, body, timeout).await
    }
}

/// Why a node gave no usable answer.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// It did not answer.
    #[error(transparent)]
    Call(#[from] CallError),
    /// It answered something else.
    #[error("the node refused: {0}")]
    Refused(String),
}

async fn ask_above(
    transport: &Transport,
    node: NodeId,
    body: Bytes,
    timeout: Duration,
) -> Result<Bytes, AskError> {
    let answer = transport
        .call(node, Question::Above(body).encode(), timeout)
        .await?;
    match Answer::decode(&answer) {
        Ok(Answer::Above(body)) => Ok(body),
        Ok(Answer::Refused(reason)) => Err(AskError::Refused(reason)),
        Ok(other) => Err(AskError::Refused(format!("an unexpected answer: {other:?}"))),
        Err(error) => Err(AskError::Refused(error.to_string())),
    }
}

/// What answers on the node-to-node port.
struct Door {
    node: NodeId,
    replicas: OnceLock<BTreeMap<GroupId, Replica>>,
    above: OnceLock<Above>,
}

impl Door {
    fn replica(&self, group: GroupId) -> Option<&Replica> {
        self.replicas.get()?.get(&group)
    }

    fn status(&self) -> NodeStatus {
        let replicas: Vec<ReplicaStatus> = self
            .replicas
            .get()
            .into_iter()
            .flat_map(BTreeMap::values)
            .map(Replica::status)
            .collect();
        NodeStatus {
            node: self.node,
            pid: std::process::id(),
            replicas,
        }
    }

    async fn answer(&self, from: NodeId, question: Question) -> Answer {
        match question {
            Question::Status => Answer::Status(self.status()),
            Question::Cancel {
                group,
                process_id,
                secret_key,
            } => {
                let Some(replica) = self.replica(group) else {
                    return Answer::Refused(format!("node {} holds no replica of group {group}", self.node));
                };
                match replica.gate().cancel(process_id, secret_key).await {
                    Ok(()) => Answer::Cancelled,
                    Err(error) => Answer::Refused(error.to_string()),
                }
            }
            Question::Hold { group, limit } => {
                match self.replica(group).map(|replica| replica.gate().hold(limit)) {
                    Some(Ok((term, number))) => Answer::Held { term, number },
                    Some(Err(error)) => Answer::Refused(error.to_string()),
                    None => Answer::Refused(format!("node {} holds no replica of group {group}", self.node)),
                }
            }
            Question::Release { group, term, number } => {
                let released = |replica: &Replica| replica.gate().release(term, number);
                let lasted = self.replica(group).is_some_and(released);
                Answer::Released { lasted }
            }
            Question::Readmit { group } => {
                let Some(replica) = self.replica(group) else {
                    return Answer::Refused(format!("node {} holds no replica of group {group}", self.node));
                };
                match replica.readmit(from).await {
                    Ok(()) => Answer::Readmitted,
                    Err(error) => Answer::Refused(error.to_string()),
                }
            }
            Question::Switchover { group, to } => {
                let Some(replica) = self.replica(group) else {
                    return Answer::Refused(format!("node {} holds no replica of group {group}", self.node));
                };
                match replica.switchover(to).await {
                    Ok(leader) => Answer::SwitchedOver { leader },
                    Err(error) => Answer::Refused(error.to_string()),
                }
            }
            Question::Above(body) => match self.above.get() {
                Some(above) => Answer::Above(above(from, body).await),
                None => Answer::Refused(format!("node {} is still starting", self.node)),
            },
        }
    }
}

impl Handlers for Door {
    fn stream(
        &self,
        group: GroupId,
        purpose: StreamPurpose,
        _from: NodeId,
    ) -> BoxFuture<'_, Result<StreamHandler, Refusal>> {
        Box::pin(async move {
            let replica = self.replica(group).ok_or(Refusal::UnknownGroup)?;
            let refused = |error: GateError| match error {
                GateError::Closed if replica.leads() => Refusal::GateClosed,
                GateError::Closed => Refusal::NotLeader {
                    hint: replica.leader(),
                },
                GateError::Server(error) => {
                    tracing::info!(%group, %error, "PostgreSQL does not accept a connection");
                    Refusal::Busy
                }
            };
            let handler: StreamHandler = match purpose {
                StreamPurpose::Sql | StreamPurpose::Settle => {
                    let guest = match purpose {
                        StreamPurpose::Settle => Guest::Node,
                        _ => Guest::Client,
                    };
                    let backend = replica.gate().connect(guest).await.map_err(refused)?;
                    Box::new(move |stream| Box::pin(relay(stream, backend)))
                }
                StreamPurpose::Replication => {
                    let backend = replica.gate().connect_replication().await.map_err(refused)?;
                    Box::new(move |stream| Box::pin(relay(stream, backend)))
                }
            };
            Ok(handler)
        })
    }

    fn call(&self, from: NodeId, body: Bytes) -> BoxFuture<'_, Bytes> {
        Box::pin(async move {
            let answer = match Question::decode(&body) {
                Ok(question) => self.answer(from, question).await,
                Err(error) => Answer::Refused(error.to_string()),
            };
            answer.encode()
        })
    }
}

/// Carries bytes both ways until either end closes or fails; then both are closed.
async fn relay<B>(mut stream: Stream, mut backend: B)
where
    B: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    let carried =
        tokio::io::copy_bidirectional_with_sizes(&mut stream, &mut backend, RELAY_BUFFER, RELAY_BUFFER).await;
    if let Err(error) = carried {
        // A client or a leadership that ended in the middle: the other end sees the connection end.
        tracing::debug!(%error, "a relayed connection ended");
    }
}
