//! `howdah status`: how a cluster is, asked of each of its nodes and put together.

mod gather;
mod merge;
mod table;

use std::path::PathBuf;
use std::process::ExitCode;

pub use self::gather::gather;
pub use self::merge::{ClusterStatus, GroupStatus, NodeState, NodeView, ReplicaView, merge};
pub use self::table::render;
use crate::config::{ClusterConfig, ConfigError, Overrides};
use crate::demo;

/// Arguments of `howdah status`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// A configuration file of the cluster; any node's will do.
    #[arg(long, env = "HOWDAH_CONFIG", conflicts_with = "data")]
    config: Option<PathBuf>,
    /// The data folder of a demo; the default demo's where neither is given.
    #[arg(long)]
    data: Option<PathBuf>,
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
    let path = match (args.config, args.data) {
        (Some(config), _) => config,
        (None, data) => demo::any_node_config(&data.unwrap_or_else(demo::default_data_dir)),
    };
    let cluster = ClusterConfig::load(&path, &Overrides::default())?;
    let status = gather(&cluster).await;
    if args.json {
        println!("{}", serde_json::to_string(&status)?);
    } else {
        print!("{}", render(&status));
    }
    let led = status.groups.iter().all(|group| group.leader.is_some());
    Ok(if led { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
