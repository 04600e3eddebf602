//! The node's own connection to its PostgreSQL, and the questions that it asks.

use std::str::FromStr;
use std::time::Duration;

use tokio_postgres::{Client, NoTls};

use super::settings::RECEIVER_NAME;
use super::{Endpoint, Error, SUPERUSER};
use crate::wal::{Lsn, TimelineId};

/// How long the server may take to greet.
const CONNECT_PATIENCE: Duration = Duration::from_secs(10);

/// A superuser's connection, named `howdah control`, to database `postgres`. Closed on drop.
///
/// It must not write: a commit would wait for Raft like any other.
#[derive(Debug)]
pub struct Control {
    client: Client,
}

impl Control {
    /// Connects to a server that accepts connections.
    pub async fn connect(endpoint: &Endpoint) -> Result<Control, Error> {
        let connecting = async {
            let (client, connection) = tokio_postgres::Config::new()
                .host_path(&endpoint.dir)
                .port(endpoint.port)
                .user(SUPERUSER)
                .dbname("postgres")
                .application_name("howdah control")
                .options("-c statement_timeout=0 -c lock_timeout=0 -c idle_session_timeout=0")
                .connect(NoTls)
                .await?;
            // Ends when the client is dropped, or with the server; the client reports that.
            tokio::spawn(connection);
            Ok(Control { client })
        };
        match tokio::time::timeout(CONNECT_PATIENCE, connecting).await {
            Ok(connected) => connected,
            Err(_) => Err(Error::TimedOut {
                what: "connecting to PostgreSQL",
                patience: CONNECT_PATIENCE,
            }),
        }
    }

    /// For questions that are not here.
    #[must_use]
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// Returns when the server has answered a statement that asks for nothing.
    pub async fn answers(&self) -> Result<(), Error> {
        Ok(self.client.batch_execute("SELECT 1").await?)
    }

    /// Whether this server is a standby still.
    pub async fn in_recovery(&self) -> Result<bool, Error> {
        let row = self.client.query_one("SELECT pg_is_in_recovery()", &[]).await?;
        Ok(row.try_get(0)?)
    }

    /// Whether every commit from now on waits for the node's WAL receiver.
    ///
    /// Three things must hold: the receiver streams and this server counts it as synchronous; the
    /// setting is ours; and the checkpointer, which switches the waiting on for all backends
    /// (`SyncRepUpdateSyncStandbysDefined`), has reached its main loop, where alone it has wait events.
    pub async fn receiver_is_synchronous(&self) -> Result<bool, Error> {
        let question = "SELECT current_setting('synchronous_standby_names') = $1
            AND EXISTS (SELECT FROM pg_stat_replication WHERE application_name = $1
                        AND state = 'streaming' AND sync_state IN ('sync', 'quorum'))
            AND EXISTS (SELECT FROM pg_stat_activity WHERE backend_type = 'checkpointer'
                        AND wait_event IS NOT NULL)";
        let row = self.client.query_one(question, &[&RECEIVER_NAME]).await?;
        Ok(row.try_get(0)?)
    }

    /// The end of the WAL that a primary has on its disk.
    pub async fn flushed_lsn(&self) -> Result<Lsn, Error> {
        self.lsn("SELECT pg_current_wal_flush_lsn()::text")
            .await?
            .ok_or_else(no_position)
    }

    /// The end of the WAL that a primary has written to its files, flushed or not.
    pub async fn written_lsn(&self) -> Result<Lsn, Error> {
        self.lsn("SELECT pg_current_wal_lsn()::text")
            .await?
            .ok_or_else(no_position)
    }

    /// Commits a transaction that changes nothing: its record comes after all that was inserted before, and is written.
    /// It does not wait for the group.
    pub async fn commit_something(&self) -> Result<(), Error> {
        let sql = "SET synchronous_commit = local; SELECT pg_logical_emit_message(true, 'howdah', '')";
        Ok(self.client().batch_execute(sql).await?)
    }

    /// The end of the WAL that a primary has generated. At the end of a page this is after the
    /// next page's header, which an idle server does not write: not a position to wait for.
    pub async fn insert_lsn(&self) -> Result<Lsn, Error> {
        self.lsn("SELECT pg_current_wal_insert_lsn()::text")
            .await?
            .ok_or_else(no_position)
    }

    /// The end of the WAL that a standby has replayed; none on a server that never was one.
    pub async fn replayed_lsn(&self) -> Result<Option<Lsn>, Error> {
        self.lsn("SELECT pg_last_wal_replay_lsn()::text").await
    }

    /// The timeline that a primary writes. (`pg_control` may lag behind a promotion; this does not.)
    pub async fn timeline(&self) -> Result<TimelineId, Error> {
        let question = "SELECT pg_walfile_name(pg_current_wal_insert_lsn())";
        let name: String = self.client.query_one(question, &[]).await?.try_get(0)?;
        let id = name.get(..8).and_then(|hex| u32::from_str_radix(hex, 16).ok());
        id.map(TimelineId).ok_or_else(no_position)
    }

    /// The system identifier that `initdb` gave, in decimal.
    pub async fn system_id(&self) -> Result<String, Error> {
        let question = "SELECT system_identifier::text FROM pg_control_system()";
        Ok(self.client.query_one(question, &[]).await?.try_get(0)?)
    }

    /// Makes a checkpoint (on a standby a restartpoint) and waits for it.
    pub async fn checkpoint(&self) -> Result<(), Error> {
        Ok(self.client.batch_execute("CHECKPOINT").await?)
    }

    async fn lsn(&self, question: &str) -> Result<Option<Lsn>, Error> {
        let text: Option<String> = self.client.query_one(question, &[]).await?.try_get(0)?;
        text.map(|text| Lsn::from_str(&text).map_err(|_| no_position()))
            .transpose()
    }
}

fn no_position() -> Error {
    Error::Damaged {
        path: "pg_wal".into(),
        reason: "PostgreSQL told no WAL position".to_owned(),
    }
}
