//! What is counted of each session, and summed up by database.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// What PgBouncer's SHOW STATS counts. Times in microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Totals {
    pub(crate) transactions: u64,
    pub(crate) queries: u64,
    pub(crate) received: u64,
    pub(crate) sent: u64,
    pub(crate) transaction_time: u64,
    pub(crate) query_time: u64,
    pub(crate) wait_time: u64,
}

impl Totals {
    pub(super) fn add(&mut self, other: Totals) {
        self.transactions += other.transactions;
        self.queries += other.queries;
        self.received += other.received;
        self.sent += other.sent;
        self.transaction_time += other.transaction_time;
        self.query_time += other.query_time;
        self.wait_time += other.wait_time;
    }
}

/// The same, as a session counts.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) transactions: Counter,
    pub(crate) queries: Counter,
    pub(crate) received: Counter,
    pub(crate) sent: Counter,
    pub(crate) transaction_time: Counter,
    pub(crate) query_time: Counter,
    pub(crate) wait_time: Counter,
}

impl Counters {
    pub(super) fn read(&self) -> Totals {
        Totals {
            transactions: self.transactions.0.load(Relaxed),
            queries: self.queries.0.load(Relaxed),
            received: self.received.0.load(Relaxed),
            sent: self.sent.0.load(Relaxed),
            transaction_time: self.transaction_time.0.load(Relaxed),
            query_time: self.query_time.0.load(Relaxed),
            wait_time: self.wait_time.0.load(Relaxed),
        }
    }
}

/// Has one writer: its session. So it is no read-modify-write for the processor.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn add(&self, count: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_add(count), Relaxed);
    }

    pub(crate) fn add_time(&self, time: Duration) {
        self.add(u64::try_from(time.as_micros()).unwrap_or(u64::MAX));
    }
}
