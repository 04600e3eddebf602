//! What a group's log says about its WAL, told from the entries alone.

use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::lsn::{Lsn, TimelineId};
use crate::entry::{Command, Genesis, TimelineSwitch, WalChunk};
use crate::id::NodeId;

/// The replicated state of a group's log: which system it carries, on which timeline it stands,
/// where its WAL ends, and how it came there.
///
/// A pure function of the committed entries, so every replica that applied the same entries holds
/// the same value. A snapshot of the Raft log is this value.
///
/// Invariants:
/// - `timelines` is ordered by timeline, and its positions never decrease.
/// - `end` is at or after the start of the current timeline.
/// - Every byte before `end` on the current timeline's line of descent has been in an accepted entry.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WalHistory {
    system_id: Option<String>,
    timelines: Vec<Timeline>,
    end: Lsn,
}

/// One timeline of the group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Timeline {
    id: TimelineId,
    /// Where it left its parent; for the first one, where the group's WAL begins.
    start: Lsn,
    origin: NodeId,
    /// The content of its history file; empty for timeline 1.
    history: Arc<[u8]>,
}

/// An entry that took effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Applied {
    /// The end of WAL after it.
    pub end: Lsn,
    /// The current timeline after it.
    pub timeline: TimelineId,
}

/// An entry that did not take effect, on any replica, because it does not continue the log.
///
/// Such an entry was proposed by a leader that had lost its term without knowing it. Refusing it
/// where it is applied, by a rule that depends on the entries alone, keeps the log contiguous
/// whatever a proposer does.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
pub enum Rejected {
    /// A second birth of the group.
    #[error("the group already holds system {system_id}")]
    AlreadyBorn {
        /// The system that the group holds.
        system_id: String,
    },
    /// WAL or a switch before the group's birth.
    #[error("the group has no database system yet")]
    NotBorn,
    /// WAL that does not start where the log ends.
    #[error(
        "WAL at {start} on timeline {timeline} does not continue the log, which ends at {end} on timeline {current}"
    )]
    NotContiguous {
        /// The timeline of the refused bytes.
        timeline: TimelineId,
        /// Their position.
        start: Lsn,
        /// The log's timeline.
        current: TimelineId,
        /// The log's end.
        end: Lsn,
    },
    /// A chunk that is empty or crosses a segment's end.
    #[error("a WAL chunk at {start} of {length} bytes is empty or crosses the end of a segment")]
    Malformed {
        /// Its position.
        start: Lsn,
        /// Its length, bytes.
        length: u64,
    },
    /// A switch to a timeline that is not newer, or from a position outside the current one.
    #[error(
        "timeline {timeline} from {at} after {after} does not branch from timeline {current}, \
         which goes from {from} to {end}"
    )]
    BadSwitch {
        /// The refused timeline.
        timeline: TimelineId,
        /// Where it claims to branch off.
        at: Lsn,
        /// Where it claims that the log ends.
        after: Lsn,
        /// The log's timeline.
        current: TimelineId,
        /// The current timeline's start.
        from: Lsn,
        /// The log's end.
        end: Lsn,
    },
}

impl WalHistory {
    /// PostgreSQL's system identifier; none before the group's birth.
    #[must_use]
    pub fn system_id(&self) -> Option<&str> {
        self.system_id.as_deref()
    }

    /// The end of WAL: the position after the last byte.
    #[must_use]
    pub fn end(&self) -> Lsn {
        self.end
    }

    /// The current timeline; none before the group's birth.
    #[must_use]
    pub fn timeline(&self) -> Option<TimelineId> {
        self.timelines.last().map(|timeline| timeline.id)
    }

    /// The node whose PostgreSQL writes the current timeline.
    #[must_use]
    pub fn origin(&self) -> Option<NodeId> {
        self.timelines.last().map(|timeline| timeline.origin)
    }

    /// Where `timeline` left its parent, and the node that made it, where the log holds it.
    #[must_use]
    pub fn branch(&self, timeline: TimelineId) -> Option<(Lsn, NodeId)> {
        let found = self.timelines.iter().find(|known| known.id == timeline)?;
        Some((found.start, found.origin))
    }

    /// The content of a timeline's history file; empty for the first timeline, which has none.
    #[must_use]
    pub fn history_file(&self, timeline: TimelineId) -> Option<Bytes> {
        let found = self.timelines.iter().find(|known| known.id == timeline)?;
        Some(Bytes::copy_from_slice(&found.history))
    }

    /// The timeline that followed `timeline`, and where it left it; none for the current one.
    #[must_use]
    pub fn successor(&self, timeline: TimelineId) -> Option<(TimelineId, Lsn)> {
        let position = self.timelines.iter().position(|known| known.id == timeline)?;
        let next = self.timelines.get(position + 1)?;
        Some((next.id, next.start))
    }

    /// On which timeline the bytes at `position` were written, for a reader that follows `timeline`.
    ///
    /// Before a timeline's start its line of descent is its parents': PostgreSQL copies the
    /// shared part of the segment, so the bytes are the same.
    #[must_use]
    pub fn writer_of(&self, timeline: TimelineId, position: Lsn) -> Option<TimelineId> {
        let last = self.timelines.iter().rposition(|known| known.id == timeline)?;
        let line = &self.timelines[..=last];
        let writer = line.iter().rev().find(|known| known.start <= position)?;
        Some(writer.id)
    }

    /// Takes one committed entry into account.
    pub fn apply(&mut self, command: &Command) -> Result<Applied, Rejected> {
        match command {
            Command::Genesis(genesis) => self.apply_genesis(genesis)?,
            Command::Wal(chunk) => self.apply_wal(chunk)?,
            Command::Switch(switch) => self.apply_switch(switch)?,
        }
        let timeline = self
            .timeline()
            .expect("an applied entry leaves a timeline behind");
        Ok(Applied {
            end: self.end,
            timeline,
        })
    }

    fn apply_genesis(&mut self, genesis: &Genesis) -> Result<(), Rejected> {
        if let Some(system_id) = &self.system_id {
            return Err(Rejected::AlreadyBorn {
                system_id: system_id.clone(),
            });
        }
        self.system_id = Some(genesis.system_id.clone());
        self.end = genesis.start;
        self.timelines.push(Timeline {
            id: TimelineId::FIRST,
            start: genesis.start,
            origin: genesis.origin,
            history: Arc::from([]),
        });
        Ok(())
    }

    fn apply_wal(&mut self, chunk: &WalChunk) -> Result<(), Rejected> {
        let current = self.timeline().ok_or(Rejected::NotBorn)?;
        if chunk.timeline != current || chunk.start != self.end {
            let (timeline, start, end) = (chunk.timeline, chunk.start, self.end);
            return Err(Rejected::NotContiguous {
                timeline,
                start,
                current,
                end,
            });
        }
        if chunk.bytes.is_empty() || chunk.end() > chunk.start.next_segment() {
            return Err(Rejected::Malformed {
                start: chunk.start,
                length: chunk.bytes.len() as u64,
            });
        }
        self.end = chunk.end();
        Ok(())
    }

    fn apply_switch(&mut self, switch: &TimelineSwitch) -> Result<(), Rejected> {
        let parent = self.timelines.last().ok_or(Rejected::NotBorn)?;
        let within = (parent.start..=self.end).contains(&switch.at);
        if switch.timeline <= parent.id || !within || switch.after != self.end {
            return Err(Rejected::BadSwitch {
                timeline: switch.timeline,
                at: switch.at,
                after: switch.after,
                current: parent.id,
                from: parent.start,
                end: self.end,
            });
        }
        self.timelines.push(Timeline {
            id: switch.timeline,
            start: switch.at,
            origin: switch.origin,
            history: Arc::from(&switch.history[..]),
        });
        self.end = switch.at;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn genesis() -> Command {
        Command::Genesis(Genesis {
            system_id: "7".into(),
            start: Lsn(0x100_0000),
            origin: NodeId(1),
        })
    }

    fn wal(timeline: u32, start: u64, length: usize) -> Command {
        let bytes = Bytes::from(vec![0; length]);
        Command::Wal(WalChunk {
            timeline: TimelineId(timeline),
            start: Lsn(start),
            bytes,
        })
    }

    fn switch(timeline: u32, at: u64, after: u64) -> Command {
        Command::Switch(TimelineSwitch {
            timeline: TimelineId(timeline),
            at: Lsn(at),
            after: Lsn(after),
            origin: NodeId(2),
            history: Bytes::from_static(b"1\t0/1000064\tno recovery target specified\n"),
        })
    }

    fn born() -> WalHistory {
        let mut history = WalHistory::default();
        history.apply(&genesis()).unwrap();
        history
    }

    #[test]
    fn wal_must_continue_where_the_log_ends() {
        let mut history = born();
        history.apply(&wal(1, 0x100_0000, 100)).unwrap();
        let before = history.clone();
        assert!(matches!(
            history.apply(&wal(1, 0x100_0000, 100)),
            Err(Rejected::NotContiguous { .. })
        ));
        assert!(matches!(
            history.apply(&wal(1, 0x100_0065, 1)),
            Err(Rejected::NotContiguous { .. })
        ));
        assert!(matches!(
            history.apply(&wal(2, 0x100_0064, 1)),
            Err(Rejected::NotContiguous { .. })
        ));
        assert!(matches!(
            history.apply(&wal(1, 0x100_0064, 0)),
            Err(Rejected::Malformed { .. })
        ));
        assert!(matches!(
            history.apply(&wal(1, 0x100_0064, 1 << 24)),
            Err(Rejected::Malformed { .. })
        ));
        assert_eq!(history, before, "a refused entry changes nothing");
    }

    #[test]
    fn nothing_precedes_the_birth_and_there_is_one() {
        let mut history = WalHistory::default();
        assert_eq!(history.apply(&wal(1, 0, 1)), Err(Rejected::NotBorn));
        assert_eq!(history.apply(&switch(2, 0, 0)), Err(Rejected::NotBorn));
        history.apply(&genesis()).unwrap();
        assert!(matches!(
            history.apply(&genesis()),
            Err(Rejected::AlreadyBorn { .. })
        ));
    }

    #[test]
    fn switch_drops_the_partial_record_and_wal_goes_on_there() {
        let mut history = born();
        history.apply(&wal(1, 0x100_0000, 100)).unwrap();
        history.apply(&switch(2, 0x100_0060, 0x100_0064)).unwrap();
        assert_eq!(history.end(), Lsn(0x100_0060));
        assert_eq!(history.origin(), Some(NodeId(2)));
        assert_eq!(
            history.successor(TimelineId(1)),
            Some((TimelineId(2), Lsn(0x100_0060)))
        );
        assert_eq!(
            history.writer_of(TimelineId(2), Lsn(0x100_005f)),
            Some(TimelineId(1))
        );
        assert_eq!(
            history.writer_of(TimelineId(2), Lsn(0x100_0060)),
            Some(TimelineId(2))
        );
        assert_eq!(
            history.writer_of(TimelineId(1), Lsn(0x100_0062)),
            Some(TimelineId(1))
        );
        history.apply(&wal(2, 0x100_0060, 8)).unwrap();
    }

    #[test]
    fn switch_must_be_newer_and_inside_the_current_timeline() {
        let mut history = born();
        history.apply(&wal(1, 0x100_0000, 100)).unwrap();
        assert!(matches!(
            history.apply(&switch(1, 0x100_0010, 0x100_0064)),
            Err(Rejected::BadSwitch { .. })
        ));
        assert!(matches!(
            history.apply(&switch(2, 0x100_0065, 0x100_0064)),
            Err(Rejected::BadSwitch { .. })
        ));
        assert!(matches!(
            history.apply(&switch(2, 0x0ff_ffff, 0x100_0064)),
            Err(Rejected::BadSwitch { .. })
        ));
        assert!(
            matches!(
                history.apply(&switch(2, 0x100_0060, 0x100_0060)),
                Err(Rejected::BadSwitch { .. })
            ),
            "its maker had not received the whole log"
        );
        history.apply(&switch(3, 0x100_0064, 0x100_0064)).unwrap();
        assert!(matches!(
            history.apply(&switch(4, 0x100_0010, 0x100_0064)),
            Err(Rejected::BadSwitch { .. })
        ));
    }
}
