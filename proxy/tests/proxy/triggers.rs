//! Triggers of users, compared with one PostgreSQL; and that none puts a row where it does not belong.

use crate::functions::differences;
use crate::harness::{Cluster, code};

const SCHEMA: &str = r#"
CREATE FUNCTION tidy() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'UPDATE' AND OLD.name = 'kept' THEN
        RETURN NULL;
    END IF;
    IF NEW.n < 0 THEN
        RAISE EXCEPTION 'negative: %', NEW.n USING ERRCODE = 'P4711';
    END IF;
    NEW.name := lower(NEW.name);
    NEW.changes := coalesce(NEW.changes, 0) + 1;
    RETURN NEW;
END $$;
CREATE FUNCTION keep() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF OLD.name = TG_ARGV[0] THEN
        RETURN NULL;
    END IF;
    RETURN OLD;
END $$;
CREATE FUNCTION late() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.n > 1000 THEN
        RAISE EXCEPTION 'too large' USING ERRCODE = 'P4712';
    END IF;
    RETURN NULL;
END $$;
CREATE EXTENSION moddatetime;
CREATE TABLE t (id int PRIMARY KEY, n int, name text, changes int, at timestamp);
CREATE TABLE parted (id int, n int, name text, changes int) PARTITION BY LIST (n);
CREATE TABLE parted_1 PARTITION OF parted FOR VALUES IN (1, 2);
CREATE TABLE parted_2 PARTITION OF parted DEFAULT;
CREATE TABLE source (id int PRIMARY KEY, n int, name text);
CREATE TRIGGER tidies BEFORE INSERT OR UPDATE ON t FOR EACH ROW EXECUTE FUNCTION tidy();
CREATE TRIGGER keeps BEFORE DELETE ON t FOR EACH ROW WHEN (OLD.id > 2) EXECUTE FUNCTION keep('kept');
CREATE CONSTRAINT TRIGGER lates AFTER INSERT OR UPDATE ON t DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION late();
CREATE TRIGGER times BEFORE UPDATE ON t FOR EACH ROW EXECUTE FUNCTION moddatetime(at);
CREATE TRIGGER tidies BEFORE INSERT OR UPDATE ON parted FOR EACH ROW EXECUTE FUNCTION tidy();
INSERT INTO t VALUES (1, 1, 'One'), (2, 2, 'KEPT'), (3, 3, 'Kept'), (4, 4, 'Four'), (5, 5, 'FIVE'), (6, 6, NULL);
INSERT INTO parted VALUES (1, 1, 'One'), (2, 2, 'Two'), (3, 3, 'Three'), (4, 1, 'Four');
INSERT INTO source VALUES (10, 10, 'Ten'), (11, 11, 'Eleven'), (12, 12, 'Twelve'), (1, 7, 'Again');
"#;

const QUERIES: &[&str] = &[
    "SELECT * FROM t",
    "SELECT * FROM parted",
    "INSERT INTO t (id, n, name) VALUES (7, 7, 'Seven') RETURNING *",
    "INSERT INTO t (id, n, name) VALUES (7, 7, 'Seven'), (8, 8, 'Eight'), (9, 9, 'NINE') RETURNING *",
    "INSERT INTO t (id, n, name) VALUES (7, 7, 'Seven'), (8, -8, 'Eight')",
    "INSERT INTO t (id, n, name) VALUES (1, 7, 'X'), (20, 1, 'Y') ON CONFLICT (id) DO UPDATE SET n = excluded.n RETURNING id, n, name, changes",
    "INSERT INTO t (id, n, name) SELECT id, n, name FROM source WHERE id > 1 RETURNING id, n, name, changes",
    "INSERT INTO t (id, n, name) SELECT id * 2, n, name FROM source RETURNING id, n, name, changes",
    "UPDATE t SET n = n + 1 RETURNING id, n, name, changes",
    "UPDATE t SET n = n + 1, name = 'NEW' WHERE id = 4 RETURNING id, n, name, changes, at IS NOT NULL",
    "UPDATE t SET n = -1 WHERE id IN (1, 4)",
    "UPDATE t SET name = s.name FROM source s WHERE s.id = t.id RETURNING t.id, t.name, t.changes",
    "DELETE FROM t RETURNING id",
    "UPDATE parted SET name = 'X' RETURNING *",
    "SET CONSTRAINTS ALL IMMEDIATE; UPDATE t SET n = 1001 WHERE id = 1",
    "UPDATE t SET n = 1001; SET CONSTRAINTS ALL IMMEDIATE",
];

#[tokio::test(flavor = "multi_thread")]
async fn triggers_of_rows_fire_as_on_one_server() {
    let cluster = Cluster::start().await;
    let different = differences(&cluster, SCHEMA, QUERIES).await;
    assert!(different.is_empty(), "{different}");
    // What is deferred is found at COMMIT, on several groups, too.
    let client = cluster.connect().await;
    let error = client
        .batch_execute("BEGIN; UPDATE t SET n = 1001; COMMIT")
        .await
        .unwrap_err();
    assert_eq!(code(&error), "P4712");
    let row = client
        .query_one("SELECT max(n) FROM t", &[])
        .await
        .expect("nothing was changed");
    assert_eq!(row.get::<_, i32>(0), 6);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_trigger_puts_a_row_where_its_key_does_not_belong() {
    let cluster = Cluster::start().await;
    let client = cluster.connect().await;
    for sql in [
        "CREATE TABLE t (id int PRIMARY KEY, n int)",
        "CREATE TABLE parted (id int, n int) PARTITION BY LIST (n)",
        "CREATE TABLE parted_1 PARTITION OF parted FOR VALUES IN (1)",
        "CREATE TABLE apart (id int, n int)",
        "INSERT INTO t SELECT i, 1 FROM generate_series(1, 20) i",
        "INSERT INTO parted SELECT i, 1 FROM generate_series(1, 20) i",
        "CREATE FUNCTION moves() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.id := NEW.id + 100; RETURN NEW; END $$",
        "CREATE FUNCTION whole() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW := OLD; NEW.id := 0; RETURN NEW; END $$",
        "CREATE TRIGGER x BEFORE UPDATE ON t FOR EACH ROW EXECUTE FUNCTION moves()",
        "CREATE TRIGGER x BEFORE UPDATE ON parted_1 FOR EACH ROW EXECUTE FUNCTION whole()",
        "CREATE TRIGGER i BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION moves()",
    ] {
        client.batch_execute(sql).await.expect(sql);
    }
    // The statements do not name the key.
    for sql in [
        "UPDATE t SET n = 2",
        "UPDATE parted SET n = 1",
        "INSERT INTO t SELECT i, 1 FROM generate_series(21, 40) i",
        "INSERT INTO t VALUES (21, 1), (22, 1), (23, 1), (24, 1), (25, 1), (26, 1), (27, 1), (28, 1)",
    ] {
        let error = client.batch_execute(sql).await.expect_err(sql);
        let words = error.as_db_error().expect("words").message().to_owned();
        assert_eq!(code(&error), "0A000", "{sql}: {words}");
        assert!(words.starts_with("a trigger gave a row of table"), "{words}");
    }
    for table in ["t", "parted"] {
        for id in 1..=20 {
            let sql = format!("SELECT FROM {table} WHERE id = {id}");
            assert_eq!(client.query(&sql, &[]).await.unwrap().len(), 1, "{sql}");
        }
    }
    // A table that comes with such a trigger.
    for sql in [
        "DROP TRIGGER x ON parted_1",
        "UPDATE parted SET n = 1",
        "CREATE TRIGGER x BEFORE UPDATE ON apart FOR EACH ROW EXECUTE FUNCTION whole()",
        "ALTER TABLE parted ATTACH PARTITION apart FOR VALUES IN (2)",
        "INSERT INTO parted SELECT i, 2 FROM generate_series(31, 50) i",
    ] {
        client.batch_execute(sql).await.expect(sql);
    }
    let error = client
        .batch_execute("UPDATE parted SET n = 2 WHERE n = 2")
        .await
        .unwrap_err();
    assert_eq!(code(&error), "0A000");
}

#[tokio::test(flavor = "multi_thread")]
async fn triggers_that_groups_would_fire_otherwise_are_refused() {
    let cluster = Cluster::start().await;
    let client = cluster.connect().await;
    client
        .batch_execute(
            "CREATE TABLE t (id int PRIMARY KEY, n int); CREATE TABLE l (id int PRIMARY KEY, n int); \
             CREATE TABLE r (id int PRIMARY KEY, n int); \
             CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE NOTICE 'fired'; RETURN NULL; END $$",
        )
        .await
        .unwrap();
    client
        .batch_execute("SELECT create_reference_table('r')")
        .await
        .unwrap();
    client
        .batch_execute("SELECT undistribute_table('l')")
        .await
        .unwrap();
    client
        .batch_execute("CREATE TRIGGER s AFTER INSERT ON l FOR EACH STATEMENT EXECUTE FUNCTION f()")
        .await
        .expect("all rows are in one group");
    client
        .batch_execute("INSERT INTO l VALUES (1, 1), (2, 2)")
        .await
        .unwrap();
    for sql in [
        "CREATE TRIGGER s AFTER INSERT ON t FOR EACH STATEMENT EXECUTE FUNCTION f()",
        "CREATE TRIGGER s AFTER INSERT ON t EXECUTE FUNCTION f()",
        "CREATE TRIGGER s AFTER INSERT ON r FOR EACH ROW EXECUTE FUNCTION f()",
        "SELECT create_distributed_table('l', 'id')",
        "SELECT create_reference_table('l')",
        "ALTER TABLE t DISABLE TRIGGER ALL",
        "ALTER TABLE t DISABLE TRIGGER howdah_slot",
        "DROP TRIGGER howdah_slot ON t",
    ] {
        let error = client.batch_execute(sql).await.expect_err(sql);
        let expected = if sql.contains("_table('l'") {
            "55000"
        } else {
            "0A000"
        };
        assert_eq!(code(&error), expected, "{sql}");
    }
    client.batch_execute("TRUNCATE l").await.unwrap();
    for sql in [
        "SELECT create_distributed_table('l', 'id')",
        "SELECT create_reference_table('l')",
    ] {
        let error = client.batch_execute(sql).await.expect_err(sql);
        assert_eq!(code(&error), "0A000", "{sql}");
    }
    for sql in [
        "CREATE TRIGGER x BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION f()",
        "INSERT INTO t VALUES (1, 1)",
        "ALTER TABLE t DISABLE TRIGGER USER",
        "INSERT INTO t VALUES (2, 2)",
        "ALTER TABLE t ENABLE TRIGGER x",
        "ALTER TRIGGER x ON t RENAME TO y",
        "INSERT INTO t VALUES (3, 3)",
        "DROP TRIGGER y ON t",
        "INSERT INTO t VALUES (4, 4)",
    ] {
        client.batch_execute(sql).await.expect(sql);
    }
    let rows = client.query("SELECT id FROM t ORDER BY id", &[]).await.unwrap();
    assert_eq!(rows.iter().map(|row| row.get(0)).collect::<Vec<i32>>(), [2, 4]);
}
