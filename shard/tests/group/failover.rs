//! The leader goes, and comes back.

use shard::id::NodeId;

use crate::cluster::Cluster;

#[tokio::test(flavor = "multi_thread")]
async fn acknowledged_rows_survive_the_leader_and_the_old_leader_comes_back() {
    let mut cluster = Cluster::start(3).await;
    let session = cluster.session().await;
    session
        .run("CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t SELECT generate_series(1, 1000)")
        .await;
    cluster.settled().await;

    for round in 1..=2 {
        let leader = cluster.leader().await;
        cluster.stop_node(leader).await;
        let session = cluster.session().await;
        assert_eq!(session.number("SELECT count(*) FROM t").await, 1000 + round - 1);
        session.run("INSERT INTO t SELECT max(id) + 1 FROM t").await;
        cluster.start_node(leader).await;
        cluster.settled().await;
    }
    assert_eq!(cluster.agree_on("SELECT count(*) FROM t").await, 1002);
    cluster.stop(&[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_single_replica_goes_on_after_a_restart() {
    let mut cluster = Cluster::start(1).await;
    let session = cluster.session().await;
    session
        .run("CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1), (2)")
        .await;
    for _ in 0..2 {
        cluster.stop_node(NodeId(1)).await;
        cluster.start_node(NodeId(1)).await;
        assert_eq!(cluster.session().await.number("SELECT count(*) FROM t").await, 2);
    }
    cluster.stop(&[]).await;
}
