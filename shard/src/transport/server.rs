//! The incoming side: one listener, a handshake, then whatever the handshake said.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use tokio::io::{AsyncWriteExt, BufReader, BufWriter};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::frame::{self, Kind};
use super::handshake::{HandshakeError, Purpose, Verdict, challenge};
use super::{Handlers, Identity, StreamAnswer, call};
use crate::causes::with_causes;
use crate::id::{GroupId, NodeId};
use crate::tls::Stream;

/// Connections that are still in their handshake.
const MAX_STRANGERS: usize = 256;
/// Connections past their handshake.
const MAX_CONNECTIONS: usize = 8192;
/// Raft requests of one connection that are being worked on; more wait in the socket.
const MAX_IN_FLIGHT: usize = 512;
const BUFFER: usize = 64 << 10;
/// At most one warning in this time about peers that do not belong here.
const WARN_EVERY: Duration = Duration::from_secs(10);

/// A group's replica as the transport sees it.
pub(crate) trait RaftEndpoint: Send + Sync + 'static {
    /// Works on one request and gives the body of the answer; none where it cannot answer.
    ///
    /// The future is polled once before the connection's next request is handed over, and only
    /// then runs on its own: what must keep the order of arrival happens before its first wait.
    fn receive(&self, from: NodeId, kind: Kind, body: Bytes) -> BoxFuture<'static, Option<Bytes>>;
}

/// What the listener needs. Shared by all of its connections.
pub(super) struct Server {
    pub(super) identity: Arc<Identity>,
    pub(super) handlers: Arc<dyn Handlers>,
    pub(super) endpoints: Mutex<HashMap<GroupId, Arc<dyn RaftEndpoint>>>,
    pub(super) stop: CancellationToken,
    strangers: Arc<Semaphore>,
    connections: Arc<Semaphore>,
    /// The one Raft connection of each other node: a new one ends the old one.
    raft_connections: Mutex<HashMap<NodeId, CancellationToken>>,
    last_warning: Mutex<Option<Instant>>,
}

impl Server {
    pub(super) fn new(
        identity: Arc<Identity>,
        handlers: Arc<dyn Handlers>,
        stop: CancellationToken,
    ) -> Server {
        Server {
            identity,
            handlers,
            endpoints: Mutex::default(),
            stop,
            strangers: Arc::new(Semaphore::new(MAX_STRANGERS)),
            connections: Arc::new(Semaphore::new(MAX_CONNECTIONS)),
            raft_connections: Mutex::default(),
            last_warning: Mutex::new(None),
        }
    }

    /// Accepts until the transport stops.
    pub(super) async fn listen(self: Arc<Self>, listener: TcpListener) {
        loop {
            let permit = Arc::clone(&self.strangers).acquire_owned().await;
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = self.stop.cancelled() => return,
            };
            match accepted {
                Ok((stream, address)) => {
                    let server = Arc::clone(&self);
                    tokio::spawn(async move {
                        let stop = server.stop.clone();
                        tokio::select! {
                            () = server.meet(stream, address, permit) => {}
                            () = stop.cancelled() => {}
                        }
                    });
                }
                // Out of file descriptors, or a connection that ended in the queue: both pass.
                Err(error) => {
                    tracing::info!(%error, "cannot accept a connection");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
        }
    }

    /// Shakes hands, then serves the connection's one purpose.
    async fn meet<P>(self: Arc<Self>, stream: TcpStream, address: SocketAddr, stranger: P) {
        if stream.set_nodelay(true).is_err() {
            return;
        }
        let credentials = self.identity.credentials();
        let (tls, secret) = (credentials.tls.as_ref(), &credentials.secret);
        let (mut stream, challenged) = match challenge(stream, tls, secret).await {
            Ok(met) => met,
            Err(error) => return self.turn_away(address, &error),
        };
        drop(stranger);
        let hello = &challenged.hello;
        let permit = Arc::clone(&self.connections).try_acquire_owned();
        let verdict = match &permit {
            _ if hello.cluster != self.identity.cluster => Verdict::OtherCluster,
            _ if !self.identity.believes(tls, &stream, hello.from) => Verdict::OtherCertificate,
            _ if hello.to.is_some_and(|to| to != self.identity.node) => Verdict::OtherNode,
            _ if !self.identity.admits(hello.from, hello.purpose) => Verdict::UnknownNode,
            Err(_) => Verdict::Busy,
            Ok(_) => Verdict::Welcome,
        };
        if challenged.answer(&mut stream, secret, verdict).await.is_err() {
            return;
        }
        if verdict == Verdict::OtherCertificate {
            let claimed = hello.from;
            return self.warn(
                address,
                &format_args!("it says that it is node {claimed}, and its certificate does not"),
            );
        }
        if verdict != Verdict::Welcome {
            return tracing::info!(%address, node = %hello.from, ?verdict, "turned a node away");
        }
        let from = hello.from;
        match hello.purpose {
            Purpose::Raft => self.serve_raft(stream, from).await,
            Purpose::Stream(group, purpose) => {
                let answer = self.handlers.stream(group, purpose, from).await;
                if StreamAnswer::of(&answer).write(&mut stream).await.is_ok()
                    && let Ok(handler) = answer
                {
                    handler(stream).await;
                }
            }
            Purpose::Call => call::serve(stream, from, &*self.handlers).await,
        }
    }

    fn turn_away(&self, address: SocketAddr, error: &HandshakeError) {
        match error {
            HandshakeError::WrongSecret => self.warn(address, &"it does not hold the cluster's secret"),
            HandshakeError::Tls(
                tls @ (rustls::Error::InvalidCertificate(_)
                | rustls::Error::NoCertificatesPresented
                | rustls::Error::AlertReceived(_)),
            ) => self.warn(address, tls),
            error => {
                tracing::info!(%address, error = with_causes(error), "a connection failed its handshake")
            }
        }
    }

    /// Says why somebody is turned away; too often to be told each time, where somebody goes on trying.
    fn warn(&self, address: SocketAddr, why: &dyn std::fmt::Display) {
        let mut last = self.last_warning.lock();
        if last.is_none_or(|at| at.elapsed() > WARN_EVERY) {
            *last = Some(Instant::now());
            tracing::warn!(%address, "a peer was turned away: {why}");
        } else {
            tracing::info!(%address, "a peer was turned away: {why}");
        }
    }

    async fn serve_raft(&self, stream: Stream, from: NodeId) {
        let replaced = self.stop.child_token();
        if let Some(old) = self.raft_connections.lock().insert(from, replaced.clone()) {
            old.cancel();
        }
        tokio::select! {
            ended = self.answer_raft(stream, from) => tracing::debug!(node = %from, ?ended, "connection ended"),
            () = replaced.cancelled() => {}
        }
    }

    async fn answer_raft(&self, stream: Stream, from: NodeId) -> std::io::Result<()> {
        let (read_half, write_half) = tokio::io::split(stream);
        let mut source = BufReader::with_capacity(BUFFER, read_half);
        let (answers, mut finished) = mpsc::channel::<(GroupId, u64, Option<Bytes>)>(MAX_IN_FLIGHT);
        let in_flight = Arc::new(Semaphore::new(MAX_IN_FLIGHT));
        let requests = async {
            while let Some(request) = frame::read(&mut source).await? {
                let permit = Arc::clone(&in_flight).acquire_owned().await;
                let endpoint = self.endpoints.lock().get(&request.group).cloned();
                let work = match endpoint {
                    Some(endpoint) => endpoint.receive(from, request.kind, request.body),
                    None => Box::pin(async { None }),
                };
                // The first poll has to bring it into the replica's queue, before the next request: it must not be put off since
                // this task has done much without a pause (`tokio::task::coop`).
                let mut work = tokio::task::unconstrained(work);
                let done = futures::poll!(Pin::new(&mut work));
                let (group, number, answers) = (request.group, request.request, answers.clone());
                if let std::task::Poll::Ready(answer) = done {
                    let _ = answers.send((group, number, answer)).await;
                    continue;
                }
                tokio::spawn(async move {
                    let answer = work.await;
                    let _ = answers.send((group, number, answer)).await;
                    drop(permit);
                });
            }
            Ok(())
        };
        let replies = async {
            let mut sink = BufWriter::with_capacity(BUFFER, write_half);
            while let Some((group, number, answer)) = finished.recv().await {
                let (kind, body) = match answer {
                    Some(body) => (Kind::Reply, body),
                    None => (Kind::Failure, Bytes::new()),
                };
                frame::write(&mut sink, kind, group, number, &[body]).await?;
                if finished.is_empty() {
                    sink.flush().await?;
                }
            }
            Ok(())
        };
        tokio::select! {
            ended = requests => ended,
            ended = replies => ended,
        }
    }
}
