//! A running stream of WAL from the own primary, and the status that we report back on it.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::frame::{Frame, FrameReader, WireError, put_frame};
use super::message::{Positions, Reply, StreamMessage, parse_row, parse_stream_message, put_status};
use super::receiver::{ReceiverError, meaningful};
use super::{Lsn, TimelineId};

/// The most WAL that one event carries, bytes: one event becomes one log entry, and an entry must
/// fit well into a message between nodes.
pub const MAX_EVENT: usize = 256 * 1024;

/// Payloads up to this size are copied out of the read buffer: a log entry that lives on in a cache
/// then does not keep a whole read buffer alive.
const COPY_BELOW: usize = 8 * 1024;

/// What the primary sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The next WAL, contiguous with the event before, inside one segment, at most [`MAX_EVENT`] bytes.
    Wal {
        /// The position of the first byte.
        start: Lsn,
        /// The bytes.
        bytes: Bytes,
    },
    /// The timeline ends here and another one goes on. The last event.
    TimelineEnded {
        /// The timeline that follows.
        next: TimelineId,
        /// The first position on it.
        at: Lsn,
    },
}

/// A stream of WAL. Dropping it closes the connection.
pub struct Streaming {
    reader: FrameReader<Box<dyn AsyncRead + Send + Unpin>>,
    timeline: TimelineId,
    /// Where the first byte of `pending` is.
    position: Lsn,
    /// Received and not yet handed out, contiguous from `position` on.
    pending: VecDeque<Bytes>,
    pending_bytes: usize,
    phase: Phase,
    status: StatusSender,
    writer: JoinHandle<()>,
}

/// Where in the conversation the stream is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Copying,
    /// The server said CopyDone; the row that names the next timeline follows.
    Ending,
    Ended {
        next: TimelineId,
        at: Lsn,
    },
}

/// Reports positions to the primary; cheap to clone, never blocks.
///
/// Each report goes out at once, by a task of its own, so that it passes WAL that waits to be read
/// and reaches a primary that sends nothing. Reports that come faster than the socket takes them
/// are merged into the latest.
#[derive(Clone, Debug)]
pub struct StatusSender {
    report: watch::Sender<Report>,
}

/// What the writing task has to say; every change is one status update.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Report {
    flushed: Lsn,
    /// Answers that the primary asked for.
    answers: u64,
    /// Whether the stream's end was confirmed.
    done: bool,
}

impl StatusSender {
    /// Tells the primary that all WAL before `flushed` is safe: transactions whose commit record
    /// ends at or before it are acknowledged to their clients.
    ///
    /// Durability: report only what Raft has committed. A crash after this call loses nothing,
    /// because a majority has the WAL; a crash before it leaves the client without an answer, and
    /// the next leader holds the transaction. A lower position than before is ignored.
    pub fn report_flushed(&self, flushed: Lsn) {
        self.report.send_if_modified(|report| {
            let advances = flushed > report.flushed;
            report.flushed = report.flushed.max(flushed);
            advances
        });
    }

    /// One whose reports can be looked at.
    #[cfg(test)]
    pub(crate) fn observed() -> (StatusSender, impl Fn() -> Lsn) {
        let (report, seen) = watch::channel(Report::default());
        (StatusSender { report }, move || seen.borrow().flushed)
    }

    fn answer(&self) {
        self.report.send_modify(|report| report.answers += 1);
    }

    fn confirm_end(&self) {
        self.report.send_modify(|report| report.done = true);
    }
}

impl Streaming {
    /// A stream in copy mode.
    pub(super) fn copying<R, W>(reader: FrameReader<R>, writer: W, timeline: TimelineId, from: Lsn) -> Self
    where
        R: AsyncRead + Send + Unpin + 'static,
        W: AsyncWrite + Send + Unpin + 'static,
    {
        Streaming::new(reader, writer, timeline, from, Phase::Copying)
    }

    /// A stream that ended before its first byte; its result row is still to be read.
    pub(super) fn ended<R, W>(reader: FrameReader<R>, writer: W, timeline: TimelineId, from: Lsn) -> Self
    where
        R: AsyncRead + Send + Unpin + 'static,
        W: AsyncWrite + Send + Unpin + 'static,
    {
        Streaming::new(reader, writer, timeline, from, Phase::Ending)
    }

    fn new<R, W>(reader: FrameReader<R>, writer: W, timeline: TimelineId, from: Lsn, phase: Phase) -> Self
    where
        R: AsyncRead + Send + Unpin + 'static,
        W: AsyncWrite + Send + Unpin + 'static,
    {
        let (report, reports) = watch::channel(Report::default());
        Streaming {
            reader: reader.boxed(),
            timeline,
            position: from,
            pending: VecDeque::new(),
            pending_bytes: 0,
            phase,
            status: StatusSender { report },
            writer: tokio::spawn(write_reports(writer, reports)),
        }
    }

    /// The timeline that is streamed.
    #[must_use]
    pub fn timeline(&self) -> TimelineId {
        self.timeline
    }

    /// A handle that reports positions, usable while [`Streaming::next`] waits.
    #[must_use]
    pub fn status(&self) -> StatusSender {
        self.status.clone()
    }

    /// Waits for the next event. What has already arrived is gathered into one, so under load an
    /// event carries much and a lone commit does not wait. May be cancelled without loss.
    ///
    /// After [`Event::TimelineEnded`] it answers the same again.
    pub async fn next(&mut self) -> Result<Event, ReceiverError> {
        loop {
            while self.pending_bytes < MAX_EVENT && !matches!(self.phase, Phase::Ended { .. }) {
                let Some(frame) = self.reader.buffered()? else {
                    break;
                };
                self.take(frame)?;
            }
            if self.pending_bytes > 0 {
                return Ok(self.hand_out());
            }
            if let Phase::Ended { next, at } = self.phase {
                return Ok(Event::TimelineEnded { next, at });
            }
            self.reader.fill().await?;
        }
    }

    fn take(&mut self, frame: Frame) -> Result<(), ReceiverError> {
        let Some(frame) = meaningful(frame)? else {
            return Ok(());
        };
        match (self.phase, frame.tag) {
            (Phase::Copying, b'd') => match parse_stream_message(frame.body)? {
                StreamMessage::XLogData { start, bytes } => self.queue(start, bytes)?,
                StreamMessage::Keepalive { reply } => {
                    if reply == Reply::Requested {
                        self.status.answer();
                    }
                }
            },
            (Phase::Copying, b'c') => {
                self.phase = Phase::Ending;
                self.status.confirm_end();
            }
            (Phase::Ending, b'D') => {
                let (next, at) = parse_next_timeline(frame.body)?;
                self.phase = Phase::Ended { next, at };
            }
            (Phase::Ending, b'T') => {}
            // CommandComplete without a row: the end of a server, not of a timeline.
            (_, b'C') => return Err(ReceiverError::ShutDown),
            (_, other) => return Err(ReceiverError::Unexpected(char::from(other))),
        }
        Ok(())
    }

    fn queue(&mut self, start: Lsn, bytes: Bytes) -> Result<(), ReceiverError> {
        let expected = self.position + self.pending_bytes as u64;
        if start != expected {
            return Err(ReceiverError::NotContiguous {
                sent: start,
                expected,
            });
        }
        if bytes.is_empty() {
            return Ok(());
        }
        self.pending_bytes += bytes.len();
        let small = bytes.len() < COPY_BELOW;
        self.pending.push_back(if small {
            Bytes::copy_from_slice(&bytes)
        } else {
            bytes
        });
        Ok(())
    }

    /// Takes the next event's worth off `pending`, which is not empty.
    fn hand_out(&mut self) -> Event {
        let start = self.position;
        let to_segment_end = usize::try_from(start.next_segment().since(start)).unwrap_or(usize::MAX);
        let length = self.pending_bytes.min(MAX_EVENT).min(to_segment_end);
        let mut first = self.pending.pop_front().expect("the caller saw pending WAL");
        let bytes = if first.len() >= length {
            let bytes = first.split_to(length);
            if !first.is_empty() {
                self.pending.push_front(first);
            }
            bytes
        } else {
            self.gather(first, length)
        };
        self.pending_bytes -= length;
        self.position = start + length as u64;
        Event::Wal { start, bytes }
    }

    /// Copies `first` and what follows it into one piece of `length` bytes.
    fn gather(&mut self, first: Bytes, length: usize) -> Bytes {
        let mut gathered = BytesMut::with_capacity(length);
        gathered.extend_from_slice(&first);
        while gathered.len() < length {
            let mut piece = self
                .pending
                .pop_front()
                .expect("pending_bytes counts what is pending");
            let wanted = length - gathered.len();
            gathered.extend_from_slice(&piece.split_to(wanted.min(piece.len())));
            if !piece.is_empty() {
                self.pending.push_front(piece);
            }
        }
        gathered.freeze()
    }
}

impl Drop for Streaming {
    fn drop(&mut self) {
        self.writer.abort();
    }
}

/// Writes a status update for every change of `reports`, until the stream or the connection ends.
async fn write_reports<W: AsyncWrite + Unpin>(mut writer: W, mut reports: watch::Receiver<Report>) {
    let mut out = BytesMut::new();
    while reports.changed().await.is_ok() {
        let report = *reports.borrow_and_update();
        out.clear();
        if report.done {
            put_frame(&mut out, b'c', |_| {});
        } else {
            let positions = Positions {
                written: report.flushed,
                flushed: report.flushed,
                replayed: report.flushed,
            };
            put_status(&mut out, positions, Reply::NotNeeded);
        }
        let written = async {
            writer.write_all(&out).await?;
            writer.flush().await
        };
        // The reading half meets the same failure and reports it.
        if let Err(error) = written.await {
            tracing::debug!(%error, "a status update did not reach the primary");
            return;
        }
        if report.done {
            // Nothing may follow CopyDone; the connection stays open until the result is read.
            std::future::pending::<()>().await;
        }
    }
}

/// The next timeline and its start, from the result row that ends a timeline.
pub(super) fn parse_next_timeline(body: Bytes) -> Result<(TimelineId, Lsn), WireError> {
    let row = parse_row(body)?;
    let text = |column: usize| std::str::from_utf8(row.get(column)?.as_ref()?).ok();
    let parsed = || Some((TimelineId(text(0)?.parse().ok()?), text(1)?.parse().ok()?));
    parsed().ok_or(WireError::Malformed("next timeline"))
}
