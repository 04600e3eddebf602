//! COPY from the client.

use bytes::Bytes;
use futures::SinkExt;
use tokio_postgres::Client;
use tokio_postgres::error::DbError;

use crate::harness::raw::Raw;
use crate::harness::{Cluster, code};

/// Copies lines in parts of a thousand bytes.
async fn copy(client: &Client, sql: &str, lines: &str) -> Result<u64, tokio_postgres::Error> {
    let sink = client.copy_in(sql).await?;
    futures::pin_mut!(sink);
    for part in lines.as_bytes().chunks(1000) {
        sink.send(Bytes::copy_from_slice(part)).await?;
    }
    sink.finish().await
}

async fn count(client: &Client) -> usize {
    let rows = client.query("SELECT id FROM t", &[]).await;
    rows.expect("an answer").len()
}

async fn table(cluster: &Cluster) -> Client {
    let client = cluster.connect().await;
    let sql = "CREATE TABLE t (id bigint PRIMARY KEY, v text)";
    client.batch_execute(sql).await.expect("a table");
    client
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_go_to_their_groups_all_or_none() {
    let cluster = Cluster::start().await;
    let client = table(&cluster).await;
    let text = "COPY t FROM STDIN";
    let rows = |ids: std::ops::Range<u32>| -> String { ids.map(|id| format!("{id}\trow {id}\n")).collect() };
    assert_eq!(copy(&client, text, &rows(0..30000)).await.unwrap(), 30000);
    let found = client
        .query_one("SELECT v FROM t WHERE id = 29999", &[])
        .await
        .unwrap();
    assert_eq!(found.get::<_, String>(0), "row 29999");
    let mut ids: Vec<i64> = client
        .query("SELECT id FROM t", &[])
        .await
        .unwrap()
        .iter()
        .map(|row| row.get(0))
        .collect();
    ids.sort_unstable();
    assert_eq!(ids, (0..30000).collect::<Vec<_>>());

    // What goes wrong in the middle or at the end.
    let more = rows(30000..50000);
    for (last, state) in [
        ("7\ttwice\n", "23505"),
        ("1\ttoo\tmany\n", "22P04"),
        ("x\ty\n", "22P02"),
        ("1\n", "22P04"),
    ] {
        for lines in [format!("{more}{last}"), format!("{last}{more}")] {
            let error = copy(&client, text, &lines).await.unwrap_err();
            assert_eq!(code(&error), state, "{last}");
        }
    }
    let error = copy(&client, text, "1\ta\nx\tb\n").await.unwrap_err();
    let context = error.as_db_error().and_then(DbError::where_);
    assert_eq!(context, Some("COPY t, line 2, column id: \"x\""));
    {
        let sink = client.copy_in::<_, Bytes>(text).await.unwrap();
        futures::pin_mut!(sink);
        sink.send(Bytes::from(more.clone())).await.unwrap();
        // Dropped: CopyFail.
    }
    assert_eq!(count(&client).await, 30000);
    assert_eq!(copy(&client, text, "").await.unwrap(), 0);
    client.batch_execute("SELECT 1").await.unwrap();

    // In a block, with what is around it.
    client.batch_execute("BEGIN").await.unwrap();
    client
        .batch_execute("UPDATE t SET v = 'block' WHERE id IN (1, 2, 3, 4, 5)")
        .await
        .unwrap();
    assert_eq!(copy(&client, text, &rows(30000..30010)).await.unwrap(), 10);
    assert_eq!(count(&client).await, 30010);
    client.batch_execute("SAVEPOINT s").await.unwrap();
    let error = copy(&client, text, &rows(30005..30020)).await.unwrap_err();
    assert_eq!(code(&error), "23505");
    assert_eq!(
        code(&client.batch_execute("SELECT 1").await.unwrap_err()),
        "25P02"
    );
    client.batch_execute("ROLLBACK TO s").await.unwrap();
    assert_eq!(count(&client).await, 30010);
    client.batch_execute("ROLLBACK").await.unwrap();
    assert_eq!(count(&client).await, 30000);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_without_rows_is_not_touched() {
    let cluster = Cluster::start().await;
    let client = table(&cluster).await;
    let decisions = || async {
        let mut all = 0;
        for server in [0, 1] {
            let row = cluster
                .direct(server)
                .await
                .query_one("SELECT count(*) FROM howdah.decisions", &[])
                .await
                .unwrap();
            all += row.get::<_, i64>(0);
        }
        all
    };
    let before = decisions().await;
    let blocker = cluster.direct(0).await;
    blocker
        .batch_execute("BEGIN; LOCK TABLE t IN ACCESS EXCLUSIVE MODE")
        .await
        .unwrap();
    let (one, two) = (cluster.keys_of(0, 1)[0], cluster.keys_of(1, 2000));
    let lines: String = two.iter().map(|key| format!("{key}\trow\n")).collect();
    assert_eq!(copy(&client, "COPY t FROM STDIN", &lines).await.unwrap(), 2000);
    blocker.batch_execute("ROLLBACK").await.unwrap();
    assert_eq!(decisions().await, before, "one group commits alone");
    let lines = format!("{one}\ta\n{}\tb\n", two[0] + 1_000_000_000);
    copy(&client, "COPY t FROM STDIN", &lines).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn lines_are_read_as_postgresql_reads_them() {
    let cluster = Cluster::start().await;
    let client = table(&cluster).await;
    let (one, two) = (cluster.keys_of(0, 9), cluster.keys_of(1, 9));
    let csv = "COPY t (v, id) FROM STDIN WITH (FORMAT csv, HEADER match)";
    let lines = format!("v,id\n\"a\nb,\",{}\nc,{}\nd,\"{}\"", one[0], two[0], two[1]);
    assert_eq!(copy(&client, csv, &lines).await.unwrap(), 3);
    let error = copy(&client, csv, &format!("id,v\nc,{}\n", two[2]))
        .await
        .unwrap_err();
    assert_eq!(code(&error), "22P04", "the header does not match");
    assert_eq!(copy(&client, csv, "v,id\n").await.unwrap(), 0);
    // Ends where PostgreSQL ends.
    let text = "COPY t FROM STDIN";
    let lines = format!("{}\ta\n\\.\n{}\tb\nnonsense\n", one[2], two[2]);
    assert_eq!(copy(&client, text, &lines).await.unwrap(), 1);
    // A carriage return is no end of line that would hide a row of another group, and ends are alike.
    for lines in [
        format!("{}\ta\r{}\tb\r", one[3], two[3]),
        format!("{}\ta\n{}\tb\r\n", one[3], two[3]),
        format!("{}\ta\r\n{}\tb\n", one[3], two[3]),
    ] {
        assert_eq!(code(&copy(&client, text, &lines).await.unwrap_err()), "22P04");
    }
    let lines = format!("{}\ta\r\n{}\tb\r\n", one[3], two[3]);
    assert_eq!(copy(&client, text, &lines).await.unwrap(), 2);
    // Keys that only PostgreSQL can read.
    let lines = format!("{}\ta\n +{}\tb\n {}\tc\n", one[4], two[4], one[5]);
    assert_eq!(copy(&client, text, &lines).await.unwrap(), 3);
    client.batch_execute("BEGIN").await.unwrap();
    let lines = format!("{}\ta\n {}\tb\n", one[6], two[6]);
    assert_eq!(copy(&client, text, &lines).await.unwrap(), 2);
    client.batch_execute("COMMIT").await.unwrap();
    for key in [
        one[0], two[0], two[1], one[2], one[3], two[3], one[4], two[4], one[5], one[6], two[6],
    ] {
        let found = client
            .query("SELECT v FROM t WHERE id = $1", &[&key])
            .await
            .unwrap();
        assert_eq!(found.len(), 1, "{key}");
        assert!(!found[0].get::<_, String>(0).contains('\r'));
    }
    assert_eq!(count(&client).await, 11);
    let error = copy(&client, "COPY t FROM STDIN (FREEZE)", &format!("{}\ta\n", one[8])).await;
    assert_eq!(
        code(&error.unwrap_err()),
        "55000",
        "frozen only where it was made or truncated"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn psql_copies_both_ways() {
    let cluster = Cluster::start().await;
    cluster
        .psql("CREATE TABLE t (id bigint PRIMARY KEY, v text)")
        .await
        .unwrap();
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("rows.csv");
    let keys = cluster.keys_of(0, 3);
    let lines: String = keys
        .iter()
        .map(|key| format!("{key},\"a, \"\"b\"\"\"\n"))
        .collect();
    std::fs::write(&file, &lines).unwrap();
    cluster
        .psql(&format!("\\copy t FROM '{}' CSV", file.display()))
        .await
        .unwrap();
    assert_eq!(cluster.psql("COPY t TO STDOUT CSV").await.unwrap(), lines);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_client_waits_for_the_slowest_group() {
    let cluster = Cluster::start().await;
    let client = table(&cluster).await;
    let first = cluster.keys_of(0, 1)[0];
    let blocker = cluster.connect().await;
    blocker
        .batch_execute(&format!("BEGIN; INSERT INTO t VALUES ({first}, 'b')"))
        .await
        .unwrap();
    let sink = client.copy_in::<_, Bytes>("COPY t FROM STDIN").await.unwrap();
    futures::pin_mut!(sink);
    // Half of the rows are for the group that waits for the blocker. 64 MB are more than all buffers on the way.
    let filler = "x".repeat(1000);
    let (parts, rows) = (64, 1000);
    let part = |number: i64| -> Bytes {
        let ids = (0..rows).map(|row| first + number * rows + row);
        ids.map(|id| format!("{id}\t{filler}\n"))
            .collect::<String>()
            .into()
    };
    let patience = std::time::Duration::from_secs(3);
    {
        let sending = async {
            for number in 0..parts {
                sink.send(part(number)).await.unwrap();
            }
        };
        futures::pin_mut!(sending);
        let waited = tokio::time::timeout(patience, &mut sending).await;
        assert!(waited.is_err(), "it is held back");
        blocker.batch_execute("ROLLBACK").await.unwrap();
        sending.await;
    }
    assert_eq!(sink.finish().await.unwrap(), u64::try_from(parts * rows).unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_query_in_the_middle_ends_the_session_and_keeps_nothing() {
    let cluster = Cluster::start().await;
    let client = table(&cluster).await;
    let mut raw = Raw::start(&cluster).await;
    let query = |sql: &str| {
        let mut message = vec![b'Q'];
        message.extend(u32::try_from(sql.len() + 5).unwrap().to_be_bytes());
        message.extend(sql.as_bytes());
        message.push(0);
        message
    };
    raw.bytes(&query("COPY t FROM STDIN"));
    raw.bytes(b"d\0\0\0\x081\ta\n");
    raw.bytes(&query("SELECT 1"));
    let rest = raw.rest().await;
    assert!(rest.contains("08P01"), "{rest}");
    assert_eq!(count(&client).await, 0);
}
