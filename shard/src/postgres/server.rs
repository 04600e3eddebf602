//! A replica's PostgreSQL while it is not running: made, checked, started.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::Path;
use std::process::Stdio;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::account::{Account, Owner};
use super::control_data::{self, ControlData};
use super::files::{self, Files, Identity, LastRole, Rebuild};
use super::process::{Launcher, OnOrphaned, Process};
use super::running::Running;
use super::sockets::{self, Endpoint};
use super::{Error, Installation, SUPERUSER, durable, log, orphan, settings, tool};
use crate::config::PostgresConfig;

/// `initdb` takes seconds; on a slow, busy machine more.
const INITDB_PATIENCE: Duration = Duration::from_secs(300);
/// `pg_controldata` reads one page.
const QUICK_PATIENCE: Duration = Duration::from_secs(30);

const SERVER_PORT: u16 = 5432;
const FEED_PORT: u16 = 5433;
const SOURCE_PORT: u16 = 5434;

/// As what PostgreSQL is started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StartMode {
    /// To write. Everything that its WAL holds is recovered, committed by Raft or not.
    Primary,
    /// To replay what the feed at this endpoint serves.
    Standby(Endpoint),
}

/// One replica's data directory and how to run PostgreSQL in it. Cheap to clone.
///
/// Invariants: the replica's directory is locked for this process while a `Server` lives; at most
/// one postmaster that this process started runs in it.
#[derive(Clone, Debug)]
pub struct Server {
    inner: Arc<Inner>,
}

/// The postmaster that was made last.
#[derive(Debug, Default)]
struct Launched {
    process: Weak<Process>,
    /// Whether its handle, a [`Running`], is gone: then whoever needs the directory ends it.
    dismissed: bool,
}

#[derive(Debug)]
struct Inner {
    identity: Identity,
    installation: Installation,
    launcher: Launcher,
    config: PostgresConfig,
    files: Files,
    socket_dir: std::path::PathBuf,
    launched: Mutex<Launched>,
    /// Held while the directory is being changed.
    changing: Arc<tokio::sync::Mutex<()>>,
}

impl Server {
    /// Takes the directory `replica` (made where it does not exist) for this process and checks
    /// that it is `identity`'s and can be used. Runs nothing.
    ///
    /// # Errors
    /// [`Error::OtherReplica`], [`Error::InUse`], [`Error::RefusedSetting`], [`Error::NoUser`],
    /// [`Error::NotTraversable`], [`Error::Io`].
    pub async fn open(
        replica: &Path,
        identity: Identity,
        installation: Installation,
        config: &PostgresConfig,
    ) -> Result<Server, Error> {
        let (replica, config) = (replica.to_owned(), config.clone());
        blocking(move || {
            settings::check(&config.settings)?;
            let account = Account::choose(config.user.as_deref())?;
            let files = Files::open(&replica, &identity)?;
            account.check_reach(&files.replica)?;
            let socket_dir = sockets::choose_dir(&files.replica);
            sockets::make_dir(&socket_dir, &account)?;
            let launcher = Launcher::new(account);
            let launched = Mutex::default();
            let inner = Inner {
                identity,
                installation,
                launcher,
                config,
                files,
                socket_dir,
                launched,
                changing: Arc::default(),
            };
            Ok(Server {
                inner: Arc::new(inner),
            })
        })
        .await
    }

    /// Where PostgreSQL listens while it runs.
    #[must_use]
    pub fn endpoint(&self) -> Endpoint {
        self.socket(SERVER_PORT)
    }

    /// Where the node is to serve committed WAL to this server. Bind there, then [`Server::hand_over`].
    #[must_use]
    pub fn feed_endpoint(&self) -> Endpoint {
        self.socket(FEED_PORT)
    }

    /// Where the node is to lead a rewind or base backup to the leader. Bind there, then [`Server::hand_over`].
    #[must_use]
    pub fn source_endpoint(&self) -> Endpoint {
        self.socket(SOURCE_PORT)
    }

    fn socket(&self, port: u16) -> Endpoint {
        Endpoint {
            dir: self.inner.socket_dir.clone(),
            port,
        }
    }

    /// Gives a file or socket that the node made to the user that runs PostgreSQL.
    pub fn hand_over(&self, path: &Path) -> Result<(), Error> {
        self.owner().take(path).map_err(Error::io("hand over", path))
    }

    /// As what the directory was started last.
    #[must_use]
    pub fn last_role(&self) -> LastRole {
        self.files().last_role()
    }

    /// Whether the data directory may be started.
    pub fn rebuild_state(&self) -> Result<Rebuild, Error> {
        self.files().rebuild_state()
    }

    /// Declares a copy usable: Raft has committed the WAL up to its end, on its timeline.
    ///
    /// A crash before this leaves the copy waiting, after it a usable one.
    pub async fn finish_rebuild(&self) -> Result<(), Error> {
        let server = self.clone();
        blocking(move || match server.rebuild_state()? {
            Rebuild::Interrupted => Err(Error::Unfinished {
                path: server.files().pgdata.clone(),
            }),
            Rebuild::Settled | Rebuild::Copied(_) => server.files().finish_rebuild(),
        })
        .await
    }

    /// What the replica's state machine wrote last; none where it never did.
    pub async fn read_life<T: DeserializeOwned + Send + 'static>(&self) -> Result<Option<T>, Error> {
        let path = self.files().life();
        blocking(move || {
            durable::read(&path)?
                .map(|bytes| files::decode(&bytes, &path))
                .transpose()
        })
        .await
    }

    /// Durably replaces what the replica's state machine must remember.
    ///
    /// A crash here leaves the old value or the new one; the state machine goes on from either.
    ///
    /// Blocks for a few disk writes: when it returns the value is durable or an error says so.
    pub fn write_life(&self, life: &impl Serialize) -> Result<(), Error> {
        let path = self.files().life();
        let bytes = files::encode(life, &path)?;
        durable::replace(&path, &bytes, Owner::Maker)
    }

    /// What `pg_control` tells; meant for a stopped server.
    pub async fn control_data(&self) -> Result<ControlData, Error> {
        let program = self.installation().program("pg_controldata");
        let mut command = self.launcher().command(&program, OnOrphaned::Kill);
        command.arg("-D").arg(&self.files().pgdata);
        let output = tool::run(&program, command, QUICK_PATIENCE).await?;
        control_data::parse(&output.stdout).map_err(|missing| Error::Damaged {
            path: self.files().pgdata.join("global/pg_control"),
            reason: format!("pg_controldata does not tell its \"{missing}\""),
        })
    }

    /// Makes a new database system in a directory without one.
    ///
    /// It is made aside and renamed when it is complete and durable: a crash leaves none, and the
    /// next call begins again.
    pub async fn initdb(&self) -> Result<(), Error> {
        self.require_stopped().await?;
        let files = self.files();
        let aside = files.replica.join("pgdata.new");
        if self.last_role() != LastRole::Empty {
            return Err(Error::io("make a database in", &files.pgdata)(
                io::ErrorKind::AlreadyExists.into(),
            ));
        }
        let (server, fresh) = (self.clone(), aside.clone());
        blocking(move || {
            orphan::kill_all(&fresh)?;
            remove_tree(&fresh)?;
            server.make_private(&fresh)
        })
        .await?;
        let program = self.installation().program("initdb");
        let mut command = self.launcher().command(&program, OnOrphaned::Kill);
        command
            .arg("-D")
            .arg(&aside)
            .args(["--data-checksums", "--encoding=UTF8", "--locale=C.UTF-8"]);
        command.args(["--lc-messages=C", "--auth=trust", "--username", SUPERUSER]);
        tool::run(&program, command, INITDB_PATIENCE).await?;
        let server = self.clone();
        blocking(move || {
            let (files, config) = (server.files(), &server.inner.config);
            settings::write(&aside, &config.settings, server.owner())?;
            // An interrupted base backup may have left a folder without a database.
            remove_tree(&files.pgdata)?;
            fs::rename(&aside, &files.pgdata).map_err(Error::io("rename", &aside))?;
            durable::sync_parent(&files.pgdata)?;
            files.finish_rebuild()
        })
        .await
    }

    /// Starts PostgreSQL and waits until it is ready: a primary until it accepts connections,
    /// crash recovery done; a standby until it has begun to replay.
    ///
    /// Processes that an earlier node left in the directory are ended first. Dropping the future
    /// stops the server. There is no time limit: crash recovery takes as long as there is WAL, and
    /// is reported in the log every few seconds.
    ///
    /// # Errors
    /// [`Error::Unfinished`] for a copy that may not be started; [`Error::StartFailed`] with PostgreSQL's last words.
    pub async fn start(&self, mode: &StartMode) -> Result<Running, Error> {
        let begin = Instant::now();
        self.require_stopped().await?;
        let (server, prepared) = (self.clone(), mode.clone());
        let running = self
            .exclusively(move || {
                server.prepare(&prepared)?;
                server.launch(&prepared)
            })
            .await?;
        running.wait_ready(mode).await?;
        let (pid, took) = (running.pid(), begin.elapsed());
        match mode {
            StartMode::Primary => tracing::info!(pid, ?took, "PostgreSQL runs as a primary"),
            StartMode::Standby(_) => tracing::info!(pid, ?took, "PostgreSQL runs as a standby"),
        }
        Ok(running)
    }

    fn prepare(&self, mode: &StartMode) -> Result<(), Error> {
        let files = self.files();
        if files.rebuild_state()? != Rebuild::Settled {
            return Err(Error::Unfinished {
                path: files.pgdata.clone(),
            });
        }
        settings::write(&files.pgdata, &self.inner.config.settings, self.owner())?;
        // The role is durable before the server runs in it: a crash leaves the last role's
        // directory or this one's, and the node's next start decides anew.
        match mode {
            StartMode::Primary => durable::remove(&files.standby_signal())?,
            StartMode::Standby(_) => {
                durable::replace(&files.standby_signal(), b"", self.owner())?;
                // A slot of the time when this was a primary would keep WAL for ever.
                empty_folder(&files.pgdata.join("pg_replslot"))?;
            }
        }
        sockets::make_dir(&self.inner.socket_dir, self.launcher().account())?;
        // Nobody runs here, so these are left-overs; PostgreSQL would refuse to start where a
        // stranger has got one of their pids since.
        durable::remove(&files.pgdata.join("postmaster.pid"))?;
        let socket = self.endpoint().socket_path();
        let mut lock = socket.clone().into_os_string();
        lock.push(".lock");
        durable::remove(Path::new(&lock))?;
        durable::remove(&socket)
    }

    fn launch(&self, mode: &StartMode) -> Result<Running, Error> {
        let (files, identity) = (self.files(), &self.inner.identity);
        let program = self.installation().program("postgres");
        let mut command = self.launcher().command(&program, OnOrphaned::Quit);
        command.arg("-D").arg(&files.pgdata);
        let mut set = |name: &str, value: &str| {
            command.arg("-c").arg(format!("{name}={value}"));
        };
        for (name, value) in settings::SAFETY {
            set(name, value);
        }
        set("port", &SERVER_PORT.to_string());
        set("unix_socket_directories", &quoted_in_list(&self.inner.socket_dir));
        set(
            "cluster_name",
            &format!("howdah-g{}-n{}", identity.group, identity.node),
        );
        if let StartMode::Standby(feed) = mode {
            set(
                "primary_conninfo",
                &feed.conninfo(&format!("howdah-n{}", identity.node)),
            );
        }
        command.stdout(Stdio::null()).stderr(Stdio::piped());
        let log_start = log::end(&files.log);
        let (process, pipes) = Process::spawn(command).map_err(Error::io("start", &program))?;
        *self.inner.launched.lock() = Launched {
            process: Arc::downgrade(&process),
            dismissed: false,
        };
        // From here on an early return stops what was started.
        let mut running = Running::new(self.clone(), process, log_start);
        if let Some(stderr) = pipes.stderr {
            let drained = log::capture(stderr, files.log.clone()).map_err(Error::io("write", &files.log))?;
            running.log_is_captured(drained);
        }
        Ok(running)
    }

    /// Ends what an earlier node, or a step that was broken off, left running here; refuses while a server of ours runs.
    pub(super) async fn require_stopped(&self) -> Result<(), Error> {
        // A change whose caller was dropped goes on: it may be about to start a server.
        drop(self.inner.changing.lock().await);
        let held = {
            let launched = self.inner.launched.lock();
            let process = launched.process.upgrade();
            !launched.dismissed && process.is_some_and(|process| process.exited().now().is_none())
        };
        if held {
            let path = self.files().pgdata.clone();
            return Err(Error::StillRunning { path });
        }
        self.end_all().await
    }

    /// Ends whatever works in the directory, for a node that stops. A step that was broken off may have
    /// started a server of which nobody has a handle: on its own it would outlive the node.
    pub async fn end(&self) -> Result<(), Error> {
        // A change whose caller was dropped goes on to its end: no later look would see what it starts.
        drop(self.inner.changing.lock().await);
        self.end_all().await
    }

    async fn end_all(&self) -> Result<(), Error> {
        let launched = self.inner.launched.lock().process.upgrade();
        if let Some(process) = launched
            && !process.quit().await
        {
            process.kill_group();
            process.exited().wait().await;
        }
        // Its backends lead groups of their own; and what others started shows once it works in the directory.
        let pgdata = self.files().pgdata.clone();
        blocking(move || orphan::end_all(&pgdata)).await
    }

    /// The handle of the server that ran here is gone.
    pub(super) fn dismiss_running(&self, process: &Arc<Process>) {
        let mut launched = self.inner.launched.lock();
        if Weak::ptr_eq(&launched.process, &Arc::downgrade(process)) {
            launched.dismissed = true;
        }
    }

    /// Makes an empty folder for PostgreSQL's user alone.
    pub(super) fn make_private(&self, path: &Path) -> Result<(), Error> {
        fs::DirBuilder::new()
            .mode(0o700)
            .create(path)
            .map_err(Error::io("create", path))?;
        let mode = fs::Permissions::from_mode(0o700);
        fs::set_permissions(path, mode).map_err(Error::io("close to others", path))?;
        self.hand_over(path)
    }

    /// Changes the directory off the event loop. Where the caller is dropped the work goes on to its
    /// end, and the next change waits for that.
    pub(super) async fn exclusively<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let changing = self.inner.changing.clone().lock_owned().await;
        blocking(move || {
            let _changing = changing;
            work()
        })
        .await
    }

    pub(super) fn shared(&self) -> Server {
        self.clone()
    }

    pub(super) fn files(&self) -> &Files {
        &self.inner.files
    }

    pub(super) fn installation(&self) -> &Installation {
        &self.inner.installation
    }

    pub(super) fn launcher(&self) -> &Launcher {
        &self.inner.launcher
    }

    pub(super) fn owner(&self) -> Owner {
        self.inner.launcher.account().owner()
    }
}

/// `unix_socket_directories` is a list: a path with a comma or space needs double quotes.
fn quoted_in_list(path: &Path) -> String {
    format!("\"{}\"", path.to_string_lossy().replace('"', "\"\""))
}

fn empty_folder(path: &Path) -> Result<(), Error> {
    let entries = fs::read_dir(path).map_err(Error::io("list", path))?;
    for entry in entries {
        remove_tree(&entry.map_err(Error::io("list", path))?.path())?;
    }
    Ok(())
}

pub(super) fn remove_tree(path: &Path) -> Result<(), Error> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(Error::io("empty", path)(error)),
        _ => Ok(()),
    }
}

/// Runs what waits for the disk off the event loop.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_) => Err(Error::io("finish work on", Path::new("files"))(
                io::ErrorKind::Interrupted.into(),
            )),
        },
    }
}
