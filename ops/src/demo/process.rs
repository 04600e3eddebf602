//! Processes, told apart for sure: a process id alone may by now belong to a stranger.

use std::fmt;
use std::io;
use std::path::Path;
use std::str::FromStr;

use rustix::process::{Pid, Signal, kill_process};

/// A process by its id and its start time (field 22 of `/proc/PID/stat`, see proc(5)): no two
/// processes of one boot share both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProcessId {
    pid: Pid,
    started: u64,
}

impl ProcessId {
    /// The process that has this id now.
    pub fn of(pid: u32) -> io::Result<ProcessId> {
        let unknown = || io::Error::from(io::ErrorKind::NotFound);
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
        // The second field is the program's name in parentheses, which may hold anything.
        let (_, fields) = stat.rsplit_once(')').ok_or_else(unknown)?;
        let mut fields = fields.split_whitespace();
        if matches!(fields.next(), Some("Z" | "X")) {
            return Err(unknown());
        }
        let started = fields
            .nth(18)
            .and_then(|field| field.parse().ok())
            .ok_or_else(unknown)?;
        let pid = i32::try_from(pid)
            .ok()
            .and_then(Pid::from_raw)
            .ok_or_else(unknown)?;
        Ok(ProcessId { pid, started })
    }

    /// This process.
    pub fn own() -> io::Result<ProcessId> {
        ProcessId::of(std::process::id())
    }

    /// The number.
    #[must_use]
    pub fn pid(&self) -> i32 {
        self.pid.as_raw_nonzero().get()
    }

    /// Whether that very process still runs; a zombie does not.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        u32::try_from(self.pid()).is_ok_and(|pid| ProcessId::of(pid).is_ok_and(|now| now == *self))
    }

    /// Sends a signal, if that very process still runs.
    pub fn signal(&self, signal: Signal) -> io::Result<()> {
        if !self.is_alive() {
            return Err(io::ErrorKind::NotFound.into());
        }
        kill_process(self.pid, signal).map_err(io::Error::from)
    }
}

impl fmt::Display for ProcessId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.pid(), self.started)
    }
}

impl FromStr for ProcessId {
    type Err = io::Error;

    fn from_str(text: &str) -> io::Result<ProcessId> {
        let parse = || {
            let (pid, started) = text.split_once(' ')?;
            Some(ProcessId {
                pid: Pid::from_raw(pid.parse().ok()?)?,
                started: started.parse().ok()?,
            })
        };
        parse().ok_or_else(|| io::ErrorKind::InvalidData.into())
    }
}

/// Every PostgreSQL process that works in a folder below `folder`. Postmasters and their
/// backends work in their data directory (`ChangeToDataDir` in PostgreSQL's miscinit.c).
#[must_use]
pub fn postgres_below(folder: &Path) -> Vec<ProcessId> {
    let Ok(folder) = folder.canonicalize() else {
        return Vec::new();
    };
    let Ok(processes) = std::fs::read_dir("/proc") else {
        return Vec::new();
    };
    let below = |pid: u32| {
        let works_there =
            std::fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|cwd| cwd.starts_with(&folder));
        let program = std::fs::read_link(format!("/proc/{pid}/exe")).ok()?;
        let is_postgres = program.file_name()?.to_str()?.starts_with("postgres");
        (works_there && is_postgres).then_some(pid)
    };
    processes
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter_map(below)
        .filter_map(|pid| ProcessId::of(pid).ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn a_process_is_known_until_it_ends_and_by_its_words() {
        let mut child = Command::new("sleep")
            .arg("60")
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let process = ProcessId::of(child.id()).unwrap();
        assert!(process.is_alive());
        assert_eq!(process.to_string().parse::<ProcessId>().unwrap(), process);
        let stranger = ProcessId {
            started: process.started + 1,
            ..process
        };
        assert!(!stranger.is_alive());
        assert!(stranger.signal(Signal::KILL).is_err());
        process.signal(Signal::KILL).unwrap();
        child.wait().unwrap();
        assert!(!process.is_alive());
        assert!(process.signal(Signal::KILL).is_err());
    }

    #[test]
    fn only_postgres_is_found_below_a_folder() {
        let folder = tempfile::tempdir().unwrap();
        let mut child = Command::new("sleep")
            .arg("60")
            .current_dir(folder.path())
            .spawn()
            .unwrap();
        assert_eq!(postgres_below(folder.path()), []);
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
