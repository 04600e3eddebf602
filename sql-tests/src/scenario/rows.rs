//! Many rows through one node, read back through all others.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use futures::stream::{self, StreamExt, TryStreamExt};
use shard::id::GroupId;

use crate::Result;
use crate::cluster::Cluster;
use crate::verify::replicas_agree;

/// Statements under way at a time on the one connection.
const PIPELINE: usize = 256;

/// What came of it.
#[derive(Clone, Debug)]
pub struct RowsReport {
    /// How long the INSERTs took.
    pub took: Duration,
    /// Rows in each group.
    pub by_group: BTreeMap<GroupId, i64>,
}

impl RowsReport {
    /// The group's part of all rows, in percent.
    #[must_use]
    pub fn percent(&self, group: GroupId) -> f64 {
        let all: i64 = self.by_group.values().sum();
        let own = self.by_group.get(&group).copied().unwrap_or(0);
        // Exact up to 2^53 rows.
        #[expect(clippy::cast_precision_loss, reason = "counts of a test")]
        let share = own as f64 * 100.0 / all.max(1) as f64;
        share
    }
}

/// Inserts rows one statement each, pipelined on one connection to the first node; reads all of
/// them back through each other node; counts them in every replica's own PostgreSQL.
pub async fn load_rows(cluster: &Cluster, rows: i64) -> Result<RowsReport> {
    let nodes = cluster.node_ids();
    let (first, others) = nodes.split_first().ok_or("a cluster without nodes")?;
    let client = cluster.connect(*first).await?;
    client
        .batch_execute("CREATE TABLE bulk (id bigint PRIMARY KEY, body text NOT NULL)")
        .await?;
    let insert = client
        .prepare("INSERT INTO bulk VALUES ($1, 'row ' || $1::text)")
        .await?;
    let began = Instant::now();
    let one = |id: i64| {
        let (client, insert) = (&client, &insert);
        async move { client.execute(insert, &[&id]).await }
    };
    stream::iter(0..rows)
        .map(one)
        .buffer_unordered(PIPELINE)
        .try_for_each(|_| async { Ok(()) })
        .await?;
    let took = began.elapsed();

    for node in others {
        let reader = cluster.connect(*node).await?;
        let mut seen: Vec<(i64, String)> = reader
            .query("SELECT id, body FROM bulk", &[])
            .await?
            .iter()
            .map(|row| (row.get(0), row.get(1)))
            .collect();
        seen.sort_unstable();
        let right = seen.len() == usize::try_from(rows)?
            && seen
                .iter()
                .zip(0..)
                .all(|((id, body), wanted)| *id == wanted && *body == format!("row {wanted}"));
        if !right {
            return Err(format!(
                "through node {node}: {} rows, not exactly the {rows} that were written",
                seen.len()
            )
            .into());
        }
    }
    let by_group = replicas_agree(cluster, "bulk").await?;
    Ok(RowsReport {
        took,
        by_group: by_group
            .into_iter()
            .map(|(group, found)| (group, found.rows))
            .collect(),
    })
}
