//! A temporary table gets rows of distributed tables, from whatever groups they are on: its own group's as it is made, the
//! others' by COPY, as they come. All of it is one transaction, whose snapshot is one of all groups unless that is a READ COMMITTED
//! block, where each group shows what it has when it is read.
//!
//! An INSERT's rows are gathered in a table of the query's own types first, and the statement itself runs on that: so PostgreSQL converts
//! them as it does for any INSERT.

use super::Session;
use super::conn::{Audience, Stake};
use super::enter::Style;
use super::home::HOME;
use super::plans::Planned;
use super::rekey::Carry;
use super::simple::Placed;
use crate::analysis::{Access, Fill, Form, Isolation, Refusal};
use crate::failure::Halt;
use crate::protocol::encode;

impl Session {
    /// Runs such a statement, and answers all but ReadyForQuery. Nothing is owed before.
    pub(super) async fn fill(&mut self, fill: &Fill, planned: &Planned, style: Style) -> Result<(), Halt> {
        self.allow_definition(&Form::Defines)?;
        let places = match self.route(&fill.query, &[], None, planned).await? {
            Placed::One(place) => vec![place],
            Placed::Many(places) => places,
            Placed::Rows(_) => return Err(Refusal::unsupported("this statement cannot be used here").into()),
        };
        let own = self.begin_fill(style).await?;
        let filled = self.fill_from(fill, &places, planned).await;
        let tag = self.close_transaction(own, filled).await?;
        encode::command_complete(self.out(), &tag);
        Ok(())
    }

    /// Sees to it that a transaction is open; whether it is this statement's own. One that is has one snapshot of all groups.
    async fn begin_fill(&mut self, style: Style) -> Result<bool, Halt> {
        if self.transaction.is_some() || !self.pipeline.touched.is_empty() {
            return self.open_transaction(style).await;
        }
        let place = self.any_place().await?;
        self.enter_bare(place).await?;
        if self.default_isolation(place).await? == Isolation::Serializable {
            return self.open_transaction(style).await;
        }
        self.open_snapshot();
        Ok(style == Style::Simple)
    }

    /// Gives the tag.
    async fn fill_from(&mut self, fill: &Fill, places: &[usize], planned: &Planned) -> Result<String, Halt> {
        let rows = if places.contains(&HOME) {
            ""
        } else {
            " WITH NO DATA"
        };
        // Together with its own rows: the query may read a table that is hidden once this one is there.
        let create = format!("{}{rows}", fill.create);
        let mut counted = self.at_home(&create, Audience::Session).await?.counted;
        self.note_definition();
        let carry = Carry {
            read: format!("COPY ({}) TO STDOUT", fill.text),
            write: format!("COPY {} FROM STDIN", fill.table),
            to: Some(HOME),
        };
        for source in places.iter().filter(|place| **place != HOME) {
            counted += self.carry(*source, &carry, &planned.slots).await?;
        }
        let Some(insert) = &fill.insert else {
            return Ok(format!("SELECT {counted}"));
        };
        let tag = self.at_home(insert, Audience::Session).await?.tag;
        self.at_home(&format!("DROP TABLE {}", fill.table), Audience::Quiet)
            .await?;
        Ok(tag.unwrap_or_default())
    }

    async fn at_home(&mut self, sql: &str, audience: Audience) -> Result<super::captured::Captured, Halt> {
        self.enter(HOME, Access::Write, Style::Simple).await?;
        self.settle().await?;
        self.exec(HOME, sql, audience, Stake::Nothing).await
    }
}
