//! Tests of whole clusters: real nodes, real PostgreSQL servers, real faults.
//!
//! [`cluster::Cluster`] starts the nodes and breaks them, [`load`] writes and remembers what was
//! acknowledged, [`verify`] compares that with what is there, and each [`scenario`] tells one
//! story with them. The tests run the stories in small form; the binary `must-show` runs them in
//! full and prints figures.
//!
//! [`compare`] measures what transactions across groups cost, beside plain PostgreSQL servers.
//!
//! [`differential`] says the same to Howdah and to one plain PostgreSQL and compares every message of their answers.
//!
//! [`drivers`] has the programs and libraries that people use do what they do, on both.
//!
//! [`scripts`] has what the documentation says of statements over several groups, claim by claim; [`tpch`] has a known set of queries.
//!
//! The consistency tests are the other half: [`run`] lets many [`client`]s carry out a
//! [`workload`] while a [`nemesis`] breaks things. A [`history`] is what the clients asked and were
//! told, and [`check`] finds what in it no correct database does.

pub mod check;
pub mod client;
pub mod cluster;
pub mod compare;
pub mod differential;
pub mod drivers;
pub mod history;
pub mod load;
pub mod nemesis;
pub mod report;
pub mod run;
pub mod scenario;
pub mod scripts;
pub mod tpch;
pub mod verify;
pub mod workload;

/// Whatever went wrong, for a person to read.
pub type Failure = Box<dyn std::error::Error + Send + Sync>;

/// The outcome of a step of a scenario.
pub type Result<T> = std::result::Result<T, Failure>;
