//! One node's process, and its PostgreSQL servers.

use std::fs::{self, OpenOptions};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use ops::demo::{ProcessId, postgres_below};
use rustix::process::Signal;
use shard::id::NodeId;
use tokio::time::sleep;

use crate::Result;

/// What a pause stops.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Frozen {
    /// The node alone: its PostgreSQL goes on by itself.
    Node,
    /// Its PostgreSQL servers alone, each process of them.
    Postgres,
    /// Both, as a suspended machine does.
    NodeAndPostgres,
}

/// Which of a node's PostgreSQL processes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Victim {
    /// A postmaster, which leaves its children behind.
    Postmaster,
    /// One of a postmaster's children: a session's backend where there is one, else any.
    Backend,
}

/// A node's process. Dropping it kills it and its PostgreSQL servers.
#[derive(Debug)]
pub(super) struct NodeProcess {
    id: NodeId,
    program: PathBuf,
    config: PathBuf,
    folder: PathBuf,
    child: Option<(Child, ProcessId)>,
}

impl NodeProcess {
    /// Starts it; its folder is the configuration's.
    pub(super) fn start(program: &Path, id: NodeId, config: &Path) -> Result<NodeProcess> {
        let folder = config.parent().ok_or("a configuration in no folder")?.to_owned();
        let mut node = NodeProcess {
            id,
            program: program.to_owned(),
            config: config.to_owned(),
            folder,
            child: None,
        };
        node.restart()?;
        Ok(node)
    }

    pub(super) fn restart(&mut self) -> Result<()> {
        if self.child.is_some() {
            return Err(format!("node {} still runs", self.id).into());
        }
        let log = OpenOptions::new().create(true).append(true).open(self.log())?;
        let mut command = Command::new(&self.program);
        command.arg("node").arg("--config").arg(&self.config);
        // It stops by itself when this process is gone, however that happened.
        command.arg("--until-stdin-closes").stdin(Stdio::piped());
        command.stdout(log.try_clone()?).stderr(log).process_group(0);
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("HOWDAH_") {
                command.env_remove(name);
            }
        }
        let child = command
            .spawn()
            .map_err(|error| format!("{}: {error}", self.program.display()))?;
        let process = ProcessId::of(child.id())?;
        self.child = Some((child, process));
        Ok(())
    }

    /// kill -9 of it and of every PostgreSQL process in its folder.
    pub(super) fn kill(&mut self) -> Result<()> {
        if let Some((mut child, _)) = self.child.take() {
            child.kill()?;
            child.wait()?;
        }
        // Again and again: a postmaster may make a child between the look and the signal.
        let began = Instant::now();
        loop {
            let left = postgres_below(&self.folder);
            if left.is_empty() {
                return Ok(());
            }
            if began.elapsed() > Duration::from_secs(10) {
                return Err(format!("PostgreSQL of node {} survives kill -9", self.id).into());
            }
            for process in left {
                // An error means that it has ended already.
                let _ = process.signal(Signal::KILL);
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Whether it has ended by itself, and nobody has taken note of that.
    pub(super) fn has_ended(&self) -> bool {
        let ended = |(_, process): &(Child, ProcessId)| !process.is_alive();
        self.child.as_ref().is_some_and(ended)
    }

    /// Takes note of its end; its PostgreSQL servers go on.
    pub(super) fn bury(&mut self) -> Result<()> {
        if let Some((mut child, _)) = self.child.take() {
            child.wait()?;
        }
        Ok(())
    }

    pub(super) fn pause(&self, frozen: Frozen) -> Result<()> {
        let (_, process) = self
            .child
            .as_ref()
            .ok_or("a node that does not run cannot be paused")?;
        if frozen != Frozen::Postgres {
            process.signal(Signal::STOP)?;
        }
        if frozen != Frozen::Node {
            for postgres in postgres_below(&self.folder) {
                let _ = postgres.signal(Signal::STOP);
            }
        }
        Ok(())
    }

    pub(super) fn resume(&self) -> Result<()> {
        for postgres in postgres_below(&self.folder) {
            let _ = postgres.signal(Signal::CONT);
        }
        let (_, process) = self
            .child
            .as_ref()
            .ok_or("a node that does not run cannot be resumed")?;
        process.signal(Signal::CONT)?;
        Ok(())
    }

    /// kill -9 of one of its PostgreSQL processes, the one that `pick` falls on.
    pub(super) fn kill_postgres(&self, victim: Victim, pick: u64) -> Result<Option<String>> {
        let titled: Vec<(ProcessId, String)> = postgres_below(&self.folder)
            .into_iter()
            .filter_map(|process| Some((process, title(process)?)))
            .collect();
        let is = |wanted: fn(&str) -> bool| {
            let mut found = titled.clone();
            found.retain(|(_, title)| wanted(title));
            found
        };
        let mut found = match victim {
            Victim::Postmaster => is(|title| !title.starts_with("postgres: ")),
            Victim::Backend => is(|title| title.contains("[local]") && !title.contains("walsender")),
        };
        if found.is_empty() && victim == Victim::Backend {
            found = is(|title| title.starts_with("postgres: "));
        }
        let count = u64::try_from(found.len())?;
        let Some(place) = pick.checked_rem(count) else {
            return Ok(None);
        };
        let (process, title) = found.swap_remove(usize::try_from(place)?);
        // An error means that it has ended already.
        Ok(process.signal(Signal::KILL).ok().map(|()| title))
    }

    /// SIGTERM; an error means that it has ended already.
    pub(super) fn ask_to_stop(&self) {
        if let Some((_, process)) = &self.child {
            let _ = process.signal(Signal::TERM);
        }
    }

    /// Waits for a clean end: exit code 0, no PostgreSQL left.
    pub(super) async fn wait_stopped(&mut self, patience: Duration) -> Result<()> {
        let Some((child, _)) = &mut self.child else {
            return Ok(());
        };
        let began = Instant::now();
        let status = loop {
            if let Some(status) = child.try_wait()? {
                break status;
            }
            if began.elapsed() > patience {
                return Err(format!("node {} does not stop within {patience:?}", self.id).into());
            }
            sleep(Duration::from_millis(20)).await;
        };
        self.child = None;
        let left = postgres_below(&self.folder);
        if !status.success() || !left.is_empty() {
            return Err(format!("node {} stopped with {status} and left {left:?} running", self.id).into());
        }
        Ok(())
    }

    /// An error where it should run, but has ended.
    pub(super) fn complain_if_ended(&self) -> Result<()> {
        match &self.child {
            Some((_, process)) if !process.is_alive() => {
                let last = self.log_lines()?.pop().unwrap_or_default();
                Err(format!("node {} has ended: {last}", self.id).into())
            }
            _ => Ok(()),
        }
    }

    /// Bytes of its memory that are resident (VmRSS, proc(5)).
    pub(super) fn resident(&self) -> Result<u64> {
        self.memory("VmRSS:")
    }

    pub(super) fn peak(&self) -> Result<u64> {
        self.memory("VmHWM:")
    }

    pub(super) fn forget_peak(&self) -> Result<()> {
        // proc(5): resets the peak resident set size.
        Ok(fs::write(format!("/proc/{}/clear_refs", self.pid()?), "5")?)
    }

    fn pid(&self) -> Result<i32> {
        let (_, process) = self
            .child
            .as_ref()
            .ok_or("a node that does not run has no memory")?;
        Ok(process.pid())
    }

    /// A line of the process' status, bytes.
    fn memory(&self, name: &str) -> Result<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid()?))?;
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        let kibibytes: u64 = line
            .and_then(|line| line.trim().strip_suffix(" kB"))
            .ok_or_else(|| format!("no {name}"))?
            .parse()?;
        Ok(kibibytes << 10)
    }

    pub(super) fn data_dir(&self) -> PathBuf {
        self.folder.join("data")
    }

    pub(super) fn log_lines(&self) -> Result<Vec<String>> {
        let text = fs::read(self.log())?;
        Ok(String::from_utf8_lossy(&text)
            .lines()
            .map(str::to_owned)
            .collect())
    }

    fn log(&self) -> PathBuf {
        self.folder.join("log")
    }
}

impl Drop for NodeProcess {
    fn drop(&mut self) {
        // A paused process does not die of SIGKILL's lesser kin, but of SIGKILL it does.
        let _ = self.kill();
    }
}

/// What a PostgreSQL process says that it is (`set_ps_display` in PostgreSQL's ps_status.c). A
/// postmaster has the words that it was started with: of them only whose it is.
fn title(process: ProcessId) -> Option<String> {
    let words = fs::read(format!("/proc/{}/cmdline", process.pid())).ok()?;
    let text = String::from_utf8_lossy(&words).replace('\0', " ");
    let shown = match text
        .split_whitespace()
        .find(|word| word.starts_with("cluster_name="))
    {
        Some(word) => word.replace("cluster_name=", "postmaster of "),
        None => text.trim().to_owned(),
    };
    Some(shown)
}

/// Whether a line of a node's log is a warning or an error, in the form of tracing-subscriber:
/// time, level, where, what.
pub(super) fn is_complaint(line: &str) -> bool {
    let level = line.split_whitespace().nth(1);
    matches!(level, Some("WARN" | "ERROR")) || line.contains("panicked at")
}
