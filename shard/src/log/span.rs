//! The arithmetic of one group's log: a purge point, and records without holes after it.

use std::collections::VecDeque;
use std::collections::vec_deque::Drain;
use std::ops::Range;

use bytes::Bytes;

use crate::id::{GroupId, LogIndex, Term};

/// The last purged position of a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Purged {
    /// The last index that is gone.
    pub index: LogIndex,
    /// Its term.
    pub term: Term,
    /// Whatever the caller wants to remember about it.
    pub note: Bytes,
}

/// One change of one group, as it is written to disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// A record at the end of the group's log.
    Record(super::Record),
    /// A record that is already in the log, written again so that its old segment can go.
    Moved(super::Record),
    /// The vote.
    Vote(Bytes),
    /// The commit position.
    Committed(Bytes),
    /// The records from this index on are gone.
    Truncate(LogIndex),
    /// The records up to this position are gone.
    Purge(Purged),
}

/// A change, and whose it is.
pub(super) type GroupChange = (GroupId, Change);

/// What is known of one group; `T` is what is known of one record.
///
/// Invariant: `items[0]` is the record `first`, and `first` follows the purge point where there is one.
#[derive(Clone, Debug)]
pub(super) struct Span<T> {
    pub vote: Option<Bytes>,
    pub committed: Option<Bytes>,
    purged: Option<Purged>,
    first: LogIndex,
    items: VecDeque<T>,
}

impl<T> Default for Span<T> {
    fn default() -> Self {
        Span {
            vote: None,
            committed: None,
            purged: None,
            first: LogIndex(0),
            items: VecDeque::new(),
        }
    }
}

impl<T> Span<T> {
    /// The purge point.
    pub(super) fn purged(&self) -> Option<&Purged> {
        self.purged.as_ref()
    }

    /// The first record that is held.
    pub(super) fn first(&self) -> Option<LogIndex> {
        (!self.items.is_empty()).then_some(self.first)
    }

    /// The last record that is held.
    pub(super) fn last(&self) -> Option<(LogIndex, &T)> {
        let item = self.items.back()?;
        Some((LogIndex(self.first.0 + self.items.len() as u64 - 1), item))
    }

    /// The index that the next record must have. `None`: nothing was ever here, any index may be the first.
    pub(super) fn next(&self) -> Option<LogIndex> {
        match self.last() {
            Some((last, _)) => Some(last.next()),
            None => self.purged.as_ref().map(|purged| purged.index.next()),
        }
    }

    /// The record at `index`.
    pub(super) fn get(&self, index: LogIndex) -> Option<&T> {
        self.items.get(self.slot(index)?)
    }

    /// The record at `index`, to change what is known of it.
    pub(super) fn get_mut(&mut self, index: LogIndex) -> Option<&mut T> {
        let slot = self.slot(index)?;
        self.items.get_mut(slot)
    }

    /// Every record that is held, in order.
    pub(super) fn iter(&self) -> impl Iterator<Item = (LogIndex, &T)> {
        (self.first.0..).map(LogIndex).zip(&self.items)
    }

    /// The records of `range` that are held, in order.
    pub(super) fn range(&self, range: Range<LogIndex>) -> impl Iterator<Item = (LogIndex, &T)> {
        let end = self.first.0 + self.items.len() as u64;
        let from = range.start.0.clamp(self.first.0, end);
        let to = range.end.0.clamp(from, end);
        (from..to)
            .map(LogIndex)
            .filter_map(|index| Some((index, self.get(index)?)))
    }

    /// Adds a record. The error is the index that it should have had.
    pub(super) fn push(&mut self, index: LogIndex, item: T) -> Result<(), LogIndex> {
        match self.next() {
            Some(expected) if expected != index => return Err(expected),
            Some(_) | None if self.items.is_empty() => self.first = index,
            Some(_) | None => {}
        }
        self.items.push_back(item);
        Ok(())
    }

    /// Removes the records from `from` on, and hands them out.
    pub(super) fn truncate(&mut self, from: LogIndex) -> Drain<'_, T> {
        let keep = usize::try_from(from.0.saturating_sub(self.first.0)).unwrap_or(usize::MAX);
        self.items.drain(keep.min(self.items.len())..)
    }

    /// Removes the records up to `purged`, and hands them out. A purge point never goes back.
    pub(super) fn purge(&mut self, purged: Purged) -> Drain<'_, T> {
        if self
            .purged
            .as_ref()
            .is_some_and(|before| before.index >= purged.index)
        {
            return self.items.drain(..0);
        }
        let next = purged.index.next();
        let gone = usize::try_from(next.0.saturating_sub(self.first.0)).unwrap_or(usize::MAX);
        self.first = self.first.max(next);
        self.purged = Some(purged);
        let gone = gone.min(self.items.len());
        self.items.drain(..gone)
    }

    fn slot(&self, index: LogIndex) -> Option<usize> {
        usize::try_from(index.0.checked_sub(self.first.0)?).ok()
    }
}
