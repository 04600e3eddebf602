//! One question, one answer, of bytes that this crate does not look into.
//!
//! ```text
//! length u32 | crc32c of the body u32 | body
//! ```

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;

use super::handshake::{HandshakeError, Hello, Purpose, greet};
use super::{Handlers, Identity};
use crate::id::NodeId;

/// The longest question or answer, bytes.
pub const MAX_CALL: usize = 4 << 20;
/// How long a question may take to arrive.
const QUESTION_TIMEOUT: Duration = Duration::from_secs(5);

/// Why a call has no answer.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// The configuration has no such node.
    #[error("there is no node {0}")]
    UnknownNode(NodeId),
    /// No answer in the time that the caller allowed.
    #[error("no answer within {0:?}")]
    Timeout(Duration),
    /// The node cannot be reached, or the connection failed.
    #[error("the node cannot be reached")]
    Io(#[from] io::Error),
    /// The node and this one do not accept each other.
    #[error(transparent)]
    Handshake(#[from] HandshakeError),
}

/// Asks the node at `address` as a tool that knows the cluster's secret but is no node.
pub async fn call_as_client(
    address: SocketAddr,
    cluster: &str,
    secret: &str,
    body: Bytes,
    timeout: Duration,
) -> Result<Bytes, CallError> {
    let hello = Hello {
        cluster: cluster.to_owned(),
        from: NodeId(0),
        to: None,
        purpose: Purpose::Call,
    };
    within(timeout, ask(address, secret, &hello, body)).await
}

/// Asks another node of the cluster.
pub(super) async fn call(
    identity: &Identity,
    to: NodeId,
    body: Bytes,
    timeout: Duration,
) -> Result<Bytes, CallError> {
    let address = *identity.nodes.get(&to).ok_or(CallError::UnknownNode(to))?;
    let hello = identity.hello(to, Purpose::Call);
    within(timeout, ask(address, &identity.secret, &hello, body)).await
}

async fn within<T>(
    timeout: Duration,
    work: impl Future<Output = Result<T, CallError>>,
) -> Result<T, CallError> {
    tokio::time::timeout(timeout, work)
        .await
        .unwrap_or(Err(CallError::Timeout(timeout)))
}

async fn ask(address: SocketAddr, secret: &str, hello: &Hello, body: Bytes) -> Result<Bytes, CallError> {
    let mut stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    greet(&mut stream, secret, hello).await?;
    write(&mut stream, &body).await?;
    Ok(read(&mut stream).await?)
}

/// Answers the one question of a connection.
pub(super) async fn serve(mut stream: TcpStream, from: NodeId, handlers: &dyn Handlers) {
    let question = tokio::time::timeout(QUESTION_TIMEOUT, read(&mut stream)).await;
    let Ok(Ok(question)) = question else {
        return tracing::info!(node = %from, "a call ended before its question");
    };
    let answer = handlers.call(from, question).await;
    if let Err(error) = write(&mut stream, &answer).await {
        tracing::debug!(node = %from, %error, "nobody waits for the answer");
    }
}

pub(super) async fn write(stream: &mut (impl AsyncWrite + Unpin), body: &Bytes) -> io::Result<()> {
    if body.len() > MAX_CALL {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "a call larger than allowed",
        ));
    }
    let length = u32::try_from(body.len()).map_err(io::Error::other)?;
    let mut message = Vec::with_capacity(8 + body.len());
    message.extend_from_slice(&length.to_be_bytes());
    message.extend_from_slice(&crc32c::crc32c(body).to_be_bytes());
    message.extend_from_slice(body);
    stream.write_all(&message).await
}

pub(super) async fn read(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Bytes> {
    let length = usize::try_from(stream.read_u32().await?).map_err(io::Error::other)?;
    let checksum = stream.read_u32().await?;
    if length > MAX_CALL {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "a call larger than allowed",
        ));
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await?;
    if crc32c::crc32c(&body) != checksum {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "a call with a wrong checksum",
        ));
    }
    Ok(body.into())
}
