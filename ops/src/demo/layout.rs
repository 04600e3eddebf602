//! What lies in a demo's data folder.
//!
//! ```text
//! demo.toml            nodes, shards and ports, as chosen at the first start
//! demo.pid             who runs it now (locked while it runs)
//! demo.log             what the background process of --detach says
//! secret               the secret of the node-to-node ports
//! certs/               the authority of the nodes' certificates, and these: see `certificates`
//! pg_hba.conf          who is let in: at first everybody from this machine; yours to change
//! node1/howdah.toml    a node's configuration, written at each start
//! node1/log            what the node logs
//! node1/data/          what the node keeps
//! ```

use std::fmt::Write;
use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rand::Rng;
use serde::{Deserialize, Serialize};

use shard::id::NodeId;
use shard::tls::NodeTls;

use super::StartArgs;
use super::error::{DemoError, file};
use crate::certificates::{CertificatesError, Office};

/// Below the ports that the system gives to outgoing connections (from 32768), so that a node
/// that was away for a moment finds its port free.
const PEER_PORTS: std::ops::Range<u16> = 17_000..31_000;

/// What every demo is called.
const CLUSTER: &str = "demo";

/// The rules of a demo, until somebody changes them.
const HBA: &str = "\
# Who is let in, in the format of PostgreSQL's pg_hba.conf. A demo trusts everybody on this machine, and its
# nodes listen nowhere else. After a change: kill -HUP the nodes.
# TYPE  DATABASE  USER  ADDRESS       METHOD
host    all       all   127.0.0.1/32  trust
host    all       all   ::1/128       trust
";

/// A demo's stored facts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Facts {
    nodes: u16,
    shards: u32,
    /// The first node's port for clients.
    port: u16,
    /// Each node's node-to-node port.
    peer_ports: Vec<u16>,
}

/// A demo's data folder, ready to start the nodes in.
#[derive(Clone, Debug)]
pub(super) struct Layout {
    data: PathBuf,
    facts: Facts,
}

/// What stops a demo.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stop {
    /// It runs at a terminal.
    CtrlC,
    /// It runs in the background.
    Command,
}

/// Where a demo lives unless told otherwise: where the user that PostgreSQL runs as can get to.
#[must_use]
pub fn default_data_dir() -> PathBuf {
    if rustix::process::geteuid().is_root() {
        return PathBuf::from("/var/lib/howdah-demo");
    }
    let home = || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".local/share"));
    let base = std::env::var_os("XDG_DATA_HOME").map(PathBuf::from).or_else(home);
    base.unwrap_or_else(std::env::temp_dir).join("howdah-demo")
}

/// The configuration of one node of the demo; each tells of the whole cluster.
#[must_use]
pub fn any_node_config(data: &Path) -> PathBuf {
    data.join("node1").join("howdah.toml")
}

/// Makes the data folder, if it is not there, and checks that PostgreSQL will get to it.
pub(super) fn make_data_dir(data: &Path) -> Result<(), DemoError> {
    make_dir(data)?;
    if !rustix::process::geteuid().is_root() {
        return Ok(());
    }
    let full = data.canonicalize().map_err(file(data, "cannot be read"))?;
    for folder in full.ancestors() {
        let mode = fs::metadata(folder)
            .map_err(file(folder, "cannot be read"))?
            .permissions()
            .mode();
        if mode & 0o001 == 0 {
            return Err(DemoError::Unreachable {
                data: data.to_owned(),
                closed: folder.to_owned(),
            });
        }
    }
    Ok(())
}

impl Layout {
    /// Opens a demo's data, or lays it out at the first start. Call it under the lock.
    pub(super) fn open(data: &Path, args: &StartArgs) -> Result<Layout, DemoError> {
        let data = data.canonicalize().map_err(file(data, "cannot be read"))?;
        let facts = match read_facts(&data)? {
            Some(stored) => agree(&data, stored, args)?,
            None => {
                refuse_strangers(&data)?;
                let nodes = args.nodes.unwrap_or(3);
                let (shards, port) = (args.shards.unwrap_or(2), args.port.unwrap_or(6432));
                Facts {
                    nodes,
                    shards,
                    port,
                    peer_ports: Vec::new(),
                }
            }
        };
        let mut layout = Layout { data, facts };
        for node in layout.nodes() {
            let port = layout.sql_port(node);
            is_free(port).map_err(|source| DemoError::PortInUse { port, source })?;
        }
        layout.choose_peer_ports()?;
        layout.write()?;
        Ok(layout)
    }

    /// The nodes, counted from 1.
    pub(super) fn nodes(&self) -> std::ops::RangeInclusive<u16> {
        1..=self.facts.nodes
    }

    /// A node's folder.
    pub(super) fn node_dir(&self, node: u16) -> PathBuf {
        self.data.join(format!("node{node}"))
    }

    /// A node's configuration.
    pub(super) fn node_config(&self, node: u16) -> PathBuf {
        self.node_dir(node).join("howdah.toml")
    }

    /// A node's log.
    pub(super) fn node_log(&self, node: u16) -> PathBuf {
        self.node_dir(node).join("log")
    }

    /// Its size, in words.
    pub(super) fn describe(&self) -> String {
        let (nodes, shards, replicas) = (self.facts.nodes, self.facts.shards, self.replicas());
        let plural = |count: u64| if count == 1 { "" } else { "s" };
        format!(
            "{nodes} node{}, {shards} group{} of {replicas} replica{}",
            plural(nodes.into()),
            plural(shards.into()),
            plural(replicas.into()),
        )
    }

    /// How to use it, and how to stop it besides `howdah demo stop`.
    pub(super) fn welcome(&self, stop: Stop) -> String {
        let mut text = format!("ready: {}\n\n", self.describe());
        for node in self.nodes() {
            // Writing to a String cannot fail.
            let _ = writeln!(text, "  psql -h 127.0.0.1 -p {} -U postgres", self.sql_port(node));
        }
        let howdah = std::env::current_exe().unwrap_or_else(|_| PathBuf::from("howdah"));
        let (howdah, data) = (howdah.display(), self.data.display());
        let _ = write!(
            text,
            "\nEvery port serves the same database. How it is:  {howdah} status --data {data}\n"
        );
        let also = match stop {
            Stop::CtrlC => "Ctrl-C, or  ",
            Stop::Command => "",
        };
        let _ = writeln!(
            text,
            "To stop it (the data stays):  {also}{howdah} demo stop --data {data}"
        );
        text
    }

    fn sql_port(&self, node: u16) -> u16 {
        self.facts.port.saturating_add(node - 1)
    }

    /// Three replicas survive the loss of one; fewer nodes hold fewer.
    fn replicas(&self) -> u16 {
        self.facts.nodes.min(3)
    }

    /// The nodes of a group: neighbours, so that each node has its share.
    fn members(&self, shard: u32) -> Vec<u32> {
        let nodes = u32::from(self.facts.nodes);
        let mut members: Vec<u32> = (0..u32::from(self.replicas()))
            .map(|step| (shard - 1 + step) % nodes + 1)
            .collect();
        members.sort_unstable();
        members
    }

    /// Keeps the ports of the last start, unless a stranger has taken one since.
    fn choose_peer_ports(&mut self) -> Result<(), DemoError> {
        let known = &self.facts.peer_ports;
        if known.len() == usize::from(self.facts.nodes) && known.iter().all(|port| is_free(*port).is_ok()) {
            return Ok(());
        }
        let first = rand::rng().random_range(PEER_PORTS);
        let free: Vec<u16> = (first..PEER_PORTS.end)
            .chain(PEER_PORTS.start..first)
            .filter(|port| self.nodes().all(|node| self.sql_port(node) != *port))
            .filter(|port| is_free(*port).is_ok())
            .take(usize::from(self.facts.nodes))
            .collect();
        if free.len() < usize::from(self.facts.nodes) {
            return Err(DemoError::NoPorts {
                from: PEER_PORTS.start,
                to: PEER_PORTS.end - 1,
            });
        }
        self.facts.peer_ports = free;
        Ok(())
    }

    /// Writes what the nodes read. A crash here leaves a folder that the next start completes:
    /// the facts come last, and everything before them is written anew.
    fn write(&self) -> Result<(), DemoError> {
        let secret = self.data.join("secret");
        if !secret.exists() {
            write_private(&secret, &format!("{:032x}\n", rand::rng().random::<u128>()))?;
        }
        let rules = self.data.join("pg_hba.conf");
        if !rules.exists() {
            fs::write(&rules, HBA).map_err(file(&rules, "cannot be written"))?;
        }
        self.write_certificates()?;
        for node in self.nodes() {
            make_dir(&self.node_dir(node))?;
            let config = self.node_config(node);
            fs::write(&config, self.config_of(node)).map_err(file(&config, "cannot be written"))?;
        }
        let path = self.data.join("demo.toml");
        let text = toml::to_string(&self.facts).map_err(|error| DemoError::Damaged {
            path: path.clone(),
            what: error.to_string(),
        })?;
        fs::write(&path, text).map_err(file(&path, "cannot be written"))
    }

    /// Makes what is missing, or cannot be used any more.
    fn write_certificates(&self) -> Result<(), CertificatesError> {
        let dir = self.data.join("certs");
        let office = match dir.join("ca.crt").exists() {
            true => Office::open(&dir, CLUSTER)?,
            false => {
                // Its key came first, and is worth nothing without it.
                let _ = fs::remove_file(dir.join("ca.key"));
                Office::found(&dir, CLUSTER)?
            }
        };
        for node in self.nodes().map(|node| NodeId(node.into())) {
            if NodeTls::load(&office.files(node), CLUSTER, Some(node)).is_err() {
                office.issue(node, [Ipv4Addr::LOCALHOST.into()])?;
            }
        }
        Ok(())
    }

    fn config_of(&self, node: u16) -> String {
        let mut text = format!(
            "# Written by `howdah demo` at each start.\n\
             node = {node}\ncluster = \"{CLUSTER}\"\nsecret_file = \"../secret\"\ndata_dir = \"data\"\n"
        );
        for (other, peer_port) in self.nodes().zip(&self.facts.peer_ports) {
            let sql = self.sql_port(other);
            // Writing to a String cannot fail.
            let _ = write!(
                text,
                "\n[[nodes]]\nid = {other}\naddress = \"127.0.0.1:{peer_port}\"\nsql = \"127.0.0.1:{sql}\"\n"
            );
        }
        for shard in 1..=self.facts.shards {
            let _ = write!(
                text,
                "\n[[groups]]\nid = {shard}\nnodes = {:?}\n",
                self.members(shard)
            );
        }
        let certificate = format!("../certs/node{node}");
        let _ = write!(
            text,
            "\n[tls]\nca_file = \"../certs/ca.crt\"\ncert_file = \"{certificate}.crt\"\nkey_file = \"{certificate}.key\"\n"
        );
        text.push_str("\n[sql]\nhba_file = \"../pg_hba.conf\"\n");
        text
    }
}

fn read_facts(data: &Path) -> Result<Option<Facts>, DemoError> {
    let path = data.join("demo.toml");
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(file(path, "cannot be read")(error)),
    };
    let damaged = |what: String| DemoError::Damaged {
        path: path.clone(),
        what,
    };
    parse_facts(&text).map(Some).map_err(damaged)
}

/// Reads `demo.toml`; the error says what is wrong with it.
pub(crate) fn parse_facts(text: &str) -> Result<Facts, String> {
    let facts: Facts = toml::from_str(text).map_err(|error| error.message().replace('\n', "; "))?;
    if facts.nodes == 0 || facts.shards == 0 {
        return Err("it has no nodes or no shards".to_owned());
    }
    Ok(facts)
}

/// The stored numbers hold; only the port for clients may change.
fn agree(data: &Path, stored: Facts, args: &StartArgs) -> Result<Facts, DemoError> {
    let same = |what, stored: u32, asked: Option<u32>| match asked {
        Some(asked) if asked != stored => Err(DemoError::Differs {
            data: data.to_owned(),
            what,
            stored,
            asked,
        }),
        _ => Ok(()),
    };
    same("nodes", stored.nodes.into(), args.nodes.map(u32::from))?;
    same("shards", stored.shards, args.shards)?;
    Ok(Facts {
        port: args.port.unwrap_or(stored.port),
        ..stored
    })
}

/// A first start wants a folder of its own; what an interrupted first start left is its own.
fn refuse_strangers(data: &Path) -> Result<(), DemoError> {
    let own = |name: &str| {
        name.starts_with("demo.")
            || matches!(name, "secret" | "pg_hba.conf" | "certs")
            || name.starts_with("node")
    };
    let entries = fs::read_dir(data).map_err(file(data, "cannot be read"))?;
    let stranger = entries
        .flatten()
        .any(|entry| !entry.file_name().to_str().is_some_and(own));
    if stranger {
        Err(DemoError::NotADemo(data.to_owned()))
    } else {
        Ok(())
    }
}

fn is_free(port: u16) -> std::io::Result<()> {
    TcpListener::bind(("127.0.0.1", port)).map(drop)
}

fn make_dir(dir: &Path) -> Result<(), DemoError> {
    if dir.is_dir() {
        return Ok(());
    }
    fs::create_dir_all(dir).map_err(file(dir, "cannot be made"))?;
    // Others may pass through, but not look around.
    fs::set_permissions(dir, fs::Permissions::from_mode(0o711))
        .map_err(file(dir, "cannot be opened to others"))
}

fn write_private(path: &Path, text: &str) -> Result<(), DemoError> {
    use std::io::Write as _;
    let mut options = fs::OpenOptions::new();
    options.write(true).create_new(true).mode(0o600);
    let written = options
        .open(path)
        .and_then(|mut opened| opened.write_all(text.as_bytes()));
    written.map_err(file(path, "cannot be written"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{NodeConfig, Overrides};
    use shard::id::GroupId;

    /// The first of three free ports; other tests of this process get others.
    fn free_port() -> u16 {
        static NEXT: std::sync::atomic::AtomicU16 = std::sync::atomic::AtomicU16::new(15_432);
        loop {
            let first = NEXT.fetch_add(3, std::sync::atomic::Ordering::Relaxed);
            if (first..first + 3).all(|port| is_free(port).is_ok()) {
                return first;
            }
        }
    }

    fn args(nodes: Option<u16>, shards: Option<u32>, port: u16) -> StartArgs {
        StartArgs {
            shards,
            nodes,
            port: Some(port),
            data: None,
            detach: false,
            supervise: false,
        }
    }

    #[test]
    fn a_first_start_writes_configurations_that_nodes_can_read() {
        let data = tempfile::tempdir().unwrap();
        let port = free_port();
        let layout = Layout::open(data.path(), &args(Some(3), Some(2), port)).unwrap();
        for node in layout.nodes() {
            let config = NodeConfig::load(&layout.node_config(node), &Overrides::default()).unwrap();
            assert_eq!(config.shard.node, NodeId(node.into()));
            assert_eq!(config.shard.groups[&GroupId(2)].len(), 3);
            assert_eq!(config.sql.listen.port(), port - 1 + node);
            assert_eq!(config.sql.hba, proxy::Hba::trust_loopback());
        }
    }

    #[test]
    fn the_next_start_keeps_ports_and_secret_and_refuses_other_numbers() {
        let data = tempfile::tempdir().unwrap();
        let port = free_port();
        let first = Layout::open(data.path(), &args(Some(2), Some(4), port)).unwrap();
        let secret = fs::read(data.path().join("secret")).unwrap();
        let again = Layout::open(data.path(), &args(None, None, port)).unwrap();
        assert_eq!(first.facts, again.facts);
        assert_eq!(fs::read(data.path().join("secret")).unwrap(), secret);
        let error = Layout::open(data.path(), &args(Some(3), None, port))
            .unwrap_err()
            .to_string();
        assert!(error.contains("holds 2 nodes, not 3"), "{error}");
        let error = Layout::open(data.path(), &args(None, Some(1), port))
            .unwrap_err()
            .to_string();
        assert!(error.contains("holds 4 shards, not 1"), "{error}");
    }

    #[test]
    fn a_folder_with_something_else_in_it_is_left_alone() {
        let data = tempfile::tempdir().unwrap();
        fs::write(data.path().join("thesis.tex"), "").unwrap();
        assert!(matches!(
            Layout::open(data.path(), &args(None, None, free_port())),
            Err(DemoError::NotADemo(_))
        ));
    }

    #[test]
    fn a_port_in_use_is_named() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = taken.local_addr().unwrap().port();
        let data = tempfile::tempdir().unwrap();
        let error = Layout::open(data.path(), &args(Some(1), None, port)).unwrap_err();
        assert!(error.to_string().starts_with(&format!("port {port} is in use")));
    }

    #[test]
    fn groups_are_spread_over_more_than_three_nodes() {
        let facts = Facts {
            nodes: 5,
            shards: 5,
            port: 1,
            peer_ports: Vec::new(),
        };
        let layout = Layout {
            data: PathBuf::new(),
            facts,
        };
        assert_eq!(layout.members(1), [1, 2, 3]);
        assert_eq!(layout.members(4), [1, 4, 5]);
    }
}
