//! Statements that write on several groups, compared with one PostgreSQL.

use bytes::BytesMut;
use proxy::Limits;
use tokio_postgres::types::{IsNull, ToSql, Type, to_sql_checked};
use tokio_postgres::{Client, SimpleQueryMessage};

use crate::harness::raw::Raw;
use crate::harness::{Cluster, code, hint, open_door};

const SCHEMA: &str = r#"
CREATE TYPE mood AS ENUM ('sad', 'ok', 'glad');
CREATE DOMAIN positive AS int NOT NULL CHECK (VALUE > 0);
CREATE TABLE people (id int PRIMARY KEY, name varchar(8), gone int, credit numeric(6,2) DEFAULT 5, tags text[], mood mood,
    moods mood[], since date, rank positive DEFAULT 1, twice int GENERATED ALWAYS AS (id * 2) STORED, CHECK (credit > -100));
ALTER TABLE people DROP COLUMN gone;
CREATE TABLE orders (id bigint PRIMARY KEY, person int, amount numeric, note text);
CREATE TABLE lines (order_id bigint, line int, product text, quantity int, PRIMARY KEY (order_id, line));
CREATE TABLE words (word text PRIMARY KEY, n int NOT NULL DEFAULT 7);
CREATE TABLE "Odd ""names""" ("select" int PRIMARY KEY, "Big" text, "with space" int);
"#;

/// Their rows.
const ROWS: &str = r#"
INSERT INTO people VALUES
    (1, 'Ann', 10.50, '{a,b}', 'glad', '{ok,sad}', '2020-01-01', 1), (2, 'bob', NULL, '{}', 'sad', NULL, '2021-05-05', 2),
    (3, 'Cid', 0, NULL, NULL, '{}', NULL, 3), (4, 'Äda', 99.99, '{"x y",NULL}', 'ok', '{glad}', '1999-12-31', 4),
    (5, 'Eve', 7.25, '{c}', 'ok', '{sad,NULL}', '2020-01-01', 5), (6, 'fay', -1.5, '{a}', 'glad', NULL, '2022-02-02', 6);
INSERT INTO orders VALUES (1, 1, 10, 'first'), (2, 1, 20.5, NULL), (3, 2, 5, 'Third'), (4, 2, NULL, 'fourth'), (5, 4, 100, 'x''y\z'),
    (6, 9, 1, 'nobody'), (7, NULL, 3, ''), (8, 5, 10, 'first');
INSERT INTO lines VALUES (1, 1, 'pen', 2), (1, 2, 'ink', 1), (2, 1, 'pen', 5), (3, 1, 'cup', NULL), (5, 1, 'ink', 3),
    (5, 2, 'pen', 1), (5, 3, 'cup', 8), (6, 1, 'pen', 1), (8, 1, 'jar', 4);
INSERT INTO words VALUES ('a', 1), ('b', 2), ('it''s', 3), ('', 4);
INSERT INTO "Odd ""names""" VALUES (1, 'a', 5), (2, 'b', 6), (3, 'A', NULL);
"#;

const TABLES: [&str; 5] = ["people", "orders", "lines", "words", r#""Odd ""names""""#];

/// UPDATE of the shard key.
const MOVES: &[&str] = &[
    "UPDATE people SET id = 101 WHERE id = 1",
    "UPDATE people SET id = id + 100",
    "UPDATE people SET id = id + 100, name = 'x' || name, credit = credit * 2 WHERE credit > 0 RETURNING *",
    "UPDATE people p SET id = p.id - 1000, tags = tags || '{z}', moods = NULL WHERE p.mood = 'ok' RETURNING p.id, p.twice, id + twice AS s",
    "UPDATE people AS \"P p\" SET (id, name) = (id * 7 + 50, 'new'), rank = DEFAULT RETURNING \"P p\".*",
    "UPDATE people SET (name, id) = ROW(lower(name), - id), credit = DEFAULT, since = '2024-02-29', mood = 'sad' WHERE id IN (1, 2, 3, 4)",
    "UPDATE people SET id = id::numeric + 50.6, name = 5, since = NULL RETURNING people.id, public.people.name, rank",
    "UPDATE people SET id = '77' WHERE name = 'Cid' -- with a comment; WHERE",
    "UPDATE people SET id = CASE WHEN id > 3 THEN id + 200 ELSE id END, twice = DEFAULT /* RETURNING */ RETURNING (id)",
    "UPDATE people SET id = id WHERE id = 2",
    "UPDATE people SET id = 2, name = 'same' WHERE id = 2 RETURNING name",
    "UPDATE people SET id = 900 WHERE false RETURNING id",
    "UPDATE people SET id = 900 WHERE id = NULL",
    "UPDATE people SET id = id + 10 WHERE since IS DISTINCT FROM date '2020-01-01' AND name IS NOT NULL",
    "UPDATE lines SET order_id = order_id + 10, line = line + 1 WHERE product = 'pen' RETURNING order_id, line",
    "UPDATE lines SET order_id = line + 100, line = order_id",
    "UPDATE words SET word = word || n, n = DEFAULT RETURNING word, n",
    "UPDATE words SET word = n::text || '.' WHERE word IN ('a', '') RETURNING words",
    "UPDATE \"Odd \"\"names\"\"\" SET \"select\" = \"select\" * 1000, \"with space\" = \"select\" RETURNING *",
    "UPDATE orders SET id = id * 1000, note = NULL",
    // Errors.
    "UPDATE people SET id = 5 WHERE id IN (1, 2)",
    "UPDATE people SET id = 2 WHERE id = 1",
    "UPDATE people SET id = NULL WHERE id = 1",
    "UPDATE people SET id = 'x' WHERE id = 1",
    "UPDATE people SET id = id + 100 / (id - 4)",
    "UPDATE people SET id = id + 2147483647",
    "UPDATE people SET id = 50, name = 'longer than eight' WHERE id = 1",
    "UPDATE people SET id = 50, since = name WHERE id = 1",
    "UPDATE people SET id = name WHERE id = 1",
    "UPDATE people SET id = 50, credit = -500 WHERE id = 1",
    "UPDATE people SET id = 50, rank = -1 WHERE id = 1",
    "UPDATE people SET id = 50, twice = 5 WHERE id = 1",
    "UPDATE people SET id = 50, nothing = 1",
    "UPDATE people SET id = 50, id = 51 WHERE id = 1",
    "UPDATE people SET id = 50 WHERE id = 1 RETURNING nothing",
];

/// INSERT ... SELECT.
const INSERTS: &[&str] = &[
    // In each group, from its own rows.
    "INSERT INTO orders SELECT id + 0, id, credit, name FROM people WHERE id > 8",
    "INSERT INTO people (id, name) SELECT id, upper(name) FROM people ON CONFLICT (id) DO NOTHING",
    "INSERT INTO people AS p (id, name) SELECT id, 'x' || name FROM people WHERE credit > 0 ON CONFLICT (id) DO UPDATE SET name = excluded.name || p.name RETURNING p.id, name, twice",
    "INSERT INTO lines SELECT * FROM lines WHERE quantity > 100",
    "INSERT INTO lines TABLE lines ON CONFLICT DO NOTHING",
    "INSERT INTO lines (order_id, line, product) SELECT l.order_id, l.line + 100, product || '!' FROM lines l WHERE l.order_id IN (1, 2, 5) RETURNING *",
    // By way of the session.
    "INSERT INTO people SELECT id + 100, name, credit, tags, mood, moods, since, rank FROM people RETURNING *",
    "INSERT INTO people (id, name, since, mood) SELECT id + 100, 'it''s', '2024-02-29', 'glad' FROM people",
    "INSERT INTO people (id, name, since, credit) SELECT id + 100, NULL, date '2024-02-29' + id, id / 3.0 FROM people ORDER BY id LIMIT 2",
    "INSERT INTO people (name, id, moods, tags) SELECT product, (row_number() OVER (ORDER BY order_id, line))::int + 50, ARRAY['ok']::mood[], ARRAY[product, NULL] FROM lines RETURNING id, name, moods, tags",
    "INSERT INTO orders (id, amount) SELECT 500 + person, sum(amount) FROM orders WHERE person IS NOT NULL GROUP BY person",
    "INSERT INTO orders (id, person) SELECT 1000, count(*) FROM orders",
    "INSERT INTO orders (id, person) SELECT count(*), 3 FROM lines RETURNING id, person",
    "INSERT INTO orders (id, person) SELECT count(*) + 100, 3 FROM lines WHERE quantity > 2",
    "INSERT INTO orders (id, note) SELECT o.id + 10000, p.name FROM orders o JOIN people p ON p.id = o.person",
    "INSERT INTO orders (id, note) SELECT id + 100, name FROM people UNION ALL SELECT id + 200, name FROM people UNION SELECT 999, 'one more'",
    "INSERT INTO orders (id, note) (SELECT id + 100, name FROM people) RETURNING id",
    "INSERT INTO orders (id, note) WITH p AS (SELECT max(id) AS id FROM people) SELECT p.id + g, 'g' || g FROM p, generate_series(10, 30) g",
    "INSERT INTO orders (id, amount) SELECT g, g * 1.5 FROM generate_series(100, 3000) g",
    "INSERT INTO orders (id, amount, note) SELECT g, 0.5, repeat('long', 300) FROM generate_series(100, 2500) g RETURNING id",
    "INSERT INTO orders (id) TABLE words",
    "INSERT INTO words SELECT word || 'x', n FROM words ON CONFLICT DO NOTHING",
    "INSERT INTO words (word, n) SELECT product, count(*) FROM lines GROUP BY product ON CONFLICT (word) DO UPDATE SET n = words.n + excluded.n RETURNING word, n",
    "INSERT INTO words AS w (word) SELECT name FROM people WHERE name IS NOT NULL ON CONFLICT (word) DO UPDATE SET n = w.n + 1 WHERE w.n > 0",
    "INSERT INTO words (n, word) SELECT quantity, product || line FROM lines WHERE quantity IS NOT NULL",
    "INSERT INTO words (word) SELECT 'same' FROM lines LIMIT 1",
    "INSERT INTO lines SELECT id, id, note, amount FROM orders WHERE amount IS NOT NULL",
    "INSERT INTO lines SELECT order_id + 50, line, product FROM lines WHERE false RETURNING line",
    "INSERT INTO \"Odd \"\"names\"\"\" (\"Big\", \"select\") SELECT name, id * 11 FROM people -- ON CONFLICT",
    "INSERT INTO people (id, name) SELECT (SELECT max(id) FROM people) + 1, 'sub'",
    // Errors.
    "INSERT INTO people (id, name) SELECT id, name FROM people",
    "INSERT INTO people (id, name) SELECT id + 1, name FROM people",
    "INSERT INTO people (id, name) SELECT id + 100, name || ' is too long' FROM people WHERE name IS NOT NULL",
    "INSERT INTO people (id, since) SELECT id + 100, name FROM people",
    "INSERT INTO people (id, since) SELECT id + 100, 'no date' FROM people",
    "INSERT INTO people (id, name) SELECT id FROM people",
    "INSERT INTO people (id) SELECT id, name FROM people",
    "INSERT INTO people (id, rank) SELECT id + 100, -1 FROM people",
    "INSERT INTO people (id, credit) SELECT id + 100, 1 / (id - 4) FROM people",
    "INSERT INTO people (id, credit) SELECT NULL, credit FROM people",
    "INSERT INTO words (word, n) SELECT 'same', 1 FROM lines ON CONFLICT (word) DO UPDATE SET n = 5",
    "INSERT INTO people (id, twice) SELECT id + 100, 5 FROM people",
    "INSERT INTO nothing SELECT id FROM people",
    "INSERT INTO people (id, name) SELECT id, nothing FROM people",
];

/// UPDATE and DELETE with FROM, USING and subqueries.
const BRINGS: &[&str] = &[
    // With what each group has.
    "UPDATE lines SET product = o.note FROM orders o WHERE o.id = order_id AND o.note IS NOT NULL RETURNING order_id, line, o.amount",
    "UPDATE orders o SET amount = amount + 1 WHERE EXISTS (SELECT FROM lines l WHERE l.order_id = o.id AND quantity > 2)",
    "UPDATE orders SET amount = (SELECT sum(quantity) FROM lines WHERE order_id = orders.id)",
    "DELETE FROM lines USING orders o WHERE o.id = order_id AND o.amount > 15",
    "UPDATE people SET name = x.n FROM (VALUES (1, 'one'), (5, 'five')) x (i, n) WHERE x.i = people.id RETURNING id, name",
    // With what is brought there.
    "UPDATE people SET name = o.note FROM orders o WHERE o.id = people.id",
    "UPDATE orders SET note = p.name FROM people p WHERE p.id = person RETURNING orders.*, p.mood",
    "UPDATE orders SET amount = (SELECT avg(amount) FROM orders) WHERE amount IS NULL RETURNING id, amount",
    "UPDATE orders SET note = 'x' WHERE id = 5 AND amount > (SELECT avg(amount) FROM orders)",
    "UPDATE people p SET credit = s.total FROM (SELECT person, sum(amount) AS total FROM orders GROUP BY person) s WHERE s.person = p.id AND s.total < 9000 RETURNING p.id, total",
    "UPDATE people SET moods = q.moods, tags = q.tags FROM people q WHERE q.id = people.id + 1 RETURNING people.id, people.moods, q.moods",
    "UPDATE words SET n = (SELECT count(*) FROM lines l JOIN orders o ON o.id = l.order_id WHERE o.note = word)",
    "UPDATE people SET (name, credit) = (SELECT max(note), 7 FROM orders WHERE person = people.id)",
    "UPDATE orders SET note = 'first' WHERE id IN (SELECT id FROM orders ORDER BY amount NULLS LAST LIMIT 2)",
    "UPDATE people SET name = 'x' WHERE id IN (SELECT person FROM orders JOIN lines ON order_id = id WHERE product = 'pen') AND mood = 'glad'",
    "UPDATE lines SET product = p.name FROM orders o, people p WHERE o.id = order_id AND p.id = o.person AND p.mood <> 'sad' RETURNING *",
    "UPDATE lines SET product = coalesce(p.name, 'none') FROM orders o LEFT JOIN people p ON p.id = o.person WHERE o.id = order_id",
    "DELETE FROM orders USING people p WHERE p.id = person AND p.mood = 'glad' RETURNING orders.id, p.name",
    "DELETE FROM people WHERE id NOT IN (SELECT person FROM orders WHERE person IS NOT NULL)",
    "DELETE FROM people p WHERE NOT EXISTS (SELECT 1 FROM orders WHERE person = p.id) RETURNING *",
    "DELETE FROM orders WHERE person IN (SELECT id FROM people WHERE credit > 5)",
    "DELETE FROM words WHERE n < (SELECT max(n) FROM words)",
    "DELETE FROM public.orders USING public.people WHERE public.people.id = public.orders.person AND people.name = 'Ann' RETURNING public.people.name",
    "DELETE FROM orders WHERE id = (SELECT min(id) FROM orders)",
    "DELETE FROM orders WHERE false AND id = (SELECT min(id) FROM orders) RETURNING note",
    // Errors.
    "UPDATE people SET name = (SELECT name FROM people) WHERE id = 1",
    "UPDATE people SET credit = 1 / (SELECT min(credit) FROM people WHERE credit >= 0)",
    "UPDATE people SET nothing = 1 FROM orders",
    "UPDATE people SET name = 'too long for it' FROM orders WHERE orders.person = people.id",
    "DELETE FROM people USING orders WHERE id = 1",
    "DELETE FROM people USING nothing WHERE people.id = 1",
    "DELETE FROM people WHERE id = (SELECT id FROM orders)",
];

/// WITH before what writes.
const WITHS: &[&str] = &[
    // With what each group has.
    "WITH o AS (SELECT id, note FROM orders WHERE note IS NOT NULL) UPDATE lines SET product = o.note FROM o WHERE o.id = order_id RETURNING order_id, line, o.note",
    "WITH x (i, n) AS (VALUES (1, 'one'), (5, 'five')) UPDATE people SET name = x.n FROM x WHERE x.i = people.id RETURNING id, name",
    "WITH gone AS MATERIALIZED (SELECT id FROM orders WHERE amount > 15) DELETE FROM lines WHERE order_id IN (SELECT id FROM gone)",
    "WITH unused AS (SELECT max(id) FROM orders) UPDATE people SET name = 'x' WHERE credit > 5",
    "WITH o AS (SELECT id, note FROM orders WHERE id = 1) UPDATE lines SET product = o.note FROM o WHERE o.id = order_id",
    "WITH s AS (SELECT order_id, count(*) AS c FROM lines GROUP BY order_id) MERGE INTO orders o USING s ON o.id = s.order_id WHEN MATCHED AND c > 2 THEN DELETE WHEN MATCHED THEN UPDATE SET amount = c WHEN NOT MATCHED THEN INSERT (id, amount) VALUES (s.order_id, c)",
    // With what is brought there.
    "WITH p AS (SELECT id, name FROM people WHERE mood <> 'sad') UPDATE orders SET note = p.name FROM p WHERE p.id = person RETURNING orders.*, p.name",
    "WITH s AS (SELECT person, sum(amount) AS total FROM orders GROUP BY person), big AS (SELECT * FROM s WHERE total < 9000) UPDATE people p SET credit = total FROM big WHERE person = p.id",
    "WITH a AS (SELECT avg(amount) AS amount FROM orders) UPDATE orders SET amount = (SELECT amount FROM a) WHERE orders.amount IS NULL",
    "WITH glad AS (SELECT id AS person FROM people WHERE mood = 'glad') DELETE FROM orders WHERE person IN (SELECT person FROM glad) RETURNING id",
    "WITH o AS (SELECT person FROM orders WHERE person IS NOT NULL) DELETE FROM people WHERE NOT EXISTS (SELECT FROM o WHERE o.person = people.id)",
    "WITH p AS (SELECT id, name, mood FROM people) MERGE INTO orders o USING p ON p.id = o.person WHEN MATCHED AND p.mood = 'glad' THEN DELETE WHEN MATCHED THEN UPDATE SET note = p.name",
    "WITH orders AS (SELECT 5 AS id) DELETE FROM words WHERE n < (SELECT id FROM orders)",
    // INSERT ... SELECT.
    "WITH p AS (SELECT id, name FROM people WHERE id > 2) INSERT INTO orders (id, note) SELECT id + 100, name FROM p RETURNING id, note",
    "WITH p AS (SELECT max(id) AS id FROM people), g AS (SELECT generate_series(10, 30) AS g) INSERT INTO orders (id, note) SELECT p.id + g, 'g' || g FROM p, g",
    "WITH p AS (SELECT id, name FROM people) INSERT INTO orders (id, note) SELECT a.id * 100 + b.id, a.name || b.name FROM p a, p b ON CONFLICT (id) DO NOTHING",
    "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 50) INSERT INTO people (id, name) SELECT i + 100, 'n' || i FROM n -- RETURNING",
    "WITH l AS (SELECT product, count(*) AS c FROM lines GROUP BY product) INSERT INTO words (word, n) SELECT product, c FROM l ON CONFLICT (word) DO UPDATE SET n = words.n + excluded.n RETURNING word, n",
    "WITH p AS (SELECT 1 AS one) INSERT INTO orders (id, note) (SELECT id + 100, name FROM people UNION ALL SELECT 999, one::text FROM p)",
    "WITH unused AS (SELECT 1), p AS (SELECT id, mood FROM people) INSERT INTO people (id, mood, since) SELECT id + 100, mood, '2024-02-29' FROM p",
    "WITH o AS (SELECT id FROM orders WHERE id = 3) INSERT INTO lines (order_id, line) SELECT 3, 70 FROM o",
    // Errors.
    "WITH p AS (SELECT id, name FROM people) UPDATE orders SET note = nothing FROM p WHERE p.id = person",
    "WITH o AS (SELECT id FROM orders WHERE credit > 0) DELETE FROM people WHERE id IN (SELECT id FROM o)",
    "WITH o AS (SELECT person FROM orders) UPDATE people SET name = 'x' WHERE id = (SELECT person FROM o)",
    "WITH p AS (SELECT id, name FROM people) INSERT INTO people (id, name) SELECT id, name FROM p",
    "WITH p AS (SELECT id, nothing FROM people) INSERT INTO people (id, name) SELECT id + 100, nothing FROM p",
    "WITH p AS (SELECT id FROM people) INSERT INTO people (id) SELECT id FROM q",
];

/// SELECT with locks.
const LOCKS: &[&str] = &[
    "SELECT id, name FROM people FOR UPDATE",
    "SELECT * FROM orders WHERE amount > 5 FOR NO KEY UPDATE NOWAIT",
    "SELECT o.id AS n FROM orders o WHERE person = 1 FOR SHARE OF o SKIP LOCKED",
    "SELECT name FROM people WHERE false FOR KEY SHARE",
    "SELECT count(*) FROM people FOR UPDATE",
    "SELECT id / (id - 4) FROM people FOR UPDATE",
    "SELECT id FROM people FOR UPDATE OF orders",
];

/// What a server does with a statement: rows in no order, and what it counts; or the SQLSTATE.
pub(crate) async fn done(client: &Client, sql: &str) -> Result<(Vec<Vec<Option<String>>>, u64), String> {
    let messages = client
        .simple_query(sql)
        .await
        .map_err(|error| code(&error).to_owned())?;
    let (mut rows, mut counted) = (Vec::new(), 0);
    for message in messages {
        match message {
            SimpleQueryMessage::Row(row) => {
                rows.push((0..row.len()).map(|at| row.get(at).map(str::to_owned)).collect());
            }
            SimpleQueryMessage::CommandComplete(count) => counted += count,
            _ => {}
        }
    }
    rows.sort();
    Ok((rows, counted))
}

/// The same by the extended protocol, of which rows are only counted.
async fn executed(client: &Client, sql: &str) -> Result<(Vec<String>, usize), String> {
    let failed = |error| code(&error).to_owned();
    let statement = client.prepare(sql).await.map_err(failed)?;
    let columns = statement.columns().iter();
    let columns = columns
        .map(|c| format!("{} {}", c.name(), c.type_().name()))
        .collect();
    if statement.columns().is_empty() {
        let counted = client.execute(&statement, &[]).await.map_err(failed)?;
        return Ok((columns, usize::try_from(counted).expect("few")));
    }
    Ok((
        columns,
        client.query(&statement, &[]).await.map_err(failed)?.len(),
    ))
}

pub(crate) async fn contents(client: &Client) -> String {
    let mut all = String::new();
    for table in TABLES {
        all.push_str(&format!(
            "{table}: {:?}\n",
            done(client, &format!("SELECT * FROM {table}")).await
        ));
    }
    all
}

pub(crate) async fn refill(client: &Client) {
    client
        .batch_execute(&format!("TRUNCATE {}", TABLES.join(", ")))
        .await
        .expect("empty tables");
    client.batch_execute(ROWS).await.expect("rows");
}

/// A cluster, and one PostgreSQL, with the same tables.
pub(crate) async fn both() -> (Cluster, Client, Client) {
    let cluster = Cluster::start().await;
    let client = cluster.connect().await;
    client.batch_execute(SCHEMA).await.expect("tables");
    let plain = cluster.plain_database(SCHEMA).await;
    (cluster, client, plain)
}

/// Runs each of the statements on both, and wants the same answers and the same rows afterwards; so many fail.
pub(crate) async fn compare(statements: &[&str], errors: usize) {
    let (_cluster, client, plain) = both().await;
    refill(&client).await;
    refill(&plain).await;
    let mut different = Vec::new();
    for begin in ["BEGIN", "BEGIN ISOLATION LEVEL REPEATABLE READ", ""] {
        let mut failed = 0;
        for sql in statements {
            client.batch_execute(begin).await.expect("begins");
            plain.batch_execute(begin).await.expect("begins");
            let (here, there) = if begin == "BEGIN" {
                let (here, there) = (executed(&client, sql).await, executed(&plain, sql).await);
                (format!("{here:?}"), format!("{there:?}"))
            } else {
                let (here, there) = (done(&client, sql).await, done(&plain, sql).await);
                (format!("{here:?}"), format!("{there:?}"))
            };
            let fails = there.starts_with("Err");
            failed += usize::from(fails);
            let (mut rows, mut those) = (String::new(), String::new());
            if here.starts_with("Err") == fails && (!fails || begin.is_empty()) {
                (rows, those) = (contents(&client).await, contents(&plain).await);
            }
            if here != there || rows != those {
                if rows == those {
                    (rows, those) = (String::new(), String::new());
                }
                different.push(format!(
                    "{sql}\n  here: {here}\n  there: {there}\n{rows}{those}\n"
                ));
            }
            if !begin.is_empty() {
                client.batch_execute("ROLLBACK").await.expect("ends");
                plain.batch_execute("ROLLBACK").await.expect("ends");
            } else if !fails || here != there {
                refill(&client).await;
                refill(&plain).await;
            }
        }
        assert!(different.is_empty(), "{begin}:\n{}", different.concat());
        assert_eq!(failed, errors);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_update_of_the_shard_key_moves_rows_as_on_one_server() {
    compare(MOVES, 15).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_selected_is_inserted_as_on_one_server() {
    compare(INSERTS, 17).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn selected_rows_take_parameters_and_come_in_blocks() {
    let (_cluster, client, plain) = both().await;
    for client in [&client, &plain] {
        refill(client).await;
        // Of every part of the statement, and of a type of the user.
        let sql = "INSERT INTO people (id, name, mood, credit) SELECT id + $1, $2, $3::mood, credit FROM people WHERE mood = $3::mood AND id < $4 \
            ON CONFLICT (id) DO UPDATE SET name = $5 RETURNING id, name, $6::int8";
        let insert = client.prepare(sql).await.unwrap();
        let mood = insert.params()[2].clone();
        assert_eq!(mood.name(), "mood");
        let glad = Label("glad");
        for (offset, name) in [(100, "new"), (100, "again"), (0, "again")] {
            let parameters: [&(dyn ToSql + Sync); 6] = [&offset, &"new", &glad, &7, &"again", &5_i64];
            let rows = client.query(&insert, &parameters).await.unwrap();
            let mut rows: Vec<(i32, String, i64)> = rows
                .iter()
                .map(|row| (row.get(0), row.get(1), row.get(2)))
                .collect();
            rows.sort_unstable();
            let named = |id| (id + offset, name.to_owned(), 5);
            assert_eq!(rows, [named(1), named(6)]);
        }
        // Many rows, more than a block of each group.
        let many =
            "INSERT INTO orders (id, note) SELECT g + $1, repeat($2, 1000) FROM generate_series(1, $3) g";
        let many = client.prepare(many).await.unwrap();
        assert_eq!(client.execute(&many, &[&100, &"x", &5000]).await.unwrap(), 5000);
        let count = "SELECT count(*), sum(length(note)) FROM orders WHERE id > 100";
        let counted = client.query_one(count, &[]).await.unwrap();
        assert_eq!(
            (counted.get::<_, i64>(0), counted.get::<_, i64>(1)),
            (5000, 5_000_000)
        );
    }
    assert_eq!(contents(&client).await, contents(&plain).await);
}

/// A value of an enum.
#[derive(Debug)]
pub(crate) struct Label(pub(crate) &'static str);

impl ToSql for Label {
    fn to_sql(
        &self,
        _: &Type,
        out: &mut BytesMut,
    ) -> Result<IsNull, Box<dyn std::error::Error + Sync + Send>> {
        out.extend_from_slice(self.0.as_bytes());
        Ok(IsNull::No)
    }

    fn accepts(_: &Type) -> bool {
        true
    }

    to_sql_checked!();
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_of_other_tables_are_brought_as_on_one_server() {
    compare(BRINGS, 7).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn with_before_a_write_is_as_on_one_server() {
    compare(WITHS, 6).await;
    let (_cluster, client, plain) = both().await;
    for client in [&client, &plain] {
        refill(client).await;
        let update = "WITH p AS (SELECT id, $1 || name AS name FROM people WHERE id < $2) UPDATE orders SET note = p.name FROM p WHERE p.id = person AND orders.id < $3 AND amount > 5";
        let update = client.prepare(update).await.unwrap();
        let parameters: [&(dyn ToSql + Sync); 3] = [&"by ", &3, &9_i64];
        assert_eq!(client.execute(&update, &parameters).await.unwrap(), 2);
        let insert = "WITH p AS (SELECT id, $1 || name AS name FROM people WHERE id < $2) INSERT INTO orders (id, note, person) SELECT id + $3, name, $4 FROM p";
        let insert = client.prepare(insert).await.unwrap();
        let parameters: [&(dyn ToSql + Sync); 4] = [&"of ", &5, &100, &7];
        assert_eq!(client.execute(&insert, &parameters).await.unwrap(), 4);
        let delete = "WITH p AS (SELECT id FROM people WHERE name = $2) DELETE FROM orders USING p WHERE p.id = person AND orders.id > $1";
        let delete = client.prepare(delete).await.unwrap();
        assert_eq!(client.execute(&delete, &[&1_i64, &"Ann"]).await.unwrap(), 1);
    }
    assert_eq!(contents(&client).await, contents(&plain).await);
    for sql in [
        "WITH d AS (DELETE FROM orders RETURNING id) DELETE FROM lines USING d WHERE d.id = order_id",
        "WITH o AS (SELECT id FROM orders) DELETE FROM people WHERE id IN (SELECT id FROM o) OR credit IN (SELECT id FROM o)",
        "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 50) DELETE FROM people USING n WHERE credit = n.i",
        "WITH o AS (SELECT id FROM orders LIMIT 2 FOR UPDATE SKIP LOCKED) DELETE FROM lines USING o WHERE o.id = order_id",
        "WITH r AS (SELECT random() AS r) UPDATE people SET credit = r FROM r",
    ] {
        let error = client.batch_execute(sql).await.unwrap_err();
        assert_eq!(code(&error), "0A000", "{sql}: {error:?}");
        assert!(!hint(&error).is_empty(), "{sql}");
    }
    assert_eq!(contents(&client).await, contents(&plain).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn brought_rows_take_parameters_and_have_a_limit() {
    let config = proxy::ProxyConfig {
        limits: Limits {
            max_gathered: 1 << 20,
            ..Limits::default()
        },
        ..open_door()
    };
    let cluster = Cluster::configured(config).await;
    let client = cluster.connect().await;
    client.batch_execute(SCHEMA).await.unwrap();
    client.batch_execute(ROWS).await.unwrap();
    let sql = "UPDATE orders o SET note = $1 || p.name FROM people p WHERE p.id = o.person AND p.mood = $2::mood AND o.id >= $3 \
        RETURNING o.id, note, $4::int8";
    let update = client.prepare(sql).await.unwrap();
    let mood = Label("glad");
    let parameters: [&(dyn ToSql + Sync); 4] = [&"by ", &mood, &2_i64, &9_i64];
    let rows = client.query(&update, &parameters).await.unwrap();
    let rows: Vec<(i64, String, i64)> = rows
        .iter()
        .map(|row| (row.get(0), row.get(1), row.get(2)))
        .collect();
    assert_eq!(rows, [(2, "by Ann".to_owned(), 9)]);
    // Of one key, which one group does alone, and of one whose rows of the other table are elsewhere.
    let delete = client
        .prepare("DELETE FROM lines USING orders o WHERE order_id = $1 AND o.id = $2")
        .await
        .unwrap();
    assert_eq!(client.execute(&delete, &[&1_i64, &1_i64]).await.unwrap(), 2);
    for (line, order) in [(2_i64, 1_i64), (3, 8), (5, 2), (6, 99)] {
        let expected = if line == 5 { 3 } else { u64::from(order != 99) };
        assert_eq!(client.execute(&delete, &[&line, &order]).await.unwrap(), expected);
    }
    for sql in [
        "UPDATE people SET name = 'x' FROM pg_class WHERE relname = name",
        "UPDATE people SET name = 'x' WHERE id IN (SELECT id FROM orders ORDER BY id LIMIT 1 FOR UPDATE SKIP LOCKED)",
        "EXPLAIN ANALYZE UPDATE people SET name = 'x' WHERE id = (SELECT max(id) FROM orders)",
        "PREPARE p AS UPDATE people SET name = 'x' WHERE id = (SELECT max(id) FROM orders)",
        "COPY (DELETE FROM people WHERE id = (SELECT max(id) FROM orders) RETURNING id) TO STDOUT",
        "UPDATE people SET name = o.ctid::text FROM orders o WHERE o.id = people.id",
    ] {
        let error = client.batch_execute(sql).await.unwrap_err();
        assert_eq!(code(&error), "0A000", "{sql}: {error:?}");
    }
    client
        .batch_execute("UPDATE orders SET note = repeat('x', 300000)")
        .await
        .unwrap();
    let error = client
        .batch_execute("UPDATE people SET name = left(note, 3) FROM orders WHERE person = people.id")
        .await
        .unwrap_err();
    assert_eq!(code(&error), "53400");
    let narrow =
        "UPDATE people SET name = left(note, 3) FROM orders WHERE person = people.id AND orders.id < 3";
    assert_eq!(done(&client, narrow).await, Ok((Vec::new(), 1)));
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_of_all_groups_are_locked() {
    compare(LOCKS, 3).await;
    let (cluster, client, _plain) = both().await;
    refill(&client).await;
    let other = cluster.connect().await;
    client.batch_execute("BEGIN").await.unwrap();
    let locked = done(&client, "SELECT id FROM people WHERE mood = 'glad' FOR UPDATE").await;
    assert_eq!(locked.unwrap().0.len(), 2);
    let left = done(&other, "SELECT id FROM people FOR UPDATE SKIP LOCKED").await;
    assert_eq!(left.unwrap().0.len(), 4);
    let error = done(&other, "SELECT id FROM people FOR SHARE NOWAIT").await;
    assert_eq!(error, Err("55P03".to_owned()));
    client
        .batch_execute("UPDATE people SET name = 'locked' WHERE mood = 'glad'; COMMIT")
        .await
        .unwrap();
    let names = done(
        &other,
        "SELECT name FROM people WHERE name = 'locked' FOR UPDATE NOWAIT",
    )
    .await;
    assert_eq!(names.unwrap().1, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn moved_rows_are_where_their_keys_say() {
    let cluster = Cluster::start().await;
    let client = cluster.connect().await;
    let sql = "CREATE TABLE t (id bigint PRIMARY KEY, v bigint); CREATE INDEX ON t (v)";
    client.batch_execute(sql).await.unwrap();
    let (one, two) = (cluster.keys_of(0, 3), cluster.keys_of(1, 3));
    let insert = client.prepare("INSERT INTO t VALUES ($1, $2)").await.unwrap();
    client.execute(&insert, &[&one[0], &7_i64]).await.unwrap();
    let update = client
        .prepare("UPDATE t SET id = $1, v = v + $3 WHERE id = $2 RETURNING v, id")
        .await
        .unwrap();
    let mut v = 7;
    // To the other group, within that, and back.
    for pair in [one[0], two[0], two[1], one[1]].windows(2) {
        let row = client
            .query_one(&update, &[&pair[1], &pair[0], &1_i64])
            .await
            .unwrap();
        v += 1;
        assert_eq!((row.get::<_, i64>(0), row.get::<_, i64>(1)), (v, pair[1]));
        let there = client
            .query_one("SELECT v FROM t WHERE id = $1", &[&pair[1]])
            .await
            .unwrap();
        assert_eq!(there.get::<_, i64>(0), v);
        for server in [0, 1] {
            let direct = cluster.direct(server).await;
            let here = direct.query("SELECT FROM t", &[]).await.unwrap().len();
            let expected = usize::from(two.contains(&pair[1]) == (server == 1));
            assert_eq!(here, expected);
        }
    }
    // A row is gone, or moved, only when the transaction is committed.
    let other = cluster.connect().await;
    client.batch_execute("BEGIN; SAVEPOINT a").await.unwrap();
    client.execute("UPDATE t SET id = $1", &[&two[2]]).await.unwrap();
    let seen = other.query_one("SELECT id FROM t", &[]).await.unwrap();
    assert_eq!(seen.get::<_, i64>(0), one[1]);
    client.batch_execute("ROLLBACK TO a").await.unwrap();
    let own = client.query_one("SELECT id FROM t", &[]).await.unwrap();
    assert_eq!(own.get::<_, i64>(0), one[1]);
    client.execute("UPDATE t SET id = $1", &[&two[2]]).await.unwrap();
    client.batch_execute("COMMIT").await.unwrap();
    let seen = other.query_one("SELECT id FROM t", &[]).await.unwrap();
    assert_eq!(seen.get::<_, i64>(0), two[2]);
    // A few of the rows at a time.
    let mut raw = Raw::start(&cluster).await;
    raw.query(&format!("INSERT INTO t VALUES ({}, 1), ({}, 2)", one[0], two[0]));
    raw.send().await;
    raw.until_ready().await;
    raw.parse("", "UPDATE t SET id = - id, v = v RETURNING id");
    raw.bind("", "");
    raw.describe('P', "");
    raw.execute("", 2);
    raw.execute("", 2);
    raw.sync();
    raw.send().await;
    let (tags, errors) = raw.until_ready().await;
    assert_eq!((tags.as_str(), errors.len()), ("12TDDsDCZ", 0));
    let negative = client
        .query_one("SELECT count(*) FROM t WHERE id < 0", &[])
        .await
        .unwrap();
    assert_eq!(negative.get::<_, i64>(0), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_moved_is_refused_and_nothing_changes() {
    let config = proxy::ProxyConfig {
        limits: Limits {
            max_gathered: 1 << 20,
            ..Limits::default()
        },
        ..open_door()
    };
    let cluster = Cluster::configured(config).await;
    let client = cluster.connect().await;
    client.batch_execute(SCHEMA).await.unwrap();
    client.batch_execute(ROWS).await.unwrap();
    let before = contents(&client).await;
    for sql in [
        "UPDATE people SET id = (SELECT max(id) FROM orders) + 1 WHERE id = 1",
        "UPDATE people SET id = orders.id + 100 FROM orders WHERE orders.id = 1 AND people.id = 1",
        "UPDATE people SET id = 100 + (random() * 1000)::int WHERE id = 1",
        "UPDATE people SET tags[1] = 'x', id = 200 WHERE id = 1",
        "UPDATE words SET word = DEFAULT WHERE word = 'a'",
        "WITH u AS (UPDATE people SET id = 200 WHERE id = 1 RETURNING id) SELECT * FROM u",
        "EXPLAIN ANALYZE UPDATE people SET id = 200 WHERE id = 1",
        "COPY (UPDATE people SET id = 200 WHERE id = 1 RETURNING id) TO STDOUT",
        "PREPARE p AS UPDATE people SET id = 200 WHERE id = 1",
        "INSERT INTO people (id) VALUES (1) ON CONFLICT (id) DO UPDATE SET id = 200",
    ] {
        let error = client.batch_execute(sql).await.unwrap_err();
        assert_eq!(code(&error), "0A000", "{sql}: {error:?}");
        assert!(!hint(&error).is_empty(), "{sql}");
    }
    let error = client
        .batch_execute("BEGIN READ ONLY; UPDATE people SET id = id + 1")
        .await
        .unwrap_err();
    assert_eq!(code(&error), "25006");
    client.batch_execute("ROLLBACK").await.unwrap();
    assert_eq!(contents(&client).await, before);
    // Rows that follow by foreign keys do not follow a row that is deleted and inserted; those that lead to it go where it is.
    for sql in [
        "CREATE TABLE top (id int PRIMARY KEY)",
        "CREATE TABLE under (id int REFERENCES top ON DELETE CASCADE, n int, PRIMARY KEY (id, n))",
        "CREATE TABLE beside (id int REFERENCES top, n int, PRIMARY KEY (id, n))",
        "INSERT INTO top VALUES (1), (2), (3), (4), (5), (6), (7)",
        "INSERT INTO under VALUES (1, 1), (2, 1), (3, 1)",
        "UPDATE under SET id = id + 4, n = 2",
    ] {
        client
            .batch_execute(sql)
            .await
            .unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    }
    let error = client
        .batch_execute("UPDATE top SET id = id + 10")
        .await
        .unwrap_err();
    assert_eq!(code(&error), "0A000");
    let error = client
        .batch_execute("UPDATE under SET id = 99 WHERE id = 5")
        .await
        .unwrap_err();
    assert_eq!(code(&error), "23503");
    assert_eq!(
        done(&client, "SELECT id, n FROM under").await.unwrap().0,
        [["5", "2"], ["6", "2"], ["7", "2"]].map(|row| row.map(|id| Some(id.to_owned())).to_vec())
    );
    let words = "CREATE TABLE long (id int PRIMARY KEY, t text)";
    client.batch_execute(words).await.unwrap();
    for id in 0..3 {
        let sql = format!("INSERT INTO long VALUES ({id}, repeat('w', 500000))");
        client.batch_execute(&sql).await.unwrap();
    }
    let error = client
        .batch_execute("UPDATE long SET id = id + 10")
        .await
        .unwrap_err();
    assert_eq!(code(&error), "53400");
    client
        .batch_execute("UPDATE long SET id = id + 10 WHERE id < 2")
        .await
        .unwrap();
    assert_eq!(
        done(&client, "SELECT id FROM long").await.unwrap().0,
        [["10"], ["11"], ["2"]].map(|row| row.map(|id| Some(id.to_owned())).to_vec())
    );
}
