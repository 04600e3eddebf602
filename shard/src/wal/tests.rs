//! Scenarios with real PostgreSQL servers on both sides, and a log in memory between them.
#![allow(
    clippy::print_stderr,
    reason = "a failing scenario shows what the servers logged"
)]

mod failover;
mod feeding;
mod garbage;
mod log;
mod records;
mod server;

use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};

use log::MemoryLog;
use server::{PORT, Server};

use super::{Lsn, Sender, StandbyStatus, listen};

const VERSION: &str = "15.18";

/// How long anything may take here: the machine may be busy.
const PATIENCE: Duration = Duration::from_secs(60);

/// A primary, the log that it fills, and stopped copies of it that are to become standbys.
struct Group {
    primary: Server,
    log: MemoryLog,
    copies: Vec<Server>,
}

/// A standby with its sender.
struct Fed {
    server: Server,
    status: watch::Receiver<StandbyStatus>,
    _serving: DropGuard,
}

impl Group {
    /// Starts a primary with a table `t(n int)` that exists everywhere.
    async fn start(settings: &[&str], copies: usize) -> Group {
        let primary = Server::init(settings);
        primary.start();
        primary.sql("SET synchronous_commit = local; CREATE TABLE t(n int)");
        primary.stop("fast");
        let copies = (0..copies).map(|_| primary.standby()).collect();
        primary.start();
        let mut receiver = primary.receiver().await;
        let identity = receiver.identify().await.unwrap();
        let from = identity.flushed.segment_start();
        let log = MemoryLog::new(&identity.system_id, from);
        log.receive(receiver.start(identity.timeline, from).await.unwrap(), from);
        Group { primary, log, copies }
    }

    /// Starts the next copy as a standby that is fed whole records.
    fn standby(&mut self) -> Fed {
        let server = self.copies.pop().unwrap();
        self.feed(server, |sender| sender)
    }

    /// Starts a standby with a sender that `adapt` may change.
    fn feed(&self, server: Server, adapt: impl FnOnce(Sender<MemoryLog>) -> Sender<MemoryLog>) -> Fed {
        let status = watch::Sender::new(StandbyStatus::default());
        let seen = status.subscribe();
        let shutdown = CancellationToken::new();
        let sender = adapt(Sender::new(self.log.clone(), VERSION, status));
        let listener = listen(&server.feed(), PORT).unwrap();
        tokio::spawn(listener.run(sender, shutdown.clone()));
        server.start();
        Fed {
            server,
            status: seen,
            _serving: shutdown.drop_guard(),
        }
    }
}

impl Fed {
    /// Waits until the sender's status is as wanted.
    async fn until(&mut self, wanted: impl FnMut(&StandbyStatus) -> bool) -> StandbyStatus {
        let waited = tokio::time::timeout(PATIENCE, self.status.wait_for(wanted));
        if let Ok(status) = waited.await {
            return *status.unwrap();
        }
        panic!("still {:?}", *self.status.borrow())
    }

    async fn replayed(&mut self, position: Lsn) {
        self.until(|status| status.replayed >= position).await;
    }
}

/// Waits until `probe` holds, asking again and again.
fn eventually(what: &str, mut probe: impl FnMut() -> bool) {
    let start = Instant::now();
    while !probe() {
        assert!(start.elapsed() < PATIENCE, "never: {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}
