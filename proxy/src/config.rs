//! What the proxy is told at its start.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::access::Hba;
use crate::operations::{NoOperations, Operations};
use crate::tls::Tls;

/// The SQL port of one node and its limits.
#[derive(Clone, Debug)]
pub struct ProxyConfig {
    /// Where clients connect.
    pub listen: SocketAddr,
    /// What bounds them.
    pub limits: Limits,
    /// With what they may encrypt; none: SSLRequest is answered with no.
    pub tls: Option<Tls>,
    /// Who is let in.
    pub hba: Hba,
    /// From it comes what roles are shown that do not exist. It stays the same, and is the same on all nodes: else what is
    /// made up could be told from what is not.
    pub mock_authentication_nonce: [u8; 32],
    /// The node around it, for the console.
    pub operations: Arc<dyn Operations>,
}

impl ProxyConfig {
    /// Listens on `listen` with the default limits, and lets in who knows a password.
    #[must_use]
    pub fn new(listen: SocketAddr) -> Self {
        ProxyConfig {
            listen,
            limits: Limits::default(),
            tls: None,
            hba: Hba::passwords_only(),
            mock_authentication_nonce: rand::random(),
            operations: Arc::new(NoOperations),
        }
    }
}

/// Bounds on what clients can make this node hold, and on how long they are kept waiting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Sessions at a time; one more is told 53300.
    pub max_client_connections: usize,
    /// How many of them are kept for superusers.
    pub superuser_reserved_connections: usize,
    /// Connections at a time that have not proved who they are, beside the sessions. A slow or hostile client holds one for
    /// `authentication_timeout`.
    pub max_unauthenticated: usize,
    /// How many of these may come from one address (of IPv6, one network of 64 bits).
    pub max_unauthenticated_per_address: usize,
    /// Sessions of this node that work at a time, and so backends of each group that it has; one more waits. All nodes
    /// together should leave some of PostgreSQL's `max_connections` to others.
    pub max_backends: usize,
    /// How long a session waits until it may work before its statement fails with 53300.
    pub backend_wait: Duration,
    /// The longest message that a client may send, in bytes: it is held in memory until it is routed.
    pub max_message: usize,
    /// The rows that one query may gather from several groups, in bytes: they are held in memory until PostgreSQL has them.
    pub max_gathered: usize,
    /// Prepared statements that one session may hold.
    pub max_prepared_statements: usize,
    /// Texts whose analysis is remembered, over all sessions.
    pub analysed_texts: usize,
    /// How long a client may take to prove who it is.
    pub authentication_timeout: Duration,
    /// How long a statement waits for its group to have a leader before it fails with 57P03.
    pub leader_wait: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            max_client_connections: 500,
            superuser_reserved_connections: 3,
            max_unauthenticated: 400,
            max_unauthenticated_per_address: 200,
            max_backends: 80,
            backend_wait: Duration::from_secs(15),
            max_message: 256 << 20,
            max_gathered: 64 << 20,
            max_prepared_statements: 10_000,
            analysed_texts: 10_000,
            authentication_timeout: Duration::from_secs(60),
            leader_wait: Duration::from_secs(5),
        }
    }
}
