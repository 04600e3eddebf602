//! One snapshot of two groups.

use std::sync::atomic::{AtomicBool, Ordering};

use tokio_postgres::Client;

use crate::harness::raw::Raw;
use crate::harness::{Cluster, code, open_door};

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

fn sum(rows: &[tokio_postgres::SimpleQueryMessage]) -> i64 {
    let values = rows.iter().filter_map(|message| match message {
        tokio_postgres::SimpleQueryMessage::Row(row) => row.get(0)?.parse::<i64>().ok(),
        _ => None,
    });
    values.sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_of_both_groups_in_a_read_committed_block_never_sees_half_a_transfer() {
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
        client.batch_execute("BEGIN").await.unwrap();
        // What it has written itself is seen, and nobody else sees it.
        let mut own = 0;
        for key in [cluster.keys_of(0, 4)[3], cluster.keys_of(1, 4)[3]] {
            let sql = format!("INSERT INTO t VALUES ({key}, 7)");
            client.batch_execute(&sql).await.unwrap();
            own += 7;
            for _ in 0..20 {
                let simple = client.simple_query("SELECT v FROM t").await.unwrap();
                assert_eq!(sum(&simple), 6 * BALANCE + own, "simple");
                let rows = client.query(&prepared, &[&0_i64]).await.unwrap();
                let total: i64 = rows.iter().map(|row| row.get::<_, i64>(0)).sum();
                assert_eq!(total, 6 * BALANCE + own, "extended");
            }
        }
        client.batch_execute("ROLLBACK").await.unwrap();
        done.store(true, Ordering::Relaxed);
    };
    let ((), transfers) = tokio::join!(reads, transfers);
    assert!(transfers > 10, "{transfers} transfers");
}

#[tokio::test(flavor = "multi_thread")]
async fn each_read_of_a_read_committed_block_sees_what_was_answered_before_it() {
    let cluster = Cluster::start().await;
    let (client, keys) = accounts(&cluster).await;
    let other = cluster.connect().await;
    client.batch_execute("BEGIN").await.unwrap();
    let changed = "SELECT v FROM t WHERE v <> 100";
    let prepared = client.prepare(changed).await.unwrap();
    for round in 0..6 {
        assert_eq!(
            sum(&client.simple_query(changed).await.unwrap()),
            if round == 0 { 0 } else { 200 }
        );
        transfer(&other, keys[0], keys[3]).await;
        assert_eq!(client.query(&prepared, &[]).await.unwrap().len(), 2);
        let counted = "SELECT count(*) FROM t WHERE v <> 100";
        assert_eq!(sum(&client.simple_query(counted).await.unwrap()), 2);
    }
    // An error in it, on one group, is an error of the block; a savepoint leads out of it.
    for sql in [
        "SELECT 1 / (id - %) FROM t",
        "SELECT nothing FROM t WHERE id <> %",
    ] {
        client.batch_execute("SAVEPOINT s").await.unwrap();
        let sql = sql.replace('%', &keys[4].to_string());
        let error = client.simple_query(&sql).await.unwrap_err();
        let expected = code(&error);
        assert!(["22012", "42703"].contains(&expected), "{error}");
        assert_eq!(code(&client.query(&sql, &[]).await.unwrap_err()), "25P02");
        client.batch_execute("ROLLBACK TO s").await.unwrap();
        assert_eq!(code(&client.query(&sql, &[]).await.unwrap_err()), expected);
        client.batch_execute("ROLLBACK TO s").await.unwrap();
        assert_eq!(sum(&client.simple_query(changed).await.unwrap()), 200);
    }
    client.batch_execute("COMMIT").await.unwrap();
}

/// While commits are held a statement must not wait for whoever holds a lock and commits.
#[tokio::test(flavor = "multi_thread")]
async fn a_read_in_a_block_waits_for_a_lock_before_commits_are_held() {
    let cluster = Cluster::start().await;
    let (client, _) = accounts(&cluster).await;
    let direct = cluster.direct(1).await;
    for sql in ["BEGIN", "LOCK t IN ACCESS EXCLUSIVE MODE"] {
        direct.batch_execute(sql).await.unwrap();
    }
    client.batch_execute("BEGIN").await.unwrap();
    let read = client.simple_query("SELECT v FROM t");
    let others = async {
        let waits = "SELECT FROM pg_stat_activity WHERE wait_event_type = 'Lock'";
        while direct.query(waits, &[]).await.unwrap().is_empty() {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
        // A cut for somebody else is not in its way.
        let other = cluster.connect().await;
        other
            .batch_execute("CREATE TABLE u (id int PRIMARY KEY)")
            .await
            .unwrap();
        other.batch_execute("BEGIN").await.unwrap();
        assert!(other.query("SELECT id FROM u", &[]).await.unwrap().is_empty());
        other.batch_execute("COMMIT").await.unwrap();
        direct.batch_execute("COMMIT").await.unwrap();
    };
    let both = async { tokio::join!(read, others) };
    let both = tokio::time::timeout(std::time::Duration::from_secs(60), both).await;
    let (read, ()) = both.expect("they do not wait for each other");
    assert_eq!(sum(&read.unwrap()), 6 * BALANCE);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_portal_in_a_block_is_read_once() {
    let cluster = Cluster::start().await;
    let (_client, _) = accounts(&cluster).await;
    let mut raw = Raw::start(&cluster).await;
    raw.parse("", "BEGIN");
    raw.bind("", "");
    raw.execute("", 0);
    raw.sync();
    raw.until_ready().await;
    raw.parse("", "SELECT v FROM t");
    raw.bind("p", "");
    raw.describe('P', "p");
    raw.execute("p", 0);
    raw.execute("p", 0);
    raw.sync();
    let (tags, errors) = raw.until_ready().await;
    assert!(errors.is_empty(), "{errors:?}");
    assert_eq!(tags, "12TDDDDDDCCZ");
    // In the middle of a pipeline that has written.
    raw.parse("", "COMMIT");
    raw.bind("", "");
    raw.execute("", 0);
    raw.sync();
    raw.until_ready().await;
    raw.parse("", "INSERT INTO t VALUES (1000000, 1)");
    raw.bind("", "");
    raw.execute("", 0);
    raw.parse("", "SELECT v FROM t");
    raw.bind("", "");
    raw.execute("", 0);
    raw.sync();
    let (tags, errors) = raw.until_ready().await;
    assert!(errors.is_empty(), "{errors:?}");
    assert_eq!(tags, "12C12DDDDDDDCZ");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_comes_too_late_for_a_snapshot_may_repeat_the_transaction() {
    let cluster = Cluster::start().await;
    let (client, keys) = accounts(&cluster).await;
    let direct = cluster.direct(1).await;
    for begin in [
        "BEGIN ISOLATION LEVEL REPEATABLE READ",
        "BEGIN ISOLATION LEVEL SERIALIZABLE READ ONLY",
    ] {
        client.batch_execute(begin).await.unwrap();
        value(&client, keys[0]).await;
        let keepers = "SELECT count(pg_terminate_backend(pid, 20000)) FROM pg_stat_activity \
                       WHERE application_name = 'howdah control' AND state = 'idle in transaction'";
        let ended: i64 = direct.query_one(keepers, &[]).await.unwrap().get(0);
        assert!(ended > 0, "{begin}");
        let error = client
            .query("SELECT v FROM t WHERE id = $1", &[&keys[3]])
            .await
            .unwrap_err();
        assert_eq!(code(&error), "40001", "{begin}");
        client.batch_execute("ROLLBACK").await.unwrap();
        client.batch_execute(begin).await.unwrap();
        value(&client, keys[0]).await;
        value(&client, keys[3]).await;
        client.batch_execute("COMMIT").await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn copies_and_tables_made_of_queries_show_whole_transactions() {
    let cluster = Cluster::start().await;
    let (client, keys) = accounts(&cluster).await;
    let over = std::sync::Arc::new(AtomicBool::new(false));
    let mut movers = Vec::new();
    for (from, to) in [(keys[0], keys[3]), (keys[4], keys[1])] {
        let (mover, over) = (cluster.connect().await, std::sync::Arc::clone(&over));
        movers.push(tokio::spawn(async move {
            while !over.load(Ordering::Relaxed) {
                transfer(&mover, from, to).await;
            }
        }));
    }
    for round in 0..25 {
        let sql = "CREATE TABLE made AS SELECT id, v FROM t";
        client.batch_execute(sql).await.expect(sql);
        let sum = client
            .query_one("SELECT sum(v)::int8, count(*) FROM made", &[])
            .await;
        let sum = sum.expect("a sum");
        assert_eq!((sum.get(0), sum.get(1)), (6 * BALANCE, 6_i64), "in round {round}");
        client.batch_execute("DROP TABLE made; BEGIN").await.unwrap();
        for sql in [
            "COPY (SELECT v FROM t) TO STDOUT",
            "COPY (SELECT v FROM t ORDER BY id) TO STDOUT",
        ] {
            let rows = client.copy_out(sql).await.expect(sql);
            let parts: Vec<bytes::Bytes> = futures::TryStreamExt::try_collect(rows).await.expect(sql);
            let lines = String::from_utf8(parts.concat()).expect("numbers");
            let total: i64 = lines
                .lines()
                .map(|line| line.parse::<i64>().expect("a number"))
                .sum();
            assert_eq!(total, 6 * BALANCE, "{sql} in round {round}");
        }
        client.batch_execute("COMMIT").await.unwrap();
    }
    over.store(true, Ordering::Relaxed);
    for mover in movers {
        mover.await.expect("a mover");
    }
}

/// The sums of what has been stored, by rounds.
async fn stored(client: &Client) -> Vec<(i32, i64, i64)> {
    let sql = "SELECT round, sum(v)::int8, count(*) FROM stored GROUP BY round ORDER BY round";
    let rows = client.query(sql, &[]).await.expect(sql);
    rows.iter()
        .map(|row| (row.get(0), row.get(1), row.get(2)))
        .collect()
}

/// Each group could insert what it selects of its own rows, but each would see them at its own time.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_inserted_of_rows_of_both_groups_never_has_half_a_transfer() {
    let cluster = Cluster::start().await;
    let (client, keys) = accounts(&cluster).await;
    let sql = "CREATE TABLE stored (id bigint, round int, v bigint, PRIMARY KEY (id, round)); CREATE VIEW seen AS SELECT id, v FROM t";
    client.batch_execute(sql).await.expect("a table");
    let over = std::sync::Arc::new(AtomicBool::new(false));
    let mut movers = Vec::new();
    for (from, to) in [(keys[0], keys[3]), (keys[4], keys[1]), (keys[2], keys[5])] {
        let (mover, over) = (cluster.connect().await, std::sync::Arc::clone(&over));
        movers.push(tokio::spawn(async move {
            while !over.load(Ordering::Relaxed) {
                transfer(&mover, from, to).await;
            }
        }));
    }
    let list: Vec<String> = keys.iter().map(i64::to_string).collect();
    let list = list.join(", ");
    let ways: [(&str, &str, String); 9] = [
        ("", "", "INSERT INTO stored SELECT id, %, v FROM t".to_owned()),
        (
            "",
            "",
            format!("INSERT INTO stored SELECT id, %, v FROM t WHERE id IN ({list})"),
        ),
        ("", "", "INSERT INTO stored SELECT id, %, v FROM seen".to_owned()),
        (
            "",
            "",
            "INSERT INTO stored SELECT id, %, v FROM t ON CONFLICT DO NOTHING".to_owned(),
        ),
        (
            "",
            "",
            "INSERT INTO stored SELECT id, %, v FROM t ON CONFLICT (id, round) DO UPDATE SET v = 0"
                .to_owned(),
        ),
        (
            "",
            "",
            "INSERT INTO stored SELECT id, %, v FROM t RETURNING id".to_owned(),
        ),
        (
            "BEGIN",
            "COMMIT",
            "INSERT INTO stored SELECT id, %, v FROM t".to_owned(),
        ),
        (
            "BEGIN; SELECT 1",
            "COMMIT",
            "INSERT INTO stored SELECT id, %, v FROM t ON CONFLICT (id, round) DO UPDATE SET v = 0"
                .to_owned(),
        ),
        (
            "",
            "",
            "SELECT 1; INSERT INTO stored SELECT id, %, v FROM t".to_owned(),
        ),
    ];
    let mut torn = std::collections::BTreeMap::<String, usize>::new();
    for _ in 0..8 {
        for (index, (begin, end, insert)) in ways.iter().enumerate() {
            let sql = insert.replace('%', &index.to_string());
            for sql in [begin, sql.as_str(), end] {
                client.batch_execute(sql).await.expect(sql);
            }
        }
        let insert = "INSERT INTO stored SELECT id, $1, v FROM t WHERE id > $2";
        let done = client.execute(insert, &[&100_i32, &i64::MIN]).await;
        assert_eq!(done.expect(insert), 6);
        client.batch_execute("BEGIN").await.unwrap();
        client
            .execute(insert, &[&101_i32, &i64::MIN])
            .await
            .expect(insert);
        client.batch_execute("COMMIT").await.unwrap();
        for (round, total, count) in stored(&client).await {
            if (total, count) != (6 * BALANCE, 6) {
                let way = usize::try_from(round).ok().and_then(|round| ways.get(round));
                let way = way.map_or_else(
                    || format!("{insert} ({round})"),
                    |(begin, _, insert)| format!("{begin}; {insert}"),
                );
                *torn.entry(way).or_default() += 1;
            }
        }
        client.batch_execute("TRUNCATE stored").await.unwrap();
    }
    over.store(true, Ordering::Relaxed);
    for mover in movers {
        mover.await.expect("a mover");
    }
    assert!(torn.is_empty(), "{torn:#?}");
}

/// A statement, which waits for a lock in a group until others have done something.
async fn beside(
    cluster: &Cluster,
    client: &Client,
    sql: &str,
    others: impl Future<Output = ()>,
) -> Result<u64, String> {
    let direct = cluster.direct(0).await;
    let others = async {
        let waits = "SELECT FROM pg_stat_activity WHERE wait_event_type = 'Lock'";
        while direct.query(waits, &[]).await.expect(waits).is_empty() {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
        others.await;
    };
    let both = async { tokio::join!(client.simple_query(sql), others) };
    let both = tokio::time::timeout(std::time::Duration::from_secs(60), both).await;
    let (done, ()) = both.expect("it ends");
    match done.map_err(|error| code(&error).to_owned())?.as_slice() {
        [tokio_postgres::SimpleQueryMessage::CommandComplete(count)] => Ok(*count),
        other => panic!("{other:?}"),
    }
}

/// It has a snapshot for all of it, and yet it is READ COMMITTED: what has changed since does not fail it.
#[tokio::test(flavor = "multi_thread")]
async fn what_others_change_meanwhile_does_not_fail_an_insert_of_rows_of_both_groups() {
    let cluster = Cluster::start().await;
    let (client, keys) = accounts(&cluster).await;
    let (other, third) = (cluster.connect().await, cluster.connect().await);
    let sql = "CREATE TABLE kept (id bigint PRIMARY KEY, v bigint); CREATE TABLE child (id bigint PRIMARY KEY REFERENCES t, v bigint); \
               INSERT INTO kept SELECT id, 0 FROM t";
    client.batch_execute(sql).await.expect("tables");
    // The row that ON CONFLICT finds.
    let changes = format!("BEGIN; UPDATE kept SET v = 50 WHERE id = {}", keys[0]);
    other.batch_execute(&changes).await.unwrap();
    let sql = "INSERT INTO kept SELECT id, v FROM t ON CONFLICT (id) DO UPDATE SET v = kept.v + 1";
    let ends = async { other.batch_execute("COMMIT").await.unwrap() };
    assert_eq!(beside(&cluster, &client, sql, ends).await, Ok(6));
    let kept = client.simple_query("SELECT v FROM kept").await.unwrap();
    assert_eq!(sum(&kept), 51 + 5);
    // The row that a foreign key means.
    let changes = format!("BEGIN; INSERT INTO child VALUES ({}, 7)", keys[0]);
    other.batch_execute(&changes).await.unwrap();
    let anew = format!(
        "BEGIN; DELETE FROM t WHERE id = {0}; INSERT INTO t VALUES ({0}, 1000); COMMIT",
        keys[1]
    );
    let ends = async {
        third.batch_execute(&anew).await.expect(&anew);
        other.batch_execute("ROLLBACK").await.unwrap();
    };
    let sql = "INSERT INTO child SELECT id, v FROM t";
    assert_eq!(beside(&cluster, &client, sql, ends).await, Ok(6));
    let stored = client.simple_query("SELECT v FROM child").await.unwrap();
    assert_eq!(sum(&stored), 5 * BALANCE + 1000);
    // Both ways together have the time of one statement.
    let locks = |key: i64| format!("BEGIN; UPDATE kept SET v = 9 WHERE id = {key}");
    other.batch_execute(&locks(keys[0])).await.unwrap();
    third.batch_execute(&locks(keys[3])).await.unwrap();
    client
        .batch_execute("SET statement_timeout = '4s'")
        .await
        .unwrap();
    let since = std::time::Instant::now();
    let ends = async {
        tokio::time::sleep(std::time::Duration::from_millis(3000)).await;
        other.batch_execute("COMMIT").await.unwrap();
    };
    let sql = "INSERT INTO kept SELECT id, v FROM t ON CONFLICT (id) DO UPDATE SET v = 1";
    let done = beside(&cluster, &client, sql, ends).await;
    assert_eq!(done, Err("57014".to_owned()));
    // Else it would have the four seconds after the three.
    assert!(since.elapsed() < std::time::Duration::from_secs(7));
    third.batch_execute("ROLLBACK").await.unwrap();
    client.batch_execute("RESET statement_timeout").await.unwrap();
    // In a block that is REPEATABLE READ it fails, as on one server.
    let begin = "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT v FROM t";
    client.batch_execute(begin).await.unwrap();
    other.batch_execute("UPDATE kept SET v = 0").await.unwrap();
    assert_eq!(code(&client.batch_execute(sql).await.unwrap_err()), "40001");
    client.batch_execute("ROLLBACK").await.unwrap();
}

/// More rows than the session may hold show who inserts them.
#[tokio::test(flavor = "multi_thread")]
async fn each_group_inserts_its_own_rows_where_they_have_one_snapshot() {
    let config = proxy::ProxyConfig {
        limits: proxy::Limits {
            max_gathered: 1 << 20,
            ..proxy::Limits::default()
        },
        ..open_door()
    };
    let cluster = Cluster::configured(config).await;
    let client = cluster.connect().await;
    let sql = "CREATE TABLE long (id int PRIMARY KEY, t text); CREATE TABLE longer (LIKE long INCLUDING ALL)";
    client.batch_execute(sql).await.unwrap();
    for id in 0..8 {
        let sql = format!("INSERT INTO long VALUES ({id}, repeat('w', 300000))");
        client.batch_execute(&sql).await.unwrap();
    }
    let insert = "INSERT INTO longer TABLE long ON CONFLICT (id) DO UPDATE SET t = excluded.t";
    let snapshot = "BEGIN ISOLATION LEVEL REPEATABLE READ";
    for begin in ["", snapshot] {
        client.batch_execute(begin).await.unwrap();
        client.batch_execute(insert).await.expect(begin);
        client.batch_execute("COMMIT").await.unwrap();
    }
    client.batch_execute(snapshot).await.unwrap();
    assert_eq!(client.execute(insert, &[]).await.expect(snapshot), 8);
    client.batch_execute("COMMIT").await.unwrap();
    assert_eq!(code(&client.execute(insert, &[]).await.unwrap_err()), "53400");
    let returning = format!("{insert} RETURNING longer.id");
    for (begin, sql) in [("BEGIN", insert), ("", &returning)] {
        client.batch_execute(begin).await.unwrap();
        let error = client.batch_execute(sql).await.unwrap_err();
        assert_eq!(code(&error), "53400", "{begin}; {sql}");
        client.batch_execute("ROLLBACK").await.unwrap();
    }
    // All of one group, which does it as it is.
    client.batch_execute("BEGIN").await.unwrap();
    let one = "INSERT INTO longer SELECT id, t FROM long WHERE id = 3 ON CONFLICT (id) DO UPDATE SET t = 'x' RETURNING id";
    assert_eq!(client.query(one, &[]).await.unwrap().len(), 1);
    client.batch_execute("COMMIT").await.unwrap();
}
