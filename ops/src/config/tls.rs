//! `[tls]`: how nodes prove to each other who they are.

use std::path::{Path, PathBuf};

use shard::id::NodeId;
use shard::tls::{Files, NodeTls};

use super::beside;
use super::error::{ConfigError, Source};
use super::file::File;

/// What files of a node's certificate and key are called, without their ends; [`NodeId`] 0: an operator's.
pub(crate) fn stem(node: NodeId) -> String {
    match node {
        NodeId(0) => "operator".to_owned(),
        node => format!("node{node}"),
    }
}

/// The certificates of `node`, or of who is none, with the names that `howdah init` gives them, beside the configuration.
pub(super) fn tls(
    source: &Source<'_>,
    file: &File,
    node: Option<NodeId>,
) -> Result<Option<NodeTls>, ConfigError> {
    let Some(spanned) = &file.tls else {
        return Ok(None);
    };
    let section = spanned.get_ref();
    let stem = stem(node.unwrap_or(NodeId(0)));
    let path = |given: &Option<PathBuf>, default: String| match given {
        Some(given) => beside(source.path, given),
        None => beside(source.path, Path::new(&default)),
    };
    let files = Files {
        ca: path(&section.ca_file, "ca.crt".to_owned()),
        certificate: path(&section.cert_file, format!("{stem}.crt")),
        key: path(&section.key_file, format!("{stem}.key")),
    };
    NodeTls::load(&files, file.cluster.get_ref(), node)
        .map(Some)
        .map_err(|error| source.at(spanned.span(), error.to_string()))
}
