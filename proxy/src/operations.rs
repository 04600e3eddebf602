//! What the node can tell and do beyond its SQL port, for the console.

use std::fmt;

use futures::future::BoxFuture;

use crate::status::ClusterStatus;

/// The node around this proxy; the crate above gives it.
pub trait Operations: Send + Sync + fmt::Debug + 'static {
    /// The whole cluster, as of now. Nodes that do not answer in time are shown so.
    ///
    /// # Errors
    /// In words for the operator, when this is not a part of a cluster.
    fn status(&self) -> BoxFuture<'_, Result<ClusterStatus, String>>;

    /// What the node is configured with, secrets left out.
    fn settings(&self) -> Vec<Setting>;

    /// Reads the configuration again, as SIGHUP does, and takes over what can change while the node runs.
    ///
    /// # Errors
    /// In words for the operator, when there is nothing to read or it is wrong: then all stays as it was.
    fn reload(&self) -> BoxFuture<'_, Result<Reloaded, String>>;
}

/// One line of the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    /// Its name in the configuration file, dotted.
    pub key: &'static str,
    /// What holds now.
    pub value: String,
    /// What holds where the file says nothing; none where it must.
    pub default: Option<String>,
    /// Whether a reload can change it.
    pub changeable: bool,
}

/// What a reload has found, by the settings' names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reloaded {
    /// Changed, and in force.
    pub changed: Vec<&'static str>,
    /// Changed in the file, and in force when the node is started again.
    pub needs_restart: Vec<&'static str>,
}

/// A proxy without a node around it.
#[derive(Clone, Copy, Debug)]
pub struct NoOperations;

impl Operations for NoOperations {
    fn status(&self) -> BoxFuture<'_, Result<ClusterStatus, String>> {
        let why = "this proxy is not a part of a node";
        Box::pin(std::future::ready(Err(why.to_owned())))
    }

    fn settings(&self) -> Vec<Setting> {
        Vec::new()
    }

    fn reload(&self) -> BoxFuture<'_, Result<Reloaded, String>> {
        let why = "it was not started from a configuration file";
        Box::pin(std::future::ready(Err(why.to_owned())))
    }
}
