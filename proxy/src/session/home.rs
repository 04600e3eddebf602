//! What a session has that belongs to no row: it lies in the session's home group, the first group of the cluster, which is the
//! same for all sessions of all nodes. There it keeps its backend ([`Session::pin_of`]). Temporary tables are in `temporary`.
//!
//! **Advisory locks.** A session that is told that it has one has it alone. The answer passes the gate, which lets it out only
//! while its leader has the lease: no other leader can have given the lock to another session then, as its own gate was not open.
//! A leader that comes later knows nothing of the lock. When the former one's gate closes, or this node hears of another leader,
//! the connection ends, and with it the session (57P01): it does not go on as if it had the lock. Between the end of the lease
//! and that moment it can do something elsewhere, though, as anyone can who holds a lock that can be lost. So where it matters
//! the locks are taken in the transaction that writes: the home group then is the anchor of its commit (`two_phase`), and a
//! transaction whose locks are gone does not commit. What it has locked is let go when all of it is visible
//! ([`Session::keep_locks`]).
//!
//! **LISTEN and NOTIFY.** All notifications pass through the home group, in the order of their transactions' commits there. A
//! listener hears one when its transaction is no longer in progress there (`asyncQueueProcessPageEntries` in async.c), so after
//! its commit is replicated, if it has written anything (`RecordTransactionCommit` in xact.c): nothing is heard that could be lost. What only tells, or will be told, commits after all other parts
//! of its transaction: so who hears of it sees them ([`Session::announce`]). When the home group fails over all listeners'
//! connections end, as with a server that restarts, so that they know that they may have missed something.
//!
//! What is there is never counted here: whenever a statement may have changed it PostgreSQL is asked, and until it has answered
//! the backend is kept.

use super::conn::{Audience, Stake};
use super::pool::Stay;
use super::{Session, TransactionStatus};
use crate::analysis::{Access, HomeUse};
use crate::failure::{Ended, Failure, Halt};
use crate::registry::{Pin, Pins};

/// The home group's place.
pub(super) const HOME: usize = 0;

/// Whether the backend has advisory locks outside of a transaction (1), and whether it listens (2).
const LOOK: &str = "SELECT (EXISTS (SELECT FROM pg_catalog.pg_locks \
                    WHERE locktype = 'advisory' AND pid = pg_catalog.pg_backend_pid()))::int \
                    + 2 * (EXISTS (SELECT FROM pg_catalog.pg_listening_channels()))::int";

/// What a session has at home, beyond its transaction.
#[derive(Debug, Default)]
pub(super) struct AtHome {
    /// Something may have changed since PostgreSQL was asked.
    unsure: bool,
    /// It has advisory locks.
    locks: bool,
    /// It listens.
    listens: bool,
    /// It was told to listen since it had nothing there.
    listened: bool,
    /// The right to keep something there, temporary tables too: not all backends of a node may be kept so.
    permit: Option<Stay>,
    /// Why the connection ended, when something was there, or temporary tables.
    lost: Option<String>,
}

impl AtHome {
    /// Whether something is there, or may be.
    pub(super) fn is_there(&self) -> bool {
        self.unsure || self.locks || self.listens
    }

    /// Whether it listens; before PostgreSQL has said so, whether it was told to.
    fn may_listen(&self) -> bool {
        self.listens || self.unsure && self.listened
    }

    /// Where others may wait for the session whatever it does.
    pub(super) fn held_at(&self) -> Option<usize> {
        self.locks.then_some(HOME)
    }

    /// Why the backend is kept.
    pub(super) fn pin(&self) -> Option<Pin> {
        let pin = if self.listens {
            Pin::Listen
        } else {
            Pin::AdvisoryLock
        };
        self.is_there().then_some(pin)
    }

    /// With all reasons why the backend is kept.
    pub(super) fn pins(&self, pins: Pins) -> Pins {
        pins.with(Pin::AdvisoryLock, self.locks)
            .with(Pin::Listen, self.listens)
    }

    /// Something that is about to run there may change what is there.
    pub(super) fn disturb(&mut self) {
        self.unsure |= self.is_there();
    }

    fn leave(&mut self) {
        *self = AtHome {
            permit: self.permit.take(),
            lost: self.lost.take(),
            ..AtHome::default()
        };
    }
}

impl Session {
    /// Where a statement runs that has this to do with the home group. What it needs for that is seen to.
    pub(super) async fn place_at_home(&mut self, used: HomeUse) -> Result<usize, Halt> {
        match used {
            HomeUse::Looks | HomeUse::Unlistens if !self.at_home.is_there() => return self.any_place().await,
            HomeUse::Looks => self.at_home.unsure = true,
            HomeUse::Reference => return Ok(self.working_place().unwrap_or(HOME)),
            HomeUse::Temporary | HomeUse::Asks => {}
            HomeUse::Notifies | HomeUse::LocksForTransaction => self.anchor_at_home(used.access())?,
            HomeUse::Unlistens => {
                self.anchor_at_home(used.access())?;
                self.at_home.unsure = true;
            }
            HomeUse::Listens | HomeUse::LocksForSession => {
                self.anchor_at_home(used.access())?;
                self.at_home.listened |= used == HomeUse::Listens;
                self.stay_at_home()?;
                self.at_home.unsure = true;
            }
        }
        Ok(HOME)
    }

    /// Sees to it that the session may keep its backend at home.
    pub(super) fn stay_at_home(&mut self) -> Result<(), Failure> {
        if self.at_home.permit.is_none() {
            self.at_home.permit = Some(self.guest.stay().ok_or(Failure::TooManyStay)?);
        }
        Ok(())
    }

    /// Learns what the session has at home, temporary tables too, when it is about to rest. Ends it where that is lost.
    pub(super) async fn settle_home(&mut self) -> Result<(), Ended> {
        self.settle_temporaries().await?;
        if let Err(Halt::End(ended)) = self.look_home().await {
            return Err(ended);
        }
        if !self.temporary.any() && !self.at_home.is_there() && !self.is_owed() {
            self.at_home.permit = None;
        }
        self.stop_if_lost()
    }

    /// The home group is the anchor of what is open, should that write there and on other groups.
    fn anchor_at_home(&mut self, access: Access) -> Result<(), Halt> {
        self.check_held(HOME, access, true)?;
        match &mut self.transaction {
            Some(transaction) => {
                transaction.anchor = Some(HOME);
                transaction.announces |= access == Access::Announce;
            }
            None => {
                self.pipeline.anchor = Some(HOME);
                self.pipeline.announces |= access == Access::Announce;
            }
        }
        Ok(())
    }

    /// Learns what is at home after something may have changed there, when the session is about to rest.
    async fn look_home(&mut self) -> Result<(), Halt> {
        if !self.at_home.unsure || self.transaction.is_some() || self.is_owed() {
            return Ok(());
        }
        let Some(conn) = &self.slots[HOME] else {
            self.at_home.leave();
            return Ok(());
        };
        if !conn.is_idle() {
            return Ok(());
        }
        let current = self.current.replace(HOME);
        // A cancel is for what was answered before.
        self.entered.session.aim(None);
        self.undisturbed().await;
        let asked = self.exec(HOME, LOOK, Audience::Quiet, Stake::Nothing).await;
        self.current = current.filter(|place| self.slots[*place].is_some());
        self.aim();
        match asked {
            Ok(captured) => self.found_at_home(captured.value.as_deref()),
            Err(Halt::End(ended)) => return Err(ended.into()),
            // It is kept, and asked again.
            Err(halt) => tracing::debug!(?halt, "the home group does not say what a session has there"),
        }
        Ok(())
    }

    /// What PostgreSQL has answered to [`LOOK`].
    fn found_at_home(&mut self, answer: Option<&[u8]>) {
        let (locks, listens) = match answer {
            Some(b"0") => (false, false),
            Some(b"1") => (true, false),
            Some(b"2") => (false, true),
            _ => (true, true),
        };
        if let Some(conn) = &mut self.slots[HOME] {
            conn.listened |= self.at_home.listened;
        }
        if locks || listens {
            self.at_home.unsure = false;
            (self.at_home.locks, self.at_home.listens) = (locks, listens);
        } else {
            self.at_home.leave();
        }
    }

    /// Whether the backend at home is to be heard while the client has the word.
    pub(super) fn hears_home(&self) -> bool {
        self.at_home.is_there() && self.slots[HOME].is_some() && !self.is_owed()
    }

    /// Tells the client what it has been notified of, if it is its turn and it is in no transaction.
    pub(super) fn pass_notifications(&mut self) {
        if self.status() == TransactionStatus::Idle && !self.is_owed() {
            self.told.pass_notifications(&mut self.client.output);
        }
    }

    /// The connection to a backend is lost.
    pub(super) fn lose_home(&mut self, place: usize, why: &str) {
        if place == HOME && (self.at_home.is_there() || self.temporary.any()) {
            self.at_home.lost = Some(why.to_owned());
        }
    }

    /// Nothing more is done for a session that has lost what it had at home: nothing may run as if that had never been.
    pub(super) fn stop_if_lost(&self) -> Result<(), Ended> {
        match &self.at_home.lost {
            None => Ok(()),
            Some(why) => Err(Ended::Fatal(Failure::HomeLost {
                group: self.group(HOME),
                what: match (self.at_home.locks, self.at_home.may_listen()) {
                    _ if self.temporary.any() => "its temporary tables are",
                    (true, true) => "its advisory locks and its LISTEN are",
                    (_, false) => "its advisory locks are",
                    (false, true) => "its LISTEN is",
                },
                why: why.clone(),
            })),
        }
    }

    /// The backends that work for the session are the one at `place` and those where others may wait for it: what deadlocks are
    /// made of. For a session with locks that is in no transaction.
    pub(super) fn note_holder(&self, place: usize) {
        if self.at_home.locks && self.transaction.is_none() && place != HOME {
            let slots = [HOME, place].into_iter().filter_map(|at| self.slots[at].as_ref());
            self.entered.session.works_on(slots.map(super::Conn::target));
        }
    }

    /// The end of [`Session::note_holder`].
    pub(super) fn note_holder_rests(&self) {
        if self.at_home.locks && self.transaction.is_none() && !self.is_owed() {
            self.entered.session.works_no_more();
        }
    }

    /// Commits the part of a transaction that only tells others, or will be told, when the others are visible. `committed` is what
    /// became of them; `alone` if there are none that wrote.
    ///
    /// A crash of this node between the two commits the transaction, and nobody is told: PostgreSQL, too, forgets what it has not
    /// told when it crashes after a commit. Where the leader of the home group is lost instead, all listeners learn it from that.
    pub(super) async fn announce(&mut self, alone: bool, committed: Result<(), Halt>) -> Result<(), Halt> {
        if let Err(halt) = committed {
            self.send(HOME, "ROLLBACK", Audience::Quiet, Stake::Nothing);
            // Its end does the same.
            let _ = self.hear(HOME, Stake::Nothing).await;
            return Err(halt);
        }
        self.send(HOME, "COMMIT", Audience::Session, Stake::Commit);
        let told = match self.hear(HOME, Stake::Commit).await {
            Ok(said) if said.tag.as_deref() == Some("COMMIT") => return Ok(()),
            Ok(_) => Halt::Fail(Failure::TransactionAborted),
            Err(halt) => halt,
        };
        match told {
            Halt::Fail(failure) if !alone => Err(Failure::CommittedUntold {
                why: failure.to_string(),
            }
            .into()),
            halt => Err(halt),
        }
    }

    /// A transaction that is about to commit on several groups, the home group as its anchor, has locks there. The anchor's COMMIT
    /// comes before the others' COMMIT PREPARED, and would let go of them before all is visible to whoever gets them next. So the
    /// session itself gets each of them once more. Whether there are any; then [`Session::release_locks`] is to follow.
    pub(super) async fn keep_locks(&mut self) -> Result<bool, Halt> {
        self.current = Some(HOME);
        self.aim();
        let sql = each_lock("pg_advisory_lock_shared", "pg_advisory_lock");
        let kept = self.exec(HOME, &sql, Audience::Quiet, Stake::Nothing).await?;
        Ok(kept.value.is_some_and(|count| &count[..] != b"0"))
    }

    /// Lets go of each lock once: what [`Session::keep_locks`] has taken.
    pub(super) async fn release_locks(&mut self) {
        let Some(conn) = &self.slots[HOME] else {
            return;
        };
        let sql = each_lock("pg_advisory_unlock_shared", "pg_advisory_unlock");
        let released = if conn.is_idle() {
            self.send(HOME, &sql, Audience::Quiet, Stake::Nothing);
            self.hear(HOME, Stake::Nothing).await.map(drop)
        } else {
            Err(Failure::TransactionAborted.into())
        };
        if released.is_err() {
            // Only its end lets go of them.
            self.close_backend(HOME, "its locks could not be released");
        }
    }
}

/// Calls one of these functions for each advisory lock that the backend has, and counts them. `pg_locks` has a lock once,
/// however often and for whomever it was taken, and its key as `SET_LOCKTAG_INT64` and `SET_LOCKTAG_INT32` in lockfuncs.c have it.
fn each_lock(shared: &str, exclusive: &str) -> String {
    let of_mode = |key: &str| {
        format!(
            "CASE mode WHEN 'ShareLock' THEN pg_catalog.{shared}({key})::text ELSE pg_catalog.{exclusive}({key})::text END"
        )
    };
    let (one, two) = (
        of_mode("(classid::int8 << 32) | objid::int8"),
        of_mode("classid::int8::bit(32)::int4, objid::int8::bit(32)::int4"),
    );
    format!(
        "SELECT pg_catalog.count(CASE objsubid WHEN 1 THEN {one} ELSE {two} END) FROM pg_catalog.pg_locks \
         WHERE locktype = 'advisory' AND pid = pg_catalog.pg_backend_pid() AND granted"
    )
}
