//! The console on the virtual database `howdah`: what it shows, who may use it, and what its verbs do to clients.

use std::time::Duration;

use coordinator::transaction::Gid;
use proxy::Limits;
use shard::id::{GroupId, NodeId};
use tokio::time::timeout;
use tokio_postgres::{Client, SimpleQueryMessage};

use crate::harness::raw::Raw;
use crate::harness::{Cluster, code, hint};

/// What is not over by then waits for something.
const SOON: Duration = Duration::from_millis(400);

/// What must be over by then.
const LATE: Duration = Duration::from_secs(20);

async fn console(cluster: &Cluster) -> Client {
    cluster.connect_as("dbname=howdah").await
}

/// Rows as text, by name.
async fn show(console: &Client, what: &str) -> Vec<Row> {
    let sql = format!("SHOW {what}");
    let messages = console.simple_query(&sql).await.expect(what);
    let rows = messages.into_iter().filter_map(|message| match message {
        SimpleQueryMessage::Row(row) => Some(Row(row)),
        _ => None,
    });
    rows.collect()
}

struct Row(tokio_postgres::SimpleQueryRow);

impl Row {
    fn get(&self, column: &str) -> &str {
        self.0.try_get(column).expect(column).unwrap_or("NULL")
    }

    fn number(&self, column: &str) -> i64 {
        self.get(column).parse().expect(column)
    }
}

/// The client of this application.
async fn client_named(console: &Client, name: &str) -> Option<Row> {
    let mut clients = show(console, "CLIENTS").await.into_iter();
    clients.find(|client| client.get("application_name") == name)
}

/// Waits until the client of this application is in this state.
async fn until_state(console: &Client, name: &str, state: &str) {
    let reached = async {
        loop {
            if client_named(console, name)
                .await
                .is_some_and(|client| client.get("state") == state)
            {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(LATE, reached).await.expect(state);
}

async fn refused(client: &Client, sql: &str) -> tokio_postgres::Error {
    client.batch_execute(sql).await.expect_err(sql)
}

async fn run(client: &Client, sql: &str) {
    client.batch_execute(sql).await.expect(sql);
}

/// A table, and a key of each group.
async fn table(cluster: &Cluster) -> [i64; 2] {
    let client = cluster.connect().await;
    run(&client, "CREATE TABLE t (id bigint PRIMARY KEY, v bigint)").await;
    let keys = [cluster.keys_of(0, 1)[0], cluster.keys_of(1, 1)[0]];
    run(
        &client,
        &format!("INSERT INTO t VALUES ({}, 0), ({}, 0)", keys[0], keys[1]),
    )
    .await;
    keys
}

#[tokio::test(flavor = "multi_thread")]
async fn psql_and_drivers_get_typed_rows_by_either_protocol() {
    let cluster = Cluster::start().await;
    let psql = async |sql: &str| {
        cluster
            .program(
                "psql",
                &["-X", "-v", "ON_ERROR_STOP=1", "-d", "howdah", "-c", sql],
            )
            .await
    };
    for what in [
        "CLIENTS",
        "POOLS",
        "SERVERS",
        "STATS",
        "CONFIG",
        "VERSION",
        "DATABASES",
        "SLOTS",
        "TRANSACTIONS",
    ] {
        let said = psql(&format!("SHOW {what}")).await.expect(what);
        assert!(said.contains("row"), "{what}: {said}");
    }
    assert!(psql("SHOW VERSION;").await.unwrap().contains("Howdah 0."));
    assert!(psql("\\conninfo").await.unwrap().contains("database \"howdah\""));
    assert!(psql("SHOW CLIENTS").await.unwrap().contains("psql"));
    let slots = psql("SHOW SLOTS").await.unwrap();
    assert!(slots.contains("4095"), "{slots}");
    let databases = psql("SHOW DATABASES").await.unwrap();
    assert!(databases.contains(" postgres  | 1, 2 "), "{databases}");
    for (sql, words) in [
        ("SELECT 1", "use SHOW HELP;"),
        ("SHOW TABLES", "HINT:"),
        ("KILL", "a database is required"),
        ("SHUTDOWN", "not supported"),
        ("RELOAD", "was not started from a configuration file"),
        ("SHOW NODES", "not a part of a node"),
    ] {
        let said = psql(sql).await.expect_err(sql);
        assert!(said.contains(words), "{sql}: {said}");
    }

    // Prepared and in binary, as tokio-postgres has it.
    let console = console(&cluster).await;
    let row = console.query_one("SHOW POOLS", &[]).await;
    assert!(row.is_err(), "no client is in a database");
    let _inside = cluster.connect().await;
    let row = console.query_one("SHOW POOLS", &[]).await.unwrap();
    assert_eq!(row.get::<_, String>("database"), "postgres");
    assert_eq!(row.get::<_, i64>("cl_active"), 1);
    let types: Vec<&str> = row.columns().iter().map(|column| column.type_().name()).collect();
    assert_eq!(
        types,
        ["text", "text", "int8", "int8", "int8", "int8", "int8", "int8"]
    );
    let statement = console.prepare("SHOW CLIENTS").await.unwrap();
    let rows = console.query(&statement, &[]).await.unwrap();
    assert_eq!(rows.len(), 2);
    let connected: std::time::SystemTime = rows[0].get("connect_time");
    assert!(connected.elapsed().unwrap() < Duration::from_secs(60));
    // A driver that will not do without a transaction.
    run(&console, "BEGIN; SHOW VERSION; COMMIT").await;
    run(&console, "SET extra_float_digits = 3").await;
    assert_eq!(code(&refused(&console, "SELECT 1").await), "42601");
    assert!(hint(&refused(&console, "SET a.b = 1").await).contains("RELOAD"));
    assert_eq!(
        show(&console, "VERSION").await.len(),
        1,
        "it goes on after errors"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_portal_gives_its_rows_bit_by_bit_and_errors_skip_to_sync() {
    let cluster = Cluster::start().await;
    let mut raw = Raw::start_in(&cluster, "howdah").await;
    let slots = show(&console(&cluster).await, "SLOTS").await.len();
    assert!(slots > 2);
    raw.parse("s", "SHOW SLOTS");
    raw.describe('S', "s");
    raw.bind("p", "s");
    raw.describe('P', "p");
    raw.execute("p", 2);
    raw.execute("p", 0);
    raw.close('P', "p");
    raw.close('S', "s");
    raw.sync();
    let (tags, errors) = raw.until_ready().await;
    let expected = format!("1tT2TDDs{}C33Z", "D".repeat(slots - 2));
    assert_eq!((tags, errors), (expected, vec![]));
    raw.parse("", "SELECT 1");
    raw.bind("", "");
    raw.execute("", 0);
    raw.sync();
    raw.parse("", "");
    raw.bind("", "");
    raw.execute("", 0);
    raw.execute("gone", 0);
    raw.sync();
    assert_eq!(
        raw.until_ready().await,
        ("EZ".to_owned(), vec!["42601".to_owned()])
    );
    let second = raw.until_ready().await;
    assert_eq!(second, ("12IEZ".to_owned(), vec!["34000".to_owned()]));
}

#[tokio::test(flavor = "multi_thread")]
async fn superusers_administer_and_monitors_look() {
    let cluster = Cluster::start().await;
    let client = cluster.connect().await;
    run(
        &client,
        "CREATE ROLE alice LOGIN; CREATE ROLE eve LOGIN; CREATE ROLE root LOGIN SUPERUSER; GRANT pg_monitor TO alice",
    )
    .await;
    let port = cluster.address.port();
    for (user, expected) in [("eve", "42501"), ("nobody", "28000")] {
        let options = format!("user={user} dbname=howdah");
        let error = cluster.try_connect(port, &options).await.expect_err(user);
        assert_eq!(code(&error), expected, "{user}");
    }
    let alice = cluster.connect_as("user=alice dbname=howdah").await;
    assert!(!show(&alice, "CLIENTS").await.is_empty());
    for sql in ["PAUSE", "RESUME", "KILL postgres", "RECONNECT", "RELOAD"] {
        assert_eq!(code(&refused(&alice, sql).await), "42501", "{sql}");
    }
    let root = cluster.connect_as("user=root dbname=howdah").await;
    run(&root, "RECONNECT").await;
    run(
        &client,
        "ALTER ROLE root NOSUPERUSER; REVOKE pg_monitor FROM alice",
    )
    .await;
    assert_eq!(code(&refused(&root, "RECONNECT").await), "42501", "not any more");
    assert_eq!(
        code(&refused(&alice, "SHOW CLIENTS").await),
        "42501",
        "not any more"
    );

    let error = refused(&client, "CREATE DATABASE howdah").await;
    assert_eq!(code(&error), "42939");
    assert_eq!(
        code(&refused(&client, "CREATE DATABASE \"howdah\" OWNER eve").await),
        "42939"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_clients_do_and_hold_is_shown() {
    let cluster = Cluster::start().await;
    let keys = table(&cluster).await;
    let console = console(&cluster).await;
    let client = cluster.connect_as("application_name=before").await;
    let idle = client_named(&console, "before").await.expect("it is there");
    assert_eq!((idle.get("state"), idle.get("pins")), ("idle", ""));
    assert_eq!((idle.get("user"), idle.get("database")), ("postgres", "postgres"));
    assert_eq!(
        (idle.get("addr"), idle.get("request_time")),
        ("127.0.0.1", "NULL")
    );
    run(&client, "SET application_name = 'after'").await;
    run(&client, "BEGIN").await;
    for key in keys {
        run(&client, &format!("UPDATE t SET v = v + 1 WHERE id = {key}")).await;
    }
    let busy = client_named(&console, "after")
        .await
        .expect("it has another name");
    assert_eq!(
        (busy.get("state"), busy.get("pins"), busy.get("groups")),
        ("idle in transaction", "transaction", "1, 2")
    );
    assert_ne!(busy.get("request_time"), "NULL");
    let id = busy.get("id").to_owned();

    let servers = show(&console, "SERVERS").await;
    let own: Vec<&Row> = servers.iter().filter(|server| server.get("link") == id).collect();
    assert_eq!(own.len(), 2);
    assert!(own.iter().all(|server| server.get("state") == "active"));
    for (server, group) in [(0, "1"), (1, "2")] {
        // As PostgreSQL has it.
        let pid = own
            .iter()
            .find(|row| row.get("group") == group)
            .expect(group)
            .number("remote_pid");
        let sql = "SELECT state FROM pg_stat_activity WHERE pid = $1::int8";
        let row = cluster
            .direct(server)
            .await
            .query_one(sql, &[&pid])
            .await
            .unwrap();
        assert_eq!(row.get::<_, String>(0), "idle in transaction");
    }
    let transactions = show(&console, "TRANSACTIONS").await;
    let groups: Vec<&str> = transactions.iter().map(|row| row.get("group")).collect();
    assert_eq!(groups, ["1", "2"]);
    for row in &transactions {
        assert_eq!(
            (row.get("state"), row.get("link"), row.get("database")),
            ("open", &*id, "postgres")
        );
    }

    // A second one waits for it, and works.
    let second = cluster.connect_as("application_name=second").await;
    let update = format!("UPDATE t SET v = 0 WHERE id = {}", keys[0]);
    let waiting = tokio::spawn(async move { second.batch_execute(&update).await });
    until_state(&console, "second", "active").await;
    run(&client, "COMMIT").await;
    waiting.await.unwrap().unwrap();

    run(
        &client,
        &format!(
            "DECLARE c CURSOR WITH HOLD FOR SELECT v FROM t WHERE id = {}",
            keys[1]
        ),
    )
    .await;
    assert_eq!(
        client_named(&console, "after").await.unwrap().get("pins"),
        "cursor"
    );
    run(&client, "CLOSE c").await;
    assert_eq!(client_named(&console, "after").await.unwrap().get("pins"), "");
    run(
        &client,
        &format!(
            "BEGIN; DECLARE c CURSOR WITH HOLD FOR SELECT v FROM t WHERE id = {}; ROLLBACK",
            keys[1]
        ),
    )
    .await;
    assert_eq!(client_named(&console, "after").await.unwrap().get("pins"), "");

    // What a lost coordinator has left.
    let gid = Gid {
        anchor: GroupId(1),
        node: NodeId(7),
        number: 42,
    };
    let server = cluster.direct(1).await;
    run(
        &server,
        &format!("BEGIN; SELECT pg_current_xact_id(); PREPARE TRANSACTION '{gid}'"),
    )
    .await;
    let transactions = show(&console, "TRANSACTIONS").await;
    assert_eq!(transactions.len(), 1);
    let row = &transactions[0];
    assert_eq!((row.get("state"), row.get("id")), ("prepared", &*gid.to_string()));
    assert_eq!(
        (row.get("group"), row.get("anchor"), row.get("node")),
        ("2", "1", "7")
    );
    run(&server, &format!("ROLLBACK PREPARED '{gid}'")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn statistics_count_transactions_queries_bytes_and_time() {
    let cluster = Cluster::start().await;
    let key = table(&cluster).await[0];
    let console = console(&cluster).await;
    while show(&console, "CLIENTS").await.len() > 1 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let client = cluster.connect_as("application_name=counted").await;
    let stats = async || {
        let rows = show(&console, "STATS").await;
        let row = rows.into_iter().find(|row| row.get("database") == "postgres");
        let row = row.expect("there were clients");
        let columns = [
            "total_xact_count",
            "total_query_count",
            "total_received",
            "total_sent",
            "total_xact_time",
        ];
        columns.map(|column| row.number(column))
    };
    let before = stats().await;
    run(&client, &format!("SELECT v FROM t WHERE id = {key}")).await;
    run(&client, "BEGIN").await;
    run(&client, &format!("SELECT v FROM t WHERE id = {key}")).await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    run(&client, "COMMIT").await;
    let after = stats().await;
    let [transactions, queries, received, sent, time] = [0, 1, 2, 3, 4].map(|at| after[at] - before[at]);
    assert_eq!((transactions, queries), (2, 4));
    // By PostgreSQL's protocol: type, length, text, zero.
    let text = format!("SELECT v FROM t WHERE id = {key}").len() + 6;
    let expected = 2 * text + "BEGIN".len() + 6 + "COMMIT".len() + 6;
    assert_eq!(received, i64::try_from(expected).unwrap());
    assert!(sent > 100 && sent < 1000, "{sent}");
    assert!((50_000..20_000_000).contains(&time), "{time} microseconds");
    // Two executions, one transaction.
    client
        .query("SELECT v FROM t WHERE id = $1", &[&key])
        .await
        .unwrap();
    assert_eq!(stats().await[1] - after[1], 1);
    drop(client);
    while client_named(&console, "counted").await.is_some() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let gone = stats().await;
    assert!(
        gone[0] > after[0] && gone[1] > after[1],
        "what has ended still counts"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn pause_waits_for_transactions_and_resume_lets_requests_go_on() {
    let cluster = Cluster::start().await;
    let keys = table(&cluster).await;
    let [admin, console] = [console(&cluster).await, console(&cluster).await];
    run(&console, "RECONNECT").await;
    let (inside, idle) = (
        cluster.connect().await,
        cluster.connect_as("application_name=idle").await,
    );
    run(&idle, "SET application_name = 'kept'").await;
    let prepared = idle.prepare("SELECT v FROM t WHERE id = $1").await.unwrap();
    idle.query_one(&prepared, &[&keys[0]]).await.unwrap();
    run(
        &inside,
        &format!("BEGIN; UPDATE t SET v = 5 WHERE id = {}", keys[0]),
    )
    .await;
    let mut pausing = tokio::spawn(async move { admin.batch_execute("PAUSE postgres").await });
    assert!(
        timeout(SOON, &mut pausing).await.is_err(),
        "a transaction is open"
    );
    // The transaction goes on, and others wait.
    run(&inside, &format!("UPDATE t SET v = 5 WHERE id = {}", keys[1])).await;
    let mut waiting = tokio::spawn(async move {
        let row = idle.query_one(&prepared, &[&keys[0]]).await?;
        let name = idle
            .query_one("SELECT current_setting('application_name')", &[])
            .await?;
        Ok::<(i64, String), tokio_postgres::Error>((row.get(0), name.get(0)))
    });
    assert!(timeout(SOON, &mut waiting).await.is_err(), "it may not begin");
    let port = cluster.address.port();
    assert!(
        timeout(SOON, cluster.try_connect(port, "")).await.is_err(),
        "nor may a new one"
    );
    run(&inside, "COMMIT").await;
    timeout(LATE, pausing)
        .await
        .expect("all is let go of")
        .unwrap()
        .unwrap();
    assert!(show(&console, "SERVERS").await.is_empty());
    assert_eq!(
        client_named(&console, "kept")
            .await
            .expect("it waits")
            .get("state"),
        "waiting"
    );
    let pools = show(&console, "POOLS").await;
    assert_eq!((pools[0].get("cl_waiting"), pools[0].get("sv_idle")), ("1", "0"));
    let databases = show(&console, "DATABASES").await;
    let paused = |name: &str| {
        databases
            .iter()
            .find(|row| row.get("name") == name)
            .expect(name)
            .get("paused")
    };
    assert_eq!(
        (paused("postgres"), paused("template1"), paused("howdah")),
        ("1", "0", "0")
    );
    // A client that waits and goes is noticed.
    let leaving = tokio::spawn(async move { inside.batch_execute("SELECT 1").await });
    tokio::time::sleep(Duration::from_millis(100)).await;
    leaving.abort();
    run(&console, "RESUME postgres").await;
    let seen = timeout(LATE, waiting)
        .await
        .expect("it goes on")
        .unwrap()
        .unwrap();
    assert_eq!(seen, (5, "kept".to_owned()), "as if nothing had been");
    cluster.connect().await;
    for (sql, expected) in [
        ("RESUME postgres", "55000"),
        ("RESUME", "55000"),
        ("PAUSE nosuch", "3D000"),
        ("PAUSE howdah", "0A000"),
        ("KILL nosuch", "3D000"),
        ("RECONNECT nosuch", "3D000"),
    ] {
        assert_eq!(code(&refused(&console, sql).await), expected, "{sql}");
    }
    run(&console, "PAUSE").await;
    assert!(timeout(SOON, cluster.try_connect(port, "")).await.is_err());
    assert!(hint(&refused(&console, "RESUME postgres").await).contains("RESUME without a name"));
    run(&console, "RESUME").await;
    cluster.connect().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn reconnect_takes_new_backends_when_nothing_needs_the_old() {
    let cluster = Cluster::start().await;
    let keys = table(&cluster).await;
    let console = console(&cluster).await;
    let (client, inside) = (cluster.connect().await, cluster.connect().await);
    let select = format!("SELECT v FROM t WHERE id = {}", keys[0]);
    run(&inside, &format!("BEGIN; {select}")).await;
    run(&client, &select).await;
    let pids = async |state: &str| {
        let rows = show(&console, "SERVERS").await;
        let group = |row: &&Row| (row.get("state"), row.get("group")) == (state, "1");
        let found = rows.iter().filter(group);
        found.map(|row| row.number("remote_pid")).collect::<Vec<_>>()
    };
    let before = [pids("idle").await, pids("active").await];
    assert!(!before[0].is_empty());
    assert_eq!(before[1].len(), 1);
    run(&console, "RECONNECT postgres").await;
    assert_eq!(pids("idle").await, [] as [i64; 0]);
    run(&client, &select).await;
    run(&inside, &select).await;
    let during = [pids("idle").await, pids("active").await];
    assert!(!during[0].is_empty() && during[0].iter().all(|pid| !before[0].contains(pid)));
    assert_eq!(during[1], before[1], "a transaction keeps its own");
    run(&inside, "COMMIT").await;
    run(&inside, &select).await;
    let after = pids("idle").await;
    assert!(
        !after.is_empty() && !after.contains(&before[1][0]),
        "then it is let go of"
    );
    let gone = "SELECT count(*) FROM pg_stat_activity WHERE pid = $1::int8";
    let server = cluster.direct(0).await;
    let left = async || {
        server
            .query_one(gone, &[&before[1][0]])
            .await
            .unwrap()
            .get::<_, i64>(0)
    };
    while left().await > 0 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn kill_ends_clients_and_lets_commits_finish() {
    let cluster = Cluster::start().await;
    let keys = table(&cluster).await;
    let console = console(&cluster).await;
    // Whoever commits on both groups waits for this.
    let lock = [cluster.direct(0).await, cluster.direct(1).await];
    for server in &lock {
        run(server, "BEGIN; LOCK TABLE howdah.decisions IN EXCLUSIVE MODE").await;
    }
    let committing = cluster.connect_as("application_name=committing").await;
    run(&committing, "BEGIN").await;
    for key in keys {
        run(&committing, &format!("UPDATE t SET v = 7 WHERE id = {key}")).await;
    }
    let mut committed = tokio::spawn(async move {
        let committed = committing.batch_execute("COMMIT").await;
        (committed, committing.batch_execute("SELECT 1").await)
    });
    assert!(timeout(SOON, &mut committed).await.is_err());
    // And who writes by himself could be in his commit.
    let row = cluster.direct(0).await;
    run(
        &row,
        &format!("INSERT INTO t VALUES ({}, 1)", cluster.keys_of(0, 2)[1]),
    )
    .await;
    run(
        &row,
        &format!(
            "BEGIN; UPDATE t SET v = 2 WHERE id = {}",
            cluster.keys_of(0, 2)[1]
        ),
    )
    .await;
    let writing = cluster.connect_as("application_name=writing").await;
    let update = format!("UPDATE t SET v = v + 10 WHERE id = {}", cluster.keys_of(0, 2)[1]);
    let mut written = tokio::spawn(async move {
        let written = writing.batch_execute(&update).await;
        (written, writing.batch_execute("SELECT 1").await)
    });
    until_state(&console, "writing", "active").await;
    let idle = cluster.connect_as("application_name=idle").await;
    let open = cluster.connect_as("application_name=open").await;
    run(
        &open,
        &format!("BEGIN; INSERT INTO t VALUES ({}, 9)", cluster.keys_of(1, 2)[1]),
    )
    .await;
    let reading = cluster.connect_as("application_name=reading").await;
    let read = tokio::spawn(async move { reading.batch_execute("SELECT pg_sleep(60)").await });
    until_state(&console, "reading", "active").await;

    run(&console, "KILL postgres").await;
    for client in [&idle, &open] {
        let error = timeout(LATE, client.batch_execute("SELECT 1"))
            .await
            .expect("soon")
            .unwrap_err();
        assert!(error.is_closed() || code(&error) == "57P01", "{error}");
    }
    let error = timeout(LATE, read).await.expect("soon").unwrap().unwrap_err();
    assert!(error.is_closed() || code(&error) == "57P01", "{error}");
    assert!(timeout(SOON, &mut committed).await.is_err() && timeout(SOON, &mut written).await.is_err());
    let left = client_named(&console, "committing").await.expect("it commits");
    assert_eq!(left.get("close_needed"), "1");
    let port = cluster.address.port();
    assert!(
        timeout(SOON, cluster.try_connect(port, "")).await.is_err(),
        "new ones wait"
    );

    for server in &lock {
        run(server, "ROLLBACK").await;
    }
    run(&row, "ROLLBACK").await;
    for ended in [committed, written] {
        let (done, after) = timeout(LATE, ended).await.expect("soon").unwrap();
        done.expect("it is committed, and told so");
        let error = after.expect_err("then it ends");
        assert!(error.is_closed() || code(&error) == "57P01", "{error}");
    }
    run(&console, "RESUME postgres").await;
    let client = cluster.connect().await;
    for key in keys {
        let sql = format!("SELECT v FROM t WHERE id = {key}");
        assert_eq!(client.query_one(&sql, &[]).await.unwrap().get::<_, i64>(0), 7);
    }
    let sql = "SELECT count(*) FROM t";
    let count: i64 = client.query_one(sql, &[]).await.unwrap().get(0);
    assert_eq!(count, 3, "the open transaction is rolled back");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_waits_for_a_backend_is_paused_and_killed_like_others() {
    let cluster = Cluster::with(Limits {
        max_backends: 1,
        backend_wait: Duration::from_secs(60),
        ..Limits::default()
    })
    .await;
    let keys = table(&cluster).await;
    let console = console(&cluster).await;
    let insert = |nth: usize| format!("INSERT INTO t VALUES ({}, 1)", cluster.keys_of(1, 4)[nth]);
    let connect = async |name: &str| {
        let client = cluster.connect_as(&format!("application_name={name}")).await;
        run(&client, "SET statement_timeout = '50s'").await;
        client
    };
    let spawn = |client: Client, sql: String| tokio::spawn(async move { client.batch_execute(&sql).await });
    let (one, two) = (connect("one").await, connect("two").await);
    let three = connect("three").await;
    let holder = cluster.connect().await;
    // It has begun, and has no backend.
    let begun = cluster.connect().await;
    run(&begun, "BEGIN").await;
    run(
        &holder,
        &format!("BEGIN; UPDATE t SET v = 1 WHERE id = {}", keys[0]),
    )
    .await;
    let mut waiting = [spawn(one, insert(1)), spawn(two, insert(2))];
    for name in ["one", "two"] {
        until_state(&console, name, "waiting").await;
    }
    let admin = self::console(&cluster).await;
    let mut pausing = tokio::spawn(async move { admin.batch_execute("PAUSE postgres").await });
    let paused = async || {
        let databases = show(&console, "DATABASES").await;
        databases
            .iter()
            .any(|row| (row.get("name"), row.get("paused")) == ("postgres", "1"))
    };
    while !paused().await {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(
        timeout(SOON, &mut pausing).await.is_err(),
        "a transaction is open"
    );
    run(&holder, "COMMIT").await;
    timeout(LATE, pausing)
        .await
        .expect("nobody takes his place")
        .unwrap()
        .unwrap();
    let sql = format!("SELECT v FROM t WHERE id = {}", keys[1]);
    assert!(timeout(SOON, begun.query_one(&sql, &[])).await.is_err());
    for done in &mut waiting {
        assert!(timeout(SOON, done).await.is_err(), "it is paused");
    }
    assert!(show(&console, "SERVERS").await.is_empty());
    drop(begun);
    run(&console, "RESUME postgres").await;
    for done in waiting {
        timeout(LATE, done).await.expect("it goes on").unwrap().unwrap();
    }

    // Ended while they wait: the one in the line at once, as it has nothing that could be committed.
    run(&holder, "BEGIN; DECLARE c CURSOR WITH HOLD FOR SELECT 1; COMMIT").await;
    let killed = spawn(three, insert(3));
    until_state(&console, "three", "waiting").await;
    run(&console, "KILL postgres").await;
    let error = timeout(LATE, killed)
        .await
        .expect("long before it would have waited in vain")
        .unwrap()
        .unwrap_err();
    assert!(error.is_closed() || code(&error) == "57P01", "{error}");
    run(&console, "RESUME postgres").await;
    let client = cluster.connect().await;
    let count = client.query_one("SELECT count(*) FROM t", &[]).await.unwrap();
    assert_eq!(count.get::<_, i64>(0), 4, "the third was not run");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_waits_for_a_leader_is_ended_by_kill() {
    let mut cluster = Cluster::with(Limits {
        leader_wait: Duration::from_secs(60),
        ..Limits::default()
    })
    .await;
    let keys = table(&cluster).await;
    let console = console(&cluster).await;
    let client = cluster.connect_as("application_name=waits").await;
    run(&client, &format!("BEGIN; SELECT v FROM t WHERE id = {}", keys[0])).await;
    cluster.stop_server(1);
    let sql = format!("SELECT v FROM t WHERE id = {}", keys[1]);
    let waiting = tokio::spawn(async move { client.batch_execute(&sql).await });
    until_state(&console, "waits", "waiting").await;
    run(&console, "KILL postgres").await;
    let error = timeout(LATE, waiting)
        .await
        .expect("long before it would have waited in vain")
        .unwrap()
        .unwrap_err();
    assert!(error.is_closed() || code(&error) == "57P01", "{error}");
}
