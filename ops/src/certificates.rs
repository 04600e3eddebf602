//! `howdah init` and `howdah cert`: the cluster's certificate authority, and the certificates that it issues.
//!
//! ```text
//! ca.crt                        the authority's certificate: for every machine
//! ca.key                        its key: for no node; whoever has it can let anybody into the cluster
//! nodeN.crt, nodeN.key          for node N
//! operator.crt, operator.key    for a machine without a node, to ask the cluster from
//! ```

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use shard::id::NodeId;
use shard::tls::{Authority, AuthorityError, Files, Issued, NodeTls, TlsError, pem};

use crate::config::{ConfigError, NodeAddresses, nodes_of, stem};

/// The arguments that both commands have.
#[derive(Debug, clap::Args)]
struct Where {
    /// The cluster's configuration file: its name and its nodes are in the certificates.
    #[arg(long, env = "HOWDAH_CONFIG")]
    config: PathBuf,
    /// The folder of the authority's files; the configuration's where none is given.
    #[arg(long)]
    dir: Option<PathBuf>,
}

/// What `howdah init` is told.
#[derive(Debug, clap::Args)]
pub(crate) struct InitArgs {
    #[command(flatten)]
    place: Where,
}

/// What `howdah cert` is told.
#[derive(Debug, clap::Args)]
pub(crate) struct CertArgs {
    #[command(flatten)]
    place: Where,
    /// The node that it is for.
    #[arg(long, required_unless_present = "operator", value_parser = clap::value_parser!(u64).range(1..))]
    node: Option<u64>,
    /// For a machine without a node, to ask the cluster from.
    #[arg(long, conflicts_with = "node")]
    operator: bool,
    /// Replace the one that is there.
    #[arg(long)]
    renew: bool,
}

/// Why there is no certificate.
#[derive(Debug, thiserror::Error)]
pub enum CertificatesError {
    /// The configuration says nothing usable of the cluster.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The configuration has no such node.
    #[error("{}: node {node} is not among the nodes of the cluster", path.display())]
    UnknownNode {
        /// The file.
        path: PathBuf,
        /// The node.
        node: NodeId,
    },
    /// The cluster's name cannot stand in a certificate.
    #[error("cluster {0:?} cannot have certificates: its name must be of letters, digits, `-`, `_` and dots")]
    Name(String),
    /// Something is there that must not be lost.
    #[error("{}: is there already, and stays as it is", .0.display())]
    Exists(PathBuf),
    /// A file cannot be written.
    #[error("{}: cannot be written", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The authority's files cannot be used, or what it issues would not be accepted.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// No certificate could be made.
    #[error(transparent)]
    Authority(#[from] AuthorityError),
}

/// A cluster's authority, in its folder.
pub(crate) struct Office {
    dir: PathBuf,
    cluster: String,
    authority: Authority,
}

impl Office {
    /// Makes a new authority in a folder that has none.
    pub(crate) fn found(dir: &Path, cluster: &str) -> Result<Office, CertificatesError> {
        if !NodeTls::can_name(cluster) {
            return Err(CertificatesError::Name(cluster.to_owned()));
        }
        let (certificate, key) = (dir.join("ca.crt"), dir.join("ca.key"));
        refuse_existing([&certificate, &key])?;
        fs::create_dir_all(dir).map_err(unwritten(dir))?;
        let (authority, own) = Authority::create(cluster)?;
        write(&key, &own.key, 0o600)?;
        write(&certificate, &own.certificate, 0o644)?;
        Ok(Office {
            dir: dir.to_owned(),
            cluster: cluster.to_owned(),
            authority,
        })
    }

    /// The one that [`Office::found`] made.
    pub(crate) fn open(dir: &Path, cluster: &str) -> Result<Office, CertificatesError> {
        if !NodeTls::can_name(cluster) {
            return Err(CertificatesError::Name(cluster.to_owned()));
        }
        let kept = Issued {
            certificate: pem::text(&dir.join("ca.crt"))?,
            key: pem::private_text(&dir.join("ca.key"))?,
        };
        Ok(Office {
            dir: dir.to_owned(),
            cluster: cluster.to_owned(),
            authority: Authority::open(&kept)?,
        })
    }

    /// Where a node's are, or will be.
    pub(crate) fn files(&self, node: NodeId) -> Files {
        files_in(&self.dir, node)
    }

    /// Makes a certificate for a node, sees that other nodes would accept it, and puts it in place of any that is there.
    pub(crate) fn issue(
        &self,
        node: NodeId,
        addresses: impl IntoIterator<Item = IpAddr>,
    ) -> Result<Files, CertificatesError> {
        let files = self.files(node);
        let issued = self.authority.issue(&self.cluster, node, addresses)?;
        let new = Files {
            ca: files.ca.clone(),
            certificate: files.certificate.with_extension("crt.new"),
            key: files.key.with_extension("key.new"),
        };
        write(&new.key, &issued.key, 0o600)?;
        write(&new.certificate, &issued.certificate, 0o644)?;
        NodeTls::load(&new, &self.cluster, Some(node))?;
        // A node that reads them between the two says that they do not fit, and keeps what it has.
        for (new, path) in [(&new.key, &files.key), (&new.certificate, &files.certificate)] {
            fs::rename(new, path).map_err(unwritten(path))?;
        }
        Ok(files)
    }
}

fn files_in(dir: &Path, node: NodeId) -> Files {
    let stem = stem(node);
    Files {
        ca: dir.join("ca.crt"),
        certificate: dir.join(format!("{stem}.crt")),
        key: dir.join(format!("{stem}.key")),
    }
}

/// The addresses that stand in a node's certificate beside its name.
fn addresses_of(addresses: &NodeAddresses) -> Vec<IpAddr> {
    let mut found = vec![addresses.peer.ip(), addresses.sql.ip()];
    found.dedup();
    found.retain(|address| !address.is_unspecified());
    found
}

/// Makes the authority, and a certificate for every node.
#[expect(clippy::print_stdout, reason = "the command line's answer")]
pub(crate) fn init(args: InitArgs) -> Result<ExitCode, CertificatesError> {
    let (dir, cluster, nodes) = args.place.read()?;
    let holders: Vec<_> = nodes.keys().copied().chain([NodeId(0)]).collect();
    for &holder in &holders {
        let files = files_in(&dir, holder);
        refuse_existing([&files.certificate, &files.key])?;
    }
    let office = Office::found(&dir, &cluster)?;
    println!(
        "{}: the authority's certificate, for every machine",
        dir.join("ca.crt").display()
    );
    println!(
        "{}: its key: keep it, and on none of the nodes; whoever has it can let anybody into the cluster",
        dir.join("ca.key").display()
    );
    for holder in holders {
        let addresses = nodes.get(&holder).map(addresses_of).unwrap_or_default();
        told(&office.issue(holder, addresses)?, holder);
    }
    Ok(ExitCode::SUCCESS)
}

/// Issues one certificate more, or one anew.
pub(crate) fn issue(args: CertArgs) -> Result<ExitCode, CertificatesError> {
    let config = args.place.config.clone();
    let (dir, cluster, nodes) = args.place.read()?;
    let node = NodeId(args.node.unwrap_or(0));
    let addresses = match nodes.get(&node) {
        Some(addresses) => addresses_of(addresses),
        None if args.operator => Vec::new(),
        None => return Err(CertificatesError::UnknownNode { path: config, node }),
    };
    let office = Office::open(&dir, &cluster)?;
    let files = office.files(node);
    if !args.renew {
        refuse_existing([&files.certificate, &files.key])?;
    }
    told(&office.issue(node, addresses)?, node);
    Ok(ExitCode::SUCCESS)
}

#[expect(clippy::print_stdout, reason = "the command line's answer")]
fn told(files: &Files, node: NodeId) {
    let (certificate, key) = (files.certificate.display(), files.key.display());
    match node {
        NodeId(0) => println!("{certificate}, {key}: to ask the cluster from a machine without a node"),
        node => println!("{certificate}, {key}: for node {node}"),
    }
}

impl Where {
    fn read(self) -> Result<(PathBuf, String, BTreeMap<NodeId, NodeAddresses>), CertificatesError> {
        let (cluster, nodes) = nodes_of(&self.config)?;
        let dir = match self.dir {
            Some(dir) => dir,
            None => self.config.parent().unwrap_or(Path::new(".")).to_owned(),
        };
        Ok((dir, cluster, nodes))
    }
}

fn refuse_existing<'a>(paths: impl IntoIterator<Item = &'a PathBuf>) -> Result<(), CertificatesError> {
    match paths.into_iter().find(|path| path.symlink_metadata().is_ok()) {
        Some(path) => Err(CertificatesError::Exists(path.clone())),
        None => Ok(()),
    }
}

/// Writes a file that nobody reads before it is whole and safe.
fn write(path: &Path, text: &str, mode: u32) -> Result<(), CertificatesError> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true).mode(mode);
    // Left by an attempt that was cut short.
    if path.extension().is_some_and(|end| end == "new") {
        let _ = fs::remove_file(path);
    }
    let written = options.open(path).and_then(|mut file| {
        file.write_all(text.as_bytes())?;
        file.sync_all()
    });
    written.map_err(unwritten(path))
}

fn unwritten(path: &Path) -> impl FnOnce(std::io::Error) -> CertificatesError {
    let path = path.to_owned();
    move |source| CertificatesError::Write { path, source }
}
