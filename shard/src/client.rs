//! The door to the groups' PostgreSQL servers, for everything above this crate.

use std::fmt;
use std::time::Duration;

use futures::future::BoxFuture;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::id::{GroupId, NodeId, Term};

/// A connection to one PostgreSQL server process ("backend"), before its start-up message.
///
/// Whoever holds it speaks the PostgreSQL protocol over it. It ends with an error as soon as the
/// replica behind it may no longer answer for its group; what was under way is then unknown.
pub trait Backend: AsyncRead + AsyncWrite + Send + Unpin + fmt::Debug {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin + fmt::Debug> Backend for T {}

/// Reaches the groups. The node gives the real one.
pub trait Groups: Send + Sync + fmt::Debug + 'static {
    /// All groups of the cluster, ascending.
    fn groups(&self) -> &[GroupId];

    /// Opens a connection to the PostgreSQL of the group's leader, through the leader's node.
    ///
    /// Waits up to `patience` for a leader with an open gate.
    fn connect(
        &self,
        group: GroupId,
        patience: Duration,
    ) -> BoxFuture<'_, Result<Box<dyn Backend>, ConnectError>>;

    /// As [`Groups::connect`], for a node that settles transactions across groups: also while the group's new
    /// leader does not let clients in yet, because it settles.
    fn connect_to_settle(
        &self,
        group: GroupId,
        patience: Duration,
    ) -> BoxFuture<'_, Result<Box<dyn Backend>, ConnectError>>;

    /// Has the group's leader hold back all commits, for at most `limit`. What was released before may still become
    /// visible meanwhile, nothing else does.
    fn hold(&self, group: GroupId, limit: Duration) -> BoxFuture<'_, Result<Hold, ConnectError>>;

    /// Ends a hold. Whether it lasted until now, under the same leadership and its lease.
    fn release(&self, hold: Hold) -> BoxFuture<'_, bool>;

    /// Asks the group's leader to cancel what the backend with this process id and key does
    /// (PostgreSQL's CancelRequest). As there, nothing tells whether it came in time.
    fn cancel(
        &self,
        group: GroupId,
        process_id: i32,
        secret_key: i32,
    ) -> BoxFuture<'_, Result<(), ConnectError>>;

    /// Whether this node leads the group: its PostgreSQL is then the nearest.
    fn leads(&self, group: GroupId) -> bool;
}

/// A group whose commits are held back; see [`Groups::hold`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hold {
    /// The group.
    pub group: GroupId,
    /// The leader that holds.
    pub node: NodeId,
    /// Its leadership.
    pub term: Term,
    /// The hold's number there.
    pub number: u64,
}

/// Ends what transactions across groups have left prepared. The crate above gives it.
pub trait Settle: Send + Sync + fmt::Debug + 'static {
    /// Called by a group's new leader before clients are let in: returns when no transaction is left prepared
    /// there whose outcome is decided. What it shows from then on is all of a decided transaction.
    fn settle_decided(&self, group: GroupId) -> BoxFuture<'_, ()>;
}

/// Why a group's leader could not be reached.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// No replica leads with an open gate: an election is under way, or the majority is gone.
    #[error("group {group} has no leader that can serve (waited {waited:?})")]
    NoLeader {
        /// The group.
        group: GroupId,
        /// How long was waited for one.
        waited: Duration,
    },
    /// The leader's node is known but does not answer.
    #[error("node {node}, which leads group {group}, cannot be reached")]
    Unreachable {
        /// The group.
        group: GroupId,
        /// Its leader's node, as far as is known.
        node: NodeId,
        /// What the network said.
        source: std::io::Error,
    },
    /// There is no such group.
    #[error("there is no group {0}")]
    UnknownGroup(GroupId),
}
