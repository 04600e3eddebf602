//! Transactions that wait for each other on two groups.

use std::time::{Duration, Instant};

use crate::harness::{Cluster, code};

#[tokio::test(flavor = "multi_thread")]
async fn a_circle_through_two_groups_has_one_victim_with_40p01() {
    let cluster = Cluster::start().await;
    let client = cluster.connect().await;
    client
        .batch_execute("CREATE TABLE t (id bigint PRIMARY KEY, v bigint)")
        .await
        .unwrap();
    let keys = [cluster.keys_of(0, 1)[0], cluster.keys_of(1, 1)[0]];
    for key in keys {
        let sql = format!("INSERT INTO t VALUES ({key}, 0)");
        client.batch_execute(&sql).await.unwrap();
    }
    let [one, two] = [cluster.connect().await, cluster.connect().await];
    let update = |key: i64| format!("UPDATE t SET v = v + 1 WHERE id = {key}");
    one.batch_execute("BEGIN").await.unwrap();
    one.batch_execute(&update(keys[0])).await.unwrap();
    two.batch_execute("BEGIN").await.unwrap();
    two.batch_execute(&update(keys[1])).await.unwrap();
    let begun = Instant::now();
    let (sql_one, sql_two) = (update(keys[1]), update(keys[0]));
    let both = async { tokio::join!(one.batch_execute(&sql_one), two.batch_execute(&sql_two)) };
    let ended = tokio::time::timeout(Duration::from_secs(20), both).await;
    let (first, second) = ended.expect("no hang");
    assert!(first.is_ok() != second.is_ok(), "{first:?} {second:?}");
    let error = first.and(second).unwrap_err();
    assert_eq!(code(&error), "40P01", "after {:?}", begun.elapsed());
    one.batch_execute("COMMIT").await.unwrap();
    two.batch_execute("COMMIT").await.unwrap();
    let rows = client.query("SELECT v FROM t", &[]).await.unwrap();
    let values: Vec<i64> = rows.iter().map(|row| row.get(0)).collect();
    assert_eq!(values, [1, 1], "the survivor's transaction, whole");
    // The victim's session goes on.
    for client in [&one, &two] {
        client.batch_execute(&update(keys[0])).await.unwrap();
    }
}
