//! What a node must be told about the cluster and itself to hold replicas.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::id::{GroupId, NodeId};
use crate::postgres::MAX_CONNECTIONS;
use crate::tls::NodeTls;

/// A node's replicas and its peers. Validated by whoever parses it; see [`Config::validate`].
#[derive(Clone, Debug)]
pub struct Config {
    /// This node.
    pub node: NodeId,
    /// The cluster's name: nodes of another cluster are refused.
    pub cluster: String,
    /// The secret that all nodes of the cluster share; at least 16 bytes.
    pub secret: String,
    /// Its certificate, and whom it believes, for TLS between nodes; none: they talk in the clear.
    pub tls: Option<NodeTls>,
    /// Where this node keeps everything.
    pub data_dir: PathBuf,
    /// Every node's node-to-node address, this one's included (it listens there).
    pub nodes: BTreeMap<NodeId, SocketAddr>,
    /// Every group of the cluster and the nodes that hold its replicas.
    pub groups: BTreeMap<GroupId, Vec<NodeId>>,
    /// The PostgreSQL servers.
    pub postgres: PostgresConfig,
    /// Clocks of failure detection.
    pub timing: Timing,
    /// Bounds on what the log keeps.
    pub log: LogConfig,
}

/// How PostgreSQL is found and run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PostgresConfig {
    /// The folder of `postgres`, `initdb`, ...; where absent, PATH and the distribution's folders.
    pub bin_dir: Option<PathBuf>,
    /// The operating-system user to run as where the node runs as root (PostgreSQL refuses root).
    pub user: Option<String>,
    /// Extra settings for `postgresql.conf`, the same on every node.
    pub settings: BTreeMap<String, String>,
}

impl PostgresConfig {
    /// How many connections each PostgreSQL takes. With a value that is no number it does not start.
    #[must_use]
    pub fn max_connections(&self) -> usize {
        let value = self.settings.get("max_connections").map(String::as_str);
        value.unwrap_or(MAX_CONNECTIONS).trim().parse().unwrap_or(0)
    }
}

/// Failure detection. All nodes of a cluster must agree on these.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Timing {
    /// How often a leader without other traffic is heard.
    pub heartbeat: Duration,
    /// How long a follower waits for its leader before it asks for votes, at least; it is also
    /// the lease in which it votes for nobody else.
    pub election: Duration,
}

impl Default for Timing {
    fn default() -> Timing {
        Timing {
            heartbeat: Duration::from_millis(100),
            election: Duration::from_millis(700),
        }
    }
}

/// Bounds on the Raft log of a group on one node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogConfig {
    /// WAL bytes kept for replicas that were away a moment: these catch up from the log.
    pub keep_bytes: u64,
    /// WAL bytes after which a replica that is further behind is rebuilt by base backup instead.
    pub max_bytes: u64,
}

impl Default for LogConfig {
    fn default() -> LogConfig {
        LogConfig {
            keep_bytes: 128 << 20,
            max_bytes: 1 << 30,
        }
    }
}

/// A configuration that cannot work, in words for the operator.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// This node has no address.
    #[error("node {0} is not among the nodes of the cluster")]
    UnknownNode(NodeId),
    /// A group with a member that does not exist, or none, or one twice.
    #[error("group {0} must name each of its nodes once, and at least one, out of the cluster's nodes")]
    BadGroup(GroupId),
    /// No group at all.
    #[error("the cluster has no group")]
    NoGroups,
    /// Too short a secret.
    #[error("the cluster's secret must have at least 16 bytes")]
    WeakSecret,
    /// Heartbeats too rare for the election time.
    #[error("the election time must be at least three heartbeats")]
    BadTiming,
}

impl Config {
    /// Refuses what cannot work.
    pub fn validate(&self) -> Result<(), ConfigError> {
        if !self.nodes.contains_key(&self.node) {
            return Err(ConfigError::UnknownNode(self.node));
        }
        if self.groups.is_empty() {
            return Err(ConfigError::NoGroups);
        }
        for (group, members) in &self.groups {
            let mut distinct = members.clone();
            distinct.sort_unstable();
            distinct.dedup();
            let known = distinct.iter().all(|member| self.nodes.contains_key(member));
            if members.is_empty() || distinct.len() != members.len() || !known {
                return Err(ConfigError::BadGroup(*group));
            }
        }
        if self.secret.len() < 16 {
            return Err(ConfigError::WeakSecret);
        }
        if self.timing.election < self.timing.heartbeat * 3 {
            return Err(ConfigError::BadTiming);
        }
        Ok(())
    }
}
