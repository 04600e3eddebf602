//! The port with TLS: who gets in, who does not, and what they are told.

use std::os::unix::fs::OpenOptionsExt;

use rustls::pki_types::CertificateDer;
use rustls::{CertificateError, ClientConfig, RootCertStore};
use tempfile::TempDir;
use tokio_rustls::TlsConnector;

use super::*;
use crate::tls::{Authority, Files, Issued, TlsError, node_name, pem};

const ONE: NodeId = NodeId(1);
const TWO: NodeId = NodeId(2);

/// An authority, and files of what it issued.
pub(crate) struct Certificates {
    folder: TempDir,
    authority: Authority,
}

impl Certificates {
    pub(crate) fn new() -> Certificates {
        let (authority, own) = Authority::create("test").unwrap();
        let made = Certificates {
            folder: tempfile::tempdir().unwrap(),
            authority,
        };
        made.keep("ca", &own);
        made
    }

    fn keep(&self, name: &str, issued: &Issued) -> Files {
        let path = |end: &str| self.folder.path().join(format!("{name}.{end}"));
        std::fs::write(path("crt"), &issued.certificate).unwrap();
        let mut private = std::fs::OpenOptions::new();
        let opened = private.write(true).create(true).truncate(true).mode(0o600);
        std::io::Write::write_all(&mut opened.open(path("key")).unwrap(), issued.key.as_bytes()).unwrap();
        Files {
            ca: self.folder.path().join("ca.crt"),
            certificate: path("crt"),
            key: path("key"),
        }
    }

    fn files(&self, cluster: &str, node: NodeId) -> Files {
        let issued = self.authority.issue(cluster, node, [Ipv4Addr::LOCALHOST.into()]);
        self.keep(&node_name(cluster, node), &issued.unwrap())
    }

    /// A node's own; of cluster `test`.
    pub(crate) fn of(&self, node: NodeId) -> NodeTls {
        NodeTls::load(&self.files("test", node), "test", Some(node)).unwrap()
    }

    /// As an intruder has it: that of this node of this cluster, for whatever he says he is.
    fn stolen(&self, cluster: &str, node: NodeId) -> NodeTls {
        NodeTls::load(&self.files(cluster, node), "test", None).unwrap()
    }

    async fn net(&self) -> Net {
        net_with([ONE, TWO].map(|node| Some(self.of(node)))).await
    }
}

async fn knock_with(net: &Net, tls: NodeTls, hello: &Hello) -> Result<Stream, HandshakeError> {
    let stream = TcpStream::connect(net.address).await.unwrap();
    greet(stream, &credentials(SECRET, Some(tls)), hello).await
}

async fn echoes(stream: &mut Stream, bytes: &[u8]) {
    let mut echo = vec![0; bytes.len()];
    let (mut read, mut write) = tokio::io::split(stream);
    let send = async {
        write.write_all(bytes).await.unwrap();
        write.flush().await.unwrap();
    };
    let (read, ()) = tokio::join!(read.read_exact(&mut echo), send);
    read.unwrap();
    assert!(echo == bytes, "other bytes came back");
}

#[tokio::test]
async fn all_that_nodes_say_passes_within_tls() {
    let certificates = Certificates::new();
    let net = certificates.net().await;
    net.one.register(
        GROUP,
        Arc::new(Slow {
            arrived: Arc::default(),
        }),
    );
    let ask = || {
        let body = vec![Bytes::from_static(&[9]), Bytes::from(vec![7; 3 << 20])];
        net.two.request(ONE, Lane::Bulk, Kind::Append, GROUP, body)
    };
    let answer = loop {
        match ask().await.await.unwrap() {
            Err(RequestError::NotConnected) => tokio::time::sleep(Duration::from_millis(10)).await,
            answer => break answer.unwrap(),
        }
    };
    assert_eq!(answer.len(), 1 + (3 << 20));

    let mut stream = net
        .two
        .open_stream(ONE, GROUP, StreamPurpose::Sql, SOON)
        .await
        .unwrap();
    assert!(stream.is_encrypted());
    // More than sockets and TLS hold, both ways at once.
    let many: Vec<u8> = (0..20_000_000u32)
        .map(|n| n.to_le_bytes()[n as usize % 4])
        .collect();
    echoes(&mut stream, &many).await;

    for _ in 0..2 {
        let answer = net.two.call(ONE, Bytes::from_static(b"status"), SOON).await;
        assert_eq!(&answer.unwrap()[..], b"2: status");
    }
    assert_eq!(net.two.kept.addresses(ONE).len(), 1, "a connection is kept");
}

#[tokio::test]
async fn tools_have_the_operators_certificate_or_a_nodes() {
    let certificates = Certificates::new();
    let net = certificates.net().await;
    for holder in [NodeId(0), TWO] {
        let credentials = credentials(SECRET, Some(certificates.stolen("test", holder)));
        let body = Bytes::from_static(b"hi");
        let answer = call_as_client(net.address, ONE, &credentials, body.clone(), SOON).await;
        assert_eq!(&answer.unwrap()[..], b"0: hi");
        // It must be the node that is meant, for tools too.
        let answer = call_as_client(net.address, TWO, &credentials, body, SOON).await;
        assert!(
            matches!(answer, Err(CallError::Handshake(HandshakeError::Tls(_)))),
            "{answer:?}"
        );
    }
}

#[tokio::test]
async fn a_certificate_is_good_for_its_own_node_of_its_own_cluster() {
    let certificates = Certificates::new();
    let net = certificates.net().await;
    let raft = hello(2, Purpose::Raft);
    knock_with(&net, certificates.of(TWO), &raft).await.unwrap();
    for (cluster, node) in [("test", 1), ("test", 3), ("test", 0), ("production", 2)] {
        let tls = certificates.stolen(cluster, NodeId(node));
        let refused = knock_with(&net, tls, &raft).await;
        assert!(
            matches!(refused, Err(HandshakeError::OtherCertificate)),
            "{cluster} {node}: {refused:?}"
        );
    }
    // Nor does the secret fall away.
    let stream = TcpStream::connect(net.address).await.unwrap();
    let wrong = credentials("another secret, also long", Some(certificates.of(TWO)));
    let refused = greet(stream, &wrong, &raft).await;
    assert!(matches!(refused, Err(HandshakeError::WrongSecret)), "{refused:?}");

    // Whoever answers for node 1 must be it.
    for (cluster, node) in [("test", 2), ("test", 0), ("production", 1)] {
        let stolen = certificates.stolen(cluster, NodeId(node));
        let net = net_with([Some(stolen), Some(certificates.of(TWO))]).await;
        let refused = net.two.open_stream(ONE, GROUP, StreamPurpose::Sql, SOON).await;
        let named = |error: &rustls::Error| {
            matches!(
                error,
                rustls::Error::InvalidCertificate(CertificateError::NotValidForNameContext { .. })
            )
        };
        assert!(
            matches!(&refused, Err(StreamError::Handshake(HandshakeError::Tls(error))) if named(error)),
            "{cluster} {node}: {refused:?}"
        );
    }
}

/// Within TLS as far as it comes: what a client without Howdah's own checks can do.
async fn intrude(net: &Net, roots: &Files, with: Option<&Files>) -> std::io::Result<()> {
    let mut store = RootCertStore::empty();
    for root in pem::certificates(&roots.ca).unwrap() {
        store.add(root).unwrap();
    }
    let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(store);
    let mut config = match with {
        None => config.with_no_client_auth(),
        Some(files) => {
            let chain: Vec<CertificateDer<'static>> = pem::certificates(&files.certificate).unwrap();
            config
                .with_client_auth_cert(chain, pem::private_key(&files.key).unwrap())
                .unwrap()
        }
    };
    config.alpn_protocols = vec![b"howdah".to_vec()];
    let stream = TcpStream::connect(net.address).await.unwrap();
    let name = node_name("test", ONE).try_into().unwrap();
    let mut stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await?;
    // A server says what it thinks of a certificate after the client has sent it.
    stream.write_all(b"HWDHNODE").await?;
    stream.read_u8().await.map(drop)
}

#[tokio::test]
async fn no_certificate_or_one_of_another_authority_is_refused() {
    let (certificates, others) = (Certificates::new(), Certificates::new());
    let net = certificates.net().await;
    let (own, foreign) = (certificates.files("test", TWO), others.files("test", TWO));
    let refused = |result: std::io::Result<()>| {
        let error = result.expect_err("it must be refused");
        matches!(
            HandshakeError::from(error),
            HandshakeError::Tls(rustls::Error::AlertReceived(_))
        )
    };
    assert!(refused(intrude(&net, &own, None).await));
    assert!(refused(intrude(&net, &own, Some(&foreign)).await));
    // And a node with the other authority does not speak to this one.
    let answer = knock_with(&net, others.of(TWO), &hello(2, Purpose::Call)).await;
    assert!(
        matches!(
            &answer,
            Err(HandshakeError::Tls(rustls::Error::InvalidCertificate(
                CertificateError::UnknownIssuer
            )))
        ),
        "{answer:?}"
    );
    assert!(net.echo.heard.lock().is_empty());
    net.two.call(ONE, Bytes::new(), SOON).await.unwrap();
}

#[tokio::test]
async fn with_tls_nothing_is_said_in_the_clear_and_both_sides_are_told() {
    let certificates = Certificates::new();
    let net = certificates.net().await;
    let refused = knock(&net, SECRET, &hello(2, Purpose::Call)).await;
    assert!(
        matches!(refused, Err(HandshakeError::UnexpectedTls)),
        "{refused:?}"
    );

    let half = net_with([None, Some(certificates.of(TWO))]).await;
    let refused = half.two.call(ONE, Bytes::new(), SOON).await;
    assert!(
        matches!(
            refused,
            Err(CallError::Handshake(
                HandshakeError::Io(_) | HandshakeError::NoTls
            ))
        ),
        "{refused:?}"
    );
    assert!(half.echo.heard.lock().is_empty());
    // What the server of each makes of it.
    let mut first = &b"\x16\x03\x01\x02\x00\x01\x00\x01"[..];
    let mut server = tokio::io::join(&mut first, tokio::io::sink());
    let met = super::super::handshake::challenge_with([0; 32], &mut server, SECRET).await;
    assert!(matches!(met, Err(HandshakeError::UnexpectedTls)));
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let mut plain = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    plain
        .write_all(&[&b"HWDHNODE\x00\x01"[..], &[7; 32]].concat())
        .await
        .unwrap();
    let (stream, _) = listener.accept().await.unwrap();
    let tls = certificates.of(ONE);
    let met = super::super::handshake::challenge(stream, Some(&tls), SECRET).await;
    assert!(matches!(met, Err(HandshakeError::NoTls)));
}

#[tokio::test]
async fn new_connections_use_new_certificates_and_old_ones_go_on() {
    let (before, after) = (Certificates::new(), Certificates::new());
    let net = before.net().await;
    let open = || net.two.open_stream(ONE, GROUP, StreamPurpose::Sql, SOON);
    let mut old = open().await.unwrap();
    echoes(&mut old, b"before").await;

    net.two.renew(after.of(TWO));
    let refused = open().await;
    assert!(
        matches!(refused, Err(StreamError::Handshake(HandshakeError::Tls(_)))),
        "{refused:?}"
    );
    net.one.renew(after.of(ONE));
    echoes(&mut open().await.unwrap(), b"new").await;
    echoes(&mut old, b"still there").await;
    let refused = knock_with(&net, before.of(TWO), &hello(2, Purpose::Call)).await;
    assert!(matches!(refused, Err(HandshakeError::Tls(_))), "{refused:?}");

    // A port in the clear stays so until the node starts again.
    let plain = super::net().await;
    plain.one.renew(after.of(ONE));
    plain.two.call(ONE, Bytes::new(), SOON).await.unwrap();
}

#[tokio::test]
async fn silence_and_noise_end_their_own_connection_only() {
    let certificates = Certificates::new();
    let net = certificates.net().await;
    let begun = tokio::time::Instant::now();
    let mute = TcpStream::connect(net.address).await.unwrap();
    let mut noisy = TcpStream::connect(net.address).await.unwrap();
    noisy.write_all(&[0xff; 4096]).await.unwrap();
    closes(noisy).await;
    closes(mute).await;
    assert!(begun.elapsed() < Duration::from_secs(8), "{:?}", begun.elapsed());
    net.two.call(ONE, Bytes::new(), SOON).await.unwrap();
}

#[test]
fn what_the_others_would_refuse_is_not_loaded() {
    let certificates = Certificates::new();
    let why = |files: &Files, cluster: &str, node| {
        let loaded = NodeTls::load(files, cluster, Some(node));
        loaded.map(drop).map_err(|error| error.to_string()).unwrap_err()
    };
    let two = certificates.files("test", TWO);
    let error = why(&two, "test", ONE);
    assert!(
        error.contains("node1.test.howdah.internal") && error.contains("node2.test"),
        "{error}"
    );
    let error = why(&two, "production", TWO);
    assert!(error.contains("the other nodes would refuse it"), "{error}");
    let error = why(&two, "no name", TWO);
    assert!(error.contains("only letters, digits"), "{error}");

    let other = Certificates::new().files("test", TWO);
    let mixed = Files {
        ca: two.ca.clone(),
        ..other.clone()
    };
    let error = why(&mixed, "test", TWO);
    assert!(error.contains("cannot be read"), "its folder is gone: {error}");
    let others = Certificates::new();
    let mixed = Files {
        ca: two.ca.clone(),
        ..others.files("test", TWO)
    };
    let error = why(&mixed, "test", TWO);
    assert!(error.contains("UnknownIssuer"), "{error}");
    let mixed = Files {
        key: others.files("test", TWO).key,
        ..two.clone()
    };
    let error = why(&mixed, "test", TWO);
    assert!(error.contains("does not fit"), "{error}");

    let open = std::os::unix::fs::PermissionsExt::from_mode(0o644);
    std::fs::set_permissions(&two.key, open).unwrap();
    let exposed = NodeTls::load(&two, "test", Some(TWO));
    assert!(matches!(exposed, Err(TlsError::Exposed { mode: 0o644, .. })));
}
