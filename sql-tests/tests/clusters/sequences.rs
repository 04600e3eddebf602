//! Sequences while the node dies that leads the group in which they count.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use shard::id::NodeId;
use sql_tests::cluster::{Cluster, Options, PATIENCE, connect_to};
use tokio::time::sleep;

use crate::{FAULTS, cluster};

/// What a client was given: the keys of its rows, and values of the sequence alone.
#[derive(Default)]
struct Given {
    keys: Vec<i64>,
    alone: Vec<i64>,
}

/// Takes values through a node until it is told to stop; connects again when the node, or its connection, is gone.
async fn take(cluster: &Cluster, node: NodeId, stop: Arc<AtomicBool>) -> tokio::task::JoinHandle<Given> {
    let address = cluster.sql_address(node).unwrap();
    tokio::spawn(async move {
        let mut given = Given::default();
        while !stop.load(Ordering::Relaxed) {
            let Ok(client) = connect_to(address).await else {
                sleep(Duration::from_millis(50)).await;
                continue;
            };
            while !stop.load(Ordering::Relaxed) && !client.is_closed() {
                let inserted = "INSERT INTO t (v) VALUES ($1) RETURNING id";
                if let Ok(row) = client.query_one(inserted, &[&"x"]).await {
                    given.keys.push(row.get(0));
                }
                if let Ok(row) = client.query_one("SELECT nextval('s')", &[]).await {
                    given.alone.push(row.get(0));
                }
            }
        }
        given
    })
}

fn all_differ(values: impl Iterator<Item = i64>) -> HashSet<i64> {
    let mut seen = HashSet::new();
    for value in values {
        assert!(seen.insert(value), "{value} was given twice");
    }
    seen
}

#[tokio::test(flavor = "multi_thread")]
async fn no_value_is_given_twice_when_the_leader_of_the_counting_group_is_killed() {
    let (_turn, mut cluster) = cluster(&Options::default()).await;
    let client = cluster.connect(NodeId(1)).await.unwrap();
    let sql = "CREATE TABLE t (id bigserial PRIMARY KEY, v text); CREATE SEQUENCE s";
    client.batch_execute(sql).await.unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let mut takers = Vec::new();
    for node in cluster.node_ids() {
        for _ in 0..2 {
            takers.push(take(&cluster, node, Arc::clone(&stop)).await);
        }
    }
    let home = cluster.groups()[0];
    for _ in 0..2 {
        sleep(Duration::from_secs(2)).await;
        let leader = cluster.leader_of(home).await.unwrap();
        cluster.kill_node(leader).unwrap();
        sleep(Duration::from_secs(1)).await;
        cluster.restart_node(leader).unwrap();
        cluster.wait_whole(PATIENCE).await.unwrap();
    }
    sleep(Duration::from_secs(1)).await;
    stop.store(true, Ordering::Relaxed);
    let began = Instant::now();
    let (mut keys, mut alone) = (Vec::new(), Vec::new());
    for taker in takers {
        let given = taker.await.unwrap();
        keys.extend(given.keys);
        alone.extend(given.alone);
    }
    assert!(began.elapsed() < PATIENCE);
    assert!(
        keys.len() > 100 && alone.len() > 100,
        "{} and {}",
        keys.len(),
        alone.len()
    );
    let keys = all_differ(keys.into_iter());
    all_differ(alone.into_iter());
    // Rows whose INSERT was not answered are there, too, perhaps.
    cluster.wait_whole(PATIENCE).await.unwrap();
    let client = cluster.connect(cluster.node_ids()[2]).await.unwrap();
    let began = Instant::now();
    let rows = loop {
        match client.query("SELECT id FROM t", &[]).await {
            Ok(rows) => break rows,
            Err(error) => assert!(began.elapsed() < PATIENCE, "{error}"),
        }
        sleep(Duration::from_millis(200)).await;
    };
    let there = all_differ(rows.iter().map(|row| row.get(0)));
    assert!(
        keys.is_subset(&there),
        "{:?} are missing",
        keys.difference(&there)
    );
    cluster.shutdown(&FAULTS).await.unwrap();
}
