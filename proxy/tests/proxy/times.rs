//! The time of a transaction, and of a statement, is one in all groups, as on one PostgreSQL.

use tokio_postgres::Client;

use crate::harness::{Cluster, code, hint};
use crate::sequences_as_one::{Both, answer};

async fn run(client: &Client, sql: &str) {
    client
        .batch_execute(sql)
        .await
        .unwrap_or_else(|error| panic!("{sql}: {error:?}"));
}

/// The only value of a row.
async fn value(client: &Client, sql: &str) -> String {
    let messages = client
        .simple_query(sql)
        .await
        .unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    let row = messages.iter().find_map(|message| match message {
        tokio_postgres::SimpleQueryMessage::Row(row) => Some(row),
        _ => None,
    });
    row.and_then(|row| row.get(0)).unwrap_or("NULL").to_owned()
}

/// Rows of both groups, of which each is in one.
async fn filled(cluster: &Cluster, client: &Client) -> Vec<i64> {
    run(
        client,
        "CREATE TABLE t (id bigint PRIMARY KEY, at timestamptz, made timestamptz DEFAULT now(), \
         day date DEFAULT CURRENT_DATE, utc timestamp DEFAULT (now() AT TIME ZONE 'utc') + interval '1 day')",
    )
    .await;
    let keys = [cluster.keys_of(0, 3), cluster.keys_of(1, 3)].concat();
    let rows: Vec<String> = keys.iter().map(|key| format!("({key})")).collect();
    run(client, &format!("INSERT INTO t (id) VALUES {}", rows.join(", "))).await;
    keys
}

const DISTINCT: &str = "SELECT count(DISTINCT at) || ' ' || count(at) FROM t";

#[tokio::test]
async fn one_statement_on_several_groups_has_one_time() {
    let cluster = Cluster::start().await;
    let client = cluster.connect().await;
    let keys = filled(&cluster, &client).await;
    // Defaults, too, which the session has filled in.
    let defaults = "SELECT count(DISTINCT (made, day, utc)) || ' ' || count(*) FROM t \
                    WHERE utc = (made AT TIME ZONE 'utc') + interval '1 day' AND day = made::date";
    assert_eq!(value(&client, defaults).await, "1 6");
    run(&client, "UPDATE t SET at = now()").await;
    assert_eq!(value(&client, DISTINCT).await, "1 6");
    run(&client, "UPDATE t SET at = statement_timestamp()").await;
    assert_eq!(value(&client, DISTINCT).await, "1 6");
    run(&client, "UPDATE t SET at = clock_timestamp()").await;
    assert_eq!(value(&client, DISTINCT).await, "6 6");
    for key in &keys {
        run(
            &client,
            &format!("UPDATE t SET at = CURRENT_TIMESTAMP WHERE id = {key}"),
        )
        .await;
    }
    assert_eq!(value(&client, DISTINCT).await, "6 6");
    let rows = client.query("SELECT id, now() FROM t", &[]).await.expect("rows");
    let seen: std::collections::HashSet<std::time::SystemTime> = rows.iter().map(|row| row.get(1)).collect();
    assert_eq!((rows.len(), seen.len()), (6, 1));
    let update = client
        .prepare("UPDATE t SET at = now() WHERE id > $1 RETURNING now(), at")
        .await
        .expect("prepare");
    let mut times = Vec::new();
    for _ in 0..2 {
        let rows = client.query(&update, &[&i64::MIN]).await.expect("rows");
        assert_eq!(rows.len(), 6);
        for row in &rows {
            let (now, at): (std::time::SystemTime, std::time::SystemTime) = (row.get(0), row.get(1));
            assert_eq!(now, at);
            times.push(now);
        }
        assert_eq!(value(&client, DISTINCT).await, "1 6");
    }
    times.dedup();
    assert_eq!(times.len(), 2);
    // Rows of several groups that are gathered or aggregated.
    let counted = "SELECT count(*) FROM t WHERE at <= now() AND made < now()";
    assert_eq!(value(&client, counted).await, "6");
    let grouped = "SELECT count(*) FROM t GROUP BY date_trunc('year', now()) ORDER BY now()";
    assert_eq!(value(&client, grouped).await, "6");
    let gathered = client
        .query(
            "SELECT now() - at, count(*) OVER () FROM t WHERE at < now() ORDER BY id LIMIT $1",
            &[&4_i64],
        )
        .await;
    assert_eq!(gathered.expect("gathered").len(), 4);
    // What is evaluated once on one server is not evaluated in each group.
    let chance = "SELECT count(DISTINCT chance) FROM (SELECT (SELECT random()) AS chance FROM t) x";
    assert_eq!(value(&client, chance).await, "1");
    let error = client
        .simple_query("UPDATE t SET at = now() + (SELECT random()) * interval '1 day'")
        .await
        .expect_err("refused");
    assert!(code(&error) == "0A000" && !hint(&error).is_empty(), "{error:?}");
}

#[tokio::test]
async fn a_transaction_has_one_time_in_all_groups_and_the_next_another() {
    let cluster = Cluster::start().await;
    let client = cluster.connect().await;
    let keys = filled(&cluster, &client).await;
    let mut times = Vec::new();
    for end in ["COMMIT", "COMMIT AND CHAIN", "COMMIT"] {
        if end != "COMMIT" || times.len() != 2 {
            run(&client, "BEGIN").await;
        }
        let before = value(&client, "SELECT now()").await;
        for key in &keys {
            run(&client, &format!("UPDATE t SET at = now() WHERE id = {key}")).await;
            let typed = client
                .query_one("SELECT now()::text, at::text FROM t WHERE id = $1", &[key])
                .await
                .expect("row");
            assert_eq!((typed.get(0), typed.get(1)), (before.as_str(), before.as_str()));
        }
        let statement = value(&client, "SELECT statement_timestamp() > now()").await;
        assert_eq!(statement, "t");
        run(&client, "DELETE FROM t").await;
        for key in &keys {
            run(&client, &format!("INSERT INTO t (id, at) VALUES ({key}, now())")).await;
        }
        assert_eq!(value(&client, DISTINCT).await, "1 6");
        assert_eq!(
            value(&client, "SELECT count(*) FROM t WHERE at = made").await,
            "6"
        );
        run(&client, end).await;
        times.push(before);
    }
    assert!(times[0] < times[1] && times[1] < times[2], "{times:?}");
    // Several statements in one Query are a transaction as well.
    let texts: Vec<String> = keys
        .iter()
        .map(|key| format!("UPDATE t SET at = now() WHERE id = {key}"))
        .collect();
    run(&client, &texts.join("; ")).await;
    assert_eq!(value(&client, DISTINCT).await, "1 6");
}

#[tokio::test]
async fn a_time_can_be_a_shard_key_and_is_alike_in_every_copy() {
    let cluster = Cluster::start().await;
    let client = cluster.connect().await;
    run(
        &client,
        "CREATE TABLE events (at timestamptz DEFAULT now() PRIMARY KEY, v text); \
         CREATE TABLE notes (id int PRIMARY KEY, at timestamp DEFAULT LOCALTIMESTAMP, v text); \
         SELECT create_reference_table('notes')",
    )
    .await;
    for number in 0..10 {
        let sql = format!("INSERT INTO events (v) VALUES ('{number}') RETURNING at");
        let at = value(&client, &sql).await;
        assert_eq!(
            value(&client, &format!("SELECT v FROM events WHERE at = '{at}'")).await,
            number.to_string()
        );
        client
            .query_one("INSERT INTO events VALUES (now(), $1) RETURNING at", &[&"x"])
            .await
            .expect("row");
        let sql = format!("INSERT INTO notes (id, v) VALUES ({number}, now())");
        run(&client, &sql).await;
    }
    assert_eq!(value(&client, "SELECT count(*) FROM events").await, "20");
    // Rows move to where their new times belong.
    for number in 0..5 {
        let sql =
            "UPDATE events SET at = now() + interval '1 day' WHERE v = $1 RETURNING at - now() = '1 day'";
        let moved = client.query_one(sql, &[&number.to_string()]).await.expect("row");
        assert!(moved.get::<_, bool>(0));
        run(
            &client,
            &format!(
                "UPDATE events SET at = now() + interval '2 days' WHERE v = '{}'",
                number + 5
            ),
        )
        .await;
    }
    let later = "SELECT count(*) FROM events WHERE at > now()";
    assert_eq!(value(&client, later).await, "10");
    for options in ["HOWDAH", "ANALYZE, HOWDAH"] {
        let plan = value(&client, &format!("EXPLAIN ({options}) {later}")).await;
        assert!(plan.contains("roups"), "{plan}");
    }
    run(&client, "UPDATE notes SET at = now() WHERE id > 5").await;
    let sql = "SELECT string_agg(id || ' ' || at || v, ',' ORDER BY id) FROM notes";
    let (one, other) = (cluster.direct(0).await, cluster.direct(1).await);
    assert_eq!(answer(&one, sql).await, answer(&other, sql).await);
}

#[tokio::test]
async fn what_tells_the_time_is_described_as_on_one_server() {
    let both = Both::start().await;
    let sql =
        "CREATE TABLE t (id int PRIMARY KEY, at timestamptz DEFAULT now(), v text DEFAULT CURRENT_DATE)";
    both.agree(&[sql]).await;
    both.agree_prepared(&[
        "SELECT now(), CURRENT_DATE, current_time, current_timestamp, localtime, localtimestamp",
        "SELECT now()::date, CAST(now() AS time), (now()), pg_catalog.now(), now()::timestamp with time zone",
        "SELECT current_timestamp(3), current_time(0), localtime(2), localtimestamp(1)",
        "SELECT CASE WHEN $1 THEN NULL ELSE now() END, now() AT TIME ZONE 'utc', now() x, now() + $2",
        "SELECT statement_timestamp(), transaction_timestamp(), clock_timestamp(), timeofday()",
        "SELECT * FROM now()",
        "SELECT x.* FROM (SELECT now(), CURRENT_DATE - 1 FROM t) x",
        "WITH x AS (SELECT now()) SELECT * FROM x UNION ALL SELECT at FROM t",
        "SELECT id, now() FROM t",
        "SELECT DISTINCT now(), current_date::text FROM t",
        "SELECT DISTINCT ON (now()) now() FROM t WHERE id = $1",
        "SELECT extract(day FROM now()), date_trunc('day', CURRENT_TIMESTAMP), age(now(), at) FROM t",
        "INSERT INTO t VALUES ($1, now()) RETURNING now(), at, v",
        "INSERT INTO t (id) VALUES ($1), ($2) ON CONFLICT (id) DO UPDATE SET at = now() RETURNING *",
        "INSERT INTO t (id, v) VALUES ($1, DEFAULT) RETURNING v",
        "UPDATE t SET at = now() + $1, v = $2 WHERE at < now() - interval '1 day' RETURNING now()",
        "DELETE FROM t WHERE at < LOCALTIMESTAMP - $1::interval",
        "SELECT count(*) FROM t WHERE at < now()",
        "SELECT 'now()', $$now()$$, now() AS \"now()\"",
    ])
    .await;
    both.agree(&[
        "INSERT INTO t (id) VALUES (1), (2), (3)",
        "SELECT v = current_date::text, at < now(), now() - now(), localtimestamp - now()::timestamp FROM t",
        "SET TimeZone = 'Asia/Tokyo'",
        "SELECT current_date = now()::date, localtime = now()::time, current_time = now()::timetz, \
         localtimestamp = now()::timestamp, current_timestamp(0) = now()::timestamptz(0)",
        "SELECT extract(timezone FROM now()), to_char(now(), 'OF')",
        "SET DateStyle = 'German, DMY'",
        "SELECT now() > '2020-01-01', now() < clock_timestamp()",
        "UPDATE t SET at = DEFAULT WHERE id = 1",
        "SELECT now(1)",
        "SELECT current_date(1)",
        "SELECT nosuch, now()",
        "SELECT now(), nosuch FROM t",
        "INSERT INTO t (id, v) VALUES (5, now(), nosuch)",
        "INSERT INTO t (id) VALUES (now())",
        "EXPLAIN (COSTS OFF) SELECT now()",
    ])
    .await;
}

#[tokio::test]
async fn a_column_that_is_added_gives_all_rows_one_time() {
    let cluster = Cluster::start().await;
    let client = cluster.connect().await;
    filled(&cluster, &client).await;
    run(
        &client,
        "ALTER TABLE t ADD COLUMN seen timestamptz NOT NULL DEFAULT now(), ADD \"Next day\" date DEFAULT (CURRENT_DATE + 1) CHECK (\"Next day\" > '2000-01-01')",
    )
    .await;
    let distinct = "SELECT count(DISTINCT (seen, \"Next day\")) || ' ' || count(seen) FROM t";
    assert_eq!(value(&client, distinct).await, "1 6");
    // The defaults are what was written.
    let defaults = "SELECT string_agg(pg_get_expr(adbin, adrelid), '; ' ORDER BY adnum) FROM pg_attrdef WHERE adrelid = 't'::regclass AND adnum > 5";
    assert_eq!(value(&client, defaults).await, "now(); (CURRENT_DATE + 1)");
    run(
        &client,
        &format!("INSERT INTO t (id) VALUES ({})", cluster.keys_of(0, 4)[3]),
    )
    .await;
    assert_eq!(value(&client, distinct).await, "2 7");
    // One that is there stays as it is.
    run(
        &client,
        "ALTER TABLE t ADD COLUMN IF NOT EXISTS seen timestamptz DEFAULT now() - interval '1 day'",
    )
    .await;
    assert_eq!(value(&client, defaults).await, "now(); (CURRENT_DATE + 1)");
    let wrong = client
        .batch_execute("ALTER TABLE t ADD COLUMN bad int DEFAULT now()")
        .await
        .unwrap_err();
    assert_eq!(code(&wrong), "42804");
    let block = "BEGIN; UPDATE t SET at = now(); ALTER TABLE t ADD COLUMN within timestamptz DEFAULT transaction_timestamp(); COMMIT";
    run(&client, block).await;
    assert_eq!(
        value(&client, "SELECT count(*) FROM t WHERE within = at").await,
        "7"
    );
}

#[tokio::test]
async fn rows_that_go_to_other_groups_have_the_transactions_time() {
    let cluster = Cluster::start().await;
    let client = cluster.connect().await;
    filled(&cluster, &client).await;
    run(&client, "CREATE TABLE log (id bigint, at timestamptz, v text); CREATE TABLE other (n int PRIMARY KEY, v text)").await;
    run(
        &client,
        "INSERT INTO other VALUES (1, 'a'), (2, 'b'), (3, 'c'), (4, 'd'); BEGIN",
    )
    .await;
    let now = value(&client, "SELECT now()").await;
    // By both protocols, through the session and into each group.
    let feed = "INSERT INTO log SELECT id + row_number() OVER (), now(), v FROM t, (SELECT max(v) AS v FROM other) x";
    let bring = "UPDATE t SET at = now() FROM (SELECT max(n) AS n FROM other) x WHERE x.n > 0";
    for sql in [feed, bring] {
        run(&client, sql).await;
        let prepared = client.prepare(sql).await.expect("prepare");
        assert_eq!(client.execute(&prepared, &[]).await.expect("runs"), 6);
    }
    for table in ["log", "t"] {
        let sql = format!("SELECT count(DISTINCT at) || ' ' || min(at) FROM {table}");
        assert_eq!(value(&client, &sql).await, format!("1 {now}"));
    }
    let bound =
        "INSERT INTO log SELECT id * $1 + 1, now() - $2 * interval '1 day', $3 FROM t WHERE at <= now()";
    let bound = client.prepare(bound).await.expect("prepare");
    let count = client.execute(&bound, &[&2_i64, &1.0_f64, &"days"]).await;
    assert_eq!(count.expect("runs"), 6);
    let bound = "UPDATE t SET at = now() + $1 * interval '1 day' FROM (SELECT max(n) AS n FROM other) x WHERE x.n > $2 AND at = now()";
    let bound = client.prepare(bound).await.expect("prepare");
    assert_eq!(client.execute(&bound, &[&1.0_f64, &0]).await.expect("runs"), 6);
    let days = "SELECT (SELECT count(*) FROM t WHERE at = now() + interval '1 day') || ' ' || \
                (SELECT count(*) FROM log WHERE at = now() - interval '1 day' AND v = 'days')";
    assert_eq!(value(&client, days).await, "6 6");
    run(&client, "COMMIT").await;
}
