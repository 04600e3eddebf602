//! What PostgreSQL says of a text that it reads and does not run.

use std::ops::Range;

use super::Session;
use super::captured::Captured;
use super::conn::{Audience, Kind, Stake};
use super::home::HOME;
use super::plans::{Planned, PlannedStatement};
use crate::analysis::{Plan, Refusal, TransactionControl, copied_alone, of_no_rows};
use crate::failure::{Failure, Halt};
use crate::protocol::encode;

impl Session {
    /// PostgreSQL reads a text before it finds that its transaction has failed (`exec_simple_query` in postgres.c).
    pub(super) async fn check_syntax(&mut self, text: &str, planned: &Planned) -> Result<(), Halt> {
        // A transaction ends also while no group can be asked.
        if planned.needs_no_tables() || !self.transaction.as_ref().is_some_and(|t| t.failed) {
            return Ok(());
        }
        match self.parse_only(text.as_bytes()).await {
            Err(Halt::Fail(failure)) if !failure.is_of_syntax() => Ok(()),
            parsed => parsed,
        }
    }

    /// PostgreSQL reads the whole text of a Query before it runs the first of several statements (`exec_simple_query` in
    /// postgres.c): so that is asked, before one of them runs that may not be taken back.
    ///
    /// A Parse of several statements fails, however good they are, and would stand in PostgreSQL's log and end the transaction. So they
    /// are given as the body of a procedure, which PostgreSQL reads by the same grammar, and only reads. Where it objects to
    /// that it is asked once more for its own words, and the place, in the text itself.
    pub(super) async fn read_whole(&mut self, planned: &Planned) -> Result<(), Halt> {
        if self.transaction.as_ref().is_some_and(|t| t.failed) {
            // See `check_syntax`.
            return Ok(());
        }
        let unsure = planned.statements.iter().filter(|statement| !is_sure(statement));
        let unsure: Vec<&str> = unsure.map(|statement| statement.text.as_str()).collect();
        if unsure.is_empty() {
            return Ok(());
        }
        let mut objection = None;
        // RETURN is a statement there, and not elsewhere.
        if !unsure.iter().any(|text| starts_with(text, "return")) {
            let procedure = format!(
                "CREATE PROCEDURE howdah() BEGIN ATOMIC {}; END",
                unsure.join("; ")
            );
            match self.parse_only(procedure.as_bytes()).await {
                Err(Halt::Fail(failure @ Failure::Postgres(_))) => objection = Some(failure),
                read => return read,
            }
        }
        match self.parse_only(planned.text.as_bytes()).await {
            Err(Halt::Fail(failure)) if failure.is_of_several() => match &self.transaction {
                None => Ok(()),
                // It has failed by the question.
                Some(_) => Err(objection.unwrap_or(failure).into()),
            },
            read => read,
        }
    }

    /// Has PostgreSQL parse a statement that is not understood: its error is the better one.
    pub(super) async fn judge(&mut self, text: &[u8], refusal: &Refusal) -> Result<(), Halt> {
        self.parse_only(text).await?;
        Err(refusal.clone().into())
    }

    /// The same of a COPY of a query, here in the text. PostgreSQL looks at the options first.
    pub(super) async fn judge_copied(
        &mut self,
        text: &str,
        query: &Range<usize>,
        refusal: &Refusal,
    ) -> Result<(), Halt> {
        let place = self.any_place().await?;
        self.enter_bare(place).await?;
        self.ask(place, &of_no_rows(text, query), None).await?;
        self.judge(copied_alone(text, query).as_bytes(), refusal).await
    }

    /// Refuses a statement. What is no SQL at all PostgreSQL says in its own words.
    pub(super) async fn refuse(&mut self, text: &str, refusal: &Refusal) -> Result<(), Halt> {
        if refusal.sqlstate == "42601" {
            self.parse_only(text.as_bytes()).await?;
        }
        Err(refusal.clone().into())
    }

    /// Whether PostgreSQL takes a statement: only parsed, it does nothing.
    pub(super) async fn parse_only(&mut self, text: &[u8]) -> Result<(), Halt> {
        let place = match self.temporary.any() {
            true => HOME,
            false => self.any_place().await?,
        };
        self.enter_bare(place).await?;
        self.settle().await?;
        let group = self.group(place);
        if let Some(conn) = &mut self.slots[place] {
            conn.captured = Captured::default();
            encode::judge(&mut conn.output, text);
            conn.parsing.push_back((Vec::new(), 0));
            for kind in [Kind::Close, Kind::Parse, Kind::Close] {
                conn.owes(kind, Audience::Quiet, Stake::Nothing);
            }
            if !conn.unsynced {
                conn.sync(Audience::Quiet, Stake::Nothing);
            }
        }
        self.drain(place).await?;
        self.take_captured(place, group, Stake::Nothing).map(drop)
    }
}

/// Whether a statement was read to its end here, as PostgreSQL reads it. BEGIN and END are among them, which cannot be in the body
/// of a procedure (`TransactionStmtLegacy` in gram.y); savepoints are not, as not every word is a name.
fn is_sure(statement: &PlannedStatement) -> bool {
    use TransactionControl::{Begin, Commit, Rollback, Set};
    matches!(
        &statement.plan,
        Ok(Plan::Transaction(
            Begin(_) | Commit { .. } | Rollback { .. } | Set(_)
        ))
    )
}

fn starts_with(text: &str, word: &str) -> bool {
    text.get(..word.len())
        .is_some_and(|start| start.eq_ignore_ascii_case(word))
}
