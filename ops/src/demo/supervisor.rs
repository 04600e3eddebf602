//! Keeps the nodes running: what ends without being asked to is started again.

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::Signal;
use tokio::process::{Child, Command};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::layout::Layout;
use super::process::{ProcessId, postgres_below};

/// The wait before a node is started again; doubled while it ends soon after each start.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// A node that ran this long was well.
const HEALTHY: Duration = Duration::from_secs(10);
/// How long a node may take to stop its PostgreSQL servers before it is killed.
const GRACE: Duration = Duration::from_secs(20);
/// A node's log is put aside at the next start when it is longer, bytes.
const LONG_LOG: u64 = 64 << 20;

/// Environment variables that would override every node's configuration in the same way.
const OVERRIDES: [&str; 6] = [
    "HOWDAH_CONFIG",
    "HOWDAH_NODE",
    "HOWDAH_DATA_DIR",
    "HOWDAH_SQL_LISTEN",
    "HOWDAH_SECRET_FILE",
    "HOWDAH_LOG",
];

/// What happened to a node.
#[derive(Clone, Debug)]
pub(super) enum Event {
    /// Its process runs.
    Started {
        /// The node.
        node: u16,
        /// Its process.
        pid: u32,
    },
    /// Its process ended, or could not be started.
    Ended {
        /// The node.
        node: u16,
        /// Exit code, signal or error.
        how: String,
        /// Whether it ended of its own will, as for a wrong configuration, not by a signal.
        by_itself: bool,
        /// When it is started again.
        pause: Duration,
    },
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Event::Started { node, pid } => write!(f, "node {node} runs as process {pid}"),
            Event::Ended { node, how, pause, .. } => {
                write!(
                    f,
                    "node {node} ended ({how}); starting it again in {} s",
                    pause.as_secs()
                )
            }
        }
    }
}

/// All nodes of a demo, each in the care of a task.
#[derive(Debug)]
pub(super) struct Supervisor {
    keepers: JoinSet<()>,
    events: mpsc::Receiver<Event>,
    stop: CancellationToken,
}

impl Supervisor {
    /// Starts every node. `stop` stops them all.
    pub(super) fn start(layout: &Layout, stop: CancellationToken) -> Supervisor {
        let (tell, events) = mpsc::channel(64);
        let mut keepers = JoinSet::new();
        for node in layout.nodes() {
            keepers.spawn(keep(node, layout.clone(), stop.clone(), tell.clone()));
        }
        Supervisor {
            keepers,
            events,
            stop,
        }
    }

    /// The next event. Never ends: after all nodes have stopped there is none.
    pub(super) async fn next(&mut self) -> Event {
        match self.events.recv().await {
            Some(event) => event,
            None => std::future::pending().await,
        }
    }

    /// Stops every node and its PostgreSQL, and waits for their end.
    pub(super) async fn stop(mut self) {
        self.stop.cancel();
        self.events.close();
        while self.keepers.join_next().await.is_some() {}
    }
}

/// Keeps one node running until `stop`.
async fn keep(node: u16, layout: Layout, stop: CancellationToken, tell: mpsc::Sender<Event>) {
    let mut pause = FIRST_PAUSE;
    while !stop.is_cancelled() {
        let started = Instant::now();
        let (how, by_itself) = match start(node, &layout) {
            Ok(mut child) => {
                // Taken out, for `wait` would close it: that means stop.
                let _pipe = child.stdin.take();
                if let Some(pid) = child.id() {
                    let _ = tell.send(Event::Started { node, pid }).await;
                }
                let ended = tokio::select! {
                    ended = child.wait() => ended,
                    () = stop.cancelled() => {
                        end(&mut child).await;
                        break;
                    }
                };
                describe(&ended)
            }
            Err(error) => (error.to_string(), true),
        };
        if started.elapsed() >= HEALTHY {
            pause = FIRST_PAUSE;
        }
        // Nobody listens any more when the demo stops: then the loop ends too.
        let _ = tell
            .send(Event::Ended {
                node,
                how,
                by_itself,
                pause,
            })
            .await;
        tokio::select! {
            () = sleep(pause) => pause = (pause * 2).min(LONGEST_PAUSE),
            () = stop.cancelled() => {}
        }
    }
    sweep(&layout.node_dir(node)).await;
}

fn start(node: u16, layout: &Layout) -> io::Result<Child> {
    let log = open_log(&layout.node_log(node))?;
    // The nodes share this machine: each runs on its share of the cores, or their threads chase
    // each other's work.
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let threads = (cores / layout.nodes().len()).max(1);
    let mut command = Command::new(std::env::current_exe()?);
    command
        .arg("node")
        .arg("--config")
        .arg(layout.node_config(node))
        // The node stops when this process is gone, however that happened.
        .arg("--until-stdin-closes")
        .env("TOKIO_WORKER_THREADS", threads.to_string())
        .stdin(Stdio::piped())
        .stdout(log.try_clone()?)
        .stderr(log)
        // A Ctrl-C at the terminal is for the demo, which stops its nodes in order.
        .process_group(0);
    for name in OVERRIDES {
        command.env_remove(name);
    }
    command.spawn()
}

fn open_log(path: &Path) -> io::Result<File> {
    if fs::metadata(path).is_ok_and(|log| log.len() > LONG_LOG) {
        fs::rename(path, path.with_extension("old"))?;
    }
    OpenOptions::new().create(true).append(true).open(path)
}

fn describe(ended: &io::Result<ExitStatus>) -> (String, bool) {
    match ended {
        Ok(status) => match (status.code(), status.signal()) {
            (Some(code), _) => (format!("exit code {code}"), true),
            (None, Some(signal)) => (format!("killed by signal {signal}"), false),
            (None, None) => (status.to_string(), false),
        },
        Err(error) => (error.to_string(), false),
    }
}

/// Asks a node to stop, and kills it where it does not.
async fn end(child: &mut Child) {
    let process = child.id().and_then(|pid| ProcessId::of(pid).ok());
    // An error means that it has ended already.
    let _ = process.map(|process| process.signal(Signal::TERM));
    if timeout(GRACE, child.wait()).await.is_err() {
        let _ = child.kill().await;
    }
}

/// Stops the PostgreSQL servers that a killed node left behind.
async fn sweep(node_dir: &Path) {
    for signal in [Signal::QUIT, Signal::KILL] {
        for _ in 0..50 {
            let left = postgres_below(node_dir);
            if left.is_empty() {
                return;
            }
            for process in left {
                // An error means that it has ended already.
                let _ = process.signal(signal);
            }
            sleep(Duration::from_millis(100)).await;
        }
    }
}
