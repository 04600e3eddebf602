//! Finding what a lost coordinator has left, on the groups that this node leads.

use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use futures::future::{BoxFuture, join_all};
use serde::{Deserialize, Serialize};
use shard::causes::with_causes;
use shard::client::{Groups, Settle};
use shard::id::GroupId;
use tokio::sync::SetOnce;
use tokio::time::Instant;
use tokio_postgres::Client;

use super::settle;
use super::{Gid, clean};
use crate::connection::{Connection, OpenError};
use crate::failpoint::{Step, pass};

/// How often a leader's node looks for parts whose coordinator is lost.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// A part that has been prepared for so long has lost its coordinator: between its PREPARE and its end there are three
/// round trips. Where the coordinator is only slow its transaction is rolled back, and its client told so.
const LOST_AFTER: Duration = Duration::from_secs(2);

/// How long one attempt may take.
const PATIENCE: Duration = Duration::from_secs(2);

/// How often decisions that nobody needs any more are looked for.
const CLEAN_EVERY: u32 = 8;

/// For how long nothing may be settled before an operator is told, and told again. A failover takes a second or two.
const TOLD_EVERY: Duration = Duration::from_secs(10);

/// What is prepared and not settled.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InDoubt {
    /// The transaction.
    pub gid: Gid,
    /// The database that it is in.
    pub database: String,
    /// How long its part has been prepared.
    pub age: Duration,
}

/// The parts that are prepared on a group.
async fn prepared(client: &Client) -> Result<Vec<InDoubt>, tokio_postgres::Error> {
    let rows = client
        .query(
            "SELECT gid, database::text, extract(epoch FROM clock_timestamp() - prepared)::float8 \
             FROM pg_prepared_xacts WHERE gid LIKE 'howdah:%' ORDER BY prepared",
            &[],
        )
        .await?;
    let mut found = Vec::with_capacity(rows.len());
    for row in rows {
        // What another program prepared past us is not ours to end.
        if let Ok(gid) = Gid::from_str(row.try_get(0)?) {
            found.push(InDoubt {
                gid,
                database: row.try_get(1)?,
                age: Duration::try_from_secs_f64(row.try_get(2)?).unwrap_or_default(),
            });
        }
    }
    Ok(found)
}

/// All that is in doubt, by group; an error, in words, for a group that does not answer.
pub async fn in_doubt(
    groups: &dyn Groups,
    patience: Duration,
) -> Vec<(GroupId, Result<Vec<InDoubt>, String>)> {
    let of_group = |group| async move {
        let asked = async {
            let connection = Connection::open_to_settle(groups, group, "postgres", patience).await?;
            Ok::<_, OpenError>(prepared(&connection.client).await?)
        };
        let answer = match tokio::time::timeout(patience, asked).await {
            Ok(answer) => answer.map_err(|error| with_causes(&error)),
            Err(_) => Err("no answer in time".to_owned()),
        };
        (group, answer)
    };
    join_all(groups.groups().iter().copied().map(of_group)).await
}

/// What a new leader does before it lets clients in; see [`Settle`].
#[derive(Debug, Default)]
pub struct Settler {
    groups: SetOnce<Arc<dyn Groups>>,
}

impl Settler {
    /// The way to the groups. Leaders wait for it; the first call counts.
    pub fn reach(&self, groups: Arc<dyn Groups>) {
        let _already_set = self.groups.set(groups);
    }
}

impl Settle for Settler {
    fn settle_decided(&self, group: GroupId) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            let groups = &**self.groups.wait().await;
            let mut failing = Failing::default();
            // Not given up: a part whose decision cannot be learned may have been shown to someone.
            while let Err(why) = settle_on(groups, group, Which::Decided).await {
                failing.tell(group, &why);
                tokio::time::sleep(LOOK_EVERY).await;
            }
        })
    }
}

/// How long a group's parts could not be settled.
#[derive(Default)]
struct Failing {
    since: Option<Instant>,
}

impl Failing {
    /// A warning only for what lasts: while nodes are killed, paused or cut off, one attempt or another fails.
    fn tell(&mut self, group: GroupId, why: &str) {
        if self.since.get_or_insert_with(Instant::now).elapsed() < TOLD_EVERY {
            tracing::info!(%group, why, "what is in doubt cannot be settled yet");
        } else {
            tracing::warn!(%group, why, "what is in doubt cannot be settled for long");
            self.since = None;
        }
    }
}

/// Which parts are ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Which {
    /// Those that have a decision.
    Decided,
    /// Those that have lost their coordinator; where there is no decision, one is made.
    Lost,
}

async fn settle_on(groups: &dyn Groups, group: GroupId, which: Which) -> Result<(), String> {
    let listed = async {
        let connection = Connection::open_to_settle(groups, group, "postgres", PATIENCE).await?;
        Ok::<_, OpenError>(prepared(&connection.client).await?)
    };
    let listed = tokio::time::timeout(PATIENCE, listed).await;
    let parts = listed
        .map_err(|_| "no answer in time".to_owned())?
        .map_err(|error| with_causes(&error))?;
    let mut failed = None;
    for part in parts {
        let InDoubt { gid, database, age } = &part;
        let outcome = match which {
            Which::Decided => settle::decided(groups, database, *gid, PATIENCE).await,
            Which::Lost if *age < LOST_AFTER => continue,
            Which::Lost => settle::outcome(groups, database, *gid, PATIENCE).await.map(Some),
        };
        let ended = match outcome {
            Ok(None) => continue,
            Ok(Some(outcome)) => {
                pass(Step::OutcomeLearned);
                settle::finish(groups, database, *gid, group, outcome, PATIENCE)
                    .await
                    .map(|()| outcome)
            }
            Err(error) => Err(error),
        };
        match ended {
            Ok(outcome) => {
                pass(Step::PartEnded);
                tracing::info!(%group, %gid, ?outcome, ?age, "settled a part");
            }
            // The others do not wait for its anchor.
            Err(error) => failed = Some(error.to_string()),
        }
    }
    failed.map_or(Ok(()), Err)
}

/// Settles what lost coordinators leave on the groups that this node leads, and cleans up, for as long as it is polled.
pub async fn recover(groups: Arc<dyn Groups>) {
    let each = groups.groups().iter().map(|group| {
        let groups = Arc::clone(&groups);
        async move {
            let mut failing = Failing::default();
            for round in 0_u32.. {
                tokio::time::sleep(LOOK_EVERY).await;
                if !groups.leads(*group) {
                    failing = Failing::default();
                    continue;
                }
                match settle_on(&*groups, *group, Which::Lost).await {
                    Ok(()) => failing = Failing::default(),
                    Err(why) => failing.tell(*group, &why),
                }
                if round.is_multiple_of(CLEAN_EVERY)
                    && let Err(error) = clean::clean(&*groups, *group).await
                {
                    tracing::info!(%group, error = with_causes(&error), "old decisions are kept for now");
                }
            }
        }
    });
    join_all(each).await;
}
