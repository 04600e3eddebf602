//! The task that keeps one group's catalogue of one database fresh.

use std::sync::Arc;
use std::time::{Duration, Instant};

use shard::causes::with_causes;
use shard::client::Groups;
use shard::id::GroupId;
use tokio::sync::{Notify, watch};
use tokio_postgres::error::SqlState;

use super::cache::{EVERY, LEASE};
use super::{Catalogue, CatalogueError, load};
use crate::connection::{Connection, OpenError};

/// How long a connection to the group's leader is waited for before the attempt counts as failed.
const PATIENCE: Duration = Duration::from_secs(1);

/// How long the catalogue may take to be read: much longer than the lease, for a database with many tables.
const READING: Duration = Duration::from_secs(10);

/// What the last questions have shown.
#[derive(Debug, Default)]
pub(super) struct View {
    /// The newest answer. Kept when later questions fail: its lease ends by itself. Gone with the database.
    pub(super) verified: Option<Verified>,
    /// The newest failure; none after an answer.
    pub(super) failure: Option<Failure>,
}

/// A catalogue and when it was known to be the group's.
#[derive(Debug)]
pub(super) struct Verified {
    pub(super) catalogue: Arc<Catalogue>,
    /// A moment before the question was sent.
    pub(super) asked: Instant,
}

/// Why a question was not answered.
#[derive(Debug)]
pub(super) struct Failure {
    /// A moment before the attempt.
    pub(super) asked: Instant,
    pub(super) sqlstate: Option<String>,
    pub(super) reason: String,
}

impl Failure {
    fn new(asked: Instant, error: &PollError) -> Failure {
        let sqlstate = match error {
            PollError::Open(OpenError::Postgres(error))
            | PollError::Read(CatalogueError::Postgres(error)) => error.code(),
            _ => None,
        };
        let unprepared = [SqlState::INVALID_SCHEMA_NAME, SqlState::UNDEFINED_TABLE];
        let reason = if sqlstate.is_some_and(|state| unprepared.contains(state)) {
            "the database is not prepared there yet".to_owned()
        } else if sqlstate == Some(&SqlState::INVALID_CATALOG_NAME) {
            "there is no such database".to_owned()
        } else {
            with_causes(error)
        };
        Failure {
            asked,
            sqlstate: sqlstate.map(|state| state.code().to_owned()),
            reason,
        }
    }

    /// Whether asking again soon is of no use: there is no such database. One without schema
    /// `howdah` is being prepared.
    pub(super) fn is_final(&self) -> bool {
        self.sqlstate.as_deref() == Some(SqlState::INVALID_CATALOG_NAME.code())
    }
}

/// Asks every [`EVERY`], and at once when `wanted`, until it is aborted; only when wanted while there is no such database.
pub(super) async fn run(
    groups: Arc<dyn Groups>,
    group: GroupId,
    database: String,
    publish: watch::Sender<View>,
    wanted: Arc<Notify>,
) {
    let mut connection = None;
    loop {
        let began = Instant::now();
        match ask(&*groups, group, &database, &publish, &mut connection).await {
            Ok(()) => {}
            Err(error) => {
                connection = None;
                let failure = Failure::new(began, &error);
                tracing::debug!(%group, database, reason = failure.reason, "the catalogue was not read");
                let is_final = failure.is_final();
                publish.send_modify(|view| {
                    view.failure = Some(failure);
                    if is_final {
                        view.verified = None;
                    }
                });
                if is_final {
                    // It was dropped, or never made: it is asked for again when someone wants it.
                    wanted.notified().await;
                    continue;
                }
            }
        }
        // A large catalogue may have taken the whole lease to be read: then its version is asked for at once.
        if publish.borrow().failure.is_some() || began.elapsed() < LEASE / 2 {
            tokio::select! {
                () = tokio::time::sleep(EVERY) => {}
                () = wanted.notified() => {}
            }
        }
    }
}

/// One question: the version, and the catalogue if that has changed.
async fn ask(
    groups: &dyn Groups,
    group: GroupId,
    database: &str,
    publish: &watch::Sender<View>,
    connection: &mut Option<Connection>,
) -> Result<(), PollError> {
    if connection.is_none() {
        let opening = Connection::open(groups, group, database, PATIENCE);
        // The connection may be granted and then be silent.
        let opened = tokio::time::timeout(2 * PATIENCE, opening)
            .await
            .map_err(|_| PollError::Silent)?;
        *connection = Some(opened.map_err(PollError::Open)?);
    }
    let client = &connection.as_ref().expect("opened above").client;
    let known = publish
        .borrow()
        .verified
        .as_ref()
        .map(|verified| Arc::clone(&verified.catalogue));
    let asked = Instant::now();
    if let Some(catalogue) = &known {
        let version = tokio::time::timeout(LEASE, load::version(client)).await;
        if version.map_err(|_| PollError::Silent)?? == catalogue.version() {
            publish.send_modify(|view| *view = View::answered(Arc::clone(catalogue), asked));
            return Ok(());
        }
    }
    let asked = Instant::now();
    let read = tokio::time::timeout(READING, Catalogue::load(client)).await;
    let mut catalogue = read.map_err(|_| PollError::Silent)??;
    if let Some(known) = known {
        catalogue.share_slots(&known);
    }
    let catalogue = Arc::new(catalogue);
    publish.send_modify(|view| *view = View::answered(catalogue, asked));
    Ok(())
}

impl View {
    fn answered(catalogue: Arc<Catalogue>, asked: Instant) -> View {
        View {
            verified: Some(Verified { catalogue, asked }),
            failure: None,
        }
    }
}

/// Why a question failed.
#[derive(Debug, thiserror::Error)]
enum PollError {
    #[error("the group cannot be reached")]
    Open(#[source] OpenError),
    #[error(transparent)]
    Read(#[from] CatalogueError),
    #[error("the group does not answer")]
    Silent,
}
