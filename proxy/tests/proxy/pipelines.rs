//! Many messages without waiting for answers.

use futures::future::join_all;

use crate::harness::{Cluster, code};

#[tokio::test(flavor = "multi_thread")]
async fn pipelined_inserts_reach_their_groups() {
    let cluster = Cluster::start().await;
    let client = cluster.connect().await;
    client
        .batch_execute("CREATE TABLE p (id bigint PRIMARY KEY, v text)")
        .await
        .unwrap();
    let insert = client.prepare("INSERT INTO p VALUES ($1, $2)").await.unwrap();
    let value = "x".repeat(100);
    let ids: Vec<i64> = (0..3000).collect();
    let parameters: Vec<[&(dyn tokio_postgres::types::ToSql + Sync); 2]> =
        ids.iter().map(|id| [id as _, &value as _]).collect();
    let inserts = parameters
        .iter()
        .map(|parameters| client.execute(&insert, parameters));
    for result in join_all(inserts).await {
        assert_eq!(result.unwrap(), 1);
    }
    let rows = client.query("SELECT id FROM p", &[]).await.unwrap();
    assert_eq!(rows.len(), ids.len());
    for server in 0..2 {
        let direct = cluster.direct(server).await;
        let count: i64 = direct
            .query_one("SELECT count(*) FROM p", &[])
            .await
            .unwrap()
            .get(0);
        assert!((1200..=1800).contains(&count), "server {server} has {count}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_error_in_the_middle_leaves_the_others_alone() {
    let cluster = Cluster::start().await;
    let client = cluster.connect().await;
    client
        .batch_execute("CREATE TABLE p (id bigint PRIMARY KEY)")
        .await
        .unwrap();
    let insert = client.prepare("INSERT INTO p VALUES ($1)").await.unwrap();
    let ids = [1_i64, 2, 3, 2, 4, 1, 5];
    let results = join_all(ids.iter().map(|id| client.execute_raw(&insert, [id]))).await;
    let outcome: Vec<String> = results
        .iter()
        .map(|r| r.as_ref().map_or_else(|e| code(e).to_owned(), u64::to_string))
        .collect();
    assert_eq!(outcome, ["1", "1", "1", "23505", "1", "23505", "1"]);
}
