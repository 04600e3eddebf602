//! Transfers within a group, between two, and by hand between two plain servers.

use futures::future::try_join;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng, rng};
use tokio_postgres::{Client, Statement};

use super::accounts::{Accounts, entrance, sum};
use super::measure::{Figures, Turn, Worker, turn};
use super::{CLIENTS, Rounds};
use crate::cluster::{Cluster, Guard, Plain};
use crate::{Failure, Result};

/// By which a transfer is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// Both accounts are on one group: BEGIN, two UPDATEs, COMMIT.
    OneGroup,
    /// The accounts are on two groups: the same statements.
    TwoGroups,
    /// By the client, on two plain servers: BEGIN on both, an UPDATE on each, PREPARE TRANSACTION on both at the same time,
    /// COMMIT PREPARED on both at the same time. Nobody finishes what it leaves behind when it dies.
    ByHand(Guard),
}

impl Way {
    /// All, in the order in which they take turns.
    pub const ALL: [Way; 4] = [
        Way::OneGroup,
        Way::ByHand(Guard::Alone),
        Way::TwoGroups,
        Way::ByHand(Guard::Standbys),
    ];
}

/// What came of it.
#[derive(Clone, Debug)]
pub struct TransferReport {
    /// In the order of [`Way::ALL`]: one client, 16 clients.
    pub figures: Vec<(Way, [Figures; 2])>,
}

/// Accounts on a cluster of two groups, and the same on plain servers.
#[derive(Debug)]
pub struct Bank {
    accounts: Accounts,
    alone: [Plain; 2],
    guarded: [Plain; 2],
}

impl Bank {
    /// Starts the plain servers, and fills both.
    ///
    /// # Errors
    /// When the cluster has not two groups, or a server does not start.
    pub async fn open(cluster: &Cluster) -> Result<Bank> {
        let accounts = Accounts::make(cluster).await?;
        if accounts.by_group().len() != 2 {
            return Err("transfers are compared on two groups".into());
        }
        let pair = async |guard| Ok::<_, Failure>([Plain::start(guard).await?, Plain::start(guard).await?]);
        let (alone, guarded) = (pair(Guard::Alone).await?, pair(Guard::Standbys).await?);
        for servers in [&alone, &guarded] {
            accounts.make_beside(servers).await?;
        }
        Ok(Bank {
            accounts,
            alone,
            guarded,
        })
    }

    /// Client number `number`: one after the other they go to each node in turn.
    ///
    /// # Errors
    /// When it cannot connect.
    pub async fn client(&self, cluster: &Cluster, way: Way, number: usize) -> Result<Transfer> {
        let over = match way {
            Way::OneGroup | Way::TwoGroups => Over::cluster(cluster, number).await?,
            Way::ByHand(Guard::Alone) => Over::servers(&self.alone).await?,
            Way::ByHand(Guard::Standbys) => Over::servers(&self.guarded).await?,
        };
        Ok(Transfer::new(way, over, &self.accounts))
    }

    /// The sum of all balances is what it was, and nothing is left prepared.
    ///
    /// # Errors
    /// When that is not so.
    pub async fn check(&self, cluster: &Cluster) -> Result<()> {
        let found = sum(&entrance(cluster, 0).await?).await?;
        if found != 0 {
            return Err(format!("the sum of all balances is {found}, not 0").into());
        }
        for [one, two] in [&self.alone, &self.guarded] {
            let (one, two) = (one.connect().await?, two.connect().await?);
            let found = sum(&one).await? + sum(&two).await?;
            if found != 0 {
                return Err(format!("by hand the sum of all balances is {found}, not 0").into());
            }
        }
        for group in cluster.groups() {
            let server = cluster.inside().leader(group).await?;
            let left: i64 = server
                .query_one("SELECT count(*) FROM pg_prepared_xacts", &[])
                .await?
                .get(0);
            if left != 0 {
                return Err(format!("{left} transactions are still prepared on group {group}").into());
            }
        }
        Ok(())
    }
}

/// Transfers between random accounts by each way in turn, by one client and by 16, which are spread over the nodes.
///
/// # Errors
/// When a transfer fails, or [`Bank::check`] does.
pub async fn transfers(cluster: &Cluster, plan: Rounds) -> Result<TransferReport> {
    let bank = Bank::open(cluster).await?;
    let mut turns: Vec<[Vec<Turn>; 2]> = Way::ALL.iter().map(|_| Default::default()).collect();
    for _ in 0..plan.rounds {
        for (at, clients) in [1, CLIENTS].into_iter().enumerate() {
            for (way, turns) in Way::ALL.iter().zip(&mut turns) {
                let mut workers = Vec::new();
                for number in 0..clients {
                    workers.push(bank.client(cluster, *way, number).await?);
                }
                turns[at].push(turn(workers, plan.time).await?);
            }
        }
    }
    bank.check(cluster).await?;
    let figures = Way::ALL.into_iter().zip(turns);
    let figures = figures.map(|(way, [one, many])| Ok((way, [Figures::of(&one)?, Figures::of(&many)?])));
    Ok(TransferReport {
        figures: figures.collect::<Result<_>>()?,
    })
}

/// A connection with its UPDATE.
#[derive(Debug)]
struct Door(Client, Statement);

impl Door {
    async fn open(client: Client) -> Result<Door> {
        let update = client
            .prepare("UPDATE account SET balance = balance + $2 WHERE id = $1")
            .await?;
        Ok(Door(client, update))
    }

    async fn add(&self, id: i64, amount: i64) -> Result<()> {
        match self.0.execute(&self.1, &[&id, &amount]).await? {
            1 => Ok(()),
            rows => Err(format!("an UPDATE of one account changed {rows}").into()),
        }
    }

    async fn run(&self, sql: &str) -> Result<()> {
        Ok(self.0.batch_execute(sql).await?)
    }
}

#[derive(Debug)]
enum Over {
    Cluster(Door),
    Servers(Door, Door),
}

impl Over {
    async fn cluster(cluster: &Cluster, number: usize) -> Result<Over> {
        Ok(Over::Cluster(Door::open(entrance(cluster, number).await?).await?))
    }

    async fn servers([one, two]: &[Plain; 2]) -> Result<Over> {
        let (one, two) = (one.connect().await?, two.connect().await?);
        Ok(Over::Servers(Door::open(one).await?, Door::open(two).await?))
    }
}

/// A client that makes transfers between random accounts.
#[derive(Debug)]
pub struct Transfer {
    way: Way,
    over: Over,
    /// The accounts of each group.
    accounts: [Vec<i64>; 2],
    rng: StdRng,
}

impl Transfer {
    fn new(way: Way, over: Over, accounts: &Accounts) -> Transfer {
        let by_group = accounts.by_group();
        Transfer {
            way,
            over,
            accounts: [by_group[0].to_vec(), by_group[1].to_vec()],
            rng: StdRng::from_rng(&mut rng()),
        }
    }

    /// Two accounts, in the order in which everybody locks them: nobody waits in a circle.
    fn pick(&mut self) -> [i64; 2] {
        if self.way == Way::OneGroup {
            let accounts = &self.accounts[self.rng.random_range(0..2)];
            let first = self.rng.random_range(0..accounts.len() - 1);
            let second = self.rng.random_range(first + 1..accounts.len());
            return [accounts[first], accounts[second]];
        }
        [0, 1].map(|group: usize| {
            let accounts = &self.accounts[group];
            accounts[self.rng.random_range(0..accounts.len())]
        })
    }
}

impl Worker for Transfer {
    async fn work(&mut self) -> Result<()> {
        let [from, to] = self.pick();
        let amount = self.rng.random_range(1..=5);
        match &self.over {
            Over::Cluster(door) => {
                door.run("BEGIN").await?;
                door.add(from, -amount).await?;
                door.add(to, amount).await?;
                door.run("COMMIT").await
            }
            Over::Servers(one, two) => {
                let name: u64 = self.rng.random();
                let both = async |sql: &str| try_join(one.run(sql), two.run(sql)).await;
                both("BEGIN").await?;
                one.add(from, -amount).await?;
                two.add(to, amount).await?;
                both(&format!("PREPARE TRANSACTION 'transfer {name}'")).await?;
                both(&format!("COMMIT PREPARED 'transfer {name}'")).await?;
                Ok(())
            }
        }
    }
}
