//! Taking backends, and giving them back when nothing of the session is left in them.

use std::time::{Duration, Instant};

use shard::client::ConnectError;
use shard::id::GroupId;

use super::conn::{Audience, Conn, Stake};
use super::home::HOME;
use super::io;
use super::meter::{asked, unless_killed};
use super::pool::{Given, Ticket};
use super::settings::{RESET, Undone};
use super::{Cursor, Session};
use crate::cancel::Rest;
use crate::failure::{Failure, Halt};
use crate::registry::Pin;

/// For how long a session with a ticket and nothing else waits for a group to have a leader, until it stands in line again.
const WITH_TICKET: Duration = Duration::from_millis(250);

impl Session {
    /// Takes a backend for a place that has none, within `patience` for a new one.
    pub(super) async fn open(&mut self, place: usize, patience: Duration) -> Result<(), Halt> {
        self.stop_if_lost()?;
        let group = self.group(place);
        let mut conn = loop {
            let waits = self.meter.client().waits();
            let opened = self.take_backend(place, group, patience).await;
            drop(waits);
            if let Err(Halt::Fail(_)) = &opened {
                self.in_time().await?;
            }
            let mut conn = opened?;
            conn.held = Some(self.meter.client().holds(group, conn.process_id, conn.opened));
            // A PAUSE that came meanwhile has seen no backend of this session.
            if !self.is_held_off() {
                break conn;
            }
            self.ticket = None;
        };
        if self.told.parameters.is_empty() {
            let owned = conn
                .parameters
                .iter()
                .map(|(name, value)| (name.to_vec(), value.to_vec()));
            self.told.parameters.extend(owned);
        }
        conn.belongs_to(self.guest.id, self.entered.session.cancels());
        self.slots[place] = Some(conn);
        Ok(())
    }

    /// One that another session has given back, or a new one.
    async fn take_backend(&mut self, place: usize, group: GroupId, patience: Duration) -> Result<Conn, Halt> {
        let until = Instant::now() + patience;
        loop {
            if self.ticket.is_none() {
                self.ticket = Some(self.stand_in_line().await?);
            }
            let berth = match self.guest.take(place) {
                Given::Kept(mut conn) => {
                    if io::still_there(&mut conn).await {
                        return Ok(*conn);
                    }
                    continue;
                }
                Given::Room(berth) => berth,
            };
            let most = self.at_most(until.saturating_duration_since(Instant::now()));
            let alone = self.slots.iter().all(Option::is_none);
            let leader_wait = if alone { most.min(WITH_TICKET) } else { most };
            let (groups, max) = (&*self.shared.groups, self.shared.limits.max_message);
            let opening = Conn::open(groups, group, &self.startup, most, leader_wait, max);
            match unless_killed(self.meter.client(), self.commits(), opening).await? {
                Ok(mut conn) => {
                    conn.berth = Some(berth);
                    return Ok(conn);
                }
                // Others, for groups that have leaders, come first.
                Err(Failure::Connect(error))
                    if leader_wait < most && matches!(*error, ConnectError::NoLeader { .. }) =>
                {
                    self.ticket = None;
                }
                Err(failure) => return Err(failure.after_waiting(patience).into()),
            }
        }
    }

    /// The right to have backends, when it is its turn. While the database is paused it does not stand in line.
    async fn stand_in_line(&mut self) -> Result<Ticket, Halt> {
        loop {
            self.stop_if_killed()?;
            let asked = asked(self.meter.client());
            if self.is_held_off() {
                asked.await;
                if self.timeouts.left().is_some() {
                    // The statement has its time once it may begin.
                    self.timeouts.restart();
                }
                continue;
            }
            let patience = self.at_most(self.shared.limits.backend_wait);
            tokio::select! {
                biased;
                ticket = self.guest.ticket(patience) => return Ok(ticket.ok_or(Failure::NoBackend)?),
                () = asked => {}
            }
        }
    }

    /// As much of this time as the statement has left.
    fn at_most(&self, patience: Duration) -> Duration {
        self.timeouts.left().map_or(patience, |left| left.min(patience))
    }

    /// Gives back the backends that nothing pins, unless they are disturbed.
    pub(super) fn give_back(&mut self) -> Rest {
        if self.slots.iter().all(Option::is_none) {
            self.ticket = None;
            return Rest::Undisturbed;
        }
        let free = |place: usize| self.slots[place].is_some() && self.pin_of(place).is_none();
        if self.is_owed() || !(0..self.slots.len()).any(free) {
            return Rest::Undisturbed;
        }
        if self.is_striking() {
            return Rest::Cancelling;
        }
        self.note_declared();
        let aimed_at = self.entered.session.rest();
        if aimed_at == Rest::Unsure {
            for conn in self.slots.iter_mut().flatten() {
                conn.unsure = true;
            }
        }
        for place in 0..self.slots.len() {
            let resting = |conn: &mut Conn| conn.is_at_rest();
            if self.pin_of(place).is_none()
                && let Some(conn) = self.slots[place].take_if(resting)
            {
                match aimed_at {
                    Rest::Cancelling => self.slots[place] = Some(conn),
                    // A signal could meet whoever had it next.
                    _ if conn.unsure || conn.listened => drop(conn),
                    _ => self.guest.give(place, conn),
                }
            }
        }
        self.current = self.current.filter(|place| self.slots[*place].is_some());
        if self.current.is_none() && self.temporary.any() && self.slots[HOME].is_some() {
            // That its end is noticed when it comes.
            self.current = Some(HOME);
        }
        self.aim();
        if self.slots.iter().all(Option::is_none) {
            self.ticket = None;
        }
        aimed_at
    }

    /// Something that outlives a transaction is about to reach the backend at `place`.
    pub(super) fn soil(&mut self, place: usize) {
        if let Some(conn) = &mut self.slots[place] {
            conn.dirty = true;
        }
    }

    /// Gives up backends that have something of a transaction that did not commit on all of its groups.
    pub(super) fn give_up(&mut self, places: &[usize]) {
        for place in places {
            self.close_backend(
                *place,
                "a transaction failed when a part of it may have been committed",
            );
            self.cursors.retain(|_, cursor| !cursor.is_at(*place));
        }
        self.current = self.current.filter(|place| self.slots[*place].is_some());
    }

    /// Ends a backend that cannot be used any more, and with it what the session has there and nowhere else.
    pub(super) fn close_backend(&mut self, place: usize, why: &str) {
        if self.slots[place].take().is_some() {
            self.lose_home(place, why);
        }
    }

    /// What keeps the backend at `place` with the session, beyond what it does now.
    pub(super) fn pin_of(&self, place: usize) -> Option<Pin> {
        let holds = |cursor: &Cursor| cursor.outlives_transactions() && cursor.is_at(place);
        if self.transaction.as_ref().is_some_and(|t| t.participates(place)) {
            Some(Pin::Transaction)
        } else if self.cursors.values().any(holds) {
            Some(Pin::Cursor)
        } else if place == HOME && self.temporary.any() {
            Some(Pin::TemporaryTable)
        } else if place == HOME {
            self.at_home.pin()
        } else {
            None
        }
    }

    /// Gives a backend the settings that it has not seen, but for those that are about to be undone.
    pub(super) async fn replay_settings(&mut self, place: usize, undone: Undone<'_>) -> Result<(), Halt> {
        if self.slots[place].as_ref().is_some_and(|conn| conn.reset_due) {
            self.exec(place, RESET, Audience::Quiet, Stake::Nothing).await?;
            // Not before: nothing may run with what another session has set.
            if let Some(conn) = &mut self.slots[place] {
                conn.reset_due = false;
                conn.dirty = false;
            }
        }
        let seen = self.slots[place].as_ref().map_or(0, |conn| conn.settings_seen);
        for (number, sql) in self.settings.since(seen, undone) {
            self.soil(place);
            self.exec(place, &sql, Audience::Quiet, Stake::Nothing).await?;
            if let Some(conn) = &mut self.slots[place] {
                conn.settings_seen = number;
            }
        }
        if let Some(conn) = &mut self.slots[place] {
            conn.settings_seen = self.settings.latest();
        }
        Ok(())
    }
}
