//! What the owner of a standby learns from the WAL sender that feeds it.

use super::{Lsn, TimelineId};

/// Where the own standby stands, as it reports itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StandbyStatus {
    /// Whether a walreceiver is streaming now.
    pub connected: bool,
    /// The timeline that is, or was last, streamed.
    pub timeline: Option<TimelineId>,
    /// Committed WAL before this position, on `timeline`, has been looked at by the sender.
    pub scanned: Lsn,
    /// The end of the last whole record before `scanned`: what the standby can have at most.
    pub sendable: Lsn,
    /// Received and written. This and the next two are what the standby reported in this stream;
    /// 0/0 before its first report.
    pub written: Lsn,
    /// On the standby's disk.
    pub flushed: Lsn,
    /// Visible to queries on the standby. Refreshed at least every second while connected.
    pub replayed: Lsn,
    /// Set when the standby can never be fed again: it must be rebuilt. Stays set.
    pub rebuild: Option<RebuildReason>,
}

/// Why a standby cannot be fed from the log any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RebuildReason {
    /// It stands where the log does not reach back to any more.
    #[error("it asks for WAL from {asked}, and the log begins at {first}")]
    Purged {
        /// What the standby asked for.
        asked: Lsn,
        /// The first position that the log still holds.
        first: Lsn,
    },
    /// It has WAL of a timeline after the place where the group left that timeline.
    #[error("it asks for timeline {timeline} from {asked}, which the group left at {left}")]
    Diverged {
        /// The timeline.
        timeline: TimelineId,
        /// What the standby asked for, or reported to have replayed.
        asked: Lsn,
        /// Where the group left the timeline.
        left: Lsn,
    },
}

impl StandbyStatus {
    /// Whether the standby has on disk every whole record of a log that ends at `end` on `timeline`.
    ///
    /// This is what a promotion waits for (hazard 8). It is not `flushed == end`: a record whose
    /// tail is not in the log is never sent, so `flushed` stays before it; the promotion starts the
    /// new timeline exactly there.
    #[must_use]
    pub fn has_all(&self, timeline: TimelineId, end: Lsn) -> bool {
        self.connected
            && self.timeline == Some(timeline)
            && self.scanned >= end
            && self.flushed >= self.sendable
    }
}
