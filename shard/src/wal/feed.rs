//! One running stream of WAL to the own standby, and how a standby changes timelines.
//!
//! What PostgreSQL 15 really does (`walreceiver.c`, `xlogrecovery.c`; each line is in this module's
//! tests unless it says otherwise):
//!
//! - A walreceiver asks for the start of the segment that holds the page that replay waits for
//!   (hazard 1), on the timeline to which that *record's start* belongs.
//! - It writes each XLogData where the message says, whatever it asked for (by reading the source).
//! - When the server ends a timeline with CopyDone, it fetches the new history files, and the
//!   startup process looks for the newest timeline, then asks for WAL on it, again from a segment's
//!   start. It reports as flushed, before anything has arrived, what it has replayed.
//! - A promotion starts the new timeline where the last whole record ends, and reuses those bytes'
//!   positions. It reads all that it has first, also what was flushed and not replayed.
//! - A standby that had flushed a part of the dropped record follows the new timeline by itself if
//!   that part ended inside a segment, the same or the next: it reads the old file once more, finds
//!   no valid page after the part, and asks for the record's segment again.
//! - If the part ended exactly with a segment, it asks for the *next* segment of the new timeline.
//!   It receives nothing until the new timeline gets there, up to 16 MiB later, and then its startup
//!   process dies: `PANIC: could not open file "pg_wal/000000020000000000000001"`. Started again,
//!   it asks for the right segment.
//!
//! So we never send a part of a record. Then `flushed` is never beyond the place where a promotion
//! leaves the timeline, on any standby that was fed by us, and neither of the last two can happen. The
//! price is that the standby's copy of a record that takes long to commit starts later.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::sync::watch;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval, sleep_until};
use tokio_util::sync::CancellationToken;

use super::answer;
use super::frame::{Frame, WireError};
use super::message::{
    Positions, Reply, StandbyMessage, parse_standby_message, put_keepalive, put_xlog_data_header,
};
use super::records::{PAGE_SIZE, RecordScanner};
use super::sender::{Connection, Cut, Desk, SenderError};
use super::source::ReadError;
use super::standby::RebuildReason;
use super::{Lsn, TimelineId, WalHistory, WalSource};

/// The most WAL in one message, bytes, as in PostgreSQL (`MAX_SEND_SIZE`).
const MAX_SEND: usize = 128 * 1024;

/// The most scanned WAL that is kept while its record is not whole yet, bytes. A longer record is
/// read from the source a second time.
const MAX_HELD: usize = 1024 * 1024;

/// How often an idle standby is asked where it stands. Far below `wal_receiver_timeout`, and often
/// enough that the replay position in the status is fresh.
const KEEPALIVE: Duration = Duration::from_secs(1);

/// The shortest time between two pieces of new WAL. Each piece wakes the standby's walreceiver, which
/// fsyncs it, and its startup process. No commit waits for the standby, so under load it is given
/// many commits at once.
const PACE: Duration = Duration::from_millis(5);

/// How a stream ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FeedEnd {
    /// The timeline ended; the standby is to be told the next one.
    Timeline,
    /// The standby ended it.
    Standby,
}

/// What one step of sending did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Moved,
    /// Everything that may be sent has been sent.
    Idle,
    /// There is more, but it is to wait for [`PACE`].
    Early,
    /// So has everything that will ever be on this timeline.
    Ended,
}

/// A stream in copy mode.
pub(super) struct Feed<'a, S> {
    source: &'a S,
    desk: &'a Desk,
    number: u64,
    replaced: CancellationToken,
    committed: watch::Receiver<Arc<WalHistory>>,
    cut: Cut,
    follow: TimelineId,
    sent: Lsn,
    scanner: RecordScanner,
    /// Scanned and not sent, contiguous up to the scanner's position; may begin after `sent`.
    held: VecDeque<Bytes>,
    held_bytes: usize,
    /// When new WAL may be read next.
    not_before: Instant,
}

impl<'a, S: WalSource> Feed<'a, S> {
    pub(super) fn new(source: &'a S, desk: &'a Desk, cut: Cut, follow: TimelineId, from: Lsn) -> Feed<'a, S> {
        let page = Lsn(from.0 - from.0 % PAGE_SIZE);
        let (number, replaced) = desk.take_over(follow, page);
        Feed {
            source,
            desk,
            number,
            replaced,
            committed: source.committed(),
            cut,
            follow,
            sent: from,
            scanner: RecordScanner::new(page),
            held: VecDeque::new(),
            held_bytes: 0,
            not_before: Instant::now(),
        }
    }

    /// Streams until the timeline or the standby ends it; a newer stream ends it at any point.
    pub(super) async fn run<T: AsyncRead + AsyncWrite>(
        mut self,
        connection: &mut Connection<T>,
    ) -> Result<FeedEnd, SenderError> {
        let (desk, number, replaced) = (self.desk, self.number, self.replaced.clone());
        let end = tokio::select! {
            end = self.copy(connection) => end,
            () = replaced.cancelled() => Err(SenderError::Replaced),
        };
        desk.update(number, |status| status.connected = false);
        end
    }

    async fn copy<T: AsyncRead + AsyncWrite>(
        &mut self,
        connection: &mut Connection<T>,
    ) -> Result<FeedEnd, SenderError> {
        let mut out = BytesMut::new();
        answer::put_copy_both(&mut out);
        connection.send(&out).await?;
        let mut keepalive = interval(KEEPALIVE);
        keepalive.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            while let Some(frame) = connection.reader.buffered()? {
                if self.heard(connection, frame).await? {
                    return self.finish(connection, FeedEnd::Standby).await;
                }
            }
            match self.step(connection).await {
                Ok(Step::Ended) => return self.finish(connection, FeedEnd::Timeline).await,
                Ok(step) => self.wait(connection, &mut keepalive, step).await?,
                Err(error) => return Err(self.give_up(connection, error).await),
            }
        }
    }

    /// After `Moved`, lets in what has arrived; else waits for anything to happen.
    async fn wait<T: AsyncRead + AsyncWrite>(
        &mut self,
        connection: &mut Connection<T>,
        keepalive: &mut Interval,
        step: Step,
    ) -> Result<(), SenderError> {
        tokio::select! {
            biased;
            filled = connection.reader.fill() => Ok(filled?),
            () = std::future::ready(()), if step == Step::Moved => Ok(()),
            () = sleep_until(self.not_before), if step == Step::Early => Ok(()),
            changed = self.committed.changed(), if step == Step::Idle => changed.map_err(|_| SenderError::SourceClosed),
            _ = keepalive.tick() => self.keepalive(connection, Reply::Requested).await,
        }
    }

    /// Sends or scans the next piece.
    async fn step<T: AsyncRead + AsyncWrite>(
        &mut self,
        connection: &mut Connection<T>,
    ) -> Result<Step, SenderError> {
        let history = Arc::clone(&self.committed.borrow_and_update());
        let left = history.successor(self.follow).map(|(_, left)| left);
        if left.is_some_and(|left| self.sent >= left) {
            return Ok(Step::Ended);
        }
        let limit = left.unwrap_or(history.end());
        let sendable = self.sendable(left);
        if self.sent < sendable {
            return self.send_wal(connection, sendable, history.end()).await;
        }
        let scanned = self.scanner.position();
        if scanned >= limit {
            return Ok(Step::Idle);
        }
        if Instant::now() < self.not_before {
            return Ok(Step::Early);
        }
        let Some(bytes) = self.read(scanned, limit).await? else {
            return Ok(Step::Idle);
        };
        self.scan(bytes);
        if self.scanner.position() >= limit {
            self.not_before = Instant::now() + PACE;
        }
        let (scanned, sendable) = (self.scanner.position(), self.sendable(left));
        self.desk.update(self.number, |status| {
            status.scanned = scanned;
            status.sendable = sendable;
        });
        Ok(Step::Moved)
    }

    /// How far WAL may be sent: whole records only, or up to where the group left the timeline,
    /// which is the end of a record too.
    fn sendable(&self, left: Option<Lsn>) -> Lsn {
        let scanned = self.scanner.position();
        match (left, self.cut) {
            (Some(left), _) if scanned >= left => left,
            (_, Cut::WholeRecords) => self.scanner.boundary(),
            #[cfg(test)]
            (_, Cut::Anywhere) => scanned,
        }
    }

    fn scan(&mut self, bytes: Bytes) {
        self.scanner.feed(&bytes);
        self.held_bytes += bytes.len();
        self.held.push_back(bytes);
        if self.held_bytes > MAX_HELD {
            self.held.clear();
            self.held_bytes = 0;
        }
    }

    async fn send_wal<T: AsyncRead + AsyncWrite>(
        &mut self,
        connection: &mut Connection<T>,
        sendable: Lsn,
        end_of_wal: Lsn,
    ) -> Result<Step, SenderError> {
        let Some(bytes) = self.next_piece(sendable).await? else {
            return Ok(Step::Idle);
        };
        let mut header = BytesMut::new();
        put_xlog_data_header(&mut header, self.sent, end_of_wal, bytes.len());
        self.sent = self.sent + bytes.len() as u64;
        let mut message = header.chain(bytes);
        connection
            .writer
            .write_all_buf(&mut message)
            .await
            .map_err(WireError::from)?;
        connection.writer.flush().await.map_err(WireError::from)?;
        Ok(Step::Moved)
    }

    /// The bytes from `sent` on, not beyond `sendable`: from what was held, or from the source.
    async fn next_piece(&mut self, sendable: Lsn) -> Result<Option<Bytes>, SenderError> {
        let held_from = self.scanner.position() - self.held_bytes as u64;
        if self.sent < held_from {
            return self.read(self.sent, sendable.min(held_from)).await;
        }
        let Some(mut piece) = self.held.pop_front() else {
            return Ok(None);
        };
        self.held_bytes -= piece.len();
        // A scan begins at the page's start, which may lie before the requested start.
        let before = usize::try_from(self.sent.since(held_from)).unwrap_or(usize::MAX);
        piece.advance(before.min(piece.len()));
        let wanted = usize::try_from(sendable.since(self.sent)).unwrap_or(usize::MAX);
        let taken = piece.split_to(wanted.min(MAX_SEND).min(piece.len()));
        if !piece.is_empty() {
            self.held_bytes += piece.len();
            self.held.push_front(piece);
        }
        Ok(Some(taken))
    }

    /// Committed bytes from `from` on, not beyond `limit`; none where they must be waited for.
    async fn read(&self, from: Lsn, limit: Lsn) -> Result<Option<Bytes>, SenderError> {
        let wanted = usize::try_from(limit.since(from)).unwrap_or(usize::MAX);
        let read = self.source.read(self.follow, from, wanted.min(MAX_SEND));
        match read.await {
            Ok(bytes) => Ok(Some(bytes).filter(|bytes| !bytes.is_empty())),
            Err(ReadError::NotYet) => Ok(None),
            Err(ReadError::Purged { first }) => {
                Err(SenderError::Rebuild(RebuildReason::Purged { asked: from, first }))
            }
            Err(error) => Err(SenderError::Source(error)),
        }
    }

    /// Tells the standby, and the owner, why nothing more comes.
    async fn give_up<T: AsyncRead + AsyncWrite>(
        &self,
        connection: &mut Connection<T>,
        error: SenderError,
    ) -> SenderError {
        if let SenderError::Rebuild(reason) = &error {
            self.desk.condemn(*reason);
            let words = format!("requested WAL has already been removed: {reason}");
            let mut out = BytesMut::new();
            answer::put_error(&mut out, answer::NO_SUCH_FILE, &words);
            // The standby may be gone; what matters is what the owner is told.
            let _ = connection.send(&out).await;
        }
        error
    }

    /// Takes a message of the standby; true when it ends the stream.
    async fn heard<T: AsyncRead + AsyncWrite>(
        &mut self,
        connection: &mut Connection<T>,
        frame: Frame,
    ) -> Result<bool, SenderError> {
        match frame.tag {
            b'd' => match parse_standby_message(frame.body)? {
                StandbyMessage::Status { positions, reply } => {
                    self.check_descent(positions)?;
                    self.desk.update(self.number, |status| {
                        status.written = positions.written;
                        status.flushed = positions.flushed;
                        status.replayed = positions.replayed;
                    });
                    if reply == Reply::Requested {
                        self.keepalive(connection, Reply::NotNeeded).await?;
                    }
                    Ok(false)
                }
                // Feedback would have to hold back vacuum on the primary. It is not passed on: a
                // long query on a follower is cancelled by max_standby_streaming_delay instead
                // (hazard 11).
                StandbyMessage::Other => Ok(false),
            },
            b'c' => Ok(true),
            b'X' => Err(WireError::Closed.into()),
            other => Err(SenderError::Unexpected(char::from(other))),
        }
    }

    /// Notices a standby that replayed WAL of this timeline after the group had left it: it came
    /// with WAL that Raft never committed, and PostgreSQL would ask for this timeline for ever
    /// ("new timeline forked off current database system timeline before current recovery point").
    fn check_descent(&self, positions: Positions) -> Result<(), SenderError> {
        let left = self.committed.borrow().successor(self.follow);
        let Some((_, left)) = left.filter(|(_, left)| positions.replayed > *left) else {
            return Ok(());
        };
        let (timeline, asked) = (self.follow, positions.replayed);
        let reason = RebuildReason::Diverged {
            timeline,
            asked,
            left,
        };
        self.desk.condemn(reason);
        Err(reason.into())
    }

    async fn keepalive<T: AsyncRead + AsyncWrite>(
        &self,
        connection: &mut Connection<T>,
        reply: Reply,
    ) -> Result<(), SenderError> {
        let mut out = BytesMut::new();
        put_keepalive(&mut out, self.sent, reply);
        Ok(connection.send(&out).await?)
    }

    /// Ends the copy mode on both sides.
    async fn finish<T: AsyncRead + AsyncWrite>(
        &mut self,
        connection: &mut Connection<T>,
        end: FeedEnd,
    ) -> Result<FeedEnd, SenderError> {
        let mut out = BytesMut::new();
        answer::put_copy_done(&mut out);
        connection.send(&out).await?;
        if end == FeedEnd::Timeline {
            loop {
                let frame = connection.reader.read().await?;
                if self.heard_last(frame)? {
                    break;
                }
            }
        }
        Ok(end)
    }

    /// Takes a message after our CopyDone, to which no answer may be sent; true for the standby's.
    fn heard_last(&mut self, frame: Frame) -> Result<bool, SenderError> {
        match frame.tag {
            b'd' => {
                if let StandbyMessage::Status { positions, .. } = parse_standby_message(frame.body)? {
                    self.check_descent(positions)?;
                }
                Ok(false)
            }
            b'c' => Ok(true),
            b'X' => Err(WireError::Closed.into()),
            other => Err(SenderError::Unexpected(char::from(other))),
        }
    }
}
