//! What is struck when: a function of the seed, the kinds of faults and the time alone.

use std::fmt;
use std::ops::Range;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};

use super::kinds::Kind;

/// The time before the first fault, and between two: about five seconds.
const BETWEEN: Range<Duration> = Duration::from_millis(3_000)..Duration::from_millis(7_000);
/// How long a fault lasts that does not end by itself.
const LASTS: Range<Duration> = Duration::from_millis(500)..Duration::from_secs(9);

/// One fault to come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Strike {
    /// After the schedule's beginning.
    pub at: Duration,
    /// What kind.
    pub kind: Kind,
    /// At whom.
    pub aim: Aim,
    /// For how long, if it does not end by itself.
    pub lasts: Duration,
    /// What else there is to choose is chosen by this.
    pub pick: u64,
}

/// Who is struck. The numbers are taken modulo what there is then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Aim {
    /// Some node.
    Node(u32),
    /// The node that then leads some group.
    Leader(u32),
}

impl fmt::Display for Aim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Aim::Node(_) => write!(f, "some node"),
            Aim::Leader(_) => write!(f, "a leader"),
        }
    }
}

/// The faults of a run.
#[must_use]
pub fn schedule(seed: u64, kinds: &[Kind], time: Duration) -> Vec<Strike> {
    // Not the generator of the operations: one must not move with the other.
    let mut rng = StdRng::seed_from_u64(seed ^ 0x006e_656d_6573_6973);
    let mut strikes = Vec::new();
    let mut at = rng.random_range(BETWEEN) / 2;
    // Each kind comes once before one comes again.
    let mut deck: Vec<Kind> = Vec::new();
    while at < time {
        if deck.is_empty() {
            deck.extend(kinds);
            deck.shuffle(&mut rng);
        }
        let Some(kind) = deck.pop() else { break };
        let number = rng.random();
        strikes.push(Strike {
            at,
            kind,
            aim: if rng.random() {
                Aim::Leader(number)
            } else {
                Aim::Node(number)
            },
            lasts: rng.random_range(LASTS),
            pick: rng.random(),
        });
        at += rng.random_range(BETWEEN);
    }
    strikes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nemesis::kinds::kinds;

    #[test]
    fn a_seed_gives_the_same_schedule_again() {
        let all = kinds("all").unwrap();
        let minute = Duration::from_secs(60);
        assert_eq!(schedule(5, &all, minute), schedule(5, &all, minute));
        assert_ne!(schedule(5, &all, minute), schedule(6, &all, minute));
    }

    #[test]
    fn faults_come_about_every_five_seconds_and_only_of_the_kinds_asked_for() {
        let pauses = kinds("pause").unwrap();
        let strikes = schedule(1, &pauses, Duration::from_secs(600));
        assert!((100..=140).contains(&strikes.len()), "{}", strikes.len());
        let of = |kind| strikes.iter().filter(|strike| strike.kind == kind).count();
        let counts: Vec<usize> = pauses.iter().map(|kind| of(*kind)).collect();
        assert_eq!(counts.iter().sum::<usize>(), strikes.len());
        assert!(counts.iter().max() <= counts.iter().min().map(|least| least + 1).as_ref());
        assert!(strikes.is_sorted_by_key(|strike| strike.at));
        assert!(schedule(1, &[], Duration::from_secs(600)).is_empty());
    }
}
