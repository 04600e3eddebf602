//! Everything that spans shard groups.
//!
//! From a statement's shard key to the group that has its rows, in three steps, each a module:
//!
//! 1. [`hash`]: key -> [`HashSlot`](hash::HashSlot), by PostgreSQL's own extended hash. Values whose meaning no setting of
//!    the session can change are hashed here; for all others PostgreSQL is asked
//!    ([`KeyColumn::slot_query`](hash::KeyColumn::slot_query)).
//! 2. [`slots`]: slot -> [`GroupId`](shard::id::GroupId), by the stored [`SlotMap`](slots::SlotMap). A consistent-hash ring
//!    proposes the placement; what is stored counts.
//! 3. [`catalogue`]: which column a table's key is. Stored beside the tables in every group, kept fresh on every node by
//!    leases ([`catalogue::cache`]).
//!
//! ```text
//! session: cache.database("app") -> current(group) -> Catalogue::resolve(search_path, schema, name) -> Relation
//!          relation.shard_key().column.slot(Comparison | Assignment, value) -> catalogue.slots().group(slot)
//! ```
//!
//! Invariants:
//!
//! - A row of a distributed table is stored only in the group that its slot is placed on. Routing sees to it, and a trigger
//!   on each table refuses what routing got wrong (`catalogue/schema.sql`).
//! - A slot is what `hash_record_extended(ROW(key), 0) & 4095` gives in PostgreSQL, for every value; NULL is in slot 0.
//! - A statement for a group is routed by a catalogue that was verified against that same group within the lease.
//! - Every DDL, by whatever path it came, counts its database's catalogue version up in its own transaction.
//!
//! Transactions across groups (two-phase commit, decisions, snapshots) will live here too, and do not yet.

mod broken;
pub mod catalogue;
mod connection;
pub mod cut;
pub mod databases;
pub mod deadlock;
pub mod failpoint;
#[cfg(any(test, feature = "fuzz"))]
#[doc(hidden)]
pub mod fuzz;
pub mod hash;
pub mod roles;
pub mod sequences;
pub mod slots;
pub mod transaction;
pub mod waiting;
