//! A group's snapshot: the state of its WAL at a log position, in one small file.
//!
//! ```text
//! "HWDHSNAP" | version u32 = 1 | length u32 | crc32c u32 | content (postcard)
//! ```
//!
//! Numbers are big endian; the checksum is the content's.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use openraft::SnapshotMeta as Meta;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::codec::{decode, encode, invalid};
use super::types::{LogId, SnapshotMeta, StoredMembership, TypeConfig};
use crate::wal::WalHistory;

/// A snapshot as openraft handles it.
pub(crate) type SnapshotOf = openraft::type_config::alias::SnapshotOf<TypeConfig, Snapshot>;

const FILE: &str = "snapshot";
const MAGIC: &[u8; 8] = b"HWDHSNAP";
const VERSION: u32 = 1;
const HEADER: usize = 8 + 4 + 4 + 4;
/// The largest snapshot that is taken, bytes: thousands of promotions fit.
const MAX_CONTENT: usize = 16 << 20;

/// The replicated state after a log position. Its `history.end()` is the start of a segment, so
/// that the log from there on serves a standby, which asks for WAL by whole segments.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Snapshot {
    pub(crate) last: LogId,
    pub(crate) membership: StoredMembership,
    pub(crate) history: Arc<WalHistory>,
}

impl Snapshot {
    /// As openraft describes it.
    fn meta(&self) -> SnapshotMeta {
        Meta {
            last_log_id: Some(self.last),
            last_membership: self.membership.clone(),
        }
    }

    /// Together with how openraft describes it.
    pub(crate) fn described(self) -> SnapshotOf {
        SnapshotOf {
            meta: self.meta(),
            snapshot: self,
        }
    }

    /// Its bytes, for the file and for a peer.
    pub(crate) fn encode(&self) -> io::Result<Bytes> {
        let content = encode(self)?;
        let mut bytes = BytesMut::with_capacity(HEADER + content.len());
        bytes.put_slice(MAGIC);
        bytes.put_u32(VERSION);
        bytes.put_u32(u32::try_from(content.len()).map_err(io::Error::other)?);
        bytes.put_u32(crc32c::crc32c(&content));
        bytes.put_slice(&content);
        Ok(bytes.freeze())
    }

    /// Reads what [`Snapshot::encode`] wrote.
    pub(crate) fn decode(mut bytes: &[u8]) -> io::Result<Snapshot> {
        if bytes.len() < HEADER || bytes.len() > HEADER + MAX_CONTENT || !bytes.starts_with(MAGIC) {
            return Err(invalid("this is no snapshot"));
        }
        bytes.advance(MAGIC.len());
        if bytes.get_u32() != VERSION {
            return Err(invalid("a snapshot of unknown version"));
        }
        let length = bytes.get_u32();
        let checksum = bytes.get_u32();
        if usize::try_from(length) != Ok(bytes.len()) || crc32c::crc32c(bytes) != checksum {
            return Err(invalid("a damaged snapshot"));
        }
        decode(bytes)
    }
}

/// A group's current snapshot, in memory and on disk.
#[derive(Debug)]
pub(crate) struct SnapshotSlot {
    folder: PathBuf,
    current: Mutex<Option<Snapshot>>,
    /// Held while the file is replaced.
    writing: tokio::sync::Mutex<()>,
}

impl SnapshotSlot {
    /// Reads the snapshot in `folder`, where there is one.
    pub(crate) fn open(folder: &Path) -> io::Result<SnapshotSlot> {
        let current = match fs::read(folder.join(FILE)) {
            Ok(bytes) => Some(Snapshot::decode(&bytes)?),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(error),
        };
        Ok(SnapshotSlot {
            folder: folder.to_owned(),
            current: Mutex::new(current),
            writing: tokio::sync::Mutex::new(()),
        })
    }

    /// Removes the snapshot in `folder`, where there is one.
    pub(crate) fn remove(folder: &Path) -> io::Result<()> {
        match fs::remove_file(folder.join(FILE)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => File::open(folder)?.sync_all(),
        }
    }

    /// The last snapshot; none where there was never one.
    pub(crate) fn current(&self) -> Option<Snapshot> {
        self.current.lock().clone()
    }

    /// Makes `snapshot` the current one, on disk first. Does nothing where the current one is newer.
    pub(crate) async fn replace(&self, snapshot: Snapshot) -> io::Result<()> {
        let _writing = self.writing.lock().await;
        if self
            .current()
            .is_some_and(|current| current.last >= snapshot.last)
        {
            return Ok(());
        }
        let (folder, bytes) = (self.folder.clone(), snapshot.encode()?);
        let stored = tokio::task::spawn_blocking(move || store(&folder, &bytes)).await;
        stored.unwrap_or_else(|_| Err(io::Error::other("storing the snapshot was interrupted")))?;
        *self.current.lock() = Some(snapshot);
        Ok(())
    }
}

fn store(folder: &Path, bytes: &[u8]) -> io::Result<()> {
    let fresh = folder.join("snapshot.new");
    let mut file = File::create(&fresh)?;
    file.write_all(bytes)?;
    // A crash up to the rename: the old snapshot stands, and the log that goes with it is still
    // there. After the folder's fsync: the new one stands, and the log before it may be purged.
    file.sync_all()?;
    fs::rename(&fresh, folder.join(FILE))?;
    File::open(folder)?.sync_all()
}
