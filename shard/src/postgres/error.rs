//! What can go wrong with a replica's PostgreSQL, by consequence.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::tool::ToolError;

/// Why something with PostgreSQL failed. Each message is one line for the operator.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No PostgreSQL on this machine, or not where the configuration says.
    #[error(
        "no PostgreSQL server (14 to 18) found in {looked_in}: install it \
         (Debian, Ubuntu: apt-get install postgresql; Fedora, RHEL: dnf install postgresql-server) \
         or set postgres.bin_dir"
    )]
    NotInstalled {
        /// The folders that were looked at.
        looked_in: String,
    },
    /// A PostgreSQL of a version that Howdah does not know.
    #[error("PostgreSQL {version} in {bin_dir} is not supported: Howdah works with 14 to 18")]
    UnsupportedVersion {
        /// Where it is.
        bin_dir: PathBuf,
        /// What it says it is.
        version: String,
    },
    /// The node is root, PostgreSQL refuses root, and the user to run it as does not exist.
    #[error(
        "PostgreSQL does not run as root and there is no user \"{user}\": create it or set postgres.user"
    )]
    NoUser {
        /// The configured user.
        user: String,
    },
    /// The user that runs PostgreSQL cannot reach the data directory.
    #[error("user \"{user}\" may not enter {path}, so PostgreSQL cannot reach its data: chmod o+x {path}")]
    NotTraversable {
        /// The folder in the way.
        path: PathBuf,
        /// Who runs PostgreSQL.
        user: String,
    },
    /// A setting that Howdah must control.
    #[error("postgres.settings may not set {name}: {reason}")]
    RefusedSetting {
        /// The setting.
        name: String,
        /// Why not.
        reason: &'static str,
    },
    /// Another node works in this directory.
    #[error("{path} is in use by another howdah process")]
    InUse {
        /// The replica's directory.
        path: PathBuf,
    },
    /// The directory belongs to another cluster, node or group.
    #[error("{path} is the directory of {found}, not of {wanted}")]
    OtherReplica {
        /// The replica's directory.
        path: PathBuf,
        /// Whose it is.
        found: String,
        /// Who asked.
        wanted: String,
    },
    /// A file of ours cannot be understood.
    #[error("{path} is damaged: {reason}")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// Files.
    #[error("cannot {action} {path}: {source}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// With what.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// One of PostgreSQL's programs failed.
    #[error(transparent)]
    Tool(#[from] ToolError),
    /// The copy in `pgdata` is not complete, or not yet known to hold committed WAL only.
    #[error("{path} is an unfinished copy and must not be started")]
    Unfinished {
        /// The data directory.
        path: PathBuf,
    },
    /// This server runs; what was asked for needs it stopped.
    #[error("PostgreSQL is running in {path}")]
    StillRunning {
        /// The data directory.
        path: PathBuf,
    },
    /// Processes of an earlier server that even SIGKILL did not end.
    #[error("processes {pids:?} of an earlier PostgreSQL in {path} do not end")]
    Unkillable {
        /// The data directory.
        path: PathBuf,
        /// The processes.
        pids: Vec<i32>,
    },
    /// The postmaster ended before it was ready.
    #[error("PostgreSQL in {path} did not start ({exit}): {log}")]
    StartFailed {
        /// The data directory.
        path: PathBuf,
        /// How it ended.
        exit: String,
        /// The last lines of its log.
        log: String,
    },
    /// The server is gone.
    #[error("PostgreSQL in {path} is not running")]
    NotRunning {
        /// The data directory.
        path: PathBuf,
    },
    /// Something took longer than it was given.
    #[error("{what} took longer than {patience:?}")]
    TimedOut {
        /// What was waited for.
        what: &'static str,
        /// For how long.
        patience: Duration,
    },
    /// A control connection or a query over one failed.
    #[error("control connection to PostgreSQL: {}", described(.0))]
    Query(tokio_postgres::Error),
    /// The old data cannot be rewound: rebuild it by base backup. If a rewind had begun, the
    /// directory is marked as an unfinished copy.
    #[error("cannot rewind: {reason}")]
    CannotRewind {
        /// What stands against it.
        reason: String,
    },
}

// Not by `#[from]`, which would make it the source too: what it says is told above, with its own source.
impl From<tokio_postgres::Error> for Error {
    fn from(error: tokio_postgres::Error) -> Error {
        Error::Query(error)
    }
}

/// tokio-postgres says only "db error"; the server's words are in the source.
fn described(error: &tokio_postgres::Error) -> String {
    match std::error::Error::source(error) {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}

impl Error {
    /// For `map_err` on file operations.
    pub(super) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
        let path = path.to_owned();
        move |source| Error::Io { action, path, source }
    }
}
