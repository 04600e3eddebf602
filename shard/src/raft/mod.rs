//! A group's Raft replica.
