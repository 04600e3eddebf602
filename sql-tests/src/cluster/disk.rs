//! A small file system for one node's data, which can be filled.

use std::fs::{self, File, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::fs::{FallocateFlags, fallocate};

use crate::Result;

/// Room for the log and the PostgreSQL directories of two groups over an hour, and not much more.
const SIZE: &str = "2g";
/// The file that takes all the room there is.
const FILLER: &str = "filler";
/// It grows by these many bytes while that is possible, then by the next.
const STEPS: [u64; 4] = [256 << 20, 16 << 20, 1 << 20, 4 << 10];

/// Whether file systems can be mounted here; the error says what is missing.
///
/// # Errors
/// Where they cannot.
pub fn can_mount() -> Result<()> {
    let folder = tempfile::tempdir()?;
    SmallDisk::mount(folder.path()).map(drop)
}

/// A mounted `tmpfs`. Dropping it unmounts it.
#[derive(Debug)]
pub(super) struct SmallDisk {
    root: PathBuf,
}

impl SmallDisk {
    /// Mounts one at `root`, which is made if it is not there. Whoever PostgreSQL runs as can pass through.
    pub(super) fn mount(root: &Path) -> Result<SmallDisk> {
        fs::create_dir_all(root)?;
        let mut mount = Command::new("mount");
        mount
            .args(["-t", "tmpfs", "-o"])
            .arg(format!("size={SIZE},mode=0711"));
        let made = mount.arg("howdah-test").arg(root).output()?;
        if made.status.success() {
            Ok(SmallDisk {
                root: root.to_owned(),
            })
        } else {
            let words = String::from_utf8_lossy(&made.stderr).trim().to_owned();
            Err(format!("a small file system cannot be mounted here, which takes root: {words}").into())
        }
    }

    /// Takes all the room that is left, also what has become free since the last time.
    pub(super) fn fill(&self) -> Result<()> {
        fill(&self.root)
    }

    /// Whether [`SmallDisk::fill`] has taken its room.
    pub(super) fn is_full(&self) -> bool {
        self.root.join(FILLER).exists()
    }

    /// Gives the room back.
    pub(super) fn empty(&self) -> Result<()> {
        match fs::remove_file(self.root.join(FILLER)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error.into()),
            _ => Ok(()),
        }
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: whoever still dies in it shall not keep it mounted for ever.
        let _ = Command::new("umount").arg("-l").arg(&self.root).status();
    }
}

fn fill(root: &Path) -> Result<()> {
    let filler: File = OpenOptions::new()
        .create(true)
        .append(true)
        .open(root.join(FILLER))?;
    let mut length = filler.metadata()?.len();
    for step in STEPS {
        // An error is what is wanted: there is no room for so much.
        while fallocate(&filler, FallocateFlags::empty(), length, step).is_ok() {
            length += step;
        }
    }
    Ok(())
}
