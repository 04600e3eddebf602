//! One snapshot of several groups: a cut.
//!
//! A commit becomes visible when the group's leader reports its position, so a cut is taken while no leader does
//! ([`shard::hold`]): hold all groups, take a snapshot in each, check, let go. One cut serves everyone who waits for one.
//!
//! # Why it is a snapshot of the whole database
//!
//! Let H be the moment when the last group has begun to hold, and R the first release. Between H and R nothing becomes
//! visible anywhere but
//!
//! 1. commits that were released before and whose backends have not woken up yet ("stragglers"), and
//! 2. prepared parts of transactions whose decision is visible (COMMIT PREPARED waits for no release).
//!
//! *Nothing that a shown transaction depends on is missing.* Let T be shown by group A's snapshot, and let T have read what S
//! wrote, or have begun after S was answered. Then S was visible before T's commit record was written. If T was visible
//! before H, so was S, and every snapshot is taken after H. If T is a straggler its commit record is older than H, and so S was
//! visible before H too. If T was committed by COMMIT PREPARED between H and R, the same holds for its decision,
//! which is one of the two.
//!
//! *A transaction on several groups is shown by all of its groups or by none.* That is not hoped for but checked, by the
//! transaction ids of all its parts, which are in its decision row, against the snapshots themselves. The rows are
//! read after the last snapshot was taken: COMMIT PREPARED is sent only after the decision was visible, so the decision of every
//! transaction that any snapshot shows is among them. Where a snapshot lacks a part it is taken again, still before R,
//! when the part has ended; the argument above holds for snapshots taken at different moments between H and R.
//!
//! *It is not old.* Whoever waits for a cut waited before H: all that was answered before is visible at H.
//!
//! # Statements of transactions that go on
//!
//! A READ COMMITTED transaction that has read or written cannot import a snapshot, and its own writes must be seen. It takes
//! the snapshots itself, in its own sessions, under a [`Held`]. The first and the last part of the argument are the same. Their
//! transaction ids are not known, but those of snapshots taken just before, still after H, are: what those show, these
//! show. So *every* transaction whose decision is visible after the last was taken must be shown by them in all the statement's
//! groups; every other one is shown by none. Where one is lacking, both are taken again.
//!
//! Nothing may wait for a lock of another session between H and R, or it would wait for a commit that is held. So the
//! statement takes its locks before H, and only its snapshots after it. A wait that happens in spite of it ends with the lease.
//!
//! The holds are leases: a leader lets go after a second by itself. A cut counts only if every leader says, when it is told to
//! let go, that it held all the time, in the same term and under its lease.

mod held;
mod snapshot;
mod take;

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::Arc;

use parking_lot::Mutex;
use shard::client::Groups;
use shard::id::GroupId;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;

use crate::connection::{Connection, OpenError};
use crate::transaction::Transactions;
pub use held::Held;
pub use snapshot::{NotASnapshot, Snapshot};
use take::{Idle, Taker, ended};

/// Sessions that can stand in line for the next cut of a database; more wait to get into the line.
const IN_LINE: usize = 1024;

/// What a cut's snapshots can be imported by (`ImportSnapshot` in snapmgr.c).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Strength {
    /// REPEATABLE READ transactions.
    Snapshot,
    /// SERIALIZABLE READ ONLY transactions. Each group's own SSI takes them into account.
    ///
    /// They import as if they could write, and say READ ONLY after it. For a READ ONLY transaction PostgreSQL looks only at the
    /// writers that run when it *imports* (`GetSerializableTransactionSnapshotInt` in predicate.c): where none runs it takes the
    /// snapshot for safe and looks no further, although one may have committed between export and import. The exporter keeps
    /// what is known of that one.
    SerializableReadOnly,
}

/// Why there is no cut.
#[derive(Clone, Debug, thiserror::Error)]
#[error("no snapshot of all groups: {0}")]
pub struct CutError(String);

impl From<OpenError> for CutError {
    fn from(error: OpenError) -> CutError {
        CutError(shard::causes::with_causes(&error))
    }
}

/// A snapshot in each group, all of the same state of the database. They can be imported until it is dropped.
pub struct Cut {
    strength: Strength,
    names: BTreeMap<GroupId, String>,
    exporters: Vec<(GroupId, Connection)>,
    idle: Arc<Mutex<Idle>>,
}

impl fmt::Debug for Cut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cut")
            .field("names", &self.names)
            .finish_non_exhaustive()
    }
}

impl Cut {
    fn new(
        strength: Strength,
        names: BTreeMap<GroupId, String>,
        exporters: Vec<(GroupId, Connection)>,
        idle: Arc<Mutex<Idle>>,
    ) -> Cut {
        Cut {
            strength,
            names,
            exporters,
            idle,
        }
    }

    /// The statements that make a transaction on this group, which has read nothing yet, see the cut.
    #[must_use]
    pub fn import(&self, group: GroupId) -> Vec<String> {
        let Some(name) = self.names.get(&group) else {
            return Vec::new();
        };
        // `pg_export_snapshot` makes names of hexadecimal digits and hyphens.
        let import = format!("SET TRANSACTION SNAPSHOT '{name}'");
        match self.strength {
            Strength::Snapshot => vec![import],
            Strength::SerializableReadOnly => vec![
                "SET TRANSACTION READ WRITE".to_owned(),
                import,
                "SET TRANSACTION READ ONLY".to_owned(),
            ],
        }
    }
}

impl Drop for Cut {
    /// The snapshots' transactions end, and their connections serve the next cut.
    fn drop(&mut self) {
        for (group, connection) in std::mem::take(&mut self.exporters) {
            let idle = Arc::clone(&self.idle);
            if let Ok(runtime) = tokio::runtime::Handle::try_current() {
                runtime.spawn(async move {
                    if let Ok(connection) = ended(connection).await {
                        idle.lock().keep(group, connection);
                    }
                });
            }
        }
    }
}

/// Takes cuts for the sessions of a node.
#[derive(Debug)]
pub struct Cuts {
    groups: Arc<dyn Groups>,
    transactions: Transactions,
    waiting: Mutex<HashMap<(String, Strength), mpsc::Sender<Waiter>>>,
    takers: Mutex<JoinSet<()>>,
    /// By database, for [`Cuts::hold`].
    holders: Mutex<HashMap<String, Arc<tokio::sync::Mutex<Taker>>>>,
}

type Waiter = oneshot::Sender<Result<Arc<Cut>, CutError>>;

impl Cuts {
    /// For the sessions of a node.
    #[must_use]
    pub fn new(groups: Arc<dyn Groups>, transactions: Transactions) -> Cuts {
        Cuts {
            groups,
            transactions,
            waiting: Mutex::default(),
            takers: Mutex::default(),
            holders: Mutex::default(),
        }
    }

    /// A cut that shows all that was answered before this was called.
    ///
    /// # Errors
    /// When a group has no leader, or changes it again and again.
    pub async fn cut(&self, database: &str, strength: Strength) -> Result<Arc<Cut>, CutError> {
        let (tell, told) = oneshot::channel();
        // A taker does not end before this does.
        let line = self.waiting_line(database, strength);
        let _sent = line.send(tell).await;
        told.await
            .unwrap_or_else(|_| Err(CutError("the node is shutting down".to_owned())))
    }

    fn waiting_line(&self, database: &str, strength: Strength) -> mpsc::Sender<Waiter> {
        let mut waiting = self.waiting.lock();
        let line = waiting.entry((database.to_owned(), strength)).or_insert_with(|| {
            let (line, waiters) = mpsc::channel(IN_LINE);
            let transactions = self.transactions.clone();
            let taker = Taker::new(
                Arc::clone(&self.groups),
                transactions,
                database.to_owned(),
                strength,
            );
            self.takers.lock().spawn(serve(taker, waiters));
            line
        });
        line.clone()
    }
}

/// One cut after the other, each for all who wait when it begins.
async fn serve(taker: Taker, mut waiters: mpsc::Receiver<Waiter>) {
    while let Some(first) = waiters.recv().await {
        let mut together = vec![first];
        while let Ok(next) = waiters.try_recv() {
            together.push(next);
        }
        let cut = taker.take().await.map(Arc::new);
        for waiter in together {
            // It may have gone.
            let _ = waiter.send(cut.clone());
        }
    }
}
