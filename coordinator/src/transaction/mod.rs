//! Transactions across groups: their names, their decisions, and how they end whoever dies.
//!
//! A session commits such a transaction in three steps (`proxy/src/session/two_phase.rs`, the only place):
//!
//! 1. PREPARE TRANSACTION on every group that it wrote on but one, the *anchor*.
//! 2. The decision, a row in `howdah.decisions`, together with the anchor's own COMMIT. This is the moment of commit: the
//!    anchor's group is replicated, so the decision outlives any machine.
//! 3. COMMIT PREPARED on the others, which need not be replicated before the client is answered: a prepared part and the
//!    decision are.
//!
//! A transaction that has become READ ONLY after it wrote takes no row any more. Then the anchor's part is prepared in step 1
//! as the others are, and the decision is a transaction of its own, which lists that part, too.
//!
//! Whoever finds a prepared part can end it (`settle.rs`): where there is a decision it counts; where there is none, "rolled
//! back" is put in its place, under the same key, and the row that got in first wins. So the coordinator is needed by nobody:
//! the outcome is a register that is written once, in a group that has a majority (Gray and Lamport, *Consensus on
//! Transaction Commit*, 2006).
//!
//! Invariants:
//!
//! - A part is committed only after "committed" was read from the anchor, rolled back only after "rolled back" was, or
//!   by the session itself when it knows that it never decided.
//! - A decision "committed" stays until no group holds a part of it that could come back: `clean.rs` waits for a commit
//!   after the last COMMIT PREPARED to be replicated on each.
//! - "Rolled back" stays until the transaction that it forbids can be in no server any more.

mod clean;
mod gid;
mod recovery;
mod settle;

use std::sync::Arc;
use std::time::Duration;

use shard::client::Groups;
use shard::id::{GroupId, NodeId};

use crate::broken;

pub use gid::{Gid, NotAGid};
pub use recovery::{InDoubt, Settler, in_doubt, recover};
pub use settle::{Outcome, Unsettled};

/// A part's transaction id in its group's PostgreSQL (`xid8`). Physical replication keeps it, so it is the same after
/// a failover.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Xid(pub u64);

/// What sessions need to commit across groups.
#[derive(Clone, Debug)]
pub struct Transactions {
    node: NodeId,
    groups: Arc<dyn Groups>,
}

impl Transactions {
    /// For the sessions of this node.
    #[must_use]
    pub fn new(node: NodeId, groups: Arc<dyn Groups>) -> Transactions {
        Transactions { node, groups }
    }

    /// The node whose sessions these are.
    #[must_use]
    pub fn node(&self) -> NodeId {
        self.node
    }

    /// A new name for a transaction that is anchored on this group.
    #[must_use]
    pub fn name(&self, anchor: GroupId) -> Gid {
        Gid {
            anchor,
            node: self.node,
            number: rand::random(),
        }
    }

    /// What became of a transaction whose COMMIT was not answered; decides that it is rolled back where nothing is
    /// decided.
    ///
    /// # Errors
    /// When the anchor does not answer within `patience`: the outcome is not known.
    pub async fn outcome(&self, database: &str, gid: Gid, patience: Duration) -> Result<Outcome, Unsettled> {
        settle::outcome(&*self.groups, database, gid, patience).await
    }

    /// Ends the part that is prepared on `group`, if it still is.
    ///
    /// # Errors
    /// When the group does not answer within `patience`.
    pub async fn finish(
        &self,
        database: &str,
        gid: Gid,
        group: GroupId,
        outcome: Outcome,
        patience: Duration,
    ) -> Result<(), Unsettled> {
        settle::finish(&*self.groups, database, gid, group, outcome, patience).await
    }
}

/// The anchor's last words: the decision and its own COMMIT, as one Query. `parts` are the prepared ones.
#[must_use]
pub fn decide_and_commit(gid: Gid, parts: &[(GroupId, Xid)]) -> String {
    if broken::NO_DECISION {
        return "COMMIT".to_owned();
    }
    let list = |each: &mut dyn Iterator<Item = String>| each.collect::<Vec<_>>().join(",");
    let groups = list(&mut parts.iter().map(|(group, _)| group.to_string()));
    let xids = list(&mut parts.iter().map(|(_, xid)| xid.0.to_string()));
    format!("SELECT howdah.decide('{gid}', '{{{groups}}}', '{{{xids}}}'); COMMIT")
}

/// The decision in a transaction of its own on the anchor, as one Query, where the anchor's part is prepared as the others are
/// and is one of `parts`: a transaction that has become READ ONLY after it wrote takes no row.
#[must_use]
pub fn decide_apart(gid: Gid, parts: &[(GroupId, Xid)]) -> String {
    let decide = decide_and_commit(gid, parts);
    format!("BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE; {decide}")
}

/// The last words of every other group that was written on; the first value of its rows is the part's [`Xid`].
#[must_use]
pub fn prepare(gid: Gid) -> String {
    format!("SELECT pg_catalog.pg_current_xact_id()::pg_catalog.text; PREPARE TRANSACTION '{gid}'")
}
