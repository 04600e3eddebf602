//! Ends what an earlier node process left running on a data directory.
//!
//! `postmaster.pid` alone proves nothing: after a reboot its pid may be another server's. Every
//! PostgreSQL process has the data directory as its working directory, and the programs that
//! make or copy it name it in their arguments; together with the program's name that tells ours
//! from strangers, and finds backends whose postmaster has gone. The pid is pinned by a pidfd before it is looked at, so the signal
//! reaches the process that was looked at or none.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use rustix::fd::OwnedFd;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use super::error::Error;
use super::process::{QUIT_AGAIN, QUIT_PATIENCE};

/// What SIGKILL may take: a process in the kernel's disk wait ends late.
const KILL_PATIENCE: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(10);

/// Programs that write in the data directory.
const PROGRAMS: [&str; 4] = ["postgres", "pg_rewind", "pg_basebackup", "initdb"];

/// Ends every PostgreSQL process that works in `pgdata`. Blocks; quick where there is none.
///
/// The caller holds the replica's lock, and has no server of its own running there.
pub(super) fn end_all(pgdata: &Path) -> Result<(), Error> {
    let postmaster = recorded_pid(pgdata);
    let found = attached(pgdata)?;
    if found.is_empty() {
        return Ok(());
    }
    tracing::info!(pgdata = %pgdata.display(), processes = found.len(), "ending an earlier PostgreSQL");
    let quit = found
        .iter()
        .find(|(pid, _)| Some(pid.as_raw_nonzero().get()) == postmaster);
    if let Some((_, pidfd)) = quit {
        // Again and again, as to a child of our own: it may not have set its handlers yet.
        let deadline = Instant::now() + QUIT_PATIENCE;
        while Instant::now() < deadline {
            let _ = pidfd_send_signal(pidfd, Signal::QUIT);
            if gone_within(pgdata, QUIT_AGAIN)? {
                return Ok(());
            }
        }
    }
    kill_all(pgdata)
}

/// SIGKILLs every PostgreSQL process that works in `pgdata`. Blocks.
pub(super) fn kill_all(pgdata: &Path) -> Result<(), Error> {
    let deadline = Instant::now() + KILL_PATIENCE;
    loop {
        // Again and again: a postmaster may have made a child meanwhile.
        let left = attached(pgdata)?;
        if left.is_empty() {
            return Ok(());
        }
        if Instant::now() > deadline {
            let pids = left.iter().map(|(pid, _)| pid.as_raw_nonzero().get()).collect();
            return Err(Error::Unkillable {
                path: pgdata.to_owned(),
                pids,
            });
        }
        for (_, pidfd) in &left {
            let _ = pidfd_send_signal(pidfd, Signal::KILL);
        }
        thread::sleep(POLL);
    }
}

/// The pid in `postmaster.pid`; single-user servers write theirs negative.
pub(super) fn recorded_pid(pgdata: &Path) -> Option<i32> {
    let text = fs::read_to_string(pgdata.join("postmaster.pid")).ok()?;
    text.lines().next()?.trim().parse::<i32>().ok()?.checked_abs()
}

fn gone_within(pgdata: &Path, patience: Duration) -> Result<bool, Error> {
    let deadline = Instant::now() + patience;
    while Instant::now() < deadline {
        if attached(pgdata)?.is_empty() {
            return Ok(true);
        }
        thread::sleep(POLL);
    }
    Ok(false)
}

/// The PostgreSQL processes that work in `pgdata`.
pub(super) fn attached(pgdata: &Path) -> Result<Vec<(Pid, OwnedFd)>, Error> {
    let Ok(home) = fs::metadata(pgdata) else {
        return Ok(Vec::new());
    };
    let processes = fs::read_dir("/proc").map_err(Error::io("list", Path::new("/proc")))?;
    let mut found = Vec::new();
    for process in processes.flatten() {
        let Some(pid) = process.file_name().to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        let Some(pid) = Pid::from_raw(pid) else { continue };
        // Cheap look first: most processes are not ours. Again after pinning.
        if !works_in(&process.path(), pgdata, &home) {
            continue;
        }
        let Ok(pidfd) = pidfd_open(pid, PidfdFlags::empty()) else {
            continue;
        };
        if works_in(&process.path(), pgdata, &home) {
            found.push((pid, pidfd));
        }
    }
    Ok(found)
}

/// Unreadable entries (ended, or another user's) are not ours.
fn works_in(process: &Path, pgdata: &Path, home: &fs::Metadata) -> bool {
    let Ok(program) = fs::read_link(process.join("exe")) else {
        return false;
    };
    let name = program.file_name().unwrap_or_default().to_string_lossy();
    // The kernel marks a program whose file an upgrade has replaced.
    if !PROGRAMS.contains(&name.trim_end_matches(" (deleted)")) {
        return false;
    }
    let stands_in =
        fs::metadata(process.join("cwd")).is_ok_and(|cwd| (cwd.dev(), cwd.ino()) == (home.dev(), home.ino()));
    stands_in || names(process, pgdata)
}

fn names(process: &Path, pgdata: &Path) -> bool {
    let arguments = fs::read(process.join("cmdline")).unwrap_or_default();
    arguments
        .split(|&byte| byte == 0)
        .any(|argument| argument == pgdata.as_os_str().as_encoded_bytes())
}
