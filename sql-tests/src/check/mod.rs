//! Checkers: from a history to a verdict, with no clock, no network and no file.
//!
//! [`check`] is the door. What was asked and answered is first paired up (`pairs`); then the
//! checker of the workload looks for what its [`Model`] forbids. Each [`Anomaly`] carries its story
//! in words, and where it is a cycle, the edges of it, which [`draw`] draws.
//!
//! A checker never guesses: what it reports follows from the history alone, whatever the database
//! did. An operation of unknown outcome counts as done only where something shows that it was. The
//! other way round, a checker that runs out of its bounds says so and does not say "valid".

mod append;
mod bank;
mod ddl;
pub mod draw;
mod long_fork;
mod model;
mod monotonic;
mod pairs;
mod register;
mod set;
mod words;
mod write_skew;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;

pub use self::ddl::LOOK;
pub use self::model::{Model, Name, Order, Shape};
use crate::Result;
use crate::history::{Edn, History};

/// What is promised, and how far a checker goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// What the transactions were promised.
    pub model: Model,
    /// Whether each session sees its own transactions in their order. [`Model::StrictSerializable`]
    /// has it in any case.
    pub session_order: bool,
    /// Whether what is acknowledged is seen by all that begins later. [`Model::StrictSerializable`]
    /// has it in any case.
    pub real_time: bool,
    /// `bank`: what all accounts hold together; by default what the first read found.
    pub total: Option<i64>,
    /// `bank`: whether an account may hold less than nothing.
    pub negative_balances: bool,
    /// `register`: how many configurations of one key are looked at before the checker gives up.
    /// Each takes some hundred bytes.
    pub most_configurations: usize,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            model: Model::Serializable,
            session_order: false,
            real_time: false,
            total: None,
            negative_balances: false,
            most_configurations: 2_000_000,
        }
    }
}

/// What a checker found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// Whether all was looked at and nothing forbidden was there.
    pub valid: bool,
    /// What is forbidden and is there, the worst first.
    pub anomalies: Vec<Anomaly>,
    /// What could not be decided, and why.
    pub unknown: Vec<String>,
    /// How much there was of what.
    pub counts: BTreeMap<&'static str, usize>,
    /// What else a reader should know.
    pub notes: Vec<String>,
}

/// Something that the model forbids.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Anomaly {
    /// Its name in the literature.
    pub name: Name,
    /// Its story, with the operations and the keys.
    pub words: String,
    /// The operations in it, by the `index` of their invocations.
    pub ops: Vec<u64>,
    /// Where it is a cycle: its edges, each beginning where the one before ends, the last one
    /// ending where the first begins.
    pub cycle: Vec<Edge>,
}

/// Why one transaction comes before another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Edge {
    /// The `index` of the invocation of the one before.
    pub from: u64,
    /// The `index` of the invocation of the one after.
    pub to: u64,
    /// What kind of reason there is.
    pub kind: Dependency,
    /// The key it is about.
    pub key: Option<Edn>,
    /// The reason in words; the transactions are called T1, T2, ... in their order in the cycle.
    pub words: String,
}

/// Adya's dependencies between transactions, and the two orders that clients see.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Dependency {
    /// The second one's version follows the first one's.
    Ww,
    /// The second one read what the first one wrote.
    Wr,
    /// The first one read a version that the second one's follows.
    Rw,
    /// The same session did the second one after the first one.
    Process,
    /// The first one was acknowledged before the second one began.
    Realtime,
}

impl fmt::Display for Dependency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Dependency::Ww => "ww",
            Dependency::Wr => "wr",
            Dependency::Rw => "rw",
            Dependency::Process => "process",
            Dependency::Realtime => "realtime",
        })
    }
}

/// A verdict in words tells so many anomalies.
const MOST_TOLD: usize = 20;

impl Verdict {
    /// The verdict on these findings.
    fn of(mut anomalies: Vec<Anomaly>, unknown: Vec<String>) -> Verdict {
        anomalies.sort_by_key(|anomaly| anomaly.name);
        Verdict {
            valid: anomalies.is_empty() && unknown.is_empty(),
            anomalies,
            unknown,
            ..Verdict::default()
        }
    }

    /// `valid`, `invalid`, or `unknown`.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match (self.valid, self.anomalies.is_empty()) {
            (true, _) => "valid",
            (false, true) => "unknown",
            (false, false) => "invalid",
        }
    }

    /// How often each anomaly was found.
    #[must_use]
    pub fn names(&self) -> BTreeMap<Name, usize> {
        let mut names = BTreeMap::new();
        for anomaly in &self.anomalies {
            *names.entry(anomaly.name).or_default() += 1;
        }
        names
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.word())?;
        for (what, count) in &self.counts {
            write!(f, ", {count} {what}")?;
        }
        for (name, count) in self.names() {
            write!(f, "\n{count} x {name}")?;
        }
        for anomaly in self.anomalies.iter().take(MOST_TOLD) {
            write!(f, "\n\n{}: {}", anomaly.name, anomaly.words)?;
        }
        for line in self.unknown.iter().chain(&self.notes) {
            write!(f, "\n\n{line}")?;
        }
        Ok(())
    }
}

impl Anomaly {
    /// One that is not a cycle.
    fn new(name: Name, ops: Vec<u64>, words: String) -> Anomaly {
        Anomaly {
            name,
            words,
            ops,
            cycle: Vec::new(),
        }
    }
}

/// Checks a history of a workload.
///
/// | workload | operations | looks for |
/// |---|---|---|
/// | `append`, `fractured-read` | `:txn [[:append k v] [:r k [v ...]]]` | what the model forbids |
/// | `register` | `:read [k v]`, `:write [k v]`, `:cas [k [old new]]` | no order that explains a key |
/// | `bank` | `:transfer {:from a :to b :amount n}`, `:read {a balance}` | totals that are wrong |
/// | `set` | `:add v`, `:read [v ...]` | acknowledged elements that are lost |
/// | `long-fork` | `:txn [[:w k v]]`, `:txn [[:r k v] ...]` | two readers that saw two orders |
/// | `write-skew` | `:insert [k [a b]]` with `a` or `b` nil; or as `append` | both inserts of a key |
/// | `monotonic` | `:read [k n]` | a session that saw a counter go back |
/// | `ddl` | `:make object`, `:drop object`, `:insert [table k column]`, `:look` | groups whose schemas differ, lost changes and rows |
///
/// # Errors
/// Where the workload has no checker, or the history is not one of it: that is a fault of the test
/// and not a finding.
pub fn check(workload: &str, history: &History, options: &Options) -> Result<Verdict> {
    match workload {
        "append" | "append-groups" | "fractured-read" => append::check(history, options),
        "register" => register::check(history, options),
        "bank" | "bank-groups" => bank::check(history, options),
        "set" => set::check(history),
        "long-fork" => long_fork::check(history),
        "write-skew" => write_skew::check(history, options),
        "monotonic" => monotonic::check(history),
        "ddl" => ddl::check(history),
        other => Err(format!("no checker for the workload {other}").into()),
    }
}
