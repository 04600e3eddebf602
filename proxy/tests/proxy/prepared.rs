//! Prepared statements and portals.

use crate::harness::raw::Raw;
use crate::harness::{Cluster, code};

#[tokio::test(flavor = "multi_thread")]
async fn a_prepared_statement_serves_every_group() {
    let cluster = Cluster::start().await;
    let client = cluster.connect().await;
    client
        .batch_execute("CREATE TABLE t (id bigint PRIMARY KEY, v text)")
        .await
        .unwrap();
    let insert = client.prepare("INSERT INTO t VALUES ($1, $2)").await.unwrap();
    let select = client.prepare("SELECT v FROM t WHERE id = $1").await.unwrap();
    for id in 1..=50_i64 {
        client.execute(&insert, &[&id, &format!("v{id}")]).await.unwrap();
        let row = client.query_one(&select, &[&id]).await.unwrap();
        assert_eq!(row.get::<_, String>(0), format!("v{id}"));
    }
    drop(select);
    let select = client
        .prepare("SELECT id FROM t WHERE v = $1 AND id = $2")
        .await
        .unwrap();
    assert_eq!(client.query(&select, &[&"v9", &9_i64]).await.unwrap().len(), 1);
    let error = client
        .prepare("SELECT nothing FROM t WHERE id = $1")
        .await
        .unwrap_err();
    assert_eq!(code(&error), "42703");
    let error = client.prepare("SELEC 1").await.unwrap_err();
    assert_eq!(code(&error), "42601");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plan_is_made_anew_after_ddl() {
    let cluster = Cluster::start().await;
    let client = cluster.connect().await;
    client
        .batch_execute("CREATE TABLE t (id bigint, other bigint)")
        .await
        .unwrap();
    let insert = client
        .prepare("INSERT INTO t (id, other) VALUES ($1, $2)")
        .await
        .unwrap();
    client
        .query_one("SELECT create_distributed_table('t', 'other')", &[])
        .await
        .unwrap();
    let (one, two) = (cluster.keys_of(0, 1)[0], cluster.keys_of(1, 1)[0]);
    client.execute(&insert, &[&one, &two]).await.unwrap();
    let direct = cluster.direct(1).await;
    assert_eq!(direct.query("SELECT 1 FROM t", &[]).await.unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_portal_gives_its_rows_in_parts() {
    let cluster = Cluster::start().await;
    let mut raw = Raw::start(&cluster).await;
    raw.parse("s", "SELECT * FROM generate_series(1, 5)");
    raw.describe('S', "s");
    raw.bind("p", "s");
    raw.describe('P', "p");
    raw.execute("p", 2);
    raw.execute("p", 2);
    raw.execute("p", 2);
    raw.close('P', "p");
    raw.close('S', "s");
    raw.sync();
    let (tags, errors) = raw.until_ready().await;
    assert!(errors.is_empty(), "{errors:?}");
    assert_eq!(tags, "1tT2TDDsDDsDC33Z");
}

#[tokio::test(flavor = "multi_thread")]
async fn transactions_and_settings_by_the_extended_protocol() {
    let cluster = Cluster::start().await;
    let client = cluster.connect().await;
    client
        .batch_execute("CREATE TABLE t (id bigint PRIMARY KEY)")
        .await
        .unwrap();
    let key = cluster.keys_of(1, 1)[0];
    for (end, rows) in [("ROLLBACK", 0), ("COMMIT", 1)] {
        for sql in [
            "BEGIN",
            &format!("INSERT INTO t VALUES ({key})"),
            "SET LOCAL work_mem = '1MB'",
            end,
        ] {
            client.execute(sql, &[]).await.unwrap();
        }
        assert_eq!(
            client.query("SELECT 1 FROM t", &[]).await.unwrap().len(),
            rows,
            "{end}"
        );
    }
    let mut raw = Raw::start(&cluster).await;
    for sql in ["BEGIN", &format!("DELETE FROM t WHERE id = {key}"), "COMMIT"] {
        raw.parse("", sql);
        raw.bind("", "");
        raw.execute("", 0);
    }
    raw.sync();
    let (tags, errors) = raw.until_ready().await;
    assert!(errors.is_empty(), "{errors:?}");
    assert_eq!(tags, "12C12C12CZ");
    assert!(client.query("SELECT 1 FROM t", &[]).await.unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn sql_prepare_and_execute() {
    let cluster = Cluster::start().await;
    let client = cluster.connect().await;
    client
        .batch_execute("CREATE TABLE t (id bigint PRIMARY KEY)")
        .await
        .unwrap();
    client
        .batch_execute("PREPARE ins (bigint) AS INSERT INTO t VALUES ($1)")
        .await
        .unwrap();
    for id in 1..=10 {
        client
            .batch_execute(&format!("EXECUTE ins ({id})"))
            .await
            .unwrap();
    }
    assert_eq!(client.query("SELECT 1 FROM t", &[]).await.unwrap().len(), 10);
    client.batch_execute("DEALLOCATE ins").await.unwrap();
    assert_eq!(
        code(&client.batch_execute("EXECUTE ins (1)").await.unwrap_err()),
        "26000"
    );
}
