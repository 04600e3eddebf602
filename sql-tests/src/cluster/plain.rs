//! Plain PostgreSQL servers to compare with: a stock primary, alone or with stock synchronous standbys.

use std::fs::{self, OpenOptions, Permissions};
use std::io::Write;
use std::net::SocketAddr;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use rustix::process::{Pid, Signal, geteuid, kill_process};
use shard::postgres::{Installation, SUPERUSER};
use tempfile::TempDir;
use tokio::time::sleep;
use tokio_postgres::Client;

use super::{PATIENCE, connect_to, layout};
use crate::Result;

/// Two standbys, as many copies as a group of three replicas has, and a commit waits for one of them: a majority has it.
const STANDBYS: u16 = 2;

/// What guards the primary's commits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Guard {
    /// Its own disk.
    Alone,
    /// Its own disk and that of one of two standbys (`ANY 1`), as a group's are on two of three replicas.
    Standbys,
}

/// A primary and its standbys, with PostgreSQL's own settings but for prepared transactions, which are off there, and with
/// the locale and time zone of Howdah's.
/// Dropping it stops the servers and deletes their data.
#[derive(Debug)]
pub struct Plain {
    primary: SocketAddr,
    // Before the folder that they work in.
    _servers: Vec<Server>,
    _dir: TempDir,
}

impl Plain {
    /// Starts the servers and waits until commits are guarded.
    ///
    /// # Errors
    /// Where PostgreSQL is not installed or does not start.
    pub async fn start(guard: Guard) -> Result<Plain> {
        let installation = Installation::find(None)?;
        let account = account()?;
        let dir = layout::folder()?;
        let standbys = match guard {
            Guard::Alone => 0,
            Guard::Standbys => STANDBYS,
        };
        let addresses = layout::Ports::of(1 + standbys).sql_addresses();
        let (primary, standbys) = addresses.split_first().ok_or("no address")?;
        let run = |program: &str, home: &Path, arguments: &[&str]| -> Result<()> {
            fs::create_dir(home)?;
            if let Some((user, group)) = account {
                chown(home, Some(user), Some(group))?;
            }
            fs::set_permissions(home, Permissions::from_mode(0o700))?;
            let mut command = command(&installation, program, account);
            command.arg("-D").arg(home.join("data")).args(arguments);
            let done = command.current_dir("/").output()?;
            if done.status.success() {
                return Ok(());
            }
            Err(format!("{program}: {}", String::from_utf8_lossy(&done.stderr)).into())
        };

        let home = dir.path().join("primary");
        run(
            "initdb",
            &home,
            &[
                "-U",
                SUPERUSER,
                "-A",
                "trust",
                "-k",
                "--encoding=UTF8",
                "--locale=C.UTF-8",
            ],
        )?;
        // Its own rules name 127.0.0.1 alone.
        let mut rules = OpenOptions::new()
            .append(true)
            .open(home.join("data/pg_hba.conf"))?;
        rules.write_all(b"host all all 127.0.0.0/8 trust\nhost replication all 127.0.0.0/8 trust\n")?;
        let mut servers = vec![Server::start(&installation, account, &home, *primary).await?];
        for (number, address) in standbys.iter().enumerate() {
            let home = dir.path().join(format!("standby{number}"));
            let source = format!(
                "host={} port={} user={SUPERUSER} application_name=standby{number}",
                primary.ip(),
                primary.port()
            );
            run("pg_basebackup", &home, &["-R", "-c", "fast", "-d", &source])?;
            servers.push(Server::start(&installation, account, &home, *address).await?);
        }
        let plain = Plain {
            primary: *primary,
            _servers: servers,
            _dir: dir,
        };
        if guard == Guard::Standbys {
            plain.wait_for_one_standby().await?;
        }
        Ok(plain)
    }

    async fn wait_for_one_standby(&self) -> Result<()> {
        let client = self.connect().await?;
        client
            .batch_execute("ALTER SYSTEM SET synchronous_standby_names = 'ANY 1 (standby0, standby1)'")
            .await?;
        client.batch_execute("SELECT pg_reload_conf()").await?;
        let began = Instant::now();
        let sql = "SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'quorum'";
        while client.query_one(sql, &[]).await?.get::<_, i64>(0) != i64::from(STANDBYS) {
            if began.elapsed() > PATIENCE {
                return Err(format!("the standbys did not become synchronous within {PATIENCE:?}").into());
            }
            sleep(std::time::Duration::from_millis(50)).await;
        }
        Ok(())
    }

    /// Where clients reach the primary.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.primary
    }

    /// A client of the primary.
    ///
    /// # Errors
    /// Where it does not answer.
    pub async fn connect(&self) -> Result<Client> {
        connect_to(self.primary).await
    }
}

/// A postmaster, which ends with this process, however that ends.
#[derive(Debug)]
struct Server(Child);

impl Server {
    async fn start(
        installation: &Installation,
        account: Option<(u32, u32)>,
        home: &Path,
        address: SocketAddr,
    ) -> Result<Server> {
        let log = fs::File::create(home.join("log"))?;
        let mut command = command(installation, "postgres", account);
        command.arg("-D").arg(home.join("data"));
        command.args(["-p", &address.port().to_string()]);
        command.arg("-k").arg(home);
        command.args(["-c", &format!("listen_addresses={}", address.ip())]);
        command.args(["-c", "max_prepared_transactions=100", "-c", "timezone=UTC"]);
        command.stdout(log.try_clone()?).stderr(log).current_dir("/");
        let mut server = Server(command.spawn()?);
        let began = Instant::now();
        while connect_to(address).await.is_err() {
            let ended = server.0.try_wait()?.is_some();
            if ended || began.elapsed() > PATIENCE {
                let log = fs::read_to_string(home.join("log"))?;
                return Err(format!("PostgreSQL does not start:\n{log}").into());
            }
            sleep(std::time::Duration::from_millis(50)).await;
        }
        Ok(server)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // SIGQUIT: PostgreSQL's immediate shutdown, which takes its children along. An error means that it has ended.
        if let Some(pid) = i32::try_from(self.0.id()).ok().and_then(Pid::from_raw) {
            let _ = kill_process(pid, Signal::QUIT);
        }
        let _ = self.0.wait();
    }
}

/// One of PostgreSQL's programs, to run as its user.
fn command(installation: &Installation, program: &str, account: Option<(u32, u32)>) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "QUIT", "--"]);
    command.arg(installation.program(program));
    if let Some((user, group)) = account {
        command.uid(user).gid(group);
    }
    command.process_group(0).stdin(Stdio::null());
    command
}

/// Whom to run PostgreSQL as: it refuses root. `None` where this is not root.
fn account() -> Result<Option<(u32, u32)>> {
    if !geteuid().is_root() {
        return Ok(None);
    }
    let users = fs::read_to_string("/etc/passwd")?;
    let line = users.lines().find(|line| line.starts_with("postgres:"));
    let mut ids = line.ok_or("there is no user postgres")?.split(':').skip(2);
    let mut id = || ids.next().ok_or("a broken /etc/passwd");
    Ok(Some((id()?.parse()?, id()?.parse()?)))
}
