//! Whether this replica may be sure that no other leads.
//!
//! A follower that heard from its leader votes for nobody else during the lease. So from the
//! moment when a leader *sent* a message that a majority has acknowledged, no other replica can
//! win an election for that long. This module keeps those moments, from the answers themselves:
//! openraft's own `last_quorum_acked` attributes an answer to the last of several messages that
//! end at the same log position, which may have been sent after the one that was answered.
//!
//! What else could elect another leader sooner, and how each is met:
//! - This replica's own vote. It is not asked for while the lease holds, and once it is given
//!   the term's lease is over: [`Lease::vote`].
//! - A transfer of leadership, which asks voters to forget the lease: [`Lease::revoke`].
//! - A follower that restarts forgets what it promised: it stays quiet for a lease (see `raft::endpoint`).
//! - Clocks that run at different speeds: a tenth of the lease is given away for that.
//! - A process that is stopped, or a machine that is suspended: the clock is `CLOCK_BOOTTIME`,
//!   which goes on in both.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use rustix::time::{ClockId, clock_gettime};

use crate::id::{NodeId, Term};

/// A moment on this machine's boot clock, nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Moment(u64);

impl Moment {
    /// Now.
    pub(crate) fn now() -> Moment {
        let time = clock_gettime(ClockId::Boottime);
        let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
        let nanos = u64::try_from(time.tv_nsec).unwrap_or(0);
        Moment(seconds.saturating_mul(1_000_000_000).saturating_add(nanos))
    }

    fn after(self, duration: Duration) -> Moment {
        let nanos = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        Moment(self.0.saturating_add(nanos))
    }
}

/// One replica's lease. Reading it costs a clock and an atomic.
#[derive(Debug)]
pub(crate) struct Lease {
    node: NodeId,
    duration: Duration,
    /// When the lease ends: [`Moment`]; 0 for none.
    until: AtomicU64,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// The term that the acknowledgements are of.
    term: Term,
    /// When the last message was sent that each other replica has acknowledged in that term.
    acked: BTreeMap<NodeId, Moment>,
    /// The voters; while the membership changes, both sets of them.
    voters: Vec<BTreeSet<NodeId>>,
    /// Terms up to this one have no lease any more.
    over: Option<Term>,
    /// Votes for others that are being decided.
    voting: u32,
    /// This replica leads the term as its group's only voter.
    alone: Option<Term>,
}

impl Lease {
    /// `promise`: for how long a follower that heard from its leader votes for nobody else.
    pub(crate) fn new(node: NodeId, promise: Duration) -> Lease {
        Lease {
            node,
            duration: promise * 9 / 10,
            until: AtomicU64::new(0),
            state: Mutex::default(),
        }
    }

    /// Whether no other replica can lead at this moment.
    pub(crate) fn holds(&self) -> bool {
        Moment::now().0 < self.until.load(Ordering::Acquire)
    }

    /// How long it still holds, at least; none where it does not.
    pub(crate) fn remaining(&self) -> Option<Duration> {
        let left = self.until.load(Ordering::Acquire).checked_sub(Moment::now().0)?;
        (left > 0).then_some(Duration::from_nanos(left))
    }

    /// `node` answered a message that was sent at `sent`, and follows this replica in `term`.
    pub(crate) fn acknowledged(&self, term: Term, node: NodeId, sent: Moment) {
        let mut state = self.state.lock();
        if term < state.term {
            return;
        }
        if term > state.term {
            state.term = term;
            state.acked.clear();
        }
        let latest = state.acked.entry(node).or_default();
        *latest = sent.max(*latest);
        self.update(&state);
    }

    /// The voters, and whether this replica leads, have changed or not.
    pub(crate) fn observe(&self, voters: Vec<BTreeSet<NodeId>>, leads: Option<Term>) {
        let mut state = self.state.lock();
        let only_voter = voters.len() == 1 && voters[0].len() == 1 && voters[0].contains(&self.node);
        state.alone = leads.filter(|_| only_voter);
        state.voters = voters;
        self.update(&state);
    }

    /// Ends the lease of `term` and of all before it, for good.
    pub(crate) fn revoke(&self, term: Term) {
        let mut state = self.state.lock();
        state.over = state.over.max(Some(term));
        self.update(&state);
    }

    /// Asks to vote for another replica. None while the lease holds: the vote must be refused.
    /// Otherwise there is no lease until the permission is dropped.
    pub(crate) fn vote(&self) -> Option<VotePermission<'_>> {
        let mut state = self.state.lock();
        if self.holds() {
            return None;
        }
        state.voting += 1;
        self.update(&state);
        Some(VotePermission { lease: self })
    }

    fn update(&self, state: &State) {
        let until = self.end(state).unwrap_or_default();
        self.until.store(until.0, Ordering::Release);
    }

    fn end(&self, state: &State) -> Option<Moment> {
        if state.voting > 0 {
            return None;
        }
        if state.alone.is_some_and(|term| state.over < Some(term)) {
            return Some(Moment(u64::MAX));
        }
        if state.over >= Some(state.term) || state.voters.is_empty() {
            return None;
        }
        let since = state
            .voters
            .iter()
            .map(|voters| self.majority_since(voters, &state.acked));
        Some(since.min()??.after(self.duration))
    }

    /// The last moment that a majority of `voters` has acknowledged; this replica needs no answer.
    fn majority_since(&self, voters: &BTreeSet<NodeId>, acked: &BTreeMap<NodeId, Moment>) -> Option<Moment> {
        let mut others: Vec<Moment> = voters
            .iter()
            .filter(|voter| **voter != self.node)
            .filter_map(|voter| acked.get(voter).copied())
            .collect();
        others.sort_unstable_by(|a, b| b.cmp(a));
        let mine = usize::from(voters.contains(&self.node));
        let needed = (voters.len() / 2 + 1).saturating_sub(mine);
        // Where it needs nobody, it is the only voter, and `alone` decides.
        others.get(needed.checked_sub(1)?).copied()
    }
}

/// While it lives, this replica may vote for another and has no lease.
#[derive(Debug)]
pub(crate) struct VotePermission<'a> {
    lease: &'a Lease,
}

impl VotePermission<'_> {
    /// The vote was given, in `term`: whatever lease came before is over.
    pub(crate) fn given(self, term: Term) {
        let before = term.0.checked_sub(1).map(Term);
        before.into_iter().for_each(|before| self.lease.revoke(before));
    }
}

impl Drop for VotePermission<'_> {
    fn drop(&mut self) {
        let mut state = self.lease.state.lock();
        state.voting -= 1;
        self.lease.update(&state);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PROMISE: Duration = Duration::from_secs(100);

    fn of_three() -> Lease {
        let lease = Lease::new(NodeId(1), PROMISE);
        lease.observe(vec![(1..=3).map(NodeId).collect()], Some(Term(5)));
        lease
    }

    #[test]
    fn lease_counts_from_the_message_that_a_majority_answered() {
        let lease = of_three();
        assert!(!lease.holds());
        let now = Moment::now();
        lease.acknowledged(Term(5), NodeId(2), now);
        assert!(lease.holds(), "two of three");
        let left = lease.remaining().unwrap();
        assert!(left <= PROMISE * 9 / 10, "a tenth is given away, {left:?}");
        lease.acknowledged(Term(6), NodeId(3), Moment(1));
        assert!(!lease.holds(), "answers of another term do not count");
    }

    #[test]
    fn five_need_two_others() {
        let lease = Lease::new(NodeId(1), PROMISE);
        lease.observe(vec![(1..=5).map(NodeId).collect()], Some(Term(1)));
        lease.acknowledged(Term(1), NodeId(2), Moment::now());
        assert!(!lease.holds());
        lease.acknowledged(Term(1), NodeId(4), Moment::now());
        assert!(lease.holds());
    }

    #[test]
    fn own_vote_and_lease_exclude_each_other() {
        let lease = of_three();
        let permission = lease.vote().unwrap();
        lease.acknowledged(Term(5), NodeId(2), Moment::now());
        assert!(!lease.holds(), "not while a vote is being decided");
        drop(permission);
        assert!(lease.holds(), "the vote was not given");
        assert!(lease.vote().is_none(), "no vote while the lease holds");

        let lease = of_three();
        lease.vote().unwrap().given(Term(6));
        lease.acknowledged(Term(5), NodeId(2), Moment::now());
        assert!(!lease.holds(), "the vote was given");
        lease.acknowledged(Term(7), NodeId(2), Moment::now());
        assert!(lease.holds(), "a later term is another lease");
    }

    #[test]
    fn transfer_ends_the_lease_for_the_term() {
        let lease = of_three();
        lease.acknowledged(Term(5), NodeId(2), Moment::now());
        lease.revoke(Term(5));
        lease.acknowledged(Term(5), NodeId(3), Moment::now());
        assert!(!lease.holds());
    }

    #[test]
    fn only_voter_needs_nobody_while_it_leads() {
        let lease = Lease::new(NodeId(1), PROMISE);
        let alone = || vec![[NodeId(1)].into()];
        lease.observe(alone(), None);
        assert!(!lease.holds());
        lease.observe(alone(), Some(Term(1)));
        assert!(lease.holds());
        lease.observe(alone(), None);
        assert!(!lease.holds());
    }
}
