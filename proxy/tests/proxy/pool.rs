//! Backends that sessions share.

use std::cell::Cell;
use std::time::{Duration, Instant};

use futures::future::join_all;
use proxy::Limits;
use tokio_postgres::{Client, NoTls};

use crate::harness::raw::Raw;
use crate::harness::{Cluster, code};

async fn with_backends(most: usize) -> Cluster {
    let limits = Limits {
        max_backends: most,
        ..Limits::default()
    };
    Cluster::with(limits).await
}

/// A table with ten rows on each group.
async fn table(cluster: &Cluster) -> Client {
    let client = cluster.connect().await;
    client
        .batch_execute("CREATE TABLE t (id bigint PRIMARY KEY, v bigint)")
        .await
        .expect("it succeeds");
    for server in 0..2 {
        for key in cluster.keys_of(server, 10) {
            let sql = format!("INSERT INTO t VALUES ({key}, 0)");
            client.batch_execute(&sql).await.expect(&sql);
        }
    }
    client
}

/// Backends of clients on one group.
async fn backends(cluster: &Cluster, server: usize) -> i64 {
    let sql = "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend' \
               AND application_name = 'shares'";
    cluster
        .direct(server)
        .await
        .query_one(sql, &[])
        .await
        .expect("it succeeds")
        .get(0)
}

async fn shown(client: &Client, name: &str) -> String {
    let rows = client.query(&format!("SHOW {name}"), &[]).await.expect("rows");
    rows[0].get(0)
}

#[tokio::test(flavor = "multi_thread")]
async fn many_sessions_work_with_few_backends() {
    let cluster = with_backends(4).await;
    table(&cluster).await;
    let keys = [cluster.keys_of(0, 10), cluster.keys_of(1, 10)].concat();
    let mut sessions = Vec::new();
    for _ in 0..60 {
        sessions.push(cluster.connect_as("user=postgres application_name=shares").await);
    }
    let keys = &keys;
    let work = sessions.iter().enumerate().map(|(number, session)| async move {
        let update = session
            .prepare("UPDATE t SET v = v + 1 WHERE id = $1")
            .await
            .unwrap();
        for step in 0..10 {
            let key = keys[(number * 7 + step) % keys.len()];
            assert_eq!(session.execute(&update, &[&key]).await.unwrap(), 1);
            if step % 5 == 0 {
                let rows = session.query("SELECT id FROM t", &[]).await.unwrap();
                assert_eq!(rows.len(), 20);
            }
        }
    });
    join_all(work).await;
    for server in 0..2 {
        let count = backends(&cluster, server).await;
        assert!((1..=4).contains(&count), "{count} on server {server}");
    }
    let rows = sessions[0].query("SELECT v FROM t", &[]).await.unwrap();
    let sum: i64 = rows.iter().map(|row| row.get::<_, i64>(0)).sum();
    assert_eq!(sum, 600);
    drop(sessions);
    // With the sessions their backends go.
    for server in 0..2 {
        for _ in 0..200 {
            if backends(&cluster, server).await == 0 {
                break;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert_eq!(backends(&cluster, server).await, 0, "server {server}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_finds_its_own_settings_and_nobody_elses() {
    let cluster = with_backends(1).await;
    let one = table(&cluster).await;
    let two = cluster.connect().await;
    one.batch_execute("CREATE ROLE someone; GRANT SELECT ON t TO someone")
        .await
        .unwrap();
    one.batch_execute("SET work_mem = '7MB'; SET TimeZone = 'Asia/Tokyo'; SET ROLE someone")
        .await
        .unwrap();
    for round in 0..3 {
        assert_eq!(shown(&two, "work_mem").await, "4MB", "{round}");
        assert_eq!(shown(&two, "role").await, "none", "{round}");
        two.batch_execute("UPDATE t SET v = v WHERE v = 0").await.unwrap();
        assert_eq!(shown(&one, "work_mem").await, "7MB", "{round}");
        assert_eq!(shown(&one, "TimeZone").await, "Asia/Tokyo", "{round}");
        let error = one
            .batch_execute("UPDATE t SET v = v WHERE v = 0")
            .await
            .unwrap_err();
        assert_eq!(code(&error), "42501", "{round}");
    }
    // What is undone is undone where it comes next, too.
    one.batch_execute("RESET ROLE; RESET work_mem").await.unwrap();
    two.batch_execute("SET work_mem = '9MB'; BEGIN; SET LOCAL work_mem = '10MB'; COMMIT")
        .await
        .unwrap();
    assert_eq!(shown(&one, "work_mem").await, "4MB");
    assert_eq!(shown(&two, "work_mem").await, "9MB");
    two.batch_execute("DISCARD ALL").await.unwrap();
    assert_eq!(shown(&two, "work_mem").await, "4MB");
    assert_eq!(shown(&one, "TimeZone").await, "Asia/Tokyo");
}

#[tokio::test(flavor = "multi_thread")]
async fn prepared_statements_of_the_same_name_are_each_sessions_own() {
    let cluster = with_backends(1).await;
    let one = table(&cluster).await;
    let two = cluster.connect().await;
    let key = cluster.keys_of(0, 1)[0];
    // The driver names both s0 and so on, in this order.
    let first = [
        one.prepare("SELECT id FROM t WHERE id = $1").await.unwrap(),
        two.prepare("SELECT id, v FROM t WHERE id = $1").await.unwrap(),
    ];
    let second = [
        one.prepare("SELECT 'same' AS x, id FROM t WHERE id = $1")
            .await
            .unwrap(),
        two.prepare("SELECT 'same' AS x, id FROM t WHERE id = $1")
            .await
            .unwrap(),
    ];
    for _ in 0..3 {
        for (session, number) in [(&one, 0), (&two, 1)] {
            let row = session.query_one(&first[number], &[&key]).await.unwrap();
            assert_eq!((row.len(), row.get::<_, i64>(0)), (number + 1, key));
            let row = session.query_one(&second[number], &[&key]).await.unwrap();
            assert_eq!(row.get::<_, i64>("id"), key);
        }
    }
    one.batch_execute("PREPARE p AS SELECT 1 AS a").await.unwrap();
    let error = two.batch_execute("EXECUTE p").await.unwrap_err();
    assert_eq!(code(&error), "26000");
    two.batch_execute("PREPARE p AS SELECT 2 AS b, 3 AS c")
        .await
        .unwrap();
    for _ in 0..2 {
        assert_eq!(
            one.query("EXECUTE p", &[]).await.unwrap()[0].get::<_, i32>("a"),
            1
        );
        assert_eq!(
            two.query("EXECUTE p", &[]).await.unwrap()[0].get::<_, i32>("c"),
            3
        );
    }
    one.batch_execute("DEALLOCATE ALL").await.unwrap();
    assert_eq!(
        two.query("EXECUTE p", &[]).await.unwrap()[0].get::<_, i32>("b"),
        2
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_statement_is_told_of_a_changed_result_as_by_one_server() {
    let cluster = with_backends(1).await;
    let one = table(&cluster).await;
    let two = cluster.connect().await;
    let keys = [cluster.keys_of(0, 1)[0], cluster.keys_of(1, 1)[0]];
    let every = one.prepare("SELECT * FROM t WHERE id = $1").await.unwrap();
    let ids = one.prepare("SELECT id FROM t WHERE id = $1").await.unwrap();
    assert_eq!(one.query_one(&every, &[&keys[0]]).await.unwrap().len(), 2);
    two.batch_execute("ALTER TABLE t ADD COLUMN w int DEFAULT 5")
        .await
        .unwrap();
    // Prepared afterwards it has the new column, also under a name that another session has used before.
    let new = two.prepare("SELECT * FROM t WHERE id = $1").await.unwrap();
    for key in keys {
        assert_eq!(two.query_one(&new, &[&key]).await.unwrap().get::<_, i32>("w"), 5);
        // Whether or not a backend has seen it before, and each time.
        for _ in 0..2 {
            let error = one.query_one(&every, &[&key]).await.unwrap_err();
            assert_eq!(code(&error), "0A000", "{error}");
        }
        assert_eq!(one.query_one(&ids, &[&key]).await.unwrap().get::<_, i64>(0), key);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_session_needs_it_keeps_and_others_wait_for_it() {
    let cluster = Cluster::with(Limits {
        max_backends: 1,
        backend_wait: Duration::from_secs(3),
        ..Limits::default()
    })
    .await;
    let one = table(&cluster).await;
    let two = cluster.connect().await;
    let key = cluster.keys_of(0, 1)[0];
    let select = format!("SELECT v FROM t WHERE id = {key}");
    one.batch_execute(&format!("BEGIN; UPDATE t SET v = 1 WHERE id = {key}"))
        .await
        .unwrap();
    let error = two.batch_execute(&select).await.unwrap_err();
    assert_eq!(code(&error), "53300");
    // Who waits gets it as soon as it is free.
    let (waited, ()) = tokio::join!(two.query_one(&select, &[]), async {
        tokio::time::sleep(Duration::from_millis(500)).await;
        one.batch_execute("COMMIT").await.unwrap();
    });
    assert_eq!(waited.unwrap().get::<_, i64>(0), 1);
    let declare = format!("BEGIN; DECLARE c CURSOR WITH HOLD FOR {select}; COMMIT");
    one.batch_execute(&declare).await.unwrap();
    let error = two.batch_execute(&select).await.unwrap_err();
    assert_eq!(code(&error), "53300");
    assert_eq!(one.query("FETCH ALL FROM c", &[]).await.unwrap().len(), 1);
    one.batch_execute("CLOSE c").await.unwrap();
    two.batch_execute(&select).await.unwrap();
    // A session that ends in the middle leaves nothing behind.
    one.batch_execute(&format!("BEGIN; UPDATE t SET v = 2 WHERE id = {key}"))
        .await
        .unwrap();
    drop(one);
    assert_eq!(two.query_one(&select, &[]).await.unwrap().get::<_, i64>(0), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancel_never_meets_another_session() {
    let cluster = with_backends(1).await;
    let one = table(&cluster).await;
    let two = cluster.connect().await;
    let token = one.cancel_token();
    let (met, over) = (Cell::new(0), Cell::new(false));
    let cancels = async {
        // On a busy machine most of them come too late.
        let until = Instant::now() + Duration::from_secs(60);
        let mut sent = 0;
        while sent < 150 || (met.get() == 0 && Instant::now() < until) {
            token.cancel_query(NoTls).await.unwrap();
            sent += 1;
        }
        over.set(true);
    };
    let cancelled = async {
        while !over.get() {
            if let Err(error) = one.batch_execute("SELECT pg_sleep(0.002)").await {
                assert_eq!(code(&error), "57014");
                met.set(met.get() + 1);
            }
        }
    };
    let undisturbed = async {
        while !over.get() {
            two.batch_execute("SELECT pg_sleep(0.001)").await.unwrap();
        }
    };
    tokio::join!(cancels, cancelled, undisturbed);
    assert!(met.get() > 0, "no cancel met anything");
}

/// Runs on the backend of this key's group.
async fn at(client: &Client, key: i64, what: &str) -> String {
    let sql = format!("SELECT {what} FROM t WHERE id = {key}");
    client.query_one(&sql, &[]).await.expect("a row").get(0)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_failed_commit_has_set_stays_with_nobody() {
    let cluster = with_backends(1).await;
    let one = table(&cluster).await;
    let two = cluster.connect().await;
    let keys = [cluster.keys_of(0, 1)[0], cluster.keys_of(1, 1)[0]];
    let table = "CREATE TABLE u (id bigint, UNIQUE (id) DEFERRABLE INITIALLY DEFERRED)";
    one.batch_execute(table).await.unwrap();
    for (read, wrote) in [(keys[0], keys[1]), (keys[1], keys[0])] {
        // The group that was only read commits before the other one finds its rule broken.
        let sql = format!(
            "BEGIN; SET work_mem = '7MB'; DECLARE c CURSOR WITH HOLD FOR SELECT v FROM t WHERE id = {read}; \
             INSERT INTO u VALUES ({wrote}); INSERT INTO u VALUES ({wrote})"
        );
        one.batch_execute(&sql).await.unwrap();
        let error = one.batch_execute("COMMIT").await.unwrap_err();
        assert_eq!(code(&error), "23505");
        for key in keys {
            for session in [&two, &one] {
                assert_eq!(at(session, key, "current_setting('work_mem')").await, "4MB");
            }
        }
        let error = two.batch_execute("FETCH ALL FROM c").await.unwrap_err();
        assert_eq!(code(&error), "34000");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn roles_outlive_reset_all_and_not_discard_all() {
    let cluster = with_backends(4).await;
    let one = table(&cluster).await;
    let keys = [cluster.keys_of(0, 1)[0], cluster.keys_of(1, 1)[0]];
    one.batch_execute("CREATE ROLE someone; GRANT SELECT ON t TO someone")
        .await
        .unwrap();
    one.batch_execute("SET ROLE someone; SET work_mem = '7MB'; RESET ALL")
        .await
        .unwrap();
    for key in keys {
        assert_eq!(at(&one, key, "current_user::text").await, "someone");
        assert_eq!(at(&one, key, "current_setting('work_mem')").await, "4MB");
    }
    one.batch_execute("DISCARD ALL").await.unwrap();
    for key in keys {
        assert_eq!(at(&one, key, "current_user::text").await, "postgres");
    }
    // A role that is gone is no obstacle to its own end.
    let two = cluster.connect().await;
    two.batch_execute("CREATE ROLE gone; GRANT SELECT ON t TO gone")
        .await
        .unwrap();
    for end in ["RESET ROLE", "SET ROLE someone", "DISCARD ALL"] {
        two.batch_execute("SET ROLE gone").await.unwrap();
        let sql = "REVOKE ALL ON t FROM gone; DROP ROLE gone";
        one.batch_execute(sql).await.unwrap();
        two.batch_execute(end).await.expect(end);
        let user = if end.starts_with("SET") {
            "someone"
        } else {
            "postgres"
        };
        for key in keys {
            assert_eq!(at(&two, key, "current_user::text").await, user, "{end}");
        }
        two.batch_execute("RESET ROLE").await.unwrap();
        one.batch_execute("CREATE ROLE gone; GRANT SELECT ON t TO gone")
            .await
            .unwrap();
    }
    one.batch_execute(
        "SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL SERIALIZABLE; \
         SET SESSION CHARACTERISTICS AS TRANSACTION READ WRITE",
    )
    .await
    .unwrap();
    for key in keys {
        let level = "current_setting('default_transaction_isolation')";
        assert_eq!(at(&one, key, level).await, "serializable");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shared_statement_has_no_constants_of_another_sessions_settings() {
    let cluster = with_backends(2).await;
    let one = table(&cluster).await;
    let two = cluster.connect().await;
    let keys = [cluster.keys_of(0, 1)[0], cluster.keys_of(1, 1)[0]];
    let sql = "SELECT extract(epoch FROM timestamptz '2020-01-01 00:00')::bigint FROM t WHERE id = $1";
    let [first, second] = [one.prepare(sql).await.unwrap(), two.prepare(sql).await.unwrap()];
    one.batch_execute("SET TimeZone = 'Asia/Tokyo'").await.unwrap();
    for _ in 0..2 {
        for key in keys {
            one.query_one(&first, &[&key]).await.unwrap();
            let row = two.query_one(&second, &[&key]).await.unwrap();
            assert_eq!(row.get::<_, i64>(0), 1_577_836_800);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cursor_that_was_not_opened_pins_nothing() {
    let cluster = with_backends(1).await;
    let one = table(&cluster).await;
    let two = cluster.connect().await;
    let keys = [cluster.keys_of(0, 1)[0], cluster.keys_of(1, 1)[0]];
    let declare = |key, what| format!("DECLARE c CURSOR WITH HOLD FOR SELECT {what} FROM t WHERE id = {key}");
    let error = one.batch_execute(&declare(keys[0], "1/v")).await.unwrap_err();
    assert_eq!(code(&error), "22012");
    two.batch_execute("SELECT 1").await.unwrap();
    one.batch_execute(&declare(keys[0], "v")).await.unwrap();
    let error = one.batch_execute(&declare(keys[1], "v")).await.unwrap_err();
    assert_eq!(code(&error), "42P03");
    assert_eq!(one.query("FETCH ALL FROM c", &[]).await.unwrap().len(), 1);
    one.batch_execute("CLOSE c").await.unwrap();
    two.batch_execute("SELECT 1").await.unwrap();
    let sql = format!(
        "BEGIN; SAVEPOINT a; {}; ROLLBACK TO a; COMMIT",
        declare(keys[1], "v")
    );
    one.batch_execute(&sql).await.unwrap();
    two.batch_execute("SELECT 1").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_statement_that_outlives_its_session_keeps_its_place() {
    let cluster = Cluster::with(Limits {
        max_backends: 1,
        backend_wait: Duration::from_millis(200),
        ..Limits::default()
    })
    .await;
    let mut leaves = Raw::start(&cluster).await;
    leaves.query("SET statement_timeout = '3s'");
    leaves.until_ready().await;
    leaves.query("SELECT pg_sleep(3600)");
    leaves.send().await;
    let sleeps =
        "SELECT count(*) FROM pg_stat_activity WHERE query = 'SELECT pg_sleep(3600)' AND state = 'active'";
    let direct = [cluster.direct(0).await, cluster.direct(1).await];
    let sleeping = async || {
        let mut count = 0;
        for server in &direct {
            count += server.query_one(sleeps, &[]).await.unwrap().get::<_, i64>(0);
        }
        count
    };
    while sleeping().await == 0 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    drop(leaves);
    let port = cluster.address.port();
    let refused = cluster.try_connect(port, "").await;
    assert_eq!(code(&refused.err().unwrap()), "53300", "it still works");
    assert_eq!(sleeping().await, 1);
    // Its timeout ends it as if the session were there.
    let until = Instant::now() + Duration::from_secs(20);
    while let Err(error) = cluster.try_connect(port, "").await {
        assert_eq!(code(&error), "53300");
        assert!(Instant::now() < until, "it never ends");
    }
    assert_eq!(sleeping().await, 0);
}
