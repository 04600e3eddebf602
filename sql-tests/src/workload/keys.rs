//! Keys: which share a group, and which are in use.

use std::collections::BTreeMap;

use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::index::sample;
use shard::id::GroupId;

use crate::Result;

/// Which keys live in which group, as the groups' own servers showed. Tables whose shard key is a
/// bigint are all spread in the same way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placement(pub BTreeMap<GroupId, Vec<i64>>);

impl Placement {
    /// Keys 1 to `keys`, all in one place: a single PostgreSQL.
    #[must_use]
    pub fn single(keys: i64) -> Placement {
        Placement(BTreeMap::from([(GroupId(1), (1..=keys).collect())]))
    }

    /// The keys of the group that has most.
    pub(super) fn fullest(&self) -> Result<&[i64]> {
        let groups = self.0.values().max_by_key(|keys| keys.len());
        Ok(groups.ok_or("no group has a key")?)
    }
}

/// Keys of one group. A few are in use at a time; one that was used often enough is replaced by a
/// fresh one, so that what must be read and checked of each stays short.
#[derive(Clone, Debug)]
pub(super) struct Pool {
    fresh: Vec<i64>,
    live: Vec<(i64, u32)>,
    uses: u32,
}

impl Pool {
    /// `keys` in that order, `live` of them at a time, `uses` uses each.
    pub(super) fn new(keys: &[i64], live: usize, uses: u32) -> Result<Pool> {
        if keys.len() < live {
            return Err(format!("{} keys in a group, {live} are needed", keys.len()).into());
        }
        let mut fresh: Vec<i64> = keys.iter().rev().copied().collect();
        let first = fresh.split_off(fresh.len() - live);
        Ok(Pool {
            fresh,
            live: first.into_iter().map(|key| (key, 0)).collect(),
            uses,
        })
    }

    /// One of the keys in use, the first ones more often than the last.
    pub(super) fn look(&self, rng: &mut StdRng) -> i64 {
        self.live[self.place(rng)].0
    }

    /// So many different ones of them, or all.
    pub(super) fn some(&self, count: usize, rng: &mut StdRng) -> Vec<i64> {
        let places = sample(rng, self.live.len(), count.min(self.live.len()));
        places.into_iter().map(|place| self.live[place].0).collect()
    }

    /// One as by [`Pool::look`], and it counts as a use: returns how many came before. Without fresh keys the old
    /// ones stay.
    pub(super) fn take(&mut self, rng: &mut StdRng) -> (i64, u32) {
        let place = self.place(rng);
        let taken = self.live[place];
        self.live[place].1 += 1;
        if self.live[place].1 >= self.uses
            && let Some(fresh) = self.fresh.pop()
        {
            self.live[place] = (fresh, 0);
        }
        taken
    }

    fn place(&self, rng: &mut StdRng) -> usize {
        let last = self.live.len() - 1;
        let one = rng.random_range(0..=last);
        one.min(rng.random_range(0..=last))
    }
}
