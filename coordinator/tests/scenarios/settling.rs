//! What a lost coordinator leaves is settled, by anyone, once and for all.

use std::sync::Arc;
use std::time::Duration;

use coordinator::transaction::{
    Gid, Outcome, Settler, Transactions, Xid, decide_and_commit, in_doubt, prepare, recover,
};
use shard::client::Settle;
use shard::id::NodeId;
use tokio_postgres::{Client, SimpleQueryMessage};

use crate::server::{FIRST, SECOND, TwoGroups};

const SOON: Duration = Duration::from_secs(5);

struct Scene {
    database: &'static str,
    groups: Arc<TwoGroups>,
    transactions: Transactions,
    /// The session's own connection to the anchor.
    anchor: Client,
    look: [Client; 2],
}

async fn scene() -> Scene {
    scene_in(Arc::new(TwoGroups::start().await), "postgres").await
}

/// One table, plain, on both.
async fn scene_in(groups: Arc<TwoGroups>, database: &'static str) -> Scene {
    for group in [FIRST, SECOND] {
        let client = groups.connect_client(group, database).await;
        client
            .batch_execute("CREATE TABLE howdah.seen (v int)")
            .await
            .unwrap();
    }
    Scene {
        database,
        transactions: Transactions::new(NodeId(1), groups.clone()),
        anchor: groups.connect_client(FIRST, database).await,
        look: [
            groups.connect_client(FIRST, database).await,
            groups.connect_client(SECOND, database).await,
        ],
        groups,
    }
}

const WRITE: &str = "BEGIN; INSERT INTO howdah.seen VALUES (1)";

impl Scene {
    /// As a session does: writes on both groups, and prepares on the second.
    async fn prepared(&self) -> (Gid, Xid) {
        let gid = self.transactions.name(FIRST);
        self.anchor.batch_execute(WRITE).await.unwrap();
        let part = self.groups.connect_client(SECOND, self.database).await;
        part.batch_execute(WRITE).await.unwrap();
        let said = part.simple_query(&prepare(gid)).await.unwrap();
        let xid = said.iter().find_map(|message| match message {
            SimpleQueryMessage::Row(row) => row.get(0)?.parse().ok(),
            _ => None,
        });
        (gid, Xid(xid.expect("the part's transaction id")))
    }

    async fn seen(&self) -> [i64; 2] {
        let count = "SELECT count(*) FROM howdah.seen";
        let mut seen = [0; 2];
        for (at, client) in self.look.iter().enumerate() {
            seen[at] = client.query_one(count, &[]).await.unwrap().get(0);
        }
        seen
    }

    async fn in_doubt(&self) -> usize {
        let listed = in_doubt(&*self.groups, SOON).await;
        listed.into_iter().map(|(_, parts)| parts.unwrap().len()).sum()
    }

    /// Until recovery has left nothing.
    async fn recovered(&self) {
        let recovering = tokio::spawn(recover(self.groups.clone()));
        let settled = tokio::time::timeout(Duration::from_secs(20), async {
            while self.in_doubt().await > 0 {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        });
        settled.await.expect("nothing is left in doubt");
        recovering.abort();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_decided_transaction_is_committed_by_whoever_finds_it() {
    let scene = scene().await;
    let (gid, xid) = scene.prepared().await;
    let decide = decide_and_commit(gid, &[(SECOND, xid)]);
    scene.anchor.batch_execute(&decide).await.unwrap();
    assert_eq!(scene.seen().await, [1, 0], "its coordinator dies here");
    assert_eq!(scene.in_doubt().await, 1);
    let outcome = scene.transactions.outcome("postgres", gid, SOON).await.unwrap();
    assert_eq!(outcome, Outcome::Committed);
    scene.recovered().await;
    assert_eq!(scene.seen().await, [1, 1]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_undecided_one_is_rolled_back_and_can_never_be_decided_again() {
    let scene = scene().await;
    let (gid, xid) = scene.prepared().await;
    scene.recovered().await;
    assert_eq!(scene.seen().await, [0, 0]);
    // The coordinator was only slow.
    let decide = decide_and_commit(gid, &[(SECOND, xid)]);
    let error = scene.anchor.batch_execute(&decide).await.unwrap_err();
    assert_eq!(error.code().unwrap().code(), "40001");
    scene.anchor.batch_execute("ROLLBACK").await.unwrap();
    assert_eq!(scene.seen().await, [0, 0]);
    let outcome = scene.transactions.outcome("postgres", gid, SOON).await.unwrap();
    assert_eq!(outcome, Outcome::RolledBack);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_leader_commits_what_is_decided_and_leaves_the_rest() {
    let scene = scene().await;
    let (gid, xid) = scene.prepared().await;
    let decide = decide_and_commit(gid, &[(SECOND, xid)]);
    scene.anchor.batch_execute(&decide).await.unwrap();
    let (open, _) = scene.prepared().await;
    let settler = Settler::default();
    settler.reach(scene.groups.clone());
    settler.settle_decided(SECOND).await;
    assert_eq!(scene.seen().await, [1, 1]);
    let listed = in_doubt(&*scene.groups, SOON).await;
    let left: Vec<Gid> = listed
        .iter()
        .flat_map(|(_, parts)| parts.as_ref().unwrap())
        .map(|part| part.gid)
        .collect();
    assert_eq!(left, [open]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_decision_that_is_being_committed_is_waited_for() {
    let scene = scene().await;
    let (gid, xid) = scene.prepared().await;
    let decide = decide_and_commit(gid, &[(SECOND, xid)]);
    let row = decide.strip_suffix("; COMMIT").unwrap();
    scene.anchor.batch_execute(row).await.unwrap();
    let transactions = scene.transactions.clone();
    let asked = tokio::spawn(async move { transactions.outcome("postgres", gid, SOON).await });
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(!asked.is_finished());
    scene.anchor.batch_execute("COMMIT").await.unwrap();
    assert_eq!(asked.await.unwrap().unwrap(), Outcome::Committed);
}

#[tokio::test(flavor = "multi_thread")]
async fn decisions_are_kept_while_a_part_is_prepared_and_deleted_after() {
    let scene = scene().await;
    let (gid, xid) = scene.prepared().await;
    let decide = decide_and_commit(gid, &[(SECOND, xid)]);
    scene.anchor.batch_execute(&decide).await.unwrap();
    scene.groups.set_away(SECOND);
    let recovering = tokio::spawn(recover(scene.groups.clone()));
    let decisions = "SELECT count(*) FROM howdah.decisions";
    tokio::time::sleep(Duration::from_secs(6)).await;
    assert_eq!(
        scene.look[0]
            .query_one(decisions, &[])
            .await
            .unwrap()
            .get::<_, i64>(0),
        1
    );
    scene.look[1]
        .batch_execute(&format!("COMMIT PREPARED '{gid}'"))
        .await
        .unwrap();
    recovering.abort();
    scene.groups.set_back(SECOND);
    let recovering = tokio::spawn(recover(scene.groups.clone()));
    let deleted = tokio::time::timeout(Duration::from_secs(30), async {
        while scene.look[0]
            .query_one(decisions, &[])
            .await
            .unwrap()
            .get::<_, i64>(0)
            > 0
        {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    });
    deleted.await.expect("the decision is deleted");
    recovering.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn in_another_database_it_is_settled_there_and_when_the_anchor_has_dropped_it() {
    let groups = Arc::new(TwoGroups::start().await);
    for group in [FIRST, SECOND] {
        let client = groups.connect_client(group, "postgres").await;
        client.batch_execute("CREATE DATABASE shop").await.unwrap();
    }
    let scene = scene_in(groups.clone(), "shop").await;
    let (gid, xid) = scene.prepared().await;
    let decide = decide_and_commit(gid, &[(SECOND, xid)]);
    scene.anchor.batch_execute(&decide).await.unwrap();
    scene.recovered().await;
    assert_eq!(scene.seen().await, [1, 1]);
    scene.prepared().await;
    scene.anchor.batch_execute("ROLLBACK").await.unwrap();
    // DROP DATABASE stops here: the part's decision is gone.
    let admin = groups.connect_client(FIRST, "postgres").await;
    admin
        .batch_execute("DROP DATABASE shop WITH (FORCE)")
        .await
        .unwrap();
    scene.recovered().await;
    let left = "SELECT count(*) FROM howdah.seen";
    let left: i64 = scene.look[1].query_one(left, &[]).await.unwrap().get(0);
    assert_eq!(left, 1, "rolled back");
}
