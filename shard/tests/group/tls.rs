//! TLS between the nodes of a group.

use std::net::Ipv4Addr;
use std::os::unix::fs::PermissionsExt;

use shard::id::NodeId;
use shard::tls::{Authority, Files, NodeTls, node_name};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::cluster::{Cluster, Setup};

/// An authority for one cluster.
pub(crate) struct Certificates {
    folder: TempDir,
    authority: Authority,
}

impl Certificates {
    fn new() -> Certificates {
        let folder = tempfile::tempdir().unwrap();
        let (authority, own) = Authority::create("test").unwrap();
        std::fs::write(folder.path().join("ca.crt"), own.certificate).unwrap();
        Certificates { folder, authority }
    }

    pub(crate) fn of(&self, node: NodeId) -> NodeTls {
        let issued = self.authority.issue("test", node, [Ipv4Addr::LOCALHOST.into()]);
        let issued = issued.unwrap();
        let path = |end: &str| {
            self.folder
                .path()
                .join(format!("{}.{end}", node_name("test", node)))
        };
        let files = Files {
            ca: self.folder.path().join("ca.crt"),
            certificate: path("crt"),
            key: path("key"),
        };
        std::fs::write(&files.certificate, issued.certificate).unwrap();
        std::fs::write(&files.key, issued.key).unwrap();
        std::fs::set_permissions(&files.key, std::fs::Permissions::from_mode(0o600)).unwrap();
        NodeTls::load(&files, "test", Some(node)).unwrap()
    }
}

/// The copies of the first start, commits, a failover and the way back, all within TLS; with new certificates of a new
/// authority for whoever connects after they came.
#[tokio::test(flavor = "multi_thread")]
async fn a_group_commits_and_fails_over_within_tls_and_with_new_certificates() {
    let setup = Setup {
        certificates: Some(Certificates::new()),
        ..Setup::default()
    };
    let mut cluster = Cluster::start_with(3, setup).await;
    let session = cluster.session().await;
    session
        .run("CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t SELECT generate_series(1, 1000)")
        .await;
    cluster.settled().await;

    // Nobody is answered in the clear.
    let mut plain = TcpStream::connect(cluster.config(NodeId(1)).nodes[&NodeId(1)])
        .await
        .unwrap();
    plain
        .write_all(&[&b"HWDHNODE\x00\x01"[..], &[7; 32]].concat())
        .await
        .unwrap();
    let mut answer = Vec::new();
    plain.read_to_end(&mut answer).await.unwrap();
    assert!(!answer.starts_with(b"HWDHNODE"), "{answer:?}");

    cluster.renew(Certificates::new());
    session.run("INSERT INTO t VALUES (1001)").await;
    let leader = cluster.leader().await;
    cluster.stop_node(leader).await;
    let session = cluster.session().await;
    session.run("INSERT INTO t VALUES (1002)").await;
    cluster.start_node(leader).await;
    assert_eq!(cluster.agree_on("SELECT count(*) FROM t").await, 1002);
    cluster.stop(&[]).await;
}
