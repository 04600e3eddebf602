//! Takes back what must not stay in a data directory.

use std::fs;
use std::io;

use super::server::{Server, remove_tree};
use super::{Error, durable};
use crate::wal::TimelineId;

impl Server {
    /// Removes the data directory of a stopped server.
    ///
    /// A crash here leaves part of it; the caller has written down that it is not to be trusted.
    pub async fn wipe(&self) -> Result<(), Error> {
        self.require_stopped().await?;
        let server = self.shared();
        self.exclusively(move || {
            remove_tree(&server.files().pgdata)?;
            durable::sync_parent(&server.files().pgdata)
        })
        .await
    }

    /// Makes a standby out of one whose promotion was begun and never took hold: removes the
    /// history and the WAL files of every timeline after `timeline`, so that neither this standby
    /// nor its next promotion takes them for real.
    ///
    /// The caller knows from the control file that nothing was done on those timelines.
    pub async fn forget_timelines_after(&self, timeline: TimelineId) -> Result<(), Error> {
        self.require_stopped().await?;
        let server = self.shared();
        self.exclusively(move || {
            let wal = server.files().pgdata.join("pg_wal");
            let entries = fs::read_dir(&wal).map_err(Error::io("list", &wal))?;
            for entry in entries {
                let entry = entry.map_err(Error::io("list", &wal))?;
                let name = entry.file_name();
                let of = timeline_of(&name.to_string_lossy());
                if of.is_some_and(|of| of > timeline) {
                    durable::remove(&entry.path())?;
                }
            }
            let promote = server.files().pgdata.join("promote");
            match fs::remove_file(&promote) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    Err(Error::io("remove", &promote)(error))
                }
                _ => Ok(()),
            }
        })
        .await
    }
}

/// The timeline of a WAL file or a history file: its first eight hexadecimal digits
/// (`IsXLogFileName`, `IsTLHistoryFileName` in xlog_internal.h).
fn timeline_of(name: &str) -> Option<TimelineId> {
    let digits = name.get(..8)?;
    let rest = &name[8..];
    let hexadecimal = |text: &str| text.bytes().all(|byte| byte.is_ascii_hexdigit());
    let is_wal = rest.len() >= 16 && rest.get(..16).is_some_and(hexadecimal);
    if !hexadecimal(digits) || !(rest == ".history" || is_wal) {
        return None;
    }
    u32::from_str_radix(digits, 16).ok().map(TimelineId)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_tell_their_timeline() {
        assert_eq!(timeline_of("0000000A.history"), Some(TimelineId(10)));
        assert_eq!(timeline_of("000000020000000000000003"), Some(TimelineId(2)));
        assert_eq!(
            timeline_of("000000020000000000000003.partial"),
            Some(TimelineId(2))
        );
        for other in [
            "archive_status",
            "xlogtemp.1",
            "0000000A.backup",
            "0000000",
            "0000000ä.history",
        ] {
            assert_eq!(timeline_of(other), None, "{other}");
        }
    }
}
