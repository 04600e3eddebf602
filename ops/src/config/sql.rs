//! `[sql]`: the port for clients, and what they must keep to.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use hmac::{Hmac, Mac};
use proxy::{Hba, Limits, ProxyConfig, Tls};
use sha2::Sha256;
use toml::Spanned;

use super::beside;
use super::error::{ConfigError, Source};
use super::file::SqlSection;

/// Connections to a group's PostgreSQL that each node needs for itself, at most: for catalogues, cuts, transactions and the like.
const OWN_CONNECTIONS: usize = 20;

/// What tells of who is let in, beside the configuration itself. Read again with it, also where their names are the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SqlFiles {
    /// The rules; none: passwords decide.
    pub hba: Option<PathBuf>,
    /// Whether there is TLS.
    pub ssl: bool,
    /// The certificate and its key, if so. PostgreSQL's names by default.
    pub certificate: PathBuf,
    /// See `certificate`.
    pub key: PathBuf,
}

impl SqlFiles {
    pub(super) fn of(config: &Path, section: &SqlSection) -> SqlFiles {
        let path = |name: &Option<PathBuf>, default: &str| match name {
            Some(name) => beside(config, name),
            None => beside(config, Path::new(default)),
        };
        let hba = section.hba_file.as_ref();
        SqlFiles {
            hba: hba.map(|file| beside(config, file.get_ref())),
            ssl: section.ssl.as_ref().is_some_and(|ssl| *ssl.get_ref()),
            certificate: path(&section.ssl_cert_file, "server.crt"),
            key: path(&section.ssl_key_file, "server.key"),
        }
    }
}

/// The configuration of the port for clients, of a node of this cluster.
pub(super) fn sql(
    source: &Source<'_>,
    section: &SqlSection,
    listen: SocketAddr,
    cluster: &shard::config::Config,
) -> Result<ProxyConfig, ConfigError> {
    let secret = &cluster.secret;
    let max_connections = cluster.postgres.max_connections();
    let mut limits = limits(source, section)?;
    limits.max_backends = max_backends(max_connections, cluster.nodes.len()).min(limits.max_backends);
    Ok(ProxyConfig {
        listen,
        limits,
        tls: tls(source, section)?,
        hba: hba(source, section)?,
        mock_authentication_nonce: mock_authentication_nonce(secret),
        ..ProxyConfig::new(listen)
    })
}

/// All nodes may have their backends at the same leader.
fn max_backends(max_connections: usize, nodes: usize) -> usize {
    let share = max_connections / nodes.max(1);
    share.saturating_sub(OWN_CONNECTIONS).max(1)
}

fn limits(source: &Source<'_>, section: &SqlSection) -> Result<Limits, ConfigError> {
    let default = Limits::default();
    let count = |given: &Option<Spanned<usize>>, default: usize, name: &str| match given {
        Some(given) if *given.get_ref() == 0 => {
            Err(source.at(given.span(), format!("{name} must be at least 1")))
        }
        Some(given) => Ok(*given.get_ref()),
        None => Ok(default),
    };
    let max_client_connections = count(
        &section.max_sessions,
        default.max_client_connections,
        "max_sessions",
    )?;
    let superuser_reserved_connections = match &section.superuser_reserved_connections {
        Some(given) if *given.get_ref() >= max_client_connections => {
            let words = format!(
                "superuser_reserved_connections must be less than max_sessions, which is {max_client_connections}"
            );
            return Err(source.at(given.span(), words));
        }
        Some(given) => *given.get_ref(),
        None => default
            .superuser_reserved_connections
            .min(max_client_connections - 1),
    };
    let max_message = match &section.max_message {
        None => default.max_message,
        Some(spanned) => usize::try_from(spanned.get_ref().0)
            .ok()
            .filter(|size| (64 << 10..=1 << 30).contains(size))
            .ok_or_else(|| source.at(spanned.span(), "max_message must be between 64KiB and 1GiB"))?,
    };
    let max_gathered = match &section.max_gathered {
        None => default.max_gathered,
        // PostgreSQL takes no message of 1 GiB, and makes more of one than it is long.
        Some(spanned) => usize::try_from(spanned.get_ref().0)
            .ok()
            .filter(|size| (64 << 10..=256 << 20).contains(size))
            .ok_or_else(|| source.at(spanned.span(), "max_gathered must be between 64KiB and 256MiB"))?,
    };
    let authentication_timeout = match &section.authentication_timeout {
        Some(given) if given.get_ref().0.is_zero() => {
            return Err(source.at(given.span(), "authentication_timeout must be more than nothing"));
        }
        Some(given) => given.get_ref().0,
        None => default.authentication_timeout,
    };
    Ok(Limits {
        max_client_connections,
        superuser_reserved_connections,
        max_unauthenticated: count(
            &section.max_unauthenticated,
            default.max_unauthenticated,
            "max_unauthenticated",
        )?,
        max_unauthenticated_per_address: count(
            &section.max_unauthenticated_per_address,
            default.max_unauthenticated_per_address,
            "max_unauthenticated_per_address",
        )?,
        max_message,
        max_gathered,
        authentication_timeout,
        leader_wait: section
            .leader_patience
            .as_ref()
            .map_or(default.leader_wait, |span| span.get_ref().0),
        ..default
    })
}

fn tls(source: &Source<'_>, section: &SqlSection) -> Result<Option<Tls>, ConfigError> {
    let Some(on) = section.ssl.as_ref().filter(|ssl| *ssl.get_ref()) else {
        return Ok(None);
    };
    let files = SqlFiles::of(source.path, section);
    Tls::load(&files.certificate, &files.key)
        .map(Some)
        .map_err(|error| source.at(on.span(), error.to_string()))
}

/// The rules of `hba_file`; without one, passwords decide.
fn hba(source: &Source<'_>, section: &SqlSection) -> Result<Hba, ConfigError> {
    let Some(file) = &section.hba_file else {
        return Ok(Hba::passwords_only());
    };
    Hba::load(&beside(source.path, file.get_ref())).map_err(|error| source.at(file.span(), error.to_string()))
}

/// The same on all nodes and at each start, and known to nobody who does not know the cluster's secret.
fn mock_authentication_nonce(secret: &str) -> [u8; 32] {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).expect("HMAC takes keys of any length");
    mac.update(b"howdah mock authentication");
    mac.finalize().into_bytes().into()
}
