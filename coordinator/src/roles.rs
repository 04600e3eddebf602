//! What a role may do, and what databases there are: the same in every group, so whichever answers is asked.

use std::future::Future;
use std::time::Duration;

use shard::causes::with_causes;
use shard::client::Groups;
use shard::id::GroupId;

use crate::connection::{Connection, OpenError};

/// Every group has it, and it cannot be dropped.
const HOME: &str = "postgres";

/// What PostgreSQL has of a role.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    /// `pg_authid.rolsuper`.
    pub superuser: bool,
    /// A member of `pg_monitor`, directly or not; superusers are.
    pub monitor: bool,
    /// The version of the PostgreSQL that was asked, as `server_version` has it.
    pub server_version: String,
}

/// No group answers.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Unanswered(String);

/// The standing of a role; none where there is no such role. Groups that this node leads are asked first, each for at
/// most `patience`.
///
/// # Errors
/// When no group answers.
pub async fn standing(
    groups: &dyn Groups,
    role: &str,
    patience: Duration,
) -> Result<Option<Standing>, Unanswered> {
    first(groups, |group| async move {
        let connection = Connection::open(groups, group, HOME, patience).await?;
        let sql = "SELECT rolsuper, pg_has_role(oid, 'pg_monitor', 'MEMBER'), current_setting('server_version') \
                   FROM pg_authid WHERE rolname = $1";
        let found = connection.client.query_opt(sql, &[&role]).await?;
        let standing = found.map(|row| {
            Ok::<_, OpenError>(Standing {
                superuser: row.try_get(0)?,
                monitor: row.try_get(1)?,
                server_version: row.try_get(2)?,
            })
        });
        standing.transpose()
    }, patience)
    .await
}

/// The names of all databases that one can connect to.
///
/// # Errors
/// When no group answers within `patience`.
pub async fn databases(groups: &dyn Groups, patience: Duration) -> Result<Vec<String>, Unanswered> {
    first(groups, |group| databases_on(groups, group, patience), patience).await
}

async fn databases_on(
    groups: &dyn Groups,
    group: GroupId,
    patience: Duration,
) -> Result<Vec<String>, OpenError> {
    let connection = Connection::open(groups, group, HOME, patience).await?;
    let sql = "SELECT datname::text FROM pg_database WHERE datallowconn ORDER BY 1";
    let rows = connection.client.query(sql, &[]).await?;
    rows.iter().map(|row| Ok(row.try_get(0)?)).collect()
}

/// By group the databases that it has; none for a group that does not answer within `patience`.
pub async fn databases_by_group(
    groups: &dyn Groups,
    patience: Duration,
) -> Vec<(GroupId, Option<Vec<String>>)> {
    let ask = |group: GroupId| async move {
        let asked = tokio::time::timeout(patience, databases_on(groups, group, patience)).await;
        (group, asked.ok().and_then(Result::ok))
    };
    futures::future::join_all(groups.groups().iter().copied().map(ask)).await
}

/// The answer of the first group that gives one.
async fn first<T, F: Future<Output = Result<T, OpenError>>>(
    groups: &dyn Groups,
    ask: impl Fn(GroupId) -> F,
    patience: Duration,
) -> Result<T, Unanswered> {
    let mut order: Vec<GroupId> = groups.groups().to_vec();
    order.sort_by_key(|group| !groups.leads(*group));
    let mut why = "there are no groups".to_owned();
    for group in order {
        why = match tokio::time::timeout(patience, ask(group)).await {
            Ok(Ok(answer)) => return Ok(answer),
            Ok(Err(error)) => with_causes(&error),
            Err(_) => format!("group {group} does not answer in time"),
        };
    }
    Err(Unanswered(why))
}
