//! Scenarios against a real PostgreSQL.

mod copies;
mod directories;
mod life;
mod orphans;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::process::{Launcher, OnOrphaned};
use super::{Control, Endpoint, Identity, Installation, Running, Server, StartMode};
use crate::config::PostgresConfig;
use crate::id::{GroupId, NodeId};

/// Longer than anything takes, even on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// A folder for replicas, which PostgreSQL's user may enter.
struct Home(TempDir);

impl Home {
    fn new() -> Home {
        let folder = tempfile::tempdir().unwrap();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
        Home(folder)
    }

    fn replica(&self, node: u64) -> PathBuf {
        self.0.path().join(format!("n{node}"))
    }

    async fn server(&self, node: u64) -> Server {
        let installation = Installation::find(None).unwrap();
        Server::open(&self.replica(node), identity(node), installation, &config())
            .await
            .unwrap()
    }

    /// Node 1's server with a fresh database.
    async fn fresh(&self) -> Server {
        let server = self.server(1).await;
        server.initdb().await.unwrap();
        server
    }
}

fn identity(node: u64) -> Identity {
    Identity {
        cluster: "test".to_owned(),
        node: NodeId(node),
        group: GroupId(1),
    }
}

fn config() -> PostgresConfig {
    let settings = [("shared_buffers", "16MB"), ("max_connections", "20")];
    let settings = settings.map(|(name, value)| (name.to_owned(), value.to_owned()));
    PostgresConfig {
        settings: settings.into(),
        ..PostgresConfig::default()
    }
}

/// Runs SQL whose commits do not wait: these tests have no receiver.
async fn run(running: &Running, sql: &str) {
    let control = running.control().await.unwrap();
    control
        .client()
        .batch_execute("SET synchronous_commit = local")
        .await
        .unwrap();
    control.client().batch_execute(sql).await.unwrap();
}

async fn notes(running: &Running) -> Vec<String> {
    let control = running.control().await.unwrap();
    let rows = control
        .client()
        .query("SELECT text FROM notes ORDER BY text", &[])
        .await
        .unwrap();
    rows.iter().map(|row| row.get(0)).collect()
}

/// Waits until the standby has replayed all that the primary has written.
async fn caught_up(standby: &Running, primary: &Control) {
    let target = primary.flushed_lsn().await.unwrap();
    eventually("the standby catches up", async || match standby.control().await {
        Ok(control) => control.replayed_lsn().await.unwrap() >= Some(target),
        Err(_) => false,
    })
    .await;
}

async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds().await {
        assert!(Instant::now() < deadline, "{what}: not within {PATIENCE:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// One of PostgreSQL's programs, as the server's user.
fn program(server: &Server, name: &str) -> Command {
    let launcher = Launcher::new(server.launcher().account().clone());
    let mut command = launcher.command(&server.installation().program(name), OnOrphaned::Kill);
    command.stdout(Stdio::null()).stderr(Stdio::null());
    command
}

fn feed(primary: &Running) -> StartMode {
    StartMode::Standby(primary.endpoint())
}

fn nowhere(server: &Server) -> Endpoint {
    server.feed_endpoint()
}
