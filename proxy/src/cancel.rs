//! Which backends work for a session: what a client's cancel request means, and what others must know of its transaction.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use coordinator::deadlock::Transaction;

use parking_lot::Mutex;
use shard::id::GroupId;

/// A cancel that was sent so long ago has met something or was dropped.
const LATE: Duration = Duration::from_secs(5);

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
    /// Its transaction, once that works on a group.
    transaction: Mutex<Option<Transaction>>,
    victim: Arc<Victim>,
}

/// Whether a session's transaction was broken off to end a deadlock: a statement that is cancelled meanwhile was cancelled for that.
///
/// PostgreSQL's CancelRequest names a backend, not what it does, so it may meet the session's next transaction when this
/// one was over a moment before. And it signals the backend twice, as a process and as a group (`signal_child` in
/// postmaster.c): on a busy machine the second signal meets the next transaction. Those, too, are told that it was a
/// deadlock: they can be tried again. When the request has been answered no signal of it can come any more, but what
/// the last one ended may still have to be read.
#[derive(Debug, Default)]
pub(crate) struct Victim(Mutex<Hunt>);

#[derive(Debug, Default)]
struct Hunt {
    /// Cancels that have not been answered.
    under_way: usize,
    /// When the last one was, until a statement has ended by it.
    answered: Option<Instant>,
}

impl Victim {
    /// A cancel is about to be sent; it is under way until the answer is dropped.
    fn hunted(self: &Arc<Self>) -> UnderWay {
        self.0.lock().under_way += 1;
        UnderWay(Arc::clone(self))
    }

    /// Whether a statement that was cancelled just now was cancelled for that.
    pub(crate) fn take(&self) -> bool {
        let mut hunt = self.0.lock();
        hunt.under_way > 0 || hunt.answered.take().is_some_and(|at| at.elapsed() < LATE)
    }
}

/// A cancel to end a deadlock, until it is dropped.
#[derive(Debug)]
pub(crate) struct UnderWay(Arc<Victim>);

impl Drop for UnderWay {
    fn drop(&mut self) {
        let mut hunt = self.0.0.lock();
        hunt.under_way -= 1;
        hunt.answered = Some(Instant::now());
    }
}

impl Cancellable {
    /// From now on a cancel means these backends.
    pub(crate) fn aim(&self, targets: impl IntoIterator<Item = Target>) {
        let mut now = self.now.lock();
        now.clear();
        now.extend(targets);
    }

    /// The session's transaction works on these backends now.
    pub(crate) fn works_on(&self, targets: impl IntoIterator<Item = Target>) {
        let backends = targets
            .into_iter()
            .map(|target| (target.group, target.process_id))
            .collect();
        match &mut *self.transaction.lock() {
            Some(transaction) => transaction.backends = backends,
            none => {
                *none = Some(Transaction {
                    began: now(),
                    id: rand::random(),
                    backends,
                });
            }
        }
    }

    /// Its transaction is over.
    pub(crate) fn works_no_more(&self) {
        *self.transaction.lock() = None;
    }

    /// Whether it was broken off.
    pub(crate) fn victim(&self) -> Arc<Victim> {
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
    /// The transactions that work on a group or on several.
    #[must_use]
    pub fn transactions(&self) -> Vec<Transaction> {
        let sessions = self.0.lock();
        let transactions = sessions
            .values()
            .filter_map(|session| session.transaction.lock().clone());
        transactions.collect()
    }

    /// The backends that a cancel of this session would mean, by group and process id.
    pub(crate) fn aimed(&self, process_id: i32) -> Vec<(GroupId, i32)> {
        let sessions = self.0.lock();
        let session = sessions.get(&process_id);
        let aimed = session.map(|session| session.now.lock().clone());
        let aimed = aimed.unwrap_or_default().into_iter();
        aimed.map(|target| (target.group, target.process_id)).collect()
    }

    /// A transaction is the victim of a deadlock: the backends to cancel, one of which waits.
    pub(crate) fn break_off(&self, id: u64) -> Vec<(Target, UnderWay)> {
        let sessions = self.0.lock();
        for session in sessions.values() {
            if let Some(transaction) = &*session.transaction.lock()
                && transaction.id == id
            {
                // What it waits for now; the other backends are idle in its transaction.
                let now = session.now.lock();
                return now
                    .iter()
                    .map(|target| (*target, session.victim.hunted()))
                    .collect();
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
            transaction: Mutex::default(),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_cancelled_while_a_victim_is_hunted_is_told_as_a_deadlock_and_nothing_else() {
        let victim = Arc::new(Victim::default());
        assert!(!victim.take());
        let (one, other) = (victim.hunted(), victim.hunted());
        assert!(victim.take() && victim.take() && victim.take());
        drop(one);
        assert!(victim.take() && victim.take());
        drop(other);
        assert!(victim.take());
        assert!(!victim.take());
    }
}
