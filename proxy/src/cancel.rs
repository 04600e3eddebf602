//! Which backends work for a session: what a client's cancel request means, and what others must know of its transaction.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use coordinator::deadlock::Across;

use parking_lot::Mutex;
use shard::id::GroupId;

/// A backend that works for a session, as PostgreSQL's CancelRequest names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Target {
    pub(crate) group: GroupId,
    pub(crate) process_id: i32,
    pub(crate) secret_key: i32,
}

/// One session, as a cancel request finds it.
#[derive(Debug)]
pub(crate) struct Cancellable {
    /// What the client knows the session by.
    pub(crate) process_id: i32,
    pub(crate) secret_key: i32,
    now: Mutex<Vec<Target>>,
    /// Its transaction, once that works on several groups.
    across: Mutex<Option<Across>>,
    /// It was broken off to end a deadlock: its next cancelled statement is that.
    victim: Arc<AtomicBool>,
}

impl Cancellable {
    /// From now on a cancel means these backends.
    pub(crate) fn aim(&self, targets: impl IntoIterator<Item = Target>) {
        let mut now = self.now.lock();
        now.clear();
        now.extend(targets);
    }

    /// The session's transaction works on these backends now.
    pub(crate) fn works_on(&self, targets: Vec<Target>) {
        let mut across = self.across.lock();
        if targets.len() < 2 {
            *across = None;
            return;
        }
        let (began, id) = match &*across {
            Some(before) => (before.began, before.id),
            None => (now(), rand::random()),
        };
        let backends = targets
            .iter()
            .map(|target| (target.group, target.process_id))
            .collect();
        *across = Some(Across { began, id, backends });
    }

    /// Its transaction is over.
    pub(crate) fn works_no_more(&self) {
        *self.across.lock() = None;
        self.victim.store(false, Ordering::Relaxed);
    }

    /// Whether a cancelled statement was cancelled to end a deadlock.
    pub(crate) fn victim(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.victim)
    }
}

/// Microseconds since 1970.
pub(crate) fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}

/// All sessions of this node by their process id.
#[derive(Debug, Default)]
pub struct Sessions(Mutex<HashMap<i32, Arc<Cancellable>>>);

impl Sessions {
    /// The transactions that work on several groups.
    #[must_use]
    pub fn across(&self) -> Vec<Across> {
        let sessions = self.0.lock();
        let across = sessions
            .values()
            .filter_map(|session| session.across.lock().clone());
        across.collect()
    }

    /// A transaction is the victim of a deadlock: the backends to cancel, one of which waits.
    pub(crate) fn break_off(&self, id: u64) -> Vec<Target> {
        let sessions = self.0.lock();
        for session in sessions.values() {
            if let Some(across) = &*session.across.lock()
                && across.id == id
            {
                session.victim.store(true, Ordering::Relaxed);
                // What it waits for now; the other backends are idle in its transaction.
                return session.now.lock().clone();
            }
        }
        Vec::new()
    }

    /// Gives a session a process id of its own and a random key.
    pub(crate) fn enter(self: &Arc<Self>) -> Entered {
        let mut sessions = self.0.lock();
        let process_id = loop {
            let id = rand::random_range(1..i32::MAX);
            if !sessions.contains_key(&id) {
                break id;
            }
        };
        let session = Arc::new(Cancellable {
            process_id,
            secret_key: rand::random(),
            now: Mutex::default(),
            across: Mutex::default(),
            victim: Arc::default(),
        });
        sessions.insert(process_id, Arc::clone(&session));
        Entered {
            session,
            sessions: Arc::clone(self),
        }
    }

    /// The backends to cancel; none if the key is wrong or the session idle or gone.
    pub(crate) fn find(&self, process_id: i32, secret_key: i32) -> Vec<Target> {
        let session = self.0.lock().get(&process_id).cloned();
        match session {
            Some(session) if session.secret_key == secret_key => session.now.lock().clone(),
            _ => Vec::new(),
        }
    }
}

/// A session's place among the others; leaves it when dropped.
#[derive(Debug)]
pub(crate) struct Entered {
    pub(crate) session: Arc<Cancellable>,
    sessions: Arc<Sessions>,
}

impl Drop for Entered {
    fn drop(&mut self) {
        self.sessions.0.lock().remove(&self.session.process_id);
    }
}
