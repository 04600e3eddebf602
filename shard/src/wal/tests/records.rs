//! The record scanner sees what `pg_waldump` sees.

use std::collections::BTreeSet;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::log::ALL;
use super::{Group, eventually};
use crate::wal::records::RecordScanner;
use crate::wal::{Lsn, SEGMENT_SIZE, TimelineId, WalSource};

/// A boundary as the start of the record after it: behind the page header, where one follows.
fn next_record(boundary: Lsn) -> Lsn {
    match (boundary.0 % SEGMENT_SIZE, boundary.0 % 8192) {
        (0, _) => boundary + 40,
        (_, 0) => boundary + 24,
        _ => boundary,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn scanner_agrees_with_pg_waldump() {
    let group = Group::start(&["wal_keep_size = 1GB"], 0).await;
    group.log.allow(ALL);
    group.primary.sql(
        "INSERT INTO t SELECT generate_series(1, 3000);
         SELECT pg_logical_emit_message(false, '', repeat('x', n)) FROM generate_series(1, 900) n;
         SELECT pg_switch_wal();
         SELECT pg_logical_emit_message(false, '', repeat('y', 20000000));
         CHECKPOINT;
         SELECT pg_switch_wal();
         INSERT INTO t SELECT generate_series(1, 3000)",
    );
    let end = group.primary.lsn("pg_current_wal_flush_lsn()");
    eventually("all is received", || group.log.end() >= end);
    let start = end.segment_start() - 5 * SEGMENT_SIZE;
    let start = Lsn(start.0.max(SEGMENT_SIZE));

    let mut bytes = Vec::new();
    while start + (bytes.len() as u64) < end {
        let from = start + bytes.len() as u64;
        let max = usize::try_from(end.since(from)).unwrap();
        bytes.extend_from_slice(&group.log.read(TimelineId(1), from, max).await.unwrap());
    }
    let mut every = RecordScanner::new(start);
    let mut seen = BTreeSet::new();
    let mut last = None;
    for byte in &bytes {
        every.feed(std::slice::from_ref(byte));
        if last.replace(every.boundary()) != Some(every.boundary()) {
            seen.insert(next_record(every.boundary()));
        }
    }
    assert_eq!(every.boundary(), end);
    seen.remove(&next_record(end));
    let truth: BTreeSet<Lsn> = group.primary.records(start, end).into_iter().collect();
    assert!(truth.len() > 5000);
    // The scan begins in the middle of nothing: its first boundary is the page itself.
    assert_eq!(seen, truth);

    // However the bytes are cut, and wherever a scan begins, the boundaries are among the true ones.
    let mut random = StdRng::seed_from_u64(7);
    for _ in 0..50 {
        let first = random.random_range(0..bytes.len() / 8192) * 8192;
        // A page in the zeros after a switch record says nothing about what follows.
        if bytes[first..first + 2] == [0, 0] {
            continue;
        }
        let mut scanner = RecordScanner::new(start + first as u64);
        let mut at = first;
        while at < bytes.len() {
            let next = bytes.len().min(at + random.random_range(1..300_000));
            scanner.feed(&bytes[at..next]);
            at = next;
            let boundary = scanner.boundary();
            let page = boundary == start + first as u64;
            assert!(page || boundary == end || truth.contains(&next_record(boundary)));
        }
        assert_eq!(scanner.boundary(), end);
    }
}

#[test]
fn scanner_lets_garbage_pass() {
    let mut random = StdRng::seed_from_u64(8);
    for round in 0..200 {
        let mut bytes = vec![0_u8; random.random_range(1..100_000)];
        random.fill(&mut bytes[..]);
        let mut scanner = RecordScanner::new(Lsn(round * 8192));
        let mut last = scanner.boundary();
        for piece in bytes.chunks(random.random_range(1..9000)) {
            scanner.feed(piece);
            assert!(last <= scanner.boundary() && scanner.boundary() <= scanner.position());
            last = scanner.boundary();
        }
        assert_eq!(scanner.position(), Lsn(round * 8192 + bytes.len() as u64));
    }
}
