//! A child process that dies with the node, is signalled without races, and whose end can be awaited.
//!
//! A `kill -9` of the node must not leave a PostgreSQL that goes on by itself. `setpriv --pdeathsig`
//! (util-linux) asks the kernel to signal the child when the *thread* that made it ends, so each
//! child has a thread of its own, which makes it and then waits for it. Where `setpriv` is missing,
//! and for what slips through between fork and `setpriv`, the next node process ends the
//! left-overs before it touches the directory (see `orphan`).

use std::env;
use std::io;
use std::path::Path;
use std::process::{Child, ChildStderr, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::mpsc::sync_channel;
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, kill_process_group, waitid};
use tokio::sync::watch;

use super::account::Account;

/// A postmaster that is told to quit kills its slow children after 5 s (`SIGKILL_CHILDREN_AFTER_SECS`).
pub(super) const QUIT_PATIENCE: Duration = Duration::from_secs(7);
/// Between two signals to a postmaster that may not have heard the first.
pub(super) const QUIT_AGAIN: Duration = Duration::from_millis(50);

/// What the kernel does to a child whose node is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum OnOrphaned {
    /// SIGQUIT: the postmaster's immediate shutdown, which takes its children along.
    Quit,
    /// SIGKILL: for programs that hold nothing.
    Kill,
}

/// Makes children as the right user, with a clean environment.
#[derive(Clone, Debug)]
pub(super) struct Launcher {
    account: Account,
    death_signal: DeathSignal,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum DeathSignal {
    BySetpriv,
    Unavailable,
}

impl Launcher {
    pub(super) fn new(account: Account) -> Launcher {
        let mut probe = Command::new("setpriv");
        probe
            .args(["--pdeathsig", "QUIT", "true"])
            .stdin(Stdio::null())
            .stderr(Stdio::null());
        let death_signal = match probe.status() {
            Ok(status) if status.success() => DeathSignal::BySetpriv,
            _ => DeathSignal::Unavailable,
        };
        Launcher {
            account,
            death_signal,
        }
    }

    pub(super) fn account(&self) -> &Account {
        &self.account
    }

    /// A command in its own process group, so that a terminal's Ctrl-C reaches only the node.
    pub(super) fn command(&self, program: &Path, on_orphaned: OnOrphaned) -> Command {
        use std::os::unix::process::CommandExt;
        let mut command = match self.death_signal {
            DeathSignal::BySetpriv => {
                let signal = match on_orphaned {
                    OnOrphaned::Quit => "QUIT",
                    OnOrphaned::Kill => "KILL",
                };
                let mut command = Command::new("setpriv");
                // The user changes before setpriv runs: a change afterwards would clear the signal.
                command.args(["--pdeathsig", signal, "--"]).arg(program);
                command
            }
            DeathSignal::Unavailable => Command::new(program),
        };
        self.account.apply(&mut command);
        // No PGHOST, PGOPTIONS or locale of the operator's may change what PostgreSQL does.
        command.env_clear().env("LC_ALL", "C");
        for kept in ["PATH", "LD_LIBRARY_PATH"] {
            if let Some(value) = env::var_os(kept) {
                command.env(kept, value);
            }
        }
        command.process_group(0).current_dir("/").stdin(Stdio::null());
        command
    }
}

/// A child that has been made. Cheap to share; dropping it does nothing to the child.
#[derive(Debug)]
pub(super) struct Process {
    pid: Pid,
    /// Held while signalling and while reaping: a reaped pid may be a stranger's.
    reaped: Mutex<bool>,
    exited: watch::Receiver<Option<ExitStatus>>,
}

/// The pipes that were asked for.
#[derive(Debug)]
pub(super) struct Pipes {
    pub(super) stdout: Option<ChildStdout>,
    pub(super) stderr: Option<ChildStderr>,
}

impl Process {
    /// Makes the child on a thread of its own, and returns once it exists.
    pub(super) fn spawn(mut command: Command) -> io::Result<(Arc<Process>, Pipes)> {
        let (made, making) = sync_channel(1);
        let body = move || match command.spawn() {
            Err(error) => drop(made.send(Err(error))),
            Ok(mut child) => {
                let (tell, exited) = watch::channel(None);
                let pid = Pid::from_child(&child);
                let pipes = Pipes {
                    stdout: child.stdout.take(),
                    stderr: child.stderr.take(),
                };
                let process = Arc::new(Process {
                    pid,
                    reaped: Mutex::new(false),
                    exited,
                });
                drop(made.send(Ok((process.clone(), pipes))));
                let status = process.reap(&mut child);
                tell.send_replace(Some(status));
            }
        };
        thread::Builder::new()
            .name("postgres-process".to_owned())
            .spawn(body)?;
        making
            .recv()
            .unwrap_or_else(|_| Err(io::Error::other("the process thread ended")))
    }

    fn reap(&self, child: &mut Child) -> ExitStatus {
        let ended = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
        while let Err(rustix::io::Errno::INTR) = waitid(WaitId::Pid(self.pid), ended) {}
        let mut reaped = self.reaped.lock();
        *reaped = true;
        // It has ended, so this does not wait; it cannot fail for a child that only we reap.
        child.wait().unwrap_or_default()
    }

    pub(super) fn pid(&self) -> Pid {
        self.pid
    }

    /// The child's end; also for what happened before the call.
    pub(super) fn exited(&self) -> Exited {
        Exited(self.exited.clone())
    }

    /// Sends a signal; does nothing after the child's end.
    pub(super) fn signal(&self, signal: Signal) {
        let reaped = self.reaped.lock();
        if !*reaped {
            // Fails only where the child ended this moment, which is as good.
            let _ = kill_process(self.pid, signal);
        }
    }

    /// SIGQUIT to a postmaster, until it has ended; false where that takes longer than it may.
    ///
    /// Again and again: where this process was started with the signal ignored, as a shell starts a job in the
    /// background, the child ignores it too until it is PostgreSQL and has set its handlers.
    pub(super) async fn quit(&self) -> bool {
        let deadline = Instant::now() + QUIT_PATIENCE;
        let mut exited = self.exited();
        while Instant::now() < deadline {
            self.signal(Signal::QUIT);
            if exited.wait_at_most(QUIT_AGAIN).await.is_some() {
                return true;
            }
        }
        false
    }

    /// SIGKILL for the child and those of its children that stayed in its process group.
    pub(super) fn kill_group(&self) {
        let reaped = self.reaped.lock();
        if !*reaped {
            let _ = kill_process_group(self.pid, Signal::KILL);
        }
    }
}

/// The end of a process, to be awaited by any number of tasks.
#[derive(Clone, Debug)]
pub struct Exited(watch::Receiver<Option<ExitStatus>>);

impl Exited {
    /// How it ended, if it has.
    #[must_use]
    pub fn now(&self) -> Option<ExitStatus> {
        *self.0.borrow()
    }

    /// Waits for the end. Cancel-safe.
    pub async fn wait(&mut self) -> ExitStatus {
        match self.0.wait_for(Option::is_some).await {
            Ok(status) => status.unwrap_or_default(),
            // The thread that waits for the child sends before it ends.
            Err(_) => ExitStatus::default(),
        }
    }

    /// Waits for the end, but no longer than `patience`.
    pub async fn wait_at_most(&mut self, patience: Duration) -> Option<ExitStatus> {
        tokio::time::timeout(patience, self.wait()).await.ok()
    }
}
