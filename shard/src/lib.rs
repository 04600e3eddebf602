//! One replicated PostgreSQL: Raft, its log, the PostgreSQL process, the WAL feed, fencing.

pub mod client;
pub mod config;
pub mod entry;
pub mod id;
pub mod log;
pub mod status;
pub mod wal;
