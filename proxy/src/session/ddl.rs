//! Statements that every group runs: DDL, maintenance, and `create_distributed_table`.
//!
//! Definitions are written on all groups in one transaction, the client's block or one of their own, and `two_phase` commits
//! it. Until then the transaction plans by the tables as it sees them itself (`plans`), and nobody else sees them.

use std::sync::Arc;
use std::time::Instant;

use coordinator::catalogue::bootstrap::{
    SEQUENCES_CHANGED, drop_invalid_index_sql, open_sequences_sql, sequence_states_sql, shard_key_sql,
};
use coordinator::catalogue::cache::{DatabaseCatalogue, LEASE, wait_until_seen};

use super::Session;
use super::commands::Rows;
use super::conn::{Audience, Stake};
use super::databases::{Creation, unreadable};
use super::enter::Style;
use super::home::HOME;
use crate::Peers;
use crate::analysis::{
    Access, AlteredTable, Ddl, DdlEffect, Distribute, EachGroup, Index, Isolation, Refusal, RelationName,
    command_of,
};
use crate::failure::{Again, Failure, Halt, Partly};
use crate::protocol::encode::{self, VOID};

/// How a transaction begins that is opened for a definition. A snapshot older than the lock on a table would not show what it
/// has.
const BEGIN: &str = "BEGIN ISOLATION LEVEL READ COMMITTED";

/// Some groups have rows of the table and keep its shard key, others have none and choose it anew.
pub(super) fn another_key(table: &RelationName) -> Refusal {
    let words = format!(
        "table \"{}\" has rows, and this would give it another shard key",
        table.name
    );
    Refusal::new("55000", words)
        .detail(
            "Until it has rows the shard key is the first column of the primary key, or the first column.",
        )
        .hint("Create a new table and copy the rows.")
}

/// What a statement is that each group runs for itself.
pub(super) enum Each {
    /// A definition, and the index that it leaves invalid where it fails.
    Defines(Option<Index>),
    /// A database is made.
    Creates(Creation),
    /// The database of this name is dropped.
    Drops(String),
    Maintains(EachGroup),
}

/// What is changed on all groups.
#[derive(Clone, Copy)]
pub(super) enum Definition<'a> {
    /// What the client's text says.
    Says { text: &'a str, effect: &'a DdlEffect },
    /// Where the rows of a table are.
    Places(&'a Distribute),
}

impl Session {
    /// Runs DDL on every group: all of them have it or none.
    pub(super) async fn ddl(&mut self, ddl: &Ddl, text: &str, rows: Rows) -> Result<(), Halt> {
        if let DdlEffect::Database(change) = &ddl.effect {
            return Box::pin(self.change_database(change, text)).await;
        }
        if ddl.outside_transaction {
            return self
                .group_by_group(text, &Each::Defines(ddl.leaves.clone()))
                .await;
        }
        let effect = &ddl.effect;
        let drawn;
        let mut text = text;
        if let DdlEffect::AlterTable(AlteredTable {
            one_time: Some(draws),
            ..
        }) = effect
        {
            self.settle().await?;
            let values = self.draw(draws, &[]).await?;
            self.pipeline.began = None;
            self.told.places = Some(draws.places(&values));
            drawn = draws.with_constants(&values);
            text = &drawn;
        }
        let ran = self.on_every_group(Definition::Says { text, effect }, rows).await;
        self.told.places = None;
        encode::command_complete(self.out(), &ran?);
        Ok(())
    }

    /// `SELECT create_distributed_table(...)` and the like.
    pub(super) async fn distribute(&mut self, distribute: &Distribute, rows: Rows) -> Result<(), Halt> {
        self.on_every_group(Definition::Places(distribute), rows).await?;
        if rows == Rows::Described {
            encode::columns(self.out(), &[(distribute.function, VOID)], 0);
        }
        encode::row(self.out(), &[Some(b"")]);
        encode::command_complete(self.out(), "SELECT 1");
        Ok(())
    }

    /// VACUUM and the like: each group for itself, one after the other. In a transaction, ANALYZE and what else can be in one.
    pub(super) async fn each_group(&mut self, each: EachGroup, text: &str, rows: Rows) -> Result<(), Halt> {
        if each.outside_transaction || self.transaction.is_none() {
            return self.group_by_group(text, &Each::Maintains(each)).await;
        }
        let effect = &DdlEffect::None;
        let tag = self
            .on_every_group(Definition::Says { text, effect }, rows)
            .await?;
        encode::command_complete(self.out(), &tag);
        Ok(())
    }

    /// Runs a statement in one transaction of all groups: the one that is open, else one of its own. Gives its tag.
    async fn on_every_group(&mut self, definition: Definition<'_>, rows: Rows) -> Result<String, Halt> {
        self.all_prepared().await?;
        let own = self.open_definition(rows).await?;
        let defined = self.define(definition).await;
        self.close_transaction(own, defined).await
    }

    /// Makes sure that a transaction is open that can define something; whether it is the statement's own.
    pub(super) async fn open_definition(&mut self, rows: Rows) -> Result<bool, Halt> {
        let own = self
            .open_transaction(match rows {
                Rows::Described => Style::Simple,
                Rows::Alone => Style::Extended,
            })
            .await?;
        if let Some(transaction) = &mut self.transaction
            && transaction.implicit
            && transaction.participants.is_empty()
        {
            transaction.begin = BEGIN.to_owned();
            transaction.isolation = Some(Isolation::ReadCommitted);
        }
        Ok(own)
    }

    /// Runs a definition on all groups, in ascending order: two that are alone never wait for each other in a circle.
    ///
    /// A group looks at its own rows alone when it chooses another shard key for an altered table. They must agree.
    ///
    /// An ALTER of a sequence is checked against its state, which only the home group has: it comes first, and the others
    /// are given what it had.
    pub(super) async fn define(&mut self, definition: Definition<'_>) -> Result<String, Halt> {
        self.begin_definition().await?;
        let (sql, effect) = match definition {
            Definition::Says { text, effect } => (text, effect),
            Definition::Places(distribute) => {
                Box::pin(self.redistribute(distribute)).await?;
                return Ok(String::new());
            }
        };
        let (altered, counted) = match effect {
            DdlEffect::AlterTable(altered) => (Some(altered), altered.counted.then_some(&altered.table)),
            DdlEffect::AlterSequence(sequence) => (None, Some(sequence)),
            _ => (None, None),
        };
        if let Some(AlteredTable {
            table,
            new_key: Some(key),
            ..
        }) = altered
        {
            Box::pin(self.rekey(table, key)).await?;
        }
        let (mut tag, mut key, mut states) = (String::new(), None, String::new());
        for place in 0..self.slots.len() {
            self.enter(place, Access::Write, Style::Simple).await?;
            self.settle().await?;
            if let Some(RelationName { schema, name }) = counted {
                let sql = match place {
                    HOME => sequence_states_sql(schema, name),
                    _ => open_sequences_sql(&states),
                };
                let said = self
                    .exec(place, &sql, Audience::Quiet, Stake::Nothing)
                    .await?
                    .value;
                if place == HOME {
                    states = String::from_utf8_lossy(&said.unwrap_or_default()).into_owned();
                }
            }
            let audience = if place == 0 {
                Audience::Session
            } else {
                Audience::Quiet
            };
            let done = self.exec(place, sql, audience, Stake::Nothing).await?;
            tag = done.tag.unwrap_or_default();
            if *effect == DdlEffect::RestartIdentity {
                self.exec(place, SEQUENCES_CHANGED, Audience::Quiet, Stake::Nothing)
                    .await?;
            }
            if let Some(AlteredTable { table, .. }) = altered {
                let sql = shard_key_sql(&table.schema, &table.name);
                let here = self
                    .exec(place, &sql, Audience::Quiet, Stake::Nothing)
                    .await?
                    .value;
                if *key.get_or_insert_with(|| here.clone()) != here {
                    return Err(another_key(table).into());
                }
            }
        }
        self.search_path = None;
        Ok(tag)
    }

    /// The transaction that is open is about to define something.
    pub(super) async fn begin_definition(&mut self) -> Result<(), Halt> {
        let place = self.any_place().await?;
        self.enter_bare(place).await?;
        let isolation = match self.transaction.as_ref().and_then(|t| t.isolation) {
            Some(isolation) => isolation,
            None => self.default_isolation(place).await?,
        };
        if isolation != Isolation::ReadCommitted {
            let words = "a transaction that defines something must be READ COMMITTED";
            return Err(Refusal::unsupported(words)
                .hint("Begin it with ISOLATION LEVEL READ COMMITTED.")
                .into());
        }
        if let Some(transaction) = &mut self.transaction {
            transaction.defines = true;
            transaction.tables = None;
        }
        Ok(())
    }

    /// A group that is not prepared yet would run a definition without taking note of the table.
    pub(super) async fn all_prepared(&mut self) -> Result<(), Failure> {
        let deadline = Instant::now() + self.shared.limits.leader_wait;
        for (_, read) in self.database.refresh_all(deadline).await {
            read.map_err(|stale| unreadable(&self.database_name(), &stale))?;
        }
        Ok(())
    }

    /// PostgreSQL's rule for what it cannot undo.
    pub(super) fn outside_transaction(&self, text: &str) -> Result<(), Failure> {
        if self.transaction.is_some() {
            let words = format!("{} cannot run inside a transaction block", command_of(text));
            return Err(Refusal::new("25001", words).into());
        }
        Ok(())
    }

    /// Runs a statement that cannot run in a transaction: one group after the other, each for itself.
    async fn group_by_group(&mut self, text: &str, each: &Each) -> Result<(), Halt> {
        self.outside_transaction(text)?;
        self.all_prepared().await?;
        let places: Vec<usize> = (0..self.slots.len()).collect();
        self.unbroken = true;
        let done = self.in_turn(&places, text, each).await;
        self.unbroken = false;
        if !matches!(done, Err(Halt::Skip | Halt::End(_))) {
            self.catalogue_changed().await;
        }
        encode::command_complete(self.out(), &done?);
        Ok(())
    }

    /// Runs a statement on these groups, one after the other. The first that fails ends it; the error says which have done it. It
    /// can be repeated then. Gives the tag of the last.
    pub(super) async fn in_turn(
        &mut self,
        places: &[usize],
        text: &str,
        each: &Each,
    ) -> Result<String, Halt> {
        let mut tag = String::new();
        for (done, place) in places.iter().enumerate() {
            // A crash here leaves some groups with it and others without; whoever repeats the statement finishes it.
            // A group's own part is PostgreSQL's: all of it, or nothing but an index or a database that is marked as invalid.
            // Definitions say the same everywhere. What maintenance has to say is about a group's own rows.
            let audience = match each {
                Each::Maintains(_) => Audience::Session,
                _ if done == 0 => Audience::Session,
                _ => Audience::Quiet,
            };
            match self.on_one_group(*place, text, each, audience).await {
                Ok(of_group) => tag = of_group,
                Err(Halt::Fail(error)) => return Err(self.partly(places, done, error, each).into()),
                Err(halt) => return Err(halt),
            }
        }
        Ok(tag)
    }

    async fn on_one_group(
        &mut self,
        place: usize,
        text: &str,
        each: &Each,
        audience: Audience,
    ) -> Result<String, Halt> {
        self.enter_bare(place).await?;
        match each {
            Each::Creates(creation) => return self.create_on(place, text, creation, audience).await,
            Each::Drops(name) => return self.drop_on(place, text, name, audience).await,
            Each::Defines(Some(index)) => {
                let table = &index.table;
                let sql = drop_invalid_index_sql(&table.schema, &table.name, &index.name);
                let drop = self
                    .exec(place, &sql, Audience::Quiet, Stake::Nothing)
                    .await?
                    .value;
                if let Some(drop) = drop {
                    // An attempt before has left it, or another session is about to make it: then this waits, and makes it again.
                    let drop = String::from_utf8_lossy(&drop).into_owned();
                    self.exec(place, &drop, Audience::Quiet, Stake::Nothing).await?;
                }
            }
            Each::Maintains(EachGroup { verbose: true, .. }) => {
                let group = self.group(place);
                encode::info(self.out(), &format!("group {group}:"));
            }
            Each::Defines(None) | Each::Maintains(_) => {}
        }
        let done = self.exec(place, text, audience, Stake::Commit).await?;
        Ok(done.tag.unwrap_or_default())
    }

    /// A failure on the group at `places[failed]`; it is done on those before.
    fn partly(&self, places: &[usize], failed: usize, error: Failure, each: &Each) -> Failure {
        let groups: Vec<_> = places.iter().map(|place| self.group(*place)).collect();
        let unknown = matches!(
            error,
            Failure::CommitBroken { .. } | Failure::CommitUnconfirmed { .. }
        );
        if failed == 0 && !unknown {
            return error;
        }
        Failure::Partly(Box::new(Partly {
            done: groups[..failed].to_vec(),
            failed: groups[failed],
            untried: groups[failed + 1..].to_vec(),
            error,
            again: match each {
                Each::Defines(_) => Again::IfNeeded,
                Each::Creates(_) | Each::Drops(_) => Again::Rest,
                Each::Maintains(_) => Again::Same,
            },
        }))
    }

    /// Tables may be others than before: nobody may route by what was before.
    pub(super) async fn catalogue_changed(&mut self) {
        self.search_path = None;
        let (shared, name) = (Arc::clone(&self.shared), self.database_name());
        let database = Arc::clone(&self.database);
        seen_by_all(&*shared.peers, &database, &name).await;
    }
}

/// Reads a database's catalogues again, and waits until no node routes by older ones.
pub(super) async fn seen_by_all(peers: &dyn Peers, database: &DatabaseCatalogue, name: &str) {
    let committed = Instant::now();
    let refreshed = database.refresh_all(committed + LEASE).await;
    let versions = database.versions();
    let own = refreshed.iter().all(|(_, result)| result.is_ok());
    let others = peers.have_seen(name, &versions, committed + LEASE);
    wait_until_seen(committed, [async { others.await && own }]).await;
}
