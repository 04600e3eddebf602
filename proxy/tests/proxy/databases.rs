//! CREATE DATABASE and DROP DATABASE, on all groups, and what is left when they stop half-way.

use tokio_postgres::{Client, NoTls};

use crate::harness::raw::Raw;
use crate::harness::{Cluster, code, hint};

/// On which of the two servers the database is.
async fn there(cluster: &Cluster, database: &str) -> [bool; 2] {
    let ask = |server: usize| async move {
        let client = cluster.direct(server).await;
        let sql = "SELECT EXISTS (SELECT FROM pg_database WHERE datname = $1)";
        client.query_one(sql, &[&database]).await.expect("a row").get(0)
    };
    [ask(0).await, ask(1).await]
}

/// Rows of `t` that each server has.
async fn rows(cluster: &Cluster, database: &str) -> [i64; 2] {
    let ask = |server: usize| async move {
        let client = cluster.direct_in(server, database).await;
        let sql = "SELECT count(*) FROM t";
        client.query_one(sql, &[]).await.expect("a row").get(0)
    };
    [ask(0).await, ask(1).await]
}

async fn count(client: &Client) -> i64 {
    let row = client.query_one("SELECT count(*) FROM t", &[]).await;
    row.expect("a row").get(0)
}

async fn refused(client: &Client, sql: &str) -> String {
    let error = client.batch_execute(sql).await.expect_err(sql);
    code(&error).to_owned()
}

fn message(error: &tokio_postgres::Error) -> &str {
    error.as_db_error().map_or("no message", |error| error.message())
}

async fn run(client: &Client, sql: &str) {
    client.batch_execute(sql).await.expect(sql);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_is_made_used_and_dropped_and_made_again_on_all_nodes() {
    let cluster = Cluster::start().await;
    let ports = [cluster.address.port(), cluster.second_node().await];
    let connect = |node: usize, database: &str| {
        let options = format!("dbname={database}");
        let cluster = &cluster;
        async move { cluster.try_connect(ports[node], &options).await }
    };
    let admins = [
        connect(0, "postgres").await.unwrap(),
        connect(1, "postgres").await.unwrap(),
    ];
    // Both nodes watch the template now, for a while.
    for node in [0, 1] {
        run(
            &connect(node, "template1").await.unwrap(),
            "CREATE TABLE IF NOT EXISTS o (id int)",
        )
        .await;
    }
    run(&admins[0], "DROP DATABASE IF EXISTS shop").await;
    let (low, high) = (cluster.keys_of(0, 3), cluster.keys_of(1, 3));
    let insert = format!(
        "INSERT INTO t (a, b) VALUES ({}, {}), ({}, {})",
        low[0], high[1], high[0], high[2]
    );
    for (round, shape) in ["a bigint PRIMARY KEY, b bigint", "b bigint PRIMARY KEY, a bigint"]
        .iter()
        .enumerate()
    {
        let (one, other) = (round, 1 - round);
        run(&admins[one], "CREATE DATABASE shop").await;
        assert_eq!(there(&cluster, "shop").await, [true, true]);
        assert_eq!(refused(&admins[other], "CREATE DATABASE shop").await, "42P04");
        let (here, elsewhere) = (
            connect(one, "shop").await.unwrap(),
            connect(other, "shop").await.unwrap(),
        );
        run(&here, &format!("CREATE TABLE t ({shape})")).await;
        run(&elsewhere, &insert).await;
        let expected = if round == 0 { [1, 1] } else { [0, 2] };
        assert_eq!(
            rows(&cluster, "shop").await,
            expected,
            "each by the key of this table"
        );
        // In a transaction of both groups, with a snapshot of both.
        run(&here, "BEGIN ISOLATION LEVEL REPEATABLE READ").await;
        assert_eq!(count(&here).await, 2);
        for key in [low[2], high[2] + 1000] {
            run(&here, &format!("INSERT INTO t VALUES ({key}, {key})")).await;
        }
        run(&here, "COMMIT").await;
        assert_eq!(count(&elsewhere).await, 4);
        let sql = format!("SELECT count(*) FROM t WHERE a = {}", low[0]);
        let found: i64 = elsewhere.query_one(&sql, &[]).await.unwrap().get(0);
        assert_eq!(found, 1);
        drop((here, elsewhere));
        run(&admins[other], "DROP DATABASE shop").await;
        assert_eq!(there(&cluster, "shop").await, [false, false]);
        assert_eq!(refused(&admins[one], "DROP DATABASE shop").await, "3D000");
        run(&admins[one], "DROP DATABASE IF EXISTS shop").await;
        for node in [0, 1] {
            let error = connect(node, "shop").await.expect_err("it is gone");
            assert_eq!(code(&error), "3D000");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_attempt_has_left_is_finished_by_the_next() {
    let cluster = Cluster::start().await;
    let client = cluster.connect().await;
    let [low, high] = [cluster.keys_of(0, 1)[0], cluster.keys_of(1, 1)[0]];
    let insert = format!("INSERT INTO t VALUES ({low}), ({high})");
    for (server, left) in [
        (0, "CREATE DATABASE half"),
        (1, "CREATE DATABASE half TEMPLATE template0"),
    ] {
        run(&cluster.direct(server).await, left).await;
        if server == 0 {
            let early = cluster.connect_as("dbname=half").await;
            let error = early.batch_execute("CREATE TABLE t (id int)").await.unwrap_err();
            assert_eq!(code(&error), "3D000");
            assert!(message(&error).contains("does not exist on group 2"), "{error}");
            assert!(hint(&error).contains("repeat CREATE DATABASE"), "{error}");
        }
        // As drivers send it.
        let mut raw = Raw::start(&cluster).await;
        raw.parse("", "CREATE DATABASE half");
        raw.bind("", "");
        raw.execute("", 0);
        raw.sync();
        let (tags, errors) = raw.until_ready().await;
        assert!(
            errors.is_empty() && tags.contains('N') && tags.ends_with("CZ"),
            "{tags} {errors:?}"
        );
        let half = cluster.connect_as("dbname=half").await;
        run(&half, "CREATE TABLE t (id bigint PRIMARY KEY)").await;
        run(&half, &insert).await;
        assert_eq!(rows(&cluster, "half").await, [1, 1]);
        drop(half);
        // The rest of a database never becomes a part of a new one.
        run(&cluster.direct(server).await, "DROP DATABASE half WITH (FORCE)").await;
        let error = client.batch_execute("CREATE DATABASE half").await.unwrap_err();
        assert_eq!(code(&error), "42P04");
        assert!(hint(&error).contains("DROP DATABASE"), "{error}");
        assert_eq!(there(&cluster, "half").await, [server == 1, server == 0]);
        run(&client, "DROP DATABASE half").await;
        assert_eq!(there(&cluster, "half").await, [false, false]);
    }
    run(&client, "CREATE ROLE alice").await;
    run(&cluster.direct(1).await, "CREATE DATABASE odd OWNER alice").await;
    let error = client.batch_execute("CREATE DATABASE odd").await.unwrap_err();
    assert_eq!(code(&error), "55000");
    assert!(message(&error).contains("not alike"), "{error}");
    run(&client, "DROP DATABASE odd").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failure_on_a_later_group_is_told_and_repeating_goes_on() {
    let cluster = Cluster::start().await;
    let client = cluster.connect().await;
    // The second group alone has no such role.
    run(&cluster.direct(0).await, "CREATE ROLE carol").await;
    let create = "CREATE DATABASE half OWNER carol";
    for _ in 0..2 {
        let error = client.batch_execute(create).await.unwrap_err();
        assert!(["55000", "42704"].contains(&code(&error)), "{error}");
        assert_eq!(there(&cluster, "half").await, [true, false]);
    }
    run(&cluster.direct(1).await, "CREATE ROLE carol").await;
    run(&client, create).await;
    assert_eq!(there(&cluster, "half").await, [true, true]);
    // Someone prepares a transaction past us, where nobody looks.
    let aside = cluster.direct_in(1, "half").await;
    run(
        &aside,
        "BEGIN; SELECT pg_current_xact_id(); PREPARE TRANSACTION 'aside'",
    )
    .await;
    drop(aside);
    assert_eq!(refused(&client, "DROP DATABASE half").await, "55006");
    assert_eq!(there(&cluster, "half").await, [true, true], "nothing was dropped");
    run(&cluster.direct_in(1, "half").await, "ROLLBACK PREPARED 'aside'").await;
    run(&client, "DROP DATABASE half").await;
    assert_eq!(there(&cluster, "half").await, [false, false]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_with_clients_is_dropped_by_force_only() {
    let cluster = Cluster::start().await;
    let client = cluster.connect().await;
    run(&client, "CREATE DATABASE shop").await;
    let inside = cluster.connect_as("dbname=shop").await;
    run(&inside, "CREATE TABLE t (id bigint PRIMARY KEY)").await;
    let aside = cluster.direct_in(1, "shop").await;
    assert_eq!(refused(&inside, "DROP DATABASE shop").await, "55006");
    assert_eq!(refused(&client, "DROP DATABASE shop").await, "55006");
    assert_eq!(there(&cluster, "shop").await, [true, true]);
    drop(aside);
    run(&client, "DROP DATABASE shop WITH (FORCE)").await;
    assert_eq!(there(&cluster, "shop").await, [false, false]);
    assert_eq!(refused(&inside, "SELECT id FROM t").await, "3D000");

    run(&client, "CREATE ROLE bob LOGIN CREATEDB; CREATE ROLE eve LOGIN").await;
    let (bob, eve) = (
        cluster.connect_as("user=bob").await,
        cluster.connect_as("user=eve").await,
    );
    run(&bob, "CREATE DATABASE own TEMPLATE template0").await;
    let inside = cluster.connect_as("user=bob dbname=own").await;
    run(&inside, "CREATE TABLE t (id int)").await;
    for sql in ["CREATE DATABASE other", "DROP DATABASE own"] {
        assert_eq!(refused(&eve, sql).await, "42501", "{sql}");
    }
    assert_eq!(there(&cluster, "own").await, [true, true]);
    run(&bob, "DROP DATABASE own WITH (FORCE)").await;
    assert_eq!(there(&cluster, "own").await, [false, false]);
    assert_eq!(refused(&client, "DROP DATABASE postgres").await, "0A000");
    assert_eq!(refused(&client, "DROP DATABASE template1").await, "42809");
}

/// Bob may not end a superuser's backend, and a node may open one again right after it was ended.
#[tokio::test(flavor = "multi_thread")]
async fn force_is_not_stopped_by_connections_of_nodes_that_come_back() {
    let cluster = Cluster::start().await;
    let client = cluster.connect().await;
    run(&client, "CREATE ROLE bob LOGIN CREATEDB").await;
    let bob = cluster.connect_as("user=bob").await;
    run(&bob, "CREATE DATABASE own").await;
    let mut nodes = Vec::new();
    for server in [0, 1] {
        let config = cluster.direct_config(server, "dbname=own application_name='howdah control'");
        let (client, connection) = tokio_postgres::connect(&config, NoTls).await.expect("connect");
        nodes.push(tokio::spawn(async move {
            let mut node = (client, connection);
            for _ in 0..3 {
                node.1.await.expect_err("it is ended");
                match tokio_postgres::connect(&config, NoTls).await {
                    Ok(again) => node = again,
                    Err(_) => return,
                }
            }
            node.1.await.expect_err("it is ended");
        }));
    }
    run(&bob, "DROP DATABASE own WITH (FORCE)").await;
    assert_eq!(there(&cluster, "own").await, [false, false]);
    for node in nodes {
        node.await.expect("it was ended each time");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn neither_runs_in_a_transaction() {
    let cluster = Cluster::start().await;
    let client = cluster.connect().await;
    run(&client, "CREATE TABLE t (id bigint PRIMARY KEY)").await;
    for sql in ["CREATE DATABASE x", "DROP DATABASE IF EXISTS x"] {
        run(&client, "BEGIN").await;
        assert_eq!(refused(&client, sql).await, "25001", "{sql}");
        run(&client, "ROLLBACK").await;
        assert_eq!(
            refused(&client, &format!("SELECT 1; {sql}")).await,
            "25001",
            "{sql}"
        );
        let mut raw = Raw::start(&cluster).await;
        for sql in ["INSERT INTO t VALUES (1)", sql] {
            raw.parse("", sql);
            raw.bind("", "");
            raw.execute("", 0);
        }
        raw.sync();
        let (tags, errors) = raw.until_ready().await;
        assert_eq!(errors, ["25001"], "{tags}");
        assert_eq!(there(&cluster, "x").await, [false, false]);
    }
    assert_eq!(count(&client).await, 0, "the rest of the pipeline is undone, too");
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_at_once_one_does_it_and_the_other_hears_of_it() {
    let cluster = Cluster::start().await;
    let port = cluster.second_node().await;
    let one = cluster.connect().await;
    let other = cluster.try_connect(port, "").await.unwrap();
    for (sql, late, after) in [
        ("CREATE DATABASE x", "42P04", [true, true]),
        ("DROP DATABASE x", "3D000", [false, false]),
    ] {
        let (a, b) = tokio::join!(one.batch_execute(sql), other.batch_execute(sql));
        let errors: Vec<String> = [a, b]
            .iter()
            .filter_map(|done| done.as_ref().err().map(|error| code(error).to_owned()))
            .collect();
        assert_eq!(errors, [late], "{sql}");
        assert_eq!(there(&cluster, "x").await, after, "{sql}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn programs_make_list_and_drop_databases() {
    let cluster = Cluster::start().await;
    for options in [
        &["createdb", "shop"][..],
        &["createdb", "-T", "template0", "-l", "C", "my shop"],
    ] {
        cluster
            .program(options[0], &options[1..])
            .await
            .expect("createdb");
    }
    let list = cluster.psql("\\l").await.expect("psql");
    for name in ["shop|", "my shop|"] {
        assert!(list.lines().any(|line| line.starts_with(name)), "{list}");
    }
    let sql = "CREATE TABLE t (id bigint PRIMARY KEY); INSERT INTO t VALUES (1), (2), (3), (4); SELECT count(*) FROM t";
    let said = cluster
        .program("psql", &["-X", "-A", "-t", "-q", "-c", sql, "my shop"])
        .await;
    assert_eq!(said.expect("psql"), "4\n");
    for options in [
        &["dropdb", "shop"][..],
        &["dropdb", "--if-exists", "-f", "my shop"],
    ] {
        cluster.program(options[0], &options[1..]).await.expect("dropdb");
    }
    assert_eq!(there(&cluster, "my shop").await, [false, false]);
}
