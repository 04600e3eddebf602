//! Faults that can be compiled in, as in shard/src/broken.rs: what a plausible mistake would do. None can be on in a
//! release build.

/// The anchor commits its own part without a decision: whoever looks for one does not know that it has.
pub(crate) const NO_DECISION: bool = cfg!(feature = "broken-no-decision");

/// The snapshots of several groups are taken one beside the other: nothing is held back, and nothing checked.
pub(crate) const NO_CUT: bool = cfg!(feature = "broken-no-cut");

#[cfg(not(debug_assertions))]
const _: () = assert!(
    !(NO_DECISION || NO_CUT),
    "the features named broken-... are for debug builds only"
);
