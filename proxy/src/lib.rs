//! What a client sees: the PostgreSQL protocol, SQL analysis, routing, pooling, merging.
//!
//! [`run`] is the door. [`analysis`] says what a statement is and where it may run; `session` conducts
//! each client's messages; `access` says who is let in; `protocol` is the wire format; `failure` has the words for what goes wrong.
//! `console` is for operators, and knows of sessions what `registry` says.

mod access;
pub mod analysis;
mod cancel;
mod config;
mod console;
mod deadlock;
mod failure;
#[cfg(any(test, feature = "fuzz"))]
#[doc(hidden)]
pub mod fuzz;
mod listener;
pub mod operations;
mod protocol;
mod registry;
mod session;
pub mod status;
mod tls;

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use coordinator::catalogue::CatalogueVersion;
use coordinator::catalogue::cache::CatalogueCache;
use coordinator::cut::Cuts;
use coordinator::deadlock::Transaction;
use coordinator::roles::Roles;
use coordinator::sequences::Sequences;
use coordinator::transaction::Transactions;
use coordinator::waiting::Waits;
use futures::future::BoxFuture;
use shard::client::Groups;
use shard::id::GroupId;

pub use access::{Hba, HbaError, Places};
pub use cancel::{Sessions, may_be_of};
pub use config::{Limits, ProxyConfig};
pub use listener::{Listener, ProxyError, Reload, run};
pub use tls::Tls;

/// The other nodes, as far as sessions need them.
pub trait Peers: Send + Sync + fmt::Debug + 'static {
    /// Whether every other node routes by no older catalogue of this database than these versions
    /// any more ([`CatalogueCache::has_seen`] on each). Gives up at `deadline`.
    fn have_seen<'a>(
        &'a self,
        database: &'a str,
        versions: &'a [(GroupId, CatalogueVersion)],
        deadline: Instant,
    ) -> BoxFuture<'a, bool>;

    /// A client wants to cancel what a session of another node does: passes it on to that node ([`Sessions::cancel`]). `false`
    /// where no node has such a session, and not where one did not answer.
    fn cancel<'a>(&'a self, process_id: i32, secret_key: &'a [u8]) -> BoxFuture<'a, bool>;

    /// The open transactions of other nodes; without those of nodes that do not answer in time.
    fn transactions(&self, patience: Duration) -> BoxFuture<'_, Vec<Transaction>>;
}

/// There are no other nodes.
#[derive(Clone, Copy, Debug)]
pub struct NoPeers;

impl Peers for NoPeers {
    fn have_seen<'a>(
        &'a self,
        _database: &'a str,
        _versions: &'a [(GroupId, CatalogueVersion)],
        _deadline: Instant,
    ) -> BoxFuture<'a, bool> {
        Box::pin(std::future::ready(true))
    }

    fn cancel<'a>(&'a self, _process_id: i32, _secret_key: &'a [u8]) -> BoxFuture<'a, bool> {
        Box::pin(std::future::ready(false))
    }

    fn transactions(&self, _patience: Duration) -> BoxFuture<'_, Vec<Transaction>> {
        Box::pin(std::future::ready(Vec::new()))
    }
}

/// What all sessions of a node share.
#[derive(Clone, Debug)]
pub(crate) struct Shared {
    pub(crate) groups: Arc<dyn Groups>,
    pub(crate) catalogues: Arc<CatalogueCache>,
    pub(crate) transactions: Transactions,
    pub(crate) cuts: Arc<Cuts>,
    pub(crate) sequences: Arc<Sequences>,
    pub(crate) peers: Arc<dyn Peers>,
    pub(crate) sessions: Arc<cancel::Sessions>,
    pub(crate) registry: Arc<registry::Registry>,
    pub(crate) operations: Arc<dyn operations::Operations>,
    pub(crate) plans: Arc<session::PlanCache>,
    pub(crate) waits: Arc<Waits>,
    pub(crate) pool: Arc<session::Pool>,
    pub(crate) limits: Limits,
    pub(crate) tls: Option<Tls>,
    pub(crate) hba: Arc<Hba>,
    pub(crate) roles: Arc<Roles>,
    pub(crate) places: Arc<Places>,
    pub(crate) mock_authentication_nonce: [u8; 32],
}
