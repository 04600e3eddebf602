//! One read of several groups.

use crate::harness::{Cluster, code};

#[tokio::test(flavor = "multi_thread")]
async fn rows_of_all_groups_follow_each_other() {
    let cluster = Cluster::start().await;
    let client = cluster.connect().await;
    client
        .batch_execute("CREATE TABLE t (id bigint PRIMARY KEY, v text)")
        .await
        .unwrap();
    for id in 1..=200_i64 {
        client
            .execute("INSERT INTO t VALUES ($1, repeat('x', 10000))", &[&id])
            .await
            .unwrap();
    }
    assert_eq!(client.query("SELECT id, v FROM t", &[]).await.unwrap().len(), 200);
    let (one, two) = (cluster.keys_of(0, 1)[0], cluster.keys_of(1, 1)[0]);
    let rows = client
        .query("SELECT id FROM t WHERE id IN ($1, $2)", &[&one, &two])
        .await
        .unwrap();
    assert_eq!(rows.len(), 2);
    client.batch_execute("BEGIN").await.unwrap();
    assert_eq!(client.query("SELECT id FROM t", &[]).await.unwrap().len(), 200);
    client.batch_execute("COMMIT").await.unwrap();
    let lines = cluster.psql("COPY (SELECT id FROM t) TO STDOUT").await.unwrap();
    assert_eq!(lines.lines().count(), 200);
    let error = client
        .query("SELECT id / (id - $1) FROM t", &[&two])
        .await
        .unwrap_err();
    assert_eq!(code(&error), "22012");
    assert_eq!(client.query("SELECT id FROM t", &[]).await.unwrap().len(), 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_of_all_groups_are_counted() {
    let cluster = Cluster::start().await;
    let client = cluster.connect().await;
    client
        .batch_execute("CREATE TABLE t (id bigint PRIMARY KEY)")
        .await
        .unwrap();
    let sql = "SELECT count(*) AS n FROM t WHERE id > $1";
    let text = || async { cluster.psql("SELECT count(*) FROM t").await.unwrap() };
    assert_eq!(text().await.trim(), "0");
    let values: Vec<String> = (1..=1000).map(|id| format!("({id})")).collect();
    client
        .batch_execute(&format!("INSERT INTO t VALUES {}", values.join(",")))
        .await
        .unwrap();
    assert_eq!(text().await.trim(), "1000");
    // In binary.
    for (above, expected) in [(0_i64, 1000_i64), (400, 600), (1000, 0)] {
        let rows = client.query(sql, &[&above]).await.unwrap();
        assert_eq!(rows.len(), 1);
        assert_eq!(rows[0].get::<_, i64>("n"), expected);
    }
    client
        .batch_execute("PREPARE c AS SELECT count(*) FROM t")
        .await
        .unwrap();
    let rows = client.simple_query("EXECUTE c").await.unwrap();
    let counts: Vec<_> = rows
        .iter()
        .filter_map(|message| match message {
            tokio_postgres::SimpleQueryMessage::Row(row) => row.get(0),
            _ => None,
        })
        .collect();
    assert_eq!(counts, ["1000"]);
}
