//! Statements that every group runs: DDL, maintenance, and `create_distributed_table`.
//!
//! Definitions are written on all groups in one transaction, the client's block or one of their own, and `two_phase` commits
//! it. Until then the transaction plans by the tables as it sees them itself (`plans`), and nobody else sees them.

use std::time::Instant;

use coordinator::catalogue::bootstrap::distribute_table_sql;
use coordinator::catalogue::cache::{LEASE, wait_until_seen};

use super::Session;
use super::commands::Rows;
use super::conn::{Audience, Stake};
use super::enter::Style;
use crate::analysis::{Access, Ddl, Distribute, EachGroup, Isolation, Refusal};
use crate::failure::{Failure, Halt, Partly};
use crate::protocol::encode;

/// How a transaction begins that is opened for a definition. A snapshot older than the lock on a table would not show what it
/// has.
const BEGIN: &str = "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE";

impl Session {
    /// Runs DDL on every group: all of them have it or none.
    pub(super) async fn ddl(&mut self, ddl: &Ddl, text: &str, rows: Rows) -> Result<(), Halt> {
        if ddl.outside_transaction {
            return self.group_by_group(text).await;
        }
        let tag = self.on_every_group(text, rows).await?;
        encode::command_complete(self.out(), &tag);
        Ok(())
    }

    /// `SELECT create_distributed_table(...)`.
    pub(super) async fn distribute(&mut self, distribute: &Distribute, rows: Rows) -> Result<(), Halt> {
        let table = &distribute.table;
        let sql = distribute_table_sql(&table.schema, &table.name, Some(&distribute.column));
        self.on_every_group(&sql, rows).await?;
        if rows == Rows::Described {
            encode::one_column(self.out(), "create_distributed_table", 2278, 4);
        }
        encode::one_value(self.out(), b"");
        encode::command_complete(self.out(), "SELECT 1");
        Ok(())
    }

    /// VACUUM and the like: each group for itself, one after the other. In a transaction, ANALYZE and what else can be in one.
    pub(super) async fn each_group(&mut self, each: EachGroup, text: &str, rows: Rows) -> Result<(), Halt> {
        if each.outside_transaction || self.transaction.is_none() {
            return self.group_by_group(text).await;
        }
        let tag = self.on_every_group(text, rows).await?;
        encode::command_complete(self.out(), &tag);
        Ok(())
    }

    /// Runs a statement in one transaction of all groups: the one that is open, else one of its own. Gives its tag.
    async fn on_every_group(&mut self, sql: &str, rows: Rows) -> Result<String, Halt> {
        self.all_prepared().await?;
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
            transaction.read_only = Some(false);
        }
        let defined = self.define(sql).await;
        self.close_transaction(own, defined).await
    }

    /// Runs a definition on all groups, in ascending order: two that are alone never wait for each other in a circle.
    async fn define(&mut self, sql: &str) -> Result<String, Halt> {
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
        let mut tag = String::new();
        for place in 0..self.slots.len() {
            self.enter(place, Access::Write, Style::Simple).await?;
            self.settle().await?;
            if let Some(transaction) = &mut self.transaction {
                transaction.defines = true;
                transaction.tables = None;
            }
            let audience = if place == 0 {
                Audience::Session
            } else {
                Audience::Quiet
            };
            let done = self.exec(place, sql, audience, Stake::Nothing).await?;
            tag = done.tag.unwrap_or_default();
        }
        self.search_path = None;
        Ok(tag)
    }

    /// A group that is not prepared yet would run a definition without taking note of the table.
    async fn all_prepared(&mut self) -> Result<(), Failure> {
        let deadline = Instant::now() + self.shared.limits.leader_wait;
        for (_, read) in self.database.refresh_all(deadline).await {
            read.map_err(|stale| Failure::Catalogue(stale.to_string()))?;
        }
        Ok(())
    }

    /// Runs a statement on every group, outside of transaction blocks.
    async fn group_by_group(&mut self, text: &str) -> Result<(), Halt> {
        if self.transaction.is_some() {
            let words =
                "this statement cannot run inside a transaction block, or together with others in one Query";
            return Err(Refusal::new("25001", words)
                .hint("Run it alone, outside of BEGIN and COMMIT.")
                .into());
        }
        self.all_prepared().await?;
        let mut tag = String::new();
        for place in 0..self.slots.len() {
            let result = match self.enter_bare(place).await {
                Ok(()) => {
                    let audience = if place == 0 {
                        Audience::Session
                    } else {
                        Audience::Quiet
                    };
                    self.exec(place, text, audience, Stake::Commit).await
                }
                Err(halt) => Err(halt),
            };
            match result {
                Ok(captured) => tag = captured.tag.unwrap_or_default(),
                Err(Halt::Fail(error)) => {
                    self.catalogue_changed().await;
                    return Err(self.partly(place, place, error).into());
                }
                Err(halt) => return Err(halt),
            }
        }
        self.catalogue_changed().await;
        encode::command_complete(self.out(), &tag);
        Ok(())
    }

    /// A failure on the group at `failed`; it is done on those before `done`.
    fn partly(&self, done: usize, failed: usize, error: Failure) -> Failure {
        let groups = self.shared.groups.groups();
        if done == 0
            && !matches!(
                error,
                Failure::CommitBroken { .. } | Failure::CommitUnconfirmed { .. }
            )
        {
            return error;
        }
        Failure::Partly(Box::new(Partly {
            done: groups[..done].to_vec(),
            failed: groups[failed],
            untried: groups[failed + 1..].to_vec(),
            error,
        }))
    }

    /// Tables may be others than before: nobody may route by what was before.
    pub(super) async fn catalogue_changed(&mut self) {
        self.search_path = None;
        let committed = Instant::now();
        let refreshed = self.database.refresh_all(committed + LEASE).await;
        let versions = self.database.versions();
        let own = refreshed.iter().all(|(_, result)| result.is_ok());
        let database = self.database_name();
        let others = self
            .shared
            .peers
            .have_seen(&database, &versions, committed + LEASE);
        wait_until_seen(committed, [async { others.await && own }]).await;
    }
}
