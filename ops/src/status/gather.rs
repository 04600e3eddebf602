//! Asks every node at once.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::future::join_all;
use proxy::status::ClusterStatus;
use shard::call::{Answer, Question};
use shard::id::NodeId;
use shard::status::NodeStatus;

use super::merge::merge;
use crate::config::ClusterConfig;

/// A node that has not answered by then is shown as unreachable.
const PATIENCE: Duration = Duration::from_secs(2);

/// The status of the whole cluster, as of now.
pub async fn gather(cluster: &ClusterConfig) -> ClusterStatus {
    let asked = cluster
        .nodes
        .keys()
        .map(|node| async move { Some((*node, ask(cluster, *node).await?)) });
    let answers: BTreeMap<_, _> = join_all(asked).await.into_iter().flatten().collect();
    merge(cluster, &answers)
}

/// Asks one node over its node-to-node port; none where it does not answer.
async fn ask(cluster: &ClusterConfig, node: NodeId) -> Option<NodeStatus> {
    let answer = cluster
        .call(node, Question::Status.encode(), PATIENCE)
        .await
        .ok()?;
    match Answer::decode(&answer) {
        Ok(Answer::Status(status)) => Some(status),
        _ => None,
    }
}
