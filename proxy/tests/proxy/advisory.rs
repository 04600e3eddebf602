//! Advisory locks: in the first group, for the sessions of all nodes.

use std::time::{Duration, Instant};

use futures::future::join_all;
use proxy::Limits;
use tokio::time::timeout;
use tokio_postgres::{Client, SimpleQueryMessage};

use crate::harness::raw::Raw;
use crate::harness::{Cluster, code, hint};

/// What is not over by then waits for something.
const SOON: Duration = Duration::from_millis(400);

/// What must be over by then.
const LATE: Duration = Duration::from_secs(20);

/// The first value of a Query's rows.
async fn value(client: &Client, sql: &str) -> String {
    let rows = client.simple_query(sql).await.expect(sql);
    let row = rows.iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => Some(row.get(0).unwrap_or("NULL").to_owned()),
        _ => None,
    });
    row.expect("a row")
}

/// Advisory locks that PostgreSQL has on this group.
async fn held(cluster: &Cluster, server: usize) -> i64 {
    let sql = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'";
    let direct = cluster.direct(server).await;
    direct.query_one(sql, &[]).await.expect(sql).get(0)
}

async fn until_held(cluster: &Cluster, expected: i64) {
    let begun = Instant::now();
    while held(cluster, 0).await != expected {
        assert!(begun.elapsed() < LATE);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Waits until somebody waits for a lock on this group.
async fn until_waiting(cluster: &Cluster, server: usize) {
    let sql = "SELECT count(*) FROM pg_locks WHERE NOT granted";
    let direct = cluster.direct(server).await;
    while direct.query_one(sql, &[]).await.expect(sql).get::<_, i64>(0) == 0 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_of_two_nodes_exclude_each_other() {
    let cluster = Cluster::start().await;
    let keys = cluster.rows_on_both(&cluster.connect().await).await;
    let port = cluster.second_node().await;
    let one = cluster.connect_as("application_name=one").await;
    let two = cluster.try_connect(port, "").await.unwrap();
    cluster.until_pinned("one", "").await;
    // By the simple and the extended protocol, with constants and parameters.
    one.batch_execute("SELECT pg_advisory_lock(1)").await.unwrap();
    one.execute("SELECT pg_advisory_lock($1, $2)", &[&-3_i32, &7_i32])
        .await
        .unwrap();
    let sql = "SELECT pg_try_advisory_lock(hashtext('x')) AS got, pg_catalog.pg_try_advisory_lock_shared(-9) AS too";
    let row = one.query_one(sql, &[]).await.unwrap();
    assert_eq!((row.get("got"), row.get("too")), (true, true));
    cluster.until_pinned("one", "advisory lock").await;
    for sql in [
        "SELECT pg_try_advisory_lock(1)",
        "SELECT pg_try_advisory_lock_shared(1)",
        "SELECT pg_try_advisory_lock(-3, 7)",
        "SELECT pg_try_advisory_lock(hashtext('x'))",
        "SELECT pg_try_advisory_lock(-9)",
        "SELECT pg_try_advisory_xact_lock(1)",
    ] {
        assert_eq!(value(&two, sql).await, "f", "{sql}");
    }
    for sql in [
        "SELECT pg_try_advisory_lock_shared(-9)",
        "SELECT pg_try_advisory_lock(2)",
    ] {
        assert_eq!(value(&two, sql).await, "t", "{sql}");
    }
    assert_eq!((held(&cluster, 0).await, held(&cluster, 1).await), (6, 0));
    // Meanwhile it works as others do, and others work.
    for client in [&one, &two] {
        for key in keys {
            let sql = "UPDATE t SET v = v + 1 WHERE id = $1 RETURNING v";
            client.query_one(sql, &[&key]).await.unwrap();
        }
    }
    // Who waits gets it when it is released.
    let mut waits = Box::pin(two.batch_execute("SELECT pg_advisory_lock(1)"));
    assert!(timeout(SOON, &mut waits).await.is_err());
    let released: bool = one
        .query_one("SELECT pg_advisory_unlock(1)", &[])
        .await
        .unwrap()
        .get(0);
    assert!(released);
    timeout(LATE, waits).await.unwrap().unwrap();
    assert_eq!(
        value(&one, "SELECT pg_advisory_unlock(1)").await,
        "f",
        "not its own"
    );
    one.batch_execute("SELECT pg_advisory_unlock_all()")
        .await
        .unwrap();
    cluster.until_pinned("one", "").await;
    assert_eq!(value(&two, "SELECT pg_try_advisory_lock(-3, 7)").await, "t");
    drop(two);
    until_held(&cluster, 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backend_is_kept_for_as_long_as_it_has_a_lock() {
    let cluster = Cluster::start().await;
    let keys = cluster.rows_on_both(&cluster.connect().await).await;
    let client = cluster.connect_as("application_name=keeper").await;
    // As long as it has been taken more often than released.
    client
        .batch_execute("SELECT pg_advisory_lock(5); SELECT pg_advisory_lock(5)")
        .await
        .unwrap();
    client
        .batch_execute("SELECT pg_advisory_unlock(5)")
        .await
        .unwrap();
    // Others use all the backends there are.
    let others = join_all((0..6).map(|_| cluster.connect())).await;
    for _ in 0..5 {
        let work = others.iter().map(|other| async {
            for key in keys {
                let sql = "SELECT v, pg_sleep(0.01) FROM t WHERE id = $1";
                other.query_one(sql, &[&key]).await.unwrap();
            }
            assert_eq!(value(other, "SELECT pg_try_advisory_lock(5)").await, "f");
        });
        join_all(work).await;
    }
    cluster.until_pinned("keeper", "advisory lock").await;
    client
        .batch_execute("SELECT pg_advisory_unlock(5)")
        .await
        .unwrap();
    cluster.until_pinned("keeper", "").await;
    // It outlives the transaction in which it was taken, also one that is rolled back.
    client
        .batch_execute("BEGIN; SAVEPOINT s; SELECT pg_advisory_lock(6); ROLLBACK TO s; ROLLBACK")
        .await
        .unwrap();
    cluster.until_pinned("keeper", "advisory lock").await;
    let error = client
        .batch_execute("BEGIN; SELECT pg_advisory_unlock(6); SELECT 1 / 0")
        .await;
    assert_eq!(code(&error.unwrap_err()), "22012");
    client.batch_execute("ROLLBACK").await.unwrap();
    cluster.until_pinned("keeper", "").await;
    // As asyncpg's pool has it, and as others do.
    for sql in [
        "SELECT pg_advisory_unlock_all();\nCLOSE ALL;\nUNLISTEN *;\nRESET ALL;",
        "DISCARD ALL",
    ] {
        client.batch_execute("SELECT pg_advisory_lock(7)").await.unwrap();
        cluster.until_pinned("keeper", "advisory lock").await;
        client.batch_execute(sql).await.unwrap();
        cluster.until_pinned("keeper", "").await;
        assert_eq!(held(&cluster, 0).await, 0, "{sql}");
    }
    // A statement that fails has taken it none the less.
    let error = client.batch_execute("SELECT pg_advisory_lock(8), 1 / (pg_try_advisory_lock(8)::int - 1)");
    assert_eq!(code(&error.await.unwrap_err()), "22012");
    cluster.until_pinned("keeper", "advisory lock").await;
    drop(client);
    until_held(&cluster, 0).await;
}

/// Changes a row as who relies on the lock alone does, and not on the row's own.
async fn add_under_lock(client: &Client, keys: [i64; 2], style: Style) {
    let (take, release) = match style {
        Style::Transaction => ("BEGIN; SELECT pg_advisory_xact_lock(11)", "COMMIT"),
        Style::Session => ("SELECT pg_advisory_lock(11)", "SELECT pg_advisory_unlock(11)"),
    };
    client.batch_execute(take).await.expect(take);
    for key in keys {
        let sql = "SELECT v FROM t WHERE id = $1";
        let now: i64 = client.query_one(sql, &[&key]).await.expect(sql).get(0);
        let sql = "UPDATE t SET v = $2 WHERE id = $1";
        client.execute(sql, &[&key, &(now + 1)]).await.expect(sql);
    }
    client.batch_execute(release).await.expect(release);
}

#[derive(Clone, Copy)]
enum Style {
    Transaction,
    Session,
}

#[tokio::test(flavor = "multi_thread")]
async fn who_gets_a_lock_sees_what_was_written_under_it() {
    const TIMES: i64 = 15;
    let cluster = Cluster::start().await;
    let keys = cluster.rows_on_both(&cluster.connect().await).await;
    let clients = join_all((0..4).map(|_| cluster.connect())).await;
    let work = clients.iter().enumerate().map(|(number, client)| async move {
        for _ in 0..TIMES {
            // One of them after the other comes first.
            let (keys, style) = match number {
                0 => (keys, Style::Transaction),
                1 => ([keys[1], keys[1]], Style::Transaction),
                2 => ([keys[1], keys[0]], Style::Transaction),
                _ => (keys, Style::Session),
            };
            add_under_lock(client, keys, style).await;
        }
    });
    join_all(work).await;
    for (key, expected) in [(keys[0], 3 * TIMES), (keys[1], 5 * TIMES)] {
        let sum = value(&clients[0], &format!("SELECT v FROM t WHERE id = {key}")).await;
        assert_eq!(sum, expected.to_string(), "none was lost");
    }
    assert_eq!(held(&cluster, 0).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pipeline_keeps_its_lock_until_all_of_it_is_committed() {
    let cluster = Cluster::start().await;
    let keys = cluster.rows_on_both(&cluster.connect().await).await;
    let mut raw = Raw::start(&cluster).await;
    cluster.hold_commits(1).await;
    raw.parse("", "SELECT pg_advisory_xact_lock(3)");
    raw.bind("", "");
    raw.execute("", 0);
    raw.parse("", &format!("UPDATE t SET v = 1 WHERE id = {}", keys[1]));
    raw.bind("", "");
    raw.execute("", 0);
    raw.sync();
    raw.send().await;
    let other = cluster.connect().await;
    until_held(&cluster, 1).await;
    let mut waits = Box::pin(other.batch_execute("SELECT pg_advisory_lock(3)"));
    assert!(timeout(SOON, &mut waits).await.is_err(), "it is not committed");
    cluster.confirm_commits(1).await;
    timeout(LATE, waits).await.unwrap().unwrap();
    let (tags, errors) = raw.until_ready().await;
    assert_eq!(errors, Vec::<String>::new(), "{tags}");
    let sql = format!("SELECT v FROM t WHERE id = {}", keys[1]);
    assert_eq!(value(&other, &sql).await, "1");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_that_has_lost_its_lock_does_not_commit() {
    let cluster = Cluster::start().await;
    let keys = cluster.rows_on_both(&cluster.connect().await).await;
    let client = cluster.connect().await;
    client
        .batch_execute("BEGIN; SELECT pg_advisory_xact_lock(4)")
        .await
        .unwrap();
    let sql = format!("UPDATE t SET v = 9 WHERE id = {}", keys[1]);
    client.batch_execute(&sql).await.unwrap();
    end_holders(&cluster).await;
    let error = client.batch_execute("COMMIT").await.unwrap_err();
    assert_eq!(code(&error), "08006", "{error}");
    let sql = format!("SELECT v FROM t WHERE id = {}", keys[1]);
    assert_eq!(value(&client, &sql).await, "0");
}

/// Ends the backends that have advisory locks on the first group, as when its leader is gone.
async fn end_holders(cluster: &Cluster) {
    let sql = "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND granted";
    let ended = cluster.direct(0).await.query(sql, &[]).await.expect(sql);
    assert!(!ended.is_empty());
    until_held(cluster, 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_has_lost_its_lock_ends() {
    let cluster = Cluster::start().await;
    let keys = cluster.rows_on_both(&cluster.connect().await).await;
    // While its client says nothing, and is in a transaction of another group.
    let begin = format!("BEGIN; UPDATE t SET v = 5 WHERE id = {}", keys[1]);
    for also in ["SELECT 1", &begin] {
        let mut raw = Raw::start(&cluster).await;
        for sql in ["SELECT pg_advisory_lock(4)", also] {
            raw.query(sql);
            raw.send().await;
            raw.until_ready().await;
        }
        end_holders(&cluster).await;
        let words = timeout(LATE, raw.last_words()).await.unwrap();
        assert!(
            words.contains("FATAL") && words.contains("57P01"),
            "{also}: {words}"
        );
        assert!(words.contains("advisory locks are lost"), "{words}");
    }
    let client = cluster.connect().await;
    let sql = format!("SELECT v FROM t WHERE id = {}", keys[1]);
    assert_eq!(value(&client, &sql).await, "0");
    // While it waits for a second one. What comes after in the same Query is not run.
    let other = cluster.connect().await;
    other.batch_execute("SELECT pg_advisory_lock(2)").await.unwrap();
    let mut raw = Raw::start(&cluster).await;
    raw.query("SELECT pg_advisory_lock(1)");
    raw.query(&format!(
        "SELECT pg_advisory_lock(2); UPDATE t SET v = 5 WHERE id = {}",
        keys[1]
    ));
    raw.query(&format!("UPDATE t SET v = 5 WHERE id = {}", keys[1]));
    raw.send().await;
    until_waiting(&cluster, 0).await;
    let sql = "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted";
    cluster.direct(0).await.query_one(sql, &[]).await.unwrap();
    let words = timeout(LATE, raw.last_words()).await.unwrap();
    assert!(words.contains("FATAL") && words.contains("57P01"), "{words}");
    let sql = format!("SELECT v FROM t WHERE id = {}", keys[1]);
    assert_eq!(value(&client, &sql).await, "0");
    assert_eq!(held(&cluster, 0).await, 1, "that of the other session");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wait_for_a_lock_ends_by_cancel_and_by_timeouts() {
    let cluster = Cluster::start().await;
    let [one, two] = [cluster.connect().await, cluster.connect().await];
    one.batch_execute("SELECT pg_advisory_lock(1)").await.unwrap();
    for (setting, sqlstate) in [("statement_timeout", "57014"), ("lock_timeout", "55P03")] {
        two.batch_execute(&format!("SET {setting} = '300ms'"))
            .await
            .unwrap();
        for sql in [
            "SELECT pg_advisory_lock(1)",
            "SELECT pg_advisory_xact_lock_shared(1)",
        ] {
            let error = timeout(LATE, two.batch_execute(sql)).await.unwrap().unwrap_err();
            assert_eq!(code(&error), sqlstate, "{sql} with {setting}");
        }
        two.batch_execute(&format!("RESET {setting}")).await.unwrap();
    }
    let cancel = two.cancel_token();
    let waits = two.execute("SELECT pg_advisory_lock($1)", &[&1_i64]);
    tokio::pin!(waits);
    assert!(timeout(SOON, &mut waits).await.is_err());
    cancel.cancel_query(tokio_postgres::NoTls).await.unwrap();
    let error = timeout(LATE, &mut waits).await.unwrap().unwrap_err();
    assert_eq!(code(&error), "57014");
    assert_eq!(value(&two, "SELECT pg_try_advisory_lock(2)").await, "t");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deadlock_between_a_lock_and_a_row_of_another_group_has_one_victim() {
    let cluster = Cluster::start().await;
    let keys = cluster.rows_on_both(&cluster.connect().await).await;
    let update = format!("UPDATE t SET v = v + 1 WHERE id = {}", keys[1]);
    // Of a transaction, and of a session that is in none.
    for locks in [
        "BEGIN; SELECT pg_advisory_xact_lock(1)",
        "SELECT pg_advisory_lock(1)",
    ] {
        let [one, two] = [cluster.connect().await, cluster.connect().await];
        one.batch_execute(&format!("BEGIN; {update}")).await.unwrap();
        two.batch_execute(locks).await.unwrap();
        let both = async {
            tokio::join!(one.batch_execute("SELECT pg_advisory_lock(1)"), async {
                let done = two.batch_execute(&update).await;
                // The victim's session still has its lock, as in PostgreSQL.
                let sql = "ROLLBACK; SELECT pg_advisory_unlock_all()";
                two.batch_execute(sql).await.unwrap();
                done
            })
        };
        let (first, second) = timeout(LATE, both).await.expect(locks);
        assert!(first.is_ok(), "{locks}: {first:?}");
        assert_eq!(code(&second.expect_err("it is the younger")), "40P01", "{locks}");
        for client in [&one, &two] {
            client.batch_execute("ROLLBACK").await.unwrap();
            client
                .batch_execute("SELECT pg_advisory_unlock_all()")
                .await
                .unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn half_of_a_nodes_backends_can_be_kept_and_one_more_is_told() {
    let cluster = Cluster::with(Limits {
        max_backends: 4,
        ..Limits::default()
    })
    .await;
    let keys = cluster.rows_on_both(&cluster.connect().await).await;
    let clients = join_all((0..3).map(|_| cluster.connect())).await;
    let lock = |number: usize| format!("SELECT pg_try_advisory_lock({number})");
    for (number, client) in clients.iter().take(2).enumerate() {
        assert_eq!(value(client, &lock(number)).await, "t");
    }
    let sql = lock(2);
    let error = timeout(LATE, clients[2].batch_execute(&sql));
    let error = error.await.expect("at once").unwrap_err();
    assert_eq!((code(&error), hint(&error).contains("release")), ("53300", true));
    // All others work, and it may have locks within its transactions.
    for client in &clients {
        let sql = format!(
            "BEGIN; SELECT pg_advisory_xact_lock(9); UPDATE t SET v = v + 1 WHERE id = {}; COMMIT",
            keys[1]
        );
        client.batch_execute(&sql).await.unwrap();
    }
    clients[0]
        .batch_execute("SELECT pg_advisory_unlock_all()")
        .await
        .unwrap();
    clients[0].batch_execute("SELECT 1").await.unwrap();
    // Nor does it cost anything that it could not get one.
    for _ in 0..3 {
        assert_eq!(value(&clients[2], &lock(1)).await, "f");
        clients[2].batch_execute("SELECT 1").await.unwrap();
        assert_eq!(value(&clients[0], &lock(1)).await, "f");
        clients[0].batch_execute("SELECT 1").await.unwrap();
    }
    assert_eq!(value(&clients[2], &lock(2)).await, "t");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_of_rows_is_refused() {
    let cluster = Cluster::start().await;
    let keys = cluster.rows_on_both(&cluster.connect().await).await;
    let client = cluster.connect().await;
    for sql in [
        "SELECT pg_advisory_lock(id) FROM t".to_owned(),
        format!("SELECT pg_advisory_xact_lock(v) FROM t WHERE id = {}", keys[0]),
        "INSERT INTO t VALUES (7, pg_try_advisory_lock(1)::int)".to_owned(),
        "DECLARE c CURSOR FOR SELECT pg_advisory_lock(1)".to_owned(),
        "CREATE TABLE u (id bigint PRIMARY KEY, b bool DEFAULT pg_try_advisory_lock(1))".to_owned(),
    ] {
        let error = client.batch_execute(&sql).await.unwrap_err();
        assert_eq!(code(&error), "0A000", "{sql}");
    }
    assert_eq!(held(&cluster, 0).await, 0);
    // PREPARE and EXPLAIN ANALYZE do what their statement does.
    for sql in [
        "PREPARE p AS SELECT pg_try_advisory_lock($1); EXECUTE p(1)",
        "EXPLAIN ANALYZE SELECT pg_advisory_lock(1)",
    ] {
        client.batch_execute(sql).await.expect(sql);
        assert_eq!(held(&cluster, 0).await, 1, "{sql}");
        client
            .batch_execute("SELECT pg_advisory_unlock_all()")
            .await
            .unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_that_goes_with_its_backend_when_a_commit_fails_ends_the_session() {
    let cluster = Cluster::start().await;
    let keys = cluster.rows_on_both(&cluster.connect().await).await;
    let client = cluster.connect().await;
    let table = "CREATE TABLE u (id bigint, UNIQUE (id) DEFERRABLE INITIALLY DEFERRED)";
    client.batch_execute(table).await.unwrap();
    client.batch_execute("SELECT pg_advisory_lock(5)").await.unwrap();
    let (read, wrote) = (keys[0], keys[1]);
    // The home group was only read, and commits before the other one finds its rule broken: it may have the setting.
    let sql = format!(
        "BEGIN; SET work_mem = '7MB'; SELECT v FROM t WHERE id = {read}; \
         INSERT INTO u VALUES ({wrote}); INSERT INTO u VALUES ({wrote})"
    );
    client.batch_execute(&sql).await.unwrap();
    let error = client.batch_execute("COMMIT").await.unwrap_err();
    assert!(
        error.is_closed() || ["23505", "57P01"].contains(&code(&error)),
        "{error}"
    );
    let error = client.batch_execute("SELECT 1").await.unwrap_err();
    assert!(error.is_closed() || code(&error) == "57P01", "{error}");
    // Another may have it.
    let other = cluster.connect().await;
    timeout(LATE, other.batch_execute("SELECT pg_advisory_lock(5)"))
        .await
        .expect("it is free")
        .unwrap();
}
