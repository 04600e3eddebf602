//! What a leader does: carry its primary's WAL into the log, and keep the gate open over it.

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::FuturesOrdered;
use tokio::sync::watch;
use tokio::time::Instant;

use super::answering::until_silent;
use super::life::Part;
use super::{ReplicaError, Shared};
use crate::entry::{Command, WalChunk};
use crate::gate::Guarded;
use crate::hold::Holds;
use crate::id::Term;
use crate::postgres::{Control, Pulse, Running, SUPERUSER};
use crate::raft::ProposeError;
use crate::wal::{Applied, Event, Lsn, Receiver, StatusSender, Streaming, TimelineId};

/// The most entries that are on their way into the log at once. While they are, what comes is gathered
/// into the next one: under load an entry carries many commits, and costs one fsync on each replica.
/// Two, so that one is prepared while the other is under way.
const ENTRIES_IN_FLIGHT: usize = 2;

/// How often to look whether the probing commit waits.
const PROBE_POLL: Duration = Duration::from_millis(1);

/// For how long a leader without its lease keeps its sessions waiting, for the majority to come back
/// or another leader to be heard of. Then they end: a client must learn of it in bounded time.
const WITHOUT_MAJORITY: Duration = Duration::from_secs(5);

/// How often the lease is looked at for that.
const LEASE_POLL: Duration = Duration::from_millis(100);

/// Leads until something fails, or until it is dropped because the leadership is over.
///
/// The caller has made sure that the log's current timeline is `timeline` and that this replica's
/// running primary writes it.
pub(super) async fn lead(
    shared: &Shared,
    term: Term,
    timeline: TimelineId,
    running: &Running,
) -> Result<Infallible, ReplicaError> {
    let holds = Holds::default();
    let (wal, from) = receive(shared, term, timeline, running, &holds).await?;
    let control = Arc::new(running.control().await?);

    // Until a commit has been seen to wait for us nothing more is reported as flushed, so the probe
    // cannot be released before it was seen.
    let prober = running.control().await?;
    let probe = prober
        .client()
        .batch_execute("SELECT pg_logical_emit_message(true, 'howdah', 'probe')");
    tokio::pin!(probe);
    see_waiting(&mut probe, &prober, &control).await?;

    let (committed, _) = watch::channel(from);
    let server = Arc::new(Leading {
        control: control.clone(),
        committed: committed.clone(),
        pulse: running.pulse().map_err(ReplicaError::Socket)?,
    });
    let serve = async {
        probe.await.map_err(crate::postgres::Error::from)?;
        // All that a recovered or promoted server shows has been written by now (hazard 5).
        server.settle().await.map_err(ReplicaError::Socket)?;
        while !server.control.receiver_is_synchronous().await? {
            tokio::time::sleep(PROBE_POLL).await;
        }
        let socket = running.endpoint().socket_path();
        let open = shared.gate.open(term, &socket, server.clone(), holds.clone());
        if let Some(settle) = &shared.settle {
            // A COMMIT PREPARED is not waited for to be replicated: the leader before may have shown what is
            // still prepared here. A crash in between leaves it prepared, and the next leader does this again.
            settle.settle_decided(shared.group).await;
        }
        open.admit_clients();
        tracing::info!(group = %shared.group, %term, "the gate is open");
        std::future::pending::<Result<Infallible, ReplicaError>>().await
    };
    tokio::select! {
        failed = carry_on(shared, term, timeline, running, wal, &committed, &holds) => failed,
        failed = serve => failed,
        failed = miss_majority(shared) => Err(failed),
        // A group of one has nobody to hand on to: it waits.
        failed = until_silent(running, &control), if shared.replicas > 1 => Err(failed),
    }
}

/// Begins to receive the primary's WAL where the log ends; also gives that position.
async fn receive(
    shared: &Shared,
    term: Term,
    timeline: TimelineId,
    running: &Running,
    holds: &Holds,
) -> Result<(Streaming, Lsn), ReplicaError> {
    // Whatever an earlier attempt of this node proposed is in the log before this, or never.
    shared.raft.barrier().await?;
    let from = {
        let committed = shared.raft.committed();
        let history = committed.borrow().history.clone();
        let ours = history.timeline() == Some(timeline) && history.origin() == Some(shared.node);
        if !ours || !leads(shared, term) {
            return Err(ProposeError::NotLeader { leader: None }.into());
        }
        history.end()
    };
    let stream = running.endpoint().connect().await.map_err(ReplicaError::Socket)?;
    let wal = Receiver::connect(stream, SUPERUSER)
        .await?
        .start(timeline, from)
        .await?;
    // It is committed already; the slot that keeps WAL for us counts from the first report.
    holds.report(&wal.status(), from);
    Ok((wal, from))
}

fn leads(shared: &Shared, term: Term) -> bool {
    matches!(*shared.observed.part.borrow(), Part::Leader { term: now, .. } if now == term)
}

/// Carries WAL for as long as the leadership lasts. Raft takes no entries while the majority is
/// slow to acknowledge; the sessions then wait, and this begins again where the log ends.
async fn carry_on(
    shared: &Shared,
    term: Term,
    timeline: TimelineId,
    running: &Running,
    mut wal: Streaming,
    committed: &watch::Sender<Lsn>,
    holds: &Holds,
) -> Result<Infallible, ReplicaError> {
    loop {
        match carry(shared, timeline, wal, committed, holds).await {
            Err(ReplicaError::Propose(error)) if leads(shared, term) => {
                tracing::info!(group = %shared.group, %error, "the log takes no WAL for the moment");
            }
            ended => return ended,
        }
        wal = loop {
            match receive(shared, term, timeline, running, holds).await {
                Ok((wal, from)) => {
                    committed.send_replace(from);
                    break wal;
                }
                Err(ReplicaError::Propose(_)) if leads(shared, term) => tokio::time::sleep(LEASE_POLL).await,
                Err(error) => return Err(error),
            }
        };
    }
}

/// Returns when the lease has been gone for too long.
async fn miss_majority(shared: &Shared) -> ReplicaError {
    let mut held = Instant::now();
    while held.elapsed() < WITHOUT_MAJORITY {
        if shared.raft.holds_lease() {
            held = Instant::now();
        }
        tokio::time::sleep(LEASE_POLL).await;
    }
    ReplicaError::NoMajority
}

/// Returns once the probing commit waits for synchronous replication.
///
/// `synchronous_standby_names` takes effect only when the checkpointer has told the backends, a
/// moment after the start (`UpdateSharedMemoryConfig` in checkpointer.c). Until then commits wait
/// for nobody (hazard 7): so the gate rests on a commit that was seen waiting, not on a setting.
async fn see_waiting(
    probe: &mut (impl Future<Output = Result<(), tokio_postgres::Error>> + Unpin),
    prober: &Control,
    control: &Control,
) -> Result<(), ReplicaError> {
    let pid: i32 = prober.backend_pid().await?;
    loop {
        tokio::select! {
            biased;
            done = &mut *probe => {
                done.map_err(crate::postgres::Error::from)?;
                return Err(ReplicaError::NotSynchronous);
            }
            waits = control.waits_for_replication(pid) => {
                if waits? {
                    return Ok(());
                }
            }
        }
        tokio::time::sleep(PROBE_POLL).await;
    }
}

/// Proposes WAL as it comes, a bounded amount of it at a time (PostgreSQL's walsender waits
/// meanwhile, and nothing is lost by waiting), and reports it to PostgreSQL as flushed when Raft
/// has committed it.
async fn carry(
    shared: &Shared,
    timeline: TimelineId,
    mut wal: Streaming,
    committed: &watch::Sender<Lsn>,
    holds: &Holds,
) -> Result<Infallible, ReplicaError> {
    let status: StatusSender = wal.status();
    let mut proposed = FuturesOrdered::new();
    loop {
        tokio::select! {
            biased;
            Some(outcome) = proposed.next(), if !proposed.is_empty() => {
                let applied: Applied = outcome?;
                // This releases the transactions whose commits end here: they become visible and
                // their clients are answered. A crash before it leaves them unanswered and durable;
                // the next leader's PostgreSQL has them.
                holds.report(&status, applied.end);
                committed.send_replace(applied.end);
            }
            event = wal.next(), if proposed.len() < ENTRIES_IN_FLIGHT => match event? {
                Event::Wal { start, bytes } => {
                    if crate::broken::REPORT_EARLY {
                        status.report_flushed(start + bytes.len() as u64);
                    }
                    let chunk = WalChunk { timeline, start, bytes };
                    let proposal = shared.raft.propose(Command::Wal(chunk)).await?;
                    proposed.push_back(proposal.outcome());
                }
                Event::TimelineEnded { next, at } => {
                    return Err(ReplicaError::ForeignPromotion { timeline: next, at });
                }
            },
        }
    }
}

/// What the gate asks about the server behind it.
struct Leading {
    control: Arc<Control>,
    committed: watch::Sender<Lsn>,
    pulse: Pulse,
}

impl Guarded for Leading {
    fn settle(&self) -> BoxFuture<'_, io::Result<()>> {
        Box::pin(async {
            // Whoever sees a commit sees it after PostgreSQL flushed its record.
            let written = self.control.flushed_lsn().await.map_err(io::Error::other)?;
            let mut committed = self.committed.subscribe();
            committed
                .wait_for(|committed| *committed >= written)
                .await
                .map_err(io::Error::other)?;
            Ok(())
        })
    }

    fn lives(&self) -> bool {
        self.pulse.beats()
    }

    fn transaction_of(&self, process_id: i32) -> BoxFuture<'_, io::Result<Option<String>>> {
        Box::pin(async move {
            self.control
                .transaction_of(process_id)
                .await
                .map_err(io::Error::other)
        })
    }
}
