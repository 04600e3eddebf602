//! The proxy over two real PostgreSQL servers as groups, driven by real clients.

mod commands;
mod copy;
mod faults;
mod harness;
mod pgbench;
mod pipelines;
mod prepared;
mod scatter;
mod split;
mod transactions;
mod two_phase;
