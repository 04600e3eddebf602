//! Reads `pg_control` of a stopped server, through `pg_controldata`.

use std::collections::HashMap;

use crate::wal::{Lsn, TimelineId};

/// How the server stood when it last wrote `pg_control` (`DBState` in PostgreSQL's `pg_control.h`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClusterState {
    /// Never started.
    StartingUp,
    /// A primary that was shut down cleanly.
    ShutDown,
    /// A standby that was shut down cleanly.
    ShutDownInRecovery,
    /// A primary that was shutting down.
    ShuttingDown,
    /// A primary in crash recovery.
    InCrashRecovery,
    /// A standby that runs, or did not stop cleanly.
    InArchiveRecovery,
    /// A primary that runs, or did not stop cleanly.
    InProduction,
}

/// What `pg_control` tells. Of a running or crashed server it is as old as its last checkpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ControlData {
    /// The system identifier that `initdb` gave, in decimal.
    pub system_id: String,
    /// How the server stood.
    pub state: ClusterState,
    /// The timeline of the last checkpoint.
    pub timeline: TimelineId,
    /// Where recovery begins.
    pub redo: Lsn,
    /// The last checkpoint's record.
    pub checkpoint: Lsn,
    /// How far recovery must get before a standby is consistent; 0/0 where it need not.
    pub min_recovery_end: Lsn,
    /// The timeline of that position; 0 where there is none. A promotion sets it before the first
    /// change on the new timeline (`CreateEndOfRecoveryRecord` in xlog.c).
    pub min_recovery_timeline: TimelineId,
}

/// Understands the output of `pg_controldata` in the C locale; the error names the missing line.
pub(super) fn parse(text: &str) -> Result<ControlData, &'static str> {
    let values: HashMap<&str, &str> = text
        .lines()
        .filter_map(|line| line.split_once(':'))
        .map(|(key, value)| (key, value.trim()))
        .collect();
    let lsn = |key: &'static str| {
        values
            .get(key)
            .and_then(|text| text.parse::<Lsn>().ok())
            .ok_or(key)
    };
    let (system, state, timeline) = (
        "Database system identifier",
        "Database cluster state",
        "Latest checkpoint's TimeLineID",
    );
    let recovery_timeline = "Min recovery ending loc's timeline";
    Ok(ControlData {
        system_id: (*values.get(system).ok_or(system)?).to_owned(),
        state: values
            .get(state)
            .and_then(|text| parse_state(text))
            .ok_or(state)?,
        timeline: values
            .get(timeline)
            .and_then(|text| text.parse().ok())
            .map(TimelineId)
            .ok_or(timeline)?,
        redo: lsn("Latest checkpoint's REDO location")?,
        checkpoint: lsn("Latest checkpoint location")?,
        min_recovery_end: lsn("Minimum recovery ending location")?,
        min_recovery_timeline: values
            .get(recovery_timeline)
            .and_then(|text| text.parse().ok())
            .map(TimelineId)
            .ok_or(recovery_timeline)?,
    })
}

fn parse_state(text: &str) -> Option<ClusterState> {
    Some(match text {
        "starting up" => ClusterState::StartingUp,
        "shut down" => ClusterState::ShutDown,
        "shut down in recovery" => ClusterState::ShutDownInRecovery,
        "shutting down" => ClusterState::ShuttingDown,
        "in crash recovery" => ClusterState::InCrashRecovery,
        "in archive recovery" => ClusterState::InArchiveRecovery,
        "in production" => ClusterState::InProduction,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_that_is_missing_is_named() {
        assert_eq!(
            parse("pg_control version number: 1300\n"),
            Err("Database system identifier")
        );
    }
}
