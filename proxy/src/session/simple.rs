//! The simple protocol: a Query, of one statement or of several.

use std::sync::Arc;

use super::commands::Rows;
use super::conn::{Audience, Kind, Stake};
use super::enter::Style;
use super::home::HOME;
use super::plans::Planned;
use super::temporary::Does;
use super::together::Statement;
use super::transaction::Transaction;
use super::{Session, statements::Copying};
use crate::analysis::{
    Access, Form, Format, HomeUse, Parameter, Plan, Query, Refusal, Route, SessionCommand,
    TransactionControl, TransactionModes, is_of_moment,
};
use crate::failure::{Ended, Failure, Halt};
use crate::protocol::{encode, frontend};

/// Who says that the session is ready after a Query.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ready {
    /// The backend: its ReadyForQuery passes.
    Backend,
    /// The session, now.
    Now,
    /// The session, when the client's COPY data have ended.
    AfterCopy,
}

/// Where a statement is to run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Placed {
    One(usize),
    Many(Vec<usize>),
    /// An INSERT: the rows of VALUES that each place gets.
    Rows(Vec<(usize, Vec<usize>)>),
}

impl Session {
    pub(super) async fn simple(&mut self, message: &[u8]) -> Result<(), Ended> {
        if self.told.skip {
            return Ok(());
        }
        let done = self.simple_query(message).await;
        self.told.offset = 0;
        match done {
            Ok(Ready::Backend | Ready::AfterCopy) => Ok(()),
            // The client has been told of an error, and no Sync comes after a Query.
            Err(Halt::Skip) => {
                self.told.skip = false;
                self.ready_at_last().await
            }
            Ok(Ready::Now) => self.ready_at_last().await,
            Err(Halt::End(ended)) => Err(ended),
            Err(Halt::Fail(failure)) => {
                self.fail(failure).await?;
                if self.told.skip {
                    return Ok(());
                }
                self.ready_at_last().await
            }
        }
    }

    /// Sends the session's own ReadyForQuery, when all groups have let go of what has failed.
    pub(super) async fn ready_at_last(&mut self) -> Result<(), Ended> {
        if let Err(Halt::End(ended)) = self.let_go().await {
            return Err(ended);
        }
        self.ready();
        Ok(())
    }

    pub(super) fn has_set_on_several(&self) -> bool {
        self.transaction
            .as_ref()
            .is_some_and(Transaction::has_set_on_several)
    }

    async fn simple_query(&mut self, message: &[u8]) -> Result<Ready, Halt> {
        let text = frontend::query_text(Self::body(message))?;
        let text = self.readable(text)?;
        if !self.pipeline.touched.is_empty() || self.transaction.as_ref().is_some_and(|t| t.implicit) {
            self.end_pipeline().await?;
            if self.told.skip {
                // It failed, and its Sync is still to come.
                return Ok(Ready::Backend);
            }
        }
        let planned = self.plan(text).await?;
        self.check_syntax(text, &planned).await?;
        match planned.statements.as_slice() {
            [] => {
                self.settle().await?;
                encode::empty(self.out(), b'I');
                Ok(Ready::Now)
            }
            [one] => {
                self.told.offset = one.offset;
                self.run(&one.plan, &one.text, &planned, Some(message)).await
            }
            _ => self.several(&planned, message).await,
        }
    }

    /// Runs one statement. With its whole Query message, that is passed on as it is, and the backend
    /// says when it is ready.
    pub(super) async fn run(
        &mut self,
        plan: &Result<Plan, Refusal>,
        text: &str,
        planned: &Planned,
        message: Option<&[u8]>,
    ) -> Result<Ready, Halt> {
        self.check_failed(plan)?;
        let plan = match plan {
            Ok(plan) => plan,
            Err(refusal) => return self.refuse(text, refusal).await.map(|()| Ready::Now),
        };
        match plan {
            Plan::Query(query) if self.sees_to_cursor(&query.form) => {
                self.settle().await?;
                self.cursor_query(query).await?;
                Ok(Ready::Now)
            }
            Plan::Query(query) if let Some(draws) = &query.draws => {
                Box::pin(self.run_drawing(query, draws, planned)).await
            }
            Plan::Query(query) => match self.route_text(query, text, planned).await? {
                Placed::One(place) => self.forward(place, query, text, message).await,
                Placed::Many(places) if matches!(query.form, Form::Declare { .. }) => {
                    self.settle().await?;
                    self.declare_query(&places, text, query).await?;
                    Ok(Ready::Now)
                }
                Placed::Many(places) if let Form::Gathered(gathering) = &query.form => {
                    Box::pin(self.gathered_query(&places, text, gathering)).await?;
                    Ok(Ready::Now)
                }
                Placed::Many(places) if let Form::Locks(gathering) = &query.form => {
                    Box::pin(self.locking_query(&places, text, gathering)).await?;
                    Ok(Ready::Now)
                }
                Placed::Many(places) if let Form::CopyMade(made) = &query.form => {
                    Box::pin(self.copying_query(&places, text, query, made)).await?;
                    Ok(Ready::Now)
                }
                Placed::Many(places) if let Form::Brings(bring) = &query.form => {
                    Box::pin(self.bringing_query(&places, text, bring)).await?;
                    Ok(Ready::Now)
                }
                Placed::Many(places) if let Form::Feeds(feed) = &query.form => {
                    Box::pin(self.selecting_insert(&places, text, (query, feed), planned)).await?;
                    Ok(Ready::Now)
                }
                Placed::Many(_) if let Form::Computes(computed) = &query.form => {
                    let (text, planned) = Box::pin(self.compute_query(text, computed)).await?;
                    Box::pin(self.run(planned.only()?, &text, &planned, None)).await
                }
                Placed::Many(places) if let Form::Moves(moves) = &query.form => {
                    Box::pin(self.moving_query(&places, text, moves)).await?;
                    Ok(Ready::Now)
                }
                Placed::Many(places) => {
                    self.query_on_several(&places, text, Statement::Itself, query)
                        .await?;
                    Ok(Ready::Now)
                }
                Placed::Rows(rows) => {
                    self.insert_query(text, query, rows).await?;
                    Ok(Ready::Now)
                }
            },
            Plan::Session(SessionCommand::Show { .. }) => {
                let place = self.any_place().await?;
                self.send_query(place, Access::Read, text, message).await
            }
            Plan::Fill(fill) => {
                self.settle().await?;
                Box::pin(self.fill(fill, planned, Style::Simple)).await?;
                Ok(Ready::Now)
            }
            Plan::CopyIn(copy) => {
                self.settle().await?;
                let copying = Copying {
                    text: text.to_owned(),
                    plan: copy.clone(),
                };
                self.begin_copy(copying, planned, message.is_some()).await?;
                Ok(Ready::AfterCopy)
            }
            other => {
                self.settle().await?;
                self.command(other, text, Rows::Described).await?;
                Ok(Ready::Now)
            }
        }
    }

    /// A failed transaction takes nothing but its end.
    pub(super) fn check_failed(&mut self, plan: &Result<Plan, Refusal>) -> Result<(), Failure> {
        let Some(transaction) = self.transaction.as_mut().filter(|t| t.failed) else {
            return Ok(());
        };
        let leads_out = matches!(
            plan,
            Ok(Plan::Transaction(
                TransactionControl::Commit { .. }
                    | TransactionControl::Rollback { .. }
                    | TransactionControl::RollbackTo(_)
            ))
        );
        if leads_out || matches!(plan, Ok(Plan::Empty)) {
            return Ok(());
        }
        Err(transaction.untold.take().unwrap_or(Failure::TransactionAborted))
    }

    /// Passes a statement on to one group.
    pub(super) async fn forward(
        &mut self,
        place: usize,
        query: &Query,
        text: &str,
        message: Option<&[u8]>,
    ) -> Result<Ready, Halt> {
        self.note_cursor(&query.form, place)?;
        self.allow_definition(&query.form)?;
        let ready = self.send_query(place, query.access, text, message).await;
        let after = self.after_sending(Does::by(&query.form)).await;
        let ready = ready?;
        after.map(|()| ready)
    }

    async fn send_query(
        &mut self,
        place: usize,
        access: Access,
        text: &str,
        message: Option<&[u8]>,
    ) -> Result<Ready, Halt> {
        self.enter(place, access, Style::Simple).await?;
        let (stake, waits) = (self.stake(access), self.has_set_on_several());
        if let Some(conn) = &mut self.slots[place] {
            conn.unnamed = None;
            match message {
                Some(message) => {
                    self.told.offset = 0;
                    conn.output.extend_from_slice(message);
                    let audience = if waits {
                        Audience::Statement
                    } else {
                        Audience::Client
                    };
                    conn.owes(Kind::Query, audience, stake);
                    if !waits {
                        return Ok(Ready::Backend);
                    }
                }
                None => conn.query(text, Audience::Statement, stake),
            }
        }
        self.settle().await?;
        Ok(Ready::Now)
    }

    /// What a broken connection means for a statement that ends with its own commit.
    pub(super) fn stake(&self, access: Access) -> Stake {
        if matches!(access, Access::Write | Access::Announce) && self.transaction.is_none() {
            Stake::Commit
        } else {
            Stake::Nothing
        }
    }

    /// Several statements in one Query are one transaction, unless they say otherwise.
    async fn several(&mut self, planned: &Arc<Planned>, message: &[u8]) -> Result<Ready, Halt> {
        if let Some((place, access)) = self.all_on_one(planned).await? {
            let text = "";
            return self.send_query(place, access, text, Some(message)).await;
        }
        self.settle().await?;
        self.read_whole(planned).await?;
        let result = self.one_by_one(planned).await;
        let implicit = self.transaction.as_ref().is_some_and(|t| t.implicit);
        match result {
            Ok(()) if implicit && !self.transaction.as_ref().is_some_and(|t| t.failed) => {
                self.commit(Audience::Session).await?;
                Ok(Ready::Now)
            }
            Err(Halt::Fail(failure)) => {
                self.fail(failure).await?;
                self.roll_back_implicit().await?;
                Ok(Ready::Now)
            }
            Ok(()) => {
                self.roll_back_implicit().await?;
                Ok(Ready::Now)
            }
            Err(halt) => Err(halt),
        }
    }

    async fn roll_back_implicit(&mut self) -> Result<(), Halt> {
        if self.transaction.as_ref().is_some_and(|t| t.implicit) {
            self.roll_back().await?;
        }
        Ok(())
    }

    async fn one_by_one(&mut self, planned: &Arc<Planned>) -> Result<(), Halt> {
        let mut planned = Arc::clone(planned);
        for index in 0..planned.statements.len() {
            self.timeouts.restart();
            if self.transaction.is_none() {
                let mut implicit = Transaction::new("BEGIN", TransactionModes::default());
                implicit.implicit = true;
                self.transaction = Some(implicit);
            }
            if !self.is_current(&planned).await? {
                planned = self.plan_again(&planned).await?;
            }
            let Some(statement) = planned.statements.get(index) else {
                break;
            };
            let (plan, text) = (statement.plan.clone(), statement.text.clone());
            self.told.offset = statement.offset;
            let copies = |query: &Query| query.form == Form::CopyIn;
            if matches!(&plan, Ok(Plan::CopyIn(_)))
                || matches!(&plan, Ok(Plan::Query(query)) if copies(query))
            {
                return Err(Refusal::unsupported("COPY FROM STDIN must be alone in its Query").into());
            }
            self.run(&plan, &text, &planned, None).await?;
            if self.transaction.as_ref().is_some_and(|t| t.failed) {
                break;
            }
        }
        Ok(())
    }

    /// The one group that all statements can be sent to as they are, if there is one.
    async fn all_on_one(&mut self, planned: &Arc<Planned>) -> Result<Option<(usize, Access)>, Halt> {
        let mut access = Access::Read;
        let mut place = None;
        for statement in &planned.statements {
            let Ok(Plan::Query(query)) = &statement.plan else {
                return Ok(None);
            };
            let fits = matches!(
                query.form,
                Form::Plain | Form::Count | Form::Gathered(_) | Form::Feeds(_)
            );
            if !fits || query.draws.is_some() {
                return Ok(None);
            }
            if query.access == Access::Write {
                access = Access::Write;
            }
            let route = query.route(&[], &planned.slots, &std::collections::HashMap::new());
            match route {
                Ok(Route::Any) => {}
                Ok(Route::Home(HomeUse::Reference)) if place.is_some() => {}
                Ok(Route::Home(HomeUse::Reference | HomeUse::Temporary))
                    if *place.get_or_insert(self.group(HOME)) == self.group(HOME) => {}
                Ok(Route::One(group)) if *place.get_or_insert(group) == group => {}
                _ => return Ok(None),
            }
        }
        if self.transaction.as_ref().is_some_and(|t| t.failed) {
            return Ok(None);
        }
        let place = match place {
            Some(group) => self.known_place(group)?,
            None => self.any_place().await?,
        };
        Ok(Some((place, access)))
    }

    /// Finds where a statement without parameters runs.
    async fn route_text(&mut self, query: &Query, text: &str, planned: &Planned) -> Result<Placed, Halt> {
        let routed = self.route(query, &[], Some(text), planned).await;
        if let Err(Halt::Fail(Failure::Postgres(_))) = &routed
            && self.transaction.is_none()
        {
            // What is wrong with a constant PostgreSQL says with its place in the client's own text.
            self.parse_only(text.as_bytes()).await?;
        }
        routed
    }

    /// Finds where a statement runs. Its text is given where no backend gets it by a Parse. One that may take rows out of their group runs
    /// on several, even if all of them are on one now.
    pub(super) async fn route(
        &mut self,
        query: &Query,
        parameters: &[Parameter<'_>],
        text: Option<&str>,
        planned: &Planned,
    ) -> Result<Placed, Halt> {
        let placed = self.place_rows(query, parameters, text, planned).await?;
        let &Placed::One(place) = &placed else {
            return Ok(placed);
        };
        let stays = self.slots.len() == 1
            || match &query.form {
                Form::Moves(moves) => moves.group(parameters, &planned.slots) == Some(self.group(place)),
                Form::Brings(bring) => bring.alone,
                _ => true,
            };
        Ok(if stays { placed } else { Placed::Many(vec![place]) })
    }

    async fn place_rows(
        &mut self,
        query: &Query,
        parameters: &[Parameter<'_>],
        text: Option<&str>,
        planned: &Planned,
    ) -> Result<Placed, Halt> {
        if let Some(place) = self.cursor_place(&query.form) {
            return Ok(Placed::One(place));
        }
        let slots = &planned.slots;
        let mut answers = crate::analysis::Answers::new();
        loop {
            match query.route(parameters, slots, &answers)? {
                Route::Any => return self.any_place().await.map(Placed::One),
                Route::Home(used) => return self.place_at_home(used).await.map(Placed::One),
                Route::One(group) => return Ok(Placed::One(self.known_place(group)?)),
                Route::AtHome(group, refusal) => {
                    return match self.known_place(group)? {
                        HOME => Ok(Placed::One(HOME)),
                        _ => Err(refusal.into()),
                    };
                }
                Route::Copies => {
                    let readable = |parameter: &&Parameter<'_>| matches!(parameter.type_oid, None | Some(0));
                    let texts = parameters
                        .iter()
                        .filter(readable)
                        .filter_map(|parameter| parameter.value);
                    for text in texts.filter_map(|value| std::str::from_utf8(value).ok()) {
                        if is_of_moment(text) {
                            return Err(Refusal::unsupported(format!(
                                "'{text}' in a statement that writes to a reference table is not supported"
                            ))
                            .detail("Every group would read it as another time.")
                            .hint("Let the application give the time, or give the parameter its type.")
                            .into());
                        }
                    }
                    return Ok(Placed::Many((0..self.slots.len()).collect()));
                }
                Route::Several(groups) => {
                    let places = groups.into_iter().map(|group| self.known_place(group));
                    return Ok(Placed::Many(places.collect::<Result<_, _>>()?));
                }
                Route::Rows(rows) => {
                    let rows = rows
                        .into_iter()
                        .map(|(group, rows)| Ok((self.known_place(group)?, rows)));
                    return Ok(Placed::Rows(rows.collect::<Result<_, Failure>>()?));
                }
                Route::All => {
                    let all = self.shared.groups.groups().len();
                    return Ok(if all == 1 {
                        Placed::One(0)
                    } else {
                        Placed::Many((0..all).collect())
                    });
                }
                Route::Ask(questions) => {
                    let before = answers.len();
                    if before == 0 {
                        self.object_first(text).await?;
                    }
                    for question in &questions {
                        let parameter = question.parameter.and_then(|index| parameters.get(index));
                        let slot = self.ask_slot(&question.sql, parameter).await;
                        let slot = slot.map_err(|halt| match question.parameter {
                            // As `bind_param_error_callback` in postgres.c has it.
                            Some(index) => halt.with_context(|context| {
                                let number = format!("unnamed portal parameter ${}", index + 1);
                                context.replace("portal \"_howdah\" parameter $1", &number)
                            }),
                            None => halt,
                        })?;
                        answers.insert(question.key, slot);
                    }
                    if answers.len() == before {
                        return Err(Failure::Catalogue("a key's slot is not to be had".to_owned()).into());
                    }
                }
            }
        }
    }

    /// A question that fails takes a transaction or pipeline with it, and then PostgreSQL has no ear for the statement that it
    /// was asked for: its objections to that come before.
    async fn object_first(&mut self, text: Option<&str>) -> Result<(), Halt> {
        if self.transaction.is_none() && self.pipeline.touched.is_empty() {
            return Ok(());
        }
        match text {
            Some(text) => self.parse_only(text.as_bytes()).await,
            None => self.release_held().await,
        }
    }

    fn known_place(&self, group: shard::id::GroupId) -> Result<usize, Failure> {
        self.place(group)
            .ok_or_else(|| Failure::from(shard::client::ConnectError::UnknownGroup(group)))
    }

    /// Has PostgreSQL compute a key's slot, in the client's session state.
    pub(super) async fn ask_slot(
        &mut self,
        sql: &str,
        parameter: Option<&Parameter<'_>>,
    ) -> Result<coordinator::hash::HashSlot, Halt> {
        let place = self.any_place().await?;
        self.enter(place, Access::Read, Style::Simple).await?;
        let bound = parameter.map(|p| (p.type_oid.unwrap_or(0), p.format == Format::Binary, p.value));
        let value = self.ask(place, sql, bound).await?;
        read_slot(value.as_deref())
    }
}

/// A slot's number as PostgreSQL has answered it.
pub(super) fn read_slot(value: Option<&[u8]>) -> Result<coordinator::hash::HashSlot, Halt> {
    let number = value.and_then(|v| std::str::from_utf8(v).ok()?.parse().ok());
    number
        .and_then(coordinator::hash::HashSlot::new)
        .ok_or_else(|| Failure::Catalogue("PostgreSQL did not compute a key's slot".to_owned()).into())
}
