//! BEGIN to COMMIT, over one group and over two.

use tokio_postgres::error::ErrorPosition;

use crate::harness::{Cluster, code};

async fn table(cluster: &Cluster) -> tokio_postgres::Client {
    let client = cluster.connect().await;
    client
        .batch_execute("CREATE TABLE t (id bigint PRIMARY KEY, v bigint)")
        .await
        .expect("a table");
    client
}

#[tokio::test(flavor = "multi_thread")]
async fn one_group_commits_rolls_back_and_keeps_savepoints() {
    let cluster = Cluster::start().await;
    let client = table(&cluster).await;
    let keys = cluster.keys_of(1, 3);
    client.batch_execute("BEGIN").await.unwrap();
    client.batch_execute("SAVEPOINT before").await.unwrap();
    client
        .execute("INSERT INTO t VALUES ($1, 1)", &[&keys[0]])
        .await
        .unwrap();
    client.batch_execute("SAVEPOINT s").await.unwrap();
    client
        .execute("INSERT INTO t VALUES ($1, 1)", &[&keys[1]])
        .await
        .unwrap();
    let error = client
        .execute("INSERT INTO t VALUES ($1, 1)", &[&keys[1]])
        .await
        .unwrap_err();
    assert_eq!(code(&error), "23505");
    let error = client.batch_execute("SELECT 1").await.unwrap_err();
    assert_eq!(code(&error), "25P02");
    client.batch_execute("ROLLBACK TO s").await.unwrap();
    client
        .execute("INSERT INTO t VALUES ($1, 1)", &[&keys[2]])
        .await
        .unwrap();
    client.batch_execute("COMMIT").await.unwrap();
    let mut found: Vec<i64> = client
        .query("SELECT id FROM t", &[])
        .await
        .unwrap()
        .iter()
        .map(|r| r.get(0))
        .collect();
    found.sort_unstable();
    assert_eq!(found, [keys[0], keys[2]]);
    client.batch_execute("BEGIN").await.unwrap();
    client
        .execute("DELETE FROM t WHERE id = $1", &[&keys[0]])
        .await
        .unwrap();
    client.batch_execute("ROLLBACK").await.unwrap();
    assert_eq!(client.query("SELECT id FROM t", &[]).await.unwrap().len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn several_statements_in_one_query_are_one_transaction() {
    let cluster = Cluster::start().await;
    let client = table(&cluster).await;
    let keys = cluster.keys_of(0, 2);
    let (a, b) = (keys[0], keys[1]);
    client
        .batch_execute(&format!(
            "INSERT INTO t VALUES ({a}, 1); INSERT INTO t VALUES ({b}, 1)"
        ))
        .await
        .unwrap();
    let other = cluster.keys_of(1, 1)[0];
    let sql = format!("UPDATE t SET v = 2 WHERE id = {a}; INSERT INTO t VALUES ({other}, 1)");
    client.batch_execute(&sql).await.unwrap();
    let sql = format!("BEGIN; UPDATE t SET v = 3 WHERE id = {a}; COMMIT; SELECT 1");
    client.batch_execute(&sql).await.unwrap();
    let row = client
        .query_one("SELECT v FROM t WHERE id = $1", &[&a])
        .await
        .unwrap();
    assert_eq!(row.get::<_, i64>(0), 3);
    assert!(
        client
            .query_one("SELECT v FROM t WHERE id = $1", &[&other])
            .await
            .is_ok()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chained_transaction_is_as_the_one_before_had_become() {
    let cluster = Cluster::start().await;
    let client = table(&cluster).await;
    let key = cluster.keys_of(1, 1)[0];
    let insert = format!("INSERT INTO t VALUES ({key}, 1)");
    for before in [
        "BEGIN READ WRITE; SET TRANSACTION READ ONLY; COMMIT AND CHAIN",
        "BEGIN READ WRITE; SELECT 1; SET TRANSACTION READ ONLY; COMMIT AND CHAIN",
        "BEGIN READ WRITE; SET transaction_read_only = on; ROLLBACK AND CHAIN; COMMIT AND CHAIN",
        "BEGIN; SET default_transaction_read_only = off; SELECT 1; COMMIT AND CHAIN",
    ] {
        client
            .batch_execute("SET default_transaction_read_only = on")
            .await
            .unwrap();
        client.batch_execute(before).await.unwrap();
        let error = client.batch_execute(&insert).await.expect_err(before);
        assert_eq!(code(&error), "25006", "{before}");
        client.batch_execute("ROLLBACK").await.unwrap();
    }
    client
        .batch_execute("RESET default_transaction_read_only")
        .await
        .unwrap();
    client
        .batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1; SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY")
        .await
        .unwrap();
    client.batch_execute("COMMIT AND CHAIN").await.unwrap();
    let level = client.query_one("SHOW transaction_isolation", &[]).await.unwrap();
    assert_eq!(level.get::<_, &str>(0), "repeatable read");
    client.batch_execute(&insert).await.unwrap();
    client.batch_execute("COMMIT").await.unwrap();
    assert_eq!(client.query("SELECT id FROM t", &[]).await.unwrap().len(), 1);
    // What it has from the one before it keeps when it fails, and nothing else.
    let writes = "SET SESSION CHARACTERISTICS AS TRANSACTION READ WRITE";
    client.batch_execute(writes).await.unwrap();
    let update = format!("UPDATE t SET v = v + 1 WHERE id = {key}");
    for begin in ["BEGIN READ ONLY", "BEGIN; SELECT 1; SET TRANSACTION READ ONLY"] {
        client.batch_execute(begin).await.unwrap();
        for _ in 0..3 {
            client.batch_execute("COMMIT AND CHAIN").await.unwrap();
            let error = client.batch_execute(&update).await.expect_err(begin);
            assert_eq!(code(&error), "25006", "{begin}");
        }
        client.batch_execute("ROLLBACK").await.unwrap();
        client.batch_execute(begin).await.unwrap();
        client.batch_execute(&update).await.expect_err(begin);
        client.batch_execute("COMMIT AND CHAIN").await.unwrap();
        client.batch_execute(&update).await.expect(begin);
        client.batch_execute("COMMIT").await.unwrap();
    }
    // A failure within a savepoint is not one of the transaction itself: the next is what this one was.
    for failing in ["ROLLBACK TO t", "SELECT 1 / 0", &update] {
        client
            .batch_execute("BEGIN READ ONLY; SAVEPOINT s")
            .await
            .unwrap();
        client.batch_execute(failing).await.expect_err(failing);
        client.batch_execute("COMMIT AND CHAIN").await.unwrap();
        let error = client.batch_execute(&update).await.expect_err(failing);
        assert_eq!(code(&error), "25006", "{failing}");
        client.batch_execute("ROLLBACK").await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_say_where_in_the_query_they_are() {
    let cluster = Cluster::start().await;
    let client = table(&cluster).await;
    for (sql, at) in [
        (
            "SELECT 'é'; SELECT id FROM t; INSERT INTO t VALUES ('x', 1)",
            "'x'",
        ),
        ("BEGIN; INSERT INTO t VALUES (1, ' ')", "' '"),
        ("SELECT 1; CREATE TABLE u (id int, v nosuch)", "nosuch"),
        (
            "SELECT 1; SET LOCAL lock_timeout = '1s'; SELECT nosuch FROM t",
            "nosuch",
        ),
        ("  CREATE TABLE u (id int, v nosuch)", "nosuch"),
        (" /* é */ SELECT nosuch FROM t", "nosuch"),
        (" SELECT nosuch FROM t WHERE id = 1", "nosuch"),
    ] {
        let error = client.batch_execute(sql).await.expect_err(sql);
        let position = error.as_db_error().and_then(|error| error.position().cloned());
        let expected = sql[..sql.find(at).unwrap()].chars().count() + 1;
        let expected = ErrorPosition::Original(u32::try_from(expected).unwrap());
        assert_eq!(position, Some(expected), "{sql}: {error:?}");
        client.batch_execute("ROLLBACK").await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn modes_count_wherever_a_transaction_is_told_of_them() {
    let cluster = Cluster::start().await;
    let client = table(&cluster).await;
    let [one, two] = [cluster.keys_of(0, 1)[0], cluster.keys_of(1, 1)[0]];
    let insert = |key: i64| format!("INSERT INTO t VALUES ({key}, 1)");
    for (sql, expected) in [
        ("SET TRANSACTION READ ONLY; {two}".to_owned(), "25006"),
        (format!("{}; BEGIN READ ONLY; {{two}}", insert(one)), "25006"),
        ("BEGIN; BEGIN READ ONLY; {two}".to_owned(), "25006"),
        (
            "BEGIN; SELECT 1; START TRANSACTION READ ONLY; {two}".to_owned(),
            "25006",
        ),
        (
            format!(
                "BEGIN; {}; BEGIN ISOLATION LEVEL SERIALIZABLE; {{two}}",
                insert(one)
            ),
            "25001",
        ),
        (
            format!("{}; BEGIN ISOLATION LEVEL REPEATABLE READ; {{two}}", insert(one)),
            "25001",
        ),
    ] {
        let sql = sql.replace("{two}", &insert(two));
        let error = client.batch_execute(&sql).await.expect_err(&sql);
        assert_eq!(code(&error), expected, "{sql}: {error:?}");
        client.batch_execute("ROLLBACK").await.unwrap();
    }
    assert!(client.query("SELECT id FROM t", &[]).await.unwrap().is_empty());
    // The level that it has anyway may be said again.
    let sql = format!(
        "BEGIN; {}; BEGIN ISOLATION LEVEL READ COMMITTED, READ WRITE; {}; COMMIT",
        insert(one),
        insert(two)
    );
    client.batch_execute(&sql).await.unwrap();
    assert_eq!(client.query("SELECT id FROM t", &[]).await.unwrap().len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_sql_is_said_before_that_the_transaction_has_failed() {
    let cluster = Cluster::start().await;
    let client = table(&cluster).await;
    client.batch_execute("BEGIN").await.unwrap();
    client.batch_execute("SELECT 1 / 0").await.unwrap_err();
    for (sql, expected) in [
        ("SELEC 1", "42601"),
        ("SELECT 1; SELECT 1 WHERE", "42601"),
        ("SELECT nosuch FROM nosuch", "25P02"),
        ("SELECT 1; SELECT 2", "25P02"),
    ] {
        let error = client.batch_execute(sql).await.unwrap_err();
        assert_eq!(code(&error), expected, "{sql}");
    }
    assert_eq!(code(&client.prepare("SELEC 1").await.unwrap_err()), "42601");
    assert_eq!(code(&client.prepare("SELECT 1").await.unwrap_err()), "25P02");
    client.batch_execute("ROLLBACK").await.unwrap();
}
