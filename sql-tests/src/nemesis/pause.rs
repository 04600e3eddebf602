//! SIGSTOP and SIGCONT.

use futures::future::BoxFuture;
use shard::id::NodeId;

use super::fault::{Fault, World, node_value};
use super::kinds::Kind;
use super::schedule::Strike;
use crate::Result;
use crate::cluster::Frozen;
use crate::history::Edn;

/// A node that sleeps, or its PostgreSQL servers, or both.
#[derive(Debug)]
pub(super) struct Pause {
    kind: Kind,
    frozen: Frozen,
    node: Option<NodeId>,
}

impl Pause {
    pub(super) fn of(kind: Kind, frozen: Frozen) -> Pause {
        Pause {
            kind,
            frozen,
            node: None,
        }
    }
}

impl Fault for Pause {
    fn name(&self) -> &'static str {
        self.kind.name()
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
            self.node = world.hold(strike.aim).await;
            if let Some(node) = self.node {
                world.cluster.pause(node, self.frozen)?;
            }
            Ok(self.node.map(node_value))
        })
    }

    fn heal<'a>(&'a mut self, world: &'a mut World) -> BoxFuture<'a, Result<Edn>> {
        Box::pin(async move {
            let Some(node) = self.node.take() else {
                return Ok(Edn::Nil);
            };
            world.cluster.resume(node)?;
            world.release(node);
            Ok(node_value(node))
        })
    }
}
