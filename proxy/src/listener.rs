//! The SQL port: lets clients in, up to a limit, until the node stops.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use coordinator::catalogue::cache::CatalogueCache;
use coordinator::cut::Cuts;
use coordinator::roles::Roles;
use coordinator::sequences::Sequences;
use coordinator::transaction::Transactions;
use coordinator::waiting::Waits;
use shard::client::Groups;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::access::{Guest, Places};
use crate::config::ProxyConfig;
use crate::failure::{Ended, Failure, Severity};
use crate::{Peers, Sessions, Shared, deadlock, session};

/// Connections beyond the limit that are being told so.
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
    config: watch::Sender<ProxyConfig>,
    sessions: Arc<Sessions>,
    places: Arc<Places>,
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
            config: watch::Sender::new(config),
            sessions: Arc::default(),
            places: Arc::default(),
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

    /// How many clients there are, and who was turned away.
    #[must_use]
    pub fn places(&self) -> Arc<Places> {
        Arc::clone(&self.places)
    }

    /// What gives it another configuration while it serves.
    #[must_use]
    pub fn reload(&self) -> Reload {
        Reload(self.config.clone())
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
        let mut config = self.config.subscribe();
        let now = config.borrow_and_update().clone();
        let spare = Arc::new(Semaphore::new(SPARE));
        let mut shared = Arc::new(Shared {
            roles: Arc::new(Roles::new(Arc::clone(&groups))),
            plans: Arc::new(session::PlanCache::new(now.limits.analysed_texts)),
            sequences: Arc::new(Sequences::new(Arc::clone(&groups))),
            cuts: Arc::new(Cuts::new(Arc::clone(&groups), transactions.clone())),
            waits: Arc::new(Waits::new(Arc::clone(&groups))),
            pool: session::Pool::new(
                groups.groups().len(),
                now.limits.max_backends,
                now.limits.superuser_reserved_connections,
            ),
            groups,
            catalogues,
            transactions,
            peers,
            sessions: self.sessions,
            places: self.places,
            limits: now.limits,
            tls: now.tls,
            hba: Arc::new(now.hba),
            mock_authentication_nonce: now.mock_authentication_nonce,
            registry: Arc::default(),
            operations: now.operations,
        });
        let watching = tokio::spawn(deadlock::watch(Arc::clone(&shared)));
        let pool = Arc::clone(&shared.pool);
        let ageing = tokio::spawn(async move { pool.watch().await });
        let tasks = TaskTracker::new();
        loop {
            let accepted = tokio::select! {
                biased;
                () = shutdown.cancelled() => break,
                // The other end is ours: it is there.
                Ok(()) = config.changed() => {
                    let now = config.borrow_and_update().clone();
                    shared = Arc::new(Shared {
                        limits: now.limits,
                        tls: now.tls,
                        hba: Arc::new(now.hba),
                        ..(*shared).clone()
                    });
                    continue;
                }
                accepted = self.socket.accept() => accepted,
            };
            let (stream, address) = match accepted {
                Ok((stream, address)) => (stream, address.ip()),
                Err(error) => {
                    // Most likely out of file descriptors: some will come back.
                    tracing::warn!(%error, "a client could not be accepted");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
            };
            if let Some(guest) = shared.places.guest(address, &shared.limits) {
                tasks.spawn(conversation(
                    stream,
                    address,
                    guest,
                    Arc::clone(&shared),
                    shutdown.clone(),
                ));
            } else if let Ok(place) = Arc::clone(&spare).try_acquire_owned() {
                tasks.spawn(turn_away(stream, place));
            }
        }
        tasks.close();
        tasks.wait().await;
        watching.abort();
        ageing.abort();
    }
}

/// Gives a port another configuration while it serves: limits, rules and certificate.
#[derive(Clone, Debug)]
pub struct Reload(watch::Sender<ProxyConfig>);

impl Reload {
    /// Clients that connect from now on are treated by this configuration; those who are there keep what they came in by. The
    /// address, what comes from the cluster's secret, and the node around it stay.
    pub fn put(&self, config: ProxyConfig) {
        self.0.send_modify(|now| {
            *now = ProxyConfig {
                listen: now.listen,
                mock_authentication_nonce: now.mock_authentication_nonce,
                operations: Arc::clone(&now.operations),
                ..config
            };
        });
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
    address: IpAddr,
    guest: Guest,
    shared: Arc<Shared>,
    shutdown: CancellationToken,
) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "a client went at once");
        return;
    }
    let begun = tokio::select! {
        biased;
        () = shutdown.cancelled() => None,
        begun = session::begin(stream, address, guest, &shared) => begun,
    };
    let Some((mut begun, _place)) = begun else {
        return;
    };
    let ended = tokio::select! {
        biased;
        () = shutdown.cancelled() => Ended::Fatal(Failure::ShuttingDown),
        ended = begun.serve() => ended,
    };
    begun.close(ended).await;
}

/// Tells a client that there is no place for it. It may not wait for the answer, and nobody waits for it to take it.
async fn turn_away(mut stream: TcpStream, _place: OwnedSemaphorePermit) {
    let mut out = BytesMut::new();
    Failure::TooManyGuests.encode(Severity::Fatal, &mut out);
    let told = async {
        let _ = stream.write_all(&out).await;
        let _ = stream.shutdown().await;
    };
    if tokio::time::timeout(Duration::from_secs(1), told).await.is_err() {
        tracing::debug!("a client did not take the reason why it was not let in");
    }
}
