//! Bad input, lost backends, cancel, limits.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use proxy::Limits;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::harness::raw::Raw;
use crate::harness::{Cluster, code, hint};

#[tokio::test(flavor = "multi_thread")]
async fn garbage_and_half_messages_end_only_their_own_connection() {
    let limits = Limits {
        authentication_timeout: Duration::from_secs(2),
        max_message: 1 << 20,
        ..Limits::default()
    };
    let cluster = Cluster::with(limits).await;
    let client = cluster.connect().await;
    let inputs: [&[u8]; 6] = [
        b"GET / HTTP/1.1\r\n\r\n",
        &[0, 0, 0, 3],
        &[0, 0, 0, 9, 0, 3, 0, 0, 0],
        &[0x7f, 0xff, 0xff, 0xff, 0, 3, 0, 0],
        &[0, 0, 0, 8, 0, 9, 0, 0],
        b"\0\0",
    ];
    for input in inputs {
        let mut raw = cluster.raw().await;
        raw.write_all(input).await.unwrap();
        let mut answer = Vec::new();
        let ended = tokio::time::timeout(Duration::from_secs(5), raw.read_to_end(&mut answer)).await;
        assert!(ended.is_ok(), "{input:?} keeps the connection open");
    }
    for message in [
        &b"Q\x7f\xff\xff\xff"[..],
        b"Q\0\0\0\x02",
        b"\xff\0\0\0\x08",
        b"B\0\0\0\x05x",
        b"P\0\0\0\x06ab",
    ] {
        let mut raw = Raw::start(&cluster).await;
        raw.bytes(message);
        raw.sync();
        let answer = raw.rest().await;
        assert!(answer.contains("08P01"), "{message:?}: {answer}");
    }
    // A message whose end never comes.
    let mut raw = Raw::start(&cluster).await;
    raw.bytes(b"Q\0\0\xff\xffSELECT");
    raw.send().await;
    drop(raw);
    client.batch_execute("SELECT 1").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_statement_is_cancelled() {
    let cluster = Cluster::start().await;
    let client = cluster.connect().await;
    let token = client.cancel_token();
    let start = Instant::now();
    let (slept, ()) = tokio::join!(client.batch_execute("SELECT pg_sleep(30)"), async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        token.cancel_query(tokio_postgres::NoTls).await.unwrap();
    });
    assert_eq!(code(&slept.unwrap_err()), "57014");
    assert!(start.elapsed() < Duration::from_secs(10));
    client.batch_execute("SELECT 1").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_backend_costs_one_statement_not_the_session() {
    let cluster = Cluster::start().await;
    let client = cluster.connect().await;
    client
        .batch_execute("CREATE TABLE t (id bigint PRIMARY KEY, v text)")
        .await
        .unwrap();
    client
        .batch_execute("SET application_name = 'mine'")
        .await
        .unwrap();
    let key = cluster.keys_of(1, 1)[0];
    let direct = cluster.direct(1).await;
    let kill = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'mine'";
    let insert = format!("INSERT INTO t VALUES ({key}, pg_sleep(30)::text)");
    let killed = async {
        // Until the statement is there to be lost.
        let running =
            "SELECT 1 FROM pg_stat_activity WHERE application_name = 'mine' AND wait_event = 'PgSleep'";
        while direct.query(running, &[]).await.unwrap().is_empty() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        direct.query(kill, &[]).await.unwrap();
    };
    let (lost, ()) = tokio::join!(client.batch_execute(&insert), killed);
    let lost = lost.unwrap_err();
    assert!(["08007", "0A000"].contains(&code(&lost)), "{lost}");
    client
        .batch_execute(&format!("INSERT INTO t VALUES ({key}, 'x')"))
        .await
        .unwrap();
    client.batch_execute("BEGIN").await.unwrap();
    client
        .batch_execute(&format!("UPDATE t SET v = 'y' WHERE id = {key}"))
        .await
        .unwrap();
    assert_eq!(direct.query(kill, &[]).await.unwrap().len(), 1);
    let lost = client
        .batch_execute(&format!("SELECT * FROM t WHERE id = {key}"))
        .await
        .unwrap_err();
    assert_eq!(code(&lost), "08006");
    let failed = client.batch_execute("SELECT 1").await.unwrap_err();
    assert_eq!(code(&failed), "25P02");
    client.batch_execute("ROLLBACK").await.unwrap();
    let select = format!("SELECT v, current_setting('application_name') FROM t WHERE id = {key}");
    let row = client.query_one(&select, &[]).await.unwrap();
    assert_eq!((row.get::<_, &str>(0), row.get::<_, &str>(1)), ("x", "mine"));

    // Lost in silence, and the transaction's end comes next.
    client.batch_execute("BEGIN").await.unwrap();
    client
        .batch_execute(&format!("UPDATE t SET v = 'y' WHERE id = {key}"))
        .await
        .unwrap();
    assert_eq!(direct.query(kill, &[]).await.unwrap().len(), 1);
    let ended = async {
        let there = "SELECT 1 FROM pg_stat_activity WHERE application_name = 'mine'";
        while !direct.query(there, &[]).await.unwrap().is_empty() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        tokio::time::sleep(Duration::from_millis(300)).await;
    };
    ended.await;
    let lost = client.batch_execute("COMMIT").await.unwrap_err();
    // Where the session has not noticed yet, it asks a backend that is gone: unknown.
    assert!(["08006", "08007"].contains(&code(&lost)), "{lost}");
    let row = client.query_one(&select, &[]).await.unwrap();
    assert_eq!(row.get::<_, &str>(0), "x");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_without_a_leader_fails_in_time_and_the_other_goes_on() {
    let mut cluster = Cluster::start().await;
    let client = cluster.connect().await;
    client
        .batch_execute("CREATE TABLE t (id bigint PRIMARY KEY, v text)")
        .await
        .unwrap();
    let (one, two) = (cluster.keys_of(0, 1)[0], cluster.keys_of(1, 1)[0]);
    cluster.stop_server(1);
    let start = Instant::now();
    let error = client
        .batch_execute(&format!("INSERT INTO t VALUES ({two}, 'x')"))
        .await
        .unwrap_err();
    assert_eq!(code(&error), "57P03", "{error}");
    assert!(hint(&error).contains("Nothing was done"), "{error:?}");
    assert!(start.elapsed() < Duration::from_secs(15));
    client
        .batch_execute(&format!("INSERT INTO t VALUES ({one}, 'x')"))
        .await
        .unwrap();
    cluster.start_server(1).await;
    client
        .batch_execute(&format!("INSERT INTO t VALUES ({two}, 'x')"))
        .await
        .unwrap();
    cluster.stop_server(0);
    // The home group is gone: what any group can answer is answered by another.
    client.batch_execute("SELECT 1").await.unwrap();
    let rows = client
        .query("SELECT v FROM t WHERE id = $1", &[&two])
        .await
        .unwrap();
    assert_eq!(rows.len(), 1);
    cluster.stop_server(1);
    // A moment later nobody can tell any more where the row is. That says as much.
    let mut messages = Vec::new();
    while !messages
        .last()
        .is_some_and(|last: &String| last.contains("catalogue"))
    {
        let error = client
            .batch_execute(&format!("UPDATE t SET v = 'y' WHERE id = {two}"))
            .await
            .unwrap_err();
        assert_eq!(code(&error), "57P03", "{error}");
        assert!(hint(&error).contains("Nothing was done"), "{error:?}");
        messages.push(error.as_db_error().unwrap().message().to_owned());
        assert!(messages.len() < 10, "{messages:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_and_shutdown_are_told() {
    let cluster = Cluster::with(Limits {
        max_client_connections: 1,
        ..Limits::default()
    })
    .await;
    let client = cluster.connect().await;
    let config = format!(
        "host=127.0.0.1 port={} user=postgres dbname=postgres",
        cluster.address.port()
    );
    let error = tokio_postgres::connect(&config, tokio_postgres::NoTls)
        .await
        .err()
        .expect("refused");
    assert_eq!(code(&error), "53300");
    client.batch_execute("SELECT 1").await.unwrap();
    cluster.shut_down();
    let start = Instant::now();
    while !client.is_closed() && start.elapsed() < Duration::from_secs(10) {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(client.is_closed());
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_not_start_is_told_why() {
    let cluster = Cluster::start().await;
    let refused = |options: &str| {
        let config = format!("host=127.0.0.1 port={} {options}", cluster.address.port());
        async move {
            let error = tokio_postgres::connect(&config, tokio_postgres::NoTls)
                .await
                .err()
                .expect("refused");
            code(&error).to_owned()
        }
    };
    assert_eq!(refused("user=nobody dbname=postgres").await, "28000");
    assert_eq!(refused("user=postgres dbname=nothing").await, "3D000");
    let options = "user=postgres dbname=postgres options='-c synchronous_commit=off'";
    assert_eq!(refused(options).await, "0A000");
}

/// PostgreSQL reports success with a WARNING for a commit that no other server has.
#[tokio::test(flavor = "multi_thread")]
async fn a_commit_whose_replication_was_cancelled_is_unknown() {
    let cluster = Cluster::start().await;
    let client = cluster.connect_as("user=postgres application_name=mine").await;
    client
        .batch_execute("CREATE TABLE t (id bigint PRIMARY KEY)")
        .await
        .unwrap();
    let direct = cluster.direct(1).await;
    cluster.hold_commits(1).await;
    let keys = cluster.keys_of(1, 3);
    let waiting = "SELECT 1 FROM pg_stat_activity WHERE wait_event = 'SyncRep' AND application_name = 'mine'";
    let insert = client.prepare("INSERT INTO t VALUES ($1)").await.unwrap();
    let simple = format!("INSERT INTO t VALUES ({})", keys[0]);
    let block = format!("BEGIN; INSERT INTO t VALUES ({}); COMMIT", keys[1]);
    for way in 0..3 {
        let token = client.cancel_token();
        let struck = AtomicBool::new(false);
        let cancelled = async {
            while direct.query(waiting, &[]).await.unwrap().is_empty() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            struck.store(true, Relaxed);
            token.cancel_query(tokio_postgres::NoTls).await.unwrap();
        };
        let mut written = Box::pin(async {
            match way {
                0 => client.batch_execute(&simple).await,
                1 => client.batch_execute(&block).await,
                _ => client.execute(&insert, &[&keys[2]]).await.map(drop),
            }
        });
        // Its answer may come before the cancel's own connection has ended.
        let outcome = tokio::select! {
            early = &mut written => early,
            () = cancelled => written.await,
        };
        assert!(
            struck.load(Relaxed),
            "way {way} ended before it waited: {outcome:?}"
        );
        assert_eq!(code(&outcome.unwrap_err()), "08007", "way {way}");
    }
    client.batch_execute("SELECT 1").await.unwrap();
}
