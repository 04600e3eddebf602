//! There is a leader soon, and never two that may serve.

use std::time::{Duration, Instant};

use crate::id::NodeId;
use crate::raft::RequestFailed;

use super::cluster::{Cluster, genesis};

#[tokio::test(flavor = "multi_thread")]
async fn follower_that_was_cut_off_does_not_depose_the_leader() {
    let cluster = Cluster::start(3).await;
    let leader = cluster.leader(None).await;
    let before = *cluster.replica(leader).leadership().borrow();
    let away = cluster
        .replicas()
        .map(|(node, _)| node)
        .find(|node| *node != leader)
        .unwrap();
    cluster.connect(away, false);
    tokio::time::sleep(cluster.timing.election * 4).await;
    cluster.feed(leader, 10, 1000).await;
    cluster.connect(away, true);
    cluster.agree_with(leader).await;
    tokio::time::sleep(cluster.timing.election * 2).await;
    assert_eq!(*cluster.replica(leader).leadership().borrow(), before);
    assert_eq!(cluster.replica(away).leadership().borrow().term, before.term);
}

#[tokio::test(flavor = "multi_thread")]
async fn leader_that_was_cut_off_loses_its_lease_before_another_leads() {
    let cluster = Cluster::start(3).await;
    let old = cluster.leader(None).await;
    cluster.feed(old, 10, 1000).await;
    cluster.connect(old, false);
    let cut = Instant::now();
    let mut lost = None;
    let new = loop {
        let holders: Vec<NodeId> = holders(&cluster);
        assert!(holders.len() <= 1, "{holders:?} hold the lease");
        if !cluster.replica(old).holds_lease() {
            lost.get_or_insert_with(|| cut.elapsed());
        }
        match holders.first() {
            Some(holder) if *holder != old => break *holder,
            _ => assert!(cut.elapsed() < Duration::from_secs(20), "no new leader"),
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    };
    let (lost, replaced) = (lost.unwrap(), cut.elapsed());
    assert!(lost < cluster.timing.election, "lost after {lost:?}");
    tracing::info!(?lost, ?replaced, "the lease went over");
    let new = cluster.leader(Some(old)).await.max(new);
    cluster.feed(new, 10, 1000).await;
    cluster.connect(old, true);
    cluster.agree_with(new).await;
    assert!(!cluster.replica(old).holds_lease());
}

fn holders(cluster: &Cluster) -> Vec<NodeId> {
    let holding = cluster.replicas().filter(|(_, replica)| replica.holds_lease());
    holding.map(|(node, _)| node).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn leadership_is_handed_over_in_less_than_an_election() {
    let cluster = Cluster::start(3).await;
    let old = cluster.leader(None).await;
    cluster.feed(old, 10, 1000).await;
    cluster.agree_with(old).await;
    let new = cluster
        .replicas()
        .map(|(node, _)| node)
        .find(|node| *node != old)
        .unwrap();
    let refused = cluster.replica(new).transfer_to(old).await;
    assert_eq!(refused, Err(RequestFailed::NotLeader));
    let begun = Instant::now();
    let transfer = cluster.replica(old).transfer_to(new);
    transfer.await.unwrap();
    tracing::info!(took = ?begun.elapsed(), "handed over");
    assert_eq!(cluster.leader(None).await, new);
    assert!(begun.elapsed() < cluster.timing.election, "{:?}", begun.elapsed());
    cluster.feed(new, 10, 1000).await;
    cluster.agree_with(new).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn transfer_to_a_dead_node_ends_with_another_leader() {
    let mut cluster = Cluster::start(3).await;
    let old = cluster.leader(None).await;
    let dead = cluster
        .replicas()
        .map(|(node, _)| node)
        .find(|node| *node != old)
        .unwrap();
    cluster.kill(dead);
    cluster.replica(old).transfer_to(dead).await.unwrap();
    let new = cluster.leader(None).await;
    cluster.feed(new, 10, 1000).await;
    cluster.agree_with(new).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn group_of_one_leads_itself() {
    let mut cluster = Cluster::start(1).await;
    let only = cluster.leader(None).await;
    cluster.feed(only, 10, 1000).await;
    cluster.kill(only);
    cluster.start_node(only).await;
    assert_eq!(cluster.leader(None).await, only);
    assert_eq!(
        cluster
            .replica(only)
            .lease_remaining()
            .map(|left| left > Duration::from_secs(1)),
        Some(true)
    );
    cluster.feed(only, 10, 1000).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn replica_whose_log_fails_says_so_and_gives_its_lease_up() {
    let cluster = Cluster::start(3).await;
    let leader = cluster.leader(None).await;
    cluster.feed(leader, 10, 1000).await;
    cluster.close_log(leader);
    let replica = cluster.replica(leader);
    // Nobody may be waiting for an answer when the log fails.
    let _ = replica.propose(genesis(leader)).await;
    let mut fatal = replica.fatal();
    let failed = tokio::time::timeout(Duration::from_secs(10), fatal.wait_for(Option::is_some)).await;
    let failed = failed.expect("must be told").unwrap().clone().unwrap();
    tracing::info!(%failed, "told");
    assert!(!replica.holds_lease());
    let next = cluster.leader(Some(leader)).await;
    cluster.feed(next, 10, 1000).await;
}
