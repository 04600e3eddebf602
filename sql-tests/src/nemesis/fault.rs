//! What a fault is, and what it is done to.

use std::collections::BTreeSet;
use std::fmt;

use futures::future::BoxFuture;
use shard::id::NodeId;

use super::schedule::{Aim, Strike};
use crate::Result;
use crate::client::Disturbance;
use crate::cluster::Cluster;
use crate::history::Edn;

/// What can be broken.
#[derive(Debug)]
pub struct World {
    /// The cluster.
    pub cluster: Cluster,
    /// The clients' switch.
    pub disturbance: Disturbance,
    /// Nodes that are killed or paused: no second fault of that kind strikes them meanwhile.
    pub(super) held: BTreeSet<NodeId>,
}

/// One fault, from its start to its end.
pub trait Fault: Send + fmt::Debug {
    /// The name of its kind.
    fn name(&self) -> &'static str;

    /// Whether it goes on until it is healed.
    fn lasts(&self) -> bool;

    /// Whether everything else must be healed before it starts.
    fn ends_others(&self) -> bool {
        false
    }

    /// Begins, and says what it hit; `None` where there was nothing to hit.
    fn start<'a>(
        &'a mut self,
        world: &'a mut World,
        strike: &'a Strike,
    ) -> BoxFuture<'a, Result<Option<Edn>>>;

    /// Ends, and says what it healed.
    fn heal<'a>(&'a mut self, world: &'a mut World) -> BoxFuture<'a, Result<Edn>>;
}

impl World {
    /// A cluster in which nothing is broken.
    #[must_use]
    pub fn new(cluster: Cluster, disturbance: Disturbance) -> World {
        World {
            cluster,
            disturbance,
            held: BTreeSet::new(),
        }
    }

    /// The node that is aimed at, held or not. Where a group has no leader just now, the number
    /// falls on some node.
    pub(super) async fn target(&self, aim: Aim) -> Option<NodeId> {
        let nodes = self.cluster.node_ids();
        let (Aim::Node(number) | Aim::Leader(number)) = aim;
        let number = usize::try_from(number).ok()?;
        if let Aim::Leader(_) = aim {
            let leaders: Vec<_> = self
                .cluster
                .status()
                .await
                .groups
                .iter()
                .filter_map(|group| group.leader)
                .collect();
            if let Some(place) = number.checked_rem(leaders.len()) {
                return Some(leaders[place]);
            }
        }
        number.checked_rem(nodes.len()).map(|place| nodes[place])
    }

    /// The node that is aimed at, or the next one that is not held; from now on it is held.
    pub(super) async fn hold(&mut self, aim: Aim) -> Option<NodeId> {
        let target = self.target(aim).await?;
        let nodes = self.cluster.node_ids();
        let from = nodes.iter().position(|node| *node == target)?;
        let in_turn = nodes.iter().cycle().skip(from).take(nodes.len());
        let free = in_turn.copied().find(|node| !self.held.contains(node))?;
        self.held.insert(free);
        Some(free)
    }

    /// The nodes that are not held.
    pub(super) fn free(&self) -> Vec<NodeId> {
        let mut nodes = self.cluster.node_ids();
        nodes.retain(|node| !self.held.contains(node));
        nodes
    }

    pub(super) fn release(&mut self, node: NodeId) {
        self.held.remove(&node);
    }
}

/// A node as it stands in a history.
pub(super) fn node_value(node: NodeId) -> Edn {
    Edn::Text(format!("n{node}"))
}
