//! What sessions see of sequences is what one plain PostgreSQL shows: values, tags, columns' types, errors.

use tokio_postgres::{Client, SimpleQueryMessage};

use crate::harness::Cluster;

/// A Howdah of two groups, and one PostgreSQL.
pub(crate) struct Both {
    pub(crate) cluster: Cluster,
    pub(crate) howdah: Client,
    pub(crate) plain: Client,
}

impl Both {
    pub(crate) async fn start() -> Both {
        let cluster = Cluster::start().await;
        let direct = cluster.direct(0).await;
        let sql = "CREATE DATABASE one TEMPLATE template0";
        direct.batch_execute(sql).await.expect(sql);
        Both {
            howdah: cluster.connect().await,
            plain: cluster.direct_in(0, "one").await,
            cluster,
        }
    }

    /// Runs these one after the other in both, as Queries; each must be answered alike.
    pub(crate) async fn agree(&self, statements: &[&str]) {
        let mut differences = Vec::new();
        for sql in statements {
            let (ours, theirs) = (answer(&self.howdah, sql).await, answer(&self.plain, sql).await);
            if ours != theirs {
                differences.push(format!("{sql}\n  Howdah:     {ours}\n  PostgreSQL: {theirs}"));
            }
        }
        assert!(differences.is_empty(), "\n{}", differences.join("\n"));
    }

    /// The same as prepared statements, without parameters: their descriptions, and what they give.
    pub(crate) async fn agree_prepared(&self, statements: &[&str]) {
        let mut differences = Vec::new();
        for sql in statements {
            let (ours, theirs) = (
                described(&self.howdah, sql).await,
                described(&self.plain, sql).await,
            );
            if ours != theirs {
                differences.push(format!("{sql}\n  Howdah:     {ours}\n  PostgreSQL: {theirs}"));
            }
        }
        assert!(differences.is_empty(), "\n{}", differences.join("\n"));
    }
}

/// The answer to a Query in short: each row between brackets, the count of rows, or the error.
pub(crate) async fn answer(client: &Client, sql: &str) -> String {
    match client.simple_query(sql).await {
        Ok(messages) => {
            let mut said: Vec<String> = messages.iter().map(show).collect();
            if !sql.contains("ORDER BY") && !sql.contains(';') {
                // The tag stays last.
                let end = said.len().saturating_sub(1);
                said[..end].sort();
            }
            said.join(" ")
        }
        Err(error) => show_error(&error),
    }
}

fn show(message: &SimpleQueryMessage) -> String {
    match message {
        SimpleQueryMessage::Row(row) => {
            let values = (0..row.len()).map(|at| row.get(at).unwrap_or("NULL"));
            format!("[{}]", values.collect::<Vec<_>>().join("|"))
        }
        SimpleQueryMessage::RowDescription(columns) => {
            let names = columns.iter().map(|column| column.name());
            format!("({})", names.collect::<Vec<_>>().join(","))
        }
        SimpleQueryMessage::CommandComplete(count) => count.to_string(),
        _ => "?".to_owned(),
    }
}

fn show_error(error: &tokio_postgres::Error) -> String {
    match error.as_db_error() {
        Some(said) => format!(
            "{} {} / {:?} / {:?} / {:?}",
            said.code().code(),
            said.message(),
            said.detail(),
            said.hint(),
            said.position()
        ),
        None => error.to_string(),
    }
}

async fn described(client: &Client, sql: &str) -> String {
    let statement = match client.prepare(sql).await {
        Ok(statement) => statement,
        Err(error) => return show_error(&error),
    };
    let columns = statement.columns().iter();
    let columns: Vec<String> = columns.map(|c| format!("{} {}", c.name(), c.type_())).collect();
    let types: Vec<String> = statement.params().iter().map(ToString::to_string).collect();
    format!("({}) -> ({})", types.join(", "), columns.join(", "))
}

#[tokio::test]
async fn sequences_of_all_options_count_as_on_one_server() {
    let both = Both::start().await;
    both.agree(&[
        "CREATE SEQUENCE a INCREMENT BY 3 MINVALUE 2 MAXVALUE 11 START WITH 5 CYCLE",
        "SELECT nextval('a'), nextval('a'), nextval('a'), nextval('a'), nextval('a')",
        "SELECT currval('a'), lastval()",
        "CREATE SEQUENCE a",
        "CREATE SEQUENCE IF NOT EXISTS a",
        "CREATE SEQUENCE bad INCREMENT 0",
        "CREATE SEQUENCE bad MINVALUE 5 MAXVALUE 3",
        "CREATE SEQUENCE bad START 0",
        "CREATE SEQUENCE bad AS smallint MAXVALUE 40000",
        "CREATE SEQUENCE bad CACHE 0",
        "CREATE SEQUENCE c CACHE 10",
        "SELECT nextval('c'), nextval('c')",
        "SELECT nextval('c')",
        "CREATE SEQUENCE small AS smallint INCREMENT -1",
        "SELECT nextval('small')",
        "SELECT nextval('small'::text::regclass)",
        "CREATE SEQUENCE ends MAXVALUE 2",
        "SELECT nextval('ends')",
        "SELECT nextval('ends')",
        "SELECT nextval('ends')",
        "SELECT currval('ends')",
        "ALTER SEQUENCE ends MAXVALUE 4",
        "SELECT nextval('ends'), nextval('ends')",
        "SELECT nextval('ends')",
        "ALTER SEQUENCE ends MAXVALUE 2",
        "ALTER SEQUENCE ends CYCLE",
        "SELECT nextval('ends')",
        "ALTER SEQUENCE ends RESTART WITH 4",
        "SELECT nextval('ends'), nextval('ends')",
        "ALTER SEQUENCE ends RESTART WITH 9",
        "ALTER SEQUENCE ends INCREMENT BY 2 RESTART",
        "SELECT nextval('ends'), nextval('ends'), nextval('ends')",
        "ALTER SEQUENCE ends START WITH 3",
        "ALTER SEQUENCE ends RESTART",
        "SELECT nextval('ends')",
        "ALTER SEQUENCE ends AS smallint",
        "ALTER SEQUENCE IF EXISTS nosuch RESTART",
        "ALTER SEQUENCE nosuch RESTART",
        "ALTER SEQUENCE ends RENAME TO \"The End\"",
        "SELECT nextval('ends')",
        "SELECT nextval('\"The End\"')",
        "CREATE SCHEMA \"Other One\"",
        "ALTER SEQUENCE \"The End\" SET SCHEMA \"Other One\"",
        "SELECT nextval('\"The End\"')",
        "SELECT nextval('\"Other One\".\"The End\"')",
        "SELECT nextval ( '\"Other One\".\"The End\"' ) AS x, currval('\"Other One\".\"The End\"'::regclass)",
        "SET search_path = \"Other One\", public",
        "SELECT nextval('\"The End\"')",
        "CREATE SEQUENCE c START 77",
        "SELECT nextval('c'), nextval('public.c')",
        "SELECT currval('public.c') = currval('c'), lastval()",
        "RESET search_path",
        "SELECT setval('a', 8)",
        "SELECT currval('a'), lastval()",
        "SELECT nextval('a')",
        "SELECT pg_catalog.setval('public.a', 5, false)",
        "SELECT pg_catalog.setval('public.a', 5, true) AS set",
        "SELECT nextval('a'), lastval()",
        "SELECT setval('a', 99)",
        "SELECT setval('nosuch', 1)",
        "SELECT setval('a', 'x')",
        "SELECT last_value, is_called FROM a",
        "SELECT nextval('pg_class')",
        "SELECT nextval('')",
        "SELECT nextval()",
        "SELECT nextval('a', 'b')",
        "SELECT currval('small')",
        "DISCARD SEQUENCES",
        "SELECT lastval()",
        "SELECT currval('a')",
        "BEGIN",
        "SELECT nextval('a')",
        "ROLLBACK",
        "SELECT currval('a')",
        "SELECT nextval('a')",
        "BEGIN READ ONLY",
        "SELECT nextval('a')",
        "ROLLBACK",
        "BEGIN",
        "CREATE SEQUENCE inside",
        "SELECT nextval('inside')",
        "SELECT setval('inside', 10)",
        "SELECT nextval('inside')",
        "ROLLBACK",
        "SELECT nextval('inside')",
        "DROP SEQUENCE a, c, small",
        "SELECT currval('a')",
        "SELECT lastval()",
        "DROP SEQUENCE nosuch",
        "DROP SEQUENCE IF EXISTS nosuch",
        "DROP SCHEMA \"Other One\" CASCADE",
    ])
    .await;
}

#[tokio::test]
async fn columns_that_sequences_fill_are_as_on_one_server() {
    let both = Both::start().await;
    both.agree(&[
        "CREATE TABLE t (id serial PRIMARY KEY, v text, n smallserial, b bigserial)",
        "INSERT INTO t (v) VALUES ('a') RETURNING *",
        "INSERT INTO t VALUES (DEFAULT, 'b'), (DEFAULT, 'c') RETURNING *",
        "INSERT INTO t VALUES (100, 'd', DEFAULT, 7), (DEFAULT, DEFAULT, 9) RETURNING id",
        "INSERT INTO t VALUES (100, 'd', DEFAULT, 7) RETURNING *",
        "INSERT INTO t DEFAULT VALUES RETURNING id, n, b",
        "INSERT INTO t (v, id) VALUES ('twice', 1)",
        "INSERT INTO t (v, id) VALUES ('twice', 1) ON CONFLICT (id) DO UPDATE SET v = excluded.v, n = t.n + 1 RETURNING *",
        "INSERT INTO t (v) VALUES ('nothing') ON CONFLICT DO NOTHING RETURNING id, v, n",
        "INSERT INTO t (v, v) VALUES (1, 2)",
        "INSERT INTO t (nosuch) VALUES (1)",
        "INSERT INTO t (v) VALUES (1, 2)",
        "INSERT INTO t (v, id) VALUES (1)",
        "INSERT INTO t (v) VALUES (1), (2, 3)",
        "INSERT INTO t (v) VALUES (nosuch)",
        "INSERT INTO nosuch (v) VALUES (1)",
        // Errors that PostgreSQL finds when it reads a statement leave gaps here.
        "SELECT setval('t_id_seq', 20)",
        "SELECT setval('t_n_seq', 20)",
        "SELECT setval('t_b_seq', 20)",
        "INSERT INTO public.t AS x (\"v\") VALUES ('e''f') RETURNING x.id, x.v",
        "INSERT INTO t (id) VALUES (NULL)",
        "INSERT INTO t (id, v) VALUES (nextval('t_id_seq'), lastval()) RETURNING id, v",
        "INSERT INTO t (v) VALUES (currval('t_id_seq'))",
        "INSERT INTO t (id) VALUES (2147483648)",
        "SELECT id, v FROM t ORDER BY id",
        "ALTER SEQUENCE t_id_seq RESTART WITH 2147483647 NO MAXVALUE",
        "INSERT INTO t (v) VALUES ('last') RETURNING id",
        "INSERT INTO t (v) VALUES ('more') RETURNING id",
        "TRUNCATE t",
        "INSERT INTO t (v, id) VALUES ('a', 1) RETURNING id",
        "TRUNCATE t CONTINUE IDENTITY",
        "TRUNCATE TABLE t RESTART IDENTITY",
        "INSERT INTO t (v) VALUES ('a'), ('b') RETURNING id, n, b",
        "BEGIN",
        "TRUNCATE TABLE t RESTART IDENTITY",
        "INSERT INTO t (v) VALUES ('a') RETURNING id, n, b",
        "ROLLBACK",
        "SELECT id FROM t ORDER BY id",
        "TRUNCATE t",
        "ALTER TABLE t ADD COLUMN extra serial, ADD COLUMN ident int GENERATED ALWAYS AS IDENTITY (START 50)",
        "INSERT INTO t (v, id) VALUES ('a', 5) RETURNING *",
        "ALTER TABLE t ALTER COLUMN ident RESTART WITH 500 SET INCREMENT BY 100",
        "INSERT INTO t (v, id) VALUES ('a', 6), ('b', 7) RETURNING ident",
        "ALTER TABLE t ALTER ident SET GENERATED BY DEFAULT",
        "INSERT INTO t (v, id, ident) VALUES ('a', 8, 3), ('b', 9, DEFAULT) RETURNING ident",
        "ALTER TABLE t ALTER ident DROP IDENTITY",
        "INSERT INTO t (v, id) VALUES ('a', 10)",
        "ALTER TABLE t ALTER ident ADD GENERATED BY DEFAULT AS IDENTITY (START 9)",
        "INSERT INTO t (v, id) VALUES ('a', 10) RETURNING ident",
        "ALTER TABLE t DROP COLUMN extra",
        "INSERT INTO t (v, id) VALUES ('a', 11) RETURNING *",
        "SELECT pg_get_serial_sequence('t', 'n'), pg_get_serial_sequence('public.t', 'ident')",
        "SELECT pg_get_serial_sequence('t', 'v')",
        "ALTER TABLE t RENAME TO \"T\"",
        "ALTER TABLE \"T\" RENAME id TO \"Id\"",
        "INSERT INTO \"T\" (v) VALUES ('renamed') RETURNING n",
        "DROP SEQUENCE t_n_seq",
        "DROP SEQUENCE t_n_seq CASCADE",
        "INSERT INTO \"T\" (v, \"Id\") VALUES ('none', 12)",
        "ALTER TABLE \"T\" ALTER n DROP NOT NULL",
        "INSERT INTO \"T\" (v, \"Id\") VALUES ('none', 12) RETURNING n",
        "DROP TABLE \"T\"",
        "SELECT nextval('t_id_seq')",
        "SELECT count(*) FROM pg_class WHERE relkind = 'S' AND relnamespace = 'public'::regnamespace",
    ])
    .await;
}

#[tokio::test]
async fn identity_columns_and_defaults_by_name_are_as_on_one_server() {
    let both = Both::start().await;
    both.agree(&[
        "CREATE TABLE i (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, v text)",
        "INSERT INTO i (v) VALUES ('a'), ('b') RETURNING id",
        "INSERT INTO i VALUES (DEFAULT, 'c') RETURNING id",
        "INSERT INTO i VALUES (7, 'c')",
        "INSERT INTO i (v, id) VALUES ('x', 7)",
        "INSERT INTO i (v, id) VALUES ('x', DEFAULT), ('y', 7)",
        "INSERT INTO i OVERRIDING SYSTEM VALUE VALUES (7, 'c') RETURNING id",
        "INSERT INTO i (v, id) OVERRIDING SYSTEM VALUE VALUES ('c', 8), ('d', DEFAULT) RETURNING id",
        "INSERT INTO i (v, id) OVERRIDING USER VALUE VALUES ('c', 8), ('d', 9) RETURNING id",
        "INSERT INTO i OVERRIDING USER VALUE VALUES (1, 'e') RETURNING id",
        "INSERT INTO i (v) OVERRIDING USER VALUE VALUES ('f') RETURNING id",
        "INSERT INTO i DEFAULT VALUES RETURNING id",
        "INSERT INTO i OVERRIDING SYSTEM VALUE DEFAULT VALUES RETURNING id",
        "UPDATE i SET id = 3 WHERE id = 1",
        "SELECT id, v FROM i ORDER BY id",
        "CREATE TABLE d (id bigint GENERATED BY DEFAULT AS IDENTITY (INCREMENT BY 10) PRIMARY KEY, v text)",
        "INSERT INTO d (v) VALUES ('a'), ('b') RETURNING id",
        "INSERT INTO d VALUES (5, 'c'), (DEFAULT, 'd') RETURNING id",
        "INSERT INTO d OVERRIDING USER VALUE VALUES (5, 'c') RETURNING id",
        "INSERT INTO d OVERRIDING SYSTEM VALUE VALUES (6, 'c') RETURNING id",
        "INSERT INTO d (id) VALUES (NULL)",
        "CREATE SCHEMA \"Sales Dep\"",
        "CREATE SEQUENCE \"Sales Dep\".\"Invoice No\" START 1000",
        "CREATE TABLE \"Sales Dep\".\"Invoice\" (no int DEFAULT nextval('\"Sales Dep\".\"Invoice No\"'), \"For\" text PRIMARY KEY, \
         code text DEFAULT nextval('\"Sales Dep\".\"Invoice No\"'::regclass), amount numeric)",
        "ALTER SEQUENCE \"Sales Dep\".\"Invoice No\" OWNED BY \"Sales Dep\".\"Invoice\".no",
        "INSERT INTO \"Sales Dep\".\"Invoice\" (\"For\") VALUES ('you'), ('me') RETURNING *",
        "INSERT INTO \"Sales Dep\".\"Invoice\" (\"For\", code, amount) VALUES ('him', 'x', nextval('\"Sales Dep\".\"Invoice No\"')) RETURNING *",
        "SELECT currval('\"Sales Dep\".\"Invoice No\"')",
        "SELECT pg_get_serial_sequence('\"Sales Dep\".\"Invoice\"', 'no')",
        "SELECT currval(pg_get_serial_sequence('\"Sales Dep\".\"Invoice\"', 'no'))",
        "UPDATE \"Sales Dep\".\"Invoice\" SET amount = lastval() WHERE \"For\" = 'me' RETURNING amount",
        "SELECT currval('\"Sales Dep\".\"Invoice No\"') - no FROM \"Sales Dep\".\"Invoice\" WHERE \"For\" = 'me'",
        "DELETE FROM \"Sales Dep\".\"Invoice\" WHERE no < currval('\"Sales Dep\".\"Invoice No\"') AND \"For\" = 'you'",
        "DROP TABLE \"Sales Dep\".\"Invoice\"",
        "SELECT nextval('\"Sales Dep\".\"Invoice No\"')",
        "CREATE TEMP SEQUENCE temporary",
        "SELECT nextval('temporary'), currval('temporary')",
        "CREATE TEMP TABLE counted (id serial, v int)",
        "INSERT INTO counted (v) VALUES (1), (2) RETURNING id",
        "SELECT currval('counted_id_seq')",
        "DROP TABLE counted",
        "DROP SEQUENCE temporary",
        "CREATE SEQUENCE plain",
        "SELECT nextval('plain') AS \"a b\", 'x' || nextval('plain') || currval('plain') AS text",
        "SELECT nextval('plain')::text, nextval('plain') + nextval('plain') * 100, abs(nextval('plain')), lastval()",
        "SELECT nextval('plain'); SELECT currval('plain'); SELECT lastval()",
        "SELECT nextval('plain'), nosuch",
        "SELECT setval('plain', 30)",
        "SELECT 'nextval(''plain'')', $$nextval('plain')$$",
        "select NEXTVAL('PLAIN'), pg_catalog.NextVal('public.plain')",
        "EXPLAIN (COSTS OFF) SELECT nextval('plain')",
    ])
    .await;
    both.agree_prepared(&[
        "SELECT nextval('plain')",
        "SELECT nextval($1)",
        "SELECT nextval($1::regclass), currval($2::text::regclass), lastval() AS x",
        "INSERT INTO i (v) VALUES ($1) RETURNING id, v",
        "INSERT INTO i (v) VALUES ($1), ($2), ($1 || 'x')",
        "INSERT INTO i (v) VALUES (upper($1)) ON CONFLICT (id) DO UPDATE SET v = $2 RETURNING *",
        "INSERT INTO d (id, v) VALUES ($1, $2), (DEFAULT, $3) RETURNING id + $4",
        "INSERT INTO d (v, id) VALUES ('a', $1)",
        "INSERT INTO d (v) VALUES ($2)",
        "SELECT setval('plain', $1)",
        "SELECT setval('plain', $1, $2) AS x",
        "SELECT setval($1, $2, $3)",
        "SELECT setval($1::text::regclass, $2::bigint)",
        "SELECT nextval(CAST($1 AS text)), nextval(CAST($2 AS regclass))",
        "UPDATE d SET v = lastval() WHERE id = $1 RETURNING v",
        "SELECT v FROM d WHERE id = lastval()",
    ])
    .await;
}

#[tokio::test]
async fn tables_of_every_kind_are_filled_as_on_one_server() {
    let both = Both::start().await;
    both.agree(&[
        // Its first column cannot spread it: it is local.
        "CREATE TABLE docs (doc jsonb, id serial, n int GENERATED ALWAYS AS IDENTITY)",
        "INSERT INTO docs VALUES ('{}'), ('[]') RETURNING id, n",
        "INSERT INTO docs DEFAULT VALUES RETURNING id, n",
        "INSERT INTO docs (doc, id, n) OVERRIDING SYSTEM VALUE VALUES ('1', 70, 70) RETURNING id",
        "SELECT id, n FROM docs ORDER BY id",
        "TRUNCATE docs RESTART IDENTITY",
        "INSERT INTO docs VALUES ('{}') RETURNING id, n",
        "CREATE TABLE countries (id serial PRIMARY KEY, name text, n smallint GENERATED BY DEFAULT AS IDENTITY)",
    ])
    .await;
    let error = answer(&both.howdah, "INSERT INTO docs SELECT '1'").await;
    assert!(error.starts_with("0A000"), "{error}");
    let sql = "SELECT create_reference_table('countries')";
    both.howdah.simple_query(sql).await.expect(sql);
    both.agree(&[
        "INSERT INTO countries (name) VALUES ('no'), ('se') RETURNING *",
        "INSERT INTO countries VALUES (DEFAULT, 'fi') RETURNING *",
        "INSERT INTO countries (name) VALUES ('dk') ON CONFLICT (id) DO NOTHING RETURNING id",
        "INSERT INTO countries DEFAULT VALUES",
        "SELECT id, name, n FROM countries ORDER BY id",
        "CREATE TABLE towns (id bigserial PRIMARY KEY, name text, country int REFERENCES countries)",
        "INSERT INTO towns (name, country) VALUES ('Oslo', 1), ('Bergen', 1), ('Visby', 2) RETURNING id",
        "INSERT INTO towns (name, country) VALUES ('Nowhere', 100)",
        "SELECT t.id, t.name, c.name FROM towns t JOIN countries c ON c.id = t.country ORDER BY t.id",
        "CREATE TABLE parts (id bigserial, region int, v text, PRIMARY KEY (id, region)) PARTITION BY LIST (region)",
        "CREATE TABLE parts_one PARTITION OF parts FOR VALUES IN (1)",
        "CREATE TABLE parts_more PARTITION OF parts DEFAULT",
        "INSERT INTO parts (region, v) VALUES (1, 'a'), (2, 'b'), (3, 'c') RETURNING id, region",
        "INSERT INTO parts_one (region, v) VALUES (1, 'd') RETURNING id",
        "SELECT id, region, v FROM parts ORDER BY id",
    ])
    .await;
    // All groups have the same rows of a reference table.
    let sql = "SELECT string_agg(id || name || n, ',' ORDER BY id) FROM countries";
    let (one, other) = (both.cluster.direct(0).await, both.cluster.direct(1).await);
    assert_eq!(answer(&one, sql).await, answer(&other, sql).await);
}
