//! Deleting decisions that nobody needs any more.

use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use shard::client::Groups;
use shard::id::GroupId;

use crate::connection::{Connection, OpenError};
use crate::failpoint::{Step, pass};

/// How long one group may take to answer.
const PATIENCE: Duration = Duration::from_secs(2);

/// The most that are deleted at a time.
const AT_ONCE: i64 = 10_000;

/// Old enough that most coordinators have ended their transactions.
const OLD: &str = "2 seconds";

/// "Rolled back" is kept for so long, and longer while a transaction runs that is older: that may be the one whose
/// decision it forbids. Clocks of leaders may differ by less.
const ROLLED_BACK_FOR: &str = "10 minutes";

/// Deletes the decisions of a group, in each of its databases, that no part anywhere can need.
pub(super) async fn clean(groups: &dyn Groups, anchor: GroupId) -> Result<(), OpenError> {
    let connection = Connection::open(groups, anchor, "postgres", PATIENCE).await?;
    let databases = connection
        .client
        .query(
            // Nobody can connect to what an interrupted DROP DATABASE has left: its limit is -2.
            "SELECT datname::text FROM pg_database WHERE datallowconn AND NOT datistemplate AND datconnlimit <> -2",
            &[],
        )
        .await?;
    let mut failed = None;
    for row in databases {
        match clean_database(groups, anchor, row.try_get(0)?).await {
            // Dropped in the meantime.
            Err(error) if error.no_such_database() => {}
            Err(error) => failed = Some(error),
            Ok(()) => {}
        }
    }
    failed.map_or(Ok(()), Err)
}

async fn clean_database(groups: &dyn Groups, anchor: GroupId, database: &str) -> Result<(), OpenError> {
    let connection = Connection::open(groups, anchor, database, PATIENCE).await?;
    let client = &connection.client;
    let there = client
        .query_one("SELECT to_regclass('howdah.decisions') IS NOT NULL", &[])
        .await?;
    if !there.try_get::<_, bool>(0)? {
        return Ok(());
    }
    let old = client
        .query(
            &format!(
                "SELECT gid, group_ids FROM howdah.decisions \
                 WHERE committed AND made < clock_timestamp() - interval '{OLD}' LIMIT {AT_ONCE}"
            ),
            &[],
        )
        .await?;
    // By group: the transactions that have a part there.
    let mut parts: BTreeMap<i32, HashSet<String>> = BTreeMap::new();
    let mut done: HashSet<String> = HashSet::new();
    for row in old {
        let gid: String = row.try_get(0)?;
        for group in row.try_get::<_, Vec<i32>>(1)? {
            parts.entry(group).or_default().insert(gid.clone());
        }
        done.insert(gid);
    }
    for (group, gids) in parts {
        let Ok(group) = u32::try_from(group) else { continue };
        for gid in still_prepared(groups, GroupId(group), &gids).await? {
            done.remove(&gid);
        }
    }
    let done: Vec<String> = done.into_iter().collect();
    if !done.is_empty() {
        pass(Step::BeforeCleaning);
    }
    // A crash before or after: what is left is deleted the next time.
    client
        .execute("DELETE FROM howdah.decisions WHERE gid = ANY ($1)", &[&done])
        .await?;
    if !done.is_empty() {
        pass(Step::Cleaned);
    }
    client
        .execute(
            &format!(
                "DELETE FROM howdah.decisions WHERE NOT committed AND made < clock_timestamp() - interval \
                 '{ROLLED_BACK_FOR}' AND made < (SELECT min(xact_start) FROM pg_stat_activity)"
            ),
            &[],
        )
        .await?;
    Ok(())
}

/// Which of these have a part on the group that is prepared, or could be again after a failover.
async fn still_prepared(
    groups: &dyn Groups,
    group: GroupId,
    gids: &HashSet<String>,
) -> Result<Vec<String>, OpenError> {
    // What is prepared in any database is listed in each. The transactions' own may have been dropped there.
    let connection = Connection::open(groups, group, "postgres", PATIENCE).await?;
    let rows = connection
        .client
        .query("SELECT gid FROM pg_prepared_xacts", &[])
        .await?;
    // The parts that are not listed have ended here, by a COMMIT PREPARED that need not be replicated. This commit comes
    // after it in the WAL and is answered when a majority has both: no later leader has such a part prepared.
    connection
        .client
        .execute(
            "SELECT pg_logical_emit_message(true, 'howdah', 'parts have ended')",
            &[],
        )
        .await?;
    let mut prepared = Vec::new();
    for row in rows {
        let gid: String = row.try_get(0)?;
        if gids.contains(&gid) {
            prepared.push(gid);
        }
    }
    Ok(prepared)
}
