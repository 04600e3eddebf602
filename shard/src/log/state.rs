//! The body of a segment's first frame: the state of every group (drawn in the module's documentation).

use bytes::{Buf, BufMut, Bytes};

use super::ledger::{GroupState, Run};
use super::span::Purged;
use crate::id::{GroupId, LogIndex, Term};

/// In place of a length: there is no value.
const NONE: u32 = u32::MAX;

/// Writes the state of all groups.
pub(super) fn encode(states: &[GroupState]) -> Vec<u8> {
    let mut out = Vec::new();
    out.put_u32_le(count(states.len()));
    for state in states {
        out.put_u32_le(state.group.0);
        put_bytes(&mut out, state.vote.as_ref());
        put_bytes(&mut out, state.committed.as_ref());
        put_bytes(&mut out, state.purged.as_ref().map(|purged| &purged.note));
        if let Some(purged) = &state.purged {
            out.put_u64_le(purged.index.0);
            out.put_u64_le(purged.term.0);
        }
        out.put_u32_le(count(state.runs.len()));
        for run in &state.runs {
            out.put_u64_le(run.segment);
            out.put_u64_le(run.first.0);
            out.put_u64_le(run.last.0);
        }
    }
    out
}

/// Reads what [`encode`] wrote. `None`: it did not write this.
pub(super) fn decode(body: &[u8]) -> Option<Vec<GroupState>> {
    let mut rest = body;
    let mut states = Vec::new();
    for _ in 0..rest.try_get_u32_le().ok()? {
        let group = GroupId(rest.try_get_u32_le().ok()?);
        let vote = get_bytes(&mut rest)?;
        let committed = get_bytes(&mut rest)?;
        let purged = match get_bytes(&mut rest)? {
            None => None,
            Some(note) => {
                let index = LogIndex(rest.try_get_u64_le().ok()?);
                Some(Purged {
                    index,
                    term: Term(rest.try_get_u64_le().ok()?),
                    note,
                })
            }
        };
        let mut runs = Vec::new();
        for _ in 0..rest.try_get_u32_le().ok()? {
            let segment = rest.try_get_u64_le().ok()?;
            let first = LogIndex(rest.try_get_u64_le().ok()?);
            runs.push(Run {
                segment,
                first,
                last: LogIndex(rest.try_get_u64_le().ok()?),
            });
        }
        states.push(GroupState {
            group,
            vote,
            committed,
            purged,
            runs,
        });
    }
    rest.is_empty().then_some(states)
}

fn put_bytes(out: &mut Vec<u8>, bytes: Option<&Bytes>) {
    match bytes {
        None => out.put_u32_le(NONE),
        Some(bytes) => {
            out.put_u32_le(count(bytes.len()));
            out.put_slice(bytes);
        }
    }
}

/// The outer option: the bytes are there. The inner one: there is a value.
#[expect(
    clippy::option_option,
    reason = "two different things can be missing, and the caller's `?` takes the outer"
)]
fn get_bytes(rest: &mut &[u8]) -> Option<Option<Bytes>> {
    let length = rest.try_get_u32_le().ok()?;
    if length == NONE {
        return Some(None);
    }
    let (bytes, tail) = rest.split_at_checked(length as usize)?;
    *rest = tail;
    Some(Some(Bytes::copy_from_slice(bytes)))
}

fn count(n: usize) -> u32 {
    u32::try_from(n).expect("groups, runs and notes are bounded far below 4 billion")
}
