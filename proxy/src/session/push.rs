//! An INSERT ... SELECT of which each group can insert what it selects of its own rows (`analysis/feed.rs`): whether the groups do that.
//!
//! They do where the transaction has one snapshot of all of them. At READ COMMITTED each would take a snapshot of its own, and a transaction on
//! several groups that commits meanwhile could be in what some of them select and not in what others do. There:
//!
//! - Outside of a block the statement gets a transaction of its own that is REPEATABLE READ. It may fail with 40001 where at READ COMMITTED it would
//!   not: a row that ON CONFLICT finds, or to which a foreign key points, has changed since the snapshot. Nothing of it is kept or told then, and it
//!   is done in the other way.
//! - Otherwise its rows come to the session, which reads them in one cut ([`super::feed`]).

use super::Session;
use super::enter::Style;
use super::plans::Planned;
use crate::analysis::{Access, Feed, Isolation, Query};
use crate::failure::Halt;

impl Session {
    /// Answers all but ReadyForQuery of a Query, as a transaction by itself where it is in none.
    pub(super) async fn selecting_insert(
        &mut self,
        places: &[usize],
        text: &str,
        (query, feed): (&Query, &Feed),
        planned: &Planned,
    ) -> Result<(), Halt> {
        if self.inserts_in_snapshot(feed).await? {
            let since = self.timeouts.since();
            self.open_snapshot();
            return match self.write_alone(true, places, text, query).await {
                Err(Halt::Fail(failure)) if failure.is_of_serialization() => {
                    tracing::debug!(%failure, "an INSERT ... SELECT is done again by way of the node");
                    self.timeouts.go_on(since);
                    let own = self.open_transaction(Style::Simple).await?;
                    self.feed_alone(own, text, feed, planned).await
                }
                done => done,
            };
        }
        let own = self.open_transaction(Style::Simple).await?;
        match self.inserts_within_groups(places, feed, Style::Simple).await {
            Ok(true) => self.write_alone(own, places, text, query).await,
            Ok(false) => self.feed_alone(own, text, feed, planned).await,
            Err(halt) => self.close_transaction(own, Err(halt)).await,
        }
    }

    /// Whether a transaction for the statement alone can have a snapshot that its transaction would not have. What it returns the client would
    /// have before it is known whether that will do.
    async fn inserts_in_snapshot(&mut self, feed: &Feed) -> Result<bool, Halt> {
        if self.transaction.is_some()
            || !self.pipeline.touched.is_empty()
            || !feed.within_groups
            || feed.cut.returns
        {
            return Ok(false);
        }
        let place = self.any_place().await?;
        self.enter_bare(place).await?;
        Ok(self.default_isolation(place).await? == Isolation::ReadCommitted)
    }

    /// Whether each group runs it for its own rows, in the transaction that is open.
    pub(super) async fn inserts_within_groups(
        &mut self,
        places: &[usize],
        feed: &Feed,
        style: Style,
    ) -> Result<bool, Halt> {
        let Some(first) = places.first().filter(|_| feed.within_groups) else {
            return Ok(false);
        };
        // Its first group decides what a transaction sees.
        self.enter(*first, Access::Read, style).await?;
        Ok(!self.has_a_view_of_each_statement())
    }
}
