//! A replica's PostgreSQL while it runs: watched, promoted, stopped.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use super::control::Control;
use super::log::Drained;
use super::process::{Exited, Process};
use super::server::{Server, StartMode, blocking};
use super::{Endpoint, Error, durable, log, orphan};

/// How often readiness is looked at while nothing tells it.
const READY_POLL: Duration = Duration::from_millis(5);
/// How often a promotion is looked at.
const PROMOTED_POLL: Duration = Duration::from_millis(5);
/// How often a slow start is reported.
const REPORT_EVERY: Duration = Duration::from_secs(5);
/// What the last lines of the log may take from the pipe to the file.
const LOG_PATIENCE: Duration = Duration::from_secs(1);
/// A fast stop writes a checkpoint.
const FAST_PATIENCE: Duration = Duration::from_secs(60);

/// How PostgreSQL is stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopMode {
    /// At once, as a crash would: the next start recovers.
    Immediate,
    /// Sessions are ended, a checkpoint is written. What takes too long is stopped at once.
    Fast,
}

/// A started postmaster. Dropping it stops the server at once, without waiting for its end.
#[derive(Debug)]
pub struct Running {
    server: Server,
    process: Arc<Process>,
    /// Where this run's words begin in the log.
    log_start: u64,
    drained: Option<Drained>,
}

/// Whether a postmaster lives, asked of the kernel: no signal or thread need have run since its end.
///
/// Its backends learn of its end when the kernel closes its files (`PostmasterIsAlive`). A process
/// that ends lets go of its memory before that (`do_exit` in Linux's exit.c), and of its number,
/// which a pidfd tells, only after it. So its memory is what is asked about (proc_pid_statm(5)).
#[derive(Debug)]
pub struct Pulse(File);

impl Pulse {
    /// False from the moment on at which its end can have had any effect on its backends.
    #[must_use]
    pub fn beats(&self) -> bool {
        let mut sizes = [0; 64];
        let read = self.0.read_at(&mut sizes, 0);
        read.is_ok_and(|length| length > 0) && !sizes.starts_with(b"0 ")
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.process.signal(Signal::QUIT);
        self.server.dismiss_running(&self.process);
    }
}

impl Running {
    pub(super) fn new(server: Server, process: Arc<Process>, log_start: u64) -> Running {
        Running {
            server,
            process,
            log_start,
            drained: None,
        }
    }

    pub(super) fn log_is_captured(&mut self, drained: Drained) {
        self.drained = Some(drained);
    }

    /// The postmaster.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.process.pid().as_raw_nonzero().get().unsigned_abs()
    }

    /// Whether the postmaster has not ended.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.process.exited().now().is_none()
    }

    /// The postmaster's end, wanted or not; to be awaited beside other events.
    #[must_use]
    pub fn exited(&self) -> Exited {
        self.process.exited()
    }

    /// What tells at any moment whether the postmaster lives.
    ///
    /// # Errors
    /// Where it has ended.
    pub fn pulse(&self) -> std::io::Result<Pulse> {
        let memory = File::open(format!("/proc/{}/statm", self.pid()))?;
        // The number is its own until it is reaped, and that has not been so.
        if self.is_running() {
            Ok(Pulse(memory))
        } else {
            Err(std::io::ErrorKind::NotFound.into())
        }
    }

    /// Where it listens.
    #[must_use]
    pub fn endpoint(&self) -> Endpoint {
        self.server.endpoint()
    }

    /// PostgreSQL's last words in this run, for a message about an unexpected end.
    pub async fn last_words(&self) -> String {
        if let (false, Some(drained)) = (self.is_running(), &self.drained) {
            // What it said just before its end is still on its way to the file.
            drop(tokio::time::timeout(LOG_PATIENCE, drained.clone().wait()).await);
        }
        log::tail(&self.server.files().log, self.log_start)
    }

    /// A new control connection.
    pub async fn control(&self) -> Result<Control, Error> {
        Control::connect(&self.endpoint()).await
    }

    /// Stops the server, with every process that works in its directory. Bounded: what does not
    /// end by itself is killed.
    pub async fn stop(&self, mode: StopMode) -> Result<(), Error> {
        let begin = Instant::now();
        let mut exited = self.exited();
        if mode == StopMode::Fast {
            self.process.signal(Signal::INT);
            exited.wait_at_most(FAST_PATIENCE).await;
        }
        if !self.process.quit().await {
            tracing::info!(pid = self.pid(), "PostgreSQL does not stop, killing it");
        }
        // Backends lead process groups of their own, and outlive a killed postmaster.
        let pgdata = self.server.files().pgdata.clone();
        blocking(move || orphan::kill_all(&pgdata)).await?;
        exited.wait().await;
        tracing::info!(pid = self.pid(), ?mode, took = ?begin.elapsed(), "PostgreSQL is stopped");
        Ok(())
    }

    /// Asks a standby to become a primary, as `pg_ctl promote` does (`do_promote` in `pg_ctl.c`).
    ///
    /// A crash after this leaves a standby, or a primary on a new timeline: the caller has
    /// written down before what it was about to do.
    pub async fn promote(&self) -> Result<(), Error> {
        if !self.is_running() {
            return Err(self.not_running());
        }
        let (server, signal) = (self.server.clone(), self.server.files().pgdata.join("promote"));
        blocking(move || durable::replace(&signal, b"", server.owner())).await?;
        self.process.signal(Signal::USR1);
        Ok(())
    }

    /// Waits until the promotion is done and writes are accepted; at most `patience`.
    pub async fn wait_promoted(&self, patience: Duration) -> Result<Control, Error> {
        let mut exited = self.exited();
        let promoted = async {
            let mut control = None;
            loop {
                control = match control {
                    // A standby that is not consistent yet refuses connections.
                    None => self.control().await.ok(),
                    Some(control) => match Control::in_recovery(&control).await {
                        Ok(false) => return control,
                        Ok(true) => Some(control),
                        Err(_) => None,
                    },
                };
                tokio::time::sleep(PROMOTED_POLL).await;
            }
        };
        tokio::select! {
            control = promoted => Ok(control),
            _ = exited.wait() => Err(self.not_running()),
            () = tokio::time::sleep(patience) => Err(Error::TimedOut { what: "the promotion", patience }),
        }
    }

    /// Reads the postmaster's own word on its state in `postmaster.pid`, as `pg_ctl` does.
    pub(super) async fn wait_ready(&self, mode: &StartMode) -> Result<(), Error> {
        let wanted: &[&str] = match mode {
            StartMode::Primary => &["ready"],
            StartMode::Standby(_) => &["ready", "standby"],
        };
        let mut exited = self.exited();
        let mut report = Instant::now() + REPORT_EVERY;
        loop {
            if self
                .postmaster_state()
                .is_some_and(|state| wanted.contains(&state.as_str()))
            {
                return Ok(());
            }
            if let Some(status) = exited.wait_at_most(READY_POLL).await {
                let path = self.server.files().pgdata.clone();
                return Err(Error::StartFailed {
                    path,
                    exit: status.to_string(),
                    log: self.last_words().await,
                });
            }
            if Instant::now() > report {
                report = Instant::now() + REPORT_EVERY;
                tracing::info!(
                    pid = self.pid(),
                    "PostgreSQL is starting: {}",
                    self.last_words().await
                );
            }
        }
    }

    /// Line 8 (`LOCK_FILE_LINE_PM_STATUS` in `pidfile.h`) of a file that is this postmaster's.
    fn postmaster_state(&self) -> Option<String> {
        let text = fs::read_to_string(self.server.files().pgdata.join("postmaster.pid")).ok()?;
        let mut lines = text.lines();
        let pid: u32 = lines.next()?.trim().parse().ok()?;
        let state = lines.nth(6)?.trim();
        (pid == self.pid()).then(|| state.to_owned())
    }

    fn not_running(&self) -> Error {
        Error::NotRunning {
            path: self.server.files().pgdata.clone(),
        }
    }
}
