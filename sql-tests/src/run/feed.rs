//! What the clients of a run are fed with.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use rand::SeedableRng;
use rand::rngs::StdRng;
use tokio::time::Instant;

use super::Options;
use crate::client::Effect;
use crate::workload::{Look, Operation, Workload};

/// Operations that readers may leave to the others at a time; where a workload hardly reads, readers help with the rest. While a
/// group has no leader the others leave as many where they are as come in some seconds.
pub(super) const LEFT: usize = 1000;

/// Hands out operations, in the seed's order and at the run's rate.
pub(super) struct Feed {
    inner: Mutex<Inner>,
    pub(super) until: Instant,
    between: Duration,
}

struct Inner {
    workload: Box<dyn Workload>,
    rng: StdRng,
    next: Instant,
    /// What readers have left to the others.
    left: VecDeque<Box<dyn Operation>>,
}

impl Inner {
    fn operation(&mut self, only_reads: bool) -> Box<dyn Operation> {
        while only_reads && self.left.len() < LEFT {
            let operation = self.workload.next(&mut self.rng);
            if operation.effect() == Effect::Reads {
                return operation;
            }
            self.left.push_back(operation);
        }
        let left = self.left.pop_front();
        left.unwrap_or_else(|| self.workload.next(&mut self.rng))
    }
}

impl Feed {
    /// The time begins now.
    pub(super) fn new(workload: Box<dyn Workload>, options: &Options) -> Arc<Feed> {
        let now = Instant::now();
        Arc::new(Feed {
            inner: Mutex::new(Inner {
                workload,
                rng: StdRng::seed_from_u64(options.seed),
                next: now,
                left: VecDeque::new(),
            }),
            until: now + options.time,
            between: Duration::from_secs(1) / options.rate.max(1),
        })
    }

    /// The next operation and when it is to begin, one that reads if possible where it has to; `None` when the time is over.
    pub(super) fn next(&self, only_reads: bool) -> Option<(Instant, Box<dyn Operation>)> {
        let mut inner = self.inner.lock();
        // What the clients could not take in time is not caught up with.
        let at = inner.next.max(Instant::now());
        if at >= self.until {
            return None;
        }
        inner.next = at + self.between;
        Some((at, inner.operation(only_reads)))
    }

    pub(super) fn look(&self) -> Option<Look> {
        self.inner.lock().workload.look()
    }

    pub(super) fn final_reads(&self) -> Vec<Box<dyn Operation>> {
        self.inner.lock().workload.final_reads()
    }
}
