//! Ports, folders and configurations of a test's cluster.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU8, Ordering};

use ops::config::{ClusterConfig, NodeAddresses};
use shard::id::{GroupId, NodeId};
use shard::tls::{Files, NodeTls};
use tempfile::TempDir;

use super::relay::Relays;
use super::{Options, Traffic};
use crate::Result;

/// Not a secret.
const SECRET: &str = "a secret for tests only";

/// A folder that the user that PostgreSQL runs as can pass through.
pub(super) fn folder() -> Result<TempDir> {
    let dir = tempfile::Builder::new().prefix("howdah-test-").tempdir()?;
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o711))?;
    Ok(dir)
}

/// For each node a port for clients and one for the other nodes.
#[derive(Debug)]
pub(super) struct Ports(BTreeMap<NodeId, NodeAddresses>);

impl Ports {
    /// On a loopback address that is nobody else's: no other socket can have a port there, also
    /// while the node that listens on it is down.
    pub(super) fn of(nodes: u16) -> Ports {
        static CLUSTERS: AtomicU8 = AtomicU8::new(1);
        let [_, _, high, low] = std::process::id().to_be_bytes();
        let cluster = CLUSTERS.fetch_add(1, Ordering::Relaxed);
        let local = |port| SocketAddr::from(([127, 128 + high % 64, low, cluster], port));
        let addresses = |node| NodeAddresses {
            peer: local(7431 + node),
            sql: local(6431 + node),
        };
        Ports(
            (1..=nodes)
                .map(|node| (NodeId(node.into()), addresses(node)))
                .collect(),
        )
    }

    /// For clients, in the order of the nodes.
    pub(super) fn sql_addresses(&self) -> Vec<SocketAddr> {
        self.0.values().map(|addresses| addresses.sql).collect()
    }

    pub(super) fn peer_addresses(&self) -> BTreeMap<NodeId, SocketAddr> {
        self.0
            .iter()
            .map(|(node, addresses)| (*node, addresses.peer))
            .collect()
    }
}

pub(super) fn cluster_config(options: &Options, ports: &Ports) -> ClusterConfig {
    let members: Vec<NodeId> = ports.0.keys().copied().collect();
    ClusterConfig {
        cluster: "test".to_owned(),
        secret: SECRET.to_owned(),
        tls: None,
        nodes: ports.0.clone(),
        groups: (1..=options.groups)
            .map(|group| (GroupId(group), members.clone()))
            .collect(),
    }
}

/// Has `program` make an authority and the nodes' certificates, as an operator does, and takes the operator's own.
pub(super) fn make_certificates(program: &Path, dir: &Path, config: &Path) -> Result<NodeTls> {
    let folder = dir.join("certs");
    let mut init = Command::new(program);
    init.arg("init")
        .arg("--config")
        .arg(config)
        .arg("--dir")
        .arg(&folder);
    let made = init.output()?;
    if !made.status.success() {
        return Err(format!("howdah init: {}", String::from_utf8_lossy(&made.stderr)).into());
    }
    let files = Files {
        ca: folder.join("ca.crt"),
        certificate: folder.join("operator.crt"),
        key: folder.join("operator.key"),
    };
    Ok(NodeTls::load(&files, "test", Some(NodeId(0)))?)
}

/// Writes a node's configuration into a folder of its own. Where there are relays, the others'
/// addresses are those of the relays that lead to them.
pub(super) fn write_config(
    dir: &Path,
    node: NodeId,
    cluster: &ClusterConfig,
    options: &Options,
    relays: Option<&Relays>,
) -> Result<PathBuf> {
    let folder = dir.join(format!("n{node}"));
    fs::create_dir(&folder)?;
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o711))?;
    let mut text = format!(
        "node = {node}\ncluster = {:?}\nsecret = {:?}\ndata_dir = \"data\"\n",
        cluster.cluster, cluster.secret
    );
    for (other, addresses) in &cluster.nodes {
        let relay = relays.and_then(|relays| relays.address(node, *other));
        let peer = relay.unwrap_or(addresses.peer);
        write!(
            text,
            "[[nodes]]\nid = {other}\naddress = \"{peer}\"\nsql = \"{}\"\n",
            addresses.sql
        )?;
    }
    for (group, members) in &cluster.groups {
        let members: Vec<String> = members.iter().map(ToString::to_string).collect();
        write!(
            text,
            "[[groups]]\nid = {group}\nnodes = [{}]\n",
            members.join(", ")
        )?;
    }
    if options.traffic == Traffic::Encrypted {
        let own = format!("../certs/node{node}");
        write!(
            text,
            "[tls]\nca_file = \"../certs/ca.crt\"\ncert_file = \"{own}.crt\"\nkey_file = \"{own}.key\"\n"
        )?;
    }
    text.push_str("[sql]\nhba_file = \"pg_hba.conf\"\n");
    fs::write(folder.join("pg_hba.conf"), "host all all 127.0.0.0/8 trust\n")?;
    if let Some(max_sessions) = options.max_sessions {
        writeln!(text, "max_sessions = {max_sessions}")?;
    }
    let file = folder.join("howdah.toml");
    fs::write(&file, text)?;
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600))?;
    Ok(file)
}
