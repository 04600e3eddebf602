//! The same statements to two groups and to one PostgreSQL.

use shard::id::NodeId;
use sql_tests::cluster::{Guard, Options, Plain};
use sql_tests::differential::{DifferentialPlan, Servers, differential};

use crate::cluster;

/// Of conversations that were once answered otherwise.
const ONCE_DIFFERENT: [u64; 8] = [102, 446, 643, 1034, 1078, 1164, 1355, 1554];

#[tokio::test(flavor = "multi_thread")]
async fn two_thousand_statements_are_answered_as_by_one_postgresql() {
    let options = Options {
        nodes: 1,
        ..Options::default()
    };
    let (_turn, cluster) = cluster(&options).await;
    let plain = Plain::start(Guard::Alone).await.unwrap();
    let servers = Servers {
        howdah: cluster.sql_address(NodeId(1)).unwrap(),
        plain: plain.address(),
    };
    let plan = DifferentialPlan {
        statements: 2000,
        seed: 1,
    };
    let report = differential(servers, plan).await.unwrap();
    assert!(
        report.statements >= plan.statements && report.errors > 50,
        "{}",
        report.describe()
    );
    report.verdict().unwrap();
    for seed in ONCE_DIFFERENT {
        let plan = DifferentialPlan { statements: 1, seed };
        let report = differential(servers, plan).await.unwrap();
        assert!(report.differences.is_empty(), "{}", report.describe());
    }
    cluster.shutdown(&[]).await.unwrap();
}
