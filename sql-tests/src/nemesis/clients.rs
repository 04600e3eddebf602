//! Clients that misbehave, and sessions that are ended under them.

use futures::future::BoxFuture;
use tokio::time::timeout;

use super::fault::{Fault, World, node_value};
use super::kinds::Kind;
use super::schedule::Strike;
use crate::Result;
use crate::history::Edn;

/// Clients cancel statements at random, and hang up in mid-commit.
#[derive(Debug)]
pub(super) struct Cancel;

/// An operator ends all sessions of one PostgreSQL, past Howdah.
#[derive(Debug)]
pub(super) struct Terminate;

impl Fault for Cancel {
    fn name(&self) -> &'static str {
        Kind::Cancel.name()
    }

    fn lasts(&self) -> bool {
        true
    }

    fn start<'a>(&'a mut self, world: &'a mut World, _: &'a Strike) -> BoxFuture<'a, Result<Option<Edn>>> {
        world.disturbance.begin();
        Box::pin(async { Ok(Some(Edn::Text("clients".to_owned()))) })
    }

    fn heal<'a>(&'a mut self, world: &'a mut World) -> BoxFuture<'a, Result<Edn>> {
        world.disturbance.end();
        Box::pin(async { Ok(Edn::Nil) })
    }
}

/// A paused server does not answer at all.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(3);

const TERMINATE: &str = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
     WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()";

impl Fault for Terminate {
    fn name(&self) -> &'static str {
        Kind::Terminate.name()
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
            let groups = world.cluster.groups();
            let count = u64::try_from(groups.len())?;
            let group = groups[usize::try_from(strike.pick % count)?];
            let status = world.cluster.status().await;
            let leader = crate::cluster::group_of(&status, group).and_then(|found| found.leader);
            let Some(leader) = leader else { return Ok(None) };
            let ended = timeout(PATIENCE, async {
                let server = world.cluster.replica(leader, group).await?;
                Ok::<_, crate::Failure>(server.query(TERMINATE, &[]).await?.len())
            });
            let ended = i64::try_from(ended.await??)?;
            Ok(Some(Edn::map([
                ("node", node_value(leader)),
                ("sessions", Edn::Int(ended)),
            ])))
        })
    }

    fn heal<'a>(&'a mut self, _: &'a mut World) -> BoxFuture<'a, Result<Edn>> {
        Box::pin(async { Ok(Edn::Nil) })
    }
}
