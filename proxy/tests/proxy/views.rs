//! Views, compared with one PostgreSQL.

use tokio_postgres::Client;

use crate::harness::{Cluster, asked, code, hint};

const SCHEMA: &str = r#"
CREATE SCHEMA sales;
CREATE TABLE customers (id int PRIMARY KEY, name text, city varchar(20), credit numeric(10,2));
CREATE TABLE sales.orders (customer int, id int, amount numeric, PRIMARY KEY (customer, id));
CREATE VIEW rich AS SELECT id, name, credit FROM customers WHERE credit > 5;
CREATE VIEW sales.totals (who, total, n) AS SELECT customer, sum(amount), count(*) FROM sales.orders GROUP BY customer;
CREATE VIEW "Both" AS SELECT c.id, c.name AS "Name", o.amount FROM customers c LEFT JOIN sales.orders o ON o.customer = c.id;
CREATE VIEW over AS SELECT r.name, t.total FROM rich r JOIN sales.totals t ON t.who = r.id;
CREATE VIEW latest AS SELECT DISTINCT ON (city) city, name FROM customers ORDER BY city, id DESC;
CREATE VIEW ranked AS SELECT id, rank() OVER (ORDER BY credit DESC NULLS LAST) AS place FROM customers;
CREATE VIEW united AS SELECT name AS a FROM customers UNION ALL SELECT city FROM customers;
CREATE VIEW odd AS SELECT CASE WHEN city ~ '^R' THEN 'R' ELSE left(city, 1) END AS letter, coalesce(credit, 0)::int AS c,
    id = ANY (ARRAY[1, 2]) AS first, extract(year FROM date '2026-01-01' + id) AS y, 'it''s' AS t FROM customers;
CREATE VIEW grouped AS SELECT c.id, c.name, count(o.id) AS n FROM customers c LEFT JOIN sales.orders o ON o.customer = c.id GROUP BY c.id;
CREATE VIEW constants AS VALUES (1, 'one'), (2, 'two');
INSERT INTO customers VALUES (1, 'Ann', 'Rome', 10.50), (2, 'bob', 'Oslo', NULL), (3, 'Cid', 'Rome', 0), (4, 'Ada', NULL, 99),
    (5, 'Eve', 'Oslo', 7.25), (6, 'fay', 'Kyiv', -1.5);
INSERT INTO sales.orders VALUES (1, 1, 10), (1, 2, 20.5), (2, 1, 5), (2, 2, NULL), (4, 1, 100), (5, 1, 7), (5, 2, 1);
"#;

/// Those whose rows come in the order that is asked for begin with `=`.
const QUERIES: &[&str] = &[
    "SELECT * FROM rich",
    "SELECT * FROM rich WHERE id = 4",
    "SELECT count(*) FROM rich",
    "SELECT count(*) FROM rich WHERE id = 4",
    "SELECT count(*) FROM sales.totals",
    "SELECT name FROM rich r WHERE r.id IN (1, 4, 6)",
    "=SELECT name FROM rich ORDER BY name LIMIT 2",
    "SELECT r FROM rich r",
    "SELECT r.* FROM rich AS r (a, b, c) WHERE a = 5",
    "SELECT * FROM sales.totals",
    "SELECT total, n FROM sales.totals WHERE who = 1",
    "SELECT totals.total FROM sales.totals WHERE totals.n > 1",
    "SELECT sales.totals.total FROM sales.totals WHERE who = 1",
    "=SELECT * FROM \"Both\" ORDER BY id, amount",
    "SELECT \"Name\", amount FROM \"Both\" WHERE id = 2",
    "SELECT \"Name\" FROM \"Both\" WHERE amount IS NULL",
    "SELECT id FROM \"Both\" WHERE id IS NULL",
    "SELECT * FROM over",
    "SELECT max(total) FROM over",
    "SELECT * FROM latest",
    "SELECT * FROM ranked WHERE id = 3",
    "SELECT * FROM united",
    "SELECT * FROM odd",
    "SELECT letter, sum(c) FROM odd WHERE first OR y > 2000 GROUP BY letter",
    "SELECT * FROM grouped",
    "SELECT * FROM grouped WHERE id = 5",
    "SELECT * FROM constants",
    "SELECT c.name, k.column2 FROM customers c JOIN constants k ON k.column1 = c.id",
    "SELECT c.name FROM customers c WHERE EXISTS (SELECT FROM sales.totals t WHERE t.who = c.id AND t.total > 10)",
    "SELECT c.name, (SELECT total FROM sales.totals WHERE who = c.id) FROM customers c",
    "WITH rich AS (SELECT 1 AS one) SELECT * FROM rich",
    "WITH x AS (SELECT * FROM rich) SELECT count(*) FROM x, x y",
    "SELECT a.name, b.name FROM rich a JOIN rich b ON a.id = b.id",
    "SELECT a.name, b.total FROM rich a LEFT JOIN sales.totals b ON a.id = b.who WHERE a.id = 4",
    "SELECT name FROM rich UNION SELECT a FROM united",
    // Subqueries as views are.
    "SELECT * FROM (SELECT * FROM customers) s WHERE s.id = 1",
    "SELECT * FROM (SELECT id FROM customers LIMIT 3) s WHERE id = 99",
    "SELECT count(*) FROM (SELECT count(*) FROM customers) s",
    "SELECT count(*) FROM (SELECT id, name FROM customers WHERE credit > 0) s WHERE name > 'B'",
    "SELECT * FROM (SELECT c.id, o.amount FROM sales.orders o LEFT JOIN customers c ON c.id = o.customer AND c.city = 'Rome') s WHERE id IS NULL",
    "SELECT * FROM (SELECT c.id, o.amount FROM sales.orders o LEFT JOIN customers c ON c.id = o.customer AND c.city = 'Rome') s WHERE id = 1",
    "SELECT * FROM (SELECT city AS id, max(id) FROM customers GROUP BY city) s WHERE id = 'Rome'",
    "SELECT * FROM (SELECT id, row_number() OVER () AS n FROM (SELECT * FROM customers ORDER BY id) c) s WHERE id = 4",
    "SELECT * FROM (SELECT DISTINCT id, city FROM customers) s WHERE id = 4",
    "SELECT * FROM (SELECT id FROM customers GROUP BY ROLLUP (id)) s WHERE id IS NULL",
    // Errors.
    "SELECT nothing FROM rich",
    "SELECT * FROM rich WHERE name = 1",
];

async fn asked_in_order(client: &Client, sql: &str) -> Result<Vec<Vec<Option<String>>>, String> {
    let mut rows = asked(client, sql).await?;
    if !sql.starts_with('=') {
        rows.sort();
    }
    Ok(rows)
}

#[tokio::test(flavor = "multi_thread")]
async fn views_are_read_as_on_one_server() {
    let cluster = Cluster::start().await;
    let client = cluster.connect().await;
    client.batch_execute(SCHEMA).await.expect("tables and views");
    let plain = cluster.plain_database(SCHEMA).await;
    let mut different = String::new();
    for begin in ["", "BEGIN", "BEGIN ISOLATION LEVEL REPEATABLE READ"] {
        for query in QUERIES {
            let sql = query.trim_start_matches('=');
            client.batch_execute(begin).await.expect("begins");
            let (here, there) = (
                asked_in_order(&client, sql).await,
                asked_in_order(&plain, sql).await,
            );
            client.batch_execute("ROLLBACK").await.expect("ends");
            if here != there {
                different.push_str(&format!("{sql}\n  here: {here:?}\n  there: {there:?}\n"));
            }
        }
    }
    assert!(different.is_empty(), "{different}");
    // With parameters, and what changes when a name in them does.
    let sql = "SELECT name FROM over WHERE total > $1::int";
    let rows = client.query(sql, &[&50i32]).await.unwrap();
    assert_eq!(rows.iter().map(|row| row.get(0)).collect::<Vec<&str>>(), ["Ada"]);
    client
        .batch_execute(
            "ALTER TABLE customers RENAME city TO town; ALTER TABLE customers RENAME TO clients; \
             ALTER VIEW rich RENAME TO wealthy; CREATE OR REPLACE VIEW wealthy AS SELECT id, name, credit FROM clients WHERE credit > 8",
        )
        .await
        .expect("names change");
    let row = client.query_one("SELECT count(*) FROM over", &[]).await.unwrap();
    assert_eq!(row.get::<_, i64>(0), 2);
    let letters = asked_in_order(&client, "SELECT count(*) FROM odd WHERE letter = 'R'")
        .await
        .unwrap();
    assert_eq!(letters, [[Some("2".to_owned())]]);
    for sql in [
        "INSERT INTO wealthy VALUES (9, 'x', 9)",
        "UPDATE wealthy SET name = ''",
    ] {
        let error = client.batch_execute(sql).await.expect_err(sql);
        assert_eq!(
            (code(&error), hint(&error)),
            ("0A000", "Write to the view's table."),
            "{sql}"
        );
    }
    client.batch_execute("DROP VIEW over, wealthy").await.unwrap();
    let error = client.batch_execute("SELECT * FROM wealthy").await.unwrap_err();
    assert_eq!(code(&error), "42P01");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_view_gives_rows_that_its_reader_may_not_see_where_one_group_has_them() {
    let cluster = Cluster::start().await;
    let client = cluster.connect().await;
    client.batch_execute(SCHEMA).await.expect("tables and views");
    client
        .batch_execute("CREATE ROLE reader LOGIN; GRANT SELECT ON rich, ranked TO reader")
        .await
        .unwrap();
    let reader = cluster.connect_as("user=reader").await;
    for sql in ["SELECT name FROM rich WHERE id = 1", "SELECT name FROM rich"] {
        assert!(!reader.query(sql, &[]).await.unwrap().is_empty(), "{sql}");
    }
    // What has to be gathered is read by the reader's own rights.
    for sql in ["SELECT * FROM ranked", "SELECT * FROM customers WHERE id = 1"] {
        let error = reader.query(sql, &[]).await.unwrap_err();
        assert_eq!(code(&error), "42501", "{sql}");
    }
}
