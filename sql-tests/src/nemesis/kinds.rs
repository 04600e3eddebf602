//! The kinds of faults, by the names that the command line takes.

use coordinator::failpoint::Step;

use super::clients::{Cancel, Terminate};
use super::coordinator::Coordinator;
use super::corrupt::CorruptLog;
use super::disk::DiskFull;
use super::fault::Fault;
use super::kill::{KillAll, KillNode, KillPostgres};
use super::partition::{Disturb, Pattern};
use super::pause::Pause;
use super::transfer::Transfer;
use crate::Result;
use crate::cluster::{Frozen, Victim};

/// A kind of fault that is built.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// kill -9 of a node with its PostgreSQL servers.
    KillNode,
    /// kill -9 of a postmaster alone.
    KillPostmaster,
    /// kill -9 of one backend.
    KillBackend,
    /// kill -9 of all nodes at once.
    KillAll,
    /// SIGSTOP of a node.
    PauseNode,
    /// SIGSTOP of a node's PostgreSQL servers.
    PausePostgres,
    /// SIGSTOP of both.
    PauseBoth,
    /// Links between the nodes.
    Links(Pattern),
    /// Clients that cancel and hang up.
    Cancel,
    /// pg_terminate_backend of every session of a leader's server.
    Terminate,
    /// kill -9 of a node, and damage to its log.
    CorruptLog,
    /// A storm of switchovers.
    Transfer,
    /// No space left on a node's disk.
    DiskFull,
    /// A node that dies at a step of a transaction across groups.
    Coordinator(Step),
}

/// A name on the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Known {
    /// The name.
    pub name: &'static str,
    /// The shorter name of several; the same as `name` where it stands alone.
    pub family: &'static str,
    /// What it does.
    pub about: &'static str,
    /// The kind.
    pub kind: Kind,
}

/// The family of those that take a build with the feature `failpoints`.
const COORDINATOR: &str = "coordinator";

/// All faults that there are.
pub const KNOWN: [Known; 33] = [
    built(
        "kill-node",
        "kill",
        "kill -9 of a node with its PostgreSQL, started again later",
        Kind::KillNode,
    ),
    built(
        "kill-postmaster",
        "kill",
        "kill -9 of a postmaster alone",
        Kind::KillPostmaster,
    ),
    built(
        "kill-backend",
        "kill",
        "kill -9 of one process of a PostgreSQL",
        Kind::KillBackend,
    ),
    built(
        "kill-all",
        "kill-all",
        "kill -9 of the whole cluster at once",
        Kind::KillAll,
    ),
    built(
        "pause-node",
        "pause",
        "SIGSTOP of a node, its PostgreSQL goes on",
        Kind::PauseNode,
    ),
    built(
        "pause-postgres",
        "pause",
        "SIGSTOP of a node's PostgreSQL servers",
        Kind::PausePostgres,
    ),
    built(
        "pause-both",
        "pause",
        "SIGSTOP of a node and its PostgreSQL servers",
        Kind::PauseBoth,
    ),
    built(
        "isolate",
        "partition",
        "a node cut off from all others",
        Kind::Links(Pattern::Isolate),
    ),
    built(
        "one-way",
        "partition",
        "what a node sends is held back, or what is sent to it",
        Kind::Links(Pattern::OneWay),
    ),
    built(
        "pair",
        "partition",
        "two nodes that cannot reach each other, but everyone else",
        Kind::Links(Pattern::Pair),
    ),
    built(
        "halves",
        "partition",
        "half of the nodes and the other half",
        Kind::Links(Pattern::Halves),
    ),
    built(
        "ring",
        "partition",
        "each node reaches a majority, no two the same (5 nodes or more)",
        Kind::Links(Pattern::Ring),
    ),
    built(
        "flapping",
        "partition",
        "a node cut off and back several times a second",
        Kind::Links(Pattern::Flapping),
    ),
    built(
        "slow",
        "slow",
        "everything to and from a node is late",
        Kind::Links(Pattern::Slow),
    ),
    built(
        "lossy",
        "lossy",
        "all links stutter, and connections end at random",
        Kind::Links(Pattern::Lossy),
    ),
    built(
        "cancel",
        "cancel",
        "clients cancel their statements, and hang up in mid-commit",
        Kind::Cancel,
    ),
    built(
        "terminate",
        "terminate",
        "pg_terminate_backend of all sessions of a leader's PostgreSQL",
        Kind::Terminate,
    ),
    built(
        "transfer",
        "transfer",
        "a storm of switchovers: groups handed from node to node, several times a second",
        Kind::Transfer,
    ),
    built(
        "disk-full",
        "disk-full",
        "no space left on a node's disk; later there is, and the node is started again (takes root)",
        Kind::DiskFull,
    ),
    built(
        "corrupt-log",
        "corrupt-log",
        "kill -9 of a node whose log files are cut or flipped before it starts again",
        Kind::CorruptLog,
    ),
    died_at(
        Step::BeforePrepare,
        "a coordinator dies before it sends the first PREPARE",
    ),
    died_at(
        Step::PrepareSent,
        "a coordinator dies when it has sent every PREPARE",
    ),
    died_at(
        Step::PartPrepared,
        "a coordinator dies when the first part is prepared",
    ),
    died_at(
        Step::AllPrepared,
        "a coordinator dies when all parts are prepared",
    ),
    died_at(
        Step::DecisionSent,
        "a coordinator dies when it has sent the decision",
    ),
    died_at(Step::Decided, "a coordinator dies when the decision is answered"),
    died_at(
        Step::CommitSent,
        "a coordinator dies when it has sent every COMMIT PREPARED",
    ),
    died_at(
        Step::PartCommitted,
        "a coordinator dies when the first part is committed",
    ),
    died_at(
        Step::AllCommitted,
        "a coordinator dies when all are, before it tells the client",
    ),
    died_at(
        Step::OutcomeLearned,
        "a coordinator dies and then who settles it, before it ends a part",
    ),
    died_at(
        Step::PartEnded,
        "a coordinator dies and then who settles it, when it has ended a part",
    ),
    died_at(
        Step::BeforeCleaning,
        "a node dies before it deletes old decisions",
    ),
    died_at(Step::Cleaned, "a node dies when it has deleted old decisions"),
];

const fn died_at(step: Step, about: &'static str) -> Known {
    built(step.name(), COORDINATOR, about, Kind::Coordinator(step))
}

const fn built(name: &'static str, family: &'static str, about: &'static str, kind: Kind) -> Known {
    Known {
        name,
        family,
        about,
        kind,
    }
}

/// The kinds that a list names: names or families with commas between them, `all`, or `none`.
///
/// # Errors
/// When a name is unknown.
pub fn kinds(list: &str) -> Result<Vec<Kind>> {
    let mut found = Vec::new();
    for word in list.split(',').map(str::trim) {
        let all = word == "all";
        if word == "none" {
            continue;
        }
        let named = |known: &&Known| all || known.name == word || known.family == word;
        let mut any = false;
        for known in KNOWN.iter().filter(named) {
            any = true;
            found.push(known.kind);
        }
        if !any {
            return Err(format!("there is no nemesis {word}; `list` shows all").into());
        }
    }
    found.sort_unstable();
    found.dedup();
    Ok(found)
}

impl Kind {
    /// Its name on the command line and in histories.
    #[must_use]
    pub fn name(self) -> &'static str {
        let known = KNOWN.iter().find(|known| known.kind == self);
        known.map_or("unknown", |known| known.name)
    }

    /// Whether it takes a build with the feature `failpoints`.
    #[must_use]
    pub fn needs_failpoints(self) -> bool {
        matches!(self, Kind::Coordinator(_))
    }

    /// Whether it needs relays between the nodes.
    #[must_use]
    pub fn needs_relays(self) -> bool {
        matches!(self, Kind::Links(_))
    }

    /// A fault of this kind, not begun yet.
    pub(super) fn fault(self) -> Box<dyn Fault> {
        match self {
            Kind::KillNode => Box::new(KillNode::default()),
            Kind::KillPostmaster => Box::new(KillPostgres(Victim::Postmaster)),
            Kind::KillBackend => Box::new(KillPostgres(Victim::Backend)),
            Kind::KillAll => Box::new(KillAll),
            Kind::PauseNode => Box::new(Pause::of(self, Frozen::Node)),
            Kind::PausePostgres => Box::new(Pause::of(self, Frozen::Postgres)),
            Kind::PauseBoth => Box::new(Pause::of(self, Frozen::NodeAndPostgres)),
            Kind::Links(pattern) => Box::new(Disturb::of(self, pattern)),
            Kind::Cancel => Box::new(Cancel),
            Kind::Terminate => Box::new(Terminate),
            Kind::CorruptLog => Box::new(CorruptLog::default()),
            Kind::Transfer => Box::new(Transfer::default()),
            Kind::DiskFull => Box::new(DiskFull::default()),
            Kind::Coordinator(step) => Box::new(Coordinator::at(step)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_families_all_and_none() {
        assert_eq!(kinds("none").unwrap(), []);
        assert_eq!(kinds("pause-node").unwrap(), [Kind::PauseNode]);
        assert_eq!(kinds("kill,kill-node").unwrap().len(), 3);
        assert_eq!(kinds("all").unwrap().len(), KNOWN.len());
        assert!(kinds("kil").is_err());
    }

    #[test]
    fn every_kind_has_a_name_of_its_own() {
        assert_eq!(kinds("coordinator").unwrap().len(), Step::ALL.len());
        for known in KNOWN {
            assert_eq!(known.kind.name(), known.name);
            assert_eq!(known.kind.fault().name(), known.name);
        }
    }
}
