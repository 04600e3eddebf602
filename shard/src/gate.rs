//! The gate: client SQL reaches a replica's PostgreSQL only through it, and answers leave only
//! while this replica may answer for its group.
//!
//! Three things are asked of every piece of an answer, when it is about to leave, not when the
//! statement began:
//!
//! - **The lease.** A majority has acknowledged this leader so recently that no other can have been
//!   elected. Where the lease has run out (the node was paused, the majority is slow), the answer
//!   is held back until the majority acknowledges this same leadership again, or the gate closes.
//!   An acknowledgement of a message sent after the answer was computed proves that this replica
//!   still led when its snapshot was taken, so a held answer is as good as a prompt one. Time is
//!   the monotonic clock, which goes on while a process is stopped.
//! - **Guards.** A cancelled backend that was waiting for replication makes its commit visible
//!   before Raft has it (hazard 4 of the design; `SyncRepWaitForLSN` in syncrep.c). So a cancel
//!   raises a guard first: until the cancelled transaction is over, every answer waits until all
//!   WAL that its reader can have seen has committed in Raft. No order between sockets is relied on.
//!
//! - **The postmaster.** When it dies (kill -9, the kernel's out-of-memory killer), backends that
//!   wait for replication end their wait, and their commits become visible (`SyncRepWaitForLSN`
//!   again) while other backends still answer. The kernel is asked whether it lives.
//!
//! When the gate closes every connection through it ends at once, also one whose backend says nothing
//! because its commit waits for a majority that is gone.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, BufMut, BytesMut};
use futures::future::BoxFuture;
use parking_lot::RwLock;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::UnixStream;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use crate::hold::Holds;
use crate::id::Term;

/// How often a held answer looks again whether the lease is back.
const LEASE_RECHECK: Duration = Duration::from_millis(5);

/// How often an idle backend is looked at after a cancel before it counts as not having been met.
const IDLE_LOOKS: u32 = 6;

/// How often a cancel looks whether the cancelled transaction is over.
const CANCEL_RECHECK: Duration = Duration::from_millis(5);

/// What the gate must know of Raft.
pub trait Lease: Send + Sync {
    /// Whether no other replica can lead at this moment.
    fn holds(&self) -> bool;
}

/// What the gate must know of the PostgreSQL behind it.
pub trait Guarded: Send + Sync {
    /// Returns once all WAL that PostgreSQL has written up to now has committed in Raft.
    fn settle(&self) -> BoxFuture<'_, io::Result<()>>;

    /// Whether the postmaster lives. Costs a system call.
    fn lives(&self) -> bool;

    /// The transaction that a backend is in, as an opaque mark; none where it is in none.
    fn transaction_of(&self, process_id: i32) -> BoxFuture<'_, io::Result<Option<String>>>;
}

/// Who wants a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Guest {
    /// A client's session, or what is done on its behalf.
    Client,
    /// A node that settles transactions across groups.
    Node,
}

/// The gate in front of one replica's PostgreSQL. Clones are handles on the same gate.
#[derive(Clone)]
pub struct Gate {
    inner: Arc<Inner>,
}

struct Inner {
    lease: Arc<dyn Lease>,
    open: RwLock<Option<Arc<Leadership>>>,
}

/// One period in which the gate is open.
struct Leadership {
    term: Term,
    socket: PathBuf,
    server: Arc<dyn Guarded>,
    holds: Holds,
    guards: AtomicUsize,
    /// Clients are let in, not only the nodes that settle what was left prepared.
    admits_clients: AtomicBool,
    /// The gate has closed. Looked at for every answer, so it is no lock.
    closed: AtomicBool,
    /// Tells those who wait that it has.
    over: CancellationToken,
}

impl Leadership {
    fn is_closed(&self) -> bool {
        self.closed.load(Ordering::SeqCst)
    }

    fn close(&self) {
        self.closed.store(true, Ordering::SeqCst);
        self.over.cancel();
    }
}

/// Keeps the gate open; closes it when dropped.
#[must_use]
pub struct OpenGate {
    gate: Gate,
    leadership: Arc<Leadership>,
}

impl OpenGate {
    /// Lets clients in. Until then only nodes are: to settle what an earlier leadership left prepared,
    /// here and on the groups that ask here for a decision.
    pub fn admit_clients(&self) {
        self.leadership.admits_clients.store(true, Ordering::SeqCst);
    }
}

impl Drop for OpenGate {
    fn drop(&mut self) {
        self.leadership.close();
        let mut open = self.gate.inner.open.write();
        open.take_if(|open| Arc::ptr_eq(open, &self.leadership));
    }
}

/// The gate is closed: this replica does not lead, or not yet.
#[derive(Debug, thiserror::Error)]
pub enum GateError {
    /// Closed.
    #[error("the replica does not serve its group")]
    Closed,
    /// PostgreSQL behind the open gate does not answer.
    #[error("the replica's PostgreSQL does not answer")]
    Server(#[source] io::Error),
}

impl fmt::Debug for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gate").field("open", &self.open_in()).finish()
    }
}

impl Gate {
    /// A closed gate.
    #[must_use]
    pub fn new(lease: Arc<dyn Lease>) -> Gate {
        Gate {
            inner: Arc::new(Inner {
                lease,
                open: RwLock::new(None),
            }),
        }
    }

    /// Opens it to nodes for the leadership of `term` over the server at `socket`, until the returned
    /// value is dropped; [`OpenGate::admit_clients`] lets everyone in.
    ///
    /// The caller has seen all WAL of the server commit in Raft, and the server wait for it.
    pub fn open(&self, term: Term, socket: &Path, server: Arc<dyn Guarded>, holds: Holds) -> OpenGate {
        let leadership = Leadership {
            term,
            socket: socket.to_owned(),
            server,
            holds,
            guards: AtomicUsize::new(0),
            admits_clients: AtomicBool::new(false),
            closed: AtomicBool::new(false),
            over: CancellationToken::new(),
        };
        let leadership = Arc::new(leadership);
        if let Some(before) = self.inner.open.write().replace(leadership.clone()) {
            before.close();
        }
        let gate = self.clone();
        OpenGate { gate, leadership }
    }

    /// The term for which the gate is open, to nodes at least.
    #[must_use]
    pub fn open_in(&self) -> Option<Term> {
        self.inner.open.read().as_ref().map(|leadership| leadership.term)
    }

    /// Whether clients are let in.
    #[must_use]
    pub fn admits_clients(&self) -> bool {
        let open = self.inner.open.read();
        open.as_ref()
            .is_some_and(|open| open.admits_clients.load(Ordering::SeqCst))
    }

    /// Whether clients get answers now: they are let in, and no other replica can lead.
    #[must_use]
    pub fn serves(&self) -> bool {
        self.admits_clients() && self.lease_holds()
    }

    /// A connection to the server through the open gate. Without the lease it counts as closed: the
    /// connection would only hang.
    pub async fn connect(&self, guest: Guest) -> Result<GatedBackend, GateError> {
        let leadership = self.leadership()?;
        let admitted = guest == Guest::Node || leadership.admits_clients.load(Ordering::SeqCst);
        if !admitted || !self.lease_holds() {
            return Err(GateError::Closed);
        }
        let stream = UnixStream::connect(&leadership.socket)
            .await
            .map_err(GateError::Server)?;
        Ok(GatedBackend {
            stream,
            over: Box::pin(leadership.over.clone().cancelled_owned()),
            passage: Passage {
                gate: self.clone(),
                leadership,
            },
            held: BytesMut::new(),
            clearing: None,
        })
    }

    /// A connection for pg_basebackup and pg_rewind. What it carries is trusted only after its end
    /// has committed in Raft, so it needs no lease; but it ends with the leadership.
    pub async fn connect_replication(&self) -> Result<UnixStream, GateError> {
        let leadership = self.leadership()?;
        UnixStream::connect(&leadership.socket)
            .await
            .map_err(GateError::Server)
    }

    /// Holds back all commits of the group for at most `limit`: none becomes visible but those that were released before
    /// (see [`Holds`]). Gives the term and the hold's number.
    pub fn hold(&self, limit: Duration) -> Result<(Term, u64), GateError> {
        let leadership = self.leadership()?;
        if !leadership.admits_clients.load(Ordering::SeqCst) || !self.lease_holds() {
            return Err(GateError::Closed);
        }
        Ok((leadership.term, leadership.holds.hold(limit)))
    }

    /// Ends a hold. Whether nothing was released since it began, by this replica or by any other: it has lasted, and
    /// at no time between could another replica lead.
    #[must_use]
    pub fn release(&self, term: Term, number: u64) -> bool {
        let Ok(leadership) = self.leadership() else {
            return false;
        };
        let ours = leadership.term == term && self.lease_holds() && !leadership.is_closed();
        // The lease is looked at before: had it run out it would not be back in the same term unless nobody else led.
        leadership.term == term && leadership.holds.release(number) && ours
    }

    /// Asks the server to cancel what one of its backends does.
    ///
    /// Returns when the server has sent the signal. From before that until the cancelled transaction
    /// is over, and nothing that it may have shown too early is uncommitted, the answers to all
    /// sessions are held as long as Raft needs.
    pub async fn cancel(&self, process_id: i32, secret_key: i32) -> Result<(), GateError> {
        let leadership = self.leadership()?;
        let guard = Guard::raise(&leadership);
        let sent = send_cancel(&leadership.socket, process_id, secret_key).await;
        // Whether or not the signal went out, as far as is known here: it may have.
        tokio::spawn(async move {
            let over = guard.leadership.over.clone();
            tokio::select! {
                () = see_cancelled_out(&guard.leadership, process_id) => {}
                () = over.cancelled() => {}
            }
        });
        sent.map_err(GateError::Server)
    }

    fn leadership(&self) -> Result<Arc<Leadership>, GateError> {
        self.inner.open.read().clone().ok_or(GateError::Closed)
    }

    fn lease_holds(&self) -> bool {
        crate::broken::NO_LEASE || self.inner.lease.holds()
    }
}

/// A raised guard; lowered when dropped.
struct Guard {
    leadership: Arc<Leadership>,
}

impl Guard {
    fn raise(leadership: &Arc<Leadership>) -> Guard {
        leadership.guards.fetch_add(1, Ordering::SeqCst);
        Guard {
            leadership: leadership.clone(),
        }
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.leadership.guards.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Returns once whatever transaction the signal can have met is over, and all that is written by
/// then has committed. Where that cannot be learned, never: the guard stays up until the gate closes.
///
/// The signal has been delivered when this begins. The transaction that it met is the one seen now,
/// or is over already; or the backend was idle and dropped it, or was about to begin: so an idle one
/// is looked at again.
async fn see_cancelled_out(leadership: &Leadership, process_id: i32) {
    let outcome = async {
        let mut mark = leadership.server.transaction_of(process_id).await?;
        for _ in 0..IDLE_LOOKS {
            if mark.is_some() {
                break;
            }
            tokio::time::sleep(CANCEL_RECHECK).await;
            mark = leadership.server.transaction_of(process_id).await?;
        }
        while mark.is_some() && leadership.server.transaction_of(process_id).await? == mark {
            tokio::time::sleep(CANCEL_RECHECK).await;
        }
        leadership.server.settle().await
    };
    if let Err(error) = outcome.await {
        tracing::info!(%error, "a cancelled transaction cannot be followed; answers are held until the gate closes");
        std::future::pending::<()>().await;
    }
}

/// PostgreSQL's CancelRequest (protocol-message-formats): length 16, code 80877102, process, key.
async fn send_cancel(socket: &Path, process_id: i32, secret_key: i32) -> io::Result<()> {
    let mut stream = UnixStream::connect(socket).await?;
    let mut request = BytesMut::with_capacity(16);
    request.put_i32(16);
    request.put_i32(80_877_102);
    request.put_i32(process_id);
    request.put_i32(secret_key);
    stream.write_all(&request).await?;
    // The server closes the connection after it has sent the signal.
    let mut nothing = [0; 1];
    let _end = stream.read(&mut nothing).await?;
    Ok(())
}

/// The right to pass answers out, for as long as one leadership lasts.
#[derive(Clone)]
struct Passage {
    gate: Gate,
    leadership: Arc<Leadership>,
}

impl Passage {
    /// Whether an answer that is in hand may leave now.
    fn is_clear(&self) -> bool {
        self.leadership.guards.load(Ordering::SeqCst) == 0 && self.is_ours()
    }

    /// Whether this leadership lasts, over a server that lives.
    fn is_ours(&self) -> bool {
        self.gate.lease_holds() && !self.leadership.is_closed() && self.leadership.server.lives()
    }

    /// Waits until an answer that is in hand may leave.
    async fn cleared(self) -> io::Result<()> {
        loop {
            if self.leadership.is_closed() || !self.leadership.server.lives() {
                return Err(closed());
            }
            if self.leadership.guards.load(Ordering::SeqCst) > 0 {
                self.leadership.server.settle().await?;
            }
            if self.is_ours() {
                return Ok(());
            }
            tokio::time::sleep(LEASE_RECHECK).await;
        }
    }
}

fn closed() -> io::Error {
    io::Error::new(
        io::ErrorKind::ConnectionAborted,
        "the replica no longer leads its group",
    )
}

/// A connection to PostgreSQL through the gate.
pub struct GatedBackend {
    stream: UnixStream,
    passage: Passage,
    /// An answer, or a part of one, that may not leave yet. Bounded by the reader's buffer.
    held: BytesMut,
    clearing: Option<BoxFuture<'static, io::Result<()>>>,
    /// Ends when the gate closes.
    over: Pin<Box<WaitForCancellationFutureOwned>>,
}

impl fmt::Debug for GatedBackend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GatedBackend")
            .field("term", &self.passage.leadership.term)
            .finish_non_exhaustive()
    }
}

impl AsyncRead for GatedBackend {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        match this.poll_answer(cx, buf) {
            Poll::Pending if this.over.as_mut().poll(cx).is_ready() => Poll::Ready(Err(closed())),
            answer => answer,
        }
    }
}

impl GatedBackend {
    fn poll_answer(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if let Some(clearing) = &mut self.clearing {
            let outcome = ready!(clearing.as_mut().poll(cx));
            self.clearing = None;
            // What may not leave is not kept for a reader that asks again after the error.
            outcome.inspect_err(|_| self.held.clear())?;
        }
        if self.held.is_empty() {
            let before = buf.filled().len();
            ready!(Pin::new(&mut self.stream).poll_read(cx, buf))?;
            if buf.filled().len() == before || self.passage.is_clear() {
                return Poll::Ready(Ok(()));
            }
            self.held.extend_from_slice(&buf.filled()[before..]);
            buf.set_filled(before);
            self.clearing = Some(Box::pin(self.passage.clone().cleared()));
            return self.poll_answer(cx, buf);
        }
        let count = self.held.len().min(buf.remaining());
        buf.put_slice(&self.held[..count]);
        self.held.advance(count);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for GatedBackend {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if self.passage.leadership.is_closed() {
            return Poll::Ready(Err(closed()));
        }
        Pin::new(&mut self.get_mut().stream).poll_write(cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}
