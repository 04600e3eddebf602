//! One snapshot of two groups.

use std::sync::atomic::{AtomicBool, Ordering};

use tokio_postgres::Client;

use crate::harness::raw::Raw;
use crate::harness::{Cluster, code};

const BALANCE: i64 = 100;

/// Accounts on both groups.
async fn accounts(cluster: &Cluster) -> (Client, Vec<i64>) {
    let client = cluster.connect().await;
    let sql = "CREATE TABLE t (id bigint PRIMARY KEY, v bigint)";
    client.batch_execute(sql).await.expect("a table");
    let keys = [cluster.keys_of(0, 3), cluster.keys_of(1, 3)].concat();
    for key in &keys {
        let sql = format!("INSERT INTO t VALUES ({key}, {BALANCE})");
        client.batch_execute(&sql).await.expect("a row");
    }
    (client, keys)
}

/// Moves one from an account to another.
async fn transfer(client: &Client, from: i64, to: i64) {
    let sql = format!(
        "BEGIN; UPDATE t SET v = v - 1 WHERE id = {from}; UPDATE t SET v = v + 1 WHERE id = {to}; COMMIT"
    );
    client.batch_execute(&sql).await.expect("a transfer");
}

async fn value(client: &Client, key: i64) -> i64 {
    let row = client.query_one("SELECT v FROM t WHERE id = $1", &[&key]).await;
    row.expect("a row").get(0)
}

#[tokio::test(flavor = "multi_thread")]
async fn repeatable_read_sees_both_groups_as_they_were_when_it_began() {
    let cluster = Cluster::start().await;
    let (client, keys) = accounts(&cluster).await;
    let (one, two) = (keys[0], keys[3]);
    let other = cluster.connect().await;
    for begin in [
        "BEGIN ISOLATION LEVEL REPEATABLE READ",
        "BEGIN; SET TRANSACTION ISOLATION LEVEL REPEATABLE READ",
        "BEGIN ISOLATION LEVEL SERIALIZABLE READ ONLY",
        "SET default_transaction_isolation = 'repeatable read'",
    ] {
        client.batch_execute(begin).await.unwrap();
        if begin.starts_with("SET") {
            client.batch_execute("BEGIN; SAVEPOINT s").await.unwrap();
        }
        let before = (value(&client, one).await, value(&other, two).await);
        transfer(&other, one, two).await;
        assert_eq!(value(&client, two).await, before.1, "{begin}");
        assert_eq!(value(&client, one).await, before.0, "{begin}");
        let all = client.query("SELECT v FROM t", &[]).await.unwrap();
        let total: i64 = all.iter().map(|row| row.get::<_, i64>(0)).sum();
        assert_eq!(total, 6 * BALANCE);
        client.batch_execute("COMMIT").await.unwrap();
        assert_eq!(value(&client, two).await, before.1 + 1, "{begin}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn it_sees_what_was_answered_before_and_its_own_writes() {
    let cluster = Cluster::start().await;
    let (client, keys) = accounts(&cluster).await;
    let other = cluster.connect().await;
    for round in 1..=10 {
        transfer(&other, keys[0], keys[3]).await;
        client
            .batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
            .await
            .unwrap();
        assert_eq!(value(&client, keys[3]).await, BALANCE + round);
        assert_eq!(value(&client, keys[0]).await, BALANCE - round);
        client.batch_execute("ROLLBACK").await.unwrap();
    }
    client
        .batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
        .await
        .unwrap();
    for key in [keys[1], keys[4]] {
        client
            .execute("UPDATE t SET v = 7 WHERE id = $1", &[&key])
            .await
            .unwrap();
        assert_eq!(value(&client, key).await, 7);
    }
    // Whoever comes second fails, as on one server.
    other
        .batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
        .await
        .unwrap();
    value(&other, keys[2]).await;
    client.batch_execute("COMMIT").await.unwrap();
    let error = other
        .execute("UPDATE t SET v = 8 WHERE id = $1", &[&keys[4]])
        .await
        .unwrap_err();
    assert_eq!(code(&error), "40001");
    other.batch_execute("ROLLBACK").await.unwrap();
    assert_eq!(
        (value(&client, keys[1]).await, value(&client, keys[4]).await),
        (7, 7)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn serializable_on_several_groups_is_read_only_or_refused() {
    let cluster = Cluster::start().await;
    let (client, keys) = accounts(&cluster).await;
    client
        .batch_execute("BEGIN ISOLATION LEVEL SERIALIZABLE")
        .await
        .unwrap();
    value(&client, keys[0]).await;
    let error = client
        .query("SELECT v FROM t WHERE id = $1", &[&keys[3]])
        .await
        .unwrap_err();
    assert_eq!(code(&error), "0A000");
    client.batch_execute("ROLLBACK").await.unwrap();
    client
        .batch_execute("SET default_transaction_isolation = 'serializable'")
        .await
        .unwrap();
    assert_eq!(client.query("SELECT v FROM t", &[]).await.unwrap().len(), 6);
    client
        .execute("UPDATE t SET v = 1 WHERE id = $1", &[&keys[0]])
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_single_read_of_both_groups_never_sees_half_a_transfer() {
    let cluster = Cluster::start().await;
    let (client, keys) = accounts(&cluster).await;
    let done = AtomicBool::new(false);
    let transfers = async {
        let other = cluster.connect().await;
        let mut round = 0;
        while !done.load(Ordering::Relaxed) {
            transfer(&other, keys[round % 6], keys[(round + 3) % 6]).await;
            round += 1;
        }
        round
    };
    let reads = async {
        let prepared = client.prepare("SELECT v FROM t WHERE v > $1").await.unwrap();
        for _ in 0..30 {
            let simple = client.simple_query("SELECT v FROM t").await.unwrap();
            let total: i64 = simple
                .iter()
                .filter_map(|message| match message {
                    tokio_postgres::SimpleQueryMessage::Row(row) => row.get(0)?.parse::<i64>().ok(),
                    _ => None,
                })
                .sum();
            assert_eq!(total, 6 * BALANCE, "simple");
            let rows = client.query(&prepared, &[&0_i64]).await.unwrap();
            let total: i64 = rows.iter().map(|row| row.get::<_, i64>(0)).sum();
            assert_eq!(total, 6 * BALANCE, "extended");
        }
        done.store(true, Ordering::Relaxed);
    };
    let ((), transfers) = tokio::join!(reads, transfers);
    assert!(transfers > 10, "{transfers} transfers");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_of_both_groups_in_a_pipeline_leaves_no_transaction_open() {
    let cluster = Cluster::start().await;
    let (_client, keys) = accounts(&cluster).await;
    let mut raw = Raw::start(&cluster).await;
    raw.parse("", "SELECT v FROM t");
    raw.bind("", "");
    raw.describe('P', "");
    raw.execute("", 0);
    raw.sync();
    let (tags, errors) = raw.until_ready().await;
    assert!(errors.is_empty(), "{errors:?}");
    assert_eq!(tags, "12TDDDDDDCZ");
    raw.parse("", "SELECT 1 / (v - v) FROM t");
    raw.bind("", "");
    raw.execute("", 0);
    raw.sync();
    let (_, errors) = raw.until_ready().await;
    assert_eq!(errors, ["22012"]);
    raw.parse("", &format!("UPDATE t SET v = 5 WHERE id = {}", keys[0]));
    raw.bind("", "");
    raw.execute("", 0);
    raw.sync();
    let (_, errors) = raw.until_ready().await;
    assert!(errors.is_empty(), "{errors:?}");
    for server in [0, 1] {
        let direct = cluster.direct(server).await;
        let open = "SELECT count(*) FROM pg_stat_activity WHERE state LIKE 'idle in transaction%' \
                    AND application_name <> 'howdah control'";
        let open: i64 = direct.query_one(open, &[]).await.unwrap().get(0);
        assert_eq!(open, 0);
    }
}

/// The anomaly of Fekete, O'Neil and O'Neil (2004), with a reader on two groups: its snapshot is exported before the pivot
/// commits, and imported after.
#[tokio::test(flavor = "multi_thread")]
async fn a_serializable_reader_of_two_groups_does_not_see_what_no_order_explains() {
    let cluster = Cluster::start().await;
    let (first, keys) = accounts(&cluster).await;
    let (second, reader) = (cluster.connect().await, cluster.connect().await);
    let (x, y, elsewhere) = (keys[0], keys[1], keys[3]);
    let begin = "BEGIN ISOLATION LEVEL SERIALIZABLE";
    first.batch_execute(begin).await.unwrap();
    value(&first, x).await;
    second.batch_execute(begin).await.unwrap();
    let write = |key: i64| format!("UPDATE t SET v = 1 WHERE id = {key}");
    second.batch_execute(&write(x)).await.unwrap();
    second.batch_execute("COMMIT").await.unwrap();
    reader.batch_execute(&format!("{begin} READ ONLY")).await.unwrap();
    value(&reader, elsewhere).await;
    first.batch_execute(&write(y)).await.unwrap();
    first.batch_execute("COMMIT").await.unwrap();
    // It sees what the second wrote, which comes after the first, and not what the first wrote.
    let read = reader
        .query("SELECT v FROM t WHERE id = $1", &[&x])
        .await
        .map(|rows| rows[0].get::<_, i64>(0));
    let read = match read {
        Ok(seen) => {
            assert_eq!(seen, 1);
            let rest = reader.query("SELECT v FROM t WHERE id = $1", &[&y]).await;
            rest.map(|rows| rows[0].get::<_, i64>(0))
        }
        failed => failed,
    };
    assert_eq!(code(&read.expect_err("no order explains both")), "40001");
    let error = reader.batch_execute(&write(elsewhere)).await.unwrap_err();
    assert_eq!(code(&error), "25P02");
    reader.batch_execute("ROLLBACK").await.unwrap();
    reader.batch_execute(&format!("{begin} READ ONLY")).await.unwrap();
    let error = reader.batch_execute(&write(elsewhere)).await.unwrap_err();
    assert_eq!(code(&error), "25006", "READ ONLY holds");
}
