//! What the callers see and what the writer takes: the groups' logs as called for, and the queue to the disk.
//!
//! Locks, always in this order: `state`, then `disk`. No lock is held while a file is touched or `done` is called.

use std::collections::{BTreeMap, HashMap, VecDeque};

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::{Condvar, Mutex};

use super::frame::{self, Frame, Kind, Position};
use super::ledger::{Ledger, Place};
use super::recover::{Recovered, Stored};
use super::span::{GroupChange, Span};
use super::{Done, LogError, MAX_QUEUED_BYTES, Record};
use crate::id::{GroupId, LogIndex, Term};

/// How much of the queue the writer takes at once: one fsync for all of it, but not a second of writing.
const MAX_BATCH_BYTES: usize = 16 * 1024 * 1024;

/// How long the writer waits for more before it marks what is durable.
const IDLE: Duration = Duration::from_millis(10);

/// What every handle and the writer share.
pub(super) struct Shared {
    state: Mutex<State>,
    /// The queue got something, or the log is to close.
    work: Condvar,
    /// The queue lost something, or the log has stopped.
    room: Condvar,
    /// What is on disk. Changed by the writer only.
    pub(super) disk: Mutex<Disk>,
    cache_bytes: usize,
}

/// The books of what is on disk, and the files.
pub(super) struct Disk {
    pub ledger: Ledger,
    pub segments: BTreeMap<u64, Stored>,
}

struct State {
    groups: HashMap<GroupId, Span<Entry>>,
    queue: VecDeque<Op>,
    queued_bytes: usize,
    /// How many of the queued operations somebody waits for.
    awaited: usize,
    /// The writer has nothing to do, and waits to be woken.
    sleeps: bool,
    life: Life,
    /// Counts operations, to tell a record from another one that had its index before.
    stamp: u64,
    /// Written operations whose records are in memory, oldest first.
    cached: VecDeque<Cached>,
    cached_bytes: usize,
}

enum Life {
    Open,
    Closed,
    Poisoned(Arc<str>),
}

/// A record as a caller sees it.
pub(super) struct Entry {
    term: Term,
    len: usize,
    stamp: u64,
    /// `None`: written, and to be read from disk.
    bytes: Option<Bytes>,
}

struct Cached {
    group: GroupId,
    range: Range<LogIndex>,
    stamp: u64,
    bytes: usize,
}

/// One call, on its way to the disk.
pub(super) struct Op {
    pub changes: Vec<GroupChange>,
    /// `None`: nobody waits, no fsync is made for it.
    pub done: Option<Done>,
    /// What it counts in the queue.
    bytes: usize,
    cached: Option<Cached>,
}

/// What the writer is to do.
pub(super) enum Next {
    Write(Vec<Op>),
    /// Nothing came for a while.
    Idle,
    /// The log was closed, and the queue is empty.
    Stop,
}

/// What a writer without operations does.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Patience {
    /// It waits for as long as it takes.
    Endless,
    /// It has something small to do when nothing comes.
    Short,
    /// It has work of its own.
    None,
}

impl Shared {
    pub(super) fn new(recovered: Recovered, cache_bytes: usize) -> Shared {
        let Recovered { ledger, segments } = recovered;
        let groups = ledger.groups().map(|(group, span)| (group, seen(span))).collect();
        let state = State {
            groups,
            queue: VecDeque::new(),
            queued_bytes: 0,
            awaited: 0,
            sleeps: false,
            life: Life::Open,
            stamp: 0,
            cached: VecDeque::new(),
            cached_bytes: 0,
        };
        let (work, room) = (Condvar::new(), Condvar::new());
        Shared {
            state: Mutex::new(state),
            work,
            room,
            disk: Mutex::new(Disk { ledger, segments }),
            cache_bytes,
        }
    }

    // --- Callers ---

    /// Reads from a group's log as called for.
    pub(super) fn look<R>(&self, group: GroupId, f: impl FnOnce(&GroupView<'_>) -> R) -> R {
        let state = self.state.lock();
        f(&GroupView {
            span: state.groups.get(&group),
        })
    }

    /// Queues an operation of `bytes` bytes; waits while the queue is full. `change` checks it against the group's
    /// log, and takes it in there.
    pub(super) fn enqueue(
        &self,
        group: GroupId,
        bytes: usize,
        done: Option<Done>,
        change: impl FnOnce(&mut GroupEdit<'_>) -> Result<Vec<GroupChange>, LogError>,
    ) -> Result<(), LogError> {
        let mut state = self.state.lock();
        state.check()?;
        while state.queued_bytes > 0 && state.queued_bytes + bytes > MAX_QUEUED_BYTES {
            self.room.wait(&mut state);
            state.check()?;
        }
        state.stamp += 1;
        let stamp = state.stamp;
        let span = state.groups.entry(group).or_default();
        let mut edit = GroupEdit {
            group,
            span,
            stamp,
            cached: None,
        };
        let changes = change(&mut edit)?;
        let cached = edit.cached;
        state.queued_bytes += bytes;
        state.awaited += usize::from(done.is_some());
        let wakes = done.is_some() || state.sleeps;
        state.queue.push_back(Op {
            changes,
            done,
            bytes,
            cached,
        });
        if wakes {
            self.work.notify_one();
        }
        Ok(())
    }

    /// See [`super::GroupLog::read`].
    pub(super) fn read(
        &self,
        group: GroupId,
        range: Range<LogIndex>,
        max_bytes: usize,
    ) -> Result<Vec<Record>, LogError> {
        let state = self.state.lock();
        state.check()?;
        let Some(span) = state.groups.get(&group) else {
            return Ok(Vec::new());
        };
        let mut disk = None;
        let mut found = Vec::new();
        let mut total = 0;
        for (index, entry) in span.range(range) {
            total += entry.len;
            if total > max_bytes && !found.is_empty() {
                break;
            }
            let term = entry.term;
            found.push(match &entry.bytes {
                Some(bytes) => Found::Here(Record {
                    index,
                    term,
                    bytes: bytes.clone(),
                }),
                None => disk.get_or_insert_with(|| self.disk.lock()).locate(group, index),
            });
        }
        drop((disk, state));
        found.into_iter().map(|found| found.fetch(group)).collect()
    }

    /// No more operations are taken; the writer ends when it has written what is queued.
    pub(super) fn close(&self) {
        let mut state = self.state.lock();
        if matches!(state.life, Life::Open) {
            state.life = Life::Closed;
        }
        self.work.notify_all();
        self.room.notify_all();
    }

    // --- The writer ---

    /// What to do next.
    pub(super) fn next(&self, patience: Patience) -> Next {
        let mut state = self.state.lock();
        while state.awaited == 0 {
            if !matches!(state.life, Life::Open) {
                if state.queue.is_empty() {
                    return Next::Stop;
                }
                break;
            }
            match patience {
                Patience::None => break,
                Patience::Endless if state.queue.is_empty() => {
                    state.sleeps = true;
                    self.work.wait(&mut state);
                    state.sleeps = false;
                }
                // What nobody waits for goes along with what somebody does, or after a while.
                Patience::Short | Patience::Endless => {
                    if self.work.wait_for(&mut state, IDLE).timed_out() && state.awaited == 0 {
                        if state.queue.is_empty() {
                            return Next::Idle;
                        }
                        break;
                    }
                }
            }
        }
        let mut bytes = 0;
        let mut ops = Vec::new();
        while bytes < MAX_BATCH_BYTES
            && let Some(op) = state.queue.pop_front()
        {
            bytes += op.bytes;
            state.awaited -= usize::from(op.done.is_some());
            ops.push(op);
        }
        Next::Write(ops)
    }

    /// The operations are on disk: their place in the queue is free, their records may leave the memory.
    pub(super) fn settle(&self, ops: &mut [Op]) {
        let mut state = self.state.lock();
        for op in ops {
            state.queued_bytes -= op.bytes;
            if let Some(cached) = op.cached.take() {
                state.cached_bytes += cached.bytes;
                state.cached.push_back(cached);
            }
        }
        while state.cached_bytes > self.cache_bytes
            && let Some(oldest) = state.cached.pop_front()
        {
            state.forget(&oldest);
        }
        self.room.notify_all();
    }

    /// Nothing is written any more. Every call fails from now on; what was queued is handed out to be told so.
    pub(super) fn poison(&self, reason: &str) -> VecDeque<Op> {
        let mut state = self.state.lock();
        state.life = Life::Poisoned(reason.into());
        state.queued_bytes = 0;
        state.awaited = 0;
        self.room.notify_all();
        std::mem::take(&mut state.queue)
    }
}

impl State {
    fn check(&self) -> Result<(), LogError> {
        match &self.life {
            Life::Open => Ok(()),
            Life::Closed => Err(LogError::Closed),
            Life::Poisoned(reason) => Err(LogError::Poisoned(reason.to_string())),
        }
    }

    fn forget(&mut self, old: &Cached) {
        self.cached_bytes -= old.bytes;
        let Some(span) = self.groups.get_mut(&old.group) else {
            return;
        };
        for index in (old.range.start.0..old.range.end.0).map(LogIndex) {
            // Another stamp: the record was cut, and this is its successor, which may not be on disk yet.
            if let Some(entry) = span.get_mut(index).filter(|entry| entry.stamp == old.stamp) {
                entry.bytes = None;
            }
        }
    }
}

/// A group's log as called for.
pub(super) struct GroupView<'a> {
    span: Option<&'a Span<Entry>>,
}

impl GroupView<'_> {
    pub(super) fn last(&self) -> Option<(LogIndex, Term)> {
        let span = self.span?;
        let last = span.last().map(|(index, entry)| (index, entry.term));
        last.or_else(|| span.purged().map(|purged| (purged.index, purged.term)))
    }

    pub(super) fn first(&self) -> Option<LogIndex> {
        self.span?.first()
    }

    pub(super) fn purged(&self) -> Option<(LogIndex, Bytes)> {
        self.span?
            .purged()
            .map(|purged| (purged.index, purged.note.clone()))
    }

    pub(super) fn vote(&self) -> Option<Bytes> {
        self.span?.vote.clone()
    }

    pub(super) fn committed(&self) -> Option<Bytes> {
        self.span?.committed.clone()
    }
}

/// A group's log as called for, to be changed.
pub(super) struct GroupEdit<'a> {
    group: GroupId,
    pub span: &'a mut Span<Entry>,
    stamp: u64,
    cached: Option<Cached>,
}

impl GroupEdit<'_> {
    /// Takes in records, all or none.
    pub(super) fn append(&mut self, records: &[Record]) -> Result<(), LogError> {
        let Some(first) = records.first() else {
            return Ok(());
        };
        let mut expected = self.span.next().unwrap_or(first.index);
        for record in records {
            if record.index != expected {
                return Err(LogError::NotContiguous {
                    group: self.group,
                    expected,
                    found: record.index,
                });
            }
            expected = expected.next();
        }
        for Record { index, term, bytes } in records {
            let entry = Entry {
                term: *term,
                len: bytes.len(),
                stamp: self.stamp,
                bytes: Some(bytes.clone()),
            };
            self.span
                .push(*index, entry)
                .expect("the indexes were checked above");
        }
        let bytes = records.iter().map(|record| record.bytes.len()).sum();
        self.cached = Some(Cached {
            group: self.group,
            range: first.index..expected,
            stamp: self.stamp,
            bytes,
        });
        Ok(())
    }
}

/// The callers' view of what is on disk: everything, with no record in memory.
fn seen(span: &Span<Place>) -> Span<Entry> {
    let mut seen = Span::default();
    seen.vote = span.vote.clone();
    seen.committed = span.committed.clone();
    if let Some(purged) = span.purged() {
        seen.purge(purged.clone());
    }
    for (index, place) in span.iter() {
        let entry = Entry {
            term: place.term,
            len: place.len as usize,
            stamp: 0,
            bytes: None,
        };
        seen.push(index, entry)
            .expect("the ledger's records have no holes");
    }
    seen
}

/// A record, or where it is.
pub(super) enum Found {
    Here(Record),
    OnDisk(Stored, LogIndex, Place),
}

impl Disk {
    /// Finds a record that callers see and that is not in memory.
    ///
    /// Such a record was written, and nothing that would remove it from the ledger was called for: the callers'
    /// view, whose lock the caller holds, is ahead of the ledger.
    pub(super) fn locate(&self, group: GroupId, index: LogIndex) -> Found {
        let place = self.ledger.group(group).and_then(|span| span.get(index));
        let place = *place.expect("a record that left the memory is in the ledger");
        let stored = self
            .segments
            .get(&place.at.segment)
            .expect("a segment with a live record has a file");
        Found::OnDisk(stored.clone(), index, place)
    }
}

impl Found {
    /// Gets the record, with a read of the disk if need be.
    pub(super) fn fetch(self, group: GroupId) -> Result<Record, LogError> {
        let (stored, index, place) = match self {
            Found::Here(record) => return Ok(record),
            Found::OnDisk(stored, index, place) => (stored, index, place),
        };
        let Position { offset, .. } = place.at;
        let mut bytes = vec![0; frame::length(place.len as usize)];
        std::os::unix::fs::FileExt::read_exact_at(&*stored.file, &mut bytes, u64::from(offset))
            .map_err(LogError::io("read", &stored.path))?;
        let damaged = |what: &str| LogError::Damaged {
            path: stored.path.clone(),
            offset: u64::from(offset),
            what: format!("{what}, at record {index} of group {group}"),
        };
        let Frame { head, body, .. } = frame::read(&bytes.into(), place.at).map_err(damaged)?;
        let same =
            matches!(head.kind, Kind::Record | Kind::Moved) && (head.group, head.index) == (group, index);
        if !same || head.term != place.term {
            return Err(damaged("another record lies here"));
        }
        Ok(Record {
            index,
            term: head.term,
            bytes: body,
        })
    }
}
