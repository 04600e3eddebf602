//! Holding back, for a moment, what makes commits visible.
//!
//! A commit of PostgreSQL becomes visible, and is answered, when its wait for synchronous replication ends, and a leader's
//! node ends it by reporting a flushed position. While a [`Holds`] holds, no further position is reported: whatever was
//! not reported before stays invisible. Commits wait meanwhile, nothing is lost, and WAL goes on being replicated.
//!
//! What was reported before a hold began may still become visible while it lasts: PostgreSQL's backends wake up when they do.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use crate::wal::{Lsn, StatusSender};

/// What holds positions back, for one leadership.
#[derive(Clone, Default)]
pub struct Holds {
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    /// Those that last.
    holding: BTreeSet<u64>,
    /// The number of the next.
    next: u64,
    /// What was not reported because of them.
    due: Option<(StatusSender, Lsn)>,
}

impl fmt::Debug for Holds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Holds")
            .field("holding", &self.state.lock().holding)
            .finish_non_exhaustive()
    }
}

impl Holds {
    /// Reports the position, now or when nothing holds any more.
    pub(crate) fn report(&self, status: &StatusSender, flushed: Lsn) {
        let mut state = self.state.lock();
        if state.holding.is_empty() {
            status.report_flushed(flushed);
        } else {
            state.due = Some((status.clone(), flushed));
        }
    }

    /// Begins to hold; gives the hold's number. It ends by itself after `limit`, so that whoever asked for it may die.
    pub(crate) fn hold(&self, limit: Duration) -> u64 {
        let number = {
            let mut state = self.state.lock();
            state.next += 1;
            let number = state.next;
            state.holding.insert(number);
            number
        };
        let holds = self.clone();
        tokio::spawn(async move {
            tokio::time::sleep(limit).await;
            if holds.release(number) {
                tracing::debug!(?limit, "a hold was not released in time");
            }
        });
        number
    }

    /// Ends a hold. Whether it lasted until now: then nothing was reported since it began.
    pub(crate) fn release(&self, number: u64) -> bool {
        let mut state = self.state.lock();
        let lasted = state.holding.remove(&number);
        if state.holding.is_empty()
            && let Some((status, flushed)) = state.due.take()
        {
            status.report_flushed(flushed);
        }
        lasted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn nothing_is_reported_while_any_hold_lasts_and_the_last_position_after() {
        let (status, reports) = StatusSender::observed();
        let holds = Holds::default();
        holds.report(&status, Lsn(1));
        assert_eq!(reports(), Lsn(1));
        let (one, two) = (
            holds.hold(Duration::from_secs(60)),
            holds.hold(Duration::from_secs(60)),
        );
        holds.report(&status, Lsn(2));
        assert!(holds.release(one));
        holds.report(&status, Lsn(3));
        assert_eq!(reports(), Lsn(1));
        assert!(holds.release(two));
        assert_eq!(reports(), Lsn(3));
        assert!(!holds.release(two), "it is over");
    }

    #[tokio::test]
    async fn a_hold_that_nobody_releases_ends_and_says_so() {
        let (status, reports) = StatusSender::observed();
        let holds = Holds::default();
        let hold = holds.hold(Duration::from_millis(20));
        holds.report(&status, Lsn(2));
        while reports() < Lsn(2) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert!(!holds.release(hold));
    }
}
