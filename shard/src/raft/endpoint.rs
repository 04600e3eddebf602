//! The receiving side of Raft: other replicas' requests, and what must not reach openraft.

use std::sync::Arc;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use openraft::Raft;
use openraft::async_runtime::watch::WatchReceiver;
use openraft::raft::{TransferLeaderRequest, VoteRequest, VoteResponse};
use serde::de::DeserializeOwned;
use tokio::time::Instant;

use super::codec::{decode, decode_append, encode};
use super::lease::Lease;
use super::machine::Machine;
use super::memory::Recollection;
use super::network::decode_install;
use super::types::TypeConfig;
use crate::id::{NodeId, Term};
use crate::transport::{Kind, RaftEndpoint};

/// One replica, as the transport reaches it.
pub(crate) struct Endpoint {
    raft: Raft<TypeConfig, Machine>,
    lease: Arc<Lease>,
    /// Until then this replica gives no vote: before it was restarted it may have promised a
    /// leader not to, and it no longer knows.
    quiet_until: Instant,
    recollection: Arc<Recollection>,
}

impl Endpoint {
    pub(crate) fn new(
        raft: Raft<TypeConfig, Machine>,
        lease: Arc<Lease>,
        quiet_until: Instant,
        recollection: Arc<Recollection>,
    ) -> Endpoint {
        Endpoint {
            raft,
            lease,
            quiet_until,
            recollection,
        }
    }

    fn is_quiet(&self) -> bool {
        Instant::now() < self.quiet_until
    }
}

impl RaftEndpoint for Endpoint {
    fn receive(&self, from: NodeId, kind: Kind, body: Bytes) -> BoxFuture<'static, Option<Bytes>> {
        if self.recollection.is_silent() {
            // Neither a vote nor an acknowledgement: for the others this replica is down.
            return async { None }.boxed();
        }
        let raft = self.raft.clone();
        match kind {
            // The queue of openraft is entered at the first poll, so appends keep their order.
            Kind::Append => match decode_append(body) {
                Ok(mut request) => {
                    if crate::broken::FEED_UNCOMMITTED {
                        let last = request.entries.last().map(|entry| entry.log_id);
                        request.leader_commit = last.or(request.leader_commit);
                    }
                    async move { answer(&raft.append_entries(request).await.ok()?) }.boxed()
                }
                Err(error) => refuse(from, &error),
            },
            Kind::Vote => match decode(&body) {
                Ok(request) => vote(raft, Arc::clone(&self.lease), self.is_quiet(), request).boxed(),
                Err(error) => refuse(from, &error),
            },
            Kind::PreVote if self.is_quiet() => async move { answer(&refusal(&raft)) }.boxed(),
            Kind::PreVote => with(body, from, move |request| async move {
                answer(&raft.pre_vote(request).await.ok()?)
            }),
            Kind::Snapshot => match decode_install(body) {
                Ok((vote, snapshot)) => {
                    async move { answer(&raft.install_full_snapshot(vote, snapshot).await.ok()?) }.boxed()
                }
                Err(error) => refuse(from, &error),
            },
            Kind::Transfer if self.is_quiet() => async { None }.boxed(),
            Kind::Transfer => with(
                body,
                from,
                move |request: TransferLeaderRequest<TypeConfig>| async move {
                    answer(&raft.handle_transfer_leader(request).await.ok()?)
                },
            ),
            Kind::Reply | Kind::Failure => async { None }.boxed(),
        }
    }
}

fn with<Q, F>(
    body: Bytes,
    from: NodeId,
    work: impl FnOnce(Q) -> F + Send + 'static,
) -> BoxFuture<'static, Option<Bytes>>
where
    Q: DeserializeOwned + Send + 'static,
    F: Future<Output = Option<Bytes>> + Send + 'static,
{
    match decode(&body) {
        Ok(request) => work(request).boxed(),
        Err(error) => refuse(from, &error),
    }
}

fn answer<A: serde::Serialize>(value: &A) -> Option<Bytes> {
    encode(value).ok()
}

fn refuse(from: NodeId, error: &std::io::Error) -> BoxFuture<'static, Option<Bytes>> {
    tracing::warn!(node = %from, %error, "a Raft message that cannot be read was refused");
    async { None }.boxed()
}

/// A vote that is not given, and changes nothing.
fn refusal(raft: &Raft<TypeConfig, Machine>) -> VoteResponse<TypeConfig> {
    let vote = raft.server_metrics().borrow_watched().vote;
    VoteResponse::new(vote, None, false)
}

async fn vote(
    raft: Raft<TypeConfig, Machine>,
    lease: Arc<Lease>,
    quiet: bool,
    request: VoteRequest<TypeConfig>,
) -> Option<Bytes> {
    let term = Term(request.vote.leader_id.term);
    if quiet {
        return answer(&refusal(&raft));
    }
    if request.leadership_transfer {
        // Openraft asks this of a candidate that the leader has named: the lease has been revoked by
        // the leader before. If the leader is this replica, that is sure; see `RaftGroup::transfer_to`.
        lease.revoke(Term(term.0.saturating_sub(1)));
    }
    let Some(permission) = lease.vote() else {
        return answer(&refusal(&raft));
    };
    let response = raft.vote(request).await.ok()?;
    if response.vote_granted {
        permission.given(term);
    }
    answer(&response)
}
