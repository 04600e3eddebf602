//! What the documentation says of statements over several groups, claim by claim: `sql-tests/scripts`.

use shard::id::NodeId;
use sql_tests::cluster::{Guard, Options, Plain};
use sql_tests::differential::Servers;
use sql_tests::scripts::scripts;

use crate::cluster;

#[tokio::test(flavor = "multi_thread")]
async fn every_script_comes_out_as_it_is_written_here_and_on_postgresql() {
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
    scripts(servers, "").await.unwrap().verdict().unwrap();
    cluster.shutdown(&[]).await.unwrap();
}
