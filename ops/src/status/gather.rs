//! Asks every node at once.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use serde::Serialize;
use shard::status::NodeStatus;
use shard::transport::call_as_client;
use tokio::task::JoinSet;

use super::merge::{ClusterStatus, merge};
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

/// What a node can be asked. A variant's place is its code on the wire (postcard).
#[derive(Debug, Serialize)]
enum Question {
    /// Answered by its [`NodeStatus`].
    Status,
}

/// Asks one node over its node-to-node port; none where it does not answer.
async fn ask(address: SocketAddr, cluster: &str, secret: &str) -> Option<NodeStatus> {
    let question = postcard::to_stdvec(&Question::Status).ok()?;
    let answer = call_as_client(address, cluster, secret, question.into(), PATIENCE).await;
    answer.ok().and_then(|answer| postcard::from_bytes(&answer).ok())
}
