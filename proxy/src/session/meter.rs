//! What a session tells the registry of itself, and what it does when an operator asks something of it.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::time::Instant;

use bytes::BytesMut;

use super::conn::{Conn, Stake};
use super::io::{self, Event, HIGH_WATER, Wait};
use super::relay::Told;
use super::{GIVE_AGAIN, Session, TransactionStatus};
use crate::cancel::Rest;
use crate::failure::{Ended, Failure};
use crate::registry::{Activity, Client, Pin, Pins, Registered};

/// A session's entry in the registry, and since when it does what it does.
#[derive(Debug)]
pub(super) struct Meter {
    registered: Registered,
    /// Since the first message of the request that is being worked on.
    busy: Option<Instant>,
    /// Since the first message after the last transaction.
    in_transaction: Option<Instant>,
}

impl Meter {
    pub(super) fn new(registered: Registered) -> Meter {
        Meter {
            registered,
            busy: None,
            in_transaction: None,
        }
    }

    pub(super) fn client(&self) -> &Arc<Client> {
        &self.registered.client
    }

    /// A message of the client is about to be handled.
    fn takes(&mut self, tag: u8, len: usize) {
        let client = &self.registered.client;
        client.counters.received.add(u64::try_from(len).unwrap_or(0));
        if matches!(tag, b'Q' | b'E') {
            client.counters.queries.add(1);
        }
        if self.busy.is_none() {
            let now = Instant::now();
            self.busy = Some(now);
            self.in_transaction.get_or_insert(now);
            client.requests();
        }
    }

    /// The session waits for its client's next message.
    fn rests(&mut self, activity: Activity, pins: Pins, told: &mut Told) {
        let Some(since) = self.busy.take() else { return };
        let client = &self.registered.client;
        let now = Instant::now();
        client.counters.query_time.add_time(now - since);
        client.counters.transactions.add(std::mem::take(&mut told.idle));
        if activity == Activity::Idle
            && let Some(began) = self.in_transaction.take()
        {
            client.counters.transaction_time.add_time(now - began);
        }
        if std::mem::take(&mut told.renamed) {
            let name = told.parameters.get(&b"application_name"[..]);
            client.rename(&String::from_utf8_lossy(name.map_or(&b""[..], Vec::as_slice)));
        }
        client.rests(activity, pins);
    }
}

impl Session {
    /// Notes a message of the client that is about to be handled.
    pub(super) fn note_message(&mut self, tag: u8, len: usize) {
        self.meter.takes(tag, len);
    }

    /// Notes that it is the client's turn, if it is.
    pub(super) fn note_rest(&mut self) {
        let busy = |conn: &Conn| !conn.expect.is_empty();
        let owed = self
            .current
            .and_then(|place| self.slots[place].as_ref())
            .is_some_and(busy);
        if self.copy.is_some() || self.told.copy_in {
            let pins = self.pins();
            self.meter.client().rests(Activity::Active, pins);
            return;
        }
        if owed {
            return;
        }
        let activity = match self.status() {
            TransactionStatus::Idle => Activity::Idle,
            TransactionStatus::InBlock | TransactionStatus::Failed => Activity::IdleInTransaction,
        };
        let pins = self.pins();
        self.meter.rests(activity, pins, &mut self.told);
    }

    /// Why its backends cannot be given to others now.
    fn pins(&self) -> Pins {
        let pinned = (0..self.slots.len()).filter(|place| self.slots[*place].is_some());
        let pins = pinned
            .filter_map(|place| self.pin_of(place))
            .fold(Pins::default(), |pins, pin| pins.with(pin, true));
        self.at_home
            .pins(pins)
            .with(
                Pin::Pipeline,
                !self.pipeline.touched.is_empty() || self.statements.held.is_some(),
            )
            .with(Pin::Copy, self.copy.is_some() || self.told.copy_in)
    }

    /// Whether nothing is under way for which it needs a backend.
    fn needs_nothing(&self) -> bool {
        let needed = |place: usize| self.slots[place].is_some() && self.pin_of(place).is_some();
        !self.is_owed() && self.transaction.is_none() && !(0..self.slots.len()).any(needed)
    }

    /// Whether something is being committed: it is let finish, and the client is told.
    pub(super) fn commits(&self) -> bool {
        let commits = |conn: &Conn| conn.expect.iter().any(|due| due.stake == Stake::Commit);
        self.unbroken || self.slots.iter().flatten().any(commits)
    }

    /// Ends the session, if an operator wants that and nothing is being committed.
    pub(super) fn stop_if_killed(&self) -> Result<(), Ended> {
        if self.meter.client().is_killed() && !self.commits() {
            return Err(Ended::Fatal(Failure::Killed));
        }
        Ok(())
    }

    /// Whether it waits for RESUME before it takes a first backend, whatever it has begun. Who has one goes on: PAUSE waits for him.
    pub(super) fn is_held_off(&self) -> bool {
        self.meter.client().is_paused() && self.slots.iter().all(Option::is_none) && !self.commits()
    }

    /// Does what an operator asks before a message is handled. Waits until RESUME, if that message would begin something.
    /// `input` is what was read of the client: more of it may be, up to a bound.
    pub(super) async fn heed_before(&mut self, input: &mut BytesMut) -> Result<(), Ended> {
        self.stop_if_killed()?;
        if !self.meter.client().is_paused() || !self.needs_nothing() {
            return Ok(());
        }
        // It is no more the client that is waited for.
        self.timeouts.wake();
        self.client.input = std::mem::take(input);
        let waited = self.until_resumed().await;
        *input = std::mem::take(&mut self.client.input);
        waited
    }

    /// Waits while the database is paused, without any backend. A client that goes meanwhile is noticed.
    pub(super) async fn until_resumed(&mut self) -> Result<(), Ended> {
        let client = Arc::clone(self.meter.client());
        let _waits = client.is_paused().then(|| client.waits());
        while client.is_paused() {
            self.stop_if_killed()?;
            let disturbed = self.give_back() == Rest::Cancelling;
            let turn = async {
                if self.client.input.len() >= HIGH_WATER {
                    asked(&client).await;
                    return Event::Asked;
                }
                let alarm = &mut self.timeouts.alarm;
                io::turn(&mut self.client, &mut self.slots, alarm, None, Wait::Client).await
            };
            let event = if disturbed {
                tokio::time::timeout(GIVE_AGAIN, turn).await.ok()
            } else {
                Some(turn.await)
            };
            if let Some(Event::ClientGone) = event {
                return Err(Ended::ByClient);
            }
        }
        self.stop_if_killed()
    }
}

/// Waits until an operator asks something.
pub(super) async fn asked(client: &Client) {
    poll_fn(|cx| client.poll_bell(cx)).await;
}

/// Waits for this, which can be given up at any time, unless an operator ends the session, and it does not commit.
pub(super) async fn unless_killed<T>(
    client: &Client,
    commits: bool,
    waited: impl Future<Output = T>,
) -> Result<T, Ended> {
    let mut waited = pin!(waited);
    loop {
        if client.is_killed() && !commits {
            return Err(Ended::Fatal(Failure::Killed));
        }
        tokio::select! {
            biased;
            done = &mut waited => return Ok(done),
            () = asked(client) => {}
        }
    }
}
