//! Definitions inside transactions, and those that cannot be in one.

use std::time::Duration;

use tokio_postgres::Client;

use crate::harness::raw::Raw;
use crate::harness::{Cluster, code, hint};

/// What both servers say, each for itself.
async fn on_both(cluster: &Cluster, sql: &str) -> [i64; 2] {
    let ask = |server: usize| async move {
        let client = cluster.direct(server).await;
        client.query_one(sql, &[]).await.expect("a row").get(0)
    };
    [ask(0).await, ask(1).await]
}

async fn tables(cluster: &Cluster, name: &str) -> [i64; 2] {
    on_both(
        cluster,
        &format!("SELECT count(*) FROM pg_class WHERE relname = '{name}'"),
    )
    .await
}

async fn count(client: &Client, table: &str) -> i64 {
    let sql = format!("SELECT count(*) FROM {table}");
    client.query_one(&sql, &[]).await.expect("a row").get(0)
}

/// Django, Alembic and Rails do so.
#[tokio::test(flavor = "multi_thread")]
async fn a_migration_is_committed_as_a_whole() {
    let cluster = Cluster::start().await;
    let (client, other) = (cluster.connect().await, cluster.connect().await);
    let [one, two] = [cluster.keys_of(0, 1)[0], cluster.keys_of(1, 1)[0]];
    client
        .batch_execute("CREATE TABLE migrations (name text PRIMARY KEY)")
        .await
        .unwrap();
    client.batch_execute("BEGIN").await.unwrap();
    for sql in [
        "CREATE SCHEMA shop",
        "CREATE TABLE shop.orders (id bigint PRIMARY KEY, v text)",
        "CREATE INDEX orders_v ON shop.orders (v)",
        "ALTER TABLE shop.orders ADD COLUMN n int NOT NULL DEFAULT 3",
        "ALTER TABLE shop.orders RENAME TO sold",
        "COMMENT ON TABLE shop.sold IS 'what was sold'",
        &format!("INSERT INTO shop.sold VALUES ({one}, 'a'), ({two}, 'b')"),
        "INSERT INTO migrations VALUES ('0001_initial')",
    ] {
        client.batch_execute(sql).await.expect(sql);
    }
    let sql = "SELECT n FROM shop.sold WHERE id = $1";
    assert_eq!(client.query_one(sql, &[&two]).await.unwrap().get::<_, i32>(0), 3);
    assert_eq!(count(&client, "shop.sold").await, 2);
    let error = other.batch_execute("SELECT id FROM shop.sold").await.unwrap_err();
    assert_eq!(code(&error), "42P01", "nobody else sees it");
    client.batch_execute("COMMIT").await.unwrap();
    assert_eq!(tables(&cluster, "sold").await, [1, 1]);
    assert_eq!(
        on_both(&cluster, "SELECT count(*) FROM shop.sold").await,
        [1, 1],
        "by the key"
    );
    // Answered: everyone knows.
    assert_eq!(count(&other, "shop.sold").await, 2);
    assert_eq!(count(&other, "migrations").await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_rolled_back_is_not_known_any_more() {
    let cluster = Cluster::start().await;
    let client = cluster.connect().await;
    let [low, key] = [cluster.keys_of(0, 1)[0], cluster.keys_of(1, 1)[0]];
    client
        .batch_execute("CREATE TABLE t (a bigint PRIMARY KEY, b bigint)")
        .await
        .unwrap();
    for end in ["ROLLBACK", "ROLLBACK TO s"] {
        client.batch_execute("BEGIN; SAVEPOINT s").await.unwrap();
        client
            .batch_execute(
                "DROP TABLE t; CREATE TABLE t (b bigint PRIMARY KEY, a bigint); CREATE TABLE u (id int)",
            )
            .await
            .unwrap();
        // By the key of the new table.
        let insert = client
            .prepare("INSERT INTO t (a, b) VALUES ($1, $2)")
            .await
            .unwrap();
        client.execute(&insert, &[&low, &key]).await.unwrap();
        client.batch_execute(end).await.unwrap();
        let error = client.batch_execute("SELECT id FROM u").await.unwrap_err();
        assert_eq!(code(&error), "42P01", "{end}");
        client.batch_execute("ROLLBACK").await.unwrap();
        // And by that of the old one again, as it was prepared, too.
        client.execute(&insert, &[&key, &low]).await.unwrap();
        assert_eq!(on_both(&cluster, "SELECT count(*) FROM t").await, [0, 1], "{end}");
        client.batch_execute("DELETE FROM t").await.unwrap();
        assert_eq!(tables(&cluster, "u").await, [0, 0]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failure_on_one_group_undoes_the_block_on_all() {
    let cluster = Cluster::start().await;
    let client = cluster.connect().await;
    let direct = cluster.direct(1).await;
    direct.batch_execute("CREATE SCHEMA taken").await.unwrap();
    client.batch_execute("BEGIN").await.unwrap();
    client
        .batch_execute("CREATE TABLE t (id int PRIMARY KEY)")
        .await
        .unwrap();
    client.batch_execute("SAVEPOINT s").await.unwrap();
    let error = client.batch_execute("CREATE SCHEMA taken").await.unwrap_err();
    assert_eq!(code(&error), "42P06");
    assert_eq!(
        code(&client.batch_execute("SELECT 1").await.unwrap_err()),
        "25P02"
    );
    client.batch_execute("ROLLBACK TO s").await.unwrap();
    client
        .batch_execute("INSERT INTO t VALUES (1), (2)")
        .await
        .unwrap();
    client.batch_execute("CREATE SCHEMA taken").await.unwrap_err();
    let schemas = "SELECT count(*) FROM pg_namespace WHERE nspname = 'taken'";
    client.batch_execute("COMMIT").await.unwrap();
    assert_eq!(on_both(&cluster, schemas).await, [0, 1]);
    assert_eq!(tables(&cluster, "t").await, [0, 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn definitions_and_rows_in_one_query_or_pipeline_are_one_transaction() {
    let cluster = Cluster::start().await;
    let client = cluster.connect().await;
    let query =
        "CREATE TABLE t (id bigint PRIMARY KEY); INSERT INTO t VALUES (1), (2), (3); ALTER TABLE t ADD v int";
    client
        .batch_execute(&format!("{query}; SELECT nothing FROM t"))
        .await
        .unwrap_err();
    assert_eq!(tables(&cluster, "t").await, [0, 0]);
    client.batch_execute(query).await.unwrap();
    assert_eq!(count(&client, "t").await, 3);
    let mut raw = Raw::start(&cluster).await;
    for (last, tables_then) in [("SELECT nothing FROM u", [0, 0]), ("SELECT id FROM u", [1, 1])] {
        for sql in [
            "CREATE TABLE u (id bigint PRIMARY KEY)",
            "INSERT INTO u VALUES (1), (2), (3)",
            last,
        ] {
            raw.parse("", sql);
            raw.bind("", "");
            raw.execute("", 0);
        }
        raw.sync();
        let (tags, errors) = raw.until_ready().await;
        assert_eq!(
            errors.len(),
            usize::from(tables_then == [0, 0]),
            "{tags} {errors:?}"
        );
        assert_eq!(tables(&cluster, "u").await, tables_then);
    }
    assert_eq!(count(&client, "u").await, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shard_key_is_chosen_and_rows_are_copied_in_the_block_that_makes_the_table() {
    let cluster = Cluster::start().await;
    let client = cluster.connect().await;
    let key = cluster.keys_of(1, 1)[0];
    let script = format!(
        "BEGIN;\nCREATE TABLE t (id bigint, customer bigint);\nSELECT create_distributed_table('t', 'customer');\n\
         COPY t FROM STDIN;\n1\t{key}\n2\t{key}\n\\.\nANALYZE t;\nCOMMIT;\n"
    );
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("dump.sql");
    std::fs::write(&file, script).unwrap();
    let file = file.display().to_string();
    cluster
        .program("psql", &["-X", "-v", "ON_ERROR_STOP=1", "-f", &file])
        .await
        .unwrap();
    assert_eq!(count(&client, "t").await, 2);
    assert_eq!(on_both(&cluster, "SELECT count(*) FROM t").await, [0, 2]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_others_define_meanwhile_is_seen_in_a_block_that_defines() {
    let cluster = Cluster::start().await;
    let (client, other) = (cluster.connect().await, cluster.connect().await);
    let [low, key] = [cluster.keys_of(0, 1)[0], cluster.keys_of(1, 1)[0]];
    client
        .batch_execute("CREATE TABLE t (a bigint PRIMARY KEY, b bigint)")
        .await
        .unwrap();
    client.batch_execute("BEGIN").await.unwrap();
    client.batch_execute("CREATE TABLE own (id int)").await.unwrap();
    other
        .batch_execute("DROP TABLE t; CREATE TABLE t (b bigint PRIMARY KEY, a bigint)")
        .await
        .unwrap();
    client
        .batch_execute(&format!("INSERT INTO t (a, b) VALUES ({low}, {key})"))
        .await
        .unwrap();
    client.batch_execute("COMMIT").await.unwrap();
    assert_eq!(on_both(&cluster, "SELECT count(*) FROM t").await, [0, 1]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_definition_takes_part_in_the_search_for_deadlocks() {
    let cluster = Cluster::start().await;
    let client = cluster.connect().await;
    client
        .batch_execute("CREATE TABLE t (id bigint PRIMARY KEY, v bigint)")
        .await
        .unwrap();
    let [low, high] = [cluster.keys_of(0, 1)[0], cluster.keys_of(1, 1)[0]];
    client
        .batch_execute(&format!("INSERT INTO t VALUES ({low}, 0), ({high}, 0)"))
        .await
        .unwrap();
    let update = |key: i64| format!("UPDATE t SET v = v + 1 WHERE id = {key}");
    client.batch_execute("BEGIN").await.unwrap();
    client.batch_execute(&update(high)).await.unwrap();
    let other = cluster.connect().await;
    // It has the lock on the first group, and waits for it on the second.
    let alter = other.batch_execute("ALTER TABLE t ADD w int");
    let rest = async {
        let direct = cluster.direct(1).await;
        let waits = "SELECT FROM pg_stat_activity WHERE wait_event_type = 'Lock'";
        while direct.query(waits, &[]).await.unwrap().is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let updated = client.batch_execute(&update(low)).await;
        let ended = client.batch_execute("COMMIT").await;
        (updated, ended)
    };
    let both = async { tokio::join!(alter, rest) };
    let (altered, (updated, ended)) = tokio::time::timeout(Duration::from_secs(60), both)
        .await
        .expect("it is broken");
    ended.unwrap();
    let failed: Vec<_> = [altered, updated].into_iter().filter_map(Result::err).collect();
    let codes: Vec<_> = failed.iter().map(code).collect();
    assert_eq!(codes, ["40P01"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_in_a_block_says_so() {
    let cluster = Cluster::start().await;
    let client = cluster.connect().await;
    client
        .batch_execute("CREATE TABLE t (id bigint PRIMARY KEY, v bigint)")
        .await
        .unwrap();
    for (begin, sql, expected) in [
        ("BEGIN", "CREATE UNLOGGED TABLE x (id int)", "0A000"),
        ("BEGIN", "CREATE INDEX CONCURRENTLY x ON t (v)", "25001"),
        ("BEGIN", "VACUUM t", "25001"),
        ("BEGIN", "REINDEX TABLE CONCURRENTLY t", "25001"),
        ("BEGIN READ ONLY", "CREATE TABLE x (id int)", "25006"),
        (
            "BEGIN ISOLATION LEVEL REPEATABLE READ",
            "CREATE TABLE x (id int)",
            "0A000",
        ),
        (
            "BEGIN ISOLATION LEVEL SERIALIZABLE",
            "ALTER TABLE t ADD w int",
            "0A000",
        ),
    ] {
        client.batch_execute(begin).await.unwrap();
        let error = client.batch_execute(sql).await.unwrap_err();
        assert_eq!(code(&error), expected, "{sql}");
        client.batch_execute("ROLLBACK").await.unwrap();
    }
    let error = client.batch_execute("VACUUM t; SELECT 1").await.unwrap_err();
    assert_eq!(code(&error), "25001");
    let words = error.as_db_error().map(tokio_postgres::error::DbError::message);
    assert_eq!(words, Some("VACUUM cannot run inside a transaction block"));
    // Alone it does not depend on the session's level.
    for level in ["repeatable read", "serializable"] {
        let sql = format!("SET default_transaction_isolation = '{level}'");
        client.batch_execute(&sql).await.unwrap();
        client
            .batch_execute("CREATE TABLE x (id int); DROP TABLE x")
            .await
            .unwrap();
        client.execute("CREATE TABLE x (id int)", &[]).await.unwrap();
        client.execute("DROP TABLE x", &[]).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_index_that_failed_on_one_group_is_reported_and_made_by_repeating() {
    let cluster = Cluster::start().await;
    let client = cluster.connect().await;
    client
        .batch_execute("CREATE TABLE t (id bigint, v bigint)")
        .await
        .unwrap();
    let [low, high] = [cluster.keys_of(0, 1)[0], cluster.keys_of(1, 1)[0]];
    client
        .batch_execute(&format!(
            "INSERT INTO t VALUES ({low}, 0), ({high}, 0), ({high}, 1)"
        ))
        .await
        .unwrap();
    let create = "CREATE UNIQUE INDEX CONCURRENTLY IF NOT EXISTS \"one's own\" ON t (id)";
    let valid = "SELECT count(*) FROM pg_index WHERE indrelid = 't'::regclass AND indisvalid";
    for _ in 0..2 {
        let error = client.batch_execute(create).await.unwrap_err();
        assert_eq!(code(&error), "55000");
        let said = error.as_db_error().expect("PostgreSQL's form");
        assert!(
            said.message().contains("done on groups 1 and failed on 2"),
            "{said:?}"
        );
        assert!(
            said.detail()
                .unwrap_or_default()
                .contains("could not create unique index"),
            "{said:?}"
        );
        assert!(hint(&error).contains("repeat it with IF NOT EXISTS"), "{said:?}");
        assert_eq!(on_both(&cluster, valid).await, [1, 0]);
    }
    let sql = format!("DELETE FROM t WHERE id = {high} AND v = 1");
    client.batch_execute(&sql).await.unwrap();
    client.batch_execute(create).await.unwrap();
    assert_eq!(on_both(&cluster, valid).await, [1, 1]);
    let all = "SELECT count(*) FROM pg_index WHERE indrelid = 't'::regclass";
    assert_eq!(on_both(&cluster, all).await, [1, 1]);
    client
        .batch_execute("REINDEX TABLE CONCURRENTLY t")
        .await
        .unwrap();
    for _ in 0..2 {
        client
            .batch_execute("DROP INDEX CONCURRENTLY IF EXISTS \"one's own\"")
            .await
            .unwrap();
        assert_eq!(on_both(&cluster, all).await, [0, 0]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn maintenance_reports_for_each_group_and_says_which_have_done_it() {
    let mut cluster = Cluster::start().await;
    let client = cluster.connect().await;
    client
        .batch_execute("CREATE TABLE t (id bigint PRIMARY KEY)")
        .await
        .unwrap();
    // psql's errors have it; they are given where it fails.
    let arguments = [
        "-X",
        "-v",
        "ON_ERROR_STOP=1",
        "-c",
        "VACUUM (VERBOSE) t",
        "-c",
        "FAIL",
    ];
    let said = cluster.program("psql", &arguments).await.unwrap_err();
    for expected in ["INFO:  group 1:", "INFO:  group 2:"] {
        assert!(said.contains(expected), "{said}");
    }
    assert_eq!(
        said.matches("INFO:  vacuuming \"postgres.public.t\"").count(),
        2,
        "{said}"
    );
    let direct = cluster.direct(1).await;
    direct
        .batch_execute("ALTER TABLE t RENAME TO hidden")
        .await
        .unwrap();
    let error = client.batch_execute("VACUUM t").await.unwrap_err();
    assert_eq!(code(&error), "55000");
    assert!(hint(&error).contains("once more"), "{error:?}");
    direct
        .batch_execute("ALTER TABLE hidden RENAME TO t")
        .await
        .unwrap();
    client.batch_execute("VACUUM t").await.unwrap();
    cluster.stop_server(1);
    let error = client.batch_execute("VACUUM t").await.unwrap_err();
    assert!(["55000", "57P03", "08006"].contains(&code(&error)), "{error:?}");
    cluster.start_server(1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_statement_prepared_in_the_block_is_planned_again_after_a_definition() {
    let cluster = Cluster::start().await;
    let client = cluster.connect().await;
    let [low, key] = [cluster.keys_of(0, 1)[0], cluster.keys_of(1, 1)[0]];
    let create =
        |first: &str, second: &str| format!("CREATE TABLE t ({first} bigint PRIMARY KEY, {second} bigint)");
    client.batch_execute("BEGIN").await.unwrap();
    client.batch_execute(&create("a", "b")).await.unwrap();
    let insert = client
        .prepare("INSERT INTO t (a, b) VALUES ($1, $2)")
        .await
        .unwrap();
    client.batch_execute("DROP TABLE t").await.unwrap();
    client.batch_execute(&create("b", "a")).await.unwrap();
    client.execute(&insert, &[&low, &key]).await.unwrap();
    client.batch_execute("COMMIT").await.unwrap();
    assert_eq!(on_both(&cluster, "SELECT count(*) FROM t").await, [0, 1]);
}

/// Each group sees its own rows alone, and the table is empty for one of them.
#[tokio::test(flavor = "multi_thread")]
async fn groups_with_and_without_rows_agree_on_the_shard_key_of_an_altered_table() {
    let cluster = Cluster::start().await;
    let client = cluster.connect().await;
    let [low, high] = [cluster.keys_of(0, 1)[0], cluster.keys_of(1, 1)[0]];
    let key = "SELECT key_attnum::int8 FROM howdah.distributed_tables WHERE relid = 't'::regclass";
    // Without a primary key it is the first column, where there are no rows.
    let alter = "ALTER TABLE t DROP CONSTRAINT t_pkey";
    for (rows, expected) in [(vec![], 1), (vec![low], 2), (vec![high], 2), (vec![low, high], 2)] {
        let create = "CREATE TABLE t (a bigint, b bigint, PRIMARY KEY (b, a))";
        client.batch_execute(create).await.unwrap();
        for row in &rows {
            let sql = format!("INSERT INTO t VALUES (0, {row})");
            client.batch_execute(&sql).await.unwrap();
        }
        client.batch_execute("BEGIN").await.unwrap();
        let altered = client.batch_execute(alter).await;
        assert_eq!(
            altered.as_ref().err().map(code),
            (rows.len() == 1).then_some("55000"),
            "{rows:?}"
        );
        client.batch_execute("COMMIT").await.unwrap();
        assert_eq!(on_both(&cluster, key).await, [expected, expected], "{rows:?}");
        client.batch_execute("DROP TABLE t").await.unwrap();
    }
    // With a new one rows move, and all groups have the same.
    for rows in [vec![], vec![low], vec![high], vec![low, high]] {
        let create = "CREATE TABLE t (a bigint, b bigint)";
        client.batch_execute(create).await.unwrap();
        for row in &rows {
            let sql = format!("INSERT INTO t VALUES ({row}, 0)");
            client.batch_execute(&sql).await.unwrap();
        }
        let alter = "ALTER TABLE t ADD PRIMARY KEY (b, a)";
        client.batch_execute(alter).await.unwrap();
        assert_eq!(on_both(&cluster, key).await, [2, 2], "{rows:?}");
        let sql = "SELECT a FROM t WHERE b = 0";
        assert_eq!(client.query(sql, &[]).await.unwrap().len(), rows.len());
        client.batch_execute("DROP TABLE t").await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_is_read_only_defines_nothing() {
    let cluster = Cluster::start().await;
    let client = cluster.connect().await;
    client
        .batch_execute("CREATE TABLE t (v bigint, id bigint NOT NULL)")
        .await
        .unwrap();
    client
        .batch_execute("SET default_transaction_read_only = on")
        .await
        .unwrap();
    for (sql, what) in [
        ("CREATE TABLE x (id int)", "CREATE TABLE"),
        ("ALTER TABLE t ADD w int", "ALTER TABLE"),
        ("ALTER TABLE t ADD PRIMARY KEY (id)", "ALTER TABLE"),
        ("TRUNCATE t", "TRUNCATE TABLE"),
        ("CREATE INDEX CONCURRENTLY ON t (v)", "CREATE INDEX"),
        ("CREATE DATABASE d", "CREATE DATABASE"),
        ("DROP DATABASE d", "DROP DATABASE"),
        ("SELECT create_distributed_table('t', 'id')", ""),
    ] {
        for error in [
            client.batch_execute(sql).await,
            client.execute(sql, &[]).await.map(drop),
        ] {
            let error = error.expect_err(sql);
            assert_eq!(code(&error), "25006", "{sql}: {error:?}");
            let said = error.as_db_error().expect("PostgreSQL's form").message();
            let expected = format!("cannot execute {what}");
            assert!(said.starts_with(&expected), "{sql}: {said}");
        }
    }
    // What only maintains may be done, and so may all else in a transaction that says so.
    client.batch_execute("REINDEX TABLE t").await.unwrap();
    client
        .batch_execute("BEGIN READ WRITE; CREATE TABLE x (id int); COMMIT")
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_defined_before_the_transaction_became_read_only_is_committed() {
    let cluster = Cluster::start().await;
    let client = cluster.connect().await;
    let [one, two] = cluster.rows_on_both(&client).await;
    let port = cluster.second_node().await;
    let beside = cluster.try_connect(port, "").await.unwrap();
    for (number, becomes) in [
        "SET TRANSACTION READ ONLY",
        "SET transaction_read_only = on",
        "SELECT set_config('transaction_read_only', 'on', true)",
        "SAVEPOINT s; SET TRANSACTION READ ONLY; ROLLBACK TO s; CREATE TABLE more (n int); SET TRANSACTION READ ONLY",
    ]
    .into_iter()
    .enumerate()
    {
        let sql = format!(
            "BEGIN; UPDATE t SET v = v + 1 WHERE id = {one}; CREATE TABLE made_{number} (n int); \
             UPDATE t SET v = v + 1 WHERE id = {two}; {becomes}"
        );
        client.batch_execute(&sql).await.unwrap();
        client.batch_execute("COMMIT").await.expect(becomes);
        for client in [&client, &beside] {
            let sql = format!("INSERT INTO made_{number} VALUES ({number})");
            client.batch_execute(&sql).await.expect(becomes);
        }
    }
    client.batch_execute("INSERT INTO more VALUES (1)").await.unwrap();
    let rows = client.query("SELECT v FROM t", &[]).await.unwrap();
    assert!(rows.iter().all(|row| row.get::<_, i64>(0) == 4));
}
