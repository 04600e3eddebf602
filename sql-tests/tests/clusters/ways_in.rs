//! The programs that people use, and the bytes that nobody should send.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::process::Command;
use std::time::Duration;

use sql_tests::cluster::{Cluster, Options};

use crate::cluster;

fn psql(address: SocketAddr, commands: &str) -> (bool, String) {
    let output = Command::new("psql")
        .args([
            "-X",
            "-At",
            "-v",
            "ON_ERROR_STOP=1",
            "-U",
            "postgres",
            "-d",
            "postgres",
        ])
        .args([
            "-h",
            &address.ip().to_string(),
            "-p",
            &address.port().to_string(),
            "-c",
            commands,
        ])
        .output()
        .unwrap();
    let said = [output.stdout, output.stderr].concat();
    (
        output.status.success(),
        String::from_utf8_lossy(&said).into_owned(),
    )
}

/// The addresses for clients, in the order of the nodes.
fn addresses(cluster: &Cluster) -> Vec<SocketAddr> {
    cluster.config().nodes.values().map(|node| node.sql).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn psql_and_pgbench_work_and_garbage_disturbs_nobody() {
    let (_turn, cluster) = cluster(&Options::default()).await;
    let sql = addresses(&cluster);
    psql_works(&sql);
    pgbench_works(sql[1]);
    let peers: Vec<SocketAddr> = cluster.config().nodes.values().map(|node| node.peer).collect();
    for address in [sql[0], peers[0]] {
        garbage(address);
    }
    assert_eq!(
        psql(sql[0], "SELECT v FROM t WHERE id = 3"),
        (true, "three\n".to_owned())
    );
    cluster.wait_whole(Duration::from_secs(10)).await.unwrap();
    // The node-to-node port may well log who knocked.
    cluster
        .shutdown(&["handshake", "peer", "protocol", "client"])
        .await
        .unwrap();
}

fn psql_works(sql: &[SocketAddr]) {
    let (worked, said) = psql(sql[0], "CREATE TABLE t (id int PRIMARY KEY, v text)");
    assert!(worked, "{said}");
    let (worked, said) = psql(sql[1], "INSERT INTO t VALUES (3, 'three')");
    assert!(worked, "{said}");
    assert_eq!(
        psql(sql[2], "SELECT v FROM t WHERE id = 3"),
        (true, "three\n".to_owned())
    );
    let (worked, said) = psql(sql[2], "\\d t");
    assert!(worked && said.contains("id|integer"), "{said}");
    let (worked, said) = psql(sql[0], "SELECT * FROM nosuch WHERE id = 1");
    assert!(!worked && said.contains("does not exist"), "{said}");
    let (worked, said) = psql(sql[0], "INSERT INTO t VALUES ('one', 'x')");
    assert!(!worked && said.contains("invalid input syntax"), "{said}");
    let (worked, said) = psql(sql[0], "SELECT count(*) FROM t");
    assert!(!worked || said == "1\n", "a refusal, or the right answer: {said}");
}

fn pgbench_works(address: SocketAddr) {
    let folder = tempfile::tempdir().unwrap();
    let script = folder.path().join("script.sql");
    let (worked, said) = psql(address, "CREATE TABLE bench (id int PRIMARY KEY, n int)");
    assert!(worked, "{said}");
    for id in 1..=20 {
        let (worked, said) = psql(address, &format!("INSERT INTO bench VALUES ({id}, 0)"));
        assert!(worked, "{said}");
    }
    let text = "\\set id random(1, 20)\nUPDATE bench SET n = n + 1 WHERE id = :id;\nSELECT n FROM bench WHERE id = :id;\n";
    std::fs::write(&script, text).unwrap();
    for mode in ["simple", "extended", "prepared"] {
        let output = Command::new("pgbench")
            .args([
                "-n", "-M", mode, "-c", "8", "-j", "2", "-T", "2", "-U", "postgres", "-f",
            ])
            .arg(&script)
            .args([
                "-h",
                &address.ip().to_string(),
                "-p",
                &address.port().to_string(),
                "postgres",
            ])
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        assert!(
            output.status.success() && said.contains("number of failed transactions: 0 "),
            "{mode}: {said}"
        );
    }
}

/// Each of these ends in an error or the end of the connection, soon.
fn garbage(address: SocketAddr) {
    let noise: Vec<u8> = (0..100_000_u32)
        .map(|step| step.wrapping_mul(2_654_435_761).to_be_bytes()[0])
        .collect();
    let pieces: [&[u8]; 5] = [
        b"GET / HTTP/1.1\r\n\r\n",
        &[0xff; 64],
        &[0x7f, 0xff, 0xff, 0xff, 0, 3, 0, 0],
        &[0, 0, 0, 8, 0, 3],
        &noise,
    ];
    for piece in pieces {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(15))).unwrap();
        // It may be closed while we still write.
        let _ = stream.write_all(piece);
        let _ = stream.shutdown(Shutdown::Write);
        let mut answer = Vec::new();
        match stream.read_to_end(&mut answer) {
            Ok(_) => assert!(answer.len() < 10_000),
            Err(error) => assert_ne!(
                error.kind(),
                std::io::ErrorKind::WouldBlock,
                "{address} keeps it open"
            ),
        }
    }
}
