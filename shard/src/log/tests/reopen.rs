//! What was saved is there after a restart, and reads as it was written.

use super::*;

#[test]
fn records_of_two_groups_survive_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path(), 1 << 20);
    append(&log.group(G1), [record(0, 1, "a"), record(1, 1, "b")]);
    append(&log.group(G2), [record(0, 7, "x")]);
    append(&log.group(G1), [record(2, 2, "")]);
    log.close();

    let log = open(dir.path(), 1 << 20);
    assert_eq!(
        all(&log.group(G1)),
        [record(0, 1, "a"), record(1, 1, "b"), record(2, 2, "")]
    );
    assert_eq!(all(&log.group(G2)), [record(0, 7, "x")]);
    assert_eq!(log.group(G1).last(), Some((LogIndex(2), Term(2))));
    assert_eq!(log.group(G1).first(), Some(LogIndex(0)));
    append(&log.group(G1), [record(3, 2, "goes on")]);
    assert_eq!(positions(&log.group(G1)).len(), 4);
    assert_eq!(log.group(GroupId(9)).last(), None);
}

#[test]
fn votes_and_commit_positions_survive_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path(), 1 << 20);
    durable(|done| log.group(G1).save_vote(Bytes::from_static(b"one"), done));
    durable(|done| log.group(G1).save_vote(Bytes::from_static(b"two"), done));
    log.group(G1).save_committed(Bytes::from_static(b"5")).unwrap();
    log.group(G1).save_committed(Bytes::from_static(b"6")).unwrap();
    assert_eq!(log.group(G1).committed().unwrap(), "6");
    drop(log);

    for _ in 0..3 {
        let log = open(dir.path(), 1 << 20);
        assert_eq!(log.group(G1).vote().unwrap(), "two");
        assert_eq!(log.group(G1).committed().unwrap(), "6");
        assert_eq!(log.group(G2).vote(), None);
    }
}

#[test]
fn reads_come_from_memory_from_the_queue_and_from_disk_alike() {
    let dir = tempfile::tempdir().unwrap();
    for cache_bytes in [0, 1000, 1 << 20] {
        let log = NodeLog::open(
            dir.path(),
            LogOptions {
                segment_bytes: 4096,
                cache_bytes,
            },
        )
        .unwrap();
        let group = log.group(G1);
        let start = group.last().map_or(0, |(last, _)| last.0 + 1);
        for index in start..start + 40 {
            group
                .append(vec![long_record(index, 1, 300)], Box::new(|_| {}))
                .unwrap();
            assert_eq!(all(&group).len() as u64, index + 1);
        }
        durable(|done| group.save_vote(Bytes::new(), done));
        let expected: Vec<_> = (0..start + 40).map(|index| long_record(index, 1, 300)).collect();
        assert_eq!(all(&group), expected);
        let some = group.read(LogIndex(3)..LogIndex(30), 1000).unwrap();
        assert_eq!(some, expected[3..6]);
        assert_eq!(group.read(LogIndex(3)..LogIndex(30), 0).unwrap(), expected[3..4]);
        assert_eq!(group.read(LogIndex(1000)..LogIndex(1001), 1000).unwrap(), []);
    }
}

#[test]
fn a_purge_beyond_the_end_leaves_an_empty_group_that_goes_on_after_it() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path(), 1 << 20);
    let group = log.group(G1);
    append(&group, [record(0, 1, "a")]);
    purge(&group, 50, 4);
    for log in [log, open_again(dir.path())] {
        let group = log.group(G1);
        assert_eq!(
            (group.first(), group.last()),
            (None, Some((LogIndex(50), Term(4))))
        );
        assert_eq!(group.purged(), Some((LogIndex(50), Bytes::from_static(b"note"))));
        let refused = group.append(vec![record(50, 4, "b")], Box::new(|_| {}));
        assert!(matches!(
            refused,
            Err(LogError::NotContiguous {
                expected: LogIndex(51),
                ..
            })
        ));
        let refused = group.truncate_after(Some(LogIndex(49)), Box::new(|_| {}));
        assert!(matches!(refused, Err(LogError::Purged { .. })));
        log.close();
    }
    let log = open_again(dir.path());
    append(&log.group(G1), [record(51, 5, "c")]);
    purge(&log.group(G1), 20, 1);
    assert_eq!(positions(&log.group(G1)), [(51, 5)]);
    assert_eq!(log.group(G1).purged().unwrap().0, LogIndex(50));
}

fn open_again(dir: &Path) -> NodeLog {
    // The array above is built while the first log is open.
    let copy = crashed_copy(dir);
    open(&copy.keep(), 1 << 20)
}

#[test]
fn one_directory_has_one_owner() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path(), 1 << 20);
    assert!(matches!(
        try_open(dir.path(), 1 << 20),
        Err(LogError::InUse { .. })
    ));
    let group = log.group(G1);
    log.close();
    assert!(matches!(
        group.save_committed(Bytes::new()),
        Err(LogError::Closed)
    ));
    assert!(matches!(
        group.read(LogIndex(0)..LogIndex(1), 1),
        Err(LogError::Closed)
    ));
    drop(open(dir.path(), 1 << 20));
}

#[test]
fn oversized_values_and_holes_are_refused_whole() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path(), 1 << 20);
    let group = log.group(G1);
    let large = Record {
        bytes: vec![1; super::super::MAX_RECORD_BYTES + 1].into(),
        ..record(1, 1, "")
    };
    let refused = group.append(vec![record(0, 1, "a"), large], Box::new(|_| {}));
    assert!(matches!(refused, Err(LogError::TooLarge { .. })));
    let refused = group.append(vec![record(0, 1, "a"), record(2, 1, "c")], Box::new(|_| {}));
    assert!(matches!(refused, Err(LogError::NotContiguous { .. })));
    assert_eq!(group.last(), None);
}

#[test]
fn a_handle_dropped_within_done_does_not_hang() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path(), 1 << 20);
    let (tell, told) = sync_channel(1);
    let (group, last_handle) = (log.group(G1), log.group(G1));
    drop(log);
    let done = move |_| {
        drop(last_handle);
        tell.send(()).unwrap();
    };
    group.save_vote(Bytes::new(), Box::new(done)).unwrap();
    drop(group);
    told.recv().unwrap();
}
