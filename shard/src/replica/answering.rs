//! Whether a leader's PostgreSQL still answers.
//!
//! One that died is seen at once; one that hangs is not: stopped by a signal, stuck on a lock of its shared
//! memory, starved by its machine. It lives, its connections stand, and the group would wait for as long as it
//! likes. So its leader asks it, in two ways that both must be answered:
//!
//! - *a statement over the control connection*: `SELECT 1` needs no disk and no lock of any user, but a snapshot,
//!   and so the shared memory that every backend needs;
//! - *a greeting by a new connection*, which the postmaster must make a process for. With only the postmaster
//!   stopped, sessions go on, but nobody can begin one, and a backend that crashes is not noticed, though what it did
//!   to the shared memory is everybody's: no server to lead with.
//!
//! **Busy is not hanging.** Neither question waits for anything that work holds for long: not for locks, commits,
//! checkpoints, or a free connection slot (the greeting comes before that is looked at). What they need is a
//! processor for about a millisecond, of a machine on which this node itself gets one: [`PATIENCE`] is counted in this
//! node's own waking, so a node that was stopped or starved does not take its own silence for PostgreSQL's.
//! Where it is wrong all the same, the price is that of a planned failover: the gate is closed, no acknowledged
//! write is touched, another replica leads.
//!
//! What is not seen: a server that answers while its disk hangs, so that only commits wait.

use std::time::Duration;

use super::ReplicaError;
use crate::postgres::{Control, Running};

/// How long PostgreSQL may give no answer at all. The usual answer takes a millisecond, and a failover costs about a
/// second: much less would make failovers out of hiccups, much more would keep clients waiting longer
/// than the cure takes.
const PATIENCE: Duration = Duration::from_secs(2);

/// The patience is counted in such pieces; between two questions one of them passes.
const PIECE: Duration = Duration::from_millis(250);

/// Asks again and again; returns when PostgreSQL hangs, or has ended the control connection.
pub(super) async fn until_silent(running: &Running, control: &Control) -> ReplicaError {
    loop {
        let asking = async {
            let (answered, ()) = tokio::join!(control.answers(), greeted(running));
            answered
        };
        match in_waking_time(PATIENCE, asking).await {
            Some(Ok(())) => tokio::time::sleep(PIECE).await,
            // Without it the gate's guards cannot be lowered any more, nor can it be asked again: begin anew.
            Some(Err(error)) => return error.into(),
            None => return ReplicaError::Silent { patience: PATIENCE },
        }
    }
}

/// Returns when a new connection was greeted. A refusal is tried again: where nobody accepts connections
/// the queue of those that wait is full in the end, and the system refuses more.
async fn greeted(running: &Running) {
    while running.endpoint().greets().await.is_err() {
        tokio::time::sleep(PIECE).await;
    }
}

/// The outcome of `work`, if it comes before this process has waited for `patience`. Time in which this process was
/// stopped counts as one piece at most, and an outcome that is there is taken before a piece is counted.
async fn in_waking_time<T>(patience: Duration, work: impl Future<Output = T>) -> Option<T> {
    tokio::pin!(work);
    let mut waited = Duration::ZERO;
    while waited < patience {
        tokio::select! {
            biased;
            outcome = &mut work => return Some(outcome),
            () = tokio::time::sleep(PIECE) => waited += PIECE,
        }
    }
    None
}
