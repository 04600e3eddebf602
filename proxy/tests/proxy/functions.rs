//! Functions, procedures and extensions of users, compared with one PostgreSQL.

use tokio_postgres::Client;

use crate::harness::{Cluster, asked, code};

const SCHEMA: &str = r#"
CREATE EXTENSION pgcrypto;
CREATE EXTENSION IF NOT EXISTS citext;
CREATE EXTENSION hstore;
CREATE EXTENSION "uuid-ossp";
CREATE EXTENSION pg_trgm;
CREATE EXTENSION earthdistance CASCADE;
CREATE SCHEMA tools;
CREATE FUNCTION twice(n numeric) RETURNS numeric LANGUAGE sql IMMUTABLE AS 'SELECT n * 2';
CREATE FUNCTION twice(s text) RETURNS text LANGUAGE sql IMMUTABLE AS $$ SELECT s || s $$;
CREATE FUNCTION tools.slug(s text) RETURNS text LANGUAGE plpgsql IMMUTABLE STRICT AS $$
DECLARE
    made text := lower(trim(both ' ' from s));
BEGIN
    IF made = '' THEN
        RETURN NULL;
    END IF;
    FOR i IN 1..2 LOOP
        made := replace(made, '  ', ' ');
    END LOOP;
    RETURN replace(made, ' ', '-');
END $$;
CREATE FUNCTION factorial_of(n int) RETURNS numeric LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
    RETURN CASE WHEN n <= 1 THEN 1 ELSE n * factorial_of(n - 1) END;
END $$;
CREATE FUNCTION up_to(n int) RETURNS SETOF int LANGUAGE sql IMMUTABLE AS 'SELECT i FROM generate_series(1, n) AS g (i)';
CREATE FUNCTION pairs(n int, OUT a int, OUT b text) RETURNS SETOF record LANGUAGE plpgsql AS $$
BEGIN
    FOR i IN 1..n LOOP
        a := i;
        b := 'x' || i;
        RETURN NEXT;
    END LOOP;
END $$;
CREATE FUNCTION added(a int, b int DEFAULT 10) RETURNS int RETURN a + b;
CREATE FUNCTION positive(n numeric) RETURNS bool LANGUAGE sql IMMUTABLE BEGIN ATOMIC SELECT n > 0; END;
CREATE FUNCTION checked(n int) RETURNS int LANGUAGE plpgsql AS $$
BEGIN
    IF n > 5 THEN
        RAISE EXCEPTION 'too many: %', n USING ERRCODE = 'P4711';
    END IF;
    RETURN n;
END $$;
CREATE PROCEDURE raised(INOUT a int, b int) LANGUAGE plpgsql AS $$ BEGIN a := a ^ b; END $$;
CREATE TABLE things (id int PRIMARY KEY, name text, price numeric CHECK (positive(price)), token text DEFAULT twice('ab'),
    slug text GENERATED ALWAYS AS (tools.slug(name)) STORED, mail citext, tags hstore);
CREATE INDEX ON things (twice(price));
CREATE INDEX ON things USING gin (name gin_trgm_ops);
CREATE TABLE groups (id int PRIMARY KEY, label text);
CREATE VIEW dear AS SELECT id, twice(price) AS doubled, tools.slug(name) AS slugged FROM things WHERE twice(price) > 10;
INSERT INTO things (id, name, price, mail, tags) VALUES (1, 'Red Ball', 3, 'Ann@x.org', 'a=>1'), (2, 'Blue  Box', 7.5, 'bob@X.org', 'a=>2,b=>x'),
    (3, ' Green Cup ', 12, 'ann@X.ORG', NULL), (4, 'Red Cup', 5.5, NULL, 'b=>y'), (5, '', 1, 'eve@x.org', ''), (6, 'Odd Thing', 99, 'Bob@x.org', 'a=>1');
INSERT INTO groups VALUES (1, 'one'), (2, 'two'), (3, 'three');
"#;

/// Those whose rows come in the order that is asked for begin with `=`.
const QUERIES: &[&str] = &[
    "SELECT twice(2), twice('x'::text), tools.slug(' A  b '), added(1), added(1, 2), added(a => 5), factorial_of(10)",
    "SELECT * FROM up_to(4)",
    "SELECT up_to(3)",
    "SELECT * FROM pairs(3)",
    "SELECT a, b FROM pairs(3) WHERE a > 1",
    "CALL raised(3, 2)",
    "CALL nobody(3, 2)",
    "SELECT id, name, slug, token, twice(price) FROM things",
    "SELECT id FROM things WHERE twice(price) > 10",
    "SELECT id FROM things WHERE id = 2 AND positive(price)",
    "SELECT twice(price) FROM things WHERE id IN (1, 4)",
    "=SELECT id FROM things ORDER BY twice(price) DESC LIMIT 3",
    "=SELECT tools.slug(name) FROM things ORDER BY 1 NULLS FIRST",
    "SELECT sum(twice(price)), max(tools.slug(name)) FROM things",
    "SELECT twice(sum(price)) FROM things",
    "SELECT tools.slug(name), count(*) FROM things GROUP BY tools.slug(name)",
    "SELECT DISTINCT left(tools.slug(name), 3) FROM things",
    "SELECT t.id, u FROM things t, up_to(t.id) u WHERE t.id < 3",
    "SELECT t.id, g.label FROM things t JOIN groups g ON g.id = t.id AND positive(t.price)",
    "SELECT t.id, g.label FROM things t JOIN groups g ON twice(g.id) = t.id",
    "SELECT id, (SELECT twice(max(g.id)) FROM groups g WHERE g.id < t.id) FROM things t",
    "SELECT * FROM dear",
    "SELECT count(*) FROM dear",
    "SELECT id, up_to(id) FROM things WHERE id < 3",
    "SELECT id, checked(id) FROM things WHERE id < 5",
    "SELECT checked(id) FROM things WHERE id > 5",
    "SELECT checked(6)",
    "DO $$ BEGIN RAISE EXCEPTION 'no' USING ERRCODE = 'P4712'; END $$",
    "DO $$ BEGIN RAISE NOTICE 'yes'; END $$",
    "UPDATE things SET name = twice(name) WHERE positive(price) RETURNING id, slug",
    "UPDATE things SET price = -1 WHERE id = 3",
    "INSERT INTO things (id, price) VALUES (7, factorial_of(3)) RETURNING *",
    "INSERT INTO things (id, name, price) SELECT id + 100, twice(label), added(id) FROM groups RETURNING id, name, slug, token",
    "DELETE FROM things WHERE twice(price) > 20 RETURNING id",
    "SELECT no_such_function(1)",
    "SELECT twice(1, 2)",
    // Of extensions.
    "SELECT id FROM things WHERE mail = 'ANN@x.org'",
    "SELECT mail, count(*) FROM things GROUP BY mail",
    "SELECT lower(mail::text), count(DISTINCT mail) FROM things GROUP BY 1",
    "SELECT count(DISTINCT mail) FROM things",
    "=SELECT mail FROM things ORDER BY mail, id",
    "SELECT min(mail), max(mail) FROM things",
    "SELECT a.id, b.id FROM things a JOIN things b ON a.mail = b.mail",
    "SELECT id, tags -> 'a', tags ? 'b' FROM things",
    "SELECT id, (each(tags)).key FROM things",
    "SELECT skeys(tags) FROM things",
    "SELECT id FROM things WHERE name % 'Red Bal'",
    "=SELECT id, similarity(name, 'Red Cup') FROM things ORDER BY similarity(name, 'Red Cup') DESC, id LIMIT 3",
    "SELECT encode(digest('x', 'sha256'), 'hex'), crypt('a', '$1$abcdefgh') = crypt('a', '$1$abcdefgh')",
    "SELECT uuid_generate_v5(uuid_ns_dns(), 'x.org'), length(gen_salt('bf')), uuid_generate_v4() = uuid_generate_v4()",
    "SELECT round(earth_distance(ll_to_earth(1, 2), ll_to_earth(2, 3)))",
    // A function of the row, in the form of a column.
    "SELECT t.hstore -> 'name' FROM things t WHERE t.id = 1",
    "=SELECT t.hstore -> 'name' FROM things t ORDER BY t.price DESC, (SELECT max(id) FROM groups) LIMIT 2",
];

/// Of the queries, what comes out otherwise than on one PostgreSQL.
pub(crate) async fn differences(cluster: &Cluster, schema: &str, queries: &[&str]) -> String {
    let client = cluster.connect().await;
    for statement in statements(schema) {
        client.batch_execute(&statement).await.expect(&statement);
    }
    let plain = cluster.plain_database(schema).await;
    let mut different = String::new();
    for query in queries {
        let sql = query.trim_start_matches('=');
        for client in [&client, &plain] {
            client.batch_execute("BEGIN").await.expect("begins");
        }
        let (mut here, mut there) = (asked(&client, sql).await, asked(&plain, sql).await);
        for client in [&client, &plain] {
            client.batch_execute("ROLLBACK").await.expect("ends");
        }
        if let (false, Ok(here), Ok(there)) = (query.starts_with('='), &mut here, &mut there) {
            here.sort();
            there.sort();
        }
        if here != there {
            different.push_str(&format!("{sql}\n  here: {here:?}\n  there: {there:?}\n"));
        }
    }
    different
}

/// The statements of a schema, each ended by a semicolon at the end of a line that begins none of a body.
fn statements(schema: &str) -> Vec<String> {
    let mut all = vec![String::new()];
    for line in schema.lines() {
        let starts = ["CREATE ", "INSERT ", "ALTER ", "SELECT create"];
        if starts.iter().any(|start| line.starts_with(start)) {
            all.push(String::new());
        }
        let last = all.last_mut().expect("there is one");
        last.push_str(line);
        last.push('\n');
    }
    all.retain(|statement| !statement.trim().is_empty());
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn functions_of_users_and_extensions_are_called_as_on_one_server() {
    let cluster = Cluster::start().await;
    let different = differences(&cluster, SCHEMA, QUERIES).await;
    assert!(different.is_empty(), "{different}");
}

async fn sum(client: &Client) -> i64 {
    let row = client.query_one("SELECT sum(f(n)) FROM t", &[]).await;
    row.expect("a sum").get(0)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_function_is_on_all_groups_or_on_none_and_changes_at_once() {
    let cluster = Cluster::start().await;
    let (client, other) = (cluster.connect().await, cluster.connect().await);
    client
        .batch_execute(
            "CREATE TABLE t (id int PRIMARY KEY, n int); INSERT INTO t SELECT i, i FROM generate_series(1, 20) i",
        )
        .await
        .expect("a table");
    client
        .batch_execute(
            "BEGIN; CREATE FUNCTION f(n int) RETURNS int LANGUAGE sql AS 'SELECT n + 1'; \
             SELECT sum(f(n)) FROM t",
        )
        .await
        .expect("a transaction sees its own function");
    let error = other.batch_execute("SELECT sum(f(n)) FROM t").await.unwrap_err();
    assert_eq!(code(&error), "42883");
    client.batch_execute("COMMIT").await.unwrap();
    assert_eq!(sum(&other).await, 230);
    client
        .batch_execute("CREATE OR REPLACE FUNCTION f(n int) RETURNS int LANGUAGE sql AS 'SELECT n + 2'")
        .await
        .unwrap();
    assert_eq!(sum(&other).await, 250);
    for server in [0, 1] {
        let there = cluster.direct(server).await;
        let row = there.query_one("SELECT f(1)", &[]).await.unwrap();
        assert_eq!(row.get::<_, i32>(0), 3);
    }
    client
        .batch_execute("BEGIN; DROP FUNCTION f(int); ROLLBACK; DROP FUNCTION f(int)")
        .await
        .unwrap();
    let error = other.batch_execute("SELECT sum(f(n)) FROM t").await.unwrap_err();
    assert_eq!(code(&error), "42883");
    // PostgreSQL has functions of that name, which the analysis does not let be called.
    for sql in [
        "CREATE FUNCTION query_to_xml(int) RETURNS int LANGUAGE sql AS 'SELECT 1'",
        "CREATE FUNCTION g() RETURNS int LANGUAGE sql AS 'SELECT 1'; ALTER FUNCTION g RENAME TO pg_read_file",
    ] {
        let error = client.batch_execute(sql).await.expect_err(sql);
        assert_eq!(code(&error), "0A000", "{sql}");
    }
}
