//! What asks a process to stop.

use tokio::io::AsyncReadExt;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// A token that is cancelled by SIGTERM, SIGINT or SIGHUP.
pub(crate) fn stop_requested() -> CancellationToken {
    stopped_by(&[
        SignalKind::terminate(),
        SignalKind::interrupt(),
        SignalKind::hangup(),
    ])
}

/// As [`stop_requested`], where SIGHUP means something else.
pub(crate) fn stop_requested_not_by_hangup() -> CancellationToken {
    stopped_by(&[SignalKind::terminate(), SignalKind::interrupt()])
}

fn stopped_by(kinds: &[SignalKind]) -> CancellationToken {
    let token = CancellationToken::new();
    for &kind in kinds {
        let token = token.clone();
        on_each(kind, move || token.cancel());
    }
    token
}

/// The SIGHUPs that come; they do not end the process any more.
#[derive(Debug)]
pub(crate) struct Hangups(Option<Signal>);

impl Hangups {
    pub(crate) fn listen() -> Hangups {
        let kind = SignalKind::hangup();
        let listening = signal(kind).inspect_err(|error| cannot_listen(error, kind));
        Hangups(listening.ok())
    }

    /// Waits for the next one.
    pub(crate) async fn next(&mut self) {
        let next = match &mut self.0 {
            Some(arrivals) => arrivals.recv().await,
            None => None,
        };
        if next.is_none() {
            std::future::pending::<()>().await;
        }
    }
}

fn cannot_listen(error: &std::io::Error, kind: SignalKind) {
    tracing::warn!(%error, "cannot listen for signal {}", kind.as_raw_value());
}

fn on_each(kind: SignalKind, mut act: impl FnMut() + Send + 'static) {
    match signal(kind) {
        Ok(mut arrivals) => {
            tokio::spawn(async move {
                while arrivals.recv().await.is_some() {
                    act();
                }
            });
        }
        Err(error) => cannot_listen(&error, kind),
    }
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
