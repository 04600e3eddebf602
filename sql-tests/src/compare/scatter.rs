//! Queries over all groups beside the same on one plain server: how long they take, and how much memory the node has meanwhile.

use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::{SinkExt, StreamExt, pin_mut};
use shard::id::NodeId;
use tokio_postgres::{Client, SimpleQueryMessage};

use crate::Result;
use crate::cluster::{Cluster, Plain};
use crate::report::median;

/// Rows that are sent to a table at a time.
const BATCH: usize = 10_000;

/// The same for every run of the same number of rows.
const TABLE: &str = "DROP TABLE IF EXISTS measured; \
    CREATE TABLE measured (id int8 PRIMARY KEY, n int4, amount numeric(12,2), word text)";

/// What is asked, and what it is called.
const QUERIES: [(&str, &str); 6] = [
    (
        "five aggregates",
        "SELECT count(*), sum(n), avg(amount), min(word), max(id) FROM measured",
    ),
    (
        "100 groups of rows",
        "SELECT n % 100 AS rest, count(*), sum(amount), stddev(n) FROM measured GROUP BY rest ORDER BY rest",
    ),
    (
        "distinct values",
        "SELECT count(DISTINCT word), count(DISTINCT n % 5000) FROM measured WHERE id % 3 = 0",
    ),
    (
        "the first of many",
        "SELECT id, amount FROM measured ORDER BY amount DESC, id LIMIT 100",
    ),
    (
        "all rows in order",
        "SELECT id, n, amount, word FROM measured ORDER BY id",
    ),
    ("all rows", "SELECT id, n, amount, word FROM measured"),
];

/// How much, and how often.
#[derive(Clone, Copy, Debug)]
pub struct ScatterPlan {
    /// Rows of the table.
    pub rows: usize,
    /// Times that each query is asked of each.
    pub rounds: usize,
}

/// What came of one query.
#[derive(Clone, Debug)]
pub struct Scattered {
    /// What it is called.
    pub name: &'static str,
    /// Through the node: median.
    pub howdah: Duration,
    /// On the plain server: median.
    pub plain: Duration,
    /// The most memory that the node had resident meanwhile, bytes.
    pub peak: u64,
}

/// Fills a table in the cluster and one on the plain server, and asks both in turn. `node` is the cluster's only one.
///
/// # Errors
/// When anything is not answered, or not alike.
pub async fn scatter(
    cluster: &Cluster,
    plain: &Plain,
    node: NodeId,
    plan: ScatterPlan,
) -> Result<Vec<Scattered>> {
    let (here, there) = (cluster.connect(node).await?, plain.connect().await?);
    for client in [&here, &there] {
        client.batch_execute(TABLE).await?;
        fill(client, plan.rows).await?;
        client.batch_execute("ANALYZE measured").await?;
    }
    let mut all = Vec::new();
    for (name, sql) in QUERIES {
        let (mut howdah, mut on_plain, mut peak) = (Vec::new(), Vec::new(), 0);
        for _ in 0..plan.rounds {
            cluster.forget_peak(node)?;
            let (took, answer) = asked(&here, sql).await?;
            peak = peak.max(cluster.peak(node)?);
            let (took_there, answer_there) = asked(&there, sql).await?;
            if answer != answer_there {
                return Err(format!("{sql}: {answer:?} here, {answer_there:?} on the plain server").into());
            }
            howdah.push(took);
            on_plain.push(took_there);
        }
        all.push(Scattered {
            name,
            howdah: median(&howdah).unwrap_or_default(),
            plain: median(&on_plain).unwrap_or_default(),
            peak,
        });
    }
    Ok(all)
}

async fn fill(client: &Client, rows: usize) -> Result<()> {
    let copy = client.copy_in::<_, Bytes>("COPY measured FROM STDIN").await?;
    pin_mut!(copy);
    for from in (0..rows).step_by(BATCH) {
        let mut lines = String::new();
        for id in from..rows.min(from + BATCH) {
            // Spread as by chance, but the same each time.
            let mixed = id.wrapping_mul(2_654_435_761) % 1_000_003;
            let (whole, cents) = (mixed % 10_000, mixed % 100);
            lines.push_str(&format!(
                "{id}\t{mixed}\t{whole}.{cents:02}\tword {}\n",
                mixed % 977
            ));
        }
        copy.send(Bytes::from(lines)).await?;
    }
    copy.finish().await?;
    Ok(())
}

/// What rows have in common, in whatever order they came: their number, and a sum over all of their values.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Answer {
    rows: u64,
    sum: u64,
}

async fn asked(client: &Client, sql: &str) -> Result<(Duration, Answer)> {
    let (began, mut answer) = (Instant::now(), Answer::default());
    let messages = client.simple_query_raw(sql).await?;
    pin_mut!(messages);
    while let Some(message) = messages.next().await {
        if let SimpleQueryMessage::Row(row) = message? {
            answer.rows += 1;
            for at in 0..row.len() {
                let bytes = row.get(at).unwrap_or("NULL").bytes();
                // FNV-1a.
                let hash = bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
                    (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
                });
                answer.sum = answer.sum.wrapping_add(hash.rotate_left(u32::try_from(at)?));
            }
        }
    }
    Ok((began.elapsed(), answer))
}
