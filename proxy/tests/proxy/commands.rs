//! psql, pgbench, DDL and settings.

use crate::harness::{Cluster, code};

#[tokio::test(flavor = "multi_thread")]
async fn psql_makes_a_table_and_finds_its_rows_again() {
    let cluster = Cluster::start().await;
    cluster
        .psql("CREATE TABLE t (id bigint PRIMARY KEY, v text)")
        .await
        .unwrap();
    for id in 1..=20 {
        cluster
            .psql(&format!("INSERT INTO t VALUES ({id}, 'row {id}')"))
            .await
            .unwrap();
    }
    assert_eq!(
        cluster.psql("SELECT v FROM t WHERE id = 7").await.unwrap(),
        "row 7\n"
    );
    let mut all: Vec<i64> = cluster
        .psql("SELECT id FROM t")
        .await
        .unwrap()
        .lines()
        .map(|l| l.parse().unwrap())
        .collect();
    all.sort_unstable();
    assert_eq!(all, (1..=20).collect::<Vec<_>>());
    let described = cluster.program("psql", &["-X", "-c", "\\d t"]).await.unwrap();
    assert!(described.contains("\"t_pkey\" PRIMARY KEY"), "{described}");
    for server in 0..2 {
        let direct = cluster.direct(server).await;
        let count: i64 = direct
            .query_one("SELECT count(*) FROM t", &[])
            .await
            .unwrap()
            .get(0);
        assert!(count > 0 && count < 20, "server {server} has {count}");
    }
    assert_eq!(cluster.psql("SELECT max(id) FROM t").await.unwrap(), "20\n");
    let error = cluster.psql("SELECT * FROM missing").await.unwrap_err();
    assert!(error.contains("relation \"missing\" does not exist"), "{error}");
    cluster.psql("DROP TABLE t").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn pgbench_runs_in_every_protocol_mode() {
    let cluster = Cluster::start().await;
    cluster
        .psql("CREATE TABLE kv (k bigint PRIMARY KEY, v bigint)")
        .await
        .unwrap();
    let directory = tempfile::tempdir().unwrap();
    let script = |name: &str, text: &str| {
        let path = directory.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let fill = script(
        "fill",
        "\\set k random(1, 1000000000)\nINSERT INTO kv VALUES (:k, 0) ON CONFLICT DO NOTHING;\n",
    );
    let read = script(
        "read",
        "\\set k random(1, 1000)\nSELECT v FROM kv WHERE k = :k;\n",
    );
    let write = script(
        "write",
        "\\set k random(1, 1000)\nBEGIN;\nUPDATE kv SET v = v + 1 WHERE k = :k;\nSELECT v FROM kv WHERE k = :k;\nEND;\n",
    );
    for mode in ["simple", "extended", "prepared"] {
        for file in [&fill, &read, &write] {
            let arguments = ["-n", "-M", mode, "-c", "4", "-t", "100", "-f", file];
            let output = cluster.program("pgbench", &arguments).await.unwrap();
            assert!(output.contains("400/400"), "{mode}: {output}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn ddl_is_on_every_group_or_on_none() {
    let cluster = Cluster::start().await;
    let client = cluster.connect().await;
    client
        .batch_execute("CREATE TABLE a (id int PRIMARY KEY, v int); CREATE INDEX a_v ON a (v)")
        .await
        .unwrap();
    for server in 0..2 {
        let row = cluster
            .direct(server)
            .await
            .query_one("SELECT to_regclass('a_v') IS NOT NULL", &[])
            .await;
        assert!(row.unwrap().get::<_, bool>(0), "server {server}");
    }
    cluster
        .direct(1)
        .await
        .batch_execute("CREATE SCHEMA taken")
        .await
        .unwrap();
    let error = client.batch_execute("CREATE SCHEMA taken").await.unwrap_err();
    assert_eq!(code(&error), "42P06");
    let row = cluster
        .direct(0)
        .await
        .query_one("SELECT to_regnamespace('taken') IS NULL", &[])
        .await;
    assert!(row.unwrap().get::<_, bool>(0));
    client.batch_execute("VACUUM a").await.unwrap();
    client
        .batch_execute("CREATE INDEX CONCURRENTLY a_v2 ON a (v)")
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_go_where_another_shard_key_wants_them() {
    let cluster = Cluster::start().await;
    let client = cluster.connect().await;
    client
        .batch_execute("CREATE TABLE o (id bigint, customer bigint, v text)")
        .await
        .unwrap();
    client
        .query_one("SELECT create_distributed_table('o', 'customer')", &[])
        .await
        .unwrap();
    let key = cluster.keys_of(1, 1)[0];
    client
        .execute("INSERT INTO o VALUES (1, $1, 'x')", &[&key])
        .await
        .unwrap();
    let count: i64 = cluster
        .direct(1)
        .await
        .query_one("SELECT count(*) FROM o", &[])
        .await
        .unwrap()
        .get(0);
    assert_eq!(count, 1);
    let other = cluster.keys_of(0, 1)[0];
    let sql = "UPDATE o SET id = $1 WHERE customer = $2";
    client.execute(sql, &[&other, &key]).await.unwrap();
    client
        .query_one("SELECT create_distributed_table('o', 'id')", &[])
        .await
        .unwrap();
    for (server, expected) in [(0, 1), (1, 0)] {
        let direct = cluster.direct(server).await;
        let row = direct.query_one("SELECT count(*) FROM o", &[]).await.unwrap();
        assert_eq!(row.get::<_, i64>(0), expected, "group {server}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_follow_the_session_to_every_group() {
    let cluster = Cluster::start().await;
    let client = cluster.connect().await;
    client
        .batch_execute("CREATE TABLE s (id bigint PRIMARY KEY)")
        .await
        .unwrap();
    client
        .batch_execute("SET application_name = 'follows'")
        .await
        .unwrap();
    for server in 0..2 {
        let key = cluster.keys_of(server, 1)[0];
        let sql = format!("SELECT current_setting('application_name'), id FROM s WHERE id = {key}");
        client
            .batch_execute(&format!("INSERT INTO s VALUES ({key})"))
            .await
            .unwrap();
        let rows = client.query(&sql, &[]).await.unwrap();
        assert_eq!(rows[0].get::<_, String>(0), "follows", "server {server}");
    }
    client
        .batch_execute("BEGIN; SET application_name = 'undone'; ROLLBACK")
        .await
        .unwrap();
    for server in 0..2 {
        let key = cluster.keys_of(server, 1)[0];
        let sql = format!("SELECT current_setting('application_name') FROM s WHERE id = {key}");
        assert_eq!(
            client.query_one(&sql, &[]).await.unwrap().get::<_, String>(0),
            "follows"
        );
    }
    let error = client
        .batch_execute("SET synchronous_commit = off")
        .await
        .unwrap_err();
    assert_eq!(code(&error), "0A000");
}
