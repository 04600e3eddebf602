//! A disk without room.

use std::time::{Duration, Instant};

use futures::future::BoxFuture;
use shard::id::NodeId;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use super::fault::{Fault, World, node_value};
use super::kinds::Kind;
use super::schedule::Strike;
use crate::Result;
use crate::cluster::{Cluster, Inside, PATIENCE};
use crate::history::Edn;

/// How long a node that was struck a moment ago may take to answer, before this strike passes it by.
const UP_PATIENCE: Duration = Duration::from_secs(10);

/// What the system says where there is no room, in the words of a node's log and of PostgreSQL's.
const NO_ROOM: &str = "No space left on device";

/// How often more is written.
const EVERY: Duration = Duration::from_millis(250);

/// 4 MiB of WAL that no table needs: it fills segments, so that new ones are due soon.
const BALLAST: &str = "SELECT pg_logical_emit_message(false, 'ballast', repeat('x', 4194304))";

/// All the room of a node's disk is taken, until its log complains of it. When there is room again the node is
/// stopped and started, as an operator would.
#[derive(Debug, Default)]
pub(super) struct DiskFull(Option<Full>);

#[derive(Debug)]
struct Full {
    node: NodeId,
    /// Lines of the node's log before.
    before: usize,
    writing: JoinHandle<()>,
}

impl Fault for DiskFull {
    fn name(&self) -> &'static str {
        Kind::DiskFull.name()
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
            // Without a majority nobody writes, and a full disk is not noticed.
            if world.cluster.has_full_disk() {
                return Ok(None);
            }
            let Some(node) = world.hold(strike.aim).await else {
                return Ok(None);
            };
            // One that is still starting would end, which is no fault of a running node.
            if world.cluster.wait_up(node, UP_PATIENCE).await.is_err() {
                world.release(node);
                return Ok(None);
            }
            let before = world.cluster.log_lines(node)?.len();
            world.cluster.fill_disk(node)?;
            let writing = tokio::spawn(write(world.cluster.inside()));
            self.0 = Some(Full {
                node,
                before,
                writing,
            });
            Ok(Some(node_value(node)))
        })
    }

    fn heal<'a>(&'a mut self, world: &'a mut World) -> BoxFuture<'a, Result<Edn>> {
        Box::pin(async move {
            let Some(full) = self.0.take() else {
                return Ok(Edn::Nil);
            };
            let noticed = noticed(&world.cluster, &full).await;
            full.writing.abort();
            world.cluster.empty_disk(full.node)?;
            let complaint = match noticed {
                Ok(line) => Edn::Text(line),
                // Others are down or paused too, or the links are disturbed, so perhaps there was nothing for it to write.
                Err(_) if world.held.len() > 1 || world.cluster.is_disturbed() => Edn::Nil,
                Err(silence) => return Err(silence),
            };
            world.cluster.stop_node(full.node).await?;
            world.cluster.restart_node(full.node)?;
            // One that is struck again before it is up would not start, which is no fault of a running node.
            world.cluster.wait_up(full.node, PATIENCE).await?;
            world.release(full.node);
            Ok(Edn::map([
                ("node", node_value(full.node)),
                ("complaint", complaint),
            ]))
        })
    }
}

/// Has the leaders of all groups write, so that all replicas have to.
async fn write(inside: Inside) {
    for group in inside.groups().into_iter().cycle() {
        let ballast = async {
            let leader = inside.leader(group).await?;
            leader.batch_execute(BALLAST).await?;
            Ok::<_, crate::Failure>(())
        };
        // Nobody leads just now, or it is the leader that has no room.
        let _ = timeout(Duration::from_secs(3), ballast).await;
        sleep(EVERY).await;
    }
}

/// Waits for the node's log to say that there is no room, and keeps it without room until then.
async fn noticed(cluster: &Cluster, full: &Full) -> Result<String> {
    let began = Instant::now();
    loop {
        let lines = cluster.complaints_of(full.node)?;
        if let Some(line) = lines
            .into_iter()
            .find(|(at, line)| *at >= full.before && line.contains(NO_ROOM))
        {
            return Ok(line.1);
        }
        if began.elapsed() > PATIENCE {
            let node = full.node;
            return Err(format!(
                "the disk of node {node} has been full for {PATIENCE:?}, and its log is silent"
            )
            .into());
        }
        cluster.fill_disk(full.node)?;
        sleep(EVERY).await;
    }
}
