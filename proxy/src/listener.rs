//! The SQL port: lets clients in, up to a limit, until the node stops.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::BytesMut;
use coordinator::catalogue::cache::CatalogueCache;
use coordinator::cut::Cuts;
use coordinator::transaction::Transactions;
use coordinator::waiting::Waits;
use shard::client::Groups;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::config::ProxyConfig;
use crate::failure::{Ended, Failure, Severity};
use crate::{Peers, Sessions, Shared, deadlock, session};

/// Connections beyond the limit that are being told so, or that want to cancel.
const SPARE: usize = 32;

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
        let places = Arc::new(Semaphore::new(limits.max_client_connections));
        let spare = Arc::new(Semaphore::new(SPARE));
        let plans = session::PlanCache::new(limits.analysed_texts);
        let sessions = self.sessions;
        let cuts = Cuts::new(Arc::clone(&groups), transactions.clone());
        let pool = session::Pool::new(groups.groups().len(), limits.max_backends);
        let waits = Waits::new(Arc::clone(&groups));
        let shared = Arc::new(Shared {
            groups,
            catalogues,
            transactions,
            cuts,
            peers,
            sessions,
            plans,
            waits,
            pool,
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
            if let Ok(place) = Arc::clone(&places).try_acquire_owned() {
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
