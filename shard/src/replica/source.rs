//! The way from this replica's directory to the leader's PostgreSQL, for a rewind or base backup.

use std::sync::Arc;
use std::time::Duration;

use tokio::net::{UnixListener, UnixStream};
use tokio::task::JoinSet;

use super::{ReplicaError, Shared};
use crate::id::NodeId;
use crate::postgres::{Endpoint, Server};
use crate::transport::StreamPurpose;

/// How long the leader's node may take to let a connection in.
const OPEN_PATIENCE: Duration = Duration::from_secs(5);

/// The most connections at once: pg_basebackup and pg_rewind open one or two.
const MAX_CONNECTIONS: usize = 8;

/// Carries bytes between one direction's ends at a time.
const BUFFER: usize = 256 * 1024;

/// A unix socket that leads to the leader's PostgreSQL, through the leader's node. Closed on drop.
pub(super) struct SourceRelay {
    shared: Arc<Shared>,
    leader: NodeId,
    endpoint: Endpoint,
    _accepting: JoinSet<()>,
}

impl SourceRelay {
    pub(super) async fn open(
        shared: &Arc<Shared>,
        server: &Server,
        leader: NodeId,
    ) -> Result<SourceRelay, ReplicaError> {
        let endpoint = server.source_endpoint();
        let path = endpoint.socket_path();
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(ReplicaError::Socket(error));
            }
            _ => {}
        }
        let listener = UnixListener::bind(&path).map_err(ReplicaError::Socket)?;
        server.hand_over(&path)?;
        let mut accepting = JoinSet::new();
        accepting.spawn(accept(shared.clone(), leader, listener));
        Ok(SourceRelay {
            shared: shared.clone(),
            leader,
            endpoint,
            _accepting: accepting,
        })
    }

    pub(super) fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// Whether the leader lets this replica in; asked before anything is given up for it.
    pub(super) async fn probe(&self) -> Result<(), ReplicaError> {
        let (group, purpose) = (self.shared.group, StreamPurpose::Replication);
        self.shared
            .transport
            .open_stream(self.leader, group, purpose, OPEN_PATIENCE)
            .await?;
        Ok(())
    }
}

async fn accept(shared: Arc<Shared>, leader: NodeId, listener: UnixListener) {
    let mut carried = JoinSet::new();
    loop {
        while carried.len() >= MAX_CONNECTIONS {
            carried.join_next().await;
        }
        match listener.accept().await {
            Ok((stream, _)) => {
                carried.spawn(carry(shared.clone(), leader, stream));
            }
            Err(error) => {
                tracing::info!(group = %shared.group, %error, "a connection to the leader's copy was not accepted");
            }
        }
    }
}

async fn carry(shared: Arc<Shared>, leader: NodeId, mut stream: UnixStream) {
    let purpose = StreamPurpose::Replication;
    match shared
        .transport
        .open_stream(leader, shared.group, purpose, OPEN_PATIENCE)
        .await
    {
        Ok(mut source) => {
            let carried =
                tokio::io::copy_bidirectional_with_sizes(&mut stream, &mut source, BUFFER, BUFFER).await;
            if let Err(error) = carried {
                tracing::debug!(group = %shared.group, %error, "a connection to the leader's copy ended");
            }
        }
        // The tool at the other end sees its connection close and says so in its own words.
        Err(error) => tracing::info!(group = %shared.group, %leader, %error, "the leader gives no copy"),
    }
}
