//! A cluster's own certificate authority: what `howdah init` makes, and issues the nodes' certificates with.

use std::net::IpAddr;
use std::time::SystemTime;

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};
use time::{Duration, OffsetDateTime};

use super::node_name;
use crate::id::NodeId;

/// How long an authority's own certificate is good: changing it takes three visits to each node.
const AUTHORITY_LASTS: Duration = Duration::days(10 * 365);
/// How long a node's is good. Renewing it takes one, and no restart.
const NODE_LASTS: Duration = Duration::days(5 * 365);
/// For clocks that are behind.
const BACKDATED: Duration = Duration::hours(1);

/// Something went wrong in making a certificate, or the authority's files are none.
#[derive(Debug, thiserror::Error)]
#[error("no certificate can be made: {0}")]
pub struct AuthorityError(#[from] rcgen::Error);

/// A certificate and its private key, in PEM.
#[derive(Clone)]
pub struct Issued {
    /// For everybody to see.
    pub certificate: String,
    /// For nobody but its holder.
    pub key: String,
}

impl std::fmt::Debug for Issued {
    /// Without the key.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Issued")
            .field("certificate", &self.certificate)
            .finish_non_exhaustive()
    }
}

/// Whoever has this can let anybody into the cluster.
#[derive(Debug)]
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    /// A new one, and its certificate and key to keep.
    ///
    /// # Errors
    /// When no key can be made, or the cluster's name is none for a certificate.
    pub fn create(cluster: &str) -> Result<(Authority, Issued), AuthorityError> {
        let key = KeyPair::generate()?;
        let mut params = lasting(AUTHORITY_LASTS);
        // A name of its own: to some clients another authority of the same name is this one with a bad signature.
        let name = format!("Howdah authority of {cluster} {:08x}", rand::random::<u32>());
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let issued = Issued {
            certificate: params.self_signed(&key)?.pem(),
            key: key.serialize_pem(),
        };
        let issuer = Issuer::new(params, key);
        Ok((Authority { issuer }, issued))
    }

    /// One that was made before, from what was kept of it.
    ///
    /// # Errors
    /// When these are no certificate and key in PEM.
    pub fn open(kept: &Issued) -> Result<Authority, AuthorityError> {
        let key = KeyPair::from_pem(&kept.key)?;
        let issuer = Issuer::from_ca_cert_pem(&kept.certificate, key)?;
        Ok(Authority { issuer })
    }

    /// A certificate for a node ([`node_name`]) that is reached at these addresses too, with a new key.
    ///
    /// # Errors
    /// When no key can be made, or the cluster's name is none for a certificate.
    pub fn issue(
        &self,
        cluster: &str,
        node: NodeId,
        addresses: impl IntoIterator<Item = IpAddr>,
    ) -> Result<Issued, AuthorityError> {
        let key = KeyPair::generate()?;
        let name = node_name(cluster, node);
        let mut params = lasting(NODE_LASTS);
        params.distinguished_name.push(DnType::CommonName, name.as_str());
        params.subject_alt_names = vec![SanType::DnsName(name.try_into()?)];
        params
            .subject_alt_names
            .extend(addresses.into_iter().map(SanType::IpAddress));
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        params.use_authority_key_identifier_extension = true;
        Ok(Issued {
            certificate: params.signed_by(&key, &self.issuer)?.pem(),
            key: key.serialize_pem(),
        })
    }
}

fn lasting(time: Duration) -> CertificateParams {
    let now = OffsetDateTime::from(SystemTime::now());
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.not_before = now - BACKDATED;
    params.not_after = now + time;
    params
}
