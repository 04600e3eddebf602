//! Nodes that die at a step of a transaction across groups.

use std::time::Duration;

use coordinator::failpoint::{Duty, Step};
use futures::future::BoxFuture;
use shard::id::NodeId;
use tokio::time::{Instant, sleep};

use super::fault::{Fault, World, node_value};
use super::kinds::Kind;
use super::schedule::Strike;
use crate::Result;
use crate::history::Edn;

/// How long a coordinator may take to come to the step: one that is given no transaction across groups does not.
const COMES_WITHIN: Duration = Duration::from_secs(6);

/// The same for what is done every few seconds, or after the loss of a coordinator has been noticed.
const BACKGROUND_COMES_WITHIN: Duration = Duration::from_secs(12);

/// How often it is looked whether a node has died.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// The node that first comes to the step dies there, started again when it is healed. Where it is a step of
/// recovery, a coordinator dies before that, with all of its parts prepared.
#[derive(Debug)]
pub(super) struct Coordinator {
    step: Step,
    dead: Vec<NodeId>,
}

impl Coordinator {
    pub(super) fn at(step: Step) -> Coordinator {
        Coordinator {
            step,
            dead: Vec::new(),
        }
    }

    /// Has the first of these nodes that comes to the step die there; whether one did.
    async fn strike(
        &mut self,
        world: &mut World,
        nodes: &[NodeId],
        step: Step,
        postgres: Postgres,
    ) -> Result<bool> {
        for node in nodes {
            // One that cannot be asked is held up by another fault.
            world.cluster.arm(*node, Some(step)).await;
        }
        let patience = match step.duty() {
            Duty::Commits => COMES_WITHIN,
            Duty::Recovers | Duty::Cleans => BACKGROUND_COMES_WITHIN,
        };
        let began = Instant::now();
        let died = |world: &World| nodes.iter().any(|node| world.cluster.has_ended(*node));
        while !died(world) && began.elapsed() < patience {
            sleep(LOOK_EVERY).await;
        }
        let mut ended = Vec::new();
        for node in nodes {
            let disarmed = world.cluster.arm(*node, None).await;
            // One that cannot be asked would die some time later: that has to be now, too.
            if !disarmed || world.cluster.has_ended(*node) {
                ended.push(*node);
            }
        }
        let hit = died(world);
        for node in &ended {
            world.held.insert(*node);
            self.dead.push(*node);
            match postgres {
                Postgres::Stays if world.cluster.has_ended(*node) => world.cluster.bury_node(*node)?,
                Postgres::Stays | Postgres::DiesToo => world.cluster.kill_node(*node)?,
            }
        }
        Ok(hit)
    }
}

/// What becomes of the PostgreSQL servers of a node that dies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Postgres {
    /// As with the loss of the machine.
    DiesToo,
    /// They go on by themselves until the node starts again and ends them.
    Stays,
}

impl Fault for Coordinator {
    fn name(&self) -> &'static str {
        Kind::Coordinator(self.step).name()
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
            let (postgres, words) = if strike.pick.is_multiple_of(2) {
                (Postgres::DiesToo, "killed with it")
            } else {
                (Postgres::Stays, "left alone")
            };
            let Some(aimed) = world.hold(strike.aim).await else {
                return Ok(None);
            };
            world.release(aimed);
            let mut hit = true;
            if self.step.duty() == Duty::Recovers {
                hit = self.strike(world, &[aimed], Step::AllPrepared, postgres).await?;
            }
            let nodes = match self.step.duty() {
                Duty::Commits => vec![aimed],
                Duty::Recovers | Duty::Cleans => world.free(),
            };
            // Where only the coordinator died, that was a fault too, and the history names the dead.
            hit = hit && self.strike(world, &nodes, self.step, postgres).await?;
            let dead = self.dead.iter().copied().map(node_value).collect();
            let what = [
                ("nodes", Edn::Vector(dead)),
                ("step", Edn::Text(self.step.name().to_owned())),
                ("came-there", Edn::Bool(hit)),
                ("postgres", Edn::Text(words.to_owned())),
            ];
            Ok((hit || !self.dead.is_empty()).then(|| Edn::map(what)))
        })
    }

    fn heal<'a>(&'a mut self, world: &'a mut World) -> BoxFuture<'a, Result<Edn>> {
        Box::pin(async move {
            let dead = std::mem::take(&mut self.dead);
            for node in &dead {
                world.cluster.restart_node(*node)?;
                world.release(*node);
            }
            Ok(Edn::Vector(dead.into_iter().map(node_value).collect()))
        })
    }
}
