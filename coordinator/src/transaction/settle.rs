//! Ending what is prepared, by the anchor's decision.

use std::time::{Duration, Instant};

use futures::future::BoxFuture;
use shard::causes::with_causes;
use shard::client::Groups;
use shard::id::GroupId;
use tokio_postgres::error::SqlState;

use super::Gid;
use crate::connection::{Connection, OpenError};

/// Between two attempts to end a part that another session is ending at this moment.
const BUSY_PAUSE: Duration = Duration::from_millis(10);

/// Between two attempts to reach a group that changes its leader.
const RETRY_PAUSE: Duration = Duration::from_millis(50);

/// How a transaction across groups ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// On all of its groups.
    Committed,
    /// On all of its groups.
    RolledBack,
}

impl Outcome {
    fn of(committed: bool) -> Outcome {
        if committed {
            Outcome::Committed
        } else {
            Outcome::RolledBack
        }
    }
}

/// Why a transaction could not be settled now. It is tried again by recovery.
#[derive(Debug, thiserror::Error)]
#[error("group {group} could not be asked: {why}")]
pub struct Unsettled {
    /// The group that has the decision, or the part.
    pub group: GroupId,
    /// In words.
    pub why: String,
}

/// The decision on `gid`: the one that is there, or "rolled back" from now on.
pub(super) async fn outcome(
    groups: &dyn Groups,
    database: &str,
    gid: Gid,
    patience: Duration,
) -> Result<Outcome, Unsettled> {
    persist(gid.anchor, patience, |left| {
        Box::pin(async move {
            let opened = Connection::open_to_settle(groups, gid.anchor, database, left).await;
            let Some(connection) = still_there(opened)? else {
                return Ok(Outcome::RolledBack);
            };
            // A crash before this commits leaves the question open, and whoever asks next decides. After it the answer is the
            // same for everyone, for good: the row cannot be inserted a second time.
            let row = connection
                .client
                .query_one("SELECT howdah.settle($1)", &[&gid.to_string()])
                .await?;
            Ok(Outcome::of(row.try_get(0)?))
        })
    })
    .await
}

/// The decision on `gid`, if there is one. A transaction whose decision is still being committed has none: nothing of
/// it was shown to anyone.
pub(super) async fn decided(
    groups: &dyn Groups,
    database: &str,
    gid: Gid,
    patience: Duration,
) -> Result<Option<Outcome>, Unsettled> {
    persist(gid.anchor, patience, |left| {
        Box::pin(async move {
            let opened = Connection::open_to_settle(groups, gid.anchor, database, left).await;
            let Some(connection) = still_there(opened)? else {
                return Ok(Some(Outcome::RolledBack));
            };
            let query = "SELECT committed FROM howdah.decisions WHERE gid = $1";
            let row = connection.client.query_opt(query, &[&gid.to_string()]).await?;
            Ok(row.map(|row| row.try_get(0)).transpose()?.map(Outcome::of))
        })
    })
    .await
}

/// Ends the part of `gid` on `group`; nothing to do where it has ended.
pub(super) async fn finish(
    groups: &dyn Groups,
    database: &str,
    gid: Gid,
    group: GroupId,
    outcome: Outcome,
    patience: Duration,
) -> Result<(), Unsettled> {
    let verb = match outcome {
        Outcome::Committed => "COMMIT",
        Outcome::RolledBack => "ROLLBACK",
    };
    let sql = &format!("{verb} PREPARED '{gid}'");
    persist(group, patience, |left| {
        Box::pin(async move {
            let opened = Connection::open_to_settle(groups, group, database, left).await;
            // PostgreSQL drops no database in which something is prepared.
            let Some(connection) = still_there(opened)? else {
                return Ok(());
            };
            // A part is ended for good without waiting: it is prepared on a majority, and decided. So a group whose
            // commits are held back for a cut can end it too.
            connection
                .client
                .batch_execute("SET synchronous_commit = local")
                .await?;
            loop {
                // A crash before this is replicated leaves the part prepared; the next leader ends it before it lets clients
                // in, or recovery does.
                match connection.client.batch_execute(sql).await {
                    Err(error) if error.code() == Some(&SqlState::UNDEFINED_OBJECT) => return Ok(()),
                    Err(error) if error.code() == Some(&SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE) => {
                        tokio::time::sleep(BUSY_PAUSE).await;
                    }
                    ended => return Ok(ended?),
                }
            }
        })
    })
    .await
}

/// A connection to a database, or none where it was dropped.
///
/// While DROP DATABASE goes from group to group the anchor may have no database any more, and no decision, while a part is
/// prepared on a group whose turn is still to come, and stands in its way. What the part did is dropped with
/// the rest of the database, so it is rolled back. CREATE DATABASE makes no new one before that: see [`crate::databases`].
fn still_there(opened: Result<Connection, OpenError>) -> Result<Option<Connection>, OpenError> {
    match opened {
        Err(error) if error.no_such_database() => Ok(None),
        opened => opened.map(Some),
    }
}

/// Tries something on a group, with the time that is left, until it succeeds or no time is left.
async fn persist<'a, T>(
    group: GroupId,
    patience: Duration,
    attempt: impl Fn(Duration) -> BoxFuture<'a, Result<T, OpenError>>,
) -> Result<T, Unsettled> {
    let deadline = Instant::now() + patience;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let why = match tokio::time::timeout(left, attempt(left)).await {
            Ok(Ok(done)) => return Ok(done),
            Ok(Err(error)) => with_causes(&error),
            Err(_) => "no answer in time".to_owned(),
        };
        if Instant::now() + RETRY_PAUSE >= deadline {
            return Err(Unsettled { group, why });
        }
        tokio::time::sleep(RETRY_PAUSE).await;
    }
}
