//! Throwaway PostgreSQL servers, and `Groups` over them.

use std::os::unix::fs::{MetadataExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use coordinator::catalogue::bootstrap::{Identity, bootstrap};
use coordinator::slots::{MapEpoch, SlotMap};
use futures::future::BoxFuture;
use shard::client::{Backend, ConnectError, Groups, Hold};
use shard::id::{GroupId, NodeId, Term};
use tempfile::TempDir;
use tokio::net::UnixStream;
use tokio_postgres::{Client, NoTls};

/// A server in a directory of its own, stopped and deleted when dropped.
#[derive(Debug)]
pub(crate) struct Server {
    directory: TempDir,
}

impl Server {
    pub(crate) fn start() -> Server {
        let server = Server {
            directory: tempfile::tempdir().unwrap(),
        };
        if let Some((uid, gid)) = postgres_user() {
            chown(server.directory.path(), Some(uid), Some(gid)).unwrap();
        }
        server.run(
            "initdb",
            &[
                "--no-sync",
                "-U",
                "postgres",
                "-A",
                "trust",
                "-E",
                "UTF8",
                "--locale=C.UTF-8",
            ],
        );
        let options = format!(
            "-c listen_addresses='' -c unix_socket_directories='{}' -c fsync=off -c max_prepared_transactions=20 -c timezone=Europe/Berlin",
            server.socket_directory().display()
        );
        server.run(
            "pg_ctl",
            &["start", "-w", "-s", "-l", "/dev/null", "-o", &options],
        );
        server
    }

    fn socket_directory(&self) -> &Path {
        self.directory.path()
    }

    fn socket(&self) -> PathBuf {
        self.socket_directory().join(".s.PGSQL.5432")
    }

    /// Runs one of PostgreSQL's programs on the data directory, as an unprivileged user.
    fn run(&self, program: &str, arguments: &[&str]) {
        let mut command = Command::new(bin_directory().join(program));
        command
            .arg("-D")
            .arg(self.directory.path().join("data"))
            .args(arguments);
        command
            .current_dir(self.directory.path())
            .stdout(Stdio::null())
            .stdin(Stdio::null());
        command.env_remove("PGPORT").env_remove("PGHOST");
        if let Some((uid, gid)) = postgres_user() {
            command.gid(gid).uid(uid);
        }
        assert!(command.status().unwrap().success(), "{program} failed");
    }

    pub(crate) async fn connect(&self, database: &str) -> Client {
        self.connect_as("postgres", database).await
    }

    pub(crate) async fn connect_as(&self, user: &str, database: &str) -> Client {
        let stream = UnixStream::connect(self.socket()).await.unwrap();
        let mut config = tokio_postgres::Config::new();
        let (client, connection) = config
            .user(user)
            .dbname(database)
            .connect_raw(stream, NoTls)
            .await
            .unwrap();
        tokio::spawn(connection);
        client
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.run("pg_ctl", &["stop", "-s", "-w", "-m", "immediate"]);
    }
}

/// Two groups, each a plain server. A group can be made unreachable.
#[derive(Debug)]
pub(crate) struct TwoGroups {
    servers: [Server; 2],
    ids: [GroupId; 2],
    away: [AtomicBool; 2],
}

pub(crate) const FIRST: GroupId = GroupId(1);
pub(crate) const SECOND: GroupId = GroupId(2);

impl TwoGroups {
    /// With schema `howdah` installed.
    pub(crate) async fn start() -> TwoGroups {
        let groups = TwoGroups {
            servers: [Server::start(), Server::start()],
            ids: [FIRST, SECOND],
            away: [AtomicBool::new(false), AtomicBool::new(false)],
        };
        let slots = placement();
        for group in groups.ids {
            let identity = Identity {
                cluster: "test",
                group,
                slots: &slots,
            };
            bootstrap(&groups, identity, Duration::from_secs(5))
                .await
                .unwrap();
        }
        groups
    }

    pub(crate) fn server(&self, group: GroupId) -> &Server {
        &self.servers[usize::try_from(group.0).unwrap() - 1]
    }

    /// Connections to the group fail from now on; what is connected stays.
    pub(crate) fn set_away(&self, group: GroupId) {
        self.away[usize::try_from(group.0).unwrap() - 1].store(true, Ordering::Relaxed);
    }

    /// Connections to the group succeed again.
    pub(crate) fn set_back(&self, group: GroupId) {
        self.away[usize::try_from(group.0).unwrap() - 1].store(false, Ordering::Relaxed);
    }

    pub(crate) async fn connect_client(&self, group: GroupId, database: &str) -> Client {
        self.server(group).connect(database).await
    }
}

pub(crate) fn placement() -> SlotMap {
    SlotMap::place(MapEpoch(1), &[FIRST, SECOND]).unwrap()
}

impl Groups for TwoGroups {
    fn groups(&self) -> &[GroupId] {
        &self.ids
    }

    fn connect(
        &self,
        group: GroupId,
        _patience: Duration,
    ) -> BoxFuture<'_, Result<Box<dyn Backend>, ConnectError>> {
        Box::pin(async move {
            let place = self.ids.iter().position(|id| *id == group);
            let place = place.ok_or(ConnectError::UnknownGroup(group))?;
            if self.away[place].load(Ordering::Relaxed) {
                return Err(ConnectError::NoLeader {
                    group,
                    waited: Duration::ZERO,
                });
            }
            let stream = UnixStream::connect(self.servers[place].socket()).await.unwrap();
            Ok(Box::new(stream) as Box<dyn Backend>)
        })
    }

    fn connect_to_settle(
        &self,
        group: GroupId,
        patience: Duration,
    ) -> BoxFuture<'_, Result<Box<dyn Backend>, ConnectError>> {
        self.connect(group, patience)
    }

    /// Nothing is replicated here: commits wait for nobody and cannot be held.
    fn hold(&self, group: GroupId, _limit: Duration) -> BoxFuture<'_, Result<Hold, ConnectError>> {
        let hold = Hold {
            group,
            node: NodeId(1),
            term: Term(1),
            number: 1,
        };
        Box::pin(std::future::ready(Ok(hold)))
    }

    fn release(&self, _: Hold) -> BoxFuture<'_, bool> {
        Box::pin(std::future::ready(true))
    }

    fn cancel(&self, group: GroupId, _: i32, _: i32) -> BoxFuture<'_, Result<(), ConnectError>> {
        Box::pin(async move { Err(ConnectError::UnknownGroup(group)) })
    }

    fn leads(&self, _: GroupId) -> bool {
        true
    }
}

fn bin_directory() -> PathBuf {
    let versions = ["18", "17", "16", "15", "14"];
    let found = versions
        .iter()
        .map(|v| PathBuf::from(format!("/usr/lib/postgresql/{v}/bin")))
        .find(|p| p.exists());
    found.expect("PostgreSQL's server programs are installed")
}

/// Whom to run PostgreSQL as; none where this is not root.
fn postgres_user() -> Option<(u32, u32)> {
    if std::fs::metadata("/proc/self").unwrap().uid() != 0 {
        return None;
    }
    let users = std::fs::read_to_string("/etc/passwd").unwrap();
    let line = users
        .lines()
        .find(|line| line.starts_with("postgres:"))
        .expect("there is a user postgres");
    let fields: Vec<&str> = line.split(':').collect();
    Some((fields[2].parse().unwrap(), fields[3].parse().unwrap()))
}
