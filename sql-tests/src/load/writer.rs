//! Clients that write all the time, through any node that answers.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_postgres::error::SqlState;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Statement};
use tokio_util::sync::CancellationToken;

use super::ledger::{Counter, Ledger};
use crate::Result;
use crate::cluster::{Cluster, connect_to};

/// A statement that takes longer is given up, its outcome unknown.
const STATEMENT_PATIENCE: Duration = Duration::from_secs(15);
/// A node that does not take a connection in that time is passed over.
const CONNECT_PATIENCE: Duration = Duration::from_secs(1);
/// The pause after a failure.
const PAUSE: Duration = Duration::from_millis(20);

/// Running writers.
#[derive(Debug)]
pub struct Writers {
    tasks: JoinSet<()>,
    stop: CancellationToken,
}

/// What became of one statement.
enum Outcome {
    Acknowledged,
    /// The server said that it did nothing, or was never asked.
    Refused,
    Unknown,
}

impl Writers {
    /// Starts `entries` writers of new entries, and one writer for each of `counters` counters of
    /// each group. They go on through faults until they are stopped.
    pub fn start(cluster: &Cluster, ledger: &Ledger, entries: u16, counters: usize) -> Result<Writers> {
        let mut nodes = Vec::new();
        for node in cluster.node_ids() {
            nodes.push(cluster.sql_address(node)?);
        }
        let mut writers = Writers {
            tasks: JoinSet::new(),
            stop: CancellationToken::new(),
        };
        for number in 0..entries {
            let door = Door::new(&nodes, number.into());
            let writer = write_entries(door, ledger.clone(), number, writers.stop.clone());
            writers.tasks.spawn(writer);
        }
        for group in cluster.groups() {
            for (number, counter) in ledger.counters_of(group).into_iter().take(counters).enumerate() {
                let door = Door::new(&nodes, number);
                let writer = count_up(door, ledger.clone(), counter, writers.stop.clone());
                writers.tasks.spawn(writer);
            }
        }
        Ok(writers)
    }

    /// Lets each finish its statement; fails where one panicked.
    pub async fn stop(mut self) -> Result<()> {
        self.stop.cancel();
        while let Some(ended) = self.tasks.join_next().await {
            ended?;
        }
        Ok(())
    }
}

async fn write_entries(mut door: Door, ledger: Ledger, number: u16, stop: CancellationToken) {
    let body = "x".repeat(100);
    for step in 0.. {
        if stop.is_cancelled() {
            return;
        }
        let id = (i64::from(number) + 1) * 1_000_000_000 + step;
        match door
            .execute("INSERT INTO entry VALUES ($1, $2)", &[&id, &body])
            .await
        {
            Outcome::Acknowledged => ledger.entry(id, true),
            Outcome::Unknown => ledger.entry(id, false),
            Outcome::Refused => sleep(PAUSE).await,
        }
    }
}

async fn count_up(mut door: Door, ledger: Ledger, counter: Counter, stop: CancellationToken) {
    while !stop.is_cancelled() {
        let began = Instant::now();
        match door
            .execute("UPDATE counter SET n = n + 1 WHERE id = $1", &[&counter.id])
            .await
        {
            Outcome::Acknowledged => ledger.counted(counter, began),
            Outcome::Unknown => ledger.maybe_counted(counter),
            Outcome::Refused => sleep(PAUSE).await,
        }
    }
}

/// A connection to whichever node answers.
struct Door {
    nodes: Vec<SocketAddr>,
    next: usize,
    open: Option<(Client, Statement)>,
}

impl Door {
    fn new(nodes: &[SocketAddr], first: usize) -> Door {
        Door {
            nodes: nodes.to_vec(),
            next: first,
            open: None,
        }
    }

    /// Runs a statement once; never repeats it.
    async fn execute(&mut self, sql: &str, parameters: &[&(dyn ToSql + Sync)]) -> Outcome {
        if self.open.is_none() {
            let node = self.nodes[self.next % self.nodes.len()];
            self.open = timeout(CONNECT_PATIENCE, open(node, sql))
                .await
                .ok()
                .and_then(Result::ok);
        }
        let Some((client, statement)) = &self.open else {
            self.next += 1;
            return Outcome::Refused;
        };
        let done = timeout(STATEMENT_PATIENCE, client.execute(statement, parameters)).await;
        match done {
            Ok(Ok(1)) => Outcome::Acknowledged,
            // Success without the row is a wrong answer, not a fault.
            Ok(Ok(rows)) => panic!("{sql} was acknowledged with {rows} rows instead of 1"),
            Ok(Err(error)) => {
                let refused = error.code().is_some_and(did_nothing);
                if client.is_closed() || !refused {
                    self.leave();
                }
                if refused {
                    Outcome::Refused
                } else {
                    Outcome::Unknown
                }
            }
            Err(_) => {
                self.leave();
                Outcome::Unknown
            }
        }
    }

    fn leave(&mut self) {
        self.open = None;
        self.next += 1;
    }
}

async fn open(node: SocketAddr, sql: &str) -> Result<(Client, Statement)> {
    let client = connect_to(node).await?;
    let statement = client.prepare(sql).await?;
    Ok((client, statement))
}

/// 57P03: there was no leader to send it to, so nothing was sent.
fn did_nothing(code: &SqlState) -> bool {
    *code == SqlState::CANNOT_CONNECT_NOW
}
