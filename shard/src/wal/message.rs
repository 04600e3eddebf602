//! The frames of PostgreSQL's wire protocol, as far as physical replication needs them.
//!
//! A frame is a tag byte, a big-endian length that counts itself but not the tag, and a body
//! (<https://www.postgresql.org/docs/15/protocol-message-formats.html>). In copy mode the body of
//! a `d` frame holds one replication message
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
use tokio::io::{AsyncRead, AsyncReadExt};

use super::lsn::Lsn;

/// Bytes of a frame before its body: the tag and the length.
const FRAME_HEADER: usize = 5;

/// Bytes of an XLogData message before its WAL, its `w` included.
const XLOG_DATA_HEADER: usize = 25;

/// Seconds from the Unix epoch to PostgreSQL's, 2000-01-01.
const POSTGRES_EPOCH: Duration = Duration::from_secs(946_684_800);

/// Bytes that are not the protocol, or a connection that ended.
#[derive(Debug, thiserror::Error)]
pub enum WireError {
    /// The connection failed, or ended inside a frame.
    #[error("the replication connection failed")]
    Io(#[from] std::io::Error),
    /// The peer closed the connection between two frames.
    #[error("the peer closed the replication connection")]
    Closed,
    /// A frame that is larger than anything that a correct peer sends.
    #[error("a '{tag}' message of {length} bytes, where at most {limit} are allowed")]
    TooLong {
        /// The frame's tag.
        tag: char,
        /// Its announced length, bytes.
        length: usize,
        /// The limit, bytes.
        limit: usize,
    },
    /// A frame whose content does not parse.
    #[error("a malformed {0} message")]
    Malformed(&'static str),
}

/// One frame: its tag and its body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Frame {
    pub(crate) tag: u8,
    pub(crate) body: Bytes,
}

/// Reads frames from one half of a connection. Every method may be cancelled without loss.
#[derive(Debug)]
pub(crate) struct FrameReader<R> {
    io: R,
    buffer: BytesMut,
    limit: usize,
    read_size: usize,
}

impl<R: AsyncRead + Send + Unpin + 'static> FrameReader<R> {
    /// Forgets the type of the connection.
    pub(crate) fn boxed(self) -> FrameReader<Box<dyn AsyncRead + Send + Unpin>> {
        FrameReader {
            io: Box::new(self.io),
            buffer: self.buffer,
            limit: self.limit,
            read_size: self.read_size,
        }
    }
}

impl<R: AsyncRead + Unpin> FrameReader<R> {
    /// Refuses frames whose body is longer than `limit` bytes; reads up to `read_size` at a time.
    pub(crate) fn new(io: R, limit: usize, read_size: usize) -> FrameReader<R> {
        let buffer = BytesMut::new();
        FrameReader {
            io,
            buffer,
            limit,
            read_size,
        }
    }

    /// The connection's half; nothing that arrived may be waiting.
    #[cfg(test)]
    pub(crate) fn into_inner(self) -> R {
        assert!(self.buffer.is_empty(), "unread bytes would be lost");
        self.io
    }

    /// The next frame that has arrived whole, without waiting.
    pub(crate) fn buffered(&mut self) -> Result<Option<Frame>, WireError> {
        if self.buffer.len() < FRAME_HEADER {
            return Ok(None);
        }
        let tag = self.buffer[0];
        let mut length = &self.buffer[1..FRAME_HEADER];
        let length = usize::try_from(length.get_u32()).unwrap_or(usize::MAX);
        let body = length.checked_sub(4).ok_or(WireError::Malformed("frame"))?;
        if body > self.limit {
            let (tag, limit) = (char::from(tag), self.limit);
            return Err(WireError::TooLong {
                tag,
                length: body,
                limit,
            });
        }
        if self.buffer.len() < FRAME_HEADER + body {
            self.buffer.reserve(FRAME_HEADER + body - self.buffer.len());
            return Ok(None);
        }
        self.buffer.advance(FRAME_HEADER);
        let body = self.buffer.split_to(body).freeze();
        Ok(Some(Frame { tag, body }))
    }

    /// Waits for more bytes.
    pub(crate) async fn fill(&mut self) -> Result<(), WireError> {
        if self.buffer.capacity() - self.buffer.len() < self.read_size / 4 {
            self.buffer.reserve(self.read_size);
        }
        match self.io.read_buf(&mut self.buffer).await? {
            0 if self.buffer.is_empty() => Err(WireError::Closed),
            0 => Err(std::io::Error::from(std::io::ErrorKind::UnexpectedEof).into()),
            _ => Ok(()),
        }
    }

    /// Waits for the next frame.
    pub(crate) async fn read(&mut self) -> Result<Frame, WireError> {
        loop {
            if let Some(frame) = self.buffered()? {
                return Ok(frame);
            }
            self.fill().await?;
        }
    }

    /// Waits for the next startup packet, which has a length but no tag, of at most `limit` bytes.
    pub(crate) async fn read_startup(&mut self, limit: usize) -> Result<Bytes, WireError> {
        loop {
            if let Some(mut length) = self.buffer.get(..4) {
                let length = usize::try_from(length.get_u32()).unwrap_or(usize::MAX);
                if !(8..=limit).contains(&length) {
                    return Err(WireError::Malformed("startup"));
                }
                if self.buffer.len() >= length {
                    self.buffer.advance(4);
                    return Ok(self.buffer.split_to(length - 4).freeze());
                }
            }
            self.fill().await?;
        }
    }
}

/// Appends a frame whose body `write` appends.
pub(crate) fn put_frame(out: &mut BytesMut, tag: u8, write: impl FnOnce(&mut BytesMut)) {
    out.put_u8(tag);
    let at = out.len();
    out.put_u32(0);
    write(out);
    let length = u32::try_from(out.len() - at).expect("frames are built from bounded parts");
    out[at..at + 4].copy_from_slice(&length.to_be_bytes());
}

/// Appends a string and its terminating zero; a zero inside ends it early.
pub(crate) fn put_str(out: &mut BytesMut, text: &str) {
    let text = text.split('\0').next().unwrap_or_default();
    out.put_slice(text.as_bytes());
    out.put_u8(0);
}

/// Takes a zero-terminated string off the front of `body`.
pub(crate) fn take_str(body: &mut Bytes) -> Option<String> {
    let end = body.iter().position(|byte| *byte == 0)?;
    let text = String::from_utf8_lossy(&body.split_to(end)).into_owned();
    body.advance(1);
    Some(text)
}

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
