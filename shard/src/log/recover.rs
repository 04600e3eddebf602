//! From the files to the ledger: replays the segments, cuts a torn tail, refuses damage.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;

use super::frame::{self, ALIGN, Frame, Kind, Position};
use super::ledger::Ledger;
use super::segment::{self, PREFIX, VERSION};
use super::{LogError, state};

/// A segment file that can be read.
#[derive(Clone, Debug)]
pub(super) struct Stored {
    pub file: Arc<File>,
    pub path: PathBuf,
    /// The bytes that it takes on disk.
    pub length: u64,
}

/// What a directory holds.
#[derive(Debug, Default)]
pub(super) struct Recovered {
    pub ledger: Ledger,
    pub segments: BTreeMap<u64, Stored>,
}

/// Where a segment's frames end.
pub(super) struct Extent {
    /// The end of the last whole frame.
    pub end: usize,
    /// Up to where the segment's own frames say that it had been on disk.
    pub durable: usize,
    /// Whether the last whole frame is the one that ends a segment.
    pub ended: bool,
}

/// Whether frames can have been cut off by a crash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// A later segment exists, so this one was durable to its last byte.
    Sealed,
    /// The file that was being written.
    Last,
}

/// Reads all segments in `dir`. On return everything that was found is durable, and the last segment's file
/// ends with its last whole frame.
pub(super) fn recover(dir: &Path) -> Result<Recovered, LogError> {
    let numbers = segment::list(dir)?;
    let mut found = Recovered::default();
    for number in &numbers {
        let path = segment::path(dir, *number);
        let place = if numbers.last() == Some(number) {
            Place::Last
        } else {
            Place::Sealed
        };
        let bytes = Bytes::from(fs::read(&path).map_err(LogError::io("read", &path))?);
        let present = |n: u64| n < *number && numbers.binary_search(&n).is_ok();
        let mut extent = replay(&mut found.ledger, &path, *number, &bytes, place, present)?;
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .open(&path)
            .map_err(LogError::io("open", &path))?;
        if place == Place::Last {
            finish_tail(&file, &path, *number, &bytes, &mut extent)?;
        }
        let stored = Stored {
            file: Arc::new(file),
            path,
            length: extent.end as u64,
        };
        found.segments.insert(*number, stored);
    }
    if let Some(lost) = found
        .ledger
        .used_segments()
        .find(|n| !found.segments.contains_key(n))
    {
        let what = "the file is missing, and the segments after it need its records".to_owned();
        return Err(LogError::Damaged {
            path: segment::path(dir, lost),
            offset: 0,
            what,
        });
    }
    Ok(found)
}

/// Makes the last segment durable as it was found, ends it, and cuts what lies behind.
fn finish_tail(
    file: &File,
    path: &Path,
    number: u64,
    bytes: &Bytes,
    extent: &mut Extent,
) -> Result<(), LogError> {
    // What was not known to be on disk is written again: if an fsync failed before, the kernel may have marked
    // pages as clean that never reached the disk, and a second fsync alone would not bring them there.
    let again = extent.durable.min(extent.end);
    let mut tail = bytes[again..extent.end].to_vec();
    if !extent.ended {
        let at = Position {
            segment: number,
            offset: offset(extent.end),
        };
        frame::put_own(&mut tail, at, offset(again), Kind::End);
        extent.end = again + tail.len();
    }
    file.write_all_at(&tail, again as u64)
        .map_err(LogError::io("write", path))?;
    // Durable before the file is cut, as in `Active::seal`. A crash in between: what is behind the end is torn still.
    file.sync_data().map_err(LogError::io("fsync", path))?;
    file.set_len(extent.end as u64)
        .map_err(LogError::io("truncate", path))?;
    // A crash before this returns: the next start finds the same frames and does the same. After it, what was torn
    // is gone for good and what was whole stays; only then is anything of it shown to anyone.
    file.sync_all().map_err(LogError::io("fsync", path))
}

/// Replays one segment, of which these are the bytes.
pub(super) fn replay(
    ledger: &mut Ledger,
    path: &Path,
    number: u64,
    bytes: &Bytes,
    place: Place,
    present: impl Fn(u64) -> bool,
) -> Result<Extent, LogError> {
    let damaged = |offset: usize, what: String| LogError::Damaged {
        path: path.to_path_buf(),
        offset: offset as u64,
        what,
    };
    check_prefix(path, bytes)?;
    // The head was durable before the file got its name: whatever is wrong with it is damage.
    let head = frame_at(bytes, number, PREFIX).map_err(|what| damaged(PREFIX, what.to_owned()))?;
    let states = (head.head.kind == Kind::State)
        .then(|| state::decode(&head.body))
        .flatten();
    let states = states.ok_or_else(|| damaged(PREFIX, "the segment's head cannot be read".to_owned()))?;
    ledger
        .adopt(states, present)
        .map_err(|what| damaged(PREFIX, what))?;

    let mut extent = Extent {
        end: PREFIX + head.length,
        durable: PREFIX + head.length,
        ended: false,
    };
    while extent.end < bytes.len() {
        let at = extent.end;
        match frame_at(bytes, number, at) {
            Ok(frame) => {
                extent.durable = extent.durable.max(frame.head.durable as usize);
                extent.end += frame.length;
                extent.ended = frame.head.kind == Kind::End;
                if let Some(change) = frame.change() {
                    let position = Position {
                        segment: number,
                        offset: offset(at),
                    };
                    ledger.apply(change, position).map_err(|what| damaged(at, what))?;
                }
            }
            Err(what) if place == Place::Sealed => return Err(damaged(at, what.to_owned())),
            Err(what) => match proof_after(bytes, number, at) {
                Some(proof) => {
                    return Err(damaged(
                        at,
                        format!("{what}, and byte {proof} shows that it had been on disk"),
                    ));
                }
                None => break,
            },
        }
    }
    // A file is cut only behind its durable end; a crash never makes one shorter.
    let cut = (bytes.len() as u64) < head.head.index.0;
    if cut && !(extent.ended && extent.end == bytes.len()) {
        let what = "the file is shorter than it was made, and has no end".to_owned();
        return Err(damaged(extent.end, what));
    }
    Ok(extent)
}

fn check_prefix(path: &Path, bytes: &Bytes) -> Result<(), LogError> {
    let expected = segment::prefix(VERSION);
    let found = bytes.get(..PREFIX).unwrap_or_default();
    if found == expected {
        return Ok(());
    }
    if let Some([a, b, c, d]) = found.get(8..12)
        && found[..8] == expected[..8]
    {
        let (found, known) = (u32::from_le_bytes([*a, *b, *c, *d]), VERSION);
        return Err(LogError::Version {
            path: path.to_path_buf(),
            found,
            known,
        });
    }
    let what = "this is not the start of a segment file".to_owned();
    Err(LogError::Damaged {
        path: path.to_path_buf(),
        offset: 0,
        what,
    })
}

/// Looks behind a bad frame for one that was made when the bad one's bytes were already on disk.
///
/// Frames of the same batch do not prove that: a batch reaches the disk in any order.
fn proof_after(bytes: &Bytes, number: u64, bad: usize) -> Option<usize> {
    let end = bytes.iter().rposition(|byte| *byte != 0)? + 1;
    (bad + ALIGN..end).step_by(ALIGN).find(|at| {
        let position = Position {
            segment: number,
            offset: offset(*at),
        };
        frame::head(&bytes[*at..], position).is_some_and(|head| head.durable as usize > bad)
    })
}

fn frame_at(bytes: &Bytes, number: u64, at: usize) -> Result<Frame, &'static str> {
    let position = Position {
        segment: number,
        offset: offset(at),
    };
    frame::read(&bytes.slice(at.min(bytes.len())..), position)
}

/// Saturates: a file beyond 4 GiB is not ours, and no checksum fits there.
fn offset(at: usize) -> u32 {
    u32::try_from(at).unwrap_or(u32::MAX)
}
