//! kill -9 of leaders, with writers running.

use std::time::{Duration, Instant};

use tokio::time::sleep;

use crate::Result;
use crate::cluster::{Cluster, PATIENCE};
use crate::load::{self, Writers};
use crate::verify::{nothing_lost, replicas_agree};

/// How much of it.
#[derive(Clone, Copy, Debug)]
pub struct KillPlan {
    /// How many leaders are killed, in turn of each group.
    pub rounds: usize,
    /// Writers of new rows; counters are counted up besides.
    pub writers: u16,
    /// How long writers run undisturbed before each kill.
    pub calm: Duration,
}

/// What came of it.
#[derive(Clone, Debug)]
pub struct KillReport {
    /// For each kill, the time to the next acknowledged write on that group.
    pub gaps: Vec<Duration>,
    /// For each kill, the time from the node's start to its replicas following.
    pub returns: Vec<Duration>,
    /// Writes that were acknowledged, all of which are there.
    pub acknowledged: usize,
    /// Writes of unknown outcome.
    pub unknown: usize,
}

/// Kills the leader's node with its PostgreSQL servers, again and again, each time waiting for
/// it to come back by itself; then checks that nothing acknowledged is lost and that all replicas
/// are equal.
pub async fn kill_leaders(cluster: &mut Cluster, plan: KillPlan) -> Result<KillReport> {
    let ledger = load::prepare(cluster).await?;
    let writers = Writers::start(cluster, &ledger, plan.writers, 4)?;
    let (mut gaps, mut returns) = (Vec::new(), Vec::new());
    let groups = cluster.groups();
    for group in groups.iter().cycle().take(plan.rounds) {
        sleep(plan.calm).await;
        let leader = cluster.leader_of(*group).await?;
        let killed = Instant::now();
        cluster.kill_node(leader)?;
        gaps.push(ledger.next_ack(*group, killed, PATIENCE).await?);
        // As the demo's supervisor does.
        sleep(Duration::from_secs(1)).await;
        let started = Instant::now();
        cluster.restart_node(leader)?;
        cluster.wait_whole(PATIENCE).await?;
        returns.push(started.elapsed());
    }
    writers.stop().await?;
    nothing_lost(cluster, &ledger).await?;
    replicas_agree(cluster, "entry").await?;
    replicas_agree(cluster, "counter").await?;
    let written = ledger.written();
    let total = |counts: &std::collections::HashMap<i64, i64>| usize::try_from(counts.values().sum::<i64>());
    Ok(KillReport {
        gaps,
        returns,
        acknowledged: written.entries.len() + total(&written.counts)?,
        unknown: written.unknown_entries.len() + total(&written.unknown_counts)?,
    })
}
