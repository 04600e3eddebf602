//! Faults that can be compiled in, to see whether the consistency tests find them: each is what a
//! plausible mistake would do. Which workload finds which, and how soon: sql-tests/README.md.
//!
//! None can be on in a release build: see the end of this file.

/// WAL is reported to the primary as flushed when it is proposed, not when Raft has committed it.
pub(crate) const REPORT_EARLY: bool = cfg!(feature = "broken-report-early");

/// The gate lets answers pass without the lease.
pub(crate) const NO_LEASE: bool = cfg!(feature = "broken-no-lease");

/// Followers feed their standbys all entries that they have, committed or not.
pub(crate) const FEED_UNCOMMITTED: bool = cfg!(feature = "broken-feed-uncommitted");

/// The log says that entries are on disk while they are in memory only, for seconds: what a skipped
/// fsync and a loss of power do together.
pub(crate) const NO_FSYNC: bool = cfg!(feature = "broken-no-fsync");

/// A vote is given before it is on disk, and never gets there.
pub(crate) const FORGET_VOTE: bool = cfg!(feature = "broken-forget-vote");

/// A former primary goes on as a standby with whatever WAL it has. The second look at it is off, too
/// (a standby that turns out to have left the group's line is rebuilt): it makes good for the first.
pub(crate) const NO_REWIND: bool = cfg!(feature = "broken-no-rewind");

#[cfg(not(debug_assertions))]
const _: () = assert!(
    !(REPORT_EARLY || NO_LEASE || FEED_UNCOMMITTED || NO_FSYNC || FORGET_VOTE || NO_REWIND),
    "the features named broken-... are for debug builds only"
);
