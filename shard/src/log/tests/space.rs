//! Segments that nobody needs go, whichever they are, and nothing that was cut comes back.

use super::*;

/// Room for six records of 100 bytes.
const SIX: u64 = 6 * 144;

fn hundred(index: u64, term: u64) -> Record {
    long_record(index, term, 100)
}

#[test]
fn cut_records_stay_cut_when_the_segment_that_says_so_is_gone() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path(), SIX);
    let (one, two) = (log.group(G1), log.group(G2));
    append(&one, (1..=6).map(|index| hundred(index, 1)));
    let first = last_segment(dir.path());
    // The second segment: the cut, and records that are cut in their turn.
    truncate_after(&one, 4);
    append(&one, [hundred(5, 2), hundred(6, 2)]);
    let second = last_segment(dir.path());
    assert_ne!(first.0, second.0);
    append(&two, (1..=8).map(|index| hundred(index, 1)));
    assert_ne!(second.0, last_segment(dir.path()).0);
    truncate_after(&one, 4);
    append(&one, [hundred(5, 3)]);
    purge(&two, 8, 1);
    log.close();
    assert!(!second.1.exists() && first.1.exists());

    let log = open(dir.path(), SIX);
    assert_eq!(
        positions(&log.group(G1)),
        [(1, 1), (2, 1), (3, 1), (4, 1), (5, 3)]
    );
    assert_eq!(all(&log.group(G1))[4], hundred(5, 3));
}

#[test]
fn a_cut_alone_stays_when_its_segment_is_gone() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path(), SIX);
    let (one, two) = (log.group(G1), log.group(G2));
    append(&one, (1..=6).map(|index| hundred(index, 1)));
    truncate_after(&one, 3);
    let second = last_segment(dir.path());
    append(&two, (1..=7).map(|index| hundred(index, 1)));
    purge(&two, 7, 1);
    log.close();
    assert!(!second.1.exists());
    let log = open(dir.path(), SIX);
    assert_eq!(positions(&log.group(G1)), [(1, 1), (2, 1), (3, 1)]);
}

#[test]
fn disk_use_stays_bounded_while_an_idle_group_keeps_an_old_record() {
    const SEGMENT: u64 = 64 * 1024;
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path(), SEGMENT);
    let (idle, busy) = (log.group(G1), log.group(G2));
    append(&idle, [record(0, 1, "old")]);
    for index in 0..3000 {
        busy.append(vec![long_record(index, 1, 4096)], Box::new(|_| {}))
            .unwrap();
        if index % 500 == 0 {
            // A slow group: each of its records would pin another segment.
            append(&idle, [record(index / 500 + 1, 1, "slow")]);
        }
        if index % 20 == 19 {
            purge(&busy, index - 10, 1);
            assert!(
                log.disk_bytes() < 6 * SEGMENT,
                "{} bytes after {index} records",
                log.disk_bytes()
            );
        }
    }
    log.close();
    let on_disk: u64 = segments(dir.path())
        .iter()
        .map(|(_, path)| fs::metadata(path).unwrap().len())
        .sum();
    assert!(on_disk < 6 * SEGMENT, "{on_disk} bytes");
    let log = open(dir.path(), SEGMENT);
    assert_eq!(all(&log.group(G1))[0], record(0, 1, "old"));
    assert_eq!(positions(&log.group(G1)).len(), 7);
    assert_eq!(
        all(&log.group(G2)),
        (2990..3000)
            .map(|index| long_record(index, 1, 4096))
            .collect::<Vec<_>>()
    );
}

#[test]
fn restarts_do_not_pile_up_segments() {
    let dir = tempfile::tempdir().unwrap();
    for index in 0..30 {
        let log = open(dir.path(), 1 << 20);
        append(&log.group(G1), [hundred(index, 1)]);
        // The second batch comes after the tidying that the first one found due.
        durable(|done| log.group(G1).save_vote(Bytes::new(), done));
    }
    assert!(segments(dir.path()).len() < 6, "{:?}", segments(dir.path()));
    assert_eq!(positions(&open(dir.path(), 1 << 20).group(G1)).len(), 30);
}

#[test]
fn a_record_larger_than_a_segment_is_kept() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path(), 4096);
    append(&log.group(G1), (0..5).map(|index| long_record(index, 1, 3 << 20)));
    log.close();
    let log = open(dir.path(), 4096);
    assert_eq!(
        all(&log.group(G1)),
        (0..5)
            .map(|index| long_record(index, 1, 3 << 20))
            .collect::<Vec<_>>()
    );
}
