//! What this node knows of the groups' catalogues, and for how long it may rely on it.
//!
//! A statement for group g may be routed only by a catalogue that was **verified against g itself** less than
//! [`LEASE`] ago, counted from before the question was sent. So the loss of one group stops nothing in the others.
//! A task for each group and database in use asks for the version every [`EVERY`] and reads the catalogue again when it
//! has changed.
//!
//! # Why no statement is routed by an old catalogue after a DDL was answered
//!
//! 1. The version is counted up in the DDL's own transaction (`schema.sql`), so both become visible at one moment C.
//! 2. A verification that returned an older version was executed before C, so its lease, counted from before its
//!    question was sent, ends before C + [`LEASE`].
//! 3. The node that ran the DDL learns of the commit after C, and answers its client only when every other node has
//!    said that it verified the new version, or when [`LEASE`] and a margin for differing clock rates have passed since
//!    it learned: [`wait_until_seen`]. A node that does not answer is covered by the waiting.
//! 4. A node never goes back to an older version: it asks the group's leader, whose gate answers only while it leads.
//!
//! Hence whatever a client begins after a DDL was answered is routed by that DDL's catalogue or a newer one, on every
//! node. So after `DROP TABLE t` was answered nobody routes by the old `t`, and after `CREATE TABLE t` with another key
//! was answered everybody routes by that key.
//!
//! What remains is a statement that runs *while* the DDL does: routed by the old catalogue, delayed (by a lock in
//! PostgreSQL, a paused node), executed when the table already has its other key. A lease cannot exclude that, so rows
//! are guarded where they are stored: the trigger `howdah_slot` of each distributed table refuses a row whose slot is
//! not the group's (40001). A read or an UPDATE in that position finds the rows of its group only, as if the others
//! were not there yet; it is concurrent with the DDL, and nothing is stored wrongly.

use std::collections::HashMap;
use std::future::Future;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use shard::client::Groups;
use shard::id::GroupId;
use tokio::sync::{Notify, watch};
use tokio::task::{JoinHandle, JoinSet};

use super::poll::{self, View};
use super::{Catalogue, CatalogueVersion};

/// How long a verified version may be relied on, counted from before the question was sent.
pub const LEASE: Duration = Duration::from_secs(1);

/// How often a group is asked for its version. A quarter of the lease: two answers may be late.
pub const EVERY: Duration = Duration::from_millis(250);

/// What a monotonic clock may run slower than another's during a lease: far more than real ones do.
const CLOCK_MARGIN: Duration = Duration::from_millis(100);

/// How long a database that no session uses is still watched: a client that reconnects finds it warm.
const IDLE: Duration = Duration::from_secs(30);

/// The catalogues of all groups, by database. One for each node; dropping it ends its tasks.
#[derive(Debug)]
pub struct CatalogueCache {
    shared: Arc<Shared>,
    sweeper: JoinHandle<()>,
}

#[derive(Debug)]
struct Shared {
    groups: Arc<dyn Groups>,
    databases: Mutex<HashMap<String, Entry>>,
}

#[derive(Debug)]
struct Entry {
    catalogue: Arc<DatabaseCatalogue>,
    /// Since when no session holds it, as far as the sweeper has seen.
    unused_since: Option<Instant>,
}

impl CatalogueCache {
    /// Begins with nothing: a database is watched from its first use on. Call within a tokio runtime.
    #[must_use]
    pub fn start(groups: Arc<dyn Groups>) -> CatalogueCache {
        let shared = Arc::new(Shared {
            groups,
            databases: Mutex::default(),
        });
        let sweeper = tokio::spawn(sweep(Arc::downgrade(&shared)));
        CatalogueCache { shared, sweeper }
    }

    /// The catalogues of a database; a session holds this while it lives. Call within a tokio runtime.
    ///
    /// That there is such a database is not known before the first [`refresh`](DatabaseCatalogue::refresh).
    #[must_use]
    pub fn database(&self, name: &str) -> Arc<DatabaseCatalogue> {
        let mut databases = self.shared.databases.lock();
        let entry = databases.entry(name.to_owned()).or_insert_with(|| Entry {
            catalogue: Arc::new(DatabaseCatalogue::start(&self.shared.groups, name)),
            unused_since: None,
        });
        entry.unused_since = None;
        Arc::clone(&entry.catalogue)
    }

    /// Stops watching a database that no session uses, so that it can be dropped or copied: PostgreSQL refuses both
    /// while someone is connected. Answers whether nothing watches it any more.
    pub fn forget(&self, name: &str) -> bool {
        let mut databases = self.shared.databases.lock();
        match databases.get(name) {
            Some(entry) if Arc::strong_count(&entry.catalogue) > 1 => false,
            _ => {
                databases.remove(name);
                true
            }
        }
    }

    /// Another node's question after a DDL: whether this node will route nothing by an older version any more.
    /// Reads again where it has to, until `deadline`.
    pub async fn has_seen(
        &self,
        database: &str,
        versions: &[(GroupId, CatalogueVersion)],
        deadline: Instant,
    ) -> bool {
        let entry = self
            .shared
            .databases
            .lock()
            .get(database)
            .map(|entry| Arc::clone(&entry.catalogue));
        // What is not watched has no lease; when it is watched again it is read then.
        let Some(catalogue) = entry else { return true };
        for (group, version) in versions {
            if catalogue
                .versions()
                .iter()
                .any(|(of, seen)| of == group && seen >= version)
            {
                continue;
            }
            match catalogue.refresh(*group, deadline).await {
                Ok(read) if read.version() >= *version => {}
                _ => return false,
            }
        }
        true
    }
}

impl Drop for CatalogueCache {
    fn drop(&mut self) {
        self.sweeper.abort();
    }
}

/// Lets go of databases that no session has used for [`IDLE`].
async fn sweep(shared: Weak<Shared>) {
    let mut clock = tokio::time::interval(IDLE / 3);
    loop {
        clock.tick().await;
        let Some(shared) = shared.upgrade() else { return };
        shared.databases.lock().retain(|_, entry| {
            if Arc::strong_count(&entry.catalogue) > 1 {
                entry.unused_since = None;
                return true;
            }
            // A name that no group has a catalogue for was a client's mistake.
            let since = *entry.unused_since.get_or_insert_with(Instant::now);
            !entry.catalogue.versions().is_empty() && since.elapsed() < IDLE
        });
    }
}

/// One database's catalogues, one for each group.
#[derive(Debug)]
pub struct DatabaseCatalogue {
    watched: Vec<Watched>,
    /// Ends the tasks with this.
    _tasks: JoinSet<()>,
}

/// One group's, and the task that keeps it.
#[derive(Debug)]
struct Watched {
    group: GroupId,
    view: watch::Receiver<View>,
    wanted: Arc<Notify>,
}

impl DatabaseCatalogue {
    fn start(groups: &Arc<dyn Groups>, database: &str) -> DatabaseCatalogue {
        let mut tasks = JoinSet::new();
        let watched = groups.groups().iter().map(|group| {
            let (publish, view) = watch::channel(View::default());
            let wanted = Arc::new(Notify::new());
            tasks.spawn(poll::run(
                Arc::clone(groups),
                *group,
                database.to_owned(),
                publish,
                Arc::clone(&wanted),
            ));
            Watched {
                group: *group,
                view,
                wanted,
            }
        });
        DatabaseCatalogue {
            watched: watched.collect(),
            _tasks: tasks,
        }
    }

    /// The group's catalogue, if it was verified within the [`LEASE`]: the hot path, no I/O, no waiting.
    ///
    /// # Errors
    /// When it must be read (again) first: call [`refresh`](Self::refresh).
    pub fn current(&self, group: GroupId) -> Result<Arc<Catalogue>, Stale> {
        let view = self.watched(group)?.view.borrow();
        match &view.verified {
            Some(verified) if verified.asked.elapsed() < LEASE => Ok(Arc::clone(&verified.catalogue)),
            _ => Err(Stale::NotVerified { group }),
        }
    }

    /// Reads the group's catalogue again: what is returned was true after this was called.
    ///
    /// # Errors
    /// When the group did not answer before `deadline`, or said that there is no such database or schema.
    pub async fn refresh(&self, group: GroupId, deadline: Instant) -> Result<Arc<Catalogue>, Stale> {
        let called = Instant::now();
        let watched = self.watched(group)?;
        let mut view = watched.view.clone();
        watched.wanted.notify_one();
        let settled = view.wait_for(|view| {
            let answered = view
                .verified
                .as_ref()
                .is_some_and(|verified| verified.asked >= called);
            let refused = view
                .failure
                .as_ref()
                .is_some_and(|f| f.asked >= called && f.is_final());
            answered || refused
        });
        // The view is kept short: its task waits for readers.
        let settled = tokio::time::timeout_at(deadline.into(), settled)
            .await
            .is_ok_and(|view| view.is_ok());
        let view = watched.view.borrow();
        match (&view.verified, &view.failure) {
            (Some(verified), _) if settled && verified.asked >= called => Ok(Arc::clone(&verified.catalogue)),
            (_, Some(failure)) => Err(Stale::Failed {
                group,
                sqlstate: failure.sqlstate.clone(),
                reason: failure.reason.clone(),
            }),
            _ => Err(Stale::NotVerified { group }),
        }
    }

    /// [`refresh`](Self::refresh) of all groups at once, each with its own outcome.
    pub async fn refresh_all(&self, deadline: Instant) -> Vec<(GroupId, Result<Arc<Catalogue>, Stale>)> {
        let all = self.watched.iter().map(|watched| async move {
            let outcome = self.refresh(watched.group, deadline).await;
            (watched.group, outcome)
        });
        futures::future::join_all(all).await
    }

    /// The last verified version of each group that has answered, whether or not its lease lasts. After
    /// [`refresh_all`](Self::refresh_all) these are the versions to ask other nodes for.
    #[must_use]
    pub fn versions(&self) -> Vec<(GroupId, CatalogueVersion)> {
        let version = |watched: &Watched| {
            let view = watched.view.borrow();
            view.verified
                .as_ref()
                .map(|verified| (watched.group, verified.catalogue.version()))
        };
        self.watched.iter().filter_map(version).collect()
    }

    fn watched(&self, group: GroupId) -> Result<&Watched, Stale> {
        self.watched
            .iter()
            .find(|watched| watched.group == group)
            .ok_or(Stale::UnknownGroup(group))
    }
}

/// Waits until no other node routes by a catalogue older than a DDL that committed; then its client may be answered.
///
/// `committed` is a moment after the last group's commit was known. Each of `others` is the question to one other node
/// ([`CatalogueCache::has_seen`] there) and gives true for yes; false, an error or silence is waited out.
pub async fn wait_until_seen<F>(committed: Instant, others: impl IntoIterator<Item = F>)
where
    F: Future<Output = bool>,
{
    let expired = tokio::time::Instant::from_std(committed + LEASE + CLOCK_MARGIN);
    let answers = tokio::time::timeout_at(expired, futures::future::join_all(others)).await;
    if !answers.is_ok_and(|answers| answers.into_iter().all(|seen| seen)) {
        tokio::time::sleep_until(expired).await;
    }
}

/// Why a group's catalogue cannot be relied on now.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Stale {
    /// Not read yet, or not verified within the lease.
    #[error("the catalogue of group {group} is not verified")]
    NotVerified {
        /// The group.
        group: GroupId,
    },
    /// The last attempt to read it failed, and says why.
    #[error("the catalogue of group {group} cannot be read: {reason}")]
    Failed {
        /// The group.
        group: GroupId,
        /// What PostgreSQL answered, if it did: for example 3D000, no such database.
        sqlstate: Option<String>,
        /// In words.
        reason: String,
    },
    /// There is no such group.
    #[error("there is no group {0}")]
    UnknownGroup(GroupId),
}
