//! What was acknowledged, and what is unknown.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use shard::id::GroupId;
use tokio::sync::watch;
use tokio::time::timeout;

use crate::Result;

/// A row `(id, n)` that is counted up, and the group that it lives in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counter {
    /// Its key.
    pub id: i64,
    /// Where that key lives.
    pub group: GroupId,
}

/// The writers' common memory. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Ledger {
    counters: Arc<Vec<Counter>>,
    written: Arc<Mutex<Written>>,
    /// For each group, when the last acknowledged write on it began.
    latest: Arc<watch::Sender<BTreeMap<GroupId, Instant>>>,
}

/// What became of the writes.
#[derive(Clone, Debug, Default)]
pub struct Written {
    /// Entries that were acknowledged.
    pub entries: HashSet<i64>,
    /// Entries that may be there.
    pub unknown_entries: HashSet<i64>,
    /// How often each counter was counted up for sure.
    pub counts: HashMap<i64, i64>,
    /// How often it may have been, besides.
    pub unknown_counts: HashMap<i64, i64>,
}

impl Ledger {
    pub(super) fn new(counters: Vec<Counter>) -> Ledger {
        Ledger {
            counters: Arc::new(counters),
            written: Arc::default(),
            latest: Arc::new(watch::Sender::new(BTreeMap::new())),
        }
    }

    /// The counters.
    #[must_use]
    pub fn counters(&self) -> &[Counter] {
        &self.counters
    }

    /// The counters of a group.
    #[must_use]
    pub fn counters_of(&self, group: GroupId) -> Vec<Counter> {
        self.counters
            .iter()
            .filter(|counter| counter.group == group)
            .copied()
            .collect()
    }

    /// A copy of everything so far.
    #[must_use]
    pub fn written(&self) -> Written {
        self.lock().clone()
    }

    /// How often a counter was counted up for sure.
    #[must_use]
    pub fn count(&self, id: i64) -> i64 {
        self.lock().counts.get(&id).copied().unwrap_or(0)
    }

    /// Waits for the first acknowledgement of a write on `group` that began after `since`, and
    /// returns how long after `since` it came.
    pub async fn next_ack(&self, group: GroupId, since: Instant, patience: Duration) -> Result<Duration> {
        let mut watched = self.latest.subscribe();
        let later =
            |latest: &BTreeMap<GroupId, Instant>| latest.get(&group).is_some_and(|began| *began > since);
        let waited = timeout(patience, watched.wait_for(later)).await;
        match waited {
            Ok(_) => Ok(since.elapsed()),
            Err(_) => Err(format!("no write on group {group} was acknowledged within {patience:?}").into()),
        }
    }

    pub(super) fn entry(&self, id: i64, acknowledged: bool) {
        let mut written = self.lock();
        let set = if acknowledged {
            &mut written.entries
        } else {
            &mut written.unknown_entries
        };
        set.insert(id);
    }

    pub(crate) fn counted(&self, counter: Counter, began: Instant) {
        *self.lock().counts.entry(counter.id).or_default() += 1;
        self.latest.send_modify(|latest| {
            let last = latest.entry(counter.group).or_insert(began);
            *last = began.max(*last);
        });
    }

    pub(crate) fn maybe_counted(&self, counter: Counter) {
        *self.lock().unknown_counts.entry(counter.id).or_default() += 1;
    }

    /// A writer that panicked has left the sets whole: each change is one insertion.
    fn lock(&self) -> MutexGuard<'_, Written> {
        self.written.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
