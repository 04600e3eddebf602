//! How entries and requests are written as bytes, in the log and between nodes.
//!
//! An entry, in the log and in an append request alike:
//!
//! ```text
//! version u8 = 1 | tag u8 | content
//!   tag 0 blank       nothing
//!   tag 1 membership  postcard
//!   tag 2 genesis     postcard
//!   tag 3 WAL         timeline u32 | start u64 | the bytes, as PostgreSQL wrote them
//!   tag 4 switch      postcard
//! ```
//!
//! An append request: `header length u32 | header (postcard) | the entries, one after the other`.
//! Numbers outside postcard are big endian. Reading slices the buffer and copies no WAL.

use std::io;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use openraft::raft::AppendEntriesRequest;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::types::{Entry, LogId, Payload, TypeConfig, Vote, log_id, term_of};
use crate::entry::{Command, WalChunk};
use crate::id::{LogIndex, Term};
use crate::wal::{Lsn, TimelineId};

const VERSION: u8 = 1;
const WAL_HEADER: usize = 2 + 4 + 8;

/// Bytes that are not what they should be.
pub(crate) fn invalid(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

/// Writes a value whose type fixes its form.
pub(crate) fn encode<T: Serialize>(value: &T) -> io::Result<Bytes> {
    postcard::to_stdvec(value)
        .map(Bytes::from)
        .map_err(io::Error::other)
}

/// Reads what [`encode`] wrote.
pub(crate) fn decode<T: DeserializeOwned>(bytes: &[u8]) -> io::Result<T> {
    postcard::from_bytes(bytes).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

/// The entry's bytes, in one or two pieces; the second is the WAL itself.
fn pieces(payload: &Payload) -> io::Result<(Bytes, Option<Bytes>)> {
    let (tag, content) = match payload {
        Payload::Blank => (0, Bytes::new()),
        Payload::Membership(membership) => (1, encode(membership)?),
        Payload::Normal(Command::Genesis(genesis)) => (2, encode(genesis)?),
        Payload::Normal(Command::Wal(chunk)) => {
            let mut head = BytesMut::with_capacity(WAL_HEADER);
            head.put_slice(&[VERSION, 3]);
            head.put_u32(chunk.timeline.0);
            head.put_u64(chunk.start.0);
            return Ok((head.freeze(), Some(chunk.bytes.clone())));
        }
        Payload::Normal(Command::Switch(switch)) => (4, encode(switch)?),
    };
    let mut whole = BytesMut::with_capacity(2 + content.len());
    whole.put_slice(&[VERSION, tag]);
    whole.put_slice(&content);
    Ok((whole.freeze(), None))
}

/// An entry's bytes for the log.
pub(crate) fn encode_payload(payload: &Payload) -> io::Result<Bytes> {
    let (head, wal) = pieces(payload)?;
    let Some(wal) = wal else { return Ok(head) };
    let mut whole = BytesMut::with_capacity(head.len() + wal.len());
    whole.put_slice(&head);
    whole.put_slice(&wal);
    Ok(whole.freeze())
}

/// Reads what [`encode_payload`] wrote.
pub(crate) fn decode_payload(mut bytes: Bytes) -> io::Result<Payload> {
    if bytes.len() < 2 {
        return Err(invalid("an entry without a header"));
    }
    if bytes.get_u8() != VERSION {
        return Err(invalid("an entry of unknown version"));
    }
    Ok(match bytes.get_u8() {
        0 => Payload::Blank,
        1 => Payload::Membership(decode(&bytes)?),
        2 => Payload::Normal(Command::Genesis(decode(&bytes)?)),
        3 => {
            if bytes.len() < WAL_HEADER - 2 {
                return Err(invalid("a WAL entry without a position"));
            }
            let timeline = TimelineId(bytes.get_u32());
            let start = Lsn(bytes.get_u64());
            if start.0.checked_add(bytes.len() as u64).is_none() {
                return Err(invalid("a WAL entry behind the end of all positions"));
            }
            Payload::Normal(Command::Wal(WalChunk {
                timeline,
                start,
                bytes,
            }))
        }
        4 => Payload::Normal(Command::Switch(decode(&bytes)?)),
        _ => return Err(invalid("an entry of unknown kind")),
    })
}

/// An append request without its entries.
#[derive(Serialize, Deserialize)]
struct AppendHeader {
    vote: Vote,
    prev: Option<LogId>,
    committed: Option<LogId>,
    /// Term, index and length of each entry.
    entries: Vec<(Term, LogIndex, u32)>,
}

/// An append request's bytes, in pieces.
pub(crate) fn encode_append(request: &AppendEntriesRequest<TypeConfig>) -> io::Result<Vec<Bytes>> {
    let mut body = vec![Bytes::new()];
    let mut entries = Vec::with_capacity(request.entries.len());
    for entry in &request.entries {
        let (head, wal) = pieces(&entry.payload)?;
        let length = head.len() + wal.as_ref().map_or(0, Bytes::len);
        let length = u32::try_from(length).map_err(io::Error::other)?;
        entries.push((term_of(&entry.log_id), LogIndex(entry.log_id.index), length));
        body.push(head);
        body.extend(wal);
    }
    let header = encode(&AppendHeader {
        vote: request.vote,
        prev: request.prev_log_id,
        committed: request.leader_commit,
        entries,
    })?;
    let mut start = BytesMut::with_capacity(4 + header.len());
    start.put_u32(u32::try_from(header.len()).map_err(io::Error::other)?);
    start.put_slice(&header);
    body[0] = start.freeze();
    Ok(body)
}

/// Reads what [`encode_append`] wrote.
pub(crate) fn decode_append(mut bytes: Bytes) -> io::Result<AppendEntriesRequest<TypeConfig>> {
    if bytes.len() < 4 {
        return Err(invalid("an append request without a header"));
    }
    let length = usize::try_from(bytes.get_u32()).map_err(io::Error::other)?;
    if length > bytes.len() {
        return Err(invalid("an append request with a cut header"));
    }
    let header: AppendHeader = decode(&bytes.split_to(length))?;
    let mut entries = Vec::with_capacity(header.entries.len());
    let mut expected = header.prev.map_or(0, |prev| prev.index.saturating_add(1));
    for (term, index, length) in header.entries {
        let length = usize::try_from(length).map_err(io::Error::other)?;
        if length > bytes.len() || index.0 != expected {
            return Err(invalid("an append request with a hole or a cut entry"));
        }
        expected = expected.saturating_add(1);
        let payload = decode_payload(bytes.split_to(length))?;
        entries.push(Entry {
            log_id: log_id(term, index),
            payload,
        });
    }
    Ok(AppendEntriesRequest {
        vote: header.vote,
        prev_log_id: header.prev,
        leader_commit: header.committed,
        entries,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entry::{Genesis, TimelineSwitch};
    use crate::id::NodeId;

    fn every_kind() -> Vec<Payload> {
        vec![
            Payload::Blank,
            Payload::Membership(openraft::Membership::new_with_defaults(
                vec![[NodeId(1), NodeId(2)].into()],
                [],
            )),
            Payload::Normal(Command::Genesis(Genesis {
                system_id: "7412345678901234567".into(),
                start: Lsn(1 << 24),
                origin: NodeId(1),
            })),
            Payload::Normal(Command::Wal(WalChunk {
                timeline: TimelineId(2),
                start: Lsn(5),
                bytes: Bytes::from(vec![9; 100_000]),
            })),
            Payload::Normal(Command::Switch(TimelineSwitch {
                timeline: TimelineId(2),
                at: Lsn(7),
                after: Lsn(8),
                origin: NodeId(3),
                history: Bytes::from_static(b"1\t0/7\twhy\n"),
            })),
        ]
    }

    #[test]
    fn entries_come_back_as_they_went() {
        for payload in every_kind() {
            assert_eq!(
                decode_payload(encode_payload(&payload).unwrap()).unwrap(),
                payload
            );
        }
    }

    #[test]
    fn append_requests_come_back_as_they_went_and_cut_ones_are_refused() {
        let entries: Vec<Entry> = (5..)
            .zip(every_kind())
            .map(|(index, payload)| Entry {
                log_id: log_id(Term(3), LogIndex(index)),
                payload,
            })
            .collect();
        let request = AppendEntriesRequest {
            vote: Vote::new_committed(3, NodeId(2)),
            prev_log_id: Some(log_id(Term(2), LogIndex(4))),
            leader_commit: Some(log_id(Term(2), LogIndex(3))),
            entries: entries.clone(),
        };
        let wire = Bytes::from(encode_append(&request).unwrap().concat());
        let back = decode_append(wire.clone()).unwrap();
        assert_eq!((back.vote, back.prev_log_id), (request.vote, request.prev_log_id));
        assert_eq!(back.leader_commit, request.leader_commit);
        assert_eq!(back.entries, entries);
        for cut in [0, 3, 10, 40, 60, 1000, wire.len() - 1] {
            assert!(decode_append(wire.slice(..cut)).is_err(), "cut at {cut}");
        }
    }
}
