//! Where in the group's log its WAL is, and reading it from there.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::RwLock;

use super::codec::decode_payload;
use super::types::Payload;
use crate::entry::{Command, WalChunk};
use crate::id::LogIndex;
use crate::log::GroupLog;
use crate::wal::{Lsn, TimelineId, WalHistory};

/// One accepted chunk of WAL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    start: Lsn,
    length: u32,
    index: LogIndex,
}

impl Place {
    fn end(&self) -> Lsn {
        self.start + u64::from(self.length)
    }
}

/// Which log entry holds which WAL, of the entries that are applied and not purged.
///
/// Invariant: the places of one timeline are contiguous and ascending, in position and in index.
#[derive(Debug, Default)]
pub(crate) struct WalIndex {
    state: RwLock<State>,
}

#[derive(Debug, Default)]
struct State {
    history: Arc<WalHistory>,
    places: BTreeMap<TimelineId, VecDeque<Place>>,
    /// The first WAL that the log holds, or will hold, on the current line of descent.
    first: Lsn,
}

impl WalIndex {
    /// Starts again from a snapshot: the log before it is gone.
    pub(crate) fn reset(&self, history: Arc<WalHistory>) {
        let first = history.end();
        *self.state.write() = State {
            history,
            places: BTreeMap::new(),
            first,
        };
    }

    /// Notes an accepted chunk.
    pub(crate) fn add(&self, index: LogIndex, chunk: &WalChunk) {
        let length = u32::try_from(chunk.bytes.len()).expect("an accepted chunk fits into a segment");
        let place = Place {
            start: chunk.start,
            length,
            index,
        };
        self.state
            .write()
            .places
            .entry(chunk.timeline)
            .or_default()
            .push_back(place);
    }

    /// Takes over the history after a run of entries.
    pub(crate) fn advance(&self, history: Arc<WalHistory>) {
        let mut state = self.state.write();
        if state.history.system_id().is_none() {
            let born = history.timeline().and(history.branch(TimelineId::FIRST));
            state.first = born.map_or(Lsn(0), |(start, _)| start);
        }
        state.history = history;
    }

    /// Forgets what is about to be purged: everything up to `upto`.
    pub(crate) fn forget(&self, upto: LogIndex) {
        let mut state = self.state.write();
        let mut first = state.first;
        for places in state.places.values_mut() {
            while places.front().is_some_and(|place| place.index <= upto) {
                first = places.pop_front().map_or(first, |place| place.end());
            }
        }
        state.places.retain(|_, places| !places.is_empty());
        state.first = first;
    }

    /// Up to `max` places, contiguous from the one that holds `from`, as a reader that follows
    /// `timeline` may see them, and where its view of their timeline ends.
    fn find(&self, timeline: TimelineId, from: Lsn, max: usize) -> Result<Found, WalReadError> {
        let state = self.state.read();
        let history = &state.history;
        if history.branch(timeline).is_none() {
            return Err(WalReadError::UnknownTimeline(timeline));
        }
        let purged = WalReadError::Purged { first: state.first };
        let Some(writer) = history.writer_of(timeline, from) else {
            return Err(purged);
        };
        // Bytes that an ancestor wrote after the line of descent left it are not on that line. The
        // timeline itself is read to its end, be it beyond a later switch: its reader follows it there.
        let limit = match history.successor(writer) {
            Some((_, left_at)) if writer != timeline => left_at,
            _ => Lsn(u64::MAX),
        };
        let Some(places) = state.places.get(&writer) else {
            let behind = from < state.first;
            return Err(if behind { purged } else { WalReadError::NotYet });
        };
        let after = places.partition_point(|place| place.start <= from);
        if after == 0 {
            return Err(purged);
        }
        if from >= places[after - 1].end() {
            return Err(WalReadError::NotYet);
        }
        let mut total = 0;
        let in_reach = |place: &&Place| {
            let wanted = total < max && place.start < limit;
            total += usize::try_from(place.length).unwrap_or(usize::MAX);
            wanted
        };
        let found = places.range(after - 1..).take_while(in_reach).copied().collect();
        Ok(Found {
            writer,
            limit,
            places: found,
        })
    }
}

struct Found {
    writer: TimelineId,
    limit: Lsn,
    places: Vec<Place>,
}

/// A run of committed WAL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WalRead {
    /// The timeline that the bytes were written on: the reader's, or an ancestor of it.
    pub timeline: TimelineId,
    /// The position of the first byte.
    pub start: Lsn,
    /// The bytes, in pieces that follow one another. Never empty; none of them crosses a segment's end.
    pub pieces: Vec<Bytes>,
}

impl WalRead {
    /// The position after the last byte.
    #[must_use]
    pub fn end(&self) -> Lsn {
        self.pieces
            .iter()
            .fold(self.start, |end, piece| end + piece.len() as u64)
    }
}

/// Why there is no WAL to read.
#[derive(Debug, thiserror::Error)]
pub enum WalReadError {
    /// The log no longer holds it: whoever needs it must be rebuilt by base backup.
    #[error("the log begins at {first}")]
    Purged {
        /// The first position that the log holds or will hold.
        first: Lsn,
    },
    /// It has not been committed, as far as this replica knows.
    #[error("not committed yet")]
    NotYet,
    /// The group has no such timeline, as far as this replica knows.
    #[error("the group has no timeline {0}")]
    UnknownTimeline(TimelineId),
    /// The log cannot be read, or does not hold what it should: the replica must stop.
    #[error("the log cannot be read")]
    Log(#[source] std::io::Error),
}

/// Reads a group's committed WAL from its log. Cheap to clone.
#[derive(Clone)]
pub struct WalReader {
    log: GroupLog,
    index: Arc<WalIndex>,
}

impl fmt::Debug for WalReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WalReader").finish_non_exhaustive()
    }
}

impl WalReader {
    pub(crate) fn new(log: GroupLog, index: Arc<WalIndex>) -> WalReader {
        WalReader { log, index }
    }

    /// The first position that the log holds or will hold on the current line of descent.
    #[must_use]
    pub fn first(&self) -> Lsn {
        self.index.state.read().first
    }

    /// The committed WAL from `from` on, as a standby that follows `timeline` may see it: at
    /// least one byte, about `max_bytes` at most. Before the timeline's start that is what its
    /// ancestors wrote.
    pub fn read(&self, timeline: TimelineId, from: Lsn, max_bytes: usize) -> Result<WalRead, WalReadError> {
        let found = self.index.find(timeline, from, max_bytes)?;
        let (Some(first), Some(last)) = (found.places.first(), found.places.last()) else {
            return Err(WalReadError::NotYet);
        };
        let mut pieces = Vec::with_capacity(found.places.len());
        let mut places = found.places.iter().peekable();
        let range = first.index..last.index.next();
        let records = self.log.read(range, max_bytes.saturating_mul(2));
        let records = match records {
            Ok(records) => records,
            // Purged between the look into the index and the read: the index knows by now.
            Err(_) if self.purged_since(first.index) => {
                return Err(WalReadError::Purged { first: self.first() });
            }
            Err(error) => return Err(WalReadError::Log(std::io::Error::other(error))),
        };
        for record in records {
            if places.next_if(|place| place.index == record.index).is_none() {
                continue;
            }
            let payload = decode_payload(record.bytes).map_err(WalReadError::Log)?;
            let Payload::Normal(Command::Wal(chunk)) = payload else {
                return Err(WalReadError::Log(super::codec::invalid(
                    "no WAL where the log held some",
                )));
            };
            let skip = from.since(chunk.start).min(chunk.bytes.len() as u64);
            let stop = found.limit.since(chunk.start).min(chunk.bytes.len() as u64);
            let bounds = usize::try_from(skip).ok().zip(usize::try_from(stop).ok());
            if let Some((skip, stop)) = bounds.filter(|(skip, stop)| skip < stop) {
                pieces.push(chunk.bytes.slice(skip..stop));
            }
        }
        if pieces.is_empty() {
            let what = super::codec::invalid("the log does not hold WAL that it has accepted");
            return Err(WalReadError::Log(what));
        }
        Ok(WalRead {
            timeline: found.writer,
            start: from,
            pieces,
        })
    }

    fn purged_since(&self, index: LogIndex) -> bool {
        self.log.first().is_none_or(|first| first > index)
    }
}
