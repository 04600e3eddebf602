//! Queries of several statements, one of which is no SQL.

use tokio_postgres::{Client, Error};

use crate::harness::{Cluster, code};

/// What no grammar takes, each for another reason.
const BROKEN: &[&str] = &[
    "SELEC 1",
    "SELECT 'é'; SELEC 1; SELECT 2",
    "SELECT 1 WHERE",
    "DELETE FROM",
    "SELECT 'abc",
    "SELECT \"abc; COMMIT",
    "SELECT E'abc\\'; COMMIT",
    "SELECT $a$ $b$",
    "SELECT 1 /* not ended",
    "SELECT \"\"",
    "SELECT 1)",
    "SELECT (1; SELECT 2",
    "SELECT (1; 2)",
    "INSERT INTO t VALUES (1, 1) RETURNING",
    "SELECT 1 ORDER BY 1 ORDER BY 2",
    ";; /* ; */ -- ;\n ; SELEC 'last'",
    "COPY t FROM STDIN; SELEC 1",
    "COPY t FROM",
    "SAVEPOINT select",
    "BEGIN READ ONLY,",
    "BEGIN NONSENSE",
    "END nonsense",
    "COMMIT; SET TRANSACTION",
    "RETURN 1",
    "SELECT 1; END; RETURN (SELECT 1)",
    "CREATE FUNCTION f() RETURNS int BEGIN ATOMIC SELECT 1; SELECT 2; END; SELEC 1",
    "CREATE FUNCTION f() RETURNS int BEGIN ATOMIC SELECT 1; SELEC 2; END",
    "CREATE FUNCTION f() RETURNS int BEGIN ATOMIC SELECT 1",
    "CREATE FUNCTION f() RETURNS int BEGIN ATOMIC BEGIN; END",
    "SET my.own =",
    "CREATE TABLE u (k int8 PRIMARY KEY, ); SELECT 1",
];

async fn table(cluster: &Cluster) -> Client {
    let client = cluster.connect().await;
    let sql = "CREATE TABLE t (id bigint PRIMARY KEY, v bigint)";
    client.batch_execute(sql).await.expect("it is new");
    client
}

/// Code, words and place.
fn told(error: &Error) -> String {
    let error = error.as_db_error().expect("an error of a server");
    format!("{:?} {} {:?}", error.code(), error.message(), error.position())
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_runs_of_a_query_that_is_no_sql_to_its_end() {
    let cluster = Cluster::start().await;
    let client = table(&cluster).await;
    let (plain, other) = (cluster.direct(0).await, cluster.connect().await);
    let (a, b) = (cluster.keys_of(0, 1)[0], cluster.keys_of(1, 1)[0]);
    let insert = format!("INSERT INTO t VALUES ({a}, 1); INSERT INTO t VALUES ({b}, 1)");
    for broken in BROKEN {
        for sql in [
            format!("{insert}; {broken}"),
            format!("{insert}; COMMIT; {broken}"),
            format!("BEGIN; {insert}; COMMIT; {broken}"),
            format!("INSERT INTO t VALUES ({a}, 1); {broken}"),
            format!("SAVEPOINT s; {broken}"),
        ] {
            let expected = told(&plain.batch_execute(&sql).await.expect_err(&sql));
            let error = client.batch_execute(&sql).await.expect_err(&sql);
            assert_eq!(told(&error), expected, "{sql}");
            // In a block that has written on both groups.
            client.batch_execute("BEGIN").await.unwrap();
            client.batch_execute(&insert).await.unwrap();
            let error = client.batch_execute(&sql).await.expect_err(&sql);
            assert_eq!(told(&error), expected, "{sql}");
            let error = client.batch_execute("SELECT 1").await.expect_err(&sql);
            assert_eq!(code(&error), "25P02", "{sql}");
            client.batch_execute("ROLLBACK").await.unwrap();
            let rows = other.query("SELECT id FROM t", &[]).await.unwrap();
            assert!(rows.is_empty(), "{sql}");
        }
        // A Parse of several is read to its end, too.
        let sql = format!("SELECT 1; {broken}");
        let expected = told(&plain.prepare(&sql).await.expect_err(&sql));
        let error = client.prepare(&sql).await.expect_err(&sql);
        assert_eq!(told(&error), expected, "{sql}");
    }
    let mut session = client.query("SELECT 1", &[]).await.unwrap();
    assert_eq!(session.remove(0).get::<_, i32>(0), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn in_a_failed_transaction_too_it_is_the_syntax_that_is_told() {
    let cluster = Cluster::start().await;
    let client = table(&cluster).await;
    let plain = cluster.direct(0).await;
    for client in [&client, &plain] {
        client.batch_execute("BEGIN").await.unwrap();
        client.batch_execute("SELECT 1 / 0").await.unwrap_err();
    }
    for sql in [
        "COMMIT; SELEC 1",
        "SELECT 1; SELEC 1",
        "SELECT 1; SELECT nosuch",
        "ROLLBACK; SELECT '",
    ] {
        let expected = told(&plain.batch_execute(sql).await.expect_err(sql));
        let error = client.batch_execute(sql).await.expect_err(sql);
        assert_eq!(told(&error), expected, "{sql}");
    }
    client.batch_execute("ROLLBACK; SELECT 1").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn to_have_a_good_query_read_takes_nothing_from_a_transaction() {
    let cluster = Cluster::start().await;
    let client = table(&cluster).await;
    let keys = cluster.keys_of(0, 3);
    let (a, b, other) = (keys[0], keys[1], cluster.keys_of(1, 1)[0]);
    client
        .batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
        .await
        .unwrap();
    client
        .batch_execute("SET LOCAL work_mem = '5MB'; SAVEPOINT s")
        .await
        .unwrap();
    let sql = format!("INSERT INTO t VALUES ({a}, 1); INSERT INTO t VALUES ({other}, 1); SAVEPOINT s");
    client.batch_execute(&sql).await.unwrap();
    let sql = format!(
        "INSERT INTO t VALUES ({b}, 1); SELECT 1 AS return, 2 AS atomic, 3 end; ROLLBACK TO s; SELECT 'é' AS \"end\"; RELEASE s"
    );
    client.batch_execute(&sql).await.unwrap();
    client
        .batch_execute("DECLARE c CURSOR FOR SELECT 1; LOCK TABLE t; SHOW work_mem; FETCH c; CLOSE c; COMMIT; BEGIN; END WORK")
        .await
        .unwrap();
    let mut rows: Vec<i64> = client
        .query("SELECT id FROM t", &[])
        .await
        .unwrap()
        .iter()
        .map(|row| row.get(0))
        .collect();
    rows.sort_unstable();
    let mut expected = [a, other];
    expected.sort_unstable();
    assert_eq!(rows, expected);
    // What comes first decides on a transaction's modes, also where something was asked before.
    let sql =
        "BEGIN; SET TRANSACTION ISOLATION LEVEL SERIALIZABLE READ ONLY; SHOW transaction_isolation; COMMIT";
    client.batch_execute(sql).await.unwrap();
    // Statements that depend on the ones before, and are only read at first.
    let sql = "CREATE TABLE atomic (return int8 PRIMARY KEY); INSERT INTO atomic VALUES (1); SELECT return FROM atomic; \
               DROP TABLE atomic; SELECT 1";
    client.batch_execute(sql).await.unwrap();
    let error = client
        .batch_execute("INSERT INTO t VALUES (77, 1); COMMIT; SELECT nosuch")
        .await
        .unwrap_err();
    assert_eq!(code(&error), "42703");
    let kept = client.query("SELECT id FROM t WHERE id = 77", &[]).await.unwrap();
    assert_eq!(kept.len(), 1, "it is SQL, so what came before is committed");
}
