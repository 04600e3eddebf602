//! Where a node can be made to die on purpose while transactions across groups commit, for tests.
//!
//! Only with the cargo feature `failpoints`, which is off by default: without it [`pass`] is nothing, and a node cannot
//! be asked for it. The points are the `fail` crate's.

use serde::{Deserialize, Serialize};

/// A step of a transaction across groups, in the order in which one comes through them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Step {
    /// COMMIT has come, and no PREPARE has been sent.
    BeforePrepare,
    /// Every PREPARE has been sent, and no answer was heard.
    PrepareSent,
    /// The first of them was answered; with two groups there is no other.
    PartPrepared,
    /// All were.
    AllPrepared,
    /// The decision has been sent, and no answer was heard.
    DecisionSent,
    /// It was answered.
    Decided,
    /// Every COMMIT PREPARED has been sent, and no answer was heard.
    CommitSent,
    /// The first of them was answered.
    PartCommitted,
    /// All were, and the client has not been told.
    AllCommitted,
    /// Whoever settles a part that was found knows the outcome, and has not ended the part.
    OutcomeLearned,
    /// That part has ended.
    PartEnded,
    /// Decisions are known to be needed by nobody, and have not been deleted.
    BeforeCleaning,
    /// They have been deleted.
    Cleaned,
}

/// What a node does when it comes to a [`Step`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Duty {
    /// It is the coordinator.
    Commits,
    /// It settles what a lost coordinator has left.
    Recovers,
    /// It deletes old decisions, every few seconds.
    Cleans,
}

impl Step {
    /// All of them.
    pub const ALL: [Step; 13] = [
        Step::BeforePrepare,
        Step::PrepareSent,
        Step::PartPrepared,
        Step::AllPrepared,
        Step::DecisionSent,
        Step::Decided,
        Step::CommitSent,
        Step::PartCommitted,
        Step::AllCommitted,
        Step::OutcomeLearned,
        Step::PartEnded,
        Step::BeforeCleaning,
        Step::Cleaned,
    ];

    /// As it is called on command lines and in histories.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Step::BeforePrepare => "before-prepare",
            Step::PrepareSent => "prepare-sent",
            Step::PartPrepared => "part-prepared",
            Step::AllPrepared => "all-prepared",
            Step::DecisionSent => "decision-sent",
            Step::Decided => "decided",
            Step::CommitSent => "commit-sent",
            Step::PartCommitted => "part-committed",
            Step::AllCommitted => "all-committed",
            Step::OutcomeLearned => "outcome-learned",
            Step::PartEnded => "part-ended",
            Step::BeforeCleaning => "before-cleaning",
            Step::Cleaned => "cleaned",
        }
    }

    /// Who comes to it.
    #[must_use]
    pub const fn duty(self) -> Duty {
        match self {
            Step::OutcomeLearned | Step::PartEnded => Duty::Recovers,
            Step::BeforeCleaning | Step::Cleaned => Duty::Cleans,
            _ => Duty::Commits,
        }
    }
}

/// The node comes to this step. Where it is armed, the node ends here, as by kill -9.
pub fn pass(step: Step) {
    #[cfg(feature = "failpoints")]
    fail::fail_point!(step.name());
    #[cfg(not(feature = "failpoints"))]
    let _ = step;
}

/// Arms one step of this process, and no other; none: disarms all.
#[cfg(feature = "failpoints")]
pub fn arm(step: Option<Step>) {
    for other in Step::ALL {
        fail::remove(other.name());
    }
    if let Some(step) = step {
        tracing::info!(step = step.name(), "this node ends when it comes here");
        fail::cfg_callback(step.name(), move || die(step))
            .expect("a callback is no text that could be wrong");
    }
}

/// Not by a panic, which would end a task only, and not by `abort`, which may leave a core file.
#[cfg(feature = "failpoints")]
fn die(step: Step) {
    use rustix::process::{Signal, getpid, kill_process};
    if matches!(step, Step::PrepareSent | Step::DecisionSent | Step::CommitSent) {
        // The other threads take what was sent to where it is sent.
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    let _ = kill_process(getpid(), Signal::KILL);
    std::process::abort();
}
