//! Many messages without waiting for answers.

use futures::future::join_all;

use crate::harness::raw::Raw;
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

#[tokio::test(flavor = "multi_thread")]
async fn what_a_pipeline_sets_is_undone_with_it() {
    let cluster = Cluster::start().await;
    let client = cluster.connect().await;
    client
        .batch_execute("CREATE TABLE p (id bigint PRIMARY KEY)")
        .await
        .unwrap();
    let mut raw = Raw::start(&cluster).await;
    let insert = "INSERT INTO p VALUES (1)";
    let cases: [(&[&str], &str); 4] = [
        (&["SET DateStyle = 'German'", insert], "12C12CSZ"),
        (&["SET DateStyle = 'SQL'", insert], "12C12EZ"),
        (
            &["DELETE FROM p WHERE id = 1", "RESET DateStyle", insert, insert],
            "12C12C12C12EZ",
        ),
        (&["DELETE FROM p WHERE id = 1", "DISCARD ALL"], "12C12EZ"),
    ];
    for (statements, expected) in cases {
        for sql in statements {
            raw.parse("", sql);
            raw.bind("", "");
            raw.execute("", 0);
        }
        raw.sync();
        assert_eq!(raw.until_ready().await.0, expected, "{statements:?}");
        // What came before the failure is undone, too.
        let rows = client.query("SELECT id FROM p", &[]).await.unwrap();
        assert_eq!(rows.len(), 1, "{statements:?}");
    }
    // It still is what the first one has set.
    raw.query("SET DateStyle = 'German'");
    assert_eq!(raw.until_ready().await.0, "CZ");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_read_fails_where_postgresql_fails() {
    let cluster = Cluster::start().await;
    let client = cluster.connect().await;
    client
        .batch_execute("CREATE TABLE q (at timestamptz PRIMARY KEY); CREATE TABLE p (id bigint PRIMARY KEY)")
        .await
        .unwrap();
    let mut raw = Raw::start(&cluster).await;
    raw.query("PREPARE one (bigint) AS SELECT id FROM p WHERE id = $1");
    raw.until_ready().await;
    let cases: [(&[&str], &str, &str); 4] = [
        (
            &["SELECT 1", "INSERT INTO q VALUES ('no time')"],
            "12DCEZ",
            "22007",
        ),
        (
            &["BEGIN", "INSERT INTO q VALUES ('no time')", "ROLLBACK"],
            "12CEZ",
            "22007",
        ),
        (&["EXECUTE one"], "12EZ", "42601"),
        (&["EXECUTE two"], "12EZ", "26000"),
    ];
    for (statements, expected, code) in cases {
        for sql in statements {
            raw.parse("", sql);
            raw.bind("", "");
            raw.execute("", 0);
        }
        raw.sync();
        let answered = raw.until_ready().await;
        assert_eq!(
            answered,
            (expected.to_owned(), vec![code.to_owned()]),
            "{statements:?}"
        );
        raw.query("ROLLBACK");
        raw.until_ready().await;
    }
    raw.query("BEGIN; INSERT INTO q VALUES ('no time')");
    assert_eq!(
        raw.until_ready().await,
        ("CEZ".to_owned(), vec!["22007".to_owned()])
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pipeline_of_several_groups_is_answered_as_one_of_one() {
    let cluster = Cluster::start().await;
    let client = cluster.connect().await;
    let [one, two] = [cluster.keys_of(0, 1)[0], cluster.keys_of(1, 1)[0]];
    client
        .batch_execute(&format!(
            "CREATE TABLE p (id bigint PRIMARY KEY); INSERT INTO p VALUES ({one}); INSERT INTO p VALUES ({two})"
        ))
        .await
        .unwrap();
    let (insert_one, insert_two) = (
        format!("INSERT INTO p VALUES ({one})"),
        format!("INSERT INTO p VALUES ({two})"),
    );
    let (delete_one, delete_two) = (
        format!("DELETE FROM p WHERE id = {one}"),
        format!("DELETE FROM p WHERE id = {two}"),
    );
    let local = "SET LOCAL DateStyle = 'SQL'";
    let select = format!("SELECT FROM p WHERE id = {one}");
    let cases: [(&str, &[&str], &str); 5] = [
        // It has no block, whoever has opened its transaction.
        ("SELECT 1", &[&delete_one, &delete_two, local], "12C12C12NCZ"),
        ("SELECT 1", &["SET DateStyle = 'ISO'", local], "12C12NCZ"),
        ("BEGIN", &[&insert_one, &insert_two, local], "12C12C12CSZ"),
        ("COMMIT", &[], "Z"),
        // What the others have set is undone before the client hears how it stands.
        (
            &format!("BEGIN; {select}"),
            &["SET DateStyle = 'SQL'", &insert_two],
            "12C12EZ",
        ),
    ];
    let mut raw = Raw::start(&cluster).await;
    for (before, statements, expected) in cases {
        raw.query(before);
        raw.until_ready().await;
        for sql in statements {
            raw.parse("", sql);
            raw.bind("", "");
            raw.execute("", 0);
        }
        raw.sync();
        let tags = raw.until_ready().await.0;
        assert_eq!(tags, expected, "{statements:?} {:?}", raw.told);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_stands_against_a_bind_comes_after_the_answer_to_its_parse() {
    let cluster = Cluster::start().await;
    let mut raw = Raw::start(&cluster).await;
    for begin in [
        "BEGIN; DECLARE p CURSOR FOR SELECT 1",
        "BEGIN; DECLARE other CURSOR FOR SELECT 1",
    ] {
        raw.query(begin);
        raw.until_ready().await;
        if begin.contains("other") {
            raw.parse("", "SELECT 1");
            raw.bind("p", "");
            raw.sync();
            assert_eq!(raw.until_ready().await.0, "12Z");
        }
        raw.parse("", "SELECT 2");
        raw.bind("p", "");
        raw.sync();
        let answered = raw.until_ready().await;
        assert_eq!(answered, ("1EZ".to_owned(), vec!["42P03".to_owned()]), "{begin}");
        raw.query("ROLLBACK");
        raw.until_ready().await;
    }
    // Too few values, also where the transaction has failed.
    raw.parse("s", "SELECT $1::bigint, $2::bigint");
    raw.sync();
    raw.until_ready().await;
    for before in ["SELECT 1", "BEGIN; SELECT 1 / 0"] {
        raw.query(before);
        raw.until_ready().await;
        raw.bind("", "s");
        raw.sync();
        assert_eq!(raw.until_ready().await.1, ["08P01"], "{before}");
    }
    raw.query("ROLLBACK");
    raw.until_ready().await;
    // A DECLARE that failed has left nothing.
    raw.query("DECLARE p CURSOR FOR SELECT 1");
    assert_eq!(raw.until_ready().await.1, ["25P01"]);
    raw.parse("", "SELECT 1");
    raw.bind("p", "");
    raw.sync();
    assert_eq!(raw.until_ready().await.0, "12Z");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pipeline_can_be_read_only_and_no_copy_begins_in_it() {
    let cluster = Cluster::start().await;
    let client = cluster.connect().await;
    client
        .batch_execute("CREATE TABLE p (id bigint PRIMARY KEY); INSERT INTO p VALUES (1)")
        .await
        .unwrap();
    let mut raw = Raw::start(&cluster).await;
    let read_only = "SET TRANSACTION READ ONLY";
    for (sql, expected) in [
        ("INSERT INTO p VALUES (2)", "12NC12EZ"),
        ("COPY p FROM STDIN", "12NC12EZ"),
        ("SELECT id FROM p", "12NC12DCZ"),
    ] {
        for sql in [read_only, sql] {
            raw.parse("", sql);
            raw.bind("", "");
            raw.execute("", 0);
        }
        raw.sync();
        let (tags, errors) = raw.until_ready().await;
        assert_eq!(tags, expected, "{sql}");
        assert!(errors.iter().all(|code| code == "25006"), "{sql}: {errors:?}");
    }
    raw.query("BEGIN READ ONLY");
    raw.until_ready().await;
    raw.query("COPY p FROM STDIN");
    assert_eq!(
        raw.until_ready().await,
        ("EZ".to_owned(), vec!["25006".to_owned()])
    );
    raw.query("ROLLBACK");
    raw.until_ready().await;

    // What stands against a row is found before the client ends the COPY.
    for (line, expected) in [(&b"1\t2\n"[..], "22P04"), (b"1\n", "57014")] {
        raw.query("COPY p FROM STDIN");
        raw.copy_data(line);
        raw.bytes(b"f\0\0\0\x05\0");
        assert_eq!(
            raw.until_ready().await,
            ("GEZ".to_owned(), vec![expected.to_owned()])
        );
    }
    // A row that cannot be fails before any that was returned, wherever it belongs.
    let keys = [cluster.keys_of(0, 2)[1], cluster.keys_of(1, 2)[1]];
    for bad in keys {
        raw.query(&format!(
            "INSERT INTO p VALUES ({}), ({}), ({bad}) RETURNING id",
            keys[0], keys[1]
        ));
        assert_eq!(
            raw.until_ready().await,
            ("EZ".to_owned(), vec!["23505".to_owned()])
        );
    }
    raw.query(&format!(
        "INSERT INTO p VALUES ({}), ({}) RETURNING id",
        keys[0], keys[1]
    ));
    assert_eq!(raw.until_ready().await.0, "TDDCZ");

    // What a COPY that fails undoes is told with its end.
    raw.query("BEGIN; SET LOCAL DateStyle = 'SQL'");
    assert_eq!(raw.until_ready().await.0, "CCSZ");
    raw.query("COPY p FROM STDIN");
    raw.copy_data(b"1\n");
    raw.bytes(b"c\0\0\0\x04");
    assert_eq!(raw.until_ready().await.0, "GESZ");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_session_answers_itself_is_in_the_format_that_was_asked_for() {
    let cluster = Cluster::start().await;
    let mut raw = Raw::start(&cluster).await;
    for (format, expected) in [(0, "\0\0Z"), (1, "\0\u{1}Z")] {
        raw.parse("", "SELECT set_config('bytea_output', 'hex', false)");
        raw.bytes(&[b'B', 0, 0, 0, 14, 0, 0, 0, 0, 0, 0, 0, 1, 0, format]);
        raw.describe('P', "");
        raw.sync();
        let said = raw.rest().await;
        assert!(said.contains("set_config") && said.contains(expected), "{said:?}");
        raw.query("SELECT 1");
        raw.until_ready().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_of_both_groups_leaves_the_rest_of_its_pipeline_read_committed() {
    let cluster = Cluster::start().await;
    let other = cluster.connect().await;
    let [one, _] = cluster.rows_on_both(&other).await;
    let direct = cluster.direct(0).await;
    for read in ["SELECT id FROM t", "SELECT sum(v) FROM t"] {
        let mut raw = Raw::start(&cluster).await;
        other
            .batch_execute(&format!("BEGIN; UPDATE t SET v = v + 1 WHERE id = {one}"))
            .await
            .unwrap();
        for sql in [read, &format!("UPDATE t SET v = v + 1 WHERE id = {one}")] {
            raw.parse("", sql);
            raw.bind("", "");
            raw.execute("", 0);
        }
        raw.sync();
        raw.send().await;
        let waits = "SELECT FROM pg_stat_activity WHERE wait_event_type = 'Lock'";
        while direct.query(waits, &[]).await.unwrap().is_empty() {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
        other.batch_execute("COMMIT").await.unwrap();
        // At REPEATABLE READ the row would have changed since the snapshot, 40001.
        let (_, errors) = raw.until_ready().await;
        assert!(errors.is_empty(), "{read}: {errors:?}");
    }
    let row = other
        .query_one("SELECT v FROM t WHERE id = $1", &[&one])
        .await
        .unwrap();
    assert_eq!(row.get::<_, i64>(0), 4);
}
