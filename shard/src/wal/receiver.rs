//! The WAL receiver: the client side of physical replication, on the leader's own primary.
//!
//! What PostgreSQL really does on the other side (`walsender.c`, checked on 15):
//! - It sends WAL up to its flush position, which may lie inside a record, in messages of at most
//!   128 KiB that may cross a page but are cut at page ends when more follows.
//! - A fast or smart shutdown of the primary waits until we report everything flushed; an immediate
//!   one does not. Stepping down uses the immediate one.
//! - It drops us after `wal_sender_timeout` without a status update, and asks for one by a keepalive
//!   at half of that time.
//! - A status whose flushed position is 0/0 releases nobody, so it is our "nothing yet".

use std::borrow::Cow;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf};

use super::frame::{Frame, FrameReader, WireError, put_frame, put_str};
use super::message::{parse_error, parse_row};
use super::streaming::Streaming;
use super::{Lsn, TimelineId};

/// The name by which the primary knows us: it stands in `synchronous_standby_names`.
pub const APPLICATION_NAME: &str = "howdah";

/// The longest message that the primary may send. The longest real ones are XLogData (128 KiB) and
/// the rows of TIMELINE_HISTORY (some 60 bytes per promotion that the group ever made).
const MESSAGE_LIMIT: usize = 4 * 1024 * 1024;

/// How much is read from the socket at once; also how much WAL can become one log entry.
const READ_SIZE: usize = 256 * 1024;

/// The slot that keeps WAL for the receiver. A server has one receiver at a time.
const SLOT: &str = "howdah";

/// How often, and how long apart, to wait for the slot's last user to go.
const SLOT_ATTEMPTS: u32 = 500;
const SLOT_WAIT: Duration = Duration::from_millis(10);

/// SQLSTATEs (errcodes.txt).
const DUPLICATE_OBJECT: &str = "42710";
const OBJECT_IN_USE: &str = "55006";

/// Why no WAL comes from the primary.
#[derive(Debug, thiserror::Error)]
pub enum ReceiverError {
    /// The connection failed, ended, or carried something that is not the protocol.
    #[error(transparent)]
    Wire(#[from] WireError),
    /// PostgreSQL refused.
    #[error("PostgreSQL refused the replication command: {message} ({code})")]
    Refused {
        /// The SQLSTATE.
        code: String,
        /// PostgreSQL's words.
        message: String,
    },
    /// PostgreSQL asked for a password; our own server trusts its private socket.
    #[error("PostgreSQL asks the WAL receiver for a password")]
    Authentication,
    /// PostgreSQL ended the stream because it shuts down.
    #[error("PostgreSQL ended the WAL stream because it shuts down")]
    ShutDown,
    /// A message that makes no sense here.
    #[error("unexpected '{0}' message from PostgreSQL")]
    Unexpected(char),
    /// WAL that does not continue where the last piece ended.
    #[error("PostgreSQL sent WAL from {sent}, expected was {expected}")]
    NotContiguous {
        /// Where the piece starts.
        sent: Lsn,
        /// Where it should have started.
        expected: Lsn,
    },
}

/// What IDENTIFY_SYSTEM answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// PostgreSQL's system identifier, in its decimal text form.
    pub system_id: String,
    /// The current timeline. On a server in recovery, the one that it replays.
    pub timeline: TimelineId,
    /// How far WAL is flushed. On a server in recovery, how far it is received or replayed.
    pub flushed: Lsn,
}

/// A replication connection to a PostgreSQL server, before streaming.
#[derive(Debug)]
pub struct Receiver<S> {
    reader: FrameReader<ReadHalf<S>>,
    writer: WriteHalf<S>,
    slot: Cow<'static, str>,
}

impl<S: AsyncRead + AsyncWrite + Send + 'static> Receiver<S> {
    /// Starts a physical replication session as `user` over a fresh connection.
    ///
    /// It sets no time limit: wrap it in `tokio::time::timeout`.
    pub async fn connect(stream: S, user: &str) -> Result<Receiver<S>, ReceiverError> {
        let (reader, writer) = tokio::io::split(stream);
        let reader = FrameReader::new(reader, MESSAGE_LIMIT, READ_SIZE);
        let slot = Cow::Borrowed(SLOT);
        let mut receiver = Receiver { reader, writer, slot };
        let mut packet = BytesMut::new();
        put_startup(&mut packet, user);
        receiver.send(&packet).await?;
        loop {
            let frame = receiver.next_frame().await?;
            match frame.tag {
                b'Z' => return Ok(receiver),
                b'R' if frame.body[..] == [0; 4] => {}
                b'R' => return Err(ReceiverError::Authentication),
                b'K' | b'v' => {}
                other => return Err(ReceiverError::Unexpected(char::from(other))),
            }
        }
    }

    /// With a slot of its own, beside another receiver of the same server.
    #[cfg(test)]
    pub(super) fn with_slot(mut self, slot: String) -> Receiver<S> {
        self.slot = Cow::Owned(slot);
        self
    }

    /// Asks who the server is and where it stands.
    pub async fn identify(&mut self) -> Result<Identity, ReceiverError> {
        let row = self.query("IDENTIFY_SYSTEM").await?;
        let text = |column: usize| {
            let value = row.get(column)?.as_ref()?;
            std::str::from_utf8(value).ok()
        };
        let identity = || {
            Some(Identity {
                system_id: text(0)?.to_owned(),
                timeline: TimelineId(text(1)?.parse().ok()?),
                flushed: text(2)?.parse().ok()?,
            })
        };
        Ok(identity().ok_or(WireError::Malformed("IDENTIFY_SYSTEM"))?)
    }

    /// The content of a timeline's history file. The first timeline has none: PostgreSQL refuses.
    pub async fn history(&mut self, timeline: TimelineId) -> Result<Bytes, ReceiverError> {
        let mut row = self.query(&format!("TIMELINE_HISTORY {timeline}")).await?;
        match (row.len(), row.pop()) {
            (2, Some(Some(content))) => Ok(content),
            _ => Err(WireError::Malformed("TIMELINE_HISTORY").into()),
        }
    }

    /// Starts streaming the WAL of `timeline` from `from` on, which need not be a segment's start.
    ///
    /// PostgreSQL refuses a position that lies beyond its flush position or beyond the place where
    /// a later timeline left `timeline`, and one whose segment it has removed.
    ///
    /// A replication slot makes the primary keep what has not been reported as flushed: without it a
    /// checkpoint removes segments that were not sent yet. It outlives the connection and a crash of
    /// the primary, because a primary that starts again must still have what the log lacks. It
    /// protects from the first report on, so report `from` at once.
    pub async fn start(mut self, timeline: TimelineId, from: Lsn) -> Result<Streaming, ReceiverError> {
        let create = format!("CREATE_REPLICATION_SLOT \"{}\" PHYSICAL RESERVE_WAL", self.slot);
        match self.query(&create).await {
            Err(ReceiverError::Refused { code, .. }) if code == DUPLICATE_OBJECT => {
                self.skip_to_ready().await?
            }
            created => drop(created?),
        }
        let command = format!(
            "START_REPLICATION SLOT \"{}\" PHYSICAL {from} TIMELINE {timeline}",
            self.slot
        );
        let mut attempts = 0;
        let frame = loop {
            self.send_query(&command).await?;
            match self.next_frame().await {
                // The connection before is still about to end.
                Err(ReceiverError::Refused { code, .. })
                    if code == OBJECT_IN_USE && attempts < SLOT_ATTEMPTS =>
                {
                    attempts += 1;
                    self.skip_to_ready().await?;
                    tokio::time::sleep(SLOT_WAIT).await;
                }
                frame => break frame?,
            }
        };
        match frame.tag {
            b'W' => Ok(Streaming::copying(self.reader, self.writer, timeline, from)),
            // "If there is nothing to stream, don't even enter COPY mode" (walsender.c): `from` is
            // the very end of a timeline that has ended.
            b'T' => Ok(Streaming::ended(self.reader, self.writer, timeline, from)),
            other => Err(ReceiverError::Unexpected(char::from(other))),
        }
    }

    /// Skips what follows an error, up to where the next command may be sent.
    async fn skip_to_ready(&mut self) -> Result<(), ReceiverError> {
        while self.reader.read().await?.tag != b'Z' {}
        Ok(())
    }

    /// Runs a command that answers one row.
    async fn query(&mut self, command: &str) -> Result<Vec<Option<Bytes>>, ReceiverError> {
        self.send_query(command).await?;
        let mut row = Vec::new();
        loop {
            let frame = self.next_frame().await?;
            match frame.tag {
                b'D' => row = parse_row(frame.body)?,
                b'T' | b'C' => {}
                b'Z' => return Ok(row),
                other => return Err(ReceiverError::Unexpected(char::from(other))),
            }
        }
    }

    async fn send_query(&mut self, command: &str) -> Result<(), ReceiverError> {
        let mut out = BytesMut::new();
        put_frame(&mut out, b'Q', |out| put_str(out, command));
        self.send(&out).await
    }

    async fn send(&mut self, bytes: &[u8]) -> Result<(), ReceiverError> {
        self.writer.write_all(bytes).await.map_err(WireError::from)?;
        self.writer.flush().await.map_err(WireError::from)?;
        Ok(())
    }

    async fn next_frame(&mut self) -> Result<Frame, ReceiverError> {
        loop {
            let frame = self.reader.read().await?;
            if let Some(frame) = meaningful(frame)? {
                return Ok(frame);
            }
        }
    }
}

/// Passes a frame on, unless it is a notice or a setting (none) or an error.
pub(super) fn meaningful(frame: Frame) -> Result<Option<Frame>, ReceiverError> {
    match frame.tag {
        b'N' | b'S' => Ok(None),
        b'E' => {
            let (code, message) = parse_error(frame.body);
            Err(ReceiverError::Refused { code, message })
        }
        _ => Ok(Some(frame)),
    }
}

/// Appends the startup packet of a physical replication session, protocol 3.0.
fn put_startup(out: &mut BytesMut, user: &str) {
    let mut body = BytesMut::from(&[0, 3, 0, 0][..]);
    let options = [
        ("user", user),
        ("replication", "true"),
        ("application_name", APPLICATION_NAME),
    ];
    for (name, value) in options {
        put_str(&mut body, name);
        put_str(&mut body, value);
    }
    put_str(&mut body, "");
    let length = u32::try_from(body.len() + 4).expect("a startup packet is small");
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(&body);
}
