//! Clients that cancel their statements, or go away in the middle of a commit.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rand::Rng;
use rand::rngs::StdRng;

/// How many operations are disturbed while it is on: one in so many.
const ONE_IN: u32 = 5;
/// The longest time before a cancel or a hang-up.
const LATEST: Duration = Duration::from_millis(30);

/// A switch that all clients of a run look at.
#[derive(Clone, Debug, Default)]
pub struct Disturbance(Arc<AtomicBool>);

/// What happens to one operation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Mishap {
    /// Its statements are cancelled so long after it began.
    pub(super) cancel_after: Option<Duration>,
    /// The connection ends so long after COMMIT was sent.
    pub(super) hang_up_after: Option<Duration>,
}

impl Disturbance {
    /// Clients begin to misbehave.
    pub fn begin(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// They stop.
    pub fn end(&self) {
        self.0.store(false, Ordering::Relaxed);
    }

    pub(super) fn mishap(&self, rng: &mut StdRng) -> Mishap {
        let mut mishap = Mishap::default();
        if self.0.load(Ordering::Relaxed) && rng.random_ratio(1, ONE_IN) {
            let after = rng.random_range(Duration::ZERO..LATEST);
            if rng.random() {
                mishap.cancel_after = Some(after);
            } else {
                mishap.hang_up_after = Some(after / 10);
            }
        }
        mishap
    }
}
