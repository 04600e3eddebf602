//! SQL's cursors, and its PREPARE and EXECUTE by the extended protocol.

use tokio_postgres::{Client, SimpleQueryMessage};

use crate::harness::raw::Raw;
use crate::harness::{Cluster, code};

/// Ten rows on each group.
async fn table(cluster: &Cluster) -> Client {
    let client = cluster.connect().await;
    client
        .batch_execute("CREATE TABLE t (id bigint PRIMARY KEY, v int)")
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

/// The rows of a Query, and the count of its tag.
async fn rows(client: &Client, sql: &str) -> (Vec<String>, u64) {
    let (mut rows, mut count) = (Vec::new(), 0);
    for message in client.simple_query(sql).await.expect("rows") {
        match message {
            SimpleQueryMessage::Row(row) => rows.push(row.get(0).expect("a value").to_owned()),
            SimpleQueryMessage::CommandComplete(of) => count = of,
            _ => {}
        }
    }
    (rows, count)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cursor_goes_forward_through_all_groups() {
    let cluster = Cluster::start().await;
    let client = table(&cluster).await;
    let other = cluster.connect().await;
    for level in ["READ COMMITTED", "REPEATABLE READ"] {
        client
            .batch_execute(&format!(
                "BEGIN ISOLATION LEVEL {level}; DECLARE c NO SCROLL CURSOR FOR SELECT id FROM t"
            ))
            .await
            .unwrap();
        let mut all = Vec::new();
        let steps = [("FETCH c", 1), ("FETCH 6 FROM c", 6), ("FETCH FORWARD 8 IN c", 8)];
        for (sql, expected) in steps {
            let (some, count) = rows(&client, sql).await;
            assert_eq!(
                (some.len(), count),
                (expected, u64::try_from(expected).unwrap()),
                "{sql}"
            );
            all.extend(some);
        }
        // It shows what was there when it was declared.
        other
            .batch_execute("UPDATE t SET v = v + 1; INSERT INTO t VALUES (1000000, 1)")
            .await
            .unwrap();
        assert_eq!(rows(&client, "MOVE 2 IN c").await.1, 2);
        let (rest, count) = rows(&client, "FETCH ALL FROM c").await;
        assert_eq!(count, 3);
        all.extend(rest);
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), 18, "{level}: each row once");
        assert_eq!(rows(&client, "FETCH 5 FROM c").await, (vec![], 0));
        client.batch_execute("CLOSE c").await.unwrap();
        let error = client.batch_execute("FETCH c").await.unwrap_err();
        assert_eq!(code(&error), "34000");
        client.batch_execute("ROLLBACK").await.unwrap();
        other
            .batch_execute("DELETE FROM t WHERE id = 1000000")
            .await
            .unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_cursor_of_several_groups_cannot_do_is_refused() {
    let cluster = Cluster::start().await;
    let client = table(&cluster).await;
    let error = client
        .batch_execute("DECLARE c CURSOR FOR SELECT id FROM t")
        .await
        .unwrap_err();
    assert_eq!(code(&error), "25P01");
    for sql in [
        "DECLARE c SCROLL CURSOR FOR SELECT id FROM t",
        "DECLARE c CURSOR WITH HOLD FOR SELECT id FROM t",
        "DECLARE c BINARY CURSOR FOR SELECT id FROM t",
        "DECLARE c CURSOR FOR SELECT id FROM t FOR UPDATE",
        "DECLARE c CURSOR FOR SELECT count(*) FROM t",
    ] {
        let error = client.batch_execute(sql).await.unwrap_err();
        assert_eq!(code(&error), "0A000", "{sql}");
    }
    for (sql, sqlstate) in [
        ("FETCH PRIOR FROM c", "0A000"),
        ("FETCH BACKWARD 2 FROM c", "0A000"),
        ("FETCH LAST FROM c", "0A000"),
        ("MOVE ABSOLUTE 3 IN c", "0A000"),
        ("FETCH -1 FROM c", "0A000"),
        ("DECLARE c CURSOR FOR SELECT id FROM t", "42P03"),
        ("DECLARE d CURSOR FOR SELECT id / 0 FROM t; FETCH d", "22012"),
        ("ROLLBACK TO s; FETCH c", "34000"),
    ] {
        client
            .batch_execute("BEGIN; SAVEPOINT s; DECLARE c CURSOR FOR SELECT id FROM t")
            .await
            .unwrap();
        let error = client.batch_execute(sql).await.unwrap_err();
        assert_eq!(code(&error), sqlstate, "{sql}");
        client.batch_execute("ROLLBACK").await.unwrap();
    }
    // With the transaction it is gone, and its name free.
    client
        .batch_execute("BEGIN; DECLARE c CURSOR FOR SELECT id FROM t; COMMIT")
        .await
        .unwrap();
    assert_eq!(code(&client.batch_execute("FETCH c").await.unwrap_err()), "34000");
    client
        .batch_execute("BEGIN; DECLARE c CURSOR FOR SELECT id FROM t; CLOSE ALL")
        .await
        .unwrap();
    assert_eq!(code(&client.batch_execute("FETCH c").await.unwrap_err()), "34000");
    client.batch_execute("ROLLBACK").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn cursors_and_execute_by_the_extended_protocol() {
    let cluster = Cluster::start().await;
    let client = table(&cluster).await;
    client.execute("BEGIN", &[]).await.unwrap();
    client
        .execute("DECLARE c CURSOR FOR SELECT id, v FROM t WHERE v = $1", &[&0_i32])
        .await
        .unwrap();
    // In binary, with columns described.
    let mut ids = Vec::new();
    for expected in [7, 7, 6, 0] {
        let rows = client.query("FETCH FORWARD 7 FROM c", &[]).await.unwrap();
        assert_eq!(rows.len(), expected);
        ids.extend(rows.iter().map(|row| row.get::<_, i64>("id")));
    }
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), 20);
    client.execute("CLOSE c", &[]).await.unwrap();
    client.execute("COMMIT", &[]).await.unwrap();

    client
        .execute("PREPARE one (bigint) AS SELECT id, v FROM t WHERE id = $1", &[])
        .await
        .unwrap();
    client
        .execute("PREPARE every AS SELECT id, v FROM t", &[])
        .await
        .unwrap();
    for server in 0..2 {
        let key = cluster.keys_of(server, 1)[0];
        let rows = client.query(&format!("EXECUTE one ({key})"), &[]).await.unwrap();
        assert_eq!(
            rows.iter().map(|row| row.get::<_, i64>("id")).collect::<Vec<_>>(),
            [key]
        );
    }
    for block in [false, true] {
        if block {
            client.batch_execute("BEGIN").await.unwrap();
        }
        assert_eq!(client.query("EXECUTE every", &[]).await.unwrap().len(), 20);
    }
    client.batch_execute("COMMIT").await.unwrap();
    client
        .execute("PREPARE change AS UPDATE t SET v = 3 WHERE v = 0", &[])
        .await
        .unwrap();
    assert_eq!(client.execute("EXECUTE change", &[]).await.unwrap(), 20);
    let mut raw = Raw::start(&cluster).await;
    // A cursor is a portal, too: psycopg has it described so.
    for (what, sql) in [
        ("several", "SELECT id FROM t"),
        ("one", "SELECT 1 UNION SELECT 2"),
    ] {
        raw.query(&format!("BEGIN; DECLARE {what} CURSOR FOR {sql}"));
        raw.until_ready().await;
        raw.describe('P', what);
        raw.sync();
        assert_eq!(raw.until_ready().await, ("TZ".to_owned(), vec![]), "{what}");
        raw.execute(what, 1);
        raw.sync();
        let (tags, errors) = raw.until_ready().await;
        match what {
            "one" => assert_eq!(tags, "DsZ"),
            _ => assert_eq!(errors, ["0A000"]),
        }
        raw.query("ROLLBACK");
        raw.until_ready().await;
        raw.describe('P', what);
        raw.sync();
        assert_eq!(raw.until_ready().await.1, ["34000"], "{what}");
    }
    raw.query("PREPARE every AS SELECT id FROM t WHERE v = 3; EXECUTE every");
    let (tags, errors) = raw.until_ready().await;
    assert!(errors.is_empty(), "{errors:?}");
    assert_eq!(tags, format!("CT{}CZ", "D".repeat(20)));
    raw.parse("", "EXECUTE every");
    raw.bind("p", "");
    raw.describe('P', "p");
    raw.execute("p", 12);
    raw.execute("p", 0);
    raw.sync();
    let (_, errors) = raw.until_ready().await;
    assert!(errors.is_empty(), "{errors:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn sqls_close_closes_portals_of_bind_as_in_postgresql() {
    let cluster = Cluster::start().await;
    let _schema = table(&cluster).await;
    let _plain = cluster
        .plain_database("CREATE TABLE t (id bigint PRIMARY KEY, v int); INSERT INTO t SELECT g, 0 FROM generate_series(1, 20) g")
        .await;
    let one = format!(
        "SELECT id FROM t WHERE id = {} UNION ALL SELECT 0",
        cluster.keys_of(1, 1)[0]
    );
    let merged = "SELECT id FROM t ORDER BY id";
    let gathered = "SELECT count(*) + 1 FROM t UNION ALL SELECT 0";
    let writes = "UPDATE t SET v = 1 RETURNING id";
    let kinds = [
        "SELECT id FROM t",
        merged,
        gathered,
        writes,
        &one,
        "SHOW DateStyle",
        "SET DateStyle = 'ISO'",
    ];
    let close = ["CLOSE p", "CLOSE ALL", "CLOSE q"];
    for sql in kinds {
        for limit in [None, Some(1)] {
            for close in close {
                for by in ["Query", "Execute", "pipeline"] {
                    let mut raws = [
                        Raw::start(&cluster).await,
                        Raw::start_direct(&cluster, 0, "plain").await,
                    ];
                    let mut said = Vec::new();
                    for raw in &mut raws {
                        said.push(closing(raw, sql, limit, close, by).await);
                    }
                    assert_eq!(said[0], said[1], "{sql}, {limit:?} executed, {close} by {by}");
                }
            }
        }
    }
}

/// What is said when a portal of a statement is bound, executed perhaps, closed by SQL, executed, and bound again.
async fn closing(
    raw: &mut Raw,
    sql: &str,
    limit: Option<i32>,
    close: &str,
    by: &str,
) -> Vec<(String, Vec<String>)> {
    let mut said = Vec::new();
    if by != "pipeline" {
        raw.query("BEGIN; SAVEPOINT s");
        said.push(raw.until_ready().await);
    }
    raw.parse("s", sql);
    raw.parse("close", close);
    raw.bind("p", "s");
    raw.bind("other", "s");
    if let Some(limit) = limit {
        raw.execute("p", limit);
    }
    if by == "Query" {
        raw.sync();
        said.push(raw.until_ready().await);
        raw.query(close);
    } else {
        raw.bind("closing", "close");
        raw.execute("closing", 0);
        if by == "Execute" {
            raw.execute("closing", 0);
            raw.sync();
        }
    }
    if by != "pipeline" {
        said.push(raw.until_ready().await);
        for portal in ["p", "other", "closing"] {
            raw.query("ROLLBACK TO s; SAVEPOINT s");
            raw.execute(portal, 1);
            raw.sync();
            said.push(raw.until_ready().await);
        }
    }
    raw.bind("p", "s");
    if close == "CLOSE ALL" {
        raw.bind("other", "s");
    }
    raw.execute(if close == "CLOSE ALL" { "other" } else { "p" }, 1);
    raw.sync();
    said.push(raw.until_ready().await);
    raw.query("ROLLBACK");
    said.push(raw.until_ready().await);
    said
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_prepared_is_routed_by_what_tables_are_now() {
    let cluster = Cluster::start().await;
    let client = cluster.connect().await;
    client
        .batch_execute("CREATE TABLE o (id bigint, other bigint)")
        .await
        .unwrap();
    client
        .batch_execute("PREPARE ins (bigint, bigint) AS INSERT INTO o (id, other) VALUES ($1, $2)")
        .await
        .unwrap();
    client
        .query_one("SELECT create_distributed_table('o', 'other')", &[])
        .await
        .unwrap();
    let (one, two) = (cluster.keys_of(0, 1)[0], cluster.keys_of(1, 1)[0]);
    client
        .batch_execute(&format!("EXECUTE ins ({one}, {two})"))
        .await
        .unwrap();
    let direct = cluster.direct(1).await;
    assert_eq!(direct.query("SELECT 1 FROM o", &[]).await.unwrap().len(), 1);
}
