//! What reads bytes of a peer, of PostgreSQL or of the disk, for the fuzz targets.
//!
//! Each function takes any bytes, returns, and asserts what must hold of what was read. `fuzz/README.md` says how they
//! are run; here they are run over their corpora.

pub use crate::log::fuzz::log_segment;
pub use crate::postgres::fuzz::replica_files;
pub use crate::raft::fuzz::{log_entries, raft_message};
pub use crate::transport::fuzz::{node_call, node_frames, node_handshake};
pub use crate::wal::fuzz::{replication_messages, replication_text, wal_records};

#[cfg(test)]
mod tests {
    use replay::replay;

    #[test]
    fn node_frames() {
        replay("node_frames", super::node_frames);
    }

    #[test]
    fn node_handshake() {
        replay("node_handshake", super::node_handshake);
    }

    #[test]
    fn node_call() {
        replay("node_call", super::node_call);
    }

    #[test]
    fn raft_message() {
        replay("raft_message", super::raft_message);
    }

    #[test]
    fn log_entries() {
        replay("log_entries", super::log_entries);
    }

    #[test]
    fn log_segment() {
        replay("log_segment", super::log_segment);
    }

    #[test]
    fn wal_records() {
        replay("wal_records", super::wal_records);
    }

    #[test]
    fn replication_messages() {
        replay("replication_messages", super::replication_messages);
    }

    #[test]
    fn replication_text() {
        replay("replication_text", super::replication_text);
    }

    #[test]
    fn replica_files() {
        replay("replica_files", super::replica_files);
    }
}
