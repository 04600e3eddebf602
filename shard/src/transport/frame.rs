//! The frames of a Raft connection.
//!
//! ```text
//! length u32 | crc32c u32 | kind u8 | group u32 | request u64 | body
//!                         '------------- length bytes --------------'
//! ```
//!
//! All numbers are big endian. The checksum covers everything after itself.

use std::io;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::id::GroupId;

/// The largest frame that is taken, bytes. Appends stay far below it: see `raft::storage`.
pub(super) const MAX_FRAME: usize = 64 << 20;

const PREFIX: usize = 8;
const HEADER: usize = 1 + 4 + 8;
/// Bodies up to here are copied next to their header; larger ones are written from where they are.
const COPY_UP_TO: usize = 16 << 10;

/// What a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Kind {
    /// Log entries, or a heartbeat.
    Append = 1,
    /// A candidate asks for a vote.
    Vote = 2,
    /// A node asks whether it would be voted for.
    PreVote = 3,
    /// A whole snapshot.
    Snapshot = 4,
    /// The leader hands leadership over.
    Transfer = 5,
    /// The answer to any of these.
    Reply = 128,
    /// The request was not for a group that runs here, or failed.
    Failure = 129,
}

impl Kind {
    fn from_byte(byte: u8) -> Option<Kind> {
        match byte {
            1 => Some(Kind::Append),
            2 => Some(Kind::Vote),
            3 => Some(Kind::PreVote),
            4 => Some(Kind::Snapshot),
            5 => Some(Kind::Transfer),
            128 => Some(Kind::Reply),
            129 => Some(Kind::Failure),
            _ => None,
        }
    }
}

/// One frame as it was read.
#[derive(Debug)]
pub(super) struct Frame {
    pub(super) kind: Kind,
    pub(super) group: GroupId,
    pub(super) request: u64,
    pub(super) body: Bytes,
}

/// Reads the next frame; none where the connection ended between frames.
pub(super) async fn read(source: &mut (impl AsyncRead + Unpin)) -> io::Result<Option<Frame>> {
    let mut prefix = [0; PREFIX];
    if source.read(&mut prefix[..1]).await? == 0 {
        return Ok(None);
    }
    source.read_exact(&mut prefix[1..]).await?;
    let mut fields = &prefix[..];
    let length = usize::try_from(fields.get_u32()).map_err(io::Error::other)?;
    let checksum = fields.get_u32();
    if !(HEADER..=MAX_FRAME).contains(&length) {
        return Err(invalid("a frame of impossible length"));
    }
    let mut buffer = BytesMut::with_capacity(length);
    while buffer.len() < length {
        let missing = length - buffer.len();
        if source.read_buf(&mut (&mut buffer).limit(missing)).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    let mut body = buffer.freeze();
    if crc32c::crc32c(&body) != checksum {
        return Err(invalid("a frame with a wrong checksum"));
    }
    let kind = Kind::from_byte(body.get_u8()).ok_or_else(|| invalid("a frame of unknown kind"))?;
    let group = GroupId(body.get_u32());
    let request = body.get_u64();
    Ok(Some(Frame {
        kind,
        group,
        request,
        body,
    }))
}

/// Writes a frame whose body is given in pieces. The caller flushes.
pub(super) async fn write(
    sink: &mut (impl AsyncWrite + Unpin),
    kind: Kind,
    group: GroupId,
    request: u64,
    body: &[Bytes],
) -> io::Result<()> {
    let body_length: usize = body.iter().map(Bytes::len).sum();
    let length = HEADER + body_length;
    if length > MAX_FRAME {
        return Err(invalid("a message too large for one frame"));
    }
    let mut header = [0; HEADER];
    let mut fields = &mut header[..];
    fields.put_u8(kind as u8);
    fields.put_u32(group.0);
    fields.put_u64(request);
    let checksum = body.iter().fold(crc32c::crc32c(&header), |crc, piece| {
        crc32c::crc32c_append(crc, piece)
    });
    let mut start = BytesMut::with_capacity(PREFIX + HEADER + body_length.min(COPY_UP_TO));
    start.put_u32(u32::try_from(length).map_err(io::Error::other)?);
    start.put_u32(checksum);
    start.put_slice(&header);
    if body_length <= COPY_UP_TO {
        body.iter().for_each(|piece| start.put_slice(piece));
        return sink.write_all(&start).await;
    }
    sink.write_all(&start).await?;
    for piece in body {
        sink.write_all(piece).await?;
    }
    Ok(())
}

fn invalid(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn frames_come_back_as_they_went() {
        for size in [0, 1, COPY_UP_TO, COPY_UP_TO + 1, 1 << 20] {
            let mut wire = Vec::new();
            let pieces = [Bytes::from(vec![7; size]), Bytes::from_static(b"tail")];
            write(&mut wire, Kind::Append, GroupId(3), 9, &pieces)
                .await
                .unwrap();
            let frame = read(&mut &wire[..]).await.unwrap().unwrap();
            assert_eq!(
                (frame.kind, frame.group, frame.request),
                (Kind::Append, GroupId(3), 9)
            );
            assert_eq!(frame.body, [&pieces[0][..], b"tail"].concat());
        }
    }

    #[tokio::test]
    async fn damaged_cut_and_oversized_frames_are_refused() {
        let mut wire = Vec::new();
        write(
            &mut wire,
            Kind::Vote,
            GroupId(1),
            1,
            &[Bytes::from_static(b"body")],
        )
        .await
        .unwrap();
        for position in 0..wire.len() {
            let mut damaged = wire.clone();
            damaged[position] ^= 1;
            assert!(read(&mut &damaged[..]).await.is_err(), "byte {position}");
            if position > 0 {
                assert!(read(&mut &wire[..position]).await.is_err(), "cut at {position}");
            }
        }
        assert!(read(&mut &[][..]).await.unwrap().is_none());
        let huge = [&u32::MAX.to_be_bytes()[..], &[0; 100]].concat();
        assert!(read(&mut &huge[..]).await.is_err());
    }
}
