//! Temporary tables.

use std::time::Duration;

use futures::{SinkExt, StreamExt};
use proxy::Limits;
use tokio_postgres::{Client, SimpleQueryMessage};

use crate::harness::raw::Raw;
use crate::harness::{Cluster, code, hint};

/// A distributed table with ten rows on each group.
async fn table(cluster: &Cluster) -> Client {
    let client = cluster.connect().await;
    run(&client, "CREATE TABLE t (id bigint PRIMARY KEY, v bigint)").await;
    for server in 0..2 {
        for key in cluster.keys_of(server, 10) {
            run(&client, &format!("INSERT INTO t VALUES ({key}, {server})")).await;
        }
    }
    client
}

async fn run(client: &Client, sql: &str) {
    client.batch_execute(sql).await.expect(sql);
}

async fn fails(client: &Client, sql: &str) -> String {
    code(&client.batch_execute(sql).await.expect_err(sql)).to_owned()
}

/// The first column of the rows that a Query gives.
async fn rows(client: &Client, sql: &str) -> Vec<String> {
    let messages = client.simple_query(sql).await.expect(sql);
    let rows = messages.into_iter().filter_map(|message| match message {
        SimpleQueryMessage::Row(row) => Some(row.get(0).unwrap_or("NULL").to_owned()),
        _ => None,
    });
    rows.collect()
}

/// Temporary relations that there are in a group's PostgreSQL.
async fn temporaries(cluster: &Cluster, server: usize) -> i64 {
    let sql = "SELECT count(*) FROM pg_class WHERE relpersistence = 't'";
    cluster
        .direct(server)
        .await
        .query_one(sql, &[])
        .await
        .expect(sql)
        .get(0)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_temporary_table_can_do_what_postgresqls_can() {
    let cluster = Cluster::start().await;
    let client = table(&cluster).await;
    for sql in [
        "CREATE TEMP TABLE item (id serial PRIMARY KEY, name text UNIQUE, price numeric(10,2) CHECK (price > 0))",
        "CREATE TEMPORARY TABLE sale (id int GENERATED ALWAYS AS IDENTITY, item int REFERENCES item (id), n int)",
        "INSERT INTO item (name, price) VALUES ('a', 1.5), ('b', 2.5), ('c', 4)",
        "INSERT INTO sale (item, n) SELECT id, id * 10 FROM item",
        "CREATE INDEX ON sale (item)",
        "ALTER TABLE sale ADD COLUMN note text DEFAULT 'none'",
        "UPDATE sale SET note = name FROM item WHERE item.id = sale.item AND name > 'a'",
        "ANALYZE item, sale",
        "COMMENT ON TABLE item IS 'temporary'",
    ] {
        run(&client, sql).await;
    }
    assert_eq!(
        rows(
            &client,
            "SELECT sum(price * n) FROM item JOIN sale ON item.id = sale.item"
        )
        .await,
        ["185.00"]
    );
    assert_eq!(
        rows(&client, "SELECT note FROM sale ORDER BY id DESC LIMIT 2").await,
        ["c", "b"]
    );
    assert_eq!(rows(&client, "SELECT currval('item_id_seq')").await, ["3"]);
    assert_eq!(
        rows(&client, "DELETE FROM sale WHERE n = 30 RETURNING note").await,
        ["c"]
    );
    for (sql, sqlstate) in [
        ("INSERT INTO item (name, price) VALUES ('a', 1)", "23505"),
        ("INSERT INTO sale (item) VALUES (7)", "23503"),
        ("CREATE TEMP TABLE item (x int)", "42P07"),
        ("SELECT nothing FROM item", "42703"),
        ("SELECT nextval('counter')", "42P01"),
        (
            "ALTER TABLE item ALTER price SET DEFAULT pg_advisory_lock(1)",
            "0A000",
        ),
    ] {
        assert_eq!(fails(&client, sql).await, sqlstate, "{sql}");
    }
    run(
        &client,
        "CREATE TEMP TABLE made (n) AS SELECT generate_series(1, 5)",
    )
    .await;
    run(
        &client,
        "SELECT n * 2 AS n INTO TEMP doubled FROM made WHERE n > 3",
    )
    .await;
    run(
        &client,
        "CREATE TEMP VIEW both_of_them AS SELECT n FROM made UNION SELECT n FROM doubled",
    )
    .await;
    assert_eq!(rows(&client, "SELECT count(*) FROM both_of_them").await, ["7"]);
    let sink = client.copy_in("COPY made FROM STDIN").await.expect("COPY");
    let mut sink = Box::pin(sink);
    sink.send(bytes::Bytes::from_static(b"6\n7\n"))
        .await
        .expect("rows");
    assert_eq!(sink.as_mut().finish().await.expect("COPY"), 2);
    let out = client
        .copy_out("COPY (SELECT n FROM made ORDER BY n DESC LIMIT 2) TO STDOUT")
        .await;
    let out: Vec<_> = out
        .expect("COPY")
        .map(|part| part.expect("a row"))
        .collect()
        .await;
    assert_eq!(out.concat(), b"7\n6\n");
    // By the extended protocol, with parameters and in binary.
    let insert = client
        .prepare("INSERT INTO made VALUES ($1) RETURNING n")
        .await
        .unwrap();
    assert_eq!(
        client
            .query_one(&insert, &[&8_i32])
            .await
            .unwrap()
            .get::<_, i32>(0),
        8
    );
    run(
        &client,
        "PREPARE p (int) AS SELECT n FROM made WHERE n > $1 ORDER BY n",
    )
    .await;
    assert_eq!(rows(&client, "EXECUTE p (6)").await, ["7", "8"]);
    run(
        &client,
        "DECLARE c SCROLL CURSOR WITH HOLD FOR SELECT n FROM made ORDER BY n",
    )
    .await;
    assert_eq!(rows(&client, "FETCH LAST FROM c").await, ["8"]);
    run(
        &client,
        "CLOSE c; TRUNCATE made; DROP VIEW both_of_them; DROP TABLE doubled, made",
    )
    .await;
    assert_eq!(fails(&client, "SELECT * FROM made").await, "42P01");
    // It is the session's own, and there are no others.
    let other = cluster.connect().await;
    assert_eq!(fails(&other, "SELECT * FROM item").await, "42P01");
    assert_eq!(temporaries(&cluster, 1).await, 0);
    assert_eq!(rows(&client, "SELECT count(*) FROM t").await, ["20"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_temporary_table_hides_a_permanent_one() {
    let cluster = Cluster::start().await;
    let client = table(&cluster).await;
    let other = cluster.connect().await;
    let select = client.prepare("SELECT id FROM t").await.unwrap();
    run(&client, "PREPARE p AS SELECT id FROM t").await;
    for client in [&client, &other] {
        assert_eq!(rows(client, "SELECT id FROM t").await.len(), 20);
    }
    for round in 0..2 {
        run(
            &client,
            "CREATE TEMP TABLE t (id bigint); INSERT INTO t VALUES (-1)",
        )
        .await;
        assert_eq!(client.query(&select, &[]).await.unwrap().len(), 1, "{round}");
        assert_eq!(rows(&client, "EXECUTE p").await, ["-1"], "{round}");
        assert_eq!(rows(&client, "SELECT id FROM t").await, ["-1"]);
        assert_eq!(rows(&client, "SELECT id FROM pg_temp.t").await, ["-1"]);
        assert_eq!(rows(&client, "SELECT id FROM public.t").await.len(), 20);
        assert_eq!(rows(&other, "SELECT id FROM t").await.len(), 20);
        assert_eq!(fails(&client, "CREATE VIEW v AS SELECT * FROM t").await, "0A000");
        run(&client, "ALTER TABLE t RENAME TO elsewhere").await;
        assert_eq!(client.query(&select, &[]).await.unwrap().len(), 20, "{round}");
        assert_eq!(rows(&client, "EXECUTE p").await.len(), 20, "{round}");
        run(&client, "ALTER TABLE elsewhere RENAME TO t; DROP TABLE t").await;
        assert_eq!(rows(&client, "EXECUTE p").await.len(), 20, "{round}");
        assert_eq!(client.query(&select, &[]).await.unwrap().len(), 20, "{round}");
    }
    // Another shape is not given to who knows the old one.
    run(&client, "CREATE TEMP TABLE t (id text)").await;
    assert_eq!(code(&client.query(&select, &[]).await.unwrap_err()), "0A000");
    run(&client, "DROP TABLE t").await;
    run(&client, "DROP TABLE t").await;
    assert_eq!(fails(&other, "SELECT id FROM t").await, "42P01");
}

#[tokio::test(flavor = "multi_thread")]
async fn transactions_take_temporary_tables_along() {
    let cluster = Cluster::start().await;
    let client = table(&cluster).await;
    let keys = [cluster.keys_of(0, 1)[0], cluster.keys_of(1, 1)[0]];
    let update = |place: usize, v: i64| format!("UPDATE t SET v = {v} WHERE id = {}", keys[place]);
    run(
        &client,
        "BEGIN; CREATE TEMP TABLE tmp (n int); INSERT INTO tmp VALUES (1); SELECT n FROM tmp",
    )
    .await;
    run(&client, "ROLLBACK").await;
    assert_eq!(fails(&client, "SELECT n FROM tmp").await, "42P01");
    run(&client, "BEGIN; SAVEPOINT s; CREATE TEMP TABLE tmp (n int)").await;
    run(&client, "SELECT n FROM tmp; ROLLBACK TO s").await;
    assert_eq!(fails(&client, "SELECT n FROM tmp").await, "42P01");
    run(&client, "ROLLBACK").await;
    run(
        &client,
        "BEGIN; CREATE TEMP TABLE tmp (n int) ON COMMIT DROP; INSERT INTO tmp VALUES (1)",
    )
    .await;
    assert_eq!(rows(&client, "SELECT n FROM tmp").await, ["1"]);
    run(&client, "COMMIT").await;
    assert_eq!(fails(&client, "SELECT n FROM tmp").await, "42P01");

    run(
        &client,
        "CREATE TEMP TABLE kept (n int); CREATE TEMP TABLE emptied (n int) ON COMMIT DELETE ROWS",
    )
    .await;
    // What wrote on other groups, too, is prepared there, and commits here: in whatever order it came to the groups.
    for (round, order) in [[0, 1], [1, 0], [1, 1]].into_iter().enumerate() {
        let v = i64::try_from(round).unwrap() + 100;
        run(&client, "BEGIN").await;
        run(&client, &update(order[0], v)).await;
        run(
            &client,
            &format!("INSERT INTO kept VALUES ({v}); INSERT INTO emptied VALUES (1)"),
        )
        .await;
        run(&client, &update(order[1], v)).await;
        assert_eq!(rows(&client, "SELECT n FROM emptied").await, ["1"]);
        assert_eq!(rows(&client, "SELECT to_regclass('emptied')").await, ["emptied"]);
        run(&client, "COMMIT").await;
        assert_eq!(
            rows(&client, &format!("SELECT n FROM kept WHERE n = {v}"))
                .await
                .len(),
            1
        );
        assert!(rows(&client, "SELECT n FROM emptied").await.is_empty());
        for place in order {
            let sql = format!("SELECT v FROM t WHERE id = {}", keys[place]);
            assert_eq!(rows(&client, &sql).await, [v.to_string()], "{round}");
        }
    }
    // What fails on another group takes them along.
    run(&client, "BEGIN; INSERT INTO kept VALUES (-1)").await;
    run(&client, &update(1, 5)).await;
    assert_eq!(
        fails(&client, &format!("INSERT INTO t VALUES ({}, 0)", keys[1])).await,
        "23505"
    );
    run(&client, "COMMIT").await;
    assert!(rows(&client, "SELECT n FROM kept WHERE n = -1").await.is_empty());
    // A transaction that only reads may write them.
    run(&client, "BEGIN READ ONLY; INSERT INTO kept VALUES (7)").await;
    assert_eq!(fails(&client, &update(0, 5)).await, "25006");
    run(
        &client,
        "ROLLBACK; BEGIN READ ONLY; INSERT INTO kept VALUES (8); SELECT id FROM t; COMMIT",
    )
    .await;
    assert_eq!(rows(&client, "SELECT n FROM kept WHERE n < 10").await, ["8"]);
    // With one snapshot of all groups.
    let other = cluster.connect().await;
    run(
        &client,
        "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT n FROM kept",
    )
    .await;
    for place in 0..2 {
        run(&other, &update(place, 1000)).await;
    }
    assert_eq!(rows(&client, "SELECT id FROM t WHERE v = 1000").await, [""; 0]);
    run(&client, "UPDATE kept SET n = 9 WHERE n = 8; COMMIT").await;
    assert_eq!(rows(&client, "SELECT n FROM kept WHERE n < 10").await, ["9"]);
    // Both would have to commit last.
    run(&client, "BEGIN; INSERT INTO kept VALUES (3)").await;
    run(&client, &update(1, 6)).await;
    let declare = format!(
        "DECLARE c CURSOR WITH HOLD FOR SELECT v FROM t WHERE id = {}",
        keys[1]
    );
    assert_eq!(fails(&client, &declare).await, "0A000");
    run(&client, "ROLLBACK").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_backend_is_kept_for_as_long_as_there_are_temporary_tables() {
    let cluster = Cluster::start().await;
    let client = cluster.connect_as("application_name=keeps").await;
    cluster.until_pinned("keeps", "").await;
    for (make, end) in [
        ("CREATE TEMP TABLE tmp (n int)", "DROP TABLE tmp"),
        (
            "CREATE TEMP TABLE tmp (n int); CREATE TEMP SEQUENCE s",
            "DISCARD TEMP",
        ),
        ("CREATE TABLE pg_temp.tmp (n serial PRIMARY KEY)", "DISCARD ALL"),
        ("CREATE TEMP TABLE tmp AS SELECT 1", "DROP TABLE pg_temp.tmp"),
        (
            "BEGIN; CREATE TEMP TABLE tmp (n int); COMMIT",
            "BEGIN; DROP TABLE tmp; COMMIT",
        ),
    ] {
        run(&client, make).await;
        cluster.until_pinned("keeps", "temporary table").await;
        assert!(temporaries(&cluster, 0).await > 0, "{make}");
        run(&client, end).await;
        cluster.until_pinned("keeps", "").await;
        assert_eq!(temporaries(&cluster, 0).await, 0, "{end}");
    }
    assert_eq!(fails(&client, "CREATE TEMP TABLE tmp (n nothing)").await, "42704");
    assert_eq!(
        fails(&client, "BEGIN; CREATE TEMP TABLE tmp (n int); SELECT 1 / 0").await,
        "22012"
    );
    run(&client, "ROLLBACK").await;
    cluster.until_pinned("keeps", "").await;
    // With the session they go.
    run(&client, "CREATE TEMP TABLE tmp (n int)").await;
    drop(client);
    for _ in 0..200 {
        if temporaries(&cluster, 0).await == 0 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("a temporary table has outlived its session");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_whose_temporary_tables_are_lost_ends() {
    let cluster = Cluster::start().await;
    table(&cluster).await;
    let direct = cluster.direct(0).await;
    let end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'loses'";
    let lose = async |sql: &str| {
        let client = cluster.connect_as("application_name=loses").await;
        run(&client, sql).await;
        assert!(!direct.query(end, &[]).await.unwrap().is_empty(), "{sql}");
        client
    };
    // Whatever the next statement is about, and also if there is none.
    for (sql, next) in [
        ("CREATE TEMP TABLE tmp (n int)", "SELECT n FROM tmp"),
        ("CREATE TEMP TABLE tmp (n int)", "SELECT id FROM t"),
        ("BEGIN; CREATE TEMP TABLE tmp (n int)", "ROLLBACK"),
    ] {
        let client = lose(sql).await;
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert!(client.batch_execute(next).await.is_err(), "{next}");
        assert!(client.batch_execute("SELECT 1").await.is_err(), "{sql}; {next}");
        assert!(client.is_closed(), "{sql}; {next}");
    }
    let mut raw = Raw::start(&cluster).await;
    raw.query("SET application_name = 'loses'; CREATE TEMP TABLE tmp (n int)");
    raw.until_ready().await;
    direct.query(end, &[]).await.unwrap();
    let last = raw.last_words().await;
    assert!(last.contains("FATAL") && last.contains("57P01"), "{last}");
    assert!(last.contains("temporary tables are lost"), "{last}");
    // Others lose nothing but their statement.
    let client = cluster.connect_as("application_name=loses").await;
    run(&client, "CREATE TEMP TABLE tmp (n int); DROP TABLE tmp; SELECT 1").await;
    // Until the session has asked what it still has, it may have lost something.
    cluster.until_pinned("loses", "").await;
    assert!(!direct.query(end, &[]).await.unwrap().is_empty());
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(rows(&client, "SELECT id FROM t").await.len(), 20);
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_with_temporary_tables_leave_room_for_others() {
    let limits = Limits {
        max_backends: 4,
        ..Limits::default()
    };
    let cluster = Cluster::with(limits).await;
    table(&cluster).await;
    let mut keep = Vec::new();
    for _ in 0..2 {
        let client = cluster.connect().await;
        run(
            &client,
            "CREATE TEMP TABLE tmp (n int); INSERT INTO tmp VALUES (1)",
        )
        .await;
        keep.push(client);
    }
    let third = cluster.connect().await;
    let error = third
        .batch_execute("CREATE TEMP TABLE tmp (n int)")
        .await
        .unwrap_err();
    assert_eq!(code(&error), "53300");
    assert!(hint(&error).contains("Drop temporary tables"), "{error:?}");
    for _ in 0..3 {
        assert_eq!(rows(&third, "SELECT id FROM t").await.len(), 20);
    }
    run(&keep[0], "DROP TABLE tmp").await;
    // It has its right back when it rests.
    let mut made = Err("never tried".to_owned());
    for _ in 0..100 {
        made = third
            .batch_execute("CREATE TEMP TABLE tmp (n int)")
            .await
            .map_err(|error| error.to_string());
        if made.is_ok() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    made.expect("there is room again");
    assert_eq!(rows(&keep[1], "SELECT n FROM tmp").await, ["1"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn temporary_tables_by_pipelines() {
    let cluster = Cluster::start().await;
    table(&cluster).await;
    let mut raw = Raw::start(&cluster).await;
    // Made, filled and read before the first Sync.
    for sql in [
        "CREATE TEMP TABLE tmp (n int)",
        "INSERT INTO tmp VALUES (1), (2)",
        "SELECT n FROM tmp ORDER BY n",
    ] {
        raw.parse("", sql);
        raw.bind("", "");
        raw.describe('P', "");
        raw.execute("", 0);
    }
    raw.sync();
    assert_eq!(raw.until_ready().await, ("12nC12nC12TDDCZ".to_owned(), vec![]));
    // A pipeline that fails takes its table along.
    for sql in [
        "CREATE TEMP TABLE second (n int)",
        "INSERT INTO second SELECT 1 / 0",
    ] {
        raw.parse("", sql);
        raw.bind("", "");
        raw.execute("", 0);
    }
    raw.sync();
    assert_eq!(raw.until_ready().await.1, ["22012"]);
    raw.query("SELECT * FROM second");
    assert_eq!(raw.until_ready().await.1, ["42P01"]);
    // Described before it is bound.
    raw.parse("s", "SELECT n, n::text FROM tmp WHERE n = 1");
    raw.describe('S', "s");
    raw.sync();
    assert_eq!(raw.until_ready().await, ("1tTZ".to_owned(), vec![]));
    // COPY, as libpq does it: its first Sync comes before the rows.
    raw.parse("", "COPY tmp FROM STDIN");
    raw.bind("", "");
    raw.describe('P', "");
    raw.execute("", 0);
    raw.sync();
    raw.copy_data(b"3\n4\n");
    raw.bytes(b"c\0\0\0\x04");
    raw.sync();
    assert_eq!(raw.until_ready().await, ("12nGCZ".to_owned(), vec![]));
    // One that fails among its rows, by both protocols.
    raw.parse("", "COPY tmp FROM STDIN");
    raw.bind("", "");
    raw.execute("", 0);
    raw.sync();
    raw.copy_data(b"none\n");
    raw.bytes(b"c\0\0\0\x04");
    raw.sync();
    assert_eq!(
        raw.until_ready().await,
        ("12GEZ".to_owned(), vec!["22P02".to_owned()])
    );
    raw.query("COPY tmp FROM STDIN");
    raw.copy_data(b"none\n");
    raw.bytes(b"c\0\0\0\x04");
    assert_eq!(
        raw.until_ready().await,
        ("GEZ".to_owned(), vec!["22P02".to_owned()])
    );
    raw.query("SELECT 1; COPY tmp FROM STDIN");
    assert_eq!(raw.until_ready().await.1, ["0A000"]);
    raw.query("SELECT n FROM tmp");
    assert_eq!(raw.until_ready().await, ("TDDDDCZ".to_owned(), vec![]));
    // Written together with rows of the other group.
    let key = cluster.keys_of(1, 1)[0];
    for sql in [
        "INSERT INTO tmp VALUES (5)".to_owned(),
        format!("UPDATE t SET v = 77 WHERE id = {key}"),
        "SELECT n FROM tmp WHERE n = 5".to_owned(),
    ] {
        raw.parse("", &sql);
        raw.bind("", "");
        raw.execute("", 0);
    }
    raw.sync();
    assert_eq!(raw.until_ready().await, ("12C12C12DCZ".to_owned(), vec![]));
    raw.query("SELECT n FROM tmp WHERE n = 5");
    assert_eq!(raw.until_ready().await, ("TDCZ".to_owned(), vec![]));
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_of_distributed_tables_join_where_they_are_at_home() {
    let cluster = Cluster::start().await;
    let client = table(&cluster).await;
    let keys = [cluster.keys_of(0, 1)[0], cluster.keys_of(1, 1)[0]];
    run(
        &client,
        &format!("CREATE TEMP TABLE tmp AS SELECT * FROM t WHERE id = {}", keys[0]),
    )
    .await;
    run(&client, &format!("INSERT INTO tmp VALUES ({}, 0)", keys[1])).await;
    let join = |key| format!("SELECT t.v FROM t JOIN tmp USING (id) WHERE t.id = {key}");
    assert_eq!(rows(&client, &join(keys[0])).await, ["0"]);
    let select = client
        .prepare("SELECT t.v FROM t JOIN tmp USING (id) WHERE t.id = $1")
        .await
        .unwrap();
    assert_eq!(client.query(&select, &[&keys[0]]).await.unwrap().len(), 1);
    let error = client.query(&select, &[&keys[1]]).await.unwrap_err();
    assert_eq!(code(&error), "0A000");
    for sql in [
        &*join(keys[1]),
        "SELECT t.v FROM t JOIN tmp USING (id)",
        "INSERT INTO tmp SELECT t.* FROM t WHERE id NOT IN (SELECT id FROM tmp)",
        "INSERT INTO t SELECT * FROM tmp",
        "UPDATE t SET v = 1 FROM tmp WHERE t.id = tmp.id",
        "TRUNCATE t, tmp",
        "DROP TABLE t, tmp",
    ] {
        assert_eq!(fails(&client, sql).await, "0A000", "{sql}");
    }
    run(
        &client,
        &format!(
            "UPDATE t SET v = 9 FROM tmp WHERE t.id = tmp.id AND t.id = {}",
            keys[0]
        ),
    )
    .await;
    assert_eq!(rows(&client, &join(keys[0])).await, ["9"]);
    run(
        &client,
        "CREATE TEMP TABLE like_it AS SELECT * FROM t WITH NO DATA",
    )
    .await;
    assert_eq!(rows(&client, "SELECT count(*) FROM like_it").await, ["0"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_temporary_table_is_filled_with_rows_of_all_groups() {
    let cluster = Cluster::start().await;
    let client = table(&cluster).await;
    let key = cluster.keys_of(1, 1)[0];
    assert_eq!(
        rows(
            &client,
            "CREATE TEMP TABLE made AS SELECT id, v, 'a\tb\\' || v AS text FROM t"
        )
        .await,
        [""; 0]
    );
    let sum = "SELECT count(*) || ' ' || sum(v) || ' ' || max(text) FROM made";
    assert_eq!(rows(&client, sum).await, ["20 10 a\tb\\1"]);
    // By the extended protocol, and in transactions of every level.
    assert_eq!(
        client
            .execute("CREATE TEMP TABLE again AS SELECT id FROM t WHERE v = 1", &[])
            .await
            .unwrap(),
        10
    );
    for begin in ["BEGIN", "BEGIN ISOLATION LEVEL REPEATABLE READ"] {
        run(&client, begin).await;
        run(&client, &format!("UPDATE t SET v = 5 WHERE id = {key}")).await;
        run(
            &client,
            "CREATE TEMP TABLE IF NOT EXISTS inside ON COMMIT DROP AS SELECT v FROM t WHERE v = 5",
        )
        .await;
        assert_eq!(rows(&client, "SELECT v FROM inside").await, ["5"]);
        run(
            &client,
            "CREATE TEMP TABLE IF NOT EXISTS inside AS SELECT v FROM t",
        )
        .await;
        run(&client, "INSERT INTO inside SELECT v FROM t WHERE v = 5").await;
        assert_eq!(rows(&client, "SELECT v FROM inside").await.len(), 2);
        run(&client, "ROLLBACK").await;
        assert_eq!(fails(&client, "SELECT v FROM inside").await, "42P01", "{begin}");
    }
    // The name may be that of the table that is read.
    run(
        &client,
        "CREATE TEMP TABLE t AS SELECT * FROM t; INSERT INTO t SELECT * FROM public.t",
    )
    .await;
    assert_eq!(rows(&client, "SELECT count(*) FROM t").await, ["40"]);
    run(&client, "DROP TABLE t").await;
    // Rows of another group alone may have been computed in any way.
    run(
        &client,
        &format!("SELECT count(*) AS n, max(v) AS v INTO TEMP one FROM t WHERE id = {key}"),
    )
    .await;
    assert_eq!(rows(&client, "SELECT n || ' ' || v FROM one").await, ["1 1"]);
    // Types are converted as by any INSERT.
    run(
        &client,
        "CREATE TEMP TABLE typed (id text PRIMARY KEY, v int, w text DEFAULT 'none')",
    )
    .await;
    let insert = "INSERT INTO typed (v, id) SELECT v + 0.6, id > 0 FROM t WHERE v = 1 ON CONFLICT DO NOTHING";
    assert_eq!(client.execute(insert, &[]).await.unwrap(), 1);
    assert_eq!(
        rows(&client, "SELECT id || v || w FROM typed").await,
        ["true2none"]
    );
    assert_eq!(
        fails(
            &client,
            "INSERT INTO typed SELECT id FROM t; INSERT INTO typed SELECT id FROM t"
        )
        .await,
        "23505"
    );
    assert_eq!(rows(&client, "SELECT count(*) FROM typed").await, ["1"]);
    for (sql, sqlstate) in [
        ("CREATE TEMP TABLE made AS SELECT id FROM t", "42P07"),
        ("CREATE TEMP TABLE bad AS SELECT 1 / (v - 1) FROM t", "22012"),
        ("INSERT INTO typed SELECT id, v, 1 / (v - 1) FROM t", "22012"),
        ("CREATE TEMP TABLE bad AS SELECT max(v) FROM t", "0A000"),
        ("CREATE TEMP TABLE bad AS SELECT nothing FROM t", "42703"),
    ] {
        assert_eq!(fails(&client, sql).await, sqlstate, "{sql}");
        assert_eq!(fails(&client, "SELECT * FROM bad").await, "42P01", "{sql}");
    }
    // Of one snapshot: rows that move money between the groups always have the same sum.
    let (from, to) = (cluster.keys_of(0, 2)[1], cluster.keys_of(1, 2)[1]);
    let mover = cluster.connect().await;
    let moves = tokio::spawn(async move {
        for _ in 0..40 {
            run(
                &mover,
                &format!("BEGIN; UPDATE t SET v = v - 1 WHERE id = {from}; UPDATE t SET v = v + 1 WHERE id = {to}; COMMIT"),
            )
            .await;
        }
    });
    while !moves.is_finished() {
        run(&client, "CREATE TEMP TABLE cut AS SELECT v FROM t").await;
        assert_eq!(rows(&client, "SELECT sum(v) FROM cut").await, ["10"]);
        run(&client, "DROP TABLE cut").await;
    }
    moves.await.unwrap();
}
