//! What a replica remembers beside its data: whose it is, where its life stands, whether the
//! data may be started.

use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use super::account::Owner;
use super::copy::Copied;
use super::durable;
use super::error::Error;
use crate::id::{GroupId, NodeId};

/// Whose replica a directory holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// The cluster's name.
    pub cluster: String,
    /// The node.
    pub node: NodeId,
    /// The group.
    pub group: GroupId,
}

impl std::fmt::Display for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "group {} on node {} of cluster \"{}\"",
            self.group, self.node, self.cluster
        )
    }
}

/// `replica.json`.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct IdentityFile {
    #[serde(flatten)]
    identity: Identity,
    /// Seconds since 1970, for people.
    created: u64,
}

/// `rebuilding`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct RebuildFile {
    copied: Option<Copied>,
}

/// Whether the data directory may be started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rebuild {
    /// It may: no copy is under way.
    Settled,
    /// A base backup or a rewind did not finish: only a base backup helps.
    Interrupted,
    /// The copy is complete, but holds WAL that Raft may not have committed. Once Raft has
    /// committed up to [`Copied::end`], [`super::Server::finish_rebuild`] makes it usable.
    Copied(Copied),
}

/// As what the data directory was started last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LastRole {
    /// There is no data yet.
    Empty,
    /// As a primary, or it became one; also a fresh one.
    Primary,
    /// As a standby that was not promoted.
    Standby,
}

/// The names in a replica's directory.
#[derive(Debug)]
pub(super) struct Files {
    pub(super) replica: PathBuf,
    pub(super) pgdata: PathBuf,
    pub(super) log: PathBuf,
    /// Held as long as this lives: two nodes in one directory would end each other's servers.
    _lock: File,
}

impl Files {
    /// Locks the directory and checks whose it is; an empty one is taken for `identity`.
    pub(super) fn open(replica: &Path, identity: &Identity) -> Result<Files, Error> {
        fs::create_dir_all(replica).map_err(Error::io("create", replica))?;
        let replica = &fs::canonicalize(replica).map_err(Error::io("find", replica))?;
        let lock = replica.join("lock");
        let file = File::options()
            .create(true)
            .append(true)
            .open(&lock)
            .map_err(Error::io("open", &lock))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(Error::InUse {
                    path: replica.clone(),
                });
            }
            Err(TryLockError::Error(error)) => return Err(Error::io("lock", &lock)(error)),
        }
        claim(replica, identity)?;
        Ok(Files {
            replica: replica.clone(),
            pgdata: replica.join("pgdata"),
            log: replica.join("postgres.log"),
            _lock: file,
        })
    }

    pub(super) fn standby_signal(&self) -> PathBuf {
        self.pgdata.join("standby.signal")
    }

    pub(super) fn life(&self) -> PathBuf {
        self.replica.join("life.json")
    }

    fn rebuilding(&self) -> PathBuf {
        self.replica.join("rebuilding")
    }

    pub(super) fn last_role(&self) -> LastRole {
        if !self.pgdata.join("PG_VERSION").exists() {
            LastRole::Empty
        } else if self.standby_signal().exists() {
            LastRole::Standby
        } else {
            LastRole::Primary
        }
    }

    pub(super) fn rebuild_state(&self) -> Result<Rebuild, Error> {
        let Some(bytes) = durable::read(&self.rebuilding())? else {
            return Ok(Rebuild::Settled);
        };
        // A mark that cannot be read still marks.
        Ok(match serde_json::from_slice(&bytes) {
            Ok(RebuildFile { copied: Some(copied) }) => Rebuild::Copied(copied),
            _ => Rebuild::Interrupted,
        })
    }

    /// A crash after this leaves a directory that is not started; the caller's next base backup
    /// finishes the work.
    pub(super) fn begin_rebuild(&self) -> Result<(), Error> {
        self.mark(&RebuildFile { copied: None })
    }

    /// A crash after this leaves a whole copy that waits for Raft; the caller finishes by
    /// `finish_rebuild` when the commit position has passed.
    pub(super) fn rebuild_copied(&self, copied: Copied) -> Result<(), Error> {
        self.mark(&RebuildFile { copied: Some(copied) })
    }

    pub(super) fn finish_rebuild(&self) -> Result<(), Error> {
        durable::remove(&self.rebuilding())
    }

    fn mark(&self, mark: &RebuildFile) -> Result<(), Error> {
        let bytes = encode(mark, &self.rebuilding())?;
        durable::replace(&self.rebuilding(), &bytes, Owner::Maker)
    }
}

/// A crash in here leaves an unclaimed directory or a claimed one; the next start goes on.
fn claim(replica: &Path, identity: &Identity) -> Result<(), Error> {
    let path = replica.join("replica.json");
    match durable::read(&path)? {
        Some(bytes) => {
            let found: IdentityFile = decode(&bytes, &path)?;
            if found.identity == *identity {
                return Ok(());
            }
            let (found, wanted) = (found.identity.to_string(), identity.to_string());
            Err(Error::OtherReplica {
                path: replica.to_owned(),
                found,
                wanted,
            })
        }
        None if replica.join("pgdata").exists() => Err(Error::Damaged {
            path,
            reason: "it is missing beside a pgdata".to_owned(),
        }),
        None => {
            let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
            let created = now.map_or(0, |since| since.as_secs());
            let file = IdentityFile {
                identity: identity.clone(),
                created,
            };
            durable::replace(&path, &encode(&file, &path)?, Owner::Maker)?;
            durable::sync_parent(replica)
        }
    }
}

pub(super) fn encode(value: &impl Serialize, path: &Path) -> Result<Vec<u8>, Error> {
    serde_json::to_vec_pretty(value).map_err(|error| Error::Damaged {
        path: path.to_owned(),
        reason: error.to_string(),
    })
}

pub(super) fn decode<T: for<'de> Deserialize<'de>>(bytes: &[u8], path: &Path) -> Result<T, Error> {
    serde_json::from_slice(bytes).map_err(|error| Error::Damaged {
        path: path.to_owned(),
        reason: error.to_string(),
    })
}
