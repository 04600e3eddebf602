//! Which cluster a command is about.

use std::path::PathBuf;

use crate::config::{ClusterConfig, ConfigError, Overrides};
use crate::demo;

/// The arguments that say so, of every command that asks a running cluster.
#[derive(Debug, clap::Args)]
pub(crate) struct Which {
    /// A configuration file of the cluster; any node's will do.
    #[arg(long, env = "HOWDAH_CONFIG", conflicts_with = "data")]
    config: Option<PathBuf>,
    /// The data folder of a demo; the default demo's where neither is given.
    #[arg(long)]
    data: Option<PathBuf>,
}

impl Which {
    /// Reads its configuration.
    ///
    /// # Errors
    /// When it is not there, or wrong.
    pub(crate) fn load(self) -> Result<ClusterConfig, ConfigError> {
        let path = match (self.config, self.data) {
            (Some(config), _) => config,
            (None, data) => demo::any_node_config(&data.unwrap_or_else(demo::default_data_dir)),
        };
        ClusterConfig::load(&path, &Overrides::default())
    }
}
