//! Holding all groups while transactions that go on take the snapshots themselves.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Instant;

use shard::client::Hold;
use shard::id::GroupId;
use tokio::sync::OwnedMutexGuard;

use super::snapshot::{Snapshot, behind};
use super::take::{Taker, hold_all, release_all};
use super::{CutError, Cuts, Strength};
use crate::broken;

/// Nothing but stragglers and prepared parts of decided transactions becomes visible while this lives, for at most a
/// second: [`Held::release`] tells whether it lasted.
///
/// A transaction that has written cannot import a snapshot. Its statement's snapshots are a cut if each of its groups has
/// taken one meanwhile, none of them is [`behind`](Held::behind), and the holds lasted.
#[derive(Debug)]
pub struct Held {
    taker: OwnedMutexGuard<Taker>,
    holds: Vec<Hold>,
    began: Instant,
}

impl Cuts {
    /// Holds back the commits of all groups. One at a time for each database: commits get their turn in between.
    ///
    /// # Errors
    /// When a group has no leader.
    pub async fn hold(&self, database: &str) -> Result<Held, CutError> {
        let taker = {
            let mut holders = self.holders.lock();
            let taker = holders.entry(database.to_owned()).or_insert_with(|| {
                let (groups, transactions) = (Arc::clone(&self.groups), self.transactions.clone());
                let taker = Taker::new(groups, transactions, database.to_owned(), Strength::Snapshot);
                Arc::new(tokio::sync::Mutex::new(taker))
            });
            Arc::clone(taker)
        };
        let taker = taker.lock_owned().await;
        taker.open_readers().await?;
        let holds = hold_all(&*taker.groups).await?;
        let began = Instant::now();
        Ok(Held { taker, holds, began })
    }
}

impl Held {
    /// The groups whose snapshots may lack a part of a transaction that is committed: take them again. It has waited a moment
    /// for these parts then, or ended them.
    ///
    /// `before` are snapshots that each group showed under this hold, *before* the statement took its own there. Who
    /// sees a transaction in them sees it in the statement. A transaction whose decision is not visible now is in none of the
    /// statement's snapshots, as its parts are committed after that.
    ///
    /// # Errors
    /// When a group does not answer, or such a transaction does not end in time.
    pub async fn behind(&self, before: &BTreeMap<GroupId, Snapshot>) -> Result<BTreeSet<GroupId>, CutError> {
        if broken::NO_CUT {
            return Ok(BTreeSet::new());
        }
        let behind = behind(before, &self.taker.all_decided().await?);
        if !behind.is_empty() {
            self.taker.see_ended(&behind, self.began).await?;
        }
        Ok(behind.into_iter().flat_map(|torn| torn.lacking).collect())
    }

    /// Lets commits go on.
    ///
    /// # Errors
    /// When a hold did not last until now: what was taken under it is no cut.
    pub async fn release(mut self) -> Result<(), CutError> {
        release_all(&*self.taker.groups, std::mem::take(&mut self.holds)).await
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let holds = std::mem::take(&mut self.holds);
        if holds.is_empty() {
            return;
        }
        let groups = Arc::clone(&self.taker.groups);
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move { release_all(&*groups, holds).await });
        }
    }
}
