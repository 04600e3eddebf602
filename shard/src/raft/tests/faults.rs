//! Random faults from a seed. What was acknowledged stays; no two replicas hold the lease together.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::entry::Command;
use crate::id::NodeId;
use crate::raft::RaftGroup;
use crate::wal::{Lsn, TimelineId};

use super::cluster::{Cluster, chunk};
use super::replication::check_wal;

const LENGTH: Duration = Duration::from_secs(15);

/// Appends to wherever the log ends while the leader has it so, and gives the last
/// acknowledged end. Ends with its replica.
async fn write(replica: RaftGroup, stop: Arc<AtomicBool>) -> Lsn {
    let mut acknowledged = Lsn(0);
    let alive = replica.leadership();
    while !stop.load(Ordering::Relaxed) && alive.has_changed().is_ok() {
        let ready = replica.leadership().borrow().ready && replica.holds_lease();
        let history = replica.committed().borrow().history.clone();
        let Some(timeline) = history.timeline().filter(|_| ready) else {
            tokio::time::sleep(Duration::from_millis(5)).await;
            continue;
        };
        let command = Command::Wal(chunk(timeline, history.end(), 512));
        let Ok(proposal) = replica.propose(command).await else {
            return acknowledged;
        };
        let outcome = tokio::time::timeout(Duration::from_secs(5), proposal.outcome()).await;
        if let Ok(Ok(applied)) = outcome {
            acknowledged = acknowledged.max(applied.end);
        }
    }
    acknowledged
}

#[tokio::test(flavor = "multi_thread")]
#[expect(clippy::print_stderr, reason = "a failed run is repeated by its seed")]
async fn acknowledged_entries_survive_kills_cuts_and_transfers() {
    let seed = std::env::var("HOWDAH_SEED")
        .ok()
        .and_then(|seed| seed.parse().ok());
    let seed: u64 = seed.unwrap_or_else(rand::random);
    eprintln!("HOWDAH_SEED={seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let mut cluster = Cluster::start(3).await;
    let leader = cluster.leader(None).await;
    cluster.feed(leader, 1, 512).await;

    let stop = Arc::new(AtomicBool::new(false));
    let mut writers = Vec::new();
    for (_, replica) in cluster.replicas() {
        writers.push(tokio::spawn(write(replica.clone(), Arc::clone(&stop))));
    }
    let begun = Instant::now();
    while begun.elapsed() < LENGTH {
        let node = NodeId(random.random_range(1..=3));
        match random.random_range(0..4) {
            0 => {
                cluster.kill(node);
                calm(&cluster, &mut random).await;
                cluster.start_node(node).await;
                writers.push(tokio::spawn(write(
                    cluster.replica(node).clone(),
                    Arc::clone(&stop),
                )));
            }
            1 | 2 => {
                cluster.connect(node, false);
                calm(&cluster, &mut random).await;
                cluster.connect(node, true);
            }
            _ => {
                let to = NodeId(random.random_range(1..=3));
                let replica = cluster.replica(node).clone();
                tokio::spawn(async move { replica.transfer_to(to).await });
            }
        }
        calm(&cluster, &mut random).await;
    }
    let leader = cluster.leader(None).await;
    stop.store(true, Ordering::Relaxed);
    let mut acknowledged = Lsn(0);
    for writer in writers {
        acknowledged = acknowledged.max(writer.await.unwrap());
    }
    cluster.feed(leader, 1, 512).await;
    let history = cluster.agree_with(leader).await;
    assert!(
        history.end() > acknowledged,
        "{} after {acknowledged}",
        history.end()
    );
    for (_, replica) in cluster.replicas() {
        let first = TimelineId::FIRST;
        assert_eq!(
            check_wal(replica, first, super::cluster::START, |_| first),
            history.end()
        );
    }
    eprintln!(
        "acknowledged up to {acknowledged}, term {}",
        cluster.replica(leader).status().term
    );
}

/// Lets some time pass, and looks that at most one replica holds the lease.
async fn calm(cluster: &Cluster, random: &mut StdRng) {
    let until = Instant::now() + Duration::from_millis(random.random_range(50..2000));
    while Instant::now() < until {
        let holding = cluster.replicas().filter(|(_, replica)| replica.holds_lease());
        let holders: Vec<NodeId> = holding.map(|(node, _)| node).collect();
        assert!(holders.len() <= 1, "{holders:?} hold the lease");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}
