//! Data directories as initdb makes them, each used by one test after the other.
//!
//! The thousand files of a data directory cost a processor a second where many were deleted shortly before: ext4 looks
//! at each inode of the last minutes' deletions whenever a file is made (`recently_deleted` in Linux' fs/ext4/ialloc.c).
//! Nearly all of those files are the same after a test as before it.

use std::fs::{self, File, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, OnceLock, Weak};

use tempfile::TempDir;

/// The folder of PostgreSQL's programs.
pub(crate) const BIN: &str = "/usr/lib/postgresql/15/bin";

/// A command, as the user that PostgreSQL runs as.
pub(crate) fn as_postgres(program: &str) -> Command {
    let program = format!("{BIN}/{program}");
    let root = fs::metadata("/proc/self").is_ok_and(|m| std::os::unix::fs::MetadataExt::uid(&m) == 0);
    if !root {
        return Command::new(program);
    }
    let mut command = Command::new("runuser");
    command.args(["-u", "postgres", "--", &program]);
    command
}

/// A data directory as initdb makes it; made once, and kept where Cargo keeps what tests make.
fn template() -> &'static Path {
    static MADE: OnceLock<PathBuf> = OnceLock::new();
    MADE.get_or_init(|| {
        let version = as_postgres("initdb").arg("--version").output();
        let version = String::from_utf8(version.expect("initdb runs").stdout).expect("its version");
        let name = format!("{} segments of 1 MB", version.trim());
        let name = name.replace(|c: char| !c.is_ascii_alphanumeric(), "-");
        let made = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        if made.is_dir() {
            return made;
        }
        // The user that PostgreSQL runs as may not come to where it is kept.
        let directory = tempfile::tempdir().expect("temporary directory");
        let open = Permissions::from_mode(0o777);
        fs::set_permissions(directory.path(), open).expect("permissions");
        let data = directory.path().join("data");
        let status = as_postgres("initdb")
            .args([
                "-N",
                "-A",
                "trust",
                "-U",
                "postgres",
                "-E",
                "UTF8",
                "--locale=C.UTF-8",
                // Each test begins with a copy of one.
                "--wal-segsize=1",
                "-D",
            ])
            .arg(&data)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
        assert!(status.expect("initdb runs").success(), "initdb");
        // Whole, or not there: another process may make it at the same time.
        let part = made.with_extension(std::process::id().to_string());
        let copied = Command::new("cp").arg("-a").args([&data, &part]).status();
        assert!(copied.expect("cp runs").success(), "a copy of the data directory");
        if fs::rename(&part, &made).is_err() {
            assert!(made.is_dir(), "the data directory is kept");
            fs::remove_dir_all(&part).expect("the other one is not needed");
        }
        made
    })
}

/// Directories that no server uses now. They are deleted when the last server's is given back.
#[derive(Debug, Default)]
struct Unused(Mutex<Vec<TempDir>>);

static UNUSED: Mutex<Weak<Unused>> = Mutex::new(Weak::new());

/// A directory with `data` in it, which is as initdb made it.
#[derive(Debug)]
pub(crate) struct Directory {
    directory: Option<TempDir>,
    unused: Arc<Unused>,
}

impl Directory {
    pub(crate) fn new() -> Directory {
        let unused = {
            let mut known = UNUSED.lock().expect("nobody panics with it");
            known.upgrade().unwrap_or_else(|| {
                let made = Arc::default();
                *known = Arc::downgrade(&made);
                made
            })
        };
        let used = unused.0.lock().expect("nobody panics with it").pop();
        let directory = used.map_or_else(made, |directory| {
            restore(template(), &directory.path().join("data")).expect("the data directory is as it was");
            directory
        });
        Directory {
            directory: Some(directory),
            unused,
        }
    }

    pub(crate) fn path(&self) -> &Path {
        self.directory.as_ref().expect("it is given back once").path()
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let directory = self.directory.take().expect("it is given back once");
        // One whose server has not ended is nobody's any more.
        if !directory.path().join("data/postmaster.pid").exists() {
            let mut unused = self.unused.0.lock().expect("nobody panics with it");
            unused.push(directory);
        }
    }
}

fn made() -> TempDir {
    let directory = tempfile::tempdir().expect("temporary directory");
    let open = Permissions::from_mode(0o777);
    fs::set_permissions(directory.path(), open).expect("permissions");
    let copied = Command::new("cp")
        .args(["-a", "--reflink=auto"])
        .args([template(), &directory.path().join("data")])
        .status();
    assert!(copied.expect("cp runs").success(), "a copy of the data directory");
    directory
}

/// Makes `copy` what `original` is. What no server has written to since it was copied is known by its size and time.
fn restore(original: &Path, copy: &Path) -> io::Result<()> {
    for entry in fs::read_dir(copy)? {
        let entry = entry?;
        let kind = entry.file_type()?;
        let same = fs::symlink_metadata(original.join(entry.file_name()));
        if same.is_ok_and(|same| same.file_type() == kind) {
            continue;
        }
        if kind.is_dir() {
            fs::remove_dir_all(entry.path())?;
        } else {
            fs::remove_file(entry.path())?;
        }
    }
    for entry in fs::read_dir(original)? {
        let entry = entry?;
        let (from, to) = (entry.path(), copy.join(entry.file_name()));
        let (was, is) = (entry.metadata()?, fs::metadata(&to).ok());
        if was.is_dir() {
            if is.is_none() {
                fs::create_dir(&to)?;
                fs::set_permissions(&to, was.permissions())?;
                chown(&to, Some(was.uid()), Some(was.gid()))?;
            }
            restore(&from, &to)?;
        } else if is.is_none_or(|is| (is.len(), is.modified().ok()) != (was.len(), was.modified().ok())) {
            fs::copy(&from, &to)?;
            chown(&to, Some(was.uid()), Some(was.gid()))?;
            let restored = File::options().write(true).open(&to)?;
            restored.set_modified(was.modified()?)?;
        }
    }
    Ok(())
}
