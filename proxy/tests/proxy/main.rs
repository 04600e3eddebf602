//! The proxy over two real PostgreSQL servers as groups, driven by real clients.

mod access;
mod certificates;
mod commands;
mod copy;
mod databases;
mod ddl;
mod deadlock;
mod faults;
mod harness;
mod pgbench;
mod pipelines;
mod prepared;
mod scatter;
mod snapshots;
mod split;
mod tls;
mod transactions;
mod two_phase;
