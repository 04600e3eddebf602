//! What transactions across groups cost, on one machine: beside the same by hand on plain PostgreSQL servers, and with cuts
//! beside none.
//!
//! Everything is on loopback, with PostgreSQL's own settings for durability. What is compared takes turns, and figures are
//! medians over the rounds: a machine that has other things to do bends single figures, ratios less.

mod accounts;
mod autogroup;
mod cuts;
mod deadlocks;
mod idle;
mod measure;
mod scatter;
mod transfers;

use std::time::Duration;

pub use self::autogroup::Autogroup;
pub use self::cuts::{CutsReport, ReadKind, Readers, cuts};
pub use self::deadlocks::{Fight, FightPlan, Fights, deadlocks};
pub use self::idle::{IdlePlan, IdleReport, idle};
pub use self::measure::{Figures, Worker};
pub use self::scatter::{ScatterPlan, Scattered, scatter};
pub use self::transfers::{Bank, Transfer, TransferReport, Way, transfers};

/// How much of it.
#[derive(Clone, Copy, Debug)]
pub struct Rounds {
    /// How long each variant works in each round.
    pub time: Duration,
    /// Rounds; in each, every variant has one turn.
    pub rounds: usize,
}

/// Clients that work at the same time where throughput is measured.
const CLIENTS: usize = 16;
