//! Why a demo does not start or stop.

use std::path::PathBuf;

use crate::certificates::CertificatesError;
use crate::config::ConfigError;

/// A demo that cannot be started, run or stopped. Each is one line for the operator.
#[derive(Debug, thiserror::Error)]
pub enum DemoError {
    /// PostgreSQL's server programs are not here.
    #[error(transparent)]
    Postgres(#[from] shard::postgres::Error),
    /// The nodes' certificates.
    #[error(transparent)]
    Certificates(#[from] CertificatesError),
    /// A file or folder of the demo.
    #[error("{}: {what}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// What was wanted of it.
        what: &'static str,
        /// What the system said.
        source: std::io::Error,
    },
    /// The stored facts of the demo do not parse.
    #[error("{}: not a demo's facts: {what}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// The user that PostgreSQL runs as cannot get to the data folder.
    #[error("{}: user postgres could not reach it, since {} is closed to others: choose another --data", data.display(), closed.display())]
    Unreachable {
        /// The data folder.
        data: PathBuf,
        /// The folder on the way to it that is closed.
        closed: PathBuf,
    },
    /// The data folder holds something else.
    #[error("{}: is not empty and holds no demo: choose another --data", .0.display())]
    NotADemo(PathBuf),
    /// The data was made with other numbers.
    #[error("{}: holds {stored} {what}, not {asked}: leave --{what} out, or choose another --data", data.display())]
    Differs {
        /// The data folder.
        data: PathBuf,
        /// `nodes` or `shards`.
        what: &'static str,
        /// How many the data has.
        stored: u32,
        /// How many were asked for.
        asked: u32,
    },
    /// Somebody else listens there.
    #[error("port {port} is in use: choose another first port with --port")]
    PortInUse {
        /// The port.
        port: u16,
        /// What the system said.
        source: std::io::Error,
    },
    /// No free ports could be found for the nodes among themselves.
    #[error("no free ports between {from} and {to} for the nodes among themselves")]
    NoPorts {
        /// The first port tried.
        from: u16,
        /// The last port tried.
        to: u16,
    },
    /// Another demo has the data.
    #[error("{}: a demo already runs there (process {pid}); stop it with: howdah demo stop --data {}", data.display(), data.display())]
    Running {
        /// The data folder.
        data: PathBuf,
        /// The other demo.
        pid: String,
    },
    /// A node's configuration, as the demo wrote it.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A node ended while the cluster started.
    #[error("node {node} ended ({how}): {last} (all of it in {})", log.display())]
    NodeEnded {
        /// The node.
        node: u16,
        /// Its exit code or signal.
        how: String,
        /// The last line of its log.
        last: String,
        /// Its log.
        log: PathBuf,
    },
    /// The background process ended while the cluster started.
    #[error("the background process ended: {last} (all of it in {})", log.display())]
    DaemonEnded {
        /// The last line of its log.
        last: String,
        /// Its log.
        log: PathBuf,
    },
    /// The cluster was not ready in time.
    #[error("not ready after {seconds} s: waited for {waited_for}; the nodes' logs tell more")]
    NotReady {
        /// How long was waited.
        seconds: u64,
        /// What was still missing.
        waited_for: String,
    },
    /// A demo that was told to stop still runs.
    #[error("{}: process {pid} still runs {seconds} s after it was told to stop", data.display())]
    DoesNotStop {
        /// The data folder.
        data: PathBuf,
        /// The demo.
        pid: String,
        /// How long was waited.
        seconds: u64,
    },
}

/// Names the file and the purpose of a failed call.
pub(super) fn file(path: impl Into<PathBuf>, what: &'static str) -> impl FnOnce(std::io::Error) -> DemoError {
    let path = path.into();
    move |source| DemoError::File { path, what, source }
}
