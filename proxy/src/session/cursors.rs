//! SQL's cursors. One over the rows of a single group is PostgreSQL's own there; one over several groups is a portal on each of
//! them, all with one snapshot, whose rows are fetched one group after the other.
//!
//! FETCH finds a portal that Bind has made as well as one of DECLARE (`PerformPortalFetch` in portalcmds.c), and such a
//! portal goes forward only.

use bytes::BytesMut;

use super::Session;
use super::captured::Captured;
use super::conn::{Audience, Kind, Stake};
use super::enter::Style;
use super::plans::Planned;
use super::statements::{Portal, Statement};
use super::together::Binding;
use super::transaction::Step;
use crate::analysis::lexer::quoted;
use crate::analysis::{Access, CursorAction, Form, Motion, Plan, Query, Refusal};
use crate::failure::Halt;
use crate::protocol::encode;
use crate::protocol::frontend::{Bind, Execute};

/// Where a cursor is, and how long its transaction's script was when it was declared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Cursor {
    One {
        place: usize,
        since: usize,
        /// It is WITH HOLD, and its transaction has committed.
        held: bool,
    },
    Several {
        places: Vec<usize>,
        since: usize,
        /// Of these, the one whose rows come next; the last one also when there are none.
        at: usize,
    },
}

impl Cursor {
    pub(super) fn is_at(&self, place: usize) -> bool {
        match self {
            Cursor::One { place: at, .. } => *at == place,
            Cursor::Several { places, .. } => places.contains(&place),
        }
    }

    /// Where its rows are that come next.
    pub(super) fn place(&self) -> usize {
        match self {
            Cursor::One { place, .. } => *place,
            Cursor::Several { places, at, .. } => places[*at],
        }
    }

    pub(super) fn since(&self) -> usize {
        match self {
            Cursor::One { since, .. } | Cursor::Several { since, .. } => *since,
        }
    }

    pub(super) fn outlives_transactions(&self) -> bool {
        matches!(self, Cursor::One { held: true, .. })
    }
}

/// How a FETCH is answered.
enum How<'a> {
    /// To a Query: rows with their description.
    Query,
    /// To an Execute, in the formats of this Bind. The portal of the first group is bound.
    Execute { bind: Bind<'a>, bound: Option<usize> },
}

impl Session {
    /// Remembers where a cursor of one group will be.
    pub(super) fn note_cursor(&mut self, form: &Form, place: usize) -> Result<(), Halt> {
        let Form::Declare { name, hold, .. } = form else {
            return Ok(());
        };
        if !hold && self.transaction.is_none() {
            // PostgreSQL refuses it.
            return Ok(());
        }
        if self.cursors.get(name).is_some_and(|cursor| !cursor.is_at(place)) {
            return Err(Refusal::new("42P03", format!("cursor \"{name}\" already exists")).into());
        }
        let since = self.position();
        if *hold {
            self.check_held(place, Access::Read, true)?;
            match &mut self.transaction {
                Some(transaction) => {
                    transaction.cannot_prepare(place);
                    transaction.script.push(Step::Hold(name.clone()));
                }
                None => self.declaring.push(name.clone()),
            }
        }
        let held = false;
        self.cursors
            .entry(name.clone())
            .or_insert(Cursor::One { place, since, held });
        Ok(())
    }

    /// How far the transaction's script has come: what is made now is gone when a savepoint before it is rolled back to.
    pub(super) fn position(&self) -> usize {
        self.transaction.as_ref().map_or(0, |t| t.script.len())
    }

    /// Notes which cursors WITH HOLD that were declared outside of a transaction there are. Nothing is owed.
    pub(super) fn note_declared(&mut self) {
        for name in std::mem::take(&mut self.declaring) {
            let Some(Cursor::One { place, held, .. }) = self.cursors.get_mut(&name) else {
                continue;
            };
            // Where only some of several have failed all are kept, and cost a backend until the client closes them.
            *held |= self.slots[*place].as_ref().is_some_and(|conn| conn.declared > 0);
            if !*held {
                self.cursors.remove(&name);
            }
        }
        for conn in self.slots.iter_mut().flatten() {
            conn.declared = 0;
        }
    }

    /// Where the rows are that a statement about a cursor gives next.
    pub(super) fn cursor_place(&self, form: &Form) -> Option<usize> {
        let Form::Cursor { name: Some(name), .. } = form else {
            return None;
        };
        self.cursors.get(name).map(Cursor::place)
    }

    /// Whether the session itself sees to a statement about a cursor: it is on several groups, or there is one less, or a
    /// portal less.
    pub(super) fn sees_to_cursor(&self, form: &Form) -> bool {
        match form {
            Form::Cursor {
                name: Some(name),
                action,
            } => match self.cursors.get(name) {
                Some(Cursor::Several { .. }) => true,
                Some(Cursor::One { .. }) => *action == CursorAction::Close,
                None => *action == CursorAction::Close && self.statements.has_named_portal(name.as_bytes()),
            },
            Form::Cursor { name: None, .. } => !self.cursors.is_empty() || self.statements.has_portals(),
            _ => false,
        }
    }

    /// DECLARE over several groups, by a Query.
    pub(super) async fn declare_query(
        &mut self,
        places: &[usize],
        text: &str,
        query: &Query,
    ) -> Result<(), Halt> {
        // No parameters, and results as text.
        self.declare(places, text, &[], &[0; 6], query, Style::Simple)
            .await
    }

    /// DECLARE over several groups, by an Execute.
    pub(super) async fn declare_portal(
        &mut self,
        places: &[usize],
        bind: &[u8],
        statement: &Statement,
        planned: &Planned,
    ) -> Result<(), Halt> {
        let Ok(Plan::Query(query)) = planned.only()? else {
            return Err(Refusal::unsupported("this portal cannot be executed").into());
        };
        let bind = Bind::read(Self::body(bind))?;
        let style = Style::Extended;
        self.declare(places, &statement.text, &statement.types, bind.rest, query, style)
            .await
    }

    /// Opens a cursor on several groups: a portal on each, made of the cursor's query and bound with `values`
    /// ([`Bind::rest`]).
    async fn declare(
        &mut self,
        places: &[usize],
        text: &str,
        types: &[u32],
        values: &[u8],
        query: &Query,
        style: Style,
    ) -> Result<(), Halt> {
        let Form::Declare {
            name,
            query_at,
            gathering,
            ..
        } = &query.form
        else {
            return Err(Refusal::unsupported("this is no DECLARE").into());
        };
        if self.transaction.is_none() {
            let words = "DECLARE CURSOR can only be used in transaction blocks";
            return Err(Refusal::new("25P01", words).into());
        }
        if let Some(gathering) = gathering {
            let asked = (text, types, values);
            return Box::pin(self.declare_gathered(places, name, asked, gathering, style)).await;
        }
        for place in places {
            self.enter(*place, Access::Read, style).await?;
            self.settle().await?;
        }
        let number = self.guest.number();
        let (mut parse, mut message) = (BytesMut::new(), BytesMut::new());
        let inner = text.get(*query_at..).unwrap_or_default();
        encode::parse(&mut parse, b"", inner.as_bytes(), types);
        encode::bind_unnamed(&mut message, name.as_bytes(), values);
        let binding = Binding {
            portal: name.as_bytes(),
            message: &message,
            style,
        };
        for place in places {
            if let Some(conn) = &mut self.slots[*place] {
                conn.captured = Captured::default();
                conn.close_stale();
                conn.parse(b"", number, &parse, Audience::Session);
                binding.send(conn);
            }
        }
        self.hear_all(places).await?;
        if self.takes_cuts(query) {
            self.bind_together(places, &[binding]).await?;
        }
        let cursor = Cursor::Several {
            places: places.to_vec(),
            since: self.position(),
            at: 0,
        };
        self.cursors.insert(name.clone(), cursor);
        encode::command_complete(self.out(), "DECLARE CURSOR");
        Ok(())
    }

    /// FETCH or MOVE of a cursor of several groups, CLOSE of any or all, by a Query. Answers all but ReadyForQuery.
    pub(super) async fn cursor_query(&mut self, query: &Query) -> Result<(), Halt> {
        self.cursor(query, How::Query).await
    }

    /// The same by an Execute, of a portal that is bound at `place`, where the session sees to it.
    pub(super) async fn cursor_portal(
        &mut self,
        place: usize,
        bind: &[u8],
        query: &Query,
        execute: &Execute<'_>,
        message: &[u8],
    ) -> Result<(), Halt> {
        let Form::Cursor { name, action } = &query.form else {
            return Err(Refusal::unsupported("this is no statement about a cursor").into());
        };
        // PostgreSQL says that the portal which runs cannot be closed.
        let itself = name
            .as_ref()
            .is_some_and(|name| name.as_bytes() == execute.portal);
        if itself || !self.sees_to_cursor(&query.form) {
            self.enter(place, Access::Read, Style::Extended).await?;
            self.send_on(place, Kind::Execute, message);
            return Ok(());
        }
        if *action == CursorAction::Close {
            self.settle().await?;
            self.cursor_query(query).await?;
            let words = format!(
                "portal \"{}\" cannot be run",
                String::from_utf8_lossy(execute.portal)
            );
            let again = Portal::Fails(Box::new(Refusal::new("55000", words)));
            self.statements.replace_portal(execute.portal, again);
            if let Some(conn) = &mut self.slots[place] {
                conn.stale_portals.push(execute.portal.to_vec());
            }
            return Ok(());
        }
        let fetches = matches!(action, CursorAction::Fetch(_));
        if fetches && execute.limit > 0 {
            let words = "a limit of rows on FETCH from a cursor of several groups is not supported";
            return Err(Refusal::unsupported(words)
                .hint("FETCH as many rows as are wanted.")
                .into());
        }
        let bind = Bind::read(Self::body(bind))?;
        let bound = Some(place);
        self.cursor(query, How::Execute { bind, bound }).await
    }

    async fn cursor(&mut self, query: &Query, how: How<'_>) -> Result<(), Halt> {
        let Form::Cursor { name, action } = &query.form else {
            return Err(Refusal::unsupported("this is no statement about a cursor").into());
        };
        match (name, action) {
            (Some(name), CursorAction::Fetch(motion)) => {
                let count = self.advance(name, *motion, "FETCH", how).await?;
                encode::command_complete(self.out(), &format!("FETCH {count}"));
            }
            (Some(name), CursorAction::Move(motion)) => {
                let count = self.advance(name, *motion, "MOVE", how).await?;
                encode::command_complete(self.out(), &format!("MOVE {count}"));
            }
            (Some(name), CursorAction::Close) => {
                self.close_cursors(Some(name)).await?;
                encode::command_complete(self.out(), "CLOSE CURSOR");
            }
            (None, _) => {
                self.close_cursors(None).await?;
                encode::command_complete(self.out(), "CLOSE CURSOR ALL");
            }
        }
        Ok(())
    }

    /// Goes forward, through as many groups as it takes. Gives the number of rows.
    async fn advance(
        &mut self,
        name: &str,
        motion: Motion,
        verb: &str,
        mut how: How<'_>,
    ) -> Result<u64, Halt> {
        let limit = match motion {
            Motion::Forward(count) => Some(count),
            Motion::ForwardAll => None,
            Motion::Other => {
                let words =
                    format!("{verb} in this direction on a cursor of several groups is not supported");
                return Err(Refusal::unsupported(words)
                    .hint("Go forward: NEXT, a number, or ALL.")
                    .into());
            }
        };
        let (mut count, mut audience) = (0, Audience::MergeFirst);
        while let Some(Cursor::Several { places, at, .. }) = self.cursors.get(name) {
            let (place, last) = (places[*at], at + 1 == places.len());
            let left = limit.map(|limit| limit - count);
            let how_many = left.map_or("ALL".to_owned(), |left| left.to_string());
            let sql = format!("{verb} FORWARD {how_many} FROM {}", quoted(name));
            let here = self.advance_on(place, &sql, audience, &mut how).await?;
            audience = Audience::MergeNext;
            count += here;
            if last || left == Some(here) {
                break;
            }
            if let Some(Cursor::Several { at, .. }) = self.cursors.get_mut(name) {
                *at += 1;
            }
        }
        Ok(count)
    }

    async fn advance_on(
        &mut self,
        place: usize,
        sql: &str,
        audience: Audience,
        how: &mut How<'_>,
    ) -> Result<u64, Halt> {
        let style = match how {
            How::Query => Style::Simple,
            How::Execute { .. } => Style::Extended,
        };
        self.enter(place, Access::Read, style).await?;
        self.settle().await?;
        let (group, number) = (self.group(place), self.guest.number());
        if let Some(conn) = &mut self.slots[place] {
            conn.captured = Captured::default();
            match how {
                How::Query => conn.query(sql, audience, Stake::Nothing),
                How::Execute { bind, bound } => {
                    if bound.take() != Some(place) {
                        let mut parse = BytesMut::new();
                        encode::parse(&mut parse, b"", sql.as_bytes(), &[]);
                        conn.parse(b"", number, &parse, Audience::Silent);
                        encode::bind_unnamed(&mut conn.output, bind.portal, bind.rest);
                        conn.owes(Kind::Bind, Audience::Silent, Stake::Nothing);
                        // It is gone with the transaction, or when the client closes its own.
                        conn.stale_portals.push(bind.portal.to_vec());
                    }
                    encode::execute(&mut conn.output, bind.portal, 0);
                    conn.owes(Kind::Execute, Audience::MergeNext, Stake::Nothing);
                }
            }
        }
        self.drain(place).await?;
        Ok(self.take_captured(place, group, Stake::Nothing)?.counted)
    }

    /// Closes one of them, or all, and portals of Bind with them (`PerformPortalClose` in portalcmds.c).
    async fn close_cursors(&mut self, name: Option<&str>) -> Result<(), Halt> {
        if let Some(name) = name
            && self.statements.has_named_portal(name.as_bytes())
        {
            return self.close_portal(name.as_bytes()).await;
        }
        let sql = match name {
            Some(name) => format!("CLOSE {}", quoted(name)),
            None => "CLOSE ALL".to_owned(),
        };
        let concerned = |cursor: &Cursor, place| cursor.is_at(place);
        let places: Vec<usize> = (0..self.slots.len())
            .filter(|place| match name {
                Some(name) => self
                    .cursors
                    .get(name)
                    .is_some_and(|cursor| concerned(cursor, *place)),
                None => self.engaged(*place) || self.cursors.values().any(|cursor| concerned(cursor, *place)),
            })
            .collect();
        for place in places {
            match self.engaged(place) {
                true => self.enter_bare(place).await?,
                false => self.enter(place, Access::Read, Style::Simple).await?,
            }
            self.ask(place, &sql, None).await?;
        }
        match name {
            Some(name) => drop(self.cursors.remove(name)),
            None => {
                self.cursors.clear();
                self.statements.clear_portals();
            }
        }
        Ok(())
    }

    /// Closes a portal of Bind, wherever it is bound. Nothing is owed.
    async fn close_portal(&mut self, name: &[u8]) -> Result<(), Halt> {
        let portal = self.statements.remove_portal(name);
        for place in portal.iter().flat_map(Portal::bound_at) {
            self.enter_bare(*place).await?;
            if let Some(conn) = &mut self.slots[*place] {
                conn.stale_portals.push(name.to_vec());
                conn.close_stale();
            }
            self.settle().await?;
        }
        Ok(())
    }
}
