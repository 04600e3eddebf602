//! One frame of a segment file: its layout and its checksums (drawn in the module's documentation).

use bytes::{Buf, BufMut, Bytes};

use super::Record;
use super::span::{Change, GroupChange, Purged};
use crate::id::{GroupId, LogIndex, Term};

/// The length of a frame's head, in bytes.
pub(super) const HEAD: usize = 40;

/// Frames begin at multiples of this many bytes.
pub(super) const ALIGN: usize = 8;

/// The kinds of frames, as numbered on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// The first frame of a segment: every group's state at this point.
    State = 1,
    Record = 2,
    Vote = 3,
    Committed = 4,
    Truncate = 5,
    Purge = 6,
    Moved = 7,
    /// Says only, by its `durable`, how much had reached the disk.
    Marker = 8,
    /// The last frame of a segment that is finished.
    End = 9,
}

impl Kind {
    fn from_byte(byte: u8) -> Option<Kind> {
        Some(match byte {
            1 => Kind::State,
            2 => Kind::Record,
            3 => Kind::Vote,
            4 => Kind::Committed,
            5 => Kind::Truncate,
            6 => Kind::Purge,
            7 => Kind::Moved,
            8 => Kind::Marker,
            9 => Kind::End,
            _ => return None,
        })
    }
}

/// A place in a segment file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Position {
    /// The segment's number.
    pub segment: u64,
    /// Bytes from the start of the file.
    pub offset: u32,
}

/// A frame's head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Head {
    pub kind: Kind,
    pub group: GroupId,
    pub index: LogIndex,
    pub term: Term,
    /// The length of the body without its padding, in bytes.
    pub body_len: u32,
    /// How many bytes of this segment were known to be on disk when this frame was made.
    pub durable: u32,
    body_checksum: u32,
}

/// A frame that was found whole.
pub(super) struct Frame {
    pub head: Head,
    /// Without padding.
    pub body: Bytes,
    /// The whole frame's length, with head and padding.
    pub length: usize,
}

/// The length on disk of a frame with so long a body.
pub(super) fn length(body_len: usize) -> usize {
    HEAD + body_len.next_multiple_of(ALIGN)
}

/// The length of the body that `change` makes.
pub(super) fn body_len(change: &Change) -> usize {
    match change {
        Change::Record(record) | Change::Moved(record) => record.bytes.len(),
        Change::Vote(bytes) | Change::Committed(bytes) => bytes.len(),
        Change::Truncate(_) => 0,
        Change::Purge(purged) => purged.note.len(),
    }
}

/// Writes a change of a group as a frame.
pub(super) fn put_change(out: &mut Vec<u8>, at: Position, durable: u32, (group, change): &GroupChange) {
    let none = (LogIndex(0), Term(0));
    let (kind, (index, term), body) = match change {
        Change::Record(record) => (Kind::Record, (record.index, record.term), &record.bytes),
        Change::Moved(record) => (Kind::Moved, (record.index, record.term), &record.bytes),
        Change::Vote(vote) => (Kind::Vote, none, vote),
        Change::Committed(committed) => (Kind::Committed, none, committed),
        Change::Truncate(from) => (Kind::Truncate, (*from, Term(0)), &Bytes::new()),
        Change::Purge(purged) => (Kind::Purge, (purged.index, purged.term), &purged.note),
    };
    put(out, at, durable, kind, *group, (index, term), body);
}

/// Writes the first frame of a segment, whose file has been made `made` bytes long.
pub(super) fn put_state(out: &mut Vec<u8>, at: Position, made: usize, state: &[u8]) {
    let made = LogIndex(made as u64);
    put(out, at, 0, Kind::State, GroupId(0), (made, Term(0)), state);
}

/// Writes a frame that only has a kind: [`Kind::Marker`] or [`Kind::End`].
pub(super) fn put_own(out: &mut Vec<u8>, at: Position, durable: u32, kind: Kind) {
    put(out, at, durable, kind, GroupId(0), (LogIndex(0), Term(0)), &[]);
}

fn put(
    out: &mut Vec<u8>,
    at: Position,
    durable: u32,
    kind: Kind,
    group: GroupId,
    (index, term): (LogIndex, Term),
    body: &[u8],
) {
    let start = out.len();
    let body_len =
        u32::try_from(body.len()).expect("a body is checked against MAX_RECORD_BYTES before it gets here");
    out.put_u64_le(0); // Both checksums, known at the end.
    out.put_u32_le(u32::from(kind as u8));
    out.put_u32_le(group.0);
    out.put_u64_le(index.0);
    out.put_u64_le(term.0);
    out.put_u32_le(body_len);
    out.put_u32_le(durable);
    out.extend_from_slice(body);
    out.resize(start + length(body.len()), 0);
    put_checksums(&mut out[start..], at);
}

/// Writes both checksums of a whole frame.
fn put_checksums(frame: &mut [u8], at: Position) {
    let body_checksum = crc32c::crc32c(&frame[HEAD..]);
    frame[4..8].copy_from_slice(&body_checksum.to_le_bytes());
    let head_checksum = head_checksum(at, &frame[4..HEAD]);
    frame[..4].copy_from_slice(&head_checksum.to_le_bytes());
}

/// Makes the checksums right of what lies at the start of `bytes`, at least a head, and gives its length.
#[cfg(any(test, feature = "fuzz"))]
pub(super) fn seal(bytes: &mut [u8], at: Position) -> Option<usize> {
    let body_len = bytes
        .get(HEAD - 8..HEAD - 4)?
        .try_into()
        .ok()
        .map(u32::from_le_bytes)?;
    let length = length(body_len as usize);
    put_checksums(bytes.get_mut(..length)?, at);
    Some(length)
}

/// The place is part of the checksum: a frame is valid only where it was written.
fn head_checksum(at: Position, head: &[u8]) -> u32 {
    let mut place = [0; 12];
    place[..8].copy_from_slice(&at.segment.to_le_bytes());
    place[8..].copy_from_slice(&at.offset.to_le_bytes());
    crc32c::crc32c_append(crc32c::crc32c(&place), head)
}

/// Reads the head at the start of `bytes`, which lie at `at`. `None`: no head was written there.
pub(super) fn head(bytes: &[u8], at: Position) -> Option<Head> {
    let head = bytes.get(..HEAD)?;
    let kind = Kind::from_byte(head[8])?;
    let (mut checksum, mut rest) = (head, &head[4..]);
    if checksum.get_u32_le() != head_checksum(at, rest) {
        return None;
    }
    let body_checksum = rest.get_u32_le();
    rest.advance(4); // The kind.
    Some(Head {
        kind,
        body_checksum,
        group: GroupId(rest.get_u32_le()),
        index: LogIndex(rest.get_u64_le()),
        term: Term(rest.get_u64_le()),
        body_len: rest.get_u32_le(),
        durable: rest.get_u32_le(),
    })
}

/// Reads the frame at the start of `bytes`, which lie at `at`. The error says what is wrong with it.
pub(super) fn read(bytes: &Bytes, at: Position) -> Result<Frame, &'static str> {
    let head = head(bytes, at).ok_or("no valid frame begins here")?;
    let length = length(head.body_len as usize);
    let body = bytes.get(HEAD..length).ok_or("the file ends within the frame")?;
    if crc32c::crc32c(body) != head.body_checksum {
        return Err("the checksum of the frame's body is wrong");
    }
    let body = bytes.slice(HEAD..HEAD + head.body_len as usize);
    Ok(Frame { head, body, length })
}

impl Frame {
    /// The change that the frame stands for, or `None` for a frame that belongs to no group.
    pub(super) fn change(self) -> Option<GroupChange> {
        let Head {
            kind,
            group,
            index,
            term,
            ..
        } = self.head;
        let change = match kind {
            Kind::State | Kind::Marker | Kind::End => return None,
            Kind::Record => Change::Record(Record {
                index,
                term,
                bytes: self.body,
            }),
            Kind::Moved => Change::Moved(Record {
                index,
                term,
                bytes: self.body,
            }),
            Kind::Vote => Change::Vote(self.body),
            Kind::Committed => Change::Committed(self.body),
            Kind::Truncate => Change::Truncate(index),
            Kind::Purge => Change::Purge(Purged {
                index,
                term,
                note: self.body,
            }),
        };
        Some((group, change))
    }
}
