//! A connection that knows what of an operation has been sent.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use rand::rngs::StdRng;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Config, Error, NoTls, Row, SimpleQueryMessage};

use super::completion::{Stage, Stop};
use super::disturb::{Disturbance, Mishap};
use crate::Result;

/// A statement that takes longer is given up, its connection with it.
const STATEMENT_PATIENCE: Duration = Duration::from_secs(15);
/// A server that does not take a connection in that time is passed over.
const CONNECT_PATIENCE: Duration = Duration::from_secs(2);

/// Transaction isolation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Isolation {
    /// READ COMMITTED
    ReadCommitted,
    /// REPEATABLE READ
    RepeatableRead,
    /// SERIALIZABLE
    Serializable,
}

impl fmt::Display for Isolation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Isolation::ReadCommitted => "read-committed",
            Isolation::RepeatableRead => "repeatable-read",
            Isolation::Serializable => "serializable",
        })
    }
}

impl Isolation {
    fn sql(self) -> String {
        self.to_string().replace('-', " ")
    }
}

impl FromStr for Isolation {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Isolation, String> {
        let levels = [
            Isolation::ReadCommitted,
            Isolation::RepeatableRead,
            Isolation::Serializable,
        ];
        let found = levels.into_iter().find(|level| level.to_string() == text);
        found.ok_or_else(|| format!("{text} is none of read-committed, repeatable-read, serializable"))
    }
}

/// What a statement answered: its rows as text, and how many rows it touched.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answer {
    /// The rows.
    pub rows: Vec<Vec<Option<String>>>,
    /// Rows returned or changed.
    pub count: u64,
}

/// A client's connection. Dropping it ends the connection at once, whatever is under way.
#[derive(Debug)]
pub struct Session {
    client: Client,
    connection: JoinHandle<()>,
    stage: Stage,
    mishap: Mishap,
}

impl Session {
    /// Connects. `isolation` is that of statements outside a block.
    ///
    /// # Errors
    /// When the server does not take the connection in time.
    pub async fn open(server: &Config, isolation: Isolation) -> Result<Session> {
        let (client, connection) = timeout(CONNECT_PATIENCE, server.connect(NoTls)).await??;
        let connection = tokio::spawn(async move {
            // The requests under way are told of the error, too.
            let _ = connection.await;
        });
        let session = Session {
            client,
            connection,
            stage: Stage::Idle,
            mishap: Mishap::default(),
        };
        let level = isolation.sql();
        let set = format!("SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL {level}");
        timeout(CONNECT_PATIENCE, session.client.batch_execute(&set)).await??;
        Ok(session)
    }

    /// Before each operation: what may happen to it.
    pub fn prepare(&mut self, disturbance: &Disturbance, rng: &mut StdRng) {
        self.mishap = disturbance.mishap(rng);
        if let Some(after) = self.mishap.cancel_after {
            let token = self.client.cancel_token();
            tokio::spawn(async move {
                sleep(after).await;
                // Nobody learns whether a cancel came in time.
                let _ = timeout(CONNECT_PATIENCE, token.cancel_query(NoTls)).await;
            });
        }
    }

    /// BEGIN.
    pub async fn begin(&mut self, isolation: Isolation) -> std::result::Result<(), Stop> {
        let level = isolation.sql();
        self.stage = Stage::Open;
        self.simple(&format!("BEGIN ISOLATION LEVEL {level}"))
            .await
            .map(drop)
    }

    /// BEGIN at that level, READ ONLY.
    pub async fn begin_read_only(&mut self, isolation: Isolation) -> std::result::Result<(), Stop> {
        let level = isolation.sql();
        self.stage = Stage::Open;
        self.simple(&format!("BEGIN ISOLATION LEVEL {level} READ ONLY"))
            .await
            .map(drop)
    }

    /// COMMIT.
    pub async fn commit(&mut self) -> std::result::Result<(), Stop> {
        self.stage = Stage::Committing;
        let ended = match self.mishap.hang_up_after {
            None => self.simple("COMMIT").await.map(drop),
            Some(after) => tokio::select! {
                ended = self.simple("COMMIT") => ended.map(drop),
                () = sleep(after) => {
                    self.connection.abort();
                    Err(Stop::Silent { stage: Stage::Committing, why: "the client hung up".to_owned() })
                }
            },
        };
        ended?;
        self.stage = Stage::Idle;
        Ok(())
    }

    /// ROLLBACK on purpose; the operation ends with what this returns.
    pub async fn decline(&mut self, why: &'static str) -> Stop {
        match self.roll_back().await {
            Ok(()) => Stop::Declined(why),
            Err(stop) => stop,
        }
    }

    /// ROLLBACK where a transaction is open.
    pub async fn roll_back(&mut self) -> std::result::Result<(), Stop> {
        if self.stage == Stage::Open {
            self.simple("ROLLBACK").await?;
            self.stage = Stage::Idle;
        }
        Ok(())
    }

    /// Whether another operation can be sent on it.
    #[must_use]
    pub fn is_usable(&self) -> bool {
        self.stage == Stage::Idle && !self.client.is_closed() && !self.connection.is_finished()
    }

    /// A statement by the simple protocol.
    pub async fn ask(&mut self, sql: &str) -> std::result::Result<Answer, Stop> {
        let stage = self.enter();
        let answer = self.simple(sql).await?;
        self.stage = stage;
        Ok(answer)
    }

    /// A statement with parameters, by the extended protocol: the numbers in its first column.
    pub async fn numbers(
        &mut self,
        sql: &str,
        parameters: &[&(dyn ToSql + Sync)],
    ) -> std::result::Result<Vec<Option<i64>>, Stop> {
        let stage = self.enter();
        let rows = self.within(self.client.query(sql, parameters)).await?;
        self.stage = stage;
        let first = |row: &Row| row.try_get(0);
        let read: std::result::Result<Vec<_>, Error> = rows.iter().map(first).collect();
        read.map_err(|error| Stop::Wrong(format!("{sql}: {error}")))
    }

    /// A statement with parameters, by the extended protocol: how many rows it touched.
    pub async fn change(
        &mut self,
        sql: &str,
        parameters: &[&(dyn ToSql + Sync)],
    ) -> std::result::Result<u64, Stop> {
        let stage = self.enter();
        let count = self.within(self.client.execute(sql, parameters)).await?;
        self.stage = stage;
        Ok(count)
    }

    /// Marks a statement as sent; returns where the session is again once it is answered.
    fn enter(&mut self) -> Stage {
        let before = self.stage;
        if before == Stage::Idle {
            self.stage = Stage::Autocommit;
        }
        before
    }

    async fn simple(&self, sql: &str) -> std::result::Result<Answer, Stop> {
        let messages = self.within(self.client.simple_query(sql)).await?;
        let mut answer = Answer::default();
        for message in messages {
            match message {
                SimpleQueryMessage::Row(row) => {
                    let columns = (0..row.len()).map(|column| row.get(column).map(str::to_owned));
                    answer.rows.push(columns.collect());
                }
                SimpleQueryMessage::CommandComplete(count) => answer.count = count,
                _ => {}
            }
        }
        Ok(answer)
    }

    async fn within<T>(
        &self,
        request: impl Future<Output = std::result::Result<T, Error>>,
    ) -> std::result::Result<T, Stop> {
        let stage = self.stage;
        match timeout(STATEMENT_PATIENCE, request).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => Err(match error.as_db_error() {
                Some(answer) => Stop::Refused {
                    stage,
                    code: answer.code().code().to_owned(),
                    message: answer.message().to_owned(),
                },
                None => Stop::Silent {
                    stage,
                    why: error.to_string(),
                },
            }),
            Err(_) => {
                // What it left under way must not be taken for the answer to something else.
                self.connection.abort();
                Err(Stop::Silent {
                    stage,
                    why: format!("nothing within {STATEMENT_PATIENCE:?}"),
                })
            }
        }
    }

    /// After an operation that did not end well: makes the connection fit for the next one, or says
    /// that it is not.
    pub async fn recover(&mut self) -> bool {
        match self.stage {
            // It was answered, with an error; else the connection is closed or aborted.
            Stage::Idle | Stage::Autocommit => self.stage = Stage::Idle,
            // PostgreSQL has no transaction left after a COMMIT that failed. Whoever else answered may.
            Stage::Open | Stage::Committing => self.stage = Stage::Open,
        }
        self.roll_back().await.is_ok() && self.is_usable()
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.connection.abort();
    }
}
