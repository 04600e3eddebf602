//! FOR UPDATE with ORDER BY and LIMIT over all groups, compared with one PostgreSQL.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use proxy::Limits;
use tokio_postgres::{Client, SimpleQueryMessage};

use crate::harness::{Cluster, code, run};

const SCHEMA: &str = "
CREATE TABLE jobs (id int PRIMARY KEY, state text, priority numeric, due timestamptz);
INSERT INTO jobs SELECT i, (ARRAY['new', 'done'])[i % 2 + 1], nullif(i % 5, 3) * 1.5, timestamptz '2024-01-01 10:00+00' + i % 7 * interval '1 day'
    FROM generate_series(1, 30) i;
";

/// Their rows come in the order that is asked for.
const ORDERED: &[&str] = &[
    "SELECT id, state FROM jobs ORDER BY id FOR UPDATE",
    "SELECT * FROM jobs WHERE state = 'new' ORDER BY priority DESC NULLS LAST, id LIMIT 3 FOR UPDATE SKIP LOCKED",
    "SELECT due AS at, id FROM jobs j ORDER BY at, j.id DESC LIMIT 5 OFFSET 2 FOR NO KEY UPDATE OF j SKIP LOCKED",
    "SELECT id FROM jobs ORDER BY 1 FETCH FIRST 4 ROWS ONLY FOR SHARE SKIP LOCKED",
    "SELECT id FROM jobs ORDER BY due DESC, id OFFSET 3 FOR KEY SHARE NOWAIT",
    "SELECT id + 1, 'for update' FROM jobs WHERE priority > 2 ORDER BY id % 4, id FOR UPDATE",
    "SELECT id FROM jobs ORDER BY id LIMIT 0 FOR UPDATE SKIP LOCKED",
    "SELECT id FROM jobs WHERE false ORDER BY id FOR UPDATE",
    "SELECT id FROM jobs WHERE id = 5 ORDER BY state LIMIT 1 FOR UPDATE",
    "SELECT id FROM jobs WHERE now() > due ORDER BY id LIMIT 2 FOR UPDATE SKIP LOCKED",
    // Errors.
    "SELECT 1 / (id - 7) FROM jobs ORDER BY id FOR UPDATE",
    "SELECT nothing FROM jobs ORDER BY id FOR UPDATE",
];

/// What a Query gives: rows, and what it has counted; or the SQLSTATE.
async fn asked(client: &Client, sql: &str) -> Result<Vec<String>, String> {
    let messages = client.simple_query(sql).await;
    let messages = messages.map_err(|error| code(&error).to_owned())?;
    let shown = messages.into_iter().filter_map(|message| match message {
        SimpleQueryMessage::Row(row) => {
            let values: Vec<_> = (0..row.len()).map(|at| row.get(at).unwrap_or("NULL")).collect();
            Some(values.join(" "))
        }
        SimpleQueryMessage::CommandComplete(count) => Some(format!("counted {count}")),
        _ => None,
    });
    Ok(shown.collect())
}

async fn both(cluster: &Cluster) -> (Client, Client) {
    let client = cluster.connect().await;
    run(&client, SCHEMA).await;
    (client, cluster.plain_database(SCHEMA).await)
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_are_locked_and_given_in_order() {
    let cluster = Cluster::start().await;
    let (client, plain) = both(&cluster).await;
    for begin in ["", "BEGIN", "BEGIN ISOLATION LEVEL REPEATABLE READ"] {
        for sql in ORDERED {
            let mut all = Vec::new();
            for on in [&client, &plain] {
                run(on, begin).await;
                all.push(asked(on, sql).await);
                run(on, "ROLLBACK").await;
            }
            assert_eq!(all[0], all[1], "{begin} {sql}");
        }
    }
    let ids = |rows: Vec<tokio_postgres::Row>| rows.iter().map(|row| row.get(0)).collect::<Vec<i32>>();
    let sql = "SELECT id FROM jobs WHERE id > $1 ORDER BY priority, id DESC LIMIT 3 FOR UPDATE SKIP LOCKED";
    let (here, there) = (client.query(sql, &[&2]).await, plain.query(sql, &[&2]).await);
    assert_eq!(ids(here.unwrap()), ids(there.unwrap()));
    let sql = "SELECT id FROM jobs WHERE id > $2 ORDER BY id DESC LIMIT $1 FOR UPDATE SKIP LOCKED";
    for limit in [Some(0_i64), Some(4), Some(100), None] {
        let (here, there) = (
            client.query(sql, &[&limit, &3]).await,
            plain.query(sql, &[&limit, &3]).await,
        );
        assert_eq!(ids(here.unwrap()), ids(there.unwrap()), "{limit:?}");
    }
    for on in [&client, &plain] {
        let error = on.query(sql, &[&Some(-1_i64), &3]).await.unwrap_err();
        assert_eq!(code(&error), "2201W");
    }
    // Without an order as many as are wanted.
    let rows = asked(&client, "SELECT id FROM jobs LIMIT 20 FOR UPDATE SKIP LOCKED")
        .await
        .unwrap();
    assert_eq!(rows.iter().collect::<BTreeSet<_>>().len(), 21);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_has_locked_others_do_not_get() {
    let cluster = Cluster::start().await;
    let (mut client, _) = both(&cluster).await;
    let other = cluster.connect().await;
    let first = "SELECT id FROM jobs ORDER BY id LIMIT 1 FOR UPDATE SKIP LOCKED";
    run(&client, "BEGIN").await;
    assert_eq!(asked(&client, first).await.unwrap(), ["1", "counted 1"]);
    let next = asked(&other, first).await.unwrap();
    assert_ne!(next[0], "1");
    let error = asked(&other, "SELECT id FROM jobs ORDER BY id FOR SHARE NOWAIT").await;
    assert_eq!(error, Err("55P03".to_owned()));
    run(&client, "ROLLBACK").await;
    // Without LIMIT all are locked, in every group, and a second waits for the first.
    run(&client, "BEGIN").await;
    let all = asked(&client, "SELECT id FROM jobs ORDER BY id DESC FOR UPDATE")
        .await
        .unwrap();
    assert_eq!((all.len(), all[0].as_str()), (31, "30"));
    assert_eq!(asked(&other, first).await.unwrap(), ["counted 0"]);
    run(&other, "SET lock_timeout = '200ms'").await;
    let error = asked(&other, "SELECT id FROM jobs WHERE id < 9 ORDER BY id FOR UPDATE").await;
    assert_eq!(error, Err("55P03".to_owned()));
    run(&client, "COMMIT").await;
    let again = asked(&other, "SELECT id FROM jobs WHERE id < 9 ORDER BY id FOR UPDATE").await;
    assert_eq!(again.unwrap().len(), 9);
    // Some of the rows at a time: all are locked at the first.
    let transaction = client.transaction().await.unwrap();
    let sql = "SELECT id FROM jobs ORDER BY id LIMIT 10 FOR UPDATE SKIP LOCKED";
    let portal = transaction.bind(sql, &[]).await.unwrap();
    let mut ids: Vec<i32> = Vec::new();
    for _ in 0..4 {
        let rows = transaction.query_portal(&portal, 3).await.unwrap();
        ids.extend(rows.iter().map(|row| row.get::<_, i32>(0)));
    }
    assert_eq!(ids, (1..=10).collect::<Vec<_>>());
    transaction.rollback().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn each_job_of_a_queue_is_taken_once() {
    let cluster = Cluster::start().await;
    let (client, _) = both(&cluster).await;
    let taken = Arc::new(Mutex::new(Vec::new()));
    let mut workers = Vec::new();
    for _ in 0..4 {
        let (worker, taken) = (cluster.connect().await, Arc::clone(&taken));
        workers.push(tokio::spawn(async move {
            loop {
                run(&worker, "BEGIN").await;
                let sql = "SELECT id FROM jobs ORDER BY priority, id LIMIT 1 FOR UPDATE SKIP LOCKED";
                if let Some(row) = worker.query_opt(sql, &[]).await.expect(sql) {
                    let id: i32 = row.get(0);
                    let gone = worker.execute("DELETE FROM jobs WHERE id = $1", &[&id]).await;
                    assert_eq!(gone.expect("a DELETE"), 1);
                    run(&worker, "COMMIT").await;
                    taken.lock().expect("nobody panics with it").push(id);
                } else {
                    run(&worker, "COMMIT").await;
                    let left = worker.query_one("SELECT count(*) FROM jobs", &[]).await;
                    if left.expect("a count").get::<_, i64>(0) == 0 {
                        break;
                    }
                }
            }
        }));
    }
    for worker in workers {
        worker.await.expect("a worker");
    }
    let mut taken = taken.lock().expect("nobody panics with it").clone();
    taken.sort_unstable();
    assert_eq!(taken, (1..=30).collect::<Vec<_>>());
    drop(client);
}

#[tokio::test(flavor = "multi_thread")]
async fn locks_that_no_group_can_give_in_order_are_refused() {
    let limits = Limits {
        max_gathered: 16 << 10,
        ..Limits::default()
    };
    let cluster = Cluster::with(limits).await;
    let (client, _) = both(&cluster).await;
    run(
        &client,
        "CREATE TABLE other (id int PRIMARY KEY); CREATE TABLE wide (id int PRIMARY KEY, v text)",
    )
    .await;
    run(
        &client,
        "INSERT INTO wide VALUES (1, repeat('x', 9000)), (2, repeat('x', 9000)), (3, repeat('x', 9000))",
    )
    .await;
    for (sql, what) in [
        ("SELECT id FROM jobs ORDER BY id LIMIT 1 FOR UPDATE", "with LIMIT"),
        (
            "SELECT id FROM jobs ORDER BY id LIMIT 1 FOR UPDATE NOWAIT",
            "with LIMIT",
        ),
        (
            "SELECT id FROM jobs ORDER BY id FOR UPDATE SKIP LOCKED LIMIT 1",
            "behind it",
        ),
        (
            "SELECT id FROM jobs ORDER BY due - due, id FOR UPDATE",
            "this ORDER BY",
        ),
        ("SELECT id FROM jobs ORDER BY random() FOR UPDATE", "ORDER BY"),
        (
            "SELECT jobs.id FROM jobs, other ORDER BY jobs.id FOR UPDATE",
            "FOR UPDATE",
        ),
        (
            "SELECT id FROM jobs WHERE id IN (SELECT id FROM other) ORDER BY id FOR UPDATE",
            "FOR UPDATE",
        ),
        (
            "WITH j AS (SELECT id FROM jobs ORDER BY id LIMIT 1 FOR UPDATE SKIP LOCKED) SELECT * FROM j",
            "FOR UPDATE or FOR SHARE in a subquery",
        ),
        (
            "DECLARE c CURSOR FOR SELECT id FROM jobs ORDER BY id FOR UPDATE",
            "cursor",
        ),
        (
            "COPY (SELECT id FROM jobs ORDER BY id FOR UPDATE) TO STDOUT",
            "COPY",
        ),
    ] {
        let error = client.simple_query(sql).await.expect_err(sql);
        assert_eq!(code(&error), "0A000", "{sql}: {error:?}");
        let message = error.as_db_error().unwrap().message();
        assert!(message.contains(what), "{sql}: {message}");
    }
    run(&client, "BEGIN").await;
    let error = asked(&client, "SELECT * FROM wide ORDER BY id FOR UPDATE").await;
    assert_eq!(error, Err("53400".to_owned()));
    run(&client, "ROLLBACK").await;
    let lines = asked(
        &client,
        "EXPLAIN (HOWDAH) SELECT id FROM jobs ORDER BY id LIMIT 1 FOR UPDATE SKIP LOCKED",
    )
    .await
    .unwrap();
    assert!(
        lines[2].starts_with("The node: puts their rows together as they come, by id, 1 of them"),
        "{lines:?}"
    );
}
