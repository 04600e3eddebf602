//! A leader's PostgreSQL that lives but does not answer.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use shard::client::Groups;
use shard::id::NodeId;

use crate::cluster::{Background, Cluster};
use crate::sql::{PATIENCE, Session};

/// Inserts 1, 2, 3, ... through `groups`, over a new session after every failure; what may have taken
/// place is asked before it goes on.
struct Writer {
    acknowledged: Arc<AtomicI64>,
    _writing: Background<()>,
}

impl Writer {
    fn start(groups: Arc<dyn Groups>) -> Writer {
        let acknowledged = Arc::new(AtomicI64::new(0));
        let counted = acknowledged.clone();
        let _writing = Background::spawn(async move {
            loop {
                let Ok(session) = Session::open(&*groups, PATIENCE).await else {
                    continue;
                };
                loop {
                    let next = counted.load(Ordering::SeqCst) + 1;
                    let insert = format!("INSERT INTO t VALUES ({next}) ON CONFLICT DO NOTHING");
                    if session.client.batch_execute(&insert).await.is_err() {
                        break;
                    }
                    counted.store(next, Ordering::SeqCst);
                }
            }
        });
        Writer {
            acknowledged,
            _writing,
        }
    }

    fn count(&self) -> i64 {
        self.acknowledged.load(Ordering::SeqCst)
    }
}

/// The postmaster first, then its children.
fn processes(postmaster: u32) -> Vec<Pid> {
    let pid = |number: &str| number.parse().ok().and_then(Pid::from_raw);
    let children = std::fs::read_dir("/proc")
        .unwrap()
        .flatten()
        .filter_map(|process| {
            let stat = std::fs::read_to_string(process.path().join("stat")).ok()?;
            // proc_pid_stat(5): the program's name in parentheses, the state, the parent.
            let parent = stat.rsplit_once(") ")?.1.split(' ').nth(1)?;
            (parent == postmaster.to_string())
                .then(|| pid(process.file_name().to_str()?))
                .flatten()
        });
    pid(&postmaster.to_string()).into_iter().chain(children).collect()
}

/// Stops `which` of the leader's PostgreSQL processes; what was acknowledged must stay, writes must go on
/// elsewhere, and the stopped server must be gone before its replica follows.
async fn leader_hangs(which: impl Fn(u32) -> Vec<Pid>) {
    let cluster = Cluster::start(3).await;
    cluster
        .session()
        .await
        .run("CREATE TABLE t (id bigint PRIMARY KEY)")
        .await;
    cluster.settled().await;
    let old = cluster.leader().await;
    let others = cluster.others(old);
    let writer = Writer::start(cluster.groups(others[0]));
    let more_than = |count: i64| {
        let writer = &writer;
        move |_: &Cluster| (writer.count() > count).then_some(())
    };
    cluster.until("writes before the hang", more_than(10)).await;

    let stopped = which(cluster.status(old).postgres_pid.unwrap());
    assert!(!stopped.is_empty());
    for process in &stopped {
        kill_process(*process, Signal::STOP).unwrap();
    }
    let new = cluster.leader_among(&others).await;
    assert_ne!(new, old);
    cluster
        .until(
            "writes go on through another leader",
            more_than(writer.count() + 10),
        )
        .await;
    let gone = |_: &Cluster| {
        stopped
            .iter()
            .all(|process| test_kill_process(*process).is_err())
            .then_some(())
    };
    cluster.until("the server that hangs is ended", gone).await;
    let follows = |cluster: &Cluster| (cluster.status(old).state == "following").then_some(());
    cluster.until("the former leader follows", follows).await;

    let acknowledged = writer.count();
    drop(writer);
    let all = format!("SELECT count(*) FROM t WHERE id <= {acknowledged}");
    assert_eq!(cluster.session().await.number(&all).await, acknowledged);
    assert_eq!(cluster.agree_on(&all).await, acknowledged);
    cluster
        .agree_on("SELECT sum(hashtext(t::text)::bigint)::bigint FROM t")
        .await;
    assert!(!cluster.logged("handing the leadership on").is_empty());
    cluster
        .stop(&["handing the leadership on", "it did not take the leadership"])
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn writes_go_on_elsewhere_when_the_leaders_postgres_is_stopped_whole() {
    leader_hangs(processes).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_postmaster_alone_is_a_postgres_that_hangs() {
    leader_hangs(|postmaster| processes(postmaster)[..1].to_vec()).await;
}

/// All that a busy server does must not be taken for silence: locks, a long statement, no free slot.
#[tokio::test(flavor = "multi_thread")]
async fn a_busy_postgres_keeps_its_leadership() {
    let cluster = Cluster::start(3).await;
    let session = cluster.session().await;
    session.run("CREATE TABLE t (id bigint PRIMARY KEY)").await;
    cluster.settled().await;
    let (leader, term) = (cluster.leader().await, cluster.term(cluster.leader().await));
    session.run("BEGIN; LOCK TABLE t").await;
    let waiting = cluster.session().await;
    let waits =
        Background::spawn(async move { waiting.client.batch_execute("INSERT INTO t VALUES (1)").await });
    let mut crowd = Vec::new();
    // Until PostgreSQL has no slot left, those of its superuser included.
    while let Ok(client) = crate::sql::direct(&cluster.socket_dir(leader)).await {
        crowd.push(client);
        assert!(crowd.len() < 10_000);
    }
    tokio::time::sleep(Duration::from_secs(4)).await;
    drop(crowd);
    session.run("COMMIT").await;
    waits.outcome().await.unwrap();
    assert_eq!((cluster.leader().await, cluster.term(leader)), (leader, term));
    assert!(cluster.logged("handing the leadership on").is_empty());
    cluster.stop(&[]).await;
}

/// A group of one has nobody to hand on to: it waits until its server goes on.
#[tokio::test(flavor = "multi_thread")]
async fn a_single_replica_waits_for_its_postgres() {
    let cluster = Cluster::start(1).await;
    let session = cluster.session().await;
    session.run("CREATE TABLE t (id bigint PRIMARY KEY)").await;
    let stopped = processes(cluster.status(NodeId(1)).postgres_pid.unwrap());
    for process in &stopped {
        kill_process(*process, Signal::STOP).unwrap();
    }
    tokio::time::sleep(Duration::from_secs(4)).await;
    for process in &stopped {
        kill_process(*process, Signal::CONT).unwrap();
    }
    session.run("INSERT INTO t VALUES (1)").await;
    assert_eq!(session.number("SELECT count(*) FROM t").await, 1);
    cluster.stop(&[]).await;
}
