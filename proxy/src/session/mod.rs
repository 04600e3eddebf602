//! One client's session: its messages in order, each sent to where its rows are.
//!
//! `serve` reads a message, `simple` or `extended` plans it, `enter` makes the backend of its group
//! ready for it (connected, with the session's settings, in the session's transaction), and `relay`
//! passes the answers on.
//!
//! Invariants:
//! - Answers reach the client in the order of its messages: at most one backend owes answers to the
//!   client at a time, except within `scatter`, which reads them one after the other, and in a `copy`.
//! - A statement is never sent twice to a backend.
//! - What is written on several groups is committed by `two_phase` alone.

mod alarm;
mod authenticate;
mod backends;
mod bind;
mod bring;
mod captured;
mod commands;
mod compute;
mod configure;
mod conn;
mod control;
mod copy;
mod copy_out;
mod create_as;
mod cursors;
mod databases;
mod ddl;
mod enter;
mod explain;
mod extended;
mod feed;
mod fill;
#[cfg(any(test, feature = "fuzz"))]
pub(crate) mod fuzz;
mod gather;
mod holes;
mod home;
mod io;
mod locking;
mod login;
mod merge;
mod meter;
mod moves;
mod outlive;
mod parts;
mod plans;
mod pool;
mod portals;
mod prepare;
mod push;
mod rekey;
mod relay;
mod row_type;
mod rows;
mod scatter;
mod sequences;
mod settings;
mod setval;
mod simple;
mod split;
mod startup;
mod statements;
mod stranger;
mod supplies;
mod syntax;
mod temporary;
mod timeouts;
mod together;
mod transaction;
mod tuples;
mod two_phase;

pub(crate) use plans::PlanCache;
pub(crate) use pool::Pool;
pub(crate) use startup::begin;

use std::collections::HashMap;
use std::sync::Arc;

use bytes::{Buf, BytesMut};
use coordinator::catalogue::cache::DatabaseCatalogue;
use tokio::io::AsyncWriteExt;

use crate::Shared;
use crate::cancel::{Entered, Rest};
use crate::failure::{Ended, Failure, Halt, Severity};
use crate::protocol::encode::{self, TransactionStatus};
use crate::protocol::frame::{self, HEADER};
use conn::{Conn, Stake};
use copy::CopyState;
use cursors::Cursor;
use home::{AtHome, HOME};
use io::{Client, Event, Wait};
use meter::Meter;
use pool::{Guest, Ticket};
use relay::Told;
use settings::Settings;
use statements::Statements;
use temporary::Temporary;
use timeouts::Timeouts;
use transaction::Transaction;

/// When backends that could not be given back, as a cancel is on its way to one, are tried to be given back again.
const GIVE_AGAIN: std::time::Duration = std::time::Duration::from_millis(10);

/// Answers that may be outstanding before more of the client's messages are sent on.
const RUN_AHEAD: usize = 4096;

/// A client's session. Groups are named by their place in `shared.groups.groups()`.
#[derive(Debug)]
pub(crate) struct Session {
    shared: Arc<Shared>,
    client: Client,
    /// The backends that it holds now, by place.
    slots: Vec<Option<Conn>>,
    /// The one that may owe answers.
    current: Option<usize>,
    /// Where statements run that may run anywhere.
    nearest: usize,
    /// What its backends' start-up messages say.
    startup: conn::Parameters,
    told: Told,
    transaction: Option<Transaction>,
    pipeline: Pipeline,
    settings: Settings,
    timeouts: Timeouts,
    statements: Statements,
    /// Where its cursors are.
    cursors: HashMap<String, Cursor>,
    temporary: Temporary,
    at_home: AtHome,
    sequences: sequences::Drawn,
    /// Cursors WITH HOLD that may have been declared outside of a transaction.
    declaring: Vec<String>,
    /// The level of transactions that name none, as of which of the settings.
    default_isolation: Option<(u64, crate::analysis::Isolation)>,
    /// Schemas without a name in front; `None` when it may have changed.
    search_path: Option<Arc<[String]>>,
    /// Why the last connection to a backend broke.
    last_break: String,
    copy: Option<CopyState>,
    database: Arc<DatabaseCatalogue>,
    /// What it does now must come to its end, whatever an operator wants.
    unbroken: bool,
    meter: Meter,
    entered: Entered,
    guest: Guest,
    /// While it has backends.
    ticket: Option<Ticket>,
}

/// The messages of the extended protocol since the last Sync: one implicit transaction.
#[derive(Debug, Default)]
struct Pipeline {
    /// Backends that were sent some, by place.
    touched: Vec<usize>,
    /// The one that it writes on.
    writer: Option<usize>,
    /// What is at stake there when it ends.
    stake: Stake,
    /// Whether it has written or taken something there, and not only announced.
    wrote: bool,
    /// See [`Transaction::began`]; none before a statement has asked.
    began: Option<u64>,
    /// See [`Transaction::anchor`].
    anchor: Option<usize>,
    /// See [`Transaction::announces`].
    announces: bool,
    /// What was bound last may be followed by other statements.
    goes_on: bool,
}

impl Pipeline {
    /// Ends it; gives the backends, the one that it writes on, and what is at stake there.
    fn end(&mut self) -> (Vec<usize>, Option<usize>, Stake) {
        let ended = std::mem::take(self);
        (ended.touched, ended.writer, ended.stake)
    }
}

impl Session {
    /// Serves the client until it goes.
    pub(crate) async fn serve(&mut self) -> Ended {
        loop {
            if let Err(ended) = self.take_input().await {
                return ended;
            }
            if let Err(Halt::End(ended)) = self.let_go().await {
                return ended;
            }
            if let Err(ended) = self.settle_home().await {
                return ended;
            }
            self.time_the_client();
            self.pass_notifications();
            let disturbed = self.give_back() == Rest::Cancelling;
            self.note_holder_rests();
            self.note_rest();
            if let Err(ended) = self.stop_if_killed().and_then(|()| self.stop_if_lost()) {
                return ended;
            }
            let reading = if self.hears_home() {
                Some(HOME)
            } else {
                self.current
            };
            let turn = io::turn(
                &mut self.client,
                &mut self.slots,
                &mut self.timeouts.alarm,
                reading,
                Wait::Client,
            );
            let event = if disturbed {
                match tokio::time::timeout(GIVE_AGAIN, turn).await {
                    Ok(event) => event,
                    Err(_) => continue,
                }
            } else {
                turn.await
            };
            match event {
                Event::Client | Event::Written | Event::Asked => {}
                Event::Alarm => {
                    if let Err(ended) = self.rang() {
                        return ended;
                    }
                    if let Err(ended) = Box::pin(self.end_copy_in_time()).await {
                        return ended;
                    }
                }
                Event::ClientGone => return Ended::ByClient,
                Event::Backend => {
                    if let Some(place) = reading
                        && let Err(ended) = self.relayed(place)
                    {
                        return ended;
                    }
                }
                Event::Broken(place, why) => {
                    if let Err(ended) = self.broke(place, &why) {
                        return ended;
                    }
                }
            }
        }
    }

    /// Handles every message that has arrived whole.
    async fn take_input(&mut self) -> Result<(), Ended> {
        let mut input = std::mem::take(&mut self.client.input);
        loop {
            let found = frame::peek_frontend(&input, self.shared.limits.max_message)
                .map_err(|error| Ended::Fatal(error.into()))?;
            let Some(found) = found.filter(|f| f.len <= input.len()) else {
                break;
            };
            if self.meter.client().is_asked() {
                // What comes meanwhile comes behind this message.
                self.heed_before(&mut input).await?;
            }
            self.stop_if_lost()?;
            self.note_message(found.tag, found.len);
            if found.tag == b'B' {
                let behind = &input[found.len..];
                self.pipeline.goes_on = !frame::syncs_next(behind, self.shared.limits.max_message);
            }
            self.handle(found.tag, &input[..found.len]).await?;
            input.advance(found.len);
            self.make_room().await?;
        }
        self.client.input = input;
        Ok(())
    }

    /// Does not run further ahead of the backend than its buffers should hold.
    async fn make_room(&mut self) -> Result<(), Ended> {
        while let Some(place) = self.current
            && let Some(conn) = &self.slots[place]
            && (conn.output.len() > io::HIGH_WATER || conn.expect.len() > RUN_AHEAD)
        {
            // A pipeline without its Sync is answered when PostgreSQL is asked to.
            if let Some(conn) = self.slots[place]
                .as_mut()
                .filter(|c| c.unsynced && c.output.is_empty())
            {
                encode::empty(&mut conn.output, b'H');
            }
            self.written(place).await?;
        }
        Ok(())
    }

    async fn handle(&mut self, tag: u8, message: &[u8]) -> Result<(), Ended> {
        self.timeouts.wake();
        match tag {
            b'Q' | b'P' | b'B' | b'D' | b'E' => self.begin_timing().await,
            b'S' => self.stricken().await,
            _ => {}
        }
        match tag {
            b'Q' | b'P' | b'B' | b'D' | b'E' | b'C' | b'F' if self.copy.is_some() => {
                let words = "unexpected message during COPY from stdin";
                Err(Ended::Fatal(crate::analysis::Refusal::new("08P01", words).into()))
            }
            b'Q' => Box::pin(self.simple(message)).await,
            b'P' | b'B' | b'D' | b'E' | b'C' | b'H' => Box::pin(self.extended(tag, message)).await,
            b'S' => self.sync().await,
            b'd' | b'c' | b'f' => Box::pin(self.copy_data(tag, message)).await,
            b'X' => Err(Ended::ByClient),
            b'F' => Box::pin(self.function_call()).await,
            _ => Err(Ended::Fatal(frame::FrameError::UnknownType(tag).into())),
        }
    }

    /// Tells the client of a failure, after the answers that come before it.
    async fn fail(&mut self, failure: Failure) -> Result<(), Ended> {
        match self.settle().await {
            Err(Halt::End(ended)) => return Err(ended),
            // The error that came first is the one that counts.
            Err(Halt::Skip | Halt::Fail(_)) => return Ok(()),
            Ok(()) => {}
        }
        self.report(&failure);
        Ok(())
    }

    fn report(&mut self, failure: &Failure) {
        tracing::debug!(%failure, "statement failed");
        failure.encode(Severity::Error, &mut self.client.output);
        self.timeouts.end();
        if let Some(transaction) = &mut self.transaction {
            transaction.failed = true;
        }
    }

    /// Sends the session's own ReadyForQuery.
    fn ready(&mut self) {
        let status = self.status();
        self.told.report(status, &mut self.client.output);
        self.told.idle += u64::from(status == TransactionStatus::Idle);
        encode::ready(&mut self.client.output, status);
    }

    fn status(&self) -> TransactionStatus {
        match &self.transaction {
            None => TransactionStatus::Idle,
            Some(t) if t.implicit => TransactionStatus::Idle,
            Some(t) if t.failed => TransactionStatus::Failed,
            Some(_) => TransactionStatus::InBlock,
        }
    }

    fn out(&mut self) -> &mut BytesMut {
        &mut self.client.output
    }

    fn group(&self, place: usize) -> shard::id::GroupId {
        self.shared.groups.groups()[place]
    }

    fn place(&self, group: shard::id::GroupId) -> Option<usize> {
        self.shared.groups.groups().binary_search(&group).ok()
    }

    fn body(message: &[u8]) -> &[u8] {
        message.get(HEADER..).unwrap_or_default()
    }

    /// Ends the session: last words to the client, goodbye to the backends.
    pub(crate) async fn close(mut self, ended: Ended) {
        let left = self.timeouts.left();
        self.timeouts.end();
        self.give_back();
        self.leave_working(left);
        for conn in self
            .slots
            .iter_mut()
            .flatten()
            .filter(|conn| conn.expect.is_empty())
        {
            encode::empty(&mut conn.output, b'X');
        }
        // Words in the middle of a message would be read as a part of it.
        let whole = !self
            .slots
            .iter()
            .flatten()
            .any(|conn| conn.passing.0 > 0 && conn.passing.1);
        if let Ended::Fatal(failure) = ended
            && whole
        {
            failure.encode(Severity::Fatal, &mut self.client.output);
        }
        let goodbye = async {
            while !self.client.output.is_empty() || self.slots.iter().flatten().any(|c| !c.output.is_empty())
            {
                let alarm = &mut self.timeouts.alarm;
                match io::turn(&mut self.client, &mut self.slots, alarm, None, Wait::Written).await {
                    Event::Broken(place, _) => self.slots[place] = None,
                    Event::ClientGone => self.client.output.clear(),
                    _ => {}
                }
                if self.client.output.is_empty() {
                    break;
                }
            }
            // Within TLS it is told that this is the end. It may be gone already.
            let _ = self.client.stream.shutdown().await;
        };
        let patience = std::time::Duration::from_secs(1);
        if tokio::time::timeout(patience, goodbye).await.is_err() {
            tracing::debug!("a client did not take its last messages");
        }
    }
    /// Leaves backends alone that still work, as a plain PostgreSQL would: what is left of the statement's time is theirs.
    fn leave_working(&mut self, left: Option<std::time::Duration>) {
        if self.copy.is_some() || self.told.copy_in {
            // They wait for rows that nobody sends any more.
            return;
        }
        let ticket = Arc::new(self.ticket.take());
        for slot in &mut self.slots {
            if let Some(conn) = slot.take_if(|conn| !conn.expect.is_empty()) {
                let (ticket, shared) = (Arc::clone(&ticket), Arc::clone(&self.shared));
                tokio::spawn(outlive::outlive(conn, ticket, shared, left));
            }
        }
    }
}
