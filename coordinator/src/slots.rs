//! Where hash slots are placed: the slot map, and the consistent-hash ring that proposes it.

use std::collections::BTreeMap;
use std::fmt;
use std::hash::{BuildHasher, Hash, Hasher};
use std::str::FromStr;

use hashring::HashRing;
use serde::{Deserialize, Serialize};
use shard::id::GroupId;

use crate::hash::{HashSlot, SLOTS, pg};

/// How many points each group has on the ring. So many that two groups differ by about one per cent; the ring is
/// only built when groups come or go.
const POINTS_PER_GROUP: u32 = 2048;

/// The version of the slot map. Grows with every change of placement.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct MapEpoch(pub u64);

impl fmt::Display for MapEpoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Hash slot -> group.
///
/// Invariants: every slot has exactly one group; at least one group has a slot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "StoredMap", into = "StoredMap")]
pub struct SlotMap {
    epoch: MapEpoch,
    /// Indexed by slot.
    groups: Box<[GroupId]>,
}

impl SlotMap {
    /// Places all slots on these groups by the ring: the same for the same groups, on every machine and version.
    ///
    /// With another group more, about one slot in n moves, and only to the new group.
    ///
    /// # Errors
    /// When there is no group.
    pub fn place(epoch: MapEpoch, groups: &[GroupId]) -> Result<SlotMap, SlotMapError> {
        let mut ring = HashRing::with_hasher(RingHash);
        let points = |group: &GroupId| {
            let group = *group;
            (0..POINTS_PER_GROUP).map(move |number| Point { group, number })
        };
        ring.batch_add(groups.iter().flat_map(points).collect());
        let placed: Option<Box<[GroupId]>> = HashSlot::all()
            .map(|slot| ring.get(&u16::from(slot)).map(|point| point.group))
            .collect();
        Ok(SlotMap {
            epoch,
            groups: placed.ok_or(SlotMapError::NoGroup)?,
        })
    }

    /// A map as it was stored: the groups in the order of the slots.
    ///
    /// # Errors
    /// When there are not exactly 4096.
    pub fn from_groups(epoch: MapEpoch, groups: Vec<GroupId>) -> Result<SlotMap, SlotMapError> {
        if groups.len() != usize::from(SLOTS) {
            return Err(SlotMapError::Length(groups.len()));
        }
        Ok(SlotMap {
            epoch,
            groups: groups.into(),
        })
    }

    /// The group of a slot.
    #[must_use]
    pub fn group(&self, slot: HashSlot) -> GroupId {
        self.groups[slot.index()]
    }

    /// The version.
    #[must_use]
    pub fn epoch(&self) -> MapEpoch {
        self.epoch
    }

    /// The group of each slot, in the slots' order.
    #[must_use]
    pub fn by_slot(&self) -> &[GroupId] {
        &self.groups
    }

    /// The groups that have slots, ascending, with how many.
    #[must_use]
    pub fn shares(&self) -> BTreeMap<GroupId, usize> {
        let mut shares = BTreeMap::new();
        for group in &self.groups {
            *shares.entry(*group).or_default() += 1;
        }
        shares
    }

    /// The slots of one group, ascending.
    pub fn slots_of(&self, group: GroupId) -> impl Iterator<Item = HashSlot> {
        HashSlot::all().filter(move |slot| self.group(*slot) == group)
    }
}

/// The text form: the epoch, a colon, and runs of slots with the same group, as `3:1*2,2,1*9,...`.
impl fmt::Display for SlotMap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:", self.epoch)?;
        for (place, run) in self.groups.chunk_by(|a, b| a == b).enumerate() {
            let comma = if place == 0 { "" } else { "," };
            match run.len() {
                1 => write!(f, "{comma}{}", run[0])?,
                length => write!(f, "{comma}{}*{length}", run[0])?,
            }
        }
        Ok(())
    }
}

impl FromStr for SlotMap {
    type Err = SlotMapError;

    fn from_str(text: &str) -> Result<SlotMap, SlotMapError> {
        let malformed = || SlotMapError::Malformed(text.chars().take(40).collect());
        let (epoch, runs) = text.split_once(':').ok_or_else(malformed)?;
        let epoch = MapEpoch(epoch.parse().map_err(|_| malformed())?);
        let mut groups = Vec::with_capacity(usize::from(SLOTS));
        for run in runs.split(',') {
            let (group, length) = run.split_once('*').unwrap_or((run, "1"));
            let group: GroupId = group.parse().map_err(|_| malformed())?;
            let length: usize = length.parse().map_err(|_| malformed())?;
            if length > usize::from(SLOTS) - groups.len() {
                return Err(malformed());
            }
            groups.extend(std::iter::repeat_n(group, length));
        }
        SlotMap::from_groups(epoch, groups)
    }
}

/// What serde stores: the text form.
#[derive(Serialize, Deserialize)]
#[serde(transparent)]
struct StoredMap(String);

impl From<SlotMap> for StoredMap {
    fn from(map: SlotMap) -> StoredMap {
        StoredMap(map.to_string())
    }
}

impl TryFrom<StoredMap> for SlotMap {
    type Error = SlotMapError;

    fn try_from(stored: StoredMap) -> Result<SlotMap, SlotMapError> {
        stored.0.parse()
    }
}

/// Why there is no slot map.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SlotMapError {
    /// There is no group to place slots on.
    #[error("slots cannot be placed without a group")]
    NoGroup,
    /// A stored map does not have one group for each slot.
    #[error("a slot map has 4096 slots, not {0}")]
    Length(usize),
    /// The text is not a slot map.
    #[error("not a slot map: {0:?}...")]
    Malformed(String),
}

/// One of a group's points on the ring.
struct Point {
    group: GroupId,
    number: u32,
}

impl Hash for Point {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write(&self.group.0.to_le_bytes());
        state.write(&self.number.to_le_bytes());
    }
}

/// Places points and slots on the ring by PostgreSQL's hash, which no version of Rust or of a crate changes:
/// the standard library's and the ring's own hashers promise no such thing.
struct RingHash;

impl BuildHasher for RingHash {
    type Hasher = RingHasher;

    fn build_hasher(&self) -> RingHasher {
        RingHasher(Vec::with_capacity(8))
    }
}

/// Collects the bytes to hash.
struct RingHasher(Vec<u8>);

impl Hasher for RingHasher {
    fn write(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }

    fn write_u16(&mut self, number: u16) {
        // The default is the platform's byte order.
        self.write(&number.to_le_bytes());
    }

    fn finish(&self) -> u64 {
        pg::hash_bytes(&self.0)
    }
}
