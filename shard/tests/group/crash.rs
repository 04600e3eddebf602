//! Every node at once.

use shard::id::NodeId;

use crate::cluster::Cluster;

#[tokio::test(flavor = "multi_thread")]
async fn acknowledged_rows_survive_a_crash_of_all_nodes_even_while_one_is_being_promoted() {
    let mut cluster = Cluster::start(3).await;
    let all: Vec<NodeId> = cluster.running();
    let session = cluster.session().await;
    session
        .run("CREATE TABLE t (id serial PRIMARY KEY); INSERT INTO t SELECT generate_series(1, 1000)")
        .await;
    session.run("SELECT setval('t_id_seq', 1000)").await;

    cluster.crash_all();
    cluster.start_nodes(&all).await;
    let session = cluster.session().await;
    assert_eq!(session.number("SELECT count(*) FROM t").await, 1000);
    session.run("INSERT INTO t DEFAULT VALUES").await;

    for round in 1..=2 {
        cluster.settled().await;
        let leader = cluster.leader().await;
        cluster.crash(leader);
        let promotes = |cluster: &Cluster| {
            let mut running = cluster.running().into_iter();
            running.find(|node| {
                ["promoting", "announcing timeline"].contains(&cluster.status(*node).state.as_str())
            })
        };
        cluster.until("a follower is being promoted", promotes).await;
        cluster.crash_all();
        cluster.start_nodes(&all).await;
        let session = cluster.session().await;
        assert_eq!(session.number("SELECT count(*) FROM t").await, 1000 + round);
        session.run("INSERT INTO t DEFAULT VALUES").await;
    }
    assert_eq!(cluster.agree_on("SELECT count(*) FROM t").await, 1003);
    cluster
        .agree_on("SELECT sum(hashtext(t::text)::bigint)::bigint FROM t")
        .await;
    // The first crash meets the followers while they are being made: connecting to the leader, asking it, or in pg_basebackup.
    let connecting = "the leader gives no connection";
    let asking = "control connection to PostgreSQL: error communicating with the server";
    cluster.stop(&["pg_basebackup failed", connecting, asking]).await;
}
