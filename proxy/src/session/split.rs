//! One statement that writes on several groups: each does its own rows, all of them or none.
//!
//! The groups work one after the other, in ascending order. Two such statements therefore never wait for each other
//! in a circle: who waits in a group holds locks in lower ones alone, so whoever he waits for, there or in a higher
//! group, does not wait in a lower one. (A circle inside one group is found by its PostgreSQL.)
//!
//! What they write is one transaction: the client's block, the pipeline's, or one for this statement alone. A
//! failure anywhere fails all of it, and `two_phase` commits it.

use super::Session;
use super::conn::{Audience, Captured, Conn, Stake};
use super::enter::Style;
use super::extended::copies_out;
use crate::analysis::{Access, Query};
use crate::failure::{Failure, Halt};
use crate::protocol::encode;

/// What the groups have counted, in the words of the last.
#[derive(Debug, Default)]
struct Tally {
    tag: String,
    counted: u64,
}

impl Tally {
    fn add(&mut self, captured: Captured) -> Result<(), Failure> {
        // Without a tag it was skipped: its transaction could not begin, and the client has been told why.
        self.tag = captured.tag.ok_or(Failure::TransactionAborted)?;
        self.counted += captured.counted;
        Ok(())
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

impl Session {
    /// Runs a Query on all these groups and answers all but ReadyForQuery.
    pub(super) async fn query_on_several(
        &mut self,
        places: &[usize],
        text: &str,
        query: &Query,
    ) -> Result<(), Halt> {
        if query.access == Access::Read {
            return self.scatter_query(places, text, query).await;
        }
        let own = self.open_transaction(Style::Simple).await?;
        let written = self.write_query(places, text).await;
        let tally = self.close_transaction(own, written).await?;
        self.answer(query, &tally);
        Ok(())
    }

    async fn write_query(&mut self, places: &[usize], text: &str) -> Result<Tally, Halt> {
        let mut tally = Tally::default();
        for (index, place) in places.iter().enumerate() {
            self.enter(*place, Access::Write, Style::Simple).await?;
            let send = |conn: &mut Conn, audience| conn.query(text, audience, Stake::Nothing);
            tally.add(self.write_one(*place, index, send).await?)?;
        }
        Ok(tally)
    }

    /// Executes a portal of several groups, and answers. Its commit comes with the block's end or the pipeline's.
    pub(super) async fn write_portal(
        &mut self,
        places: &[usize],
        query: &Query,
        portal: &[u8],
        execute: &[u8],
    ) -> Result<(), Halt> {
        self.open_transaction(Style::Extended).await?;
        let mut tally = Tally::default();
        for (index, place) in places.iter().enumerate() {
            self.enter(*place, Access::Write, Style::Extended).await?;
            self.bind_one(*place, portal);
            let send = |conn: &mut Conn, audience| {
                conn.output.extend_from_slice(execute);
                conn.owes(super::conn::Kind::Execute, audience, Stake::Nothing);
            };
            tally.add(self.write_one(*place, index, send).await?)?;
        }
        self.answer(query, &tally);
        Ok(())
    }

    /// Has one group, which was entered, do its part; rows that it returns go to the client.
    async fn write_one(
        &mut self,
        place: usize,
        index: usize,
        send: impl FnOnce(&mut Conn, Audience),
    ) -> Result<Captured, Halt> {
        self.settle().await?;
        let group = self.group(place);
        if let Some(conn) = &mut self.slots[place] {
            conn.captured = Captured::default();
            let audience = if index == 0 {
                Audience::MergeFirst
            } else {
                Audience::MergeNext
            };
            send(conn, audience);
        }
        self.drain(place).await?;
        self.take_captured(place, group, Stake::Nothing)
    }

    fn answer(&mut self, query: &Query, tally: &Tally) {
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

    /// Ends the transaction that [`Session::open_transaction`] has opened for a statement alone.
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
