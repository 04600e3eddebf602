//! Groups of real replicas: real sockets, real files, one runtime for each node, all in this process.

mod cluster;
mod elections;
mod faults;
mod replication;
