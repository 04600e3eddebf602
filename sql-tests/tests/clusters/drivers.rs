//! What people connect with.

use shard::id::NodeId;
use sql_tests::cluster::{Guard, Options, Plain};
use sql_tests::drivers::drivers;
use sql_tests::drivers::outcomes::Outcomes;

use crate::cluster;

#[tokio::test(flavor = "multi_thread")]
async fn every_driver_does_what_is_recorded_of_it() {
    let (_turn, cluster) = cluster(&Options::default()).await;
    let plain = Plain::start(Guard::Alone).await.unwrap();
    let outcomes = drivers(cluster.sql_address(NodeId(1)).unwrap(), plain.address())
        .await
        .unwrap();
    let changes = outcomes.changes_since(&Outcomes::recorded().unwrap());
    assert!(
        changes.is_empty(),
        "not as in sql-tests/drivers/outcomes.tsv; `must-show drivers record` writes it anew:\n{}",
        changes.join("\n")
    );
    cluster.shutdown(&[]).await.unwrap();
}
