//! TLS between nodes: both ends prove with a certificate which node of which cluster they are.
//!
//! Who a certificate is for stands in it as a subject alternative name, [`node_name`]: rustls then does all of the checking,
//! and any authority can issue it. Addresses prove nothing here: a relay may stand between two nodes.
//!
//! TLS 1.3 alone, as both ends are ours. No session is ever resumed: one would outlive a change of certificates.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use rustls::client::danger::ServerCertVerifier;
use rustls::client::{Resumption, WebPkiServerVerifier, verify_server_name};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{NoServerSessionStorage, ParsedCertificate, WebPkiClientVerifier};
use rustls::version::TLS13;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio::net::TcpStream;
use tokio_rustls::{TlsAcceptor, TlsConnector};
use x509_cert::Certificate;
use x509_cert::der::{DateTime, Decode};

use super::{Stream, TlsError, pem};
use crate::id::NodeId;

/// What both ends name in ALPN, so that a connection to a port of another kind fails, whatever certificate that has.
const ALPN: &[u8] = b"howdah";
/// Time enough for an operator to renew a certificate.
const SOON: Duration = Duration::from_secs(30 * 86_400);

/// Who a certificate is for: the node of this number; for [`NodeId`] 0 an operator's tools, as in the handshake.
///
/// The domain is one that never names a machine on the internet (`.internal`, reserved by ICANN), so a certificate for a machine's
/// own name is none for a node.
#[must_use]
pub fn node_name(cluster: &str, node: NodeId) -> String {
    match node {
        NodeId(0) => format!("operator.{cluster}.howdah.internal"),
        NodeId(node) => format!("node{node}.{cluster}.howdah.internal"),
    }
}

/// Where a node's part lies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Files {
    /// The certificates of the authorities that all nodes trust, and no others.
    pub ca: PathBuf,
    /// The node's own, then those that lead to an authority.
    pub certificate: PathBuf,
    /// Its key.
    pub key: PathBuf,
}

/// What a node proves with, and whom it believes. Cheap to clone.
#[derive(Clone)]
pub struct NodeTls {
    cluster: String,
    connector: TlsConnector,
    acceptor: TlsAcceptor,
    expires: DateTime,
}

impl std::fmt::Debug for NodeTls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NodeTls")
            .field("cluster", &self.cluster)
            .field("expires", &self.expires)
            .finish_non_exhaustive()
    }
}

impl NodeTls {
    /// Loads the certificate of `node`, or of whatever node or tool where none is named, and sees to it that the others will
    /// believe it.
    ///
    /// # Errors
    /// When a file cannot be read or used, others may read the key, or the certificate is of another node or cluster, of
    /// another authority, or not valid now.
    pub fn load(files: &Files, cluster: &str, node: Option<NodeId>) -> Result<NodeTls, TlsError> {
        let Files { ca, certificate, key } = files;
        if !NodeTls::can_name(cluster) {
            let what = format!(
                "cannot be of cluster {cluster:?}: only letters, digits, `-`, `_` and dots can stand in it"
            );
            return Err(TlsError::content(certificate, what));
        }
        let mut roots = RootCertStore::empty();
        for root in pem::certificates(ca)? {
            roots.add(root).map_err(|error| TlsError::content(ca, error))?;
        }
        let roots = Arc::new(roots);
        let chain = pem::certificates(certificate)?;
        let private = pem::private_key(key)?;
        let misfit = |error: rustls::Error| TlsError::misfit(key, certificate, &error);
        let provider = Arc::new(rustls::crypto::ring::default_provider());

        let servers = WebPkiServerVerifier::builder_with_provider(roots.clone(), provider.clone())
            .build()
            .map_err(|error| TlsError::content(ca, error))?;
        let clients = WebPkiClientVerifier::builder_with_provider(roots, provider.clone())
            .build()
            .map_err(|error| TlsError::content(ca, error))?;
        let own = match node {
            Some(node) => vec![name(cluster, node)],
            None => Vec::new(),
        };
        check(&chain, &own, &servers, &*clients).map_err(|error| {
            TlsError::content(certificate, format!("the other nodes would refuse it: {error}"))
        })?;
        let expires = Certificate::from_der(&chain[0])
            .map_err(|error| TlsError::content(certificate, error))?
            .tbs_certificate
            .validity
            .not_after
            .to_date_time();

        let mut server = ServerConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(&[&TLS13])
            .map_err(misfit)?
            .with_client_cert_verifier(clients)
            .with_single_cert(chain.clone(), private.clone_key())
            .map_err(misfit)?;
        server.alpn_protocols = vec![ALPN.to_vec()];
        server.session_storage = Arc::new(NoServerSessionStorage {});
        server.send_tls13_tickets = 0;
        let mut client = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&TLS13])
            .map_err(misfit)?
            .with_webpki_verifier(servers)
            .with_client_auth_cert(chain, private)
            .map_err(misfit)?;
        client.alpn_protocols = vec![ALPN.to_vec()];
        client.resumption = Resumption::disabled();
        Ok(NodeTls {
            cluster: cluster.to_owned(),
            connector: TlsConnector::from(Arc::new(client)),
            acceptor: TlsAcceptor::from(Arc::new(server)),
            expires,
        })
    }

    /// Whether a cluster's name can be part of a certificate's: letters, digits, `-`, `_` and dots, as in names of machines.
    #[must_use]
    pub fn can_name(cluster: &str) -> bool {
        ServerName::try_from(node_name(cluster, NodeId(u64::MAX))).is_ok()
    }

    /// When the certificate ends, as in 2031-11-22T05:30:00Z.
    #[must_use]
    pub fn expires(&self) -> String {
        self.expires.to_string()
    }

    /// How long the certificate is still good; none where it has ended.
    #[must_use]
    pub fn is_good_for(&self) -> Option<Duration> {
        let now = UNIX_EPOCH.elapsed().ok()?;
        self.expires.unix_duration().checked_sub(now)
    }

    /// Says so when the certificate ends within a month, or has ended.
    pub(crate) fn warn_of_its_end(&self) {
        let expires = self.expires();
        match self.is_good_for() {
            None => {
                tracing::warn!("this node's certificate has expired ({expires}): no other node accepts it")
            }
            Some(left) if left < SOON => {
                tracing::warn!(
                    "this node's certificate expires soon ({expires}): renew it with `howdah cert`"
                );
            }
            Some(_) => {}
        }
    }

    /// Goes over to TLS with a server that must be `to`.
    pub(crate) async fn connect(&self, stream: TcpStream, to: NodeId) -> io::Result<Stream> {
        let stream = self.connector.connect(name(&self.cluster, to), stream).await?;
        Ok(Stream::encrypted(stream))
    }

    /// Goes over to TLS with a client that has a certificate of the cluster's authority.
    pub(crate) async fn accept(&self, stream: TcpStream) -> io::Result<Stream> {
        Ok(Stream::encrypted(self.acceptor.accept(stream).await?))
    }

    /// Whether the other end has proved to be one of these.
    pub(crate) fn is_any_of(&self, stream: &Stream, mut nodes: impl Iterator<Item = NodeId>) -> bool {
        let Some(certificate) = stream.peer_certificate() else {
            return false;
        };
        let Ok(certificate) = ParsedCertificate::try_from(certificate) else {
            return false;
        };
        nodes.any(|node| verify_server_name(&certificate, &name(&self.cluster, node)).is_ok())
    }
}

fn name(cluster: &str, node: NodeId) -> ServerName<'static> {
    ServerName::try_from(node_name(cluster, node)).expect("`NodeTls::load` has checked the cluster's name")
}

/// What the others will ask of the certificate, at either end of a connection.
fn check(
    chain: &[CertificateDer<'_>],
    names: &[ServerName<'_>],
    servers: &WebPkiServerVerifier,
    clients: &dyn ClientCertVerifier,
) -> Result<(), rustls::Error> {
    let now = UnixTime::now();
    let (own, more) = (&chain[0], &chain[1..]);
    clients.verify_client_cert(own, more, now)?;
    for name in names {
        servers.verify_server_cert(own, more, name, &[], now)?;
    }
    Ok(())
}
