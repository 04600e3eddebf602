//! The unix socket on which the own standby finds its WAL sender.

use std::fs::Permissions;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::net::UnixListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::sender::{Sender, SenderError};
use super::source::WalSource;

/// Connections at the same time. A standby has one; a second is there while the first one dies.
const MAX_CONNECTIONS: usize = 8;

/// How long to rest after `accept` failed, which happens when file descriptors run out.
const ACCEPT_REST: Duration = Duration::from_millis(100);

/// A bound socket. Dropping it removes the socket's file.
#[derive(Debug)]
pub struct Listener {
    socket: UnixListener,
    path: PathBuf,
}

/// Binds `<directory>/.s.PGSQL.<port>`, where a standby with `host=<directory> port=<port>` in its
/// `primary_conninfo` connects. A socket that a dead process left there is replaced.
///
/// The socket's file may be used by everyone who can reach it, because PostgreSQL may run as another
/// user than the node: keep the directory private to that user.
pub fn listen(directory: &Path, port: u16) -> io::Result<Listener> {
    let path = directory.join(format!(".s.PGSQL.{port}"));
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let socket = UnixListener::bind(&path)?;
    std::fs::set_permissions(&path, Permissions::from_mode(0o666))?;
    Ok(Listener { socket, path })
}

impl Listener {
    /// Serves until `shutdown`. A walreceiver that starts streaming replaces the one before.
    pub async fn run<S: WalSource>(self, sender: Sender<S>, shutdown: CancellationToken) {
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return,
                accepted = self.socket.accept(), if connections.len() < MAX_CONNECTIONS => match accepted {
                    Ok((stream, _)) => {
                        let sender = sender.clone();
                        connections.spawn(async move { report(sender.serve(stream).await) });
                    }
                    Err(error) => {
                        tracing::warn!(%error, "cannot accept the standby's connection");
                        tokio::time::sleep(ACCEPT_REST).await;
                    }
                },
                // Nobody cancels one but a runtime that ends, while this may still run for a moment.
                Some(ended) = connections.join_next() => if let Err(error) = ended && error.is_panic() {
                    tracing::error!(%error, "a WAL sender died");
                },
            }
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        // Nothing to do where it is gone already.
        let _ = std::fs::remove_file(&self.path);
    }
}

fn report(ended: Result<(), SenderError>) {
    match ended {
        Ok(()) => {}
        Err(error @ (SenderError::Wire(_) | SenderError::Replaced | SenderError::SourceClosed)) => {
            tracing::debug!(%error, "the standby's connection ended");
        }
        Err(error) => tracing::warn!(%error, "the standby's connection ended"),
    }
}
