//! One replica of a group: its part in Raft, its PostgreSQL, and what it does next.

mod life;

pub use life::{Facts, Feed, Life, Part, Server, Step, decide};
