//! A cluster of real nodes on this machine, to be tested and broken.

mod disk;
mod inside;
mod layout;
mod node;
mod plain;
mod relay;
mod replica;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use coordinator::failpoint::Step;
use ops::config::ClusterConfig;
use ops::status::{ClusterStatus, GroupStatus, NodeState, ReplicaView, gather};
use shard::id::{GroupId, NodeId};
use shard::status::Role;
use tempfile::TempDir;
use tokio::time::{sleep, timeout};
use tokio_postgres::{Client, NoTls};

use self::disk::SmallDisk;
pub use self::disk::can_mount;
pub use self::inside::Inside;
use self::node::NodeProcess;
pub use self::node::{Frozen, Victim};
pub use self::plain::{Guard, Plain};
use self::relay::Relays;
pub use self::relay::{Link, LinkRule, RuleId};
use crate::{Failure, Result};

/// How long anything may take that should take a second or two.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// What kind of cluster.
#[derive(Clone, Debug)]
pub struct Options {
    /// Nodes, counted from 1.
    pub nodes: u16,
    /// Groups, counted from 1; each has a replica on every node.
    pub groups: u32,
    /// What lies between the nodes.
    pub network: Network,
    /// How the nodes talk to each other.
    pub traffic: Traffic,
    /// Where the nodes keep their data.
    pub disks: Disks,
    /// Clients that a node takes at a time; none: its default.
    pub max_sessions: Option<usize>,
}

/// How the nodes talk to each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Traffic {
    /// For all to read.
    Clear,
    /// With TLS, by certificates that `howdah init` makes.
    Encrypted,
}

/// Where the nodes keep their data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Disks {
    /// In folders of one file system.
    Shared,
    /// Each in a small file system of its own, that can be filled. Takes root.
    Small,
}

/// What lies between the nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Network {
    /// Nothing.
    Direct,
    /// A relay for each direction of each pair, that can be cut.
    Relayed,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            nodes: 3,
            groups: 2,
            network: Network::Direct,
            traffic: Traffic::Clear,
            disks: Disks::Shared,
            max_sessions: None,
        }
    }
}

/// A running cluster. Dropping it kills everything that it started and deletes its data; in a
/// panic it first prints the nodes' last log lines.
#[derive(Debug)]
pub struct Cluster {
    config: ClusterConfig,
    nodes: BTreeMap<NodeId, NodeProcess>,
    relays: Option<Relays>,
    // After the processes that work in them.
    disks: BTreeMap<NodeId, SmallDisk>,
    // Last, so that the folder goes after the processes in it.
    _dir: TempDir,
}

impl Cluster {
    /// Starts a cluster and waits until every group serves. `program` is a binary that behaves as
    /// `howdah` does (it calls [`ops::main_from`]).
    pub async fn start(program: &Path, options: &Options) -> Result<Cluster> {
        let dir = layout::folder()?;
        let ports = layout::Ports::of(options.nodes);
        let relays = match options.network {
            Network::Direct => None,
            Network::Relayed => Some(Relays::start(&ports.peer_addresses()).await?),
        };
        let mut config = layout::cluster_config(options, &ports);
        let mut files = BTreeMap::new();
        for id in config.nodes.keys() {
            let file = layout::write_config(dir.path(), *id, &config, options, relays.as_ref())?;
            files.insert(*id, file);
        }
        if let (Traffic::Encrypted, Some(file)) = (options.traffic, files.values().next()) {
            config.tls = Some(layout::make_certificates(program, dir.path(), file)?);
        }
        let (mut nodes, mut disks) = (BTreeMap::new(), BTreeMap::new());
        for (id, file) in &files {
            if options.disks == Disks::Small {
                disks.insert(*id, SmallDisk::mount(&file.with_file_name("data"))?);
            }
            nodes.insert(*id, NodeProcess::start(program, *id, file)?);
        }
        let cluster = Cluster {
            config,
            nodes,
            relays,
            disks,
            _dir: dir,
        };
        cluster.wait_whole(PATIENCE).await?;
        Ok(cluster)
    }

    /// Nodes and groups.
    #[must_use]
    pub fn config(&self) -> &ClusterConfig {
        &self.config
    }

    /// All groups.
    #[must_use]
    pub fn groups(&self) -> Vec<GroupId> {
        self.config.groups.keys().copied().collect()
    }

    /// All nodes.
    #[must_use]
    pub fn node_ids(&self) -> Vec<NodeId> {
        self.config.nodes.keys().copied().collect()
    }

    /// Where clients reach a node.
    pub fn sql_address(&self, node: NodeId) -> Result<SocketAddr> {
        let addresses = self.config.nodes.get(&node).ok_or_else(|| unknown(node))?;
        Ok(addresses.sql)
    }

    /// As `howdah status` sees it now.
    pub async fn status(&self) -> ClusterStatus {
        gather(&self.config).await
    }

    /// Waits until the status is as wanted, and returns it.
    pub async fn wait_until(
        &self,
        what: &str,
        patience: Duration,
        wanted: impl Fn(&ClusterStatus) -> bool,
    ) -> Result<ClusterStatus> {
        let began = Instant::now();
        loop {
            let status = self.status().await;
            if wanted(&status) {
                return Ok(status);
            }
            self.complain_if_ended()?;
            if began.elapsed() > patience {
                let shown = ops::status::render(&status);
                return Err(format!("waited {patience:?} for {what}, but:\n{shown}").into());
            }
            sleep(Duration::from_millis(100)).await;
        }
    }

    /// Waits until every node is up, every group serves, and every replica follows.
    pub async fn wait_whole(&self, patience: Duration) -> Result<ClusterStatus> {
        self.wait_until(
            "all nodes up, all groups served, all replicas following",
            patience,
            is_whole,
        )
        .await
    }

    /// Waits until a node answers.
    pub async fn wait_up(&self, node: NodeId, patience: Duration) -> Result<()> {
        let up = |status: &ClusterStatus| {
            let found = status.nodes.iter().find(|view| view.id == node);
            found.is_some_and(|view| view.state == NodeState::Up)
        };
        self.wait_until(&format!("node {node}"), patience, up)
            .await
            .map(drop)
    }

    /// Waits until, besides, every replica has replayed all that is committed. Nobody must write.
    pub async fn wait_level(&self, patience: Duration) -> Result<ClusterStatus> {
        let level = |status: &ClusterStatus| {
            let mut replicas = status.groups.iter().flat_map(|group| &group.replicas);
            is_whole(status) && replicas.all(|replica| replica.replay_lag_bytes == Some(0))
        };
        self.wait_until("all replicas level", patience, level).await
    }

    /// The node that leads a group and serves, waiting for one.
    pub async fn leader_of(&self, group: GroupId) -> Result<NodeId> {
        let served = |status: &ClusterStatus| group_of(status, group).is_some_and(GroupStatus::is_serving);
        let status = self
            .wait_until(&format!("a leader of group {group}"), PATIENCE, served)
            .await?;
        let leader = group_of(&status, group).and_then(|found| found.leader);
        leader.ok_or_else(|| format!("group {group} has no leader").into())
    }

    /// kill -9 of a node and its PostgreSQL servers: what the loss of its machine looks like.
    pub fn kill_node(&mut self, node: NodeId) -> Result<()> {
        self.process_mut(node)?.kill()
    }

    /// Has a node die when it comes to this step, and at no other; none: at no step. False where it did not say that
    /// it will: it does not run or answer, or is built without failpoints.
    pub async fn arm(&self, node: NodeId, step: Option<Step>) -> bool {
        #[cfg(feature = "failpoints")]
        return ops::failpoint::arm(&self.config, node, step).await;
        #[cfg(not(feature = "failpoints"))]
        {
            let _ = (node, step);
            false
        }
    }

    /// Whether a node has ended by itself.
    #[must_use]
    pub fn has_ended(&self, node: NodeId) -> bool {
        self.nodes.get(&node).is_some_and(NodeProcess::has_ended)
    }

    /// Takes note that a node has ended by itself, and lets its PostgreSQL servers go on.
    pub fn bury_node(&mut self, node: NodeId) -> Result<()> {
        self.process_mut(node)?.bury()
    }

    /// Bytes of a node's memory that are resident; its PostgreSQL servers' are not in it.
    pub fn resident(&self, node: NodeId) -> Result<u64> {
        self.process(node)?.resident()
    }

    /// The most memory that a node has had resident since it was last forgotten, bytes.
    ///
    /// # Errors
    /// When it does not run.
    pub fn peak(&self, node: NodeId) -> Result<u64> {
        self.process(node)?.peak()
    }

    /// Counts a node's most memory from now on.
    ///
    /// # Errors
    /// When it does not run.
    pub fn forget_peak(&self, node: NodeId) -> Result<()> {
        self.process(node)?.forget_peak()
    }

    /// Starts a killed node again.
    pub fn restart_node(&mut self, node: NodeId) -> Result<()> {
        self.process_mut(node)?.restart()
    }

    /// The folder of a node's Raft log. Only a node that is killed may lose what is in it.
    pub fn raft_log(&self, node: NodeId) -> Result<PathBuf> {
        Ok(self.process(node)?.data_dir().join("log"))
    }

    /// Waits until the cluster is whole and every replica has a vote.
    pub async fn wait_voting(&self, patience: Duration) -> Result<ClusterStatus> {
        let voting = |status: &ClusterStatus| {
            let mut replicas = status.groups.iter().flat_map(|group| &group.replicas);
            is_whole(status) && replicas.all(|replica| replica.role != Some(Role::Learner))
        };
        self.wait_until("all replicas with a vote", patience, voting)
            .await
    }

    /// Stops a node as an operator would; fails where it does not stop cleanly.
    pub async fn stop_node(&mut self, node: NodeId) -> Result<()> {
        let process = self.process_mut(node)?;
        process.ask_to_stop();
        process.wait_stopped(PATIENCE).await
    }

    /// Takes all the room that is left on a node's disk. Needs [`Disks::Small`].
    pub fn fill_disk(&self, node: NodeId) -> Result<()> {
        self.disk(node)?.fill()
    }

    /// Whether some node's disk has no room left.
    #[must_use]
    pub fn has_full_disk(&self) -> bool {
        self.disks.values().any(SmallDisk::is_full)
    }

    /// Gives the room back.
    pub fn empty_disk(&self, node: NodeId) -> Result<()> {
        self.disk(node)?.empty()
    }

    /// SIGSTOP.
    pub fn pause(&self, node: NodeId, frozen: Frozen) -> Result<()> {
        self.process(node)?.pause(frozen)
    }

    /// SIGCONT, of the node and its PostgreSQL servers.
    pub fn resume(&self, node: NodeId) -> Result<()> {
        self.process(node)?.resume()
    }

    /// kill -9 of one process of a node's PostgreSQL servers; says which, where there was one.
    pub fn kill_postgres(&self, node: NodeId, victim: Victim, pick: u64) -> Result<Option<String>> {
        self.process(node)?.kill_postgres(victim, pick)
    }

    /// Disturbs some directions between the nodes until [`Cluster::lift`]. Needs [`Network::Relayed`].
    pub fn impose(&self, rule: LinkRule) -> Result<RuleId> {
        Ok(self.relays()?.impose(rule))
    }

    /// Ends what [`Cluster::impose`] began.
    pub fn lift(&self, rule: RuleId) -> Result<()> {
        self.relays()?.lift(rule);
        Ok(())
    }

    /// Whether some link is disturbed.
    #[must_use]
    pub fn is_disturbed(&self) -> bool {
        self.relays.as_ref().is_some_and(Relays::are_disturbed)
    }

    /// An error where a node that should run has ended.
    pub fn complain_if_ended(&self) -> Result<()> {
        self.nodes.values().try_for_each(NodeProcess::complain_if_ended)
    }

    /// Cuts a node off from all others, both ways. Needs [`Network::Relayed`].
    pub fn isolate(&self, node: NodeId) -> Result<()> {
        self.relays()?.isolate(node);
        Ok(())
    }

    /// Ends what [`Cluster::isolate`] began, for all nodes.
    pub fn heal(&self) -> Result<()> {
        self.relays()?.heal();
        Ok(())
    }

    /// A client of a node.
    pub async fn connect(&self, node: NodeId) -> Result<Client> {
        connect_to(self.sql_address(node)?).await
    }

    /// A superuser's connection straight to one replica's PostgreSQL, past its node: what is really
    /// in its tables.
    pub async fn replica(&self, node: NodeId, group: GroupId) -> Result<Client> {
        self.inside().replica(node, group).await
    }

    /// A way to the replicas' own servers that does not hold the cluster.
    #[must_use]
    pub fn inside(&self) -> Inside {
        let folder = |(id, node): (&NodeId, &NodeProcess)| (*id, node.data_dir());
        Inside::new(self.config.clone(), self.nodes.iter().map(folder).collect())
    }

    /// What a node has logged so far.
    pub fn log_lines(&self, node: NodeId) -> Result<Vec<String>> {
        self.process(node)?.log_lines()
    }

    /// The WARN and ERROR lines of a node, each with its place among all its lines.
    pub fn complaints_of(&self, node: NodeId) -> Result<Vec<(usize, String)>> {
        let lines = self.log_lines(node)?.into_iter().enumerate();
        Ok(lines.filter(|(_, line)| node::is_complaint(line)).collect())
    }

    /// Every WARN and ERROR line of the nodes in which none of `expected` occurs.
    pub fn complaints(&self, expected: &[&str]) -> Result<Vec<String>> {
        let mut found = Vec::new();
        for (id, node) in &self.nodes {
            let lines = node
                .log_lines()?
                .into_iter()
                .filter(|line| node::is_complaint(line));
            let unexpected = lines.filter(|line| !expected.iter().any(|known| line.contains(known)));
            found.extend(unexpected.map(|line| format!("node {id}: {line}")));
        }
        Ok(found)
    }

    /// Stops every node as an operator would; fails where one does not stop cleanly, leaves a
    /// PostgreSQL behind, or has logged a WARN or ERROR that was not expected.
    pub async fn shutdown(mut self, expected: &[&str]) -> Result<()> {
        for node in self.nodes.values() {
            node.ask_to_stop();
        }
        for node in self.nodes.values_mut() {
            node.wait_stopped(Duration::from_secs(30)).await?;
        }
        let complaints = self.complaints(expected)?;
        if complaints.is_empty() {
            Ok(())
        } else {
            Err(format!(
                "unexpected complaints in the nodes' logs:\n{}",
                complaints.join("\n")
            )
            .into())
        }
    }

    fn process(&self, node: NodeId) -> Result<&NodeProcess> {
        self.nodes.get(&node).ok_or_else(|| unknown(node))
    }

    fn process_mut(&mut self, node: NodeId) -> Result<&mut NodeProcess> {
        self.nodes.get_mut(&node).ok_or_else(|| unknown(node))
    }

    fn disk(&self, node: NodeId) -> Result<&SmallDisk> {
        self.disks
            .get(&node)
            .ok_or_else(|| format!("the disk of node {node} is not a small one").into())
    }

    fn relays(&self) -> Result<&Relays> {
        self.relays
            .as_ref()
            .ok_or_else(|| "the cluster was started without relays".into())
    }
}

impl Drop for Cluster {
    #[expect(clippy::print_stderr, reason = "the last words of a failed test")]
    fn drop(&mut self) {
        if std::thread::panicking() || std::env::var_os("SHOW_NODE_LOGS").is_some() {
            for (id, node) in &self.nodes {
                let lines = node.log_lines().unwrap_or_default();
                let from = lines.len().saturating_sub(80);
                eprintln!(
                    "--- node {id}, last lines of its log:\n{}",
                    lines[from..].join("\n")
                );
            }
        }
    }
}

/// A client of whatever listens there.
pub async fn connect_to(address: SocketAddr) -> Result<Client> {
    let (host, port) = (address.ip(), address.port());
    let text = format!("host={host} port={port} user=postgres dbname=postgres connect_timeout=5");
    let (client, connection) =
        timeout(Duration::from_secs(10), tokio_postgres::connect(&text, NoTls)).await??;
    tokio::spawn(connection);
    Ok(client)
}

/// The program to start nodes with: `HOWDAH_UNDER_TEST`, or this very program, which must then
/// act as `howdah` where its first argument says so.
pub fn program() -> Result<PathBuf> {
    match std::env::var_os("HOWDAH_UNDER_TEST") {
        Some(path) => Ok(path.into()),
        None => Ok(std::env::current_exe()?),
    }
}

/// One group's part of a status.
#[must_use]
pub fn group_of(status: &ClusterStatus, group: GroupId) -> Option<&GroupStatus> {
    status.groups.iter().find(|found| found.id == group)
}

fn is_whole(status: &ClusterStatus) -> bool {
    let in_order =
        |group: &GroupStatus| group.is_serving() && group.replicas.iter().all(ReplicaView::is_settled);
    status.nodes.iter().all(|node| node.state == NodeState::Up) && status.groups.iter().all(in_order)
}

fn unknown(node: NodeId) -> Failure {
    format!("there is no node {node}").into()
}
