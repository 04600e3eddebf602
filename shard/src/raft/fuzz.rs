//! What replicas say to each other, and what they keep: entries, requests, snapshots.

use std::fmt::Debug;

use bytes::{Buf, Bytes};
use openraft::raft::{
    AppendEntriesResponse, SnapshotResponse, TransferLeaderRequest, VoteRequest, VoteResponse,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::codec::{decode, decode_append, decode_payload, encode, encode_append, encode_payload};
use super::network::decode_install;
use super::snapshot::Snapshot;
use super::types::{LogId, Payload, TypeConfig, Vote};
use crate::wal::WalHistory;

/// The body of a Raft frame, of whatever kind, as every kind; and what the log keeps besides entries.
pub fn raft_message(bytes: &[u8]) {
    if let Ok(request) = decode_append(Bytes::copy_from_slice(bytes)) {
        let wire = encode_append(&request)
            .expect("what was read can be written")
            .concat();
        let again = decode_append(wire.into()).expect("what was written can be read");
        assert_eq!(again.entries, request.entries);
        assert_eq!(
            (again.vote, again.prev_log_id, again.leader_commit),
            (request.vote, request.prev_log_id, request.leader_commit)
        );
    }
    if let Ok((vote, snapshot)) = decode_install(Bytes::copy_from_slice(bytes)) {
        plain::<Vote>(&encode(&vote).expect("plain values can be encoded"));
        same_snapshot(&snapshot.snapshot);
    }
    plain::<VoteRequest<TypeConfig>>(bytes);
    plain::<VoteResponse<TypeConfig>>(bytes);
    plain::<AppendEntriesResponse<TypeConfig>>(bytes);
    plain::<SnapshotResponse<TypeConfig>>(bytes);
    plain::<TransferLeaderRequest<TypeConfig>>(bytes);
    plain::<Vote>(bytes);
    plain::<Option<LogId>>(bytes);
    if let Ok(snapshot) = Snapshot::decode(bytes) {
        same_snapshot(&snapshot);
    }
    // The same with its frame made right.
    if let Ok(snapshot) = decode::<Snapshot>(bytes) {
        same_snapshot(&snapshot);
    }
}

fn same_snapshot(snapshot: &Snapshot) {
    let bytes = snapshot.encode().expect("what was read can be written");
    assert_eq!(
        &Snapshot::decode(&bytes).expect("what was written can be read"),
        snapshot
    );
}

/// What was read and written again is read as the same.
fn plain<T: Serialize + DeserializeOwned + Debug>(bytes: &[u8]) {
    if let Ok(value) = decode::<T>(bytes) {
        let again = encode(&value).expect("what was read can be written");
        let again: T = decode(&again).expect("what was written can be read");
        assert_eq!(format!("{again:?}"), format!("{value:?}"));
    }
}

/// A group's log: entries, each with its length (u16) before it. What they make of the WAL's history holds
/// whatever they say.
pub fn log_entries(bytes: &[u8]) {
    let mut rest = bytes;
    let mut history = WalHistory::default();
    while rest.len() >= 2 {
        let length = usize::from(rest.get_u16()).min(rest.len());
        let (entry, tail) = rest.split_at(length);
        rest = tail;
        let Ok(payload) = decode_payload(Bytes::copy_from_slice(entry)) else {
            continue;
        };
        let again = encode_payload(&payload).expect("what was read can be written");
        assert_eq!(
            decode_payload(again).expect("what was written can be read"),
            payload
        );
        let Payload::Normal(command) = payload else {
            continue;
        };
        let before = history.clone();
        match history.apply(&command) {
            Ok(applied) => {
                assert_eq!(
                    (Some(applied.timeline), applied.end),
                    (history.timeline(), history.end())
                );
                let timeline = applied.timeline;
                let (start, _) = history.branch(timeline).expect("the current timeline is known");
                assert!(start <= history.end(), "the log ends before its timeline starts");
                assert!(
                    before.timeline().is_none_or(|old| old <= timeline),
                    "an older timeline"
                );
                assert_eq!(history.writer_of(timeline, history.end()), Some(timeline));
                assert_eq!(history.successor(timeline), None);
            }
            Err(rejected) => {
                assert_eq!(history, before, "a refused entry took effect: {rejected}");
            }
        }
    }
}
