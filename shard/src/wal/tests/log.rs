//! A group's log in memory: what was received, and how much of it counts as committed.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::entry::{Command, Genesis, TimelineSwitch, WalChunk};
use crate::id::NodeId;
use crate::wal::{Event, Lsn, ReadError, StatusSender, Streaming, TimelineId, WalHistory, WalSource};

/// Everything, for a limit.
pub(super) const ALL: Lsn = Lsn(u64::MAX);

#[derive(Clone)]
pub(super) struct MemoryLog {
    state: Arc<Mutex<State>>,
    committed: Arc<watch::Sender<Arc<WalHistory>>>,
}

struct State {
    /// What each timeline's primary sent: from where, and the bytes.
    received: BTreeMap<TimelineId, (Lsn, Vec<u8>)>,
    /// Nothing beyond it is committed.
    limit: Lsn,
    first: Lsn,
    status: Option<StatusSender>,
}

impl MemoryLog {
    pub(super) fn new(system_id: &str, start: Lsn) -> MemoryLog {
        let mut history = WalHistory::default();
        let genesis = Genesis {
            system_id: system_id.into(),
            start,
            origin: NodeId(1),
        };
        history.apply(&Command::Genesis(genesis)).unwrap();
        let state = State {
            received: BTreeMap::new(),
            limit: start,
            first: start,
            status: None,
        };
        MemoryLog {
            state: Arc::new(Mutex::new(state)),
            committed: Arc::new(watch::Sender::new(Arc::new(history))),
        }
    }

    /// Takes in a stream, and reports what commits, until it ends.
    pub(super) fn receive(&self, mut streaming: Streaming, from: Lsn) -> JoinHandle<()> {
        let log = self.clone();
        let timeline = streaming.timeline();
        {
            let mut state = log.state.lock();
            state.received.insert(timeline, (from, Vec::new()));
            let status = streaming.status();
            status.report_flushed(from);
            state.status = Some(status);
        }
        tokio::spawn(async move {
            loop {
                let (start, bytes) = match streaming.next().await {
                    Ok(Event::Wal { start, bytes }) => (start, bytes),
                    end => return eprintln!("the stream of {timeline} ended: {end:?}"),
                };
                let mut state = log.state.lock();
                let (from, held) = state.received.get_mut(&timeline).unwrap();
                assert_eq!(start, *from + held.len() as u64);
                assert!(start + bytes.len() as u64 <= start.next_segment());
                held.extend_from_slice(&bytes);
                log.commit(&mut state);
            }
        })
    }

    /// Lets everything before `limit` commit.
    pub(super) fn allow(&self, limit: Lsn) {
        let mut state = self.state.lock();
        state.limit = limit;
        self.commit(&mut state);
    }

    pub(super) fn switch(&self, timeline: TimelineId, at: Lsn, history: Bytes) {
        let switch = TimelineSwitch {
            timeline,
            at,
            after: self.committed.borrow().end(),
            origin: NodeId(2),
            history,
        };
        self.committed.send_modify(|committed| {
            Arc::make_mut(committed).apply(&Command::Switch(switch)).unwrap();
        });
    }

    /// Takes in bytes that no server sent, on the first timeline.
    pub(super) fn put(&self, bytes: &[u8]) {
        let mut state = self.state.lock();
        let start = state.first;
        let (_, held) = state
            .received
            .entry(TimelineId::FIRST)
            .or_insert((start, Vec::new()));
        held.extend_from_slice(bytes);
        self.commit(&mut state);
    }

    pub(super) fn purge(&self, first: Lsn) {
        self.state.lock().first = first;
    }

    pub(super) fn end(&self) -> Lsn {
        self.committed.borrow().end()
    }

    fn commit(&self, state: &mut State) {
        self.committed.send_modify(|committed| {
            let history = Arc::make_mut(committed);
            let timeline = history.timeline().unwrap();
            while let Some(bytes) = state.bytes(timeline, history.end(), state.limit, 1 << 20) {
                let chunk = WalChunk {
                    timeline,
                    start: history.end(),
                    bytes,
                };
                history.apply(&Command::Wal(chunk)).unwrap();
            }
        });
        if let Some(status) = &state.status {
            status.report_flushed(self.end());
        }
    }
}

impl State {
    fn bytes(&self, timeline: TimelineId, from: Lsn, end: Lsn, max: usize) -> Option<Bytes> {
        let (start, held) = self.received.get(&timeline)?;
        let end = end.min(from.next_segment()).min(from + max as u64);
        let first = usize::try_from(from.since(*start)).unwrap();
        let last = usize::try_from(end.since(*start)).unwrap().min(held.len());
        (first < last).then(|| Bytes::copy_from_slice(&held[first..last]))
    }
}

impl WalSource for MemoryLog {
    fn committed(&self) -> watch::Receiver<Arc<WalHistory>> {
        self.committed.subscribe()
    }

    async fn read(&self, follow: TimelineId, from: Lsn, max: usize) -> Result<Bytes, ReadError> {
        let history = Arc::clone(&self.committed.borrow());
        let state = self.state.lock();
        if from < state.first {
            return Err(ReadError::Purged { first: state.first });
        }
        let writer = history.writer_of(follow, from).ok_or(ReadError::NotYet)?;
        let end = history.successor(writer).map_or(history.end(), |(_, at)| at);
        if from >= end {
            return Err(ReadError::NotYet);
        }
        state.bytes(writer, from, end, max).ok_or(ReadError::NotYet)
    }
}
