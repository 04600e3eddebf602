//! Switchovers, one after the other.

use std::time::Duration;

use futures::future::BoxFuture;
use ops::config::ClusterConfig;
use ops::switchover::hand_over;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use shard::id::{GroupId, NodeId};
use tokio::task::JoinHandle;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::fault::{Fault, World};
use super::kinds::Kind;
use super::schedule::Strike;
use crate::Result;
use crate::history::Edn;

/// Between one switchover and the next: several in a second.
const BETWEEN: std::ops::Range<Duration> = Duration::from_millis(50)..Duration::from_millis(400);

/// Some group is handed to some node, again and again, also before its last new leader serves.
#[derive(Debug, Default)]
pub(super) struct Transfer(Option<Storm>);

#[derive(Debug)]
struct Storm {
    stop: CancellationToken,
    blowing: JoinHandle<Counts>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    done: i64,
    /// No leader, nobody who can take over, a node that does not answer: what other faults bring about.
    refused: i64,
}

impl Fault for Transfer {
    fn name(&self) -> &'static str {
        Kind::Transfer.name()
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
            let stop = CancellationToken::new();
            let cluster = world.cluster.config().clone();
            let blowing = tokio::spawn(blow(cluster, strike.pick, stop.clone()));
            self.0 = Some(Storm { stop, blowing });
            Ok(Some(Edn::Text("all groups".to_owned())))
        })
    }

    fn heal<'a>(&'a mut self, _: &'a mut World) -> BoxFuture<'a, Result<Edn>> {
        Box::pin(async move {
            let Some(storm) = self.0.take() else {
                return Ok(Edn::Nil);
            };
            storm.stop.cancel();
            let counts = storm.blowing.await?;
            Ok(Edn::map([
                ("done", Edn::Int(counts.done)),
                ("refused", Edn::Int(counts.refused)),
            ]))
        })
    }
}

async fn blow(cluster: ClusterConfig, seed: u64, stop: CancellationToken) -> Counts {
    let mut rng = StdRng::seed_from_u64(seed);
    let groups: Vec<GroupId> = cluster.groups.keys().copied().collect();
    let nodes: Vec<NodeId> = cluster.nodes.keys().copied().collect();
    let mut counts = Counts::default();
    while let Some(group) = groups.choose(&mut rng).copied() {
        let to = if rng.random() {
            nodes.choose(&mut rng).copied()
        } else {
            None
        };
        let pause = rng.random_range(BETWEEN);
        tokio::select! {
            handed = hand_over(&cluster, group, to) => match handed {
                Ok(_) => counts.done += 1,
                Err(_) => counts.refused += 1,
            },
            () = stop.cancelled() => break,
        }
        tokio::select! {
            () = sleep(pause) => {}
            () = stop.cancelled() => break,
        }
    }
    counts
}
