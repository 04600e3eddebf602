//! Everything that spans shard groups: slots, their placement, the catalogue of distributed tables.
