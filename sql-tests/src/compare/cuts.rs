//! What a snapshot of all groups costs those who read it, and those who write meanwhile.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng, rng};
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval};
use tokio_postgres::{Client, Statement};
use tokio_util::sync::CancellationToken;

use super::accounts::{Accounts, entrance};
use super::measure::{Figures, Turn, Worker, turn};
use super::{CLIENTS, Rounds};
use crate::Result;
use crate::cluster::Cluster;

/// Cuts a second while writers are measured: one for each reading transaction.
const CUTS_PER_SECOND: u32 = 200;

/// A READ ONLY transaction of two SELECTs by key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadKind {
    /// REPEATABLE READ, both rows of one group. It takes a cut, too: nobody knows yet that it stays there.
    OneGroup,
    /// REPEATABLE READ, a row of each of two groups.
    TwoGroups,
    /// READ COMMITTED, a row of each of two groups: the same work without a cut.
    WithoutCut,
}

impl ReadKind {
    /// All, in the order in which they take turns.
    pub const ALL: [ReadKind; 3] = [ReadKind::OneGroup, ReadKind::TwoGroups, ReadKind::WithoutCut];
}

/// Who reads while the writers write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Readers {
    /// Nobody.
    None,
    /// 200 transactions a second that need no cut.
    WithoutCuts,
    /// 200 transactions a second, and for each a cut of its own.
    Cuts,
}

impl Readers {
    /// All, in the order in which they take turns.
    pub const ALL: [Readers; 3] = [Readers::None, Readers::WithoutCuts, Readers::Cuts];
}

/// What came of it.
#[derive(Clone, Debug)]
pub struct CutsReport {
    /// One client that reads, in the order of [`ReadKind::ALL`].
    pub reads: Vec<(ReadKind, Figures)>,
    /// 16 clients, each UPDATE a transaction, in the order of [`Readers::ALL`]; and how many reading transactions a second there
    /// were meanwhile, over all rounds.
    pub writes: Vec<(Readers, Figures, f64)>,
}

/// Reads and writes, each kind in turn.
///
/// # Errors
/// When a statement fails.
pub async fn cuts(cluster: &Cluster, plan: Rounds) -> Result<CutsReport> {
    let accounts = Accounts::make(cluster).await?;
    if accounts.by_group().len() < 2 {
        return Err("a cut is of several groups".into());
    }
    let mut reads: Vec<Vec<Turn>> = ReadKind::ALL.iter().map(|_| Vec::new()).collect();
    let mut writes: Vec<(Vec<Turn>, f64)> = Readers::ALL.iter().map(|_| Default::default()).collect();
    for _ in 0..plan.rounds {
        for (kind, turns) in ReadKind::ALL.iter().zip(&mut reads) {
            let reader = Reader::open(cluster, 0, *kind, &accounts).await?;
            turns.push(turn(vec![reader], plan.time).await?);
        }
        for (readers, (turns, read)) in Readers::ALL.iter().zip(&mut writes) {
            let paced = Paced::start(cluster, *readers, &accounts).await?;
            let mut writers = Vec::new();
            for number in 0..CLIENTS {
                writers.push(Writer::open(cluster, number, &accounts).await?);
            }
            turns.push(turn(writers, plan.time).await?);
            *read += paced.stop().await?;
        }
    }
    let reads = ReadKind::ALL.into_iter().zip(reads);
    let writes = Readers::ALL.into_iter().zip(writes);
    #[expect(clippy::cast_precision_loss, reason = "counts of a test")]
    let rounds = plan.rounds as f64;
    Ok(CutsReport {
        reads: reads
            .map(|(kind, turns)| Ok((kind, Figures::of(&turns)?)))
            .collect::<Result<_>>()?,
        writes: writes
            .map(|(readers, (turns, read))| Ok((readers, Figures::of(&turns)?, read / rounds)))
            .collect::<Result<_>>()?,
    })
}

struct Reader {
    client: Client,
    select: Statement,
    kind: ReadKind,
    accounts: Accounts,
    rng: StdRng,
}

impl Reader {
    async fn open(cluster: &Cluster, number: usize, kind: ReadKind, accounts: &Accounts) -> Result<Reader> {
        let client = entrance(cluster, number).await?;
        Ok(Reader {
            select: client
                .prepare("SELECT balance FROM account WHERE id = $1")
                .await?,
            client,
            kind,
            accounts: accounts.clone(),
            rng: StdRng::from_rng(&mut rng()),
        })
    }
}

impl Worker for Reader {
    async fn work(&mut self) -> Result<()> {
        let level = match self.kind {
            ReadKind::WithoutCut => "READ COMMITTED",
            ReadKind::OneGroup | ReadKind::TwoGroups => "REPEATABLE READ",
        };
        let by_group = self.accounts.by_group();
        let groups = match self.kind {
            ReadKind::OneGroup => [0, 0],
            ReadKind::TwoGroups | ReadKind::WithoutCut => [0, 1],
        };
        self.client
            .batch_execute(&format!("BEGIN ISOLATION LEVEL {level} READ ONLY"))
            .await?;
        for group in groups {
            let ids = by_group[group];
            let id = ids[self.rng.random_range(0..ids.len())];
            self.client.query_one(&self.select, &[&id]).await?;
        }
        self.client.batch_execute("COMMIT").await?;
        Ok(())
    }
}

struct Writer {
    client: Client,
    update: Statement,
    ids: Vec<i64>,
    rng: StdRng,
}

impl Writer {
    async fn open(cluster: &Cluster, number: usize, accounts: &Accounts) -> Result<Writer> {
        let client = entrance(cluster, number).await?;
        Ok(Writer {
            update: client
                .prepare("UPDATE account SET balance = balance + 1 WHERE id = $1")
                .await?,
            client,
            ids: accounts.all(),
            rng: StdRng::from_rng(&mut rng()),
        })
    }
}

impl Worker for Writer {
    async fn work(&mut self) -> Result<()> {
        let id = self.ids[self.rng.random_range(0..self.ids.len())];
        match self.client.execute(&self.update, &[&id]).await? {
            1 => Ok(()),
            rows => Err(format!("an UPDATE of one account changed {rows}").into()),
        }
    }
}

/// Readers that keep a pace: one on each node, so that no two transactions share a cut.
struct Paced {
    tasks: JoinSet<Result<()>>,
    stop: CancellationToken,
    done: Arc<AtomicUsize>,
    began: Instant,
}

impl Paced {
    async fn start(cluster: &Cluster, readers: Readers, accounts: &Accounts) -> Result<Paced> {
        let mut paced = Paced {
            tasks: JoinSet::new(),
            stop: CancellationToken::new(),
            done: Arc::default(),
            began: Instant::now(),
        };
        let kind = match readers {
            Readers::None => return Ok(paced),
            Readers::WithoutCuts => ReadKind::WithoutCut,
            Readers::Cuts => ReadKind::TwoGroups,
        };
        let nodes = cluster.node_ids().len();
        for number in 0..nodes {
            let mut reader = Reader::open(cluster, number, kind, accounts).await?;
            let (stop, done) = (paced.stop.clone(), Arc::clone(&paced.done));
            paced.tasks.spawn(async move {
                let mut ticks = interval(Duration::from_secs(1) * u32::try_from(nodes)? / CUTS_PER_SECOND);
                // What came too late is made up for.
                ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
                while stop.run_until_cancelled(ticks.tick()).await.is_some() {
                    reader.work().await?;
                    done.fetch_add(1, Ordering::Relaxed);
                }
                Ok(())
            });
        }
        Ok(paced)
    }

    /// Transactions a second.
    async fn stop(mut self) -> Result<f64> {
        self.stop.cancel();
        let took = self.began.elapsed();
        let done = self.done.load(Ordering::Relaxed);
        while let Some(ended) = self.tasks.join_next().await {
            ended??;
        }
        #[expect(clippy::cast_precision_loss, reason = "counts of a test")]
        let rate = done as f64 / took.as_secs_f64();
        Ok(rate)
    }
}
