//! COMMIT of a transaction that wrote on several groups (`coordinator::transaction` has the protocol and why it is
//! right). This is the only place that conducts it.

use std::time::Duration;

use coordinator::failpoint::{Step, pass};
use coordinator::transaction::{Gid, Outcome, Xid, decide_and_commit, decide_apart, prepare};
use shard::id::GroupId;

use super::Session;
use super::captured::Captured;
use super::conn::{Audience, Stake};
use super::transaction::Participant;
use crate::failure::{Ended, Failure, Halt};

/// How long a session tries to learn what became of a COMMIT that was not answered, before it says "unknown".
const OUTCOME_PATIENCE: Duration = Duration::from_secs(10);

/// How long it tries to end a part whose connection was lost, before it says so. The group's next leader ends it before
/// it lets clients in.
const FINISH_PATIENCE: Duration = Duration::from_secs(10);

/// Between two looks whether a cancel is over.
const HUNTED: Duration = Duration::from_millis(1);

/// Whether a transaction that has written is READ ONLY by now. Then it takes no row, and no decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ReadOnly {
    No,
    /// A statement may have said so.
    Perhaps,
}

impl Session {
    /// Whether transactions begin as READ ONLY, as the client was told last.
    pub(super) fn begins_read_only(&self) -> bool {
        let told = self.told.parameters.get(&b"default_transaction_read_only"[..]);
        told.is_some_and(|value| value == b"on")
    }

    /// Whether the transaction at `place` is READ ONLY.
    pub(super) async fn is_read_only(&mut self, place: usize) -> Result<bool, Halt> {
        let sql = "SHOW transaction_read_only";
        self.send(place, sql, Audience::Quiet, Stake::Nothing);
        let said = self.hear(place, Stake::Nothing).await?;
        Ok(said.value.as_deref() == Some(b"on"))
    }

    /// Commits on all these groups or on none; `order` is [`Transaction::in_commit_order`]: those that only read first,
    /// the anchor last.
    ///
    /// Nothing that the client does meanwhile stops it half way: it cannot cancel, and when it goes away the commit goes on.
    ///
    /// [`Transaction::in_commit_order`]: super::transaction::Transaction::in_commit_order
    pub(super) async fn commit_on_several(
        &mut self,
        order: &[Participant],
        read_only: ReadOnly,
    ) -> Result<(), Halt> {
        let Some((anchor, others)) = order.split_last() else {
            return Ok(());
        };
        let gid = self.shared.transactions.name(self.group(anchor.place));
        self.entered.session.aim(None);
        self.undisturbed().await;
        let asked = match read_only {
            ReadOnly::No => Ok(false),
            ReadOnly::Perhaps => self.is_read_only(anchor.place).await,
        };
        let apart = match asked {
            Ok(apart) => apart,
            Err(halt) => {
                self.roll_back_all(gid, order).await;
                return Err(halt);
            }
        };
        pass(Step::BeforePrepare);

        // A crash here leaves parts prepared and nothing decided: recovery finds them and rolls all of it back.
        // No part is visible, and the anchor's own part goes with this session, or is prepared as the others are.
        let rest = if apart { order } else { others };
        let parts = match self.prepare_all(gid, rest).await {
            Ok(parts) => parts,
            Err(halt) => {
                self.roll_back_all(gid, order).await;
                return Err(halt);
            }
        };
        pass(Step::AllPrepared);

        // A crash before the anchor's commit record is replicated is as one before; after it all is committed, and whoever
        // finds a prepared part finds the decision: the other groups' next leaders and recovery end it.
        let decide = if apart {
            decide_apart(gid, &parts)
        } else {
            decide_and_commit(gid, &parts)
        };
        self.send(anchor.place, &decide, Audience::Quiet, Stake::Commit);
        self.pass_sent(Step::DecisionSent, anchor.place).await;
        match self.decision(gid, anchor.place).await {
            Ok(()) => {}
            Err((Some(Outcome::RolledBack), halt)) => {
                if apart {
                    // The part that is prepared there is ended outside of what has failed.
                    self.send(anchor.place, "ROLLBACK", Audience::Quiet, Stake::Nothing);
                    let _ = self.hear(anchor.place, Stake::Nothing).await;
                }
                self.roll_back_all(gid, order).await;
                return Err(halt);
            }
            Err((_, halt)) => return Err(halt),
        }
        pass(Step::Decided);

        // A crash from here on changes nothing: see above.
        let committed = self.commit_prepared(gid, rest).await;
        pass(Step::AllCommitted);
        committed
    }

    /// Waits until a cancel that found its target before is over.
    pub(super) async fn undisturbed(&mut self) {
        while self.entered.session.is_hunted() {
            tokio::time::sleep(HUNTED).await;
        }
    }

    /// Prepares on all that wrote, and ends those that only read. Gives the prepared parts.
    async fn prepare_all(&mut self, gid: Gid, rest: &[Participant]) -> Result<Vec<(GroupId, Xid)>, Halt> {
        for participant in rest {
            let sql = if participant.wrote {
                &prepare(gid)
            } else {
                "COMMIT"
            };
            self.send(participant.place, sql, Audience::Session, Stake::Nothing);
        }
        if let Some(last) = rest.last() {
            self.pass_sent(Step::PrepareSent, last.place).await;
        }
        let (mut parts, mut failed) = (Vec::new(), None);
        for participant in rest {
            // All are heard, so that it is known what there is to roll back.
            let said = self.hear(participant.place, Stake::Nothing).await;
            let prepared = said.and_then(|said| {
                let xid = said
                    .value
                    .and_then(|xid| std::str::from_utf8(&xid).ok()?.parse().ok());
                match (said.tag.as_deref(), xid) {
                    (Some("PREPARE TRANSACTION"), Some(xid)) => Ok(Some(Xid(xid))),
                    (Some("COMMIT"), _) => Ok(None),
                    _ => Err(Halt::Fail(Failure::TransactionAborted)),
                }
            });
            match prepared {
                Ok(Some(xid)) => {
                    parts.push((self.group(participant.place), xid));
                    pass(Step::PartPrepared);
                }
                Ok(None) => {}
                Err(halt) => failed = failed.or(Some(halt)),
            }
        }
        failed.map_or(Ok(parts), Err)
    }

    /// Whether the anchor has committed; else what is known of the outcome, and what the client is told.
    async fn decision(&mut self, gid: Gid, anchor: usize) -> Result<(), (Option<Outcome>, Halt)> {
        let halt = match self.hear(anchor, Stake::Commit).await {
            Ok(said) if said.tag.as_deref() == Some("COMMIT") => return Ok(()),
            Ok(_) => return Err((Some(Outcome::RolledBack), Failure::TransactionAborted.into())),
            Err(Halt::Fail(failure @ (Failure::CommitBroken { .. } | Failure::CommitUnconfirmed { .. }))) => {
                failure
            }
            Err(halt) => return Err((Some(Outcome::RolledBack), halt)),
        };
        let database = self.database_name();
        let outcome = self
            .shared
            .transactions
            .outcome(&database, gid, OUTCOME_PATIENCE)
            .await;
        match outcome {
            Ok(Outcome::Committed) => Ok(()),
            Ok(Outcome::RolledBack) => {
                let (group, why) = (self.group(anchor), halt.to_string());
                Err((Some(Outcome::RolledBack), Failure::Broken { group, why }.into()))
            }
            Err(error) => {
                tracing::info!(%gid, %error, "the outcome of a transaction is unknown to its client");
                Err((None, halt.into()))
            }
        }
    }

    /// Ends the prepared parts of a transaction that is committed. When this returns everyone sees all of it.
    async fn commit_prepared(&mut self, gid: Gid, rest: &[Participant]) -> Result<(), Halt> {
        let prepared = || {
            rest.iter()
                .filter(|participant| participant.wrote)
                .map(|p| p.place)
        };
        for place in prepared() {
            // Not replicated before it is answered: the prepared part and the decision are.
            for sql in [
                "SET synchronous_commit = local",
                &format!("COMMIT PREPARED '{gid}'"),
                "SET synchronous_commit = on",
            ] {
                self.send(place, sql, Audience::Quiet, Stake::Nothing);
            }
        }
        if let Some(last) = prepared().next_back() {
            self.pass_sent(Step::CommitSent, last).await;
        }
        let database = self.database_name();
        let mut result = Ok(());
        for place in prepared() {
            let Err(halt) = self.hear(place, Stake::Nothing).await else {
                pass(Step::PartCommitted);
                continue;
            };
            // Its leader is gone, somebody was faster, or a timeout or a cancel has struck. If that struck the last SET, what
            // commits there next would be answered before it is replicated: the backend is not used again.
            self.close_backend(place, "it did not commit what was prepared there");
            let group = self.group(place);
            let outcome = Outcome::Committed;
            let finished = self
                .shared
                .transactions
                .finish(&database, gid, group, outcome, FINISH_PATIENCE)
                .await;
            if let Err(error) = finished {
                tracing::info!(%gid, %error, ?halt, "a part of a committed transaction is still prepared");
                result = Err(Failure::CommittedBehind { group }.into());
            }
        }
        result
    }

    /// Ends all parts of a transaction that was not decided and never will be: its anchor has rolled back.
    async fn roll_back_all(&mut self, gid: Gid, order: &[Participant]) {
        let database = self.database_name();
        for participant in order.iter().rev() {
            let group = self.group(participant.place);
            let open = self.slots[participant.place].as_ref().map(|conn| !conn.is_idle());
            let sql = match open {
                Some(true) => "ROLLBACK",
                Some(false) if participant.wrote => &format!("ROLLBACK PREPARED '{gid}'"),
                Some(false) => continue,
                None => {
                    // The client does not wait for it; what is not reached is left to recovery.
                    let (transactions, database) = (self.shared.transactions.clone(), database.clone());
                    tokio::spawn(async move {
                        let outcome = Outcome::RolledBack;
                        let _ = transactions
                            .finish(&database, gid, group, outcome, FINISH_PATIENCE)
                            .await;
                    });
                    continue;
                }
            };
            self.send(participant.place, sql, Audience::Quiet, Stake::Nothing);
        }
        for participant in order {
            // There may be nothing prepared, or nobody to hear: either way nothing is left but what recovery ends.
            let _ = self.hear(participant.place, Stake::Nothing).await;
        }
    }

    /// Comes to a step that is reached when what was sent has gone out, to this group and all others.
    async fn pass_sent(&mut self, step: Step, place: usize) {
        if cfg!(feature = "failpoints") {
            // What is heard meanwhile waits for whoever listens; so does a client's end.
            self.current = Some(place);
            let _ = self.written(place).await;
        }
        pass(step);
    }

    /// Sends a Query of our own, whose answer is for [`Session::hear`].
    pub(super) fn send(&mut self, place: usize, sql: &str, audience: Audience, stake: Stake) {
        if let Some(conn) = &mut self.slots[place] {
            if conn.expect.is_empty() {
                conn.captured = Captured::default();
            }
            conn.query(sql, audience, stake);
        }
    }

    /// Hears what a group still has to say, also when the client is gone.
    pub(super) async fn hear(&mut self, place: usize, stake: Stake) -> Result<Captured, Halt> {
        let group = self.group(place);
        self.current = Some(place);
        while let Err(Ended::ByClient) = self.drain(place).await {
            // What cannot be delivered is dropped, and the session finds out when it next reads.
            self.client.output.clear();
        }
        self.take_captured(place, group, stake)
    }
}
