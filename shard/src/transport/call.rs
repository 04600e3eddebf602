//! A question, its answer, of bytes that this crate does not look into; then perhaps another question.
//!
//! Connections between nodes are kept for the next question: a snapshot of all groups asks every leader twice, and a handshake
//! costs several times as much as a question.
//!
//! ```text
//! length u32 | crc32c of the body u32 | body
//! ```

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use crossbeam::queue::ArrayQueue;
use futures::FutureExt;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::task::unconstrained;

use super::handshake::{HandshakeError, Hello, Purpose};
use super::{Credentials, DialError, Handlers, Identity, dial};
use crate::id::NodeId;
use crate::tls::Stream;

/// The longest question or answer, bytes.
pub const MAX_CALL: usize = 4 << 20;
/// How long a question may take to arrive.
const QUESTION_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a node keeps a connection on which another asks nothing.
const IDLE: Duration = Duration::from_secs(60);
/// Connections to a node that are kept for its next questions.
const KEPT: usize = 4;

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

impl From<DialError> for CallError {
    fn from(error: DialError) -> CallError {
        match error {
            DialError::Io(error) => error.into(),
            DialError::Handshake(error) => error.into(),
        }
    }
}

/// Asks the node `to` at `address` as a tool that has credentials but is no node.
pub async fn call_as_client(
    address: SocketAddr,
    to: NodeId,
    credentials: &Credentials,
    body: Bytes,
    timeout: Duration,
) -> Result<Bytes, CallError> {
    let hello = Hello {
        cluster: credentials.cluster.clone(),
        from: NodeId(0),
        to: Some(to),
        purpose: Purpose::Call,
    };
    within(timeout, async {
        let mut stream = dial(address, credentials, &hello).await?;
        Ok(ask(&mut stream, &body).await?)
    })
    .await
}

/// Connections on which nothing is owed, by the node at their other end: the one that has waited longest is taken first. Nodes
/// are fixed, so nobody waits for a lock.
#[derive(Debug)]
pub(super) struct Kept(HashMap<NodeId, ArrayQueue<Stream>>);

impl Kept {
    /// None yet, to any of these nodes.
    pub(super) fn new(nodes: impl Iterator<Item = NodeId>) -> Kept {
        Kept(nodes.map(|node| (node, ArrayQueue::new(KEPT))).collect())
    }

    /// One that its other end has not closed, as far as is known here.
    fn take(&self, node: NodeId) -> Option<Stream> {
        let streams = self.0.get(&node)?;
        std::iter::from_fn(|| streams.pop()).find_map(|mut stream| {
            // Nothing was asked, so whatever there is to read is the end.
            let looked = unconstrained(stream.read(&mut [0])).now_or_never();
            looked.is_none().then_some(stream)
        })
    }

    fn keep(&self, node: NodeId, stream: Stream) {
        if let Some(streams) = self.0.get(&node) {
            // Where enough are kept it is closed.
            let _ = streams.push(stream);
        }
    }

    /// What went wrong on one connection may be wrong with all.
    fn forget(&self, node: NodeId) {
        while self.0.get(&node).is_some_and(|streams| streams.pop().is_some()) {}
    }

    /// The near ends of those to this node. Nothing else may use them meanwhile.
    #[cfg(test)]
    pub(super) fn addresses(&self, node: NodeId) -> Vec<SocketAddr> {
        let streams: Vec<_> = std::iter::from_fn(|| self.0[&node].pop()).collect();
        let address = |stream: &Stream| stream.tcp().local_addr().expect("it is connected");
        let addresses = streams.iter().map(address).collect();
        for stream in streams {
            self.keep(node, stream);
        }
        addresses
    }
}

/// Asks another node of the cluster. Never asks twice: a question that was not answered may have been heard.
pub(super) async fn call(
    identity: &Identity,
    kept: &Kept,
    to: NodeId,
    body: Bytes,
    timeout: Duration,
) -> Result<Bytes, CallError> {
    let address = *identity.nodes.get(&to).ok_or(CallError::UnknownNode(to))?;
    let asked = within(timeout, async {
        let mut stream = match kept.take(to) {
            Some(stream) => stream,
            None => identity.dial(to, address, Purpose::Call).await?,
        };
        let answer = ask(&mut stream, &body).await?;
        Ok((stream, answer))
    });
    match asked.await {
        Ok((stream, answer)) => {
            kept.keep(to, stream);
            Ok(answer)
        }
        Err(error) => {
            kept.forget(to);
            Err(error)
        }
    }
}

async fn within<T>(
    timeout: Duration,
    work: impl Future<Output = Result<T, CallError>>,
) -> Result<T, CallError> {
    tokio::time::timeout(timeout, work)
        .await
        .unwrap_or(Err(CallError::Timeout(timeout)))
}

async fn ask(stream: &mut Stream, body: &Bytes) -> io::Result<Bytes> {
    write(stream, body).await?;
    read(stream).await
}

/// Answers the questions of a connection.
pub(super) async fn serve(stream: Stream, from: NodeId, handlers: &dyn Handlers) {
    let mut stream = BufReader::new(stream);
    let mut patience = QUESTION_TIMEOUT;
    loop {
        match tokio::time::timeout(patience, stream.fill_buf()).await {
            Ok(Ok(begun)) if !begun.is_empty() => {}
            _ => return,
        }
        let question = tokio::time::timeout(QUESTION_TIMEOUT, read(&mut stream)).await;
        let Ok(Ok(question)) = question else {
            return tracing::debug!(node = %from, "a connection for calls ended");
        };
        // Who has given up meanwhile, because this node slept, has been told that nothing came of it.
        let next = unconstrained(stream.fill_buf()).now_or_never();
        if next.is_some_and(|next| next.map_or(true, <[u8]>::is_empty)) {
            return tracing::debug!(node = %from, "nobody waits for the answer to a question any more");
        }
        let answer = handlers.call(from, question).await;
        if let Err(error) = write(&mut stream, &answer).await {
            return tracing::debug!(node = %from, %error, "nobody waits for the answer");
        }
        patience = IDLE;
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
    stream.write_all(&message).await?;
    stream.flush().await
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
