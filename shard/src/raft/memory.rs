//! Whether a replica remembers what it promised.
//!
//! A replica whose log is lost has forgotten which entries it acknowledged and whom it voted for. Until its group has
//! taken it out of the voters it must do neither again; `ARCHITECTURE.md`, "A replica that has lost its log", argues why
//! that is enough. What it is must outlive every restart on the way, so it is a file beside the snapshot:
//!
//! ```text
//! <replica>/raft/memory     absent: whole     "lost\n"     "readmitted\n"
//! ```

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

const FILE: &str = "memory";

/// What a replica remembers. Durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Memory {
    /// All that it ever promised.
    Whole,
    /// Nothing. It answers no message of Raft.
    Lost,
    /// All since its group took it in again, with an empty log. It takes part like any other, but never
    /// begins the group's log: that has begun.
    Readmitted,
}

impl Memory {
    /// Reads what the replica is whose files are in `dir`.
    pub(crate) fn read(dir: &Path) -> io::Result<Memory> {
        match fs::read(dir.join(FILE)) {
            Ok(words) if words == b"readmitted\n" => Ok(Memory::Readmitted),
            // Whatever else is there was meant to be a warning.
            Ok(_) => Ok(Memory::Lost),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Memory::Whole),
            Err(error) => Err(error),
        }
    }

    /// Writes down that the log of the replica whose files are in `dir` is lost.
    ///
    /// A crash before it returns: the log still lies where it was, and is found to be lost again.
    /// After it: whatever becomes of the log, the replica is silent until it is readmitted.
    pub(crate) fn lose(dir: &Path) -> io::Result<()> {
        write(dir, b"lost\n")
    }
}

fn write(dir: &Path, words: &[u8]) -> io::Result<()> {
    let fresh = dir.join("memory.new");
    let mut file = File::create(&fresh)?;
    file.write_all(words)?;
    file.sync_all()?;
    fs::rename(&fresh, dir.join(FILE))?;
    File::open(dir)?.sync_all()
}

/// A running replica's memory, as its way in (`raft::endpoint`) asks for it.
#[derive(Debug)]
pub(crate) struct Recollection {
    dir: PathBuf,
    silent: AtomicBool,
}

impl Recollection {
    pub(crate) fn new(dir: &Path, memory: Memory) -> Recollection {
        Recollection {
            dir: dir.to_owned(),
            silent: AtomicBool::new(memory == Memory::Lost),
        }
    }

    /// Whether no message of Raft may be answered.
    pub(crate) fn is_silent(&self) -> bool {
        self.silent.load(Ordering::SeqCst)
    }

    /// The group has readmitted the replica.
    ///
    /// A crash before this is durable: it asks again, is taken out again, and in again.
    /// After it: its log, empty or not, is all that it has promised since, and it says so.
    pub(crate) fn readmit(&self) -> io::Result<()> {
        write(&self.dir, b"readmitted\n")?;
        self.silent.store(false, Ordering::SeqCst);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_holds_until_the_next_word() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        assert_eq!(Memory::read(dir).unwrap(), Memory::Whole);
        Memory::lose(dir).unwrap();
        assert_eq!(Memory::read(dir).unwrap(), Memory::Lost);
        let running = Recollection::new(dir, Memory::Lost);
        assert!(running.is_silent());
        running.readmit().unwrap();
        assert!(!running.is_silent());
        assert_eq!(Memory::read(dir).unwrap(), Memory::Readmitted);
        assert!(!Recollection::new(dir, Memory::Readmitted).is_silent());
        Memory::lose(dir).unwrap();
        assert_eq!(Memory::read(dir).unwrap(), Memory::Lost);
    }

    #[test]
    fn a_file_that_cannot_be_understood_means_silence() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(FILE), b"readmi").unwrap();
        assert_eq!(Memory::read(dir.path()).unwrap(), Memory::Lost);
    }
}
