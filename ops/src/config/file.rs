//! The configuration file, as it is written: TOML, unknown names refused.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;

use serde::Deserialize;
use shard::id::{GroupId, NodeId};
use toml::Spanned;

use super::units::{Size, Span};

/// The whole file. The same file may serve every node of a cluster: then `node` and `data_dir`
/// come from the environment or a flag.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct File {
    pub(super) node: Option<Spanned<NodeId>>,
    pub(super) cluster: Spanned<String>,
    pub(super) secret: Option<Spanned<String>>,
    pub(super) secret_file: Option<Spanned<PathBuf>>,
    pub(super) data_dir: Option<PathBuf>,
    pub(super) log: Option<String>,
    pub(super) nodes: Vec<Spanned<NodeEntry>>,
    pub(super) groups: Vec<Spanned<GroupEntry>>,
    #[serde(default)]
    pub(super) tls: Option<Spanned<TlsSection>>,
    #[serde(default)]
    pub(super) sql: SqlSection,
    #[serde(default)]
    pub(super) postgres: PostgresSection,
    #[serde(default)]
    pub(super) timing: Option<Spanned<TimingSection>>,
    #[serde(default)]
    pub(super) wal: Option<Spanned<WalSection>>,
}

/// One `[[nodes]]`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct NodeEntry {
    pub(super) id: NodeId,
    /// Where the other nodes reach it.
    pub(super) address: SocketAddr,
    /// Where clients reach it.
    pub(super) sql: SocketAddr,
}

/// One `[[groups]]`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct GroupEntry {
    pub(super) id: GroupId,
    /// The nodes that hold its replicas.
    pub(super) nodes: Vec<NodeId>,
}

/// `[tls]`: certificates for what nodes tell each other.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct TlsSection {
    pub(super) ca_file: Option<PathBuf>,
    pub(super) cert_file: Option<PathBuf>,
    pub(super) key_file: Option<PathBuf>,
}

/// `[sql]`: the port for clients.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SqlSection {
    pub(super) max_sessions: Option<Spanned<usize>>,
    pub(super) max_message: Option<Spanned<Size>>,
    pub(super) max_gathered: Option<Spanned<Size>>,
    pub(super) leader_patience: Option<Spanned<Span>>,
    pub(super) superuser_reserved_connections: Option<Spanned<usize>>,
    pub(super) max_unauthenticated: Option<Spanned<usize>>,
    pub(super) max_unauthenticated_per_address: Option<Spanned<usize>>,
    pub(super) authentication_timeout: Option<Spanned<Span>>,
    pub(super) hba_file: Option<Spanned<PathBuf>>,
    pub(super) ssl: Option<Spanned<bool>>,
    pub(super) ssl_cert_file: Option<PathBuf>,
    pub(super) ssl_key_file: Option<PathBuf>,
}

/// `[postgres]`: the servers.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PostgresSection {
    pub(super) bin_dir: Option<PathBuf>,
    pub(super) user: Option<String>,
    #[serde(default)]
    pub(super) settings: BTreeMap<String, String>,
}

/// `[timing]`: failure detection, the same on every node.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct TimingSection {
    pub(super) heartbeat: Option<Span>,
    pub(super) election: Option<Span>,
}

/// `[wal]`: what each group's log keeps.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct WalSection {
    pub(super) keep: Option<Size>,
    pub(super) max: Option<Size>,
}
