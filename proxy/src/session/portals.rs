//! Portals of several groups: bound on each when they are executed.

use std::sync::Arc;

use bytes::Bytes;

use super::Session;
use super::conn::{Audience, Captured, Kind, Stake};
use super::enter::Style;
use super::plans::Planned;
use super::split::Parts;
use super::statements::{Portal, Statement};
use super::together::Binding;
use crate::analysis::{Access, Plan, Query, Refusal};
use crate::failure::Halt;
use crate::protocol::encode;
use crate::protocol::frontend::{Bind, Execute};

impl Session {
    /// Bind of an INSERT whose rows of VALUES go to these places.
    pub(super) async fn bind_rows(
        &mut self,
        rows: Vec<(usize, Vec<usize>)>,
        message: &[u8],
        statement: Arc<Statement>,
        planned: Arc<Planned>,
    ) -> Result<(), Halt> {
        let parts = match planned.statements.as_slice() {
            [one] => match &one.plan {
                Ok(Plan::Query(query)) => Parts::of(query, &one.text, rows),
                _ => return Err(Refusal::unsupported("this portal cannot be bound").into()),
            },
            _ => return Err(Refusal::unsupported("this portal cannot be bound").into()),
        };
        let bind = Bind::read(Self::body(message))?;
        let types = self.parameter_types(&statement, bind.each().count()).await?;
        let places = parts.places();
        let parts = Some(Arc::new(parts.with(types, bind.rest)));
        self.bind_many(places, message, statement, planned, parts).await
    }

    /// Bind of a statement that runs at these places.
    pub(super) async fn bind_many(
        &mut self,
        places: Vec<usize>,
        message: &[u8],
        statement: Arc<Statement>,
        planned: Arc<Planned>,
        parts: Option<Arc<Parts>>,
    ) -> Result<(), Halt> {
        self.settle().await?;
        encode::empty(self.out(), b'2');
        let bind = Bind::read(Self::body(message))?;
        let portal = Portal::Many {
            places,
            bind: Bytes::copy_from_slice(message),
            statement,
            planned,
            bound: Vec::new(),
            cut: false,
            parts,
        };
        self.statements.put_portal(bind.portal, portal);
        Ok(())
    }

    /// The types of all parameters of a statement, as PostgreSQL infers them where none is declared.
    async fn parameter_types(&mut self, statement: &Arc<Statement>, count: usize) -> Result<Vec<u32>, Halt> {
        if statement.types.len() >= count && !statement.types.contains(&0) {
            return Ok(statement.types.clone());
        }
        if let Some(known) = statement.inferred.get() {
            return Ok(known.clone());
        }
        let place = self.any_place().await?;
        self.enter_bare(place).await?;
        self.join(place).await?;
        self.mark_pipeline(place);
        self.supply(place, statement);
        self.settle().await?;
        let group = self.group(place);
        if let Some(conn) = &mut self.slots[place] {
            conn.captured = Captured::default();
            encode::describe_statement(&mut conn.output, &statement.name);
            conn.owes(Kind::Describe, Audience::Quiet, Stake::Nothing);
        }
        self.settle().await?;
        let types = self.take_captured(place, group, Stake::Nothing)?.types;
        Ok(statement.inferred.get_or_init(|| types).clone())
    }

    /// Binds a portal of several groups on one of them.
    pub(super) fn bind_one(&mut self, place: usize, name: &[u8]) {
        let number = self.statements.number();
        let Some(Portal::Many {
            bind,
            statement,
            bound,
            parts,
            ..
        }) = self.statements.portal_mut(name)
        else {
            return;
        };
        if bound.contains(&place) {
            return;
        }
        bound.push(place);
        let (bind, statement, parts) = (bind.clone(), Arc::clone(statement), parts.clone());
        let Some(conn) = &mut self.slots[place] else {
            return;
        };
        if let Some(parts) = parts {
            parts.bind(conn, number, name, place);
            return;
        }
        conn.close_stale();
        if !conn.holds(&statement.name, statement.number) {
            conn.parse(
                &statement.name,
                statement.number,
                &statement.message,
                Audience::Silent,
            );
        }
        conn.output.extend_from_slice(&bind);
        conn.owes(Kind::Bind, Audience::Silent, Stake::Nothing);
    }

    /// Executes a portal of these places, and answers.
    pub(super) async fn execute_many(
        &mut self,
        places: &[usize],
        parts: Option<&Parts>,
        query: &Query,
        execute: &Execute<'_>,
        message: &[u8],
    ) -> Result<(), Halt> {
        if execute.limit != 0 {
            let words = "a limit of rows on a result of several groups is not supported";
            return Err(Refusal::unsupported(words).hint("Fetch all rows at once.").into());
        }
        if query.access == Access::Write {
            return self
                .write_portal(places, parts, query, execute.portal, message)
                .await;
        }
        for place in places {
            self.enter(*place, Access::Read, Style::Extended).await?;
            self.bind_one(*place, execute.portal);
            self.settle().await?;
        }
        if self.takes_cuts(query)
            && let Some(Portal::Many { bind, cut, .. }) = self.statements.portal_mut(execute.portal)
            && !std::mem::replace(cut, true)
        {
            let message = bind.clone();
            let binding = Binding {
                portal: execute.portal,
                message: &message,
                style: Style::Extended,
            };
            self.bind_together(places, &binding).await?;
        }
        for (index, place) in places.iter().enumerate() {
            if let Some(conn) = &mut self.slots[*place] {
                let audience = Audience::merging(index);
                conn.captured = Captured::merging(&query.form);
                conn.output.extend_from_slice(message);
                conn.owes(Kind::Execute, audience, Stake::Nothing);
                encode::empty(&mut conn.output, b'H');
            }
        }
        self.gather(places, query).await
    }
}
