//! Leaders are killed, paused and cut off.

use std::time::Duration;

use shard::id::GroupId;
use sql_tests::cluster::{Frozen, Network, Options};
use sql_tests::report::median;
use sql_tests::scenario::{KillPlan, PausePlan, kill_leaders, pause_leaders, uncommitted_wal};
use tokio_postgres::error::SqlState;

use crate::{FAULTS, cluster};

#[tokio::test(flavor = "multi_thread")]
async fn killed_leaders_lose_nothing_and_come_back() {
    let (_turn, mut cluster) = cluster(&Options::default()).await;
    let plan = KillPlan {
        rounds: 2,
        writers: 4,
        calm: Duration::from_secs(2),
    };
    let report = kill_leaders(&mut cluster, plan).await.unwrap();
    assert!(report.acknowledged > 100, "{report:?}");
    // Loose, since a loaded machine runs this too; must-show measures.
    assert!(
        median(&report.gaps).unwrap() < Duration::from_secs(10),
        "{report:?}"
    );
    cluster.shutdown(&FAULTS).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_slept_answers_no_read_with_old_data() {
    let (_turn, mut cluster) = cluster(&Options::default()).await;
    let plan = PausePlan {
        rounds: 2,
        sleep: Duration::from_secs(4),
        frozen: Frozen::NodeAndPostgres,
    };
    let report = pause_leaders(&mut cluster, plan).await.unwrap();
    assert!(report.answers > 100, "{report:?}");
    cluster.shutdown(&FAULTS).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_whose_node_alone_slept_answers_no_read_with_old_data() {
    let (_turn, mut cluster) = cluster(&Options {
        groups: 1,
        ..Options::default()
    })
    .await;
    let plan = PausePlan {
        rounds: 1,
        sleep: Duration::from_secs(4),
        frozen: Frozen::Node,
    };
    pause_leaders(&mut cluster, plan).await.unwrap();
    cluster.shutdown(&FAULTS).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn wal_that_raft_did_not_commit_is_never_seen_and_goes_away() {
    let options = Options {
        groups: 1,
        network: Network::Relayed,
        ..Options::default()
    };
    let (_turn, cluster) = cluster(&options).await;
    let report = uncommitted_wal(&cluster, GroupId(1)).await.unwrap();
    assert!(report.looks > 100, "{report:?}");
    cluster.shutdown(&FAULTS).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_majority_statements_fail_in_time_and_say_why() {
    let (_turn, mut cluster) = cluster(&Options::default()).await;
    let nodes = cluster.node_ids();
    let client = cluster.connect(nodes[0]).await.unwrap();
    client
        .batch_execute("CREATE TABLE t (id int PRIMARY KEY)")
        .await
        .unwrap();
    cluster.kill_node(nodes[1]).unwrap();
    cluster.kill_node(nodes[2]).unwrap();
    // The first may break off what was under way; the second finds no leader.
    let patience = Duration::from_secs(30);
    for _ in 0..2 {
        let asked = tokio::time::timeout(patience, client.simple_query("INSERT INTO t VALUES (1)"));
        let error = asked.await.expect("an answer in bounded time").unwrap_err();
        let code = error
            .code()
            .unwrap_or_else(|| panic!("an error of the node's: {error:?}"));
        assert!(
            *code == SqlState::CANNOT_CONNECT_NOW || code.code().starts_with("08"),
            "{error:?}"
        );
    }
    cluster.restart_node(nodes[1]).unwrap();
    cluster.restart_node(nodes[2]).unwrap();
    cluster.wait_whole(Duration::from_secs(60)).await.unwrap();
    let client = cluster.connect(nodes[0]).await.unwrap();
    client.batch_execute("INSERT INTO t VALUES (2)").await.unwrap();
    cluster.shutdown(&FAULTS).await.unwrap();
}
