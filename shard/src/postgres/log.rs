//! PostgreSQL's own words, in a file that does not grow without bound.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::thread;

use tokio::sync::watch;

/// One file's size; two are kept.
const MAX_BYTES: u64 = 8 * 1024 * 1024;
/// What an error shows of the log.
const TAIL_BYTES: u64 = 2048;
const TAIL_LINES: usize = 8;

/// Tells when all that PostgreSQL said is in the file.
#[derive(Clone, Debug)]
pub(super) struct Drained(watch::Receiver<()>);

impl Drained {
    /// Waits until every process that writes to the log has ended.
    pub(super) async fn wait(&mut self) {
        // Nothing is ever sent: the capturing thread's end closes the channel.
        while self.0.changed().await.is_ok() {}
    }
}

/// Copies `source` to the log at `path` until every process that writes to it has ended.
pub(super) fn capture(mut source: impl Read + Send + 'static, path: PathBuf) -> io::Result<Drained> {
    let mut log = Log::open(path)?;
    let (capturing, drained) = watch::channel(());
    let body = move || {
        let _capturing = capturing;
        let mut chunk = vec![0; 16 * 1024];
        loop {
            match source.read(&mut chunk) {
                Ok(0) => break,
                // A log that cannot be written must not stop PostgreSQL: a full disk does that
                // where it matters.
                Ok(count) => drop(log.append(&chunk[..count])),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => break,
            }
        }
    };
    thread::Builder::new()
        .name("postgres-log".to_owned())
        .spawn(body)?;
    Ok(Drained(drained))
}

struct Log {
    path: PathBuf,
    file: File,
    size: u64,
}

impl Log {
    fn open(path: PathBuf) -> io::Result<Log> {
        let file = OpenOptions::new().create(true).append(true).open(&path)?;
        let size = file.metadata()?.len();
        Ok(Log { path, file, size })
    }

    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.size > MAX_BYTES {
            fs::rename(&self.path, before(&self.path))?;
            *self = Log::open(std::mem::take(&mut self.path))?;
        }
        self.size += bytes.len() as u64;
        self.file.write_all(bytes)
    }
}

fn before(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".1");
    PathBuf::from(name)
}

/// How far the log reaches: a place for [`tail`] to begin at.
pub(super) fn end(path: &Path) -> u64 {
    fs::metadata(path).map_or(0, |metadata| metadata.len())
}

/// The last lines after position `from`, joined by " | ".
pub(super) fn tail(path: &Path, from: u64) -> String {
    let read = || -> io::Result<String> {
        let mut file = File::open(path)?;
        let length = file.metadata()?.len();
        // Shorter than it was: it was rotated, and all of it is new.
        let from = if from > length { 0 } else { from };
        file.seek(SeekFrom::Start(from.max(length.saturating_sub(TAIL_BYTES))))?;
        let mut bytes = Vec::new();
        file.take(TAIL_BYTES).read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    let text = read().unwrap_or_default();
    let lines: Vec<&str> = text
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .collect();
    lines[lines.len().saturating_sub(TAIL_LINES)..].join(" | ")
}
