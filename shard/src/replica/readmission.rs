//! How a replica that has lost its log comes back, and how a leader keeps its group whole.
//!
//! `ARCHITECTURE.md`, "A replica that has lost its log", argues why this is safe. Here: the one that lost its log asks
//! every other member, again and again, to be taken out of the group; the one that leads does it, and answers
//! when it is committed. From then on the replica takes part, with an empty log and an empty directory;
//! the leader makes it a learner, and a voter when its log has caught up. PostgreSQL's directory is rebuilt meanwhile.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::Shared;
use crate::call::{Answer, Question};
use crate::causes::with_causes;
use crate::id::NodeId;
use crate::raft::RequestFailed;

/// How often the other members are asked, and how often a leader looks whether its group is whole.
const EVERY: Duration = Duration::from_millis(500);

/// How long one of them may take: two entries that a majority must have on disk, and a connection.
const PATIENCE: Duration = Duration::from_secs(5);

/// How often it is said that nobody has answered.
const REMIND: Duration = Duration::from_secs(30);

/// Asks until a leader has taken this replica out of the group; then lets it take part again. Returns at once where the
/// replica has not lost its log.
pub(super) async fn come_back(shared: Arc<Shared>, members: Vec<NodeId>, stop: CancellationToken) {
    let others: Vec<NodeId> = members.into_iter().filter(|node| *node != shared.node).collect();
    let mut remind = Instant::now() + REMIND;
    while shared.raft.is_lost() && !stop.is_cancelled() {
        for other in &others {
            let asked = tokio::select! {
                () = stop.cancelled() => return,
                asked = ask(&shared, *other) => asked,
            };
            match asked {
                Ok(()) => return take_part(&shared, *other),
                Err(reason) => {
                    tracing::debug!(group = %shared.group, %other, reason, "not readmitted");
                }
            }
        }
        if Instant::now() > remind {
            remind += REMIND;
            tracing::warn!(
                group = %shared.group,
                "no leader has readmitted this replica, which has lost its log. If most of the group's replicas have lost theirs, \
                 acknowledged data may be lost, and only an operator can decide how to go on"
            );
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(EVERY) => {}
        }
    }
}

fn take_part(shared: &Shared, leader: NodeId) {
    match tokio::task::block_in_place(|| shared.raft.readmitted()) {
        Ok(()) => {
            tracing::info!(group = %shared.group, %leader, "readmitted to the group, to be rebuilt from it");
        }
        // It stays silent; after a restart it asks again.
        Err(error) => {
            tracing::error!(group = %shared.group, %error, "the readmission cannot be written down");
        }
    }
}

async fn ask(shared: &Shared, other: NodeId) -> Result<(), String> {
    let question = Question::Readmit { group: shared.group }.encode();
    let answer = shared.transport.call(other, question, PATIENCE).await;
    match Answer::decode(&answer.map_err(|error| with_causes(&error).to_string())?) {
        Ok(Answer::Readmitted) => Ok(()),
        Ok(Answer::Refused(reason)) => Err(reason),
        Ok(other) => Err(format!("an unexpected answer: {other:?}")),
        Err(error) => Err(error.to_string()),
    }
}

/// While this replica leads, sees to it that all of `members` are voters again.
pub(super) async fn tend(shared: Arc<Shared>, members: Vec<NodeId>, stop: CancellationToken) {
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(EVERY) => {}
        }
        let tended = tokio::select! {
            () = stop.cancelled() => return,
            tended = shared.raft.tend(&members) => tended,
        };
        match tended {
            Ok(()) | Err(RequestFailed::NotLeader) => {}
            Err(error) => {
                tracing::info!(group = %shared.group, %error, "the group's membership was not changed this time");
            }
        }
    }
}
