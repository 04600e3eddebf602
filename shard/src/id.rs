//! The names of things that Raft counts: nodes, groups, terms and log positions.
//!
//! Each is a newtype so that the compiler refuses a term where a log index is meant.

use std::fmt;

use serde::{Deserialize, Serialize};

macro_rules! counted {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(
            Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
        )]
        #[serde(transparent)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl std::str::FromStr for $name {
            type Err = std::num::ParseIntError;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                text.parse().map($name)
            }
        }
    };
}

counted! {
    /// One running `howdah` process. Counted from 1 by the operator's configuration.
    NodeId(u64)
}
counted! {
    /// A shard group: the Raft group that holds one part of the data. Counted from 1.
    GroupId(u32)
}
counted! {
    /// A Raft term. Grows with every election.
    Term(u64)
}
counted! {
    /// A position in a group's Raft log. Counted from 0, without holes.
    LogIndex(u64)
}

impl LogIndex {
    /// The position after this one.
    #[must_use]
    pub fn next(self) -> LogIndex {
        LogIndex(self.0 + 1)
    }
}
