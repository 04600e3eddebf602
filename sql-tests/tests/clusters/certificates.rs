//! A cluster whose nodes talk within TLS, with certificates that the commands made, and renewed while it runs.

use std::fs;
use std::path::Path;
use std::process::Command;

use shard::id::{GroupId, NodeId};
use sql_tests::cluster::{Cluster, Options, PATIENCE, Traffic, connect_to};

use crate::reload::{folder_of, hang_up, until_logged};
use crate::{FAULTS, cluster, howdah};

const AGAIN: &str = "the configuration was read again";

/// Writes a row through a node, and counts them.
async fn write(cluster: &Cluster, through: NodeId, id: i64) -> i64 {
    let client = connect_to(cluster.sql_address(through).unwrap()).await.unwrap();
    client.execute("INSERT INTO t VALUES ($1)", &[&id]).await.unwrap();
    let row = client.query_one("SELECT count(*) FROM t", &[]).await.unwrap();
    row.get(0)
}

fn renew(config: &Path, dir: &Path, node: NodeId) {
    let mut command = Command::new(howdah());
    command.args(["cert", "--renew", "--node", &node.to_string(), "--dir"]);
    let output = command.arg(dir).arg("--config").arg(config).output().unwrap();
    assert!(output.status.success(), "{output:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_talk_within_tls_and_take_over_renewed_certificates_while_they_run() {
    let options = Options {
        groups: 1,
        traffic: Traffic::Encrypted,
        ..Options::default()
    };
    let (_turn, mut cluster) = cluster(&options).await;
    let client = connect_to(cluster.sql_address(NodeId(1)).unwrap()).await.unwrap();
    client
        .batch_execute("CREATE TABLE t (id bigint PRIMARY KEY)")
        .await
        .unwrap();
    // From every node, so that two of them reach the leader through the others' ports.
    for node in 1..=3 {
        let expected = i64::try_from(node).unwrap();
        assert_eq!(write(&cluster, NodeId(node), expected).await, expected);
    }

    let folder = folder_of(&cluster, NodeId(1));
    let (config, certs) = (folder.join("howdah.toml"), folder.join("../certs"));
    for node in cluster.node_ids() {
        renew(&config, &certs, node);
        hang_up(&cluster, node).await;
        until_logged(&cluster, node, AGAIN, 1).await;
    }
    assert_eq!(write(&cluster, NodeId(1), 4).await, 4);
    // Whoever comes back meets the others with the new ones.
    let leader = cluster.leader_of(GroupId(1)).await.unwrap();
    cluster.kill_node(leader).unwrap();
    cluster.restart_node(leader).unwrap();
    cluster.wait_whole(PATIENCE).await.unwrap();
    assert_eq!(write(&cluster, leader, 5).await, 5);

    // A certificate that is none is told of, and changes nothing.
    let (node, other) = (leader, NodeId(leader.0 % 3 + 1));
    let own = certs.join(format!("node{node}.crt"));
    fs::copy(certs.join(format!("node{other}.crt")), &own).unwrap();
    hang_up(&cluster, node).await;
    until_logged(&cluster, node, "the old one stays in force", 1).await;
    assert_eq!(write(&cluster, node, 6).await, 6);
    cluster
        .shutdown(&[&FAULTS[..], &["the old one stays in force"]].concat())
        .await
        .unwrap();
}
