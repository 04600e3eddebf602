//! One node: its replicas, what it knows of the tables, and its port for clients.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use coordinator::catalogue::CatalogueVersion;
use coordinator::catalogue::bootstrap::{Identity, bootstrap};
use coordinator::catalogue::cache::CatalogueCache;
use coordinator::deadlock::Transaction;
use coordinator::slots::{MapEpoch, SlotMap, SlotMapError};
use coordinator::transaction::{InDoubt, Settler, Transactions, in_doubt, recover};
use futures::future::{BoxFuture, join_all};
use proxy::operations::Operations;
use proxy::{Listener, Peers, ProxyConfig, ProxyError, Sessions};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use shard::client::Groups;
use shard::id::{GroupId, NodeId};
use shard::node::{Asker, Node};
use tokio_util::sync::CancellationToken;

use crate::config::NodeConfig;
use crate::logging::Logging;
use crate::operator::Operator;
use crate::signals::Hangups;

/// How often a node looks whether it leads a group whose databases it has not prepared yet.
const PREPARE_EVERY: Duration = Duration::from_millis(100);

/// How long one attempt to prepare a group's databases may wait for its leader.
const PREPARE_PATIENCE: Duration = Duration::from_secs(5);

/// Why a node stopped, or could not start.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// Its replicas could not start.
    #[error(transparent)]
    Shard(#[from] shard::node::NodeError),
    /// Its SQL port could not be opened.
    #[error(transparent)]
    Proxy(#[from] ProxyError),
    /// The hash slots could not be placed on the groups.
    #[error(transparent)]
    Slots(#[from] SlotMapError),
}

/// Runs a node until `shutdown` is cancelled; returns when everything that it started has stopped. At SIGHUP it reads its
/// configuration again, and takes from it what can change while it runs: who is let in, with what certificate, within which limits,
/// and what is logged.
///
/// # Errors
/// When it cannot start: ports in use, no PostgreSQL, a data directory that is not its own.
pub(crate) async fn run(
    config: NodeConfig,
    logging: Logging,
    shutdown: CancellationToken,
) -> Result<(), NodeError> {
    let hangups = Hangups::listen();
    let me = config.shard.node;
    let cluster = config.shard.cluster.clone();
    tracing::info!(node = %me, cluster, "starting");
    // The ports first: where they are taken another node runs here, and nothing must be touched.
    let operator = Arc::new(Operator::new(config.clone(), logging));
    let listener = Listener::bind(ProxyConfig {
        operations: operator.clone(),
        ..config.sql
    })
    .await?;
    operator.serves(listener.reload());
    let settler = Arc::new(Settler::default());
    let node = Node::start(config.shard, Some(settler.clone())).await?;
    let groups = node.groups();
    settler.reach(groups.clone());
    let slots = Arc::new(SlotMap::place(MapEpoch(1), groups.groups())?);
    let catalogues = Arc::new(CatalogueCache::start(groups.clone()));
    node.answer_above(answer(catalogues.clone(), listener.sessions(), groups.clone()));
    let peers = Arc::new(OtherNodes { asker: node.asker() });

    let background = CancellationToken::new();
    operator.joins(node.reload());
    let reloading = reload(hangups, operator);
    tokio::spawn(background.clone().run_until_cancelled_owned(reloading));
    for &group in groups.groups() {
        let prepare = prepare(groups.clone(), cluster.clone(), group, slots.clone());
        tokio::spawn(background.clone().run_until_cancelled_owned(prepare));
    }
    tokio::spawn(
        background
            .clone()
            .run_until_cancelled_owned(recover(groups.clone())),
    );
    let transactions = Transactions::new(me, groups.clone());
    listener
        .serve(groups, catalogues, transactions, peers, shutdown)
        .await;
    tracing::info!(node = %me, "stopping");
    background.cancel();
    node.shutdown().await;
    Ok(())
}

/// Reads the configuration again at each SIGHUP. What is wrong with it is logged.
async fn reload(mut hangups: Hangups, operator: Arc<Operator>) {
    loop {
        hangups.next().await;
        let _told = operator.reload().await;
    }
}

/// Installs schema `howdah` in a group's databases, once this node leads it.
async fn prepare(groups: Arc<dyn Groups>, cluster: String, group: GroupId, slots: Arc<SlotMap>) {
    let identity = Identity {
        cluster: &cluster,
        group,
        slots: &slots,
    };
    loop {
        if groups.leads(group) {
            match bootstrap(&*groups, identity, PREPARE_PATIENCE).await {
                Ok(()) => return,
                // Whoever leads next begins again; each attempt is all or nothing.
                Err(error) => {
                    tracing::info!(%group, error = crate::cli::whole(&error), "the databases are not prepared yet")
                }
            }
        }
        tokio::time::sleep(PREPARE_EVERY).await;
    }
}

/// A question of a node, or of a tool, to a node.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Ask {
    /// After a DDL: whether it routes by no older catalogue any more. Answer: `bool`.
    HaveSeen {
        database: String,
        versions: Vec<(GroupId, i64)>,
        /// How long the asker waits.
        patience: Duration,
    },
    /// A client wants to cancel what one of its sessions does. Answer: whether it has a session with this key.
    Cancel { process_id: i32, secret_key: Vec<u8> },
    /// Its sessions' open transactions. Answer: `Vec<Transaction>`.
    Transactions,
    /// What is prepared and not settled, on all groups. Answer: [`InDoubtAnswer`].
    InDoubt,
    /// Die when you come to this step; none: at no step. Answer: `true`.
    #[cfg(feature = "failpoints")]
    Arm(Option<coordinator::failpoint::Step>),
}

/// By group: what is in doubt there, or why that is not known.
pub(crate) type InDoubtAnswer = Vec<(GroupId, Result<Vec<InDoubt>, String>)>;

/// How long a node may take to pass a cancel on; it does so also later.
const CANCEL_PATIENCE: Duration = Duration::from_secs(10);

/// How long groups may take to say what is in doubt.
const IN_DOUBT_PATIENCE: Duration = Duration::from_secs(2);

fn answer(
    catalogues: Arc<CatalogueCache>,
    sessions: Arc<Sessions>,
    groups: Arc<dyn Groups>,
) -> shard::node::Above {
    Box::new(move |_from: NodeId, body| {
        let (catalogues, sessions, groups) = (catalogues.clone(), sessions.clone(), groups.clone());
        Box::pin(async move {
            let answer = match postcard::from_bytes::<Ask>(&body) {
                Ok(Ask::HaveSeen {
                    database,
                    versions,
                    patience,
                }) => {
                    let versions = versions
                        .into_iter()
                        .map(|(group, version)| (group, CatalogueVersion(version)));
                    let deadline = Instant::now() + patience;
                    let seen = catalogues
                        .has_seen(&database, &versions.collect::<Vec<_>>(), deadline)
                        .await;
                    postcard::to_stdvec(&seen)
                }
                Ok(Ask::Cancel {
                    process_id,
                    secret_key,
                }) => postcard::to_stdvec(&sessions.cancel(&*groups, process_id, &secret_key).await),
                Ok(Ask::Transactions) => postcard::to_stdvec(&sessions.transactions()),
                Ok(Ask::InDoubt) => postcard::to_stdvec(&in_doubt(&*groups, IN_DOUBT_PATIENCE).await),
                #[cfg(feature = "failpoints")]
                Ok(Ask::Arm(step)) => {
                    coordinator::failpoint::arm(step);
                    postcard::to_stdvec(&true)
                }
                // Of another version: an answer that is none, and the asker does without.
                Err(_) => Ok(Vec::new()),
            };
            answer.expect("plain values can be encoded").into()
        })
    })
}

/// The other nodes of the cluster.
struct OtherNodes {
    asker: Asker,
}

impl fmt::Debug for OtherNodes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OtherNodes").finish_non_exhaustive()
    }
}

impl OtherNodes {
    /// Asks all of them at once; none for one that gives no answer.
    async fn ask_all<T: DeserializeOwned>(&self, question: &Ask, patience: Duration) -> Vec<Option<T>> {
        self.ask_those(|_| true, question, patience).await
    }

    /// Asks those among them at once.
    async fn ask_those<T: DeserializeOwned>(
        &self,
        whom: impl Fn(NodeId) -> bool,
        question: &Ask,
        patience: Duration,
    ) -> Vec<Option<T>> {
        let body = bytes::Bytes::from(postcard::to_stdvec(question).expect("plain values can be encoded"));
        let ask = |node| {
            let body = body.clone();
            async move {
                let answer = self.asker.ask(node, body, patience).await.ok()?;
                postcard::from_bytes(&answer).ok()
            }
        };
        join_all(self.asker.others().filter(|node| whom(*node)).map(ask)).await
    }
}

impl Peers for OtherNodes {
    fn have_seen<'a>(
        &'a self,
        database: &'a str,
        versions: &'a [(GroupId, CatalogueVersion)],
        deadline: Instant,
    ) -> BoxFuture<'a, bool> {
        Box::pin(async move {
            let patience = deadline.saturating_duration_since(Instant::now());
            let question = Ask::HaveSeen {
                database: database.to_owned(),
                versions: versions
                    .iter()
                    .map(|(group, version)| (*group, version.0))
                    .collect(),
                patience,
            };
            // A node that does not answer waits the lease out instead.
            let seen: Vec<Option<bool>> = self.ask_all(&question, patience).await;
            seen.into_iter().all(|seen| seen == Some(true))
        })
    }

    fn cancel<'a>(&'a self, process_id: i32, secret_key: &'a [u8]) -> BoxFuture<'a, bool> {
        Box::pin(async move {
            let question = Ask::Cancel {
                process_id,
                secret_key: secret_key.to_vec(),
            };
            let whom = |node| proxy::may_be_of(process_id, node);
            let answers: Vec<Option<bool>> = self.ask_those(whom, &question, CANCEL_PATIENCE).await;
            answers.into_iter().any(|known| known != Some(false))
        })
    }

    fn transactions(&self, patience: Duration) -> BoxFuture<'_, Vec<Transaction>> {
        Box::pin(async move {
            let all: Vec<Option<Vec<Transaction>>> = self.ask_all(&Ask::Transactions, patience).await;
            all.into_iter().flatten().flatten().collect()
        })
    }
}
