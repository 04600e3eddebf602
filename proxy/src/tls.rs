//! TLS for clients: the node's certificate and key, ready for handshakes.

use std::path::Path;
use std::sync::Arc;

use rustls::ServerConfig;
use rustls::server::NoServerSessionStorage;
use sha2::{Digest, Sha224, Sha256, Sha384, Sha512};
use shard::tls::{TlsError, pem};
use tokio_rustls::TlsAcceptor;
use x509_cert::Certificate;
use x509_cert::der::Decode;

/// What clients of PostgreSQL 17 and later name in ALPN; who begins with TLS at once must (`PG_ALPN_PROTOCOL`).
pub(crate) const ALPN: &[u8] = b"postgresql";

/// A certificate and its key, loaded and fit for each other.
#[derive(Clone)]
pub struct Tls {
    acceptor: TlsAcceptor,
    end_point: Option<Arc<[u8]>>,
}

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tls").finish_non_exhaustive()
    }
}

impl Tls {
    /// Loads a certificate, followed by those that lead to its root, and its key; both in PEM.
    ///
    /// # Errors
    /// When a file cannot be read, others may read the key, or the two do not belong together.
    pub fn load(certificate: &Path, key: &Path) -> Result<Tls, TlsError> {
        let chain = pem::certificates(certificate)?;
        let end_point = end_point(&chain[0]);
        let private = pem::private_key(key)?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| TlsError::content(certificate, error))?
            .with_no_client_auth()
            .with_single_cert(chain, private)
            .map_err(|error| TlsError::misfit(key, certificate, &error))?;
        config.alpn_protocols = vec![ALPN.to_vec()];
        // As PostgreSQL: a session that is resumed would outlive a change of the certificate.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(Tls {
            acceptor: TlsAcceptor::from(Arc::new(config)),
            end_point: end_point.map(Arc::from),
        })
    }

    pub(crate) fn acceptor(&self) -> &TlsAcceptor {
        &self.acceptor
    }

    /// What `tls-server-end-point` binds a login to; none where the certificate's signature names no hash.
    pub(crate) fn end_point(&self) -> Option<&[u8]> {
        self.end_point.as_deref()
    }
}

/// The certificate's hash by the algorithm of its own signature, SHA-256 in place of MD5 and SHA-1 (RFC 5929, 4.1;
/// `be_tls_get_certificate_hash`).
fn end_point(certificate: &[u8]) -> Option<Vec<u8>> {
    let parsed = Certificate::from_der(certificate).ok()?;
    // RSA (PKCS #1) and ECDSA; Ed25519 and RSA-PSS, whose hash is no part of the name, bind nothing in PostgreSQL 15 either.
    match parsed.signature_algorithm.oid.to_string().as_str() {
        "1.2.840.113549.1.1.4"
        | "1.2.840.113549.1.1.5"
        | "1.2.840.10045.4.1"
        | "1.2.840.113549.1.1.11"
        | "1.2.840.10045.4.3.2" => Some(Sha256::digest(certificate).to_vec()),
        "1.2.840.113549.1.1.14" | "1.2.840.10045.4.3.1" => Some(Sha224::digest(certificate).to_vec()),
        "1.2.840.113549.1.1.12" | "1.2.840.10045.4.3.3" => Some(Sha384::digest(certificate).to_vec()),
        "1.2.840.113549.1.1.13" | "1.2.840.10045.4.3.4" => Some(Sha512::digest(certificate).to_vec()),
        _ => None,
    }
}
