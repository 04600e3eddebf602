//! A control connection to one database of a group.

use std::time::Duration;

use shard::client::{Backend, ConnectError, Groups};
use shard::id::GroupId;
use tokio::task::JoinHandle;
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, NoTls};

/// The superuser of every group. Only nodes reach PostgreSQL's socket.
pub(crate) const SUPERUSER: &str = "postgres";

/// What `pg_stat_activity` calls these connections.
pub(crate) const APPLICATION_NAME: &str = "howdah control";

/// What no user's `ALTER ROLE` or `ALTER DATABASE` may change under us.
const SETTINGS: &str = "-c default_transaction_isolation=read\\ committed -c default_transaction_read_only=off \
                        -c statement_timeout=0 -c lock_timeout=0 \
                        -c idle_in_transaction_session_timeout=0 -c idle_session_timeout=0";

/// A client and the task that drives its connection; ends with it.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) client: Client,
    driver: Driver,
}

impl Connection {
    /// Connects through the group's leader.
    pub(crate) async fn open(
        groups: &dyn Groups,
        group: GroupId,
        database: &str,
        patience: Duration,
    ) -> Result<Connection, OpenError> {
        Connection::start(groups.connect(group, patience).await?, database).await
    }

    /// As [`Connection::open`], also while the leader settles and lets no clients in.
    pub(crate) async fn open_to_settle(
        groups: &dyn Groups,
        group: GroupId,
        database: &str,
        patience: Duration,
    ) -> Result<Connection, OpenError> {
        Connection::start(groups.connect_to_settle(group, patience).await?, database).await
    }

    async fn start(backend: Box<dyn Backend>, database: &str) -> Result<Connection, OpenError> {
        let mut config = tokio_postgres::Config::new();
        config
            .user(SUPERUSER)
            .dbname(database)
            .application_name(APPLICATION_NAME)
            .options(SETTINGS);
        let (client, connection) = config.connect_raw(backend, NoTls).await?;
        // An error of the connection is also the error of what is asked over it, and is told there.
        let driver = tokio::spawn(async move {
            let _ended = connection.await;
        });
        Ok(Connection {
            client,
            driver: Driver(driver),
        })
    }

    /// Ends it, and waits until PostgreSQL has been told.
    pub(crate) async fn close(self) {
        let Connection { client, mut driver } = self;
        drop(client);
        let _ended = (&mut driver.0).await;
    }
}

/// Ends the task when the connection is dropped.
#[derive(Debug)]
struct Driver(JoinHandle<()>);

impl Drop for Driver {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OpenError {
    /// The group's leader cannot be reached.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// PostgreSQL refused.
    #[error(transparent)]
    Postgres(#[from] tokio_postgres::Error),
}

impl OpenError {
    /// Whether the group has no such database.
    pub(crate) fn no_such_database(&self) -> bool {
        matches!(self, OpenError::Postgres(error) if error.code() == Some(&SqlState::INVALID_CATALOG_NAME))
    }
}
