//! The `howdah` command: run a node, try a whole cluster on one machine, see how it is.
//!
//! [`main_from`] is the one door: the binary, the tests' binary and whoever embeds the command
//! come in through it.

mod certificates;
pub mod cli;
pub mod config;
pub mod demo;
#[cfg(feature = "failpoints")]
pub mod failpoint;
#[cfg(any(test, feature = "fuzz"))]
#[doc(hidden)]
pub mod fuzz;
pub mod in_doubt;
mod logging;
pub mod node;
mod operator;
mod signals;
pub mod status;
pub mod switchover;
mod which;

pub use self::cli::main_from;
