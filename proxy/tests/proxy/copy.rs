//! COPY from the client.

use bytes::Bytes;
use futures::SinkExt;

use crate::harness::{Cluster, code};

#[tokio::test(flavor = "multi_thread")]
async fn rows_of_one_group_are_copied_and_of_two_refused() {
    let cluster = Cluster::start().await;
    let client = cluster.connect().await;
    client
        .batch_execute("CREATE TABLE t (id bigint PRIMARY KEY, v text)")
        .await
        .unwrap();
    let copy = |lines: String| {
        let client = &client;
        async move {
            let sink = client.copy_in("COPY t FROM STDIN").await.unwrap();
            futures::pin_mut!(sink);
            for part in lines.as_bytes().chunks(1000) {
                sink.send(Bytes::copy_from_slice(part)).await?;
            }
            sink.finish().await
        }
    };
    let lines: String = cluster
        .keys_of(1, 2000)
        .iter()
        .map(|key| format!("{key}\trow\n"))
        .collect();
    assert_eq!(copy(lines).await.unwrap(), 2000);
    let mut lines: String = cluster
        .keys_of(0, 500)
        .iter()
        .map(|key| format!("{key}\trow\n"))
        .collect();
    let keys = cluster.keys_of(1, 2001);
    lines.push_str(&format!("{}\trow\n", keys[2000]));
    assert_eq!(code(&copy(lines).await.unwrap_err()), "0A000");
    assert_eq!(client.query("SELECT 1 FROM t", &[]).await.unwrap().len(), 2000);
    let error = copy(format!("{}\ttoo\tmany\n", keys[2000])).await.unwrap_err();
    assert_eq!(code(&error), "22P04");
    assert_eq!(copy(String::new()).await.unwrap(), 0);
    client.batch_execute("SELECT 1").await.unwrap();
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
