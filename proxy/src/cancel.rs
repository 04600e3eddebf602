//! Which backends a client's cancel request means.

use std::collections::HashMap;
use std::sync::Arc;

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
}

impl Cancellable {
    /// From now on a cancel means these backends.
    pub(crate) fn aim(&self, targets: impl IntoIterator<Item = Target>) {
        let mut now = self.now.lock();
        now.clear();
        now.extend(targets);
    }
}

/// All sessions of this node by their process id.
#[derive(Debug, Default)]
pub(crate) struct Sessions(Mutex<HashMap<i32, Arc<Cancellable>>>);

impl Sessions {
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
