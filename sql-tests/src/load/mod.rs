//! Writers, and a ledger of what was acknowledged to them.

mod ledger;
mod writer;

pub use self::ledger::{Counter, Ledger};
pub use self::writer::Writers;

use shard::id::GroupId;

use crate::Result;
use crate::cluster::Cluster;

/// Counters that are made; about as many fall to each group.
const COUNTERS: i64 = 64;

/// Makes the tables that the writers write to, and finds out which counter lives in which group
/// by looking into the groups' own servers.
pub async fn prepare(cluster: &Cluster) -> Result<Ledger> {
    let first = cluster
        .node_ids()
        .first()
        .copied()
        .ok_or("a cluster without nodes")?;
    let client = cluster.connect(first).await?;
    // No unique constraint: a write that was done twice shall show.
    client
        .batch_execute("CREATE TABLE entry (id bigint NOT NULL, body text NOT NULL)")
        .await?;
    client
        .batch_execute("CREATE TABLE counter (id bigint PRIMARY KEY, n bigint NOT NULL)")
        .await?;
    for id in 1..=COUNTERS {
        client
            .execute("INSERT INTO counter VALUES ($1, 0)", &[&id])
            .await?;
    }
    let mut counters = Vec::new();
    for group in cluster.groups() {
        counters.extend(
            ids_in(cluster, group, "counter")
                .await?
                .into_iter()
                .map(|id| Counter { id, group }),
        );
    }
    if counters.len() != usize::try_from(COUNTERS)? {
        return Err(format!("{} counters in the groups, {COUNTERS} were made", counters.len()).into());
    }
    Ok(Ledger::new(counters))
}

/// Whose rows of a table with the key `id` live in a group, in order: a look into the leader's own server.
pub(crate) async fn ids_in(cluster: &Cluster, group: GroupId, table: &str) -> Result<Vec<i64>> {
    let leader = cluster.leader_of(group).await?;
    let server = cluster.replica(leader, group).await?;
    let rows = server
        .query(&format!("SELECT id FROM {table} ORDER BY id"), &[])
        .await?;
    if rows.is_empty() {
        return Err(format!("no row of {table} is in group {group}").into());
    }
    Ok(rows.iter().map(|row| row.get(0)).collect())
}
