//! The replicated state machine: what the group's log says about its WAL.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;

use futures::{Stream, TryStreamExt};
use openraft::storage::{EntryResponder, RaftStateMachine};
use openraft::{EntryPayload, OptionalSend, RaftSnapshotBuilder};
use parking_lot::Mutex;
use tokio::sync::watch;

use super::Committed;
use super::index::WalIndex;
use super::snapshot::{Snapshot, SnapshotOf, SnapshotSlot};
use super::types::{Entry, LogId, Outcome, SnapshotMeta, StoredMembership, TypeConfig, term_of};
use crate::entry::Command;
use crate::id::{LogIndex, Term};
use crate::wal::{Lsn, WalHistory};

/// Segment starts that are remembered as places to purge up to: 64 GiB of WAL.
const MAX_CANDIDATES: usize = 4096;

/// What a replica's purging and its state machine share.
#[derive(Debug, Default)]
pub(crate) struct Candidates {
    state: Mutex<CandidateState>,
}

#[derive(Debug, Default)]
struct CandidateState {
    /// States whose end is a segment's start, in log order.
    known: VecDeque<Snapshot>,
    /// The one that the next snapshot is to be.
    chosen: Option<Snapshot>,
}

impl Candidates {
    /// Chooses the newest state whose WAL ends at or before `lsn`, as the next snapshot.
    pub(crate) fn choose(&self, lsn: Lsn) -> Option<Snapshot> {
        let mut state = self.state.lock();
        let found = state
            .known
            .iter()
            .rev()
            .find(|known| known.history.end() <= lsn)?
            .clone();
        state.known.retain(|known| known.last.index > found.last.index);
        state.chosen = Some(found.clone());
        Some(found)
    }

    fn remember(&self, snapshot: Snapshot) {
        let mut state = self.state.lock();
        if state.known.len() == MAX_CANDIDATES {
            state.known.pop_front();
        }
        state.known.push_back(snapshot);
    }

    fn clear(&self) {
        *self.state.lock() = CandidateState::default();
    }

    fn chosen(&self) -> Option<Snapshot> {
        self.state.lock().chosen.clone()
    }
}

/// The state machine of one replica.
#[derive(Debug)]
pub(crate) struct Machine {
    slot: Arc<SnapshotSlot>,
    history: Arc<WalHistory>,
    applied: Option<LogId>,
    membership: StoredMembership,
    index: Arc<WalIndex>,
    candidates: Arc<Candidates>,
    committed: watch::Sender<Committed>,
}

impl Machine {
    /// Starts from the snapshot on disk; openraft applies again what came after it.
    pub(crate) fn open(
        slot: SnapshotSlot,
        index: Arc<WalIndex>,
        candidates: Arc<Candidates>,
        committed: watch::Sender<Committed>,
    ) -> Machine {
        let mut machine = Machine {
            slot: Arc::new(slot),
            history: Arc::default(),
            applied: None,
            membership: StoredMembership::default(),
            index,
            candidates,
            committed,
        };
        if let Some(snapshot) = machine.slot.current() {
            machine.take_over(snapshot);
        }
        machine
    }

    fn take_over(&mut self, snapshot: Snapshot) {
        self.history = Arc::clone(&snapshot.history);
        self.applied = Some(snapshot.last);
        self.membership = snapshot.membership.clone();
        self.index.reset(Arc::clone(&snapshot.history));
        self.candidates.clear();
        self.publish();
    }

    /// Applies one entry to the memory of this replica. Whoever watches is told later, once for many.
    fn apply_entry(&mut self, entry: Entry) -> Outcome {
        let outcome = match entry.payload {
            EntryPayload::Blank => Outcome::Nothing,
            EntryPayload::Membership(membership) => {
                self.membership = StoredMembership::new(Some(entry.log_id), membership);
                Outcome::Nothing
            }
            EntryPayload::Normal(command) => self.apply_command(LogIndex(entry.log_id.index), &command),
        };
        self.applied = Some(entry.log_id);
        outcome
    }

    fn apply_command(&mut self, index: LogIndex, command: &Command) -> Outcome {
        let before = match command {
            Command::Wal(chunk) if chunk.start.is_segment_start() => self.state(),
            _ => None,
        };
        let result = Arc::make_mut(&mut self.history).apply(command);
        if let (Ok(_), Command::Wal(chunk)) = (&result, command) {
            self.index.add(index, chunk);
            before
                .into_iter()
                .for_each(|before| self.candidates.remember(before));
        }
        result.into()
    }

    /// The state after the last applied entry; none before the first.
    fn state(&self) -> Option<Snapshot> {
        Some(Snapshot {
            last: self.applied?,
            membership: self.membership.clone(),
            history: Arc::clone(&self.history),
        })
    }

    fn publish(&self) {
        self.index.advance(Arc::clone(&self.history));
        let index = self.applied.map(|id| LogIndex(id.index));
        let term = self.applied.as_ref().map_or(Term(0), term_of);
        let history = Arc::clone(&self.history);
        self.committed.send_replace(Committed { history, index, term });
    }
}

impl RaftStateMachine<TypeConfig> for Machine {
    type SnapshotData = Snapshot;
    type SnapshotBuilder = Builder;

    async fn applied_state(&mut self) -> io::Result<(Option<LogId>, StoredMembership)> {
        Ok((self.applied, self.membership.clone()))
    }

    async fn apply<S>(&mut self, mut entries: S) -> io::Result<()>
    where
        S: Stream<Item = io::Result<EntryResponder<TypeConfig>>> + Unpin + OptionalSend,
    {
        let mut answers = Vec::new();
        while let Some((entry, responder)) = entries.try_next().await? {
            let outcome = self.apply_entry(entry);
            answers.extend(responder.map(|responder| (responder, outcome)));
        }
        // Readers first: who hears that its entry is applied finds it in the index.
        self.publish();
        for (responder, outcome) in answers {
            responder.send(outcome);
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> Builder {
        Builder {
            chosen: self.candidates.chosen(),
            slot: Arc::clone(&self.slot),
        }
    }

    async fn try_create_snapshot_builder(&mut self, force: bool) -> Option<Builder> {
        let builder = self.get_snapshot_builder().await;
        (force || builder.chosen.is_some()).then_some(builder)
    }

    async fn install_snapshot(&mut self, meta: &SnapshotMeta, snapshot: Snapshot) -> io::Result<()> {
        if meta.last_log_id != Some(snapshot.last) {
            return Err(super::codec::invalid(
                "a snapshot of another log position than announced",
            ));
        }
        // The log up to there is purged next. A crash before the file is whole: the old snapshot and
        // log stand. After it: at the next start openraft finishes the purge.
        self.slot.replace(snapshot.clone()).await?;
        self.take_over(snapshot);
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> io::Result<Option<SnapshotOf>> {
        Ok(self.slot.current().map(Snapshot::described))
    }
}

/// Makes the chosen state the snapshot.
#[derive(Debug)]
pub(crate) struct Builder {
    chosen: Option<Snapshot>,
    slot: Arc<SnapshotSlot>,
}

impl RaftSnapshotBuilder<TypeConfig> for Builder {
    type SnapshotData = Snapshot;

    async fn build_snapshot(&mut self) -> io::Result<SnapshotOf> {
        if let Some(chosen) = self.chosen.take() {
            self.slot.replace(chosen).await?;
        }
        let current = self.slot.current().map(Snapshot::described);
        current.ok_or_else(|| io::Error::other("there is no state to take a snapshot of"))
    }
}
