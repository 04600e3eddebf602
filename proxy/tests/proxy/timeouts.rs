//! statement_timeout, lock_timeout and the timeouts of idle sessions.

use std::time::{Duration, Instant};

use tokio_postgres::{Client, SimpleQueryMessage};

use crate::harness::raw::Raw;
use crate::harness::{Cluster, code};

/// The words of an error, and its SQLSTATE in front.
fn words(error: &tokio_postgres::Error) -> String {
    let error = error.as_db_error().expect("an error of the server");
    format!("{} {}", error.code().code(), error.message())
}

const STATEMENT: &str = "57014 canceling statement due to statement timeout";
const LOCK: &str = "55P03 canceling statement due to lock timeout";

async fn value(client: &Client, sql: &str) -> String {
    let rows = client.simple_query(sql).await.expect("rows");
    let row = rows.iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
        _ => None,
    });
    row.expect("a value")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_statement_that_takes_too_long_is_cancelled_and_the_next_is_not() {
    let cluster = Cluster::start().await;
    let client = cluster.connect().await;
    let [one, two] = cluster.rows_on_both(&client).await;
    client
        .batch_execute("SET statement_timeout = '1s'")
        .await
        .unwrap();
    let slow = [
        "SELECT pg_sleep(20)".to_owned(),
        format!("SELECT pg_sleep(20) FROM t WHERE id = {two}"),
        // On one group after the other.
        format!("UPDATE t SET v = 1 WHERE id IN ({one}, {two}) AND pg_sleep(20) IS NOT NULL"),
        "SELECT id, pg_sleep(20) FROM t".to_owned(),
        // Each statement of a Query has the whole time.
        "SELECT pg_sleep(0.7); SELECT pg_sleep(0.7); SELECT pg_sleep(20)".to_owned(),
    ];
    for sql in &slow {
        let begun = Instant::now();
        let error = client.batch_execute(sql).await.unwrap_err();
        assert_eq!(words(&error), STATEMENT, "{sql}");
        assert!(begun.elapsed() < Duration::from_secs(10), "{sql}");
        // What comes next is not met by a cancel that is late.
        for _ in 0..20 {
            client.batch_execute("SELECT 1").await.unwrap();
        }
        let rows = client.query("SELECT v FROM t", &[]).await.unwrap();
        assert!(rows.iter().all(|row| row.get::<_, i64>(0) == 0), "{sql}");
    }
    let error = client.query("SELECT pg_sleep($1)", &[&20.0]).await.unwrap_err();
    assert_eq!(words(&error), STATEMENT);
    // In a block it fails the block.
    client.batch_execute("BEGIN").await.unwrap();
    let error = client.batch_execute(&slow[1]).await.unwrap_err();
    assert_eq!(words(&error), STATEMENT);
    let error = client.batch_execute("SELECT 1").await.unwrap_err();
    assert_eq!(code(&error), "25P02");
    client.batch_execute("ROLLBACK").await.unwrap();
    // A client's own cancel is still its own.
    client.batch_execute("SET statement_timeout = 0").await.unwrap();
    let (token, sleep) = (client.cancel_token(), client.batch_execute("SELECT pg_sleep(20)"));
    let cancel = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        token.cancel_query(tokio_postgres::NoTls).await.unwrap();
    };
    let (slept, ()) = tokio::join!(sleep, cancel);
    assert_eq!(
        words(&slept.unwrap_err()),
        "57014 canceling statement due to user request"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pipelined_statement_that_takes_too_long_takes_its_pipeline_along() {
    let cluster = Cluster::start().await;
    let mut raw = Raw::start(&cluster).await;
    raw.parse("", "SET statement_timeout = 300");
    raw.bind("", "");
    raw.execute("", 0);
    raw.sync();
    let (tags, errors) = raw.until_ready().await;
    assert!(errors.is_empty(), "{errors:?}");
    assert_eq!(tags, "12CZ");
    for (sql, count) in [("SELECT 1", 3), ("SELECT pg_sleep(20)", 2), ("SELECT 2", 1)] {
        for _ in 0..count {
            raw.parse("", sql);
            raw.bind("", "");
            raw.execute("", 0);
        }
    }
    raw.sync();
    let (tags, errors) = raw.until_ready().await;
    assert_eq!(
        (tags.as_str(), errors),
        ("12DC12DC12DC12EZ", vec!["57014".to_owned()])
    );
    raw.parse("", "SHOW statement_timeout");
    raw.describe('S', "");
    raw.bind("", "");
    raw.execute("", 0);
    raw.sync();
    let (tags, errors) = raw.until_ready().await;
    assert!(errors.is_empty(), "{errors:?}");
    assert_eq!(tags, "1tT2DCZ");
}

#[tokio::test(flavor = "multi_thread")]
async fn timeouts_are_set_and_shown_as_in_postgresql() {
    let cluster = Cluster::start().await;
    let options = "options='-c statement_timeout=90s -c lock_timeout=5000'";
    let client = cluster.connect_as(options).await;
    let show = async |name: &str| value(&client, &format!("SHOW {name}")).await;
    assert_eq!(show("statement_timeout").await, "90s");
    assert_eq!(show("LOCK_TIMEOUT").await, "5s");
    assert_eq!(show("idle_session_timeout").await, "0");
    let current = value(&client, "SELECT current_setting('statement_timeout')").await;
    assert_eq!(current, "90s");
    for (sql, expected) in [
        ("SET statement_timeout = 120000", "2min"),
        ("SET statement_timeout TO DEFAULT", "90s"),
        ("SELECT set_config('statement_timeout', '1h', false)", "1h"),
        ("RESET statement_timeout", "90s"),
        ("SET LOCAL statement_timeout = '1s'", "90s"),
        ("BEGIN; SET statement_timeout = '1s'; ROLLBACK", "90s"),
        (
            "BEGIN; SET statement_timeout = '1s'; SET LOCAL statement_timeout = '2s'",
            "2s",
        ),
        ("SAVEPOINT s; SET statement_timeout = '3s'; ROLLBACK TO s", "2s"),
        ("COMMIT", "1s"),
        ("RESET ALL", "90s"),
        ("SET statement_timeout = '4s'; DISCARD ALL", "90s"),
    ] {
        // DISCARD ALL does not run together with others.
        for sql in sql.split("; ") {
            client.batch_execute(sql).await.unwrap();
        }
        assert_eq!(show("statement_timeout").await, expected, "{sql}");
    }
    for (value, sqlstate) in [
        ("'soon'", "22023"),
        ("-1", "22023"),
        ("'1 week'", "22023"),
        ("1 s", "42601"),
    ] {
        let sql = format!("SET statement_timeout = {value}");
        let error = client.batch_execute(&sql).await.unwrap_err();
        assert_eq!(code(&error), sqlstate, "{sql}");
    }
    // No backend keeps a timer of its own.
    let name = "SELECT max(setting) FROM pg_settings WHERE name LIKE '%\\_timeout' AND source = 'client'";
    assert_eq!(value(&client, name).await, "0");
    let refused = cluster
        .try_connect(cluster.address.port(), "options='-c statement_timeout=soon'")
        .await;
    assert_eq!(code(&refused.expect_err("it is refused")), "22023");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_waits_too_long_for_a_lock_is_told_so() {
    let cluster = Cluster::start().await;
    let [holder, waiter] = [cluster.connect().await, cluster.connect().await];
    let keys = cluster.rows_on_both(&holder).await;
    waiter.batch_execute("SET lock_timeout = '300ms'").await.unwrap();
    for key in keys {
        let update = format!("UPDATE t SET v = v + 1 WHERE id = {key}");
        holder.batch_execute(&format!("BEGIN; {update}")).await.unwrap();
        let begun = Instant::now();
        let error = waiter.batch_execute(&update).await.unwrap_err();
        assert_eq!(words(&error), LOCK);
        assert!(
            begun.elapsed() >= Duration::from_millis(300),
            "{:?}",
            begun.elapsed()
        );
        // A statement that waits for no lock may take its time.
        waiter.batch_execute("SELECT pg_sleep(0.8)").await.unwrap();
        holder.batch_execute("COMMIT").await.unwrap();
        waiter.batch_execute(&update).await.unwrap();
    }
    // The shorter of the two counts.
    let update = format!("UPDATE t SET v = v + 1 WHERE id = {}", keys[0]);
    holder.batch_execute(&format!("BEGIN; {update}")).await.unwrap();
    for (lock, statement, expected) in [("20s", "300ms", STATEMENT), ("300ms", "20s", LOCK)] {
        let set = format!("SET lock_timeout = '{lock}'; SET statement_timeout = '{statement}'");
        waiter.batch_execute(&set).await.unwrap();
        assert_eq!(words(&waiter.batch_execute(&update).await.unwrap_err()), expected);
    }
    holder.batch_execute("COMMIT").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn idle_sessions_are_ended() {
    let cluster = Cluster::start().await;
    let client = cluster.connect().await;
    let [key, _] = cluster.rows_on_both(&client).await;
    let mut raw = Raw::start(&cluster).await;
    for sql in [
        "SET idle_in_transaction_session_timeout = '400ms'",
        "SET idle_session_timeout = '2s'",
        "BEGIN",
        &format!("UPDATE t SET v = 1 WHERE id = {key}"),
        // While a statement works the session is not idle.
        "SELECT pg_sleep(1)",
    ] {
        raw.parse("", sql);
        raw.bind("", "");
        raw.execute("", 0);
        raw.sync();
        let (_, errors) = raw.until_ready().await;
        assert!(errors.is_empty(), "{sql}: {errors:?}");
    }
    let begun = Instant::now();
    let last = raw.last_words().await;
    assert!(
        begun.elapsed() >= Duration::from_millis(300),
        "{:?}",
        begun.elapsed()
    );
    assert!(
        last.contains("FATAL")
            && last.contains("C25P03")
            && last.contains("terminating connection due to idle-in-transaction timeout"),
        "{last}"
    );
    // Who does not end a pipeline that is answered is idle in its transaction, too.
    let mut raw = Raw::start(&cluster).await;
    raw.query("SET idle_in_transaction_session_timeout = '400ms'");
    raw.until_ready().await;
    raw.parse("", "SELEC");
    raw.send().await;
    let last = raw.last_words().await;
    assert!(last.contains("C42601") && last.contains("C25P03"), "{last}");
    // Its locks are gone, and so is what it wrote.
    client
        .batch_execute(&format!("UPDATE t SET v = v + 5 WHERE id = {key}"))
        .await
        .unwrap();
    assert_eq!(
        value(&client, &format!("SELECT v FROM t WHERE id = {key}")).await,
        "5"
    );

    let mut raw = Raw::start(&cluster).await;
    raw.parse("", "SET idle_session_timeout = '400ms'");
    raw.bind("", "");
    raw.execute("", 0);
    raw.sync();
    raw.until_ready().await;
    let last = raw.last_words().await;
    assert!(
        last.contains("FATAL")
            && last.contains("C57P05")
            && last.contains("terminating connection due to idle-session timeout"),
        "{last}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_whose_client_says_nothing_is_ended() {
    let cluster = Cluster::start().await;
    let client = cluster.connect().await;
    let keys = cluster.rows_on_both(&client).await;
    let mut raw = Raw::start(&cluster).await;
    for sql in ["SET statement_timeout = '500ms'", "COPY t FROM STDIN"] {
        raw.query(sql);
        if sql.starts_with("COPY") {
            for key in keys {
                raw.copy_data(format!("{}\t1\n", key + 1_000_000_007).as_bytes());
            }
        }
        let (tags, errors) = raw.until_ready().await;
        match sql {
            "COPY t FROM STDIN" => {
                assert_eq!((tags.as_str(), errors), ("GEZ", vec!["57014".to_owned()]));
            }
            _ => assert!(errors.is_empty(), "{errors:?}"),
        }
    }
    raw.query("SELECT id FROM t");
    let (tags, errors) = raw.until_ready().await;
    assert!(errors.is_empty(), "{errors:?}");
    assert_eq!(tags, "TDDCZ", "nothing of the copy is kept");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_that_waits_for_its_majority_is_not_struck() {
    let cluster = Cluster::start().await;
    let client = cluster.connect().await;
    let keys = cluster.rows_on_both(&client).await;
    let group = cluster.direct(1).await;
    let waiting = async || -> i64 {
        let sql = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'";
        group.query_one(sql, &[]).await.unwrap().get(0)
    };
    client
        .batch_execute("SET statement_timeout = '2s'; SET lock_timeout = '1s'")
        .await
        .unwrap();
    let update = format!("UPDATE t SET v = v + 1 WHERE id = {}", keys[1]);
    for block in [None, Some("COMMIT")] {
        cluster.hold_commits(1).await;
        if block.is_some() {
            client.batch_execute("BEGIN").await.unwrap();
            client.batch_execute(&update).await.unwrap();
        }
        let mut write = Box::pin(client.batch_execute(block.unwrap_or(&update)));
        let struck = async {
            while waiting().await == 0 {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            tokio::time::sleep(Duration::from_secs(3)).await;
        };
        tokio::select! {
            early = &mut write => panic!("it did not wait, {block:?}: {early:?}"),
            () = struck => {}
        }
        assert_eq!(waiting().await, 1, "it waits although its time is up");
        cluster.confirm_commits(1).await;
        write.await.unwrap();
    }
    let sql = format!("SELECT v FROM t WHERE id = {}", keys[1]);
    assert_eq!(value(&client, &sql).await, "2");
}
