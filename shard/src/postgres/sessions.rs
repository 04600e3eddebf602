//! What a leading node asks about its server's backends.

use super::{Control, Error};

impl Control {
    /// The process id of the backend behind this connection.
    pub async fn backend_pid(&self) -> Result<i32, Error> {
        Ok(self
            .client()
            .query_one("SELECT pg_backend_pid()", &[])
            .await?
            .try_get(0)?)
    }

    /// Whether a backend's commit waits for synchronous replication now.
    pub async fn waits_for_replication(&self, process_id: i32) -> Result<bool, Error> {
        let question =
            "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE pid = $1 AND wait_event = 'SyncRep')";
        Ok(self
            .client()
            .query_one(question, &[&process_id])
            .await?
            .try_get(0)?)
    }

    /// The transaction in which a backend is at work, as an opaque mark; none where it is idle, in a
    /// transaction or not (a cancel is then ignored), or gone.
    pub async fn transaction_of(&self, process_id: i32) -> Result<Option<String>, Error> {
        let question = "SELECT xact_start::text FROM pg_stat_activity
            WHERE pid = $1 AND xact_start IS NOT NULL AND state NOT LIKE 'idle%'";
        let row = self.client().query_opt(question, &[&process_id]).await?;
        Ok(row.map(|row| row.try_get(0)).transpose()?)
    }
}
