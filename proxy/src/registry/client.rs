//! One client's entry: its session writes, the console reads and asks.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::task::{Context, Poll};

use Ordering::Relaxed;
use futures::task::AtomicWaker;
use parking_lot::Mutex;
use shard::id::GroupId;

use super::counters::Counters;
use super::words::{Activity, Pins};
use crate::cancel::now;

/// Who a client says it is, and where it is.
#[derive(Clone, Debug)]
pub(crate) struct Identity {
    /// What the client knows its session by, to cancel.
    pub(crate) process_id: i32,
    pub(crate) user: String,
    pub(crate) database: String,
    pub(crate) application_name: String,
    pub(crate) address: Option<SocketAddr>,
    /// The node's own end.
    pub(crate) local: Option<SocketAddr>,
}

/// A backend that a session holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Server {
    pub(crate) group: GroupId,
    /// Its process id in its group's PostgreSQL.
    pub(crate) process_id: i32,
    /// Since when it is there, microseconds since 1970.
    pub(crate) connected: u64,
}

/// One client's entry.
pub(crate) struct Client {
    pub(crate) identity: Identity,
    /// Microseconds since 1970.
    pub(super) connected: u64,
    pub(super) application_name: Mutex<String>,
    pub(super) servers: Mutex<Vec<Server>>,
    pub(super) activity: AtomicU8,
    /// When its last request came, and since when it waits; microseconds since 1970, 0 for never.
    pub(super) requested: AtomicU64,
    pub(super) waiting: AtomicU64,
    pub(super) pins: AtomicU32,
    pub(crate) counters: Counters,
    /// It was let in: the database is there.
    pub(super) admitted: AtomicBool,
    pub(super) paused: AtomicBool,
    pub(super) killed: AtomicBool,
    /// One of these has changed since the session last looked.
    rung: AtomicBool,
    bell: AtomicWaker,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client")
            .field("identity", &self.identity)
            .finish_non_exhaustive()
    }
}

impl Client {
    pub(super) fn new(identity: Identity, paused: bool) -> Client {
        Client {
            application_name: Mutex::new(identity.application_name.clone()),
            identity,
            connected: now(),
            servers: Mutex::default(),
            activity: AtomicU8::new(Activity::Login as u8),
            requested: AtomicU64::new(0),
            waiting: AtomicU64::new(0),
            pins: AtomicU32::new(0),
            counters: Counters::default(),
            admitted: AtomicBool::new(false),
            paused: AtomicBool::new(paused),
            killed: AtomicBool::new(false),
            rung: AtomicBool::new(false),
            bell: AtomicWaker::new(),
        }
    }

    pub(crate) fn admit(&self) {
        self.admitted.store(true, Relaxed);
    }

    pub(crate) fn rename(&self, application_name: &str) {
        application_name.clone_into(&mut self.application_name.lock());
    }

    pub(crate) fn does(&self, activity: Activity) {
        self.activity.store(activity as u8, Relaxed);
    }

    /// A request has come.
    pub(crate) fn requests(&self) {
        self.requested.store(now(), Relaxed);
        self.does(Activity::Active);
    }

    /// Its session waits for the client; these keep its backends.
    pub(crate) fn rests(&self, activity: Activity, pins: Pins) {
        self.pins.store(pins.0, Relaxed);
        self.does(activity);
    }

    /// It waits for something that is not its own until the answer is dropped.
    pub(crate) fn waits(self: &Arc<Self>) -> Waits {
        let before = self.activity.swap(Activity::Waiting as u8, Relaxed);
        self.waiting.store(now(), Relaxed);
        Waits {
            client: Arc::clone(self),
            before,
        }
    }

    /// It holds this backend until the answer is dropped.
    pub(crate) fn holds(self: &Arc<Self>, group: GroupId, process_id: i32, connected: u64) -> Held {
        let server = Server {
            group,
            process_id,
            connected,
        };
        self.servers.lock().push(server.clone());
        Held {
            client: Arc::clone(self),
            server,
        }
    }

    /// Ready once each time that something was asked of it. For its session alone.
    pub(crate) fn poll_bell(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.bell.register(cx.waker());
        if self.rung.load(Relaxed) && self.rung.swap(false, Ordering::AcqRel) {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    }

    pub(super) fn ring(&self) {
        self.rung.store(true, Ordering::Release);
        self.bell.wake();
    }

    /// Whether anything is asked of it.
    pub(crate) fn is_asked(&self) -> bool {
        self.paused.load(Relaxed) || self.killed.load(Relaxed)
    }

    /// It begins nothing until it may again.
    pub(crate) fn is_paused(&self) -> bool {
        self.paused.load(Relaxed)
    }

    /// It ends.
    pub(crate) fn is_killed(&self) -> bool {
        self.killed.load(Relaxed)
    }
}

/// See [`Client::waits`].
#[derive(Debug)]
pub(crate) struct Waits {
    client: Arc<Client>,
    before: u8,
}

impl Drop for Waits {
    fn drop(&mut self) {
        let waited = now().saturating_sub(self.client.waiting.swap(0, Relaxed));
        self.client.counters.wait_time.add(waited);
        self.client.activity.store(self.before, Relaxed);
    }
}

/// See [`Client::holds`].
#[derive(Debug)]
pub(crate) struct Held {
    client: Arc<Client>,
    server: Server,
}

impl Drop for Held {
    fn drop(&mut self) {
        self.client.servers.lock().retain(|held| *held != self.server);
    }
}
