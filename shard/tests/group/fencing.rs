//! A leader that is cut off: what it holds, and what it may say.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use shard::id::NodeId;
use tokio_postgres::Client;

use crate::cluster::{Background, Cluster};
use crate::sql::{direct, number};

/// Asks `node`'s PostgreSQL, past every gate, again and again for how much it sees of `sql`.
struct Witness {
    most_seen: Arc<Mutex<i64>>,
    asked: Arc<Mutex<u64>>,
    _asking: Background<()>,
}

impl Witness {
    fn start(cluster: &Cluster, node: NodeId, sql: &'static str) -> Witness {
        let dir = cluster.socket_dir(node);
        let (most_seen, asked) = (Arc::new(Mutex::new(0)), Arc::new(Mutex::new(0)));
        let (most, times) = (most_seen.clone(), asked.clone());
        let _asking = Background::spawn(async move {
            let mut client: Option<Client> = None;
            loop {
                client = match client {
                    None => direct(&dir).await.ok(),
                    Some(client) => match client.query_one(sql, &[]).await {
                        Ok(row) => {
                            let mut most = most.lock();
                            *most = row.get::<_, i64>(0).max(*most);
                            *times.lock() += 1;
                            Some(client)
                        }
                        Err(_) => None,
                    },
                };
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        });
        Witness {
            most_seen,
            asked,
            _asking,
        }
    }

    fn saw_nothing(&self) {
        assert!(
            *self.asked.lock() > 10,
            "it asked {} times only",
            self.asked.lock()
        );
        assert_eq!(
            *self.most_seen.lock(),
            0,
            "rows were seen that Raft has not committed"
        );
    }
}

const LOST: &str = "SELECT (SELECT count(*) FROM t WHERE id IN (666, 667, 668)) \
    + (SELECT count(*) FROM pg_prepared_xacts)";

#[tokio::test(flavor = "multi_thread")]
async fn wal_that_raft_did_not_commit_is_seen_by_no_follower_and_gone_from_the_rewound_leader() {
    let cluster = Cluster::start(3).await;
    let old = cluster.leader().await;
    let followers = cluster.others(old);
    let (one, two) = (
        cluster.session_at(old).await,
        cluster.session_at(followers[0]).await,
    );
    one.run("CREATE TABLE t (id int PRIMARY KEY, v text DEFAULT repeat('v', 100))")
        .await;
    one.run("INSERT INTO t SELECT generate_series(1, 100)").await;
    two.run("BEGIN; INSERT INTO t VALUES (667)").await;
    cluster.settled().await;
    let committed = cluster.status(old).committed_lsn;
    let witnesses: Vec<_> = followers
        .iter()
        .map(|node| Witness::start(&cluster, *node, LOST))
        .collect();

    cluster.net.isolate(old);
    let insert =
        Background::spawn(async move { one.client.batch_execute("INSERT INTO t VALUES (666)").await });
    let prepare = Background::spawn(async move {
        // Its message does not even reach the leader, which is what a client of another node has of this.
        two.client.batch_execute("PREPARE TRANSACTION 'lost'").await
    });
    let past_the_gate = cluster.direct(old).await;
    let mut prepared = cluster.direct(old).await;
    let preparing = Background::spawn(async move {
        let transaction = prepared.transaction().await?;
        transaction
            .batch_execute("INSERT INTO t VALUES (668); PREPARE TRANSACTION 'lost, too'")
            .await
    });
    let waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'";
    while number(&past_the_gate, waiting).await.unwrap() < 2 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    // Both commits are on the old leader's disk.
    let flushed = format!("SELECT count(*) FROM pg_current_wal_flush_lsn() AS lsn WHERE lsn > '{committed}'");
    assert_eq!(number(&past_the_gate, &flushed).await.unwrap(), 1);

    let new = cluster.leader_among(&followers).await;
    let session = cluster.session_at(new).await;
    assert_eq!(session.number(LOST).await, 0);
    session.run("INSERT INTO t VALUES (101)").await;
    assert!(
        !insert.is_finished() && !preparing.is_finished(),
        "nothing may be answered"
    );

    cluster.net.heal();
    assert!(
        insert.outcome().await.is_err(),
        "the client must not be told of success"
    );
    assert!(preparing.outcome().await.is_err());
    assert!(prepare.outcome().await.is_err());
    cluster.settled().await;
    assert_eq!(cluster.agree_on(LOST).await, 0);
    assert_eq!(
        cluster.agree_on("SELECT count(*) FROM t WHERE id <= 101").await,
        101
    );
    cluster
        .agree_on("SELECT (count(*) + sum(hashtext(t::text)::bigint))::bigint FROM t")
        .await;
    witnesses.iter().for_each(Witness::saw_nothing);
    assert!(
        !cluster.logged("Rewind {").is_empty(),
        "the old leader was rewound"
    );
    cluster.stop(&["no majority"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cut_off_leader_answers_no_read_after_another_leads_and_its_sessions_end() {
    let cluster = Cluster::start(3).await;
    let old = cluster.leader().await;
    let local = cluster.session_at(old).await;
    local
        .run("CREATE TABLE t (v int); INSERT INTO t VALUES (1)")
        .await;
    cluster.settled().await;
    let idle = cluster.session_at(old).await;
    assert_eq!(idle.number("SELECT sum(v) FROM t").await, 1);

    let last_answer = Arc::new(Mutex::new((Instant::now(), 0)));
    let answered = last_answer.clone();
    cluster.net.isolate(old);
    let reading = Background::spawn(async move {
        while let Ok(row) = local.client.query_one("SELECT sum(v) FROM t", &[]).await {
            *answered.lock() = (Instant::now(), row.get::<_, i64>(0));
        }
    });
    let new = cluster.leader_among(&cluster.others(old)).await;
    let led_since = Instant::now();
    cluster.session_at(new).await.run("UPDATE t SET v = 2").await;
    let (at, value) = *last_answer.lock();
    assert!(at < led_since, "an answer of {value} after another leads");

    // The old leader hears of nobody; still its sessions must come to an end.
    reading.outcome().await;
    assert!(idle.client.query_one("SELECT sum(v) FROM t", &[]).await.is_err());
    assert!(last_answer.lock().0 < led_since);
    cluster.net.heal();
    cluster.settled().await;
    assert_eq!(cluster.agree_on("SELECT sum(v) FROM t").await, 2);
    cluster.stop(&["no majority"]).await;
}
