//! COPY ... FROM STDIN: the first row says which group; a row of another group fails all of it.

use std::sync::Arc;

use bytes::{Buf, BytesMut};
use coordinator::hash::{HashSlot, KeyColumn, KeyError, KeySource, KeyUse};
use coordinator::slots::SlotMap;

use super::Session;
use super::conn::{Audience, Captured, Stake};
use super::enter::Style;
use super::plans::Planned;
use super::rows::{self, Row};
use super::statements::Copying;
use super::transaction::second_writer;
use crate::analysis::{Access, Format, Parameter, Refusal};
use crate::failure::{Ended, Failure, Halt};
use crate::protocol::{Body, encode};

/// A COPY whose rows come from the client.
#[derive(Debug)]
pub(super) struct CopyState {
    copying: Copying,
    key: KeyColumn,
    slots: Arc<SlotMap>,
    /// Came as a Query, so that the session says when it is ready.
    by_query: bool,
    /// The group that gets the rows, once one has come.
    place: Option<usize>,
    /// Rows that were not sent on yet; the last may not be whole.
    waiting: BytesMut,
    /// How much of `waiting` is rows of the group.
    checked: usize,
    /// The first line is still to come and is no row.
    header: bool,
    stake: Stake,
}

/// Rows that are sent on together.
const CHUNK: usize = 64 << 10;

impl Session {
    /// Asks the client for the rows. Nothing is owed when this is called.
    pub(super) fn begin_copy(
        &mut self,
        copying: Copying,
        planned: &Planned,
        by_query: bool,
    ) -> Result<(), Halt> {
        let table = &copying.plan.table;
        let key = match planned.catalogue.resolve(&[], Some(&table.schema), &table.name) {
            coordinator::catalogue::Resolved::Relation(relation) => relation.shard_key.as_ref(),
            _ => None,
        };
        let Some(key) = key.map(|key| key.column) else {
            return Err(Failure::Catalogue(format!("table \"{}\" is not there", table.name)).into());
        };
        let header = copying.plan.layout.header;
        encode::copy_in_response(self.out(), 0);
        self.copy = Some(CopyState {
            copying,
            key,
            slots: Arc::clone(planned.catalogue.slots()),
            by_query,
            place: None,
            waiting: BytesMut::new(),
            checked: 0,
            header,
            stake: Stake::Nothing,
        });
        Ok(())
    }

    /// Handles CopyData, CopyDone and CopyFail. Outside of a copy they are ignored, as PostgreSQL does.
    pub(super) async fn copy_data(&mut self, tag: u8, message: &[u8]) -> Result<(), Ended> {
        if self.told.copy_in {
            if tag != b'd' {
                self.told.copy_in = false;
            }
            if let Some(conn) = self.current.and_then(|place| self.slots[place].as_mut()) {
                conn.output.extend_from_slice(message);
            }
            return Ok(());
        }
        let Some(mut copy) = self.copy.take() else {
            return Ok(());
        };
        let body = Self::body(message);
        let result = match tag {
            b'd' => self.take_rows(&mut copy, body).await,
            b'c' => match self.finish_copy(&mut copy).await {
                Ok(()) => {
                    if copy.by_query {
                        self.ready();
                    }
                    return Ok(());
                }
                Err(halt) => Err(halt),
            },
            _ => {
                let why = Body::new(body)
                    .cstr()
                    .map(String::from_utf8_lossy)
                    .unwrap_or_default();
                Err(Refusal::new("57014", format!("COPY from stdin failed: {why}")).into())
            }
        };
        let failure = match result {
            Ok(()) => {
                self.copy = Some(copy);
                return Ok(());
            }
            Err(Halt::End(ended)) => return Err(ended),
            Err(Halt::Skip) => Failure::TransactionAborted,
            Err(Halt::Fail(failure)) => failure,
        };
        self.abandon_copy(&copy).await?;
        self.report(&failure);
        if copy.by_query {
            self.ready();
        } else {
            self.told.skip = true;
        }
        Ok(())
    }

    async fn take_rows(&mut self, copy: &mut CopyState, data: &[u8]) -> Result<(), Halt> {
        copy.waiting.extend_from_slice(data);
        if copy.waiting.len() > self.shared.limits.max_message {
            return Err(Refusal::new("54000", "a row of the COPY is too long").into());
        }
        self.check_rows(copy, rows::End::MoreComes).await?;
        if copy.checked >= CHUNK {
            self.send_rows(copy).await?;
        }
        Ok(())
    }

    /// Looks at the rows that are whole.
    async fn check_rows(&mut self, copy: &mut CopyState, end: rows::End) -> Result<(), Halt> {
        loop {
            let layout = &copy.copying.plan.layout;
            let rest = &copy.waiting[copy.checked..];
            let Some(Row { len, key }) = rows::next(rest, layout, copy.copying.plan.key_field, end) else {
                return Ok(());
            };
            if std::mem::take(&mut copy.header) {
                copy.checked += len;
                continue;
            }
            // PostgreSQL has its own words for a line without the field; where it goes does not matter.
            let group = match key {
                rows::Key::Value(value) => {
                    self.readable_value(Some(&value))?;
                    let source = KeySource::Text {
                        type_oid: 0,
                        text: &value,
                    };
                    let slot = match copy.key.slot(KeyUse::Assignment, source) {
                        Ok(slot) => slot,
                        Err(KeyError::AskPostgres | KeyError::Unroutable) => {
                            self.ask_copy_slot(copy, &value).await?
                        }
                    };
                    Some(copy.slots.group(slot))
                }
                rows::Key::Null => Some(copy.slots.group(HashSlot::NULL)),
                rows::Key::Missing => None,
            };
            let place = group.and_then(|group| self.place(group));
            match (copy.place, place) {
                (None, Some(place)) => self.start_copy(copy, place).await?,
                (Some(at), Some(place)) if at != place => {
                    return Err(second_writer(self.group(at), self.group(place)).into());
                }
                _ => {}
            }
            copy.checked += len;
        }
    }

    async fn ask_copy_slot(&mut self, copy: &CopyState, value: &[u8]) -> Result<HashSlot, Halt> {
        let started = copy.place;
        let parameter = Parameter {
            value: Some(value),
            format: Format::Text,
            type_oid: None,
        };
        let sql = copy.key.slot_query(KeyUse::Assignment);
        // The backend of a running COPY takes nothing but rows: another one is asked.
        let other = (0..self.slots.len()).find(|place| Some(*place) != started);
        let Some(other) = other.filter(|_| self.transaction.is_none()) else {
            return Err(
                Refusal::unsupported("a key that only PostgreSQL can read, in COPY")
                    .hint("Write the key in its plain ISO form.")
                    .into(),
            );
        };
        let home = std::mem::replace(&mut self.home, other);
        self.current = None;
        let slot = self.ask_slot(&sql, Some(&parameter)).await;
        self.home = home;
        self.current = started;
        self.aim();
        slot
    }

    async fn start_copy(&mut self, copy: &mut CopyState, place: usize) -> Result<(), Halt> {
        self.enter(place, Access::Write, Style::Simple).await?;
        self.settle().await?;
        copy.stake = self.stake(Access::Write);
        let group = self.group(place);
        if let Some(conn) = &mut self.slots[place] {
            conn.captured = Captured::default();
            // Until CopyDone nothing can be committed.
            conn.query(&copy.copying.text, Audience::Session, Stake::Nothing);
        }
        let starting = |session: &Self| {
            session.slots[place].as_ref().is_some_and(|c| {
                !c.expect.is_empty() && c.captured.tag.is_none() && c.captured.error.is_none()
            })
        };
        while starting(self) {
            self.answers(place).await?;
        }
        let started = self.slots[place]
            .as_ref()
            .is_some_and(|conn| conn.captured.tag.is_some());
        if !started {
            self.drain(place).await?;
            self.take_captured(place, group, Stake::Nothing)?;
            return Err(Failure::Catalogue("COPY did not start".to_owned()).into());
        }
        copy.place = Some(place);
        Ok(())
    }

    /// Sends on what was checked.
    async fn send_rows(&mut self, copy: &mut CopyState) -> Result<(), Halt> {
        let Some(place) = copy.place else { return Ok(()) };
        let group = self.group(place);
        let rows = &copy.waiting[..copy.checked];
        match &mut self.slots[place] {
            Some(conn) if conn.captured.error.is_none() => {
                encode::message(&mut conn.output, b'd', |out| out.extend_from_slice(rows));
            }
            _ => {
                self.drain(place).await?;
                self.take_captured(place, group, Stake::Nothing)?;
                return Ok(());
            }
        }
        copy.waiting.advance(copy.checked);
        copy.checked = 0;
        while self.slots[place]
            .as_ref()
            .is_some_and(|conn| conn.output.len() > super::io::HIGH_WATER)
        {
            self.written(place).await?;
        }
        Ok(())
    }

    async fn finish_copy(&mut self, copy: &mut CopyState) -> Result<(), Halt> {
        self.check_rows(copy, rows::End::Here).await?;
        if copy.place.is_none() {
            // No row that belongs anywhere: any group gives the right answer.
            let place = self.any_place().await?;
            self.start_copy(copy, place).await?;
        }
        copy.checked = copy.waiting.len();
        self.send_rows(copy).await?;
        let Some(place) = copy.place else { return Ok(()) };
        let group = self.group(place);
        if let Some(conn) = &mut self.slots[place] {
            // A crash before PostgreSQL's COMMIT record is replicated leaves no row; after it the new
            // leader has them all. The client that gets 08007 has to look.
            for due in &mut conn.expect {
                due.stake = copy.stake;
            }
            conn.captured.tag = None;
            encode::empty(&mut conn.output, b'c');
        }
        self.drain(place).await?;
        let captured = self.take_captured(place, group, copy.stake)?;
        encode::command_complete(self.out(), captured.tag.as_deref().unwrap_or("COPY 0"));
        Ok(())
    }

    /// The copy has failed: nothing of it is kept.
    async fn abandon_copy(&mut self, copy: &CopyState) -> Result<(), Ended> {
        let Some(place) = copy.place else { return Ok(()) };
        if let Some(conn) = self.slots[place].as_mut().filter(|conn| !conn.expect.is_empty()) {
            encode::copy_fail(&mut conn.output, "refused by Howdah");
            for due in &mut conn.expect {
                due.audience = Audience::Quiet;
            }
        }
        self.drain(place).await
    }
}
