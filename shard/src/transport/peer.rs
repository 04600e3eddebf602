//! The outgoing side of Raft: one connection to each other node, for all groups.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::io::{AsyncWriteExt, BufReader, BufWriter, WriteHalf};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::Identity;
use super::frame::{self, Kind};
use super::handshake::Purpose;
use crate::causes::with_causes;
use crate::id::{GroupId, NodeId};
use crate::tls::Stream;

/// Waiting requests, per lane. A full lane makes its sender wait.
const LANE: usize = 256;
const BACKOFF_MIN: Duration = Duration::from_millis(50);
const BACKOFF_MAX: Duration = Duration::from_secs(1);
/// For the connection and its handshake: shorter than a stranger is given, so that after a cut
/// the next attempt is near.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
const BUFFER: usize = 64 << 10;

/// Which queue a request waits in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lane {
    /// Votes, heartbeats and the like: small, and late means an election.
    Urgent,
    /// Log entries and snapshots.
    Bulk,
}

/// Why there is no answer to a Raft request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum RequestError {
    /// There is no connection to the node at the moment. The request was not sent.
    #[error("no connection to the node")]
    NotConnected,
    /// The connection ended before the answer. The request may have taken effect.
    #[error("the connection to the node was lost")]
    Lost,
    /// The node has no such group, or its replica could not answer.
    #[error("the node's replica cannot answer")]
    Refused,
}

type Reply = oneshot::Sender<Result<Bytes, RequestError>>;

struct Request {
    kind: Kind,
    group: GroupId,
    body: Vec<Bytes>,
    reply: Reply,
}

/// A handle to the connection to one node.
#[derive(Clone, Debug)]
pub(super) struct Peer {
    urgent: mpsc::Sender<Request>,
    bulk: mpsc::Sender<Request>,
}

impl Peer {
    /// Starts the task that keeps the connection to `to`.
    pub(super) fn start(identity: Arc<Identity>, to: NodeId, stop: CancellationToken) -> Peer {
        let (urgent, urgent_queue) = mpsc::channel(LANE);
        let (bulk, bulk_queue) = mpsc::channel(LANE);
        let mut connection = Connector {
            identity,
            to,
            urgent: urgent_queue,
            bulk: bulk_queue,
        };
        tokio::spawn(async move {
            tokio::select! {
                () = connection.run() => {}
                () = stop.cancelled() => {}
            }
        });
        Peer { urgent, bulk }
    }

    /// Queues a request behind those queued before on the same lane. The answer comes through
    /// what this returns; waiting for it is not needed to keep the order.
    pub(super) async fn send(
        &self,
        lane: Lane,
        kind: Kind,
        group: GroupId,
        body: Vec<Bytes>,
    ) -> oneshot::Receiver<Result<Bytes, RequestError>> {
        let (reply, answer) = oneshot::channel();
        let queue = match lane {
            Lane::Urgent => &self.urgent,
            Lane::Bulk => &self.bulk,
        };
        // A closed queue drops the request and with it `reply`: the receiver sees that.
        let _ = queue
            .send(Request {
                kind,
                group,
                body,
                reply,
            })
            .await;
        answer
    }
}

struct Connector {
    identity: Arc<Identity>,
    to: NodeId,
    urgent: mpsc::Receiver<Request>,
    bulk: mpsc::Receiver<Request>,
}

impl Connector {
    async fn run(&mut self) {
        let mut backoff = BACKOFF_MIN;
        let mut reachable = true;
        loop {
            let attempt = async {
                let connecting = tokio::time::timeout(CONNECT_TIMEOUT, connect(&self.identity, self.to));
                connecting.await.unwrap_or_else(|elapsed| Err(elapsed.into()))
            };
            let failed = match refusing(&mut self.urgent, &mut self.bulk, attempt).await {
                Ok(stream) => {
                    backoff = BACKOFF_MIN;
                    reachable = true;
                    tracing::debug!(node = %self.to, "connected");
                    let ended = self.serve(stream).await;
                    tracing::debug!(node = %self.to, ?ended, "connection ended");
                    continue;
                }
                Err(error) => error,
            };
            if std::mem::take(&mut reachable) {
                tracing::info!(node = %self.to, error = with_causes(&failed), "cannot be reached; trying again");
            }
            refusing(&mut self.urgent, &mut self.bulk, tokio::time::sleep(backoff)).await;
            backoff = (backoff * 2).min(BACKOFF_MAX);
        }
    }

    /// Sends requests and hands out answers until the connection fails or stalls.
    async fn serve(&mut self, stream: Stream) -> io::Result<()> {
        let stall = self.identity.stall;
        let (read_half, write_half) = tokio::io::split(stream);
        let waiting = Arc::new(Waiting::new());
        let mut source = BufReader::with_capacity(BUFFER, read_half);
        let answers = async {
            while let Some(frame) = frame::read(&mut source).await? {
                waiting.answer(
                    frame.request,
                    match frame.kind {
                        Kind::Reply => Ok(frame.body),
                        _ => Err(RequestError::Refused),
                    },
                );
            }
            Err::<(), _>(io::Error::from(io::ErrorKind::UnexpectedEof))
        };
        let watch = async {
            loop {
                tokio::time::sleep(stall / 4).await;
                if waiting.stalled(stall) {
                    return Err::<(), _>(io::Error::from(io::ErrorKind::TimedOut));
                }
            }
        };
        let mut sink = BufWriter::with_capacity(BUFFER, write_half);
        tokio::select! {
            ended = answers => ended,
            ended = watch => ended,
            ended = send_all(&mut self.urgent, &mut self.bulk, &mut sink, &waiting) => ended,
        }
        // What still waits is dropped with `waiting`: its senders are told that the connection is lost.
    }
}

/// Waits for `work` and answers meanwhile every request with "not connected".
async fn refusing<T>(
    urgent: &mut mpsc::Receiver<Request>,
    bulk: &mut mpsc::Receiver<Request>,
    work: impl Future<Output = T>,
) -> T {
    let mut work = std::pin::pin!(work);
    loop {
        let request = tokio::select! {
            done = &mut work => return done,
            Some(request) = urgent.recv() => request,
            Some(request) = bulk.recv() => request,
        };
        let _ = request.reply.send(Err(RequestError::NotConnected));
    }
}

async fn connect(identity: &Identity, to: NodeId) -> io::Result<Stream> {
    let address = identity.address(to)?;
    let dialled = identity.dial(to, address, Purpose::Raft).await;
    dialled.map_err(io::Error::other)
}

async fn send_all(
    urgent: &mut mpsc::Receiver<Request>,
    bulk: &mut mpsc::Receiver<Request>,
    sink: &mut BufWriter<WriteHalf<Stream>>,
    waiting: &Waiting,
) -> io::Result<()> {
    let mut number = 0;
    loop {
        let request = match urgent.try_recv().or_else(|_| bulk.try_recv()) {
            Ok(request) => request,
            Err(_) => {
                // Nothing waits: whatever was written leaves now.
                sink.flush().await?;
                tokio::select! {
                    biased;
                    Some(request) = urgent.recv() => request,
                    Some(request) = bulk.recv() => request,
                    else => return Ok(()),
                }
            }
        };
        number += 1;
        waiting.enter(number, request.reply);
        frame::write(sink, request.kind, request.group, number, &request.body).await?;
    }
}

/// The requests that were sent and not yet answered.
struct Waiting {
    state: Mutex<WaitingState>,
}

struct WaitingState {
    replies: HashMap<u64, Reply>,
    /// When an answer last came, or when the first of the waiting requests was sent.
    progress: Instant,
}

impl Waiting {
    fn new() -> Waiting {
        Waiting {
            state: Mutex::new(WaitingState {
                replies: HashMap::new(),
                progress: Instant::now(),
            }),
        }
    }

    fn enter(&self, number: u64, reply: Reply) {
        let mut state = self.state.lock();
        if state.replies.is_empty() {
            state.progress = Instant::now();
        }
        state.replies.insert(number, reply);
    }

    fn answer(&self, number: u64, answer: Result<Bytes, RequestError>) {
        let mut state = self.state.lock();
        state.progress = Instant::now();
        if let Some(reply) = state.replies.remove(&number) {
            let _ = reply.send(answer);
        }
    }

    fn stalled(&self, limit: Duration) -> bool {
        let state = self.state.lock();
        !state.replies.is_empty() && state.progress.elapsed() > limit
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        for (_, reply) in self.state.get_mut().replies.drain() {
            let _ = reply.send(Err(RequestError::Lost));
        }
    }
}
