//! CREATE DATABASE and DROP DATABASE: group by group, and repeated where an earlier attempt stopped.
//!
//! What may be found before, and what it means, is in [`coordinator::databases`].

use std::sync::Arc;

use coordinator::catalogue::cache::Stale;
use coordinator::databases::{self, DatabaseError, Found, Turn};
use futures::future::try_join_all;
use shard::id::GroupId;

use super::Session;
use super::conn::{Audience, Stake};
use super::ddl::{Each, seen_by_all};
use crate::analysis::{DatabaseAction, DatabaseChange, Refusal};
use crate::failure::{Failure, Halt};
use crate::protocol::encode;

/// How often DROP DATABASE ... WITH (FORCE) is tried where a backend is in its way that the user may not end.
const FORCES: usize = 5;

/// CREATE DATABASE, and what the groups had of it before.
pub(super) struct Creation {
    name: String,
    template: String,
    found: Vec<Found>,
}

fn not_asked(error: DatabaseError) -> Failure {
    Refusal::new("57P03", error.to_string())
        .hint("Nothing was done. Repeat the statement when the groups have leaders.")
        .into()
}

/// Why the catalogue of a database cannot be read.
pub(super) fn unreadable(database: &str, stale: &Stale) -> Failure {
    match stale {
        Stale::Failed {
            group,
            sqlstate: Some(state),
            ..
        } if state == "3D000" => {
            let words = format!("database \"{database}\" does not exist on group {group}");
            Refusal::new("3D000", words)
                .detail("It was dropped, or CREATE DATABASE or DROP DATABASE has not come to its end on all groups.")
                .hint("From another database, repeat CREATE DATABASE or DROP DATABASE: it goes on where it stopped.")
                .into()
        }
        other => Failure::Catalogue(other.to_string()),
    }
}

impl Session {
    /// Runs CREATE DATABASE or DROP DATABASE. One at a time in the whole cluster.
    pub(super) async fn change_database(&mut self, change: &DatabaseChange, text: &str) -> Result<(), Halt> {
        self.outside_transaction(text)?;
        if self.begins_read_only() {
            // Also where only Howdah's own part of it is left to be done.
            let verb = match &change.action {
                DatabaseAction::Create { .. } => "CREATE",
                DatabaseAction::Drop => "DROP",
            };
            let words = format!("cannot execute {verb} DATABASE in a read-only transaction");
            return Err(Refusal::new("25006", words).into());
        }
        self.all_prepared().await?;
        let groups = Arc::clone(&self.shared.groups);
        let turn = Turn::take(&*groups, self.shared.limits.leader_wait).await;
        let Some(turn) = turn.map_err(not_asked)? else {
            let words = "another session is creating or dropping a database";
            return Err(Refusal::new("55P03", words)
                .hint("Nothing was done. Repeat the statement.")
                .into());
        };
        self.unbroken = true;
        let done = match &change.action {
            DatabaseAction::Create { template } => self.create_database(&change.name, template, text).await,
            DatabaseAction::Drop => self.drop_database(&change.name, text).await,
        };
        self.unbroken = false;
        turn.end().await;
        let tag = done?;
        encode::command_complete(self.out(), &tag);
        Ok(())
    }

    async fn create_database(&mut self, name: &str, template: &str, text: &str) -> Result<String, Halt> {
        let patience = self.shared.limits.leader_wait;
        let groups = Arc::clone(&self.shared.groups);
        let find = |group: &GroupId| databases::find(&*groups, *group, name, patience);
        let found = try_join_all(groups.groups().iter().map(find)).await;
        let found = found.map_err(not_asked)?;
        let with = |wanted: fn(Found) -> bool| -> Vec<usize> {
            (0..found.len()).filter(|place| wanted(found[*place])).collect()
        };
        let missing = with(|found| matches!(found, Found::Absent | Found::Unprepared));
        let used = with(|found| found == Found::Used);
        if missing.is_empty() {
            // PostgreSQL says that it is there.
            self.in_turn(&[0], text, &Each::Defines(None)).await?;
        } else if let Some(place) = used.first() {
            let words = format!(
                "database \"{name}\" already exists on group {}",
                self.group(*place)
            );
            return Err(Refusal::new("42P04", words)
                .detail("It has definitions. It is what a DROP DATABASE left that did not come to its end.")
                .hint("Drop it on all groups with DROP DATABASE.")
                .into());
        } else {
            let there = with(|found| found != Found::Absent);
            self.go_on(name, &there);
        }
        let creation = Creation {
            name: name.to_owned(),
            template: template.to_owned(),
            found,
        };
        let tag = self.in_turn(&missing, text, &Each::Creates(creation)).await?;
        let properties = |group: &GroupId| databases::properties(&*groups, *group, name, patience);
        let properties = try_join_all(groups.groups().iter().map(properties)).await;
        let properties = properties.map_err(not_asked)?;
        if properties.windows(2).any(|two| two[0] != two[1]) {
            let words = format!("database \"{name}\" is not alike on all groups");
            return Err(Refusal::new("55000", words)
                .detail("Some of them had it from an earlier attempt, with another owner or other options.")
                .hint("Drop it on all groups with DROP DATABASE, and create it again.")
                .into());
        }
        // Nobody may route by what was known of an older database of this name.
        let shared = Arc::clone(&self.shared);
        let made = shared.catalogues.database(name);
        seen_by_all(&*shared.peers, &made, name).await;
        drop(made);
        shared.catalogues.forget(name);
        Ok(tag)
    }

    async fn drop_database(&mut self, name: &str, text: &str) -> Result<String, Halt> {
        let patience = self.shared.limits.leader_wait;
        let groups = Arc::clone(&self.shared.groups);
        let look = |group: &GroupId| {
            let (groups, group) = (Arc::clone(&groups), *group);
            async move {
                let exists = databases::exists(&*groups, group, name, patience).await?;
                let in_use = exists && databases::is_in_use(&*groups, group, name, patience).await?;
                Ok((exists, in_use))
            }
        };
        let seen = try_join_all(groups.groups().iter().map(look)).await;
        let seen = seen.map_err(not_asked)?;
        let mut places: Vec<usize> = (0..seen.len()).filter(|place| seen[*place].0).collect();
        if places.is_empty() {
            // PostgreSQL says that it is not there.
            return self.in_turn(&[0], text, &Each::Defines(None)).await;
        }
        if places.len() < seen.len() {
            let gone: Vec<usize> = (0..seen.len()).filter(|place| !seen[*place].0).collect();
            let gone = self.names(&gone);
            let words =
                format!("database \"{name}\" does not exist on groups {gone}, it is dropped on the others");
            encode::notice(self.out(), &words);
        }
        // Where someone is in it PostgreSQL refuses before any other group has dropped its own.
        places.sort_by_key(|place| !seen[*place].1);
        let tag = self.in_turn(&places, text, &Each::Drops(name.to_owned())).await?;
        self.shared.catalogues.forget(name);
        Ok(tag)
    }

    /// Says that an earlier attempt is gone on with, if there was one.
    fn go_on(&mut self, name: &str, there: &[usize]) {
        if !there.is_empty() {
            let groups = self.names(there);
            let words = format!(
                "database \"{name}\" exists on groups {groups} from an earlier attempt, which is gone on with"
            );
            encode::notice(self.out(), &words);
        }
    }

    fn names(&self, places: &[usize]) -> String {
        let names: Vec<String> = places
            .iter()
            .map(|place| self.group(*place).to_string())
            .collect();
        names.join(", ")
    }

    /// Makes the database on one group, as far as it is not there.
    pub(super) async fn create_on(
        &mut self,
        place: usize,
        text: &str,
        creation: &Creation,
        audience: Audience,
    ) -> Result<String, Halt> {
        let mut tag = "CREATE DATABASE".to_owned();
        if creation.found[place] == Found::Absent {
            tag = self
                .exec_in_clear(place, text, &creation.template, audience)
                .await?;
        }
        // A crash here leaves a copy of template0 without schema howdah: whoever repeats the statement installs it.
        let (group, patience) = (self.group(place), self.shared.limits.leader_wait);
        let prepared = databases::prepare(&*self.shared.groups, group, &creation.name, patience).await;
        prepared.map_err(|error| {
            Failure::from(
                Refusal::new("55000", format!("database \"{}\" is not prepared", creation.name))
                    .detail(error.to_string())
                    .hint("Repeat the statement: it goes on where it stopped."),
            )
        })?;
        Ok(tag)
    }

    /// Drops the database on one group.
    pub(super) async fn drop_on(
        &mut self,
        place: usize,
        text: &str,
        name: &str,
        audience: Audience,
    ) -> Result<String, Halt> {
        // FORCE ends only backends that the user may end, and fails at the first of another one. It may be that of a
        // node that has just come back; PostgreSQL has done nothing then.
        let mut attempts = 0;
        loop {
            if let Err(error) = databases::clear(&*self.shared.groups, self.group(place), name).await {
                tracing::debug!(%error, "connections stand in the way of DROP DATABASE");
            }
            attempts += 1;
            match self.exec_in_clear(place, text, name, audience).await {
                Err(Halt::Fail(failure)) if failure.may_not_force() && attempts < FORCES => {}
                done => return done,
            }
        }
    }

    /// Runs a statement for which nobody may be in a database, and sees to it that no node is.
    async fn exec_in_clear(
        &mut self,
        place: usize,
        text: &str,
        database: &str,
        audience: Audience,
    ) -> Result<String, Halt> {
        let (groups, group) = (Arc::clone(&self.shared.groups), self.group(place));
        let done = tokio::select! {
            done = self.exec(place, text, audience, Stake::Commit) => done?,
            never = databases::keep_clear(&*groups, group, database) => match never {},
        };
        Ok(done.tag.unwrap_or_default())
    }
}
