//! Raw byte streams to the PostgreSQL of another node's replica.
//!
//! The server answers the handshake with one status of nine bytes, then the bytes flow:
//!
//! ```text
//! status u8 (0 accepted, else the refusal) | hint u64 (the leader's node for "not the leader", else 0)
//! ```

use std::io;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::handshake::{HandshakeError, Purpose, StreamPurpose};
use super::{DialError, Identity, StreamHandler};
use crate::id::{GroupId, NodeId};
use crate::tls::Stream;

/// Why a node does not connect a stream to its replica's PostgreSQL.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The replica does not lead.
    #[error("the replica does not lead its group")]
    NotLeader {
        /// Who leads, where it is known.
        hint: Option<NodeId>,
    },
    /// The replica leads, but may not (yet, or any more) let clients in.
    #[error("the replica's gate is closed")]
    GateClosed,
    /// The node holds no replica of the group.
    #[error("the node holds no replica of the group")]
    UnknownGroup,
    /// The node has as many streams as it allows.
    #[error("the node has too many streams")]
    Busy,
}

/// Why a stream could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum StreamError {
    /// The node answered, with a reason.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The configuration has no such node.
    #[error("there is no node {0}")]
    UnknownNode(NodeId),
    /// Nothing in the time that the caller allowed.
    #[error("no connection within {0:?}")]
    Timeout(Duration),
    /// The node cannot be reached, or the connection failed.
    #[error("the node cannot be reached")]
    Io(#[from] io::Error),
    /// The node and this one do not accept each other.
    #[error(transparent)]
    Handshake(#[from] HandshakeError),
}

impl From<DialError> for StreamError {
    fn from(error: DialError) -> StreamError {
        match error {
            DialError::Io(error) => error.into(),
            DialError::Handshake(error) => error.into(),
        }
    }
}

/// The status that precedes a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct StreamAnswer(Option<Refusal>);

impl StreamAnswer {
    pub(super) fn of(answer: &Result<StreamHandler, Refusal>) -> StreamAnswer {
        StreamAnswer(answer.as_ref().err().copied())
    }

    pub(super) async fn write(self, stream: &mut Stream) -> io::Result<()> {
        let (status, hint) = match self.0 {
            None => (0, 0),
            Some(Refusal::NotLeader { hint }) => (1, hint.map_or(0, |node| node.0)),
            Some(Refusal::GateClosed) => (2, 0),
            Some(Refusal::UnknownGroup) => (3, 0),
            Some(Refusal::Busy) => (4, 0),
        };
        let mut message = [status; 9];
        message[1..].copy_from_slice(&u64::to_be_bytes(hint));
        stream.write_all(&message).await?;
        stream.flush().await
    }

    async fn read(stream: &mut Stream) -> io::Result<StreamAnswer> {
        let status = stream.read_u8().await?;
        let hint = stream.read_u64().await?;
        Ok(StreamAnswer(match status {
            0 => None,
            1 => Some(Refusal::NotLeader {
                hint: (hint != 0).then_some(NodeId(hint)),
            }),
            2 => Some(Refusal::GateClosed),
            3 => Some(Refusal::UnknownGroup),
            4 => Some(Refusal::Busy),
            _ => return Err(io::Error::new(io::ErrorKind::InvalidData, "an unknown status")),
        }))
    }
}

/// Opens a stream to the replica of `group` on node `to`.
pub(super) async fn open(
    identity: &Identity,
    to: NodeId,
    group: GroupId,
    purpose: StreamPurpose,
    timeout: Duration,
) -> Result<Stream, StreamError> {
    let address = *identity.nodes.get(&to).ok_or(StreamError::UnknownNode(to))?;
    let work = async {
        let purpose = Purpose::Stream(group, purpose);
        let mut stream = identity.dial(to, address, purpose).await?;
        match StreamAnswer::read(&mut stream).await?.0 {
            None => Ok(stream),
            Some(refusal) => Err(StreamError::Refused(refusal)),
        }
    };
    tokio::time::timeout(timeout, work)
        .await
        .unwrap_or(Err(StreamError::Timeout(timeout)))
}
