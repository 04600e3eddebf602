//! A node's log: standard error, one line for each event.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

/// Starts logging at the configured level; `RUST_LOG` wins where it is set.
pub(crate) fn start(configured: &str) {
    let filter = EnvFilter::try_from_default_env()
        .or_else(|_| EnvFilter::try_new(configured))
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
