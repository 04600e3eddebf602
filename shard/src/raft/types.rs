//! The types that openraft is instantiated with.

use std::fmt;

use openraft::EmptyNode;
use openraft::impls::leader_id_std;
use openraft::type_config::alias;
use serde::{Deserialize, Serialize};

use crate::entry::Command;
use crate::id::{LogIndex, NodeId, Term};
use crate::wal::{Applied, Lsn, Rejected, TimelineId};

openraft::declare_raft_types!(
    /// Standard Raft: at most one leader in a term, so a log position is (term, index).
    pub(crate) TypeConfig:
        D = Command,
        R = Outcome,
        NodeId = NodeId,
        Node = EmptyNode,
        LeaderId = leader_id_std::LeaderId<u64, NodeId>,
);

pub(crate) type Entry = alias::EntryOf<TypeConfig>;
pub(crate) type LogId = alias::LogIdOf<TypeConfig>;
pub(crate) type Vote = alias::VoteOf<TypeConfig>;
pub(crate) type Payload = openraft::EntryPayload<Command, NodeId, EmptyNode>;
pub(crate) type StoredMembership = alias::StoredMembershipOf<TypeConfig>;
pub(crate) type SnapshotMeta = alias::SnapshotMetaOf<TypeConfig>;

/// Makes a log position.
pub(crate) fn log_id(term: Term, index: LogIndex) -> LogId {
    LogId::new(
        openraft::vote::leader_id_std::CommittedLeaderId::new(term.0),
        index.0,
    )
}

/// The term of a log position.
pub(crate) fn term_of(id: &LogId) -> Term {
    Term(id.leader_id.term)
}

/// What applying an entry gave.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Outcome {
    /// The entry took effect.
    Applied {
        /// The end of WAL after it.
        end: Lsn,
        /// The current timeline after it.
        timeline: TimelineId,
    },
    /// The entry took no effect, on any replica.
    Rejected(Rejected),
    /// The entry is Raft's own.
    Nothing,
}

impl From<Result<Applied, Rejected>> for Outcome {
    fn from(result: Result<Applied, Rejected>) -> Outcome {
        match result {
            Ok(Applied { end, timeline }) => Outcome::Applied { end, timeline },
            Err(rejected) => Outcome::Rejected(rejected),
        }
    }
}

/// For openraft's trace lines.
impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Command::Genesis(genesis) => {
                write!(f, "birth of system {} at {}", genesis.system_id, genesis.start)
            }
            Command::Wal(chunk) => {
                write!(
                    f,
                    "{} bytes of WAL at {} on timeline {}",
                    chunk.bytes.len(),
                    chunk.start,
                    chunk.timeline
                )
            }
            Command::Switch(switch) => write!(f, "switch to timeline {} at {}", switch.timeline, switch.at),
        }
    }
}
