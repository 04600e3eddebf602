//! One node: its replicas, what it knows of the tables, and its port for clients.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use coordinator::catalogue::CatalogueVersion;
use coordinator::catalogue::bootstrap::{Identity, bootstrap};
use coordinator::catalogue::cache::CatalogueCache;
use coordinator::slots::{MapEpoch, SlotMap, SlotMapError};
use coordinator::transaction::{Settler, Transactions, recover};
use futures::future::{BoxFuture, join_all};
use proxy::{Limits, Listener, Peers, ProxyConfig, ProxyError};
use serde::{Deserialize, Serialize};
use shard::client::Groups;
use shard::id::{GroupId, NodeId};
use shard::node::{Asker, Node};
use tokio_util::sync::CancellationToken;

use crate::config::NodeConfig;

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

/// Runs a node until `shutdown` is cancelled; returns when everything that it started has stopped.
///
/// # Errors
/// When it cannot start: ports in use, no PostgreSQL, a data directory that is not its own.
pub async fn run(config: NodeConfig, shutdown: CancellationToken) -> Result<(), NodeError> {
    let me = config.shard.node;
    let cluster = config.shard.cluster.clone();
    tracing::info!(node = %me, cluster, "starting");
    // The ports first: where they are taken another node runs here, and nothing must be touched.
    let listener = Listener::bind(proxy_config(&config)).await?;
    let settler = Arc::new(Settler::default());
    let node = Node::start(config.shard, Some(settler.clone())).await?;
    let groups = node.groups();
    settler.reach(groups.clone());
    let slots = Arc::new(SlotMap::place(MapEpoch(1), groups.groups())?);
    let catalogues = Arc::new(CatalogueCache::start(groups.clone()));
    node.answer_above(answer(catalogues.clone()));
    let peers = Arc::new(OtherNodes { asker: node.asker() });

    let background = CancellationToken::new();
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

fn proxy_config(config: &NodeConfig) -> ProxyConfig {
    ProxyConfig {
        listen: config.sql.listen,
        limits: Limits {
            max_client_connections: config.sql.max_sessions,
            max_message: config.sql.max_message,
            leader_wait: config.sql.leader_patience,
            ..Limits::default()
        },
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

/// A node's question to another after a DDL.
#[derive(Debug, Serialize, Deserialize)]
struct HaveSeen {
    database: String,
    versions: Vec<(GroupId, i64)>,
    /// How long the asker waits.
    patience: Duration,
}

fn answer(catalogues: Arc<CatalogueCache>) -> shard::node::Above {
    Box::new(move |_from: NodeId, body| {
        let catalogues = catalogues.clone();
        Box::pin(async move {
            let seen = match postcard::from_bytes::<HaveSeen>(&body) {
                Ok(question) => {
                    let versions: Vec<_> = question
                        .versions
                        .into_iter()
                        .map(|(group, version)| (group, CatalogueVersion(version)))
                        .collect();
                    let deadline = Instant::now() + question.patience;
                    catalogues.has_seen(&question.database, &versions, deadline).await
                }
                // A node of another version: it waits the lease out instead.
                Err(_) => false,
            };
            vec![u8::from(seen)].into()
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

impl Peers for OtherNodes {
    fn have_seen<'a>(
        &'a self,
        database: &'a str,
        versions: &'a [(GroupId, CatalogueVersion)],
        deadline: Instant,
    ) -> BoxFuture<'a, bool> {
        Box::pin(async move {
            let patience = deadline.saturating_duration_since(Instant::now());
            let question = HaveSeen {
                database: database.to_owned(),
                versions: versions
                    .iter()
                    .map(|(group, version)| (*group, version.0))
                    .collect(),
                patience,
            };
            let body =
                bytes::Bytes::from(postcard::to_stdvec(&question).expect("plain values can be encoded"));
            let ask = |node| {
                let body = body.clone();
                async move { matches!(self.asker.ask(node, body, patience).await.as_deref(), Ok([1])) }
            };
            join_all(self.asker.others().map(ask))
                .await
                .into_iter()
                .all(|seen| seen)
        })
    }
}
