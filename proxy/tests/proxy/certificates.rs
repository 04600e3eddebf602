//! A certificate authority, made for one test.

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::Arc;

use proxy::Tls;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustls::pki_types::CertificateDer;
use rustls::{ClientConfig, RootCertStore};
use tempfile::TempDir;

/// An authority with its certificate in a file.
pub(crate) struct Authority {
    directory: TempDir,
    issuer: Issuer<'static, KeyPair>,
    certificate: CertificateDer<'static>,
}

impl Authority {
    pub(crate) fn new() -> Authority {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::default();
        // A name of its own: to a client, another authority of the same name is this one with a bad signature.
        let name = format!("test authority {:016x}", rand::random::<u64>());
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = params.self_signed(&key).expect("a certificate");
        let directory = tempfile::tempdir().expect("temporary directory");
        std::fs::write(directory.path().join("root.crt"), certificate.pem()).expect("it can be written");
        Authority {
            directory,
            certificate: certificate.der().clone(),
            issuer: Issuer::new(params, key),
        }
    }

    /// What clients trust.
    pub(crate) fn root(&self) -> PathBuf {
        self.directory.path().join("root.crt")
    }

    /// The files of a certificate for a server of this name, and of its key.
    pub(crate) fn files_for(&self, name: &str) -> (PathBuf, PathBuf) {
        let key = KeyPair::generate().expect("a key");
        let params = CertificateParams::new([name.to_owned()]).expect("a name");
        let certificate = params.signed_by(&key, &self.issuer).expect("a certificate");
        let path = |end: &str| self.directory.path().join(format!("{name}.{end}"));
        std::fs::write(path("crt"), certificate.pem()).expect("it can be written");
        std::fs::write(path("key"), key.serialize_pem()).expect("it can be written");
        for end in ["crt", "key"] {
            let private = std::fs::Permissions::from_mode(0o600);
            std::fs::set_permissions(path(end), private).expect("permissions");
        }
        (path("crt"), path("key"))
    }

    /// A server of this name.
    pub(crate) fn server(&self, name: &str) -> Tls {
        let (certificate, key) = self.files_for(name);
        Tls::load(&certificate, &key).expect("a good certificate")
    }

    /// A client that trusts the authority, and offers these protocols.
    pub(crate) fn client(&self, protocols: &[&[u8]]) -> tokio_rustls::TlsConnector {
        let mut roots = RootCertStore::empty();
        roots.add(self.certificate.clone()).expect("a good root");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
        tokio_rustls::TlsConnector::from(Arc::new(config))
    }
}
