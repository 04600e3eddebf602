//! What can go wrong in the log, by what the caller has to do about it.

use std::io;
use std::path::{Path, PathBuf};

use crate::id::{GroupId, LogIndex};

/// A failure of the node's log.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The disk refused. While the log is open this poisons it (see [`LogError::Poisoned`]).
    #[error("cannot {what} {}: {source}", path.display())]
    Io {
        /// What was being done, as a verb.
        what: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// Bytes that had been made durable are not what was written.
    #[error(
        "{} is damaged at byte {offset}: {what}. Check the disk",
        path.display()
    )]
    Damaged {
        /// The segment file.
        path: PathBuf,
        /// Where in the file, in bytes.
        offset: u64,
        /// What is wrong there.
        what: String,
    },
    /// The file was written by a version of Howdah that this one does not know.
    #[error("{} has log format {found}, this program reads format {known}: use the program that wrote it", path.display())]
    Version {
        /// The segment file.
        path: PathBuf,
        /// The version in the file.
        found: u32,
        /// The version of this program.
        known: u32,
    },
    /// Another process, or another [`super::NodeLog`] in this one, has the directory open.
    #[error("{} is in use by another process: stop it first", path.display())]
    InUse {
        /// The log directory.
        path: PathBuf,
    },
    /// A write or an fsync failed before. Nobody knows what is on disk now; nothing is retried: the
    /// node's replicas stop, and what is on disk is read afresh by the next start.
    #[error("the log has stopped after a failure: {0}")]
    Poisoned(String),
    /// [`super::NodeLog::close`] was called.
    #[error("the log is closed")]
    Closed,
    /// Records do not follow the group's last one.
    #[error("group {group}: record {found} does not follow the log, which goes on at {expected}")]
    NotContiguous {
        /// The group.
        group: GroupId,
        /// The index that would have followed.
        expected: LogIndex,
        /// The index that came.
        found: LogIndex,
    },
    /// The call would take back what is purged.
    #[error("group {group}: the log is purged up to {purged}, nothing at {asked} can be cut")]
    Purged {
        /// The group.
        group: GroupId,
        /// The last purged index.
        purged: LogIndex,
        /// The index that was asked for.
        asked: LogIndex,
    },
    /// One value is larger than the format allows.
    #[error("group {group}: {bytes} bytes in one piece, {limit} are allowed")]
    TooLarge {
        /// The group.
        group: GroupId,
        /// The size that came.
        bytes: usize,
        /// The largest size that is taken.
        limit: usize,
    },
}

impl LogError {
    /// For `map_err`: the disk refused `what` on `path`.
    pub(super) fn io(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> LogError {
        let path = path.to_path_buf();
        move |source| LogError::Io { what, path, source }
    }
}
