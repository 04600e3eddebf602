//! `howdah demo`: a whole cluster on this machine, of real nodes and real PostgreSQL servers.
//!
//! The nodes are child processes of a supervisor, which is the demo itself or, with `--detach`,
//! a background process. Everything that was started stops with it, however it ends: a node
//! stops when the pipe from its supervisor closes.

mod daemon;
mod error;
mod layout;
mod lock;
mod process;
mod progress;
mod supervisor;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::value_parser;
use shard::postgres::Installation;
use tokio_util::sync::CancellationToken;

pub use self::error::DemoError;
#[cfg(any(test, feature = "fuzz"))]
pub(crate) use self::layout::parse_facts;
use self::layout::{Layout, Stop};
pub use self::layout::{any_node_config, default_data_dir};
use self::lock::Lock;
pub use self::process::{ProcessId, postgres_below};
use self::progress::Progress;
use self::supervisor::{Event, Supervisor};
use crate::config::{ClusterConfig, Overrides};
use crate::signals;

/// Arguments of `howdah demo`.
#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Args {
    #[command(subcommand)]
    action: Option<Action>,
    #[command(flatten)]
    start: StartArgs,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// Stop a demo, detached or not; its data stays.
    Stop {
        /// The demo's data folder.
        #[arg(long)]
        data: Option<PathBuf>,
    },
}

/// What to start.
#[derive(Clone, Debug, clap::Args)]
struct StartArgs {
    /// Shard groups [default: 2, or as the data has them]
    #[arg(long, value_parser = value_parser!(u32).range(1..=64))]
    shards: Option<u32>,
    /// Nodes; each group has a replica on up to three of them [default: 3, or as the data has them]
    #[arg(long, value_parser = value_parser!(u16).range(1..=9))]
    nodes: Option<u16>,
    /// The first node's port for clients; the others follow [default: 6432, or as last time]
    #[arg(long, value_parser = value_parser!(u16).range(1..=65000))]
    port: Option<u16>,
    /// Where everything is kept [default: /var/lib/howdah-demo as root, else ~/.local/share/howdah-demo]
    #[arg(long)]
    data: Option<PathBuf>,
    /// Return once the cluster is ready, and leave it running.
    #[arg(long)]
    detach: bool,
    /// Be the background process of `--detach`.
    #[arg(long, hide = true, conflicts_with = "detach")]
    supervise: bool,
}

impl StartArgs {
    fn data(&self) -> PathBuf {
        self.data.clone().unwrap_or_else(default_data_dir)
    }
}

/// Starts or stops a demo.
pub(crate) async fn run(args: Args) -> Result<ExitCode, DemoError> {
    match args.action {
        Some(Action::Stop { data }) => stop(&data.unwrap_or_else(default_data_dir)).await?,
        None if args.start.detach => daemon::start(&args.start).await?,
        None => supervise(&args.start).await?,
    }
    Ok(ExitCode::SUCCESS)
}

#[expect(clippy::print_stdout, reason = "the command line's answer")]
async fn stop(data: &Path) -> Result<(), DemoError> {
    match daemon::stop(data).await? {
        Some(process) => println!(
            "stopped process {}; the data stays in {}",
            process.pid(),
            data.display()
        ),
        None => println!("no demo runs in {}", data.display()),
    }
    Ok(())
}

/// Makes ready what the nodes need, under the lock that keeps other demos off the data.
fn prepare(args: &StartArgs, progress: &Progress) -> Result<(Lock, Layout), DemoError> {
    let installation = Installation::find(None)?;
    progress.done(&format!(
        "PostgreSQL {} in {}",
        installation.version,
        installation.bin_dir.display()
    ));
    let data = args.data();
    layout::make_data_dir(&data)?;
    let lock = Lock::take(&data)?;
    let layout = Layout::open(&data, args)?;
    progress.done(&format!("{} in {}", layout.describe(), data.display()));
    Ok((lock, layout))
}

/// Runs the nodes in this process's care until it is asked to stop.
async fn supervise(args: &StartArgs) -> Result<(), DemoError> {
    let stop = signals::stop_requested();
    let progress = if args.supervise {
        Progress::log()
    } else {
        Progress::terminal()
    };
    if args.supervise {
        // Not the terminal's any more: its Ctrl-C and its end are no concern of ours. This fails
        // only where the process leads a group already, which is as good.
        let _ = rustix::process::setsid();
    }
    let (_lock, layout) = prepare(args, &progress)?;
    let cluster = ClusterConfig::load(&layout.node_config(1), &Overrides::default())?;
    let mut supervisor = Supervisor::start(&layout, stop.child_token());
    let outcome = watch(&cluster, &layout, &progress, &mut supervisor, &stop).await;
    progress.say("stopping");
    supervisor.stop().await;
    progress.say("stopped; the data stays");
    outcome
}

/// Waits until the cluster is ready, then tells of what happens until `stop`.
async fn watch(
    cluster: &ClusterConfig,
    layout: &Layout,
    progress: &Progress,
    supervisor: &mut Supervisor,
    stop: &CancellationToken,
) -> Result<(), DemoError> {
    let starting = async {
        tokio::select! {
            ready = progress::wait_ready(cluster, progress) => ready,
            failure = first_failure(supervisor, layout, progress) => Err(failure),
        }
    };
    tokio::select! {
        () = stop.cancelled() => return Ok(()),
        ready = starting => ready?,
    }
    progress.say(&layout.welcome(Stop::CtrlC));
    loop {
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            event = supervisor.next() => progress.say(&event.to_string()),
        }
    }
}

/// While the cluster starts, a node that ends by itself will not do better at the next try.
async fn first_failure(supervisor: &mut Supervisor, layout: &Layout, progress: &Progress) -> DemoError {
    loop {
        match supervisor.next().await {
            Event::Ended {
                node,
                how,
                by_itself: true,
                ..
            } => {
                let log = layout.node_log(node);
                let last = last_line(&log);
                return DemoError::NodeEnded { node, how, last, log };
            }
            event => progress.say(&event.to_string()),
        }
    }
}

/// The last words of a log.
fn last_line(log: &Path) -> String {
    let text = std::fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let last = text
        .lines()
        .rev()
        .find(|line| !line.trim().is_empty())
        .unwrap_or("it left no word");
    last.trim_start_matches("howdah: ").to_owned()
}
