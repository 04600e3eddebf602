//! Making a group's backend ready for the next statement: connected, with the session's settings, in
//! its transaction; and waiting for what backends owe.

use super::captured::Captured;
use super::conn::{Audience, Conn, Kind, Stake};
use super::home::HOME;
use super::io::{self, Event, Wait};
use super::settings::Undone;
use super::transaction::{
    Participant, Step, Transaction, View, Why, held_elsewhere, second_snapshot, strength,
};
use super::{Session, relay};
use crate::analysis::{Access, Isolation, TransactionModes};
use crate::failure::{Ended, Failure, Halt};
use crate::protocol::encode::{self, TransactionStatus};

/// Which protocol the messages are of that follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Style {
    Simple,
    Extended,
}

impl Session {
    /// Makes the backend of a group the current one and ready for a statement with this access.
    pub(super) async fn enter(&mut self, place: usize, access: Access, style: Style) -> Result<(), Halt> {
        self.enter_bare(place).await?;
        self.admit(place, access, style).await?;
        // `admit` may have asked another participant.
        self.enter_bare(place).await?;
        self.engage(place, access, style).await
    }

    /// As [`Session::enter`], outside of the transaction.
    pub(super) async fn enter_bare(&mut self, place: usize) -> Result<(), Halt> {
        self.enter_undoing(place, Undone::Nothing).await
    }

    /// As [`Session::enter_bare`], for a statement that undoes these settings.
    pub(super) async fn enter_undoing(&mut self, place: usize, undone: Undone<'_>) -> Result<(), Halt> {
        self.in_time().await?;
        self.stop_if_lost()?;
        let patience = self.shared.limits.leader_wait;
        if self.current != Some(place) {
            self.settle().await?;
            self.current = None;
            self.look_after(place).await?;
            if self.slots[place].is_none() {
                self.open(place, patience).await?;
            }
            self.current = Some(place);
            let target = self.slots[place].as_ref().map(Conn::target);
            self.entered.session.aim(target);
        }
        if self.slots[place].is_none() {
            self.open(place, patience).await?;
            let target = self.slots[place].as_ref().map(Conn::target);
            self.entered.session.aim(target);
        }
        self.note_holder(place);
        let latest = self.settings.latest();
        if self.slots[place]
            .as_ref()
            .is_some_and(|conn| conn.reset_due || conn.settings_seen != latest)
            && !self.engaged(place)
        {
            self.replay_settings(place, undone).await?;
        }
        Ok(())
    }

    /// The group for a statement that may run on any: one that works for the session already, else its
    /// nearest one; another one takes over when that one has no leader.
    pub(super) async fn any_place(&mut self) -> Result<usize, Halt> {
        if let Some(place) = self.working_place() {
            return Ok(place);
        }
        if self.temporary.any() {
            // It is there, and knows their names.
            return Ok(HOME);
        }
        if self.current == Some(self.nearest) && self.slots[self.nearest].is_some() {
            return Ok(self.nearest);
        }
        self.settle().await?;
        self.look_after(self.nearest).await?;
        if self.slots[self.nearest].is_some() {
            return Ok(self.nearest);
        }
        let patience = self.shared.limits.leader_wait;
        let nearest = self.nearest;
        let Err(first) = self.open(nearest, patience).await else {
            return Ok(nearest);
        };
        if !matches!(first, Halt::Fail(Failure::Connect(_) | Failure::Broken { .. })) {
            return Err(first);
        }
        for place in (0..self.slots.len()).filter(|place| *place != nearest) {
            if self.slots[place].is_some() || self.open(place, patience / 10).await.is_ok() {
                self.nearest = place;
                return Ok(place);
            }
        }
        Err(first)
    }

    /// The group that the session works with, where it has begun to.
    pub(super) fn working_place(&self) -> Option<usize> {
        if self.temporary.any() && self.engaged(HOME) {
            return Some(HOME);
        }
        let working = self.transaction.as_ref().and_then(Transaction::preferred);
        working.or(self.pipeline.touched.first().copied())
    }

    /// Lets go of an idle backend whose connection has ended in the meantime.
    async fn look_after(&mut self, place: usize) -> Result<(), Ended> {
        let idle = !self.engaged(place);
        if let Some(conn) = self.slots[place]
            .as_mut()
            .filter(|conn| idle && conn.expect.is_empty())
            && !io::still_there(conn).await
        {
            self.broke(place, "it was closed while idle")?;
        }
        Ok(())
    }

    /// Whether the backend at `place` is within a transaction of the session.
    pub(super) fn engaged(&self, place: usize) -> bool {
        self.pipeline.touched.contains(&place)
            || self.transaction.as_ref().is_some_and(|t| t.participates(place))
    }

    /// Whether the transaction, or the pipeline, may use this group so.
    async fn admit(&mut self, place: usize, access: Access, style: Style) -> Result<(), Halt> {
        if self.transaction.is_none() && style == Style::Extended && access != Access::Read {
            if self.pipeline.writer.is_none_or(|writer| writer == place) {
                self.pipeline.writer = Some(place);
                self.pipeline.wrote |= access != Access::Announce;
                if matches!(access, Access::Write | Access::Announce) {
                    self.pipeline.stake = Stake::Commit;
                }
            } else {
                self.open_pipeline_transaction().await?;
            }
        }
        self.check_held(place, access, place == HOME && self.temporary.any())?;
        if matches!(access, Access::Take | Access::Announce) {
            // It needs no snapshot.
            return Ok(());
        }
        self.see_other_groups(place)
    }

    /// Whether the transaction could still be prepared where it has to be, if it did this.
    pub(super) fn check_held(&self, place: usize, access: Access, declares: bool) -> Result<(), Halt> {
        let transaction = self.transaction.as_ref();
        match transaction.and_then(|t| t.holds_elsewhere(place, access, declares)) {
            Some(other) => Err(held_elsewhere(self.group(other), self.group(place)).into()),
            None => Ok(()),
        }
    }

    /// Whether the transaction may look at another group than those that it has used.
    fn see_other_groups(&self, place: usize) -> Result<(), Halt> {
        if let Some(transaction) = &self.transaction
            && let Some(View::OneGroup(why)) = &transaction.view
            && let Some(other) = transaction.other_touched(place)
        {
            return Err(second_snapshot(why, self.group(other), self.group(place)).into());
        }
        Ok(())
    }

    /// A pipeline goes on to write on a second group: its implicit transaction becomes one of ours, which ends with its
    /// Sync. BEGIN in the middle of a pipeline makes what came before a part of the block (`BeginTransactionBlock` in
    /// xact.c, TBLOCK_STARTED).
    pub(super) async fn open_pipeline_transaction(&mut self) -> Result<(), Halt> {
        let mut transaction = Transaction::new("BEGIN", TransactionModes::default());
        transaction.implicit = true;
        transaction.began = self.pipeline.began.unwrap_or(transaction.began);
        transaction.anchor = self.pipeline.anchor.take();
        transaction.announces = std::mem::take(&mut self.pipeline.announces);
        let wrote = std::mem::take(&mut self.pipeline.wrote);
        let writer = self.pipeline.writer.take().filter(|_| wrote);
        if let Some(first) = self.pipeline.touched.first().copied() {
            // The snapshot of what came before is one of its group alone.
            self.enter_bare(first).await?;
            transaction.view = Some(match self.default_isolation(first).await? {
                Isolation::ReadCommitted => View::Statements,
                _ => View::OneGroup(Why::Late),
            });
        }
        for place in self.pipeline.touched.clone() {
            self.enter_bare(place).await?;
            if let Some(conn) = &mut self.slots[place] {
                conn.begun_since = true;
                conn.own("BEGIN", None, Audience::Silent);
            }
            self.settle().await?;
            transaction.participants.push(Participant {
                place,
                touched: true,
                wrote: writer == Some(place),
            });
        }
        self.transaction = Some(transaction);
        self.note_members();
        if self.pipeline.touched.contains(&HOME) {
            self.note_unprepared(HOME);
        }
        Ok(())
    }

    /// The level of a transaction that names none, by the session's settings. The backend at `place` is the current one.
    pub(super) async fn default_isolation(&mut self, place: usize) -> Result<Isolation, Halt> {
        let latest = self.settings.latest();
        if let Some((_, known)) = self.default_isolation.filter(|(at, _)| *at == latest) {
            return Ok(known);
        }
        let value = self
            .ask(place, "SHOW default_transaction_isolation", None)
            .await?;
        let value = value.as_deref().map(String::from_utf8_lossy).unwrap_or_default();
        let isolation = Isolation::shown(&value);
        self.default_isolation = Some((latest, isolation));
        Ok(isolation)
    }

    /// Decides what the transaction sees, before its first group joins, whose backend is the current one.
    async fn choose_view(&mut self, place: usize) -> Result<(), Halt> {
        let Some(transaction) = self.transaction.as_ref().filter(|t| t.view.is_none()) else {
            return Ok(());
        };
        let (named, read_only) = (transaction.isolation, transaction.read_only);
        let view = if self.slots.len() == 1 {
            View::Statements
        } else {
            let isolation = match named {
                Some(isolation) => isolation,
                None => self.default_isolation(place).await?,
            };
            match strength(isolation, read_only) {
                Err(view) => view,
                Ok(strength) => match self.shared.cuts.cut(&self.database_name(), strength).await {
                    Ok(cut) => View::Cut(cut),
                    // One group can go on alone.
                    Err(error) => View::OneGroup(Why::NoCut(error)),
                },
            }
        };
        if let Some(transaction) = &mut self.transaction {
            transaction.view = Some(view);
        }
        Ok(())
    }

    /// Lets the backend join the transaction, if there is one and it has not.
    pub(super) async fn join(&mut self, place: usize) -> Result<(), Halt> {
        self.choose_view(place).await?;
        let group = self.group(place);
        let Some(conn) = &mut self.slots[place] else {
            return Ok(());
        };
        let Some(transaction) = self.transaction.as_mut().filter(|t| !t.participates(place)) else {
            return Ok(());
        };
        let outlives = |step: &Step| matches!(step, Step::Set { local: false, .. });
        conn.dirty |= transaction.script.iter().any(outlives);
        // If this fails, PostgreSQL skips what follows up to the next Sync: the client's statement
        // cannot run outside of its transaction.
        conn.begun_since = true;
        conn.own(&transaction.begin, None, Audience::Silent);
        let mut import = match &transaction.view {
            Some(View::Cut(cut)) => cut.import(group),
            _ => Vec::new(),
        };
        for step in &transaction.script {
            // The level comes before the snapshot, and the snapshot before a savepoint.
            if !matches!(step, Step::Modes(_)) {
                for sql in import.drain(..) {
                    conn.import(&sql);
                }
            }
            if let Some(sql) = step.sql() {
                conn.own(&sql, None, Audience::Silent);
            }
        }
        for sql in import {
            conn.import(&sql);
        }
        transaction.participants.push(Participant {
            place,
            touched: false,
            wrote: false,
        });
        self.note_members();
        Ok(())
    }

    /// Tells others which backends work for the transaction.
    fn note_members(&self) {
        let members = self.transaction.iter().flat_map(|t| &t.participants);
        let members = members.map(|member| member.place);
        // Others may wait for what it has at home, too.
        let holds = self.at_home.held_at().filter(|place| !self.engaged(*place));
        let targets = members
            .chain(holds)
            .filter_map(|place| self.slots[place].as_ref().map(Conn::target));
        self.entered.session.works_on(targets);
    }

    /// Lets the backend join and notes what the client's next statement does there.
    async fn engage(&mut self, place: usize, access: Access, style: Style) -> Result<(), Halt> {
        self.join(place).await?;
        if let Some(transaction) = &mut self.transaction {
            transaction.use_at(place, access);
        }
        self.note_unprepared(place);
        let Some(conn) = &mut self.slots[place] else {
            return Ok(());
        };
        if style == Style::Extended && !conn.unsynced {
            conn.unsynced = true;
            if !self.pipeline.touched.contains(&place) {
                self.pipeline.touched.push(place);
            }
        }
        Ok(())
    }

    /// Waits until nothing is owed.
    ///
    /// # Errors
    /// [`Halt::Skip`] when an error has come that makes the client's messages skipped until Sync.
    pub(super) async fn settle(&mut self) -> Result<(), Halt> {
        if let Some(place) = self.current {
            self.drain(place).await?;
        }
        if self.told.skip { Err(Halt::Skip) } else { Ok(()) }
    }

    /// Waits until the backend owes nothing.
    pub(super) async fn drain(&mut self, place: usize) -> Result<(), Ended> {
        if let Some(conn) = &mut self.slots[place]
            && let Some(last) = conn.expect.back()
            && !matches!(last.kind, Kind::Query | Kind::Sync)
        {
            encode::empty(&mut conn.output, b'H');
        }
        while self.slots[place]
            .as_ref()
            .is_some_and(|conn| !conn.expect.is_empty())
        {
            if self.told.copy_in {
                // The client's CopyData come next; until then the answer cannot end.
                return Ok(());
            }
            self.answers(place).await?;
        }
        Ok(())
    }

    /// Waits for the next answers of a backend, and passes them on.
    pub(super) async fn answers(&mut self, place: usize) -> Result<(), Ended> {
        let alarm = &mut self.timeouts.alarm;
        let wait = Wait::Answers;
        match io::turn(&mut self.client, &mut self.slots, alarm, Some(place), wait).await {
            Event::Backend => self.relayed(place),
            Event::Broken(place, why) => self.broke(place, &why),
            Event::Alarm => self.rang(),
            Event::ClientGone => Err(Ended::ByClient),
            Event::Asked => self.stop_if_killed(),
            Event::Client | Event::Written => Ok(()),
        }
    }

    /// Waits until some output has gone out, or an answer has come.
    pub(super) async fn written(&mut self, place: usize) -> Result<(), Ended> {
        let alarm = &mut self.timeouts.alarm;
        let wait = Wait::Written;
        match io::turn(&mut self.client, &mut self.slots, alarm, Some(place), wait).await {
            Event::Backend => self.relayed(place),
            Event::Broken(place, why) => self.broke(place, &why),
            Event::Alarm => self.rang(),
            Event::ClientGone => Err(Ended::ByClient),
            Event::Asked => self.stop_if_killed(),
            Event::Client | Event::Written => Ok(()),
        }
    }

    /// Something has arrived from a backend.
    pub(super) fn relayed(&mut self, place: usize) -> Result<(), Ended> {
        let Some(conn) = &mut self.slots[place] else {
            return Ok(());
        };
        let max = self.shared.limits.max_message;
        if let Err(error) = relay::relay(conn, &mut self.client.output, &mut self.told, max) {
            tracing::warn!(group = %conn.group, %error, "a backend broke the protocol");
            return self.broke(place, &error.to_string());
        }
        if std::mem::take(&mut self.told.completed) {
            self.completed(place);
        }
        if std::mem::take(&mut self.told.error) {
            self.timeouts.end();
            if let Some(transaction) = &mut self.transaction {
                transaction.failed = true;
            }
            if self.told.skip {
                self.drop_held();
            }
        }
        let Some(conn) = &mut self.slots[place] else {
            return Ok(());
        };
        // Only what has just been said counts: a transaction may have been begun here since.
        let clients = std::mem::take(&mut conn.status_is_clients);
        if clients && conn.expect.is_empty() && !conn.unsynced {
            let status = conn.status;
            self.follow(place, status);
        }
        Ok(())
    }

    /// A statement of the client may have begun or ended a transaction without our noticing before.
    fn follow(&mut self, place: usize, status: TransactionStatus) {
        match (&self.transaction, status) {
            (None, TransactionStatus::InBlock) => self.transaction = Some(Transaction::adopted(place, false)),
            (None, TransactionStatus::Failed) => self.transaction = Some(Transaction::adopted(place, true)),
            (Some(t), TransactionStatus::Idle) if t.participates(place) => {
                tracing::debug!("a transaction ended by itself");
                self.end_transaction();
            }
            _ => {}
        }
    }

    /// The connection to a backend has ended.
    pub(super) fn broke(&mut self, place: usize, why: &str) -> Result<(), Ended> {
        let Some(conn) = self.slots[place].take() else {
            return Ok(());
        };
        tracing::debug!(group = %conn.group, why, owed = conn.expect.len(), "a backend is gone");
        if conn.passing.0 > 0 && conn.passing.1 {
            // The client holds a part of a message: nothing that follows could be told from its rest.
            return Err(Ended::ByClient);
        }
        if self.current == Some(place) {
            self.current = None;
            self.entered.session.aim(None);
        }
        self.lose_home(place, why);
        self.pipeline.touched.retain(|touched| *touched != place);
        self.told.copy_in = false;
        self.cursors.retain(|_, cursor| !cursor.is_at(place));
        let engaged = self.transaction.as_ref().is_some_and(|t| t.participates(place));
        if let Some(transaction) = self.transaction.as_mut().filter(|_| engaged) {
            transaction.lose(place);
        }
        let status = self.status();
        let unanswered = relay::answer_for(&conn, why, status, &mut self.client.output);
        if unanswered.skip {
            self.told.skip = true;
            self.drop_held();
        }
        if let Some(transaction) = self.transaction.as_mut().filter(|_| engaged)
            && unanswered.ended == 0
            && !unanswered.skip
        {
            transaction.untold = Some(conn.broken(why.to_owned()));
        }
        self.last_break = why.to_owned();
        Ok(())
    }

    /// Runs a statement of our own and waits for its answer.
    ///
    /// # Errors
    /// With PostgreSQL's error, or the end of the connection.
    pub(super) async fn exec(
        &mut self,
        place: usize,
        sql: &str,
        audience: Audience,
        stake: Stake,
    ) -> Result<Captured, Halt> {
        let group = self.group(place);
        if let Some(conn) = &mut self.slots[place] {
            conn.captured = Captured::default();
            conn.query(sql, audience, stake);
        }
        self.drain(place).await?;
        self.take_captured(place, group, stake)
    }

    /// Asks for one value by a statement of our own, which may stand in the middle of the client's
    /// pipeline. The backend is the current one.
    pub(super) async fn ask(
        &mut self,
        place: usize,
        sql: &str,
        bound: Option<encode::Bound<'_>>,
    ) -> Result<Option<bytes::Bytes>, Halt> {
        self.settle().await?;
        let group = self.group(place);
        if let Some(conn) = &mut self.slots[place] {
            conn.captured = Captured::default();
            conn.own(sql, bound, Audience::Quiet);
            if !conn.unsynced {
                conn.sync(Audience::Quiet, Stake::Nothing);
            }
        }
        self.drain(place).await?;
        Ok(self.take_captured(place, group, Stake::Nothing)?.value)
    }

    /// What a drained backend said to the session itself.
    pub(super) fn take_captured(
        &mut self,
        place: usize,
        group: shard::id::GroupId,
        stake: Stake,
    ) -> Result<Captured, Halt> {
        let Some(conn) = &mut self.slots[place] else {
            let why = std::mem::take(&mut self.last_break);
            let failure = match stake {
                Stake::Nothing => Failure::Broken { group, why },
                Stake::Commit => Failure::CommitBroken { group, why },
            };
            // Told now, by this error.
            if let Some(transaction) = &mut self.transaction {
                transaction.untold = None;
            }
            return Err(Halt::Fail(failure));
        };
        let mut captured = std::mem::take(&mut conn.captured);
        match captured.error.take() {
            Some(error) => Err(Halt::Fail(error)),
            None => Ok(captured),
        }
    }
}
