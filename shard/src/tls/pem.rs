//! Certificates and keys as an operator keeps them: files in PEM.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use crate::small_file;

/// Why a certificate or a key cannot be used: one line.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read.
    #[error("{}: cannot be read: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A file does not hold what it should.
    #[error("{}: {what}", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// Others may read the key.
    #[error("{}: private key file has group or world access (mode {mode:03o}): chmod 600 it, or 640 where root owns it", path.display())]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
}

impl TlsError {
    /// The file does not hold what it should.
    pub fn content(path: &Path, what: impl ToString) -> TlsError {
        TlsError::Content {
            path: path.to_owned(),
            what: what.to_string(),
        }
    }

    /// The key is not that of the certificate.
    #[must_use]
    pub fn misfit(key: &Path, certificate: &Path, error: &rustls::Error) -> TlsError {
        TlsError::content(key, format!("does not fit {}: {error}", certificate.display()))
    }
}

/// The certificates in a file, in its order; at least one.
///
/// # Errors
/// When it cannot be read, or holds anything else or none.
pub fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let pem = read(path)?;
    let found: Vec<_> = CertificateDer::pem_slice_iter(&pem)
        .collect::<Result<_, _>>()
        .map_err(|error| TlsError::content(path, format!("no certificate in PEM: {error}")))?;
    if found.is_empty() {
        return Err(TlsError::content(path, "it holds no certificate in PEM"));
    }
    Ok(found)
}

/// The private key in a file that others cannot read.
///
/// # Errors
/// When it cannot be read, holds none, or others may read it.
pub fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    check_permissions(path)?;
    PrivateKeyDer::from_pem_slice(&read(path)?)
        .map_err(|error| TlsError::content(path, format!("no private key in PEM: {error}")))
}

/// A file of certificates as it is.
///
/// # Errors
/// When it cannot be read, or is no text.
pub fn text(path: &Path) -> Result<String, TlsError> {
    String::from_utf8(read(path)?).map_err(|_| TlsError::content(path, "it is no PEM"))
}

/// A file of a key as it is, where others cannot read it.
///
/// # Errors
/// When it cannot be read, is no text, or others may read it.
pub fn private_text(path: &Path) -> Result<String, TlsError> {
    check_permissions(path)?;
    text(path)
}

fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    small_file::read(path).map_err(|source| TlsError::Read {
        path: path.to_owned(),
        source,
    })
}

/// A key that others can read is none (`check_ssl_key_file_permissions` in be-secure-common.c).
fn check_permissions(key: &Path) -> Result<(), TlsError> {
    let metadata = std::fs::metadata(key).map_err(|source| TlsError::Read {
        path: key.to_owned(),
        source,
    })?;
    let forbidden = if metadata.uid() == 0 { 0o037 } else { 0o077 };
    let mode = metadata.mode() & 0o777;
    if mode & forbidden == 0 {
        return Ok(());
    }
    Err(TlsError::Exposed {
        path: key.to_owned(),
        mode,
    })
}
