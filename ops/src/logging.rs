//! A node's log: standard error, one line for each event.

use std::fmt;
use std::io::IsTerminal;
use std::sync::Arc;

use tracing_subscriber::EnvFilter;

/// Libraries that tell the same again in their own words, many times over. Why a Raft replica stopped
/// the node says itself; openraft's own tasks also report an error each when a node is shut down.
const QUIETER: &str = "openraft=off,tokio_postgres=warn";

/// Gives a running log another filter; an error in words where it cannot.
type Exchange = Arc<dyn Fn(EnvFilter) -> Result<(), String> + Send + Sync>;

/// A log that runs.
#[derive(Clone)]
pub(crate) struct Logging {
    /// None where `RUST_LOG` decides, or another log was there first.
    exchange: Option<Exchange>,
}

impl fmt::Debug for Logging {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Logging").finish_non_exhaustive()
    }
}

impl Logging {
    /// None at all.
    #[cfg(test)]
    pub(crate) fn none() -> Logging {
        Logging { exchange: None }
    }

    /// Logs at another configured level from now on; where `RUST_LOG` is set nothing changes.
    ///
    /// # Errors
    /// In words for the operator, when it is no level and no list of levels.
    pub(crate) fn change(&self, configured: &str) -> Result<(), String> {
        let filter = EnvFilter::try_new(filter_of(configured))
            .map_err(|error| format!("`log` cannot be \"{configured}\": {error}"))?;
        match &self.exchange {
            Some(exchange) => exchange(filter),
            None => Ok(()),
        }
    }
}

/// Starts logging at the configured level; `RUST_LOG` wins where it is set. A configuration that
/// names no modules leaves the libraries below us to their errors.
pub(crate) fn start(configured: &str) -> Logging {
    let given = EnvFilter::try_from_default_env().ok();
    let fixed = given.is_some();
    let filter = given
        .or_else(|| EnvFilter::try_new(filter_of(configured)).ok())
        .unwrap_or_else(|| EnvFilter::new("info"));
    let log = tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_env_filter(filter)
        .with_filter_reloading();
    let handle = log.reload_handle();
    if log.try_init().is_err() {
        tracing::debug!("logging was already started by whoever embeds the command");
        return Logging { exchange: None };
    }
    let exchange: Exchange = Arc::new(move |filter| handle.reload(filter).map_err(|error| error.to_string()));
    Logging {
        exchange: Some(exchange).filter(|_| !fixed),
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
