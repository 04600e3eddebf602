//! Making a running node die at a step of a commit: for tests, and only in builds with the feature `failpoints`.

use std::time::Duration;

use coordinator::failpoint::Step;
use shard::call::{Answer, Question};
use shard::id::NodeId;

use crate::config::ClusterConfig;
use crate::node::Ask;

/// How long the node may take to say that it will.
const PATIENCE: Duration = Duration::from_secs(2);

/// Arms one step of a node; none: disarms all. False where the node did not say that it has done so: it does not run,
/// or is built without failpoints.
pub async fn arm(cluster: &ClusterConfig, node: NodeId, step: Option<Step>) -> bool {
    let ask = postcard::to_stdvec(&Ask::Arm(step)).expect("plain values can be encoded");
    let question = Question::Above(ask.into()).encode();
    let answer = cluster.call(node, question, PATIENCE).await;
    let answer = answer.ok().and_then(|answer| Answer::decode(&answer).ok());
    matches!(answer, Some(Answer::Above(body)) if postcard::from_bytes(&body) == Ok(true))
}
