//! Taking backends, and giving them back when nothing of the session is left in them.

use std::time::Duration;

use shard::id::GroupId;

use super::conn::{Audience, Conn, Stake};
use super::io;
use super::pool::Given;
use super::{Cursor, Session, Timeouts};
use crate::cancel::Rest;
use crate::failure::{Failure, Halt};

/// Why a session keeps a backend although it does nothing there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pin {
    /// It is in a transaction there.
    Transaction,
    /// It has a cursor WITH HOLD there.
    HeldCursor,
}

/// Undoes what another session has set. RESET ALL leaves the roles as they are (GUC_NO_RESET_ALL in guc.c).
const RESET: &str = "RESET SESSION AUTHORIZATION; RESET ROLE; RESET ALL";

impl Session {
    /// Takes a backend for a place that has none, within `patience` for a new one.
    pub(super) async fn open(&mut self, place: usize, patience: Duration) -> Result<(), Halt> {
        let group = self.group(place);
        let opened = self.take_backend(place, group, patience).await;
        if opened.is_err() {
            self.in_time().await?;
        }
        let mut conn = opened?;
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
    async fn take_backend(
        &mut self,
        place: usize,
        group: GroupId,
        patience: Duration,
    ) -> Result<Conn, Failure> {
        let left = |timeouts: &Timeouts, most| timeouts.left().map_or(most, |left| left.min(most));
        if self.ticket.is_none() {
            let wait = left(&self.timeouts, self.shared.limits.backend_wait);
            self.ticket = self.guest.ticket(wait).await;
        }
        if self.ticket.is_none() {
            return Err(Failure::NoBackend);
        }
        loop {
            match self.guest.take(place) {
                Given::Kept(mut conn) => {
                    if io::still_there(&mut conn).await {
                        return Ok(*conn);
                    }
                }
                Given::Room(berth) => {
                    let (groups, max) = (&*self.shared.groups, self.shared.limits.max_message);
                    let patience = left(&self.timeouts, patience);
                    let mut conn = Conn::open(groups, group, &self.startup, patience, max).await?;
                    conn.berth = Some(berth);
                    return Ok(conn);
                }
            }
        }
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
        let aimed_at = self.entered.session.rest();
        for place in 0..self.slots.len() {
            let resting = |conn: &mut Conn| conn.is_at_rest();
            if self.pin_of(place).is_none()
                && let Some(conn) = self.slots[place].take_if(resting)
            {
                match aimed_at {
                    Rest::Undisturbed => self.guest.give(place, conn),
                    Rest::Cancelling => self.slots[place] = Some(conn),
                    // A signal could meet whoever had it next.
                    Rest::Unsure => drop(conn),
                }
            }
        }
        self.current = self.current.filter(|place| self.slots[*place].is_some());
        self.aim();
        if self.slots.iter().all(Option::is_none) {
            self.ticket = None;
        }
        aimed_at
    }

    /// What keeps the backend at `place` with the session, beyond what it does now.
    pub(super) fn pin_of(&self, place: usize) -> Option<Pin> {
        let holds = |cursor: &Cursor| cursor.outlives_transactions() && cursor.is_at(place);
        if self.transaction.as_ref().is_some_and(|t| t.participates(place)) {
            Some(Pin::Transaction)
        } else if self.cursors.values().any(holds) {
            Some(Pin::HeldCursor)
        } else {
            None
        }
    }

    /// Gives a backend the settings that it has not seen.
    pub(super) async fn replay_settings(&mut self, place: usize) -> Result<(), Halt> {
        if self.slots[place].as_ref().is_some_and(|conn| conn.reset_due) {
            self.exec(place, RESET, Audience::Quiet, Stake::Nothing).await?;
            // Not before: nothing may run with what another session has set.
            if let Some(conn) = &mut self.slots[place] {
                conn.reset_due = false;
            }
        }
        let seen = self.slots[place].as_ref().map_or(0, |conn| conn.settings_seen);
        for sql in self.settings.since(seen) {
            self.exec(place, &sql, Audience::Quiet, Stake::Nothing).await?;
        }
        if let Some(conn) = &mut self.slots[place] {
            conn.settings_seen = self.settings.latest();
        }
        Ok(())
    }
}
