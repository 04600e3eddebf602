//! The way to the replicas' own PostgreSQL servers, past their nodes.

use std::collections::BTreeMap;
use std::path::PathBuf;

use ops::config::ClusterConfig;
use ops::status::gather;
use shard::id::{GroupId, NodeId};
use tokio_postgres::Client;

use super::{group_of, replica};
use crate::Result;

/// Where the servers are. Clones lead to the same ones.
#[derive(Clone, Debug)]
pub struct Inside {
    config: ClusterConfig,
    data_dirs: BTreeMap<NodeId, PathBuf>,
}

impl Inside {
    pub(super) fn new(config: ClusterConfig, data_dirs: BTreeMap<NodeId, PathBuf>) -> Inside {
        Inside { config, data_dirs }
    }

    /// A superuser's connection to one replica's server.
    ///
    /// # Errors
    /// Where it does not run, or does not answer.
    pub async fn replica(&self, node: NodeId, group: GroupId) -> Result<Client> {
        let status = gather(&self.config).await;
        let replicas = group_of(&status, group)
            .map(|found| found.replicas.as_slice())
            .unwrap_or_default();
        let pid = replicas
            .iter()
            .find(|replica| replica.node == node)
            .and_then(|found| found.postgres_pid);
        let pid = pid.ok_or_else(|| format!("node {node} runs no PostgreSQL for group {group}"))?;
        let folder = self.data_dirs.get(&node).ok_or("no such node")?;
        replica::connect(folder.clone(), pid).await
    }

    /// The same, to the leader's.
    ///
    /// # Errors
    /// Where there is no leader, or its server does not answer.
    pub async fn leader(&self, group: GroupId) -> Result<Client> {
        let status = gather(&self.config).await;
        let leader = group_of(&status, group).and_then(|found| found.leader);
        let leader = leader.ok_or_else(|| format!("group {group} has no leader"))?;
        self.replica(leader, group).await
    }

    /// All groups.
    #[must_use]
    pub fn groups(&self) -> Vec<GroupId> {
        self.config.groups.keys().copied().collect()
    }
}
