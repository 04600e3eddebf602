//! Scenarios against real PostgreSQL servers, which the tests start and stop themselves.

#![allow(clippy::unwrap_used, reason = "a test's helpers fail as its test does")]

mod freshness;
mod hashing;
mod placement;
mod sequences;
mod server;
mod settling;
mod tables;
