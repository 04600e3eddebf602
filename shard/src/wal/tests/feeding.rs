//! A standby has what the log has committed, and the primary acknowledges it then only.

use super::log::ALL;
use super::{Group, eventually};
use crate::wal::{Event, RebuildReason, SEGMENT_SIZE};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn standby_replays_what_is_committed_and_no_further() {
    let mut group = Group::start(&[], 1).await;
    group.primary.sql("INSERT INTO t VALUES (1)");
    let first = group.primary.lsn("pg_current_wal_insert_lsn()");
    group.primary.sql("INSERT INTO t VALUES (2)");
    let second = group.primary.lsn("pg_current_wal_flush_lsn()");
    // The log ends inside the second insert's records.
    group.log.allow(first + 20);
    eventually("the log has it", || group.log.end() == first + 20);

    let mut standby = group.standby();
    let status = standby.until(|status| status.replayed >= first).await;
    assert_eq!(standby.server.sql("SELECT n FROM t"), "1");
    assert_eq!((status.sendable, status.scanned), (first, first + 20));
    let timeline = status.timeline.unwrap();
    standby.until(|status| status.has_all(timeline, first + 20)).await;

    // It stays there while the primary goes on: even after several keepalives.
    for _ in 0..3 {
        standby.status.mark_unchanged();
        standby.status.changed().await.unwrap();
        assert_eq!(standby.server.lsn("pg_last_wal_receive_lsn()"), first);
        assert_eq!(standby.server.sql("SELECT n FROM t"), "1");
    }
    assert!(!standby.status.borrow().has_all(timeline, second));

    group.log.allow(ALL);
    standby.replayed(second).await;
    assert_eq!(standby.server.sql("SELECT n FROM t ORDER BY n"), "1\n2");

    // Across segments, with a record that is larger than what the sender holds in memory.
    group
        .primary
        .sql("SELECT pg_logical_emit_message(false, 'big', repeat('x', 20000000))");
    group
        .primary
        .sql("INSERT INTO t VALUES (3); SELECT pg_switch_wal(); INSERT INTO t VALUES (4)");
    let third = group.primary.lsn("pg_current_wal_flush_lsn()");
    standby.replayed(third).await;
    assert_eq!(standby.server.sql("SELECT n FROM t ORDER BY n"), "1\n2\n3\n4");

    // A restarted standby asks for its segment again, and goes on.
    standby.server.stop("immediate");
    standby.server.start();
    group.primary.sql("INSERT INTO t VALUES (5)");
    let fourth = group.primary.lsn("pg_current_wal_flush_lsn()");
    standby.replayed(fourth).await;
    assert_eq!(standby.server.sql("SELECT max(n) FROM t"), "5");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commit_waits_until_the_log_has_it() {
    let settings = ["synchronous_standby_names = 'howdah'", "wal_sender_timeout = 2s"];
    let group = Group::start(&settings, 0).await;
    let state = "SELECT sync_state FROM pg_stat_replication WHERE application_name = 'howdah'";
    eventually("our receiver is the synchronous standby", || {
        group.primary.sql(state) == "sync"
    });
    let before = group.primary.lsn("pg_current_wal_insert_lsn()");
    group.log.allow(before);

    let waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'";
    std::thread::scope(|scope| {
        let insert = scope.spawn(|| group.primary.sql("INSERT INTO t VALUES (1)"));
        eventually("the commit waits", || group.primary.sql(waiting) == "1");
        // It goes on waiting beyond wal_sender_timeout, which our answers keep from striking.
        let clock = std::time::Instant::now();
        while clock.elapsed() < std::time::Duration::from_secs(5) {
            assert_eq!(
                group.primary.sql("SELECT count(*) FROM t"),
                "0",
                "not visible before"
            );
            assert_eq!(group.primary.sql(state), "sync");
        }
        assert!(!insert.is_finished());

        let end = group.primary.lsn("pg_current_wal_insert_lsn()");
        group.log.allow(end - 1);
        assert_eq!(
            group.primary.sql(waiting),
            "1",
            "a part of the commit record is not enough"
        );
        group.log.allow(ALL);
        insert.join().unwrap();
    });
    assert_eq!(group.primary.sql("SELECT count(*) FROM t"), "1");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn purged_position_is_told_to_the_standby_and_its_owner() {
    let mut group = Group::start(&[], 1).await;
    group.log.allow(ALL);
    let asked = group.primary.lsn("pg_current_wal_insert_lsn()").segment_start();
    group.log.purge(asked + SEGMENT_SIZE);
    let mut standby = group.standby();
    let status = standby.until(|status| status.rebuild.is_some()).await;
    let first = asked + SEGMENT_SIZE;
    assert_eq!(status.rebuild, Some(RebuildReason::Purged { asked, first }));
    eventually("the standby logs why", || {
        standby
            .server
            .log()
            .contains("requested WAL has already been removed")
    });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn checkpoint_keeps_what_was_not_reported() {
    let group = Group::start(&[], 0).await;
    let mut receiver = group.primary.receiver().await;
    let identity = receiver.identify().await.unwrap();
    let from = identity.flushed.segment_start();
    let mut streaming = receiver.start(identity.timeline, from).await.unwrap();
    streaming.status().report_flushed(from);
    group.log.allow(ALL);
    for _ in 0..3 {
        let fill = "SELECT pg_logical_emit_message(false, '', repeat('x', 20000000))";
        group.primary.sql(&format!("{fill}; SELECT pg_switch_wal()"));
        group.primary.sql("CHECKPOINT");
    }
    let end = group.primary.lsn("pg_current_wal_flush_lsn()");
    let mut position = from;
    while position < end {
        let Event::Wal { start, bytes } = streaming.next().await.unwrap() else {
            panic!("the timeline did not end");
        };
        assert_eq!(start, position);
        assert!(start + bytes.len() as u64 <= start.next_segment());
        position = start + bytes.len() as u64;
    }
}
