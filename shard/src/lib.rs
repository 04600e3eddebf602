//! One replicated PostgreSQL: Raft, its log, the PostgreSQL process, the WAL feed, fencing.

mod broken;
pub mod call;
pub mod causes;
pub mod client;
pub mod config;
pub mod entry;
#[cfg(any(test, feature = "fuzz"))]
#[doc(hidden)]
pub mod fuzz;
pub mod gate;
pub mod hold;
pub mod id;
pub mod log;
pub mod lost_log;
pub mod node;
pub mod postgres;
pub mod raft;
mod reach;
pub mod replica;
pub mod small_file;
pub mod status;
pub mod tls;
pub mod transport;
pub mod wal;
