//! What a replica must do next, told from what is so: the pure core of its life.
//!
//! [`decide`] is a function of [`Facts`] alone: no clock, no I/O. The driver observes, asks,
//! carries the [`Step`] out, and asks again whenever a fact changes; a step that is no longer the
//! answer is dropped where it stands. So every step must be safe to drop, which is the same as
//! being safe to crash in: what is durable is [`Life`], replaced atomically before and after.
//!
//! ```text
//!            leads, unborn                     leads, caught up              switch committed
//!   Empty ---------------> Born ---+   Standby ----------------> Promoted ------------------> Primary
//!     |                            |      ^                         |                            |
//!     | base backup                |      | the copy is committed   | switch not in the log      | follows, newer timeline
//!     +-----------> Copied --------+------+---- never got so far ---+                            v
//!                     ^                                             | the log went on elsewhere  |
//!                     +---- base backup ----------------------------+------- pg_rewind ----------+
//! ```

use serde::{Deserialize, Serialize};

use crate::id::{NodeId, Term};
use crate::wal::{Lsn, TimelineId, WalHistory};

/// What the replica's data directory is. Durable: written before the directory may differ from it.
///
/// Invariant: a directory is trusted for no more than its life says. Whatever cannot be proved to
/// lie on the log's line of history is `Empty`, and is rebuilt from the leader.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Life {
    /// Nothing that can be used; what lies there may be wiped.
    #[default]
    Empty,
    /// `initdb` made a database system here that the log may or may not hold.
    Born {
        /// Its system identifier.
        system_id: String,
    },
    /// A copy of a leader's directory, by base backup or rewind. It can hold effects of WAL up to
    /// `until` that Raft had not committed, so it is not started before the log covers that.
    Copied {
        /// The leader's timeline.
        timeline: TimelineId,
        /// The end of the copy.
        until: Lsn,
    },
    /// A standby that has been given committed WAL only.
    Standby,
    /// A standby whose promotion was begun: it may be on a timeline that the log does not hold.
    ///
    /// It is not thrown away lightly: where every replica in turn is struck down while it is being
    /// promoted, these directories are all that there is.
    Promoted {
        /// The timeline that it left.
        from: TimelineId,
        /// The end of the log, all of which it had flushed.
        after: Lsn,
    },
    /// The primary of a timeline that the log holds as this node's.
    Primary {
        /// That timeline.
        timeline: TimelineId,
    },
}

/// The replica's part in Raft.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Leads in `term`.
    Leader {
        /// The term.
        term: Term,
        /// Whether the term's first entry has been applied, so that the log is known to be whole.
        ready: bool,
    },
    /// Follows `leader`, where one is known.
    Follower {
        /// The leader.
        leader: Option<NodeId>,
    },
    /// Raft or its log has stopped on this replica: it may not do anything any more.
    Dead,
}

/// The replica's PostgreSQL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Server {
    /// Not running.
    Stopped,
    /// Running as a standby.
    Standby(Feed),
    /// Running as a primary, begun in this term.
    Primary {
        /// The term.
        term: Term,
    },
}

/// How a running standby stands to the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Feed {
    /// It has flushed all WAL in the log, on the log's timeline.
    CaughtUp,
    /// It has not, or is not connected.
    Behind,
    /// It needs WAL that the log no longer holds.
    Lost,
}

/// All that a decision rests on.
#[derive(Clone, Debug)]
pub struct Facts<'a> {
    /// This node.
    pub node: NodeId,
    /// The part in Raft.
    pub part: Part,
    /// The committed log.
    pub history: &'a WalHistory,
    /// The data directory.
    pub life: &'a Life,
    /// The server.
    pub server: Server,
    /// The newest timeline that the stopped server's control file knows; none while it has not been
    /// read since the server ran.
    pub reached: Option<TimelineId>,
}

/// What to do next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing until a fact changes, for the stated reason.
    Wait(&'static str),
    /// Stop PostgreSQL at once.
    Stop,
    /// Make the group's database system: `initdb`.
    Create,
    /// Write the group's first entry.
    AnnounceBirth {
        /// The leader's term.
        term: Term,
    },
    /// Record what the directory is now known to be.
    Become(Life),
    /// Start PostgreSQL as a standby that this node feeds.
    StartStandby,
    /// Start PostgreSQL as the primary that it was; crash recovery included.
    StartPrimary {
        /// The leader's term.
        term: Term,
    },
    /// Promote the standby, which has all of the log.
    Promote {
        /// The leader's term.
        term: Term,
    },
    /// Read the control file: what comes next depends on how far a promotion got.
    Inspect,
    /// The promotion never took hold: remove what it prepared, and be a standby again.
    Unpromote {
        /// The timeline on which the directory still stands.
        to: TimelineId,
    },
    /// Write the promoted server's new timeline into the log.
    AnnounceSwitch {
        /// The leader's term.
        term: Term,
    },
    /// Carry the primary's WAL into the log, and open the gate when all there is has committed.
    Lead {
        /// The leader's term.
        term: Term,
    },
    /// Hand the leadership on: this replica has no directory to lead with.
    Resign {
        /// The leader's term.
        term: Term,
    },
    /// Bring a former primary back onto the leader's line: pg_rewind, else a base backup.
    Rewind {
        /// Where from.
        leader: NodeId,
    },
    /// Copy the leader's directory: base backup.
    Rebuild {
        /// Where from.
        leader: NodeId,
    },
}

/// Decides what a replica does next.
#[must_use]
pub fn decide(facts: &Facts<'_>) -> Step {
    match facts.part {
        Part::Dead => match facts.server {
            Server::Stopped => Step::Wait("failed"),
            Server::Standby(_) | Server::Primary { .. } => Step::Stop,
        },
        Part::Leader { term, ready } => lead(facts, term, ready),
        Part::Follower { leader } => follow(facts, leader),
    }
}

fn lead(facts: &Facts<'_>, term: Term, ready: bool) -> Step {
    // A primary of an earlier term may hold results that were never answered and sessions that
    // were; it begins again, through crash recovery and behind a closed gate.
    if let Server::Primary { term: begun } = facts.server
        && begun != term
    {
        return Step::Stop;
    }
    if !ready {
        return match (facts.life, facts.server) {
            // It will be needed whoever leads, and starting it now makes a failover shorter.
            (Life::Standby, Server::Stopped) => Step::StartStandby,
            _ => Step::Wait("elected"),
        };
    }
    match facts.life {
        Life::Empty if facts.history.system_id().is_none() => Step::Create,
        Life::Empty => Step::Resign { term },
        Life::Born { system_id } => match birth(facts, system_id) {
            Birth::Ours => Step::Become(Life::Primary {
                timeline: TimelineId::FIRST,
            }),
            Birth::Others => Step::Become(Life::Empty),
            Birth::Open => with_primary(facts, term, Step::AnnounceBirth { term }),
        },
        Life::Copied { timeline, until } => match covers(facts.history, *timeline, *until) {
            Coverage::Covered => Step::Become(Life::Standby),
            // The log is whole now, so what it lacks was never committed.
            Coverage::Never | Coverage::NotYet => Step::Become(Life::Empty),
        },
        Life::Standby => match facts.server {
            Server::Stopped => Step::StartStandby,
            Server::Standby(Feed::CaughtUp) => Step::Promote { term },
            Server::Standby(Feed::Behind) => Step::Wait("catching up"),
            Server::Standby(Feed::Lost) => Step::Resign { term },
            Server::Primary { .. } => Step::Stop,
        },
        Life::Promoted { from, after } => match (facts.server, promotion(facts, *from, *after)) {
            (Server::Primary { .. }, Promotion::Open { .. }) => Step::AnnounceSwitch { term },
            (Server::Stopped, Promotion::Unknown) => Step::Inspect,
            (Server::Stopped, Promotion::Open { took_hold: true }) => Step::StartPrimary { term },
            (Server::Stopped, Promotion::Open { took_hold: false }) => Step::Unpromote { to: *from },
            (_, Promotion::InLog(timeline)) => Step::Become(Life::Primary { timeline }),
            (Server::Stopped, Promotion::Void) => Step::Resign { term },
            (Server::Standby(_) | Server::Primary { .. }, _) => Step::Stop,
        },
        Life::Primary { timeline } if writes(facts, *timeline) => {
            with_primary(facts, term, Step::Lead { term })
        }
        // The log went on elsewhere: only another leader can bring this directory back.
        Life::Primary { .. } => match facts.server {
            Server::Stopped => Step::Resign { term },
            Server::Standby(_) | Server::Primary { .. } => Step::Stop,
        },
    }
}

fn follow(facts: &Facts<'_>, leader: Option<NodeId>) -> Step {
    if let Server::Primary { .. } = facts.server {
        return Step::Stop;
    }
    match (facts.life, facts.server, leader) {
        (Life::Empty, Server::Standby(_), _) => Step::Stop,
        (Life::Empty, _, _) if facts.history.system_id().is_none() => Step::Wait("not born"),
        (Life::Empty, _, Some(leader)) => Step::Rebuild { leader },
        (Life::Empty, _, None) => Step::Wait("empty, without a leader"),

        (Life::Born { system_id }, _, _) => match birth(facts, system_id) {
            Birth::Ours => Step::Become(Life::Primary {
                timeline: TimelineId::FIRST,
            }),
            Birth::Others => Step::Become(Life::Empty),
            Birth::Open => Step::Wait("not born"),
        },

        (Life::Copied { timeline, until }, _, _) => match covers(facts.history, *timeline, *until) {
            Coverage::Covered => Step::Become(Life::Standby),
            Coverage::NotYet => Step::Wait("copied, not committed yet"),
            Coverage::Never => Step::Become(Life::Empty),
        },

        (Life::Standby, Server::Stopped, _) => Step::StartStandby,
        (Life::Standby, Server::Standby(Feed::Lost), Some(leader)) => Step::Rebuild { leader },
        (Life::Standby, _, _) => Step::Wait("following"),

        (Life::Promoted { from, after }, Server::Stopped, leader) => {
            match (promotion(facts, *from, *after), leader) {
                (Promotion::Unknown, _) => Step::Inspect,
                (Promotion::Open { took_hold: true }, _) => Step::Wait("promoted, the log not gone on yet"),
                (Promotion::Open { took_hold: false }, _) => Step::Unpromote { to: *from },
                (Promotion::InLog(timeline), _) => Step::Become(Life::Primary { timeline }),
                (Promotion::Void, Some(leader)) => Step::Rebuild { leader },
                (Promotion::Void, None) => Step::Wait("promoted alone, without a leader"),
            }
        }
        (Life::Promoted { .. }, _, _) => Step::Stop,

        (Life::Primary { timeline }, _, _) if writes(facts, *timeline) => {
            Step::Wait("deposed, the log not gone on yet")
        }
        (Life::Primary { .. }, _, Some(leader)) => Step::Rewind { leader },
        (Life::Primary { .. }, _, None) => Step::Wait("deposed, without a leader"),
    }
}

/// `then`, once the server runs as a primary.
fn with_primary(facts: &Facts<'_>, term: Term, then: Step) -> Step {
    match facts.server {
        Server::Stopped => Step::StartPrimary { term },
        Server::Standby(_) => Step::Stop,
        Server::Primary { .. } => then,
    }
}

/// Whether the log's current timeline is `timeline`, and this node's.
fn writes(facts: &Facts<'_>, timeline: TimelineId) -> bool {
    facts.history.timeline() == Some(timeline) && facts.history.origin() == Some(facts.node)
}

enum Birth {
    Ours,
    Others,
    Open,
}

fn birth(facts: &Facts<'_>, system_id: &str) -> Birth {
    match (facts.history.system_id(), facts.history.branch(TimelineId::FIRST)) {
        (None, _) | (_, None) => Birth::Open,
        (Some(held), Some((_, origin))) if held == system_id && origin == facts.node => Birth::Ours,
        (Some(_), Some(_)) => Birth::Others,
    }
}

/// What became of a promotion, by the log.
enum Promotion {
    /// The log stands where it stood when the promotion began.
    Open {
        /// Whether the server came to the new timeline. It writes its control file before it
        /// accepts the first change there (`CreateEndOfRecoveryRecord`), so where the control
        /// file does not know the new timeline nothing was done on it.
        took_hold: bool,
    },
    /// The server has stopped, and its control file has not been read since.
    Unknown,
    /// The log holds the switch that it proposed: only the reply was lost.
    InLog(TimelineId),
    /// The log went on without it.
    Void,
}

/// The number of the new timeline alone proves nothing: two replicas that each promoted alone
/// choose the same one, and pg_rewind then sees nothing to do (hazard 3 of the design). The log
/// tells them apart by the switch's origin; and as a replica that promotes again does so from a
/// later timeline, a number stands for one promotion of this node at most.
fn promotion(facts: &Facts<'_>, from: TimelineId, after: Lsn) -> Promotion {
    let open = facts.history.timeline() == Some(from) && facts.history.end() == after;
    let Some(reached) = facts.reached else {
        return match facts.server {
            // It runs as a primary because it was promoted; nothing is taken back from it.
            Server::Primary { .. } if open => Promotion::Open { took_hold: true },
            _ => Promotion::Unknown,
        };
    };
    if open {
        return Promotion::Open {
            took_hold: reached > from,
        };
    }
    match facts.history.branch(reached) {
        Some((_, origin)) if reached > from && origin == facts.node => Promotion::InLog(reached),
        _ => Promotion::Void,
    }
}

/// How much of a copy up to `until` on `timeline` the committed log holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Coverage {
    Covered,
    NotYet,
    Never,
}

fn covers(history: &WalHistory, timeline: TimelineId, until: Lsn) -> Coverage {
    let end = match history.successor(timeline) {
        Some((_, left_at)) => left_at,
        None if history.timeline() == Some(timeline) => history.end(),
        // The copy's timeline is newer than what has been applied here; or it never got in.
        None if history.timeline() < Some(timeline) => return Coverage::NotYet,
        None => return Coverage::Never,
    };
    match (until <= end, history.timeline() == Some(timeline)) {
        (true, _) => Coverage::Covered,
        (false, true) => Coverage::NotYet,
        (false, false) => Coverage::Never,
    }
}

#[cfg(test)]
#[path = "life_tests.rs"]
mod tests;

#[cfg(test)]
#[path = "life_random.rs"]
mod random;
