//! The log's bounds.

use std::time::Duration;

use shard::config::{LogConfig, Timing};

use crate::cluster::{Background, Cluster, Setup};

const MIB: u64 = 1 << 20;

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_that_missed_more_than_the_log_keeps_is_rebuilt_while_the_group_serves() {
    let log = LogConfig {
        keep_bytes: 32 * MIB,
        max_bytes: 64 * MIB,
    };
    let mut cluster = Cluster::start_with(
        3,
        Setup {
            timing: Timing::default(),
            log,
            ..Setup::default()
        },
    )
    .await;
    let leader = cluster.leader().await;
    let (away, stays) = (cluster.others(leader)[0], cluster.others(leader)[1]);
    let session = cluster.session_at(leader).await;
    session.run("CREATE TABLE t (id serial PRIMARY KEY)").await;
    cluster.settled().await;
    cluster.stop_node(away).await;

    let mut largest = 0;
    for _ in 0..16 {
        let wal = "SELECT pg_logical_emit_message(false, 'filler', repeat('x', 1 << 20)) FROM generate_series(1, 10)";
        session.run(&format!("INSERT INTO t DEFAULT VALUES; {wal}")).await;
        largest = largest
            .max(cluster.log_bytes(leader))
            .max(cluster.log_bytes(stays));
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
    assert!(largest < 200 * MIB, "{largest} bytes of log at most");

    let writer = cluster.session_at(leader).await;
    let writing = Background::spawn(async move {
        for _ in 0..50 {
            writer.run("INSERT INTO t DEFAULT VALUES").await;
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    });
    cluster.start_node(away).await;
    cluster
        .until("it is rebuilt", |cluster| {
            (cluster.status(away).state == "rebuilding").then_some(())
        })
        .await;
    writing.outcome().await;
    assert_eq!(cluster.agree_on("SELECT count(*) FROM t").await, 66);
    let bounded = |cluster: &Cluster| {
        cluster
            .running()
            .iter()
            .all(|node| cluster.log_bytes(*node) < 128 * MIB)
            .then_some(())
    };
    cluster.until("the logs are short again", bounded).await;

    // And it leads as well as any other.
    cluster.stop_node(leader).await;
    cluster.stop_node(stays).await;
    cluster.start_node(stays).await;
    assert_eq!(
        cluster
            .session_at(away)
            .await
            .number("SELECT count(*) FROM t")
            .await,
        66
    );
    cluster.stop(&["the standby must be rebuilt"]).await;
}
