//! The proxy over two real PostgreSQL servers as groups, driven by real clients.

mod commands;
mod console;
mod copy;
mod databases;
mod ddl;
mod deadlock;
mod dump;
mod faults;
mod harness;
mod pgbench;
mod pipelines;
mod prepared;
mod scatter;
mod snapshots;
mod split;
mod transactions;
mod two_phase;
