//! Asks every node at once.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use proxy::status::ClusterStatus;
use shard::call::{Answer, Question};
use shard::status::NodeStatus;
use shard::transport::call_as_client;
use tokio::task::JoinSet;

use super::merge::merge;
use crate::config::ClusterConfig;

/// A node that has not answered by then is shown as unreachable.
const PATIENCE: Duration = Duration::from_secs(2);

/// The status of the whole cluster, as of now.
pub async fn gather(cluster: &ClusterConfig) -> ClusterStatus {
    let mut asked = JoinSet::new();
    for (node, addresses) in &cluster.nodes {
        let (node, address) = (*node, addresses.peer);
        let (name, secret) = (cluster.cluster.clone(), cluster.secret.clone());
        asked.spawn(async move { (node, ask(address, &name, &secret).await) });
    }
    let answers: BTreeMap<_, _> = asked
        .join_all()
        .await
        .into_iter()
        .filter_map(|(node, answer)| Some((node, answer?)))
        .collect();
    merge(cluster, &answers)
}

/// Asks one node over its node-to-node port; none where it does not answer.
async fn ask(address: SocketAddr, cluster: &str, secret: &str) -> Option<NodeStatus> {
    let answer = call_as_client(address, cluster, secret, Question::Status.encode(), PATIENCE)
        .await
        .ok()?;
    match Answer::decode(&answer) {
        Ok(Answer::Status(status)) => Some(status),
        _ => None,
    }
}
