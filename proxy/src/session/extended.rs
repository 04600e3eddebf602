//! The extended protocol: Parse, Bind, Describe, Execute, Close, Flush, Sync.
//!
//! A Parse is held back until its Bind says where it belongs; if something else comes first, any group
//! gets it, so that PostgreSQL's errors and descriptions appear where the client expects them.

use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use parking_lot::Mutex;

use super::Session;
use super::captured::Captured;
use super::commands::Rows;
use super::configure::{check_declared, own_parameters};
use super::conn::{Audience, Columns, Conn, Kind, Stake};
use super::cursors::Cursor;
use super::enter::Style;
use super::explain::QUERY_PLAN;
use super::holes::Supplied;
use super::plans::{Planned, Tables};
use super::statements::{Check, Late, Portal, Statement};
use super::transaction::Step;
use crate::analysis::{
    Access, Discard, Form, Plan, PreparedCommand, Query, Refusal, SessionCommand, TransactionControl,
};
use crate::failure::{Ended, Failure, Halt};
use crate::protocol::encode::{self, INT8, TEXT, VOID};
use crate::protocol::frontend::{Execute, Named, Parse};

/// Longer Parse messages are each session's own.
const LONGEST_SHARED: usize = 4 << 10;

impl Session {
    /// Handles any of them but Sync.
    pub(super) async fn extended(&mut self, tag: u8, message: &[u8]) -> Result<(), Ended> {
        if self.told.skip {
            return Ok(());
        }
        let handled = match tag {
            b'P' => self.parse(message).await,
            b'B' => self.bind(message).await,
            b'D' => self.describe(message).await,
            b'E' => self.execute(message).await,
            b'C' => self.close_named(message).await,
            _ => self.flush().await,
        };
        match handled {
            Ok(()) | Err(Halt::Skip) => Ok(()),
            Err(Halt::End(ended)) => Err(ended),
            Err(Halt::Fail(failure)) => {
                self.fail(failure).await?;
                self.told.skip = true;
                self.drop_held();
                Ok(())
            }
        }
    }

    async fn parse(&mut self, message: &[u8]) -> Result<(), Halt> {
        self.release_held().await?;
        let parse = Parse::read(Self::body(message))?;
        let text = self.readable(parse.query)?;
        let planned = self.plan(text).await?;
        if planned.statements.len() > 1 {
            // It says so itself, or what else is wrong with them.
            self.parse_only(parse.query).await?;
        }
        let plan = planned.only()?;
        self.check_syntax(text, &planned).await?;
        self.check_failed(plan)?;
        // After syntax and state, as in `exec_parse_message`.
        if !parse.name.is_empty() {
            if self.statements.get(parse.name).is_some() {
                let name = String::from_utf8_lossy(parse.name).into_owned();
                return Err(Failure::StatementExists(name).into());
            }
            self.bound_statements()?;
        }
        if let Err(refusal) = plan {
            return self.refuse(text, refusal).await;
        }
        check_declared(plan, &parse.types)?;
        let supplied = Supplied::of_parse(&parse, plan)?;
        let (message_bytes, types, holes) = match supplied {
            Some(supplied) => (supplied.message, supplied.types, supplied.holes),
            None => (Bytes::copy_from_slice(message), parse.types, 0),
        };
        let statement = Arc::new(Statement {
            number: self.number_of(parse.name, &message_bytes, planned.tables()),
            name: parse.name.to_vec(),
            message: message_bytes,
            text: text.to_owned(),
            types,
            holes,
            tables: planned.tables(),
            columns: Columns::default(),
            late: Mutex::default(),
            inferred: OnceLock::new(),
            own: self.guest.number(),
        });
        let relayed = relayed(plan).is_some();
        if let Ok(Plan::Judge(refusal)) = plan {
            let refusal = refusal.clone();
            return self.judge(text.as_bytes(), &refusal).await;
        }
        self.statements.put(Arc::clone(&statement), planned);
        if relayed {
            self.statements.held = Some(statement);
        } else {
            self.settle().await?;
            encode::empty(self.out(), b'1');
        }
        Ok(())
    }

    /// The number of a statement. Sessions that have the same settings share those of the same Parse by name.
    fn number_of(&self, name: &[u8], message: &Bytes, tables: Option<Tables>) -> u64 {
        let shared = !name.is_empty()
            && message.len() <= LONGEST_SHARED
            && self.transaction.is_none()
            && self.has_no_settings();
        match tables.filter(|_| shared) {
            Some((place, version, 0)) => self.guest.number_of(message, (place, version)),
            Some(_) | None => self.guest.number(),
        }
    }

    /// Whether a statement is analysed here as in any session of the same start-up message.
    fn has_no_settings(&self) -> bool {
        let sets = |step: &Step| matches!(step, Step::Set { .. });
        let set = self
            .transaction
            .as_ref()
            .is_some_and(|t| t.script.iter().any(sets));
        self.settings.latest() == 0 && !set
    }

    /// How a statement is supplied now, tables being others than at its Parse.
    fn late(&self, statement: &Statement, planned: &Planned) -> Arc<Late> {
        let (tables, own) = (planned.tables(), !self.has_no_settings());
        let mut late = statement.late.lock();
        match &*late {
            Some(late) if late.tables == tables && late.own == own => Arc::clone(late),
            _ => {
                let number = self.number_of(&statement.name, &statement.message, tables);
                let fits = OnceLock::new();
                let now = Arc::new(Late {
                    tables,
                    own,
                    number,
                    fits,
                });
                *late = Some(Arc::clone(&now));
                now
            }
        }
    }

    /// Sends a Parse that was held back to any group.
    pub(super) async fn release_held(&mut self) -> Result<(), Halt> {
        let Some(statement) = self.statements.held.take() else {
            return Ok(());
        };
        let planned = self
            .statements
            .get(&statement.name)
            .map(|(_, planned)| Arc::clone(planned));
        let place = match &planned {
            Some(planned) => self.place_to_parse(planned.only()?).await?,
            None => self.any_place().await?,
        };
        self.enter_bare(place).await?;
        self.join(place).await?;
        self.mark_pipeline(place);
        if let Some(conn) = &mut self.slots[place] {
            conn.close_stale();
            parse_for_client(conn, &statement);
        }
        Ok(())
    }

    /// A Parse that was held back, or whose ParseComplete did not come, was skipped.
    pub(super) fn drop_held(&mut self) {
        if let Some(statement) = self.statements.held.take() {
            self.statements.remove(&statement.name);
        }
    }

    /// Sends a statement to the backend at `place`, if it does not hold it.
    #[must_use]
    pub(super) fn supply(
        &mut self,
        place: usize,
        statement: &Arc<Statement>,
        planned: &Planned,
    ) -> Option<Check> {
        let held = self
            .statements
            .held
            .take_if(|held| held.number == statement.number)
            .is_some();
        if let Some(conn) = &mut self.slots[place] {
            conn.close_stale();
            if held {
                parse_for_client(conn, statement);
                return None;
            }
        }
        self.supply_again(place, statement, planned)
    }

    /// The same of one that was parsed before, somewhere.
    pub(super) fn supply_again(
        &mut self,
        place: usize,
        statement: &Arc<Statement>,
        planned: &Planned,
    ) -> Option<Check> {
        let holds = |number| {
            let conn = self.slots[place].as_ref();
            conn.is_some_and(|conn| conn.holds(&statement.name, number))
        };
        // What it was parsed as at first is what PostgreSQL itself compares with what it gives now.
        if holds(statement.number) || holds(statement.own) {
            return None;
        }
        let late = (planned.tables() != statement.tables).then(|| self.late(statement, planned));
        let number = match &late {
            Some(late) => late.number,
            None if self.has_no_settings() => statement.number,
            None => statement.own,
        };
        if !holds(number)
            && let Some(conn) = &mut self.slots[place]
        {
            conn.parse(&statement.name, number, &statement.message, Audience::Silent);
        }
        late.map(|late| Check {
            statement: Arc::clone(statement),
            late,
        })
    }

    pub(super) fn mark_pipeline(&mut self, place: usize) {
        if let Some(conn) = self.slots[place].as_mut().filter(|conn| !conn.unsynced) {
            conn.unsynced = true;
            if !self.pipeline.touched.contains(&place) {
                self.pipeline.touched.push(place);
            }
        }
    }

    async fn describe(&mut self, message: &[u8]) -> Result<(), Halt> {
        match Named::read(Self::body(message))? {
            Named::Statement(name) => {
                let Some((statement, planned)) = self.statements.get(name).cloned() else {
                    return Err(Failure::NoStatement(String::from_utf8_lossy(name).into_owned()).into());
                };
                let plan = planned.only()?;
                let Some(query) = relayed(plan) else {
                    self.settle().await?;
                    encode::parameters(self.out(), &own_parameters(plan));
                    describe_own(plan, 0, self.out());
                    return Ok(());
                };
                // Only there it is known which columns FETCH gives.
                let cursor = query.and_then(|query| self.cursor_place(&query.form));
                let executed = match plan {
                    Ok(Plan::Prepared(PreparedCommand::Execute { name, .. })) => Some(name.clone()),
                    _ => None,
                };
                if self
                    .statements
                    .held
                    .as_ref()
                    .is_some_and(|held| held.number != statement.number)
                {
                    self.release_held().await?;
                }
                let place = match cursor {
                    Some(place) => place,
                    None => self.place_to_parse(plan).await?,
                };
                self.enter_bare(place).await?;
                self.join(place).await?;
                if let Some(name) = executed {
                    self.prepare_on(place, &name).await?;
                }
                self.mark_pipeline(place);
                let _told_at_bind = self.supply(place, &statement, &planned);
                let kind = match statement.holes {
                    0 => Kind::Describe,
                    holes => Kind::DescribeBut(holes),
                };
                self.send_on(place, kind, message);
            }
            Named::Portal(name) => {
                self.release_held().await?;
                match self.statements.portal(name).cloned() {
                    Some(
                        Portal::At { place, .. } | Portal::Rows { place, .. } | Portal::Cursor { place, .. },
                    ) => {
                        self.enter(place, Access::Read, Style::Extended).await?;
                        self.send_on(place, Kind::Describe, message);
                    }
                    Some(Portal::Many { places, .. }) => {
                        let first = places[0];
                        self.enter(first, Access::Read, Style::Extended).await?;
                        if let Some(check) = self.bind_one(first, name) {
                            self.check_columns(first, check).await?;
                        }
                        self.send_on(first, Kind::Describe, message);
                    }
                    Some(Portal::Own { planned, format, .. }) => {
                        self.settle().await?;
                        let plan = planned.only()?;
                        describe_own(plan, format, self.out());
                    }
                    Some(Portal::Done | Portal::Declare { .. } | Portal::Fails(_)) => {
                        self.settle().await?;
                        encode::empty(self.out(), b'n');
                    }
                    None => {
                        let place = self.cursor_as_portal(name)?.place();
                        self.enter(place, Access::Read, Style::Extended).await?;
                        self.send_on(place, Kind::Describe, message);
                    }
                }
            }
        }
        Ok(())
    }

    /// SQL's cursor of this name, which is a portal, too.
    fn cursor_as_portal(&self, name: &[u8]) -> Result<&Cursor, Failure> {
        let cursor = std::str::from_utf8(name)
            .ok()
            .and_then(|name| self.cursors.get(name));
        cursor.ok_or_else(|| Failure::NoPortal(String::from_utf8_lossy(name).into_owned()))
    }

    pub(super) fn send_on(&mut self, place: usize, kind: Kind, message: &[u8]) {
        if let Some(conn) = &mut self.slots[place] {
            conn.output.extend_from_slice(message);
            conn.owes(kind, Audience::Client, Stake::Nothing);
        }
    }

    async fn execute(&mut self, message: &[u8]) -> Result<(), Halt> {
        self.release_held().await?;
        let execute = Execute::read(Self::body(message))?;
        match self.statements.portal(execute.portal).cloned() {
            Some(Portal::At { place, access, does }) => {
                self.enter(place, access, Style::Extended).await?;
                self.send_on(place, Kind::Execute, message);
                self.after_sending(does).await
            }
            Some(Portal::Many {
                places,
                planned,
                parts,
                executes,
                ..
            }) => {
                let query = match (executes.as_deref(), planned.only()?) {
                    (Some(query), _) | (None, Ok(Plan::Query(query))) => query,
                    _ => return Err(Refusal::unsupported("this portal cannot be executed").into()),
                };
                self.execute_many(&places, parts.as_deref(), query, &execute, message)
                    .await
            }
            Some(Portal::Declare {
                places,
                bind,
                statement,
                planned,
            }) => {
                self.settle().await?;
                self.statements.replace_portal(execute.portal, Portal::Done);
                self.declare_portal(&places, &bind, &statement, &planned).await
            }
            Some(Portal::Cursor { place, bind, planned }) => {
                let Ok(Plan::Query(query)) = planned.only()? else {
                    return Err(Refusal::unsupported("this portal cannot be executed").into());
                };
                self.cursor_portal(place, &bind, query, &execute, message).await
            }
            Some(Portal::Rows { .. }) => {
                self.settle().await?;
                self.execute_rows(execute.portal, execute.limit);
                Ok(())
            }
            Some(Portal::Own {
                statement,
                planned,
                bound,
                ..
            }) => {
                self.settle().await?;
                self.check_failed(planned.only()?)?;
                let plan = match bound {
                    Some(bound) => Ok(bound),
                    None => planned.only()?.clone(),
                };
                self.statements.replace_portal(execute.portal, Portal::Done);
                self.execute_own(&plan, &statement, &planned).await
            }
            Some(Portal::Fails(refusal)) => {
                self.settle().await?;
                Err(Failure::Refused(refusal).into())
            }
            Some(Portal::Done) => {
                self.settle().await?;
                encode::command_complete(self.out(), "SELECT 0");
                Ok(())
            }
            None => {
                let Cursor::One { place, .. } = *self.cursor_as_portal(execute.portal)? else {
                    let words = "Execute of a cursor of several groups is not supported";
                    return Err(Refusal::unsupported(words).hint("Use FETCH.").into());
                };
                self.enter(place, Access::Read, Style::Extended).await?;
                self.send_on(place, Kind::Execute, message);
                Ok(())
            }
        }
    }

    async fn execute_own(
        &mut self,
        plan: &Result<Plan, Refusal>,
        statement: &Statement,
        planned: &Planned,
    ) -> Result<(), Halt> {
        let plan = plan.as_ref().map_err(|refusal| Failure::from(refusal.clone()))?;
        if let Plan::CopyIn(copy) = plan {
            let copying = super::statements::Copying {
                text: statement.text.clone(),
                plan: copy.clone(),
            };
            return self.begin_copy(copying, planned, false).await;
        }
        match plan {
            Plan::Fill(fill) => return Box::pin(self.fill(fill, planned, Style::Extended)).await,
            Plan::Session(command) => self.set_in_pipeline(command).await?,
            Plan::Transaction(TransactionControl::Set(_)) if !self.in_block() => {
                let words = "SET TRANSACTION can only be used in transaction blocks";
                encode::warning(self.out(), "25P01", words);
                self.open_transaction(Style::Extended).await?;
            }
            _ => {}
        }
        self.command(plan, &statement.text, Rows::Alone).await
    }

    /// What a pipeline sets is part of its transaction: it goes when the pipeline fails, and does not end what came before.
    async fn set_in_pipeline(&mut self, command: &SessionCommand) -> Result<(), Halt> {
        if self.in_block() {
            return Ok(());
        }
        let alone = self.pipeline.touched.is_empty() && self.transaction.is_none();
        if let SessionCommand::Set { local: true, .. } = command
            && !alone
        {
            let words = "SET LOCAL can only be used in transaction blocks";
            encode::warning(self.out(), "25P01", words);
        }
        if self.transaction.is_some() {
            return Ok(());
        }
        match command {
            SessionCommand::Set { local: true, .. } if !alone => {
                self.open_transaction(Style::Extended).await?;
            }
            SessionCommand::Set { local: false, .. } | SessionCommand::Reset { .. } => {
                self.open_transaction(Style::Extended).await?;
            }
            SessionCommand::Discard(discard) if !alone && *discard != Discard::All => {
                self.open_transaction(Style::Extended).await?;
            }
            _ => {}
        }
        Ok(())
    }

    async fn close_named(&mut self, message: &[u8]) -> Result<(), Halt> {
        self.release_held().await?;
        match Named::read(Self::body(message))? {
            Named::Statement(name) => {
                self.statements.remove(name);
                let current = self.current;
                let mut sent = false;
                for (place, slot) in self.slots.iter_mut().enumerate() {
                    let Some(conn) = slot else { continue };
                    if name.is_empty() {
                        conn.unnamed = None;
                    } else if conn.prepared.pop(name).is_none() {
                        continue;
                    }
                    if Some(place) == current && conn.unsynced {
                        conn.output.extend_from_slice(message);
                        conn.owes(Kind::CloseStatement, Audience::Client, Stake::Nothing);
                        conn.closing.push_back(name.to_vec());
                        sent = true;
                    } else if !name.is_empty() {
                        conn.stale.push(name.to_vec());
                    }
                }
                if !sent {
                    self.settle().await?;
                    encode::empty(self.out(), b'3');
                }
            }
            Named::Portal(name) => match self.statements.remove_portal(name) {
                Some(Portal::At { place, .. }) if self.current == Some(place) && self.unsynced(place) => {
                    self.send_on(place, Kind::Close, message);
                }
                other => {
                    for place in other.iter().flat_map(Portal::bound_at) {
                        if let Some(conn) = &mut self.slots[*place] {
                            conn.stale_portals.push(name.to_vec());
                        }
                    }
                    self.settle().await?;
                    encode::empty(self.out(), b'3');
                }
            },
        }
        Ok(())
    }

    /// FunctionCall, as old as the protocol. Like a Query it ends what a pipeline has begun, and needs no Sync.
    pub(super) async fn function_call(&mut self) -> Result<(), Ended> {
        if self.told.skip {
            return Ok(());
        }
        let refusal = Refusal::unsupported("function calls by protocol are not supported")
            .hint("Use SELECT function(...).");
        self.fail(refusal.into()).await?;
        self.told.skip = true;
        self.drop_held();
        if let Err(Halt::End(ended)) = self.end_pipeline().await {
            return Err(ended);
        }
        self.told.skip = false;
        self.ready();
        Ok(())
    }

    fn unsynced(&self, place: usize) -> bool {
        self.slots[place].as_ref().is_some_and(|conn| conn.unsynced)
    }

    async fn flush(&mut self) -> Result<(), Halt> {
        self.release_held().await?;
        if let Some(place) = self.current
            && let Some(conn) = self.slots[place].as_mut().filter(|conn| conn.unsynced)
        {
            encode::empty(&mut conn.output, b'H');
        }
        Ok(())
    }

    /// The end of a pipeline, and of its implicit transaction.
    pub(super) async fn sync(&mut self) -> Result<(), Ended> {
        if !self.told.skip {
            match self.release_held().await {
                Ok(()) | Err(Halt::Skip) => {}
                Err(Halt::End(ended)) => return Err(ended),
                Err(Halt::Fail(failure)) => {
                    self.fail(failure).await?;
                    self.told.skip = true;
                    self.drop_held();
                }
            }
        }
        if self.copy.is_some() || self.told.copy_in {
            // The copy ends by CopyDone or CopyFail, and this Sync is for nothing.
            return Ok(());
        }
        let implicit = self.transaction.as_ref().is_some_and(|t| t.implicit);
        if let [place] = self.pipeline.touched[..]
            && !implicit
            && !self.has_set_on_several()
            && self.current == Some(place)
            && (!self.told.skip || self.slots[place].as_ref().is_some_and(|conn| conn.errored))
        {
            let (_, writer, stake) = self.pipeline.end();
            let writes = writer == Some(place) && !self.told.skip;
            let stake = if writes { stake } else { Stake::Nothing };
            if let Some(conn) = &mut self.slots[place] {
                conn.sync(Audience::Client, stake);
            }
            self.temporary.ended();
            self.told.skip = false;
            if self.transaction.is_none() {
                self.statements.clear_portals();
            }
            return Ok(());
        }
        match self.end_pipeline().await {
            Ok(()) | Err(Halt::Skip) => {}
            Err(Halt::End(ended)) => return Err(ended),
            Err(Halt::Fail(failure)) => self.report(&failure),
        }
        self.temporary.ended();
        self.told.skip = false;
        if self.transaction.is_none() {
            self.statements.clear_portals();
        }
        if let Err(Halt::End(ended)) = self.let_go().await {
            return Err(ended);
        }
        self.ready();
        Ok(())
    }

    /// Sends Sync to all that the pipeline has touched, those that only read first; after an error
    /// those that had none roll back.
    pub(super) async fn end_pipeline(&mut self) -> Result<(), Halt> {
        let failed = match self.settle().await {
            Ok(()) => false,
            Err(Halt::Skip) => true,
            Err(halt) => return Err(halt),
        };
        let (mut touched, writer, at_stake) = self.pipeline.end();
        touched.sort_by_key(|place| Some(*place) == writer);
        let implicit = self.transaction.is_none();
        let mut result = Ok(());
        for place in touched {
            let group = self.group(place);
            self.current = Some(place);
            self.aim();
            let Some(conn) = &mut self.slots[place] else {
                continue;
            };
            conn.captured = Captured::default();
            if failed && implicit && !conn.errored {
                // What this group did in the pipeline must not be kept.
                roll_back_pipeline(conn);
            }
            let stake = if Some(place) == writer && !failed {
                at_stake
            } else {
                Stake::Nothing
            };
            conn.sync(Audience::Session, stake);
            self.drain(place).await?;
            if let Err(halt) = self.take_captured(place, group, stake)
                && !failed
                && result.is_ok()
            {
                result = Err(halt);
            }
        }
        if !implicit && self.transaction.as_ref().is_some_and(|t| t.implicit) {
            // It wrote on several groups.
            if failed || result.is_err() || self.transaction.as_ref().is_some_and(|t| t.failed) {
                self.roll_back().await?;
            } else {
                result = self.commit(Audience::Session).await;
            }
        }
        result
    }
}

/// Sends a Parse that the client waits for. What a named statement gives is kept in mind: tables may change.
fn parse_for_client(conn: &mut Conn, statement: &Statement) {
    conn.parse(
        &statement.name,
        statement.number,
        &statement.message,
        Audience::Client,
    );
    if !statement.name.is_empty() {
        conn.describe_into(&statement.name, &statement.columns);
    }
}

/// Ends the implicit transaction of a pipeline without keeping anything of it.
fn roll_back_pipeline(conn: &mut Conn) {
    // It warns that there is no transaction block, which is nobody's business.
    conn.own("ROLLBACK", None, Audience::Quiet);
}

/// The query inside a plan whose messages pass to a backend; `Some(None)` for one that any group
/// answers; `None` for what the session does itself.
pub(super) fn relayed(plan: &Result<Plan, Refusal>) -> Option<Option<&Query>> {
    match plan {
        Ok(Plan::Query(query)) => Some(Some(query)),
        Ok(Plan::Session(SessionCommand::Show { .. }) | Plan::Prepared(PreparedCommand::Execute { .. })) => {
            Some(None)
        }
        _ => None,
    }
}

/// NoData, or the row that a statement of our own answers. Its text is the same in both formats.
fn describe_own(plan: &Result<Plan, Refusal>, format: i16, out: &mut bytes::BytesMut) {
    match plan {
        Ok(Plan::Session(SessionCommand::Configure(columns))) => {
            let columns: Vec<_> = columns.iter().map(|c| (c.name.as_str(), TEXT)).collect();
            encode::columns(out, &columns, format);
        }
        Ok(Plan::Session(SessionCommand::ShowTimeout(timeout))) => {
            encode::columns(out, &[(timeout.name(), TEXT)], format);
        }
        Ok(Plan::SetSequence(set)) => encode::columns(out, &[(set.column.as_str(), INT8)], format),
        Ok(Plan::Explained(_)) => encode::columns(out, &[(QUERY_PLAN, TEXT)], format),
        Ok(Plan::Distribute(distribute)) => encode::columns(out, &[(distribute.function, VOID)], format),
        _ => encode::empty(out, b'n'),
    }
}

/// Whether a form's answer is CopyOut.
pub(super) fn copies_out(form: &Form) -> bool {
    matches!(form, Form::CopyOut(_) | Form::CopyMade(_))
}
