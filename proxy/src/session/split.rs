//! One statement that writes on several groups: each does its own rows, all of them or none.
//!
//! The groups work one after the other, in ascending order. Two such statements therefore never wait for each other
//! in a circle: who waits in a group holds locks in lower ones alone, so whoever he waits for, there or in a higher
//! group, does not wait in a lower one. (A circle inside one group is found by its PostgreSQL.)
//!
//! What they write is one transaction: the client's block, the pipeline's, or one for this statement alone. A
//! failure anywhere fails all of it, and `two_phase` commits it.

use bytes::{Bytes, BytesMut};
use coordinator::catalogue::bootstrap::lock_reference_sql;

use super::Session;
use super::captured::{Captured, Kept};
use super::conn::{Audience, Conn, Kind, Stake};
use super::enter::Style;
use super::extended::copies_out;
use super::statements::Portal;
use super::together::Statement;
use super::transaction::Transaction;
use crate::analysis::{Access, Isolation, Query, Refusal, RelationName, Spread, Target, TransactionModes};
use crate::failure::{Failure, Halt};
use crate::protocol::encode;
use crate::protocol::frontend::Execute;

/// What the groups have counted, in the words of the last.
#[derive(Debug, Default)]
struct Tally {
    tag: String,
    counted: u64,
    /// The rows that each returned, if they were kept.
    kept: Vec<Vec<Bytes>>,
    /// What the first said of them, if that was kept.
    description: Bytes,
}

impl Tally {
    /// Takes what a group has done to its copy of a reference table, which the first group speaks of.
    fn same(&mut self, index: usize, captured: Captured, table: &RelationName) -> Result<(), Failure> {
        if index == 0 {
            return self.add(captured);
        }
        captured.tag.ok_or(Failure::TransactionAborted)?;
        if captured.counted == self.counted {
            return Ok(());
        }
        let words = format!(
            "the copies of reference table \"{}\" differ from group to group",
            table.name
        );
        Err(Refusal::new("XX000", words)
            .detail("The statement finds another number of rows in each. Nothing of it was kept.")
            .into())
    }

    fn add(&mut self, captured: Captured) -> Result<(), Failure> {
        if let Some(kept) = captured.kept {
            self.kept.push(kept.rows);
            if self.description.is_empty() {
                self.description = kept.description.unwrap_or_default();
            }
        }
        // Without a tag it was skipped: its transaction could not begin, and the client has been told why.
        self.tag = captured.tag.ok_or(Failure::TransactionAborted)?;
        self.counted += captured.counted;
        Ok(())
    }

    /// The rows that were kept, as the client gets them.
    fn rows(&mut self, parts: Option<&Parts>) -> Vec<Bytes> {
        let kept = std::mem::take(&mut self.kept);
        match parts {
            Some(parts) => parts.in_order(kept),
            None => kept.into_iter().flatten().collect(),
        }
    }

    /// `UPDATE 3`, or what has no count as it is.
    fn tag(&self) -> String {
        match self.tag.rsplit_once(' ') {
            Some((words, count)) if count.bytes().all(|byte| byte.is_ascii_digit()) => {
                format!("{words} {}", self.counted)
            }
            _ => self.tag.clone(),
        }
    }
}

/// An INSERT of several rows, cut.
#[derive(Debug)]
pub(super) struct Parts {
    parts: Vec<Part>,
    /// The types of its parameters. Each part has all of them, whether it uses them or not: their numbers, types and
    /// values are those of the whole statement.
    types: Vec<u32>,
    /// The client's Bind after its names.
    bind: Bytes,
}

/// What one group runs of it.
#[derive(Debug)]
struct Part {
    place: usize,
    text: String,
    /// Which rows of the whole statement's.
    rows: Vec<usize>,
}

impl Parts {
    /// Cuts a statement's text; these rows of VALUES go to each place.
    pub(super) fn of(query: &Query, text: &str, placed: Vec<(usize, Vec<usize>)>) -> Parts {
        let cut = |rows: &[usize]| match &query.target {
            Target::Keys(_, Spread::Rows(values)) => values.only(text, rows),
            _ => text.to_owned(),
        };
        let part = |(place, rows): (usize, Vec<usize>)| Part {
            place,
            text: cut(&rows),
            rows,
        };
        Parts {
            parts: placed.into_iter().map(part).collect(),
            types: Vec::new(),
            bind: Bytes::new(),
        }
    }

    /// The same with parameters.
    pub(super) fn with(self, types: Vec<u32>, bind: &[u8]) -> Parts {
        let bind = Bytes::copy_from_slice(bind);
        Parts { types, bind, ..self }
    }

    pub(super) fn places(&self) -> Vec<usize> {
        self.parts.iter().map(|part| part.place).collect()
    }

    /// Parses and binds a place's part there; `number` is a new one for its unnamed statement.
    pub(super) fn bind(&self, conn: &mut Conn, number: u64, portal: &[u8], place: usize) {
        let Some(part) = self.parts.iter().find(|part| part.place == place) else {
            return;
        };
        let mut message = BytesMut::new();
        encode::parse(&mut message, b"", part.text.as_bytes(), &self.types);
        conn.parse(b"", number, &message, Audience::Silent);
        encode::bind_unnamed(&mut conn.output, portal, &self.bind);
        conn.owes(Kind::Bind, Audience::Silent, Stake::Nothing);
    }

    /// Rows that the groups returned, in the order of VALUES if each row has returned one.
    ///
    /// A row returns one row or, by ON CONFLICT, none, and a group returns them in the order of its VALUES.
    fn in_order(&self, kept: Vec<Vec<Bytes>>) -> Vec<Bytes> {
        let whole = |(part, rows): (&Part, &Vec<Bytes>)| part.rows.len() == rows.len();
        if !self.parts.iter().zip(&kept).all(whole) {
            return kept.into_iter().flatten().collect();
        }
        let numbers = self.parts.iter().flat_map(|part| part.rows.iter().copied());
        let mut numbered: Vec<_> = numbers.zip(kept.into_iter().flatten()).collect();
        numbered.sort_by_key(|(number, _)| *number);
        numbered.into_iter().map(|(_, row)| row).collect()
    }
}

/// Who hears a group's answer: the client, as one answer of all, or of copies that of the first alone.
fn audience(index: usize, copied: Option<&RelationName>) -> Audience {
    match copied {
        Some(_) if index > 0 => Audience::Quiet,
        _ => Audience::merging(index),
    }
}

impl Session {
    /// Runs a Query on all these groups and answers all but ReadyForQuery.
    pub(super) async fn query_on_several(
        &mut self,
        places: &[usize],
        text: &str,
        statement: Statement,
        query: &Query,
    ) -> Result<(), Halt> {
        if query.access == Access::Read {
            return self.scatter_alone(places, text, statement, query).await;
        }
        let own = self.open_transaction(Style::Simple).await?;
        self.write_alone(own, places, text, query).await
    }

    /// Runs a Query that writes on all these groups, ends the transaction that was opened for it alone, and answers all but ReadyForQuery.
    pub(super) async fn write_alone(
        &mut self,
        own: bool,
        places: &[usize],
        text: &str,
        query: &Query,
    ) -> Result<(), Halt> {
        let texts: Vec<_> = places.iter().map(|place| (*place, text)).collect();
        let written = self.write_query(&texts, None, query).await;
        let tally = self.close_transaction(own, written).await?;
        self.answer(query, None, tally);
        Ok(())
    }

    /// Runs a Query that inserts these rows of VALUES at each place, and answers all but ReadyForQuery.
    pub(super) async fn insert_query(
        &mut self,
        text: &str,
        query: &Query,
        rows: Vec<(usize, Vec<usize>)>,
    ) -> Result<(), Halt> {
        // What is wrong with the whole may not show in the parts: rows of unequal length, for one.
        self.parse_only(text.as_bytes()).await?;
        let parts = Parts::of(query, text, rows);
        let own = self.open_transaction(Style::Simple).await?;
        let texts: Vec<_> = parts.parts.iter().map(|p| (p.place, p.text.as_str())).collect();
        let written = self.write_query(&texts, Some(&parts), query).await;
        let tally = self.close_transaction(own, written).await?;
        self.answer(query, Some(&parts), tally);
        Ok(())
    }

    async fn write_query(
        &mut self,
        texts: &[(usize, &str)],
        parts: Option<&Parts>,
        query: &Query,
    ) -> Result<Tally, Halt> {
        let mut tally = Tally::default();
        let copied = query.copied();
        for (index, (place, text)) in texts.iter().enumerate() {
            self.enter(*place, Access::Write, Style::Simple).await?;
            if let Some(table) = copied {
                self.lock_copy(*place, table).await?;
            }
            let send = |conn: &mut Conn, audience| conn.query(text, audience, Stake::Nothing);
            let kept = parts.map(|_| self.room_for_rows());
            let audience = audience(index, copied);
            let done = self.write_one(*place, audience, kept, send).await?;
            match copied {
                Some(table) => tally.same(index, done, table)?,
                None => tally.add(done)?,
            }
        }
        Ok(tally)
    }

    /// Whoever writes to a reference table locks it in each group before the statement has its snapshot there: so in every group
    /// it finds what the same transactions before have left.
    pub(super) async fn lock_copy(&mut self, place: usize, table: &RelationName) -> Result<(), Halt> {
        let lock = lock_reference_sql(&table.schema, &table.name);
        self.ask(place, &lock, None).await.map(drop)
    }

    /// Executes a portal of several groups, and answers. Its commit comes with the block's end or the pipeline's.
    pub(super) async fn write_portal(
        &mut self,
        places: &[usize],
        parts: Option<&Parts>,
        query: &Query,
        execute: &Execute<'_>,
    ) -> Result<(), Halt> {
        let portal = execute.portal;
        self.open_transaction(Style::Extended).await?;
        let (mut tally, copied) = (Tally::default(), query.copied());
        for (index, place) in places.iter().enumerate() {
            self.enter(*place, Access::Write, Style::Extended).await?;
            if let Some(table) = copied {
                self.lock_copy(*place, table).await?;
            }
            if let Some(check) = self.bind_one(*place, portal) {
                self.check_columns(*place, check).await?;
            }
            let send = |conn: &mut Conn, audience| {
                encode::execute(&mut conn.output, portal, 0);
                conn.owes(Kind::Execute, audience, Stake::Nothing);
            };
            let kept = parts.is_some() || execute.limit > 0;
            let kept = (kept && (index == 0 || copied.is_none())).then(|| self.room_for_rows());
            let done = self
                .write_one(*place, audience(index, copied), kept, send)
                .await?;
            match copied {
                Some(table) => tally.same(index, done, table)?,
                None => tally.add(done)?,
            }
        }
        if execute.limit <= 0 {
            self.answer(query, parts, tally);
            return Ok(());
        }
        // The client asks for some of the rows at a time; all is written now.
        let (tag, rows) = (tally.tag(), tally.rows(parts));
        let written = Portal::Rows {
            place: places[0],
            tag,
            returns: !rows.is_empty(),
            rows: rows.into(),
        };
        self.statements.replace_portal(portal, written);
        // The first one describes it, if it is asked to.
        for place in &places[1..] {
            if let Some(conn) = &mut self.slots[*place] {
                conn.stale_portals.push(portal.to_vec());
            }
        }
        self.execute_rows(portal, execute.limit);
        Ok(())
    }

    pub(super) fn room_for_rows(&self) -> Kept {
        Kept::with_description(self.shared.limits.max_message)
    }

    /// Has one group, which was entered, do its part; rows that it returns go to the client, or are kept.
    async fn write_one(
        &mut self,
        place: usize,
        audience: Audience,
        kept: Option<Kept>,
        send: impl FnOnce(&mut Conn, Audience),
    ) -> Result<Captured, Halt> {
        self.settle().await?;
        let group = self.group(place);
        if let Some(conn) = &mut self.slots[place] {
            conn.captured = Captured {
                kept,
                ..Captured::default()
            };
            send(conn, audience);
        }
        self.drain(place).await?;
        self.take_captured(place, group, Stake::Nothing)
    }

    fn answer(&mut self, query: &Query, parts: Option<&Parts>, mut tally: Tally) {
        self.client.output.extend_from_slice(&tally.description);
        for row in tally.rows(parts) {
            self.out().extend_from_slice(&row);
        }
        if copies_out(&query.form) {
            encode::empty(self.out(), b'c');
        }
        encode::command_complete(self.out(), &tally.tag());
    }

    /// Makes sure that a transaction is open; whether it is this statement's own.
    pub(super) async fn open_transaction(&mut self, style: Style) -> Result<bool, Halt> {
        if self.transaction.is_some() {
            return Ok(false);
        }
        let own = style == Style::Simple && self.pipeline.touched.is_empty();
        self.open_pipeline_transaction().await?;
        Ok(own)
    }

    /// Opens a transaction that has one snapshot of all groups, and may write.
    pub(super) fn open_snapshot(&mut self) {
        let modes = TransactionModes {
            isolation: Some(Isolation::RepeatableRead),
            ..TransactionModes::default()
        };
        let mut transaction = Transaction::new("BEGIN ISOLATION LEVEL REPEATABLE READ", modes);
        transaction.began = self.pipeline.began.unwrap_or(transaction.began);
        transaction.implicit = true;
        self.transaction = Some(transaction);
    }

    /// Ends the transaction that was opened for a statement alone.
    pub(super) async fn close_transaction<T>(
        &mut self,
        own: bool,
        result: Result<T, Halt>,
    ) -> Result<T, Halt> {
        match result {
            Ok(done) if own => self.commit(Audience::Session).await.map(|()| done),
            Err(halt @ (Halt::Fail(_) | Halt::Skip)) if own => {
                self.roll_back().await?;
                Err(halt)
            }
            result => result,
        }
    }
}
