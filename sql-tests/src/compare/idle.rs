//! What clients that do nothing cost a node, and those that work beside them.

use std::sync::Arc;
use std::time::Duration;

use futures::stream::{self, StreamExt, TryStreamExt};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng, rng};
use shard::id::NodeId;
use tokio::time::sleep;
use tokio_postgres::{Client, Statement};

use super::accounts::Accounts;
use super::measure::{Figures, Worker, turn};
use crate::Result;
use crate::cluster::Cluster;

/// Idle clients that connect at the same time.
const AT_A_TIME: usize = 32;
/// How long a node is left alone before its memory is looked at.
const CALM: Duration = Duration::from_secs(2);

/// How many clients, and how long.
#[derive(Clone, Copy, Debug)]
pub struct IdlePlan {
    /// Clients that ask once and then stay.
    pub idle: usize,
    /// Clients that ask all the time.
    pub busy: usize,
    /// For how long, once before the idle ones are there and once beside them.
    pub time: Duration,
}

/// What came of it.
#[derive(Clone, Copy, Debug)]
pub struct IdleReport {
    /// Resident bytes of the node before the idle clients came, and with them.
    pub resident: [u64; 2],
    /// Of the busy ones, alone and beside the idle ones.
    pub busy: [Figures; 2],
    plan: IdlePlan,
}

impl IdleReport {
    /// Bytes of the node's memory for each idle client.
    #[must_use]
    pub fn for_each(&self) -> u64 {
        let [before, after] = self.resident;
        after.saturating_sub(before) / u64::try_from(self.plan.idle.max(1)).unwrap_or(u64::MAX)
    }
}

/// Has busy clients ask one node, then idle ones come, then both together. At the end every idle one asks again.
///
/// # Errors
/// Where a client is not let in, or anything is not answered.
pub async fn idle(cluster: &Cluster, node: NodeId, plan: IdlePlan) -> Result<IdleReport> {
    let accounts = Arc::new(Accounts::make(cluster).await?.all());
    let busy = async || -> Result<Figures> {
        let mut workers = Vec::new();
        for _ in 0..plan.busy {
            workers.push(Asker::new(cluster.connect(node).await?, Arc::clone(&accounts)).await?);
        }
        Figures::of(&[turn(workers, plan.time).await?])
    };
    let alone = busy().await?;
    sleep(CALM).await;
    let before = cluster.resident(node)?;
    let askers = stream::iter(0..plan.idle).map(|_| async {
        let mut asker = Asker::new(cluster.connect(node).await?, Arc::clone(&accounts)).await?;
        asker.work().await?;
        Ok::<_, crate::Failure>(asker)
    });
    let mut idle: Vec<Asker> = askers.buffer_unordered(AT_A_TIME).try_collect().await?;
    sleep(CALM).await;
    let after = cluster.resident(node)?;
    let beside = busy().await?;
    for asker in &mut idle {
        asker.work().await?;
    }
    Ok(IdleReport {
        resident: [before, after],
        busy: [alone, beside],
        plan,
    })
}

/// Asks for a row by its key.
struct Asker {
    client: Client,
    select: Statement,
    ids: Arc<Vec<i64>>,
    rng: StdRng,
}

impl Asker {
    async fn new(client: Client, ids: Arc<Vec<i64>>) -> Result<Asker> {
        Ok(Asker {
            select: client
                .prepare("SELECT balance FROM account WHERE id = $1")
                .await?,
            client,
            ids,
            rng: StdRng::from_rng(&mut rng()),
        })
    }
}

impl Worker for Asker {
    async fn work(&mut self) -> Result<()> {
        let id = self.ids[self.rng.random_range(0..self.ids.len())];
        let row = self.client.query_one(&self.select, &[&id]).await?;
        if row.get::<_, i64>(0) == 0 {
            Ok(())
        } else {
            Err("a balance that nobody has changed".into())
        }
    }
}
