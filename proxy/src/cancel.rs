//! Which backends work for a session: what a client's cancel request means, and what others must know of its transaction.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use coordinator::deadlock::Transaction;

use parking_lot::Mutex;
use shard::client::{ConnectError, Groups};
use shard::id::{GroupId, NodeId};

/// A cancel that was sent so long ago has met something or was dropped.
const LATE: Duration = Duration::from_secs(5);

/// A backend that works for a session, as PostgreSQL's CancelRequest names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Target {
    pub(crate) group: GroupId,
    pub(crate) process_id: i32,
    pub(crate) secret_key: i32,
}

impl Target {
    /// Asks its group to cancel what it does.
    pub(crate) async fn cancel(self, groups: &dyn Groups) -> Result<(), ConnectError> {
        groups.cancel(self.group, self.process_id, self.secret_key).await
    }
}

/// What proves that a cancel request comes from the session's own client: 4 random bytes, from protocol 3.2 on 32.
#[derive(Clone)]
pub(crate) struct SecretKey(Box<[u8]>);

impl SecretKey {
    pub(crate) fn random(protocol_minor: i32) -> SecretKey {
        let bytes: [u8; 32] = rand::random();
        let len = if protocol_minor >= 2 { bytes.len() } else { 4 };
        SecretKey(bytes[..len].into())
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// Takes as long for a key that is wrong in its first byte as in its last.
    fn is(&self, other: &[u8]) -> bool {
        let differ = |(one, other): (&u8, &u8)| one ^ other;
        let different = self
            .0
            .iter()
            .zip(other)
            .map(differ)
            .fold(0, |all, byte| all | byte);
        self.0.len() == other.len() && different == 0
    }
}

impl fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretKey")
    }
}

/// How many of a process id's bits say which session of its node it is.
const SESSION_BITS: u32 = 22;

/// How many nodes have process ids of their own.
const NODES: u64 = 1 << (i32::BITS - 1 - SESSION_BITS);

/// Whether a session with this process id can be one of this node's. A cancel request that reached another node, as it
/// does through a load balancer, is for this one then.
#[must_use]
pub fn may_be_of(process_id: i32, node: NodeId) -> bool {
    u64::try_from(process_id >> SESSION_BITS).is_ok_and(|of| of == node.0 % NODES)
}

fn process_id_of(node: NodeId) -> i32 {
    let of = i32::try_from(node.0 % NODES).unwrap_or(0);
    (of << SESSION_BITS) | rand::random_range(1..1 << SESSION_BITS)
}

/// One session, as a cancel request finds it.
#[derive(Debug)]
pub(crate) struct Cancellable {
    /// What the client knows the session by.
    pub(crate) process_id: i32,
    pub(crate) secret_key: SecretKey,
    now: Mutex<Vec<Target>>,
    /// Its transaction, once that works on a group.
    transaction: Mutex<Option<Transaction>>,
    cancels: Arc<OwnCancels>,
}

/// Whether the backends of a session that rests can be given to another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rest {
    Undisturbed,
    /// Somebody's cancel is on its way to one of them.
    Cancelling,
    /// One was, and nobody knows whether it is still on its way.
    Unsure,
}

/// Why what a session does is cancelled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reason {
    /// Its client has asked for it.
    Client,
    /// Its transaction was broken off to end a deadlock.
    Deadlock,
    /// It took longer than `statement_timeout`.
    StatementTimeout,
    /// It waited longer for a lock than `lock_timeout`.
    LockTimeout,
}

/// Whether Howdah itself cancels what a session does: a statement that is cancelled meanwhile was cancelled for that.
///
/// PostgreSQL's CancelRequest names a backend, not what it does, so it may meet the session's next statement when this
/// one was over a moment before. And it signals the backend twice, as a process and as a group (`signal_child` in
/// postmaster.c): on a busy machine the second signal meets the next statement. The next transaction of a deadlock's
/// victim, too, is told that it was a deadlock: it can be tried again. For a timeout the session sends nothing until the
/// request is answered. When it has been answered no signal of it can come any more, but what
/// the last one ended may still have to be read.
#[derive(Debug, Default)]
pub(crate) struct OwnCancels(Mutex<Hunts>);

#[derive(Debug, Default)]
struct Hunts {
    /// By reason.
    of: [Hunt; 4],
    /// One was not answered: it may still come.
    unsure: bool,
}

/// Of one reason.
#[derive(Debug, Default)]
struct Hunt {
    /// Cancels that have not been answered.
    under_way: usize,
    /// When the last one was, until a statement has ended by it.
    answered: Option<Instant>,
}

impl OwnCancels {
    /// A cancel is about to be sent; it is under way until the answer is dropped.
    pub(crate) fn begin(self: &Arc<Self>, reason: Reason) -> UnderWay {
        self.0.lock().of[reason as usize].under_way += 1;
        UnderWay {
            cancels: Arc::clone(self),
            reason,
        }
    }

    fn is_under_way(&self) -> bool {
        self.0.lock().of.iter().any(|hunt| hunt.under_way > 0)
    }

    fn rest(&self) -> Rest {
        let mut hunts = self.0.lock();
        if hunts.of.iter().any(|hunt| hunt.under_way > 0) {
            Rest::Cancelling
        } else if std::mem::take(&mut hunts.unsure) {
            Rest::Unsure
        } else {
            Rest::Undisturbed
        }
    }

    /// Why a statement was cancelled that was cancelled just now; none if it was not by us.
    pub(crate) fn take(&self) -> Option<Reason> {
        let mut hunts = self.0.lock();
        let reasons = [Reason::Deadlock, Reason::StatementTimeout, Reason::LockTimeout];
        reasons.into_iter().find(|reason| {
            let hunt = &mut hunts.of[*reason as usize];
            hunt.under_way > 0 || hunt.answered.take().is_some_and(|at| at.elapsed() < LATE)
        })
    }

    /// Nothing that a timeout has cancelled can still be to be read.
    pub(crate) fn forget_timeouts(&self) {
        let mut hunts = self.0.lock();
        for reason in [Reason::StatementTimeout, Reason::LockTimeout] {
            hunts.of[reason as usize].answered = None;
        }
    }
}

/// A cancel, until it is dropped.
#[derive(Debug)]
pub(crate) struct UnderWay {
    cancels: Arc<OwnCancels>,
    reason: Reason,
}

impl UnderWay {
    /// Nobody has answered it.
    pub(crate) fn lost(self) {
        self.cancels.0.lock().unsure = true;
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        let hunt = &mut self.cancels.0.lock().of[self.reason as usize];
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

    /// A cancel means no backend any more; whether none that was on its way does.
    pub(crate) fn rest(&self) -> Rest {
        // Whoever is about to cancel has found its target before, and says so while he looks.
        let mut now = self.now.lock();
        now.clear();
        self.cancels.rest()
    }

    /// Whether a cancel is on its way to one of its backends.
    pub(crate) fn is_hunted(&self) -> bool {
        // Whoever is about to cancel says so while he looks for his target.
        let _now = self.now.lock();
        self.cancels.is_under_way()
    }

    /// The backends that a cancel means now, which is about to be sent to each.
    fn strike(&self, reason: Reason) -> Vec<(Target, UnderWay)> {
        let now = self.now.lock();
        now.iter()
            .map(|target| (*target, self.cancels.begin(reason)))
            .collect()
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

    /// Whether Howdah itself cancels what it does.
    pub(crate) fn cancels(&self) -> Arc<OwnCancels> {
        Arc::clone(&self.cancels)
    }

    /// The backends that a cancel means now.
    pub(crate) fn targets(&self) -> Vec<Target> {
        self.now.lock().clone()
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

    /// A transaction is the victim of a deadlock: the backends to cancel, one of which waits.
    pub(crate) fn break_off(&self, id: u64) -> Vec<(Target, UnderWay)> {
        let sessions = self.0.lock();
        for session in sessions.values() {
            if let Some(transaction) = &*session.transaction.lock()
                && transaction.id == id
            {
                // What it waits for now; the other backends are idle in its transaction.
                return session.strike(Reason::Deadlock);
            }
        }
        Vec::new()
    }

    /// Gives a session a process id of its own and a random key, as long as this minor version of protocol 3 has them.
    pub(crate) fn enter(self: &Arc<Self>, node: NodeId, protocol_minor: i32) -> Entered {
        let mut sessions = self.0.lock();
        let process_id = loop {
            let id = process_id_of(node);
            if !sessions.contains_key(&id) {
                break id;
            }
        };
        let session = Arc::new(Cancellable {
            process_id,
            secret_key: SecretKey::random(protocol_minor),
            now: Mutex::default(),
            transaction: Mutex::default(),
            cancels: Arc::default(),
        });
        sessions.insert(process_id, Arc::clone(&session));
        Entered {
            session,
            sessions: Arc::clone(self),
        }
    }

    /// Has what a session of this node does cancelled, if it does something; whether there is a session with this key.
    pub async fn cancel(&self, groups: &dyn Groups, process_id: i32, secret_key: &[u8]) -> bool {
        let Some(targets) = self.find(process_id, secret_key) else {
            return false;
        };
        for (target, under_way) in targets {
            if let Err(error) = target.cancel(groups).await {
                tracing::debug!(%error, "a statement could not be cancelled");
                under_way.lost();
            }
        }
        true
    }

    /// The backends to cancel, none of which there are if the session is idle; `None` if there is no session with this key.
    fn find(&self, process_id: i32, secret_key: &[u8]) -> Option<Vec<(Target, UnderWay)>> {
        let session = self.0.lock().get(&process_id).cloned();
        let session = session.filter(|session| session.secret_key.is(secret_key))?;
        Some(session.strike(Reason::Client))
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
        let cancels = Arc::new(OwnCancels::default());
        let deadlock = Some(Reason::Deadlock);
        assert_eq!(cancels.take(), None);
        let hunted = || cancels.begin(Reason::Deadlock);
        let (one, other) = (hunted(), hunted());
        assert_eq!([cancels.take(), cancels.take(), cancels.take()], [deadlock; 3]);
        drop(one);
        assert_eq!([cancels.take(), cancels.take()], [deadlock; 2]);
        drop(other);
        assert_eq!([cancels.take(), cancels.take()], [deadlock, None]);
    }

    #[test]
    fn a_process_id_names_its_node_and_a_key_only_itself() {
        let sessions = Arc::new(Sessions::default());
        for node in [1, 2, 511].map(NodeId) {
            let entered = sessions.enter(node, 0);
            let (id, key) = (entered.session.process_id, entered.session.secret_key.clone());
            assert!(id > 0 && may_be_of(id, node), "{id} of {node}");
            assert!(!may_be_of(id, NodeId(node.0 + 1)));
            let target = Target {
                group: GroupId(1),
                process_id: 7,
                secret_key: 8,
            };
            entered.session.aim([target]);
            let found = |key: &[u8]| -> Option<Vec<Target>> {
                let found = sessions.find(id, key)?;
                Some(found.into_iter().map(|(target, _)| target).collect())
            };
            assert_eq!(found(key.bytes()), Some(vec![target]));
            let mut wrong = key.bytes().to_vec();
            wrong[3] ^= 1;
            for wrong in [&wrong[..], &key.bytes()[..3], &[]] {
                assert_eq!(found(wrong), None);
            }
        }
        assert!(!may_be_of(-1, NodeId(1)));
        assert_eq!(sessions.enter(NodeId(1), 2).session.secret_key.bytes().len(), 32);
    }

    #[test]
    fn a_timeout_is_told_once_and_not_to_the_next_statement() {
        let cancels = Arc::new(OwnCancels::default());
        drop(cancels.begin(Reason::StatementTimeout));
        assert_eq!(cancels.take(), Some(Reason::StatementTimeout));
        assert_eq!(cancels.take(), None);
        drop(cancels.begin(Reason::LockTimeout));
        cancels.forget_timeouts();
        assert_eq!(cancels.take(), None);
        drop(cancels.begin(Reason::Deadlock));
        cancels.forget_timeouts();
        assert_eq!(cancels.take(), Some(Reason::Deadlock), "another session sends it");
    }
}
