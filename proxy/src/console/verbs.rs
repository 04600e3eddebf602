//! What changes something: PAUSE, RESUME, RECONNECT, KILL, RELOAD. They act on this node and its clients.

use std::future::Future;
use std::time::Duration;

use coordinator::databases;

use super::{DATABASE, PATIENCE};
use crate::Shared;
use crate::analysis::Refusal;
use crate::registry::Which;

/// How often PAUSE looks whether all backends are let go of.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// Why a verb has no answer.
pub(super) enum Stopped {
    Refused(Refusal),
    /// The operator has gone meanwhile.
    Gone,
}

impl From<Refusal> for Stopped {
    fn from(refusal: Refusal) -> Self {
        Stopped::Refused(refusal)
    }
}

/// That there is such a database, and that it is not the console. Where no group answers the name is believed: it is
/// then that one wants to pause it.
async fn check(shared: &Shared, which: &Which) -> Result<(), Refusal> {
    let Which::Named(name) = which else {
        return Ok(());
    };
    if name == DATABASE {
        return Err(Refusal::unsupported("this cannot be done to the console itself"));
    }
    match databases::names(&*shared.groups, PATIENCE).await {
        Ok(databases) if !databases.contains(name) => {
            Err(Refusal::new("3D000", format!("no such database: {name}")))
        }
        _ => Ok(()),
    }
}

/// New requests wait until RESUME; returns when there are no backends any more: idle ones are closed at once, others when the
/// client's transaction is over. `gone` is ready when the operator
/// has left: the databases stay paused.
pub(super) async fn pause(
    shared: &Shared,
    which: &Which,
    gone: impl Future<Output = ()>,
) -> Result<(), Stopped> {
    check(shared, which).await?;
    shared.registry.pause(which, DATABASE);
    shared.pool.clear(which);
    let let_go = async {
        while shared.registry.holds_backends(which) {
            tokio::time::sleep(LOOK_EVERY).await;
        }
        // Transactions that were open may have taken more since.
        shared.pool.clear(which);
    };
    tokio::select! {
        () = let_go => Ok(()),
        () = gone => Err(Stopped::Gone),
    }
}

pub(super) fn resume(shared: &Shared, which: &Which) -> Result<(), Refusal> {
    if shared.registry.resume(which) {
        return Ok(());
    }
    Err(match which {
        Which::All => Refusal::new("55000", "nothing is paused"),
        Which::Named(name) if shared.registry.all_paused() => {
            Refusal::new("55000", format!("database {name} is not paused by itself"))
                .hint("All databases are paused: RESUME without a name.")
        }
        Which::Named(name) => Refusal::new("55000", format!("database {name} is not paused")),
    })
}

pub(super) async fn reconnect(shared: &Shared, which: &Which) -> Result<(), Refusal> {
    check(shared, which).await?;
    shared.pool.clear(which);
    Ok(())
}

pub(super) async fn kill(shared: &Shared, database: &str) -> Result<(), Refusal> {
    check(shared, &Which::Named(database.to_owned())).await?;
    shared.registry.kill(database);
    Ok(())
}

/// Reads the configuration again, and says what has become of it.
pub(super) async fn reload(shared: &Shared, notices: &mut Vec<String>) -> Result<(), Refusal> {
    let reloaded = shared.operations.reload().await.map_err(|why| {
        Refusal::new("55000", format!("the configuration is not reloaded: {why}"))
            .hint("All is as it was before.")
    })?;
    if !reloaded.changed.is_empty() {
        notices.push(format!("changed: {}", reloaded.changed.join(", ")));
    }
    if !reloaded.needs_restart.is_empty() {
        let names = reloaded.needs_restart.join(", ");
        notices.push(format!(
            "changed in the file, in force when the node is started again: {names}"
        ));
    }
    Ok(())
}
