//! Breaking deadlocks that run through several groups, where the victim is a session of this node.
//!
//! Every node looks for itself, and only while one of its transactions works on several groups for some time. All nodes name
//! the same victim (`coordinator::deadlock::victims`), and only its own node breaks it off: nobody has to be elected.

use std::sync::Arc;
use std::time::Duration;

use coordinator::deadlock::{victims, waits};

use crate::Shared;

/// Between two looks. A deadlock is broken at the second look that shows it: within 1.5 s.
const LOOK_EVERY: Duration = Duration::from_millis(300);

/// Transactions that are younger wait for nobody yet, most likely.
const OLD: Duration = Duration::from_millis(300);

/// How long groups and nodes may take to answer a look.
const PATIENCE: Duration = Duration::from_millis(300);

/// Looks for deadlocks for as long as it is polled.
pub(crate) async fn watch(shared: Arc<Shared>) {
    let mut seen_before = Vec::new();
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        let own = shared.sessions.across();
        if !own.iter().any(|transaction| is_old(transaction.began)) {
            seen_before.clear();
            continue;
        }
        let (waits, others) = tokio::join!(
            waits(&*shared.groups, PATIENCE),
            shared.peers.transactions(PATIENCE)
        );
        let mut transactions = own;
        transactions.extend(others);
        let seen = victims(&transactions, &waits);
        for victim in seen.iter().filter(|victim| seen_before.contains(*victim)) {
            for target in shared.sessions.break_off(*victim) {
                tracing::info!(group = %target.group, "a deadlock across groups: a transaction is broken off");
                let cancelled = shared
                    .groups
                    .cancel(target.group, target.process_id, target.secret_key)
                    .await;
                if let Err(error) = cancelled {
                    tracing::info!(%error, "the victim of a deadlock could not be cancelled; it is tried again");
                }
            }
        }
        seen_before = seen;
    }
}

fn is_old(began: u64) -> bool {
    crate::cancel::now().saturating_sub(began) > u64::try_from(OLD.as_micros()).unwrap_or(u64::MAX)
}
