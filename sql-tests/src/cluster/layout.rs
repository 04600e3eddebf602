//! Ports, folders and configurations of a test's cluster.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use ops::config::{ClusterConfig, NodeAddresses};
use rand::Rng;
use shard::id::{GroupId, NodeId};
use tempfile::TempDir;

use super::Options;
use super::relay::Relays;
use crate::Result;

/// Below the ports that the system gives to outgoing connections, so that a killed node finds its
/// ports free when it comes back.
const PORTS: std::ops::Range<u16> = 17_000..31_000;
/// Not a secret.
const SECRET: &str = "a secret for tests only";

/// A folder that the user that PostgreSQL runs as can pass through.
pub(super) fn folder() -> Result<TempDir> {
    let dir = tempfile::Builder::new().prefix("howdah-test-").tempdir()?;
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o711))?;
    Ok(dir)
}

/// Free ports: for each node one for clients and one for the other nodes.
#[derive(Debug)]
pub(super) struct Ports(BTreeMap<NodeId, NodeAddresses>);

impl Ports {
    pub(super) fn choose(nodes: u16) -> Result<Ports> {
        let first = rand::rng().random_range(PORTS);
        let local = |port: u16| SocketAddr::from(([127, 0, 0, 1], port));
        let mut free = (first..PORTS.end)
            .chain(PORTS.start..first)
            .map(local)
            .filter(|address| TcpListener::bind(address).is_ok());
        let mut next = || free.next().ok_or("no free ports");
        let mut chosen = BTreeMap::new();
        for node in 1..=nodes {
            chosen.insert(
                NodeId(node.into()),
                NodeAddresses {
                    peer: next()?,
                    sql: next()?,
                },
            );
        }
        Ok(Ports(chosen))
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
        nodes: ports.0.clone(),
        groups: (1..=options.groups)
            .map(|group| (GroupId(group), members.clone()))
            .collect(),
    }
}

/// Writes a node's configuration into a folder of its own. Where there are relays, the others'
/// addresses are those of the relays that lead to them.
pub(super) fn write_config(
    dir: &Path,
    node: NodeId,
    cluster: &ClusterConfig,
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
    let file = folder.join("howdah.toml");
    fs::write(&file, text)?;
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600))?;
    Ok(file)
}
