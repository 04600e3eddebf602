//! One statement that writes on two groups.

use tokio_postgres::types::Type;
use tokio_postgres::{Client, SimpleQueryMessage};

use crate::harness::raw::Raw;
use crate::harness::{Cluster, code};

/// A table with ten rows in each group, `v` being the key.
async fn table(cluster: &Cluster) -> (Client, Vec<i64>, Vec<i64>) {
    let client = cluster.connect().await;
    let sql = "CREATE TABLE t (id bigint PRIMARY KEY, v bigint CHECK (v < 1000000))";
    client.batch_execute(sql).await.expect("a table");
    let (one, two) = (cluster.keys_of(0, 10), cluster.keys_of(1, 10));
    for key in one.iter().chain(&two) {
        client
            .execute("INSERT INTO t VALUES ($1, $2)", &[key, key])
            .await
            .expect("a row");
    }
    (client, one, two)
}

async fn values(client: &Client) -> Vec<(i64, i64)> {
    let rows = client.query("SELECT id, v FROM t", &[]).await.expect("an answer");
    let mut values: Vec<_> = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
    values.sort_unstable();
    values
}

/// The rows of a Query and what its tag counts.
async fn simple(client: &Client, sql: &str) -> (usize, u64) {
    let (mut rows, mut counted) = (0, 0);
    for message in client.simple_query(sql).await.expect("it runs") {
        match message {
            SimpleQueryMessage::Row(_) => rows += 1,
            SimpleQueryMessage::CommandComplete(count) => counted += count,
            _ => {}
        }
    }
    (rows, counted)
}

#[tokio::test(flavor = "multi_thread")]
async fn update_and_delete_change_the_rows_of_both_groups() {
    let cluster = Cluster::start().await;
    let (client, one, two) = table(&cluster).await;
    assert_eq!(simple(&client, "UPDATE t SET v = v + 1").await, (0, 20));
    assert!(values(&client).await.iter().all(|(id, v)| *v == id + 1));
    let sql = format!(
        "UPDATE t SET v = 0 WHERE id IN ({}, {}) RETURNING id",
        one[0], two[0]
    );
    assert_eq!(simple(&client, &sql).await, (2, 2));
    // Prepared, with a key of each group; then with two of one.
    let update = client
        .prepare("UPDATE t SET v = $1 WHERE id IN ($2, $3) RETURNING id, v")
        .await
        .unwrap();
    for (a, b) in [(one[1], two[1]), (two[2], two[3]), (one[2], two[4])] {
        let rows = client.query(&update, &[&7_i64, &a, &b]).await.unwrap();
        let mut changed: Vec<(i64, i64)> = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
        changed.sort_unstable();
        let mut expected = vec![(a, 7), (b, 7)];
        expected.sort_unstable();
        assert_eq!(changed, expected);
        assert_eq!(client.execute(&update, &[&8_i64, &a, &b]).await.unwrap(), 2);
    }
    assert_eq!(
        client
            .execute("DELETE FROM t WHERE v = $1", &[&8_i64])
            .await
            .unwrap(),
        6
    );
    client
        .batch_execute("PREPARE d (bigint) AS DELETE FROM t WHERE v = $1")
        .await
        .unwrap();
    assert_eq!(simple(&client, "EXECUTE d (0)").await, (0, 2));
    assert_eq!(values(&client).await.len(), 12);
    let copied = cluster
        .psql("COPY (DELETE FROM t RETURNING id) TO STDOUT")
        .await
        .unwrap();
    assert_eq!(copied.lines().count(), 12);
    assert!(values(&client).await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_error_in_the_second_group_keeps_nothing_of_the_first() {
    let cluster = Cluster::start().await;
    let (client, one, two) = table(&cluster).await;
    let before = values(&client).await;
    let divide = format!("UPDATE t SET v = 1 / (id - {})", two[9]);
    assert_eq!(code(&client.batch_execute(&divide).await.unwrap_err()), "22012");
    assert_eq!(code(&client.execute(&divide, &[]).await.unwrap_err()), "22012");
    assert_eq!(values(&client).await, before);
    // A block fails as a whole, and its savepoint leads back.
    client.batch_execute("BEGIN").await.unwrap();
    client
        .execute("UPDATE t SET v = 1 WHERE id = $1", &[&one[0]])
        .await
        .unwrap();
    client.batch_execute("SAVEPOINT s").await.unwrap();
    assert_eq!(code(&client.execute(&divide, &[]).await.unwrap_err()), "22012");
    assert_eq!(
        code(&client.batch_execute("SELECT 1").await.unwrap_err()),
        "25P02"
    );
    client.batch_execute("ROLLBACK TO s").await.unwrap();
    assert_eq!(
        client.execute("DELETE FROM t WHERE v > 1", &[]).await.unwrap(),
        u64::try_from(before.iter().filter(|(id, v)| *v > 1 && *id != one[0]).count()).unwrap()
    );
    client.batch_execute("COMMIT").await.unwrap();
    assert!(values(&client).await.contains(&(one[0], 1)));
    // A rule that is looked at when it commits.
    let deferred = "CREATE TABLE d (id bigint, v bigint, UNIQUE (id, v) DEFERRABLE INITIALLY DEFERRED)";
    client.batch_execute(deferred).await.unwrap();
    for key in [one[0], one[0], two[0], two[0]] {
        let v = i64::try_from(simple(&client, "SELECT * FROM d").await.0).unwrap();
        client
            .execute("INSERT INTO d VALUES ($1, $2)", &[&key, &v])
            .await
            .unwrap();
    }
    for _ in 0..2 {
        let error = client.batch_execute("UPDATE d SET v = 0").await.unwrap_err();
        assert_eq!(code(&error), "23505");
        let error = client.execute("UPDATE d SET v = 0", &[]).await.unwrap_err();
        assert_eq!(code(&error), "23505");
    }
    assert_eq!(simple(&client, "SELECT * FROM d WHERE v = 0").await.0, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn it_is_one_transaction_with_what_is_around_it() {
    let cluster = Cluster::start().await;
    let (client, one, two) = table(&cluster).await;
    let other = cluster.connect().await;
    client.batch_execute("BEGIN").await.unwrap();
    assert_eq!(client.execute("UPDATE t SET v = 5", &[]).await.unwrap(), 20);
    assert!(values(&other).await.iter().all(|(id, v)| id == v));
    client.batch_execute("ROLLBACK").await.unwrap();
    assert!(values(&client).await.iter().all(|(id, v)| id == v));
    // Several statements in one Query.
    let sql = format!("UPDATE t SET v = 6; UPDATE t SET v = 1 / 0 WHERE id = {}", one[0]);
    assert_eq!(code(&client.batch_execute(&sql).await.unwrap_err()), "22012");
    assert!(values(&client).await.iter().all(|(id, v)| id == v));
    let sql = format!("UPDATE t SET v = 6; DELETE FROM t WHERE id = {}", two[0]);
    assert_eq!(simple(&client, &sql).await, (0, 21));
    assert_eq!(values(&client).await.len(), 19);
    // A pipeline.
    let mut raw = Raw::start(&cluster).await;
    let last = |v: &str| format!("UPDATE t SET v = {v} WHERE id = {}", one[0]);
    for (end, errors_expected) in [("8", &[][..]), ("1 / 0", &["22012"][..])] {
        for sql in ["UPDATE t SET v = v + 1 RETURNING id", &last(end)] {
            raw.parse("", sql);
            raw.bind("", "");
            raw.describe('P', "");
            raw.execute("", 0);
        }
        raw.sync();
        let (seen, errors) = raw.until_ready().await;
        assert_eq!(errors, errors_expected, "{seen}");
        assert!(seen.starts_with(&format!("12T{}C1", "D".repeat(19))), "{seen}");
    }
    let left = values(&client).await;
    assert!(
        left.iter().all(|(id, v)| *v == if *id == one[0] { 8 } else { 7 }),
        "{left:?}"
    );
    raw.parse("", "SELECT 1");
    raw.bind("", "");
    raw.execute("", 0);
    raw.sync();
    let (_, errors) = raw.until_ready().await;
    assert!(errors.is_empty(), "the session goes on: {errors:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn repeatable_read_writes_on_both_groups_and_serializable_is_refused() {
    let cluster = Cluster::start().await;
    let (client, ..) = table(&cluster).await;
    client
        .batch_execute("SET default_transaction_isolation = 'serializable'")
        .await
        .unwrap();
    let error = client.batch_execute("UPDATE t SET v = 0").await.unwrap_err();
    assert_eq!(code(&error), "0A000");
    let error = client.execute("UPDATE t SET v = 0", &[]).await.unwrap_err();
    assert_eq!(code(&error), "0A000");
    assert!(values(&client).await.iter().all(|(id, v)| id == v));
    client
        .batch_execute("SET default_transaction_isolation = 'repeatable read'")
        .await
        .unwrap();
    client.batch_execute("UPDATE t SET v = 1").await.unwrap();
    assert_eq!(client.execute("UPDATE t SET v = v + 1", &[]).await.unwrap(), 20);
    assert!(values(&client).await.iter().all(|(_, v)| *v == 2));
}

/// One row in each group: PostgreSQL's own writers of several rows do meet in circles, as each takes the rows in the order in which
/// they lie in its snapshot, and a page that was cleaned up takes new versions in another order.
#[tokio::test(flavor = "multi_thread")]
async fn writers_of_all_rows_do_not_wait_for_each_other_in_a_circle() {
    let cluster = Cluster::start().await;
    let client = cluster.connect().await;
    cluster.rows_on_both(&client).await;
    let writers = (0..4).map(|_| async {
        let client = cluster.connect().await;
        for _ in 0..25 {
            client.batch_execute("UPDATE t SET v = v + 1").await.unwrap();
        }
    });
    let all = futures::future::join_all(writers);
    tokio::time::timeout(std::time::Duration::from_secs(60), all)
        .await
        .expect("they end");
    assert!(values(&client).await.iter().all(|(_, v)| *v == 100));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_parameter_that_cannot_be_hashed_finds_its_row() {
    let cluster = Cluster::start().await;
    let (client, ..) = table(&cluster).await;
    let kinds = client
        .prepare_typed("DELETE FROM t WHERE id = $1", &[Type::FLOAT8])
        .await
        .unwrap();
    let first = values(&client).await[0].0;
    #[allow(clippy::cast_precision_loss, reason = "a small key")]
    let deleted = client.execute(&kinds, &[&(first as f64)]).await.unwrap();
    assert_eq!(deleted, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn inserted_rows_go_to_their_groups_and_come_back_in_order() {
    let cluster = Cluster::start().await;
    let client = cluster.connect().await;
    client
        .batch_execute("CREATE TABLE t (id bigint PRIMARY KEY, v text DEFAULT 'none', n smallint)")
        .await
        .unwrap();
    let (one, two) = (cluster.keys_of(0, 50), cluster.keys_of(1, 50));
    let keys: Vec<i64> = (0..50)
        .flat_map(|i| [two[i], one[49 - i], one[i]])
        .take(60)
        .collect();
    let mut seen = std::collections::HashSet::new();
    let keys: Vec<i64> = keys.into_iter().filter(|key| seen.insert(*key)).collect();
    let count = u64::try_from(keys.len()).unwrap();
    let ids = |rows: &[tokio_postgres::Row]| -> Vec<i64> { rows.iter().map(|row| row.get(0)).collect() };

    // As literals.
    let values: Vec<String> = keys
        .iter()
        .map(|key| format!("({key}, 'a;,)(', {key} % 7)"))
        .collect();
    let sql = format!("INSERT INTO t VALUES {} RETURNING id, v", values.join(",\n"));
    let mut returned = Vec::new();
    for message in client.simple_query(&sql).await.unwrap() {
        match message {
            SimpleQueryMessage::Row(row) => returned.push(row.get(0).unwrap().parse::<i64>().unwrap()),
            SimpleQueryMessage::CommandComplete(counted) => assert_eq!(counted, count),
            _ => {}
        }
    }
    assert_eq!(returned, keys);
    // All or none: the last row is there already.
    client
        .execute("DELETE FROM t WHERE id <> $1", &[keys.last().unwrap()])
        .await
        .unwrap();
    assert_eq!(code(&client.batch_execute(&sql).await.unwrap_err()), "23505");
    assert_eq!(simple(&client, "SELECT id FROM t").await.0, 1);

    // As parameters of several types, prepared, twice.
    let places: Vec<String> = (0..keys.len())
        .map(|i| format!("(${}, ${}, DEFAULT)", 2 * i + 1, 2 * i + 2))
        .collect();
    let upsert = format!(
        "INSERT INTO t (id, v, n) VALUES {} ON CONFLICT (id) DO UPDATE SET v = excluded.v || ${}::int RETURNING id, v",
        places.join(", "),
        2 * keys.len() + 1
    );
    let statement = client.prepare(&upsert).await.unwrap();
    for round in [1_i32, 2] {
        let texts: Vec<String> = keys.iter().map(|key| format!("v{key}")).collect();
        let mut parameters: Vec<&(dyn tokio_postgres::types::ToSql + Sync)> = Vec::new();
        for (key, text) in keys.iter().zip(&texts) {
            parameters.push(key);
            parameters.push(text);
        }
        parameters.push(&round);
        let rows = client.query(&statement, &parameters).await.unwrap();
        assert_eq!(ids(&rows), keys);
        let last: String = rows.last().unwrap().get(1);
        assert_eq!(last, format!("v{}{round}", keys.last().unwrap()));
        assert_eq!(client.execute(&statement, &parameters).await.unwrap(), count);
    }
    let stored = client.query("SELECT id, v FROM t", &[]).await.unwrap();
    assert_eq!(stored.len(), keys.len());
    assert!(
        stored
            .iter()
            .all(|row| row.get::<_, String>(1) == format!("v{}2", row.get::<_, i64>(0)))
    );

    // Where a row returns none, in any order.
    let sql = format!(
        "INSERT INTO t (id) VALUES ({}), ({}), ({}) ON CONFLICT DO NOTHING RETURNING id",
        two[49], keys[0], one[25]
    );
    let sorted = |mut keys: Vec<i64>| {
        keys.sort_unstable();
        keys
    };
    let rows = client.query(&sql, &[]).await.unwrap();
    assert_eq!(sorted(ids(&rows)), sorted(vec![two[49], one[25]]));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_postgresql_finds_wrong_with_the_whole_insert_is_said() {
    let cluster = Cluster::start().await;
    let (client, one, two) = table(&cluster).await;
    let (a, b) = (one[0], two[0]);
    client.batch_execute("DELETE FROM t").await.unwrap();
    for (values, state) in [
        // One group would take its row alone.
        (format!("({a}, 1), ({b})"), "42601"),
        (format!("({a}, generate_series(1, 2)), ({b}, 1)"), "0A000"),
        (format!("({a}, 1), ({b}, 'x')"), "22P02"),
        (format!("({a}, 1), ({b}, 1000000)"), "23514"),
        (format!("({a}, 1000000), ({b}, 1)"), "23514"),
        (format!("({a}, 1), ({b}, none)"), "42703"),
    ] {
        let sql = format!("INSERT INTO t VALUES {values}");
        assert_eq!(
            code(&client.batch_execute(&sql).await.unwrap_err()),
            state,
            "{sql}"
        );
        assert_eq!(
            code(&client.execute(&sql, &[]).await.unwrap_err()),
            state,
            "{sql}"
        );
        client.batch_execute("BEGIN").await.unwrap();
        assert_eq!(
            code(&client.batch_execute(&sql).await.unwrap_err()),
            state,
            "{sql}"
        );
        assert_eq!(
            code(&client.batch_execute("SELECT 1").await.unwrap_err()),
            "25P02"
        );
        client.batch_execute("ROLLBACK").await.unwrap();
    }
    assert!(values(&client).await.is_empty());
    client.batch_execute("BEGIN").await.unwrap();
    let sql = format!("INSERT INTO t VALUES ({b}, 1), ({a}, 2)");
    assert_eq!(client.execute(&sql, &[]).await.unwrap(), 2);
    assert_eq!(simple(&client, "UPDATE t SET v = v + 1").await, (0, 2));
    client.batch_execute("COMMIT").await.unwrap();
    assert_eq!(values(&client).await.len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn truncate_empties_tables_in_both_groups() {
    let cluster = Cluster::start().await;
    let (client, one, two) = table(&cluster).await;
    client.batch_execute("CREATE TABLE u (id bigint)").await.unwrap();
    client.batch_execute("BEGIN").await.unwrap();
    client.batch_execute("TRUNCATE t, u").await.unwrap();
    let sql = format!("INSERT INTO t VALUES ({}, 1), ({}, 2)", one[0], two[0]);
    client.batch_execute(&sql).await.unwrap();
    assert_eq!(values(&client).await.len(), 2);
    client.batch_execute("ROLLBACK").await.unwrap();
    assert_eq!(values(&client).await.len(), 20);
    // Frozen rows, as pgbench loads them.
    client.batch_execute("BEGIN; TRUNCATE t").await.unwrap();
    let sink = client
        .copy_in::<_, bytes::Bytes>("copy t from stdin with (freeze on)")
        .await
        .unwrap();
    futures::pin_mut!(sink);
    let lines: String = one.iter().chain(&two).map(|key| format!("{key}\t5\n")).collect();
    futures::SinkExt::send(&mut sink, lines.into()).await.unwrap();
    assert_eq!(sink.finish().await.unwrap(), 20);
    client.batch_execute("COMMIT").await.unwrap();
    assert!(values(&client).await.iter().all(|(_, v)| *v == 5));
    assert_eq!(values(&client).await.len(), 20);
    client.execute("TRUNCATE TABLE t", &[]).await.unwrap();
    assert!(values(&client).await.is_empty());
    let mut raw = Raw::start(&cluster).await;
    raw.parse("", "TRUNCATE t");
    raw.bind("", "");
    raw.describe('P', "");
    raw.execute("", 0);
    raw.sync();
    let (seen, errors) = raw.until_ready().await;
    assert_eq!((seen.as_str(), errors.len()), ("12nCZ", 0));
    let shown = cluster
        .program("psql", &["-X", "-c", "TRUNCATE t"])
        .await
        .unwrap();
    assert_eq!(shown.trim(), "TRUNCATE TABLE");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backend_that_is_lost_on_the_way_fails_all_of_it() {
    let cluster = Cluster::start().await;
    let (client, one, two) = table(&cluster).await;
    let signal = |signal: &str, process: i32| {
        let sent = std::process::Command::new("kill")
            .args([signal, &process.to_string()])
            .status();
        assert!(sent.expect("kill runs").success());
    };
    let copied: String = [3, 4, 5, 6]
        .iter()
        .flat_map(|by| {
            one.iter()
                .chain(&two)
                .map(move |key| format!("{}\t1\n", key + by * 1_000_000))
        })
        .collect();
    let (a, b) = (cluster.keys_of(0, 11)[10], cluster.keys_of(1, 11)[10]);
    let row = format!("INSERT INTO t VALUES ({a}, 1), ({b}, 1)");
    for sql in ["UPDATE t SET v = 0", "TRUNCATE t", &row, "COPY t FROM STDIN"] {
        // The session's backend of the second group does not answer any more, and then is gone.
        let session = cluster.connect().await;
        let pid = format!("SELECT pg_backend_pid() FROM t WHERE id = {}", two[0]);
        let pid: i32 = session.query_one(&pid, &[]).await.unwrap().get(0);
        signal("-STOP", pid);
        let work = async {
            if sql.starts_with("COPY") {
                let sink = session.copy_in(sql).await?;
                futures::pin_mut!(sink);
                futures::SinkExt::send(&mut sink, bytes::Bytes::from(copied.clone())).await?;
                sink.finish().await.map(drop)
            } else {
                session.batch_execute(sql).await
            }
        };
        let kill = async {
            tokio::time::sleep(std::time::Duration::from_millis(300)).await;
            signal("-KILL", pid);
        };
        let both = futures::future::join(work, kill);
        let (done, ()) = tokio::time::timeout(std::time::Duration::from_secs(30), both)
            .await
            .expect("an answer");
        assert!(done.is_err(), "{sql}");
        let next = session.batch_execute("SELECT 1");
        tokio::time::timeout(std::time::Duration::from_secs(30), next)
            .await
            .expect("the session goes on")
            .unwrap();
        let mut left = Vec::new();
        for _ in 0..200 {
            // PostgreSQL starts again after such a loss.
            if let Ok(rows) = client.query("SELECT id, v FROM t", &[]).await {
                left = rows
                    .iter()
                    .map(|row| (row.get::<_, i64>(0), row.get::<_, i64>(1)))
                    .collect();
                break;
            }
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        }
        assert_eq!(left.len(), 20, "{sql}");
        assert!(left.iter().all(|(id, v)| id == v), "{sql}");
    }
}
