//! Taking one cut.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::future::{join_all, try_join_all};
use parking_lot::Mutex;
use shard::causes::with_causes;
use shard::client::{Groups, Hold};
use shard::id::GroupId;
use tokio_postgres::SimpleQueryMessage;

use super::snapshot::{Decided, Snapshot, Torn, torn};
use super::{Cut, CutError, Strength};
use crate::broken;
use crate::connection::{Connection, OpenError};
use crate::transaction::{Outcome, Transactions, Xid};

/// The longest that commits are held back for one cut. A cut takes some milliseconds.
const HOLD: Duration = Duration::from_secs(1);

/// Between two looks at a transaction that is about to end on its last group.
const LOOK_AGAIN: Duration = Duration::from_millis(1);

/// A decided transaction whose part is still prepared after this has lost its coordinator: the cut ends it.
const ENDS_BY_ITSELF: Duration = Duration::from_millis(20);

/// How long the leader of a group is waited for.
const PATIENCE: Duration = Duration::from_secs(1);

/// Idle connections that are kept for each group.
const KEPT: usize = 8;

/// How many cuts are tried: each can be spoilt by a change of leader.
const ATTEMPTS: usize = 3;

/// What the cuts of one database and strength share.
#[derive(Debug)]
pub(super) struct Taker {
    pub(super) groups: Arc<dyn Groups>,
    pub(super) transactions: Transactions,
    pub(super) database: String,
    pub(super) strength: Strength,
    /// Connections that wait for the next cut.
    idle: Arc<Mutex<Idle>>,
    /// Per group: the decisions on transactions before this one need not be looked at again, all of their parts
    /// were in a cut.
    settled: Mutex<BTreeMap<GroupId, Xid>>,
}

/// Connections by what they do.
#[derive(Debug, Default)]
pub(super) struct Idle {
    exporters: BTreeMap<GroupId, Vec<Connection>>,
    readers: BTreeMap<GroupId, Connection>,
}

/// A snapshot that a transaction of its own keeps importable.
struct Exported {
    connection: Connection,
    name: String,
    snapshot: Snapshot,
}

impl Taker {
    pub(super) fn new(
        groups: Arc<dyn Groups>,
        transactions: Transactions,
        database: String,
        strength: Strength,
    ) -> Taker {
        Taker {
            groups,
            transactions,
            database,
            strength,
            idle: Arc::default(),
            settled: Mutex::default(),
        }
    }

    /// A cut that begins after this is called.
    pub(super) async fn take(&self) -> Result<Cut, CutError> {
        for _ in 1..ATTEMPTS {
            match self.attempt().await {
                Ok(cut) => return Ok(cut),
                Err(error) => tracing::debug!(%error, "a cut is tried again"),
            }
            // What broke once is opened anew.
            *self.idle.lock() = Idle::default();
        }
        self.attempt().await
    }

    async fn attempt(&self) -> Result<Cut, CutError> {
        let ready = self.exporters().await?;
        self.open_readers().await?;
        let holds = hold_all(&*self.groups).await?;
        let exported = self.consistent(ready).await;
        // Commits go on whatever came of it.
        let lasted = release_all(&*self.groups, holds).await;
        let exported = exported?;
        lasted?;
        let mut settled = self.settled.lock();
        for (group, exported) in &exported {
            settled.insert(*group, exported.snapshot.all_ended_before());
        }
        let mut names = BTreeMap::new();
        let mut exporters = Vec::new();
        for (group, exported) in exported {
            names.insert(group, exported.name);
            exporters.push((group, exported.connection));
        }
        Ok(Cut::new(self.strength, names, exporters, Arc::clone(&self.idle)))
    }

    /// Snapshots of all groups, taken while nothing is released, that show all parts of a transaction or none.
    async fn consistent(
        &self,
        mut ready: BTreeMap<GroupId, Connection>,
    ) -> Result<BTreeMap<GroupId, Exported>, CutError> {
        let began = Instant::now();
        let mut exported: BTreeMap<GroupId, Exported> = BTreeMap::new();
        loop {
            let fresh = ready
                .into_iter()
                .map(|(group, connection)| self.export(group, connection));
            exported.extend(try_join_all(fresh).await?);
            // Read after the last snapshot was taken: of every transaction that any of them shows the decision is here,
            // because it was visible before its parts were committed.
            let decided = self.all_decided().await?;
            let snapshots = exported
                .iter()
                .map(|(group, e)| (*group, e.snapshot.clone()))
                .collect();
            let torn = torn(&snapshots, &decided);
            if torn.is_empty() || broken::NO_CUT {
                return Ok(exported);
            }
            self.see_ended(&torn, began).await?;
            let lacking: BTreeSet<GroupId> = torn.into_iter().flat_map(|torn| torn.lacking).collect();
            ready = BTreeMap::new();
            for group in lacking {
                if let Some(exported) = exported.remove(&group) {
                    ready.insert(group, ended(exported.connection).await?);
                }
            }
        }
    }

    /// Waits a moment for the coordinators of transactions that are decided, or ends them; `began` is when holding did.
    pub(super) async fn see_ended(&self, torn: &[Torn], began: Instant) -> Result<(), CutError> {
        if began.elapsed() > HOLD / 2 {
            return Err(CutError(
                "transactions across groups did not end in time".to_owned(),
            ));
        }
        if began.elapsed() < ENDS_BY_ITSELF {
            tokio::time::sleep(LOOK_AGAIN).await;
            return Ok(());
        }
        for torn in torn {
            let Ok(gid) = torn.gid.parse() else { continue };
            for group in &torn.lacking {
                // Its decision was read: it is committed. On the anchor there is nothing prepared as a rule, and nothing to do.
                let outcome = Outcome::Committed;
                let ended = self
                    .transactions
                    .finish(&self.database, gid, *group, outcome, PATIENCE)
                    .await;
                if let Err(error) = ended {
                    tracing::info!(%error, "a transaction holds up a cut");
                }
            }
        }
        Ok(())
    }

    /// A connection to each group, before anything is held.
    async fn exporters(&self) -> Result<BTreeMap<GroupId, Connection>, CutError> {
        let open = self.groups.groups().iter().map(|group| async move {
            let idle = self.idle.lock().exporters.get_mut(group).and_then(Vec::pop);
            let connection = match idle.filter(|connection| !connection.client.is_closed()) {
                Some(connection) => connection,
                None => self.open(*group).await?,
            };
            Ok::<_, CutError>((*group, connection))
        });
        Ok(try_join_all(open).await?.into_iter().collect())
    }

    /// What decisions are read by, before anything is held.
    pub(super) async fn open_readers(&self) -> Result<(), CutError> {
        let open = self.groups.groups().iter().map(|group| async move {
            let there = |idle: &Idle| idle.readers.get(group).is_some_and(|c| !c.client.is_closed());
            if !there(&self.idle.lock()) {
                let reader = self.open(*group).await?;
                self.idle.lock().readers.insert(*group, reader);
            }
            Ok::<_, CutError>(())
        });
        try_join_all(open).await.map(drop)
    }

    async fn open(&self, group: GroupId) -> Result<Connection, CutError> {
        let opened = Connection::open(&*self.groups, group, &self.database, PATIENCE);
        match tokio::time::timeout(PATIENCE, opened).await {
            Ok(opened) => Ok(opened?),
            Err(_) => Err(CutError(format!("group {group} does not answer"))),
        }
    }

    async fn export(&self, group: GroupId, connection: Connection) -> Result<(GroupId, Exported), CutError> {
        let begin = match self.strength {
            Strength::Snapshot => "BEGIN ISOLATION LEVEL REPEATABLE READ",
            Strength::SerializableReadOnly => "BEGIN ISOLATION LEVEL SERIALIZABLE",
        };
        let sql = format!("{begin}; SELECT pg_export_snapshot(), pg_current_snapshot()");
        let said = within(connection.client.simple_query(&sql)).await?;
        let row = said.iter().find_map(|message| match message {
            SimpleQueryMessage::Row(row) => Some((row.get(0)?.to_owned(), row.get(1)?.parse().ok()?)),
            _ => None,
        });
        let (name, snapshot) = row.ok_or_else(|| CutError(format!("group {group} exports no snapshot")))?;
        let exported = Exported {
            connection,
            name,
            snapshot,
        };
        Ok((group, exported))
    }

    /// The transactions whose decision is visible now, but for those known to be in every cut.
    pub(super) async fn all_decided(&self) -> Result<Vec<Decided>, CutError> {
        let groups = self.groups.groups().iter();
        Ok(try_join_all(groups.map(|group| self.decided(*group)))
            .await?
            .concat())
    }

    /// The transactions with this anchor whose decision is visible now, but for those known to be in every cut.
    async fn decided(&self, anchor: GroupId) -> Result<Vec<Decided>, CutError> {
        let from = self.settled.lock().get(&anchor).map_or(0, |xid| xid.0);
        let reader = self.idle.lock().readers.remove(&anchor);
        let reader = reader.ok_or_else(|| CutError(format!("group {anchor} is not read")))?;
        let sql = format!(
            "SELECT gid, xid, array_to_string(group_ids, ','), array_to_string(xids, ',') \
             FROM howdah.decisions WHERE committed AND xid >= '{from}'"
        );
        let said = within(reader.client.simple_query(&sql)).await?;
        self.idle.lock().readers.insert(anchor, reader);
        let rows = said.iter().filter_map(|message| match message {
            SimpleQueryMessage::Row(row) => Some(row),
            _ => None,
        });
        rows.map(|row| {
            let text = |at| row.get(at).unwrap_or_default();
            let decided = read_decided(anchor, [text(0), text(1), text(2), text(3)]);
            decided.ok_or_else(|| CutError(format!("a decision of group {anchor} cannot be read")))
        })
        .collect()
    }
}

fn read_decided(anchor: GroupId, [gid, xid, groups, xids]: [&str; 4]) -> Option<Decided> {
    let groups = groups.split(',').map(|group| group.parse().ok());
    let xids = xids.split(',').map(|xid| Some(Xid(xid.parse().ok()?)));
    Some(Decided {
        gid: gid.to_owned(),
        anchor: (anchor, Xid(xid.parse().ok()?)),
        parts: groups
            .zip(xids)
            .map(|(group, xid)| Some((group?, xid?)))
            .collect::<Option<_>>()?,
    })
}

/// Has all groups hold back commits, or none.
pub(super) async fn hold_all(groups: &dyn Groups) -> Result<Vec<Hold>, CutError> {
    let to_hold = groups.groups().iter().filter(|_| !broken::NO_CUT);
    let held = join_all(to_hold.map(|group| groups.hold(*group, HOLD))).await;
    let mut failed = None;
    let mut holds = Vec::new();
    for held in held {
        match held {
            Ok(hold) => holds.push(hold),
            Err(refused) => failed = Some(CutError(with_causes(&refused))),
        }
    }
    let Some(failed) = failed else { return Ok(holds) };
    let _ = release_all(groups, holds).await;
    Err(failed)
}

/// Lets commits go on. A leader that is not reached lets them go on by itself.
///
/// # Errors
/// When one of the holds did not last until now.
pub(super) async fn release_all(groups: &dyn Groups, holds: Vec<Hold>) -> Result<(), CutError> {
    let lasted = join_all(holds.into_iter().map(|hold| groups.release(hold))).await;
    if lasted.into_iter().all(|lasted| lasted) {
        Ok(())
    } else {
        Err(CutError(
            "a group changed its leader, or took too long".to_owned(),
        ))
    }
}

/// Ends the transaction that exported.
pub(super) async fn ended(connection: Connection) -> Result<Connection, CutError> {
    within(connection.client.batch_execute("ROLLBACK")).await?;
    Ok(connection)
}

async fn within<T>(asked: impl Future<Output = Result<T, tokio_postgres::Error>>) -> Result<T, CutError> {
    match tokio::time::timeout(PATIENCE, asked).await {
        Ok(answer) => Ok(answer.map_err(OpenError::from)?),
        Err(_) => Err(CutError("a group does not answer".to_owned())),
    }
}

impl Idle {
    /// Keeps a connection for the next cut, or lets it go where enough are kept.
    pub(super) fn keep(&mut self, group: GroupId, connection: Connection) {
        let kept = self.exporters.entry(group).or_default();
        if kept.len() < KEPT {
            kept.push(connection);
        }
    }
}
