//! What the driver and the feed watch, out of what Raft reports.

use std::fmt;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::life::Part;
use crate::raft::{Committed, Fatal, Leadership, RaftGroup, WalReadError, WalReader};
use crate::status::Role;
use crate::wal::{Lsn, ReadError, TimelineId, WalHistory, WalSource};

/// The replica's part in Raft and its committed history, each as one value to watch.
pub(super) struct Observed {
    pub(super) part: watch::Receiver<Part>,
    pub(super) history: watch::Receiver<Arc<WalHistory>>,
}

impl Observed {
    /// Follows `raft` until `stop`.
    pub(super) fn start(raft: &RaftGroup, stop: CancellationToken) -> Observed {
        Observed::follow(raft.leadership(), raft.fatal(), raft.committed(), stop)
    }

    fn follow(
        mut leadership: watch::Receiver<Leadership>,
        mut fatal: watch::Receiver<Option<Fatal>>,
        mut committed: watch::Receiver<Committed>,
        stop: CancellationToken,
    ) -> Observed {
        let (part, watch_part) = watch::channel(part_of(*leadership.borrow(), fatal.borrow().as_ref()));
        let (history, watch_history) = watch::channel(committed.borrow().history.clone());
        tokio::spawn(async move {
            loop {
                let changed = tokio::select! {
                    () = stop.cancelled() => return,
                    changed = leadership.changed() => changed,
                    changed = fatal.changed() => changed,
                    changed = committed.changed() => changed,
                };
                // Raft lets go of its ends only when it has stopped.
                if changed.is_err() {
                    part.send_replace(Part::Dead);
                    // The ends are kept: whoever watches is to wait, and not to hear at once, again
                    // and again, that nothing changes any more.
                    stop.cancelled().await;
                    return;
                }
                // Taken first and told last: whoever sees a ready leader sees all that it has committed.
                let next = part_of(
                    *leadership.borrow_and_update(),
                    fatal.borrow_and_update().as_ref(),
                );
                let now = committed.borrow_and_update().history.clone();
                history.send_if_modified(|last| !Arc::ptr_eq(&std::mem::replace(last, now.clone()), &now));
                part.send_if_modified(|last| std::mem::replace(last, next) != next);
            }
        });
        Observed {
            part: watch_part,
            history: watch_history,
        }
    }
}

fn part_of(leadership: Leadership, fatal: Option<&Fatal>) -> Part {
    match (fatal, leadership.role) {
        (Some(_), _) => Part::Dead,
        (None, Role::Leader) => Part::Leader {
            term: leadership.term,
            ready: leadership.ready,
        },
        (None, _) => Part::Follower {
            leader: leadership.leader,
        },
    }
}

/// The committed WAL in the group's log, for the own standby.
#[derive(Clone)]
pub(super) struct LogSource {
    reader: WalReader,
    history: watch::Receiver<Arc<WalHistory>>,
}

impl fmt::Debug for LogSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LogSource").finish_non_exhaustive()
    }
}

impl LogSource {
    pub(super) fn new(reader: WalReader, history: watch::Receiver<Arc<WalHistory>>) -> LogSource {
        LogSource { reader, history }
    }

    fn read_now(&self, follow: TimelineId, from: Lsn, max: usize) -> Result<Bytes, ReadError> {
        let mut read = match self.reader.read(follow, from, max) {
            Ok(read) => read,
            Err(WalReadError::Purged { first }) => return Err(ReadError::Purged { first }),
            Err(WalReadError::NotYet | WalReadError::UnknownTimeline(_)) => return Err(ReadError::NotYet),
            Err(WalReadError::Log(error)) => return Err(ReadError::Io(error)),
        };
        let mut bytes = match read.pieces.len() {
            1 => read.pieces.remove(0),
            _ => {
                let mut whole = BytesMut::with_capacity(max);
                for piece in &read.pieces {
                    whole.extend_from_slice(piece);
                }
                whole.freeze()
            }
        };
        bytes.truncate(max);
        Ok(bytes)
    }
}

impl WalSource for LogSource {
    fn committed(&self) -> watch::Receiver<Arc<WalHistory>> {
        self.history.clone()
    }

    async fn read(&self, follow: TimelineId, from: Lsn, max: usize) -> Result<Bytes, ReadError> {
        // Mostly from the cache of recent entries; else one read of a file that was just written.
        self.read_now(follow, from, max)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;
    use crate::id::Term;

    #[tokio::test]
    async fn a_raft_that_stopped_is_told_once() {
        let follower = Leadership {
            term: Term(1),
            role: Role::Follower,
            leader: None,
            ready: false,
        };
        let (leads, leadership) = watch::channel(follower);
        let (_fatal, fatal) = watch::channel(None);
        let (_committed, committed) = watch::channel(Committed::default());
        let stop = CancellationToken::new();
        let mut part = Observed::follow(leadership, fatal, committed, stop.clone()).part;
        drop(leads);
        part.changed().await.expect("it is told that Raft has stopped");
        assert_eq!(*part.borrow_and_update(), Part::Dead);
        let again = timeout(Duration::from_millis(200), part.changed()).await;
        assert!(again.is_err(), "who waits is woken again: {again:?}");
        stop.cancel();
        assert!(part.changed().await.is_err(), "the end is told");
    }
}
