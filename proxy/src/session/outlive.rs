//! Backends whose sessions have ended in the middle of a statement.
//!
//! PostgreSQL notices that a client is gone when it sends to it or waits for its next message, and goes on until then. So it
//! does here: what the statement wrote is committed, a timeout of the session still ends it, and it has its place in the pool
//! until it is over, so that who comes and goes gets no more than who stays.

use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use coordinator::waiting::Waiting;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::Instant;

use super::conn::Conn;
use super::io::HIGH_WATER;
use super::pool::Ticket;
use crate::Shared;
use crate::cancel::Target;

/// Between two attempts to cancel it, and for how long a group may take to say what it waits for.
const AGAIN: Duration = Duration::from_secs(2);

/// Waits until the backend has ended, and cancels it after `left`, if that is said.
pub(super) async fn outlive(
    mut conn: Conn,
    ticket: Arc<Option<Ticket>>,
    shared: Arc<Shared>,
    left: Option<Duration>,
) {
    let target = conn.target();
    let mut strike_at = left.and_then(|left| Instant::now().checked_add(left));
    let over = async {
        // It may be gone already, with its group's leader.
        let _ = conn.stream.write_all_buf(&mut conn.output).await;
        let _ = conn.stream.shutdown().await;
        let mut answers = BytesMut::with_capacity(4096);
        let mut taken = 0;
        // To who has more to say nobody listens any more.
        while taken < HIGH_WATER
            && let Ok(count @ 1..) = conn.stream.read_buf(&mut answers).await
        {
            taken += count;
            answers.clear();
        }
    };
    tokio::pin!(over);
    loop {
        let strike = async {
            match strike_at {
                Some(at) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = &mut over => break,
            () = strike => {}
        }
        cancel(&shared, target).await;
        strike_at = Instant::now().checked_add(AGAIN);
    }
    drop(ticket);
}

/// Cancels what the backend does, unless that is a commit, which is written.
async fn cancel(shared: &Shared, target: Target) {
    let waiting = shared.waits.of(target.group, target.process_id, AGAIN).await;
    if waiting.is_none_or(|waiting| matches!(waiting, Waiting::Replication)) {
        return;
    }
    if let Err(error) = target.cancel(&*shared.groups).await {
        tracing::info!(%error, "a statement that takes too long could not be cancelled");
    }
}
