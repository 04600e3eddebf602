//! Whole clusters, in small form; the binary `must-show` tells the same stories in full.
//!
//! Each test starts a cluster of its own. Two work at a time, as most of them wait more than they work: for
//! elections, leases and disks. More of them on two cores would only test the scheduler.

#![expect(clippy::unwrap_used, reason = "in a test, a failed step is a failed test")]

mod certificates;
mod clients;
mod compare;
mod consistency;
mod console;
#[cfg(feature = "failpoints")]
mod coordinators;
mod demo;
mod differential;
mod drivers;
mod faults;
mod reload;
mod rows;
mod scripts;
mod sequences;
mod tpch;
mod ways_in;

use std::path::PathBuf;

use sql_tests::cluster::{Cluster, Options};
use tokio::sync::{Semaphore, SemaphorePermit};

static TURNS: Semaphore = Semaphore::const_new(2);

/// What nodes may complain about when their peers or their PostgreSQL were killed, paused or cut.
const FAULTS: [&str; 7] = [
    "majority",
    "peer",
    "unreachable",
    "connect",
    "PostgreSQL",
    "election",
    "leader",
];

fn howdah() -> PathBuf {
    PathBuf::from(env!("CARGO_BIN_EXE_must-show"))
}

async fn turn() -> SemaphorePermit<'static> {
    TURNS.acquire().await.unwrap()
}

/// Waits for its turn, then starts a cluster.
async fn cluster(options: &Options) -> (SemaphorePermit<'static>, Cluster) {
    let turn = turn().await;
    (turn, Cluster::start(&howdah(), options).await.unwrap())
}
