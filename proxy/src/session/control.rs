//! BEGIN, COMMIT, ROLLBACK and savepoints: answered here, and done on the groups that take part.

use super::Session;
use super::conn::{Audience, Stake};
use super::cursors::Cursor;
use super::transaction::{Participant, Step, Transaction, View, Why};
use super::two_phase::ReadOnly;
use crate::analysis::lexer::quoted;
use crate::analysis::{Isolation, Refusal, TransactionControl, TransactionModes};
use crate::failure::{Failure, Halt};
use crate::protocol::encode;

/// Whether another transaction with the same modes follows at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Chain {
    Yes,
    No,
}

impl Session {
    /// Runs a transaction control statement and answers its tag. Nothing is owed when this is called.
    pub(super) async fn control(&mut self, control: &TransactionControl, text: &str) -> Result<(), Halt> {
        match control {
            TransactionControl::Begin(modes) => self.begin_transaction(*modes, text).await,
            TransactionControl::Commit { chain } => self.end(true, chain_of(*chain)).await,
            TransactionControl::Rollback { chain } => self.end(false, chain_of(*chain)).await,
            TransactionControl::Savepoint(name) => self.savepoint(name).await,
            TransactionControl::Release(name) => self.release(name).await,
            TransactionControl::RollbackTo(name) => self.roll_back_to(name).await,
            TransactionControl::Set(modes) => self.set_modes(*modes, text).await,
        }
    }

    async fn begin_transaction(&mut self, modes: TransactionModes, text: &str) -> Result<(), Halt> {
        match &mut self.transaction {
            None => self.transaction = Some(Transaction::new(text, modes)),
            Some(t) if t.implicit && t.participants.is_empty() && t.script.is_empty() => {
                t.implicit = false;
                (t.isolation, t.read_only) = (modes.isolation, modes.read_only);
                t.begin = text.to_owned();
            }
            Some(t) => {
                // As PostgreSQL does: what the Query did before BEGIN becomes a part of the block. The
                // groups are in one already.
                if !std::mem::replace(&mut t.implicit, false) {
                    encode::warning(self.out(), "25001", "there is already a transaction in progress");
                }
                // `standard_ProcessUtility` in utility.c sets the modes of the one that is in progress.
                if let Some(sql) = set_transaction(modes) {
                    self.change_modes(modes, &sql).await?;
                }
            }
        }
        encode::command_complete(
            self.out(),
            if starts_with_start(text) {
                "START TRANSACTION"
            } else {
                "BEGIN"
            },
        );
        Ok(())
    }

    async fn end(&mut self, commit: bool, chain: Chain) -> Result<(), Halt> {
        let Some(transaction) = self.transaction.as_ref().filter(|t| !t.implicit) else {
            if chain == Chain::Yes {
                let what = if commit { "COMMIT" } else { "ROLLBACK" };
                return Err(outside(&format!("{what} AND CHAIN")));
            }
            let implicit = self.transaction.is_some();
            encode::warning(self.out(), "25P01", "there is no transaction in progress");
            if implicit {
                if commit {
                    self.commit(Audience::Session).await?
                } else {
                    self.roll_back().await?
                }
            }
            encode::command_complete(self.out(), if commit { "COMMIT" } else { "ROLLBACK" });
            return Ok(());
        };
        let failed = transaction.failed;
        let next = match chain {
            Chain::No => None,
            Chain::Yes if failed => Some(transaction.after_failure()),
            Chain::Yes => Some(self.like_this().await?.chained()),
        };
        let untold = self.transaction.as_mut().and_then(|t| t.untold.take());
        if commit && !failed {
            self.commit(Audience::Session).await?;
            encode::command_complete(self.out(), "COMMIT");
        } else {
            self.roll_back().await?;
            if let Some(failure) = untold.filter(|_| commit) {
                // Its backend was lost in silence. A ROLLBACK in answer to COMMIT is for clients that
                // have been told of an error before.
                return Err(failure.into());
            }
            encode::command_complete(self.out(), "ROLLBACK");
        }
        if next.is_some() {
            self.transaction = next;
        }
        Ok(())
    }

    /// A new transaction of the same level that is READ ONLY and DEFERRABLE as this one is now, whatever has made it so
    /// (`SaveTransactionCharacteristics` in xact.c).
    async fn like_this(&mut self) -> Result<Transaction, Halt> {
        let Some(transaction) = &mut self.transaction else {
            return Ok(Transaction::new("BEGIN", TransactionModes::default()));
        };
        let Some(place) = transaction.preferred() else {
            let mut next = Transaction::new(&transaction.begin, TransactionModes::default());
            (next.isolation, next.read_only) = (transaction.isolation, transaction.read_only);
            next.script = transaction.take_modes();
            return Ok(next);
        };
        self.enter_bare(place).await?;
        let sql = "SELECT pg_catalog.concat_ws(',', pg_catalog.current_setting('transaction_isolation'), \
                   pg_catalog.current_setting('transaction_read_only'), \
                   pg_catalog.current_setting('transaction_deferrable'))";
        let said = self.ask(place, sql, None).await?.unwrap_or_default();
        let said = String::from_utf8_lossy(&said);
        let mut said = said.split(',');
        let isolation = said.next().unwrap_or_default();
        let read_only = said.next() == Some("on");
        let begin = format!(
            "BEGIN ISOLATION LEVEL {isolation} READ {} {}DEFERRABLE",
            if read_only { "ONLY" } else { "WRITE" },
            if said.next() == Some("on") { "" } else { "NOT " },
        );
        let modes = TransactionModes {
            isolation: Some(Isolation::shown(isolation)),
            read_only: Some(read_only),
            ..TransactionModes::default()
        };
        Ok(Transaction::new(&begin, modes))
    }

    /// Commits on every participant. One that wrote commits last, and its answer is the transaction's; several are
    /// committed by two phases.
    pub(super) async fn commit(&mut self, audience: Audience) -> Result<(), Halt> {
        self.unbroken = true;
        let committed = self.commit_unbroken(audience).await;
        self.unbroken = false;
        committed
    }

    async fn commit_unbroken(&mut self, audience: Audience) -> Result<(), Halt> {
        // No timeout strikes a commit.
        self.timeouts.end();
        self.stricken().await;
        let kept = match self.keep_for_commit().await {
            Ok(kept) => kept,
            Err(halt) => {
                self.roll_back().await?;
                return Err(halt);
            }
        };
        let Some(transaction) = self.transaction.take() else {
            return Ok(());
        };
        let mut order = transaction.in_commit_order();
        let places: Vec<usize> = order.iter().map(|p| p.place).collect();
        let late = transaction.late();
        order.retain(|p| Some(p.place) != late);
        let writers = order.iter().filter(|p| p.wrote).count();
        let mut committed = match writers {
            0 | 1 => self.commit_on_one(&order, audience).await,
            _ => {
                let read_only = if transaction.may_be_read_only() || self.begins_read_only() {
                    ReadOnly::Perhaps
                } else {
                    ReadOnly::No
                };
                self.commit_on_several(&order, read_only).await
            }
        };
        if kept {
            self.release_locks().await;
        }
        if late.is_some() {
            committed = self.announce(writers == 0, committed).await;
        }
        let outlives = |step: &Step| matches!(step, Step::Set { local: false, .. } | Step::Hold(_));
        if committed.is_ok() {
            self.keep(transaction.script, &places);
        } else if transaction.script.iter().any(outlives) {
            // Some of them may have committed or prepared, and have them now.
            self.give_up(&places);
        }
        self.after_transaction();
        if transaction.defines {
            // Also where the outcome is not known: nobody may route by what was before.
            self.catalogue_changed().await;
        }
        committed
    }

    /// Sees to it that what the transaction has locked at home stays locked until all of it is visible. Whether there is any.
    async fn keep_for_commit(&mut self) -> Result<bool, Halt> {
        self.stop_if_lost()?;
        let Some(transaction) = &self.transaction else {
            return Ok(false);
        };
        let order = transaction.in_commit_order();
        let anchor = order.last().map(|p| p.place);
        if transaction.anchor != anchor || order.iter().filter(|p| p.wrote).count() < 2 {
            return Ok(false);
        }
        self.keep_locks().await
    }

    /// Commits where at most the last has written.
    async fn commit_on_one(&mut self, order: &[Participant], audience: Audience) -> Result<(), Halt> {
        let (readers, writer) = match order.split_last() {
            Some((last, readers)) if last.wrote => (readers, Some(last)),
            _ => (order, None),
        };
        for reader in readers {
            self.send(reader.place, "COMMIT", audience, Stake::Nothing);
        }
        let mut failed = None;
        for reader in readers {
            // All are heard: none may still owe an answer.
            if let Err(halt) = self.ended(reader.place, Stake::Nothing).await {
                failed = failed.or(Some(halt));
            }
        }
        let Some(writer) = writer else {
            return failed.map_or(Ok(()), Err);
        };
        self.current = Some(writer.place);
        self.aim();
        if let Some(halt) = failed {
            self.send(writer.place, "ROLLBACK", Audience::Quiet, Stake::Nothing);
            let _ = self.hear(writer.place, Stake::Nothing).await;
            return Err(halt);
        }
        // A crash before PostgreSQL's COMMIT record is replicated rolls the writer's part back and
        // nobody was told otherwise; after it the new leader has it. Only the client, told 08007,
        // has to look.
        self.send(writer.place, "COMMIT", audience, Stake::Commit);
        self.ended(writer.place, Stake::Commit).await
    }

    /// Hears a COMMIT's answer.
    async fn ended(&mut self, place: usize, stake: Stake) -> Result<(), Halt> {
        match self.hear(place, stake).await?.tag.as_deref() {
            Some("ROLLBACK") => Err(Failure::TransactionAborted.into()),
            _ => Ok(()),
        }
    }

    /// Rolls back on every participant. A connection that breaks on the way has done so, too.
    pub(super) async fn roll_back(&mut self) -> Result<(), Halt> {
        self.timeouts.end();
        self.stricken().await;
        let Some(transaction) = self.transaction.take() else {
            return Ok(());
        };
        for participant in transaction.in_commit_order() {
            let conn = self.slots[participant.place].as_ref();
            if conn.is_none_or(super::Conn::is_idle) {
                continue;
            }
            self.current = Some(participant.place);
            self.aim();
            let result = self
                .exec(participant.place, "ROLLBACK", Audience::Session, Stake::Nothing)
                .await;
            if let Err(Halt::End(ended)) = result {
                return Err(Halt::End(ended));
            }
            // One that is still in a transaction cannot be used for anything else.
            let ended = |conn: &super::Conn| conn.status == super::TransactionStatus::Idle;
            if self.slots[participant.place]
                .as_ref()
                .is_some_and(|conn| !ended(conn))
            {
                self.close_backend(participant.place, "its transaction could not be rolled back");
            }
        }
        self.after_transaction();
        Ok(())
    }

    /// A statement has failed on one group, or here: PostgreSQL lets go of the transaction's locks and settings there at once,
    /// before the client ends it. So must the others, or whoever waits for them waits for the client.
    pub(super) async fn let_go(&mut self) -> Result<(), Halt> {
        let failed = |t: &&mut Transaction| t.failed && !t.let_go && !t.implicit;
        let Some(transaction) = self.transaction.as_mut().filter(failed) else {
            return Ok(());
        };
        let places: Vec<usize> = transaction.participants.iter().map(|p| p.place).collect();
        let busy = |conn: &super::Conn| !conn.expect.is_empty() || conn.unsynced;
        let busy = places
            .iter()
            .any(|place| self.slots[*place].as_ref().is_some_and(busy));
        if busy {
            return Ok(());
        }
        transaction.let_go = true;
        let savepoint = transaction.script.iter().rev().find_map(|step| match step {
            Step::Savepoint(name) => Some(format!("ROLLBACK TO SAVEPOINT {}", quoted(name))),
            _ => None,
        });
        let sql = savepoint.unwrap_or_else(|| "ROLLBACK".to_owned());
        let current = self.current;
        let open = |conn: &super::Conn| !conn.is_idle() && conn.status != super::TransactionStatus::Failed;
        let open: Vec<usize> = places
            .into_iter()
            .filter(|p| self.slots[*p].as_ref().is_some_and(open))
            .collect();
        for place in &open {
            self.send(*place, &sql, Audience::Quiet, Stake::Nothing);
        }
        for place in open {
            self.hear(place, Stake::Nothing).await?;
        }
        self.current = current.filter(|place| self.slots[*place].is_some());
        self.aim();
        Ok(())
    }

    /// SETs of a committed transaction are the session's, and so are its cursors WITH HOLD.
    fn keep(&mut self, script: Vec<Step>, places: &[usize]) {
        let before = self.settings.latest();
        for step in script {
            self.timeouts.keep(&step);
            match step {
                Step::Set {
                    name,
                    sql,
                    local: false,
                } => self.settings.record(name.as_deref(), &sql),
                Step::Hold(name) => {
                    if let Some(Cursor::One { held, .. }) = self.cursors.get_mut(&name) {
                        *held = true;
                    }
                }
                _ => {}
            }
        }
        let latest = self.settings.latest();
        for place in places {
            if let Some(conn) = self.slots[*place]
                .as_mut()
                .filter(|conn| conn.settings_seen == before)
            {
                conn.settings_seen = latest;
            }
        }
    }

    /// A transaction has ended behind our back.
    pub(super) fn end_transaction(&mut self) {
        self.transaction = None;
        self.after_transaction();
    }

    fn after_transaction(&mut self) {
        self.entered.session.works_no_more();
        // A commit on several groups cannot be cancelled; what comes next can.
        self.aim();
        self.statements.clear_portals();
        self.temporary.ended();
        self.cursors.retain(|_, cursor| cursor.outlives_transactions());
        self.search_path = None;
        self.timeouts.see(self.transaction.as_ref());
    }

    /// A cancel request means these backends.
    pub(super) fn aim_at(&mut self, places: &[usize]) {
        let targets = places.iter().filter_map(|place| self.slots[*place].as_ref());
        let targets: Vec<_> = targets.map(super::Conn::target).collect();
        self.entered.session.aim(targets);
    }

    /// A cancel request means the current backend.
    pub(super) fn aim(&mut self) {
        let target = self
            .current
            .and_then(|place| self.slots[place].as_ref())
            .map(super::Conn::target);
        self.entered.session.aim(target);
    }

    /// Runs a statement on every participant.
    pub(super) async fn on_participants(&mut self, sql: &str) -> Result<(), Halt> {
        let places: Vec<usize> = self
            .transaction
            .iter()
            .flat_map(|t| t.participants.iter().map(|p| p.place))
            .collect();
        for (index, place) in places.into_iter().enumerate() {
            self.current = Some(place);
            self.aim();
            let audience = if index == 0 {
                Audience::Session
            } else {
                Audience::Quiet
            };
            self.exec(place, sql, audience, Stake::Nothing).await?;
        }
        Ok(())
    }

    async fn savepoint(&mut self, name: &str) -> Result<(), Halt> {
        if !self.in_block() {
            return Err(outside("SAVEPOINT"));
        }
        self.on_participants(&format!("SAVEPOINT {}", quoted(name)))
            .await?;
        if let Some(transaction) = &mut self.transaction {
            transaction.script.push(Step::Savepoint(name.to_owned()));
        }
        encode::command_complete(self.out(), "SAVEPOINT");
        Ok(())
    }

    async fn release(&mut self, name: &str) -> Result<(), Halt> {
        if !self.in_block() {
            return Err(outside("RELEASE SAVEPOINT"));
        }
        let position = self.live_savepoint(name)?;
        self.on_participants(&format!("RELEASE SAVEPOINT {}", quoted(name)))
            .await?;
        if let Some(transaction) = &mut self.transaction {
            transaction.release(position);
        }
        encode::command_complete(self.out(), "RELEASE");
        Ok(())
    }

    async fn roll_back_to(&mut self, name: &str) -> Result<(), Halt> {
        if !self.in_block() {
            return Err(outside("ROLLBACK TO SAVEPOINT"));
        }
        if self.transaction.as_ref().is_some_and(|t| t.lost) {
            return Err(Failure::TransactionLost.into());
        }
        let position = self.live_savepoint(name)?;
        self.on_participants(&format!("ROLLBACK TO SAVEPOINT {}", quoted(name)))
            .await?;
        if let Some(transaction) = &mut self.transaction {
            transaction.script.truncate(position + 1);
            transaction.failed = false;
            transaction.let_go = false;
            transaction.tables = None;
        }
        self.temporary.ended();
        // `AtSubAbort_Portals` in portalmem.c.
        self.statements.clear_portals_since(position);
        self.cursors
            .retain(|_, cursor| cursor.outlives_transactions() || cursor.since() <= position);
        self.search_path = None;
        self.timeouts.see(self.transaction.as_ref());
        encode::command_complete(self.out(), "ROLLBACK");
        Ok(())
    }

    fn live_savepoint(&self, name: &str) -> Result<usize, Halt> {
        let found = self.transaction.as_ref().and_then(|t| t.savepoint(name));
        found.ok_or_else(|| Refusal::new("3B001", format!("savepoint \"{name}\" does not exist")).into())
    }

    /// A Query of several statements is a block in this; a pipeline is not, and has opened a transaction before.
    async fn set_modes(&mut self, modes: TransactionModes, text: &str) -> Result<(), Halt> {
        if self.transaction.is_some() {
            self.change_modes(modes, text).await?;
        } else {
            let words = "SET TRANSACTION can only be used in transaction blocks";
            encode::warning(self.out(), "25P01", words);
        }
        encode::command_complete(self.out(), "SET");
        Ok(())
    }

    /// Before the transaction may become READ ONLY. What it has defined is counted at its end (`count_change` in schema.sql), which
    /// it could not do then: so it does it now.
    pub(super) async fn count_definitions(&mut self) -> Result<(), Halt> {
        if self.transaction.as_ref().is_some_and(|t| t.defines) {
            self.settle().await?;
            self.on_participants("SET CONSTRAINTS howdah.count_change IMMEDIATE")
                .await?;
        }
        Ok(())
    }

    /// Runs a SET TRANSACTION.
    async fn change_modes(&mut self, modes: TransactionModes, sql: &str) -> Result<(), Halt> {
        if modes.read_only == Some(true) {
            self.count_definitions().await?;
        }
        self.on_participants(sql).await?;
        if let Some(transaction) = &mut self.transaction {
            transaction.script.push(Step::Modes(sql.to_owned()));
            transaction.isolation = modes.isolation.or(transaction.isolation);
            transaction.read_only = modes.read_only.or(transaction.read_only);
            let same = matches!(transaction.view, Some(View::Statements))
                && modes.isolation == Some(Isolation::ReadCommitted);
            if modes.isolation.is_some() && !same && !transaction.participants.is_empty() {
                transaction.view = Some(View::OneGroup(Why::Late));
            }
        }
        Ok(())
    }

    pub(super) fn in_block(&self) -> bool {
        self.transaction.as_ref().is_some_and(|t| !t.implicit)
    }
}

/// The SET TRANSACTION with the modes that a BEGIN names; none where it names none.
fn set_transaction(modes: TransactionModes) -> Option<String> {
    let isolation = modes.isolation.map(|isolation| match isolation {
        Isolation::ReadCommitted => "ISOLATION LEVEL READ COMMITTED",
        Isolation::RepeatableRead => "ISOLATION LEVEL REPEATABLE READ",
        Isolation::Serializable => "ISOLATION LEVEL SERIALIZABLE",
    });
    let read_only = modes
        .read_only
        .map(|read_only| if read_only { "READ ONLY" } else { "READ WRITE" });
    let deferrable = modes.deferrable.map(|deferrable| {
        if deferrable {
            "DEFERRABLE"
        } else {
            "NOT DEFERRABLE"
        }
    });
    let named: Vec<&str> = [isolation, read_only, deferrable].into_iter().flatten().collect();
    (!named.is_empty()).then(|| format!("SET TRANSACTION {}", named.join(", ")))
}

fn chain_of(chain: bool) -> Chain {
    if chain { Chain::Yes } else { Chain::No }
}

fn starts_with_start(text: &str) -> bool {
    text.trim_start()
        .get(..5)
        .is_some_and(|word| word.eq_ignore_ascii_case("start"))
}

fn outside(what: &str) -> Halt {
    Refusal::new("25P01", format!("{what} can only be used in transaction blocks")).into()
}
