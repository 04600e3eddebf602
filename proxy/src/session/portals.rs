//! Portals of several groups: bound on each when they are executed.

use std::sync::Arc;

use bytes::Bytes;

use super::Session;
use super::captured::{Captured, Line};
use super::conn::{Audience, Kind, Stake};
use super::enter::Style;
use super::holes::draws_of;
use super::plans::Planned;
use super::split::Parts;
use super::statements::{Check, Portal, Statement};
use super::together::Binding;
use crate::analysis::{Access, Form, Plan, Query, Refusal};
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
                Ok(Plan::Query(query)) => {
                    let draws = draws_of(&one.plan);
                    Parts::of(query, draws.map_or(&one.text, |draws| &draws.text), rows)
                }
                _ => return Err(Refusal::unsupported("this portal cannot be bound").into()),
            },
            _ => return Err(Refusal::unsupported("this portal cannot be bound").into()),
        };
        let bind = Bind::read(Self::body(message))?;
        let types = self
            .parameter_types(&statement, &planned, bind.each().count())
            .await?;
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
            read: 0,
            executes: None,
            cut: false,
            parts,
        };
        self.put_portal(bind.portal, portal);
        Ok(())
    }

    /// The types of all parameters of a statement, as PostgreSQL infers them where none is declared.
    pub(super) async fn parameter_types(
        &mut self,
        statement: &Arc<Statement>,
        planned: &Planned,
        count: usize,
    ) -> Result<Vec<u32>, Halt> {
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
        let _only_parameters_count = self.supply(place, statement, planned);
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

    /// Binds a portal of several groups on one of them, which a Check may still refuse.
    pub(super) fn bind_one(&mut self, place: usize, name: &[u8]) -> Option<Check> {
        let number = self.guest.number();
        let Some(Portal::Many {
            bind,
            statement,
            planned,
            bound,
            parts,
            ..
        }) = self.statements.portal_mut(name)
        else {
            return None;
        };
        if bound.contains(&place) {
            return None;
        }
        bound.push(place);
        let (bind, parts) = (bind.clone(), parts.clone());
        let (statement, planned) = (Arc::clone(statement), Arc::clone(planned));
        let conn = self.slots[place].as_mut()?;
        conn.close_stale();
        if let Some(parts) = parts {
            parts.bind(conn, number, name, place);
            return None;
        }
        let check = self.supply_again(place, &statement, &planned);
        let conn = self.slots[place].as_mut()?;
        conn.output.extend_from_slice(&bind);
        conn.owes(Kind::Bind, Audience::Silent, Stake::Nothing);
        check
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
        if let Form::Gathered(gathering) = &query.form {
            return Box::pin(self.gathered_portal(places, gathering, execute, message)).await;
        }
        if let Form::Locks(gathering) = &query.form {
            return Box::pin(self.locking_portal(places, gathering, execute)).await;
        }
        if let Form::CopyMade(made) = &query.form {
            self.enter_all(places, Style::Extended).await?;
            if self.groups_copy(made) {
                let query = made.by_groups(query);
                return Box::pin(self.execute_many(places, parts, &query, execute, message)).await;
            }
            return Box::pin(self.copying_portal(places, made, execute)).await;
        }
        if let Form::Brings(bring) = &query.form {
            return Box::pin(self.bringing_portal(places, bring, execute)).await;
        }
        if let Form::Feeds(feed) = &query.form {
            return Box::pin(self.feeding_portal(places, (query, feed), execute)).await;
        }
        if let Form::Moves(moves) = &query.form {
            return Box::pin(self.moving_portal(places, moves, execute)).await;
        }
        if query.access == Access::Write {
            return self.write_portal(places, parts, query, execute).await;
        }
        for place in places {
            self.enter(*place, Access::Read, Style::Extended).await?;
            if let Some(check) = self.bind_one(*place, execute.portal) {
                self.check_columns(*place, check).await?;
            }
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
            self.bind_together(places, &[binding]).await?;
        }
        // COPY and a count are done at once, whatever the limit.
        let limit = u64::try_from(execute.limit).unwrap_or(0);
        if limit > 0 && query.form == Form::Plain {
            return self.execute_some(places, execute.portal, limit).await;
        }
        let read = match self.statements.portal_mut(execute.portal) {
            Some(Portal::Many { read, .. }) => std::mem::replace(read, 0),
            _ => 0,
        };
        let places = &places[read.min(places.len())..];
        for (index, place) in places.iter().enumerate() {
            if let Some(conn) = &mut self.slots[*place] {
                let audience = Audience::merging(index);
                conn.captured = Captured::merging(&query.form, Line::at(index, places.len()));
                conn.output.extend_from_slice(message);
                conn.owes(Kind::Execute, audience, Stake::Nothing);
                encode::empty(&mut conn.output, b'H');
            }
        }
        self.gather(places, query).await
    }

    /// Gives at most `limit` rows of a portal: one group after the other, as far as rows are wanted. All of them are bound,
    /// and show what was there when they were.
    async fn execute_some(&mut self, places: &[usize], portal: &[u8], limit: u64) -> Result<(), Halt> {
        let mut given = 0;
        while given < limit {
            let Some(Portal::Many { read, .. }) = self.statements.portal(portal) else {
                break;
            };
            let Some(place) = places.get(*read).copied() else {
                encode::command_complete(self.out(), &format!("SELECT {given}"));
                return Ok(());
            };
            self.enter(place, Access::Read, Style::Extended).await?;
            self.settle().await?;
            let group = self.group(place);
            if let Some(conn) = &mut self.slots[place] {
                conn.captured = Captured::default();
                encode::execute(&mut conn.output, portal, limit - given);
                conn.owes(Kind::Execute, Audience::MergeNext, Stake::Nothing);
            }
            self.drain(place).await?;
            let captured = self.take_captured(place, group, Stake::Nothing)?;
            if captured.tag.is_none() {
                // PortalSuspended: it has more.
                break;
            }
            given += captured.counted;
            if let Some(Portal::Many { read, .. }) = self.statements.portal_mut(portal) {
                *read += 1;
            }
        }
        encode::empty(self.out(), b's');
        Ok(())
    }

    /// Gives rows that a portal returned when it wrote (`PORTAL_ONE_RETURNING` in pquery.c: all is done at the first Execute).
    pub(super) fn execute_rows(&mut self, portal: &[u8], limit: i32) {
        let Some(Portal::Rows {
            rows, returns, tag, ..
        }) = self.statements.portal_mut(portal)
        else {
            return;
        };
        let wanted = usize::try_from(limit).ok().filter(|limit| *limit > 0);
        let given = wanted.unwrap_or(usize::MAX).min(rows.len());
        let out = &mut self.client.output;
        for row in rows.drain(..given) {
            out.extend_from_slice(&row);
        }
        // As PostgreSQL: it does not look whether more would come.
        if wanted == Some(given) {
            encode::empty(out, b's');
        } else if !*returns {
            encode::command_complete(out, tag);
        } else {
            // The rows of this Execute, not of all (`PortalRun`).
            let command = tag.rsplit_once(' ').map_or(tag.as_str(), |(command, _)| command);
            encode::command_complete(out, &format!("{command} {given}"));
        }
    }
}
