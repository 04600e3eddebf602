//! Segment files of any content.

use std::path::Path;

use bytes::Bytes;

use super::frame::{self, HEAD, Kind, Position};
use super::ledger::Ledger;
use super::recover::{Place, replay};
use super::segment::{PREFIX, VERSION, prefix};
use super::state;

/// The number of the segment that is read.
const NUMBER: u64 = 1;

/// A segment's bytes, as they are and with their checksums made right: damage that a checksum would stop, and
/// frames that a checksum lets through.
pub fn log_segment(bytes: &[u8]) {
    recover(Bytes::copy_from_slice(bytes));
    recover(sealed(bytes));
    if let Some(states) = state::decode(bytes) {
        assert_eq!(
            state::encode(&states),
            bytes,
            "a state is not written as it was read"
        );
    }
}

fn recover(bytes: Bytes) {
    for place in [Place::Last, Place::Sealed] {
        let mut ledger = Ledger::default();
        let Ok(extent) = replay(&mut ledger, Path::new("segment"), NUMBER, &bytes, place, |_| {
            false
        }) else {
            continue;
        };
        assert!(extent.end <= bytes.len(), "frames end behind the file");
        assert!(
            place == Place::Last || extent.end == bytes.len(),
            "a sealed segment was cut"
        );
        // What is kept after the cut, with its end, is a whole segment and says the same.
        let mut kept = bytes[..extent.end].to_vec();
        if place == Place::Last && !extent.ended {
            let Ok(offset) = u32::try_from(extent.end) else {
                continue;
            };
            let at = Position {
                segment: NUMBER,
                offset,
            };
            frame::put_own(&mut kept, at, offset, Kind::End);
        }
        let (end, kept) = (kept.len(), Bytes::from(kept));
        let mut again = Ledger::default();
        let found = replay(
            &mut again,
            Path::new("segment"),
            NUMBER,
            &kept,
            Place::Sealed,
            |_| false,
        );
        assert_eq!(found.map(|found| found.end).ok(), Some(end));
        let states = ledger.state();
        assert_eq!(states, again.state());
        assert_eq!(state::decode(&state::encode(&states)), Some(states));
    }
}

/// With this version's prefix, and right checksums for every frame whose length leads to the next.
fn sealed(bytes: &[u8]) -> Bytes {
    let mut sealed = bytes.to_vec();
    if let Some(start) = sealed.get_mut(..PREFIX) {
        start.copy_from_slice(&prefix(VERSION));
    }
    let mut at = PREFIX;
    while let Some(rest) = sealed.get_mut(at..).filter(|rest| rest.len() >= HEAD) {
        let Ok(offset) = u32::try_from(at) else { break };
        let position = Position {
            segment: NUMBER,
            offset,
        };
        let Some(length) = frame::seal(rest, position) else {
            break;
        };
        at += length;
    }
    sealed.into()
}
