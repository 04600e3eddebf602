//! The protocol beyond what a driver sends every day.

use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::{SinkExt, StreamExt};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_postgres::binary_copy::BinaryCopyInWriter;
use tokio_postgres::error::{ErrorPosition, SqlState};
use tokio_postgres::types::Type;

use crate::harness::raw::Raw;
use crate::harness::{Cluster, code};

/// Starts a session by this protocol: the messages up to ReadyForQuery, as type and body.
async fn start(stream: &mut TcpStream, version: u32, more: &[u8]) -> Vec<(char, Vec<u8>)> {
    let mut body = version.to_be_bytes().to_vec();
    body.extend(b"user\0postgres\0database\0postgres\0");
    body.extend(more);
    body.push(0);
    let len = u32::try_from(body.len() + 4).expect("it fits");
    stream
        .write_all(&len.to_be_bytes())
        .await
        .expect("the connection is open");
    stream.write_all(&body).await.expect("the connection is open");
    until_ready(stream).await
}

async fn until_ready(stream: &mut TcpStream) -> Vec<(char, Vec<u8>)> {
    let mut messages = Vec::new();
    loop {
        let tag = char::from(stream.read_u8().await.expect("an answer"));
        let len = usize::try_from(stream.read_u32().await.expect("an answer")).expect("it fits");
        let mut body = vec![0; len - 4];
        stream.read_exact(&mut body).await.expect("an answer");
        messages.push((tag, body));
        if tag == 'Z' {
            return messages;
        }
    }
}

fn body(messages: &[(char, Vec<u8>)], tag: char) -> Option<&[u8]> {
    let found = messages.iter().find(|(found, _)| *found == tag);
    found.map(|(_, body)| body.as_slice())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_newest_protocol_that_both_sides_know_is_spoken() {
    /// What is asked for, what else, the answer's version and unknown parameters, the length of the key.
    type Case<'a> = (u32, &'a [u8], Option<&'a [u8]>, usize);
    let cluster = Cluster::start().await;
    let three = 3 << 16;
    let cases: [Case; 5] = [
        (three, b"", None, 4),
        (three + 1, b"", None, 4),
        (three + 2, b"", None, 32),
        (three + 9, b"", Some(b"\0\x03\0\x02\0\0\0\0"), 32),
        (
            three,
            b"_pq_.new\0on\0",
            Some(b"\0\x03\0\0\0\0\0\x01_pq_.new\0"),
            4,
        ),
    ];
    for (version, more, negotiated, key) in cases {
        let mut stream = cluster.raw().await;
        let messages = start(&mut stream, version, more).await;
        assert_eq!(body(&messages, 'v'), negotiated, "{version:x}");
        let key_data = body(&messages, 'K').expect("a key");
        assert_eq!(key_data.len(), 4 + key, "{version:x}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancel_reaches_its_session_through_any_node() {
    let cluster = Cluster::start().await;
    let ports = [cluster.address.port(), cluster.second_node().await];
    for (of, through) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
        for version in [3 << 16, (3 << 16) + 2] {
            let mut stream = TcpStream::connect(("127.0.0.1", ports[of])).await.unwrap();
            let messages = start(&mut stream, version, b"").await;
            let key = body(&messages, 'K').expect("a key").to_vec();
            let query = b"Q\0\0\0\x18SELECT pg_sleep(20)\0";
            stream.write_all(query).await.unwrap();
            tokio::time::sleep(Duration::from_millis(200)).await;
            // A wrong key does nothing.
            let mut wrong = key.clone();
            *wrong.last_mut().unwrap() ^= 1;
            for key in [&wrong, &key] {
                let mut request = u32::try_from(key.len() + 8).unwrap().to_be_bytes().to_vec();
                request.extend(80_877_102_u32.to_be_bytes());
                request.extend(key);
                let mut asking = TcpStream::connect(("127.0.0.1", ports[through])).await.unwrap();
                asking.write_all(&request).await.unwrap();
                assert_eq!(asking.read(&mut [0]).await.unwrap(), 0);
                if *key == wrong {
                    let early = tokio::time::timeout(Duration::from_millis(300), stream.read_u8()).await;
                    assert!(early.is_err(), "{early:?}");
                }
            }
            let begun = Instant::now();
            let messages = until_ready(&mut stream).await;
            let error = String::from_utf8_lossy(body(&messages, 'E').expect("an error")).into_owned();
            assert!(
                error.contains("C57014") && error.contains("user request"),
                "{error}"
            );
            assert!(begun.elapsed() < Duration::from_secs(10));
        }
    }
    // Each of the wrong keys that came to the first node, also those for the other one's sessions.
    assert_eq!(cluster.places().refused_cancels(), 4);
}

/// Ten rows on each group.
async fn table(cluster: &Cluster) -> tokio_postgres::Client {
    let client = cluster.connect().await;
    client
        .batch_execute("CREATE TABLE t (id bigint PRIMARY KEY, v text)")
        .await
        .expect("it succeeds");
    for server in 0..2 {
        for key in cluster.keys_of(server, 10) {
            let sql = format!("INSERT INTO t VALUES ({key}, 'v{key}')");
            client.batch_execute(&sql).await.expect(&sql);
        }
    }
    client
}

#[tokio::test(flavor = "multi_thread")]
async fn a_portal_of_several_groups_gives_its_rows_in_parts() {
    let cluster = Cluster::start().await;
    let client = table(&cluster).await;
    let mut raw = Raw::start(&cluster).await;
    for block in [false, true] {
        if block {
            raw.parse("", "BEGIN");
            raw.bind("", "");
            raw.execute("", 0);
            raw.sync();
            raw.until_ready().await;
        }
        raw.parse("", "SELECT id FROM t");
        raw.bind("p", "");
        raw.describe('P', "p");
        for _ in 0..4 {
            raw.execute("p", 6);
        }
        raw.execute("p", 6);
        raw.close('P', "p");
        // Its name is free again.
        raw.parse("", "SELECT id FROM t");
        raw.bind("p", "");
        raw.execute("p", 10);
        raw.execute("p", 0);
        raw.close('P', "p");
        raw.sync();
        let (tags, errors) = raw.until_ready().await;
        assert!(errors.is_empty(), "{errors:?}");
        let rows = |count: usize| "D".repeat(count);
        let [six, two, ten] = [6, 2, 10].map(rows);
        let expected = format!("12T{six}s{six}s{six}s{two}CC312{ten}s{ten}C3Z");
        assert_eq!(tags, expected, "block: {block}");
        if block {
            // All parts are of one moment.
            raw.parse("", "SELECT id FROM t");
            raw.bind("q", "");
            raw.execute("q", 15);
            raw.sync();
            let (tags, _) = raw.until_ready().await;
            assert_eq!(tags, format!("12{}sZ", rows(15)));
            client.batch_execute("DELETE FROM t").await.unwrap();
            raw.execute("q", 0);
            raw.sync();
            let (tags, errors) = raw.until_ready().await;
            assert!(errors.is_empty(), "{errors:?}");
            assert_eq!(tags, format!("{}CZ", rows(5)));
        }
    }
    // A name that is taken.
    raw.parse("", "SELECT 1");
    raw.bind("q", "");
    raw.sync();
    assert_eq!(raw.until_ready().await.1, ["42P03"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_written_on_several_groups_is_returned_in_parts() {
    let cluster = Cluster::start().await;
    let client = table(&cluster).await;
    let mut raw = Raw::start(&cluster).await;
    // Some drivers ask for one row where they want none.
    raw.parse("", "UPDATE t SET v = 'one'");
    raw.bind("", "");
    raw.execute("", 1);
    raw.sync();
    let (tags, errors) = raw.until_ready().await;
    assert!(errors.is_empty(), "{errors:?}");
    assert_eq!(tags, "12CZ");
    raw.parse("", "UPDATE t SET v = 'two' RETURNING id");
    raw.bind("", "");
    raw.execute("", 12);
    raw.execute("", 12);
    raw.sync();
    let (tags, errors) = raw.until_ready().await;
    assert!(errors.is_empty(), "{errors:?}");
    assert_eq!(tags, format!("12{}s{}CZ", "D".repeat(12), "D".repeat(8)));
    assert_eq!(
        raw.completed,
        ["UPDATE 20", "UPDATE 8"],
        "as PostgreSQL: the rows of the last part"
    );
    let rows = client
        .query("SELECT id FROM t WHERE v = 'two'", &[])
        .await
        .unwrap();
    assert_eq!(rows.len(), 20, "also what was not asked for is written");
}

#[tokio::test(flavor = "multi_thread")]
async fn function_calls_are_refused_and_take_what_is_open_along() {
    let cluster = Cluster::start().await;
    let client = table(&cluster).await;
    let mut raw = Raw::start(&cluster).await;
    raw.function_call();
    let (tags, errors) = raw.until_ready().await;
    assert_eq!((tags.as_str(), errors), ("EZ", vec!["0A000".to_owned()]));
    raw.parse("", "DELETE FROM t");
    raw.bind("", "");
    raw.execute("", 0);
    raw.function_call();
    let (tags, errors) = raw.until_ready().await;
    assert_eq!((tags.as_str(), errors), ("12CEZ", vec!["0A000".to_owned()]));
    raw.sync();
    assert_eq!(raw.until_ready().await.0, "Z");
    assert_eq!(client.query("SELECT id FROM t", &[]).await.unwrap().len(), 20);
    // After an error it is skipped as everything is up to Sync.
    raw.parse("", "SELEC");
    raw.function_call();
    raw.sync();
    let (tags, errors) = raw.until_ready().await;
    assert_eq!((tags.as_str(), errors), ("EZ", vec!["42601".to_owned()]));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_client_hears_of_settings_that_change() {
    let cluster = Cluster::start().await;
    let client = table(&cluster).await;
    drop(client);
    let keys = [cluster.keys_of(0, 1)[0], cluster.keys_of(1, 1)[0]];
    let mut stream = cluster.raw().await;
    let messages = start(&mut stream, 3 << 16, b"").await;
    let told = |messages: &[(char, Vec<u8>)]| -> Vec<String> {
        let told = messages.iter().filter(|(tag, _)| *tag == 'S');
        let text = |body: &Vec<u8>| {
            let body = String::from_utf8_lossy(body);
            body.strip_suffix('\0').expect("its end").replace('\0', "=")
        };
        told.map(|(_, body)| text(body)).collect()
    };
    let first = told(&messages);
    for expected in [
        "in_hot_standby=off",
        "default_transaction_read_only=off",
        "client_encoding=UTF8",
    ] {
        assert!(first.iter().any(|told| told == expected), "{first:?}");
    }
    for (sql, expected) in [
        ("SET application_name = 'a'", vec!["application_name=a"]),
        // On the other group it is the same: nothing new.
        (&*format!("SELECT * FROM t WHERE id = {}", keys[1]), vec![]),
        (&*format!("SELECT * FROM t WHERE id = {}", keys[0]), vec![]),
        (
            "BEGIN; SET application_name = 'b'; SELECT id FROM t",
            vec!["application_name=b"],
        ),
        ("ROLLBACK", vec!["application_name=a"]),
        (
            "SET default_transaction_read_only = on",
            vec!["default_transaction_read_only=on"],
        ),
        (
            "RESET default_transaction_read_only",
            vec!["default_transaction_read_only=off"],
        ),
        (
            "SELECT set_config('DateStyle', 'German', false)",
            vec!["DateStyle=German, DMY"],
        ),
        ("DISCARD ALL", vec!["application_name=", "DateStyle=ISO, MDY"]),
    ] {
        let mut message = vec![b'Q'];
        message.extend(u32::try_from(sql.len() + 5).unwrap().to_be_bytes());
        message.extend(sql.as_bytes());
        message.push(0);
        stream.write_all(&message).await.unwrap();
        let messages = until_ready(&mut stream).await;
        assert_eq!(body(&messages, 'E'), None, "{sql}");
        assert_eq!(told(&messages), expected, "{sql}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_are_set_and_read_by_functions() {
    let cluster = Cluster::start().await;
    let mut client = cluster.connect().await;
    // asyncpg's question before it asks for types.
    let asked = "SELECT current_setting('jit') AS cur, set_config('jit', 'off', false) AS new";
    let row = client.query_one(asked, &[]).await.unwrap();
    assert_eq!(
        (row.get::<_, &str>("cur"), row.get::<_, &str>("new")),
        ("on", "off")
    );
    let back = "SELECT set_config('jit', $1, false)";
    let row = client.query_one(back, &[&"on"]).await.unwrap();
    assert_eq!(row.get::<_, &str>("set_config"), "on");
    let current = |name: &'static str| {
        let client = &client;
        async move {
            let sql = format!("SELECT current_setting('{name}', true)");
            client
                .query_one(&sql, &[])
                .await
                .unwrap()
                .get::<_, Option<String>>(0)
        }
    };
    assert_eq!(current("jit").await.as_deref(), Some("on"));
    // All of its settings, or none.
    let both = "SELECT set_config('app.one', 'x', false), set_config('jit', 'perhaps', false)";
    let error = client.query(both, &[]).await.unwrap_err();
    assert_eq!(error.code().map(SqlState::code), Some("22023"));
    client.simple_query(both).await.unwrap_err();
    // A name that was never set by anybody, but once was to be, is empty in PostgreSQL, too.
    assert_eq!(current("app.one").await.unwrap_or_default(), "");
    // Names, values and the rest may be parameters; what may not be set may not be set so.
    let any = "SELECT set_config($1, $2, $3), set_config('statement_timeout', '7s', $3), current_setting('statement_timeout')";
    let row = client
        .query_one(any, &[&"app.tenant", &"O'Neil\\", &false])
        .await
        .unwrap();
    let values: Vec<&str> = (0..3).map(|at| row.get(at)).collect();
    assert_eq!(values, ["O'Neil\\", "7s", "7s"]);
    assert_eq!(current("app.tenant").await.as_deref(), Some("O'Neil\\"));
    let error = client
        .query(any, &[&"Synchronous_Commit", &"off", &false])
        .await
        .unwrap_err();
    assert_eq!(error.code().map(SqlState::code), Some("0A000"));
    let error = client
        .simple_query("SELECT set_config('app.tenant', $1, false)")
        .await
        .unwrap_err();
    assert_eq!(error.code().map(SqlState::code), Some("42P02"));
    // The end of the transaction undoes what was local.
    let step = client.transaction().await.unwrap();
    step.query_one(any, &[&"app.tenant", &"local", &true])
        .await
        .unwrap();
    let row = step
        .query_one("SELECT current_setting('app.tenant')", &[])
        .await
        .unwrap();
    assert_eq!(row.get::<_, &str>(0), "local");
    step.commit().await.unwrap();
    let rows = client.simple_query("SHOW statement_timeout").await.unwrap();
    assert!(format!("{rows:?}").contains("7s"), "{rows:?}");
    let row = client
        .query_one("SELECT current_setting('app.tenant')", &[])
        .await
        .unwrap();
    assert_eq!(row.get::<_, &str>(0), "O'Neil\\");
}

#[tokio::test(flavor = "multi_thread")]
async fn copy_in_binary_goes_to_and_comes_from_all_groups() {
    let cluster = Cluster::start().await;
    let client = table(&cluster).await;
    client.batch_execute("DELETE FROM t").await.unwrap();
    let sink = client.copy_in("COPY t FROM STDIN (FORMAT binary)").await.unwrap();
    let writer = BinaryCopyInWriter::new(sink, &[Type::INT8, Type::TEXT]);
    futures::pin_mut!(writer);
    for id in 0..5000_i64 {
        let text = (id % 7 != 0).then(|| format!("value {id}"));
        writer.as_mut().write(&[&id, &text]).await.unwrap();
    }
    assert_eq!(writer.finish().await.unwrap(), 5000);
    // The driver has heard that COPY is complete; it is committed with the Sync behind it.
    client.batch_execute("").await.unwrap();
    for server in 0..2 {
        let sql = "SELECT count(*) FROM t WHERE v = 'value ' || id OR (v IS NULL AND id % 7 = 0)";
        let rows: i64 = cluster
            .direct(server)
            .await
            .query_one(sql, &[])
            .await
            .unwrap()
            .get(0);
        assert!((2000..3000).contains(&rows), "server {server} has {rows}");
    }

    let copied = async |sql: &str| {
        let parts = client.copy_out(sql).await.unwrap();
        let parts: Vec<_> = parts.collect().await;
        let parts: Result<Vec<Bytes>, _> = parts.into_iter().collect();
        parts.unwrap().concat()
    };
    let data = copied("COPY t TO STDOUT (FORMAT binary)").await;
    client.batch_execute("DELETE FROM t").await.unwrap();
    // It can be read again, in parts of any size, also with what PostgreSQL alone would write.
    for part in [1_usize, 1000, usize::MAX] {
        let sink = client.copy_in("COPY t FROM STDIN BINARY").await.unwrap();
        futures::pin_mut!(sink);
        for part in data
            .chunks(part.min(data.len()))
            .take(if part == 1 { 2000 } else { usize::MAX })
        {
            sink.send(Bytes::copy_from_slice(part)).await.unwrap();
        }
        let done = sink.finish().await;
        if part == 1 {
            assert_eq!(
                code(&done.unwrap_err()),
                "22P04",
                "it ends in the middle of a row"
            );
        } else {
            assert_eq!(done.unwrap(), 5000);
            assert_eq!(client.execute("DELETE FROM t", &[]).await.unwrap(), 5000);
        }
    }
    let none = copied("COPY t TO STDOUT (FORMAT binary)").await;
    assert_eq!(none, b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0\xff\xff");
    for bad in [&b"PGCOPY"[..], b"no copy at all, this", b""] {
        let sink = client.copy_in("COPY t FROM STDIN BINARY").await.unwrap();
        futures::pin_mut!(sink);
        // Where it is refused early the rest is not taken.
        let _ = sink.send(Bytes::copy_from_slice(bad)).await;
        assert_eq!(code(&sink.finish().await.unwrap_err()), "22P04", "{bad:?}");
    }

    for key in [cluster.keys_of(0, 1)[0], cluster.keys_of(1, 1)[0]] {
        client
            .batch_execute(&format!("INSERT INTO t VALUES ({key}, 'x')"))
            .await
            .unwrap();
    }
    let lines = copied("COPY t TO STDOUT (FORMAT csv, HEADER)").await;
    let lines = String::from_utf8(lines).unwrap();
    let lines: Vec<&str> = lines.lines().collect();
    assert_eq!((lines.len(), lines[0]), (3, "id,v"), "{lines:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_of_parameters_are_told_before_ready_for_query() {
    let cluster = Cluster::start().await;
    let mut raw = Raw::start(&cluster).await;
    for (sql, expected) in [
        ("SET DateStyle = 'German'; SELECT 1", "CTDCSZ"),
        ("SET DateStyle = 'German'", "CZ"),
        (
            "SET DateStyle = 'ISO, MDY'; RESET DateStyle; SET DateStyle = 'German'",
            "CCCZ",
        ),
        ("BEGIN; SET TimeZone = 'Asia/Tokyo'", "CCSZ"),
        ("ROLLBACK", "CSZ"),
    ] {
        raw.query(sql);
        assert_eq!(raw.until_ready().await, (expected.to_owned(), vec![]), "{sql}");
    }
    raw.parse("", "SET application_name = 'told'");
    raw.bind("", "");
    raw.execute("", 0);
    raw.parse("", "SELECT 1");
    raw.bind("", "");
    raw.execute("", 0);
    raw.sync();
    assert_eq!(raw.until_ready().await, ("12C12DCSZ".to_owned(), vec![]));
}

#[tokio::test(flavor = "multi_thread")]
async fn encodings_are_named_as_loosely_as_by_postgresql() {
    let cluster = Cluster::start().await;
    for name in ["UTF8", "'utf-8'", "Unicode", "sql-ascii"] {
        let mut stream = cluster.raw().await;
        let more = format!("client_encoding\0{name}\0");
        let messages = start(&mut stream, 3 << 16, more.as_bytes()).await;
        assert!(body(&messages, 'K').is_some(), "{name}");
    }
    let client = cluster.connect().await;
    client
        .batch_execute("SET client_encoding = 'Utf 8'")
        .await
        .unwrap();
    let error = client
        .batch_execute("SET client_encoding = 'LATIN1'")
        .await
        .unwrap_err();
    assert_eq!(code(&error), "0A000");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_with_a_statement_is_said_in_postgresqls_words() {
    let cluster = Cluster::start().await;
    let client = cluster.connect().await;
    let sql = "CREATE TABLE w (id bigint PRIMARY KEY, at timestamptz)";
    client.batch_execute(sql).await.unwrap();
    // Twice, as the first leaves a statement of ours behind.
    for _ in 0..2 {
        for (sql, message, position) in [
            (
                "SELECT id FROM w WHERE id IN (1, '')",
                "invalid input syntax for type bigint: \"\"",
                34,
            ),
            (
                "INSERT INTO w VALUES (9223372036854775808)",
                "bigint out of range",
                0,
            ),
            (
                "SELECT \"abc",
                "unterminated quoted identifier at or near \"\"abc\"",
                8,
            ),
        ] {
            let error = client.batch_execute(sql).await.unwrap_err();
            let error = error.as_db_error().expect("an answer");
            let place = match error.position() {
                Some(ErrorPosition::Original(place)) => *place,
                _ => 0,
            };
            assert_eq!((error.message(), place), (message, position), "{sql}");
        }
    }
}
