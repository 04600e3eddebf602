//! `howdah status`: how a cluster is, asked of each of its nodes and put together.

mod gather;
mod merge;
mod table;

use std::process::ExitCode;

pub use self::gather::gather;
pub use self::merge::merge;
pub use self::table::render;
use crate::config::ConfigError;
use crate::which::Which;
pub use proxy::status::{ClusterStatus, GroupStatus, NodeState, NodeView, ReplicaView};

/// Arguments of `howdah status`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    which: Which,
    /// Print JSON instead of tables.
    #[arg(long)]
    json: bool,
}

/// Why there is no status to show.
#[derive(Debug, thiserror::Error)]
pub enum StatusError {
    /// The configuration cannot be read.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The status cannot be written as JSON.
    #[error("the status cannot be printed")]
    Print(#[from] serde_json::Error),
}

/// Prints the status. The exit code is 1 where a group has no leader.
#[expect(clippy::print_stdout, reason = "the command line's answer")]
pub(crate) async fn run(args: Args) -> Result<ExitCode, StatusError> {
    let cluster = args.which.load()?;
    let status = gather(&cluster).await;
    if args.json {
        println!("{}", serde_json::to_string(&status)?);
    } else {
        print!("{}", render(&status));
    }
    let led = status.groups.iter().all(|group| group.leader.is_some());
    Ok(if led { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
