//! MERGE, compared with one PostgreSQL.

use tokio_postgres::types::ToSql;

use crate::harness::{code, hint};
use crate::writes::{both, compare, contents, done, refill};

/// What runs on several groups, or on one.
const MERGES: &[&str] = &[
    // Each group with its own rows.
    "MERGE INTO orders o USING lines l ON o.id = l.order_id AND l.line = 1 WHEN MATCHED THEN UPDATE SET note = l.product, amount = o.amount + coalesce(l.quantity, 0)",
    "MERGE INTO lines USING orders ON lines.order_id = orders.id WHEN MATCHED AND amount > 15 THEN DELETE WHEN MATCHED AND quantity IS NULL THEN DO NOTHING WHEN MATCHED THEN UPDATE SET quantity = quantity + 10, order_id = orders.id",
    "MERGE INTO lines l USING orders o ON l.order_id = o.id WHEN MATCHED AND line > 1 THEN DELETE WHEN MATCHED THEN UPDATE SET product = o.note WHEN NOT MATCHED THEN INSERT (order_id, line, product) VALUES (o.id, 77, o.note)",
    "MERGE INTO lines l USING orders o ON l.order_id = o.id AND l.product = 'pen' WHEN NOT MATCHED AND amount IS NULL THEN DO NOTHING WHEN NOT MATCHED AND amount < 10 THEN INSERT VALUES (o.id, 100, 'cheap', 1) WHEN NOT MATCHED THEN INSERT (line, order_id) VALUES (101, id)",
    "MERGE INTO orders o USING (SELECT order_id, sum(quantity) AS q, max(product) AS p FROM lines GROUP BY order_id) s ON s.order_id = o.id WHEN MATCHED AND o.person IS NULL THEN DELETE WHEN MATCHED THEN UPDATE SET (amount, note) = (s.q, s.p) WHEN NOT MATCHED THEN INSERT (id, amount) VALUES (s.order_id, s.q)",
    "MERGE INTO orders o USING (SELECT id, note, amount FROM orders WHERE amount > 5) s ON s.id = o.id AND o.note = 'first' WHEN MATCHED THEN UPDATE SET note = s.note || '!' ",
    "MERGE INTO lines l USING (SELECT DISTINCT id FROM orders WHERE id > 3) s ON s.id = l.order_id WHEN MATCHED THEN DELETE WHEN NOT MATCHED THEN INSERT (order_id, line) VALUES (id, 5)",
    "MERGE INTO public.orders USING public.lines ON public.orders.id = public.lines.order_id AND line = 1 WHEN MATCHED THEN UPDATE SET note = upper(product)",
    "MERGE INTO orders o USING lines l ON o.id = l.order_id AND l.line = 1 AND false WHEN MATCHED THEN DELETE",
    "MERGE INTO people p USING people q ON p.id = q.id WHEN MATCHED AND q.mood = 'glad' THEN UPDATE SET tags = q.tags || '{m}', rank = DEFAULT, credit = DEFAULT WHEN MATCHED THEN DO NOTHING",
    "MERGE INTO lines l USING orders o ON l.order_id = o.id WHEN MATCHED AND EXISTS (SELECT FROM lines x WHERE x.order_id = o.id AND x.quantity > 4) THEN DELETE",
    "MERGE INTO lines l USING orders o ON l.order_id = o.id AND o.id IN (SELECT order_id FROM lines WHERE product = 'pen') WHEN MATCHED AND l.line = 1 THEN DELETE WHEN NOT MATCHED THEN INSERT (order_id, line, product) VALUES (o.id, 9, 'new')",
    // Of one group.
    "MERGE INTO people p USING (VALUES (1, 'one')) AS s (id, v) ON p.id = s.id WHEN MATCHED THEN UPDATE SET name = s.v WHEN NOT MATCHED THEN INSERT (id, name) VALUES (s.id, s.v)",
    "MERGE INTO people p USING (VALUES (51, 'new')) AS s (id, v) ON p.id = s.id WHEN MATCHED THEN UPDATE SET name = s.v WHEN NOT MATCHED THEN INSERT (id, name) VALUES (s.id, s.v)",
    "MERGE INTO people p USING (SELECT 3 AS id, 'sel' AS v) s ON s.id = p.id WHEN MATCHED THEN UPDATE SET name = v WHEN NOT MATCHED THEN INSERT (id, name) VALUES (s.id, v)",
    "MERGE INTO people USING (SELECT 52 AS k, 'sel' AS v) s ON s.k = id WHEN MATCHED THEN UPDATE SET name = v WHEN NOT MATCHED THEN INSERT (id, name, mood) VALUES (k, v, 'ok')",
    "MERGE INTO people p USING (SELECT 'x' AS v) s ON p.id = 2 WHEN MATCHED THEN DELETE WHEN NOT MATCHED THEN INSERT (id, name) VALUES (2, s.v)",
    "MERGE INTO people p USING (SELECT 'x' AS v) s ON p.id = 53 WHEN MATCHED THEN DELETE WHEN NOT MATCHED THEN INSERT (id, name) VALUES (53, s.v)",
    "MERGE INTO words w USING (VALUES ('a', 5)) s ON w.word = column1 WHEN MATCHED THEN UPDATE SET n = w.n + column2 WHEN NOT MATCHED THEN INSERT VALUES (column1, column2)",
    "MERGE INTO words w USING (VALUES ('zz')) s ON w.word = column1 WHEN NOT MATCHED THEN INSERT (word) VALUES (column1)",
    "MERGE INTO words w USING (VALUES ('a'), ('b'), ('none')) s ON w.word = column1 WHEN MATCHED THEN DELETE",
    "MERGE INTO people p USING (VALUES (1.0), (3.5), (4)) s (k) ON p.id = k WHEN MATCHED THEN UPDATE SET name = 'n'",
    "MERGE INTO lines l USING (SELECT id, note FROM orders WHERE id = 3) s ON s.id = l.order_id WHEN MATCHED THEN UPDATE SET product = note WHEN NOT MATCHED THEN INSERT (order_id, line) VALUES (s.id, 1)",
    "MERGE INTO lines l USING (SELECT id, note FROM orders WHERE id IN (4, 5, 7)) s ON s.id = l.order_id WHEN MATCHED AND line = 1 THEN UPDATE SET product = note WHEN NOT MATCHED THEN INSERT (order_id, line) VALUES (s.id, 1)",
    "MERGE INTO lines l USING (VALUES (1, 1, 'p'), (1, 9, 'q')) s (o, n, p) ON l.order_id = s.o AND l.line = s.n WHEN MATCHED THEN UPDATE SET product = p WHEN NOT MATCHED THEN INSERT (order_id, line, product) VALUES (o, n, p)",
    // With rows that are brought.
    "MERGE INTO orders o USING people p ON p.id = o.person WHEN MATCHED AND p.mood = 'glad' THEN DELETE WHEN MATCHED THEN UPDATE SET note = p.name, amount = p.credit",
    "MERGE INTO people p USING (SELECT person, sum(amount) AS total FROM orders GROUP BY person) s ON s.person = p.id AND s.total < 9000 WHEN MATCHED THEN UPDATE SET credit = s.total",
    "MERGE INTO people p USING orders o ON o.person = p.id AND o.note = 'first' WHEN MATCHED THEN UPDATE SET name = o.note",
    "MERGE INTO people p USING (SELECT max(id) AS id FROM orders) s ON p.id = s.id WHEN MATCHED THEN DELETE",
    "MERGE INTO people p USING orders o ON p.id = 54 AND p.name = o.note WHEN NOT MATCHED AND o.id = 3 THEN INSERT (id, name, credit) VALUES (54, note, amount)",
    "MERGE INTO people p USING (SELECT person, max(note) AS note FROM orders GROUP BY person) o ON p.id = 1 AND o.person = 2 WHEN MATCHED THEN UPDATE SET name = o.note WHEN NOT MATCHED AND o.person = 4 THEN DO NOTHING WHEN NOT MATCHED AND o.person > 100 THEN INSERT (id) VALUES (1)",
    // All groups have the source, and insert what is theirs.
    "MERGE INTO people p USING (VALUES (1, 'one'), (2, 'two'), (51, 'a'), (52, 'b'), (53, 'c'), (54, NULL), (NULL, 'n')) s (id, v) ON p.id = s.id WHEN MATCHED THEN UPDATE SET name = s.v WHEN NOT MATCHED AND s.id IS NULL OR s.v = 'b' THEN DO NOTHING WHEN NOT MATCHED AND s.v = 'c' OR s.v = 'z' THEN INSERT (id, name, mood) VALUES (id, 'was c', 'ok') WHEN NOT MATCHED THEN INSERT (name, id) VALUES (v, s.id)",
    "MERGE INTO words USING (VALUES ('a', 10), ('b', 11), ('c', 12), ('d', 13), ('it''s', 14)) AS \"new W\" ON words.word = column1 AND words.n < 3 WHEN NOT MATCHED AND CASE WHEN column1 < 'c' THEN false ELSE column1 <> 'it''s' END THEN INSERT VALUES (\"new W\".column1, column2) WHEN MATCHED THEN DELETE",
    "MERGE INTO people p USING (VALUES (51.4, 'x'), (52.5, 'y'), (63, 'z'), (4.0, 'is')) s (id, v) ON p.id = s.id WHEN MATCHED THEN UPDATE SET name = v WHEN NOT MATCHED THEN INSERT (id, name) VALUES (s.id, v)",
    "MERGE INTO people p USING (VALUES (71, 'x'), (72, 'y'), (73, 'z')) s (id, v) ON p.id = s.id WHEN NOT MATCHED THEN INSERT (id, name, credit) VALUES (s.id, v, (SELECT max(amount) FROM orders WHERE amount < 50))",
    "MERGE INTO people p USING orders o ON p.id = o.person WHEN NOT MATCHED AND o.person > 5 THEN INSERT (id, name) VALUES (o.person, o.note)",
    "MERGE INTO people USING orders ON people.id = orders.person AND orders.note IS NOT NULL WHEN MATCHED AND orders.id > 3 THEN UPDATE SET name = left(note, 8) WHEN NOT MATCHED AND person = 9 THEN INSERT (id, credit) VALUES (person, amount)",
    // Errors.
    "MERGE INTO people p USING (VALUES (51), (52), (52), (53)) s (id) ON p.id = s.id WHEN NOT MATCHED THEN INSERT (id) VALUES (s.id)",
    "MERGE INTO people p USING (VALUES (1), (2), (3), (4), (5), (6)) s (id) ON p.id = s.id AND p.credit > 5 WHEN NOT MATCHED THEN INSERT (id) VALUES (s.id)",
    "MERGE INTO people p USING (VALUES (NULL), (2), (53)) s (id) ON p.id = s.id WHEN NOT MATCHED THEN INSERT (id) VALUES (s.id)",
    "MERGE INTO people p USING (VALUES ('7'), ('8')) s (id) ON p.id = s.id WHEN NOT MATCHED THEN INSERT (id) VALUES (s.id)",
    "MERGE INTO people p USING orders o ON p.id = o.person WHEN NOT MATCHED THEN INSERT (id, name) VALUES (o.person, o.note)",
    "MERGE INTO lines l USING orders o ON l.order_id = o.id WHEN NOT MATCHED THEN INSERT (order_id, line) VALUES (o.id, NULL)",
    "MERGE INTO orders o USING lines l ON o.id = l.order_id WHEN MATCHED THEN UPDATE SET note = l.product",
    "MERGE INTO orders o USING lines l ON o.id = l.order_id WHEN MATCHED THEN UPDATE SET nothing = l.product",
    "MERGE INTO orders o USING lines l ON o.id = l.nothing WHEN MATCHED THEN DELETE",
    "MERGE INTO orders o USING nothing l ON o.id = l.id WHEN MATCHED THEN DELETE",
    "MERGE INTO lines l USING orders o ON l.order_id = o.id WHEN NOT MATCHED THEN INSERT (order_id, line) VALUES (o.id, l.line)",
    "MERGE INTO people p USING (VALUES (1, 'much too long')) AS s (id, v) ON p.id = s.id WHEN MATCHED THEN UPDATE SET name = s.v",
    "MERGE INTO people p USING (VALUES (1), (1)) AS s (id) ON p.id = s.id WHEN MATCHED THEN UPDATE SET name = 'x'",
    "MERGE INTO people p USING (VALUES (60), (60)) AS s (id) ON p.id = s.id WHEN NOT MATCHED THEN INSERT (id) VALUES (s.id)",
    "MERGE INTO people p USING (VALUES ('1')) AS s (id) ON p.id = s.id WHEN MATCHED THEN DELETE",
    "MERGE INTO people p USING people q ON p.id = q.id WHEN MATCHED THEN UPDATE SET credit = 1 / (q.id - 4)",
    "MERGE INTO lines l USING orders o ON l.order_id = o.id WHEN MATCHED THEN DELETE RETURNING l.line",
];

#[tokio::test(flavor = "multi_thread")]
async fn a_merge_does_what_it_does_on_one_server() {
    compare(MERGES, 17).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_prepared_merge_goes_where_its_parameters_say() {
    let (_cluster, client, plain) = both().await;
    for client in [&client, &plain] {
        refill(client).await;
        let cast = client
            .prepare(
                "MERGE INTO people p USING (VALUES ($1::int, $2::text)) AS s (id, v) ON p.id = s.id \
                 WHEN MATCHED AND s.v = '' THEN DELETE WHEN MATCHED THEN UPDATE SET name = s.v \
                 WHEN NOT MATCHED THEN INSERT (id, name) VALUES (s.id, s.v)",
            )
            .await
            .unwrap();
        let plain = client
            .prepare(
                "MERGE INTO people p USING (SELECT $2::text AS v) s ON p.id = $1 WHEN MATCHED THEN UPDATE SET name = s.v \
                 WHEN NOT MATCHED THEN INSERT (id, name) VALUES ($1, s.v)",
            )
            .await
            .unwrap();
        let of_own = client
            .prepare(
                "MERGE INTO lines l USING orders o ON l.order_id = o.id AND l.line = $1 WHEN MATCHED THEN UPDATE SET product = $2 \
                 WHEN NOT MATCHED THEN INSERT (order_id, line, product) VALUES (o.id, $1, $2 || o.note)",
            )
            .await
            .unwrap();
        let many = client
            .prepare(
                "MERGE INTO people p USING (VALUES ($1::int, $3::text), ($2::int, 'second')) s (id, v) ON p.id = s.id \
                 WHEN MATCHED THEN UPDATE SET name = v WHEN NOT MATCHED AND v > $4 THEN INSERT (id, name) VALUES (s.id, v)",
            )
            .await
            .unwrap();
        let brought = client
            .prepare("MERGE INTO orders o USING people p ON p.id = o.person AND p.id < $1 WHEN MATCHED THEN UPDATE SET note = $2 || p.name")
            .await
            .unwrap();
        for id in [1_i32, 2, 3, 4, 70, 71, 72, 73] {
            for name in ["one", "two", ""] {
                let parameters: [&(dyn ToSql + Sync); 2] = [&id, &name];
                assert_eq!(client.execute(&cast, &parameters).await.unwrap(), 1);
            }
            let parameters: [&(dyn ToSql + Sync); 2] = [&id, &"by $1"];
            assert_eq!(client.execute(&plain, &parameters).await.unwrap(), 1);
        }
        for (one, two) in [(1_i32, 2_i32), (3, 80), (81, 82), (83, 85), (86, 86 + 4096)] {
            let parameters: [&(dyn ToSql + Sync); 4] = [&one, &two, &"first", &"a"];
            assert_eq!(client.execute(&many, &parameters).await.unwrap(), 2);
        }
        assert_eq!(client.execute(&of_own, &[&2_i32, &"x"]).await.unwrap(), 8);
        assert_eq!(client.execute(&brought, &[&3_i32, &"of "]).await.unwrap(), 4);
    }
    assert_eq!(contents(&client).await, contents(&plain).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_merge_of_several_groups_is_one_transaction() {
    let (cluster, client, _plain) = both().await;
    refill(&client).await;
    let before = contents(&client).await;
    // The last of the groups fails, whichever that is: each has lines.
    for order in [1, 2, 3, 5, 6, 8] {
        let sql = format!(
            "MERGE INTO lines l USING orders o ON l.order_id = o.id WHEN MATCHED THEN UPDATE SET quantity = 1 / (o.id - {order}) \
             WHEN NOT MATCHED THEN INSERT (order_id, line) VALUES (o.id, 1)"
        );
        assert_eq!(done(&client, &sql).await, Err("22012".to_owned()));
        assert_eq!(contents(&client).await, before);
    }
    let other = cluster.connect().await;
    client.batch_execute("BEGIN").await.unwrap();
    let sql = "MERGE INTO lines l USING orders o ON l.order_id = o.id WHEN MATCHED THEN DELETE \
        WHEN NOT MATCHED THEN INSERT (order_id, line) VALUES (o.id, 1)";
    assert_eq!(done(&client, sql).await.unwrap().1, 11);
    assert_eq!(contents(&other).await, before);
    client.batch_execute("COMMIT").await.unwrap();
    assert_eq!(done(&other, "SELECT 1 FROM lines").await.unwrap().1, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn other_tables_are_merged_into_as_on_one_server() {
    let (_cluster, client, plain) = both().await;
    let tables = "CREATE TABLE codes (code text PRIMARY KEY, meaning text);
        CREATE TABLE here (n int, v text);
        CREATE TABLE parts (id bigint, n int, v text, PRIMARY KEY (id, n)) PARTITION BY RANGE (n);
        CREATE TABLE parts_low PARTITION OF parts FOR VALUES FROM (0) TO (100);
        CREATE TABLE parts_high PARTITION OF parts FOR VALUES FROM (100) TO (1000);
        CREATE TABLE counted (id int PRIMARY KEY, n serial, v text);
        CREATE VIEW noted AS SELECT id, note AS what FROM orders WHERE note IS NOT NULL;
        CREATE FUNCTION shout() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.product := upper(NEW.product) || '!'; RETURN NEW; END $$;
        CREATE TRIGGER shouts BEFORE INSERT OR UPDATE ON lines FOR EACH ROW EXECUTE FUNCTION shout();
        CREATE TEMP TABLE mine (id bigint PRIMARY KEY, v text)";
    client.batch_execute(tables).await.unwrap();
    plain.batch_execute(tables).await.unwrap();
    client
        .batch_execute("SELECT create_reference_table('codes'); SELECT undistribute_table('here')")
        .await
        .unwrap();
    for client in [&client, &plain] {
        refill(client).await;
        let rows = "INSERT INTO codes VALUES ('glad', 'happy'), ('sad', 'unhappy'), ('PEN!', 'writes'); INSERT INTO here VALUES (1, 'first'), (2, 'none');
            INSERT INTO mine VALUES (1, 'mine')";
        client.batch_execute(rows).await.unwrap();
    }
    for sql in [
        // From a reference table, and into one.
        "MERGE INTO lines l USING codes c ON l.product = c.code WHEN MATCHED THEN UPDATE SET product = c.meaning",
        "MERGE INTO lines l USING codes c ON l.order_id = 3 AND l.product = c.code WHEN NOT MATCHED THEN INSERT (order_id, line, product) VALUES (3, length(c.code) * 10 + length(c.meaning), c.code)",
        "MERGE INTO codes c USING (VALUES ('glad', 'content'), ('new', 'fresh')) s (code, meaning) ON c.code = s.code WHEN MATCHED THEN UPDATE SET meaning = s.meaning WHEN NOT MATCHED THEN INSERT VALUES (s.code, s.meaning)",
        "MERGE INTO codes c USING codes d ON c.code = d.code WHEN MATCHED AND c.code = 'sad' THEN DELETE WHEN MATCHED THEN UPDATE SET meaning = d.meaning || '.'",
        "MERGE INTO words w USING codes c ON w.word = c.code WHEN MATCHED THEN DELETE WHEN NOT MATCHED AND length(c.code) > 3 THEN INSERT VALUES (c.code, 5) WHEN NOT MATCHED THEN INSERT (word) VALUES (c.code)",
        "MERGE INTO words USING public.codes ON words.word = codes.code WHEN MATCHED THEN UPDATE SET n = words.n + 1 WHEN NOT MATCHED THEN INSERT (word) VALUES (codes.code)",
        // A local table.
        "MERGE INTO words w USING here h ON w.word = h.v WHEN MATCHED THEN DELETE WHEN NOT MATCHED THEN INSERT VALUES (h.v, h.n)",
        "MERGE INTO here h USING codes c ON h.v = c.code WHEN MATCHED THEN DELETE WHEN NOT MATCHED THEN INSERT VALUES (5, c.code)",
        "MERGE INTO here h USING orders o ON h.v = o.note AND o.id < 5 WHEN MATCHED THEN UPDATE SET n = o.id WHEN NOT MATCHED AND o.id > 4 THEN INSERT VALUES (o.id, o.note)",
        "MERGE INTO orders o USING here h ON o.note = h.v AND h.n < 5 WHEN MATCHED THEN UPDATE SET amount = h.n",
        // Partitions.
        "MERGE INTO parts p USING orders o ON p.id = o.id WHEN NOT MATCHED THEN INSERT VALUES (o.id, o.id * 30, o.note)",
        "MERGE INTO parts p USING orders o ON p.id = o.id WHEN MATCHED AND p.n > 150 THEN DELETE WHEN MATCHED THEN UPDATE SET n = p.n + 90",
        // A view, a trigger, what a sequence fills.
        "MERGE INTO orders o USING noted v ON o.id = v.id WHEN MATCHED THEN UPDATE SET note = what || '?'",
        "MERGE INTO lines l USING noted v ON l.order_id = v.id WHEN MATCHED AND l.line > 1 THEN DELETE WHEN NOT MATCHED THEN INSERT (order_id, line, product) VALUES (v.id, 50, what)",
        "MERGE INTO counted c USING people p ON c.id = p.id WHEN NOT MATCHED THEN INSERT (id, n, v) VALUES (p.id, p.id * 2, p.name)",
        // Temporary tables.
        "MERGE INTO mine m USING (VALUES (1, 'a'), (2, 'b')) s (id, v) ON m.id = s.id WHEN MATCHED THEN UPDATE SET v = s.v WHEN NOT MATCHED THEN INSERT VALUES (s.id, s.v)",
        "MERGE INTO mine m USING codes c ON m.v = c.code WHEN NOT MATCHED THEN INSERT VALUES (100 + length(c.code || c.meaning), c.code)",
    ] {
        let (here, there) = (done(&client, sql).await, done(&plain, sql).await);
        assert!(
            there.as_ref().is_ok_and(|(_, count)| *count > 0),
            "{sql}: {there:?}"
        );
        assert_eq!(here, there, "{sql}");
        for table in ["codes", "here", "parts", "counted", "mine", "lines", "orders"] {
            let select = format!("SELECT * FROM {table}");
            assert_eq!(
                done(&client, &select).await,
                done(&plain, &select).await,
                "{sql}: {table}"
            );
        }
    }
    assert_eq!(contents(&client).await, contents(&plain).await);
    for sql in [
        "MERGE INTO lines l USING codes c ON l.product = c.code WHEN NOT MATCHED THEN INSERT (order_id, line) VALUES (1, 90)",
        "MERGE INTO codes c USING orders o ON c.code = o.note WHEN MATCHED THEN DELETE",
        "MERGE INTO noted v USING orders o ON v.id = o.id WHEN MATCHED THEN DELETE",
        "MERGE INTO counted c USING people p ON c.id = p.id WHEN NOT MATCHED THEN INSERT (id, v) VALUES (p.id, p.name)",
        "MERGE INTO counted c USING people p ON c.id = p.id WHEN MATCHED THEN UPDATE SET n = DEFAULT",
        "MERGE INTO people p USING (VALUES (201), (202), (203), (204), (205), (206)) s (id) ON p.name = 'x' WHEN NOT MATCHED THEN INSERT (id) VALUES (s.id)",
        "MERGE INTO people p USING (VALUES (201), (202), (203), (204), (205), (206)) s (id) ON p.id = s.id WHEN NOT MATCHED THEN INSERT (id) VALUES (s.id + 1)",
        "MERGE INTO people p USING (VALUES (201, 1), (202, 2), (203, 3), (204, 4)) s (id, o) ON p.id = s.id WHEN NOT MATCHED THEN INSERT (id) VALUES (s.o)",
        "MERGE INTO people p USING (VALUES (201), (202), (203), (204), (205), (206)) s (id) ON p.id = s.id WHEN NOT MATCHED THEN INSERT (id, credit) VALUES (s.id, random())",
        "MERGE INTO people p USING (VALUES (201::float8), (202), (203), (204), (205), (206)) s (id) ON p.id = s.id WHEN NOT MATCHED THEN INSERT (id) VALUES (s.id)",
        "MERGE INTO orders o USING people p ON o.id = p.rank WHEN NOT MATCHED THEN INSERT (id) VALUES (p.rank)",
        "MERGE INTO lines l USING orders o ON l.order_id = o.id WHEN MATCHED THEN UPDATE SET order_id = o.person",
        "MERGE INTO lines l USING orders o ON l.product = o.note WHEN NOT MATCHED THEN INSERT (order_id, line) VALUES (o.id, 1)",
        "MERGE INTO lines l USING (SELECT o.id FROM codes LEFT JOIN orders o ON o.note = code) s ON l.order_id = s.id WHEN NOT MATCHED THEN INSERT (order_id, line) VALUES (s.id, 1)",
        "MERGE INTO mine m USING orders o ON m.id = o.id WHEN NOT MATCHED THEN INSERT VALUES (o.id, o.note)",
        "MERGE INTO lines l USING mine m ON l.order_id = m.id WHEN MATCHED THEN DELETE",
        "EXPLAIN ANALYZE MERGE INTO lines l USING orders o ON l.order_id = o.id WHEN MATCHED THEN DELETE",
        "PREPARE p AS MERGE INTO orders o USING people p ON p.id = o.person WHEN MATCHED THEN DELETE",
    ] {
        let error = client.batch_execute(sql).await.unwrap_err();
        assert_eq!(code(&error), "0A000", "{sql}: {error:?}");
        assert!(!hint(&error).is_empty(), "{sql}: {error:?}");
    }
    assert_eq!(contents(&client).await, contents(&plain).await);
}
