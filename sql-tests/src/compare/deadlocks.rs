//! Clients that lock the same few rows in every order: on two groups, and on one plain server.

use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng, rng};
use shard::causes::with_causes;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Statement};

use super::accounts::{Accounts, entrance};
use crate::cluster::{Cluster, Guard, PATIENCE, Plain};
use crate::{Failure, Result};

/// Clients that fight.
const FIGHTERS: usize = 8;
/// Rows of each group that they fight over.
const ROWS: usize = 3;
/// The longest that the cluster or the plain server works before it is the other's turn.
const TURN: Duration = Duration::from_secs(30);

/// How much of it.
#[derive(Clone, Copy, Debug)]
pub struct FightPlan {
    /// How long clients work on the cluster, and as long on the plain server.
    pub time: Duration,
}

/// What came of it on one of the two.
#[derive(Clone, Copy, Debug, Default)]
pub struct Fight {
    /// Transactions that were committed.
    pub commits: u64,
    /// Transactions that were broken off with 40P01.
    pub victims: u64,
    /// The longest that a client waited for an answer.
    pub longest: Duration,
    /// How long clients worked.
    pub took: Duration,
}

impl Fight {
    /// Commits a second.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "counts of a test")]
    pub fn per_second(&self) -> f64 {
        self.commits as f64 / self.took.as_secs_f64()
    }
}

/// What came of it.
#[derive(Clone, Copy, Debug)]
pub struct Fights {
    /// On two groups, three rows each.
    pub groups: Fight,
    /// On one plain server, the same six rows.
    pub plain: Fight,
}

/// Each client updates three of the six rows or all of them, in random order, and commits, again and again.
///
/// # Errors
/// When a statement is refused with anything but 40P01; when one is not answered within a minute (a hang); when the rows
/// were not updated exactly as often as was committed.
pub async fn deadlocks(cluster: &Cluster, plan: FightPlan) -> Result<Fights> {
    let accounts = Accounts::make(cluster).await?;
    let by_group = accounts.by_group();
    if by_group.len() != 2 || by_group.iter().any(|ids| ids.len() < ROWS) {
        return Err("this is a fight over rows of two groups".into());
    }
    let rows: Vec<i64> = by_group.iter().flat_map(|ids| &ids[..ROWS]).copied().collect();
    let server = [Plain::start(Guard::Alone).await?];
    accounts.make_beside(&server).await?;
    // The server has one group's accounts so far.
    let rest: Vec<String> = rows[ROWS..].iter().map(|id| format!("({id}, 0)")).collect();
    let rest = format!("INSERT INTO account VALUES {}", rest.join(", "));
    server[0].connect().await?.batch_execute(&rest).await?;

    let mut fights = Fights {
        groups: Fight::default(),
        plain: Fight::default(),
    };
    while fights.groups.took < plan.time {
        let turn = TURN.min(plan.time - fights.groups.took);
        let mut clients = Vec::new();
        for number in 0..FIGHTERS {
            clients.push(entrance(cluster, number).await?);
        }
        fight(
            &entrance(cluster, 0).await?,
            clients,
            &rows,
            turn,
            &mut fights.groups,
        )
        .await
        .map_err(|error| format!("on two groups: {error}"))?;
        let mut clients = Vec::new();
        for _ in 0..FIGHTERS {
            clients.push(server[0].connect().await?);
        }
        fight(
            &server[0].connect().await?,
            clients,
            &rows,
            turn,
            &mut fights.plain,
        )
        .await
        .map_err(|error| format!("on a plain server: {error}"))?;
    }
    Ok(fights)
}

/// One turn; adds to what was before.
async fn fight(
    observer: &Client,
    clients: Vec<Client>,
    rows: &[i64],
    time: Duration,
    fight: &mut Fight,
) -> Result<()> {
    let before = updates(observer, rows).await?;
    let (began, mut tasks, mut updated) = (Instant::now(), JoinSet::new(), 0);
    for client in clients {
        let rows = rows.to_vec();
        tasks.spawn(async move {
            let mut fighter = Fighter::new(client, rows).await?;
            while began.elapsed() < time {
                fighter.fight().await?;
            }
            Ok::<_, Failure>(fighter)
        });
    }
    while let Some(ended) = tasks.join_next().await {
        let fighter = ended??;
        fight.commits += fighter.commits;
        fight.victims += fighter.victims;
        fight.longest = fight.longest.max(fighter.longest);
        updated += fighter.updated;
    }
    fight.took += began.elapsed();
    let found = updates(observer, rows).await? - before;
    if found != updated {
        return Err(format!("rows were updated {found} times, {updated} were committed").into());
    }
    Ok(())
}

/// How often the rows were updated so far.
async fn updates(observer: &Client, rows: &[i64]) -> Result<i64> {
    let mut sum = 0;
    for id in rows {
        let row = observer
            .query_one("SELECT balance FROM account WHERE id = $1", &[id])
            .await?;
        sum += row.get::<_, i64>(0);
    }
    Ok(sum)
}

struct Fighter {
    client: Client,
    update: Statement,
    rows: Vec<i64>,
    rng: StdRng,
    commits: u64,
    victims: u64,
    updated: i64,
    longest: Duration,
}

impl Fighter {
    async fn new(client: Client, rows: Vec<i64>) -> Result<Fighter> {
        Ok(Fighter {
            update: client
                .prepare("UPDATE account SET balance = balance + 1 WHERE id = $1")
                .await?,
            client,
            rows,
            rng: StdRng::from_rng(&mut rng()),
            commits: 0,
            victims: 0,
            updated: 0,
            longest: Duration::ZERO,
        })
    }

    async fn fight(&mut self) -> Result<()> {
        self.rows.shuffle(&mut self.rng);
        let count = if self.rng.random() { self.rows.len() } else { ROWS };
        match self.transaction(count).await {
            Ok(()) => {
                self.commits += 1;
                self.updated += i64::try_from(count)?;
            }
            Err(error) if is_deadlock(&error) => {
                self.victims += 1;
                answered(&mut self.longest, self.client.batch_execute("ROLLBACK")).await?;
            }
            Err(error) => return Err(with_causes(&*error).into()),
        }
        Ok(())
    }

    async fn transaction(&mut self, count: usize) -> Result<()> {
        answered(&mut self.longest, self.client.batch_execute("BEGIN")).await?;
        for id in &self.rows[..count] {
            let params: [&(dyn ToSql + Sync); 1] = [id];
            answered(&mut self.longest, self.client.execute(&self.update, &params)).await?;
        }
        answered(&mut self.longest, self.client.batch_execute("COMMIT")).await
    }
}

async fn answered<T>(
    longest: &mut Duration,
    asked: impl Future<Output = std::result::Result<T, tokio_postgres::Error>>,
) -> Result<T> {
    let began = Instant::now();
    let answer = timeout(PATIENCE, asked).await;
    *longest = began.elapsed().max(*longest);
    match answer {
        Ok(answer) => Ok(answer?),
        Err(_) => Err(format!("a hang: a statement was not answered within {PATIENCE:?}").into()),
    }
}

fn is_deadlock(error: &Failure) -> bool {
    let refused = error.downcast_ref::<tokio_postgres::Error>();
    refused.and_then(tokio_postgres::Error::code) == Some(&SqlState::T_R_DEADLOCK_DETECTED)
}
