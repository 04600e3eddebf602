//! One read of several groups: each works at the same time, and their rows follow one another.
//!
//! Memory stays bounded: only one backend is read at a time, the kernel's buffers hold the others back.

use super::Session;
use super::conn::{Audience, Captured, Conn, Kind, Stake};
use super::enter::Style;
use super::extended::copies_out;
use crate::analysis::{Access, Form, Query, Tag};
use crate::failure::Halt;
use crate::protocol::encode;

impl Session {
    /// Runs a Query on all these groups and answers all but ReadyForQuery.
    pub(super) async fn scatter_query(
        &mut self,
        places: &[usize],
        text: &str,
        query: &Query,
    ) -> Result<(), Halt> {
        for place in places {
            self.enter(*place, Access::Read, Style::Simple).await?;
            self.settle().await?;
        }
        for (index, place) in places.iter().enumerate() {
            if let Some(conn) = &mut self.slots[*place] {
                let audience = if index == 0 {
                    Audience::MergeFirst
                } else {
                    Audience::MergeNext
                };
                conn.captured = Captured::merging(&query.form);
                conn.query(text, audience, Stake::Nothing);
            }
        }
        self.gather(places, query).await
    }

    /// Passes on the answers that all these backends owe, in this order, as one.
    pub(super) async fn gather(&mut self, places: &[usize], query: &Query) -> Result<(), Halt> {
        let targets: Vec<_> = places
            .iter()
            .filter_map(|p| self.slots[*p].as_ref())
            .map(Conn::target)
            .collect();
        self.entered.session.aim(targets);
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
    async fn abandon(&mut self, places: &[usize]) -> Result<(), Halt> {
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
                    tracing::debug!(%error, "a statement could not be cancelled");
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
