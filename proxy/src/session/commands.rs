//! Statements that the session answers itself.

use super::Session;
use super::conn::{Audience, Stake};
use super::enter::Style;
use super::settings::Undone;
use super::transaction::{Step, Transaction, View, Why, names_read_only};
use crate::analysis::{Access, Discard, Plan, Refusal, SessionCommand, Timeout};
use crate::failure::{Failure, Halt};
use crate::protocol::encode::{self, TEXT};

/// Whether the rows of an answer need their description in front.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rows {
    /// They come by the simple protocol.
    Described,
    /// The client has asked for it, or not, by Describe.
    Alone,
}

impl Session {
    /// Runs what is not a routed query, and answers all but ReadyForQuery. Nothing is owed before.
    pub(super) async fn command(&mut self, plan: &Plan, text: &str, rows: Rows) -> Result<(), Halt> {
        match plan {
            Plan::Empty => {
                encode::empty(self.out(), b'I');
                Ok(())
            }
            Plan::Transaction(control) => self.control(control, text).await,
            Plan::Session(command) => self.session_command(command, text, rows).await,
            Plan::Ddl(ddl) => {
                if self.temporary.any() {
                    // It may take along what depends on it, or on its owner.
                    self.temporary.defined();
                }
                self.ddl(ddl, text, rows).await
            }
            Plan::EachGroup(each) => self.each_group(*each, text, rows).await,
            Plan::Lock => self.lock_tables(text, rows).await,
            Plan::Distribute(distribute) => self.distribute(distribute, rows).await,
            Plan::Explained(explained) => Box::pin(self.explain(explained, rows)).await,
            Plan::SetSequence(set) => Box::pin(self.set_sequence(set, text, rows)).await,
            Plan::Prepared(command) => self.prepared_command(command, text).await,
            Plan::CreateAs(made) => Box::pin(self.create_as(made, text, rows)).await,
            Plan::Judge(refusal) => self.judge(text.as_bytes(), refusal).await,
            Plan::JudgeCopied(refusal, query) => self.judge_copied(text, query, refusal).await,
            Plan::Query(_) | Plan::CopyIn(_) | Plan::Fill(_) => {
                Err(Refusal::unsupported("this statement cannot be used here").into())
            }
        }
    }

    async fn session_command(
        &mut self,
        command: &SessionCommand,
        text: &str,
        rows: Rows,
    ) -> Result<(), Halt> {
        match command {
            SessionCommand::Set { name, local, value } => {
                match Timeout::named(name) {
                    Some(timeout) => {
                        let value = timeout.read(value)?;
                        self.set_timeout(timeout, value, *local);
                    }
                    None => drop(self.set(Some(name), text, *local).await?),
                }
                encode::command_complete(self.out(), "SET");
                Ok(())
            }
            SessionCommand::Configure(columns) => self.configure(columns, text, rows).await,
            SessionCommand::Reset { name } => {
                match name.as_deref().and_then(Timeout::named) {
                    Some(timeout) => self.set_timeout(timeout, None, false),
                    None => drop(self.set(name.as_deref(), text, false).await?),
                }
                encode::command_complete(self.out(), "RESET");
                Ok(())
            }
            SessionCommand::ShowTimeout(timeout) => {
                let value = self.shown_timeout(*timeout);
                if rows == Rows::Described {
                    encode::columns(self.out(), &[(timeout.name(), TEXT)], 0);
                }
                encode::row(self.out(), &[Some(value.as_bytes())]);
                encode::command_complete(self.out(), "SHOW");
                Ok(())
            }
            SessionCommand::Discard(discard) => self.discard(*discard, text, rows).await,
            SessionCommand::Show { .. } => Err(Refusal::unsupported("SHOW cannot be used here").into()),
        }
    }

    /// Locks tables on every group, in ascending order: two that do so never wait for each other in a circle.
    ///
    /// The locks that a group has are gone when it has committed. Whoever wants them all comes to a group that wrote, which
    /// commits last, before it has them.
    async fn lock_tables(&mut self, text: &str, rows: Rows) -> Result<(), Halt> {
        if self.transaction.is_none() && self.pipeline.touched.is_empty() {
            let words = "LOCK TABLE can only be used in transaction blocks";
            return Err(Refusal::new("25P01", words).into());
        }
        let style = match rows {
            Rows::Described => Style::Simple,
            Rows::Alone => Style::Extended,
        };
        let own = self.open_transaction(style).await?;
        let mut locked = Ok(());
        for place in 0..self.slots.len() {
            self.enter(place, Access::Read, Style::Simple).await?;
            self.settle().await?;
            let audience = if place == 0 {
                Audience::Session
            } else {
                Audience::Quiet
            };
            locked = self.exec(place, text, audience, Stake::Nothing).await.map(drop);
            if locked.is_err() {
                break;
            }
        }
        self.close_transaction(own, locked).await?;
        encode::command_complete(self.out(), "LOCK TABLE");
        Ok(())
    }

    /// Runs a SET or RESET on the backends of the transaction, else on one: the others follow when
    /// they are next used.
    pub(super) async fn set(
        &mut self,
        name: Option<&str>,
        sql: &str,
        local: bool,
    ) -> Result<Option<bytes::Bytes>, Halt> {
        if names_read_only(name) {
            self.count_definitions().await?;
        }
        let place = self.any_place().await?;
        // What a transaction sets may be rolled back to what was before, but for one that a pipeline begins with this.
        let begins = |t: &Transaction| t.implicit && t.participants.is_empty() && t.script.is_empty();
        let undone = match name {
            _ if local || !self.transaction.as_ref().is_none_or(begins) => Undone::Nothing,
            Some(name) => Undone::One(name),
            None => Undone::AllButRoles,
        };
        let seen = self.slots[place].as_ref().map_or(0, |conn| conn.settings_seen);
        self.enter_undoing(place, undone).await?;
        if self.transaction.is_some()
            && undone != Undone::Nothing
            && let Some(conn) = &mut self.slots[place]
        {
            // It lacks what was left out, if that comes back.
            conn.settings_seen = seen;
        }
        self.search_path = None;
        if !local {
            self.soil(place);
        }
        if self.transaction.is_none() {
            let captured = match self.exec(place, sql, Audience::Session, Stake::Nothing).await {
                Ok(captured) => captured,
                Err(halt) => {
                    // It lacks what was left out above.
                    if let Some(conn) = &mut self.slots[place] {
                        conn.settings_seen = 0;
                    }
                    return Err(halt);
                }
            };
            if !local {
                if name.is_none() {
                    self.timeouts.clear();
                }
                let before = self.settings.latest();
                self.settings.record(name, sql);
                if let Some(conn) = self.slots[place].as_mut().filter(|c| c.settings_seen == before) {
                    conn.settings_seen = self.settings.latest();
                }
            }
            return Ok(captured.value);
        }
        self.join(place).await?;
        self.settle().await?;
        let value = self
            .exec(place, sql, Audience::Session, Stake::Nothing)
            .await?
            .value;
        let others: Vec<usize> = self
            .transaction
            .iter()
            .flat_map(|t| t.participants.iter().map(|p| p.place))
            .filter(|other| *other != place)
            .collect();
        for other in others {
            self.current = Some(other);
            if !local {
                self.soil(other);
            }
            self.exec(other, sql, Audience::Quiet, Stake::Nothing).await?;
        }
        if let Some(transaction) = &mut self.transaction {
            if name == Some("transaction_isolation") {
                transaction.view = Some(View::OneGroup(Why::Late));
            }
            let name = name.map(str::to_owned);
            transaction.script.push(Step::Set {
                name,
                sql: sql.to_owned(),
                local,
            });
        }
        self.timeouts.see(self.transaction.as_ref());
        Ok(value)
    }

    async fn discard(&mut self, discard: Discard, text: &str, rows: Rows) -> Result<(), Halt> {
        let begun = self.transaction.is_some() || !self.pipeline.touched.is_empty();
        if discard == Discard::All && begun {
            let words = if rows == Rows::Alone && !self.in_block() {
                "DISCARD ALL cannot be executed within a pipeline"
            } else {
                "DISCARD ALL cannot run inside a transaction block"
            };
            return Err(Refusal::new("25001", words).into());
        }
        // One that has all the session's settings at least: the client is told of those that are others then.
        self.any_place().await?;
        let places: Vec<usize> = (0..self.slots.len())
            .filter(|place| self.slots[*place].is_some())
            .collect();
        let undone = match discard {
            Discard::All => Undone::All,
            _ => Undone::Nothing,
        };
        self.at_home.disturb();
        for place in &places {
            self.enter_undoing(*place, undone).await?;
            self.exec(*place, text, Audience::Session, Stake::Nothing).await?;
        }
        if self.temporary.any() {
            self.temporary.defined();
        }
        if matches!(discard, Discard::All | Discard::Sequences) {
            self.sequences.forget();
        }
        if discard == Discard::All {
            self.statements.clear();
            self.settings.clear();
            self.timeouts.clear();
            self.cursors.clear();
            self.search_path = None;
            for conn in self.slots.iter_mut().flatten() {
                conn.prepared.clear();
                conn.stale.clear();
                conn.settings_seen = self.settings.latest();
            }
        }
        let tag = match discard {
            Discard::All => "DISCARD ALL",
            Discard::Plans => "DISCARD PLANS",
            Discard::Sequences => "DISCARD SEQUENCES",
            Discard::Temp => "DISCARD TEMP",
        };
        encode::command_complete(self.out(), tag);
        Ok(())
    }

    pub(super) fn bound_statements(&self) -> Result<(), Failure> {
        let max = self.shared.limits.max_prepared_statements;
        if self.statements.count() >= max {
            Err(Failure::TooManyStatements(max))
        } else {
            Ok(())
        }
    }
}
