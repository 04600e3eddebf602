//! One node: its replicas, and its port for clients.

use tokio_util::sync::CancellationToken;

use crate::config::NodeConfig;

/// Why a node stopped, or could not start.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// The parts are not joined yet.
    #[error("not built: this build of howdah cannot run a node yet")]
    NotBuilt,
}

/// Runs a node until `shutdown` is cancelled; returns when everything that it started has stopped.
pub async fn run(config: NodeConfig, shutdown: CancellationToken) -> Result<(), NodeError> {
    tracing::info!(node = %config.shard.node, cluster = config.shard.cluster, "starting");
    let _ = shutdown;
    Err(NodeError::NotBuilt)
}
