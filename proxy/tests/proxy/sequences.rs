//! Sequences, serial and identity columns: one count for the whole cluster, whichever node and group a row comes to.

use std::collections::HashSet;
use std::time::Duration;

use bytes::Bytes;
use futures::SinkExt;
use tokio_postgres::error::ErrorPosition;
use tokio_postgres::types::Type;
use tokio_postgres::{Client, SimpleQueryMessage};

use crate::harness::raw::Raw;
use crate::harness::{Cluster, code, hint};

async fn run(client: &Client, sql: &str) {
    client.batch_execute(sql).await.unwrap_or_else(|error| {
        let said = error.as_db_error().map(ToString::to_string);
        panic!("{sql}: {said:?} {error}")
    });
}

/// The rows of a Query, each with its values between bars.
async fn rows(client: &Client, sql: &str) -> Vec<String> {
    let messages = client.simple_query(sql).await.unwrap_or_else(|error| {
        panic!(
            "{sql}: {:?} {error}",
            error.as_db_error().map(ToString::to_string)
        )
    });
    let row = |message: &SimpleQueryMessage| match message {
        SimpleQueryMessage::Row(row) => {
            let values = (0..row.len()).map(|at| row.get(at).unwrap_or("NULL"));
            Some(values.collect::<Vec<_>>().join("|"))
        }
        _ => None,
    };
    messages.iter().filter_map(row).collect()
}

async fn refused(client: &Client, sql: &str) -> (String, String) {
    let error = client
        .simple_query(sql)
        .await
        .err()
        .unwrap_or_else(|| panic!("{sql} runs"));
    let error = error.as_db_error().unwrap_or_else(|| panic!("{sql}: {error}"));
    (error.code().code().to_owned(), error.message().to_owned())
}

#[tokio::test]
async fn a_session_sees_one_two_three_and_its_own_currval() {
    let cluster = Cluster::start().await;
    let client = cluster.connect().await;
    assert_eq!(
        refused(&client, "SELECT lastval()").await,
        (
            "55000".to_owned(),
            "lastval is not yet defined in this session".to_owned()
        )
    );
    run(
        &client,
        "CREATE SEQUENCE s; CREATE SEQUENCE down INCREMENT -5 START 100 MAXVALUE 100 MINVALUE 90",
    )
    .await;
    let said = refused(&client, "SELECT currval('s')").await;
    assert_eq!(said.0, "55000");
    assert_eq!(
        said.1,
        "currval of sequence \"s\" is not yet defined in this session"
    );
    for expected in ["1", "2", "3", "4", "5"] {
        assert_eq!(rows(&client, "SELECT nextval('s')").await, [expected]);
    }
    assert_eq!(
        rows(
            &client,
            "SELECT nextval('s'), nextval('public.s'::regclass) + 10, currval('s'), lastval()"
        )
        .await,
        ["6|17|7|7"]
    );
    let mut down = Vec::new();
    for _ in 0..3 {
        down.extend(rows(&client, "SELECT nextval('down')").await);
    }
    assert_eq!(down, ["100", "95", "90"]);
    let said = refused(&client, "SELECT nextval('down')").await;
    assert_eq!(said.0, "2200H");
    assert_eq!(said.1, "nextval: reached minimum value of sequence \"down\" (90)");
    assert_eq!(
        rows(&client, "SELECT currval('down'), currval('s')").await,
        ["90|7"]
    );
    // Another session has none of its own, but the sequence goes on.
    let other = cluster.connect().await;
    assert_eq!(refused(&other, "SELECT currval('s')").await.0, "55000");
    assert_eq!(rows(&other, "SELECT nextval('s')").await, ["8"]);
    assert_eq!(rows(&client, "SELECT currval('s'), lastval()").await, ["7|90"]);
    run(&client, "DISCARD SEQUENCES").await;
    assert_eq!(refused(&client, "SELECT currval('s')").await.0, "55000");
    assert_eq!(refused(&client, "SELECT nextval('nosuch')").await.0, "42P01");
    // The columns' names and types are those of the functions.
    let statement = client
        .prepare("SELECT nextval('s'), currval('s')::int, 1 + lastval()")
        .await
        .expect("prepare");
    let columns: Vec<_> = statement
        .columns()
        .iter()
        .map(|c| (c.name().to_owned(), c.type_().clone()))
        .collect();
    let expected = [
        ("nextval", Type::INT8),
        ("currval", Type::INT4),
        ("?column?", Type::INT8),
    ];
    assert_eq!(columns, expected.map(|(name, of)| (name.to_owned(), of)));
    let row = client.query_one(&statement, &[]).await.expect("row");
    assert_eq!(
        (row.get::<_, i64>(0), row.get::<_, i32>(1), row.get::<_, i64>(2)),
        (9, 9, 10)
    );
    // A name that is a parameter is of type regclass, as PostgreSQL has it.
    let statement = client.prepare("SELECT nextval($1)").await.expect("prepare");
    assert_eq!(statement.params(), [Type::REGCLASS]);
    let named = client
        .prepare_typed("SELECT nextval($1)", &[Type::TEXT])
        .await
        .expect("prepare");
    let row = client.query_one(&named, &[&"s"]).await.expect("row");
    assert_eq!(row.get::<_, i64>(0), 10);
    let error = client
        .query_one(&named, &[&"nosuch"])
        .await
        .expect_err("no such sequence");
    assert_eq!(code(&error), "42P01");
    // Nothing counts in other groups.
    let direct = cluster.direct(1).await;
    assert_eq!(refused(&direct, "SELECT nextval('s')").await.0, "2200H");
    run(&client, "DROP SEQUENCE s; CREATE SEQUENCE s").await;
    assert_eq!(refused(&client, "SELECT currval('s')").await.0, "55000");
    assert_eq!(rows(&client, "SELECT nextval('s')").await, ["1"]);
}

#[tokio::test]
async fn serial_and_identity_columns_are_filled_as_shard_keys_and_not() {
    let cluster = Cluster::start().await;
    let client = cluster.connect().await;
    run(&client, "CREATE TABLE a (id serial PRIMARY KEY, v text)").await;
    assert_eq!(
        rows(&client, "INSERT INTO a (v) VALUES ('x') RETURNING id, v").await,
        ["1|x"]
    );
    assert_eq!(
        rows(
            &client,
            "INSERT INTO a VALUES (DEFAULT, 'y'), (DEFAULT, 'z'), (77, 'w') RETURNING id, v"
        )
        .await,
        ["2|y", "3|z", "77|w"]
    );
    assert_eq!(
        rows(&client, "SELECT lastval(), currval('a_id_seq')").await,
        ["3|3"]
    );
    assert_eq!(
        rows(&client, "SELECT currval(pg_get_serial_sequence('a', 'id'))").await,
        ["3"]
    );
    assert_eq!(
        rows(&client, "INSERT INTO a DEFAULT VALUES RETURNING *").await,
        ["4|NULL"]
    );
    assert_eq!(
        rows(
            &client,
            "INSERT INTO a AS t (v) VALUES ('q') ON CONFLICT (id) DO UPDATE SET v = 'no' RETURNING t.id"
        )
        .await,
        ["5"]
    );
    let ids: HashSet<String> = rows(&client, "SELECT id FROM a").await.into_iter().collect();
    assert_eq!(ids.len(), 6);
    // They are on both groups, each where its key belongs.
    for key in ["1", "2", "3", "4", "5", "77"] {
        assert_eq!(
            rows(&client, &format!("SELECT id FROM a WHERE id = {key}")).await,
            [key]
        );
    }
}

#[tokio::test]
async fn identity_columns_follow_postgresqls_rules() {
    let cluster = Cluster::start().await;
    let client = cluster.connect().await;
    run(
        &client,
        "CREATE TABLE b (name text PRIMARY KEY, id bigint GENERATED ALWAYS AS IDENTITY (START 100 INCREMENT 10), n int);
         CREATE TABLE c (id int GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY, s smallserial)",
    )
    .await;
    assert_eq!(
        rows(
            &client,
            "INSERT INTO b (name, n) VALUES ('one', 1), ('two', 2) RETURNING id"
        )
        .await,
        ["100", "110"]
    );
    let said = refused(&client, "INSERT INTO b (name, id) VALUES ('three', 3)").await;
    assert_eq!(said.0, "428C9");
    assert_eq!(said.1, "cannot insert a non-DEFAULT value into column \"id\"");
    assert_eq!(
        rows(
            &client,
            "INSERT INTO b (name, id) OVERRIDING SYSTEM VALUE VALUES ('three', 3) RETURNING id"
        )
        .await,
        ["3"]
    );
    assert_eq!(
        rows(
            &client,
            "INSERT INTO b (name, id) VALUES ('four', DEFAULT) RETURNING id"
        )
        .await,
        ["120"]
    );
    assert_eq!(
        rows(&client, "INSERT INTO c VALUES (DEFAULT) RETURNING *").await,
        ["1|1"]
    );
    assert_eq!(
        rows(&client, "INSERT INTO c (id) VALUES (9) RETURNING *").await,
        ["9|2"]
    );
    assert_eq!(
        rows(&client, "INSERT INTO c DEFAULT VALUES RETURNING *").await,
        ["2|3"]
    );
    assert_eq!(
        refused(&client, "INSERT INTO c (nosuch) VALUES (9)").await.0,
        "42703"
    );
    assert_eq!(
        refused(&client, "INSERT INTO c VALUES (1, 2, 3)").await.0,
        "42601"
    );
    // Errors point at the client's text.
    let sql = "/* zwölf */ INSERT INTO b (name, n) VALUES ('five', 1), ('six', 'x')";
    let error = client.simple_query(sql).await.expect_err("no number");
    let position = error.as_db_error().and_then(|said| said.position().cloned());
    assert_eq!(position, Some(ErrorPosition::Original(65)));
    let sql = "SELECT 1; SELECT nextval('c_s_seq'), nosuch";
    let error = client.simple_query(sql).await.expect_err("no column");
    let position = error.as_db_error().and_then(|said| said.position().cloned());
    assert_eq!(position, Some(ErrorPosition::Original(38)));
    // What PostgreSQL would fill for each group by itself is refused.
    let sql = "WITH x AS (INSERT INTO c DEFAULT VALUES RETURNING id) SELECT id FROM x";
    assert_eq!(refused(&client, sql).await.0, "0A000");
    assert_eq!(refused(&client, "UPDATE c SET s = DEFAULT").await.0, "0A000");
    let error = client
        .simple_query("UPDATE c SET s = nextval('c_s_seq')")
        .await
        .expect_err("refused");
    assert!(code(&error) == "0A000" && !hint(&error).is_empty());
    run(
        &client,
        "ALTER TABLE c ALTER s DROP DEFAULT, ALTER id DROP IDENTITY",
    )
    .await;
    assert_eq!(refused(&client, "INSERT INTO c DEFAULT VALUES").await.0, "0A000");
}

#[tokio::test]
async fn prepared_statements_draw_at_each_execution() {
    let cluster = Cluster::start().await;
    let client = cluster.connect().await;
    run(&client, "CREATE TABLE a (id serial PRIMARY KEY, v text, n int)").await;
    let one = client
        .prepare("INSERT INTO a (v) VALUES ($1) RETURNING id")
        .await
        .expect("prepare");
    assert_eq!(one.params(), [Type::TEXT]);
    let three = client
        .prepare("INSERT INTO a (v, n) VALUES ($1, $2), ($3, 5), ('z', currval('a_id_seq')) RETURNING id, n")
        .await
        .expect("prepare");
    assert_eq!(three.params(), [Type::TEXT, Type::INT4, Type::TEXT]);
    let mut seen = HashSet::new();
    for _ in 0..20 {
        let row = client.query_one(&one, &[&"x"]).await.expect("row");
        assert!(seen.insert(row.get::<_, i32>(0)));
        let several = client.query(&three, &[&"x", &7, &"y"]).await.expect("rows");
        assert_eq!(several.len(), 3);
        for row in &several {
            assert!(seen.insert(row.get::<_, i32>(0)));
        }
        assert_eq!(several[2].get::<_, i32>(0), several[2].get::<_, i32>(1));
    }
    assert_eq!(seen.len(), 80);
    assert_eq!(seen.iter().max(), Some(&80));
    assert_eq!(rows(&client, "SELECT count(*) FROM a").await, ["80"]);
    // The columns that a sequence fills may be others when a statement is executed again.
    run(
        &client,
        "CREATE SEQUENCE other START 1000; ALTER TABLE a ALTER id SET DEFAULT nextval('other')",
    )
    .await;
    assert_eq!(
        client
            .query_one(&one, &[&"x"])
            .await
            .expect("row")
            .get::<_, i32>(0),
        1000
    );
    run(&client, "ALTER TABLE a ALTER n SET DEFAULT nextval('other')").await;
    assert_eq!(
        client
            .query_one(&one, &[&"x"])
            .await
            .expect("row")
            .get::<_, i32>(0),
        1001
    );
    assert_eq!(rows(&client, "SELECT n FROM a WHERE id = 1001").await, ["1002"]);
    // What is wrong with a Bind is PostgreSQL's to say, and the session goes on.
    let mut raw = Raw::start(&cluster).await;
    raw.parse("p", "INSERT INTO a (v) VALUES ($1) RETURNING id");
    raw.describe('S', "p");
    raw.bind("", "p");
    raw.execute("", 0);
    raw.sync();
    raw.send().await;
    let (_, said) = raw.until_ready().await;
    assert_eq!(said, ["08P01"]);
}

#[tokio::test]
async fn two_nodes_and_many_sessions_never_get_the_same_value() {
    let cluster = Cluster::start().await;
    let second = cluster.second_node().await;
    let client = cluster.connect().await;
    run(&client, "CREATE TABLE a (id bigserial PRIMARY KEY, v text)").await;
    let mut workers = Vec::new();
    for worker in 0..6 {
        let client = match worker % 2 {
            0 => cluster.connect().await,
            _ => cluster.try_connect(second, "").await.expect("connect"),
        };
        workers.push(tokio::spawn(async move {
            let mut seen = Vec::new();
            for _ in 0..60 {
                let row = client
                    .query_one("INSERT INTO a (v) VALUES ($1) RETURNING id", &[&"x"])
                    .await;
                let id: i64 = row.expect("row").get(0);
                let last = client
                    .query_one("SELECT lastval(), currval('a_id_seq')", &[])
                    .await
                    .expect("row");
                assert_eq!((last.get::<_, i64>(0), last.get::<_, i64>(1)), (id, id));
                seen.push(id);
                let several = "INSERT INTO a (v) VALUES ('p'), ('q') RETURNING id";
                seen.extend(
                    rows(&client, several)
                        .await
                        .iter()
                        .map(|id| id.parse::<i64>().expect("number")),
                );
            }
            seen
        }));
    }
    let mut seen = HashSet::new();
    for worker in workers {
        for id in worker.await.expect("worker") {
            assert!(seen.insert(id), "{id} twice");
        }
    }
    assert_eq!(seen.len(), 6 * 180);
    assert_eq!(rows(&client, "SELECT count(*) FROM a").await, ["1080"]);
}

#[tokio::test]
async fn what_sets_a_sequence_is_heeded_on_all_nodes() {
    let cluster = Cluster::start().await;
    let second = cluster.second_node().await;
    let client = cluster.connect().await;
    let other = cluster.try_connect(second, "").await.expect("connect");
    run(
        &client,
        "CREATE TABLE a (id serial PRIMARY KEY, v text); CREATE SEQUENCE s MAXVALUE 1000",
    )
    .await;
    let draw = async |client: &Client| {
        rows(client, "SELECT nextval('s')")
            .await
            .remove(0)
            .parse::<i64>()
            .expect("number")
    };
    for _ in 0..10 {
        draw(&client).await;
        draw(&other).await;
    }
    assert_eq!(rows(&client, "SELECT setval('s', 500)").await, ["500"]);
    assert_eq!(rows(&client, "SELECT currval('s')").await, ["500"]);
    let (one, two) = (draw(&other).await, draw(&client).await);
    assert_eq!(HashSet::from([one, two]), HashSet::from([501, 502]));
    assert_eq!(
        rows(&client, "SELECT pg_catalog.setval('public.s', 7, false) AS x").await,
        ["7"]
    );
    assert_eq!(draw(&other).await, 7);
    let set = client
        .query_one("SELECT setval($1, $2, $3)", &[&"s", &70i64, &true])
        .await;
    // Parameters of unknown type are regclass, bigint and boolean, of which the first has no value in this driver.
    assert!(set.is_err());
    let typed = client
        .prepare_typed("SELECT setval('s', $1)", &[Type::INT4])
        .await
        .expect("prepare");
    assert_eq!(
        client
            .query_one(&typed, &[&70i64])
            .await
            .map(|row| row.get::<_, i64>(0))
            .ok(),
        Some(70)
    );
    assert_eq!(draw(&other).await, 71);
    assert_eq!(
        rows(&client, "SELECT last_value, is_called FROM s").await,
        ["71|t"]
    );
    assert_eq!(
        rows(
            &client,
            "SELECT last_value FROM pg_sequences WHERE sequencename = 's'"
        )
        .await,
        ["71"]
    );
    let said = refused(&client, "SELECT setval('s', 1001)").await;
    assert_eq!(said.0, "22003");
    assert_eq!(
        refused(&client, "SELECT setval('s', (SELECT 1))").await.0,
        "0A000"
    );
    // Definitions, also those that PostgreSQL checks against the state that only the home group has.
    run(&client, "ALTER SEQUENCE s INCREMENT 10").await;
    assert_eq!(draw(&other).await, 81);
    run(&client, "ALTER SEQUENCE s MAXVALUE 200 AS integer").await;
    assert_eq!(draw(&client).await, 91);
    assert_eq!(refused(&client, "ALTER SEQUENCE s MAXVALUE 80").await.0, "22023");
    run(&client, "ALTER SEQUENCE s RESTART WITH 191").await;
    assert_eq!(draw(&other).await, 191);
    assert_eq!(refused(&client, "SELECT nextval('s')").await.0, "2200H");
    run(&client, "ALTER SEQUENCE s CYCLE").await;
    assert_eq!(draw(&other).await, 1);
    // TRUNCATE, and a rollback of it.
    for client in [&client, &other] {
        run(client, "INSERT INTO a (v) VALUES ('x'), ('y'), ('z')").await;
    }
    run(&client, "BEGIN; TRUNCATE a RESTART IDENTITY; ROLLBACK").await;
    let id = rows(&other, "INSERT INTO a (v) VALUES ('x') RETURNING id")
        .await
        .remove(0);
    assert!(id.parse::<i64>().expect("number") > 6, "{id}");
    run(&client, "TRUNCATE a RESTART IDENTITY").await;
    assert_eq!(
        rows(&other, "INSERT INTO a (v) VALUES ('x') RETURNING id").await,
        ["1"]
    );
    for server in 1..2 {
        let direct = cluster.direct(server).await;
        for name in ["s", "a_id_seq"].iter().filter(|name| **name != "s") {
            let sql = format!("SELECT nextval('{name}')");
            assert_eq!(refused(&direct, &sql).await.0, "2200H", "group {server}");
        }
    }
}

#[tokio::test]
async fn a_transaction_uses_the_sequences_that_it_has_made() {
    let cluster = Cluster::start().await;
    let client = cluster.connect().await;
    run(
        &client,
        "BEGIN; CREATE TABLE a (id serial PRIMARY KEY, v text); INSERT INTO a (v) VALUES ('x'), ('y');
         SELECT setval('a_id_seq', 10); INSERT INTO a (v) VALUES ('z'); COMMIT",
    )
    .await;
    assert_eq!(rows(&client, "SELECT currval('a_id_seq')").await, ["11"]);
    assert_eq!(
        rows(&client, "INSERT INTO a (v) VALUES ('w') RETURNING id").await,
        ["12"]
    );
    assert_eq!(rows(&client, "SELECT id FROM a WHERE id = 11").await, ["11"]);
    run(&client, "BEGIN; CREATE SEQUENCE gone; ROLLBACK").await;
    assert_eq!(refused(&client, "SELECT nextval('gone')").await.0, "42P01");
    // Rows that are there cannot be numbered, as each group would number its own.
    assert_eq!(
        refused(&client, "ALTER TABLE a ADD COLUMN n serial").await.0,
        "0A000"
    );
    run(
        &client,
        "ALTER TABLE a ADD COLUMN n int; CREATE SEQUENCE n; ALTER TABLE a ALTER n SET DEFAULT nextval('n')",
    )
    .await;
    assert_eq!(
        rows(&client, "INSERT INTO a (v) VALUES ('w') RETURNING id, n").await,
        ["13|1"]
    );
    let said = refused(&client, "BEGIN READ ONLY; SELECT nextval('n')").await;
    assert_eq!(
        said,
        (
            "25006".to_owned(),
            "cannot execute nextval() in a read-only transaction".to_owned()
        )
    );
}

#[tokio::test]
async fn privileges_are_those_of_postgresql() {
    let cluster = Cluster::start().await;
    let client = cluster.connect().await;
    run(
        &client,
        "CREATE ROLE ann LOGIN; CREATE TABLE a (id serial PRIMARY KEY, v text);
         CREATE TABLE b (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, v text);
         GRANT ALL ON a, b TO ann",
    )
    .await;
    let ann = cluster.connect_as("user=ann dbname=postgres").await;
    let denied = (
        "42501".to_owned(),
        "permission denied for sequence a_id_seq".to_owned(),
    );
    assert_eq!(refused(&ann, "INSERT INTO a (v) VALUES ('x')").await, denied);
    assert_eq!(refused(&ann, "SELECT nextval('a_id_seq')").await, denied);
    assert_eq!(refused(&ann, "SELECT setval('a_id_seq', 7)").await.0, "42501");
    run(&ann, "INSERT INTO b (v) VALUES ('x')").await;
    run(&client, "GRANT USAGE ON SEQUENCE a_id_seq TO ann").await;
    run(&ann, "INSERT INTO a (v) VALUES ('x')").await;
    run(&ann, "SELECT currval('a_id_seq')").await;
    assert_eq!(refused(&ann, "SELECT setval('a_id_seq', 7)").await.0, "42501");
    run(&client, "REVOKE USAGE ON SEQUENCE a_id_seq FROM ann").await;
    tokio::time::sleep(Duration::from_millis(1100)).await;
    assert_eq!(refused(&ann, "INSERT INTO a (v) VALUES ('x')").await, denied);
    // Who has taken another role has its rights.
    run(&client, "BEGIN; SET LOCAL ROLE ann").await;
    assert_eq!(refused(&client, "SELECT nextval('a_id_seq')").await, denied);
    run(&client, "ROLLBACK; SELECT nextval('a_id_seq')").await;
}

/// The rows that a COPY from the client has stored.
async fn copied(client: &Client, sql: &str, data: &'static [u8]) -> Result<u64, tokio_postgres::Error> {
    let sink = client.copy_in::<_, Bytes>(sql).await?;
    futures::pin_mut!(sink);
    sink.send(Bytes::from_static(data)).await?;
    sink.finish().await
}

#[tokio::test]
async fn copy_fills_what_its_rows_leave_out() {
    let cluster = Cluster::start().await;
    let client = cluster.connect().await;
    run(
        &client,
        "CREATE TABLE a (id serial PRIMARY KEY, v text, n smallint GENERATED ALWAYS AS IDENTITY (START 30));
         CREATE TABLE e (id bigserial PRIMARY KEY, v bigint)",
    )
    .await;
    let text = copied(&client, "COPY a (v) FROM STDIN", b"x\nlines\n\\N\nlast")
        .await
        .expect("text");
    assert_eq!(text, 4);
    let csv = "COPY a (v) FROM STDIN (FORMAT csv, HEADER, DELIMITER ';')";
    assert_eq!(
        copied(&client, csv, b"v\r\n\"a;b\"\r\nc\r\n").await.expect("csv"),
        2
    );
    let mut stored = rows(&client, "SELECT id, n, v FROM a").await;
    stored.sort();
    assert_eq!(
        stored,
        [
            "1|30|x",
            "2|31|lines",
            "3|32|NULL",
            "4|33|last",
            "5|34|a;b",
            "6|35|c"
        ]
    );
    for id in 1..=6 {
        assert_eq!(
            rows(&client, &format!("SELECT id FROM a WHERE id = {id}")).await,
            [id.to_string()]
        );
    }
    assert_eq!(
        rows(&client, "SELECT currval('a_id_seq'), lastval()").await,
        ["6|35"]
    );
    let mut binary = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0".to_vec();
    for value in 0..300_i64 {
        binary.extend([0, 1, 0, 0, 0, 8]);
        binary.extend(value.to_be_bytes());
    }
    binary.extend([0xff, 0xff]);
    let binary: &'static [u8] = binary.leak();
    assert_eq!(
        copied(&client, "COPY e (v) FROM STDIN (FORMAT binary)", binary)
            .await
            .expect("binary"),
        300
    );
    let ids: HashSet<String> = rows(&client, "SELECT id FROM e").await.into_iter().collect();
    assert_eq!(ids, (1..=300).map(|id| id.to_string()).collect());
    assert_eq!(rows(&client, "SELECT v FROM e WHERE id = 300").await, ["299"]);
    // Rows that are too short or too long are still PostgreSQL's to refuse.
    for data in [&b"a\tb\n"[..], b"\n\t\n"] {
        let error = copied(&client, "COPY e (v) FROM STDIN", data)
            .await
            .expect_err("refused");
        assert!(["22P04", "22P02"].contains(&code(&error)), "{error:?}");
    }
    run(&client, "ALTER SEQUENCE a_n_seq RESTART WITH 32767").await;
    let error = copied(&client, "COPY a (v) FROM STDIN", b"x\ny\n")
        .await
        .expect_err("ended");
    assert_eq!(code(&error), "2200H");
    assert_eq!(rows(&client, "SELECT count(*) FROM a").await, ["6"]);
}
