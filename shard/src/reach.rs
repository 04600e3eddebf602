//! How a node reaches the leader of every group.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::future::BoxFuture;
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

use crate::call::{Answer, Question};
use crate::client::{Backend, ConnectError, Groups, Hold};
use crate::config::Config;
use crate::gate::Guest;
use crate::id::{GroupId, NodeId};
use crate::replica::Replica;
use crate::tls::Stream;
use crate::transport::{Refusal, StreamError, StreamPurpose, Transport};

/// How long one attempt at one node may take. A paused node accepts connections but says nothing.
const ATTEMPT: Duration = Duration::from_millis(500);

/// How long to wait before the next attempt.
const RETRY: Duration = Duration::from_millis(20);

/// How long a cancel may take; it waits for the cancelled transaction to end.
const CANCEL: Duration = Duration::from_secs(10);

/// The way to the groups, from one node.
pub(crate) struct Reach {
    node: NodeId,
    ids: Vec<GroupId>,
    members: BTreeMap<GroupId, Vec<NodeId>>,
    transport: Transport,
    replicas: BTreeMap<GroupId, Replica>,
    /// The last leader heard of, for groups of which this node has no replica.
    hints: Mutex<BTreeMap<GroupId, NodeId>>,
}

impl fmt::Debug for Reach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reach")
            .field("node", &self.node)
            .field("groups", &self.ids)
            .finish_non_exhaustive()
    }
}

impl Reach {
    pub(crate) fn new(config: &Config, transport: Transport, replicas: BTreeMap<GroupId, Replica>) -> Reach {
        Reach {
            node: config.node,
            ids: config.groups.keys().copied().collect(),
            members: config.groups.clone(),
            transport,
            replicas,
            hints: Mutex::new(BTreeMap::new()),
        }
    }

    /// Who is asked next: the leader, where one is known; else the members in turn.
    fn candidate(&self, group: GroupId, attempt: usize) -> Option<NodeId> {
        let members = self.members.get(&group)?;
        let known = match self.replicas.get(&group) {
            Some(replica) => replica.leader(),
            None => self.hints.lock().get(&group).copied(),
        };
        // Every other time somebody else: what this node knows may be old.
        match known {
            Some(leader) if attempt.is_multiple_of(2) => Some(leader),
            _ => members.get(attempt / 2 % members.len()).copied(),
        }
    }

    async fn try_node(
        &self,
        group: GroupId,
        node: NodeId,
        guest: Guest,
    ) -> Result<Box<dyn Backend>, StreamError> {
        if node == self.node
            && let Some(replica) = self.replicas.get(&group)
        {
            let backend = replica.gate().connect(guest).await;
            return match backend {
                Ok(backend) => Ok(Box::new(backend)),
                Err(_) if replica.leads() => Err(Refusal::GateClosed.into()),
                Err(_) => Err(Refusal::NotLeader {
                    hint: replica.leader(),
                }
                .into()),
            };
        }
        let purpose = match guest {
            Guest::Client => StreamPurpose::Sql,
            Guest::Node => StreamPurpose::Settle,
        };
        let stream = self.transport.open_stream(node, group, purpose, ATTEMPT).await?;
        let replaced = self.replicas.get(&group).map(|replica| replica.replaced(node));
        Ok(Box::new(RemoteBackend { stream, replaced }))
    }

    async fn connect(
        &self,
        group: GroupId,
        patience: Duration,
        guest: Guest,
    ) -> Result<Box<dyn Backend>, ConnectError> {
        if !self.members.contains_key(&group) {
            return Err(ConnectError::UnknownGroup(group));
        }
        let start = Instant::now();
        let mut last_failure = None;
        for attempt in 0.. {
            let Some(node) = self.candidate(group, attempt) else {
                break;
            };
            match self.try_node(group, node, guest).await {
                Ok(backend) => {
                    self.hints.lock().insert(group, node);
                    return Ok(backend);
                }
                Err(StreamError::Refused(Refusal::NotLeader { hint: Some(leader) })) => {
                    self.hints.lock().insert(group, leader);
                }
                Err(StreamError::Refused(_)) => {}
                Err(StreamError::Io(source)) => last_failure = Some((node, source)),
                Err(error) => last_failure = Some((node, io::Error::other(error))),
            }
            if start.elapsed() + RETRY >= patience {
                break;
            }
            tokio::time::sleep(RETRY).await;
        }
        match last_failure {
            Some((node, source))
                if self
                    .replicas
                    .get(&group)
                    .is_some_and(|replica| replica.leader() == Some(node)) =>
            {
                Err(ConnectError::Unreachable { group, node, source })
            }
            _ => Err(ConnectError::NoLeader {
                group,
                waited: start.elapsed(),
            }),
        }
    }

    /// Asks a node, or answers itself.
    async fn hold_at(&self, group: GroupId, node: NodeId, limit: Duration) -> Result<Hold, io::Error> {
        let (term, number) = match self.replicas.get(&group).filter(|_| node == self.node) {
            Some(replica) => replica.gate().hold(limit).map_err(io::Error::other)?,
            None => {
                let question = Question::Hold { group, limit };
                let answer = self.transport.call(node, question.encode(), ATTEMPT).await;
                match Answer::decode(&answer.map_err(io::Error::other)?) {
                    Ok(Answer::Held { term, number }) => (term, number),
                    other => return Err(io::Error::other(format!("{other:?}"))),
                }
            }
        };
        Ok(Hold {
            group,
            node,
            term,
            number,
        })
    }

    async fn hold(&self, group: GroupId, limit: Duration) -> Result<Hold, ConnectError> {
        let Some(node) = self.candidate(group, 0) else {
            return Err(ConnectError::UnknownGroup(group));
        };
        let held = self.hold_at(group, node, limit).await;
        held.map_err(|source| ConnectError::Unreachable { group, node, source })
    }

    async fn release(&self, hold: Hold) -> bool {
        let Hold {
            group,
            node,
            term,
            number,
        } = hold;
        if let Some(replica) = self.replicas.get(&group).filter(|_| node == self.node) {
            return replica.gate().release(term, number);
        }
        let question = Question::Release { group, term, number };
        let answer = self.transport.call(node, question.encode(), ATTEMPT).await;
        let answer = answer.ok().and_then(|answer| Answer::decode(&answer).ok());
        matches!(answer, Some(Answer::Released { lasted: true }))
    }

    async fn cancel(&self, group: GroupId, process_id: i32, secret_key: i32) -> Result<(), ConnectError> {
        let Some(node) = self.candidate(group, 0) else {
            return Err(ConnectError::UnknownGroup(group));
        };
        let question = Question::Cancel {
            group,
            process_id,
            secret_key,
        };
        let unreachable = |source| ConnectError::Unreachable { group, node, source };
        let answer = self
            .transport
            .call(node, question.encode(), CANCEL)
            .await
            .map_err(|error| unreachable(io::Error::other(error)))?;
        match Answer::decode(&answer) {
            Ok(Answer::Cancelled) => Ok(()),
            Ok(other) => Err(unreachable(io::Error::other(format!("{other:?}")))),
            Err(error) => Err(unreachable(io::Error::other(error))),
        }
    }
}

impl Groups for Reach {
    fn groups(&self) -> &[GroupId] {
        &self.ids
    }

    fn connect(
        &self,
        group: GroupId,
        patience: Duration,
    ) -> BoxFuture<'_, Result<Box<dyn Backend>, ConnectError>> {
        Box::pin(self.connect(group, patience, Guest::Client))
    }

    fn connect_to_settle(
        &self,
        group: GroupId,
        patience: Duration,
    ) -> BoxFuture<'_, Result<Box<dyn Backend>, ConnectError>> {
        Box::pin(self.connect(group, patience, Guest::Node))
    }

    fn hold(&self, group: GroupId, limit: Duration) -> BoxFuture<'_, Result<Hold, ConnectError>> {
        Box::pin(self.hold(group, limit))
    }

    fn release(&self, hold: Hold) -> BoxFuture<'_, bool> {
        Box::pin(self.release(hold))
    }

    fn cancel(
        &self,
        group: GroupId,
        process_id: i32,
        secret_key: i32,
    ) -> BoxFuture<'_, Result<(), ConnectError>> {
        Box::pin(self.cancel(group, process_id, secret_key))
    }

    fn leads(&self, group: GroupId) -> bool {
        self.replicas
            .get(&group)
            .is_some_and(|replica| replica.gate().serves())
    }
}

/// A connection to PostgreSQL through another node's gate.
///
/// It ends as soon as this node's own replica hears of another leader: a paused or cut-off leader
/// cannot tell its clients that it is deposed.
struct RemoteBackend {
    stream: Stream,
    /// Ends when another node is known to lead; none where this node has no replica of the group.
    replaced: Option<BoxFuture<'static, ()>>,
}

impl fmt::Debug for RemoteBackend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RemoteBackend")
            .field("stream", &self.stream)
            .finish_non_exhaustive()
    }
}

impl AsyncRead for RemoteBackend {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        // What has arrived was checked by the leader's gate, so it is taken first.
        if Pin::new(&mut this.stream).poll_read(cx, buf)?.is_ready() {
            return Poll::Ready(Ok(()));
        }
        if let Some(replaced) = &mut this.replaced
            && replaced.as_mut().poll(cx).is_ready()
        {
            this.replaced = None;
            return Poll::Ready(Err(io::Error::new(
                io::ErrorKind::ConnectionAborted,
                "another node leads the group now",
            )));
        }
        Poll::Pending
    }
}

impl AsyncWrite for RemoteBackend {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}
