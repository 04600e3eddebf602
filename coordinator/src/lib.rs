//! Everything that spans shard groups: slots, their placement, the catalogue of distributed tables.

pub mod catalogue;
pub mod hash;
pub mod slots;
