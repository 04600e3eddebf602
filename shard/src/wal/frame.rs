//! The frames of PostgreSQL's wire protocol.
//!
//! A frame is a tag byte, a big-endian length that counts itself but not the tag, and a body
//! (<https://www.postgresql.org/docs/15/protocol-message-formats.html>).

use bytes::{Buf, BufMut, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt};

/// Bytes of a frame before its body: the tag and the length.
const FRAME_HEADER: usize = 5;

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
