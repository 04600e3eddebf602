//! One read of several groups.

use crate::harness::raw::Raw;
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
    let mut raw = Raw::start(&cluster).await;
    raw.parse("", "SELECT id FROM t");
    raw.bind("", "");
    raw.describe('P', "");
    raw.execute("", 3);
    raw.sync();
    let (_, errors) = raw.until_ready().await;
    assert_eq!(errors, ["0A000"]);
}
