//! WAL, and both ends of the replication protocol.

use bytes::{Bytes, BytesMut};
use futures::FutureExt;

use super::command::{Request, Start, parse_command};
use super::frame::FrameReader;
use super::lsn::SEGMENT_SIZE;
use super::message::{
    Positions, Reply, StandbyMessage, StreamMessage, parse_error, parse_row, parse_standby_message,
    parse_stream_message, put_status,
};
use super::records::{PAGE_SIZE, RecordScanner};
use super::streaming::parse_next_timeline;
use super::{Lsn, parse_history_file};

/// Pages of WAL, from one of a few positions (the first byte), in pieces of a size (the second). The size of the
/// pieces changes nothing, and a boundary is never ahead of what was fed.
pub fn wal_records(bytes: &[u8]) {
    let [place, size, wal @ ..] = bytes else { return };
    let start = match place % 3 {
        0 => Lsn(SEGMENT_SIZE),
        1 => Lsn(SEGMENT_SIZE + 5 * PAGE_SIZE),
        _ => Lsn(2 * SEGMENT_SIZE - PAGE_SIZE),
    };
    let mut whole = RecordScanner::new(start);
    whole.feed(wal);
    let mut pieces = RecordScanner::new(start);
    for piece in wal.chunks(usize::from(*size) + 1) {
        let before = pieces.boundary();
        pieces.feed(piece);
        assert!(before <= pieces.boundary(), "a boundary went back");
        assert!(
            pieces.boundary() <= pieces.position(),
            "a boundary ahead of the bytes"
        );
    }
    let end = start + wal.len() as u64;
    assert_eq!((whole.position(), pieces.position()), (end, end));
    assert_eq!(
        whole.boundary(),
        pieces.boundary(),
        "pieces of {} bytes",
        usize::from(*size) + 1
    );
}

/// Messages of a replication connection, from either end: in frames, and bare.
pub fn replication_messages(bytes: &[u8]) {
    const LIMIT: usize = 1 << 20;
    let body = Bytes::copy_from_slice(bytes);
    replication_body(&body);
    for with_startup in [false, true] {
        let mut reader = FrameReader::new(std::io::Cursor::new(bytes.to_vec()), LIMIT, 4096);
        if with_startup && !matches!(reader.read_startup(LIMIT).now_or_never(), Some(Ok(_))) {
            continue;
        }
        while let Some(Ok(frame)) = reader.read().now_or_never() {
            assert!(frame.body.len() <= LIMIT);
            replication_body(&frame.body);
        }
    }
}

fn replication_body(body: &Bytes) {
    if let Ok(StreamMessage::XLogData { start, bytes }) = parse_stream_message(body.clone()) {
        assert!(
            start.0.checked_add(bytes.len() as u64).is_some(),
            "WAL behind the end of all positions"
        );
    }
    if let Ok(StandbyMessage::Status { positions, reply }) = parse_standby_message(body.clone()) {
        let mut out = BytesMut::new();
        put_status(&mut out, positions, reply);
        let again = parse_standby_message(out.freeze().slice(5..)).ok();
        assert_eq!(again, Some(StandbyMessage::Status { positions, reply }));
        let lowest = Positions::default();
        assert!(positions.flushed >= lowest.flushed && matches!(reply, Reply::Requested | Reply::NotNeeded));
    }
    if let Ok(row) = parse_row(body.clone()) {
        let values: usize = row.iter().flatten().map(Bytes::len).sum();
        assert!(values <= body.len(), "a row holds more than its message");
    }
    let (code, message) = parse_error(body.clone());
    assert!(
        code.len() + message.len() <= 3 * body.len(),
        "an error says more than its message"
    );
    if let Ok((timeline, at)) = parse_next_timeline(body.clone()) {
        assert_eq!(at.to_string().parse(), Ok(at), "of timeline {timeline}");
    }
}

/// A replication command, and a timeline's history file.
pub fn replication_text(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    if let Request::Start(Start { from, .. }) = parse_command(&text) {
        assert_eq!(from.to_string().parse(), Ok(from));
    }
    if let Ok(ancestors) = parse_history_file(&Bytes::copy_from_slice(bytes)) {
        assert!(ancestors.is_sorted_by_key(|ancestor| ancestor.timeline));
        let written: String = ancestors
            .iter()
            .map(|ancestor| format!("{}\t{}\twhy\n", ancestor.timeline, ancestor.end))
            .collect();
        assert_eq!(parse_history_file(&Bytes::from(written)), Ok(ancestors));
    }
}
