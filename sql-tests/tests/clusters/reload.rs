//! What a node reads again at SIGHUP, and what it makes of a file that is wrong.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use ops::status::ClusterStatus;
use rustix::process::{Pid, Signal, kill_process};
use shard::id::NodeId;
use sql_tests::cluster::{Cluster, Options, connect_to};
use tokio::time::{Instant, sleep};

use crate::cluster;

const TRUST: &str = "host all all 127.0.0.1/32 trust\n";

/// Whether clients are let in now.
async fn lets_in(cluster: &Cluster) -> Result<(), String> {
    let address = cluster.sql_address(NodeId(1)).unwrap();
    match connect_to(address).await {
        Ok(_) => Ok(()),
        Err(error) => Err(error.to_string()),
    }
}

/// The folder of a node's configuration.
pub(crate) fn folder_of(cluster: &Cluster, node: NodeId) -> PathBuf {
    let data = cluster.raft_log(node).unwrap();
    let folder = data
        .ancestors()
        .find(|folder| folder.join("pg_hba.conf").exists());
    folder.expect("the folder of the configuration").to_owned()
}

pub(crate) async fn hang_up(cluster: &Cluster, node: NodeId) {
    let status: ClusterStatus = cluster.status().await;
    let view = status.nodes.iter().find(|view| view.id == node);
    let pid = view.and_then(|view| view.pid).expect("the node is up");
    let pid = Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    kill_process(pid, Signal::HUP).unwrap();
}

pub(crate) async fn until_logged(cluster: &Cluster, node: NodeId, words: &str, times: usize) {
    let began = Instant::now();
    let logged = || {
        let lines = cluster.log_lines(node).unwrap();
        lines.iter().filter(|line| line.contains(words)).count()
    };
    while logged() < times {
        assert!(began.elapsed() < Duration::from_secs(20), "not logged: {words}");
        sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_reads_its_rules_again_at_sighup_and_a_broken_file_changes_nothing() {
    let options = Options {
        nodes: 1,
        groups: 1,
        ..Options::default()
    };
    let (_turn, cluster) = cluster(&options).await;
    let folder = folder_of(&cluster, NodeId(1));
    let rules = |text: &str| fs::write(folder.join("pg_hba.conf"), text).unwrap();
    let again = "the configuration was read again";

    rules("host all all all reject\n");
    lets_in(&cluster).await.expect("nobody has told the node yet");
    hang_up(&cluster, NodeId(1)).await;
    until_logged(&cluster, NodeId(1), again, 1).await;
    assert!(lets_in(&cluster).await.is_err(), "the new rules do not hold");

    rules(&format!("{TRUST}host all all all peer\n"));
    hang_up(&cluster, NodeId(1)).await;
    until_logged(&cluster, NodeId(1), "the old one stays in force", 1).await;
    until_logged(
        &cluster,
        NodeId(1),
        "pg_hba.conf:2: invalid authentication method",
        1,
    )
    .await;
    assert!(lets_in(&cluster).await.is_err(), "half of a broken file holds");

    rules(TRUST);
    let file = folder.join("howdah.toml");
    let text = fs::read_to_string(&file).unwrap();
    fs::write(&file, format!("{text}[timing]\nelection = \"3s\"\n")).unwrap();
    hang_up(&cluster, NodeId(1)).await;
    until_logged(&cluster, NodeId(1), again, 2).await;
    lets_in(&cluster).await.expect("the good rules hold again");
    until_logged(
        &cluster,
        NodeId(1),
        "`timing.election` cannot be changed without restarting",
        1,
    )
    .await;
    cluster
        .shutdown(&[
            "the old one stays in force",
            "cannot be changed without restarting",
        ])
        .await
        .unwrap();
}
