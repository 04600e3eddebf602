//! One replica's PostgreSQL server: found, made, started, watched, promoted, stopped, copied.
//!
//! A [`Server`] describes the data directory of one replica and does what is done while
//! PostgreSQL is not running (`initdb`, base backup, rewind). [`Server::start`] gives a
//! [`Running`], which watches, promotes and stops that one postmaster. Whether the directory may be
//! trusted is kept in durable files next to it, see [`Server::rebuild_state`].
//!
//! A replica's directory:
//!
//! ```text
//! <replica>/lock           held by the node that works here
//! <replica>/replica.json   whose replica this is: cluster, node, group
//! <replica>/life.json      what the replica's state machine must remember
//! <replica>/rebuilding     there while pgdata is a copy that may not be started
//! <replica>/pgdata/        PostgreSQL's own
//! <replica>/s/             the private sockets (elsewhere where this path would be too long)
//! <replica>/postgres.log   what PostgreSQL says; postgres.log.1 is what it said before
//! ```

mod account;
mod control;
mod control_data;
mod copy;
mod durable;
mod error;
mod files;
#[cfg(any(test, feature = "fuzz"))]
pub(crate) mod fuzz;
mod install;
mod log;
mod orphan;
mod process;
mod running;
mod server;
mod sessions;
mod settings;
mod sockets;
mod tool;
mod undo;

#[cfg(test)]
mod tests;

pub use control::Control;
pub use control_data::{ClusterState, ControlData};
pub use copy::{Copied, Rewind};
pub use error::Error;
pub use files::{Identity, LastRole, Rebuild};
pub use install::{Installation, Version};
pub use process::Exited;
pub use running::{Pulse, Running, StopMode};
pub use server::{Server, StartMode};
pub(crate) use settings::MAX_CONNECTIONS;
pub use settings::RECEIVER_NAME;
pub use sockets::Endpoint;
pub use tool::ToolError;

/// The superuser that `initdb` makes, and that the node connects as.
pub const SUPERUSER: &str = "postgres";
