//! The console of a whole cluster, through psql.

use std::fmt::Write as _;
use std::fs::OpenOptions;
use std::io::Write as _;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use shard::id::NodeId;
use sql_tests::cluster::{Options, PATIENCE};

use crate::{FAULTS, cluster};

/// What psql says to a command in the console of the node there, without headers: rows, then notices and errors.
fn psql(address: SocketAddr, command: &str) -> (bool, String) {
    let mut target = String::new();
    let _ = write!(
        target,
        "host={} port={} user=postgres dbname=howdah",
        address.ip(),
        address.port()
    );
    let output = Command::new("psql")
        .args(["-X", "-At", "-v", "ON_ERROR_STOP=1", "-d", &target, "-c", command])
        .output()
        .unwrap();
    let said = [output.stdout, output.stderr].concat();
    (
        output.status.success(),
        String::from_utf8_lossy(&said).into_owned(),
    )
}

fn rows(address: SocketAddr, command: &str) -> Vec<Vec<String>> {
    let (worked, said) = psql(address, command);
    assert!(worked, "{command}: {said}");
    said.lines()
        .map(|line| line.split('|').map(str::to_owned).collect())
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_console_shows_nodes_groups_and_transactions_and_reloads() {
    let (_turn, mut cluster) = cluster(&Options::default()).await;
    let status = cluster.wait_whole(PATIENCE).await.unwrap();
    let here = cluster.sql_address(NodeId(1)).unwrap();

    let nodes = rows(here, "SHOW NODES");
    let expected: Vec<Vec<String>> = status
        .nodes
        .iter()
        .map(|node| {
            let pid = node.pid.unwrap().to_string();
            let here = if node.id == NodeId(1) { "t" } else { "f" };
            [&node.id.to_string(), "up", &node.sql_addr.to_string(), &pid, here]
                .map(str::to_owned)
                .into()
        })
        .collect();
    assert_eq!(nodes, expected);
    let groups = rows(here, "SHOW GROUPS");
    assert_eq!(
        groups.len(),
        status
            .groups
            .iter()
            .map(|group| group.replicas.len())
            .sum::<usize>()
    );
    for row in &groups {
        let leads = row[1] == row[5];
        let expected = if leads {
            ["leader", "leading"]
        } else {
            ["follower", "following"]
        };
        assert_eq!(row[6..8], expected, "{row:?}");
    }
    let slots = rows(here, "SHOW SLOTS");
    let count: u32 = slots.iter().map(|row| row[3].parse::<u32>().unwrap()).sum();
    assert_eq!(count, 4096);

    // A transaction of another node.
    let client = cluster.connect(NodeId(2)).await.unwrap();
    client
        .batch_execute("CREATE TABLE t (id bigint PRIMARY KEY)")
        .await
        .unwrap();
    client.batch_execute("BEGIN").await.unwrap();
    for id in 1..=20 {
        let sql = format!("INSERT INTO t VALUES ({id})");
        client.batch_execute(&sql).await.unwrap();
    }
    let open = rows(here, "SHOW TRANSACTIONS");
    assert_eq!(open.len(), status.groups.len(), "{open:?}");
    assert!(
        open.iter().all(|row| row[0] == "open" && row[1] == open[0][1]),
        "{open:?}"
    );
    client.batch_execute("COMMIT").await.unwrap();
    assert!(rows(here, "SHOW TRANSACTIONS").is_empty());

    reloads(here);

    cluster.kill_node(NodeId(3)).unwrap();
    let dead = rows(here, "SHOW NODES");
    assert_eq!(dead[2][1], "unreachable", "{dead:?}");
    let gone: Vec<Vec<String>> = rows(here, "SHOW GROUPS")
        .into_iter()
        .filter(|row| row[5] == "3")
        .collect();
    assert!(gone.iter().all(|row| row[7] == "unreachable"), "{gone:?}");
    cluster.restart_node(NodeId(3)).unwrap();
    cluster.wait_whole(Duration::from_secs(60)).await.unwrap();
    let told = [
        "the old one stays in force",
        "cannot be changed without restarting",
    ];
    cluster.shutdown(&[&FAULTS[..], &told].concat()).await.unwrap();
}

/// What can change changes, what cannot is named, and a wrong file changes nothing.
fn reloads(address: SocketAddr) {
    let setting = |key: &str| {
        let found = rows(address, "SHOW CONFIG").into_iter().find(|row| row[0] == key);
        found.expect(key)
    };
    assert_eq!(
        setting("sql.max_sessions"),
        ["sql.max_sessions", "500", "500", "yes"]
    );
    assert!(
        rows(address, "SHOW CONFIG")
            .iter()
            .all(|row| !row[0].contains("secret"))
    );
    let data = setting("data_dir")[1].clone();
    let file = Path::new(&data).parent().unwrap().join("howdah.toml");
    let before = std::fs::read_to_string(&file).unwrap();
    let mut appended = OpenOptions::new().append(true).open(&file).unwrap();
    // It ends with `[sql]`.
    appended
        .write_all(b"max_sessions = 77\n[wal]\nkeep = \"64MiB\"\n")
        .unwrap();
    let (worked, said) = psql(address, "RELOAD");
    assert!(worked, "{said}");
    assert!(said.contains("changed: sql.max_sessions\n"), "{said}");
    assert!(said.contains("started again: wal.keep\n"), "{said}");
    assert_eq!(setting("sql.max_sessions")[1], "77");
    assert_eq!(setting("wal.keep")[1], "128MiB", "what is in force");
    appended.write_all(b"nonsense = 1\n").unwrap();
    let (worked, said) = psql(address, "RELOAD");
    assert!(
        !worked && said.contains("howdah.toml") && said.contains("nonsense"),
        "{said}"
    );
    assert_eq!(setting("sql.max_sessions")[1], "77");
    std::fs::write(&file, before).unwrap();
    let (worked, said) = psql(address, "RELOAD");
    assert!(worked, "{said}");
    assert_eq!(setting("sql.max_sessions")[1], "500");
}
