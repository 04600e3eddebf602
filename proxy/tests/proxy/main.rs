//! The proxy over two real PostgreSQL servers as groups, driven by real clients.

mod access;
mod advisory;
mod certificates;
mod commands;
mod console;
mod copy;
mod cursors;
mod databases;
mod ddl;
mod deadlock;
mod dump;
mod faults;
mod harness;
mod notify;
mod pgbench;
mod pipelines;
mod pool;
mod prepared;
mod protocol;
mod scatter;
mod snapshots;
mod split;
mod timeouts;
mod tls;
mod transactions;
mod two_phase;
