//! Positions in PostgreSQL's write-ahead log.

use std::fmt;
use std::ops::{Add, Sub};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The size of a WAL segment file, bytes: `initdb`'s default, which Howdah always uses.
pub const SEGMENT_SIZE: u64 = 16 * 1024 * 1024;

/// A byte position in the WAL of one PostgreSQL system (`XLogRecPtr`).
///
/// Printed and parsed in PostgreSQL's own form, `16/B374D848`. A position has a meaning only
/// together with a [`TimelineId`]: after a promotion two timelines can hold different bytes at
/// the same position.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Lsn(pub u64);

impl Lsn {
    /// The start of the segment file that holds this position.
    #[must_use]
    pub fn segment_start(self) -> Lsn {
        Lsn(self.0 - self.0 % SEGMENT_SIZE)
    }

    /// The start of the segment file after the one that holds this position.
    #[must_use]
    pub fn next_segment(self) -> Lsn {
        self.segment_start() + SEGMENT_SIZE
    }

    /// Whether this is the first byte of a segment file.
    #[must_use]
    pub fn is_segment_start(self) -> bool {
        self.0.is_multiple_of(SEGMENT_SIZE)
    }

    /// Bytes from `earlier` to here; 0 where `earlier` is not earlier.
    #[must_use]
    pub fn since(self, earlier: Lsn) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

impl Add<u64> for Lsn {
    type Output = Lsn;

    /// Stops at the last position: no WAL gets there, and what claims to is refused where it is read.
    fn add(self, bytes: u64) -> Lsn {
        Lsn(self.0.saturating_add(bytes))
    }
}

impl Sub<u64> for Lsn {
    type Output = Lsn;

    /// Stops at 0: there is no WAL before it.
    fn sub(self, bytes: u64) -> Lsn {
        Lsn(self.0.saturating_sub(bytes))
    }
}

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:X}/{:X}", self.0 >> 32, self.0 & 0xffff_ffff)
    }
}

/// A text that is not an LSN in PostgreSQL's form.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("\"{0}\" is not a WAL position: expected the form 16/B374D848")]
pub struct ParseLsnError(String);

impl FromStr for Lsn {
    type Err = ParseLsnError;

    fn from_str(text: &str) -> Result<Lsn, ParseLsnError> {
        let parse = || {
            let (high, low) = text.split_once('/')?;
            let high = u32::from_str_radix(high, 16).ok()?;
            let low = u32::from_str_radix(low, 16).ok()?;
            Some(Lsn(u64::from(high) << 32 | u64::from(low)))
        };
        parse().ok_or_else(|| ParseLsnError(text.to_owned()))
    }
}

/// A branch of PostgreSQL's history. Every promotion starts a new one; the first is 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct TimelineId(pub u32);

impl TimelineId {
    /// The timeline that `initdb` makes.
    pub const FIRST: TimelineId = TimelineId(1);

    /// The name of the file that tells this timeline's ancestors, `0000000A.history`.
    #[must_use]
    pub fn history_file_name(self) -> String {
        format!("{:08X}.history", self.0)
    }
}

impl fmt::Display for TimelineId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lsn_reads_and_writes_postgresql_form() {
        for text in ["0/0", "0/1000000", "16/B374D848", "FFFFFFFF/FFFFFFFF"] {
            assert_eq!(text.parse::<Lsn>().unwrap().to_string(), text);
        }
        for text in ["", "16", "16/", "/16", "G/0", "1/100000000", "0/1/2"] {
            assert!(text.parse::<Lsn>().is_err(), "{text}");
        }
    }

    #[test]
    fn segment_bounds() {
        let inside = Lsn(SEGMENT_SIZE + 5);
        assert_eq!(inside.segment_start(), Lsn(SEGMENT_SIZE));
        assert_eq!(inside.next_segment(), Lsn(2 * SEGMENT_SIZE));
        assert!(Lsn(SEGMENT_SIZE).is_segment_start());
        assert_eq!(Lsn(SEGMENT_SIZE).next_segment(), Lsn(2 * SEGMENT_SIZE));
    }
}
