//! From a shard key to its hash slot, exactly as PostgreSQL would compute it.
//!
//! A key's slot in SQL, on any PostgreSQL from 14 on, for a column or an expression `k` of a supported type:
//!
//! ```sql
//! hash_record_extended(ROW(k), 0) & 4095
//! ```
//!
//! For a row of one field, `hash_record_extended` (`rowtypes.c`) is the extended hash of that field by its type's
//! own hash support function (`hashint8extended`, `hashtextextended`, ...), and 0 for NULL. `& 4095` of a signed
//! `int8` is the same as `((h % 4096) + 4096) % 4096`. So a NULL key is in slot 0: a table without a primary key may
//! hold such rows. (NaN and the infinities of `numeric` hash to 0 as well, which is PostgreSQL's choice.)

#[cfg(any(test, feature = "fuzz"))]
pub(crate) mod fuzz;
mod key;
mod parse;
pub mod pg;

use std::fmt;

use serde::{Deserialize, Serialize};

pub use key::{KeyColumn, KeyError, KeySource, KeyType, KeyUse};

/// How many hash slots there are. Never changes: rows are placed by it.
pub const SLOTS: u16 = 4096;

/// A bucket of the key space, the unit that is placed on groups and moved: 0 to 4095.
///
/// Not to be mixed up with PostgreSQL's replication slots.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u16", into = "u16")]
pub struct HashSlot(u16);

impl HashSlot {
    /// The slot of a NULL key.
    pub const NULL: HashSlot = HashSlot(0);

    /// The slot of all rows of a local table (`catalogue::Placement::Local`).
    pub const LOCAL: HashSlot = HashSlot(0);

    /// The slot with this number; none from 4096 on.
    #[must_use]
    pub fn new(number: u16) -> Option<HashSlot> {
        (number < SLOTS).then_some(HashSlot(number))
    }

    /// The slot of a key with this extended hash.
    #[must_use]
    pub fn of_hash(hash: u64) -> HashSlot {
        let bytes = hash.to_le_bytes();
        HashSlot(u16::from_le_bytes([bytes[0], bytes[1]]) % SLOTS)
    }

    /// All slots, ascending.
    pub fn all() -> impl Iterator<Item = HashSlot> {
        (0..SLOTS).map(HashSlot)
    }

    /// The number as an index into a table of all slots.
    #[must_use]
    pub fn index(self) -> usize {
        usize::from(self.0)
    }
}

impl fmt::Display for HashSlot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl From<HashSlot> for u16 {
    fn from(slot: HashSlot) -> u16 {
        slot.0
    }
}

impl TryFrom<u16> for HashSlot {
    type Error = NoSuchSlot;

    fn try_from(number: u16) -> Result<HashSlot, NoSuchSlot> {
        HashSlot::new(number).ok_or(NoSuchSlot(number))
    }
}

/// The number is not that of a hash slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("there is no hash slot {0}: they are 0 to 4095")]
pub struct NoSuchSlot(u16);
