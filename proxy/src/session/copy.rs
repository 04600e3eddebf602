//! COPY ... FROM STDIN: each group runs the statement, and gets the lines of its rows.
//!
//! A group's COPY starts when its first row has come. All of them are one transaction, as in [`super::split`].
//! Memory stays bounded: what is on its way to a group is a chunk and what the socket does not take yet, and while a
//! group is behind the client is not read.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::{Buf, Bytes, BytesMut};
use coordinator::hash::{HashSlot, KeyColumn, KeyError, KeySource, KeyUse};
use coordinator::slots::SlotMap;

use super::Session;
use super::captured::Captured;
use super::conn::{Audience, Conn, Stake};
use super::enter::Style;
use super::plans::Planned;
use super::rows::{self, End, Ending, Key};
use super::settings::Undone;
use super::statements::Copying;
use super::supplies::{Added, Supplies, key_of, with_fields, with_names, with_values};
use super::transaction::{Step, Transaction};
use super::tuples;
use crate::analysis::{Access, CopyFormat, CopyLayout, Goes, Refusal};
use crate::failure::{Ended, Failure, Halt};
use crate::protocol::{Body, encode};

/// A COPY whose rows come from the client.
#[derive(Debug)]
pub(super) struct CopyState {
    copying: Copying,
    slots: Arc<SlotMap>,
    /// Came as a Query, so that the session says when it is ready.
    by_query: bool,
    /// Whether its transaction is its own.
    own: bool,
    /// The end of what has come: a line that is not whole.
    waiting: BytesMut,
    /// Lines that were read, or rows of the binary format.
    line: u64,
    /// The places that run it, and their rows that were not sent on yet.
    parts: BTreeMap<usize, BytesMut>,
    /// What stands before the first row is still to come.
    header_due: bool,
    /// That, a line or the binary format's header: every place gets it.
    header: Bytes,
    /// How the first line ended. PostgreSQL takes no others, and a group that got only others would not notice.
    ending: Option<Ending>,
    /// The end-of-data mark has come.
    ended: bool,
    /// A backend that is asked about keys, as those of the COPY take nothing but rows.
    asked: Option<Conn>,
    /// Values of sequences that each row gets.
    supplies: Option<Supplies>,
}

impl CopyState {
    /// For rows that come from another group, each with its place: [`Session::send_row`].
    pub(super) fn moving(copying: Copying, slots: &Arc<SlotMap>) -> CopyState {
        CopyState {
            copying,
            slots: Arc::clone(slots),
            by_query: true,
            own: false,
            waiting: BytesMut::new(),
            line: 0,
            parts: BTreeMap::new(),
            header_due: false,
            header: Bytes::new(),
            ending: None,
            ended: false,
            asked: None,
            supplies: None,
        }
    }

    /// The group of a slot.
    pub(super) fn group(&self, slot: HashSlot) -> shard::id::GroupId {
        self.slots.group(slot)
    }

    /// Whether a row was sent anywhere.
    pub(super) fn is_empty(&self) -> bool {
        self.parts.is_empty()
    }
}

/// Rows that are sent on together.
const CHUNK: usize = 64 << 10;

/// Encodings in which a byte of another character can look like a delimiter, a backslash or a quote.
pub(super) const AMBIGUOUS: &[&[u8]] = &[
    b"SJIS",
    b"SHIFT_JIS_2004",
    b"BIG5",
    b"GBK",
    b"UHC",
    b"GB18030",
    b"JOHAB",
];

impl Session {
    /// Asks the client for the rows. Nothing is owed when this is called.
    pub(super) async fn begin_copy(
        &mut self,
        copying: Copying,
        planned: &Planned,
        by_query: bool,
    ) -> Result<(), Halt> {
        let style = if by_query { Style::Simple } else { Style::Extended };
        let own = self.open_transaction(style).await?;
        if let Err(halt) = self.refuse_copy_where_read_only().await {
            return self.close_transaction(own, Err(halt)).await;
        }
        let supplies = match self.supplies(&copying.plan).await {
            Ok(supplies) => supplies,
            Err(halt) => return self.close_transaction(own, Err(halt)).await,
        };
        let (header_due, header) = match &copying.plan.format {
            CopyFormat::Lines(layout) => (layout.header, Bytes::new()),
            CopyFormat::Binary => (true, Bytes::from_static(tuples::HEADER)),
        };
        let columns = u16::try_from(copying.plan.columns).unwrap_or(u16::MAX);
        let format = u8::from(copying.plan.format == CopyFormat::Binary);
        encode::copy_in_response(self.out(), format, columns);
        self.copy = Some(CopyState {
            copying,
            slots: Arc::clone(&planned.slots),
            by_query,
            own,
            waiting: BytesMut::new(),
            line: 0,
            parts: BTreeMap::new(),
            header_due,
            header,
            ending: None,
            ended: false,
            asked: None,
            supplies,
        });
        Ok(())
    }

    /// What `DoCopy` in copy.c finds before it asks for rows.
    async fn refuse_copy_where_read_only(&mut self) -> Result<(), Halt> {
        let says = self
            .transaction
            .as_ref()
            .is_some_and(Transaction::may_be_read_only);
        if !says && !self.begins_read_only() {
            return Ok(());
        }
        let place = self.any_place().await?;
        self.enter(place, Access::Read, Style::Simple).await?;
        self.settle().await?;
        if self.is_read_only(place).await? {
            let words = "cannot execute COPY FROM in a read-only transaction";
            return Err(Refusal::new("25006", words).into());
        }
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
            b'd' => match self.take_rows(&mut copy, body).await {
                Ok(()) => {
                    self.copy = Some(copy);
                    return Ok(());
                }
                Err(halt) => Err(halt),
            },
            b'c' => self.finish_copy(&mut copy).await,
            _ => {
                let why = Body::new(body)
                    .cstr()
                    .map(String::from_utf8_lossy)
                    .unwrap_or_default();
                match self.fail_copy(&mut copy).await {
                    Ok(()) => Err(Refusal::new("57014", format!("COPY from stdin failed: {why}")).into()),
                    Err(halt) => Err(halt),
                }
            }
        };
        self.end_copy(copy, result).await
    }

    /// A COPY whose time is up does not wait for its client.
    pub(super) async fn end_copy_in_time(&mut self) -> Result<(), Ended> {
        if self.timeouts.left() != Some(std::time::Duration::ZERO) {
            return Ok(());
        }
        match self.copy.take() {
            Some(copy) => self.end_copy(copy, Err(Failure::StatementTimeout.into())).await,
            None => Ok(()),
        }
    }

    /// Ends it everywhere, with its transaction where that is its own, and answers.
    async fn end_copy(&mut self, mut copy: CopyState, result: Result<u64, Halt>) -> Result<(), Ended> {
        self.stricken().await;
        if result.is_err() {
            self.abandon_copy(&mut copy).await?;
        }
        let failure = match self.close_transaction(copy.own, result).await {
            Ok(counted) => {
                encode::command_complete(self.out(), &format!("COPY {counted}"));
                if copy.by_query {
                    self.ready();
                }
                return Ok(());
            }
            Err(Halt::End(ended)) => return Err(ended),
            // The client has been told.
            Err(Halt::Skip) => None,
            Err(Halt::Fail(failure)) => Some(failure),
        };
        if let Some(failure) = failure {
            self.report(&failure);
        }
        if copy.by_query {
            self.told.skip = false;
            self.ready_at_last().await?;
        } else {
            self.told.skip = true;
        }
        Ok(())
    }

    async fn take_rows(&mut self, copy: &mut CopyState, data: &[u8]) -> Result<(), Halt> {
        let encoding = self.told.parameters.get(&b"client_encoding"[..]);
        let lines = copy.copying.plan.format != CopyFormat::Binary;
        if lines && encoding.is_some_and(|encoding| AMBIGUOUS.contains(&encoding.as_slice())) {
            self.readable_value(Some(data))?;
        }
        copy.waiting.extend_from_slice(data);
        self.spread(copy, End::MoreComes).await?;
        if copy.waiting.len() > self.shared.limits.max_message {
            return Err(Refusal::new("54000", "a row of the COPY is too long").into());
        }
        Ok(())
    }

    /// Sorts the rows that are whole by their places.
    async fn spread(&mut self, copy: &mut CopyState, end: End) -> Result<(), Halt> {
        match copy.copying.plan.format.clone() {
            CopyFormat::Lines(layout) => self.spread_lines(copy, &layout, end).await,
            CopyFormat::Binary => self.spread_tuples(copy, end).await,
        }
    }

    async fn spread_tuples(&mut self, copy: &mut CopyState, end: End) -> Result<(), Halt> {
        let mut waiting = std::mem::take(&mut copy.waiting);
        let mut at = 0;
        if copy.header_due {
            match tuples::header(&waiting, end)? {
                Some(len) => {
                    copy.header_due = false;
                    at = len;
                }
                None => {
                    copy.waiting = waiting;
                    return Ok(());
                }
            }
        }
        let field = copy.copying.plan.goes.key_field();
        while let Some(tuple) = tuples::next(&waiting[at..], field) {
            let row = at..at + tuple.len;
            if copy.ended {
                break;
            }
            at = row.end;
            copy.line += 1;
            if tuple.key == Key::EndOfData {
                copy.ended = true;
            } else {
                self.take_tuple(copy, tuple.key, &waiting[row]).await?;
            }
        }
        waiting.advance(at);
        if copy.ended && !waiting.is_empty() {
            return Err(Refusal::new("22P04", "received copy data after EOF marker").into());
        }
        if end == End::Here && !waiting.is_empty() {
            // PostgreSQL says that it is no whole row.
            self.take_row(copy, Key::Missing, &waiting).await?;
            waiting.clear();
        }
        copy.waiting = waiting;
        Ok(())
    }

    async fn spread_lines(
        &mut self,
        copy: &mut CopyState,
        layout: &CopyLayout,
        end: End,
    ) -> Result<(), Halt> {
        let mut waiting = std::mem::take(&mut copy.waiting);
        let mut at = 0;
        let field = copy.copying.plan.goes.key_field();
        while let Some(row) = rows::next(&waiting[at..], layout, field, end) {
            let line = at..at + row.len;
            at = line.end;
            if copy.ended {
                continue;
            }
            check_ending(&mut copy.ending, row.ending)?;
            // A quoted value may go over several.
            let ends = waiting[line.clone()]
                .iter()
                .filter(|byte| **byte == b'\n')
                .count();
            copy.line += u64::try_from(ends.max(1)).unwrap_or(1);
            if row.key == Key::EndOfData {
                copy.ended = true;
            } else if std::mem::take(&mut copy.header_due) {
                let line = with_names(&waiting[line], row.ending, layout, &copy.copying.plan);
                copy.header = line.into();
            } else {
                self.take_line(copy, &row, &waiting[line], layout).await?;
            }
        }
        waiting.advance(at);
        copy.waiting = waiting;
        Ok(())
    }

    /// Sends a row of the binary format, with what is added to it.
    async fn take_tuple(&mut self, copy: &mut CopyState, key: Key<'_>, row: &[u8]) -> Result<(), Halt> {
        let added = self.added(copy).await?;
        let key = key_of(&copy.copying.plan, &added).unwrap_or(key);
        if added.is_empty() {
            return self.take_row(copy, key, row).await;
        }
        let row = with_fields(row, &copy.copying.plan, &added)?;
        self.take_row(copy, key, &row).await
    }

    /// The same of a line.
    async fn take_line(
        &mut self,
        copy: &mut CopyState,
        row: &rows::Row<'_>,
        line: &[u8],
        layout: &CopyLayout,
    ) -> Result<(), Halt> {
        let added = self.added(copy).await?;
        let key = key_of(&copy.copying.plan, &added).unwrap_or_else(|| row.key.clone());
        if added.is_empty() {
            return self.take_row(copy, key, line).await;
        }
        let line = with_values(line, row.ending, layout, &added);
        self.take_row(copy, key, &line).await
    }

    /// The values that a row gets.
    async fn added(&mut self, copy: &mut CopyState) -> Result<Added, Halt> {
        match &mut copy.supplies {
            Some(supplies) => self.next_added(supplies).await,
            None => Ok(Added::new()),
        }
    }

    /// Sends a row to where it belongs.
    async fn take_row(&mut self, copy: &mut CopyState, key: Key<'_>, row: &[u8]) -> Result<(), Halt> {
        let place = match copy.copying.plan.goes.clone() {
            Goes::Everywhere => {
                // In ascending order: the first row starts it everywhere, and takes the table's lock.
                for place in 0..self.slots.len() {
                    self.send_row(copy, place, row).await?;
                }
                return Ok(());
            }
            Goes::To(slot) => self.place_of_slot(copy, slot)?,
            Goes::ByKey { column, .. } => self.place_of_row(copy, key, &column).await?,
        };
        self.send_row(copy, place, row).await
    }

    fn place_of_slot(&self, copy: &CopyState, slot: HashSlot) -> Result<usize, Failure> {
        let group = copy.slots.group(slot);
        self.place(group)
            .ok_or_else(|| Failure::from(shard::client::ConnectError::UnknownGroup(group)))
    }

    async fn place_of_row(
        &mut self,
        copy: &mut CopyState,
        key: Key<'_>,
        column: &KeyColumn,
    ) -> Result<usize, Halt> {
        let slot = match key {
            Key::Value(value) => {
                let source = if copy.copying.plan.format == CopyFormat::Binary {
                    KeySource::Binary {
                        type_oid: 0,
                        bytes: &value,
                    }
                } else {
                    self.readable_value(Some(&value))?;
                    KeySource::Text {
                        type_oid: 0,
                        text: &value,
                    }
                };
                match column.slot(KeyUse::Assignment, source) {
                    Ok(slot) => slot,
                    Err(KeyError::AskPostgres | KeyError::Unroutable) => {
                        self.ask_copy_slot(copy, &value, column).await?
                    }
                }
            }
            Key::Null => HashSlot::NULL,
            // PostgreSQL has its own words for a row without the field; where it goes does not matter.
            Key::Missing | Key::EndOfData => {
                return match copy.parts.keys().next() {
                    Some(place) => Ok(*place),
                    None => self.any_place().await,
                };
            }
        };
        Ok(self.place_of_slot(copy, slot)?)
    }

    pub(super) async fn send_row(
        &mut self,
        copy: &mut CopyState,
        place: usize,
        line: &[u8],
    ) -> Result<(), Halt> {
        if !copy.parts.contains_key(&place) {
            self.start_copy(copy, place).await?;
        }
        let rows = copy.parts.entry(place).or_default();
        rows.extend_from_slice(line);
        if rows.len() >= CHUNK {
            self.send_rows(copy, place).await?;
        }
        Ok(())
    }

    /// Has PostgreSQL compute a key's slot, on a connection of its own with the session's settings.
    async fn ask_copy_slot(
        &mut self,
        copy: &mut CopyState,
        value: &[u8],
        key: &KeyColumn,
    ) -> Result<HashSlot, Halt> {
        let sets = |step: &Step| matches!(step, Step::Set { .. });
        if self
            .transaction
            .as_ref()
            .is_some_and(|t| t.script.iter().any(sets))
        {
            // A SET of this transaction may decide what the text means, and is not to be seen from outside.
            return Err(Refusal::unsupported(
                "a key that only PostgreSQL can read, in COPY after SET in a transaction",
            )
            .hint("Write the key in its plain ISO form.")
            .into());
        }
        let place = self.nearest;
        // It may stand in for the backend that has them.
        let temporary = std::mem::take(&mut self.temporary);
        let at_home = std::mem::take(&mut self.at_home);
        let before = self.current.take();
        let busy = std::mem::replace(&mut self.slots[place], copy.asked.take());
        let binary = copy.copying.plan.format == CopyFormat::Binary;
        let type_oid = if binary { key.key_type.oid() } else { 0 };
        let slot = self.ask_aside(place, key, (type_oid, binary, Some(value))).await;
        copy.asked = std::mem::replace(&mut self.slots[place], busy);
        self.current = before;
        (self.temporary, self.at_home) = (temporary, at_home);
        self.aim();
        // As `CopyFromErrorCallback` in copyfrom.c has it.
        slot.map_err(|halt| {
            halt.with_context(|_| {
                let (table, column) = (&copy.copying.plan.table.name, copy.copying.plan.goes.key_name());
                let place = format!("COPY {table}, line {}, column {column}", copy.line);
                if binary {
                    place
                } else {
                    format!("{place}: \"{}\"", String::from_utf8_lossy(value))
                }
            })
        })
    }

    async fn ask_aside(
        &mut self,
        place: usize,
        key: &KeyColumn,
        value: encode::Bound<'_>,
    ) -> Result<HashSlot, Halt> {
        if self.slots[place].is_none() {
            self.open(place, self.shared.limits.leader_wait).await?;
            self.replay_settings(place, Undone::Nothing).await?;
        }
        let sql = key.slot_query(KeyUse::Assignment);
        let answer = self.ask(place, &sql, Some(value)).await?;
        super::simple::read_slot(answer.as_deref())
    }

    /// Starts the COPY of a place.
    async fn start_copy(&mut self, copy: &mut CopyState, place: usize) -> Result<(), Halt> {
        // What runs already answers when its rows have ended, and cannot be waited for.
        self.current = None;
        self.enter(place, Access::Write, Style::Simple).await?;
        self.settle().await?;
        if copy.copying.plan.goes == Goes::Everywhere {
            self.lock_copy(place, &copy.copying.plan.table).await?;
        }
        let group = self.group(place);
        if let Some(conn) = &mut self.slots[place] {
            conn.captured = Captured::default();
            let text = copy.copying.plan.text.as_ref().unwrap_or(&copy.copying.text);
            conn.query(text, Audience::Session, Stake::Nothing);
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
        copy.parts.insert(place, BytesMut::from(&copy.header[..]));
        Ok(())
    }

    /// Sends on the rows of a place, and waits while it is behind.
    async fn send_rows(&mut self, copy: &mut CopyState, place: usize) -> Result<(), Halt> {
        let rows = copy.parts.entry(place).or_default().split();
        let group = self.group(place);
        self.current = Some(place);
        match &mut self.slots[place] {
            Some(conn) if conn.captured.error.is_none() => {
                encode::message(&mut conn.output, b'd', |out| out.extend_from_slice(&rows));
            }
            _ => {
                self.drain(place).await?;
                self.take_captured(place, group, Stake::Nothing)?;
                return Ok(());
            }
        }
        while self.slots[place]
            .as_ref()
            .is_some_and(|conn| conn.output.len() > super::io::HIGH_WATER)
        {
            self.written(place).await?;
        }
        Ok(())
    }

    /// Ends the COPY everywhere. Gives the number of rows.
    pub(super) async fn finish_copy(&mut self, copy: &mut CopyState) -> Result<u64, Halt> {
        self.spread(copy, End::Here).await?;
        let everywhere = copy.copying.plan.goes == Goes::Everywhere;
        if copy.parts.is_empty() {
            // No row that belongs anywhere: any group gives the right answer.
            let place = self.any_place().await?;
            self.start_copy(copy, place).await?;
        }
        let places: Vec<usize> = copy.parts.keys().copied().collect();
        for place in &places {
            if copy.ended && copy.copying.plan.format == CopyFormat::Binary {
                copy.parts
                    .entry(*place)
                    .or_default()
                    .extend_from_slice(tuples::TRAILER);
            }
            self.send_rows(copy, *place).await?;
            if let Some(conn) = &mut self.slots[*place] {
                encode::empty(&mut conn.output, b'c');
            }
        }
        let mut counted = 0;
        for place in places {
            let group = self.group(place);
            self.current = Some(place);
            self.aim();
            self.drain(place).await?;
            let here = self.take_captured(place, group, Stake::Nothing)?.counted;
            counted = if everywhere { here } else { counted + here };
        }
        Ok(counted)
    }

    /// Ends the COPY everywhere, as the client wants nothing of it.
    ///
    /// # Errors
    /// What stands against the rows that came before: that is found first.
    async fn fail_copy(&mut self, copy: &mut CopyState) -> Result<(), Halt> {
        let places: Vec<usize> = copy.parts.keys().copied().collect();
        for place in &places {
            self.send_rows(copy, *place).await?;
            if let Some(conn) = &mut self.slots[*place] {
                encode::copy_fail(&mut conn.output, "the client has ended it");
            }
        }
        for place in places {
            let group = self.group(place);
            self.current = Some(place);
            self.aim();
            self.drain(place).await?;
            match self.take_captured(place, group, Stake::Nothing) {
                Err(Halt::Fail(failure)) if failure.is_copy_fail() => {}
                Err(halt) => return Err(halt),
                Ok(_) => {}
            }
        }
        Ok(())
    }

    /// The copy has failed: nothing of it is kept.
    pub(super) async fn abandon_copy(&mut self, copy: &mut CopyState) -> Result<(), Ended> {
        for place in copy.parts.keys() {
            if let Some(conn) = self.slots[*place].as_mut().filter(|conn| !conn.expect.is_empty()) {
                // PostgreSQL ignores it where the rows have ended already.
                encode::copy_fail(&mut conn.output, "refused by Howdah");
                for due in &mut conn.expect {
                    due.audience = Audience::Quiet;
                }
            }
        }
        for place in copy.parts.keys() {
            self.current = Some(*place).filter(|place| self.slots[*place].is_some());
            self.drain(*place).await?;
        }
        Ok(())
    }
}

/// Lines must end alike (`CopyReadLineText` in `copyfromparse.c`).
fn check_ending(first: &mut Option<Ending>, ending: Ending) -> Result<(), Refusal> {
    let wrong = |what: &str| {
        Refusal::new("22P04", format!("{what} in the data of COPY"))
            .hint("End every line with a newline, or every line with a carriage return and a newline.")
    };
    match (*first.get_or_insert(ending), ending) {
        (_, Ending::Return) => Err(wrong("a carriage return that is neither quoted nor escaped")),
        (_, Ending::Data) => Ok(()),
        (first, ending) if first == ending => Ok(()),
        _ => Err(wrong("lines that end in different ways")),
    }
}
