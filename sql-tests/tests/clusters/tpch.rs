//! The 22 queries of TPC-H, small.

use shard::id::NodeId;
use sql_tests::cluster::{Guard, Options, Plain};
use sql_tests::tpch::{TpchPlan, tpch};

use crate::cluster;

#[tokio::test(flavor = "multi_thread")]
async fn all_tpch_queries_are_answered_as_by_one_postgresql() {
    let options = Options {
        nodes: 1,
        ..Options::default()
    };
    let (_turn, cluster) = cluster(&options).await;
    let plain = Plain::start(Guard::Alone).await.unwrap();
    let plan = TpchPlan {
        scale: 0.002,
        rounds: 1,
    };
    let (here, there) = (
        cluster.connect(NodeId(1)).await.unwrap(),
        plain.connect().await.unwrap(),
    );
    let report = tpch(&here, &there, plan).await.unwrap();
    report.verdict().unwrap();
    assert_eq!(report.lines.len(), 22);
    let empty = report.lines.iter().filter(|line| line.rows == 0).count();
    assert!(empty < 5, "equal, but of nothing:\n{report}");
    cluster.shutdown(&[]).await.unwrap();
}
