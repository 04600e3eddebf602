//! Statements that the session answers itself: settings, SQL's PREPARE and EXECUTE, and those that
//! PostgreSQL is asked to judge.

use std::sync::Arc;

use super::conn::{Audience, Captured, Kind, Stake};
use super::enter::Style;
use super::plans::Planned;
use super::simple::Placed;
use super::statements::SqlPrepared;
use super::together::Statement;
use super::transaction::{Step, View, Why};
use super::{Session, conn::Conn};
use crate::analysis::{
    Access, Discard, Form, Format, Parameter, Plan, PreparedCommand, Refusal, SessionCommand,
};
use crate::failure::{Failure, Halt};
use crate::protocol::encode;

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
    pub(super) async fn command(
        &mut self,
        plan: &Plan,
        text: &str,
        planned: &Planned,
        rows: Rows,
    ) -> Result<(), Halt> {
        match plan {
            Plan::Empty => {
                encode::empty(self.out(), b'I');
                Ok(())
            }
            Plan::Transaction(control) => self.control(control, text).await,
            Plan::Session(command) => self.session_command(command, text, rows).await,
            Plan::Ddl(ddl) => self.ddl(ddl, text, rows).await,
            Plan::EachGroup(each) => self.each_group(*each, text, rows).await,
            Plan::Lock => self.lock_tables(text, rows).await,
            Plan::Distribute(distribute) => self.distribute(distribute, rows).await,
            Plan::Prepared(command) => self.prepared_command(command, text, planned).await,
            Plan::Judge(refusal) => self.judge(text.as_bytes(), refusal).await,
            Plan::Query(_) | Plan::CopyIn(_) => {
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
            SessionCommand::Set {
                name,
                local,
                answers_row,
                ..
            } => {
                let value = self.set(Some(name), text, *local).await?;
                if *answers_row {
                    if rows == Rows::Described {
                        encode::one_column(self.out(), "set_config", 25, -1);
                    }
                    encode::one_value(self.out(), &value.unwrap_or_default());
                    encode::command_complete(self.out(), "SELECT 1");
                } else {
                    encode::command_complete(self.out(), "SET");
                }
                Ok(())
            }
            SessionCommand::Reset { name } => {
                self.set(name.as_deref(), text, false).await?;
                encode::command_complete(self.out(), "RESET");
                Ok(())
            }
            SessionCommand::Discard(discard) => self.discard(*discard, text).await,
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
    async fn set(
        &mut self,
        name: Option<&str>,
        sql: &str,
        local: bool,
    ) -> Result<Option<bytes::Bytes>, Halt> {
        let place = self.any_place().await?;
        self.enter_bare(place).await?;
        self.search_path = None;
        if self.transaction.is_none() {
            let captured = self.exec(place, sql, Audience::Session, Stake::Nothing).await?;
            if !local {
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
        Ok(value)
    }

    async fn discard(&mut self, discard: Discard, text: &str) -> Result<(), Halt> {
        if discard == Discard::All {
            if self.transaction.is_some() {
                let words = "DISCARD ALL cannot run inside a transaction block";
                return Err(Refusal::new("25001", words).into());
            }
            self.statements.clear();
            self.settings.clear();
            self.cursors.clear();
            self.lasting.clear();
            self.search_path = None;
        }
        for place in 0..self.slots.len() {
            if self.slots[place].is_some() {
                self.enter_bare(place).await?;
                self.exec(place, text, Audience::Quiet, Stake::Nothing).await?;
                if let Some(conn) = self.slots[place].as_mut().filter(|_| discard == Discard::All) {
                    conn.prepared.clear();
                    conn.stale.clear();
                    conn.settings_seen = self.settings.latest();
                }
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

    async fn prepared_command(
        &mut self,
        command: &PreparedCommand,
        text: &str,
        planned: &Planned,
    ) -> Result<(), Halt> {
        match command {
            PreparedCommand::Prepare { name, query, types } => {
                if self.statements.get(name.as_bytes()).is_some() || self.statements.sql.contains_key(name) {
                    return Err(Failure::StatementExists(name.clone()).into());
                }
                self.bound_statements()?;
                let number = self.statements.number();
                let place = self.any_place().await?;
                self.enter_bare(place).await?;
                self.join(place).await?;
                self.exec(place, text, Audience::Session, Stake::Nothing).await?;
                if let Some(conn) = &mut self.slots[place] {
                    conn.prepared.insert(name.as_bytes().to_vec(), number);
                }
                let (text, query, types) = (text.to_owned(), (**query).clone(), types.clone());
                let prepared = SqlPrepared {
                    number,
                    text,
                    query,
                    types,
                };
                self.statements.sql.insert(name.clone(), Arc::new(prepared));
                encode::command_complete(self.out(), "PREPARE");
                Ok(())
            }
            PreparedCommand::Execute { name, parameters } => {
                self.execute_prepared(name, parameters, text, planned).await
            }
            PreparedCommand::Deallocate { name } => self.deallocate(name.as_deref()),
        }
    }

    async fn execute_prepared(
        &mut self,
        name: &str,
        values: &[Option<String>],
        text: &str,
        planned: &Planned,
    ) -> Result<(), Halt> {
        let Some(prepared) = self.statements.sql.get(name).cloned() else {
            return Err(Failure::NoStatement(name.to_owned()).into());
        };
        let parameters: Vec<Parameter<'_>> = values
            .iter()
            .enumerate()
            .map(|(index, value)| Parameter {
                value: value.as_ref().map(String::as_bytes),
                format: Format::Text,
                type_oid: prepared.types.get(index).copied().flatten(),
            })
            .collect();
        let places = match self.route(&prepared.query, &parameters, planned).await? {
            Placed::One(place) => vec![place],
            Placed::Many(places) => places,
            Placed::Rows(_) => return Err(Refusal::unsupported("EXECUTE of such an INSERT").into()),
        };
        for place in &places {
            self.enter(*place, prepared.query.access, Style::Simple).await?;
            self.settle().await?;
            let holds = |conn: &Conn| conn.holds(name.as_bytes(), prepared.number);
            if !self.slots[*place].as_ref().is_some_and(holds) {
                self.exec(*place, &prepared.text, Audience::Quiet, Stake::Nothing)
                    .await?;
                if let Some(conn) = &mut self.slots[*place] {
                    conn.prepared.insert(name.as_bytes().to_vec(), prepared.number);
                }
            }
        }
        if let [place] = places.as_slice() {
            let stake = self.stake(prepared.query.access);
            if let Some(conn) = &mut self.slots[*place] {
                conn.query(text, Audience::Statement, stake);
            }
            return self.settle().await;
        }
        self.query_on_several(&places, text, Statement::Execute, &prepared.query)
            .await
    }

    fn deallocate(&mut self, name: Option<&str>) -> Result<(), Halt> {
        let names: Vec<Vec<u8>> = match name {
            Some(name) => {
                let there = self.statements.remove(name.as_bytes());
                if self.statements.sql.remove(name).is_none() && !there {
                    return Err(Failure::NoStatement(name.to_owned()).into());
                }
                vec![name.as_bytes().to_vec()]
            }
            None => {
                let mut names = self.statements.names();
                names.extend(self.statements.sql.drain().map(|(name, _)| name.into_bytes()));
                for name in &names {
                    self.statements.remove(name);
                }
                names
            }
        };
        for conn in self.slots.iter_mut().flatten() {
            for name in &names {
                if conn.prepared.remove(name).is_some() {
                    conn.stale.push(name.clone());
                }
            }
        }
        let tag = if name.is_some() {
            "DEALLOCATE"
        } else {
            "DEALLOCATE ALL"
        };
        encode::command_complete(self.out(), tag);
        Ok(())
    }

    /// Has PostgreSQL parse a statement that is not understood: its error is the better one.
    pub(super) async fn judge(&mut self, text: &[u8], refusal: &Refusal) -> Result<(), Halt> {
        self.parse_only(text).await?;
        Err(refusal.clone().into())
    }

    /// Whether PostgreSQL takes a statement: only parsed, it does nothing.
    pub(super) async fn parse_only(&mut self, text: &[u8]) -> Result<(), Halt> {
        let place = self.any_place().await?;
        self.enter_bare(place).await?;
        self.settle().await?;
        let group = self.group(place);
        if let Some(conn) = &mut self.slots[place] {
            conn.captured = Captured::default();
            encode::judge(&mut conn.output, text);
            conn.parsing.push_back((Vec::new(), 0));
            conn.owes(Kind::Parse, Audience::Quiet, Stake::Nothing);
            conn.owes(Kind::Close, Audience::Quiet, Stake::Nothing);
            if !conn.unsynced {
                conn.sync(Audience::Quiet, Stake::Nothing);
            }
        }
        self.drain(place).await?;
        self.take_captured(place, group, Stake::Nothing).map(drop)
    }

    /// Remembers where a cursor will be, or that it will be no more.
    pub(super) fn note_cursor(&mut self, form: &Form, place: usize) -> Result<(), Halt> {
        if let Form::Cursor { name, closes: true } = form {
            match name {
                Some(name) => drop((self.lasting.remove(name), self.cursors.remove(name))),
                None => {
                    self.lasting.clear();
                    self.cursors.clear();
                }
            }
        }
        let Form::Declare { name, hold } = form else {
            return Ok(());
        };
        if *hold {
            self.check_held(place, Access::Read, true)?;
            if let Some(transaction) = &mut self.transaction {
                transaction.cursors_held.push(place);
                transaction.holding.push(name.clone());
            }
            self.lasting.insert(name.clone());
        }
        self.cursors.insert(name.clone(), place);
        Ok(())
    }

    /// Where the cursor is that a statement is about.
    pub(super) fn cursor_place(&self, form: &Form) -> Option<usize> {
        let Form::Cursor { name: Some(name), .. } = form else {
            return None;
        };
        self.cursors.get(name).copied()
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
