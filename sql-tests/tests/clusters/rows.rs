//! Rows go in through one node and come out through the others.

use sql_tests::cluster::Options;
use sql_tests::scenario::load_rows;

use crate::cluster;

#[tokio::test(flavor = "multi_thread")]
async fn rows_are_spread_over_both_groups_and_read_through_every_node() {
    let (_turn, cluster) = cluster(&Options::default()).await;
    let report = load_rows(&cluster, 5_000).await.unwrap();
    for group in cluster.groups() {
        let percent = report.percent(group);
        assert!((40.0..=60.0).contains(&percent), "group {group} has {percent} %");
    }
    cluster.shutdown(&[]).await.unwrap();
}
