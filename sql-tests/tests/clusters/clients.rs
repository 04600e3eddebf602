//! Many clients, and those that send garbage, in small form.

use std::time::Duration;

use shard::id::NodeId;
use sql_tests::cluster::Options;
use sql_tests::compare::{IdlePlan, idle};
use sql_tests::scenario::{GARBAGE, GarbagePlan, garbage};

use crate::cluster;

/// What an idle client may take here, where debug builds and few clients make each look larger.
const MOST: u64 = 128 << 10;

#[tokio::test(flavor = "multi_thread")]
async fn garbage_and_idle_clients_leave_the_others_alone() {
    let options = Options {
        nodes: 1,
        ..Options::default()
    };
    let (_turn, cluster) = cluster(&options).await;
    let plan = IdlePlan {
        idle: 150,
        busy: 8,
        time: Duration::from_secs(2),
    };
    let report = idle(&cluster, NodeId(1), plan).await.unwrap();
    assert!(report.for_each() < MOST, "{report:?}");
    let plan = GarbagePlan {
        time: Duration::from_secs(8),
        seed: 1,
    };
    let report = garbage(&cluster, NodeId(1), plan).await.unwrap();
    assert!(
        report.connections > 20 && report.answered > 0 && report.asked > 0,
        "{report:?}"
    );
    cluster.shutdown(&GARBAGE).await.unwrap();
}
