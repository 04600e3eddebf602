//! Breaking deadlocks that run through several groups, where the victim is a session of this node.
//!
//! Every node looks for itself, and only while one of its transactions has been open for some time. All nodes name the
//! same victim (`coordinator::deadlock::victims`), and only its own node breaks it off: nobody has to be elected.

use std::sync::Arc;
use std::time::Duration;

use coordinator::deadlock::{Watch, victims};

use crate::Shared;

/// Between two looks. A deadlock is broken at the second look that shows it: within 1.5 s.
const LOOK_EVERY: Duration = Duration::from_millis(300);

/// To the second look, and to one after a circle was broken: where there was one there is often another.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// Transactions that are younger wait for nobody yet, most likely.
const OLD: Duration = Duration::from_millis(300);

/// How long groups and nodes may take to answer a look.
const PATIENCE: Duration = Duration::from_millis(300);

/// Looks for deadlocks for as long as it is polled.
pub(crate) async fn watch(shared: Arc<Shared>) {
    let mut watch = Watch::new(&*shared.groups);
    let mut seen_before: Vec<u64> = Vec::new();
    let mut pause = LOOK_EVERY;
    loop {
        tokio::time::sleep(pause).await;
        let own = shared.sessions.transactions();
        if !own.iter().any(|transaction| is_old(transaction.began)) {
            seen_before.clear();
            watch.rest();
            pause = LOOK_EVERY;
            continue;
        }
        let (waits, others) = tokio::join!(watch.waits(PATIENCE), shared.peers.transactions(PATIENCE));
        let mut transactions = own;
        transactions.extend(others);
        let seen = victims(&transactions, &waits);
        pause = if seen.is_empty() { LOOK_EVERY } else { LOOK_AGAIN };
        let (again, new): (Vec<u64>, Vec<u64>) =
            seen.into_iter().partition(|victim| seen_before.contains(victim));
        // One that is broken off now has to be seen twice more, else it could be the next transaction that is hit.
        seen_before = new;
        for victim in again {
            break_off(&shared, victim).await;
        }
    }
}

async fn break_off(shared: &Shared, victim: u64) {
    for (target, under_way) in shared.sessions.break_off(victim) {
        tracing::info!(group = %target.group, "a deadlock across groups: a transaction is broken off");
        if let Err(error) = target.cancel(&*shared.groups).await {
            tracing::info!(%error, "the victim of a deadlock could not be cancelled; it is tried again");
            under_way.lost();
        }
    }
}

fn is_old(began: u64) -> bool {
    crate::cancel::now().saturating_sub(began) > u64::try_from(OLD.as_micros()).unwrap_or(u64::MAX)
}
