//! Links are cut; the leader stays, or nobody can lead.

use std::time::{Duration, Instant};

use shard::client::ConnectError;

use crate::cluster::Cluster;
use crate::sql::{GROUP, within};

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_comes_back_does_not_depose_a_healthy_leader() {
    let mut cluster = Cluster::start(3).await;
    let leader = cluster.leader().await;
    let away = cluster.others(leader)[0];
    let session = cluster.session_at(leader).await;
    session.run("CREATE TABLE t (id serial PRIMARY KEY)").await;
    cluster.settled().await;
    let term = cluster.term(leader);

    cluster.net.isolate(away);
    for _ in 0..20 {
        session.run("INSERT INTO t DEFAULT VALUES").await;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    cluster.net.heal();
    cluster.settled().await;
    assert_eq!(
        (cluster.leader().await, cluster.term(leader)),
        (leader, term),
        "after a partition"
    );

    // It hears nobody, but what it says is heard.
    for other in cluster.others(away) {
        cluster.net.cut(other, away);
    }
    for _ in 0..20 {
        session.run("INSERT INTO t DEFAULT VALUES").await;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    cluster.net.heal();
    cluster.settled().await;
    assert_eq!(
        (cluster.leader().await, cluster.term(leader)),
        (leader, term),
        "after a one-way cut"
    );

    cluster.crash(away);
    session.run("INSERT INTO t DEFAULT VALUES").await;
    cluster.start_node(away).await;
    cluster.settled().await;
    assert_eq!(
        (cluster.leader().await, cluster.term(leader)),
        (leader, term),
        "after a crash"
    );
    assert_eq!(cluster.agree_on("SELECT count(*) FROM t").await, 41);
    cluster.stop(&[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_majority_everything_fails_in_time_and_goes_on_with_one() {
    let mut cluster = Cluster::start(3).await;
    let leader = cluster.leader().await;
    let session = cluster.session_at(leader).await;
    session.run("CREATE TABLE t (id int PRIMARY KEY)").await;
    let reader = cluster.session_at(leader).await;
    reader.run("SELECT count(*) FROM t").await;
    cluster.settled().await;
    let followers = cluster.others(leader);
    for node in &followers {
        cluster.stop_node(*node).await;
    }

    // Sessions that were open end, whether they write or read.
    let write = session.client.batch_execute("INSERT INTO t VALUES (1)");
    let read = reader.client.batch_execute("SELECT count(*) FROM t");
    let (write, _read) = within(async { tokio::join!(write, read) }).await;
    assert!(write.is_err(), "a write without a majority");
    // New ones are refused when their patience is over.
    let (start, patience) = (Instant::now(), Duration::from_secs(1));
    let refused = within(cluster.groups(leader).connect(GROUP, patience)).await;
    assert!(
        matches!(refused, Err(ConnectError::NoLeader { .. })),
        "{refused:?}"
    );
    assert!(start.elapsed() < patience * 3);
    let refused = within(cluster.groups(leader).cancel(GROUP, 1, 1)).await;
    assert!(refused.is_err());

    cluster.start_nodes(&followers).await;
    let session = cluster.session().await;
    // Unknown, as the client was told: it led all the time, so the row may be there.
    session
        .run("INSERT INTO t VALUES (1) ON CONFLICT DO NOTHING")
        .await;
    assert_eq!(cluster.agree_on("SELECT count(*) FROM t").await, 1);
    cluster.stop(&["no majority"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn replicas_without_data_hand_the_leadership_round_until_it_reaches_the_one_with_data() {
    let cluster = Cluster::start(3).await;
    // The others have just begun to copy.
    let born = cluster.leader().await;
    let term = cluster.term(born);
    cluster.net.isolate(born);
    let others = cluster.others(born);
    let replaced = |cluster: &Cluster| others.iter().any(|node| cluster.term(*node) > term).then_some(());
    cluster.until("another leads", replaced).await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    let terms = others.iter().map(|node| cluster.term(*node)).max().unwrap();
    assert!(terms.0 < term.0 + 20, "from {term} to {terms} in 3 s");
    cluster.net.heal();
    let session = cluster.session_at(others[0]).await;
    session
        .run("CREATE TABLE t (id int); INSERT INTO t VALUES (1)")
        .await;
    assert_eq!(cluster.agree_on("SELECT count(*) FROM t").await, 1);
    cluster
        .stop(&["no majority", "failed, will be tried again"])
        .await;
}
