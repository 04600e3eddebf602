//! The group's log as openraft wants it.

use std::fmt::Debug;
use std::io;
use std::ops::{Bound, Range, RangeBounds};
use std::sync::Arc;

use bytes::Bytes;
use futures::{Stream, StreamExt, stream};
use openraft::storage::{IOFlushed, RaftLogStorage};
use openraft::{LogState, OptionalSend, RaftLogReader};
use tokio::sync::oneshot;

use super::codec::{decode, decode_payload, encode, encode_payload};
use super::index::WalIndex;
use super::types::{Entry, LogId, TypeConfig, Vote, log_id, term_of};
use crate::id::LogIndex;
use crate::log::{Done, GroupLog, Record};

/// Bytes of entries in one append request, about. An entry that alone is larger goes alone. Small
/// enough that a heartbeat behind one waits for milliseconds only.
pub(crate) const APPEND_BYTES: usize = 1 << 20;
/// Bytes of entries that are read from the log at once where nothing else limits it.
const READ_BYTES: usize = 4 << 20;

/// The log of one group, and which WAL is in it.
#[derive(Clone)]
pub(crate) struct LogStore {
    log: GroupLog,
    index: Arc<WalIndex>,
}

impl LogStore {
    pub(crate) fn new(log: GroupLog, index: Arc<WalIndex>) -> LogStore {
        LogStore { log, index }
    }

    /// The last entry that was ever in the log and is no more.
    fn purged(&self) -> io::Result<Option<LogId>> {
        self.log.purged().map(|(_, note)| decode(&note)).transpose()
    }

    /// Reads entries of `range`, at least one where the log has the first, at most about `max_bytes`.
    fn read(&self, range: Range<u64>, max_bytes: usize) -> io::Result<Vec<Entry>> {
        let range = LogIndex(range.start)..LogIndex(range.end);
        let records = self.log.read(range, max_bytes).map_err(io::Error::other)?;
        records.into_iter().map(entry_of).collect()
    }

    /// The part of `range` that the log holds.
    fn clamp(&self, range: &impl RangeBounds<u64>) -> Range<u64> {
        let start = match range.start_bound() {
            Bound::Included(start) => *start,
            Bound::Excluded(before) => before.saturating_add(1),
            Bound::Unbounded => 0,
        };
        let end = match range.end_bound() {
            Bound::Included(last) => last.saturating_add(1),
            Bound::Excluded(end) => *end,
            Bound::Unbounded => u64::MAX,
        };
        let (Some(first), Some((last, _))) = (self.log.first(), self.log.last()) else {
            return 0..0;
        };
        start.max(first.0)..end.min(last.0 + 1)
    }
}

fn entry_of(record: Record) -> io::Result<Entry> {
    Ok(Entry {
        log_id: log_id(record.term, record.index),
        payload: decode_payload(record.bytes)?,
    })
}

fn record_of(entry: &Entry) -> io::Result<Record> {
    Ok(Record {
        index: LogIndex(entry.log_id.index),
        term: term_of(&entry.log_id),
        bytes: encode_payload(&entry.payload)?,
    })
}

/// A callback for the log, and what it will have been called with.
fn completion() -> (Done, impl Future<Output = io::Result<()>>) {
    let (done, finished) = oneshot::channel();
    let callback: Done = Box::new(move |result| {
        let _ = done.send(result);
    });
    let wait = async {
        let lost = || io::Error::other("the log was closed before it finished a write");
        finished.await.unwrap_or_else(|_| Err(lost()))
    };
    (callback, wait)
}

impl RaftLogReader<TypeConfig> for LogStore {
    async fn entries_stream<RB>(&mut self, range: RB) -> impl Stream<Item = io::Result<Entry>> + OptionalSend
    where
        RB: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        // In pieces, so that a replica that starts far behind does not hold its whole log in memory.
        let pieces = stream::unfold((self.clone(), self.clamp(&range)), |(store, range)| async move {
            if range.is_empty() {
                return None;
            }
            let piece = store.read(range.clone(), READ_BYTES);
            let rest = match &piece {
                Ok(entries) if !entries.is_empty() => range.start + entries.len() as u64..range.end,
                _ => 0..0,
            };
            Some((piece, (store, rest)))
        });
        Box::pin(pieces.flat_map(|piece| {
            stream::iter(match piece {
                Ok(entries) => entries.into_iter().map(Ok).collect(),
                Err(error) => vec![Err(error)],
            })
        }))
    }

    async fn try_get_log_entries<RB>(&mut self, range: RB) -> io::Result<Vec<Entry>>
    where
        RB: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        let mut range = self.clamp(&range);
        let mut entries = Vec::new();
        while !range.is_empty() {
            let piece = self.read(range.clone(), READ_BYTES)?;
            if piece.is_empty() {
                return Err(io::Error::other("the log gave no entry that it should hold"));
            }
            range.start += piece.len() as u64;
            entries.extend(piece);
        }
        Ok(entries)
    }

    async fn read_vote(&mut self) -> io::Result<Option<Vote>> {
        self.log.vote().map(|bytes| decode(&bytes)).transpose()
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> io::Result<Vec<Entry>> {
        self.read(start..end, APPEND_BYTES)
    }
}

impl RaftLogStorage<TypeConfig> for LogStore {
    type LogReader = LogStore;

    async fn get_log_state(&mut self) -> io::Result<LogState<TypeConfig>> {
        let last_purged_log_id = self.purged()?;
        let last = self.log.last().map(|(index, term)| log_id(term, index));
        Ok(LogState {
            last_purged_log_id,
            last_log_id: last.or(last_purged_log_id),
        })
    }

    async fn get_log_reader(&mut self) -> LogStore {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> io::Result<()> {
        if crate::broken::FORGET_VOTE {
            return Ok(());
        }
        let (callback, saved) = completion();
        self.log
            .save_vote(encode(vote)?, callback)
            .map_err(io::Error::other)?;
        // A crash before this returns: the vote was not given to anyone, whether it is on disk or not.
        // After it: the restarted replica finds it, and votes for nobody else in that term.
        saved.await
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> io::Result<()> {
        // Not waited for: a crash loses at most knowledge that the next leader gives again. It only
        // spares a restarted replica to wait for that leader before it applies what it knew.
        self.log
            .save_committed(encode(&committed)?)
            .map_err(io::Error::other)
    }

    async fn read_committed(&mut self) -> io::Result<Option<LogId>> {
        let saved: Option<Option<LogId>> = self.log.committed().map(|bytes| decode(&bytes)).transpose()?;
        let saved = saved.flatten();
        // The note may have reached the disk before the entries that it speaks of.
        let last = self.log.last().map(|(index, term)| log_id(term, index));
        Ok(saved.min(last.max(self.purged()?)))
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<TypeConfig>) -> io::Result<()>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let records = entries
            .into_iter()
            .map(|entry| record_of(&entry))
            .collect::<io::Result<Vec<_>>>()?;
        // A crash before the callback: nobody counted these entries, and a torn tail is cut at start.
        // After it: they are on disk, and a leader may have counted this replica for their commit.
        let done = Box::new(move |result| callback.io_completed(result));
        self.log.append(records, done).map_err(io::Error::other)
    }

    async fn truncate_after(&mut self, last: Option<LogId>) -> io::Result<()> {
        let (callback, truncated) = completion();
        let last = last.map(|id| LogIndex(id.index));
        self.log
            .truncate_after(last, callback)
            .map_err(io::Error::other)?;
        // A crash before this returns: the entries were never committed, and the leader, which has
        // others in their place, finds the conflict again.
        truncated.await
    }

    async fn purge(&mut self, upto: LogId) -> io::Result<()> {
        let (callback, purged) = completion();
        // The snapshot that covers these entries is on disk already: openraft purges nothing else. A
        // crash during the purge leaves some of them; the next purge takes them along.
        self.index.forget(LogIndex(upto.index));
        let note: Bytes = encode(&upto)?;
        self.log
            .purge(LogIndex(upto.index), term_of(&upto), note, callback)
            .map_err(io::Error::other)?;
        purged.await
    }
}
