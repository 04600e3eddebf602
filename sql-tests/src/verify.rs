//! Compares what is there with what was acknowledged, and the replicas with each other.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use shard::id::{GroupId, NodeId};

use crate::Result;
use crate::cluster::{Cluster, PATIENCE};
use crate::load::Ledger;

/// Reads everything back through every node: each acknowledged entry is there once, none twice,
/// none that nobody wrote; each counter is between what is sure and what may be.
pub async fn nothing_lost(cluster: &Cluster, ledger: &Ledger) -> Result<()> {
    let written = ledger.written();
    for node in cluster.node_ids() {
        let client = cluster.connect(node).await?;
        let mut seen: HashMap<i64, u32> = HashMap::new();
        for row in client.query("SELECT id FROM entry", &[]).await? {
            *seen.entry(row.get(0)).or_default() += 1;
        }
        let lost = written.entries.iter().filter(|id| !seen.contains_key(id)).count();
        let twice = seen.values().filter(|times| **times > 1).count();
        let known = |id: &i64| written.entries.contains(id) || written.unknown_entries.contains(id);
        let strange = seen.keys().filter(|id| !known(id)).count();
        if lost + twice + strange > 0 {
            return Err(format!(
                "through node {node}: of {} acknowledged entries {lost} are lost, {twice} are there twice, \
                 {strange} are there that nobody wrote",
                written.entries.len(),
            )
            .into());
        }
        for row in client.query("SELECT id, n FROM counter", &[]).await? {
            let (id, n): (i64, i64) = (row.get(0), row.get(1));
            let sure = written.counts.get(&id).copied().unwrap_or(0);
            let most = sure + written.unknown_counts.get(&id).copied().unwrap_or(0);
            if !(sure..=most).contains(&n) {
                return Err(
                    format!("through node {node}: counter {id} is {n}, not in {sure}..={most}").into(),
                );
            }
        }
    }
    Ok(())
}

/// A table's rows as one replica has them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checksum {
    /// How many rows.
    pub rows: i64,
    /// The sum of the hashes of their texts.
    pub sum: String,
}

/// A commit that changes nothing. A standby that began at a checkpoint does not see what was waiting for its majority there before
/// a later transaction has committed, however far it has replayed (ARCHITECTURE.md, "Replayed is not visible").
const NOTHING: &str = "SELECT pg_logical_emit_message(true, 'howdah test', '')";

/// So many rows are named on each side where replicas differ.
const NAMED: usize = 5;

/// Looks into every replica's own PostgreSQL: all replicas of a group hold the same rows of
/// `table`. Nobody must write meanwhile. Returns each group's rows.
pub async fn replicas_agree(cluster: &Cluster, table: &str) -> Result<BTreeMap<GroupId, Checksum>> {
    for group in cluster.groups() {
        let leader = cluster.inside().leader(group).await?;
        leader.batch_execute(NOTHING).await?;
    }
    cluster.wait_level(PATIENCE).await?;
    let mut found = BTreeMap::new();
    for group in cluster.groups() {
        let mut of_group: Option<(NodeId, Checksum)> = None;
        for node in cluster.node_ids() {
            let checksum = checksum(cluster, node, group, table).await?;
            match &of_group {
                Some((first, other)) if *other != checksum => {
                    let here = rows(cluster, *first, group, table).await?;
                    let there = rows(cluster, node, group, table).await?;
                    let some = |rows: &BTreeSet<String>, others: &BTreeSet<String>| -> Vec<String> {
                        rows.difference(others).take(NAMED).cloned().collect()
                    };
                    return Err(format!(
                        "group {group}, table {table}: node {first} has {other:?}, node {node} {checksum:?}; \
                         only on {first}: {:?}, only on {node}: {:?}",
                        some(&here, &there),
                        some(&there, &here),
                    )
                    .into());
                }
                _ => of_group = Some((node, checksum)),
            }
        }
        if let Some((_, checksum)) = of_group {
            found.insert(group, checksum);
        }
    }
    Ok(found)
}

async fn checksum(cluster: &Cluster, node: NodeId, group: GroupId, table: &str) -> Result<Checksum> {
    let server = cluster.replica(node, group).await?;
    let sql = format!("SELECT count(*), coalesce(sum(hashtextextended(t::text, 0)), 0)::text FROM {table} t");
    let row = server.query_one(&sql, &[]).await?;
    Ok(Checksum {
        rows: row.get(0),
        sum: row.get(1),
    })
}

async fn rows(cluster: &Cluster, node: NodeId, group: GroupId, table: &str) -> Result<BTreeSet<String>> {
    let server = cluster.replica(node, group).await?;
    let rows = server
        .query(&format!("SELECT t::text FROM {table} t"), &[])
        .await?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}
