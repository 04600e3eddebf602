//! A leader that holds WAL which Raft never committed.

use std::time::{Duration, Instant};

use shard::id::{GroupId, NodeId};
use tokio::task::JoinSet;
use tokio::time::sleep;
use tokio_postgres::Client;
use tokio_util::sync::CancellationToken;

use crate::Result;
use crate::cluster::{Cluster, PATIENCE, group_of};
use crate::verify::replicas_agree;

/// Clients that each try to write one row on the cut-off leader.
const WRITERS: i64 = 50;
/// Their rows begin here.
const DOOMED: i64 = 1_000_000;

/// What came of it.
#[derive(Clone, Debug)]
pub struct UncommittedReport {
    /// Commits that the cut-off leader had in its WAL and waited for, at the most.
    pub waiting: i64,
    /// How often the followers were looked at without finding one of those rows.
    pub looks: usize,
    /// Of the rows, how many were acknowledged: none.
    pub acknowledged: usize,
}

/// Cuts the leader of a group off, writes on it, lets the others elect a new one, writes there,
/// heals. The cut-off rows are never visible on any follower, nobody is told that they were
/// written, and they are gone from the former leader when it has come back. Needs
/// [`crate::cluster::Network::Relayed`].
pub async fn uncommitted_wal(cluster: &Cluster, group: GroupId) -> Result<UncommittedReport> {
    let leader = cluster.leader_of(group).await?;
    let setup = cluster.connect(leader).await?;
    setup
        .batch_execute("CREATE TABLE fate (id bigint PRIMARY KEY)")
        .await?;
    let doomed = doomed_keys(cluster, &setup, leader, group).await?;
    cluster.wait_level(PATIENCE).await?;

    let stop = CancellationToken::new();
    let mut watchers = JoinSet::new();
    for node in cluster.node_ids().into_iter().filter(|node| *node != leader) {
        watchers.spawn(watch(cluster.replica(node, group).await?, node, stop.clone()));
    }
    let own = cluster.replica(leader, group).await?;
    let mut clients = Vec::new();
    for key in doomed {
        clients.push((key, cluster.connect(leader).await?));
    }

    cluster.isolate(leader)?;
    let mut writes = JoinSet::new();
    for (key, client) in clients {
        writes.spawn(async move {
            client
                .simple_query(&format!("INSERT INTO fate VALUES ({key})"))
                .await
                .is_ok()
        });
    }
    let waiting = most_waiting(&own).await;
    let mut acknowledged = 0;
    while let Some(written) = writes.join_next().await {
        acknowledged += usize::from(written?);
    }
    let others = format!("a new leader of group {group}");
    cluster
        .wait_until(&others, PATIENCE, |status| {
            group_of(status, group).is_some_and(|found| found.is_serving() && found.leader != Some(leader))
        })
        .await?;
    cluster.heal()?;
    cluster.wait_whole(PATIENCE).await?;
    cluster.wait_level(PATIENCE).await?;
    stop.cancel();
    let mut looks = 0;
    while let Some(watched) = watchers.join_next().await {
        looks += watched??;
    }
    for checksum in replicas_agree(cluster, "fate").await?.values() {
        if checksum.rows != 0 {
            return Err(format!("{} of the uncommitted rows are there", checksum.rows).into());
        }
    }
    if waiting == 0 {
        return Err("the cut-off leader held no commit that waited: nothing was shown".into());
    }
    if acknowledged > 0 {
        return Err(format!("{acknowledged} writes were acknowledged without a majority").into());
    }
    Ok(UncommittedReport {
        waiting,
        looks,
        acknowledged,
    })
}

/// Keys that live in `group`: written for a moment, and looked up in its own PostgreSQL.
async fn doomed_keys(cluster: &Cluster, setup: &Client, leader: NodeId, group: GroupId) -> Result<Vec<i64>> {
    let groups = i64::try_from(cluster.groups().len())?;
    for key in DOOMED..DOOMED + WRITERS * groups {
        setup.execute("INSERT INTO fate VALUES ($1)", &[&key]).await?;
    }
    let own = cluster.replica(leader, group).await?;
    let rows = own.query("SELECT id FROM fate", &[]).await?;
    let keys: Vec<i64> = rows.iter().map(|row| row.get(0)).collect();
    for key in DOOMED..DOOMED + WRITERS * groups {
        setup.execute("DELETE FROM fate WHERE id = $1", &[&key]).await?;
    }
    if keys.is_empty() {
        Err(format!("no key lives in group {group}").into())
    } else {
        Ok(keys)
    }
}

/// Looks at a follower's own PostgreSQL all the time. It is never stopped by the scenario; where
/// its node restarts it as a primary, or the connection ends, the watch of it ends too.
async fn watch(server: Client, node: NodeId, stop: CancellationToken) -> Result<usize> {
    let mut looks = 0;
    while !stop.is_cancelled() {
        let Ok(row) = server.query_one("SELECT count(*) FROM fate", &[]).await else {
            break;
        };
        let seen: i64 = row.get(0);
        if seen > 0 {
            return Err(format!("node {node} showed {seen} rows that Raft had not committed").into());
        }
        looks += 1;
        sleep(Duration::from_millis(5)).await;
    }
    Ok(looks)
}

/// The most commits that were in the leader's WAL and waited for the majority at one time
/// (`wait_event` SyncRep: the commit record is flushed, see PostgreSQL's syncrep.c). Ends when
/// its PostgreSQL does, or after some seconds.
async fn most_waiting(own: &Client) -> i64 {
    let began = Instant::now();
    let mut most = 0;
    while began.elapsed() < Duration::from_secs(5) {
        let sql = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'";
        let Ok(row) = own.query_one(sql, &[]).await else {
            break;
        };
        most = most.max(row.get(0));
        sleep(Duration::from_millis(5)).await;
    }
    most
}
