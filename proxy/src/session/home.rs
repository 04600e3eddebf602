//! A session's home group: the first of the cluster's groups, the same one for every session of every node. What a session has
//! that belongs to no row lives there, and nothing of it is on other groups.

/// The home group's place among the groups, which are in ascending order of their ids.
pub(super) const HOME: usize = 0;
