//! CREATE TABLE ... AS and SELECT ... INTO of rows of all groups, compared with one PostgreSQL.

use tokio_postgres::{Client, SimpleQueryMessage};

use crate::harness::raw::Raw;
use crate::harness::{Cluster, code, run};

const SCHEMA: &str = "
CREATE TYPE mood AS ENUM ('sad', 'glad');
CREATE TABLE people (id int PRIMARY KEY, name varchar(20), mood mood, tags text[], credit numeric(10,2), born date);
CREATE TABLE visits (person int, n int, place text, PRIMARY KEY (person, n));
CREATE TABLE places (place text PRIMARY KEY, land char(2));
CREATE VIEW glad AS SELECT id, name FROM people WHERE mood = 'glad';
INSERT INTO people SELECT i, 'name ' || i, (ARRAY['sad', 'glad'])[i % 2 + 1]::mood, ARRAY['a', NULL, i::text], i * 1.25, date '2020-01-01' + i
    FROM generate_series(1, 40) i;
INSERT INTO people VALUES (41, NULL, NULL, NULL, NULL, NULL);
INSERT INTO visits SELECT i % 45, i, (ARRAY['Rome', 'Oslo', 'Pisa'])[i % 3 + 1] FROM generate_series(1, 200) i;
INSERT INTO places VALUES ('Rome', 'IT'), ('Oslo', 'NO');
";

/// The new table is called `made`.
const STATEMENTS: &[&str] = &[
    "CREATE TABLE made AS SELECT * FROM people",
    "CREATE TABLE made AS TABLE people",
    "CREATE TABLE made AS (SELECT id, name FROM people WHERE id < 10)",
    "CREATE TABLE made (a, b) AS SELECT id, name, credit FROM people WITH DATA",
    "CREATE TABLE made AS SELECT name, id FROM people",
    "CREATE TABLE made AS SELECT * FROM people WHERE id = 3",
    "CREATE TABLE made WITH (fillfactor = 70) AS SELECT id FROM people ORDER BY credit DESC LIMIT 7 OFFSET 2",
    "CREATE TABLE made AS SELECT p.id, count(*) AS n, max(place) FROM people p JOIN visits v ON v.person = p.id GROUP BY p.id",
    "CREATE TABLE made AS SELECT place, count(*), sum(n), avg(n) FROM visits GROUP BY place HAVING count(*) > 1",
    "CREATE TABLE made AS SELECT land, name FROM people JOIN visits ON person = id JOIN places USING (place)",
    "CREATE TABLE made AS SELECT count(*) FROM visits",
    "CREATE TABLE made AS SELECT tags, id FROM people",
    "CREATE TABLE made AS SELECT mood, id, 'x' AS x, NULL AS nothing, 1.50 AS much FROM people",
    "CREATE TABLE made AS SELECT id, name FROM people UNION SELECT person, place FROM visits",
    "CREATE TABLE made AS WITH v AS (SELECT person, count(*) AS n FROM visits GROUP BY person) SELECT name, n FROM people, v WHERE id = person",
    "CREATE TABLE made AS SELECT * FROM glad",
    "CREATE TABLE made AS SELECT id, row_number() OVER (ORDER BY credit DESC, id) FROM people",
    "CREATE TABLE made AS SELECT i AS id, i * i AS square FROM generate_series(1, 3000) i",
    "CREATE TABLE made AS VALUES (1, 'a', NULL), (2.5, 'b', DATE '2020-01-01')",
    "CREATE TABLE made AS SELECT 1 AS id, 'one' AS name",
    "CREATE TABLE made AS SELECT id, now() > '2020-01-01' AS late, current_date > born AS old FROM people",
    "CREATE TABLE made AS SELECT * FROM people WHERE false",
    "CREATE TABLE IF NOT EXISTS made AS SELECT id FROM people",
    "CREATE TABLE public.made AS SELECT id AS made FROM people",
    "CREATE TABLE made AS SELECT * FROM people WITH NO DATA",
    "CREATE TABLE IF NOT EXISTS people AS SELECT 1 AS id",
    "CREATE TABLE IF NOT EXISTS people AS SELECT 1 AS id WITH NO DATA",
    "SELECT id, name INTO made FROM people WHERE id > 5",
    "SELECT place, count(*) AS n INTO TABLE public.made FROM visits GROUP BY place ORDER BY n",
    "WITH v AS (SELECT DISTINCT person FROM visits) SELECT * INTO made FROM v",
    "SELECT name INTO made FROM people WHERE id = 1 UNION ALL SELECT place FROM visits",
    // Errors.
    "CREATE TABLE people AS SELECT 1 AS id",
    "CREATE TABLE made AS SELECT nothing FROM people",
    "CREATE TABLE made AS SELECT id, id FROM people",
    "CREATE TABLE made (a, b, c) AS SELECT id FROM people",
    "CREATE TABLE made AS SELECT 10 / (id - 7) AS id FROM people",
    "CREATE TABLE nowhere.made AS SELECT id FROM people",
    "CREATE TABLE made AS SELECT id FROM nowhere",
    "CREATE TABLE made AS SELECT FROM WHERE",
    "SELECT id INTO people FROM visits",
];

/// How many of them, the last ones, fail.
const ERRORS: usize = 9;

/// What a Query gives: rows, and what it has counted; or the SQLSTATE.
async fn asked(client: &Client, sql: &str) -> Result<Vec<String>, String> {
    let messages = client.simple_query(sql).await;
    let messages = messages.map_err(|error| code(&error).to_owned())?;
    let shown = messages.into_iter().filter_map(|message| match message {
        SimpleQueryMessage::Row(row) => Some(format!(
            "{:?}",
            (0..row.len()).map(|at| row.get(at)).collect::<Vec<_>>()
        )),
        SimpleQueryMessage::CommandComplete(count) => Some(format!("counted {count}")),
        _ => None,
    });
    let mut shown: Vec<String> = shown.collect();
    shown.sort();
    Ok(shown)
}

/// The columns of the new table, and its rows.
async fn made(client: &Client) -> Vec<Result<Vec<String>, String>> {
    let columns = "SELECT attnum, attname, format_type(atttypid, atttypmod), attcollation::regcollation FROM pg_attribute \
        WHERE attrelid = to_regclass('made') AND attnum > 0 ORDER BY attnum";
    vec![
        asked(client, columns).await,
        asked(client, "SELECT * FROM made").await,
    ]
}

async fn both(cluster: &Cluster) -> (Client, Client) {
    let client = cluster.connect().await;
    run(&client, SCHEMA).await;
    run(&client, "SELECT create_reference_table('places')").await;
    (client, cluster.plain_database(SCHEMA).await)
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_are_made_of_queries_as_on_one_server() {
    let cluster = Cluster::start().await;
    let (client, plain) = both(&cluster).await;
    let (mut different, mut errors) = (String::new(), Vec::new());
    for begin in ["", "BEGIN"] {
        errors.clear();
        for sql in STATEMENTS {
            let mut all = Vec::new();
            for on in [&client, &plain] {
                run(on, begin).await;
                let done = asked(on, sql).await;
                let rows = match &done {
                    Ok(_) => made(on).await,
                    Err(_) => Vec::new(),
                };
                run(on, if begin.is_empty() { "" } else { "ROLLBACK" }).await;
                if !begin.is_empty() || done.is_err() {
                    // Nothing is left of it.
                    let left = asked(on, "SELECT * FROM made").await;
                    assert_eq!(left, Err("42P01".to_owned()), "{sql}");
                }
                run(on, "DROP TABLE IF EXISTS made").await;
                all.push((done, rows));
            }
            if all[1].0.is_err() {
                errors.push(*sql);
            }
            if all[0] != all[1] {
                different.push_str(&format!(
                    "{begin} {sql}\n  here: {:?}\n  there: {:?}\n",
                    all[0], all[1]
                ));
            }
        }
        assert_eq!(errors, STATEMENTS[STATEMENTS.len() - ERRORS..]);
    }
    assert!(different.is_empty(), "{different}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_column_is_the_shard_key_and_rows_are_where_it_says() {
    let cluster = Cluster::start().await;
    let (client, _) = both(&cluster).await;
    for (sql, by) in [
        ("CREATE TABLE made AS SELECT name, id FROM people", "Hash name"),
        ("SELECT person, place INTO made FROM visits", "Hash person"),
        ("CREATE TABLE made AS SELECT tags, id FROM people", "local"),
    ] {
        run(&client, sql).await;
        let all: i64 = client
            .query_one("SELECT count(*) FROM made", &[])
            .await
            .unwrap()
            .get(0);
        let mut counts = Vec::new();
        for server in 0..2 {
            let direct = cluster.direct(server).await;
            let row = direct.query_one("SELECT count(*) FROM made", &[]).await.unwrap();
            counts.push(row.get::<_, i64>(0));
        }
        assert_eq!(counts.iter().sum::<i64>(), all, "{sql}");
        assert_eq!(counts.contains(&0), by == "local", "{sql}: {counts:?}");
        // Each is found by its key.
        if by == "Hash name" {
            for id in 1..=40 {
                let name = format!("name {id}");
                let rows = client
                    .query("SELECT id FROM made WHERE name = $1", &[&name])
                    .await;
                assert_eq!(rows.unwrap()[0].get::<_, i32>(0), id);
            }
        }
        run(&client, "INSERT INTO made SELECT * FROM made; DROP TABLE made").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_made_table_is_seen_with_its_rows_or_not_at_all() {
    let cluster = Cluster::start().await;
    let (client, _) = both(&cluster).await;
    let other = cluster.connect().await;
    run(&client, "BEGIN; INSERT INTO people VALUES (100, 'new')").await;
    run(&client, "CREATE TABLE made AS SELECT id, name FROM people").await;
    run(&client, "INSERT INTO made VALUES (101, 'more')").await;
    let count = "SELECT count(*) FROM made";
    assert_eq!(asked(&other, count).await, Err("42P01".to_owned()));
    let seen = asked(&client, "SELECT id FROM made WHERE id > 99 ORDER BY id")
        .await
        .unwrap();
    assert_eq!(seen.len(), 3, "its own rows too: {seen:?}");
    run(&client, "COMMIT").await;
    assert_eq!(asked(&other, count).await.unwrap()[0], "[Some(\"43\")]");
    run(&client, "DROP TABLE made").await;

    // It ends as one where a group fails in the middle.
    let error = asked(
        &client,
        "CREATE TABLE made AS SELECT i FROM generate_series(1, 100000) i WHERE 1 / (i - 99999) < 2",
    )
    .await;
    assert_eq!(error, Err("22012".to_owned()));
    for server in 0..2 {
        let direct = cluster.direct(server).await;
        assert_eq!(asked(&direct, count).await, Err("42P01".to_owned()));
    }
    // In a Query of several statements.
    run(
        &client,
        "CREATE TABLE made AS SELECT id FROM people; INSERT INTO made VALUES (7777)",
    )
    .await;
    assert_eq!(asked(&other, count).await.unwrap()[0], "[Some(\"43\")]");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_table_is_made_in_a_read_only_transaction() {
    let cluster = Cluster::start().await;
    let (client, plain) = both(&cluster).await;
    for sql in [
        "SELECT id INTO made FROM people",
        "WITH p AS (SELECT 1 AS id) SELECT * INTO TABLE made FROM p",
        "SELECT 1 AS id INTO TEMP made",
        "CREATE TABLE made AS SELECT id FROM people",
        "CREATE TEMP TABLE made AS SELECT 1 AS id",
        "SELECT nothing INTO made FROM people",
    ] {
        for begin in ["BEGIN READ ONLY", "SET default_transaction_read_only = on"] {
            let mut said = Vec::new();
            for on in [&client, &plain] {
                run(on, begin).await;
                let by_query = on.simple_query(sql).await.expect_err(sql);
                if begin.starts_with("BEGIN") {
                    run(on, "ROLLBACK; BEGIN READ ONLY").await;
                }
                let by_execute = on.execute(sql, &[]).await.expect_err(sql);
                run(on, "ROLLBACK; RESET default_transaction_read_only").await;
                said.push([by_query, by_execute].map(|error| {
                    let error = error.as_db_error().expect("an error of the server");
                    format!("{} {}", error.code().code(), error.message())
                }));
            }
            assert_eq!(said[0], said[1], "{begin}: {sql}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_are_made_by_the_extended_protocol() {
    let cluster = Cluster::start().await;
    let (client, _) = both(&cluster).await;
    let done = client.execute(
        "CREATE TABLE made AS SELECT place, count(*) FROM visits GROUP BY place",
        &[],
    );
    assert_eq!(done.await.unwrap(), 3);
    assert_eq!(
        client
            .execute("SELECT id INTO also FROM people", &[])
            .await
            .unwrap(),
        41
    );
    let mut raw = Raw::start(&cluster).await;
    raw.parse("", "CREATE TABLE third AS SELECT id FROM people");
    raw.bind("", "");
    raw.describe('P', "");
    raw.execute("", 0);
    raw.parse("", "INSERT INTO third VALUES (1000)");
    raw.bind("", "");
    raw.execute("", 0);
    raw.sync();
    raw.send().await;
    let (tags, errors) = raw.until_ready().await;
    assert!(errors.is_empty(), "{tags} {errors:?}");
    assert_eq!(raw.completed, ["SELECT 41", "INSERT 0 1"]);
    assert_eq!(
        asked(&client, "SELECT count(*) FROM third").await.unwrap()[0],
        "[Some(\"42\")]"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_tables_cannot_be_made_of_is_refused() {
    let cluster = Cluster::start().await;
    let (client, _) = both(&cluster).await;
    run(&client, "CREATE SCHEMA s; CREATE SEQUENCE numbers; CREATE TEMP TABLE mine (id int); PREPARE p AS SELECT 1 AS id").await;
    for (sql, what) in [
        ("SELECT id INTO howdah.made FROM people", "Howdah"),
        ("CREATE TABLE howdah.made AS SELECT id FROM people", "Howdah"),
        (
            "CREATE TABLE pg_temp_99.made AS SELECT id FROM people",
            "temporary schema",
        ),
        ("SELECT id INTO pg_temp_99.made FROM people", "temporary schema"),
        ("CREATE TABLE made AS EXECUTE p", "EXECUTE"),
        ("CREATE TABLE made AS SELECT * FROM mine", "temporary table"),
        ("SELECT * INTO made FROM mine", "temporary table"),
        (
            "CREATE TABLE made AS SELECT nextval('numbers') AS id FROM people",
            "nextval",
        ),
        ("CREATE TABLE made AS SELECT id FROM people FOR UPDATE", "locks"),
        (
            "CREATE TABLE made ON COMMIT DROP AS SELECT id FROM people",
            "ON COMMIT",
        ),
        ("CREATE UNLOGGED TABLE made AS SELECT id FROM people", "unlogged"),
        ("SELECT id INTO UNLOGGED made FROM people", "unlogged"),
        (
            "CREATE TABLE made AS SELECT ctid, id FROM people ORDER BY id",
            "ctid",
        ),
        (
            "SET search_path = s, public; CREATE TABLE people AS SELECT * FROM people",
            "\"people\"",
        ),
        (
            "SET search_path = s, public; CREATE TABLE mood AS SELECT id, 'sad'::mood FROM people",
            "\"mood\"",
        ),
        (
            "BEGIN ISOLATION LEVEL REPEATABLE READ; CREATE TABLE made AS SELECT id FROM people",
            "READ COMMITTED",
        ),
    ] {
        let error = client.simple_query(sql).await.expect_err(sql);
        assert_eq!(code(&error), "0A000", "{sql}: {error:?}");
        let message = error.as_db_error().unwrap().message();
        assert!(message.contains(what), "{sql}: {message}");
        run(&client, "ROLLBACK; RESET search_path").await;
        assert_eq!(
            asked(&client, "SELECT * FROM made").await,
            Err("42P01".to_owned()),
            "{sql}"
        );
    }
    let error = client.execute("CREATE TABLE made AS SELECT id FROM people WHERE id = $1", &[&1]);
    assert_eq!(code(&error.await.unwrap_err()), "0A000");
    // With its schema before it the other is meant.
    run(
        &client,
        "SET search_path = s, public; CREATE TABLE people AS SELECT * FROM public.people",
    )
    .await;
    let rows = asked(&client, "SELECT id FROM s.people").await.unwrap();
    assert_eq!(rows.len(), 42);
}
