//! What is on disk, and where: the state that the frames of all segments add up to.
//!
//! The writer keeps the ledger as it writes, and recovery makes the same one from the files.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::Record;
use super::frame::{self, Position};
use super::span::{Change, GroupChange, Purged, Span};
use crate::id::{GroupId, LogIndex, Term};

/// The most records that a segment can hold: offsets have 32 bits, and a frame is at least its head.
const MOST_RECORDS: u64 = u32::MAX as u64 / frame::HEAD as u64;

/// Where a record lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub at: Position,
    /// The length of the record's bytes.
    pub len: u32,
    pub term: Term,
}

/// What a segment holds that is still needed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Usage {
    records: u64,
    /// The bytes of their frames.
    pub bytes: u64,
}

/// A run of a group's records that lie in one segment; both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Run {
    pub segment: u64,
    pub first: LogIndex,
    pub last: LogIndex,
}

/// All there is to know of one group at one moment, as the head of a segment repeats it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct GroupState {
    pub group: GroupId,
    pub vote: Option<Bytes>,
    pub committed: Option<Bytes>,
    pub purged: Option<Purged>,
    pub runs: Vec<Run>,
}

/// The books of all groups.
///
/// Invariant: `usage` counts exactly the records in `groups`; a segment without one has no entry.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    groups: BTreeMap<GroupId, Span<Place>>,
    usage: BTreeMap<u64, Usage>,
}

impl Ledger {
    /// The group's books.
    pub(super) fn group(&self, group: GroupId) -> Option<&Span<Place>> {
        self.groups.get(&group)
    }

    /// Every group's books.
    pub(super) fn groups(&self) -> impl Iterator<Item = (GroupId, &Span<Place>)> {
        self.groups.iter().map(|(group, span)| (*group, span))
    }

    /// What is still needed of a segment; `None`: nothing.
    pub(super) fn usage(&self, segment: u64) -> Option<Usage> {
        self.usage.get(&segment).copied()
    }

    /// The segments of which something is still needed.
    pub(super) fn used_segments(&self) -> impl Iterator<Item = u64> {
        self.usage.keys().copied()
    }

    /// Takes in the change that was written at `at`. The error says why it cannot follow what went before.
    pub(super) fn apply(&mut self, (group, change): GroupChange, at: Position) -> Result<(), String> {
        if let Change::Record(Record { index, .. }) | Change::Purge(Purged { index, .. }) = &change {
            can_be_followed(group, *index)?;
        }
        let span = self.groups.entry(group).or_default();
        match change {
            Change::Record(record) => {
                let place = place(&record, at);
                span.push(record.index, place).map_err(|expected| {
                    format!(
                        "record {} of group {group} where {expected} should follow",
                        record.index
                    )
                })?;
                count(&mut self.usage, place);
            }
            Change::Moved(record) => {
                let Some(old) = span.get_mut(record.index) else {
                    return Err(format!(
                        "record {} of group {group} was moved but is not there",
                        record.index
                    ));
                };
                let place = place(&record, at);
                let old = std::mem::replace(old, place);
                uncount(&mut self.usage, old);
                count(&mut self.usage, place);
            }
            // Copies: these live long, and must not keep a whole batch or segment in memory.
            Change::Vote(vote) => span.vote = Some(Bytes::copy_from_slice(&vote)),
            Change::Committed(committed) => span.committed = Some(Bytes::copy_from_slice(&committed)),
            Change::Truncate(from) => span.truncate(from).for_each(|old| uncount(&mut self.usage, old)),
            Change::Purge(mut purged) => {
                purged.note = Bytes::copy_from_slice(&purged.note);
                span.purge(purged).for_each(|old| uncount(&mut self.usage, old));
            }
        }
        Ok(())
    }

    /// The state of every group, for the head of the next segment.
    pub(super) fn state(&self) -> Vec<GroupState> {
        let state = |(group, span): (GroupId, &Span<Place>)| GroupState {
            group,
            vote: span.vote.clone(),
            committed: span.committed.clone(),
            purged: span.purged().cloned(),
            runs: runs(span),
        };
        self.groups().map(state).collect()
    }

    /// Recovery: from here on the state is the one that a segment's head gives, whatever the segments
    /// before it seemed to add up to. `present` tells which segment files there are: a record that should
    /// be in one of them and is not is an error; a record in a missing one is noted as being there, for it
    /// may turn out to have been dropped later (see [`Ledger::used_segments`]).
    pub(super) fn adopt(
        &mut self,
        states: Vec<GroupState>,
        present: impl Fn(u64) -> bool,
    ) -> Result<(), String> {
        let mut before = std::mem::take(self);
        for state in states {
            let old = before.groups.remove(&state.group).unwrap_or_default();
            let span = self.groups.entry(state.group).or_default();
            span.vote = state.vote;
            span.committed = state.committed;
            if let Some(purged) = state.purged {
                can_be_followed(state.group, purged.index)?;
                span.purge(purged);
            }
            for run in state.runs {
                can_be_followed(state.group, run.last)?;
                // Whoever wrote this counted frames of one file.
                if run.last.0.saturating_sub(run.first.0) > MOST_RECORDS {
                    return Err(format!(
                        "group {} is said to have records {} to {} in segment {}, more than one holds",
                        state.group, run.first, run.last, run.segment
                    ));
                }
                for index in (run.first.0..=run.last.0).map(LogIndex) {
                    let known = old.get(index).filter(|place| place.at.segment == run.segment);
                    if known.is_none() && present(run.segment) {
                        return Err(format!(
                            "record {index} of group {} should be in segment {} and is not",
                            state.group, run.segment
                        ));
                    }
                    let lost = Place {
                        at: Position {
                            segment: run.segment,
                            offset: 0,
                        },
                        len: 0,
                        term: Term(0),
                    };
                    let place = known.copied().unwrap_or(lost);
                    span.push(index, place).map_err(|expected| {
                        format!(
                            "record {index} of group {} where {expected} should follow",
                            state.group
                        )
                    })?;
                    count(&mut self.usage, place);
                }
            }
        }
        Ok(())
    }

    /// Up to `budget` bytes (at least one record) of what is still needed of a segment.
    pub(super) fn records_in(&self, segment: u64, budget: u64) -> Vec<(GroupId, LogIndex, Place)> {
        let mut left = budget;
        self.groups()
            .flat_map(|(group, span)| span.iter().map(move |(index, place)| (group, index, *place)))
            .filter(|(_, _, place)| place.at.segment == segment)
            .take_while(|(_, _, place)| {
                let go_on = left > 0;
                left = left.saturating_sub(u64::from(place.len).max(1));
                go_on
            })
            .collect()
    }
}

/// The last index of all has no next one; no log gets there.
fn can_be_followed(group: GroupId, index: LogIndex) -> Result<(), String> {
    if index.0 == u64::MAX {
        return Err(format!("record {index} of group {group}, which no log reaches"));
    }
    Ok(())
}

fn place(record: &super::Record, at: Position) -> Place {
    let len = u32::try_from(record.bytes.len())
        .expect("a record's length fits the frame it was read from or put in");
    Place {
        at,
        len,
        term: record.term,
    }
}

fn runs(span: &Span<Place>) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::new();
    for (index, place) in span.iter() {
        match runs.last_mut() {
            Some(run) if run.segment == place.at.segment => run.last = index,
            _ => runs.push(Run {
                segment: place.at.segment,
                first: index,
                last: index,
            }),
        }
    }
    runs
}

fn frame_bytes(place: Place) -> u64 {
    frame::length(place.len as usize) as u64
}

fn count(usage: &mut BTreeMap<u64, Usage>, place: Place) {
    let usage = usage.entry(place.at.segment).or_default();
    usage.records += 1;
    usage.bytes += frame_bytes(place);
}

fn uncount(usages: &mut BTreeMap<u64, Usage>, place: Place) {
    let usage = usages
        .get_mut(&place.at.segment)
        .expect("a record in the books is counted");
    usage.records -= 1;
    usage.bytes -= frame_bytes(place);
    if usage.records == 0 {
        usages.remove(&place.at.segment);
    }
}
