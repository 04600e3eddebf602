//! One demo for each data folder, and how another process finds it.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, Write};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

use super::error::{DemoError, file};
use super::process::ProcessId;

/// Held while a demo runs. The system lets go of it when the process ends, however it ends.
#[derive(Debug)]
pub(super) struct Lock {
    file: File,
}

impl Drop for Lock {
    fn drop(&mut self) {
        let_go(&self.file);
    }
}

/// Who holds the lock of a data folder.
#[derive(Debug)]
pub(super) enum Holder {
    /// Nobody.
    Nobody,
    /// This process.
    Process(ProcessId),
    /// Somebody whose name is not readable (yet).
    Unknown,
}

fn path(data: &Path) -> PathBuf {
    data.join("demo.pid")
}

impl Lock {
    /// Takes the lock for this process.
    pub(super) fn take(data: &Path) -> Result<Lock, DemoError> {
        let path = path(data);
        let mut options = OpenOptions::new();
        options.create(true).truncate(false).read(true).write(true);
        let mut opened = options.open(&path).map_err(file(&path, "cannot be opened"))?;
        if flock(&opened, FlockOperation::NonBlockingLockExclusive).is_err() {
            let pid = match read_holder(&mut opened) {
                Some(process) => process.pid().to_string(),
                None => "unknown".to_owned(),
            };
            return Err(DemoError::Running {
                data: data.to_owned(),
                pid,
            });
        }
        let own = ProcessId::own().map_err(file("/proc/self/stat", "cannot be read"))?;
        opened
            .set_len(0)
            .and_then(|()| opened.rewind())
            .and_then(|()| writeln!(opened, "{own}"))
            .map_err(file(&path, "cannot be written"))?;
        Ok(Lock { file: opened })
    }

    /// Who holds it now.
    pub(super) fn holder(data: &Path) -> Holder {
        let Ok(mut opened) = File::open(path(data)) else {
            return Holder::Nobody;
        };
        if flock(&opened, FlockOperation::NonBlockingLockShared).is_ok() {
            let_go(&opened);
            return Holder::Nobody;
        }
        read_holder(&mut opened).map_or(Holder::Unknown, Holder::Process)
    }
}

/// Closing the file would not be enough: a child that is being started holds it open, too, until its program begins.
fn let_go(locked: &File) {
    // An open file that was locked can be unlocked; and if not, the end of the process does it.
    let _ = flock(locked, FlockOperation::Unlock);
}

/// The process that the file names, if that very process still runs.
fn read_holder(opened: &mut File) -> Option<ProcessId> {
    let mut text = String::new();
    opened.take(128).read_to_string(&mut text).ok()?;
    let process: ProcessId = text.trim().parse().ok()?;
    process.is_alive().then_some(process)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_demo_at_a_time_and_the_other_is_named() {
        let data = tempfile::tempdir().unwrap();
        assert!(matches!(Lock::holder(data.path()), Holder::Nobody));
        let lock = Lock::take(data.path()).unwrap();
        let error = Lock::take(data.path()).unwrap_err();
        assert!(
            error
                .to_string()
                .contains(&format!("process {}", std::process::id())),
            "{error}"
        );
        assert!(matches!(Lock::holder(data.path()), Holder::Process(_)));
        drop(lock);
        Lock::take(data.path()).unwrap();
    }

    #[test]
    fn a_child_that_has_the_file_open_too_does_not_keep_the_lock() {
        let data = tempfile::tempdir().unwrap();
        let lock = Lock::take(data.path()).unwrap();
        let of_a_child = lock.file.try_clone().unwrap();
        drop(lock);
        assert!(matches!(Lock::holder(data.path()), Holder::Nobody));
        Lock::take(data.path()).unwrap();
        drop(of_a_child);
    }
}
