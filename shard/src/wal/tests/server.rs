//! A real PostgreSQL in a temporary directory, for this module's tests only.

use std::path::{Path, PathBuf};
use std::process::Command;

use tokio::net::UnixStream;

use crate::wal::{Lsn, Receiver};

const BIN: &str = "/usr/lib/postgresql/15/bin";
/// Sockets are told apart by their directories, so all servers use one port number.
pub(super) const PORT: u16 = 5432;

/// A server; stopped at once and removed when dropped.
pub(super) struct Server {
    home: tempfile::TempDir,
}

/// Runs a program as the user `postgres`; panics with its output where it fails.
fn run(program: &str, arguments: &[&str]) -> String {
    let mut command = Command::new("runuser");
    command
        .args(["-u", "postgres", "--", program])
        .args(arguments)
        .current_dir("/tmp");
    let output = command.output().unwrap();
    let (out, err) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    assert!(output.status.success(), "{program} {arguments:?}: {out}{err}");
    out.trim().to_owned()
}

fn home() -> tempfile::TempDir {
    let home = tempfile::Builder::new().prefix("howdah-wal-").tempdir().unwrap();
    std::os::unix::fs::chown(home.path(), Some(101), None).unwrap();
    home
}

impl Server {
    /// A new database system, not started.
    pub(super) fn init(settings: &[&str]) -> Server {
        let server = Server { home: home() };
        let data = server.data();
        let arguments = [
            "-D",
            path(&data),
            "-A",
            "trust",
            "-E",
            "UTF8",
            "--locale=C",
            "--no-sync",
        ];
        run(&format!("{BIN}/initdb"), &arguments);
        let mut lines = vec![
            "fsync = off",
            "autovacuum = off",
            "listen_addresses = ''",
            "wal_retrieve_retry_interval = 100ms",
            "log_min_messages = info",
        ];
        lines.extend(settings);
        server.configure(&lines);
        server
    }

    /// A copy of this stopped server, as a standby that finds its sender in its own directory
    /// `feed`.
    pub(super) fn standby(&self) -> Server {
        let copy = Server { home: home() };
        run("cp", &["-a", path(&self.data()), path(&copy.data())]);
        run("touch", &[path(&copy.data().join("standby.signal"))]);
        run("mkdir", &[path(&copy.feed())]);
        let conninfo = format!(
            "primary_conninfo = 'host={} port={PORT} user=postgres'",
            path(&copy.feed())
        );
        copy.configure(&[&conninfo, "synchronous_standby_names = ''"]);
        copy
    }

    pub(super) fn data(&self) -> PathBuf {
        self.home.path().join("data")
    }

    /// Where the sender of this standby listens.
    pub(super) fn feed(&self) -> PathBuf {
        self.home.path().join("feed")
    }

    fn configure(&self, lines: &[&str]) {
        let file = self.data().join("postgresql.conf");
        let mut text = std::fs::read_to_string(&file).unwrap();
        for line in lines {
            text.push_str(line);
            text.push('\n');
        }
        std::fs::write(file, text).unwrap();
    }

    fn control(&self, arguments: &[&str]) {
        let data = self.data();
        let mut all = vec!["-D", path(&data)];
        all.extend(arguments);
        run(&format!("{BIN}/pg_ctl"), &all);
    }

    pub(super) fn start(&self) {
        let options = format!("-c unix_socket_directories={}", path(self.home.path()));
        let log = self.home.path().join("log");
        self.control(&["-w", "-t", "60", "-o", &options, "-l", path(&log), "start"]);
    }

    pub(super) fn stop(&self, mode: &str) {
        self.control(&["-w", "-m", mode, "stop"]);
    }

    pub(super) fn promote(&self) {
        self.control(&["-w", "-t", "30", "promote"]);
    }

    /// Runs SQL; answers the unaligned output. Blocks the caller's thread.
    pub(super) fn sql(&self, sql: &str) -> String {
        let arguments = [
            "-h",
            path(self.home.path()),
            "-p",
            "5432",
            "-U",
            "postgres",
            "-XAtqc",
            sql,
            "postgres",
        ];
        run(&format!("{BIN}/psql"), &arguments)
    }

    /// Where the records between two positions start, as `pg_waldump` sees it.
    pub(super) fn records(&self, from: Lsn, to: Lsn) -> Vec<Lsn> {
        let directory = self.data().join("pg_wal");
        let (from, to) = (from.to_string(), to.to_string());
        let arguments = ["-p", path(&directory), "-s", &from, "-e", &to];
        let dump = run(&format!("{BIN}/pg_waldump"), &arguments);
        let start = |line: &str| line.split_once("lsn: ")?.1.split(',').next()?.parse().ok();
        dump.lines().filter_map(start).collect()
    }

    pub(super) fn lsn(&self, expression: &str) -> Lsn {
        self.sql(&format!("SELECT {expression}")).parse().unwrap()
    }

    pub(super) fn log(&self) -> String {
        std::fs::read_to_string(self.home.path().join("log")).unwrap_or_default()
    }

    /// A replication connection to this server.
    pub(super) async fn receiver(&self) -> Receiver<UnixStream> {
        let socket = self.home.path().join(format!(".s.PGSQL.{PORT}"));
        let stream = UnixStream::connect(socket).await.unwrap();
        // Several receive from one server here; each keeps WAL for itself.
        let slot = format!("test_{:016x}", rand::random::<u64>());
        Receiver::connect(stream, "postgres")
            .await
            .unwrap()
            .with_slot(slot)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = self.log();
            let tail: Vec<_> = log.lines().rev().take(60).collect();
            for line in tail.iter().rev() {
                eprintln!("{line}");
            }
        }
        if self.data().join("postmaster.pid").exists() {
            let data = self.data();
            let _ = Command::new("runuser")
                .args([
                    "-u",
                    "postgres",
                    "--",
                    &format!("{BIN}/pg_ctl"),
                    "-D",
                    path(&data),
                ])
                .args(["-w", "-m", "immediate", "stop"])
                .current_dir("/tmp")
                .output();
        }
    }
}

fn path(path: &Path) -> &str {
    path.to_str().unwrap()
}
