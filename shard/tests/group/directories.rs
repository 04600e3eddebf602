//! A data directory belongs to one node of one cluster, and to one process.

use std::error::Error;

use shard::config::Config;
use shard::id::NodeId;
use shard::node::Node;

use crate::cluster::Cluster;

/// Starts a node in vain and gives the reason, which is one line.
async fn refusal(config: Config) -> String {
    let error = Node::start(config, None)
        .await
        .map(|node| format!("{node:?}"))
        .unwrap_err();
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    assert!(!text.contains('\n'), "{text}");
    text
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_of_another_cluster_or_node_or_of_a_running_node_is_refused() {
    let mut cluster = Cluster::start(1).await;
    let node = NodeId(1);
    cluster
        .session()
        .await
        .run("CREATE TABLE t (id int); INSERT INTO t VALUES (1)")
        .await;
    let mut free = cluster.config(node);
    free.nodes.insert(node, "127.0.0.1:0".parse().unwrap());

    let text = refusal(free.clone()).await;
    assert!(text.contains("in use"), "{text}");

    cluster.stop_node(node).await;
    let text = refusal(Config {
        cluster: "another".into(),
        ..free.clone()
    })
    .await;
    assert!(
        text.contains("cluster \"test\"") && text.contains("cluster \"another\""),
        "{text}"
    );
    let mut other = Config {
        node: NodeId(2),
        ..free.clone()
    };
    other.nodes = [(NodeId(2), "127.0.0.1:0".parse().unwrap())].into();
    other
        .groups
        .values_mut()
        .for_each(|members| *members = vec![NodeId(2)]);
    let text = refusal(other).await;
    assert!(text.contains("node 1") && text.contains("node 2"), "{text}");

    cluster.start_node(node).await;
    assert_eq!(cluster.session().await.number("SELECT count(*) FROM t").await, 1);
    cluster.stop(&[]).await;
}
