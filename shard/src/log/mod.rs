//! The Raft log of a node, on disk: one log for all of its groups, one fsync for whatever they have queued.
//!
//! A node's groups share its disk, and a disk does about as many fsyncs per second for six files as for one. So the
//! records of all groups go into the same files, by one writer thread. While it syncs one batch, the next one
//! gathers. What a record holds is not this module's business.
//!
//! ```text
//!  GroupLog::append ─┐  checked against, and taken into, the callers' view (readable at once)
//!  GroupLog::purge  ─┼─> queue (bounded) ─> writer: frames ─> segment file ─> fdatasync ─> ledger ─> every `done`
//!  GroupLog::...    ─┘                              recovery: frames ─> the same ledger ─> callers' view
//! ```
//!
//! # Files
//!
//! A directory holds `LOCK` and segments `00000000000000000007.seg`, numbered upwards; the highest one is being
//! written. Integers are little endian, lengths are in bytes.
//!
//! ```text
//!  segment    "HOWDALOG" | version u32 = 2 | 0 u32 | frame | frame | ...        each frame at a multiple of 8
//!
//!  frame      checksum u32    crc32c of: segment number u64, offset in the file u32, and the rest of this head
//!             body sum u32    crc32c of the body with its padding
//!             kind u8, 0 (3)  1 state, 2 record, 3 vote, 4 committed, 5 truncate, 6 purge, 7 moved, 8 marker, 9 end
//!             group u32
//!             index u64       record, moved, purge: its index; truncate: the first index that goes; state: the
//!                             length that the file was made with, 0 where it just grows
//!             term u64        record, moved, purge: its term
//!             length u32      of the body without padding
//!             durable u32     up to where this file was known to be on disk when the frame was made
//!             body            the caller's bytes (the note of a purge); zeros to a multiple of 8
//!
//!  state      groups u32, then for each: group u32, vote, committed, purge note (each: length u32, bytes; length
//!             2^32-1: none), where there is a note: purged index u64 and term u64; runs u32, then for each run:
//!             segment u64, first index u64, last index u64
//! ```
//!
//! A finished segment ends with an end frame and the file; one that is being written is as long as it was made, or
//! longer. The first frame of a segment, and only that, is a state: everything known of every group at that point, and for
//! its records the runs of indexes and the segments they lie in.
//!
//! **A frame is valid only where it was written**, since its checksum covers segment number and offset: an old frame
//! in a block that a file got back from the disk is never taken for a new one.
//!
//! # Any segment without a live record may go
//!
//! Not only a prefix: a quiet group's old record pins one segment, not all that were written since. Why that is right:
//!
//! 1. Write `S(n)` for the state in the head of segment n, and `L` for the last segment. The true state is `S(L)`
//!    followed by the frames of L. No vote, truncation or purge in an older segment adds to it: it is in `S(L)`.
//!    So old segments matter only as the place of the records that `S(L)`'s runs name.
//! 2. Recovery replays segments in order and, at each head, takes the head's state *instead of* what it has. A
//!    truncation whose segment is gone is thereby in force again before the next segment's frames are read: the records
//!    that it cut, still lying in an older segment, do not come back. Within one segment the last record with an
//!    index is the right one, as an earlier one must have been cut to make room for it.
//! 3. A head may name a run in a segment that is gone, rightly, if those records were cut or purged later. It is noted
//!    as lost; if any lost record is still there at the end, the directory is damaged. A run in a segment that is
//!    there must be found there exactly; a record must follow the one before it. So a hole in a group's log, a
//!    missing file and a shortened file are all seen. (Not seen: the newest files taken away together.)
//! 4. A segment is removed only after the frame that dropped its last live record is durable, and since it is sealed
//!    no later frame can add one. So no crash leaves a state that needs a removed file. A removed file that a crash
//!    brings back changes nothing, by 2.
//! 5. Live records of a sealed segment that is used to less than a quarter are written again (kind 7) at the end of
//!    the log, a little with each batch, and so the segment goes. Hence the log takes at most about four times the
//!    live bytes and two segments, whatever the groups do. Rewriting costs at most a third more writes.
//!
//! # Torn tail or damage
//!
//! A segment is sealed (ended, fsynced, cut behind its end, fsynced) before the next one is made, and a segment gets its name only
//! when its head is durable. So anything wrong in a head, or anywhere in a segment that is not the last, is damage.
//! In the last segment a batch that was being written when the power went may be there in any part: the first
//! bad frame and all behind it are cut, *unless* some valid frame behind it says (`durable`) that the bad one's bytes
//! had been on disk: then it is damage. Each frame says so for all batches before its own; a marker says so for
//! the last batch, written (not synced) when nothing has come for 10 ms, and synced when the log is closed.
//!
//! A crash does not shorten a file either: files are made with their full length, and are cut only behind an
//! end that is durable. A file that is shorter than it was made and does not close with its end is damaged, wherever it was cut.
//! Zeros, which preallocation leaves, are a clean end.
//!
//! What remains cannot be told by anyone: damage to the last batch that was ever acknowledged, before its marker
//! reached the disk, looks like a torn tail and is cut. That is 10 ms of a node's life, and the damage must be to just these bytes
//! and come with the crash: kill -9 alone loses nothing (the system still has the pages, the marker's too), and a
//! loss of power leaves what was synced. But where it happens, a majority need not protect: an entry that two of
//! three acknowledged is then on one, and if that one is away the other two elect a leader without it. Nor are
//! the newest files told that are taken away together, the one that is being written among them, while older ones stay.
//!
//! # Failure
//!
//! The first write or fsync that fails poisons the log. Nothing is retried, since after a failed fsync the system may
//! have dropped the very pages; every queued `done` and every later call gets an error, and the node's replicas stop.
//! At the next start whatever was not known to be durable is written again before it is believed.

mod error;
mod frame;
#[cfg(any(test, feature = "fuzz"))]
pub(crate) mod fuzz;
mod ledger;
mod recover;
mod segment;
mod shared;
mod span;
mod state;
#[cfg(test)]
mod tests;
mod writer;

use std::fs::{self, File, TryLockError};
use std::io;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use bytes::Bytes;
use parking_lot::Mutex;

pub use self::error::LogError;
use self::segment::Active;
use self::shared::Shared;
use self::span::{Change, Purged};
use self::writer::Writer;
use crate::id::{GroupId, LogIndex, Term};

/// The largest record, in bytes.
pub const MAX_RECORD_BYTES: usize = 32 * 1024 * 1024;

/// The largest vote, commit position or note of a purge, in bytes.
pub const MAX_NOTE_BYTES: usize = 1024 * 1024;

/// What may wait for the disk, of all groups together, in bytes. Beyond it calls wait.
pub const MAX_QUEUED_BYTES: usize = 256 * 1024 * 1024;

/// The largest size of a segment: offsets are 32 bits, with room for a head and a last record.
const MAX_SEGMENT_BYTES: u64 = 1024 * 1024 * 1024;

/// What an operation counts in the queue besides its bytes.
const OPERATION_BYTES: usize = 64;

/// How a log is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogOptions {
    /// The size of a segment file, in bytes; at most 1 GiB.
    pub segment_bytes: u64,
    /// How many bytes of recent records, of all groups, are kept in memory once they are on disk.
    pub cache_bytes: usize,
}

impl Default for LogOptions {
    fn default() -> Self {
        LogOptions {
            segment_bytes: 64 * 1024 * 1024,
            // A follower that is further behind reads what the kernel still has of the file.
            cache_bytes: 16 * 1024 * 1024,
        }
    }
}

/// The log of a node. Clones are the same log. The last handle to go, those of groups included, closes it.
#[derive(Clone)]
pub struct NodeLog {
    inner: Arc<Inner>,
}

/// One group's part of a node's log.
///
/// The operations of a group take effect in the order of the calls, in memory and on disk. They return when they
/// are queued; where there is a `done`, it is called from the writer's thread when the operation (and with it all that
/// were called before it) is durable, or with an error. It must be quick, must not block or panic, and must not call back in here.
///
/// Calls wait while more than [`MAX_QUEUED_BYTES`] are queued. They fail with [`LogError::Closed`] or
/// [`LogError::Poisoned`] once the log has ended.
#[derive(Clone)]
pub struct GroupLog {
    inner: Arc<Inner>,
    group: GroupId,
}

/// One record of a group's log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Its position.
    pub index: LogIndex,
    /// The Raft term of its leader.
    pub term: Term,
    /// What it says: any bytes, at most [`MAX_RECORD_BYTES`].
    pub bytes: Bytes,
}

struct Inner {
    shared: Arc<Shared>,
    writer: Mutex<Option<JoinHandle<()>>>,
}

impl NodeLog {
    /// Opens the log in `dir`, which is made if it is missing. Reads and checks all of it; blocks meanwhile.
    ///
    /// # Errors
    /// [`LogError::Damaged`], [`LogError::Version`], [`LogError::InUse`], [`LogError::Io`]. The directory is then
    /// as it was, except that files which never became segments may be gone.
    pub fn open(dir: &Path, options: LogOptions) -> Result<NodeLog, LogError> {
        let lock = prepare(dir)?;
        let mut recovered = recover::recover(dir)?;
        let room = usize::try_from(options.segment_bytes.min(MAX_SEGMENT_BYTES)).unwrap_or(usize::MAX);
        let number = recovered.segments.keys().next_back().map_or(1, |last| last + 1);
        let state = state::encode(&recovered.ledger.state());
        let active = Active::create(dir, number, &state, room)?;
        recovered.segments.insert(number, writer::stored(&active));

        let shared = Arc::new(Shared::new(recovered, options.cache_bytes));
        let writer = Writer::new(shared.clone(), dir.to_path_buf(), room, active, lock);
        let spawned = thread::Builder::new()
            .name("raft-log".to_owned())
            .spawn(|| writer.run());
        let writer = Mutex::new(Some(spawned.map_err(LogError::io("start the writer of", dir))?));
        Ok(NodeLog {
            inner: Arc::new(Inner { shared, writer }),
        })
    }

    /// Whether `dir` holds a log, whole or not. Changes nothing there, for it may be in use.
    ///
    /// # Errors
    /// [`LogError::Io`].
    pub fn exists(dir: &Path) -> Result<bool, LogError> {
        if !dir.is_dir() {
            return Ok(false);
        }
        let mut files = fs::read_dir(dir).map_err(LogError::io("read", dir))?;
        let is_segment = |path: &Path| path.extension().is_some_and(|extension| extension == "seg");
        Ok(files.any(|file| file.is_ok_and(|file| is_segment(&file.path()))))
    }

    /// The log of one group. A group that was never written to is empty.
    #[must_use]
    pub fn group(&self, group: GroupId) -> GroupLog {
        GroupLog {
            inner: self.inner.clone(),
            group,
        }
    }

    /// Writes what is queued, and ends. Later calls fail with [`LogError::Closed`]; a second close does nothing.
    pub fn close(&self) {
        self.inner.close();
    }

    /// What the segment files take on disk, in bytes, the preallocated part of the last one included.
    #[must_use]
    pub fn disk_bytes(&self) -> u64 {
        self.inner
            .shared
            .disk
            .lock()
            .segments
            .values()
            .map(|stored| stored.length)
            .sum()
    }
}

impl GroupLog {
    /// The last record's position and term; those of the purge point where no record is held.
    #[must_use]
    pub fn last(&self) -> Option<(LogIndex, Term)> {
        self.inner.shared.look(self.group, |view| view.last())
    }

    /// The first record that is held.
    #[must_use]
    pub fn first(&self) -> Option<LogIndex> {
        self.inner.shared.look(self.group, |view| view.first())
    }

    /// The last purged index, and the note that was given with it.
    #[must_use]
    pub fn purged(&self) -> Option<(LogIndex, Bytes)> {
        self.inner.shared.look(self.group, |view| view.purged())
    }

    /// The vote that was saved last.
    #[must_use]
    pub fn vote(&self) -> Option<Bytes> {
        self.inner.shared.look(self.group, |view| view.vote())
    }

    /// The commit position that was saved last. After a crash of the machine it may be an older one.
    #[must_use]
    pub fn committed(&self) -> Option<Bytes> {
        self.inner.shared.look(self.group, |view| view.committed())
    }

    /// Adds records at the end: all or, with an error, none. [`GroupLog::read`] finds them when this returns.
    ///
    /// They must follow the last record or the purge point; a group that never had either may begin anywhere.
    ///
    /// # Errors
    /// [`LogError::NotContiguous`], [`LogError::TooLarge`]; see [`GroupLog`]. `done` is then dropped.
    pub fn append(&self, records: Vec<Record>, done: Done) -> Result<(), LogError> {
        for record in &records {
            self.limit(record.bytes.len(), MAX_RECORD_BYTES)?;
        }
        let bytes = records
            .iter()
            .map(|record| record.bytes.len() + OPERATION_BYTES)
            .sum::<usize>();
        self.inner
            .shared
            .enqueue(self.group, bytes + OPERATION_BYTES, Some(done), |edit| {
                edit.append(&records)?;
                Ok(records
                    .into_iter()
                    .map(|record| (self.group, Change::Record(record)))
                    .collect())
            })
    }

    /// Replaces the vote.
    ///
    /// # Errors
    /// [`LogError::TooLarge`]; see [`GroupLog`]. `done` is then dropped.
    pub fn save_vote(&self, vote: Bytes, done: Done) -> Result<(), LogError> {
        self.limit(vote.len(), MAX_NOTE_BYTES)?;
        self.inner
            .shared
            .enqueue(self.group, vote.len() + OPERATION_BYTES, Some(done), |edit| {
                edit.span.vote = Some(vote.clone());
                Ok(vec![(self.group, Change::Vote(vote))])
            })
    }

    /// Replaces the commit position. No fsync is made for it; the next one of any group covers it.
    ///
    /// # Errors
    /// [`LogError::TooLarge`]; see [`GroupLog`].
    pub fn save_committed(&self, committed: Bytes) -> Result<(), LogError> {
        self.limit(committed.len(), MAX_NOTE_BYTES)?;
        self.inner
            .shared
            .enqueue(self.group, committed.len() + OPERATION_BYTES, None, |edit| {
                edit.span.committed = Some(committed.clone());
                Ok(vec![(self.group, Change::Committed(committed))])
            })
    }

    /// Removes the records after `last`; `None`: all that are held.
    ///
    /// # Errors
    /// [`LogError::Purged`] if `last` lies before the purge point; see [`GroupLog`]. `done` is then dropped.
    pub fn truncate_after(&self, last: Option<LogIndex>, done: Done) -> Result<(), LogError> {
        let from = last.map_or(LogIndex(0), LogIndex::next);
        self.inner
            .shared
            .enqueue(self.group, OPERATION_BYTES, Some(done), |edit| {
                if let (Some(asked), Some(purged)) = (last, edit.span.purged())
                    && asked < purged.index
                {
                    return Err(LogError::Purged {
                        group: self.group,
                        purged: purged.index,
                        asked,
                    });
                }
                edit.span.truncate(from);
                Ok(vec![(self.group, Change::Truncate(from))])
            })
    }

    /// Removes the records up to `upto`, whose term is `term`. Beyond the last record: the group is then empty, and
    /// goes on after `upto`. At or before an earlier purge point: nothing changes.
    ///
    /// # Errors
    /// [`LogError::TooLarge`]; see [`GroupLog`]. `done` is then dropped.
    pub fn purge(&self, upto: LogIndex, term: Term, note: Bytes, done: Done) -> Result<(), LogError> {
        self.limit(note.len(), MAX_NOTE_BYTES)?;
        self.inner
            .shared
            .enqueue(self.group, note.len() + OPERATION_BYTES, Some(done), |edit| {
                let purged = Purged {
                    index: upto,
                    term,
                    note,
                };
                edit.span.purge(purged.clone());
                Ok(vec![(self.group, Change::Purge(purged))])
            })
    }

    /// The records of `range` that are held, in order and without holes, as many as fit in `max_bytes` but at
    /// least one if there is one. From memory; else blocks to read the disk, and checks what it finds.
    ///
    /// # Errors
    /// [`LogError::Damaged`], [`LogError::Io`]; see [`GroupLog`].
    pub fn read(&self, range: Range<LogIndex>, max_bytes: usize) -> Result<Vec<Record>, LogError> {
        self.inner.shared.read(self.group, range, max_bytes)
    }

    fn limit(&self, bytes: usize, limit: usize) -> Result<(), LogError> {
        if bytes <= limit {
            Ok(())
        } else {
            Err(LogError::TooLarge {
                group: self.group,
                bytes,
                limit,
            })
        }
    }
}

/// Called once with how an operation went.
pub type Done = Box<dyn FnOnce(io::Result<()>) + Send>;

impl Inner {
    fn close(&self) {
        self.shared.close();
        // Held while joining: whoever closes second returns no earlier.
        let mut writer = self.writer.lock();
        if let Some(handle) = writer.take()
            // The last handle may go within a `done`, that is, in the writer's own thread: it ends by itself.
            && handle.thread().id() != thread::current().id()
            && handle.join().is_err()
        {
            tracing::error!("the log's writer panicked");
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.close();
    }
}

/// Makes the directory, and takes its lock.
fn prepare(dir: &Path) -> Result<File, LogError> {
    if !dir.is_dir() {
        fs::create_dir_all(dir).map_err(LogError::io("create", dir))?;
        // A crash before this: no directory, nothing was promised. Segments are made only after it.
        segment::sync_dir(
            dir.parent()
                .filter(|parent| !parent.as_os_str().is_empty())
                .unwrap_or(Path::new(".")),
        )?;
    }
    let path = dir.join("LOCK");
    let lock = File::create(&path).map_err(LogError::io("create", &path))?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(TryLockError::WouldBlock) => Err(LogError::InUse {
            path: dir.to_path_buf(),
        }),
        Err(TryLockError::Error(source)) => Err(LogError::io("lock", &path)(source)),
    }
}
