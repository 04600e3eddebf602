//! Queries that no group can answer alone, compared with one PostgreSQL.

use proxy::Limits;
use tokio_postgres::Client;

use crate::harness::raw::Raw;
use crate::harness::{Cluster, asked, code, hint, open_door};

const SCHEMA: &str = r#"
CREATE TYPE mood AS ENUM ('sad', 'ok', 'glad');
CREATE DOMAIN positive AS int NOT NULL CHECK (VALUE > 0);
CREATE TABLE customers (id int PRIMARY KEY, name text COLLATE "C", gone int, city varchar(20), vip bool,
    credit numeric(10,2), tags text[], mood mood, moods mood[], since date, rank positive);
ALTER TABLE customers DROP COLUMN gone;
CREATE TABLE orders (id bigint PRIMARY KEY, customer int, amount numeric, placed timestamptz, note text, weight float8, details jsonb);
CREATE TABLE items (order_id bigint, line int, product text, quantity int, PRIMARY KEY (order_id, line));
CREATE TABLE "Odd ""names""" ("select" int PRIMARY KEY, "Big" text, "with space" int);
INSERT INTO customers VALUES
    (1, 'Ann', 'Rome', true, 10.50, '{a,b}', 'glad', '{ok,sad}', '2020-01-01', 1),
    (2, 'bob', 'Oslo', false, NULL, '{}', 'sad', NULL, '2021-05-05', 2),
    (3, 'Cid', 'Rome', NULL, 0, NULL, NULL, '{}', NULL, 3),
    (4, 'Äda', NULL, true, 99999999.99, '{"x y",NULL}', 'ok', '{glad}', '1999-12-31', 4),
    (5, 'Eve', 'Oslo', false, 7.25, '{c}', 'ok', '{sad,NULL}', '2020-01-01', 5),
    (6, 'fay', 'Kyiv', true, -1.5, '{a}', 'glad', NULL, '2022-02-02', 6);
INSERT INTO orders VALUES
    (1, 1, 10, '2024-01-01 10:00+00', 'first', 1.5, '{"a": 1}'), (2, 1, 20.5, '2024-01-02 10:00+00', NULL, 2.5, NULL),
    (3, 2, 5, '2024-01-01 12:00+00', 'Third', NULL, '[]'), (4, 2, NULL, NULL, 'fourth', 0.1, '{"b": [1]}'),
    (5, 4, 100, '2023-06-06 00:00+00', 'x''y\z', 0.2, 'null'), (6, 9, 1, '2024-03-01 10:00+00', 'no customer', 3, NULL),
    (7, NULL, 3, '2024-03-02 10:00+00', '', 4, NULL), (8, 5, 10, '2024-01-01 10:00+00', 'first', 5, NULL);
INSERT INTO items VALUES (1, 1, 'pen', 2), (1, 2, 'ink', 1), (2, 1, 'pen', 5), (3, 1, 'cup', NULL), (5, 1, 'ink', 3),
    (5, 2, 'pen', 1), (5, 3, 'cup', 8), (6, 1, 'pen', 1), (8, 1, 'jar', 4);
INSERT INTO "Odd ""names""" VALUES (1, 'a', 5), (2, 'b', 6), (3, 'A', NULL);
"#;

/// Those whose rows come in the order that is asked for begin with `=`.
const QUERIES: &[&str] = &[
    // Joins.
    "SELECT c.name, o.id, o.amount FROM customers c JOIN orders o ON o.customer = c.id",
    "SELECT c.name, o.id FROM customers c LEFT JOIN orders o ON o.customer = c.id",
    "SELECT c.name, o.id FROM customers c RIGHT JOIN orders o ON o.customer = c.id AND c.vip",
    "SELECT c.name, o.id FROM customers c FULL JOIN orders o ON o.customer = c.id WHERE o.id IS NULL OR c.id IS NULL",
    "SELECT c.name, o.id FROM customers c LEFT JOIN orders o ON o.customer = c.id WHERE o.note IS NULL",
    "SELECT c.name, o.id FROM customers c LEFT JOIN orders o ON o.customer = c.id WHERE c.city = 'Rome'",
    "SELECT name, product, quantity FROM customers, orders, items WHERE customers.id = customer AND orders.id = order_id AND quantity > 1",
    "SELECT a.name, b.name FROM customers a, customers b WHERE a.city = b.city AND a.id < b.id",
    "SELECT * FROM orders o JOIN items i ON i.order_id = o.id",
    "SELECT * FROM orders NATURAL JOIN (SELECT id, name FROM customers) c",
    "SELECT id, name, amount FROM customers JOIN orders USING (id)",
    "SELECT public.customers.name, public.orders.note FROM public.customers, orders WHERE public.customers.id = orders.customer",
    "SELECT c.name, l.n FROM customers c, LATERAL (SELECT count(*) AS n FROM orders o WHERE o.customer = c.id) l",
    // Ordered.
    "=SELECT id, name FROM customers ORDER BY name",
    "=SELECT id, city FROM customers ORDER BY city DESC NULLS LAST, id",
    "=SELECT id, mood FROM customers ORDER BY mood, id",
    "=SELECT name FROM customers ORDER BY id LIMIT 2 OFFSET 1",
    "=SELECT name FROM customers ORDER BY id FETCH FIRST 3 ROWS ONLY",
    "=SELECT id, details FROM orders WHERE details IS NOT NULL ORDER BY id",
    "=SELECT placed, id FROM orders ORDER BY placed, id",
    "=SELECT DISTINCT ON (city) city, name FROM customers ORDER BY city, name",
    // Aggregates.
    "SELECT sum(amount), avg(amount), min(amount), max(amount), count(amount), count(*) FROM orders",
    "SELECT city, count(*) FROM customers GROUP BY city",
    "SELECT city, sum(credit) AS s FROM customers GROUP BY city HAVING count(*) > 1",
    "=SELECT c.city, count(DISTINCT o.id), sum(o.amount) FROM customers c JOIN orders o ON o.customer = c.id GROUP BY c.city ORDER BY 1",
    "SELECT c.id, c.name, c.tags, count(o.id) FROM customers c LEFT JOIN orders o ON o.customer = c.id GROUP BY c.id",
    "SELECT c.id, name, city, count(o.id) FROM customers c LEFT JOIN orders o ON o.customer = c.id GROUP BY 1 ORDER BY name",
    "SELECT o.id, i.product, count(*) FROM orders o JOIN items i ON i.order_id = o.id GROUP BY o.id, i.order_id, i.line",
    "SELECT string_agg(name, ',' ORDER BY name) FROM customers",
    "SELECT array_agg(id ORDER BY id), json_agg(city ORDER BY id) FROM customers",
    "SELECT stddev(amount), variance(weight) FROM orders",
    "SELECT percentile_cont(0.5) WITHIN GROUP (ORDER BY amount) FROM orders",
    "SELECT count(*) FILTER (WHERE vip), bool_and(vip), bool_or(vip) FROM customers",
    "SELECT city, vip, count(*) FROM customers GROUP BY ROLLUP (city, vip)",
    "SELECT city, vip, count(*), grouping(city, vip) FROM customers GROUP BY GROUPING SETS ((city), (vip), ())",
    "SELECT date_trunc('month', placed) AS m, sum(amount) FROM orders GROUP BY date_trunc('month', placed)",
    "SELECT max(name), min(city), max(mood), max(since) FROM customers",
    "SELECT DISTINCT city, vip FROM customers",
    "SELECT count(DISTINCT city) FROM customers",
    // Aggregates that groups compute.
    "SELECT count(*) AS n, count(amount), sum(amount) s, avg(amount), min(id), max(placed) FROM orders",
    "SELECT count(*), sum(o.id), avg(o.id), avg(weight), min(weight), max(since), bool_and(vip) FROM orders o, customers WHERE false",
    "SELECT sum(id) / count(*) + 1, avg(customer), sum(weight), every(weight > 0), bit_or(customer) FROM orders WHERE amount > 4",
    "SELECT avg(line), sum(quantity), avg(quantity::int8), avg(quantity::numeric(10, 3)), sum(quantity * 1.5) FROM items",
    "SELECT avg(id), count(id) FROM customers WHERE id > 1000",
    "=SELECT city, count(*), sum(credit) AS credit, max(since) FROM customers GROUP BY city ORDER BY city NULLS FIRST",
    "=SELECT city AS town, vip, avg(credit), count(*) FILTER (WHERE mood = 'ok') FROM customers c GROUP BY town, 2 ORDER BY 1, 2",
    "=SELECT mood, count(*) FROM customers GROUP BY mood HAVING count(*) > 1 AND min(id) < 5 ORDER BY count(*) DESC, mood LIMIT 2",
    "=SELECT city, count FROM (SELECT city, count(*) FROM customers GROUP BY city) s ORDER BY city",
    "=SELECT city, count(*) FROM customers GROUP BY city ORDER BY count, city",
    "=SELECT date_trunc('month', placed) AS m, sum(amount) FROM orders GROUP BY m ORDER BY m",
    "=SELECT date_trunc('month', placed), count(*) FROM orders GROUP BY 1 ORDER BY date_trunc('month', placed) DESC",
    "=SELECT id % 3, count(*), max(id % 3) FROM orders GROUP BY id % 3 ORDER BY id % 3",
    "=SELECT (id % 3) + 1, count(*) FROM orders GROUP BY (id % 3) ORDER BY 1",
    "=SELECT id % 3 + 1, count(*) FROM orders GROUP BY id % 3 ORDER BY 1",
    "=SELECT extract(year FROM placed) AS y, extract(year FROM placed) * 2, count(*) FROM orders GROUP BY extract(year FROM placed) ORDER BY y",
    "=SELECT upper(city), count(*) FROM customers GROUP BY upper(city) ORDER BY 1",
    "=SELECT CASE WHEN amount > 9 THEN 'big' ELSE 'small' END, count(*) FROM orders GROUP BY 1 ORDER BY 1",
    "=SELECT id, name, credit + 1, count(*) FROM customers GROUP BY id ORDER BY id",
    "=SELECT customers.city, public.customers.vip, count(public.customers.id) FROM public.customers WHERE public.customers.id > 1 GROUP BY customers.city, \
     public.customers.vip ORDER BY 1, 2",
    "SELECT city FROM customers GROUP BY city",
    "SELECT 1 FROM customers HAVING count(*) > 5",
    "SELECT c.city, count(c) FROM customers c GROUP BY c.city",
    "SELECT sum(credit), sum(rank), min(name) FROM customers",
    "SELECT array_agg(DISTINCT city ORDER BY city), count(*) FROM customers",
    "SELECT round(avg(credit), 2) AS r, coalesce(sum(credit), 0) FROM customers WHERE city = 'Nowhere'",
    "SELECT min(note), max(note), min(note || id), count(*) FROM orders",
    "SELECT upper(note), count(*), min(lower(note)) FROM orders GROUP BY upper(note)",
    "SELECT min(note COLLATE \"C\"), max(note COLLATE \"C\") FROM orders",
    "SELECT abs(id % 3), (id % 3), count(*) FROM orders GROUP BY (id % 3) HAVING (id % 3) < 2 OR (id % 3) IN (id % 3)",
    "SELECT (id % 3), count(*), CASE WHEN (id % 3) = 0 THEN 'none' END FROM orders GROUP BY (id % 3) ORDER BY (id % 3)",
    "SELECT amount::numeric(12, 3), count(*) FROM orders GROUP BY 1",
    "SELECT product, order_id, count(*), sum(quantity), grouping(product, order_id) FROM items GROUP BY ROLLUP (product, order_id)",
    "SELECT product, line, count(*), avg(quantity) FROM items WHERE quantity > 100 GROUP BY GROUPING SETS ((product, line), ())",
    "SELECT count(DISTINCT product), sum(DISTINCT quantity), count(*), sum(quantity), min(line) FROM items",
    "SELECT line, count(DISTINCT product) FILTER (WHERE quantity > 1), avg(DISTINCT quantity + 1), count(*) AS n FROM items GROUP BY line",
    "SELECT string_agg(DISTINCT product, ',' ORDER BY product), array_agg(DISTINCT upper(product) ORDER BY upper(product) DESC) FROM items",
    "SELECT count(DISTINCT c.name), count(DISTINCT c), count(DISTINCT (city, vip)) FROM customers c",
    "SELECT line, count(DISTINCT 1), json_agg(DISTINCT quantity::text) FILTER (WHERE quantity < 5) FROM items GROUP BY 1",
    // What several DISTINCT aggregates look at.
    "SELECT product, count(*), count(DISTINCT line), sum(quantity), sum(DISTINCT quantity), string_agg(DISTINCT product, ','), avg(quantity), stddev(line) FROM items \
     GROUP BY product",
    "SELECT count(DISTINCT line) FILTER (WHERE quantity > 1), count(DISTINCT line), max(DISTINCT quantity), count(quantity) FILTER (WHERE line = 1) FROM items",
    "SELECT count(DISTINCT lower(product)), count(DISTINCT product), count(DISTINCT line + 1), avg(DISTINCT line), bool_or(DISTINCT line > 1), min(quantity) FROM items",
    "SELECT string_agg(DISTINCT product, '-' ORDER BY product DESC), string_agg(DISTINCT note, $$'$$ ORDER BY note), count(*) FROM items, orders WHERE order_id = id",
    "SELECT string_agg(DISTINCT product, quantity::text), count(DISTINCT product), count(DISTINCT quantity) FROM items",
    "SELECT array_agg(DISTINCT product), array_agg(DISTINCT line), count(*) FROM items",
    "SELECT line, product, count(DISTINCT quantity), count(DISTINCT order_id), count(DISTINCT product) FROM items GROUP BY ROLLUP (line, product)",
    "SELECT line % 2 AS odd, count(DISTINCT line), count(DISTINCT quantity), sum(DISTINCT quantity) FILTER (WHERE product > 'b'), count(*) FROM items GROUP BY odd HAVING count(DISTINCT line) > 0",
    "SELECT order_id, line, count(DISTINCT product), count(DISTINCT quantity), product FROM items GROUP BY order_id, line",
    "SELECT count(DISTINCT product), count(DISTINCT line), count(DISTINCT 1), count(*), sum(quantity) FROM items WHERE quantity > 100",
    "SELECT count(DISTINCT 1), count(*) FROM items WHERE quantity > 100",
    "SELECT count(DISTINCT product), count(DISTINCT line), count(DISTINCT quantity), count(*), max(order_id) FROM items GROUP BY () HAVING count(*) > 1",
    "SELECT variance(quantity), stddev(quantity), var_pop(quantity), stddev_pop(id), stddev_samp(id * 1.5), var_samp(id) FROM items, orders",
    "SELECT variance(quantity), stddev(quantity), var_pop(quantity), stddev_pop(line), stddev_samp(quantity * 1.50), var_samp(order_id) FROM items",
    "SELECT product, variance(quantity), stddev(quantity::numeric(9, 3)), var_pop(quantity), stddev_pop(line) FILTER (WHERE line > 1) FROM items GROUP BY product",
    "SELECT stddev(amount), variance(amount), var_pop(amount), stddev_pop(amount), stddev_pop(id), stddev(weight) FROM orders",
    "SELECT stddev(amount), stddev_pop(CASE WHEN id > 4 THEN 'NaN' ELSE amount END), avg(amount - 'Infinity') FROM orders",
    "SELECT avg(placed - '2024-01-01'), sum(placed - '2024-01-01'), max(placed - '2024-01-01') FROM orders",
    "SELECT DISTINCT product FROM items WHERE quantity > 1",
    "=SELECT DISTINCT product || line AS p FROM items i WHERE i.quantity > 0 ORDER BY p DESC LIMIT 3",
    "=SELECT DISTINCT ON (product) product, quantity, line FROM items ORDER BY product, quantity DESC NULLS LAST, order_id",
    "=SELECT DISTINCT ON (upper(product), 2) product, line FROM items ORDER BY upper(product), line, order_id LIMIT 2 OFFSET 1",
    "=SELECT DISTINCT ON (p) product AS p, quantity FROM items WHERE line < 3 ORDER BY p DESC, order_id, line",
    // In order, or whole in each group.
    "=SELECT id, weight FROM orders ORDER BY weight DESC, id",
    "=SELECT *, -id AS minus FROM orders ORDER BY amount NULLS FIRST, minus OFFSET 2",
    "=SELECT note, id FROM orders ORDER BY note, id DESC",
    "=SELECT amount, id FROM orders WHERE id > 1 ORDER BY -amount DESC NULLS LAST, id LIMIT 5 OFFSET 1",
    "=SELECT id /* a */ , placed -- b\n FROM orders ORDER BY placed -- c\n DESC, id -- d\n LIMIT 4 -- e",
    "=SELECT vip, since, credit FROM customers ORDER BY vip, since DESC, credit",
    "=SELECT id FROM orders ORDER BY id LIMIT 0",
    "=SELECT id FROM orders ORDER BY id FETCH FIRST 3 ROWS ONLY",
    "=SELECT order_id, sum(quantity) AS s, string_agg(product, ',' ORDER BY product) FROM items GROUP BY order_id ORDER BY s DESC NULLS LAST, order_id LIMIT 3",
    "SELECT order_id, count(*) FROM items GROUP BY order_id HAVING count(*) > 1",
    "SELECT count(*) FROM items GROUP BY order_id",
    "SELECT count(*), order_id % 2 FROM items GROUP BY order_id, line",
    "SELECT DISTINCT order_id, product FROM items",
    "SELECT DISTINCT count(*) FROM items GROUP BY order_id",
    "=SELECT DISTINCT ON (order_id) * FROM items ORDER BY order_id, line DESC",
    "SELECT order_id, count(*) FROM items GROUP BY ROLLUP (order_id)",
    "SELECT order_id, row_number() OVER (ORDER BY order_id) FROM items GROUP BY order_id",
    // Joined where the rows are, and not.
    "=SELECT o.id, i.line, i.product, o.note FROM orders o JOIN items i ON i.order_id = o.id ORDER BY i.product, o.id, line",
    "SELECT o.id, i.product FROM orders o LEFT JOIN items i ON i.order_id = o.id AND i.line > 1",
    "SELECT o.note, i.product FROM orders o, items i WHERE o.id = i.order_id AND i.quantity > 1",
    "=SELECT o.id, sum(quantity), max(o.note) FROM orders o JOIN items i ON i.order_id = o.id GROUP BY o.id ORDER BY 2 DESC NULLS LAST, o.id",
    "SELECT i.order_id, count(*) FROM orders o LEFT JOIN items i ON i.order_id = o.id GROUP BY i.order_id",
    "SELECT i.order_id, o.id FROM items i LEFT JOIN orders o ON o.id = i.order_id AND o.note IS NOT NULL",
    "SELECT o.id, i.line FROM items i RIGHT JOIN orders o ON o.id = i.order_id",
    "SELECT o.id, i.line FROM items i FULL JOIN orders o ON o.id = i.order_id AND o.id > 2",
    "=SELECT a.id, b.note, c.line FROM orders a JOIN orders b ON b.id = a.id LEFT JOIN items c ON c.order_id = b.id ORDER BY id, c.line LIMIT 7 OFFSET 2",
    "SELECT DISTINCT o.id, i.product FROM orders o JOIN items i ON i.order_id = o.id",
    "SELECT DISTINCT i.order_id FROM orders o LEFT JOIN items i ON i.order_id = o.id",
    "SELECT o.id, i.order_id FROM orders o JOIN items i ON i.order_id > o.id",
    "SELECT o.id, i.order_id FROM orders o JOIN items i ON i.order_id = o.id OR i.line = 3",
    "SELECT o.id FROM orders o, items i WHERE o.id = i.order_id AND o.id = i.line",
    "SELECT o.id, i.line FROM orders o JOIN items i ON i.line = o.id",
    "SELECT product, count(*), sum(quantity), max(o.amount), min(note) FROM orders o JOIN items i ON i.order_id = o.id GROUP BY product",
    "=SELECT i.product AS p, count(DISTINCT o.customer), avg(o.amount) FROM orders o, items i WHERE i.order_id = o.id GROUP BY i.product HAVING count(*) > 1 ORDER BY p",
    "=SELECT upper(i.product), count(*) FROM orders o JOIN items i ON i.order_id = o.id GROUP BY upper(i.product) ORDER BY upper(i.product) DESC",
    "SELECT i.order_id, i.line, count(o.note), count(*) FROM orders o LEFT JOIN items i ON i.order_id = o.id GROUP BY i.order_id, i.line",
    "SELECT count(*), sum(o.amount), count(DISTINCT i.product), string_agg(DISTINCT o.note, ',' ORDER BY o.note) FROM orders o LEFT JOIN items i ON i.order_id = o.id WHERE o.id < 6",
    "SELECT count(*) FROM orders o JOIN items i ON i.order_id = o.id",
    "SELECT note, product, count(*) FROM orders JOIN items ON order_id = id GROUP BY note, product",
    "SELECT o.note AS note, product AS note, count(*) FROM orders o JOIN items i ON order_id = id GROUP BY o.note, product ORDER BY count(*), o.note, product",
    "SELECT note, count(*) FROM orders JOIN items ON order_id = id GROUP BY ROLLUP (note)",
    "SELECT a.mood, count(*), max(b.city) FROM customers a JOIN customers b ON b.id = a.id GROUP BY a.mood",
    "=SELECT a.city, count(*), max(b.credit) FROM customers a JOIN customers b USING (id) GROUP BY a.city ORDER BY a.city",
    "=SELECT a.credit, count(*) FROM customers a JOIN customers b ON a.id = b.id GROUP BY a.credit ORDER BY a.credit NULLS FIRST",
    "SELECT o.details, count(*) FROM orders o JOIN items i ON i.order_id = o.id GROUP BY o.details",
    "SELECT count(i), count(o.*) FROM orders o LEFT JOIN items i ON i.order_id = o.id",
    "=SELECT city, count(*) FROM customers GROUP BY city ORDER BY city COLLATE \"C\"",
    "=SELECT credit::numeric(12,1) AS c, city::varchar(3), count(*) FROM customers GROUP BY 1, 2 ORDER BY 1, 2",
    // Other words for tables.
    "TABLE items",
    "=TABLE items ORDER BY order_id, line",
    "=SELECT c.id FROM (TABLE customers) c ORDER BY 1",
    "SELECT id, customer FROM orders UNION ALL (SELECT order_id, line FROM items) EXCEPT SELECT id, rank FROM (TABLE customers LIMIT 3) c",
    "WITH c AS (TABLE orders), d AS (SELECT * FROM items) SELECT count(*) FROM c, d",
    "=SELECT id, name FROM ONLY customers ORDER BY name COLLATE \"C\"",
    "SELECT c.city, count(*) FROM ONLY customers c JOIN ONLY public.orders AS o ON o.customer = c.id, ONLY items GROUP BY c.city",
    // The first of them.
    "=SELECT id, name FROM customers ORDER BY name DESC LIMIT 3",
    "=SELECT id AS n, -id AS id FROM customers ORDER BY id LIMIT 2",
    "=SELECT upper(name) AS u FROM customers ORDER BY u OFFSET 1 FETCH NEXT 2 ROWS ONLY",
    "=SELECT id, credit FROM customers ORDER BY 2 NULLS FIRST, 1 DESC LIMIT 4",
    "=SELECT id, upper(name) FROM customers ORDER BY upper LIMIT 2",
    "=SELECT id, credit::int4 FROM customers ORDER BY credit, id LIMIT 4",
    "=SELECT id, 5 AS five FROM customers ORDER BY five, id LIMIT 2",
    "=SELECT public.customers.id FROM public.customers WHERE public.customers.vip ORDER BY public.customers.name COLLATE \"C\" LIMIT 2",
    "=SELECT id, generate_series(1, 2) FROM customers ORDER BY id LIMIT 3",
    "=SELECT * FROM customers c ORDER BY c.mood USING >, id LIMIT 3",
    "=SELECT id FROM customers ORDER BY id LIMIT NULL OFFSET 2",
    "=SELECT id FROM customers ORDER BY id LIMIT 0",
    "=SELECT count(*) FROM (SELECT id FROM customers LIMIT 4) s",
    "=SELECT city FROM customers ORDER BY city FETCH FIRST 1 ROW WITH TIES",
    // Each once.
    "SELECT DISTINCT name, city FROM customers",
    "SELECT DISTINCT o.customer, i.product FROM orders o JOIN items i ON i.order_id = o.id",
    "=SELECT DISTINCT upper(city) AS u FROM customers ORDER BY u LIMIT 2",
    "SELECT DISTINCT credit::text, id FROM customers",
    "SELECT DISTINCT count(*) FROM customers GROUP BY city",
    // Windows.
    "=SELECT id, rank() OVER (PARTITION BY city ORDER BY credit), sum(credit) OVER (ORDER BY id) FROM customers ORDER BY id",
    "=SELECT id, lag(name) OVER w FROM customers WINDOW w AS (ORDER BY id) ORDER BY id",
    // Subqueries.
    "SELECT name FROM customers c WHERE EXISTS (SELECT 1 FROM orders o WHERE o.customer = c.id AND o.amount > 9)",
    "SELECT name FROM customers c WHERE NOT EXISTS (SELECT * FROM orders o WHERE o.customer = c.id)",
    "SELECT name, (SELECT max(amount) FROM orders WHERE customer = c.id) FROM customers c",
    "SELECT name FROM customers WHERE id IN (SELECT customer FROM orders)",
    "SELECT name FROM customers WHERE id NOT IN (SELECT customer FROM orders WHERE customer IS NOT NULL)",
    "SELECT name FROM customers WHERE credit > (SELECT avg(credit) FROM customers)",
    "SELECT (SELECT count(*) FROM orders) + (SELECT count(*) FROM items)",
    "SELECT id FROM orders WHERE amount >= ALL (SELECT amount FROM orders WHERE amount IS NOT NULL)",
    "SELECT id FROM orders WHERE customer = ANY ((SELECT id FROM customers WHERE vip) UNION (SELECT 3))",
    "SELECT id FROM orders WHERE customer = ANY (VALUES (1), (3)) AND id <> ALL ((VALUES (2), (4)) EXCEPT SELECT 4)",
    "SELECT id FROM orders WHERE customer = ALL ((SELECT id FROM customers ORDER BY id LIMIT 1) UNION ALL (SELECT 5 LIMIT 0))",
    "SELECT id FROM orders WHERE customer = ANY ((SELECT array_agg(id) FROM customers WHERE vip)::int[])",
    "SELECT id, id < SOME (((SELECT customer FROM orders)) INTERSECT SELECT 3) FROM orders",
    "SELECT id FROM orders WHERE customer NOT IN ((SELECT id FROM customers WHERE vip) UNION (SELECT 3))",
    "SELECT * FROM (SELECT city, count(*) AS n FROM customers GROUP BY city) s WHERE n > 1",
    "SELECT ARRAY(SELECT name FROM customers ORDER BY id)",
    // Set operations.
    "SELECT id FROM customers UNION SELECT id FROM orders",
    "SELECT city FROM customers UNION ALL SELECT note FROM orders",
    "SELECT id FROM customers INTERSECT SELECT customer FROM orders",
    "SELECT id FROM customers EXCEPT SELECT customer FROM orders",
    "=(SELECT id FROM customers) UNION (SELECT id FROM orders) ORDER BY id DESC LIMIT 3",
    // CTEs.
    "WITH o AS (SELECT customer, sum(amount) AS s FROM orders GROUP BY customer) SELECT c.name, o.s FROM customers c JOIN o ON o.customer = c.id",
    "=WITH RECURSIVE n AS (SELECT 1 AS i UNION ALL SELECT i + 1 FROM n WHERE i < 5) SELECT i, name FROM n LEFT JOIN customers ON id = i ORDER BY i",
    "WITH orders AS (SELECT 1 AS customer) SELECT name FROM customers, orders WHERE id = customer",
    "=WITH RECURSIVE up AS (SELECT id, name FROM customers WHERE id = 1 UNION ALL SELECT c.id, c.name FROM up JOIN customers c ON c.id = up.id + 1) \
     SELECT * FROM up ORDER BY id",
    // Rows, types and names.
    "SELECT c FROM customers c ORDER BY id",
    "SELECT row_to_json(c) FROM customers c ORDER BY id",
    "=SELECT c.* FROM customers c ORDER BY id",
    "=SELECT t.a, t.b FROM customers t (a, b) ORDER BY 1",
    "SELECT count(c), count(c.*) FROM customers c WHERE mood = 'ok'",
    "=SELECT moods, tags, mood || 'x', moods[1] FROM customers ORDER BY id",
    "=SELECT o.\"Big\", \"select\" FROM \"Odd \"\"names\"\"\" o ORDER BY \"Big\"",
    "=SELECT \"Odd \"\"names\"\"\".\"with space\" + 1 FROM \"Odd \"\"names\"\"\" ORDER BY \"select\"",
    "=SELECT 'a' AS x, $$b$$, E'\\n' /* a comment with customers */ FROM customers ORDER BY id -- and one at the end",
    "SELECT count(*) FROM customers, orders",
    "SELECT 1 FROM customers LIMIT 3",
    // Conditions that can and that cannot be looked at in the groups.
    "SELECT c.id, o.id FROM customers c JOIN orders o ON true WHERE c.id = 1 AND (o.amount > 5 OR o.note = 'x''y\\z') AND o.id <> 3",
    "SELECT c.id, o.id FROM customers c LEFT JOIN orders o ON o.customer = c.id AND o.amount > 15 WHERE c.id BETWEEN 1 AND 4",
    "=SELECT id FROM orders WHERE note ILIKE 'f%' AND placed < '2024-02-01' AND weight IN (1.5, 5) AND NOT (customer IS NULL) ORDER BY id",
    "=SELECT id FROM customers WHERE vip AND mood = 'glad' AND id = ANY ('{1,2,6}') AND since > date '2020-01-01' - 1 ORDER BY id",
    "SELECT count(*) FROM orders, customers WHERE placed <= now() AND orders.customer = customers.id AND random() >= 0",
    "SELECT count(*) FROM customers WHERE id IN (1, 2, 3, 4, 5, 6) AND city = 'Rome'",
    "SELECT count(*), sum(id) FROM customers WHERE id IN (1, 2, 3, 4, 5, 6)",
    // Errors.
    "SELECT nothing, count(*) FROM customers GROUP BY 1",
    "SELECT name, count(*) FROM customers",
    "SELECT sum(name) FROM customers",
    "SELECT id / (id - 1) FROM orders ORDER BY id",
    "SELECT c.name FROM customers JOIN orders o ON true",
    "SELECT (SELECT id FROM customers) FROM orders",
];

/// How many of them, the last ones, fail.
const ERRORS: usize = 6;

fn sorted<T: Ord>(mut rows: Vec<T>) -> Vec<T> {
    rows.sort();
    rows
}

/// The queries that are answered otherwise, which begin with `begin` on the cluster.
async fn different(cluster: &Client, plain: &Client, begin: &str) -> Vec<String> {
    let (mut different, mut errors) = (Vec::new(), Vec::new());
    for query in QUERIES {
        let sql = query.trim_start_matches('=');
        cluster.batch_execute(begin).await.expect("begins");
        let (mut here, mut there) = (asked(cluster, sql).await, asked(plain, sql).await);
        cluster.batch_execute("ROLLBACK").await.expect("ends");
        if !query.starts_with('=') {
            (here, there) = (here.map(sorted), there.map(sorted));
        }
        if there.is_err() {
            errors.push(sql);
        }
        if here != there {
            different.push(format!("{sql}\n  here: {here:?}\n  there: {there:?}\n"));
        }
    }
    assert_eq!(errors, QUERIES[QUERIES.len() - ERRORS..]);
    different
}

#[tokio::test(flavor = "multi_thread")]
async fn queries_are_answered_as_by_one_server() {
    let cluster = Cluster::start().await;
    let client = cluster.connect().await;
    client.batch_execute(SCHEMA).await.unwrap();
    let plain = cluster.plain_database(SCHEMA).await;
    // With one snapshot for each statement, and with one for all.
    for begin in [
        "",
        "BEGIN",
        "BEGIN ISOLATION LEVEL REPEATABLE READ",
        "BEGIN ISOLATION LEVEL SERIALIZABLE READ ONLY",
    ] {
        let different = different(&client, &plain, begin).await;
        assert!(different.is_empty(), "{begin}:\n{}", different.concat());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn results_are_described_as_by_one_server() {
    let cluster = Cluster::start().await;
    let client = cluster.connect().await;
    client.batch_execute(SCHEMA).await.unwrap();
    let plain = cluster.plain_database(SCHEMA).await;
    for query in QUERIES {
        let sql = query.trim_start_matches('=');
        let (here, there) = (client.prepare(sql).await, plain.prepare(sql).await);
        let (here, there) = match (here, there) {
            (Ok(here), Ok(there)) => (here, there),
            (Err(here), Err(there)) => {
                assert_eq!(code(&here), code(&there), "{sql}");
                continue;
            }
            (here, _) => panic!("{sql}: {here:?}"),
        };
        let columns = |statement: &tokio_postgres::Statement| {
            let columns = statement.columns().iter();
            columns
                .map(|c| (c.name().to_owned(), c.type_().name().to_owned()))
                .collect::<Vec<_>>()
        };
        assert_eq!(columns(&here), columns(&there), "{sql}");
        // In binary: as many rows, or the same error.
        let (here, there) = (client.query(&here, &[]).await, plain.query(&there, &[]).await);
        match (here, there) {
            (Ok(here), Ok(there)) => assert_eq!(here.len(), there.len(), "{sql}"),
            (Err(here), Err(there)) => assert_eq!(code(&here), code(&there), "{sql}"),
            (here, _) => panic!("{sql}: {here:?}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn parameters_reach_the_groups_and_the_query() {
    let cluster = Cluster::start().await;
    let client = cluster.connect().await;
    client.batch_execute(SCHEMA).await.unwrap();
    let sql = "SELECT c.name, o.amount::text || $3 AS amount FROM customers c JOIN orders o ON o.customer = c.id \
        WHERE o.amount > $2 AND c.name <> $1 AND c.mood = $4 ORDER BY o.id LIMIT $5";
    let statement = client.prepare(sql).await.unwrap();
    for _ in 0..3 {
        let amount = "4";
        let rows = client
            .query(
                "SELECT c.name, o.id FROM customers c JOIN orders o ON o.customer = c.id WHERE o.id > $1 AND c.name <> $2 ORDER BY o.id LIMIT $3",
                &[&2_i64, &"bob", &2_i64],
            )
            .await
            .unwrap();
        let found: Vec<(String, i64)> = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
        assert_eq!(found, [("Äda".to_owned(), 5), ("Eve".to_owned(), 8)], "{amount}");
    }
    assert_eq!(statement.params().len(), 5);
    let names: Vec<String> = client
        .query(
            "SELECT name FROM customers WHERE id = ANY ($1) ORDER BY name",
            &[&vec![1, 4, 5]],
        )
        .await
        .unwrap()
        .iter()
        .map(|row| row.get(0))
        .collect();
    assert_eq!(names, ["Ann", "Eve", "Äda"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_groups_compute_is_not_gathered() {
    let limits = Limits {
        max_gathered: 64 << 10,
        ..Limits::default()
    };
    let config = open_door();
    let cluster = Cluster::configured(proxy::ProxyConfig { limits, ..config }).await;
    let client = cluster.connect().await;
    client
        .batch_execute("CREATE TABLE t (id bigint PRIMARY KEY, n int, v text)")
        .await
        .unwrap();
    let values: Vec<String> = (0..5000)
        .map(|id| format!("({id}, {}, repeat('x', 50))", id % 7))
        .collect();
    client
        .batch_execute(&format!("INSERT INTO t VALUES {}", values.join(",")))
        .await
        .unwrap();
    let all = "SELECT id, v, row_number() OVER (ORDER BY id) FROM t";
    let all = client.query(all, &[]).await;
    assert_eq!(code(&all.unwrap_err()), "53400");
    let rows = client
        .query(
            "SELECT n % $1, count(*), sum(id), avg(id)::float8, max(id) FROM t WHERE id >= $2 AND v LIKE $3 GROUP BY n, n % $1 \
             HAVING count(*) > $4 ORDER BY n LIMIT $5",
            &[&3_i32, &100_i64, &"x%", &1_i64, &2_i64],
        )
        .await
        .unwrap();
    let found: Vec<(i32, i64, i64)> = rows
        .iter()
        .map(|row| (row.get(0), row.get(1), row.get(4)))
        .collect();
    assert_eq!(found, [(0, 700, 4998), (1, 700, 4999)]);
    for (limit, offset, first) in [
        (Some(3_i64), Some(0_i64), 4999_i64),
        (Some(3), Some(10), 4989),
        (Some(1), None, 4999),
    ] {
        let rows = client
            .query(
                "SELECT id, v FROM t WHERE n <> $3 ORDER BY id DESC LIMIT $1 OFFSET $2",
                &[&limit, &offset, &-1_i32],
            )
            .await
            .unwrap();
        assert_eq!(rows.len(), usize::try_from(limit.unwrap()).unwrap());
        assert_eq!(rows[0].get::<_, i64>(0), first);
    }
    for (sql, rows) in [
        ("SELECT DISTINCT n, v FROM t ORDER BY n", 7),
        ("SELECT DISTINCT v FROM t WHERE id > 7", 1),
        ("SELECT DISTINCT ON (n) n, id, v FROM t ORDER BY n, id DESC", 7),
        (
            "SELECT n, count(DISTINCT v), sum(id), max(v) FROM t GROUP BY n",
            7,
        ),
        (
            "SELECT count(DISTINCT v || n), string_agg(DISTINCT upper(v), ',') FROM t",
            1,
        ),
        ("SELECT stddev(id), variance(id % 10) FROM t", 1),
        ("SELECT n, v, count(*) FROM t GROUP BY CUBE (n, v)", 16),
        ("SELECT upper(v), min(v || n) FROM t GROUP BY 1", 1),
    ] {
        let found = client
            .query(sql, &[])
            .await
            .unwrap_or_else(|error| panic!("{sql}: {error:?}"));
        assert_eq!(found.len(), rows, "{sql}");
    }
}

/// Columns of all types whose order the node knows: NULL, the least and the greatest, and others, each more than once.
const OF_ALL_TYPES: &[(&str, &str)] = &[
    ("small int2", "NULL|-32768|32767|0|5|-5"),
    ("n int4", "1|2|3|4|-5|6|7|8|9"),
    ("flag bool", "NULL|true|false"),
    ("f4 float4", "NULL|'NaN'|'-Infinity'|'Infinity'|0|'-0'|1.5|-1e30"),
    (
        "f8 float8",
        "NULL|'NaN'|'-Infinity'|'Infinity'|0|'-0'|1e-300|-1e300|2",
    ),
    (
        "num numeric",
        "NULL|'NaN'|'-Infinity'|'Infinity'|0|0.00|10000|1e40|-0.0001|-10000.5|99999999.9999|1e-20",
    ),
    (
        "day date",
        "NULL|'infinity'|'-infinity'|'2026-01-01'|'1999-12-31'|'4000-01-01 BC'",
    ),
    (
        "at timestamp",
        "NULL|'infinity'|'-infinity'|'2026-01-01 10:00:00.000001'|'1999-12-31'",
    ),
    (
        "tz timestamptz",
        "NULL|'infinity'|'-infinity'|'2026-01-01 10:00+02'|'2026-01-01 09:00+00'",
    ),
    ("clock time", "NULL|'00:00'|'24:00'|'12:34:56.789'"),
    ("bin bytea", r"NULL|''|'\x00'|'\xff'|'\x0001'|'\x7f80'"),
    (
        "key uuid",
        "NULL|'00000000-0000-0000-0000-000000000000'|'ffffffff-ffff-ffff-ffff-ffffffffffff'|'7f000000-0000-0000-0000-000000000001'",
    ),
    (
        "v text",
        "''|'a'|'A'|'Ä'|'a b'|'ab'|'\u{10ffff}'|'\u{e000}'|NULL|'a '",
    ),
    (
        "vc varchar(30)",
        "''|'a'|'A'|'Ä'|'\u{10ffff}'|'\u{e000}'|NULL|'a '",
    ),
];

fn rows_of_all_types() -> String {
    let columns: Vec<&str> = OF_ALL_TYPES.iter().map(|(column, _)| *column).collect();
    let rows = (0..1000).map(|id| {
        let each = OF_ALL_TYPES.iter().map(|(_, values)| {
            let values: Vec<&str> = values.split('|').collect();
            values[id * 7 % values.len()].to_owned()
        });
        format!("({id}, {})", each.collect::<Vec<_>>().join(", "))
    });
    let rows: Vec<String> = rows.collect();
    format!(
        "CREATE TABLE t (id int8 PRIMARY KEY, {}); INSERT INTO t VALUES {}",
        columns.join(", "),
        rows.join(",")
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_in_order_are_not_held() {
    let limits = Limits {
        max_gathered: 16 << 10,
        ..Limits::default()
    };
    let config = open_door();
    let cluster = Cluster::configured(proxy::ProxyConfig { limits, ..config }).await;
    let client = cluster.connect().await;
    let plain = cluster.plain_database(SCHEMA).await;
    for on in [&client, &plain] {
        on.batch_execute(&rows_of_all_types()).await.unwrap();
    }
    let gathered = asked(&client, "SELECT *, count(*) OVER () FROM t").await;
    assert_eq!(gathered, Err("53400".to_owned()));
    for column in [
        "small", "n", "flag", "f4", "f8", "num", "day", "at", "tz", "clock", "bin", "key", "v", "vc",
        "num + n", "v || n",
    ] {
        for how in ["", " DESC", " NULLS FIRST", " DESC NULLS LAST"] {
            let sql = format!("SELECT * FROM t ORDER BY {column}{how}, id");
            assert_eq!(asked(&client, &sql).await, asked(&plain, &sql).await, "{sql}");
        }
    }
    // In binary, of one snapshot and in a block of several, and of a part.
    for begin in ["SELECT 1", "BEGIN", "BEGIN ISOLATION LEVEL REPEATABLE READ"] {
        client.batch_execute(begin).await.unwrap();
        let sql = "SELECT v, id, n FROM t WHERE n <> $1 ORDER BY n DESC, id LIMIT 700 OFFSET 100";
        let (here, there) = (client.query(sql, &[&5]).await, plain.query(sql, &[&5]).await);
        let rows = |rows: Vec<tokio_postgres::Row>| -> Vec<(Option<String>, i64, i32)> {
            rows.iter()
                .map(|row| (row.get(0), row.get(1), row.get(2)))
                .collect()
        };
        assert_eq!(rows(here.unwrap()), rows(there.unwrap()), "{begin}");
        client.batch_execute("ROLLBACK").await.unwrap();
    }
    // A group that fails in the middle.
    let failed = asked(&client, "SELECT id, 1 / (id - 999) FROM t ORDER BY id").await;
    assert_eq!(failed, Err("22012".to_owned()));
    assert_eq!(
        asked(&client, "SELECT id FROM t ORDER BY id LIMIT 2")
            .await
            .map(|rows| rows.len()),
        Ok(2)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_portal_gives_a_few_rows_at_a_time() {
    let cluster = Cluster::start().await;
    let mut client = cluster.connect().await;
    client.batch_execute(SCHEMA).await.unwrap();
    let transaction = client.transaction().await.unwrap();
    transaction
        .execute(
            "INSERT INTO customers VALUES (7, 'Gil', 'Bern', true, 0, NULL, NULL, NULL, NULL, 7)",
            &[],
        )
        .await
        .unwrap();
    let portal = transaction
        .bind("SELECT id FROM customers ORDER BY id DESC", &[])
        .await
        .unwrap();
    let mut seen: Vec<i32> = Vec::new();
    loop {
        let rows = transaction.query_portal(&portal, 3).await.unwrap();
        seen.extend(rows.iter().map(|row| row.get::<_, i32>(0)));
        // Others come in between.
        let count: i64 = transaction
            .query_one("SELECT count(DISTINCT city) FROM customers", &[])
            .await
            .unwrap()
            .get(0);
        assert_eq!(count, 4);
        if rows.len() < 3 {
            break;
        }
    }
    assert_eq!(seen, [7, 6, 5, 4, 3, 2, 1]);
    transaction.rollback().await.unwrap();
    let mut raw = Raw::start(&cluster).await;
    raw.parse(
        "s",
        "SELECT city, count(*) FROM customers GROUP BY city ORDER BY 1",
    );
    raw.describe('S', "s");
    raw.bind("", "s");
    raw.describe('P', "");
    raw.execute("", 2);
    raw.execute("", 0);
    raw.sync();
    raw.send().await;
    let (tags, _) = raw.until_ready().await;
    assert_eq!(tags, "1tT2TDDsDDCZ");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cursor_goes_through_gathered_rows() {
    let cluster = Cluster::start().await;
    let client = cluster.connect().await;
    client.batch_execute(SCHEMA).await.unwrap();
    let told = |sql: &'static str| {
        let client = &client;
        async move {
            asked(client, sql)
                .await
                .map(|rows| rows.into_iter().flatten().flatten().collect::<Vec<_>>().join(" "))
        }
    };
    assert_eq!(
        told("DECLARE c CURSOR FOR SELECT id FROM customers ORDER BY id").await,
        Err("25P01".to_owned())
    );
    for level in ["READ COMMITTED", "REPEATABLE READ"] {
        client
            .batch_execute(&format!("BEGIN ISOLATION LEVEL {level}"))
            .await
            .unwrap();
        told("DECLARE c CURSOR FOR SELECT id FROM customers WHERE id > 1 ORDER BY id")
            .await
            .unwrap();
        assert_eq!(told("FETCH 2 FROM c").await.unwrap(), "2 3");
        client.batch_execute("SAVEPOINT s").await.unwrap();
        assert_eq!(
            told("SELECT count(*) FROM customers, orders").await.unwrap(),
            "48"
        );
        assert_eq!(told("MOVE 1 FROM c").await.unwrap(), "");
        assert_eq!(told("FETCH ALL FROM c").await.unwrap(), "5 6");
        assert_eq!(
            told("DECLARE c CURSOR FOR SELECT id FROM orders ORDER BY id").await,
            Err("42P03".to_owned())
        );
        client.batch_execute("ROLLBACK TO s; CLOSE c").await.unwrap();
        assert_eq!(told("FETCH c").await, Err("34000".to_owned()));
        client.batch_execute("ROLLBACK").await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_gathered_is_refused_by_name() {
    let limits = Limits {
        max_gathered: 100 << 10,
        ..Limits::default()
    };
    let config = open_door();
    let cluster = Cluster::configured(proxy::ProxyConfig { limits, ..config }).await;
    let client = cluster.connect().await;
    client.batch_execute(SCHEMA).await.unwrap();
    for (sql, what) in [
        ("SELECT ctid, id FROM customers ORDER BY id", "ctid"),
        (
            "SELECT tableoid::regclass, count(*) FROM customers GROUP BY 1",
            "tableoid",
        ),
        (
            "SELECT id FROM customers ORDER BY id LIMIT 2 FOR UPDATE",
            "FOR UPDATE",
        ),
        (
            "SELECT pg_relation_size('customers') FROM customers ORDER BY 1",
            "pg_relation_size",
        ),
    ] {
        let error = client.simple_query(sql).await.unwrap_err();
        assert_eq!(code(&error), "0A000", "{sql}");
        assert!(
            error.as_db_error().unwrap().message().contains(what),
            "{sql}: {error:?}"
        );
    }
    client
        .batch_execute("CREATE TABLE wide (id int PRIMARY KEY, v text)")
        .await
        .unwrap();
    client.batch_execute("INSERT INTO wide VALUES (1, repeat('x', 30000)), (2, repeat('x', 30000)), (3, repeat('x', 30000)), (4, repeat('x', 30000))").await.unwrap();
    for begin in ["SELECT 1", "BEGIN", "BEGIN ISOLATION LEVEL REPEATABLE READ"] {
        client.batch_execute(begin).await.unwrap();
        let error = client
            .simple_query("SELECT v FROM wide ORDER BY v COLLATE \"C\"")
            .await
            .unwrap_err();
        assert_eq!(code(&error), "53400");
        assert!(hint(&error).contains("sql.max_gathered"), "{error:?}");
        client.batch_execute("ROLLBACK").await.unwrap();
        assert_eq!(
            client
                .query("SELECT id FROM wide ORDER BY id", &[])
                .await
                .unwrap()
                .len(),
            4
        );
        assert_eq!(
            client
                .query("SELECT id, v FROM wide WHERE id > 2 ORDER BY id", &[])
                .await
                .unwrap()
                .len(),
            2
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn explain_howdah_says_where_and_how() {
    let cluster = Cluster::start().await;
    let client = cluster.connect().await;
    client.batch_execute(SCHEMA).await.unwrap();
    let sql = "EXPLAIN (HOWDAH) SELECT city, count(*) FROM customers WHERE vip GROUP BY city";
    let expected = [
        "Groups: all, no shard key is given",
        "Each group: aggregates its own rows of customers (city) WHERE vip",
        "  gives pg_catalog.\"count\"(* )",
        "One of them: the statement, over what they give",
    ];
    let shown = cluster.psql(sql).await.unwrap();
    assert_eq!(shown.lines().collect::<Vec<_>>(), expected);
    let rows = client.query(sql, &[]).await.unwrap();
    let shown: Vec<String> = rows.iter().map(|row| row.get("QUERY PLAN")).collect();
    assert_eq!(shown, expected);
    for (sql, expected) in [
        (
            "SELECT city, count(*) FROM customers GROUP BY city ORDER BY city",
            ": 4 rows, ",
        ),
        ("SELECT id FROM customers ORDER BY id", "Group 2: "),
        (
            "SELECT c.city, o.id FROM customers c, orders o",
            "Group 1, orders: ",
        ),
        ("SELECT * FROM customers", "Group 1: "),
        ("SELECT count(*) FROM customers", "Group 2: 1 rows, "),
        ("SELECT * FROM customers WHERE id = 1", ": 1 rows, "),
        ("SELECT 1", ": 1 rows, "),
    ] {
        for begin in ["SELECT 1", "BEGIN", "BEGIN ISOLATION LEVEL REPEATABLE READ"] {
            client.batch_execute(begin).await.unwrap();
            let analyze = format!("EXPLAIN (ANALYZE, HOWDAH) {sql}");
            let simple = cluster.psql(&analyze).await.unwrap();
            let rows = client.query(&analyze, &[]).await.unwrap();
            let extended: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
            for shown in [simple, extended.join("\n")] {
                assert!(
                    shown.contains(expected) && shown.contains("\nTime: "),
                    "{sql}: {shown}"
                );
            }
            client.batch_execute("ROLLBACK").await.unwrap();
        }
    }
    let error = asked(&client, "EXPLAIN (ANALYZE, HOWDAH) DELETE FROM customers").await;
    assert_eq!(error, Err("0A000".to_owned()));
    let error = asked(&client, "EXPLAIN (HOWDAH) SELECT nothing FROM customers").await;
    assert_eq!(error, Err("42703".to_owned()));
}
