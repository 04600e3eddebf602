//! One read of several groups: each works at the same time, and their rows follow one another.
//!
//! Memory stays bounded: only one backend is read at a time, the kernel's buffers hold the others back.

use super::Session;
use super::captured::{Captured, Line};
use super::conn::{Audience, Kind, Stake};
use super::enter::Style;
use super::extended::copies_out;
use super::together::Statement;
use super::transaction::Transaction;
use crate::analysis::{Access, Form, Isolation, Query, Tag, TransactionModes};
use crate::failure::Halt;
use crate::protocol::encode;

impl Session {
    /// A read of several groups that is a transaction by itself gets one snapshot of them: it becomes one of ours, which
    /// the caller ends (or Sync). Whether it has. In a pipeline of several statements one that can take a cut (`cuts`) is a part of the
    /// pipeline's, each of whose statements sees what is committed when it begins, at READ COMMITTED.
    pub(super) async fn begin_read_of_several(&mut self, cuts: bool) -> Result<bool, Halt> {
        if self.transaction.is_some() || self.slots.len() == 1 {
            return Ok(false);
        }
        if !self.pipeline.touched.is_empty() {
            self.open_pipeline_transaction().await?;
            return Ok(false);
        }
        let place = self.any_place().await?;
        self.enter_bare(place).await?;
        let (begin, isolation) = match self.default_isolation(place).await? {
            Isolation::ReadCommitted if cuts && self.pipeline.goes_on => {
                self.open_pipeline_transaction().await?;
                return Ok(false);
            }
            Isolation::Serializable => (
                "BEGIN ISOLATION LEVEL SERIALIZABLE READ ONLY",
                Isolation::Serializable,
            ),
            _ => ("BEGIN ISOLATION LEVEL REPEATABLE READ", Isolation::RepeatableRead),
        };
        let modes = TransactionModes {
            isolation: Some(isolation),
            read_only: Some(isolation == Isolation::Serializable),
            deferrable: None,
        };
        let mut transaction = Transaction::new(begin, modes);
        transaction.began = self.pipeline.began.unwrap_or(transaction.began);
        transaction.implicit = true;
        self.transaction = Some(transaction);
        Ok(true)
    }

    /// Runs a Query on all these groups, as a transaction by itself where it is in none, and answers all but ReadyForQuery.
    pub(super) async fn scatter_alone(
        &mut self,
        places: &[usize],
        text: &str,
        statement: Statement,
        query: &Query,
    ) -> Result<(), Halt> {
        let begun = self.begin_read_of_several(true).await?;
        let answered = self.scatter_query(places, text, statement, query).await;
        self.close_transaction(begun, answered).await
    }

    /// Runs a Query on all these groups and answers all but ReadyForQuery.
    pub(super) async fn scatter_query(
        &mut self,
        places: &[usize],
        text: &str,
        statement: Statement,
        query: &Query,
    ) -> Result<(), Halt> {
        for place in places {
            self.enter(*place, Access::Read, Style::Simple).await?;
            self.settle().await?;
        }
        if statement == Statement::Itself && self.takes_cuts(query) {
            self.query_together(places, text, query).await?;
            return self.gather(places, query).await;
        }
        for (index, place) in places.iter().enumerate() {
            if let Some(conn) = &mut self.slots[*place] {
                let audience = Audience::merging(index);
                conn.captured = Captured::merging(&query.form, Line::at(index, places.len()));
                conn.query(text, audience, Stake::Nothing);
            }
        }
        self.gather(places, query).await
    }

    /// Passes on the answers that all these backends owe, in this order, as one.
    pub(super) async fn gather(&mut self, places: &[usize], query: &Query) -> Result<(), Halt> {
        self.aim_at(places);
        let mut counted = 0;
        let mut kept = Vec::new();
        for (index, place) in places.iter().enumerate() {
            let group = self.group(*place);
            self.current = Some(*place);
            self.drain(*place).await?;
            match self.take_captured(*place, group, Stake::Nothing) {
                Ok(captured) => {
                    counted += captured.counted;
                    kept.extend(captured.kept.into_iter().flat_map(|kept| kept.rows));
                }
                Err(halt) => {
                    self.abandon(&places[index + 1..]).await?;
                    self.aim();
                    return Err(halt);
                }
            }
        }
        self.aim();
        if query.form == Form::Count {
            encode::sum_of_counts(self.out(), &kept)?;
            counted = 1;
        }
        if copies_out(&query.form) {
            encode::empty(self.out(), b'c');
        }
        match query.tag {
            Tag::Copy => encode::command_complete(self.out(), &format!("COPY {counted}")),
            Tag::Select | Tag::AsIs => {
                encode::command_complete(self.out(), &format!("SELECT {counted}"));
            }
        }
        Ok(())
    }

    /// One group has failed: what the others still send is of no use.
    pub(super) async fn abandon(&mut self, places: &[usize]) -> Result<(), Halt> {
        let failed_at = self.current;
        for place in places {
            let Some(conn) = &mut self.slots[*place] else {
                continue;
            };
            for due in &mut conn.expect {
                due.audience = Audience::Quiet;
            }
            if conn
                .expect
                .iter()
                .any(|due| matches!(due.kind, Kind::Query | Kind::Execute))
            {
                let target = conn.target();
                // If it comes too late the answer is drained anyway.
                let cancelled = self
                    .shared
                    .groups
                    .cancel(target.group, target.process_id, target.secret_key)
                    .await;
                if let Err(error) = cancelled {
                    // It may still come, and must not meet what runs here next.
                    tracing::debug!(%error, "a statement could not be cancelled");
                    self.broke(*place, "a cancel was not answered")?;
                    continue;
                }
            }
            self.current = Some(*place);
            self.drain(*place).await?;
            if let Some(conn) = &mut self.slots[*place] {
                conn.captured = Captured::default();
            }
        }
        self.current = failed_at.filter(|place| self.slots[*place].is_some());
        Ok(())
    }
}
