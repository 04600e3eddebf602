//! One replicated PostgreSQL: Raft, its log, the PostgreSQL process, the WAL feed, fencing.

pub mod client;
pub mod config;
pub mod entry;
pub mod gate;
pub mod id;
pub mod postgres;
pub mod raft;
pub mod replica;
pub mod status;
pub mod transport;
pub mod wal;
