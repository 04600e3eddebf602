//! The sending side of Raft: openraft's requests over the transport.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use futures::stream::BoxStream;
use futures::{FutureExt, Stream, StreamExt};
use openraft::error::{NetworkError, RPCError, ReplicationClosed, StreamingError, Timeout, Unreachable};
use openraft::network::RPCOption;
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, StreamAppendResult, TransferLeaderRequest,
    TransferLeaderResponse, VoteRequest, VoteResponse,
};
use openraft::type_config::alias::VoteOf;
use openraft::{EmptyNode, OptionalSend, RPCTypes, RaftNetworkFactory, RaftNetworkV2};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::oneshot;

use super::codec::{decode, encode, encode_append};
use super::lease::{Lease, Moment};
use super::snapshot::{Snapshot, SnapshotOf};
use super::types::TypeConfig;
use crate::id::{GroupId, NodeId, Term};
use crate::transport::{Kind, Lane, RequestError, Transport};

/// Append requests to one follower that wait for their answer; with `APPEND_BYTES`, the memory
/// that a slow follower may hold.
const WINDOW: usize = 16;
/// How long an append may take: a slow disk is no reason to send everything again.
const APPEND_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a follower may wait to be told what has committed, where no entries follow that would
/// tell it. Its standby is given WAL no faster.
const NOTICE: Duration = Duration::from_millis(5);

type Answer = oneshot::Receiver<Result<Bytes, RequestError>>;

/// Makes the [`Network`]s of one replica.
#[derive(Clone, Debug)]
pub(crate) struct Networks {
    pub(crate) node: NodeId,
    pub(crate) group: GroupId,
    pub(crate) transport: Transport,
    pub(crate) lease: Arc<Lease>,
}

impl Networks {
    fn to(&self, target: NodeId, lane: Lane) -> Network {
        Network {
            shared: self.clone(),
            target,
            lane,
        }
    }
}

impl RaftNetworkFactory<TypeConfig> for Networks {
    type Network = Network;

    async fn new_client(&mut self, target: NodeId, _: &EmptyNode) -> Network {
        self.to(target, Lane::Bulk)
    }

    async fn new_heartbeat_client(&mut self, target: NodeId, _: &EmptyNode) -> Network {
        self.to(target, Lane::Urgent)
    }
}

/// One replica's way to the group's replica on another node.
#[derive(Clone, Debug)]
pub(crate) struct Network {
    shared: Networks,
    target: NodeId,
    lane: Lane,
}

impl Network {
    async fn send(&self, lane: Lane, kind: Kind, body: Vec<Bytes>) -> Answer {
        let shared = &self.shared;
        shared
            .transport
            .request(self.target, lane, kind, shared.group, body)
            .await
    }

    async fn wait(
        &self,
        answer: Answer,
        action: RPCTypes,
        timeout: Duration,
    ) -> Result<Bytes, RPCError<TypeConfig>> {
        match tokio::time::timeout(timeout, answer).await {
            Ok(Ok(Ok(body))) => Ok(body),
            Ok(Ok(Err(error @ RequestError::NotConnected))) => Err(Unreachable::new(&error).into()),
            Ok(Ok(Err(error))) => Err(NetworkError::new(&error).into()),
            Ok(Err(_)) => Err(NetworkError::new(&RequestError::Lost).into()),
            Err(_) => Err(Timeout {
                action,
                id: self.shared.node,
                target: self.target,
                timeout,
            }
            .into()),
        }
    }

    async fn ask<Q: Serialize, A: DeserializeOwned>(
        &self,
        kind: Kind,
        question: &Q,
        timeout: Duration,
    ) -> Result<A, RPCError<TypeConfig>> {
        let body = encode(question).map_err(unsendable)?;
        let answer = self.send(Lane::Urgent, kind, vec![body]).await;
        let body = self.wait(answer, RPCTypes::Vote, timeout).await?;
        decode(&body).map_err(unsendable)
    }

    /// Queues an append, and gives a future for its answer.
    async fn append(
        self,
        request: AppendEntriesRequest<TypeConfig>,
    ) -> impl Future<Output = Result<StreamAppendResult<TypeConfig>, RPCError<TypeConfig>>> + Send {
        let term = Term(request.vote.leader_id.term);
        let previous = request.prev_log_id;
        let last = request.entries.last().map(|entry| entry.log_id).or(previous);
        // The lease counts from here: before the follower can have heard anything.
        let sent = Moment::now();
        let queued = match encode_append(&request) {
            Ok(body) => Ok(self.send(self.lane, Kind::Append, body).await),
            Err(error) => Err(unsendable(error)),
        };
        async move {
            let body = self
                .wait(queued?, RPCTypes::AppendEntries, APPEND_TIMEOUT)
                .await?;
            let response: AppendEntriesResponse<TypeConfig> = decode(&body).map_err(unsendable)?;
            match &response {
                AppendEntriesResponse::Success
                | AppendEntriesResponse::PartialSuccess(_)
                | AppendEntriesResponse::Conflict => self.shared.lease.acknowledged(term, self.target, sent),
                AppendEntriesResponse::HigherVote(_) => {}
            }
            if response.is_conflict() && previous.is_none() {
                return Err(unsendable(super::codec::invalid(
                    "a conflict before the first entry",
                )));
            }
            Ok(response.into_stream_result(previous, last))
        }
    }
}

/// A message that cannot be written or read. Trying again at once would not help.
fn unsendable(error: io::Error) -> RPCError<TypeConfig> {
    Unreachable::new(&error).into()
}

/// Leaves out the requests without entries that another request follows soon: openraft sends one for
/// each commit, and the next request tells the same and more. The stream's first passes: it may be
/// openraft's question how far the logs agree. An answer left out is no loss either: openraft takes
/// an answer as one to all requests up to the log position that it speaks of.
fn without_spare_notices<S>(input: S) -> impl Stream<Item = AppendEntriesRequest<TypeConfig>> + Send
where
    S: Stream<Item = AppendEntriesRequest<TypeConfig>> + Send + Unpin,
{
    let first = true;
    futures::stream::unfold((input, first), |(mut input, first)| async move {
        let mut request = input.next().await?;
        while !first && request.entries.is_empty() {
            match tokio::time::timeout(NOTICE, input.next()).await {
                Ok(Some(next)) => request = next,
                // The stream's end comes again.
                Ok(None) | Err(_) => break,
            }
        }
        Some((request, (input, false)))
    })
}

/// Ends a stream of answers after the first that is not a plain success.
fn until_failure<T, E, F>(
    answers: impl Stream<Item = Result<Result<T, E>, F>> + Send,
) -> impl Stream<Item = Result<Result<T, E>, F>> + Send
where
    T: Send,
    E: Send,
    F: Send,
{
    answers.scan(false, |failed, answer| {
        let over = std::mem::replace(failed, !matches!(answer, Ok(Ok(_))));
        std::future::ready((!over).then_some(answer))
    })
}

impl RaftNetworkV2<TypeConfig> for Network {
    type SnapshotData = Snapshot;

    async fn append_entries(
        &mut self,
        request: AppendEntriesRequest<TypeConfig>,
        _: RPCOption,
    ) -> Result<AppendEntriesResponse<TypeConfig>, RPCError<TypeConfig>> {
        let answer = self.clone().append(request).await.await?;
        Ok(answer.into())
    }

    fn stream_append<'s, S>(
        &'s mut self,
        input: S,
        _: RPCOption,
    ) -> futures::future::BoxFuture<
        's,
        Result<
            BoxStream<'s, Result<StreamAppendResult<TypeConfig>, RPCError<TypeConfig>>>,
            RPCError<TypeConfig>,
        >,
    >
    where
        S: Stream<Item = AppendEntriesRequest<TypeConfig>> + OptionalSend + Unpin + 'static,
    {
        let network = self.clone();
        if self.lane == Lane::Urgent {
            // openraft gives a heartbeat up after an interval. Its answer counts for the lease all the
            // same, so it is waited for apart.
            let answers = input.then(move |request| {
                let network = network.clone();
                async move {
                    let waiting = tokio::spawn(network.append(request).await);
                    waiting
                        .await
                        .unwrap_or_else(|_| Err(NetworkError::new(&RequestError::Lost).into()))
                }
            });
            let answers: BoxStream<'s, _> = until_failure(answers).boxed();
            return async { Ok(answers) }.boxed();
        }
        // One after the other into the queue, so that they arrive in order, and without waiting for
        // the answers, which come in order for the same reason.
        let answers = without_spare_notices(input.fuse())
            .then(move |request| network.clone().append(request))
            .buffered(WINDOW);
        let answers: BoxStream<'s, _> = until_failure(answers).boxed();
        async { Ok(answers) }.boxed()
    }

    async fn vote(
        &mut self,
        request: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        self.ask(Kind::Vote, &request, option.hard_ttl()).await
    }

    async fn pre_vote(
        &mut self,
        request: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        self.ask(Kind::PreVote, &request, option.hard_ttl()).await
    }

    async fn full_snapshot(
        &mut self,
        vote: VoteOf<TypeConfig>,
        snapshot: SnapshotOf,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        option: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        let body = encode_install(&vote, &snapshot.snapshot).map_err(unsendable)?;
        let work = async {
            let answer = self.send(Lane::Bulk, Kind::Snapshot, body).await;
            let body = self
                .wait(answer, RPCTypes::InstallSnapshot, option.hard_ttl())
                .await?;
            Ok(decode(&body).map_err(unsendable)?)
        };
        tokio::select! {
            done = work => done,
            closed = cancel => Err(closed.into()),
        }
    }

    async fn transfer_leader(
        &mut self,
        request: TransferLeaderRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<TypeConfig>, RPCError<TypeConfig>> {
        self.ask(Kind::Transfer, &request, option.hard_ttl()).await
    }
}

/// `vote length u32 | vote (postcard) | snapshot, as in its file`
fn encode_install(vote: &VoteOf<TypeConfig>, snapshot: &Snapshot) -> io::Result<Vec<Bytes>> {
    let vote = encode(vote)?;
    let mut head = BytesMut::with_capacity(4 + vote.len());
    head.put_u32(u32::try_from(vote.len()).map_err(io::Error::other)?);
    head.put_slice(&vote);
    Ok(vec![head.freeze(), snapshot.encode()?])
}

/// Reads what [`encode_install`] wrote.
pub(crate) fn decode_install(mut bytes: Bytes) -> io::Result<(VoteOf<TypeConfig>, SnapshotOf)> {
    let cut = || super::codec::invalid("a cut snapshot message");
    let length = bytes.split_to_checked(4).ok_or_else(cut)?;
    let length = u32::from_be_bytes(length[..].try_into().map_err(|_| cut())?);
    let vote = usize::try_from(length)
        .ok()
        .and_then(|length| bytes.split_to_checked(length));
    let vote = decode(&vote.ok_or_else(cut)?)?;
    Ok((vote, Snapshot::decode(&bytes)?.described()))
}

/// `Bytes::split_to` that does not panic.
trait SplitChecked {
    fn split_to_checked(&mut self, at: usize) -> Option<Bytes>;
}

impl SplitChecked for Bytes {
    fn split_to_checked(&mut self, at: usize) -> Option<Bytes> {
        (at <= self.len()).then(|| self.split_to(at))
    }
}
