//! A replica that has lost its log: silent until its group has readmitted it, then rebuilt, then one like any other.

use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use shard::id::NodeId;
use shard::node::Node;
use shard::status::Role;

use crate::cluster::Cluster;

/// What a node warns of that finds its log lost, and others when it comes back.
const LOUD: [&str; 5] = [
    "the log is lost",
    "this replica has lost its log",
    "a replica has lost its log",
    // A leader is struck down while another copies from it.
    "pg_rewind failed",
    "pg_basebackup failed",
];

/// The largest segment of a stopped node's log, and how much of it is written.
fn segment(data_dir: &Path) -> (PathBuf, Vec<u8>, usize) {
    let files = fs::read_dir(data_dir.join("log")).unwrap().flatten();
    let segments = files
        .map(|file| file.path())
        .filter(|path| path.extension().is_some());
    let read = segments.map(|path| {
        let bytes = fs::read(&path).unwrap();
        let used = bytes.iter().rposition(|byte| *byte != 0).unwrap() + 1;
        (path, bytes, used)
    });
    read.max_by_key(|(.., used)| *used).unwrap()
}

fn flip_a_bit(data_dir: &Path) {
    let (path, mut bytes, used) = segment(data_dir);
    bytes[used / 2] ^= 0x10;
    fs::write(path, bytes).unwrap();
}

fn cut_a_file(data_dir: &Path) {
    let (path, bytes, used) = segment(data_dir);
    fs::write(path, &bytes[..used / 2]).unwrap();
}

fn remove_the_log(data_dir: &Path) {
    fs::remove_dir_all(data_dir.join("log")).unwrap();
}

/// What the operator does who has lost a machine.
fn begin_with_a_new_disk(data_dir: &Path) {
    fs::remove_dir_all(data_dir).unwrap();
    fs::create_dir_all(data_dir.join("group-1/raft")).unwrap();
}

/// As a crash leaves it between the mark and the moment when the damaged log is put aside; and the disk reads well now.
fn mark_only(data_dir: &Path) {
    fs::write(data_dir.join("group-1/raft/memory"), "lost\n").unwrap();
}

async fn comes_back_after(damage: fn(&Path)) {
    let mut cluster = Cluster::start(3).await;
    let session = cluster.session().await;
    session
        .run("CREATE TABLE t (id serial PRIMARY KEY); INSERT INTO t SELECT FROM generate_series(1, 1000)")
        .await;
    cluster.settled().await;
    let leader = cluster.leader().await;
    let victim = cluster.others(leader)[0];
    cluster.crash(victim);
    session.run("INSERT INTO t DEFAULT VALUES").await;
    damage(&cluster.data_dir(victim));

    cluster.start_node(victim).await;
    assert_eq!(cluster.logged("the log is lost").len(), 1);
    let whole = |cluster: &Cluster| {
        let status = cluster.status(victim);
        (status.state == "following" && status.role == Role::Follower).then_some(())
    };
    cluster.until("it follows, and has a vote", whole).await;
    session.run("INSERT INTO t DEFAULT VALUES").await;
    assert_eq!(cluster.agree_on("SELECT count(*) FROM t").await, 1002);
    cluster
        .agree_on("SELECT sum(hashtext(t::text)::bigint)::bigint FROM t")
        .await;

    // Its vote and its acknowledgements are needed from now on, and it leads like any other.
    let mut expected = 1002;
    for round in 0.. {
        assert!(round < 20, "it never led");
        let leader = cluster.leader().await;
        if leader == victim {
            break;
        }
        cluster.crash(leader);
        cluster
            .session()
            .await
            .run("INSERT INTO t SELECT max(id) + 1 FROM t")
            .await;
        expected += 1;
        if cluster.leader().await != victim {
            cluster.start_node(leader).await;
            cluster.settled().await;
            // How long a replica waits before it asks for votes is drawn once, when it starts.
            cluster.stop_node(victim).await;
            cluster.start_node(victim).await;
            cluster.settled().await;
        }
    }
    let count = cluster
        .session_at(victim)
        .await
        .number("SELECT count(*) FROM t")
        .await;
    assert_eq!(count, expected);
    let stopped: Vec<_> = (1..=3)
        .map(NodeId)
        .filter(|node| !cluster.running().contains(node))
        .collect();
    cluster.start_nodes(&stopped).await;
    assert_eq!(cluster.agree_on("SELECT count(*) FROM t").await, expected);
    // It remembers again: a restart is an ordinary one.
    cluster.stop_node(victim).await;
    cluster.start_node(victim).await;
    cluster.settled().await;
    assert_eq!(cluster.logged("the log is lost").len(), 1);
    cluster.stop(&LOUD).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_with_a_flipped_bit_in_its_log_is_rebuilt_and_leads_again() {
    comes_back_after(flip_a_bit).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_without_its_log_is_rebuilt_and_leads_again() {
    comes_back_after(remove_the_log).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_was_marked_before_a_crash_is_rebuilt_and_leads_again() {
    comes_back_after(mark_only).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_lost_its_whole_directory_is_rebuilt_and_leads_again_when_it_is_told() {
    comes_back_after(begin_with_a_new_disk).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_log_and_a_stale_replica_elect_nobody() {
    let mut cluster = Cluster::start(3).await;
    let session = cluster.session().await;
    session.run("CREATE TABLE t (id int PRIMARY KEY)").await;
    cluster.settled().await;
    let leader = cluster.leader().await;
    let (lost, stale) = (cluster.others(leader)[0], cluster.others(leader)[1]);
    cluster.crash(stale);
    // Acknowledged by these two only.
    cluster
        .session_at(leader)
        .await
        .run("INSERT INTO t SELECT generate_series(1, 100)")
        .await;
    cluster.crash_all();
    cut_a_file(&cluster.data_dir(lost));

    cluster.start_nodes(&[lost, stale]).await;
    // As many elections as there may be in that time: with a vote from the one, the other would win the first.
    for _ in 0..100 {
        tokio::time::sleep(Duration::from_millis(100)).await;
        for node in [lost, stale] {
            assert_ne!(cluster.status(node).role, Role::Leader, "{node} leads");
        }
        assert_eq!(cluster.status(lost).state, "its log is lost");
    }
    // Nor after a restart.
    cluster.crash(lost);
    cluster.start_node(lost).await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_ne!(cluster.status(stale).role, Role::Leader);
    assert_eq!(cluster.status(lost).state, "its log is lost");

    cluster.start_node(leader).await;
    assert_eq!(
        cluster.session().await.number("SELECT count(*) FROM t").await,
        100
    );
    assert_eq!(cluster.agree_on("SELECT count(*) FROM t").await, 100);
    cluster.stop(&LOUD).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_single_replica_with_a_damaged_log_is_refused_and_left_as_it_is() {
    let mut cluster = Cluster::start(1).await;
    let node = NodeId(1);
    cluster.session().await.run("CREATE TABLE t (id int)").await;
    cluster.crash(node);
    flip_a_bit(&cluster.data_dir(node));
    let (_, before, _) = segment(&cluster.data_dir(node));
    for _ in 0..2 {
        let error = Node::start(cluster.config(node), None).await.unwrap_err();
        let cause = error.source().map(ToString::to_string).unwrap_or_default();
        assert!(error.to_string().contains("no other replica"), "{error}");
        assert!(cause.contains("damaged"), "{cause}");
    }
    assert_eq!(segment(&cluster.data_dir(node)).1, before);
    cluster.stop(&[]).await;
}
