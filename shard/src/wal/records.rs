//! Where records end in a stream of WAL bytes.
//!
//! PostgreSQL's flush position, and so the end of a group's log, may lie inside a record. A standby
//! that has flushed such a part is in trouble when a promotion drops the record (hazard 2; what
//! PostgreSQL 15 does then is told in `feed.rs`). So the sender sends whole records only, and needs
//! to know where they end. It does not look into them.
//!
//! The format (`xlog_internal.h`, `xlogrecord.h`, the same from PostgreSQL 14 to 18):
//!
//! ```text
//! page, 8 KiB   magic u16 | flags u16 | timeline u32 | address u64 | rest of record u32 | pad 4
//!               the first page of a segment: 16 bytes more
//! record        length u32 | xid u32 | previous u64 | info u8 | manager u8 | pad 2 | crc u32 | ...
//!               starts at a multiple of 8; goes on after the header of the next page
//! ```

use super::Lsn;
use super::lsn::SEGMENT_SIZE;

/// The size of a WAL page, bytes (`XLOG_BLCKSZ`; every distribution builds with it).
pub(crate) const PAGE_SIZE: u64 = 8192;

const SHORT_PAGE_HEADER: usize = 24;
const LONG_PAGE_HEADER: usize = 40;
const RECORD_HEADER: usize = 24;

/// Page flags: its first record began on an earlier page (`XLP_FIRST_IS_CONTRECORD`).
const FIRST_IS_REST: u16 = 0x0001;
/// The record before was given up after a crash (`XLP_FIRST_IS_OVERWRITE_CONTRECORD`).
const FIRST_IS_OVERWRITE: u16 = 0x0008;

/// `RM_XLOG_ID` and `XLOG_SWITCH`: the rest of the segment after such a record is zeros.
const MANAGER_XLOG: u8 = 0;
const INFO_SWITCH: u8 = 0x40;

/// Follows the records in a stream of WAL.
///
/// Where the bytes are not what it expects, it lets everything pass (`boundary` = `position`) until
/// the next page that begins sensibly: the sender then does what PostgreSQL's own does.
///
/// Invariant: `boundary <= position`, and neither ever decreases.
#[derive(Debug)]
pub(crate) struct RecordScanner {
    position: Lsn,
    boundary: Lsn,
    state: State,
    page_header: [u8; SHORT_PAGE_HEADER],
    record_header: [u8; RECORD_HEADER],
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// At the page where the scan began, or after nonsense.
    Unknown,
    /// In a record's header, of which so many bytes are collected.
    Header(usize),
    /// In a record's body, of which so many bytes are still to come.
    Body(u64),
    /// In the zeros after a record, up to the next multiple of 8.
    Padding,
    /// In the zeros after a switch record, up to the end of the segment.
    SwitchedAway,
}

impl RecordScanner {
    /// Begins at `page`, the start of a page.
    pub(crate) fn new(page: Lsn) -> RecordScanner {
        debug_assert!(page.0.is_multiple_of(PAGE_SIZE), "a scan begins at a page");
        RecordScanner {
            position: page,
            boundary: page,
            state: State::Unknown,
            page_header: [0; SHORT_PAGE_HEADER],
            record_header: [0; RECORD_HEADER],
        }
    }

    /// The position after the last byte that was fed.
    pub(crate) fn position(&self) -> Lsn {
        self.position
    }

    /// The end of the last whole record.
    pub(crate) fn boundary(&self) -> Lsn {
        self.boundary
    }

    /// Takes the next bytes.
    pub(crate) fn feed(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let in_page = usize::try_from(self.position.0 % PAGE_SIZE).unwrap_or_default();
            let header = self.page_header_size();
            let taken = if in_page < header && self.state != State::SwitchedAway {
                self.in_page_header(in_page, header, bytes)
            } else {
                let room = 8192 - in_page;
                self.in_records(&bytes[..room.min(bytes.len())])
            };
            bytes = &bytes[taken..];
        }
    }

    fn page_header_size(&self) -> usize {
        if self.position.0 % SEGMENT_SIZE < PAGE_SIZE {
            LONG_PAGE_HEADER
        } else {
            SHORT_PAGE_HEADER
        }
    }

    /// Takes bytes of a page's header; returns how many.
    fn in_page_header(&mut self, in_page: usize, header: usize, bytes: &[u8]) -> usize {
        let taken = bytes.len().min(header - in_page);
        for (offset, byte) in (in_page..).zip(&bytes[..taken]) {
            if let Some(slot) = self.page_header.get_mut(offset) {
                *slot = *byte;
            }
        }
        self.position = self.position + taken as u64;
        if in_page + taken == header {
            self.page_begins();
        }
        taken
    }

    /// Decides, from a whole page header, what the bytes after it are.
    fn page_begins(&mut self) {
        let word = |at: usize| u16::from_ne_bytes([self.page_header[at], self.page_header[at + 1]]);
        let (magic, flags) = (word(0), word(2));
        let rest = self.page_header[16..20].try_into().map(u32::from_ne_bytes);
        let rest = u64::from(rest.unwrap_or_default());
        let missing = match self.state {
            State::Header(0) => Some(0),
            State::Header(have) if have >= 4 => Some(self.record_length().saturating_sub(have as u64)),
            State::Body(missing) => Some(missing),
            _ => None,
        };
        let page = Lsn(self.position.0 - self.position.0 % PAGE_SIZE);
        let announced = if flags & FIRST_IS_REST == 0 { 0 } else { rest };
        if magic == 0 {
            self.lose("a page without a header");
        } else if flags & FIRST_IS_OVERWRITE != 0 {
            // The server crashed inside the record before this page, and will never complete it.
            self.boundary = self.boundary.max(page);
            self.state = State::Header(0);
        } else if missing.is_none() {
            self.state = if announced == 0 {
                State::Header(0)
            } else {
                State::Body(announced)
            };
        } else if missing != Some(announced) {
            self.lose("a page that does not continue the record before it");
        }
    }

    /// Takes bytes between two page headers; returns how many.
    fn in_records(&mut self, bytes: &[u8]) -> usize {
        let available = bytes.len();
        match self.state {
            State::Unknown => {
                self.advance(available);
                self.boundary = self.position;
                available
            }
            State::Header(have) => {
                let taken = available.min(RECORD_HEADER - have);
                self.record_header[have..have + taken].copy_from_slice(&bytes[..taken]);
                self.advance(taken);
                self.state = State::Header(have + taken);
                self.after_header_bytes(have + taken);
                taken
            }
            State::Body(missing) => {
                let taken = available.min(usize::try_from(missing).unwrap_or(usize::MAX));
                self.advance(taken);
                self.in_body(missing - taken as u64);
                taken
            }
            State::Padding => {
                let taken = available.min(self.to_alignment());
                self.advance(taken);
                self.in_padding();
                taken
            }
            State::SwitchedAway => {
                self.advance(available);
                if self.position.is_segment_start() {
                    self.state = State::Header(0);
                    self.boundary = self.position;
                }
                available
            }
        }
    }

    fn advance(&mut self, taken: usize) {
        self.position = self.position + taken as u64;
    }

    fn after_header_bytes(&mut self, have: usize) {
        if have >= 4 && self.record_length() < RECORD_HEADER as u64 {
            self.lose("a record without a length");
        } else if have == RECORD_HEADER {
            let (info, manager) = (self.record_header[16], self.record_header[17]);
            if manager == MANAGER_XLOG && info & 0xf0 == INFO_SWITCH {
                self.state = State::SwitchedAway;
                if self.position.is_segment_start() {
                    self.state = State::Header(0);
                    self.boundary = self.position;
                }
            } else {
                self.in_body(self.record_length() - RECORD_HEADER as u64);
            }
        }
    }

    fn in_body(&mut self, missing: u64) {
        self.state = State::Body(missing);
        if missing == 0 {
            self.in_padding();
        }
    }

    fn in_padding(&mut self) {
        self.state = State::Padding;
        if self.to_alignment() == 0 {
            self.state = State::Header(0);
            self.boundary = self.position;
        }
    }

    fn to_alignment(&self) -> usize {
        usize::try_from(self.position.0.wrapping_neg() % 8).unwrap_or_default()
    }

    fn record_length(&self) -> u64 {
        let length = self.record_header[..4].try_into().map(u32::from_ne_bytes);
        u64::from(length.unwrap_or_default())
    }

    /// Lets everything pass from here to the next sensible page.
    fn lose(&mut self, found: &str) {
        if self.state != State::Unknown {
            tracing::warn!(position = %self.position, found, "WAL records cannot be followed here");
        }
        self.state = State::Unknown;
        self.boundary = self.position;
    }
}
