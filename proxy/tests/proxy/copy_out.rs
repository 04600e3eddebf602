//! COPY to the client of queries over all groups, compared with one PostgreSQL.

use futures::TryStreamExt;
use tokio_postgres::Client;

use crate::harness::raw::Raw;
use crate::harness::{Cluster, code};

const SCHEMA: &str = r#"
CREATE TABLE t (id int PRIMARY KEY, v text, "a;b" numeric, at timestamptz, w float8);
CREATE TABLE u (n int PRIMARY KEY, t int);
CREATE VIEW many AS SELECT v, count(*) AS n FROM t GROUP BY v;
INSERT INTO t SELECT i, (ARRAY['a', NULL, '', E'tab\t', E'line\nend\r', 'c:\x', '\.', '"q"', 'a,b;c|d', E'\x01\b\f\v', 'Zürich'])[i % 11 + 1], i * 1.5,
    timestamptz '2024-01-01 10:00+00' + i * interval '1 day', i / 7.0 FROM generate_series(1, 60) i;
INSERT INTO u SELECT i, i % 20 FROM generate_series(1, 50) i;
"#;

const QUERIES: &[&str] = &[
    "SELECT * FROM t ORDER BY id",
    "SELECT v FROM t ORDER BY id",
    "SELECT v, id FROM t ORDER BY v COLLATE \"C\", id LIMIT 13 OFFSET 2",
    "SELECT v AS \"say \"\"v\"\"\", count(*), sum(\"a;b\") FROM t GROUP BY v ORDER BY count(*), v COLLATE \"POSIX\"",
    "SELECT t.id, u.n, at FROM t JOIN u ON u.t = t.id ORDER BY u.n, t.id",
    "SELECT count(*) FROM t",
    "SELECT count(*) AS n FROM t WHERE id > 7",
    "SELECT sum(id), max(w) FROM t",
    "SELECT n, v FROM many ORDER BY n, v COLLATE \"C\"",
    "SELECT id, row_number() OVER (ORDER BY w DESC) FROM t ORDER BY 2",
    "(SELECT id FROM t) UNION ALL SELECT n FROM u ORDER BY 1",
    "WITH x AS (SELECT t, count(*) AS c FROM u GROUP BY t) SELECT * FROM x a JOIN x b USING (t) ORDER BY 1",
    "SELECT id FROM t WHERE false ORDER BY id",
    "SELECT count(*) FROM many",
    "SELECT id FROM t WHERE id = 5 ORDER BY v",
    "TABLE u ORDER BY n DESC LIMIT 3",
    // Errors.
    "SELECT 1 / (id - 40) FROM t ORDER BY id",
    "SELECT nothing FROM t ORDER BY id",
    "SELECT 'ü', * FROM t, nowhere",
    "INSERT INTO nowhere SELECT 1 RETURNING *",
];

const OPTIONS: &[&str] = &[
    "",
    "(FORMAT csv)",
    "(FORMAT csv, HEADER)",
    "(FORMAT text, HEADER, DELIMITER ';', NULL 'none')",
    "WITH DELIMITER AS 'a' NULL AS ''",
    "(FORMAT csv, HEADER true, DELIMITER '|', QUOTE '''', ESCAPE '\\', NULL 'a')",
    "(FORMAT binary)",
    // Errors.
    "(FORMAT binary, HEADER)",
    "(DELIMITER 'x', NULL 'x')",
    "(QUOTE '|')",
    "(FORMAT csv, HEADER match)",
    "(FORMAT csv, FORMAT text)",
];

/// The bytes that a client gets; or the SQLSTATE and where the error is.
async fn copied(client: &Client, sql: &str) -> Result<Vec<u8>, String> {
    let failed = |error: tokio_postgres::Error| {
        let error = error.as_db_error().expect("an error of the server");
        format!("{} {:?}", error.code().code(), error.position())
    };
    let rows = client.copy_out(sql).await.map_err(failed)?;
    let parts: Vec<_> = rows.try_collect().await.map_err(failed)?;
    Ok(parts.concat())
}

async fn both(cluster: &Cluster) -> (Client, Client) {
    let client = cluster.connect().await;
    client.batch_execute(SCHEMA).await.expect("tables with rows");
    (client, cluster.plain_database(SCHEMA).await)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_queries_give_is_written_as_by_one_server() {
    let cluster = Cluster::start().await;
    let (client, plain) = both(&cluster).await;
    let mut different = String::new();
    for begin in ["", "BEGIN", "BEGIN ISOLATION LEVEL REPEATABLE READ"] {
        for query in QUERIES {
            for options in OPTIONS {
                let sql = format!("COPY ({query}) TO STDOUT {options}");
                client.batch_execute(begin).await.expect("begins");
                let (here, there) = (copied(&client, &sql).await, copied(&plain, &sql).await);
                client.batch_execute("ROLLBACK").await.expect("ends");
                if here != there {
                    let shown = |bytes: Result<Vec<u8>, String>| {
                        bytes.map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
                    };
                    let (here, there) = (shown(here), shown(there));
                    different.push_str(&format!("{begin} {sql}\n  here: {here:?}\n  there: {there:?}\n"));
                }
            }
        }
    }
    assert!(different.is_empty(), "{different}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_sees_what_its_transaction_sees() {
    let cluster = Cluster::start().await;
    let (client, plain) = both(&cluster).await;
    let other = cluster.connect().await;
    let sql = "COPY (SELECT sum(id), count(*) FROM t) TO STDOUT";
    let whole = copied(&plain, sql).await.unwrap();
    client
        .batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM u")
        .await
        .unwrap();
    other.batch_execute("DELETE FROM t WHERE id > 10").await.unwrap();
    assert_eq!(copied(&client, sql).await.unwrap(), whole);
    let lines = copied(&client, "COPY (SELECT count(*) FROM t) TO STDOUT")
        .await
        .unwrap();
    assert_eq!(lines, b"60\n");
    client
        .batch_execute("ROLLBACK; BEGIN; INSERT INTO t (id) VALUES (1000)")
        .await
        .unwrap();
    assert_eq!(copied(&client, sql).await.unwrap(), b"1055\t11\n");
    client.batch_execute("ROLLBACK").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_is_one_answer_by_both_protocols() {
    let cluster = Cluster::start().await;
    let (client, _) = both(&cluster).await;
    let gives = cluster.psql("COPY (SELECT id FROM t ORDER BY id DESC LIMIT 2) TO STDOUT; COPY (SELECT v, sum(id) FROM t WHERE id < 3 GROUP BY v ORDER BY 2) TO STDOUT (FORMAT csv, HEADER)");
    assert_eq!(gives.await.unwrap(), "60\n59\nv,sum\n,1\n\"\",2\n");
    let mut raw = Raw::start(&cluster).await;
    raw.query("COPY (SELECT id FROM t ORDER BY id LIMIT 2) TO STDOUT");
    raw.send().await;
    assert_eq!(raw.until_ready().await.0, "HddcCZ");
    assert_eq!(raw.completed, ["COPY 2"]);
    raw.query("COPY (SELECT count(*) FROM t) TO STDOUT (FORMAT binary)");
    raw.send().await;
    assert_eq!(raw.until_ready().await.0, "HddcCZ");
    for _ in 0..2 {
        raw.parse(
            "",
            "COPY (SELECT v, count(*) FROM t WHERE id < 9 GROUP BY v) TO STDOUT",
        );
        raw.bind("p", "");
        raw.describe('P', "p");
        raw.execute("p", 1);
        raw.parse("", "SELECT count(*) FROM u");
        raw.bind("", "");
        raw.execute("", 0);
        raw.sync();
        raw.send().await;
        let (tags, errors) = raw.until_ready().await;
        assert_eq!(
            (tags.as_str(), errors.len()),
            ("12nHddddddddcC12DCZ", 0),
            "{errors:?}"
        );
    }
    // What fails in the middle ends it.
    raw.query("COPY (SELECT 1 / (id - 60) FROM t ORDER BY id) TO STDOUT; SELECT 1");
    raw.send().await;
    let (tags, errors) = raw.until_ready().await;
    assert!(tags.starts_with('H') && tags.ends_with("EZ"), "{tags}");
    assert_eq!(errors.len(), 1);
    let error = client
        .copy_out("COPY (SELECT id FROM t WHERE id > $1 ORDER BY id) TO STDOUT")
        .await;
    assert!(error.is_err());
    let error = client
        .simple_query("COPY (SELECT ctid FROM t ORDER BY id) TO STDOUT")
        .await;
    assert_eq!(code(&error.unwrap_err()), "0A000");
}
