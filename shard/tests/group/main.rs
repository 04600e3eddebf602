//! A shard group as a whole: real PostgreSQL servers, real sockets, real logs, in one process.
//!
//! Each node has a runtime of its own, so that it can end like a crash; the nodes reach each other
//! through relays that can be cut ([`net`]). Scenarios run one after the other ([`cluster`]).

#![allow(
    clippy::unwrap_used,
    reason = "a scenario ends where something fails that must not; its helpers too"
)]

mod cluster;
mod crash;
mod directories;
mod failover;
mod fencing;
mod hang;
mod log;
mod lost_log;
mod net;
mod partition;
mod sql;
mod tls;
mod waiting;
