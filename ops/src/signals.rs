//! What asks a process to stop.

use tokio::io::AsyncReadExt;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// A token that is cancelled by SIGTERM, SIGINT or SIGHUP.
pub(crate) fn stop_requested() -> CancellationToken {
    let token = CancellationToken::new();
    for kind in [
        SignalKind::terminate(),
        SignalKind::interrupt(),
        SignalKind::hangup(),
    ] {
        match signal(kind) {
            Ok(mut arrivals) => {
                let token = token.clone();
                tokio::spawn(async move {
                    if arrivals.recv().await.is_some() {
                        token.cancel();
                    }
                });
            }
            Err(error) => tracing::warn!(%error, "cannot listen for signal {}", kind.as_raw_value()),
        }
    }
    token
}

/// Cancels the token when standard input ends. A parent that holds the other end of the pipe
/// can die in any way, and its children still stop cleanly.
pub(crate) fn stop_when_stdin_closes(token: CancellationToken) {
    tokio::spawn(async move {
        let mut stdin = tokio::io::stdin();
        let mut ignored = [0; 64];
        while matches!(stdin.read(&mut ignored).await, Ok(1..)) {}
        token.cancel();
    });
}
