//! Statements that every group runs: DDL, maintenance, and `create_distributed_table`.

use std::time::Instant;

use coordinator::catalogue::bootstrap::distribute_table_sql;
use coordinator::catalogue::cache::{LEASE, wait_until_seen};

use super::commands::Rows;
use super::conn::{Audience, Stake};
use super::plans::Planned;
use super::transaction::{Participant, Transaction};
use super::{Session, TransactionStatus};
use crate::analysis::{Ddl, Distribute, EachGroup, Plan, Refusal, TransactionModes};
use crate::failure::{Failure, Halt, Partly};
use crate::protocol::encode;

/// Seconds that DDL waits for a lock on the second and later groups.
const LOCK_PATIENCE: u32 = 10;

impl Session {
    /// Runs DDL on every group, as one transaction: all groups have it or none.
    pub(super) async fn ddl(&mut self, statements: &[(&str, &Ddl)]) -> Result<(), Halt> {
        if self.transaction.is_some() {
            return Err(
                Refusal::unsupported("DDL in a transaction block is not supported yet")
                    .hint("Run the statement alone, outside of BEGIN and COMMIT.")
                    .into(),
            );
        }
        if let [(text, ddl)] = statements
            && ddl.outside_transaction
        {
            return self.plainly(text).await;
        }
        let texts: Vec<String> = statements.iter().map(|(text, _)| (*text).to_owned()).collect();
        let tags = self.on_every_group(&texts).await?;
        for tag in tags {
            encode::command_complete(self.out(), &tag);
        }
        Ok(())
    }

    /// A Query of nothing but DDL: all of it or nothing of it, as in PostgreSQL.
    pub(super) async fn ddl_batch(&mut self, planned: &Planned) -> Result<(), Halt> {
        let mut statements = Vec::new();
        for statement in &planned.statements {
            if let Ok(Plan::Ddl(ddl)) = &statement.plan {
                if ddl.outside_transaction {
                    let words = "this statement cannot run together with others in one Query";
                    return Err(Refusal::new("25001", words).into());
                }
                statements.push((statement.text.as_str(), ddl));
            }
        }
        self.ddl(&statements).await
    }

    /// `SELECT create_distributed_table(...)`.
    pub(super) async fn distribute(&mut self, distribute: &Distribute, rows: Rows) -> Result<(), Halt> {
        if self.transaction.is_some() {
            let words = "create_distributed_table in a transaction block is not supported yet";
            return Err(Refusal::unsupported(words).into());
        }
        let table = &distribute.table;
        let sql = distribute_table_sql(&table.schema, &table.name, Some(&distribute.column));
        self.on_every_group(&[sql]).await?;
        if rows == Rows::Described {
            encode::one_column(self.out(), "create_distributed_table", 2278, 4);
        }
        encode::one_value(self.out(), b"");
        encode::command_complete(self.out(), "SELECT 1");
        Ok(())
    }

    /// VACUUM and the like: each group for itself, one after the other.
    pub(super) async fn each_group(&mut self, each: EachGroup, text: &str) -> Result<(), Halt> {
        if self.transaction.is_some() {
            let words = "maintenance of all groups in a transaction block is not supported";
            let state = if each.outside_transaction {
                "25001"
            } else {
                "0A000"
            };
            return Err(Refusal::new(state, words)
                .hint("Run it outside of BEGIN and COMMIT.")
                .into());
        }
        self.plainly(text).await
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
    async fn plainly(&mut self, text: &str) -> Result<(), Halt> {
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

    /// Runs statements in one transaction of all groups, in ascending order so that two such never wait for each
    /// other. Gives the tags.
    async fn on_every_group(&mut self, statements: &[String]) -> Result<Vec<String>, Halt> {
        self.all_prepared().await?;
        let mut tags = Vec::new();
        let mut transaction = Transaction::new("BEGIN", TransactionModes::default());
        transaction.implicit = true;
        for place in 0..self.slots.len() {
            match self.begin_on(place, statements).await {
                Ok(of_group) => tags = of_group,
                Err(halt) => {
                    self.undo(place).await?;
                    return Err(halt);
                }
            }
            transaction.participants.push(Participant {
                place,
                touched: true,
                wrote: true,
            });
        }
        self.transaction = Some(transaction);
        let committed = self.commit(Audience::Quiet).await;
        // Also where the outcome is not known: nobody may route by what was before.
        self.catalogue_changed().await;
        committed.map(|()| tags)
    }

    async fn begin_on(&mut self, place: usize, statements: &[String]) -> Result<Vec<String>, Halt> {
        self.enter_bare(place).await?;
        let audience = if place == 0 {
            Audience::Session
        } else {
            Audience::Quiet
        };
        self.exec(
            place,
            "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE",
            Audience::Quiet,
            Stake::Nothing,
        )
        .await?;
        if place > 0 {
            // What holds the lock there may wait for a lock that this statement holds on the groups
            // before: no PostgreSQL alone can see that circle.
            let sql = format!("SET LOCAL lock_timeout = '{LOCK_PATIENCE}s'");
            self.exec(place, &sql, Audience::Quiet, Stake::Nothing).await?;
        }
        let mut tags = Vec::with_capacity(statements.len());
        for statement in statements {
            let captured = self.exec(place, statement, audience, Stake::Nothing).await?;
            tags.push(captured.tag.unwrap_or_default());
        }
        Ok(tags)
    }

    /// Rolls back what is open on the groups up to this place.
    async fn undo(&mut self, last: usize) -> Result<(), Halt> {
        for place in 0..=last {
            let open = |conn: &super::Conn| conn.status != TransactionStatus::Idle;
            if self.slots[place].as_ref().is_some_and(open) {
                self.current = Some(place);
                self.aim();
                let undone = self
                    .exec(place, "ROLLBACK", Audience::Quiet, Stake::Nothing)
                    .await;
                if let Err(Halt::End(ended)) = undone {
                    return Err(ended.into());
                }
            }
        }
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
    async fn catalogue_changed(&mut self) {
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
