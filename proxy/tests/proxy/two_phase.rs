//! Transactions that write on two groups.

use std::collections::HashSet;

use futures::future::join_all;
use tokio_postgres::Client;

use crate::harness::raw::Raw;
use crate::harness::{Cluster, code};

/// A table, and a key of each group.
async fn accounts(cluster: &Cluster) -> (Client, i64, i64) {
    let client = cluster.connect().await;
    let sql = "CREATE TABLE t (id bigint PRIMARY KEY, v bigint)";
    client.batch_execute(sql).await.expect("a table");
    (client, cluster.keys_of(0, 1)[0], cluster.keys_of(1, 1)[0])
}

async fn values(client: &Client) -> Vec<(i64, i64)> {
    let rows = client.query("SELECT id, v FROM t", &[]).await.expect("an answer");
    let mut values: Vec<_> = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
    values.sort_unstable();
    values
}

/// Nothing may be left prepared, and every decision must be one.
async fn nothing_in_doubt(cluster: &Cluster) {
    for server in [0, 1] {
        let direct = cluster.direct(server).await;
        let prepared = direct
            .query("SELECT gid FROM pg_prepared_xacts", &[])
            .await
            .expect("an answer");
        assert!(prepared.is_empty(), "server {server}");
    }
}

async fn decisions(cluster: &Cluster) -> i64 {
    let mut all = 0;
    for server in [0, 1] {
        let direct = cluster.direct(server).await;
        let row = direct
            .query_one("SELECT count(*) FROM howdah.decisions", &[])
            .await
            .expect("an answer");
        all += row.get::<_, i64>(0);
    }
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_written_on_two_groups_commits_on_both_or_on_none() {
    let cluster = Cluster::start().await;
    let (client, one, two) = accounts(&cluster).await;
    // The table's own.
    let before = decisions(&cluster).await;
    let insert = "INSERT INTO t VALUES ($1, $2)";
    client.batch_execute("BEGIN").await.unwrap();
    client.execute(insert, &[&one, &1_i64]).await.unwrap();
    client.execute(insert, &[&two, &1_i64]).await.unwrap();
    client.batch_execute("COMMIT").await.unwrap();
    let both = |v| {
        let mut both = vec![(one, v), (two, v)];
        both.sort_unstable();
        both
    };
    assert_eq!(values(&client).await, both(1));

    client.batch_execute("BEGIN; SAVEPOINT s").await.unwrap();
    client
        .execute("UPDATE t SET v = 2 WHERE id = $1", &[&one])
        .await
        .unwrap();
    client
        .execute("UPDATE t SET v = 2 WHERE id = $1", &[&two])
        .await
        .unwrap();
    client.batch_execute("ROLLBACK TO s").await.unwrap();
    client.batch_execute("COMMIT").await.unwrap();
    assert_eq!(values(&client).await, both(1));

    client.batch_execute("BEGIN").await.unwrap();
    client
        .execute("UPDATE t SET v = 3 WHERE id = $1", &[&one])
        .await
        .unwrap();
    client
        .execute("UPDATE t SET v = 3 WHERE id = $1", &[&two])
        .await
        .unwrap();
    client.batch_execute("ROLLBACK").await.unwrap();
    assert_eq!(values(&client).await, both(1));

    let sql = format!("UPDATE t SET v = 4 WHERE id = {one}; UPDATE t SET v = 4 WHERE id = {two}");
    client.batch_execute(&sql).await.unwrap();
    assert_eq!(values(&client).await, both(4));
    let sql = format!("UPDATE t SET v = 5 WHERE id = {one}; UPDATE t SET v = 1 / 0 WHERE id = {two}");
    assert_eq!(code(&client.batch_execute(&sql).await.unwrap_err()), "22012");
    assert_eq!(values(&client).await, both(4));
    nothing_in_doubt(&cluster).await;
    assert_eq!(decisions(&cluster).await - before, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn only_groups_that_were_written_on_are_prepared() {
    let cluster = Cluster::start().await;
    let (client, one, two) = accounts(&cluster).await;
    let before = decisions(&cluster).await;
    client.batch_execute("BEGIN").await.unwrap();
    client
        .execute("INSERT INTO t VALUES ($1, 1)", &[&one])
        .await
        .unwrap();
    client
        .query("SELECT * FROM t WHERE id = $1", &[&two])
        .await
        .unwrap();
    client.batch_execute("COMMIT").await.unwrap();
    assert_eq!(values(&client).await, [(one, 1)]);
    assert_eq!(decisions(&cluster).await, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deferred_rule_that_fails_at_commit_keeps_nothing_wherever_it_is() {
    let cluster = Cluster::start().await;
    let client = cluster.connect().await;
    let sql = "CREATE TABLE t (id bigint, v bigint, UNIQUE (id) DEFERRABLE INITIALLY DEFERRED)";
    client.batch_execute(sql).await.unwrap();
    let (one, two) = (cluster.keys_of(0, 1)[0], cluster.keys_of(1, 1)[0]);
    // The part that fails is the anchor's the one time, a prepared one the other.
    for keys in [[one, one, two], [two, one, one], [two, two, one], [one, two, two]] {
        client.batch_execute("BEGIN").await.unwrap();
        for key in keys {
            client
                .execute("INSERT INTO t VALUES ($1, 1)", &[&key])
                .await
                .unwrap();
        }
        let error = client.batch_execute("COMMIT").await.unwrap_err();
        assert_eq!(code(&error), "23505");
        client.batch_execute("COMMIT").await.unwrap();
        assert!(values(&client).await.is_empty());
    }
    nothing_in_doubt(&cluster).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pipeline_is_one_transaction_over_two_groups() {
    let cluster = Cluster::start().await;
    let (client, one, two) = accounts(&cluster).await;
    let mut raw = Raw::start(&cluster).await;
    let insert = |key: i64, v: &str| format!("INSERT INTO t VALUES ({key}, {v})");
    for sql in [insert(one, "1"), insert(two, "1")] {
        raw.parse("", &sql);
        raw.bind("", "");
        raw.execute("", 0);
    }
    raw.sync();
    let (seen, errors) = raw.until_ready().await;
    assert!(errors.is_empty(), "{seen} {errors:?}");
    assert_eq!(values(&client).await.len(), 2);
    for sql in [
        format!("UPDATE t SET v = 2 WHERE id = {one}"),
        format!("UPDATE t SET v = 2 WHERE id = {two}"),
        format!("UPDATE t SET v = 1 / 0 WHERE id = {one}"),
    ] {
        raw.parse("", &sql);
        raw.bind("", "");
        raw.execute("", 0);
    }
    raw.sync();
    let (_, errors) = raw.until_ready().await;
    assert_eq!(errors, ["22012"]);
    assert!(values(&client).await.iter().all(|(_, v)| *v == 1));
    raw.parse("", "SELECT 1");
    raw.bind("", "");
    raw.execute("", 0);
    raw.sync();
    let (_, errors) = raw.until_ready().await;
    assert!(errors.is_empty(), "the session goes on: {errors:?}");
    nothing_in_doubt(&cluster).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_whose_client_leaves_in_the_middle_keeps_nothing() {
    let cluster = Cluster::start().await;
    let (client, one, two) = accounts(&cluster).await;
    let leaving = cluster.connect().await;
    leaving.batch_execute("BEGIN").await.unwrap();
    leaving
        .execute("INSERT INTO t VALUES ($1, 1)", &[&one])
        .await
        .unwrap();
    leaving
        .execute("INSERT INTO t VALUES ($1, 1)", &[&two])
        .await
        .unwrap();
    drop(leaving);
    // Its locks go with it.
    client.batch_execute("BEGIN").await.unwrap();
    client
        .execute("INSERT INTO t VALUES ($1, 2)", &[&one])
        .await
        .unwrap();
    client
        .execute("INSERT INTO t VALUES ($1, 2)", &[&two])
        .await
        .unwrap();
    client.batch_execute("COMMIT").await.unwrap();
    assert!(values(&client).await.iter().all(|(_, v)| *v == 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn totals_hold_under_transfers() {
    let cluster = Cluster::start().await;
    let (client, ..) = accounts(&cluster).await;
    let keys: Vec<i64> = [cluster.keys_of(0, 4), cluster.keys_of(1, 4)].concat();
    for key in &keys {
        client
            .execute("INSERT INTO t VALUES ($1, 100)", &[key])
            .await
            .unwrap();
    }
    let transfers = (0..4).map(|who: usize| {
        let (cluster, keys) = (&cluster, &keys);
        async move {
            let client = cluster.connect().await;
            for round in 0..25 {
                let mut pair = [keys[(who + round) % 8], keys[(3 * who + 5 * round + 1) % 8]];
                // In one order: two transfers never wait for each other in a circle.
                pair.sort_unstable();
                client.batch_execute("BEGIN").await.unwrap();
                for (key, sign) in pair.iter().zip([1, -1_i64]) {
                    client
                        .execute("UPDATE t SET v = v + $1 WHERE id = $2", &[&sign, key])
                        .await
                        .unwrap();
                }
                client.batch_execute("COMMIT").await.unwrap();
            }
        }
    });
    join_all(transfers).await;
    let total: i64 = values(&client).await.iter().map(|(_, v)| v).sum();
    assert_eq!(total, 800);
    nothing_in_doubt(&cluster).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_statement_after_such_a_commit_can_be_cancelled() {
    let cluster = Cluster::start().await;
    let (client, one, two) = accounts(&cluster).await;
    let insert = |key: i64| format!("INSERT INTO t VALUES ({key}, 0)");
    let block = format!("BEGIN; {}; {}; COMMIT", insert(one), insert(two));
    client.batch_execute(&block).await.unwrap();
    for key in [two, one] {
        // On the group of the last answer, and on the other.
        let token = client.cancel_token();
        let sleep = format!("SELECT pg_sleep(30) FROM t WHERE id = {key}");
        let (slept, ()) = tokio::join!(client.batch_execute(&sleep), async {
            tokio::time::sleep(std::time::Duration::from_millis(300)).await;
            token.cancel_query(tokio_postgres::NoTls).await.unwrap();
        });
        assert_eq!(code(&slept.unwrap_err()), "57014");
        client
            .batch_execute(&format!(
                "BEGIN; UPDATE t SET v = 1 WHERE id = {one}; UPDATE t SET v = 1 WHERE id = {two}; COMMIT"
            ))
            .await
            .unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_with_a_cursor_that_outlives_the_transaction_is_not_prepared() {
    let cluster = Cluster::start().await;
    let (client, one, two) = accounts(&cluster).await;
    let fill = format!("INSERT INTO t VALUES ({one}, 1), ({two}, 1)");
    client.batch_execute(&fill).await.unwrap();
    let update = |id| format!("UPDATE t SET v = v + 1 WHERE id = {id}");
    let declare = |id| format!("DECLARE c{id} CURSOR WITH HOLD FOR SELECT v FROM t WHERE id = {id}");
    let v = |row: &tokio_postgres::Row| row.get::<_, i64>(0);
    // Whichever group it is, and whichever was written on first.
    for (held, first, second) in [(one, one, two), (one, two, one), (two, one, two)] {
        let block = ["BEGIN", &update(first), &declare(held), &update(second), "COMMIT"].join("; ");
        client.batch_execute(&block).await.unwrap();
        let fetched = client.query_one(&format!("FETCH c{held}"), &[]).await.unwrap();
        let now = client
            .query_one("SELECT v FROM t WHERE id = $1", &[&held])
            .await
            .unwrap();
        assert_eq!(
            v(&now) - v(&fetched),
            i64::from(held == second),
            "what it showed when it was declared"
        );
        client.batch_execute(&format!("CLOSE c{held}")).await.unwrap();
    }
    let before = values(&client).await;
    // A second one is refused at the statement that makes it one.
    for [then, last] in [[update(one), declare(two)], [declare(two), update(one)]] {
        let block = ["BEGIN", &update(two), &declare(one), &then].join("; ");
        client.batch_execute(&block).await.unwrap();
        let refused = client.batch_execute(&last).await;
        assert_eq!(code(&refused.unwrap_err()), "0A000");
        client.batch_execute("ROLLBACK").await.unwrap();
    }
    assert_eq!(values(&client).await, before);
    nothing_in_doubt(&cluster).await;
}

/// A prepared part is committed without waiting for a majority, which has it. What the backend commits next has to wait again,
/// also if the SET that says so was cancelled.
#[tokio::test(flavor = "multi_thread")]
async fn a_backend_that_is_cancelled_at_the_end_of_a_commit_is_not_left_without_replication() {
    let cluster = Cluster::start().await;
    let (client, one, two) = accounts(&cluster).await;
    // Files to be unlinked at a commit, which takes some milliseconds then.
    for index in 0..60 {
        let sql = format!("CREATE INDEX i{index} ON t (v)");
        client.batch_execute(&sql).await.unwrap();
    }
    let client = cluster.connect_as("application_name=struck").await;
    // From the moment that COMMIT PREPARED is seen, it and what follows are cancelled, again and again.
    let strike = "DO $$ DECLARE victim int; BEGIN \
        LOOP \
            PERFORM pg_stat_clear_snapshot(); \
            SELECT pid INTO victim FROM pg_stat_get_activity(NULL) \
                WHERE application_name = 'struck' AND query LIKE 'COMMIT PREPARED%'; \
            IF FOUND THEN \
                FOR signal IN 1..20000 LOOP PERFORM pg_cancel_backend(victim); END LOOP; \
                EXIT; \
            END IF; \
        END LOOP; END $$";
    let mut backends = HashSet::new();
    // As long as it takes: whether a striker runs in those milliseconds is up to a machine that has other things to do.
    for round in 1..=500_i64 {
        let strikers = [0, 1].map(|server| {
            let cluster = &cluster;
            async move {
                let direct = cluster.direct(server).await;
                (
                    direct.cancel_token(),
                    tokio::spawn(async move { direct.batch_execute(strike).await }),
                )
            }
        });
        let strikers = join_all(strikers).await;
        let write =
            format!("BEGIN; TRUNCATE t; INSERT INTO t VALUES ({one}, {round}), ({two}, {round}); COMMIT");
        client
            .batch_execute(&write)
            .await
            .expect("a commit that is decided cannot be cancelled");
        for (token, striker) in strikers {
            token
                .cancel_query(tokio_postgres::NoTls)
                .await
                .expect("it looks on");
            let _cancelled = striker.await.expect("it does not panic");
        }
        for id in [one, two] {
            let sql = format!(
                "SELECT v, current_setting('synchronous_commit'), pg_backend_pid() FROM t WHERE id = {id}"
            );
            let row = client.query_one(&sql, &[]).await.expect("a row");
            assert_eq!((row.get(0), row.get(1)), (round, "on"), "round {round}");
            backends.insert((id, row.get::<_, i32>(2)));
        }
        if backends.len() > 4 {
            break;
        }
    }
    assert!(backends.len() > 2, "none was struck and given up");
    nothing_in_doubt(&cluster).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_written_before_the_transaction_became_read_only_is_committed() {
    let cluster = Cluster::start().await;
    let (client, one, two) = accounts(&cluster).await;
    client
        .batch_execute(&format!(
            "INSERT INTO t VALUES ({one}, 0); INSERT INTO t VALUES ({two}, 0)"
        ))
        .await
        .unwrap();
    let both = |v| {
        let mut both = vec![(one, v), (two, v)];
        both.sort_unstable();
        both
    };
    let mut now = 0;
    for (begin, then) in [
        ("BEGIN", "SET TRANSACTION READ ONLY"),
        ("BEGIN", "SET transaction_read_only = on"),
        ("BEGIN", "SELECT set_config('transaction_read_only', 'on', true)"),
        ("BEGIN", "SAVEPOINT s; SET TRANSACTION READ ONLY; ROLLBACK TO s"),
        (
            "SET default_transaction_read_only = on; BEGIN READ WRITE",
            "SELECT 1",
        ),
        ("BEGIN READ WRITE", "SET TRANSACTION READ ONLY"),
        ("BEGIN READ WRITE", "SET TRANSACTION READ ONLY; ANALYZE t"),
    ] {
        now += 1;
        client.batch_execute(begin).await.unwrap();
        for key in [one, two] {
            let update = "UPDATE t SET v = $1 WHERE id = $2";
            client.execute(update, &[&now, &key]).await.unwrap();
        }
        client.batch_execute(then).await.unwrap();
        client.batch_execute("COMMIT").await.expect(then);
        assert_eq!(values(&client).await, both(now), "{then}");
    }
    // Nothing but what only maintains.
    client
        .batch_execute("BEGIN; ANALYZE t; COMMIT; REINDEX TABLE t")
        .await
        .unwrap();
    nothing_in_doubt(&cluster).await;

    client
        .batch_execute("RESET default_transaction_read_only")
        .await
        .unwrap();
    let sql = "CREATE TABLE late (id bigint, v bigint, UNIQUE (id, v) DEFERRABLE INITIALLY DEFERRED)";
    client.batch_execute(sql).await.unwrap();
    for twice in [one, two] {
        let sql = format!(
            "BEGIN; INSERT INTO late VALUES ({one}, 1); INSERT INTO late VALUES ({two}, 1); \
             INSERT INTO late VALUES ({twice}, 1); SET TRANSACTION READ ONLY"
        );
        client.batch_execute(&sql).await.unwrap();
        let error = client.batch_execute("COMMIT").await.unwrap_err();
        assert_eq!(code(&error), "23505");
        assert!(client.query("SELECT * FROM late", &[]).await.unwrap().is_empty());
    }
    nothing_in_doubt(&cluster).await;
}
