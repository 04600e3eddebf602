//! Queries that each group computes for its own rows, and such as look like them, compared with one PostgreSQL.

use tokio_postgres::Client;

use crate::harness::{Cluster, asked};

/// `hits` has no primary key, and NULLs in its shard key.
const SCHEMA: &str = "
CREATE TABLE accounts (id bigint PRIMARY KEY, city text, credit numeric);
CREATE TABLE entries (account bigint, n int, amount numeric, note text, PRIMARY KEY (account, n));
CREATE TABLE hits (account bigint, at int);
CREATE TABLE words (word text PRIMARY KEY, n int);
CREATE TABLE cities (city text PRIMARY KEY, land text);
CREATE VIEW rich AS SELECT id, credit AS much FROM accounts WHERE credit > 2;
CREATE VIEW totals AS SELECT account, sum(amount) AS total, count(*) AS n FROM entries GROUP BY account;
";

const ROWS: &str = "
INSERT INTO cities VALUES ('Rome', 'IT'), ('Oslo', 'NO'), ('Kyiv', 'UA'), ('Pisa', 'IT');
INSERT INTO accounts VALUES (1, 'Rome', 1), (2, 'Oslo', 2), (3, NULL, 3), (4, 'Kyiv', NULL), (5, 'Rome', 5), (6, 'Bern', 6), (7, 'Pisa', 7),
    (8, 'Oslo', 8), (9, 'Rome', 2), (10, 'Kyiv', 4), (11, NULL, NULL), (12, 'Rome', 12);
INSERT INTO entries VALUES (1, 1, 5, 'a'), (1, 2, 7, 'b'), (2, 1, 1, 'Rome'), (2, 2, NULL, 'a'), (3, 1, 3, NULL), (5, 1, 2, 'a'), (5, 2, 2, 'c'),
    (5, 3, 4, 'Oslo'), (6, 1, 10, 'b'), (8, 1, 0, 'a'), (8, 2, 11, 'c'), (13, 1, 6, 'b'), (14, 1, 1, 'c'), (10, 1, 4, 'a');
INSERT INTO hits VALUES (1, 1), (1, 2), (2, 1), (NULL, 5), (NULL, 6), (5, 1), (13, 2), (NULL, 5), (7, 3), (7, 3);
INSERT INTO words VALUES ('Rome', 1), ('Oslo', 2), ('a', 3), ('b', 4), ('c', 5);
";

/// Computed where the rows are. Those whose rows come in the order that is asked for begin with `=`.
const PUSHED: &[&str] = &[
    // Subqueries that are bound to the row around them.
    "SELECT id, (SELECT sum(amount) FROM entries WHERE account = id) FROM accounts",
    "SELECT id, (SELECT sum(a.credit + e.amount) FROM entries e WHERE e.account = a.id) FROM accounts a",
    "SELECT id FROM accounts a WHERE EXISTS (SELECT 1 FROM entries e WHERE e.account = a.id AND e.amount > 3)",
    "SELECT id FROM accounts WHERE NOT EXISTS (SELECT * FROM entries WHERE account = id)",
    "SELECT id FROM accounts WHERE id IN (SELECT account FROM entries WHERE amount > 3)",
    "=SELECT id FROM accounts WHERE id IN (SELECT account FROM entries GROUP BY account HAVING sum(amount) > 5) ORDER BY id DESC LIMIT 3",
    "SELECT account, n FROM entries e WHERE amount >= (SELECT max(amount) FROM entries i WHERE i.account = e.account)",
    "SELECT account, n FROM entries e WHERE 3 IN (SELECT amount FROM entries i WHERE i.account = e.account)",
    "SELECT a.id, e.n FROM accounts a LEFT JOIN entries e ON e.account = a.id AND EXISTS (SELECT FROM hits h WHERE h.account = a.id)",
    "SELECT id FROM accounts a WHERE (SELECT land FROM cities c WHERE c.city = a.city) = 'IT'",
    "SELECT id, (SELECT count(*) FROM hits h WHERE h.account = a.id AND h.at IN (SELECT n FROM entries e WHERE e.account = h.account)) FROM accounts a",
    "=SELECT id FROM accounts a ORDER BY (SELECT count(*) FROM entries e WHERE e.account = a.id) DESC, id",
    // Aggregates over what subqueries let through.
    "SELECT city, count(*), sum(credit) FROM accounts WHERE EXISTS (SELECT FROM entries WHERE account = id) GROUP BY city",
    "SELECT count(*), max(credit) FROM accounts WHERE id IN (SELECT account FROM hits)",
    "SELECT c.land, count(*) FROM accounts a JOIN cities c ON c.city = a.city WHERE 1 < (SELECT count(*) FROM entries e WHERE e.account = a.id) GROUP BY 1",
    // Windows by the shard key.
    "SELECT account, n, sum(amount) OVER (PARTITION BY account ORDER BY n) FROM entries",
    "SELECT account, at, rank() OVER (PARTITION BY account ORDER BY at), count(*) OVER (PARTITION BY at, account) FROM hits",
    "SELECT account, lag(note) OVER w, row_number() OVER (v ORDER BY n) FROM entries WINDOW v AS (PARTITION BY account), w AS (v ORDER BY n DESC)",
    "=SELECT a.id, e.n, count(*) OVER (PARTITION BY a.id) AS c FROM accounts a JOIN entries e ON e.account = a.id ORDER BY c DESC, 1, 2 LIMIT 4",
    "SELECT account, count(*), max(count(*)) OVER (PARTITION BY account) FROM entries GROUP BY account",
    "SELECT account, max(r) FROM (SELECT account, row_number() OVER (PARTITION BY account ORDER BY n) AS r FROM entries) s GROUP BY account",
    // GROUP BY a number or a name.
    "SELECT account, count(*) FROM hits GROUP BY 1",
    "SELECT at, account AS who, count(*) FROM hits GROUP BY who, at",
    "=SELECT account AS who, count(*) FROM hits GROUP BY who ORDER BY who NULLS FIRST LIMIT 2",
    "SELECT DISTINCT ON (1) account, amount FROM entries ORDER BY 1, amount DESC NULLS LAST",
    // Subqueries in FROM, and views.
    "SELECT d.account, a.city, d.total FROM (SELECT account, sum(amount) AS total FROM entries GROUP BY account) d JOIN accounts a ON a.id = d.account",
    "SELECT who, max(c) FROM (SELECT account AS who, at, count(*) AS c FROM hits GROUP BY account, at) d GROUP BY who",
    "SELECT * FROM (SELECT DISTINCT account FROM hits) d",
    "SELECT x, count(*) FROM (SELECT * FROM hits) d (x) GROUP BY x",
    "SELECT id, total FROM rich JOIN totals ON account = id",
    "SELECT id FROM rich WHERE id IN (SELECT account FROM totals WHERE total > 3)",
    // WITH, of which each query is used once.
    "WITH d AS (SELECT account, sum(amount) AS s FROM entries GROUP BY account) SELECT id, s FROM accounts JOIN d ON account = id",
    "WITH d AS (SELECT * FROM rich) SELECT d.id, city FROM d JOIN accounts a ON a.id = d.id",
    "WITH d AS (SELECT 1 AS id) SELECT id FROM accounts WHERE EXISTS (SELECT FROM d WHERE d.id = accounts.id)",
    // Set operations.
    "SELECT account, note FROM entries UNION ALL SELECT id, city FROM accounts",
    "SELECT id FROM accounts UNION ALL SELECT n FROM (SELECT n FROM words) w",
    "SELECT account FROM hits UNION SELECT id FROM accounts",
    "SELECT account, 1 FROM hits INTERSECT SELECT account, n FROM entries",
    "SELECT account FROM hits INTERSECT ALL SELECT id FROM accounts",
    "SELECT account FROM hits EXCEPT ALL SELECT id FROM accounts",
    "SELECT account FROM hits EXCEPT SELECT account FROM entries",
    "(SELECT account FROM hits UNION SELECT account FROM entries) EXCEPT SELECT id FROM accounts",
    "SELECT k, count(*) FROM (SELECT account AS k FROM hits UNION ALL SELECT id FROM accounts) u GROUP BY k",
];

/// Gathered, or put together: what each group gives is not all of it.
const NOT_WHOLE: &[&str] = &[
    "SELECT id, rank() OVER (PARTITION BY city ORDER BY id) FROM accounts",
    "SELECT id, count(*) OVER (PARTITION BY id), count(*) OVER () FROM accounts",
    "SELECT id, count(*) OVER w FROM accounts WINDOW v AS (PARTITION BY city), w AS (v ORDER BY id)",
    // An aggregate of the query around.
    "SELECT (SELECT sum(a.credit)) FROM accounts a",
    "SELECT (SELECT sum(credit) FROM cities c WHERE c.city = 'Rome') FROM accounts",
    "SELECT (SELECT count(*) FILTER (WHERE a.credit > 2)) FROM accounts a",
    "SELECT max((SELECT count(*) FROM entries WHERE account = id)) FROM accounts",
    // A result that is called as the key.
    "=SELECT DISTINCT ON (id) city AS id, credit FROM accounts ORDER BY id, credit NULLS LAST",
    "SELECT n AS account, count(*) FROM (SELECT n, amount FROM entries) e GROUP BY account",
    // NULLs of outer joins, which every group has.
    "SELECT d.account, count(*) FROM accounts a LEFT JOIN (SELECT account FROM entries) d ON d.account = a.id GROUP BY d.account",
    "SELECT DISTINCT h.account FROM accounts a LEFT JOIN hits h ON h.account = a.id",
    "SELECT h.account, a.id FROM hits h RIGHT JOIN accounts a ON a.id = h.account AND h.at > 1 UNION SELECT account, NULL FROM entries",
    // Subqueries that are not bound.
    "SELECT id FROM accounts WHERE id NOT IN (SELECT account FROM hits)",
    "SELECT id FROM accounts WHERE id NOT IN (SELECT account FROM hits WHERE account IS NOT NULL)",
    "SELECT id FROM accounts a WHERE id IN (SELECT account FROM entries ORDER BY amount DESC NULLS LAST LIMIT 2)",
    "SELECT id FROM accounts a WHERE EXISTS (SELECT 1 FROM entries e WHERE e.account = a.id OR e.note = a.city)",
    "SELECT id FROM accounts a WHERE id IN (SELECT n FROM entries)",
    "SELECT id, (SELECT count(*) FROM entries e WHERE e.n = a.id) FROM accounts a",
    "SELECT id FROM accounts a WHERE id IN (SELECT account FROM hits) OR credit > 5",
    "SELECT n, (SELECT count(*) FROM accounts WHERE id = n) FROM entries",
    "SELECT account FROM entries WHERE note IN (SELECT word FROM words)",
    "SELECT DISTINCT note FROM entries e WHERE EXISTS (SELECT FROM accounts WHERE id = e.account)",
    "SELECT a.id, d.at FROM accounts a LEFT JOIN (SELECT account, at FROM hits WHERE at > 1) d ON d.account = a.id",
    "=SELECT id, much, n FROM rich LEFT JOIN totals t ON t.account = rich.id ORDER BY much DESC, id",
    "=WITH d (x, y) AS MATERIALIZED (SELECT account, count(*) FROM entries GROUP BY account), e AS (SELECT x AS z FROM d k WHERE y > 1) \
     SELECT id, city FROM accounts a JOIN e ON e.z = a.id ORDER BY id",
    "SELECT id, ARRAY(SELECT n FROM entries WHERE account = id ORDER BY n) FROM accounts",
    "=SELECT account FROM (SELECT account, sum(amount) AS total FROM entries GROUP BY account) d WHERE total > 5 ORDER BY total DESC, 1 LIMIT 3",
    // What is cut or compared as a whole.
    "=SELECT x FROM (SELECT account AS x, amount FROM entries ORDER BY amount DESC NULLS LAST, account LIMIT 3) d ORDER BY x",
    "SELECT account FROM (SELECT account, row_number() OVER (ORDER BY account, n) AS r FROM entries) d WHERE r < 3",
    "SELECT count(*) FROM (SELECT DISTINCT note FROM entries) d",
    "SELECT account, max(total) FROM (SELECT n AS account, sum(amount) AS total FROM entries GROUP BY n) d GROUP BY account",
    "SELECT note FROM entries UNION SELECT city FROM accounts",
    "SELECT account, note FROM entries UNION SELECT n, note FROM entries",
    "SELECT n, account FROM entries EXCEPT SELECT account, at FROM hits",
    "SELECT city FROM cities UNION ALL SELECT city FROM accounts",
    "=SELECT account FROM hits UNION SELECT id FROM accounts ORDER BY 1",
    "SELECT word FROM words EXCEPT SELECT note FROM entries",
    "WITH d AS (SELECT account FROM entries) SELECT a.account FROM d a JOIN d b ON a.account = b.account",
    "WITH d AS (SELECT account FROM entries ORDER BY 1 LIMIT 3) SELECT account FROM d",
    "WITH accounts AS (SELECT id FROM accounts) SELECT id, (SELECT count(*) FROM entries WHERE account = id) FROM accounts",
    "WITH RECURSIVE d AS (SELECT id FROM accounts WHERE id = 1 UNION ALL SELECT id + 1 FROM d WHERE id < 4) SELECT id FROM d",
    // Values that are looked for again for each row: they are found by hashes.
    "SELECT word, (SELECT sum(amount) FROM entries WHERE note = word) FROM words",
    "SELECT word, (SELECT count(*) FROM accounts a, cities c WHERE a.city = word AND c.city = a.city AND c.land <> 'NO') FROM words",
    "SELECT id FROM accounts a WHERE credit > (SELECT avg(amount) FROM entries e, cities WHERE e.n = a.id AND cities.city = 'Rome')",
    "SELECT id FROM accounts a WHERE credit IN (SELECT amount FROM entries e WHERE a.city = e.note OR e.n = 1)",
    "SELECT id FROM accounts a WHERE credit IN (SELECT amount FROM entries e WHERE (e.n = a.id) AND (a.credit = e.amount AND e.note <> 'x'))",
    "SELECT h.at, (SELECT string_agg(e.note, ',' ORDER BY e.account) FROM entries AS e WHERE e.n = h.at) FROM hits h",
    "SELECT at FROM hits GROUP BY at HAVING at < (SELECT max(amount) FROM entries WHERE n = at)",
    "SELECT n, (SELECT count(*) FROM (SELECT 1) x, words w WHERE w.n = e.n), (SELECT max(word) FROM words w WHERE w.n = e.n AND w.n < 5) FROM entries e",
];

/// What EXPLAIN (HOWDAH) says, but for which groups.
async fn explained(client: &Client, sql: &str) -> String {
    let lines = asked(client, &format!("EXPLAIN (HOWDAH) {sql}")).await;
    let lines = lines.map(|lines| lines.concat().into_iter().flatten().skip(1).collect());
    lines.unwrap_or_else(|code: String| vec![code]).join("\n")
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_computed_where_the_rows_are_is_as_on_one_server() {
    let cluster = Cluster::start().await;
    let client = cluster.connect().await;
    let plain = cluster.plain_database(SCHEMA).await;
    client.batch_execute(SCHEMA).await.unwrap();
    let reference = "SELECT create_reference_table('cities')";
    client.batch_execute(reference).await.unwrap();
    for on in [&client, &plain] {
        on.batch_execute(ROWS).await.unwrap();
    }
    let mut different = Vec::new();
    for begin in ["", "BEGIN", "BEGIN ISOLATION LEVEL REPEATABLE READ"] {
        for (queries, pushed) in [(PUSHED, true), (NOT_WHOLE, false)] {
            for query in queries {
                let sql = query.trim_start_matches('=');
                client.batch_execute(begin).await.unwrap();
                let (mut here, mut there) = (asked(&client, sql).await, asked(&plain, sql).await);
                client.batch_execute("ROLLBACK").await.unwrap();
                if !query.starts_with('=') {
                    for rows in [&mut here, &mut there].into_iter().flatten() {
                        rows.sort();
                    }
                }
                if here != there || here.is_err() {
                    different.push(format!("{sql}\n  here: {here:?}\n  there: {there:?}\n"));
                }
                if !begin.is_empty() {
                    continue;
                }
                let explained = explained(&client, sql).await;
                let whole = explained.starts_with("Each group: the statement, on its own rows");
                let merged = explained.contains("The node: ");
                let is_pushed = whole || explained.starts_with("Each group: aggregates");
                if pushed != is_pushed && (pushed || whole && !merged) {
                    different.push(format!("{sql}\n  is computed so: {explained}\n"));
                }
            }
        }
    }
    assert!(different.is_empty(), "{}", different.concat());
}
