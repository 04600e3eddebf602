//! The one thread that writes: takes what all groups have queued, writes it, syncs once, tells everyone.

use std::fs::{self, File};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::frame::{self, Kind, Position};
use super::recover::Stored;
use super::segment::Active;
use super::shared::{Next, Op, Patience, Shared};
use super::span::{Change, GroupChange};
use super::{LogError, state};

/// Frames are gathered in memory up to this many bytes before they are handed to the system.
const BUFFER_BYTES: usize = 1024 * 1024;

/// How much is moved out of sparse segments with one batch: little, others wait meanwhile.
const MOVE_BYTES: u64 = 1024 * 1024;

/// For how long [`crate::broken::NO_FSYNC`] keeps from the disk what it says is there.
const UNWRITTEN: Duration = Duration::from_secs(2);

/// The writer's own.
pub(super) struct Writer {
    pub shared: Arc<Shared>,
    pub dir: PathBuf,
    /// The bytes that a segment takes besides its head.
    pub segment_bytes: usize,
    pub active: Active,
    /// Held for as long as files are written.
    _lock: File,
    /// Frames that are not written yet.
    buffer: Vec<u8>,
    /// Changes that are written or in the buffer, and not in the ledger yet.
    pending: Vec<(GroupChange, Position)>,
    mark: Mark,
    tidy: Tidy,
    /// See [`crate::broken::NO_FSYNC`]; else empty.
    unwritten: Vec<Op>,
    written: Instant,
}

/// Whether the disk says how much of it is durable.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mark {
    Made,
    Due,
}

/// Whether segments may have become dead or sparse.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Tidy {
    Done,
    Due,
}

impl Writer {
    pub(super) fn new(
        shared: Arc<Shared>,
        dir: PathBuf,
        segment_bytes: usize,
        active: Active,
        lock: File,
    ) -> Writer {
        let (buffer, pending) = (Vec::new(), Vec::new());
        Writer {
            shared,
            dir,
            segment_bytes,
            active,
            _lock: lock,
            buffer,
            pending,
            mark: Mark::Due,
            tidy: Tidy::Due,
            unwritten: Vec::new(),
            written: Instant::now(),
        }
    }

    /// Writes until the log is closed or fails.
    pub(super) fn run(mut self) {
        let mut guard = PoisonOnDrop {
            shared: self.shared.clone(),
            reason: Some("the log's writer panicked".to_owned()),
        };
        guard.reason = self.write_all().err().map(|error| error.to_string());
    }

    fn write_all(&mut self) -> Result<(), LogError> {
        loop {
            let patience = match (self.tidy, self.mark) {
                (Tidy::Due, _) => Patience::None,
                (Tidy::Done, Mark::Due) => Patience::Short,
                (Tidy::Done, Mark::Made) => Patience::Endless,
            };
            match self.shared.next(patience) {
                Next::Write(ops) => self.serve(ops)?,
                Next::Idle => self.write_mark()?,
                Next::Stop => {
                    self.write_mark()?;
                    // A crash before this returns: everything was durable already; only damage in the last
                    // batch would look like a torn tail. After it, any damage is seen as such.
                    return self.active.sync();
                }
            }
        }
    }

    /// Writes a batch and tells its callers how it went.
    fn serve(&mut self, mut ops: Vec<Op>) -> Result<(), LogError> {
        if crate::broken::NO_FSYNC {
            for done in ops.iter_mut().filter_map(|op| op.done.take()) {
                done(Ok(()));
            }
            self.unwritten.append(&mut ops);
            if self.written.elapsed() < UNWRITTEN {
                return Ok(());
            }
            ops = std::mem::take(&mut self.unwritten);
            self.written = Instant::now();
        }
        let result = self.write_batch(&mut ops);
        match &result {
            Ok(()) => self.shared.settle(&mut ops),
            // First of all no new call may succeed; then those that wait are told.
            Err(error) => ops.extend(self.shared.poison(&error.to_string())),
        }
        for done in ops.into_iter().filter_map(|op| op.done) {
            done(match &result {
                Ok(()) => Ok(()),
                Err(error) => Err(io::Error::other(error.to_string())),
            });
        }
        result
    }

    fn write_batch(&mut self, ops: &mut [Op]) -> Result<(), LogError> {
        let before = self.tidy;
        let moved = self.take_from_sparse()?;
        let must_sync = !moved.is_empty() || ops.iter().any(|op| op.done.is_some());
        for change in moved
            .into_iter()
            .chain(ops.iter_mut().flat_map(|op| op.changes.drain(..)))
        {
            self.put(change)?;
        }
        self.flush()?;
        if must_sync {
            self.active.sync()?;
            self.mark = Mark::Due;
        }
        self.enter()?;
        if [before, self.tidy].contains(&Tidy::Due) {
            self.remove_dead();
        }
        Ok(())
    }

    /// Makes a change's frame, in the next segment if this one is full.
    fn put(&mut self, change: GroupChange) -> Result<(), LogError> {
        let length = frame::length(frame::body_len(&change.1));
        if self
            .active
            .is_full(self.buffer.len() + length, self.segment_bytes)
        {
            self.roll()?;
        }
        let at = self.active.position(self.buffer.len());
        frame::put_change(&mut self.buffer, at, self.active.durable(), &change);
        self.pending.push((change, at));
        if self.buffer.len() >= BUFFER_BYTES {
            self.flush()
        } else {
            Ok(())
        }
    }

    fn flush(&mut self) -> Result<(), LogError> {
        self.active.write(&self.buffer)?;
        self.buffer.clear();
        Ok(())
    }

    /// Enters what was written into the books.
    fn enter(&mut self) -> Result<(), LogError> {
        let mut disk = self.shared.disk.lock();
        for (change, at) in self.pending.drain(..) {
            if matches!(
                change.1,
                Change::Truncate(_) | Change::Purge(_) | Change::Moved(_)
            ) {
                self.tidy = Tidy::Due;
            }
            let (path, offset) = (self.active.path.clone(), u64::from(at.offset));
            disk.ledger
                .apply(change, at)
                .map_err(|what| LogError::Damaged { path, offset, what })?;
        }
        if let Some(stored) = disk.segments.get_mut(&self.active.number) {
            stored.length = self.active.allocated as u64;
        }
        Ok(())
    }

    /// Ends the segment and begins the next one, whose head repeats every group's state.
    fn roll(&mut self) -> Result<(), LogError> {
        self.flush()?;
        self.active.seal()?;
        self.enter()?;
        let state = state::encode(&self.shared.disk.lock().ledger.state());
        self.active = Active::create(&self.dir, self.active.number + 1, &state, self.segment_bytes)?;
        self.shared
            .disk
            .lock()
            .segments
            .insert(self.active.number, stored(&self.active));
        self.tidy = Tidy::Due;
        Ok(())
    }

    /// Writes how much is durable, so that damage to it is told from a torn tail. Nobody waits for it.
    fn write_mark(&mut self) -> Result<(), LogError> {
        let (at, durable) = (self.active.position(0), self.active.durable());
        frame::put_own(&mut self.buffer, at, durable, Kind::Marker);
        self.mark = Mark::Made;
        self.flush()
    }

    /// The next records that are to be written again: those of a sealed segment of which little is still needed.
    fn take_from_sparse(&mut self) -> Result<Vec<GroupChange>, LogError> {
        if self.tidy == Tidy::Done {
            return Ok(Vec::new());
        }
        let found: Vec<_> = {
            let disk = self.shared.disk.lock();
            let sparse = disk.segments.range(..self.active.number).find(|(number, _)| {
                disk.ledger
                    .usage(**number)
                    .is_some_and(|usage| usage.bytes * 4 < self.segment_bytes as u64)
            });
            let records = sparse
                .map(|(number, _)| disk.ledger.records_in(*number, MOVE_BYTES))
                .unwrap_or_default();
            records
                .into_iter()
                .map(|(group, index, _)| (group, disk.locate(group, index)))
                .collect()
        };
        if found.is_empty() {
            self.tidy = Tidy::Done;
        }
        found
            .into_iter()
            .map(|(group, found)| Ok((group, Change::Moved(found.fetch(group)?))))
            .collect()
    }

    /// Removes the sealed segments of which nothing is needed. What dropped their last records is durable.
    fn remove_dead(&mut self) {
        let mut disk = self.shared.disk.lock();
        let dead: Vec<u64> = disk
            .segments
            .range(..self.active.number)
            .map(|(number, _)| *number)
            .filter(|number| disk.ledger.usage(*number).is_none())
            .collect();
        let dead: Vec<Stored> = dead
            .iter()
            .filter_map(|number| disk.segments.remove(number))
            .collect();
        drop(disk);
        for Stored { path, .. } in dead {
            // A crash here, or a removal that is lost: the file is there at the next start, is replayed to no
            // effect (a later head overrules it), and is then removed.
            if let Err(error) = fs::remove_file(&path) {
                tracing::warn!(path = %path.display(), %error, "a dead log segment stays until the next start");
            }
        }
    }
}

/// The active segment, for readers.
pub(super) fn stored(active: &Active) -> Stored {
    Stored {
        file: active.file.clone(),
        path: active.path.clone(),
        length: active.allocated as u64,
    }
}

/// Nobody may wait for a writer that is gone.
struct PoisonOnDrop {
    shared: Arc<Shared>,
    reason: Option<String>,
}

impl Drop for PoisonOnDrop {
    fn drop(&mut self) {
        let Some(reason) = self.reason.take() else { return };
        tracing::error!(reason, "the log has stopped");
        for done in self.shared.poison(&reason).into_iter().filter_map(|op| op.done) {
            done(Err(io::Error::other(reason.clone())));
        }
    }
}
