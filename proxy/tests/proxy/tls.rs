//! TLS between client and node.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use proxy::{ProxyConfig, Tls};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::certificates::Authority;
use crate::harness::{Cluster, open_door};

const SSL_REQUEST: &[u8] = b"\0\0\0\x08\x04\xd2\x16\x2f";
const STARTUP: &[u8] = b"\0\0\0\x29\0\x03\0\0user\0postgres\0database\0postgres\0\0";

async fn encrypted(authority: &Authority) -> Cluster {
    Cluster::configured(ProxyConfig {
        tls: Some(authority.server("localhost")),
        ..open_door()
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn psql_verifies_the_node_and_speaks_within_tls() {
    let authority = Authority::new();
    let stranger = Authority::new();
    let cluster = encrypted(&authority).await;
    let options = |host: &str, mode: &str, root: &Authority| {
        format!(
            "host={host} hostaddr=127.0.0.1 user=postgres sslmode={mode} sslrootcert={}",
            root.root().display()
        )
    };
    let verified = options("localhost", "verify-full", &authority);
    assert_eq!(cluster.psql_with(&verified, "SELECT 1").await.unwrap(), "1");
    let error = cluster
        .psql_with(&options("elsewhere", "verify-full", &authority), "SELECT 1")
        .await
        .unwrap_err();
    assert!(error.contains("does not match host name"), "{error}");
    let error = cluster
        .psql_with(&options("localhost", "verify-ca", &stranger), "SELECT 1")
        .await
        .unwrap_err();
    assert!(error.contains("certificate verify failed"), "{error}");
    let plain = cluster
        .psql_with("host=127.0.0.1 user=postgres sslmode=disable", "SELECT 2")
        .await;
    assert_eq!(plain.unwrap(), "2");
    // More in both directions than the buffers on the way hold.
    let table = "CREATE TABLE t (id bigint PRIMARY KEY, v text)";
    cluster.psql_with(&verified, table).await.unwrap();
    let insert = "INSERT INTO t VALUES (1, repeat('x', 20000000)) RETURNING length(v)";
    assert_eq!(cluster.psql_with(&verified, insert).await.unwrap(), "20000000");
    let value = cluster
        .psql_with(&verified, "SELECT v FROM t WHERE id = 1")
        .await
        .unwrap();
    assert_eq!(value.len(), 20_000_000);
    // An error that ends the session is read as such, and not as a connection that broke.
    let fatal = cluster
        .psql_with(&format!("{verified} dbname=nothing"), "SELECT 1")
        .await
        .unwrap_err();
    assert!(fatal.contains("database \"nothing\" does not exist"), "{fatal}");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_certificate_the_node_says_no() {
    let cluster = Cluster::start().await;
    let preferred = cluster
        .psql_with("host=127.0.0.1 user=postgres sslmode=prefer", "SELECT 1")
        .await;
    assert_eq!(preferred.unwrap(), "1");
    let error = cluster
        .psql_with("host=127.0.0.1 user=postgres sslmode=require", "SELECT 1")
        .await
        .unwrap_err();
    assert!(error.contains("server does not support SSL"), "{error}");
}

/// CVE-2021-23214: what was put in before the handshake is not taken for the client's.
#[tokio::test(flavor = "multi_thread")]
async fn bytes_between_the_request_and_the_handshake_are_refused() {
    let authority = Authority::new();
    let cluster = encrypted(&authority).await;
    let mut raw = cluster.raw().await;
    raw.write_all(&[SSL_REQUEST, STARTUP].concat()).await.unwrap();
    let mut answer = Vec::new();
    raw.read_to_end(&mut answer).await.unwrap();
    let answer = String::from_utf8_lossy(&answer);
    assert!(answer.starts_with('E') && answer.contains("08P01"), "{answer}");
    assert!(
        answer.contains("received unencrypted data after SSL request"),
        "{answer}"
    );
    // Within TLS there is no second request for it.
    let mut raw = cluster.raw().await;
    raw.write_all(SSL_REQUEST).await.unwrap();
    assert_eq!(raw.read_u8().await.unwrap(), b'S');
    let name = "localhost".try_into().unwrap();
    let mut within = authority.client(&[]).connect(name, raw).await.unwrap();
    within.write_all(SSL_REQUEST).await.unwrap();
    let mut answer = Vec::new();
    within.read_to_end(&mut answer).await.unwrap();
    let answer = String::from_utf8_lossy(&answer);
    assert!(
        answer.contains("unsupported frontend protocol 1234.5679"),
        "{answer}"
    );
}

/// libpq 17's `sslnegotiation=direct`.
#[tokio::test(flavor = "multi_thread")]
async fn tls_may_begin_at_once_if_it_names_the_protocol() {
    let authority = Authority::new();
    let cluster = encrypted(&authority).await;
    let name = || "localhost".try_into().unwrap();
    let client = authority.client(&[b"postgresql"]);
    let mut direct = client.connect(name(), cluster.raw().await).await.unwrap();
    assert_eq!(direct.get_ref().1.alpn_protocol(), Some(&b"postgresql"[..]));
    direct.write_all(STARTUP).await.unwrap();
    assert_eq!(direct.read_u8().await.unwrap(), b'R');
    let other = authority.client(&[b"h2"]).connect(name(), cluster.raw().await);
    assert!(other.await.is_err(), "another protocol is agreed on");
    let mut unnamed = authority
        .client(&[])
        .connect(name(), cluster.raw().await)
        .await
        .unwrap();
    let _ = unnamed.write_all(STARTUP).await;
    let mut answer = Vec::new();
    unnamed.read_to_end(&mut answer).await.unwrap();
    let answer = String::from_utf8_lossy(&answer);
    assert!(answer.contains("without ALPN protocol negotiation"), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handshake_that_fails_ends_its_own_connection_only() {
    let authority = Authority::new();
    let cluster = encrypted(&authority).await;
    let client = cluster.connect().await;
    for garbage in [
        &b"\x16\x03\x01\xff\xff\xff"[..],
        b"\x16\x03\x01\0\x04\x01\0\0\0",
        b"\x16",
    ] {
        let mut raw = cluster.raw().await;
        raw.write_all(garbage).await.unwrap();
        raw.shutdown().await.unwrap();
        let mut answer = Vec::new();
        let ended = tokio::time::timeout(Duration::from_secs(5), raw.read_to_end(&mut answer)).await;
        assert!(ended.is_ok(), "{garbage:?} keeps the connection open");
        assert!(!answer.starts_with(b"R"), "{garbage:?} is let in");
    }
    client.batch_execute("SELECT 1").await.unwrap();
}

#[test]
fn a_certificate_that_cannot_serve_is_refused_with_a_reason() {
    let authority = Authority::new();
    let (certificate, key) = authority.files_for("localhost");
    let (_, other) = authority.files_for("example.org");
    let why = |certificate: &Path, key: &Path| Tls::load(certificate, key).unwrap_err().to_string();
    assert!(why(&certificate, &other).contains("does not fit"));
    assert!(why(&key, &key).contains("it holds no certificate"));
    assert!(why(&certificate, &certificate).contains("no private key"));
    assert!(why(&certificate.with_extension("gone"), &key).contains("cannot be read"));
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o640)).unwrap();
    let root = std::fs::metadata(&key).is_ok_and(|m| std::os::unix::fs::MetadataExt::uid(&m) == 0);
    assert_eq!(Tls::load(&certificate, &key).is_ok(), root);
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o644)).unwrap();
    assert!(why(&certificate, &key).contains("group or world access"));
}
