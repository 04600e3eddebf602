//! Scenarios on real files.

mod crash;
mod damage;
mod failing_disk;
mod random;
mod reopen;
mod space;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::mpsc::sync_channel;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::frame::{self, Head, Kind, Position};
use super::segment::{self, PREFIX};
use super::{Done, GroupLog, LogError, LogOptions, NodeLog, Record};
use crate::id::{GroupId, LogIndex, Term};

const G1: GroupId = GroupId(1);
const G2: GroupId = GroupId(2);

/// A log that never finds anything in memory, with segments of this size.
fn open(dir: &Path, segment_bytes: u64) -> NodeLog {
    // Another test of this process may be starting a program: between fork and exec the child holds
    // whatever was open, the lock of the log that was just closed included.
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        match try_open(dir, segment_bytes) {
            Err(LogError::InUse { .. }) if Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(5));
            }
            opened => return opened.unwrap(),
        }
    }
}

fn try_open(dir: &Path, segment_bytes: u64) -> Result<NodeLog, LogError> {
    NodeLog::open(
        dir,
        LogOptions {
            segment_bytes,
            cache_bytes: 0,
        },
    )
}

fn record(index: u64, term: u64, text: &str) -> Record {
    Record {
        index: LogIndex(index),
        term: Term(term),
        bytes: Bytes::copy_from_slice(text.as_bytes()),
    }
}

/// A record of `len` bytes, none of them zero.
fn long_record(index: u64, term: u64, len: usize) -> Record {
    let byte = u8::try_from(1 + (index * 31 + term) % 255).unwrap();
    Record {
        index: LogIndex(index),
        term: Term(term),
        bytes: vec![byte; len].into(),
    }
}

/// Waits until the operation is durable.
fn durable(call: impl FnOnce(Done) -> Result<(), LogError>) {
    let (tell, told) = sync_channel(1);
    call(Box::new(move |result| tell.send(result).unwrap())).unwrap();
    told.recv().unwrap().unwrap();
}

fn append(group: &GroupLog, records: impl IntoIterator<Item = Record>) {
    durable(|done| group.append(records.into_iter().collect(), done));
}

fn truncate_after(group: &GroupLog, last: u64) {
    durable(|done| group.truncate_after(Some(LogIndex(last)), done));
}

fn purge(group: &GroupLog, upto: u64, term: u64) {
    durable(|done| group.purge(LogIndex(upto), Term(term), Bytes::from_static(b"note"), done));
}

/// Everything that the group holds.
fn all(group: &GroupLog) -> Vec<Record> {
    group.read(LogIndex(0)..LogIndex(u64::MAX), usize::MAX).unwrap()
}

fn positions(group: &GroupLog) -> Vec<(u64, u64)> {
    all(group)
        .iter()
        .map(|record| (record.index.0, record.term.0))
        .collect()
}

/// The segment files, in order.
fn segments(dir: &Path) -> Vec<(u64, PathBuf)> {
    segment::list(dir)
        .unwrap()
        .into_iter()
        .map(|number| (number, segment::path(dir, number)))
        .collect()
}

fn last_segment(dir: &Path) -> (u64, PathBuf) {
    segments(dir).pop().unwrap()
}

/// The frames of a segment: where each begins and ends.
fn frames(number: u64, path: &Path) -> Vec<(usize, usize, Head)> {
    let bytes = fs::read(path).unwrap();
    let mut found = Vec::new();
    let mut at = PREFIX;
    while let Some(head) = frame::head(
        &bytes[at..],
        Position {
            segment: number,
            offset: u32::try_from(at).unwrap(),
        },
    ) {
        let end = at + frame::length(head.body_len as usize);
        found.push((at, end, head));
        at = end;
    }
    found
}

/// A copy, as a crash would leave the files: without the markers at the end that a clean close writes.
fn crashed_copy(dir: &Path) -> tempfile::TempDir {
    let copy = copy(dir);
    let (number, path) = last_segment(copy.path());
    let last_real = frames(number, &path)
        .into_iter()
        .rev()
        .find(|(_, _, head)| head.kind != Kind::Marker);
    let mut bytes = fs::read(&path).unwrap();
    bytes[last_real.unwrap().1..].fill(0);
    fs::write(&path, bytes).unwrap();
    copy
}

fn copy(dir: &Path) -> tempfile::TempDir {
    let copy = tempfile::tempdir().unwrap();
    for (_, path) in segments(dir) {
        fs::copy(&path, copy.path().join(path.file_name().unwrap())).unwrap();
    }
    copy
}
