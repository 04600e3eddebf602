//! Bind: where a statement runs, once its parameters are known.

use std::sync::{Arc, OnceLock};

use bytes::{Bytes, BytesMut};
use parking_lot::Mutex;

use super::Session;
use super::conn::{Audience, Columns, Kind, Stake};
use super::enter::Style;
use super::extended::{copies_out, relayed};
use super::holes::Supplied;
use super::plans::Planned;
use super::simple::Placed;
use super::statements::{Check, Portal, Statement};
use super::temporary::Does;
use crate::analysis::{Access, CursorAction, Form, Format, Parameter, Plan, PreparedCommand, Query, Refusal};
use crate::failure::{Failure, Halt};
use crate::protocol::encode;
use crate::protocol::frontend::Bind;

impl Session {
    pub(super) async fn bind(&mut self, message: &[u8]) -> Result<(), Halt> {
        let bound = self.bind_here(message).await;
        if let Err(Halt::Fail(_)) = &bound {
            // The Parse before it is answered all the same, and PostgreSQL's own objection to that comes first.
            self.release_held().await?;
        }
        bound
    }

    /// Where a Bind fails here, a Parse may still be held back.
    async fn bind_here(&mut self, message: &[u8]) -> Result<(), Halt> {
        let bind = Bind::read(Self::body(message))?;
        let (statement, planned) = self.statement(bind.statement).await?;
        if self
            .statements
            .held
            .as_ref()
            .is_some_and(|held| held.number != statement.number)
        {
            self.release_held().await?;
        }
        let plan = planned.only()?;
        check_count(&bind, &statement, &planned)?;
        self.check_failed(plan)?;
        if self.is_portal(bind.portal) {
            let name = String::from_utf8_lossy(bind.portal);
            return Err(Refusal::new("42P03", format!("cursor \"{name}\" already exists")).into());
        }
        // It was planned before tables changed.
        match plan {
            Err(refusal) => return self.refuse(&statement.text, refusal).await,
            Ok(Plan::Judge(refusal)) => return self.judge(statement.text.as_bytes(), refusal).await,
            Ok(_) => {}
        }
        let Some(query) = relayed(plan) else {
            return self.bind_own(&bind, statement, planned).await;
        };
        let filled = self.bind_drawing(message, &statement, plan).await?;
        let message = filled.as_deref().unwrap_or(message);
        let bind = Bind::read(Self::body(message))?;
        let parameters = given_parameters(&bind, &statement);
        for (_, value) in bind.each() {
            self.readable_value(value)?;
        }
        if let Some((statement, planned, message)) = self.compute_bound(message, &statement, &planned).await?
        {
            let Some(Some(query)) = relayed(planned.only()?) else {
                return Err(Refusal::unsupported("this statement cannot be bound").into());
            };
            let bind = Bind::read(Self::body(&message))?;
            let parameters = given_parameters(&bind, &statement);
            let routed = self.route(query, &parameters, None, &planned).await?;
            return self
                .bind_placed(&message, statement, Arc::clone(&planned), Some(query), routed)
                .await;
        }
        if let Ok(Plan::Prepared(PreparedCommand::Execute {
            name,
            parameters: values,
        })) = plan
        {
            let (name, values) = (name.clone(), values.clone());
            return self
                .bind_execute(&bind, message, statement, planned, &name, &values)
                .await;
        }
        let routed = match query {
            Some(query) => match self.route(query, &parameters, None, &planned).await {
                Ok(routed) => routed,
                Err(Halt::Fail(failure)) => {
                    let portal = match bind.portal {
                        b"" => "unnamed portal".to_owned(),
                        name => format!("portal \"{}\"", String::from_utf8_lossy(name)),
                    };
                    let failure = failure.with_context(|context| context.replace("unnamed portal", &portal));
                    return Err(Halt::Fail(failure));
                }
                Err(halt) => return Err(halt),
            },
            None => Placed::One(self.any_place().await?),
        };
        self.bind_placed(message, statement, Arc::clone(&planned), query, routed)
            .await
    }

    /// Bind of a utility statement that fails, as in PostgreSQL, when it is executed.
    async fn bind_refused(&mut self, bind: &Bind<'_>, refusal: Box<Refusal>) -> Result<(), Halt> {
        self.release_held().await?;
        self.settle().await?;
        encode::empty(self.out(), b'2');
        self.put_portal(bind.portal, Portal::Fails(refusal));
        Ok(())
    }

    /// Bind of a statement that runs there; without a query, of one that any group answers.
    async fn bind_placed(
        &mut self,
        message: &[u8],
        statement: Arc<Statement>,
        planned: Arc<Planned>,
        query: Option<&Query>,
        routed: Placed,
    ) -> Result<(), Halt> {
        let bind = Bind::read(Self::body(message))?;
        let access = query.map_or(Access::Read, |query| query.access);
        match routed {
            Placed::One(place) => {
                if let Some(query) = query {
                    match self.note_cursor(&query.form, place) {
                        Err(Halt::Fail(Failure::Refused(refusal))) if refusal.sqlstate == "42P03" => {
                            return self.bind_refused(&bind, refusal).await;
                        }
                        noted => noted?,
                    }
                    self.allow_definition(&query.form)?;
                }
                self.enter(place, access, Style::Extended).await?;
                if let Some(check) = self.supply(place, &statement, &planned) {
                    self.check_columns(place, check).await?;
                }
                if let Some(conn) = &mut self.slots[place] {
                    conn.output.extend_from_slice(message);
                    conn.owes(Kind::Bind, Audience::Client, Stake::Nothing);
                }
                let portal = match query {
                    // What there is to close is known when it is executed.
                    Some(query) if closes(&query.form) || self.sees_to_cursor(&query.form) => {
                        Portal::Cursor {
                            place,
                            bind: Bytes::copy_from_slice(message),
                            planned,
                        }
                    }
                    _ => {
                        let does = query.map_or(Does::Nothing, |query| Does::by(&query.form));
                        Portal::At { place, access, does }
                    }
                };
                self.put_portal(bind.portal, portal);
            }
            Placed::Many(places) if query.is_some_and(|query| matches!(query.form, Form::Declare { .. })) => {
                self.release_held().await?;
                self.settle().await?;
                encode::empty(self.out(), b'2');
                let portal = Portal::Declare {
                    places,
                    bind: Bytes::copy_from_slice(message),
                    statement,
                    planned,
                };
                self.put_portal(bind.portal, portal);
            }
            Placed::Many(places) => {
                if access == Access::Read {
                    // Before anything of it reaches a backend: a snapshot is imported into a fresh transaction only.
                    let cuts = query.is_none_or(|query| !copies_out(&query.form));
                    self.begin_read_of_several(cuts).await?;
                }
                self.release_held().await?;
                self.bind_many(places, message, statement, planned, None).await?;
            }
            Placed::Rows(rows) => {
                self.release_held().await?;
                self.bind_rows(rows, message, statement, planned).await?;
            }
        }
        Ok(())
    }

    /// Bind of SQL's EXECUTE.
    async fn bind_execute(
        &mut self,
        bind: &Bind<'_>,
        message: &[u8],
        statement: Arc<Statement>,
        planned: Arc<Planned>,
        name: &str,
        values: &[Option<String>],
    ) -> Result<(), Halt> {
        if !self.statements.sql.contains_key(name) {
            // That there is none is said when it is executed.
            self.release_held().await?;
            return self.bind_own(bind, statement, planned).await;
        }
        let (placed, query) = self.route_execute(name, values).await?;
        let places = match placed {
            Placed::One(place) => {
                self.enter(place, query.access, Style::Extended).await?;
                self.prepare_on(place, name).await?;
                let _an_execute_gives_what_it_executes = self.supply(place, &statement, &planned);
                self.send_on(place, Kind::Bind, message);
                let (access, does) = (query.access, Does::Nothing);
                self.put_portal(bind.portal, Portal::At { place, access, does });
                return Ok(());
            }
            Placed::Many(places) => places,
            Placed::Rows(_) => return Err(Refusal::unsupported("EXECUTE of such an INSERT").into()),
        };
        if query.access == Access::Read {
            self.begin_read_of_several(false).await?;
        }
        self.release_held().await?;
        self.prepare_on_all(&places, name).await?;
        self.bind_many(places, message, statement, planned, None).await?;
        if let Some(Portal::Many { cut, executes, .. }) = self.statements.portal_mut(bind.portal) {
            // Its snapshot is taken when it is executed.
            *cut = true;
            *executes = Some(Arc::new(query));
        }
        Ok(())
    }

    /// Whether there is a portal, or a cursor of SQL, of this name, which is another word for it (`CreatePortal` in
    /// portalmem.c). The one without a name gives way.
    fn is_portal(&self, name: &[u8]) -> bool {
        let is_cursor = || std::str::from_utf8(name).is_ok_and(|name| self.cursors.contains_key(name));
        !name.is_empty() && (self.statements.portal(name).is_some() || is_cursor())
    }

    /// Keeps a portal that was bound now.
    pub(super) fn put_portal(&mut self, name: &[u8], portal: Portal) {
        let since = self.position();
        self.statements.put_portal(name, portal, since);
    }

    /// A prepared statement with a plan that is still right.
    async fn statement(&mut self, name: &[u8]) -> Result<(Arc<Statement>, Arc<Planned>), Halt> {
        let Some((statement, planned)) = self.statements.get(name).cloned() else {
            return Err(Failure::NoStatement(String::from_utf8_lossy(name).into_owned()).into());
        };
        // In a failed transaction nothing is looked up, and nothing runs but its end.
        let failed = self.transaction.as_ref().is_some_and(|t| t.failed);
        if failed || self.is_current(&planned).await? {
            return Ok((statement, planned));
        }
        let planned = self.plan(&statement.text).await?;
        let statement = self.supplied_anew(statement, &planned)?;
        self.statements.put(Arc::clone(&statement), Arc::clone(&planned));
        Ok((statement, planned))
    }

    /// The same statement where the columns that sequences fill may have changed: backends may have to get another text.
    fn supplied_anew(&self, statement: Arc<Statement>, planned: &Planned) -> Result<Arc<Statement>, Halt> {
        let declared = statement.types.len() - statement.holes;
        let supplied = Supplied::of(&statement.name, &statement.types[..declared], planned.only()?)?;
        let (message, types, holes) = match supplied {
            Some(supplied) => (supplied.message, supplied.types, supplied.holes),
            None => {
                let types = statement.types[..declared].to_vec();
                let mut message = BytesMut::new();
                encode::parse(&mut message, &statement.name, statement.text.as_bytes(), &types);
                (message.freeze(), types, 0)
            }
        };
        if message == statement.message {
            return Ok(statement);
        }
        Ok(Arc::new(Statement {
            number: self.guest.number(),
            own: self.guest.number(),
            name: statement.name.clone(),
            message,
            text: statement.text.clone(),
            types,
            holes,
            tables: statement.tables,
            columns: Columns::clone(&statement.columns),
            late: Mutex::default(),
            inferred: OnceLock::new(),
        }))
    }

    /// A statement that was supplied when tables had changed must still give what the client knows of it
    /// (`RevalidateCachedQuery` in plancache.c).
    pub(super) async fn check_columns(&mut self, place: usize, check: Check) -> Result<(), Halt> {
        let Check { statement, late } = check;
        let Some(known) = statement.columns.get() else {
            return Ok(());
        };
        if late.fits.get().is_none() {
            let columns = Columns::default();
            if let Some(conn) = &mut self.slots[place] {
                conn.describe_into(&statement.name, &columns);
            }
            self.settle().await?;
            if let Some(now) = columns.get() {
                let _ = late.fits.set(now == known);
            }
        }
        if late.fits.get() == Some(&false) {
            return Err(Refusal::new("0A000", "cached plan must not change result type").into());
        }
        Ok(())
    }
}

/// Whether a statement is a CLOSE.
fn closes(form: &Form) -> bool {
    matches!(
        form,
        Form::Cursor {
            action: CursorAction::Close,
            ..
        }
    )
}

/// The parameters of a Bind, of the types that are declared for them.
fn given_parameters<'b>(bind: &Bind<'b>, statement: &Statement) -> Vec<Parameter<'b>> {
    let parameter = |(index, (binary, value)): (usize, (bool, Option<&'b [u8]>))| Parameter {
        value,
        format: if binary { Format::Binary } else { Format::Text },
        type_oid: statement.types.get(index).copied().filter(|oid| *oid != 0),
    };
    bind.each().enumerate().map(parameter).collect()
}

/// Whether a Bind has as many values as a query has parameters (`exec_bind_message` in postgres.c). What is in other
/// statements PostgreSQL counts in its own ways.
fn check_count(bind: &Bind<'_>, statement: &Statement, planned: &Planned) -> Result<(), Refusal> {
    let [one] = planned.statements.as_slice() else {
        return Ok(());
    };
    if !matches!(&one.plan, Ok(Plan::Query(query)) if !copies_out(&query.form)) {
        return Ok(());
    }
    let declared = statement.types.len() - statement.holes;
    check_given(bind, one.parameters.max(declared))
}

/// The same where it is known how many are needed.
pub(super) fn check_given(bind: &Bind<'_>, needed: usize) -> Result<(), Refusal> {
    let given = bind.each().count();
    if given == needed {
        return Ok(());
    }
    let name = String::from_utf8_lossy(bind.statement);
    let words = format!(
        "bind message supplies {given} parameters, but prepared statement \"{name}\" requires {needed}"
    );
    Err(Refusal::new("08P01", words))
}
