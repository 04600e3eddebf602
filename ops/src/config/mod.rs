//! A node's configuration: parsed and validated once, here.
//!
//! Each setting comes from the first of: a flag, the environment (`HOWDAH_...`), the file, a
//! default. Whatever is wrong is one line that says what and where.

mod error;
mod file;
mod sql;
#[cfg(test)]
mod tests;
mod tls;
mod units;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use proxy::ProxyConfig;
use shard::config::{ConfigError as ShardError, LogConfig, PostgresConfig, Timing};
use shard::id::{GroupId, NodeId};
use shard::tls::NodeTls;
use shard::transport::{CallError, Credentials, call_as_client};
use toml::Spanned;

pub use self::error::ConfigError;
use self::error::Source;
use self::file::{File, NodeEntry};
pub use self::sql::SqlFiles;
pub(crate) use self::tls::stem;

/// The cluster as every node must see it, and as `howdah status` needs it.
#[derive(Clone, Debug)]
pub struct ClusterConfig {
    /// The cluster's name.
    pub cluster: String,
    /// The secret of the node-to-node ports.
    pub secret: String,
    /// With what whoever reads this proves who he is; none where nodes talk in the clear.
    pub tls: Option<NodeTls>,
    /// Every node.
    pub nodes: BTreeMap<NodeId, NodeAddresses>,
    /// Every group and the nodes that hold its replicas.
    pub groups: BTreeMap<GroupId, Vec<NodeId>>,
}

/// Where a node is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NodeAddresses {
    /// By the other nodes.
    pub peer: SocketAddr,
    /// By clients.
    pub sql: SocketAddr,
}

/// Everything that `howdah node` is told.
#[derive(Clone, Debug)]
pub struct NodeConfig {
    /// Its replicas and its peers.
    pub shard: shard::config::Config,
    /// Its port for clients.
    pub sql: ProxyConfig,
    /// The files that tell of who is let in there.
    pub files: SqlFiles,
    /// The whole cluster.
    pub cluster: ClusterConfig,
    /// Where it was read; none where it came as a text.
    pub origin: Option<Origin>,
    /// What is logged, in the form of `RUST_LOG`.
    pub log: String,
}

/// Where a configuration was read.
#[derive(Clone, Debug)]
pub struct Origin {
    /// The file.
    pub path: PathBuf,
    /// What flags and the environment said instead of it.
    pub overrides: Overrides,
}

/// What flags and the environment set instead of the file.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct Overrides {
    /// Which node of the cluster this is.
    #[arg(long, env = "HOWDAH_NODE")]
    pub node: Option<NodeId>,
    /// Where this node keeps everything.
    #[arg(long, env = "HOWDAH_DATA_DIR")]
    pub data_dir: Option<PathBuf>,
    /// Where this node listens for clients, instead of its `sql` address among the nodes.
    #[arg(long, env = "HOWDAH_SQL_LISTEN")]
    pub sql_listen: Option<SocketAddr>,
    /// The file that holds the cluster's secret.
    #[arg(long, env = "HOWDAH_SECRET_FILE")]
    pub secret_file: Option<PathBuf>,
    /// What is logged: error, warn, info, debug, trace, or a list as in RUST_LOG.
    #[arg(long, env = "HOWDAH_LOG")]
    pub log: Option<String>,
}

impl NodeConfig {
    /// Reads a node's configuration.
    pub fn load(path: &Path, overrides: &Overrides) -> Result<NodeConfig, ConfigError> {
        let config = NodeConfig::from_text(path, &read(path)?, overrides)?;
        let origin = Origin {
            path: path.to_owned(),
            overrides: overrides.clone(),
        };
        Ok(NodeConfig {
            origin: Some(origin),
            ..config
        })
    }

    /// As [`NodeConfig::load`], from the text of the file at `path`.
    pub(crate) fn from_text(
        path: &Path,
        text: &str,
        overrides: &Overrides,
    ) -> Result<NodeConfig, ConfigError> {
        let source = Source { path, text };
        let file = parse(&source)?;
        let cluster = cluster(&source, &file, overrides)?;
        let node = match (overrides.node, &file.node) {
            (Some(node), _) => node,
            (None, Some(node)) => *node.get_ref(),
            (None, None) => return Err(source.whole("`node` is missing: which of the nodes this is")),
        };
        let data_dir = match (&overrides.data_dir, &file.data_dir) {
            (Some(dir), _) => dir.clone(),
            (None, Some(dir)) => beside(path, dir),
            (None, None) => {
                return Err(source.whole("`data_dir` is missing: where this node keeps everything"));
            }
        };
        let shard = shard::config::Config {
            node,
            cluster: cluster.cluster.clone(),
            secret: cluster.secret.clone(),
            tls: cluster.tls.clone(),
            data_dir,
            nodes: cluster
                .nodes
                .iter()
                .map(|(id, addresses)| (*id, addresses.peer))
                .collect(),
            groups: cluster.groups.clone(),
            postgres: PostgresConfig {
                bin_dir: file.postgres.bin_dir.clone(),
                user: file.postgres.user.clone(),
                settings: file.postgres.settings.clone(),
            },
            timing: timing(&file),
            log: log_bounds(&source, &file)?,
        };
        shard.validate().map_err(|error| place(&source, &file, error))?;
        let own = cluster.nodes.get(&node).map(|addresses| addresses.sql);
        // `validate` has just refused a node that is not among the cluster's.
        let listen = overrides
            .sql_listen
            .or(own)
            .ok_or_else(|| source.whole("this node has no sql address"))?;
        Ok(NodeConfig {
            sql: sql::sql(&source, &file.sql, listen, &shard)?,
            shard,
            files: SqlFiles::of(path, &file.sql),
            cluster,
            origin: None,
            log: overrides
                .log
                .clone()
                .or_else(|| file.log.clone())
                .unwrap_or_else(|| "info".to_owned()),
        })
    }
}

impl ClusterConfig {
    /// Reads only what tells of the cluster: `node` and `data_dir` may be missing.
    pub fn load(path: &Path, overrides: &Overrides) -> Result<ClusterConfig, ConfigError> {
        let text = read(path)?;
        let source = Source { path, text: &text };
        let file = parse(&source)?;
        cluster(&source, &file, overrides)
    }

    /// Asks a node over its node-to-node port.
    ///
    /// # Errors
    /// Where there is no such node, or no answer.
    pub async fn call(&self, node: NodeId, question: Bytes, patience: Duration) -> Result<Bytes, CallError> {
        let addresses = self.nodes.get(&node).ok_or(CallError::UnknownNode(node))?;
        let credentials = Credentials {
            cluster: self.cluster.clone(),
            secret: self.secret.clone(),
            tls: self.tls.clone(),
        };
        call_as_client(addresses.peer, node, &credentials, question, patience).await
    }
}

/// The cluster's name and nodes alone: what is needed of a configuration before there are certificates.
pub(crate) fn nodes_of(path: &Path) -> Result<(String, BTreeMap<NodeId, NodeAddresses>), ConfigError> {
    let text = read(path)?;
    let source = Source { path, text: &text };
    let file = parse(&source)?;
    Ok((file.cluster.get_ref().clone(), nodes(&source, &file)?))
}

fn read(path: &Path) -> Result<String, ConfigError> {
    std::fs::read_to_string(path).map_err(|source| ConfigError::Read {
        path: path.to_owned(),
        source,
    })
}

fn parse(source: &Source<'_>) -> Result<File, ConfigError> {
    toml::from_str(source.text).map_err(|error| source.refused(&error))
}

/// A relative path of the file means: beside the file.
fn beside(config: &Path, path: &Path) -> PathBuf {
    config.parent().unwrap_or(Path::new(".")).join(path)
}

fn cluster(source: &Source<'_>, file: &File, overrides: &Overrides) -> Result<ClusterConfig, ConfigError> {
    if file.cluster.get_ref().is_empty() {
        return Err(source.at(file.cluster.span(), "the cluster needs a name"));
    }
    let nodes = nodes(source, file)?;
    refuse_clear_text(source, file)?;
    let mut groups = BTreeMap::new();
    for entry in &file.groups {
        let group = entry.get_ref();
        if groups.insert(group.id, group.nodes.clone()).is_some() {
            return Err(source.at(entry.span(), format!("group {} is named twice", group.id)));
        }
    }
    let secret = secret(source, file, overrides)?;
    let node = overrides.node.or(file.node.as_ref().map(|node| *node.get_ref()));
    Ok(ClusterConfig {
        cluster: file.cluster.get_ref().clone(),
        secret,
        tls: tls::tls(source, file, node.filter(|node| nodes.contains_key(node)))?,
        nodes,
        groups,
    })
}

fn nodes(source: &Source<'_>, file: &File) -> Result<BTreeMap<NodeId, NodeAddresses>, ConfigError> {
    let mut nodes = BTreeMap::new();
    for entry in &file.nodes {
        let node = entry.get_ref();
        if node.id == NodeId(0) {
            return Err(source.at(entry.span(), "nodes are counted from 1"));
        }
        let addresses = NodeAddresses {
            peer: node.address,
            sql: node.sql,
        };
        if nodes.insert(node.id, addresses).is_some() {
            return Err(source.at(entry.span(), format!("node {} is named twice", node.id)));
        }
    }
    Ok(nodes)
}

/// Without TLS whoever is on the way between two nodes reads every row, and can change it. Within one machine nobody is.
fn refuse_clear_text(source: &Source<'_>, file: &File) -> Result<(), ConfigError> {
    let open = |node: &NodeEntry| !node.address.ip().is_loopback();
    match file.nodes.iter().find(|entry| open(entry.get_ref())) {
        Some(entry) if file.tls.is_none() => {
            let words = "nodes talk to each other over a network, which needs [tls]: `howdah init` makes the certificates";
            Err(source.at(entry.span(), words))
        }
        _ => Ok(()),
    }
}

/// The secret, from the flag's file, the file's `secret_file`, or the file itself.
fn secret(source: &Source<'_>, file: &File, overrides: &Overrides) -> Result<String, ConfigError> {
    if let Some(path) = &overrides.secret_file {
        private(path).map_err(|what| source.whole(format!("{}: {what}", path.display())))?;
        return read(path).map(|text| text.trim().to_owned());
    }
    match (&file.secret, &file.secret_file) {
        (Some(_), Some(path)) => {
            Err(source.at(path.span(), "give either `secret` or `secret_file`, not both"))
        }
        (None, None) => Err(source.whole("`secret_file` is missing: the file with the cluster's secret")),
        (Some(secret), None) => {
            private(source.path).map_err(|what| source.at(secret.span(), what))?;
            Ok(secret.get_ref().clone())
        }
        (None, Some(path)) => {
            let full = beside(source.path, path.get_ref());
            private(&full).map_err(|what| source.at(path.span(), format!("{}: {what}", full.display())))?;
            read(&full).map(|text| text.trim().to_owned())
        }
    }
}

/// A secret that others can read is none.
fn private(path: &Path) -> Result<(), String> {
    let mode = std::fs::metadata(path)
        .map_err(|error| format!("cannot be read: {error}"))?
        .permissions()
        .mode();
    if mode & 0o077 == 0 {
        Ok(())
    } else {
        Err(format!(
            "holds the cluster's secret but others may read it (mode {:03o}): chmod 600 it",
            mode & 0o777
        ))
    }
}

fn timing(file: &File) -> Timing {
    let default = Timing::default();
    let Some(section) = &file.timing else {
        return default;
    };
    let section = section.get_ref();
    Timing {
        heartbeat: section.heartbeat.map_or(default.heartbeat, |span| span.0),
        election: section.election.map_or(default.election, |span| span.0),
    }
}

fn log_bounds(source: &Source<'_>, file: &File) -> Result<LogConfig, ConfigError> {
    let default = LogConfig::default();
    let Some(spanned) = &file.wal else {
        return Ok(default);
    };
    let section = spanned.get_ref();
    let bounds = LogConfig {
        keep_bytes: section.keep.map_or(default.keep_bytes, |size| size.0),
        max_bytes: section.max.map_or(default.max_bytes, |size| size.0),
    };
    // A standby may ask for its WAL segment from the segment's start.
    if bounds.keep_bytes < 32 << 20 || bounds.max_bytes < bounds.keep_bytes {
        return Err(source.at(
            spanned.span(),
            "wal.keep must be at least 32MiB, and wal.max not less than it",
        ));
    }
    Ok(bounds)
}

/// Finds the place in the file that an error of the whole is about.
fn place(source: &Source<'_>, file: &File, error: ShardError) -> ConfigError {
    let span = match &error {
        ShardError::UnknownNode(_) => file.node.as_ref().map(Spanned::span),
        ShardError::BadGroup(group) => file
            .groups
            .iter()
            .find(|entry| entry.get_ref().id == *group)
            .map(Spanned::span),
        ShardError::WeakSecret => file
            .secret
            .as_ref()
            .map(Spanned::span)
            .or(file.secret_file.as_ref().map(Spanned::span)),
        ShardError::BadTiming => file.timing.as_ref().map(Spanned::span),
        _ => None,
    };
    match span {
        Some(span) => source.at(span, error.to_string()),
        None => source.whole(error.to_string()),
    }
}
