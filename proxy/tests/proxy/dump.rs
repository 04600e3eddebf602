//! pg_dump and pg_restore: a dump of two groups is that of one PostgreSQL, and comes back as it was.

use std::time::Duration;

use crate::harness::{Cluster, code, hint};

/// What a schema may have. The primary key of `kept` begins with no first column.
const SCHEMA: &str = r#"
CREATE SCHEMA stock;
CREATE TYPE mood AS ENUM ('sad', 'so "so"', 'happy');
CREATE TYPE stock.pair AS (a int, b text);
CREATE DOMAIN percent AS numeric CHECK (VALUE >= 0 AND VALUE <= 100);
CREATE TABLE account (
    id bigint PRIMARY KEY,
    owner text NOT NULL DEFAULT 'nobody',
    balance numeric(12, 2) DEFAULT 0 CHECK (balance >= 0),
    doubled numeric GENERATED ALWAYS AS (balance * 2) STORED,
    opened timestamptz DEFAULT now(),
    tags text[],
    extra jsonb,
    feels mood,
    share percent,
    bits bytea
) WITH (fillfactor = 80);
CREATE INDEX account_owner ON account (lower(owner)) WHERE balance > 1;
CREATE UNIQUE INDEX account_both ON account (id, owner);
COMMENT ON TABLE account IS 'It''s money';
COMMENT ON COLUMN account.owner IS 'whose it is';
ALTER TABLE account ALTER COLUMN owner SET STATISTICS 300;
CREATE TABLE stock."Odd Name" (
    "a b" text,
    line int,
    price double precision,
    word text COLLATE "C",
    UNIQUE ("a b", line),
    PRIMARY KEY ("a b", line)
);
CREATE TABLE plain (code text, note text);
CREATE TABLE empty (id uuid PRIMARY KEY DEFAULT gen_random_uuid());
CREATE VIEW rich AS SELECT id, owner FROM account WHERE balance > 100;
CREATE STATISTICS account_stats ON owner, balance FROM account;
GRANT SELECT ON account TO reader;
GRANT USAGE ON SCHEMA stock TO reader;
"#;

const KEPT: &str = "CREATE TABLE kept (v text, id bigint PRIMARY KEY)";

/// Rows of both groups, with what is hard to write.
const ROWS: &[&str] = &[
    "INSERT INTO account (id, owner, balance, opened, tags, extra, feels, share, bits) VALUES \
     (1, 'Ada', 100.5, '2024-02-29 12:00:00+00', '{a,\"b c\",NULL}', '{\"a\": [1, 2]}', 'happy', 12.5, '\\x00ff'), \
     (2, E'Tab\\there', 0, NULL, NULL, NULL, NULL, NULL, NULL), (3, 'Zoë \\. \\N', 3, 'infinity', '{}', 'null', 'sad', 0, ''), \
     (4, '', 4, '-infinity', NULL, '\"x\"', 'so \"so\"', 100, NULL), (5, E'new\\nline', 5, '2000-01-01', NULL, NULL, NULL, NULL, NULL)",
    "INSERT INTO stock.\"Odd Name\" VALUES ('one', 1, 'NaN'), ('one', 2, 1e300), ('two', 1, -0.5), ('three', 1, NULL), ('four', 1, 0.1)",
    "INSERT INTO plain VALUES ('a', 'x'), ('b', NULL), ('c', 'y'), (NULL, 'z'), ('d', ''), ('a', 'x')",
];

const KEPT_ROWS: &str = "INSERT INTO kept VALUES ('a', 1), ('b', 2), ('c', 3), ('d', 4), ('e', 5), ('f', 6)";

/// A dump without what differs by right: rows have no order, and `\restrict` has a key of its own in each dump.
fn in_order(dump: &str) -> String {
    let mut lines: Vec<&str> = Vec::new();
    let mut rows: Option<Vec<&str>> = None;
    for line in dump.lines() {
        match &mut rows {
            Some(found) if line == "\\." => {
                found.sort_unstable();
                lines.append(found);
                rows = None;
            }
            Some(found) => {
                found.push(line);
                continue;
            }
            None if line.starts_with("\\restrict ") || line.starts_with("\\unrestrict ") => continue,
            None if line.starts_with("COPY ") => rows = Some(Vec::new()),
            None => {}
        }
        lines.push(line);
    }
    lines.join("\n")
}

async fn through_howdah(cluster: &Cluster, database: &str, options: &[&str]) -> String {
    let arguments = [options, &["-d", database]].concat();
    let dump = cluster.program("pg_dump", &arguments).await;
    in_order(&dump.expect("pg_dump through Howdah"))
}

async fn run(cluster: &Cluster, database: &str, sql: &str) {
    let client = cluster.connect_as(&format!("dbname={database}")).await;
    client.batch_execute(sql).await.expect(sql);
}

/// How many rows of a table each server has.
async fn spread(cluster: &Cluster, database: &str, table: &str) -> [i64; 2] {
    let mut rows = [0; 2];
    for (server, rows) in rows.iter_mut().enumerate() {
        let client = cluster.direct_in(server, database).await;
        let sql = format!("SELECT count(*) FROM {table}");
        *rows = client.query_one(&sql, &[]).await.expect(table).get(0);
    }
    rows
}

/// The shard key of a table, by each server.
async fn keys(cluster: &Cluster, database: &str, table: &str) -> [String; 2] {
    let mut keys = [String::new(), String::new()];
    for (server, key) in keys.iter_mut().enumerate() {
        let client = cluster.direct_in(server, database).await;
        let sql = "SELECT a.attname::text FROM howdah.distributed_tables d \
                   JOIN pg_attribute a ON a.attrelid = d.relid AND a.attnum = d.key_attnum WHERE d.relid = $1::text::regclass";
        *key = client.query_one(sql, &[&table]).await.expect(table).get(0);
    }
    keys
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dump_is_that_of_one_postgresql_and_comes_back_as_it_was() {
    let cluster = Cluster::start().await;
    let folder = tempfile::tempdir().unwrap();
    run(&cluster, "postgres", "CREATE ROLE reader").await;
    run(&cluster, "postgres", "CREATE DATABASE shop").await;
    let direct = cluster.direct(0).await;
    direct
        .batch_execute("CREATE DATABASE one TEMPLATE template0")
        .await
        .unwrap();
    let one = cluster.direct_in(0, "one").await;
    let statements = SCHEMA.split(";\n").map(str::trim).filter(|sql| !sql.is_empty());
    for sql in statements.chain(ROWS.iter().copied()) {
        one.batch_execute(sql).await.expect(sql);
        run(&cluster, "shop", sql).await;
    }
    let spread_before = spread(&cluster, "shop", "account").await;
    assert!(!spread_before.contains(&0), "rows of both groups");
    for options in [
        &[][..],
        &["--schema-only", "--no-owner"],
        &["--data-only", "-t", "account"],
    ] {
        let arguments = [options, &["-d", "one"]].concat();
        let expected = cluster
            .program_direct(0, "pg_dump", &arguments)
            .await
            .expect("pg_dump");
        let found = through_howdah(&cluster, "shop", options).await;
        assert_eq!(found, in_order(&expected), "{options:?}");
        assert!(!found.contains("howdah"), "{found}");
    }
    // Back again: by pg_restore, all in one transaction, and by psql.
    let file = folder.path().join("shop.dump").display().to_string();
    cluster
        .program("pg_dump", &["-Fc", "-f", &file, "-d", "shop"])
        .await
        .expect("pg_dump -Fc");
    let script = folder.path().join("shop.sql").display().to_string();
    cluster
        .program("pg_dump", &["-f", &script, "-d", "shop"])
        .await
        .expect("pg_dump -f");
    let whole = through_howdah(&cluster, "shop", &[]).await;
    for (database, program, arguments) in [
        ("restored", "pg_restore", &["--exit-on-error", &file][..]),
        ("single", "pg_restore", &["--single-transaction", &file]),
        ("parallel", "pg_restore", &["--exit-on-error", "-j", "3", &file]),
        (
            "scripted",
            "psql",
            &["-X", "-q", "-v", "ON_ERROR_STOP=1", "-f", &script],
        ),
    ] {
        run(&cluster, "postgres", &format!("CREATE DATABASE {database}")).await;
        let arguments = [&["-d", database], arguments].concat();
        let done = cluster.program(program, &arguments).await;
        done.unwrap_or_else(|said| panic!("{database}: {said}"));
        assert_eq!(through_howdah(&cluster, database, &[]).await, whole, "{database}");
        assert_eq!(
            spread(&cluster, database, "account").await,
            spread_before,
            "{database}"
        );
    }
    // And into one PostgreSQL.
    direct
        .batch_execute("CREATE DATABASE back TEMPLATE template0")
        .await
        .unwrap();
    let done = cluster
        .program_direct(0, "pg_restore", &["--exit-on-error", "-d", "back", &file])
        .await;
    done.expect("pg_restore");
    let found = cluster
        .program_direct(0, "pg_dump", &["-d", "back"])
        .await
        .expect("pg_dump");
    assert_eq!(in_order(&found), whole);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dump_is_one_snapshot_and_holds_off_definitions() {
    let cluster = Cluster::start().await;
    run(
        &cluster,
        "postgres",
        "CREATE TABLE t (id bigint PRIMARY KEY, v bigint)",
    )
    .await;
    let keys = [cluster.keys_of(0, 1)[0], cluster.keys_of(1, 1)[0]];
    run(
        &cluster,
        "postgres",
        &format!("INSERT INTO t VALUES ({}, 1), ({}, 1)", keys[0], keys[1]),
    )
    .await;
    // As pg_dump begins.
    let dumper = cluster.connect().await;
    for sql in [
        "BEGIN",
        "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY",
        "SELECT oid FROM pg_catalog.pg_class WHERE relname = 't'",
        "LOCK TABLE public.t IN ACCESS SHARE MODE",
    ] {
        dumper.batch_execute(sql).await.expect(sql);
    }
    run(&cluster, "postgres", "UPDATE t SET v = 2").await;
    let drops = cluster.connect().await;
    let mut dropping = tokio::spawn(async move { drops.batch_execute("DROP TABLE t").await });
    let early = tokio::time::timeout(Duration::from_millis(400), &mut dropping).await;
    assert!(early.is_err(), "it waits for the lock");
    let rows = dumper.simple_query("SELECT v FROM t").await.unwrap();
    let values: Vec<&str> = rows
        .iter()
        .filter_map(|message| match message {
            tokio_postgres::SimpleQueryMessage::Row(row) => row.get(0),
            _ => None,
        })
        .collect();
    assert_eq!(values, ["1", "1"]);
    dumper.batch_execute("ROLLBACK").await.unwrap();
    dropping.await.unwrap().unwrap();

    let client = cluster.connect().await;
    for (sql, expected) in [
        ("LOCK TABLE t", "25P01"),
        ("BEGIN; LOCK TABLE t", "42P01"),
        ("BEGIN; LOCK TABLE t IN NO MODE", "42601"),
        ("BEGIN; LOCK pg_class", "0A000"),
        ("BEGIN; LOCK howdah.decisions", "0A000"),
    ] {
        assert_eq!(
            code(&client.batch_execute(sql).await.expect_err(sql)),
            expected,
            "{sql}"
        );
        let _ = client.batch_execute("ROLLBACK").await;
    }
    run(&cluster, "postgres", "CREATE TABLE t (id bigint PRIMARY KEY)").await;
    let error = client.batch_execute("LOCK TABLE t").await.unwrap_err();
    assert_eq!(code(&error), "25P01");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_primary_key_that_comes_after_the_rows_is_the_shard_key_and_rows_move() {
    let cluster = Cluster::start().await;
    let folder = tempfile::tempdir().unwrap();
    for database in ["shop", "sections", "naive"] {
        run(&cluster, "postgres", &format!("CREATE DATABASE {database}")).await;
    }
    run(&cluster, "shop", KEPT).await;
    run(&cluster, "shop", KEPT_ROWS).await;
    let before = spread(&cluster, "shop", "kept").await;
    assert!(!before.contains(&0), "rows of both groups");
    let file = folder.path().join("shop.dump").display().to_string();
    cluster
        .program("pg_dump", &["-Fc", "-f", &file, "-d", "shop"])
        .await
        .expect("pg_dump");
    let restore = async |arguments: &[&str]| {
        let arguments = [&["--exit-on-error"], arguments, &[&file]].concat();
        cluster
            .program("pg_restore", &arguments)
            .await
            .expect("pg_restore");
    };
    restore(&["-d", "naive"]).await;
    for section in ["--section=pre-data", "--section=post-data", "--section=data"] {
        restore(&["-d", "sections", section]).await;
    }
    let whole = through_howdah(&cluster, "shop", &[]).await;
    for database in ["naive", "sections"] {
        assert_eq!(keys(&cluster, database, "kept").await, ["id", "id"], "{database}");
        assert_eq!(spread(&cluster, database, "kept").await, before, "{database}");
        assert_eq!(through_howdah(&cluster, database, &[]).await, whole, "{database}");
        let client = cluster.connect_as(&format!("dbname={database}")).await;
        for (id, v) in [(1, "a"), (4, "d"), (6, "f")] {
            let sql = format!("SELECT v FROM kept WHERE id = {id}");
            assert_eq!(client.query_one(&sql, &[]).await.unwrap().get::<_, String>(0), v);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_move_all_or_none_and_only_where_the_user_has_not_chosen() {
    let cluster = Cluster::start().await;
    let client = cluster.connect().await;
    let database = "postgres";
    run(
        &cluster,
        database,
        "CREATE TABLE twice (a text, id bigint NOT NULL, n int)",
    )
    .await;
    let rows: Vec<String> = (0..300)
        .map(|n| format!(r"(E'\t\\\n{n}', {n}, {})", n % 150))
        .collect();
    run(
        &cluster,
        database,
        &format!("INSERT INTO twice VALUES {}", rows.join(", ")),
    )
    .await;
    let before = spread(&cluster, database, "twice").await;
    assert!(!before.contains(&0), "rows of both groups");
    let alter = "ALTER TABLE twice ADD PRIMARY KEY";
    let error = client.batch_execute(&format!("{alter} (n)")).await.unwrap_err();
    assert_eq!(code(&error), "23505");
    assert_eq!(spread(&cluster, database, "twice").await, before);
    assert_eq!(keys(&cluster, database, "twice").await, ["a", "a"]);
    for sql in [
        "BEGIN",
        "INSERT INTO twice VALUES ('x', 300, 0)",
        &format!("{alter} (id, a)"),
        "UPDATE twice SET n = 7 WHERE id = 299",
        "COMMIT",
    ] {
        client.batch_execute(sql).await.expect(sql);
    }
    assert_eq!(keys(&cluster, database, "twice").await, ["id", "id"]);
    let sql = "SELECT count(*) FROM twice";
    assert_eq!(client.query_one(sql, &[]).await.unwrap().get::<_, i64>(0), 301);
    for id in 0..=300_i32 {
        let sql = format!("SELECT n, a FROM twice WHERE id = {id}");
        let row = client.query_one(&sql, &[]).await.unwrap();
        let (n, a) = match id {
            299 => (7, format!("\t\\\n{id}")),
            300 => (0, "x".to_owned()),
            id => (id % 150, format!("\t\\\n{id}")),
        };
        assert_eq!((row.get::<_, i32>(0), row.get::<_, String>(1)), (n, a), "{id}");
    }
    run(&cluster, database, "CREATE TABLE chosen (a text, id bigint)").await;
    let sql = "SELECT create_distributed_table('chosen', 'a')";
    client.query(sql, &[]).await.unwrap();
    let sql = "ALTER TABLE chosen ADD PRIMARY KEY (id)";
    assert_eq!(code(&client.batch_execute(sql).await.unwrap_err()), "0A000");

    for (sql, words) in [
        ("ALTER SYSTEM SET work_mem = '1GB'", "postgres.settings"),
        ("CREATE SEQUENCE s", "gen_random_uuid"),
    ] {
        let error = client.batch_execute(sql).await.expect_err(sql);
        assert_eq!(code(&error), "0A000", "{sql}");
        assert!(hint(&error).contains(words), "{error}");
    }
}
