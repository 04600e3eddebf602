//! The WAL sender: the server side of physical replication, for the own standby.
//!
//! It answers what the walreceiver of PostgreSQL 14 to 18 asks (`walreceiver.c`,
//! `libpqwalreceiver.c`), in this order: IDENTIFY_SYSTEM, TIMELINE_HISTORY for every timeline number
//! from the standby's to ours whose file it lacks, START_REPLICATION. What happens inside a running
//! stream, and what PostgreSQL does at a change of timelines, is told in `feed.rs`.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, WriteHalf};
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::answer;
use super::command::{Request, parse_command};
use super::feed::{Feed, FeedEnd};
use super::frame::{FrameReader, WireError, take_str};
use super::source::ReadError;
use super::standby::{RebuildReason, StandbyStatus};
use super::{Lsn, TimelineId, WalHistory, WalSource};

/// The longest message that a standby may send; real ones are under 100 bytes.
const MESSAGE_LIMIT: usize = 64 * 1024;

/// The longest startup packet, as in PostgreSQL (`MAX_STARTUP_PACKET_LENGTH`).
const STARTUP_LIMIT: usize = 10_000;

/// How much is read from the socket at once.
const READ_SIZE: usize = 8 * 1024;

/// How long a connection may take to say who it is, and how long it may sit idle between commands.
/// A walreceiver that is dropped comes back by itself.
const STARTUP_TIME: Duration = Duration::from_secs(10);
const COMMAND_TIME: Duration = Duration::from_secs(60);

/// Why a standby's connection ended, other than by its own wish.
#[derive(Debug, thiserror::Error)]
pub enum SenderError {
    /// The connection failed, ended, or carried something that is not the protocol.
    #[error(transparent)]
    Wire(#[from] WireError),
    /// It did not say what it wants in time.
    #[error("the standby sent no command in time")]
    Silent,
    /// It is not a physical replication client.
    #[error("the connection is not for physical replication")]
    NotReplication,
    /// A message that makes no sense here.
    #[error("unexpected '{0}' message from the standby")]
    Unexpected(char),
    /// The standby must be rebuilt; also told through [`StandbyStatus::rebuild`].
    #[error("the standby must be rebuilt: {0}")]
    Rebuild(#[from] RebuildReason),
    /// A newer walreceiver took over.
    #[error("a newer walreceiver has taken over")]
    Replaced,
    /// The log could not be read.
    #[error("the standby cannot be fed")]
    Source(#[source] ReadError),
    /// The group's log went away.
    #[error("the group's log is closed")]
    SourceClosed,
}

/// Serves the committed WAL of one group to one standby. A handle: clones serve the same standby.
#[derive(Clone, Debug)]
pub struct Sender<S> {
    source: S,
    server_version: Arc<str>,
    desk: Arc<Desk>,
    cut: Cut,
}

/// Where the bytes that a standby is sent may end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cut {
    /// Only where a record ends (hazard 2).
    WholeRecords,
    /// Anywhere, as PostgreSQL's own walsender does: for tests that show what comes of it.
    #[cfg(test)]
    Anywhere,
}

/// Who streams now, and what is known about the standby.
#[derive(Debug)]
pub(super) struct Desk {
    status: watch::Sender<StandbyStatus>,
    /// The running stream; a newer one cancels it. Its number tells its reports from older ones'.
    current: Mutex<(u64, CancellationToken)>,
}

impl Desk {
    /// Makes the caller the running stream and stops the one before.
    ///
    /// `from` is where scanning begins.
    pub(super) fn take_over(&self, timeline: TimelineId, from: Lsn) -> (u64, CancellationToken) {
        let mut current = self.current.lock();
        current.1.cancel();
        *current = (current.0 + 1, CancellationToken::new());
        self.status.send_modify(|status| {
            let rebuild = status.rebuild;
            *status = StandbyStatus {
                connected: true,
                timeline: Some(timeline),
                scanned: from,
                sendable: from,
                rebuild,
                ..StandbyStatus::default()
            };
        });
        current.clone()
    }

    /// Changes the status, if stream `number` is still the running one.
    pub(super) fn update(&self, number: u64, change: impl FnOnce(&mut StandbyStatus)) {
        let current = self.current.lock();
        if current.0 == number {
            self.status.send_modify(change);
        }
    }

    /// Tells the owner that the standby cannot be fed any more.
    pub(super) fn condemn(&self, reason: RebuildReason) {
        self.status.send_modify(|status| status.rebuild = Some(reason));
    }
}

/// The two halves of a standby's connection.
pub(super) struct Connection<T> {
    pub(super) reader: FrameReader<tokio::io::ReadHalf<T>>,
    pub(super) writer: WriteHalf<T>,
}

impl<T: AsyncRead + AsyncWrite> Connection<T> {
    pub(super) async fn send(&mut self, out: &[u8]) -> Result<(), WireError> {
        self.writer.write_all(out).await?;
        self.writer.flush().await?;
        Ok(())
    }
}

impl<S: WalSource> Sender<S> {
    /// A sender of `source`, for a standby of version `server_version` (as in PostgreSQL's own
    /// `server_version`: a standby and what feeds it must look the same), that tells `status`
    /// where the standby stands.
    pub fn new(source: S, server_version: &str, status: watch::Sender<StandbyStatus>) -> Sender<S> {
        let current = Mutex::new((0, CancellationToken::new()));
        Sender {
            source,
            server_version: server_version.into(),
            desk: Arc::new(Desk { status, current }),
            cut: Cut::WholeRecords,
        }
    }

    /// The same sender, but one that may send parts of records.
    #[cfg(test)]
    pub(super) fn cutting_anywhere(mut self) -> Sender<S> {
        self.cut = Cut::Anywhere;
        self
    }

    /// Serves one connection until the standby leaves or something is wrong with it.
    ///
    /// The connection is trusted: it comes over a socket in a private directory.
    pub async fn serve<T>(&self, stream: T) -> Result<(), SenderError>
    where
        T: AsyncRead + AsyncWrite + Send,
    {
        let (reader, writer) = tokio::io::split(stream);
        let reader = FrameReader::new(reader, MESSAGE_LIMIT, READ_SIZE);
        let mut connection = Connection { reader, writer };
        timeout(STARTUP_TIME, self.start_up(&mut connection))
            .await
            .map_err(|_| SenderError::Silent)??;
        loop {
            let frame = timeout(COMMAND_TIME, connection.reader.read()).await;
            let mut frame = match frame.map_err(|_| SenderError::Silent)? {
                Ok(frame) => frame,
                Err(WireError::Closed) => return Ok(()),
                Err(error) => return Err(error.into()),
            };
            match frame.tag {
                b'Q' => {
                    let command = take_str(&mut frame.body).ok_or(WireError::Malformed("Query"))?;
                    self.command(&mut connection, &command).await?;
                }
                b'X' => return Ok(()),
                other => return Err(SenderError::Unexpected(char::from(other))),
            }
        }
    }

    /// The startup packet, after any number of questions for encryption that it may be preceded by.
    async fn start_up<T: AsyncRead + AsyncWrite>(
        &self,
        connection: &mut Connection<T>,
    ) -> Result<(), SenderError> {
        const PROTOCOL_3: [u8; 2] = [0, 3];
        const ENCRYPTION_REQUESTS: [[u8; 4]; 2] =
            [80_877_103_u32.to_be_bytes(), 80_877_104_u32.to_be_bytes()];
        let mut refused_encryption = 0;
        loop {
            let mut packet = connection.reader.read_startup(STARTUP_LIMIT).await?;
            let code = packet.split_to(4);
            if ENCRYPTION_REQUESTS.iter().any(|request| code[..] == *request) && refused_encryption < 2 {
                refused_encryption += 1;
                connection.send(b"N").await?;
                continue;
            }
            let mut out = BytesMut::new();
            if code[..2] != PROTOCOL_3 || !is_replication(packet) {
                let words = "this socket serves physical replication only";
                answer::put_error(&mut out, answer::NOT_SUPPORTED, words);
                connection.send(&out).await?;
                return Err(SenderError::NotReplication);
            }
            answer::put_welcome(&mut out, &self.server_version);
            connection.send(&out).await?;
            return Ok(());
        }
    }

    async fn command<T: AsyncRead + AsyncWrite>(
        &self,
        connection: &mut Connection<T>,
        command: &str,
    ) -> Result<(), SenderError> {
        tracing::debug!(command, "the standby asks");
        let history = Arc::clone(&self.source.committed().borrow());
        let mut out = BytesMut::new();
        let Some(timeline) = history.timeline() else {
            let words = "the group has no database system yet";
            answer::put_error(&mut out, answer::CANNOT_CONNECT_NOW, words);
            answer::put_ready(&mut out);
            return Ok(connection.send(&out).await?);
        };
        match parse_command(command) {
            Request::IdentifySystem => {
                let system_id = history.system_id().unwrap_or_default();
                answer::put_identity(&mut out, system_id, timeline, history.end());
            }
            Request::TimelineHistory(asked) => match history_of(&history, asked, timeline) {
                Some(content) => answer::put_history(&mut out, asked, &content),
                None => {
                    let words = format!("could not open file \"pg_wal/{}\"", asked.history_file_name());
                    answer::put_error(&mut out, answer::NO_SUCH_FILE, &words);
                }
            },
            Request::Show(name) => answer::put_setting(&mut out, &name),
            Request::Start(start) => {
                let follow = start.timeline.unwrap_or(timeline);
                self.stream(connection, &mut out, &history, follow, start.from)
                    .await?;
            }
            Request::Unknown => {
                let words = format!("Howdah's WAL sender does not know the command: {command}");
                answer::put_error(&mut out, answer::NOT_SUPPORTED, &words);
            }
        }
        answer::put_ready(&mut out);
        Ok(connection.send(&out).await?)
    }

    /// START_REPLICATION; leaves in `out` what follows the stream.
    async fn stream<T: AsyncRead + AsyncWrite>(
        &self,
        connection: &mut Connection<T>,
        out: &mut BytesMut,
        history: &WalHistory,
        follow: TimelineId,
        from: Lsn,
    ) -> Result<(), SenderError> {
        if history.branch(follow).is_none() {
            let words = format!("requested timeline {follow} is not in this server's history");
            answer::put_error(out, answer::INVALID_PARAMETER, &words);
            return Ok(());
        }
        let successor = history.successor(follow);
        if let Some((_, left)) = successor.filter(|(_, left)| from > *left) {
            // PostgreSQL's own answer (walsender.c). A standby that was only ever fed whole
            // records cannot ask this; what asks has a history of its own.
            let words = format!(
                "requested starting point {from} on timeline {follow} is not in this server's history"
            );
            answer::put_error(out, answer::INVALID_PARAMETER, &words);
            connection.send(out).await?;
            let reason = RebuildReason::Diverged {
                timeline: follow,
                asked: from,
                left,
            };
            self.desk.condemn(reason);
            return Err(reason.into());
        }
        let mut end = FeedEnd::Timeline;
        if successor.is_none_or(|(_, left)| from < left) {
            let feed = Feed::new(&self.source, &self.desk, self.cut, follow, from);
            end = feed.run(connection).await?;
        }
        if end == FeedEnd::Timeline {
            let committed = Arc::clone(&self.source.committed().borrow());
            if let Some((next, left)) = committed.successor(follow) {
                answer::put_next_timeline(out, next, left);
            }
        }
        answer::put_streaming_done(out);
        Ok(())
    }
}

/// The content of `asked`'s history file.
///
/// A standby asks for every number up to the current timeline. Where the group skipped one (a
/// promotion that Raft never committed), it gets the file of the next one that exists: PostgreSQL
/// looks for the newest timeline by counting up until a file is missing (`findNewestTimeLine`), so
/// a hole would hide all that comes after it.
fn history_of(history: &WalHistory, asked: TimelineId, current: TimelineId) -> Option<Bytes> {
    (asked.0..=current.0)
        .filter_map(|number| history.history_file(TimelineId(number)))
        .next()
        .filter(|content| !content.is_empty())
}

/// Whether a startup packet's options ask for physical replication.
fn is_replication(mut options: Bytes) -> bool {
    while let Some(name) = take_str(&mut options).filter(|name| !name.is_empty()) {
        let Some(value) = take_str(&mut options) else {
            return false;
        };
        if name == "replication" {
            return ["true", "on", "yes", "1"].contains(&value.to_ascii_lowercase().as_str());
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entry::{Command, Genesis, TimelineSwitch};
    use crate::id::NodeId;

    #[test]
    fn skipped_timeline_has_the_file_of_the_next() {
        let mut history = WalHistory::default();
        let (start, origin) = (Lsn(0x100_0000), NodeId(1));
        let system_id = "7".into();
        let genesis = Command::Genesis(Genesis {
            system_id,
            start,
            origin,
        });
        history.apply(&genesis).unwrap();
        let content = Bytes::from_static(b"1\t0/1000000\tno recovery target specified\n");
        let switch = TimelineSwitch {
            timeline: TimelineId(3),
            at: start,
            after: start,
            origin,
            history: content.clone(),
        };
        history.apply(&Command::Switch(switch)).unwrap();
        let file = |number| history_of(&history, TimelineId(number), TimelineId(3));
        assert_eq!(file(1), None);
        assert_eq!(file(2), Some(content.clone()));
        assert_eq!(file(3), Some(content));
        assert_eq!(file(4), None);
    }
}
