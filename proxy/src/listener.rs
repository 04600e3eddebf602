//! The SQL port: lets clients in, up to a limit, until the node stops.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::BytesMut;
use coordinator::catalogue::cache::CatalogueCache;
use coordinator::cut::Cuts;
use coordinator::transaction::Transactions;
use parking_lot::Mutex;
use shard::client::Groups;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::config::{Limits, ProxyConfig};
use crate::failure::{Ended, Failure, Severity};
use crate::{Peers, Sessions, Shared, deadlock, session};

/// Connections beyond the limit that are being told so, or that want to cancel.
const SPARE: usize = 32;

/// The limits of a running SQL port, to be changed. Sessions keep those with which they began.
#[derive(Clone, Debug)]
pub struct Reload(Arc<Mutex<Limits>>);

impl Reload {
    /// What holds for new clients.
    #[must_use]
    pub fn limits(&self) -> Limits {
        self.0.lock().clone()
    }

    /// Holds for new clients from now on. [`Limits::analysed_texts`] stays as it was at the start.
    pub fn set(&self, limits: Limits) {
        *self.0.lock() = limits;
    }
}

/// Places for clients, whose number can change.
struct Places {
    free: Arc<Semaphore>,
    number: usize,
    /// Places that are gone as soon as their clients are.
    surplus: usize,
}

impl Places {
    fn new(number: usize) -> Places {
        Places {
            free: Arc::new(Semaphore::new(number)),
            number,
            surplus: 0,
        }
    }

    /// From now on there are so many.
    fn resize(&mut self, number: usize) {
        if number > self.number {
            let more = number - self.number;
            let kept = more.min(self.surplus);
            self.surplus -= kept;
            self.free.add_permits(more - kept);
        } else {
            self.surplus += self.number - number;
        }
        self.number = number;
    }

    fn take(&mut self) -> Option<OwnedSemaphorePermit> {
        self.surplus -= self.free.forget_permits(self.surplus);
        Arc::clone(&self.free).try_acquire_owned().ok()
    }
}

/// Why the SQL port cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum ProxyError {
    /// The address cannot be listened on.
    #[error("cannot listen for clients on {address}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why not.
        source: std::io::Error,
    },
}

/// The bound SQL port, before clients are served.
#[derive(Debug)]
pub struct Listener {
    socket: TcpListener,
    address: SocketAddr,
    config: ProxyConfig,
    sessions: Arc<Sessions>,
    reload: Reload,
}

impl Listener {
    /// Binds the port.
    ///
    /// # Errors
    /// When the address cannot be listened on.
    pub async fn bind(config: ProxyConfig) -> Result<Listener, ProxyError> {
        let listen = |source| ProxyError::Listen {
            address: config.listen,
            source,
        };
        let socket = TcpListener::bind(config.listen).await.map_err(listen)?;
        let address = socket.local_addr().map_err(listen)?;
        Ok(Listener {
            socket,
            address,
            reload: Reload(Arc::new(Mutex::new(config.limits.clone()))),
            config,
            sessions: Arc::default(),
        })
    }

    /// Where it listens: the port that was chosen, if 0 was asked for.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The sessions that it will serve.
    #[must_use]
    pub fn sessions(&self) -> Arc<Sessions> {
        Arc::clone(&self.sessions)
    }

    /// To change its limits while it serves.
    #[must_use]
    pub fn reload(&self) -> Reload {
        self.reload.clone()
    }

    /// Serves clients until `shutdown`, then ends their sessions with 57P01.
    pub async fn serve(
        self,
        groups: Arc<dyn Groups>,
        catalogues: Arc<CatalogueCache>,
        transactions: Transactions,
        peers: Arc<dyn Peers>,
        shutdown: CancellationToken,
    ) {
        let limits = self.config.limits;
        let mut places = Places::new(limits.max_client_connections);
        let spare = Arc::new(Semaphore::new(SPARE));
        let plans = session::PlanCache::new(limits.analysed_texts);
        let sessions = self.sessions;
        let cuts = Arc::new(Cuts::new(Arc::clone(&groups), transactions.clone()));
        let mut shared = Arc::new(Shared {
            groups,
            catalogues,
            transactions,
            cuts,
            peers,
            sessions,
            registry: Arc::default(),
            operations: self.config.operations,
            plans: Arc::new(plans),
            limits,
        });
        let watching = tokio::spawn(deadlock::watch(Arc::clone(&shared)));
        let tasks = TaskTracker::new();
        loop {
            let accepted = tokio::select! {
                biased;
                () = shutdown.cancelled() => break,
                accepted = self.socket.accept() => accepted,
            };
            let stream = match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    // Most likely out of file descriptors: some will come back.
                    tracing::warn!(%error, "a client could not be accepted");
                    tokio::time::sleep(std::time::Duration::from_millis(50)).await;
                    continue;
                }
            };
            let limits = self.reload.limits();
            if limits != shared.limits {
                places.resize(limits.max_client_connections);
                shared = Arc::new(Shared {
                    limits,
                    ..(*shared).clone()
                });
            }
            if let Some(place) = places.take() {
                tasks.spawn(conversation(stream, Arc::clone(&shared), place, shutdown.clone()));
            } else if let Ok(place) = Arc::clone(&spare).try_acquire_owned() {
                tasks.spawn(turn_away(stream, shared.limits.max_client_connections, place));
            }
        }
        tasks.close();
        tasks.wait().await;
        watching.abort();
    }
}

/// Binds the SQL port and serves clients until `shutdown`.
///
/// # Errors
/// When the address cannot be listened on.
pub async fn run(
    config: ProxyConfig,
    groups: Arc<dyn Groups>,
    catalogues: Arc<CatalogueCache>,
    transactions: Transactions,
    peers: Arc<dyn Peers>,
    shutdown: CancellationToken,
) -> Result<(), ProxyError> {
    let listener = Listener::bind(config).await?;
    listener
        .serve(groups, catalogues, transactions, peers, shutdown)
        .await;
    Ok(())
}

async fn conversation(
    stream: TcpStream,
    shared: Arc<Shared>,
    _place: OwnedSemaphorePermit,
    shutdown: CancellationToken,
) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "a client went at once");
        return;
    }
    let begun = tokio::select! {
        biased;
        () = shutdown.cancelled() => None,
        begun = session::begin(stream, &shared) => begun,
    };
    let Some(mut session) = begun else { return };
    let ended = tokio::select! {
        biased;
        () = shutdown.cancelled() => Ended::Fatal(Failure::ShuttingDown),
        ended = session.serve() => ended,
    };
    session.close(ended).await;
}

/// Tells a client that there is no place for it.
async fn turn_away(mut stream: TcpStream, limit: usize, _place: OwnedSemaphorePermit) {
    let mut out = BytesMut::new();
    Failure::TooManyClients(limit).encode(Severity::Fatal, &mut out);
    // It may not wait for the answer.
    let _ = stream.write_all(&out).await;
    let _ = stream.shutdown().await;
}

#[cfg(test)]
mod tests {
    use super::Places;

    #[test]
    fn places_that_are_taken_away_are_gone_when_their_clients_are() {
        let mut places = Places::new(2);
        let (one, other) = (places.take(), places.take());
        assert!(one.is_some() && other.is_some() && places.take().is_none());
        places.resize(1);
        drop(one);
        assert!(places.take().is_none(), "the one place is taken");
        drop(other);
        let one = places.take();
        assert!(one.is_some() && places.take().is_none());
        places.resize(0);
        places.resize(3);
        assert!(places.take().is_some() && places.take().is_some() && places.take().is_none());
    }
}
