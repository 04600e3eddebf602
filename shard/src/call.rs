//! The questions that nodes and tools ask a node on its node-to-node port.

use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::id::{GroupId, NodeId, Term};
use crate::status::NodeStatus;

/// The version of these messages; another one is refused, never guessed at.
const VERSION: u8 = 1;

/// A question to a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Question {
    /// What it and its replicas are doing.
    Status,
    /// Cancel what a backend of its replica does (PostgreSQL's CancelRequest).
    Cancel {
        /// The group that the node leads.
        group: GroupId,
        /// The backend's process id.
        process_id: i32,
        /// The backend's secret key.
        secret_key: i32,
    },
    /// Hold back the commits of its replica's group.
    Hold {
        /// The group that the node leads.
        group: GroupId,
        /// For how long at the most.
        limit: Duration,
    },
    /// End a hold.
    Release {
        /// The group.
        group: GroupId,
        /// The leadership in which it began.
        term: Term,
        /// Its number.
        number: u64,
    },
    /// A question of the crates above, which this one does not look into.
    Above(Bytes),
    /// The asking node's replica has lost its log: take it out of the group, to be taken in again.
    Readmit {
        /// The group that the node leads.
        group: GroupId,
    },
    /// Hand the leadership of a group, which the node has, to another replica.
    Switchover {
        /// The group.
        group: GroupId,
        /// To whom; none: to the follower that is furthest.
        to: Option<NodeId>,
    },
}

/// The answer to a [`Question`].
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Answer {
    /// To [`Question::Status`].
    Status(NodeStatus),
    /// To [`Question::Cancel`]: it was passed on. Nothing tells whether it came in time.
    Cancelled,
    /// To [`Question::Hold`].
    Held {
        /// The leadership in which it began.
        term: Term,
        /// Its number.
        number: u64,
    },
    /// To [`Question::Release`].
    Released {
        /// Whether nothing was released since it began.
        lasted: bool,
    },
    /// To [`Question::Above`].
    Above(Bytes),
    /// It could not be done, in words.
    Refused(String),
    /// To [`Question::Readmit`]: the asking node is out, and that is committed.
    Readmitted,
    /// To [`Question::Switchover`]: another node leads now.
    SwitchedOver {
        /// The node; not the one that was asked for where an election came between.
        leader: NodeId,
    },
}

/// Bytes that are not a message of this version.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// From a node of another version.
    #[error("a message of version {0:?}, this node speaks {VERSION}")]
    Version(Option<u8>),
    /// Damaged, or not ours.
    #[error("a malformed message")]
    Malformed(#[from] postcard::Error),
}

macro_rules! message {
    ($name:ident) => {
        impl $name {
            /// The bytes to send: a version byte, then postcard.
            #[must_use]
            pub fn encode(&self) -> Bytes {
                postcard::to_extend(self, vec![VERSION])
                    .expect("a message of plain values can be encoded")
                    .into()
            }

            /// Reads what [`Self::encode`] wrote.
            pub fn decode(bytes: &[u8]) -> Result<$name, DecodeError> {
                match bytes.split_first() {
                    Some((&VERSION, body)) => Ok(postcard::from_bytes(body)?),
                    other => Err(DecodeError::Version(other.map(|(version, _)| *version))),
                }
            }
        }
    };
}

message!(Question);
message!(Answer);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_this_version_is_read() {
        let question = Question::Cancel {
            group: GroupId(2),
            process_id: 7,
            secret_key: -1,
        };
        let bytes = question.encode();
        assert_eq!(Question::decode(&bytes).unwrap(), question);
        assert!(matches!(Question::decode(&[]), Err(DecodeError::Version(None))));
        assert!(matches!(
            Question::decode(&[9, 0]),
            Err(DecodeError::Version(Some(9)))
        ));
        assert!(matches!(
            Question::decode(&bytes[..2]),
            Err(DecodeError::Malformed(_))
        ));
    }
}
