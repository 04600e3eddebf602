//! Brings a data directory in line with another server's: a rewind, or a whole new copy.
//!
//! Both read a running leader, and so may bring in pages and WAL that Raft has not committed yet.
//! The mark `rebuilding` stands from before the first byte changes until the caller knows that
//! Raft has committed as far as the copy reaches.

use std::fs;
use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::control::Control;
use super::durable;
use super::process::OnOrphaned;
use super::server::{Server, remove_tree};
use super::sockets::Endpoint;
use super::tool::{self, Output};
use super::{ClusterState, Error};
use crate::wal::{Lsn, SEGMENT_SIZE, TimelineId};

/// A copy of a database may take long; one that takes a day hangs.
const COPY_PATIENCE: Duration = Duration::from_secs(24 * 3600);
/// `application_name` of the copying connections; must not be the receiver's.
const COPIER_NAME: &str = "howdah copy";

/// What a finished copy reaches from and to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Copied {
    /// Recovery of the copy begins here: WAL is needed from (the start of the segment of) this on.
    pub start: Lsn,
    /// The timeline of `start`.
    pub start_timeline: TimelineId,
    /// The copy may hold changes up to here: it may be started once Raft has committed as much.
    pub end: Lsn,
    /// The timeline of `end`.
    pub timeline: TimelineId,
}

/// What came of a rewind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rewind {
    /// The directory was changed; it waits for [`Server::finish_rebuild`].
    Rewound(Copied),
    /// The directory had nothing that the source's history lacks. It is as it was, and may be
    /// started as a standby if the Raft log holds its timeline.
    NotNeeded,
}

impl Server {
    /// Takes back what this stopped, former primary wrote after the source's history left its
    /// own (`pg_rewind`), crash recovery of this directory included.
    ///
    /// `source` leads to a running primary, whose CHECKPOINT this asks for first: before version
    /// 16 pg_rewind takes the source's timeline from `pg_control`, which lags behind a promotion.
    ///
    /// Two servers that each promoted alone number their timelines alike, and pg_rewind does not
    /// tell them apart: call this only if the Raft log holds this directory's timeline.
    ///
    /// # Errors
    /// [`Error::CannotRewind`]: make a [`Server::base_backup`] instead.
    pub async fn rewind(&self, source: &Endpoint) -> Result<Rewind, Error> {
        self.require_stopped().await?;
        let rewindable = matches!(
            self.control_data().await?.state,
            ClusterState::ShutDown
                | ClusterState::InProduction
                | ClusterState::ShuttingDown
                | ClusterState::InCrashRecovery
                | ClusterState::ShutDownInRecovery
        );
        if !rewindable || self.files().pgdata.join("backup_label").exists() {
            return Err(Error::CannotRewind {
                reason: "it was not last a primary".to_owned(),
            });
        }
        let control = Control::connect(source).await?;
        control.checkpoint().await?;
        let server = self.shared();
        self.exclusively(move || {
            let files = server.files();
            // A postmaster that was killed and that nobody has waited for yet looks alive to the server that pg_rewind
            // starts for crash recovery. Nobody runs here.
            durable::remove(&files.pgdata.join("postmaster.pid"))?;
            files.begin_rebuild()
        })
        .await?;
        let output = self.run_pg_rewind(source).await?;
        // pg_rewind makes this directory need WAL up to where the source had *inserted*, which need not be written and may
        // never come on this timeline. What is written after a commit that came later covers it.
        control.commit_something().await?;
        // What pg_rewind copied of the source's WAL was written before this.
        let (end, timeline) = (control.written_lsn().await?, control.timeline().await?);
        let server = self.shared();
        self.exclusively(move || {
            if output
                .stderr
                .iter()
                .any(|line| line.ends_with("no rewind required"))
            {
                server.files().finish_rebuild()?;
                return Ok(Rewind::NotNeeded);
            }
            let copied = copied(&server.files().pgdata, end, timeline)?;
            server.files().rebuild_copied(copied)?;
            Ok(Rewind::Rewound(copied))
        })
        .await
    }

    /// Removes those WAL files of this stopped server that reach beyond the end of their timeline, which `left_at` tells:
    /// where a later timeline left it, or none for the current one.
    ///
    /// PostgreSQL takes such a file for WAL of the later timeline when it has no file of that, and replays it beyond the
    /// switch. After a rewind it has none where the source was itself rebuilt: its WAL begins later. What is removed
    /// comes from the feed. A crash before the end leaves some; this is done again before the directory is started.
    pub async fn drop_left_wal(
        &self,
        left_at: impl Fn(TimelineId) -> Option<Lsn> + Send + 'static,
    ) -> Result<(), Error> {
        let folder = self.files().pgdata.join("pg_wal");
        self.exclusively(move || {
            for entry in fs::read_dir(&folder).map_err(Error::io("read", &folder))? {
                let path = entry.map_err(Error::io("read", &folder))?.path();
                let name = path.file_name().and_then(|name| name.to_str());
                if name.is_some_and(|name| reaches_beyond(name, &left_at)) {
                    tracing::info!(file = %path.display(), "removed WAL beyond the end of its timeline");
                    durable::remove(&path)?;
                }
            }
            Ok(())
        })
        .await
    }

    async fn run_pg_rewind(&self, source: &Endpoint) -> Result<Output, Error> {
        let program = self.installation().program("pg_rewind");
        let mut command = self.launcher().command(&program, OnOrphaned::Kill);
        let conninfo = format!("{} dbname=postgres", source.conninfo(COPIER_NAME));
        command
            .arg("-D")
            .arg(&self.files().pgdata)
            .arg("--source-server")
            .arg(conninfo);
        let cannot = |reason: String| Err(Error::CannotRewind { reason });
        match tool::run(&program, command, COPY_PATIENCE).await {
            Err(error) => cannot(error.to_string()),
            // It would do nothing, silently, about WAL that only this directory has.
            Ok(output)
                if output
                    .stderr
                    .iter()
                    .any(|line| line.contains("on the same timeline")) =>
            {
                cannot("the old data is on the source's own timeline".to_owned())
            }
            Ok(output) => Ok(output),
        }
    }

    /// Replaces `pgdata` by a base backup of the running primary at `source` (`pg_basebackup`,
    /// without WAL: the feed serves that).
    ///
    /// The copy waits for [`Server::finish_rebuild`]. `backup_label` stays in it, so that recovery
    /// begins where the backup did.
    pub async fn base_backup(&self, source: &Endpoint) -> Result<Copied, Error> {
        self.require_stopped().await?;
        // Opened before and asked after: a source that restarted meanwhile would break it.
        let control = Control::connect(source).await?;
        let server = self.shared();
        self.exclusively(move || {
            server.files().begin_rebuild()?;
            remove_tree(&server.files().pgdata)?;
            server.make_private(&server.files().pgdata)
        })
        .await?;
        let program = self.installation().program("pg_basebackup");
        let mut command = self.launcher().command(&program, OnOrphaned::Kill);
        command
            .arg("-D")
            .arg(&self.files().pgdata)
            .arg("-d")
            .arg(source.conninfo(COPIER_NAME));
        command.args([
            "-X",
            "none",
            "--checkpoint=fast",
            "--no-manifest",
            "--no-password",
            "--progress",
            "-v",
        ]);
        tool::run(&program, command, COPY_PATIENCE).await?;
        // No page reaches the source's disk before its WAL, so the copy's pages reach no further.
        let (end, timeline) = (control.written_lsn().await?, control.timeline().await?);
        let server = self.shared();
        self.exclusively(move || {
            let copied = copied(&server.files().pgdata, end, timeline)?;
            server.files().rebuild_copied(copied)?;
            Ok(copied)
        })
        .await
    }
}

/// Reads where recovery will begin: `START WAL LOCATION: 0/2000028 (file 000000010000000000000002)`.
/// The file's name begins with the timeline; pg_rewind writes no other line that tells it.
fn copied(pgdata: &Path, end: Lsn, timeline: TimelineId) -> Result<Copied, Error> {
    let path = pgdata.join("backup_label");
    let label = fs::read_to_string(&path).map_err(Error::io("read", &path))?;
    match start_of_recovery(&label) {
        Some((start, start_timeline)) => Ok(Copied {
            start,
            start_timeline,
            end,
            timeline,
        }),
        None => Err(Error::Damaged {
            path,
            reason: "it does not tell where recovery begins".to_owned(),
        }),
    }
}

/// Whether a WAL file holds what its timeline has, or may have, written after it was left.
fn reaches_beyond(name: &str, left_at: impl Fn(TimelineId) -> Option<Lsn>) -> bool {
    let left = |(timeline, start)| left_at(timeline).is_some_and(|at| at < start + SEGMENT_SIZE);
    segment(name).is_some_and(left)
}

/// Timeline and first position of a WAL file, by its name (`XLogFileName`).
fn segment(name: &str) -> Option<(TimelineId, Lsn)> {
    let part = |range| u32::from_str_radix(name.get(range)?, 16).ok();
    let (timeline, high, low) = (part(0..8)?, part(8..16)?, part(16..24)?);
    let whole = name.len() == 24 && name.bytes().all(|byte| byte.is_ascii_hexdigit());
    let start = (u64::from(high) << 32).checked_add(u64::from(low).checked_mul(SEGMENT_SIZE)?)?;
    whole.then_some((TimelineId(timeline), Lsn(start)))
}

fn start_of_recovery(label: &str) -> Option<(Lsn, TimelineId)> {
    let line = label
        .lines()
        .find_map(|line| line.strip_prefix("START WAL LOCATION: "))?;
    let (start, file) = line.split_once(" (file ")?;
    let timeline = u32::from_str_radix(file.get(..8)?, 16).ok()?;
    Some((start.parse().ok()?, TimelineId(timeline)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_with_the_end_of_a_timeline_that_was_left_are_told_by_their_names() {
        // Timeline 1 was left inside its file 2, timeline 2 at the very end of its file 4; 3 is the current one.
        let left_at = |timeline| match timeline {
            TimelineId(1) => Some(Lsn(2 * SEGMENT_SIZE + 7)),
            TimelineId(2) => Some(Lsn(5 * SEGMENT_SIZE)),
            _ => None,
        };
        for (name, beyond) in [
            ("000000010000000000000001", false),
            ("000000010000000000000002", true),
            ("000000010000000000000003", true),
            ("000000020000000000000004", false),
            ("000000020000000000000005", true),
            ("000000030000000000000002", false),
            ("00000001000000000000000", false),
            ("000000010000000000000002.partial", false),
            ("00000002.history", false),
            ("archive_status", false),
        ] {
            assert_eq!(reaches_beyond(name, left_at), beyond, "{name}");
        }
    }
}
