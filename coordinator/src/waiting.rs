//! What a backend waits for: asked before a timeout cancels what it does.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use shard::client::Groups;
use shard::id::GroupId;
use tokio::sync::Mutex;

use crate::connection::{Connection, OpenError};

/// What a backend waits for now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Waiting {
    /// Nothing that matters here: it works, is idle, or is gone.
    Nothing,
    /// A lock, for this long.
    Lock(Duration),
    /// A majority of the group, with a commit or a prepared part that is on its own disk: no cancel may end that wait.
    Replication,
}

/// Asks the groups, over one connection to each that is kept; one question at a time.
#[derive(Debug)]
pub struct Waits {
    groups: Arc<dyn Groups>,
    connections: HashMap<GroupId, Mutex<Option<Connection>>>,
}

impl Waits {
    /// Connects to nobody yet.
    #[must_use]
    pub fn new(groups: Arc<dyn Groups>) -> Waits {
        let connections = groups.groups().iter().map(|group| (*group, Mutex::default()));
        Waits {
            connections: connections.collect(),
            groups,
        }
    }

    /// What this backend waits for; `None` where the group does not say within `patience`.
    pub async fn of(&self, group: GroupId, process_id: i32, patience: Duration) -> Option<Waiting> {
        let asked = async {
            let mut kept = self.connections.get(&group)?.lock().await;
            // Put back only when it has answered: what is broken off half way is of no use.
            let connection = match kept.take() {
                Some(connection) => connection,
                None => {
                    let opened = Connection::open(&*self.groups, group, "postgres", patience).await;
                    opened.inspect_err(not_told).ok()?
                }
            };
            let waiting = waiting_of(&connection, process_id).await;
            let waiting = waiting.map_err(OpenError::from).inspect_err(not_told).ok()?;
            *kept = Some(connection);
            Some(waiting)
        };
        tokio::time::timeout(patience, asked).await.ok().flatten()
    }
}

fn not_told(error: &OpenError) {
    tracing::debug!(%error, "a group does not say what a backend waits for");
}

async fn waiting_of(connection: &Connection, process_id: i32) -> Result<Waiting, tokio_postgres::Error> {
    let row = connection
        .client
        .query_opt(
            "SELECT a.wait_event IS NOT DISTINCT FROM 'SyncRep', \
                    (SELECT (extract(epoch FROM clock_timestamp() - min(l.waitstart)) * 1000000)::int8 \
                     FROM pg_locks l WHERE l.pid = a.pid AND NOT l.granted) \
             FROM pg_stat_activity a WHERE a.pid = $1",
            &[&process_id],
        )
        .await?;
    let Some(row) = row else {
        return Ok(Waiting::Nothing);
    };
    let since: Option<i64> = row.try_get(1)?;
    Ok(match since.and_then(|since| u64::try_from(since).ok()) {
        _ if row.try_get(0)? => Waiting::Replication,
        Some(since) => Waiting::Lock(Duration::from_micros(since)),
        None => Waiting::Nothing,
    })
}
