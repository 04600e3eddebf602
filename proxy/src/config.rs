//! What the proxy is told at its start.

use std::net::SocketAddr;
use std::time::Duration;

/// The SQL port of one node and its limits.
#[derive(Clone, Debug)]
pub struct ProxyConfig {
    /// Where clients connect.
    pub listen: SocketAddr,
    /// What bounds them.
    pub limits: Limits,
}

impl ProxyConfig {
    /// Listens on `listen` with the default limits.
    #[must_use]
    pub fn new(listen: SocketAddr) -> Self {
        ProxyConfig {
            listen,
            limits: Limits::default(),
        }
    }
}

/// Bounds on what clients can make this node hold, and on how long they are kept waiting.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Client connections at a time; one more is told 53300.
    pub max_client_connections: usize,
    /// Sessions of this node that work at a time, and so backends of each group that it has; one more waits. All nodes
    /// together should leave some of PostgreSQL's `max_connections` to others.
    pub max_backends: usize,
    /// How long a session waits until it may work before its statement fails with 53300.
    pub backend_wait: Duration,
    /// The longest message that a client may send, in bytes: it is held in memory until it is routed.
    pub max_message: usize,
    /// Prepared statements that one session may hold.
    pub max_prepared_statements: usize,
    /// Texts whose analysis is remembered, over all sessions.
    pub analysed_texts: usize,
    /// How long a client may take to say who it is.
    pub startup_timeout: Duration,
    /// How long a statement waits for its group to have a leader before it fails with 57P03.
    pub leader_wait: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            max_client_connections: 500,
            max_backends: 80,
            backend_wait: Duration::from_secs(15),
            max_message: 256 << 20,
            max_prepared_statements: 10_000,
            analysed_texts: 10_000,
            startup_timeout: Duration::from_secs(10),
            leader_wait: Duration::from_secs(5),
        }
    }
}
