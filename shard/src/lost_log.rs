//! A node whose log is damaged or gone: it is put aside, and its replicas are marked as having lost theirs.
//!
//! The log is one for all groups of the node, so all of the node's replicas have forgotten what they promised. The order
//! is what counts: every replica is marked, durably (`Memory::lose`), before the old log is touched. Then
//! a crash at any point leads here again, or to replicas that are marked and a log that is empty.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use crate::config::Config;
use crate::id::GroupId;
use crate::log::{LogError, LogOptions, NodeLog};
use crate::raft::Memory;

/// Where a damaged log is put, for whoever wants to know what happened to the disk. The last one only.
const ASIDE: &str = "log.damaged";

/// Why a log that is lost cannot be replaced.
#[derive(Debug, thiserror::Error)]
pub enum LostLogError {
    /// A replica of it is its group's only one.
    #[error(
        "the log is lost, and group {group} has no other replica to rebuild from. Nothing was changed: restore this node's \
         data directory from a backup"
    )]
    OnlyReplica {
        /// The group.
        group: GroupId,
        /// What is wrong with the log; none where it is not there at all.
        source: Option<Box<LogError>>,
    },
    /// The disk refused.
    #[error("cannot put the lost log aside at {}", path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// The folder of a group's Raft files, below the replica's.
pub(crate) fn raft_dir(config: &Config, group: GroupId) -> PathBuf {
    config.data_dir.join(format!("group-{group}")).join("raft")
}

/// Opens the node's log; in place of one that is damaged or gone, an empty one for replicas that know it.
pub(crate) fn open(config: &Config) -> Result<NodeLog, OpenError> {
    let dir = config.data_dir.join("log");
    // A replica's folder is made after the log's first segment is durable, and segments go only where others
    // follow: where there are replicas there was a log.
    let gone = !NodeLog::exists(&dir)? && started(config).next().is_some();
    let opened = if gone {
        None
    } else {
        match NodeLog::open(&dir, LogOptions::default()) {
            Ok(log) if no_mark_contradicts(config, &log)? => return Ok(log),
            // Marked as lost, and not put aside: a crash between the two, and a disk that reads well this time.
            Ok(log) => {
                log.close();
                None
            }
            Err(error @ LogError::Damaged { .. }) => Some(Box::new(error)),
            Err(error) => return Err(error.into()),
        }
    };
    let alone = started(config).find(|group| config.groups[group].len() == 1);
    if let Some(group) = alone {
        return Err(LostLogError::OnlyReplica {
            group,
            source: opened,
        }
        .into());
    }
    let reason = opened.map_or_else(|| "it is not there".to_owned(), |error| error.to_string());
    tracing::error!(
        log = %dir.display(), reason,
        "the log is lost: this node's replicas neither vote nor acknowledge anything until their groups have readmitted them"
    );
    for group in started(config) {
        let path = raft_dir(config, group);
        Memory::lose(&path).map_err(at(&path))?;
    }
    put_aside(&dir, &config.data_dir.join(ASIDE))?;
    Ok(NodeLog::open(&dir, LogOptions::default())?)
}

/// Why the node's log cannot be opened.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OpenError {
    #[error(transparent)]
    Log(#[from] LogError),
    #[error(transparent)]
    Lost(#[from] LostLogError),
}

/// The groups that have a replica here that was started before.
fn started(config: &Config) -> impl Iterator<Item = GroupId> {
    let ours = config
        .groups
        .iter()
        .filter(|(_, members)| members.contains(&config.node));
    ours.map(|(group, _)| *group)
        .filter(|group| raft_dir(config, *group).is_dir())
}

/// Whether every replica that is marked as lost has an empty log.
fn no_mark_contradicts(config: &Config, log: &NodeLog) -> Result<bool, LostLogError> {
    for group in started(config) {
        let path = raft_dir(config, group);
        let lost = Memory::read(&path).map_err(at(&path))? == Memory::Lost;
        let log = log.group(group);
        if lost && (log.vote().is_some() || log.last().is_some()) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// A crash on the way: there is a log without files, or none, and all replicas are marked. The next start does
/// the same again, to no more effect.
fn put_aside(log: &Path, aside: &Path) -> Result<(), LostLogError> {
    let missing_is_fine = |result: io::Result<()>| match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    };
    if log.is_dir() {
        missing_is_fine(fs::remove_dir_all(aside)).map_err(at(aside))?;
        missing_is_fine(fs::rename(log, aside)).map_err(at(log))?;
    }
    let parent = log.parent().unwrap_or(Path::new("."));
    File::open(parent)
        .and_then(|dir| dir.sync_all())
        .map_err(at(parent))
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> LostLogError {
    let path = path.to_path_buf();
    move |source| LostLogError::Io { path, source }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{LogConfig, PostgresConfig, Timing};
    use crate::id::NodeId;
    use bytes::Bytes;

    const GROUPS: [GroupId; 2] = [GroupId(1), GroupId(2)];

    /// A node of two groups of three, stopped after it voted.
    fn node(dir: &Path) -> Config {
        let config = Config {
            node: NodeId(1),
            cluster: "test".into(),
            secret: "a secret of enough bytes".into(),
            tls: None,
            data_dir: dir.to_owned(),
            nodes: (1..4)
                .map(|node| (NodeId(node), ([127, 0, 0, 1], 1).into()))
                .collect(),
            groups: GROUPS.map(|group| (group, (1..4).map(NodeId).collect())).into(),
            postgres: PostgresConfig::default(),
            timing: Timing::default(),
            log: LogConfig::default(),
        };
        let log = open(&config).unwrap();
        for group in GROUPS {
            fs::create_dir_all(raft_dir(&config, group)).unwrap();
            log.group(group)
                .save_vote(Bytes::from_static(b"a vote"), Box::new(|saved| saved.unwrap()))
                .unwrap();
        }
        log.close();
        config
    }

    /// For each group, what its replica remembers and whether its log has a vote.
    fn found(config: &Config) -> Vec<(Memory, bool)> {
        let log = open(config).unwrap();
        let of = |group| {
            let memory = Memory::read(&raft_dir(config, group)).unwrap();
            (memory, log.group(group).vote().is_some())
        };
        let found = GROUPS.map(of).into();
        log.close();
        found
    }

    fn damage(config: &Config) {
        let files = fs::read_dir(config.data_dir.join("log")).unwrap().flatten();
        let mut segments = files
            .map(|file| file.path())
            .filter(|path| path.extension().is_some());
        let path = segments.next().unwrap();
        let mut bytes = fs::read(&path).unwrap();
        bytes[20] ^= 1;
        fs::write(path, bytes).unwrap();
    }

    const WHOLE: (Memory, bool) = (Memory::Whole, true);
    const LOST: (Memory, bool) = (Memory::Lost, false);

    #[test]
    fn a_whole_log_is_opened_and_a_damaged_one_put_aside_for_all_groups() {
        let dir = tempfile::tempdir().unwrap();
        let config = node(dir.path());
        assert_eq!(found(&config), [WHOLE; 2]);
        damage(&config);
        assert_eq!(found(&config), [LOST; 2]);
        assert!(dir.path().join(ASIDE).is_dir());
        assert_eq!(found(&config), [LOST; 2], "until they are readmitted");
    }

    #[test]
    fn a_crash_at_any_point_leads_to_the_same() {
        type Crash = fn(&Config);
        let crashes: [Crash; 4] = [
            // Some replicas are marked; the damage is still there.
            |config| {
                damage(config);
                Memory::lose(&raft_dir(config, GROUPS[0])).unwrap();
            },
            // The same, on a disk that reads well now.
            |config| Memory::lose(&raft_dir(config, GROUPS[0])).unwrap(),
            // All are marked, the log is put aside.
            |config| {
                for group in GROUPS {
                    Memory::lose(&raft_dir(config, group)).unwrap();
                }
                fs::rename(config.data_dir.join("log"), config.data_dir.join(ASIDE)).unwrap();
            },
            // The new log's folder has no segment yet.
            |config| {
                fs::remove_dir_all(config.data_dir.join("log")).unwrap();
                fs::create_dir(config.data_dir.join("log")).unwrap();
            },
        ];
        for (number, crash) in crashes.into_iter().enumerate() {
            let dir = tempfile::tempdir().unwrap();
            let config = node(dir.path());
            crash(&config);
            assert_eq!(found(&config), [LOST; 2], "crash {number}");
        }
    }

    #[test]
    fn a_group_of_one_is_refused_before_anything_is_changed() {
        let dir = tempfile::tempdir().unwrap();
        let mut config = node(dir.path());
        config.groups.insert(GROUPS[1], vec![config.node]);
        damage(&config);
        let refused = open(&config).map(drop).unwrap_err();
        assert!(
            refused.to_string().contains("group 2 has no other replica"),
            "{refused}"
        );
        for group in GROUPS {
            assert_eq!(Memory::read(&raft_dir(&config, group)).unwrap(), Memory::Whole);
        }
        assert!(!dir.path().join(ASIDE).exists());
    }

    #[test]
    fn a_node_that_never_started_has_lost_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let config = node(dir.path());
        fs::remove_dir_all(dir.path()).unwrap();
        fs::create_dir(dir.path()).unwrap();
        assert_eq!(found(&config), [(Memory::Whole, false); 2]);
    }
}
