//! The session's timeouts: `statement_timeout` and its kin, which no backend keeps.
//!
//! A statement's time runs from its message until its last answer, over all groups that it uses, and stands still while the
//! session commits: PostgreSQL, too, ends its timer before it commits (`finish_xact_command` in postgres.c). When it is up
//! the backends are asked to cancel through the gate, which raises its guard first; one that waits for its majority with
//! a commit on its own disk is left alone.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use coordinator::waiting::Waiting;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::alarm::Alarm;
use super::conn::{Conn, Parameters};
use super::login::settings_in;
use super::transaction::{Step, Transaction};
use super::{Session, TransactionStatus};
use crate::analysis::Timeout;
use crate::cancel::Reason;
use crate::failure::{Ended, Failure, Halt};
use crate::protocol::encode;

/// A cancel may meet a backend between two steps of a statement, and is repeated as long as it runs, each time after
/// twice as long.
const AGAIN: Duration = Duration::from_millis(250);

/// A look at a wait for a lock that comes too early by no more than this waits for the rest.
const EARLY: Duration = Duration::from_millis(20);

/// How long a group may take to say what a backend waits for.
const PATIENCE: Duration = Duration::from_secs(2);

/// The values of all timeouts; 0 is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Values([Duration; 4]);

impl Values {
    pub(super) fn get(&self, timeout: Timeout) -> Option<Duration> {
        Some(self.0[timeout as usize]).filter(|value| !value.is_zero())
    }

    fn set(&mut self, timeout: Timeout, value: Duration) {
        self.0[timeout as usize] = value;
    }

    /// Takes them out of a start-up message: its backends keep none, whatever their role or database begins with.
    ///
    /// # Errors
    /// 22023 for a value that is none.
    pub(super) fn of_startup(parameters: &mut Parameters) -> Result<Values, Failure> {
        let mut values = Values::default();
        let mut take = |name: &str, value: String| match Timeout::named(name) {
            Some(timeout) => timeout
                .read(&[value])
                .map(|read| values.set(timeout, read.unwrap_or_default())),
            None => Ok(()),
        };
        // PostgreSQL, too, reads the options first (`process_startup_options`).
        let options = parameters.iter().filter(|(name, _)| name == b"options");
        for (name, value) in options.flat_map(|(_, value)| settings_in(&String::from_utf8_lossy(value))) {
            take(&name, value)?;
        }
        for (name, value) in parameters.iter() {
            take(
                &String::from_utf8_lossy(name),
                String::from_utf8_lossy(value).into_owned(),
            )?;
        }
        parameters.retain(|(name, _)| Timeout::named(&String::from_utf8_lossy(name)).is_none());
        let off = Timeout::ALL.map(|timeout| (timeout.name().as_bytes().to_vec(), b"0".to_vec()));
        parameters.extend(off);
        Ok(values)
    }
}

/// What time runs for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Timed {
    Nothing,
    /// A statement since then.
    Statement(Instant),
    /// The client has the word; this is told when it takes too long.
    Idle(Timeout),
}

/// The session's timeouts and what is being timed.
#[derive(Debug)]
pub(super) struct Timeouts {
    at_start: Values,
    /// Outside of transactions.
    session: Values,
    /// Now, with what the transaction has set.
    now: Values,
    timed: Timed,
    pub(super) alarm: Alarm,
    /// After how long a statement is struck the next time.
    again: Duration,
    /// A cancel that is under way; gives whether it is certain that none of its signals can come any more.
    striking: Option<JoinHandle<bool>>,
    /// Counts the statements that were timed: a strike is for one of them.
    statement: Arc<AtomicU64>,
    /// One was, and what it ended may still have to be read.
    struck: bool,
}

impl Timeouts {
    pub(super) fn new(at_start: Values) -> Timeouts {
        Timeouts {
            at_start,
            session: at_start,
            now: at_start,
            timed: Timed::Nothing,
            alarm: Alarm::default(),
            again: AGAIN,
            striking: None,
            statement: Arc::default(),
            struck: false,
        }
    }

    /// All is as it was at the start.
    pub(super) fn clear(&mut self) {
        self.session = self.at_start;
        self.now = self.at_start;
    }

    /// What this step of a committed transaction sets is the session's.
    pub(super) fn keep(&mut self, step: &Step) {
        if !matches!(step, Step::Timeout { local: true, .. }) {
            apply(&mut self.session, self.at_start, step);
        }
    }

    /// The values as a transaction sees them.
    pub(super) fn see(&mut self, transaction: Option<&Transaction>) {
        self.now = self.session;
        for step in transaction.iter().flat_map(|t| &t.script) {
            apply(&mut self.now, self.at_start, step);
        }
    }

    /// A statement begins, unless one runs; it may be the rest of one.
    pub(super) fn begin(&mut self) {
        if !matches!(self.timed, Timed::Statement(_)) {
            self.restart();
        }
    }

    /// A statement begins.
    pub(super) fn restart(&mut self) {
        self.time_since(Instant::now());
    }

    /// Since when the statement runs that is timed.
    pub(super) fn since(&self) -> Option<Instant> {
        match self.timed {
            Timed::Statement(since) => Some(since),
            Timed::Nothing | Timed::Idle(_) => None,
        }
    }

    /// A statement that was timed since then goes on, after a transaction of its own has ended.
    pub(super) fn go_on(&mut self, since: Option<Instant>) {
        if let Some(since) = since {
            self.time_since(since);
        }
    }

    fn time_since(&mut self, since: Instant) {
        let limits = [Timeout::Statement, Timeout::Lock].map(|timeout| self.now.get(timeout));
        let Some(first) = limits.into_iter().flatten().min() else {
            self.end();
            return;
        };
        self.statement.fetch_add(1, Ordering::Relaxed);
        self.timed = Timed::Statement(since);
        self.again = AGAIN;
        self.alarm.set(since.checked_add(first));
    }

    /// Nothing is timed any more.
    pub(super) fn end(&mut self) {
        self.statement.fetch_add(1, Ordering::Relaxed);
        self.timed = Timed::Nothing;
        self.alarm.set(None);
    }

    /// The client has the word.
    fn rest(&mut self, status: TransactionStatus) {
        let idle = match status {
            TransactionStatus::Idle => Timeout::IdleSession,
            TransactionStatus::InBlock | TransactionStatus::Failed => Timeout::IdleInTransaction,
        };
        if self.timed != Timed::Idle(idle) {
            self.timed = Timed::Idle(idle);
            let due = self
                .now
                .get(idle)
                .and_then(|limit| Instant::now().checked_add(limit));
            self.alarm.set(due);
        }
    }

    /// The client has said something.
    pub(super) fn wake(&mut self) {
        if let Timed::Idle(_) = self.timed {
            self.end();
        }
    }

    fn times_a_statement(&self) -> bool {
        matches!(self.timed, Timed::Statement(_))
    }

    /// What is left of the statement's time; `None` where it has no end.
    pub(super) fn left(&self) -> Option<Duration> {
        match (self.timed, self.now.get(Timeout::Statement)) {
            (Timed::Statement(since), Some(limit)) => Some(limit.saturating_sub(since.elapsed())),
            _ => None,
        }
    }
}

fn apply(values: &mut Values, at_start: Values, step: &Step) {
    match step {
        Step::Timeout { timeout, value, .. } => values.set(*timeout, *value),
        // RESET ALL.
        Step::Set { name: None, .. } => *values = at_start,
        _ => {}
    }
}

impl Session {
    /// SET or RESET of a timeout; a value of `None` is the one of the start.
    pub(super) fn set_timeout(&mut self, timeout: Timeout, value: Option<Duration>, local: bool) {
        let timeouts = &mut self.timeouts;
        let value = value.unwrap_or(timeouts.at_start.0[timeout as usize]);
        match &mut self.transaction {
            Some(transaction) => {
                transaction.script.push(Step::Timeout {
                    timeout,
                    value,
                    local,
                });
                timeouts.now.set(timeout, value);
            }
            None if local => {
                let words = "SET LOCAL can only be used in transaction blocks";
                encode::warning(&mut self.client.output, "25P01", words);
            }
            None => {
                timeouts.session.set(timeout, value);
                timeouts.now.set(timeout, value);
            }
        }
    }

    /// A timeout's value, as SHOW gives it.
    pub(super) fn shown_timeout(&self, timeout: Timeout) -> String {
        crate::analysis::shown_timeout(self.timeouts.now.0[timeout as usize])
    }

    /// The client has sent a part of a statement.
    pub(super) async fn begin_timing(&mut self) {
        if self.timeouts.struck || self.timeouts.striking.is_some() {
            self.stricken().await;
            if !self.is_owed() {
                self.timeouts.struck = false;
                self.entered.session.cancels().forget_timeouts();
            }
        }
        if self.is_owed() {
            self.timeouts.begin();
        } else {
            self.timeouts.restart();
        }
    }

    /// An answer to the client has ended a statement.
    pub(super) fn completed(&mut self, place: usize) {
        if !self.timeouts.times_a_statement() {
            return;
        }
        let commits_only = |due: &super::conn::Expect| due.kind == super::conn::Kind::Sync;
        let conn = self.slots[place].as_ref();
        if conn.is_some_and(|conn| !conn.expect.iter().all(commits_only)) {
            self.timeouts.restart();
        } else {
            self.timeouts.end();
        }
    }

    /// The session is about to wait for its client.
    pub(super) fn time_the_client(&mut self) {
        if !self.is_owed() {
            self.timeouts.rest(self.status());
        } else if self.timeouts.now.get(Timeout::IdleInTransaction).is_some() && self.lacks_its_sync() {
            // To PostgreSQL such a client is at work. Here it has backends that others wait for.
            self.timeouts.rest(TransactionStatus::InBlock);
        }
    }

    /// Whether all is answered that the client has sent of a pipeline.
    fn lacks_its_sync(&self) -> bool {
        let owes = |conn: &Conn| !conn.expect.is_empty();
        self.copy.is_none() && !self.slots.iter().flatten().any(owes)
    }

    /// Whether a backend owes answers, or the client the rest of what it has begun.
    pub(super) fn is_owed(&self) -> bool {
        let owes = |conn: &Conn| !conn.expect.is_empty() || conn.unsynced;
        self.copy.is_some()
            || self.told.skip
            || !self.pipeline.touched.is_empty()
            || self.statements.held.is_some()
            || self
                .current
                .and_then(|place| self.slots[place].as_ref())
                .is_some_and(owes)
    }

    /// Waits until a cancel of ours is answered: what is sent next is not met by it.
    pub(super) async fn stricken(&mut self) {
        if let Some(striking) = self.timeouts.striking.take() {
            self.timeouts.struck |= striking.await.unwrap_or(false);
        }
    }

    /// Whether a cancel of ours may still be sent.
    pub(super) fn is_striking(&self) -> bool {
        let striking = self.timeouts.striking.as_ref();
        striking.is_some_and(|striking| !striking.is_finished())
    }

    /// Nothing more of a statement is begun when its time is up.
    pub(super) async fn in_time(&mut self) -> Result<(), Halt> {
        self.stricken().await;
        if self.timeouts.left() == Some(Duration::ZERO) {
            self.timeouts.end();
            return Err(Failure::StatementTimeout.into());
        }
        Ok(())
    }

    /// The alarm rings.
    pub(super) fn rang(&mut self) -> Result<(), Ended> {
        let since = match self.timeouts.timed {
            Timed::Nothing => return Ok(()),
            Timed::Idle(Timeout::IdleInTransaction) => return Err(Ended::Fatal(Failure::IdleInTransaction)),
            Timed::Idle(_) => return Err(Ended::Fatal(Failure::IdleSession)),
            Timed::Statement(since) => since,
        };
        let owes = |conn: &Conn| !conn.expect.is_empty();
        if self.copy.is_none() && !self.slots.iter().flatten().any(owes) {
            // The client has not sent all of it. PostgreSQL, too, ignores its timer then.
            self.timeouts.end();
            return Ok(());
        }
        let now = Instant::now();
        let end = self
            .timeouts
            .now
            .get(Timeout::Statement)
            .and_then(|limit| since.checked_add(limit));
        let lock = self.timeouts.now.get(Timeout::Lock);
        let next = if end.is_some_and(|end| end <= now) {
            self.strike(Strike::Statement);
            let again = self.timeouts.again;
            self.timeouts.again = again * 2;
            now.checked_add(again)
        } else {
            if let Some(limit) = lock {
                self.strike(Strike::Lock(limit));
            }
            // The wait may begin at any time.
            let look = lock.and_then(|limit| now.checked_add((limit / 4).max(EARLY)));
            look.into_iter().chain(end).min()
        };
        self.timeouts.alarm.set(next);
        Ok(())
    }

    /// Has what the session does cancelled, in a task of its own: its answers are read meanwhile.
    fn strike(&mut self, strike: Strike) {
        if self.is_striking() {
            return;
        }
        let targets = self.entered.session.targets();
        if targets.is_empty() {
            return;
        }
        let (shared, cancels) = (Arc::clone(&self.shared), self.entered.session.cancels());
        let statement = Arc::clone(&self.timeouts.statement);
        let meant = statement.load(Ordering::Relaxed);
        self.timeouts.striking = Some(tokio::spawn(async move {
            let mut certain = true;
            for target in targets {
                let look = || shared.waits.of(target.group, target.process_id, PATIENCE);
                let mut waiting = look().await;
                if let (Strike::Lock(limit), Some(Waiting::Lock(waits))) = (strike, waiting)
                    && waits < limit
                    && limit - waits <= EARLY
                {
                    tokio::time::sleep(limit - waits).await;
                    waiting = look().await;
                }
                // A group that does not say is asked again at the next ring.
                let Some(reason) = waiting.and_then(|waiting| strike.meets(waiting)) else {
                    continue;
                };
                if statement.load(Ordering::Relaxed) != meant {
                    // It is over, and what runs now has its own time.
                    break;
                }
                let under_way = cancels.begin(reason);
                if let Err(error) = target.cancel(&*shared.groups).await {
                    tracing::info!(%error, "a statement that takes too long could not be cancelled");
                    under_way.lost();
                    certain = false;
                }
            }
            certain
        }));
    }
}

/// Which statements are cancelled.
#[derive(Clone, Copy, Debug)]
enum Strike {
    Statement,
    /// One that waits for a lock for so long.
    Lock(Duration),
}

impl Strike {
    fn meets(self, waiting: Waiting) -> Option<Reason> {
        match (self, waiting) {
            // Its commit is written: nobody can take it back, and its wait is not cut short.
            (_, Waiting::Replication) => None,
            (Strike::Statement, _) => Some(Reason::StatementTimeout),
            (Strike::Lock(limit), Waiting::Lock(waits)) if waits >= limit => Some(Reason::LockTimeout),
            (Strike::Lock(_), _) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(name: &str, value: &str) -> (Vec<u8>, Vec<u8>) {
        (name.as_bytes().to_vec(), value.as_bytes().to_vec())
    }

    #[test]
    fn backends_are_told_of_no_timeout() {
        let mut parameters = vec![
            text(
                "options",
                "-c statement_timeout=7s --lock-timeout=3s -c work_mem=1MB",
            ),
            text("Statement_Timeout", "9s"),
            text("application_name", "a"),
        ];
        let values = Values::of_startup(&mut parameters).expect("good values");
        assert_eq!(values.get(Timeout::Statement), Some(Duration::from_secs(9)));
        assert_eq!(values.get(Timeout::Lock), Some(Duration::from_secs(3)));
        assert_eq!(values.get(Timeout::IdleSession), None);
        let off = Timeout::ALL.map(|timeout| text(timeout.name(), "0"));
        assert_eq!(parameters[1], text("application_name", "a"));
        assert_eq!(parameters[2..], off, "and these come after the options");
    }

    #[test]
    fn what_a_transaction_sets_is_kept_as_far_as_it_is_not_local() {
        let mut timeouts = Timeouts::new(Values::default());
        let seconds = Duration::from_secs;
        let set = |value, local| Step::Timeout {
            timeout: Timeout::Statement,
            value,
            local,
        };
        let mut transaction = Transaction::new("BEGIN", crate::analysis::TransactionModes::default());
        transaction.script = vec![set(seconds(1), false), set(seconds(2), true)];
        timeouts.see(Some(&transaction));
        assert_eq!(timeouts.now.get(Timeout::Statement), Some(seconds(2)));
        transaction.script.iter().for_each(|step| timeouts.keep(step));
        timeouts.see(None);
        assert_eq!(timeouts.now.get(Timeout::Statement), Some(seconds(1)));
        let all = Step::Set {
            name: None,
            sql: "RESET ALL".to_owned(),
            local: false,
        };
        timeouts.keep(&all);
        timeouts.see(None);
        assert_eq!(timeouts.now, Values::default());
    }
}
