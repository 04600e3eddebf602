//! SQL's PREPARE, EXECUTE and DEALLOCATE.
//!
//! A backend gets the PREPARE when it is first needed there. An EXECUTE that comes by the extended protocol passes to its
//! group as any statement does.

use std::sync::Arc;

use super::Session;
use super::conn::{Audience, Conn};
use super::enter::Style;
use super::simple::Placed;
use super::statements::SqlPrepared;
use super::together::Statement;
use crate::analysis::{Format, Parameter, Plan, PreparedCommand, Query, Refusal};
use crate::failure::{Failure, Halt};
use crate::protocol::encode;

impl Session {
    pub(super) async fn prepared_command(
        &mut self,
        command: &PreparedCommand,
        text: &str,
    ) -> Result<(), Halt> {
        match command {
            PreparedCommand::Prepare { name, query, .. } => {
                if self.statements.get(name.as_bytes()).is_some() || self.statements.sql.contains_key(name) {
                    return Err(Failure::StatementExists(name.clone()).into());
                }
                self.bound_statements()?;
                let prepared = SqlPrepared {
                    number: self.guest.number(),
                    text: text.to_owned(),
                };
                let place = self.place_of(query).await?;
                self.enter_bare(place).await?;
                self.join(place).await?;
                self.make_way(place, name);
                self.ask(place, text, None).await?;
                if let Some(conn) = &mut self.slots[place] {
                    conn.hold(name.as_bytes(), prepared.number);
                }
                self.statements.sql.insert(name.clone(), Arc::new(prepared));
                encode::command_complete(self.out(), "PREPARE");
                Ok(())
            }
            PreparedCommand::Execute { name, parameters } => {
                let (placed, query) = self.route_execute(name, parameters).await?;
                self.execute_query(name, placed, &query, text).await
            }
            PreparedCommand::Deallocate { name } => self.deallocate(name.as_deref()),
        }
    }

    /// Where an EXECUTE runs, by what its statement means now.
    pub(super) async fn route_execute(
        &mut self,
        name: &str,
        values: &[Option<String>],
    ) -> Result<(Placed, Query), Halt> {
        let Some(prepared) = self.statements.sql.get(name).cloned() else {
            return Err(Failure::NoStatement(name.to_owned()).into());
        };
        let planned = self.plan(&prepared.text).await?;
        let (query, types) = match planned.only()? {
            Ok(Plan::Prepared(PreparedCommand::Prepare { query, types, .. })) => (query, types),
            Ok(_) => return Err(Refusal::unsupported("this statement cannot be executed any more").into()),
            Err(refusal) => return Err(refusal.clone().into()),
        };
        let parameters: Vec<Parameter<'_>> = values
            .iter()
            .enumerate()
            .map(|(index, value)| Parameter {
                value: value.as_ref().map(String::as_bytes),
                format: Format::Text,
                type_oid: types.get(index).copied().flatten(),
            })
            .collect();
        let routed = match self.route(query, &parameters, None, &planned).await {
            // PostgreSQL says how many it wants.
            Err(Halt::Fail(Failure::Refused(refusal))) if refusal.sqlstate == "08P01" => {
                Placed::One(self.any_place().await?)
            }
            routed => routed?,
        };
        match routed {
            Placed::Rows(_) => Err(Refusal::unsupported("EXECUTE of such an INSERT").into()),
            placed => Ok((placed, Query::clone(query))),
        }
    }

    /// Has the backend at `place`, which was entered, hold what PREPARE has named so; nothing of that name where nothing has it.
    pub(super) async fn prepare_on(&mut self, place: usize, name: &str) -> Result<(), Halt> {
        let Some(prepared) = self.statements.sql.get(name).cloned() else {
            if self.statements.get(name.as_bytes()).is_none() {
                self.make_way(place, name);
            }
            return Ok(());
        };
        let holds = |conn: &Conn| conn.holds(name.as_bytes(), prepared.number);
        if self.slots[place].as_ref().is_some_and(holds) {
            return Ok(());
        }
        self.make_way(place, name);
        self.ask(place, &prepared.text, None).await?;
        if let Some(conn) = &mut self.slots[place] {
            conn.hold(name.as_bytes(), prepared.number);
        }
        Ok(())
    }

    /// Another session may have had a statement of this name there, or this one before.
    fn make_way(&mut self, place: usize, name: &str) {
        if let Some(conn) = &mut self.slots[place] {
            conn.make_way(name.as_bytes());
            // It ends with the Sync of what comes next.
        }
    }

    /// The same on several groups, in the transaction that is open.
    pub(super) async fn prepare_on_all(&mut self, places: &[usize], name: &str) -> Result<(), Halt> {
        for place in places {
            self.enter_bare(*place).await?;
            self.join(*place).await?;
            self.prepare_on(*place, name).await?;
        }
        Ok(())
    }

    /// EXECUTE by a Query; answers all but ReadyForQuery.
    async fn execute_query(
        &mut self,
        name: &str,
        placed: Placed,
        query: &Query,
        text: &str,
    ) -> Result<(), Halt> {
        let places = match placed {
            Placed::One(place) => vec![place],
            Placed::Many(places) => places,
            Placed::Rows(_) => Vec::new(),
        };
        if let [place] = places.as_slice() {
            self.enter(*place, query.access, Style::Simple).await?;
            self.prepare_on(*place, name).await?;
            self.settle().await?;
            let stake = self.stake(query.access);
            if let Some(conn) = &mut self.slots[*place] {
                conn.query(text, Audience::Statement, stake);
            }
            return self.settle().await;
        }
        self.prepare_on_all(&places, name).await?;
        self.query_on_several(&places, text, Statement::Execute, query)
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
                if conn.prepared.pop(name).is_some() {
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
}
