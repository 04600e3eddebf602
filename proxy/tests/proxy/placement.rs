//! Where the rows of tables are: in the groups of their keys, in every group, or in one.

use std::collections::BTreeMap;

use bytes::Bytes;
use futures::future::join_all;
use futures::{SinkExt, TryStreamExt};
use tokio_postgres::Client;

use crate::harness::{Cluster, code, hint};

/// What a query gives in each group.
async fn in_each(cluster: &Cluster, sql: &str) -> Vec<Vec<String>> {
    let mut all = Vec::new();
    for server in 0..2 {
        let direct = cluster.direct(server).await;
        let rows = direct.query(sql, &[]).await.expect("rows");
        all.push(rows.iter().map(|row| row.get(0)).collect());
    }
    all
}

/// The rows of a reference table, which every group must have alike.
async fn copies(cluster: &Cluster, table: &str) -> Vec<String> {
    let mut all = in_each(cluster, &format!("SELECT r::text FROM {table} r ORDER BY 1")).await;
    let last = all.pop().expect("two groups");
    assert_eq!(all.pop(), Some(last.clone()), "the copies of {table}");
    last
}

async fn run(client: &Client, sql: &str) {
    if let Err(error) = client.batch_execute(sql).await {
        panic!("{sql}: {error:?}");
    }
}

async fn refused(client: &Client, sql: &str) -> String {
    match client.batch_execute(sql).await {
        Ok(()) => panic!("{sql} is not refused"),
        Err(error) => code(&error).to_owned(),
    }
}

async fn copied(client: &Client, sql: &str, rows: &'static str) -> u64 {
    let mut sink = std::pin::pin!(client.copy_in(sql).await.expect("a COPY"));
    sink.send(Bytes::from_static(rows.as_bytes()))
        .await
        .expect("takes rows");
    sink.finish().await.expect("ends")
}

const COUNTRIES: &str = "CREATE TABLE countries (code text PRIMARY KEY, name text, n int NOT NULL DEFAULT 7); \
    SELECT create_reference_table('countries')";

#[tokio::test(flavor = "multi_thread")]
async fn a_reference_table_is_the_same_in_every_group() {
    let cluster = Cluster::start().await;
    let client = cluster.connect().await;
    run(&client, COUNTRIES).await;
    let written = client
        .execute(
            "INSERT INTO countries VALUES ('no', 'Norway'), ('se', 'Sweden')",
            &[],
        )
        .await;
    assert_eq!(written.unwrap(), 2);
    let sql = "INSERT INTO countries (code, name, n) VALUES ($1, $2, $3) RETURNING n + 1";
    let rows = client.query(sql, &[&"dk", &"Denmark", &1i32]).await.unwrap();
    assert_eq!(
        rows.iter().map(|row| row.get::<_, i32>(0)).collect::<Vec<_>>(),
        [2]
    );
    run(&client, "UPDATE countries SET n = n + 1 WHERE code <> 'se'").await;
    let sql = "INSERT INTO countries VALUES ('no', 'x'), ('fi', 'Finland') ON CONFLICT (code) DO UPDATE SET n = 100";
    assert_eq!(client.execute(sql, &[]).await.unwrap(), 2);
    run(
        &client,
        "PREPARE p (text) AS DELETE FROM countries WHERE code = $1; EXECUTE p('dk')",
    )
    .await;
    let three = ["(fi,Finland,7)", "(no,Norway,100)", "(se,Sweden,7)"];
    assert_eq!(copies(&cluster, "countries").await, three);

    // Within a transaction that others do not see, and that is undone.
    run(
        &client,
        "BEGIN; INSERT INTO countries VALUES ('is', 'Iceland'); SAVEPOINT s; DELETE FROM countries",
    )
    .await;
    run(&client, "ROLLBACK TO s").await;
    let row = client
        .query_one("SELECT count(*) FROM countries", &[])
        .await
        .unwrap();
    assert_eq!(row.get::<_, i64>(0), 4);
    run(&client, "ROLLBACK").await;
    assert_eq!(copies(&cluster, "countries").await, three);
    for sql in [
        "INSERT INTO countries VALUES ('no', 'again')",
        "UPDATE countries SET code = 'no'",
    ] {
        assert_eq!(refused(&client, sql).await, "23505", "{sql}");
    }
    assert_eq!(
        refused(&client, "UPDATE countries SET name = random()::text").await,
        "0A000"
    );
    assert_eq!(copies(&cluster, "countries").await, three);

    // COPY, both ways.
    assert_eq!(
        copied(
            &client,
            "COPY countries (code, name) FROM STDIN",
            "ee\tEstonia\nlv\tLatvia\n"
        )
        .await,
        2
    );
    let rows = client.copy_out("COPY countries TO STDOUT").await.unwrap();
    assert_eq!(rows.try_collect::<Vec<_>>().await.unwrap().len(), 5);
    assert_eq!(copies(&cluster, "countries").await.len(), 5);
    run(&client, "TRUNCATE countries").await;
    assert!(copies(&cluster, "countries").await.is_empty());

    // Who writes past the lock is refused.
    let direct = cluster.direct(1).await;
    assert_eq!(
        refused(&direct, "INSERT INTO countries VALUES ('xx', 'nowhere')").await,
        "40001"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_are_joined_with_reference_tables_where_they_are() {
    let cluster = Cluster::start().await;
    let client = cluster.connect().await;
    run(&client, COUNTRIES).await;
    run(
        &client,
        "INSERT INTO countries VALUES ('no', 'Norway'), ('se', 'Sweden'); \
         CREATE TABLE towns (id bigint PRIMARY KEY, country text REFERENCES countries, name text)",
    )
    .await;
    for server in 0..2 {
        for (key, country) in cluster.keys_of(server, 2).into_iter().zip(["no", "se"]) {
            run(
                &client,
                &format!("INSERT INTO towns VALUES ({key}, '{country}', 'town {key}')"),
            )
            .await;
            let sql = "SELECT c.name FROM towns t JOIN countries c ON c.code = t.country WHERE t.id = $1";
            let row = client.query_one(sql, &[&key]).await.unwrap();
            assert_eq!(&row.get::<_, &str>(0)[..1].to_lowercase(), &country[..1]);
            let sql = "UPDATE towns SET name = c.name FROM countries c WHERE c.code = country AND id = $1";
            assert_eq!(client.execute(sql, &[&key]).await.unwrap(), 1);
        }
    }
    let sql = "SELECT c.name, count(t.id) FROM countries c LEFT JOIN towns t ON t.country = c.code GROUP BY c.code ORDER BY 1";
    let rows = client.query(sql, &[]).await.unwrap();
    let counted: Vec<(&str, i64)> = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
    assert_eq!(counted, [("Norway", 2), ("Sweden", 2)]);
    let key = cluster.keys_of(1, 3)[2];
    let sql = format!("INSERT INTO towns VALUES ({key}, 'xx', 'nowhere')");
    assert_eq!(refused(&client, &sql).await, "23503");
    // Its rows are referred to in either group.
    assert_eq!(
        refused(&client, "DELETE FROM countries WHERE code = 'no'").await,
        "23503"
    );
    assert_eq!(copies(&cluster, "countries").await.len(), 2);
    run(
        &client,
        "DELETE FROM towns; DELETE FROM countries WHERE code = 'no'",
    )
    .await;
    assert_eq!(copies(&cluster, "countries").await.len(), 1);
    let sql = "BEGIN; SELECT 1 FROM towns t, countries c WHERE t.id = 1 FOR UPDATE";
    assert_eq!(refused(&client, sql).await, "0A000");
}

#[tokio::test(flavor = "multi_thread")]
async fn those_who_write_at_once_leave_equal_copies() {
    let cluster = Cluster::start().await;
    let client = cluster.connect().await;
    run(
        &client,
        "CREATE TABLE r (id int PRIMARY KEY, n int); SELECT create_reference_table('r')",
    )
    .await;
    let writers = (0..6).map(|writer| {
        let cluster = &cluster;
        async move {
            let client = cluster.connect().await;
            let mut failed = BTreeMap::new();
            for round in 0..12 {
                // What they find is each other's, so an order that differs from group to group shows.
                let sql = match (writer + round) % 4 {
                    0 => "INSERT INTO r SELECT x, 0 FROM (VALUES (1), (2), (3), (4)) v (x) ON CONFLICT (id) DO UPDATE SET n = r.n + 1".to_owned(),
                    1 => format!("INSERT INTO r VALUES ({}, 1)", 100 + writer * 100 + round),
                    2 => "UPDATE r SET n = n * 2 + id WHERE n < 1000".to_owned(),
                    _ => format!("DELETE FROM r WHERE id % 7 = {} AND n > 3", round % 7),
                };
                if let Err(error) = client.batch_execute(&sql).await {
                    *failed.entry(code(&error).to_owned()).or_insert(0) += 1;
                }
            }
            failed
        }
    });
    for failed in join_all(writers).await {
        assert!(failed.keys().all(|code| code == "22003"), "{failed:?}");
    }
    assert!(!copies(&cluster, "r").await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_move_when_a_table_is_given_another_distribution() {
    let cluster = Cluster::start().await;
    let client = cluster.connect().await;
    run(
        &client,
        "CREATE TABLE t (id bigint PRIMARY KEY, other int, note text)",
    )
    .await;
    let rows: Vec<String> = (1..=40)
        .map(|i| format!("({i}, {}, 'row\t{i}')", i * 3))
        .collect();
    run(&client, &format!("INSERT INTO t VALUES {}", rows.join(", "))).await;
    let count = "SELECT count(*)::text FROM t";
    let spread = |counts: &[Vec<String>]| {
        let counts: Vec<usize> = counts.iter().map(|rows| rows[0].parse().unwrap()).collect();
        counts.iter().all(|count| *count > 5) && counts.iter().sum::<usize>() == 40
    };
    assert!(spread(&in_each(&cluster, count).await));
    for (sql, counts) in [
        ("SELECT create_reference_table('t')", Some(["40", "40"])),
        ("SELECT undistribute_table('t')", Some(["40", "0"])),
        ("SELECT create_reference_table('t')", Some(["40", "40"])),
        ("SELECT create_distributed_table('t', 'id')", None),
        ("SELECT undistribute_table('t')", Some(["40", "0"])),
        ("SELECT create_distributed_table('t', 'id')", None),
    ] {
        run(&client, &format!("BEGIN; {sql}; ROLLBACK")).await;
        run(&client, sql).await;
        let found = in_each(&cluster, count).await;
        match counts {
            // A local table may be in either.
            Some(counts) => {
                let mut found = found.concat();
                found.sort_by_key(|count| std::cmp::Reverse(count.len()));
                assert_eq!(found, counts, "{sql}");
            }
            None => assert!(spread(&found), "{sql}: {found:?}"),
        }
        let row = client
            .query_one("SELECT count(*), sum(other), max(note) FROM t", &[])
            .await
            .unwrap();
        let seen = (row.get::<_, i64>(0), row.get::<_, i64>(1), row.get::<_, &str>(2));
        assert_eq!(seen, (40, 2460, "row\t9"), "{sql}");
        run(&client, "UPDATE t SET note = note WHERE id = 17; INSERT INTO t VALUES (99, 1, ''); DELETE FROM t WHERE id = 99").await;
    }
    let error = client
        .query_one("SELECT create_distributed_table('t', 'other')", &[])
        .await
        .unwrap_err();
    assert_eq!(code(&error), "0A000", "the primary key would not contain it");
}

#[tokio::test(flavor = "multi_thread")]
async fn foreign_keys_hold_where_each_group_can_keep_them() {
    let cluster = Cluster::start().await;
    let client = cluster.connect().await;
    run(
        &client,
        "CREATE TABLE accounts (id int PRIMARY KEY, parent int); \
         CREATE TABLE orders (account bigint REFERENCES accounts ON DELETE CASCADE, id int, PRIMARY KEY (account, id)); \
         CREATE TABLE items (account int, o int, n int, PRIMARY KEY (account, o, n), \
            FOREIGN KEY (account, o) REFERENCES orders (account, id) DEFERRABLE INITIALLY DEFERRED)",
    )
    .await;
    for account in 1..=6 {
        run(
            &client,
            &format!("INSERT INTO accounts VALUES ({account}); INSERT INTO orders VALUES ({account}, 1)"),
        )
        .await;
        run(&client, &format!("INSERT INTO items VALUES ({account}, 1, 1)")).await;
    }
    assert_eq!(
        refused(&client, "INSERT INTO orders VALUES (7, 1)").await,
        "23503"
    );
    assert_eq!(
        refused(
            &client,
            "INSERT INTO items VALUES (1, 1, 2), (2, 2, 2), (3, 1, 2)"
        )
        .await,
        "23503"
    );
    assert_eq!(refused(&client, "DELETE FROM accounts").await, "23503");
    run(
        &client,
        "BEGIN; DELETE FROM items; DELETE FROM accounts WHERE id < 4; COMMIT",
    )
    .await;
    let row = client
        .query_one("SELECT count(*) FROM orders", &[])
        .await
        .unwrap();
    assert_eq!(row.get::<_, i64>(0), 3);
    for sql in [
        "ALTER TABLE accounts ADD FOREIGN KEY (parent) REFERENCES accounts",
        "CREATE TABLE notes (id int PRIMARY KEY, account int REFERENCES accounts)",
        "CREATE TABLE notes (account int PRIMARY KEY REFERENCES accounts ON UPDATE CASCADE)",
        "CREATE TABLE notes (account int PRIMARY KEY REFERENCES accounts ON DELETE SET NULL)",
        "CREATE TABLE notes (account text PRIMARY KEY, n int REFERENCES accounts)",
        "SELECT create_reference_table('orders')",
        "SELECT undistribute_table('accounts')",
    ] {
        let error = client.batch_execute(sql).await.expect_err(sql);
        assert_eq!(code(&error), "0A000", "{sql}");
        assert!(!hint(&error).is_empty(), "{sql}");
    }
    run(
        &client,
        "CREATE TABLE kinds (id int PRIMARY KEY, up int); SELECT create_reference_table('kinds'); \
         ALTER TABLE kinds ADD FOREIGN KEY (up) REFERENCES kinds",
    )
    .await;
    run(
        &client,
        "ALTER TABLE accounts ADD kind int REFERENCES kinds ON DELETE SET NULL ON UPDATE CASCADE",
    )
    .await;
    run(
        &client,
        "INSERT INTO kinds VALUES (1, 1), (2, 1); UPDATE accounts SET kind = 2",
    )
    .await;
    run(&client, "UPDATE kinds SET id = 3 WHERE id = 2").await;
    let rows = client.query("SELECT kind FROM accounts", &[]).await.unwrap();
    assert_eq!(
        rows.iter().map(|row| row.get::<_, i32>(0)).collect::<Vec<_>>(),
        [3, 3, 3]
    );
    run(&client, "DELETE FROM kinds WHERE id = 3").await;
    let row = client
        .query_one("SELECT count(kind) FROM accounts", &[])
        .await
        .unwrap();
    assert_eq!(row.get::<_, i64>(0), 0);
    assert_eq!(copies(&cluster, "kinds").await, ["(1,1)"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_no_column_can_spread_is_in_one_group() {
    let cluster = Cluster::start().await;
    let client = cluster.connect().await;
    run(
        &client,
        "CREATE TABLE events (body jsonb, at timestamptz DEFAULT now(), mail text UNIQUE)",
    )
    .await;
    run(&client, "CREATE TABLE people (id int PRIMARY KEY, name text)").await;
    run(
        &client,
        "INSERT INTO people VALUES (1, 'a'), (2, 'b'), (3, 'c'), (4, 'd')",
    )
    .await;
    run(&client, "INSERT INTO events VALUES ('{}', now(), 'x'), ('[1]', now(), 'y'); INSERT INTO events DEFAULT VALUES").await;
    assert_eq!(
        refused(&client, "INSERT INTO events (mail) VALUES ('x')").await,
        "23505"
    );
    run(
        &client,
        "INSERT INTO events (mail) SELECT mail || i FROM events, generate_series(1, 2) i WHERE mail > ''",
    )
    .await;
    let counts = in_each(&cluster, "SELECT count(*)::text FROM events")
        .await
        .concat();
    assert!(
        counts.contains(&"7".to_owned()) && counts.contains(&"0".to_owned()),
        "{counts:?}"
    );
    let sql = "SELECT count(*) FROM people, events WHERE mail LIKE 'x%'";
    assert_eq!(client.query_one(sql, &[]).await.unwrap().get::<_, i64>(0), 12);
    assert_eq!(copied(&client, "COPY events (mail) FROM STDIN", "z\n").await, 1);
    let rows = client.copy_out("COPY events TO STDOUT").await.unwrap();
    assert_eq!(rows.try_collect::<Vec<_>>().await.unwrap().len(), 8);
    // A primary key that comes later spreads it.
    run(&client, "ALTER TABLE events ADD id int; UPDATE events SET id = length(mail) + ascii(mail); DELETE FROM events WHERE id IS NULL").await;
    run(&client, "ALTER TABLE events DROP CONSTRAINT events_mail_key").await;
    let error = client
        .batch_execute("ALTER TABLE events ADD PRIMARY KEY (mail)")
        .await;
    error.unwrap();
    let row = client
        .query_one("SELECT count(*) FROM events WHERE mail = 'y2'", &[])
        .await
        .unwrap();
    assert_eq!(row.get::<_, i64>(0), 1);
    let sql = "SELECT distribution FROM howdah.distributed_tables WHERE relid = 'events'::regclass";
    assert_eq!(in_each(&cluster, sql).await.concat(), ["hash", "hash"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn partitions_are_where_their_table_is() {
    let cluster = Cluster::start().await;
    let client = cluster.connect().await;
    run(
        &client,
        "CREATE TABLE m (id int, at date, v int, PRIMARY KEY (id, at)) PARTITION BY RANGE (at); \
         CREATE TABLE m1 PARTITION OF m FOR VALUES FROM ('2026-01-01') TO ('2026-02-01'); \
         CREATE TABLE m2 (at date NOT NULL, v int, id int NOT NULL, PRIMARY KEY (id, at)); \
         ALTER TABLE m ATTACH PARTITION m2 FOR VALUES FROM ('2026-02-01') TO ('2026-03-01'); \
         CREATE TABLE m3 PARTITION OF m DEFAULT",
    )
    .await;
    let rows: Vec<String> = (1..=30)
        .map(|i| format!("({i}, date '2026-01-15' + {i}, {i})"))
        .collect();
    run(&client, &format!("INSERT INTO m VALUES {}", rows.join(", "))).await;
    for (sql, expected) in [
        ("SELECT count(*) FROM m", 30),
        ("SELECT count(*) FROM m2", 14),
        ("SELECT sum(v) FROM m WHERE at < '2026-02-01'", 136),
        ("SELECT count(*) FROM m a JOIN m1 b ON b.v = a.id + 1", 15),
    ] {
        assert_eq!(
            client.query_one(sql, &[]).await.unwrap().get::<_, i64>(0),
            expected,
            "{sql}"
        );
    }
    run(
        &client,
        "UPDATE m SET at = '2027-01-01' WHERE id = 3; ALTER TABLE m DETACH PARTITION m1; DROP TABLE m2",
    )
    .await;
    let row = client.query_one("SELECT count(*) FROM m", &[]).await.unwrap();
    assert_eq!(row.get::<_, i64>(0), 1);
    run(
        &client,
        "CREATE TABLE c (code text, n int) PARTITION BY LIST (code); SELECT create_reference_table('c'); \
         CREATE TABLE c1 PARTITION OF c FOR VALUES IN ('a'); INSERT INTO c VALUES ('a', 1); UPDATE c1 SET n = 2; \
         INSERT INTO c1 VALUES ('a', 4)",
    )
    .await;
    assert_eq!(copies(&cluster, "c").await, ["(a,2)", "(a,4)"]);
    run(
        &client,
        "CREATE TABLE likes (LIKE m INCLUDING ALL); INSERT INTO likes VALUES (1, '2026-01-01', 1)",
    )
    .await;
}
