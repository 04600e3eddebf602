//! The messages of physical replication.
//!
//! In copy mode the body of a `d` frame holds one replication message
//! (<https://www.postgresql.org/docs/15/protocol-replication.html>):
//!
//! ```text
//! XLogData       'w'  start u64 | end of WAL u64 | clock i64 (us since 2000-01-01) | WAL bytes
//! keepalive      'k'  end of WAL u64 | clock i64 | reply requested u8
//! status update  'r'  written u64 | flushed u64 | replayed u64 | clock i64 | reply requested u8
//! feedback       'h'  hot standby feedback, which Howdah reads over
//! ```

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::Lsn;
use super::frame::{WireError, put_frame, take_str};

/// Bytes of an XLogData message before its WAL, its `w` included.
const XLOG_DATA_HEADER: usize = 25;

/// Seconds from the Unix epoch to PostgreSQL's, 2000-01-01.
const POSTGRES_EPOCH: Duration = Duration::from_secs(946_684_800);

/// What the server says inside a replication stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum StreamMessage {
    /// WAL bytes, and where they start.
    XLogData { start: Lsn, bytes: Bytes },
    /// The server is alive, and may want an answer now.
    Keepalive { reply: Reply },
}

/// Whether the peer asked for an answer at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reply {
    Requested,
    NotNeeded,
}

impl Reply {
    fn from_byte(byte: u8) -> Reply {
        if byte == 0 {
            Reply::NotNeeded
        } else {
            Reply::Requested
        }
    }

    fn byte(self) -> u8 {
        u8::from(self == Reply::Requested)
    }
}

/// Positions that a receiver of WAL reports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Positions {
    pub(crate) written: Lsn,
    pub(crate) flushed: Lsn,
    pub(crate) replayed: Lsn,
}

/// What the client says inside a replication stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StandbyMessage {
    Status {
        positions: Positions,
        reply: Reply,
    },
    /// Hot standby feedback, or anything newer that we need not understand.
    Other,
}

/// Parses the body of the server's `d` frame, without copying the WAL.
pub(crate) fn parse_stream_message(mut body: Bytes) -> Result<StreamMessage, WireError> {
    match body.first() {
        Some(b'w') if body.len() >= XLOG_DATA_HEADER => {
            body.advance(1);
            let start = Lsn(body.get_u64());
            body.advance(16);
            // A position near the end of the 64-bit space would overflow the sums made with it.
            if start.0.checked_add(body.len() as u64).is_none() {
                return Err(WireError::Malformed("XLogData"));
            }
            Ok(StreamMessage::XLogData { start, bytes: body })
        }
        Some(b'k') if body.len() >= 18 => {
            let reply = Reply::from_byte(body[17]);
            Ok(StreamMessage::Keepalive { reply })
        }
        _ => Err(WireError::Malformed("replication")),
    }
}

/// Parses the body of the client's `d` frame.
pub(crate) fn parse_standby_message(mut body: Bytes) -> Result<StandbyMessage, WireError> {
    match body.first() {
        Some(b'r') if body.len() >= 34 => {
            body.advance(1);
            let (written, flushed) = (Lsn(body.get_u64()), Lsn(body.get_u64()));
            let replayed = Lsn(body.get_u64());
            body.advance(8);
            let reply = Reply::from_byte(body.get_u8());
            let positions = Positions {
                written,
                flushed,
                replayed,
            };
            Ok(StandbyMessage::Status { positions, reply })
        }
        Some(b'r') | None => Err(WireError::Malformed("standby status")),
        Some(_) => Ok(StandbyMessage::Other),
    }
}

/// Appends a `d` frame with a status update.
pub(crate) fn put_status(out: &mut BytesMut, positions: Positions, reply: Reply) {
    put_frame(out, b'd', |out| {
        out.put_u8(b'r');
        out.put_u64(positions.written.0);
        out.put_u64(positions.flushed.0);
        out.put_u64(positions.replayed.0);
        out.put_i64(postgres_clock());
        out.put_u8(reply.byte());
    });
}

/// Appends a `d` frame with a keepalive.
pub(crate) fn put_keepalive(out: &mut BytesMut, end: Lsn, reply: Reply) {
    put_frame(out, b'd', |out| {
        out.put_u8(b'k');
        out.put_u64(end.0);
        out.put_i64(postgres_clock());
        out.put_u8(reply.byte());
    });
}

/// Appends the start of a `d` frame with XLogData; the caller sends `length` bytes of WAL after it.
pub(crate) fn put_xlog_data_header(out: &mut BytesMut, start: Lsn, end_of_wal: Lsn, length: usize) {
    let length = u32::try_from(4 + XLOG_DATA_HEADER + length).expect("XLogData is at most 128 KiB");
    out.put_u8(b'd');
    out.put_u32(length);
    out.put_u8(b'w');
    out.put_u64(start.0);
    out.put_u64(end_of_wal.0);
    out.put_i64(postgres_clock());
}

/// Now, in microseconds since 2000-01-01, as PostgreSQL counts. Only shown to people.
fn postgres_clock() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(now.saturating_sub(POSTGRES_EPOCH).as_micros()).unwrap_or(i64::MAX)
}

/// The SQLSTATE and the message of an ErrorResponse's body.
pub(crate) fn parse_error(mut body: Bytes) -> (String, String) {
    let (mut code, mut message) = (String::new(), String::new());
    while !body.is_empty() {
        let field = body.get_u8();
        let Some(text) = take_str(&mut body) else { break };
        match field {
            b'C' => code = text,
            b'M' => message = text,
            _ => {}
        }
    }
    (code, message)
}

/// The columns of a DataRow's body; none for NULL.
pub(crate) fn parse_row(mut body: Bytes) -> Result<Vec<Option<Bytes>>, WireError> {
    let malformed = || WireError::Malformed("DataRow");
    if body.len() < 2 {
        return Err(malformed());
    }
    let count = body.get_u16();
    let mut columns = Vec::new();
    for _ in 0..count {
        if body.len() < 4 {
            return Err(malformed());
        }
        match usize::try_from(body.get_i32()) {
            Err(_) => columns.push(None),
            Ok(length) if length <= body.len() => columns.push(Some(body.split_to(length))),
            Ok(_) => return Err(malformed()),
        }
    }
    Ok(columns)
}
