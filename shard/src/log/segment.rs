//! Segment files: made, written, sealed, removed.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::FallocateFlags;
use rustix::io::Errno;

use super::LogError;
use super::frame::{self, Kind, Position};

/// The version of the on-disk format.
pub(super) const VERSION: u32 = 2;

/// The first bytes of every segment file: a name, the version, zeros. Frames follow.
pub(super) const PREFIX: usize = 16;

const MAGIC: &[u8; 8] = b"HOWDALOG";

/// The prefix of this version's files.
pub(super) fn prefix(version: u32) -> [u8; PREFIX] {
    let mut prefix = [0; PREFIX];
    prefix[..8].copy_from_slice(MAGIC);
    prefix[8..12].copy_from_slice(&version.to_le_bytes());
    prefix
}

/// The file of a segment.
pub(super) fn path(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("{number:020}.seg"))
}

/// The numbers of the segments in a directory, in order. Files that never became segments are removed.
pub(super) fn list(dir: &Path) -> Result<Vec<u64>, LogError> {
    let mut numbers = Vec::new();
    for entry in fs::read_dir(dir).map_err(LogError::io("read", dir))? {
        let path = entry.map_err(LogError::io("read", dir))?.path();
        match (
            path.file_stem().and_then(|stem| stem.to_str()),
            path.extension().and_then(|e| e.to_str()),
        ) {
            (Some(stem), Some("seg")) => numbers.extend(stem.parse::<u64>()),
            // A crash while a segment was made: nothing was ever acknowledged on the strength of it.
            (_, Some("tmp")) => fs::remove_file(&path).map_err(LogError::io("remove", &path))?,
            _ => {}
        }
    }
    numbers.sort_unstable();
    Ok(numbers)
}

/// Makes the directory's entries (new and renamed files) durable.
pub(super) fn sync_dir(dir: &Path) -> Result<(), LogError> {
    File::open(dir)
        .and_then(|dir| dir.sync_all())
        .map_err(LogError::io("fsync", dir))
}

/// The segment that is being written.
#[derive(Debug)]
pub(super) struct Active {
    pub number: u64,
    pub file: Arc<File>,
    pub path: PathBuf,
    /// Where the first frame after the head begins.
    head_end: usize,
    /// Where the next frame goes.
    used: usize,
    /// Up to where the file is known to be on disk.
    durable: usize,
    /// The bytes that the file takes on disk.
    pub allocated: usize,
}

impl Active {
    /// Makes the segment with this number, with room for `room` bytes after its head. On return it is durable.
    pub(super) fn create(dir: &Path, number: u64, state: &[u8], room: usize) -> Result<Active, LogError> {
        let path = path(dir, number);
        let temporary = path.with_extension("tmp");
        let length = PREFIX + frame::length(state.len());
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(&temporary);
        let file = file.map_err(LogError::io("create", &temporary))?;
        let allocated = preallocate(&file, length + room).map_err(LogError::io("allocate", &temporary))?;
        let mut head = prefix(VERSION).to_vec();
        frame::put_state(&mut head, position(number, PREFIX), allocated, state);
        file.write_all_at(&head, 0)
            .map_err(LogError::io("write", &temporary))?;
        // A crash before the directory is synced: no such segment, or a file with the ending tmp, which the next
        // start removes. After it: a segment whose head is whole. Nothing is written to it before that.
        file.sync_all().map_err(LogError::io("fsync", &temporary))?;
        fs::rename(&temporary, &path).map_err(LogError::io("rename", &temporary))?;
        sync_dir(dir)?;
        let end = head.len();
        Ok(Active {
            number,
            file: Arc::new(file),
            path,
            head_end: end,
            used: end,
            durable: end,
            allocated,
        })
    }

    /// Where the frame goes that is made next, `ahead` bytes after what is written.
    pub(super) fn position(&self, ahead: usize) -> Position {
        position(self.number, self.used + ahead)
    }

    /// How much of the file is known to be on disk.
    pub(super) fn durable(&self) -> u32 {
        offset(self.durable)
    }

    /// Whether `more` bytes belong in the next segment: there is something here, and with them it would be more
    /// than `room`. The head does not count, so that every full segment carries much whatever the heads' size.
    pub(super) fn is_full(&self, more: usize, room: usize) -> bool {
        let content = self.used - self.head_end;
        content > 0 && content + more > room
    }

    /// Writes at the end. Not durable before [`Active::sync`].
    pub(super) fn write(&mut self, bytes: &[u8]) -> Result<(), LogError> {
        self.file
            .write_all_at(bytes, self.used as u64)
            .map_err(LogError::io("write", &self.path))?;
        self.used += bytes.len();
        self.allocated = self.allocated.max(self.used);
        Ok(())
    }

    /// Makes durable all that was written.
    pub(super) fn sync(&mut self) -> Result<(), LogError> {
        // A crash before this returns: a part of the batch, any part, may be on disk, and nobody was told that it is.
        // Recovery keeps the frames up to the first bad one, and cuts the rest.
        self.file.sync_data().map_err(LogError::io("fsync", &self.path))?;
        self.durable = self.used;
        Ok(())
    }

    /// Ends the segment: on return its file is durable and ends with its last frame, which says so.
    pub(super) fn seal(&mut self) -> Result<(), LogError> {
        let mut end = Vec::new();
        frame::put_own(&mut end, self.position(0), self.durable(), Kind::End);
        self.write(&end)?;
        // A crash before this returns: a file of its full length, as any other that is being written. It is cut only
        // when its end is durable: so one that is shorter and has no end has been shortened by something else.
        self.sync()?;
        self.file
            .set_len(self.used as u64)
            .map_err(LogError::io("truncate", &self.path))?;
        // A crash here: the file is still the last one, and ends in zeros or in its end; both are clean.
        // The next segment is made only after this fsync, so a file that is not the last has no torn tail.
        self.file.sync_all().map_err(LogError::io("fsync", &self.path))?;
        self.durable = self.used;
        self.allocated = self.used;
        Ok(())
    }
}

fn position(segment: u64, at: usize) -> Position {
    Position {
        segment,
        offset: offset(at),
    }
}

fn offset(at: usize) -> u32 {
    u32::try_from(at).expect("segments are bounded far below 4 GiB")
}

/// Reserves the blocks, so that a later fdatasync has no new blocks or file length to record, and so that a full
/// disk is met here rather than in the middle of a batch. Where the file system cannot, the file just grows.
fn preallocate(file: &File, length: usize) -> io::Result<usize> {
    match rustix::fs::fallocate(file, FallocateFlags::empty(), 0, length as u64) {
        Ok(()) => Ok(length),
        Err(Errno::OPNOTSUPP | Errno::NOSYS) => Ok(0),
        Err(error) => Err(error.into()),
    }
}
