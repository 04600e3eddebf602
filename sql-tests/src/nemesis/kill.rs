//! kill -9.

use futures::future::BoxFuture;
use shard::id::NodeId;

use super::fault::{Fault, World, node_value};
use super::kinds::Kind;
use super::schedule::Strike;
use crate::Result;
use crate::cluster::Victim;
use crate::history::Edn;

/// A node with its PostgreSQL servers, started again when it is healed.
#[derive(Debug, Default)]
pub(super) struct KillNode(Option<NodeId>);

/// One PostgreSQL process; its node makes good for it by itself.
#[derive(Debug)]
pub(super) struct KillPostgres(pub(super) Victim);

/// All nodes at once, started again when it is healed.
#[derive(Debug)]
pub(super) struct KillAll;

impl Fault for KillNode {
    fn name(&self) -> &'static str {
        Kind::KillNode.name()
    }

    fn lasts(&self) -> bool {
        true
    }

    fn start<'a>(
        &'a mut self,
        world: &'a mut World,
        strike: &'a Strike,
    ) -> BoxFuture<'a, Result<Option<Edn>>> {
        Box::pin(async move {
            self.0 = world.hold(strike.aim).await;
            if let Some(node) = self.0 {
                world.cluster.kill_node(node)?;
            }
            Ok(self.0.map(node_value))
        })
    }

    fn heal<'a>(&'a mut self, world: &'a mut World) -> BoxFuture<'a, Result<Edn>> {
        Box::pin(async move {
            let Some(node) = self.0.take() else {
                return Ok(Edn::Nil);
            };
            world.cluster.restart_node(node)?;
            world.release(node);
            Ok(node_value(node))
        })
    }
}

impl Fault for KillPostgres {
    fn name(&self) -> &'static str {
        match self.0 {
            Victim::Postmaster => Kind::KillPostmaster.name(),
            Victim::Backend => Kind::KillBackend.name(),
        }
    }

    fn lasts(&self) -> bool {
        false
    }

    fn start<'a>(
        &'a mut self,
        world: &'a mut World,
        strike: &'a Strike,
    ) -> BoxFuture<'a, Result<Option<Edn>>> {
        Box::pin(async move {
            let Some(node) = world.target(strike.aim).await else {
                return Ok(None);
            };
            let killed = world.cluster.kill_postgres(node, self.0, strike.pick)?;
            let value = |title| Edn::map([("node", node_value(node)), ("process", Edn::Text(title))]);
            Ok(killed.map(value))
        })
    }

    fn heal<'a>(&'a mut self, _: &'a mut World) -> BoxFuture<'a, Result<Edn>> {
        Box::pin(async { Ok(Edn::Nil) })
    }
}

impl Fault for KillAll {
    fn name(&self) -> &'static str {
        Kind::KillAll.name()
    }

    fn lasts(&self) -> bool {
        true
    }

    fn ends_others(&self) -> bool {
        true
    }

    fn start<'a>(&'a mut self, world: &'a mut World, _: &'a Strike) -> BoxFuture<'a, Result<Option<Edn>>> {
        Box::pin(async move {
            let nodes = world.cluster.node_ids();
            for node in &nodes {
                world.held.insert(*node);
                world.cluster.kill_node(*node)?;
            }
            Ok(Some(Edn::Vector(nodes.into_iter().map(node_value).collect())))
        })
    }

    fn heal<'a>(&'a mut self, world: &'a mut World) -> BoxFuture<'a, Result<Edn>> {
        Box::pin(async move {
            let nodes = world.cluster.node_ids();
            for node in &nodes {
                world.cluster.restart_node(*node)?;
                world.release(*node);
            }
            Ok(Edn::Vector(nodes.into_iter().map(node_value).collect()))
        })
    }
}
