//! A node's log: standard error, one line for each event.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

/// Libraries that tell the same again in their own words, many times over. Why a Raft replica stopped
/// the node says itself; openraft's own tasks also report an error each when a node is shut down.
const QUIETER: &str = "openraft=off,tokio_postgres=warn";

/// Starts logging at the configured level; `RUST_LOG` wins where it is set. A configuration that
/// names no modules leaves the libraries below us to their errors.
pub(crate) fn start(configured: &str) {
    let filter = EnvFilter::try_from_default_env()
        .or_else(|_| EnvFilter::try_new(filter_of(configured)))
        .unwrap_or_else(|_| EnvFilter::new("info"));
    let started = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .try_init();
    if started.is_err() {
        tracing::debug!("logging was already started by whoever embeds the command");
    }
}

fn filter_of(configured: &str) -> String {
    let names_modules = configured.contains(['=', ',']);
    if names_modules {
        configured.to_owned()
    } else {
        format!("{configured},{QUIETER}")
    }
}
