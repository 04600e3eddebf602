//! Promotions while the log ends inside a record (hazard 2).

use super::log::ALL;
use super::{Fed, Group, eventually};
use crate::wal::{Event, Lsn, ReceiverError, TimelineId, parse_history_file};

const ONE: TimelineId = TimelineId(1);
const TWO: TimelineId = TimelineId(2);

/// Where in a large record the log ends.
#[derive(Clone, Copy, PartialEq)]
enum LogEnd {
    SamePage,
    LaterPage,
    SegmentEnd,
    NextSegment,
}

impl Group {
    /// Fills the log so that it ends inside the record of a large message; answers where that
    /// record starts. A row (1) is before it.
    fn end_inside_a_record(&self, log_end: LogEnd) -> Lsn {
        let primary = &self.primary;
        primary.sql("INSERT INTO t VALUES (1)");
        if matches!(log_end, LogEnd::SegmentEnd | LogEnd::NextSegment) {
            let here = primary.lsn("pg_current_wal_insert_lsn()");
            // Up to some 20 KiB before the end of the segment; page headers take 24 of 8192.
            let length = here.next_segment().since(here) * 8168 / 8192 - 20_000;
            primary.sql(&format!(
                "SELECT pg_logical_emit_message(false, '', repeat('f', {length}))"
            ));
        }
        let start = primary.lsn("pg_current_wal_insert_lsn()");
        primary.sql("SELECT pg_logical_emit_message(true, 'cut', repeat('c', 200000))");
        let end = match log_end {
            LogEnd::SamePage => start + 40,
            LogEnd::LaterPage => start + 30_000,
            LogEnd::SegmentEnd => start.next_segment(),
            LogEnd::NextSegment => start.next_segment() + 20_000,
        };
        assert!(end < primary.lsn("pg_current_wal_flush_lsn()"));
        self.log.allow(end);
        eventually("the log ends inside", || self.log.end() == end);
        start
    }

    /// Promotes `standby`, and lets the log go on with its WAL; answers where it left timeline 1.
    async fn fail_over_to(&mut self, standby: &mut Fed) -> Lsn {
        let end = self.log.end();
        standby.until(|status| status.has_all(ONE, end)).await;
        self.primary.stop("immediate");
        standby.server.promote();

        let mut receiver = standby.server.receiver().await;
        assert_eq!(receiver.identify().await.unwrap().timeline, TWO);
        let file = receiver.history(TWO).await.unwrap();
        let parent = *parse_history_file(&file).unwrap().last().unwrap();
        assert_eq!(parent.timeline, ONE);
        let streaming = receiver.start(TWO, parent.end).await.unwrap();
        self.log.switch(TWO, parent.end, file);
        self.log.allow(ALL);
        self.log.receive(streaming, parent.end);
        parent.end
    }
}

/// Writes on the new primary and waits for the other standby to show it.
async fn follows(new_primary: &Fed, other: &mut Fed) {
    new_primary.server.sql("INSERT INTO t VALUES (2)");
    let position = new_primary.server.lsn("pg_current_wal_flush_lsn()");
    other
        .until(|status| status.timeline == Some(TWO) && status.replayed >= position)
        .await;
    assert_eq!(other.server.sql("SELECT n FROM t ORDER BY n"), "1\n2");
    assert_eq!(
        other.server.sql("SELECT received_tli FROM pg_stat_wal_receiver"),
        "2"
    );
}

/// The whole story, with standbys that are fed whole records.
async fn fails_over(log_end: LogEnd) {
    let mut group = Group::start(&[], 3).await;
    let record = group.end_inside_a_record(log_end);
    let (mut heir, mut other) = (group.standby(), group.standby());
    let end = group.log.end();
    let status = other.until(|status| status.has_all(ONE, end)).await;
    assert!(
        (record..record + 64).contains(&status.sendable),
        "{status:?} {record}"
    );

    let left = group.fail_over_to(&mut heir).await;
    assert_eq!(
        left, status.sendable,
        "the new timeline starts where the last whole record ends"
    );
    follows(&heir, &mut other).await;

    // So does a standby that was away all the time, and one that restarts.
    let mut late = group.standby();
    let position = group.log.end();
    late.until(|status| status.timeline == Some(TWO) && status.replayed >= position)
        .await;
    assert_eq!(late.server.sql("SELECT n FROM t ORDER BY n"), "1\n2");
    other.server.stop("immediate");
    other.server.start();
    heir.server.sql("INSERT INTO t VALUES (3)");
    let position = heir.server.lsn("pg_current_wal_flush_lsn()");
    other.replayed(position).await;
    late.replayed(position).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn log_ends_inside_a_record() {
    fails_over(LogEnd::SamePage).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn log_ends_inside_a_record_that_crosses_a_page() {
    fails_over(LogEnd::LaterPage).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn log_ends_inside_a_record_at_the_end_of_a_segment() {
    fails_over(LogEnd::SegmentEnd).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn log_ends_inside_a_record_that_crosses_a_segment() {
    fails_over(LogEnd::NextSegment).await;
}

/// The same where the other standby has flushed a part of the record, as PostgreSQL's own walsender
/// would have let it: answers the new primary and that standby, after the promotion.
async fn fails_over_with_a_part(log_end: LogEnd) -> (Fed, Fed, Lsn) {
    let mut group = Group::start(&[], 2).await;
    group.end_inside_a_record(log_end);
    let mut heir = group.standby();
    let copy = group.copies.pop().unwrap();
    let mut other = group.feed(copy, super::Sender::cutting_anywhere);
    let end = group.log.end();
    other.until(|status| status.flushed == end).await;
    let left = group.fail_over_to(&mut heir).await;
    assert!(left < end);
    (heir, other, left)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn standby_with_a_part_of_a_record_follows() {
    for log_end in [LogEnd::SamePage, LogEnd::LaterPage, LogEnd::NextSegment] {
        let (heir, mut other, _) = fails_over_with_a_part(log_end).await;
        follows(&heir, &mut other).await;
    }
}

/// Why the sender sends whole records only: this standby asks for the segment after the one where
/// the new timeline begins, receives and replays nothing until that one is reached, and then dies.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn standby_with_a_part_up_to_a_segment_end_stalls_and_dies() {
    let (heir, mut other, left) = fails_over_with_a_part(LogEnd::SegmentEnd).await;
    heir.server.sql("INSERT INTO t VALUES (2)");
    let status = other
        .until(|status| status.timeline == Some(TWO) && status.flushed > Lsn(0))
        .await;
    assert_eq!(status.scanned, left.next_segment(), "what it asked for");
    assert_eq!(status.flushed, left, "a promotion would not take it for complete");
    heir.server
        .sql("SELECT pg_switch_wal(); INSERT INTO t VALUES (3)");
    let panic = "PANIC:  could not open file \"pg_wal/000000020000000000000001\"";
    eventually("PostgreSQL dies", || other.server.log().contains(panic));

    // Started again it begins from its last checkpoint, and then asks for the right segment.
    eventually("the dead server is gone", || {
        !other.server.data().join("postmaster.pid").exists()
    });
    other.server.start();
    let position = heir.server.lsn("pg_current_wal_flush_lsn()");
    other.replayed(position).await;
    assert_eq!(other.server.sql("SELECT n FROM t ORDER BY n"), "1\n2\n3");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn receiver_is_told_where_a_timeline_ends() {
    let mut group = Group::start(&[], 1).await;
    group.end_inside_a_record(LogEnd::LaterPage);
    let mut heir = group.standby();
    let left = group.fail_over_to(&mut heir).await;
    let ended = Event::TimelineEnded { next: TWO, at: left };
    for from in [left.segment_start(), left] {
        let receiver = heir.server.receiver().await;
        let mut streaming = receiver.start(ONE, from).await.unwrap();
        let mut position = from;
        while let Event::Wal { start, bytes } = streaming.next().await.unwrap() {
            assert_eq!(start, position);
            position = start + bytes.len() as u64;
        }
        assert_eq!(position, left);
        assert_eq!(streaming.next().await.unwrap(), ended);
    }
    let receiver = heir.server.receiver().await;
    let refused = receiver.start(ONE, left + 1).await;
    assert!(matches!(refused, Err(ReceiverError::Refused { .. })));
}
