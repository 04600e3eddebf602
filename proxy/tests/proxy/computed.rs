//! INSERT of VALUES whose shard keys are expressions, or the DEFAULT; and values that go from group to group whatever the settings are.

use std::collections::HashSet;

use tokio_postgres::types::ToSql;

use crate::harness::{Cluster, code, hint};
use crate::writes::{Label, both, compare, contents, done, refill};

/// INSERT of VALUES with keys that are computed.
const COMPUTED: &[&str] = &[
    "INSERT INTO people (id, name) VALUES (100 + 1, 'sum')",
    "INSERT INTO people (name, id) VALUES ('a', 50 + 1), ('b', abs(-52)), ('c', 53), ('d', '54') RETURNING id, name, twice",
    "INSERT INTO people (id, name, mood, moods, credit) VALUES (length('four') + 100, upper('x'), 'glad', '{ok}', 1 / 3.0) RETURNING *",
    "INSERT INTO people AS p (id) VALUES ((3.6 + 100)::numeric), (7.5 * 20), (75) RETURNING p.id, twice",
    "INSERT INTO people (id, name) VALUES (1 + 1, 'new'), (60 + 1, 'other') ON CONFLICT (id) DO UPDATE SET name = excluded.name || people.id RETURNING id, name",
    "INSERT INTO people (id, name) VALUES (1 + 1, 'new'), (60 + 1, 'other') ON CONFLICT DO NOTHING RETURNING id",
    "INSERT INTO people (id, name) VALUES (coalesce(NULL, 77) -- one\n + 0, /* two */ 'c') -- three",
    "INSERT INTO words VALUES (lower('ABC')), (upper('it''s') || E'\\\\'), ('plain'), ('a' || NULL || 'b') ON CONFLICT DO NOTHING",
    "INSERT INTO words VALUES (lower('ABC')), (upper('it''s') || E'\\\\'), ('plain'), (concat('ü', NULL, '\"')) RETURNING word, n",
    "INSERT INTO words (n, word) VALUES (1 + 2, 5 * 8), (DEFAULT, true::text), (3, date '2024-02-29' + 1)",
    "INSERT INTO orders (id, note) VALUES (CASE WHEN 1 > 2 THEN 1 ELSE 2000 END, concat('a', 'b'))",
    "INSERT INTO orders (id, amount) VALUES (2 ^ 33, 2 ^ 0.5), (1e3::float8, '5')",
    "INSERT INTO lines VALUES (1 + 1, 2 + 2, 'pen'), (2 * 3, 5, 'ink', 7) RETURNING order_id, line, product",
    "INSERT INTO lines VALUES (1 + 1, 2 + 2, 'pen'), (2 * 3, 5, 'ink') RETURNING order_id, line, product",
    "INSERT INTO \"Odd \"\"names\"\"\" (\"Big\", \"select\") VALUES ('x', 5 * 5)",
    // Errors.
    "INSERT INTO people (id) VALUES (1 / 0)",
    "INSERT INTO people (id) VALUES (lower('A'))",
    "INSERT INTO people (id) VALUES (NULL::int + 1)",
    "INSERT INTO people (id) VALUES (2147483647::bigint + 1)",
    "INSERT INTO people (id, name) VALUES (50 + 1, 'x'), (1 + 1, 'twice')",
    "INSERT INTO people (id, name) VALUES (50 + 1, 'too long for it')",
    "INSERT INTO people (id, rank) VALUES (50 + 1, -1)",
    "INSERT INTO people (id) VALUES (nothing + 1)",
    "INSERT INTO people (id, name) VALUES (50 + 1, 'x'), (51 + 1)",
    "INSERT INTO people (id) VALUES (max(5))",
    "INSERT INTO people (id, name) VALUES (50 + 1, 'x') ON CONFLICT (name) DO NOTHING",
    "INSERT INTO words (word) VALUES ('a' || NULL)",
];

#[tokio::test(flavor = "multi_thread")]
async fn keys_that_are_expressions_are_computed_as_on_one_server() {
    compare(COMPUTED, 14).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn computed_keys_take_parameters() {
    let (_cluster, client, plain) = both().await;
    for client in [&client, &plain] {
        refill(client).await;
        let sql = "INSERT INTO people (id, name, mood, credit) VALUES ($1 + 1000, lower($2), $3::mood, $4), (length($2) + $5, $2, $3, 0) \
            RETURNING id, name, $6::int8";
        let insert = client.prepare(sql).await.unwrap();
        let glad = Label("glad");
        for number in 0..6 {
            let offset = 2000 + number * 10;
            let credit: Option<Label> = None;
            let parameters: [&(dyn ToSql + Sync); 6] = [&number, &"Name", &glad, &credit, &offset, &5_i64];
            let rows = client.query(&insert, &parameters).await.unwrap();
            let rows: Vec<(i32, String)> = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
            let expected = [
                (1000 + number, "name".to_owned()),
                (offset + 4, "Name".to_owned()),
            ];
            assert_eq!(rows, expected);
        }
        // Within a transaction, among others; and one that fails.
        client.batch_execute("BEGIN").await.unwrap();
        let word = client
            .prepare("INSERT INTO words VALUES (lower($1), $2)")
            .await
            .unwrap();
        for word_of in ["ONE", "TWO", "THREE", "FOUR"] {
            assert_eq!(client.execute(&word, &[&word_of, &4]).await.unwrap(), 1);
        }
        client.batch_execute("COMMIT; BEGIN").await.unwrap();
        let error = client.execute(&word, &[&"One", &4]).await.unwrap_err();
        assert_eq!(code(&error), "23505");
        client.batch_execute("ROLLBACK").await.unwrap();
        let quotient = client
            .prepare("INSERT INTO orders (id) VALUES (100 / $1::int)")
            .await
            .unwrap();
        assert_eq!(
            code(&client.execute(&quotient, &[&0]).await.unwrap_err()),
            "22012"
        );
        assert_eq!(client.execute(&quotient, &[&4]).await.unwrap(), 1);
    }
    assert_eq!(contents(&client).await, contents(&plain).await);
    for sql in [
        "INSERT INTO people (id, name) VALUES (generate_series(200, 203) + 1, 'x')",
        "INSERT INTO people (id, rank) VALUES (200 + 1, generate_series(1, 3))",
        "INSERT INTO people (id) VALUES ((SELECT max(id) + 1 FROM people))",
        "WITH i AS (INSERT INTO people (id) VALUES (200 + 1) RETURNING id) SELECT * FROM i",
        "EXPLAIN ANALYZE INSERT INTO people (id) VALUES (200 + 1)",
        "PREPARE p AS INSERT INTO people (id) VALUES (200 + 1)",
        "INSERT INTO people (id) VALUES (pg_backend_pid())",
        "INSERT INTO people (id) VALUES (DEFAULT)",
    ] {
        let error = client.batch_execute(sql).await.unwrap_err();
        assert_eq!(code(&error), "0A000", "{sql}: {error:?}");
        assert!(!hint(&error).is_empty(), "{sql}");
    }
    let explained = client
        .simple_query("EXPLAIN INSERT INTO people (id) VALUES (200 + 1)")
        .await;
    assert!(explained.unwrap().len() > 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_is_not_given_has_its_default() {
    let cluster = Cluster::start().await;
    let client = cluster.connect().await;
    client
        .batch_execute(
            "CREATE TABLE ev (id uuid DEFAULT gen_random_uuid() PRIMARY KEY, n int, at timestamptz DEFAULT now()); \
             CREATE TABLE moments (at timestamptz DEFAULT clock_timestamp() + interval '1 day', n serial, PRIMARY KEY (at, n)); \
             CREATE TABLE named (name varchar(4) PRIMARY KEY DEFAULT 'none', n int)",
        )
        .await
        .unwrap();
    let statements = [
        "INSERT INTO ev (n) VALUES (1), (2), (3), (4), (5), (6), (7), (8) RETURNING id",
        "INSERT INTO ev DEFAULT VALUES RETURNING id",
        "INSERT INTO ev (n, id) VALUES (9, DEFAULT), (10, gen_random_uuid()), (11, '00000000-0000-0000-0000-000000000001') RETURNING id",
        "INSERT INTO ev VALUES (gen_random_uuid()) RETURNING id",
        "INSERT INTO ev VALUES (DEFAULT, 12, now()) ON CONFLICT (id) DO NOTHING RETURNING id",
    ];
    let mut seen = HashSet::new();
    for sql in statements {
        let (rows, _) = done(&client, sql).await.unwrap();
        seen.extend(rows.into_iter().flatten().flatten());
    }
    assert_eq!(seen.len(), 14);
    let insert = client
        .prepare("INSERT INTO ev (n) VALUES ($1), ($1 + 1) RETURNING id::text, n, at = now()")
        .await
        .unwrap();
    for number in 0..10 {
        for (row, n) in client
            .query(&insert, &[&number])
            .await
            .unwrap()
            .iter()
            .zip(number..)
        {
            assert_eq!((row.get::<_, i32>(1), row.get::<_, bool>(2)), (n, true));
            assert!(seen.insert(row.get(0)));
        }
    }
    // Each is where its key leads.
    let select = client
        .prepare("SELECT n FROM ev WHERE id = $1::text::uuid")
        .await
        .unwrap();
    for id in &seen {
        assert_eq!(client.query(&select, &[id]).await.unwrap().len(), 1, "{id}");
    }
    for server in [0, 1] {
        let here = cluster
            .direct(server)
            .await
            .query("SELECT FROM ev", &[])
            .await
            .unwrap()
            .len();
        assert!((1..34).contains(&here), "{here}");
    }
    // Times are what they are, however they are written.
    client
        .batch_execute("SET DateStyle = 'SQL, DMY'; SET TimeZone = 'Asia/Kolkata'")
        .await
        .unwrap();
    for _ in 0..4 {
        let (rows, _) = done(
            &client,
            "INSERT INTO moments DEFAULT VALUES RETURNING to_json(at) #>> '{}', at - now() BETWEEN '23 hours' AND '25 hours'",
        )
        .await
        .unwrap();
        assert_eq!(rows[0][1].as_deref(), Some("t"));
        let at = rows[0][0].as_deref().unwrap();
        let found = done(&client, &format!("SELECT n FROM moments WHERE at = '{at}'")).await;
        assert_eq!(found.unwrap().1, 1, "{at}");
    }
    let named = done(&client, "INSERT INTO named (n) VALUES (1) RETURNING name")
        .await
        .unwrap();
    assert_eq!(named.0, [[Some("none".to_owned())]]);
    let error = done(&client, "INSERT INTO named (n) VALUES (2)").await;
    assert_eq!(error, Err("23505".to_owned()));
    // A prepared statement follows the default.
    client
        .batch_execute("ALTER TABLE ev ALTER id SET DEFAULT '00000000-0000-0000-0000-000000000002'")
        .await
        .unwrap();
    let first = client
        .query("INSERT INTO ev (n) VALUES (1) RETURNING id::text", &[])
        .await
        .unwrap();
    assert_eq!(
        first[0].get::<_, String>(0),
        "00000000-0000-0000-0000-000000000002"
    );
    let again = client.query(&insert, &[&5]).await.unwrap_err();
    assert_eq!(code(&again), "23505");
    client
        .batch_execute("ALTER TABLE ev ALTER id DROP DEFAULT")
        .await
        .unwrap();
    assert!(client.query(&insert, &[&5]).await.is_err());
    let none = client
        .query("INSERT INTO ev (n) VALUES (5)", &[])
        .await
        .unwrap_err();
    assert_eq!(code(&none), "0A000");
}

#[tokio::test(flavor = "multi_thread")]
async fn values_go_from_group_to_group_whatever_the_settings_are() {
    let (_cluster, client, plain) = both().await;
    let columns = "f float8[], r real[][], d date[], i interval[], t timestamptz[], n numeric[], g tstzrange[], s text[], one float8, last interval";
    for client in [&client, &plain] {
        client
            .batch_execute(&format!(
                "CREATE TABLE src (id int PRIMARY KEY, {columns}); CREATE TABLE dst (id int PRIMARY KEY, {columns}); \
                 CREATE TYPE spot AS (x float8, at date); CREATE TABLE spots (id int PRIMARY KEY, spot spot, spots spot[]); \
                 INSERT INTO src SELECT g, ARRAY[1 / 3.0::float8, pi() * g, NULL, 'NaN'], ARRAY[[1.1::real, 2.3], [g / 7.0, 0]], \
                    ARRAY[date '2024-03-04', NULL, '0044-03-15 BC'], ARRAY[interval '1 year -2 days 03:04:05.678', '-1 month'], \
                    ARRAY['2024-05-06 07:08:09.123456+00'::timestamptz, 'infinity'], '{{1.50,-0.0001}}', \
                    ARRAY[tstzrange('2024-05-06 07:08:09+00', NULL)], ARRAY['a,b', '{{', NULL, ''], 1 / 7.0::float8, '-1 year +3 days' \
                 FROM generate_series(1, 1500) g; \
                 INSERT INTO src (id, f, s) VALUES (0, '{{}}', '[3:4]={{a,b}}'); \
                 INSERT INTO spots VALUES (1, ROW(1 / 3.0::float8, '2024-03-04'), ARRAY[ROW(1, '2024-03-04')::spot]), (2, NULL, NULL); \
                 SET extra_float_digits = 0; SET DateStyle = 'SQL, DMY'; SET IntervalStyle = 'sql_standard'; SET TimeZone = 'Asia/Kolkata'"
            ))
            .await
            .unwrap();
        let sql = "INSERT INTO dst SELECT id + 5000, f, r, d, i, t, n, g, s, one, last FROM src";
        assert_eq!(client.execute(sql, &[]).await.unwrap(), 1501);
        let again = "INSERT INTO dst SELECT id + 5000 + $1, f, r, d, i, t, n, g, s, one, last FROM src WHERE id < $2 ORDER BY id \
            ON CONFLICT (id) DO UPDATE SET f = dst.f || excluded.f RETURNING id";
        let again = client.prepare(again).await.unwrap();
        assert_eq!(client.query(&again, &[&0, &3]).await.unwrap().len(), 3);
        let same = "SELECT count(*) FROM src s JOIN dst d ON d.id = s.id + 5000 WHERE (s.r, s.d, s.i, s.t, s.n, s.g, s.s, s.one, s.last) \
            IS NOT DISTINCT FROM (d.r, d.d, d.i, d.t, d.n, d.g, d.s, d.one, d.last) \
            AND d.f = CASE WHEN s.id < 3 THEN s.f || s.f ELSE s.f END";
        assert_eq!(client.query_one(same, &[]).await.unwrap().get::<_, i64>(0), 1501);
    }
    // Text of the user's types is not that sure.
    let composites = "INSERT INTO spots SELECT id + 100, spot, spots FROM spots";
    let error = client.batch_execute(composites).await.unwrap_err();
    assert!(
        code(&error) == "0A000" && hint(&error).contains("extra_float_digits"),
        "{error:?}"
    );
    client
        .batch_execute("RESET extra_float_digits; RESET DateStyle; RESET IntervalStyle")
        .await
        .unwrap();
    client.batch_execute(composites).await.unwrap();
    let here = |ids: &str| format!("SELECT id % 100 AS id, spot, spots FROM spots WHERE id {ids} 100");
    let (old, new) = (done(&client, &here("<")).await, done(&client, &here(">")).await);
    assert_eq!(old.as_ref().unwrap().1, 2);
    assert_eq!(old, new);
    // Enums have one text under any settings.
    client.batch_execute("SET extra_float_digits = 0").await.unwrap();
    refill(&client).await;
    client
        .batch_execute("INSERT INTO people (id, mood, moods) SELECT id + 100, mood, moods FROM people")
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn sizes_are_summed_up_over_the_groups() {
    let cluster = Cluster::start().await;
    let client = cluster.connect().await;
    client
        .batch_execute("CREATE TABLE t (id int PRIMARY KEY, v text); INSERT INTO t SELECT g, repeat('x', 100) FROM generate_series(1, 5000) g")
        .await
        .unwrap();
    for sql in [
        "SELECT pg_table_size('t')",
        "SELECT pg_relation_size('t', 'main') AS bytes",
        "SELECT pg_catalog.pg_total_relation_size('public.t'::regclass)",
        "SELECT pg_indexes_size('t')",
        "SELECT pg_database_size(current_database())",
    ] {
        let mut sum = 0;
        for server in [0, 1] {
            sum += cluster
                .direct(server)
                .await
                .query_one(sql, &[])
                .await
                .unwrap()
                .get::<_, i64>(0);
        }
        let here: i64 = client.query_one(sql, &[]).await.unwrap().get(0);
        // A database may grow meanwhile.
        assert!(
            sum > 100_000 && here.abs_diff(sum) < 1 << 20,
            "{sql}: {here} of {sum}"
        );
        let text = done(&client, sql).await.unwrap().0;
        assert!(
            text[0][0]
                .as_deref()
                .unwrap()
                .parse::<i64>()
                .unwrap()
                .abs_diff(here)
                < 1 << 20
        );
    }
    let nothing = done(&client, "SELECT pg_table_size(to_regclass('nothing'))").await;
    assert_eq!(nothing.unwrap().0, [[None]]);
    assert_eq!(
        done(&client, "SELECT pg_table_size('nothing')").await,
        Err("42P01".to_owned())
    );
    for sql in [
        "SELECT pg_size_pretty(pg_table_size('t'))",
        "SELECT pg_table_size('t') + pg_indexes_size('t')",
        "SELECT (SELECT pg_table_size('t'))",
    ] {
        let error = client.batch_execute(sql).await.unwrap_err();
        assert!(
            code(&error) == "0A000" && hint(&error).contains("the sum"),
            "{sql}: {error:?}"
        );
    }
}
