//! Commits that wait for Raft, and what may let them out too early.

use std::time::Duration;

use shard::config::Timing;
use shard::id::NodeId;
use tokio_postgres::Client;

use crate::cluster::{Background, Cluster, Setup};
use crate::sql::{GROUP, PATIENCE, Session, number, within};

/// Time enough to look at a commit that waits, before anyone asks for votes.
fn patient() -> Setup {
    let timing = Timing {
        heartbeat: Duration::from_millis(100),
        election: Duration::from_secs(12),
    };
    Setup {
        timing,
        ..Setup::default()
    }
}

async fn waiting_commits(past_the_gate: &Client) -> i64 {
    let sql = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'";
    number(past_the_gate, sql).await.unwrap()
}

/// Inserts `id` at `node`, which is cut off; returns when the commit waits.
async fn insert_in_vain(
    cluster: &Cluster,
    node: NodeId,
    session: Session,
    id: i32,
) -> Background<(Session, Result<(), tokio_postgres::Error>)> {
    let insert = Background::spawn(async move {
        let done = session
            .client
            .batch_execute(&format!("INSERT INTO t VALUES ({id})"))
            .await;
        (session, done)
    });
    let past_the_gate = cluster.direct(node).await;
    let waits = async {
        while waiting_commits(&past_the_gate).await == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    within(waits).await;
    insert
}

async fn kill(pid: i64) {
    let status = tokio::process::Command::new("kill")
        .args(["-9", &pid.to_string()])
        .status()
        .await;
    assert!(status.unwrap().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn neither_a_cancel_nor_a_crash_of_postgresql_nor_alter_system_shows_a_commit_before_raft_has_it() {
    let cluster = Cluster::start_with(3, patient()).await;
    let leader = cluster.leader().await;
    let term = cluster.term(leader);
    let session = cluster.session_at(leader).await;
    session
        .run("CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (0)")
        .await;
    cluster.settled().await;

    a_cancelled_wait_shows_nothing(&cluster, leader).await;
    a_killed_backend_ends_in_recovery_behind_a_closed_gate(&cluster, leader).await;
    a_killed_postmaster_shows_nothing_and_alter_system_changes_nothing(&cluster, leader).await;

    assert_eq!(cluster.agree_on("SELECT count(*) FROM t").await, 5);
    assert_eq!(cluster.term(leader), term, "the leader has stayed");
    cluster
        .stop(&[
            "PostgreSQL ended by itself",
            "the WAL stream from PostgreSQL failed",
        ])
        .await;
}

async fn a_cancelled_wait_shows_nothing(cluster: &Cluster, leader: NodeId) {
    let reader = cluster.session_at(leader).await;
    let session = cluster.session_at(leader).await;
    let notices = session.notices.clone();
    let (process_id, secret_key) = session.cancel_key().await;
    cluster.net.isolate(leader);
    let insert = insert_in_vain(cluster, leader, session, 1).await;

    let groups = cluster.groups(leader);
    let cancel = Background::spawn(async move { groups.cancel(GROUP, process_id, secret_key).await });
    // The hazard is real: past the gate the row can be seen.
    let past_the_gate = cluster.direct(leader).await;
    let seen = async {
        while number(&past_the_gate, "SELECT count(*) FROM t WHERE id = 1")
            .await
            .unwrap()
            == 0
        {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    within(seen).await;
    let read = Background::spawn(async move {
        loop {
            if reader.number("SELECT count(*) FROM t WHERE id = 1").await == 1 {
                return;
            }
        }
    });
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(!read.is_finished(), "the row was shown before Raft has it");
    assert!(
        !insert.is_finished(),
        "the commit was answered before Raft has it"
    );

    cluster.net.heal();
    within(cancel.outcome()).await.unwrap();
    read.outcome().await;
    let (_session, done) = insert.outcome().await;
    done.unwrap();
    let warned = notices
        .lock()
        .iter()
        .any(|notice| notice.contains("canceling wait for synchronous replication"));
    assert!(warned, "{:?}", notices.lock());
}

async fn a_killed_backend_ends_in_recovery_behind_a_closed_gate(cluster: &Cluster, leader: NodeId) {
    let victim = cluster.session_at(leader).await;
    let pid = victim.number("SELECT pg_backend_pid()::bigint").await;
    let before = cluster.status(leader).postgres_pid;
    let other = cluster.session_at(leader).await;
    other.run("INSERT INTO t VALUES (2)").await;
    kill(pid).await;
    let restarted = |cluster: &Cluster| {
        let now = cluster.status(leader).postgres_pid;
        (now.is_some() && now != before && cluster.groups(leader).leads(GROUP)).then_some(())
    };
    cluster.until("PostgreSQL runs again", restarted).await;
    assert!(
        other.client.batch_execute("SELECT 1").await.is_err(),
        "sessions end with the server"
    );
    let session = cluster.session_at(leader).await;
    assert_eq!(session.number("SELECT count(*) FROM t").await, 3);
}

async fn a_killed_postmaster_shows_nothing_and_alter_system_changes_nothing(
    cluster: &Cluster,
    leader: NodeId,
) {
    let past_the_gate = cluster.direct(leader).await;
    let sabotage = ["synchronous_standby_names", "synchronous_commit"];
    for (name, value) in sabotage.iter().zip(["''", "off"]) {
        past_the_gate
            .batch_execute(&format!("ALTER SYSTEM SET {name} = {value}"))
            .await
            .unwrap();
    }
    past_the_gate
        .batch_execute("SELECT pg_reload_conf()")
        .await
        .unwrap();
    let session = cluster.session_at(leader).await;
    // It goes on looking, each time in a new snapshot, and does not notice the postmaster's end.
    session
        .run(
            "CREATE FUNCTION sees(wanted int) RETURNS bigint LANGUAGE plpgsql AS
              'BEGIN LOOP IF EXISTS (SELECT FROM t WHERE id = wanted) THEN RETURN 1; END IF; END LOOP; END'",
        )
        .await;
    let watching = cluster.session_at(leader).await;
    cluster.net.isolate(leader);
    let insert = insert_in_vain(cluster, leader, session, 3).await;
    let watch = Background::spawn(async move { number(&watching.client, "SELECT sees(3)").await });

    let before = cluster.status(leader).postgres_pid.unwrap();
    kill(before.into()).await;
    let seen = watch.outcome().await;
    assert!(seen.is_err(), "a commit that Raft does not have was shown");
    let restarted = |cluster: &Cluster| cluster.status(leader).postgres_pid.filter(|pid| *pid != before);
    cluster.until("PostgreSQL runs again", restarted).await;
    assert!(insert.outcome().await.1.is_err());
    let past_the_gate = cluster.direct(leader).await;
    assert_eq!(
        number(&past_the_gate, "SELECT count(*) FROM t WHERE id = 3")
            .await
            .unwrap(),
        1,
        "recovered"
    );
    assert!(!cluster.groups(leader).leads(GROUP), "the gate is closed");
    let refused = cluster
        .groups(leader)
        .connect(GROUP, Duration::from_millis(300))
        .await;
    assert!(refused.is_err(), "the gate is closed");

    cluster.net.heal();
    let session = within(Session::open(&*cluster.groups(leader), PATIENCE))
        .await
        .unwrap();
    assert_eq!(
        session.number("SELECT count(*) FROM t").await,
        4,
        "it led all the time, so the row stays"
    );
    for name in sabotage {
        let sql =
            format!("SELECT count(*) FROM pg_settings WHERE name = '{name}' AND source = 'command line'");
        assert_eq!(session.number(&sql).await, 1, "{name}");
    }
    let sql =
        "SELECT count(*) FROM pg_stat_replication WHERE application_name = 'howdah' AND sync_state = 'sync'";
    assert_eq!(session.number(sql).await, 1);
    cluster.net.isolate(leader);
    let insert = insert_in_vain(cluster, leader, session, 4).await;
    cluster.net.heal();
    insert.outcome().await.1.unwrap();
}
