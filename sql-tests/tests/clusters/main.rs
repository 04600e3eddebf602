//! Whole clusters, in small form; the binary `must-show` tells the same stories in full.
//!
//! Each test starts a cluster of its own. They take turns: two clusters on two cores would only
//! test the scheduler.

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
use tokio::sync::{Mutex, MutexGuard};

static TURN: Mutex<()> = Mutex::const_new(());

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

/// Waits for its turn, then starts a cluster.
async fn cluster(options: &Options) -> (MutexGuard<'static, ()>, Cluster) {
    let turn = TURN.lock().await;
    (turn, Cluster::start(&howdah(), options).await.unwrap())
}
