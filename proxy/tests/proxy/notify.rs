//! LISTEN and NOTIFY: through the first group, for the sessions of all nodes.

use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_postgres::{AsyncMessage, Client, NoTls, Notification, SimpleQueryMessage};

use crate::harness::raw::Raw;
use crate::harness::{Cluster, code};

/// What is not heard by then is not heard yet.
const SOON: Duration = Duration::from_millis(400);

/// What must be over by then.
const LATE: Duration = Duration::from_secs(20);

/// A client, and what it hears.
struct Listener {
    client: Client,
    heard: mpsc::Receiver<Notification>,
}

impl Listener {
    /// Of the node with this port.
    async fn start(port: u16, name: &str) -> Listener {
        let config =
            format!("host=127.0.0.1 port={port} user=postgres dbname=postgres application_name={name}");
        let (client, mut connection) = tokio_postgres::connect(&config, NoTls).await.expect("connect");
        let (sender, heard) = mpsc::channel(4096);
        tokio::spawn(async move {
            while let Some(message) = std::future::poll_fn(|cx| connection.poll_message(cx)).await {
                match message {
                    Ok(AsyncMessage::Notification(notification)) => {
                        if sender.send(notification).await.is_err() {
                            return;
                        }
                    }
                    Ok(_) => {}
                    Err(_) => return,
                }
            }
        });
        Listener { client, heard }
    }

    async fn hears(&mut self, channel: &str, payload: &str) -> i32 {
        let heard = timeout(LATE, self.heard.recv()).await;
        let heard = heard.expect(payload).expect("the connection lasts");
        assert_eq!((heard.channel(), heard.payload()), (channel, payload));
        heard.process_id()
    }

    async fn hears_nothing(&mut self) {
        let heard = timeout(SOON, self.heard.recv()).await;
        assert!(heard.is_err(), "{heard:?}");
    }

    async fn does(&self, sql: &str) {
        self.client.batch_execute(sql).await.expect(sql);
    }
}

/// The first value of a Query's rows.
async fn value(client: &Client, sql: &str) -> Option<String> {
    let rows = client.simple_query(sql).await.expect(sql);
    rows.iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
        _ => None,
    })
}

/// A column of the console's line about the client with this application name.
async fn shown(cluster: &Cluster, name: &str, column: &str) -> Option<String> {
    let console = cluster.connect_as("dbname=howdah").await;
    let rows = console.simple_query("SHOW CLIENTS").await.expect("clients");
    rows.iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) if row.get("application_name") == Some(name) => {
            row.get(column).map(str::to_owned)
        }
        _ => None,
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn who_listens_on_any_node_hears_it_while_it_does_nothing() {
    let cluster = Cluster::start().await;
    let second = cluster.second_node().await;
    let first = cluster.address.port();
    let mut one = Listener::start(first, "one").await;
    let mut two = Listener::start(second, "two").await;
    one.does("LISTEN news").await;
    // By the extended protocol; a name as PostgreSQL folds it.
    two.client.execute("LISTEN News", &[]).await.unwrap();
    cluster.until_pinned("one", "listen").await;
    let other = cluster.connect().await;
    other.batch_execute("NOTIFY news, 'first'").await.unwrap();
    other.execute("NOTIFY news", &[]).await.unwrap();
    let sql = "SELECT pg_notify($1, $2)";
    other.execute(sql, &[&"news", &"third"]).await.unwrap();
    other
        .batch_execute("NOTIFY olds, 'nobody listens'")
        .await
        .unwrap();
    for listener in [&mut one, &mut two] {
        for payload in ["first", "", "third"] {
            listener.hears("news", payload).await;
        }
    }
    // What it says itself comes with the process id that it knows itself by.
    one.does("NOTIFY news, 'mine'").await;
    let own = shown(&cluster, "one", "id").await.expect("it is there");
    assert_eq!(one.hears("news", "mine").await.to_string(), own);
    assert_ne!(two.hears("news", "mine").await.to_string(), own);
    // It works as others do meanwhile.
    cluster.rows_on_both(&cluster.connect().await).await;
    assert_eq!(
        value(&one.client, "SELECT count(*) FROM t").await.as_deref(),
        Some("2")
    );
    let channels = "SELECT pg_listening_channels()";
    assert_eq!(value(&one.client, channels).await.as_deref(), Some("news"));
    assert_eq!(value(&other, channels).await, None);
    let usage = value(&other, "SELECT pg_notification_queue_usage()").await;
    assert_eq!(usage.as_deref(), Some("0"));
    for (listen, unlisten) in [
        ("LISTEN a; LISTEN b", "UNLISTEN a; UNLISTEN b; UNLISTEN news"),
        ("LISTEN a", "UNLISTEN *"),
        ("LISTEN a", "DISCARD ALL"),
    ] {
        one.does(listen).await;
        cluster.until_pinned("one", "listen").await;
        one.does(unlisten).await;
        cluster.until_pinned("one", "").await;
        other.batch_execute("NOTIFY a; NOTIFY news").await.unwrap();
        one.hears_nothing().await;
    }
    // Together with a lock, of which each is a reason.
    one.does("LISTEN a; SELECT pg_advisory_lock(1)").await;
    cluster.until_pinned("one", "advisory lock, listen").await;
    one.does("UNLISTEN *").await;
    cluster.until_pinned("one", "advisory lock").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn listen_and_notify_are_of_their_transaction() {
    let cluster = Cluster::start().await;
    let keys = cluster.rows_on_both(&cluster.connect().await).await;
    let mut one = Listener::start(cluster.address.port(), "one").await;
    let other = cluster.connect().await;
    let notify = |payload: &str| format!("NOTIFY news, '{payload}'");
    for undone in [
        "BEGIN; LISTEN news; ROLLBACK",
        "BEGIN; SAVEPOINT s; LISTEN news; ROLLBACK TO s; COMMIT",
    ] {
        one.does(undone).await;
        cluster.until_pinned("one", "").await;
        other.batch_execute(&notify("unheard")).await.unwrap();
        one.hears_nothing().await;
    }
    // With rows of both groups, whose parts are prepared.
    let both = |value: i64| {
        let update = |key| format!("UPDATE t SET v = {value} WHERE id = {key};");
        keys.map(update).concat()
    };
    one.does(&format!("BEGIN; LISTEN news; {} COMMIT", both(1))).await;
    cluster.until_pinned("one", "listen").await;
    // While it is in a transaction it is not told, on whichever group that works.
    for key in keys {
        one.does(&format!("BEGIN; UPDATE t SET v = v WHERE id = {key}"))
            .await;
        other.batch_execute(&notify("later")).await.unwrap();
        one.hears_nothing().await;
        one.does("SELECT 1").await;
        one.hears_nothing().await;
        one.does("COMMIT").await;
        one.hears("news", "later").await;
    }
    for (sql, heard) in [
        (format!("BEGIN; {} NOTIFY news, 'x'; ROLLBACK", both(2)), false),
        (format!("BEGIN; {} NOTIFY news, 'x'; COMMIT", both(3)), true),
        (format!("BEGIN; NOTIFY news, 'x'; {} COMMIT", both(4)), true),
        (format!("{} NOTIFY news, 'x'; SELECT 1 / 0", both(5)), false),
        (format!("{} SELECT pg_notify('news', 'x')", both(6)), true),
        (
            "BEGIN; NOTIFY news, 'x'; NOTIFY news, 'x'; COMMIT".to_owned(),
            true,
        ),
        (
            "BEGIN; SAVEPOINT s; NOTIFY news, 'y'; ROLLBACK TO s; NOTIFY news, 'x'; COMMIT".to_owned(),
            true,
        ),
        (
            format!(
                "BEGIN; SELECT pg_advisory_xact_lock(1); NOTIFY news, 'x'; {} COMMIT",
                both(7)
            ),
            true,
        ),
        (
            format!(
                "BEGIN ISOLATION LEVEL SERIALIZABLE; NOTIFY news, 'x'; UPDATE t SET v = 8 WHERE id = {}; COMMIT",
                keys[1]
            ),
            true,
        ),
    ] {
        let done = other.batch_execute(&sql).await;
        if done.is_err() {
            other.batch_execute("ROLLBACK").await.unwrap();
        }
        assert_eq!(done.is_err(), sql.contains("1 / 0"), "{sql}: {done:?}");
        if heard {
            one.hears("news", "x").await;
        }
        one.hears_nothing().await;
    }
    one.does(&format!("BEGIN; UNLISTEN news; {} ROLLBACK", both(9)))
        .await;
    cluster.until_pinned("one", "listen").await;
    one.does(&format!("BEGIN; UNLISTEN news; {} COMMIT", both(9)))
        .await;
    cluster.until_pinned("one", "").await;
    // A backend that has listened is nobody's trap.
    other
        .batch_execute(&format!("BEGIN; {} UNLISTEN *; COMMIT", both(10)))
        .await
        .unwrap();
    let error = other
        .batch_execute(&format!("NOTIFY news, '{}'", "x".repeat(8000)))
        .await;
    assert_eq!(code(&error.unwrap_err()), "22023");
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_heard_before_it_is_replicated_and_seen() {
    let cluster = Cluster::start().await;
    let keys = cluster.rows_on_both(&cluster.connect().await).await;
    let mut one = Listener::start(cluster.address.port(), "one").await;
    one.does("LISTEN news").await;
    let other = cluster.connect().await;
    let update = format!("UPDATE t SET v = v + 1 WHERE id = {}", keys[1]);
    let here = format!("UPDATE t SET v = v + 1 WHERE id = {}", keys[0]);
    for (server, sql) in [
        (0, format!("BEGIN; NOTIFY news, 'x'; {here}; COMMIT")),
        (0, format!("BEGIN; NOTIFY news, 'x'; {here}; {update}; COMMIT")),
        (1, format!("BEGIN; NOTIFY news, 'x'; {update}; COMMIT")),
        (1, format!("SELECT pg_notify('news', 'x'); {update}")),
    ] {
        cluster.hold_commits(server).await;
        let mut waits = Box::pin(other.batch_execute(&sql));
        assert!(timeout(SOON, &mut waits).await.is_err(), "{sql}");
        one.hears_nothing().await;
        cluster.confirm_commits(server).await;
        timeout(LATE, waits).await.unwrap().unwrap();
        one.hears("news", "x").await;
    }
    // What has written nothing has nothing to lose, and waits for nobody.
    cluster.hold_commits(0).await;
    other.batch_execute("NOTIFY news, 'x'").await.unwrap();
    one.hears("news", "x").await;
    cluster.confirm_commits(0).await;
    // Whoever hears it sees the rows, whichever group they are on and however it was sent.
    let both = keys.map(|key| format!("UPDATE t SET v = v + 1 WHERE id = {key}"));
    for round in 0..20 {
        let sql = if round % 2 == 0 {
            format!("BEGIN; NOTIFY news, '{round}'; {}; COMMIT", both[1])
        } else {
            format!("BEGIN; {}; NOTIFY news, '{round}'; COMMIT", both[1])
        };
        let heard = async {
            one.hears("news", &round.to_string()).await;
            let sql = format!("SELECT v FROM t WHERE id = {}", keys[1]);
            value(&one.client, &sql).await
        };
        let (done, seen) = tokio::join!(other.batch_execute(&sql), heard);
        done.unwrap();
        assert_eq!(seen, Some((round + 4).to_string()));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pipeline_announces_what_it_has_committed() {
    let cluster = Cluster::start().await;
    let keys = cluster.rows_on_both(&cluster.connect().await).await;
    let mut one = Listener::start(cluster.address.port(), "one").await;
    one.does("LISTEN news").await;
    let mut raw = Raw::start(&cluster).await;
    let update = format!("UPDATE t SET v = v + 1 WHERE id = {}", keys[1]);
    let here = format!("UPDATE t SET v = v + 1 WHERE id = {}", keys[0]);
    for (statements, heard) in [
        (vec!["NOTIFY news, 'x'"], true),
        (vec!["NOTIFY news, 'x'", &update], true),
        (vec![&update, "SELECT pg_notify('news', 'x')"], true),
        (vec![&here, "NOTIFY news, 'x'", &update], true),
        (vec!["NOTIFY news, 'x'", &update, "SELECT 1 / 0"], false),
    ] {
        for sql in &statements {
            raw.parse("", sql);
            raw.bind("", "");
            raw.execute("", 0);
        }
        raw.sync();
        raw.send().await;
        let (_, errors) = raw.until_ready().await;
        assert_eq!(errors.is_empty(), heard, "{statements:?}: {errors:?}");
        if heard {
            one.hears("news", "x").await;
        }
        one.hears_nothing().await;
    }
    let sum = value(&one.client, &format!("SELECT v FROM t WHERE id = {}", keys[1])).await;
    assert_eq!(sum.as_deref(), Some("3"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listener_whose_backend_is_lost_is_told() {
    let cluster = Cluster::start().await;
    let mut raw = Raw::start(&cluster).await;
    raw.query("LISTEN news");
    raw.send().await;
    raw.until_ready().await;
    let direct = cluster.direct(0).await;
    let sql = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE query LIKE '%pg_listening_channels%' \
               AND pid <> pg_backend_pid()";
    let begun = Instant::now();
    while direct.query_one(sql, &[]).await.expect(sql).get::<_, i64>(0) == 0 {
        assert!(begun.elapsed() < LATE);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let words = timeout(LATE, raw.last_words()).await.unwrap();
    assert!(words.contains("FATAL") && words.contains("57P01"), "{words}");
    assert!(words.contains("LISTEN is lost"), "{words}");
}

#[tokio::test(flavor = "multi_thread")]
async fn many_notifications_come_in_their_order() {
    const MANY: usize = 3000;
    let cluster = Cluster::start().await;
    let keys = cluster.rows_on_both(&cluster.connect().await).await;
    let mut one = Listener::start(cluster.address.port(), "one").await;
    one.does("LISTEN news").await;
    // More than is kept for a client in a transaction: it is told then.
    one.does(&format!("BEGIN; UPDATE t SET v = 1 WHERE id = {}", keys[1]))
        .await;
    let other = cluster.connect().await;
    let payload = "x".repeat(1000);
    let all: Vec<String> = (0..MANY)
        .map(|n| format!("NOTIFY news, '{n} {payload}'"))
        .collect();
    for some in all.chunks(500) {
        let sql = format!("BEGIN; {}; COMMIT", some.join("; "));
        other.batch_execute(&sql).await.unwrap();
    }
    one.does("COMMIT").await;
    for n in 0..MANY {
        one.hears("news", &format!("{n} {payload}")).await;
    }
}
