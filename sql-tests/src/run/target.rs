//! What is tested: a cluster of our own, or a PostgreSQL that is there.

use std::time::Duration;

use tokio_postgres::{Client, Config, NoTls};

use super::doubt::{self, Doubt};
use super::{Options, Place};
use crate::Result;
use crate::cluster::{self, Cluster, Disks, Network};
use crate::nemesis::Kind;
use crate::workload::Placement;

/// Connections over which keys are placed: their commits share fsyncs.
const PLACERS: usize = 16;

#[derive(Debug)]
pub(super) struct Target {
    cluster: Option<Cluster>,
    doors: Doors,
}

/// Where clients connect.
#[derive(Clone, Debug)]
pub(super) struct Doors {
    /// For whatever may write.
    pub(super) all: Vec<Config>,
    /// For half of what only reads; empty where that is the same.
    pub(super) reads: Vec<Config>,
}

impl Target {
    pub(super) async fn open(options: &Options) -> Result<Target> {
        match &options.place {
            Place::Url { url, read_url } => Ok(Target {
                cluster: None,
                doors: Doors {
                    all: vec![url.parse()?],
                    reads: read_url
                        .iter()
                        .map(|url| url.parse())
                        .collect::<std::result::Result<_, _>>()?,
                },
            }),
            Place::Cluster {
                program,
                nodes,
                groups,
            } => {
                let relayed = options.nemesis.iter().any(|kind| kind.needs_relays());
                let shape = cluster::Options {
                    nodes: *nodes,
                    groups: *groups,
                    network: if relayed {
                        Network::Relayed
                    } else {
                        Network::Direct
                    },
                    disks: if options.nemesis.contains(&Kind::DiskFull) {
                        Disks::Small
                    } else {
                        Disks::Shared
                    },
                    ..cluster::Options::default()
                };
                let cluster = Cluster::start(program, &shape).await?;
                let mut all = Vec::new();
                for node in cluster.node_ids() {
                    let address = cluster.sql_address(node)?;
                    let mut config = Config::new();
                    config.host(address.ip().to_string()).port(address.port());
                    config.user("postgres").dbname("postgres");
                    all.push(config);
                }
                Ok(Target {
                    cluster: Some(cluster),
                    doors: Doors {
                        all,
                        reads: Vec::new(),
                    },
                })
            }
        }
    }

    pub(super) fn doors(&self) -> &Doors {
        &self.doors
    }

    pub(super) fn cluster(&self) -> Option<&Cluster> {
        self.cluster.as_ref()
    }

    pub(super) fn take_cluster(&mut self) -> Option<Cluster> {
        self.cluster.take()
    }

    pub(super) fn put_cluster(&mut self, cluster: Cluster) {
        self.cluster = Some(cluster);
    }

    /// A connection that may write, without any of the tables that runs make.
    pub(super) async fn client(&self) -> Result<Client> {
        let first = self.doors.all.first().ok_or("nowhere to connect to")?;
        let (client, connection) = first.connect(NoTls).await?;
        tokio::spawn(connection);
        Ok(client)
    }

    /// Which of the keys 1 to `keys` live in which group: written as a client does, then looked up in
    /// the groups' own servers.
    pub(super) async fn placement(&self, keys: i64) -> Result<Placement> {
        let Some(cluster) = &self.cluster else {
            return Ok(Placement::single(keys));
        };
        let client = self.client().await?;
        client
            .batch_execute("CREATE TABLE place (k bigint PRIMARY KEY)")
            .await?;
        let keys_of = |placer: usize| (1..=keys).skip(placer).step_by(PLACERS);
        let mut placers = Vec::new();
        for placer in 0..PLACERS {
            placers.push(place(self.client().await?, keys_of(placer)));
        }
        futures::future::try_join_all(placers).await?;
        let mut placement = Placement(std::collections::BTreeMap::new());
        for group in cluster.groups() {
            let leader = cluster.leader_of(group).await?;
            let server = cluster.replica(leader, group).await?;
            let rows = server.query("SELECT k FROM place ORDER BY k", &[]).await?;
            placement
                .0
                .insert(group, rows.iter().map(|row| row.get(0)).collect());
        }
        let placed: usize = placement.0.values().map(Vec::len).sum();
        if i64::try_from(placed)? != keys {
            return Err(format!("{placed} keys in the groups, {keys} were inserted").into());
        }
        Ok(placement)
    }

    pub(super) async fn wait_whole(&self, patience: Duration) -> Result<()> {
        match &self.cluster {
            Some(cluster) => cluster.wait_whole(patience).await.map(drop),
            None => Ok(()),
        }
    }

    /// What is in doubt from now on, until nothing is.
    pub(super) async fn doubt(&self) -> Option<Doubt> {
        Some(doubt::watch(self.cluster.as_ref()?.config()).await)
    }

    /// Lines of the nodes' logs that tell of a panic.
    pub(super) fn panics(&self) -> Result<Vec<String>> {
        let Some(cluster) = &self.cluster else {
            return Ok(Vec::new());
        };
        let mut lines = cluster.complaints(&[])?;
        lines.retain(|line| line.contains("panicked at"));
        Ok(lines)
    }
}

/// Inserts keys one after the other: no two statements of a session commit together.
async fn place(client: Client, keys: impl Iterator<Item = i64>) -> Result<()> {
    let insert = client.prepare("INSERT INTO place VALUES ($1)").await?;
    for key in keys {
        client.execute(&insert, &[&key]).await?;
    }
    Ok(())
}
