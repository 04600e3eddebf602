//! Two PostgreSQL servers on private unix sockets, and a proxy in front of them.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use coordinator::catalogue::CatalogueVersion;
use coordinator::catalogue::bootstrap::{Identity, bootstrap};
use coordinator::catalogue::cache::CatalogueCache;
use coordinator::deadlock::Transaction;
use coordinator::slots::{MapEpoch, SlotMap};
use coordinator::transaction::Transactions;
use futures::future::BoxFuture;
use proxy::{Hba, Limits, Listener, Peers, Places, ProxyConfig, Reload, Sessions, may_be_of};
use rustix::process::{Pid, Signal, kill_process};
use shard::client::{Backend, ConnectError, Groups, Hold};
use shard::id::{GroupId, NodeId, Term};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio_postgres::{Client, NoTls, SimpleQueryMessage};
use tokio_util::sync::CancellationToken;

use crate::directory::{BIN, Directory, as_postgres};

/// One group: a PostgreSQL of its own.
#[derive(Debug)]
struct Server {
    directory: Directory,
    process: Child,
}

impl Server {
    fn start() -> Server {
        let directory = Directory::new();
        let process = Server::run(directory.path());
        Server { directory, process }
    }

    fn run(directory: &Path) -> Child {
        let log = std::fs::File::create(directory.join("log")).expect("log");
        as_postgres("postgres")
            .args([
                "-F",
                "-c",
                "listen_addresses=",
                "-c",
                "max_connections=120",
                "-c",
                "max_prepared_transactions=50",
                "-c",
            ])
            .arg(format!("unix_socket_directories={}", directory.display()))
            .arg("-D")
            .arg(directory.join("data"))
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("postgres runs")
    }

    fn socket(&self) -> PathBuf {
        self.directory.path().join(".s.PGSQL.5432")
    }

    /// At once, as `pg_ctl stop -m immediate` does, which looks only ten times a second whether it has stopped.
    fn stop(&mut self) {
        let file = std::fs::read_to_string(self.directory.path().join("data/postmaster.pid"));
        let postmaster = file.ok().and_then(|text| text.lines().next()?.parse().ok());
        match postmaster.and_then(Pid::from_raw) {
            Some(postmaster) => drop(kill_process(postmaster, Signal::QUIT)),
            None => drop(self.process.kill()),
        }
        let _ = self.process.wait();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop();
    }
}

/// The servers' sockets, as a node would give them.
#[derive(Debug)]
struct Sockets {
    groups: Vec<GroupId>,
    sockets: Vec<PathBuf>,
    /// What holds, by its number.
    holding: Mutex<HashMap<u64, Client>>,
}

impl Sockets {
    /// Nothing is replicated here, so commits wait for nobody. But nobody decides on a transaction of several groups while this
    /// lock is held.
    async fn lock_decisions(&self, group: GroupId) -> Option<Client> {
        let stream = UnixStream::connect(self.socket(group).ok()?).await.ok()?;
        let mut config = tokio_postgres::Config::new();
        config
            .user("postgres")
            .dbname("postgres")
            .application_name("howdah control");
        let (client, connection) = config.connect_raw(stream, NoTls).await.ok()?;
        tokio::spawn(connection);
        let sql = "BEGIN; LOCK TABLE howdah.decisions IN EXCLUSIVE MODE";
        client.batch_execute(sql).await.ok()?;
        Some(client)
    }

    fn socket(&self, group: GroupId) -> Result<&PathBuf, ConnectError> {
        let at = self.groups.iter().position(|g| *g == group);
        at.map(|at| &self.sockets[at])
            .ok_or(ConnectError::UnknownGroup(group))
    }
}

impl Groups for Sockets {
    fn groups(&self) -> &[GroupId] {
        &self.groups
    }

    fn connect(
        &self,
        group: GroupId,
        patience: Duration,
    ) -> BoxFuture<'_, Result<Box<dyn Backend>, ConnectError>> {
        Box::pin(async move {
            let socket = self.socket(group)?;
            let start = Instant::now();
            loop {
                match UnixStream::connect(socket).await {
                    Ok(stream) => return Ok(Box::new(stream) as Box<dyn Backend>),
                    Err(_) if start.elapsed() < patience => {
                        tokio::time::sleep(Duration::from_millis(20)).await;
                    }
                    Err(_) => {
                        return Err(ConnectError::NoLeader {
                            group,
                            waited: patience,
                        });
                    }
                }
            }
        })
    }

    fn connect_to_settle(
        &self,
        group: GroupId,
        patience: Duration,
    ) -> BoxFuture<'_, Result<Box<dyn Backend>, ConnectError>> {
        self.connect(group, patience)
    }

    fn hold(&self, group: GroupId, limit: Duration) -> BoxFuture<'_, Result<Hold, ConnectError>> {
        Box::pin(async move {
            let no_leader = ConnectError::NoLeader { group, waited: limit };
            let client = self.lock_decisions(group).await.ok_or(no_leader)?;
            let mut holding = self.holding.lock().expect("nobody panics with it");
            let number = holding.keys().max().map_or(1, |last| last + 1);
            holding.insert(number, client);
            Ok(Hold {
                group,
                node: NodeId(1),
                term: Term(1),
                number,
            })
        })
    }

    fn release(&self, hold: Hold) -> BoxFuture<'_, bool> {
        let mut holding = self.holding.lock().expect("nobody panics with it");
        let held = holding.remove(&hold.number).is_some();
        Box::pin(std::future::ready(held))
    }

    fn cancel(
        &self,
        group: GroupId,
        process_id: i32,
        secret_key: i32,
    ) -> BoxFuture<'_, Result<(), ConnectError>> {
        Box::pin(async move {
            let mut stream =
                UnixStream::connect(self.socket(group)?)
                    .await
                    .map_err(|_| ConnectError::NoLeader {
                        group,
                        waited: Duration::ZERO,
                    })?;
            let mut request = Vec::from(16_i32.to_be_bytes());
            for part in [80_877_102, process_id, secret_key] {
                request.extend(part.to_be_bytes());
            }
            let _ = stream.write_all(&request).await;
            let _ = stream.read(&mut [0]).await;
            Ok(())
        })
    }

    fn leads(&self, group: GroupId) -> bool {
        group == GroupId(1)
    }
}

/// The other node, if there is one.
#[derive(Debug, Default)]
struct Other(OnceLock<Node>);

/// What other nodes ask of a node.
#[derive(Clone, Debug)]
struct Node {
    id: NodeId,
    catalogues: Arc<CatalogueCache>,
    sessions: Arc<Sessions>,
    groups: Arc<dyn Groups>,
}

impl Peers for Other {
    fn have_seen<'a>(
        &'a self,
        database: &'a str,
        versions: &'a [(GroupId, CatalogueVersion)],
        deadline: Instant,
    ) -> BoxFuture<'a, bool> {
        Box::pin(async move {
            match self.0.get() {
                Some(node) => node.catalogues.has_seen(database, versions, deadline).await,
                None => true,
            }
        })
    }

    fn cancel<'a>(&'a self, process_id: i32, secret_key: &'a [u8]) -> BoxFuture<'a, bool> {
        Box::pin(async move {
            match self.0.get().filter(|node| may_be_of(process_id, node.id)) {
                Some(node) => node.sessions.cancel(&*node.groups, process_id, secret_key).await,
                None => false,
            }
        })
    }

    fn transactions(&self, _patience: Duration) -> BoxFuture<'_, Vec<Transaction>> {
        Box::pin(std::future::ready(Vec::new()))
    }
}

/// A free port of the loopback interface, no TLS, and everybody is let in.
pub(crate) fn open_door() -> ProxyConfig {
    ProxyConfig {
        hba: Hba::trust_loopback(),
        ..ProxyConfig::new("127.0.0.1:0".parse().expect("it fits"))
    }
}

/// The rules of such a file.
pub(crate) fn rules(text: &str) -> Hba {
    let directory = tempfile::tempdir().expect("temporary directory");
    let path = directory.path().join("pg_hba.conf");
    std::fs::write(&path, text).expect("it can be written");
    Hba::load(&path).expect("good rules")
}

/// Two groups and a proxy. Everything ends when it is dropped.
pub(crate) struct Cluster {
    servers: Vec<Server>,
    pub(crate) address: SocketAddr,
    pub(crate) slots: SlotMap,
    shutdown: CancellationToken,
    groups: Arc<dyn Groups>,
    config: ProxyConfig,
    catalogues: Arc<CatalogueCache>,
    sessions: Arc<Sessions>,
    other: Arc<Other>,
    doors: OnceLock<(Arc<Places>, Reload)>,
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

impl Cluster {
    pub(crate) async fn start() -> Cluster {
        Cluster::with(Limits::default()).await
    }

    pub(crate) async fn with(limits: Limits) -> Cluster {
        Cluster::configured(ProxyConfig {
            limits,
            ..open_door()
        })
        .await
    }

    /// With this configuration of its nodes, whose port is chosen.
    pub(crate) async fn configured(config: ProxyConfig) -> Cluster {
        let starting: Vec<_> = (0..2)
            .map(|_| tokio::task::spawn_blocking(Server::start))
            .collect();
        let mut servers = Vec::new();
        for server in starting {
            servers.push(server.await.expect("server starts"));
        }
        let groups = vec![GroupId(1), GroupId(2)];
        let slots = SlotMap::place(MapEpoch(1), &groups).expect("groups");
        let sockets = servers.iter().map(Server::socket).collect();
        let sockets: Arc<dyn Groups> = Arc::new(Sockets {
            groups: groups.clone(),
            sockets,
            holding: Mutex::default(),
        });
        let bootstrapped = groups.iter().zip(&servers).map(|(group, server)| async {
            until_ready(server).await;
            let identity = Identity {
                cluster: "test",
                group: *group,
                slots: &slots,
            };
            bootstrap(&*sockets, identity, Duration::from_secs(20))
                .await
                .expect("bootstrap");
        });
        futures::future::join_all(bootstrapped).await;
        let catalogues = Arc::new(CatalogueCache::start(Arc::clone(&sockets)));
        let mut cluster = Cluster {
            servers,
            address: "127.0.0.1:0".parse().expect("it fits"),
            slots,
            shutdown: CancellationToken::new(),
            groups: sockets,
            config,
            catalogues,
            sessions: Arc::default(),
            other: Arc::default(),
            doors: OnceLock::new(),
        };
        let (catalogues, other) = (Arc::clone(&cluster.catalogues), Arc::clone(&cluster.other));
        (cluster.address, cluster.sessions) = cluster.node(NodeId(1), catalogues, other).await;
        cluster
    }

    async fn node(
        &self,
        id: NodeId,
        catalogues: Arc<CatalogueCache>,
        other: Arc<Other>,
    ) -> (SocketAddr, Arc<Sessions>) {
        let listener = Listener::bind(self.config.clone()).await.expect("bind");
        let started = (listener.address(), listener.sessions());
        self.doors.get_or_init(|| (listener.places(), listener.reload()));
        tokio::spawn(listener.serve(
            Arc::clone(&self.groups),
            catalogues,
            Transactions::new(id, Arc::clone(&self.groups)),
            other,
            self.shutdown.clone(),
        ));
        started
    }

    /// Starts a second node: its port, for [`Cluster::connect_as`].
    pub(crate) async fn second_node(&self) -> u16 {
        let catalogues = Arc::new(CatalogueCache::start(Arc::clone(&self.groups)));
        let of = |id, catalogues: &Arc<CatalogueCache>, sessions: &Arc<Sessions>| Node {
            id: NodeId(id),
            catalogues: Arc::clone(catalogues),
            sessions: Arc::clone(sessions),
            groups: Arc::clone(&self.groups),
        };
        let other = Other(OnceLock::from(of(1, &self.catalogues, &self.sessions)));
        let (address, sessions) = self
            .node(NodeId(2), Arc::clone(&catalogues), Arc::new(other))
            .await;
        let second = of(2, &catalogues, &sessions);
        self.other.0.set(second).expect("one second node");
        address.port()
    }

    /// The places of the first node.
    pub(crate) fn places(&self) -> &Places {
        &self.doors.get().expect("the first node has started").0
    }

    /// Gives the first node another configuration.
    pub(crate) fn reload(&self, config: ProxyConfig) {
        self.doors
            .get()
            .expect("the first node has started")
            .1
            .put(config);
    }

    pub(crate) fn shut_down(&self) {
        self.shutdown.cancel();
    }

    /// A client of the proxy.
    pub(crate) async fn connect(&self) -> Client {
        self.connect_as("user=postgres").await
    }

    pub(crate) async fn connect_as(&self, options: &str) -> Client {
        self.try_connect(self.address.port(), options)
            .await
            .expect("connect")
    }

    /// A client of the node with this port.
    pub(crate) async fn try_connect(
        &self,
        port: u16,
        options: &str,
    ) -> Result<Client, tokio_postgres::Error> {
        let config = format!("host=127.0.0.1 port={port} user=postgres dbname=postgres {options}");
        let (client, connection) = tokio_postgres::connect(&config, NoTls).await?;
        tokio::spawn(connection);
        Ok(client)
    }

    /// A client of one group's PostgreSQL itself.
    pub(crate) async fn direct(&self, server: usize) -> Client {
        self.direct_in(server, "postgres").await
    }

    /// As [`Cluster::direct`], in another database.
    pub(crate) async fn direct_in(&self, server: usize, database: &str) -> Client {
        let config = self.direct_config(server, &format!("dbname={database}"));
        let (client, connection) = tokio_postgres::connect(&config, NoTls).await.expect("connect");
        tokio::spawn(connection);
        client
    }

    /// A database of one PostgreSQL alone, with this schema: what the cluster is compared with.
    pub(crate) async fn plain_database(&self, schema: &str) -> Client {
        let direct = self.direct(0).await;
        let made = direct
            .batch_execute("CREATE DATABASE plain TEMPLATE template0")
            .await;
        made.expect("a database");
        let plain = self.direct_in(0, "plain").await;
        plain.batch_execute(schema).await.expect("the schema");
        plain
    }

    /// How to connect to one group's PostgreSQL itself.
    pub(crate) fn direct_config(&self, server: usize, options: &str) -> String {
        let host = self.servers[server].directory.path().display();
        format!("host={host} user=postgres {options}")
    }

    /// From now on commits of this group wait for a standby that there is not, until [`Cluster::confirm_commits`].
    pub(crate) async fn hold_commits(&self, server: usize) {
        let direct = self.direct(server).await;
        for sql in [
            "ALTER SYSTEM SET synchronous_standby_names = 'nobody'",
            "SELECT pg_reload_conf()",
        ] {
            direct.batch_execute(sql).await.expect(sql);
        }
        // It takes effect when the checkpointer has told the backends (`SyncRepUpdateSyncStandbysDefined` in syncrep.c).
        loop {
            let probe = self.direct(server).await;
            let sql = "SELECT pg_backend_pid()";
            let pid: i32 = probe.query_one(sql, &[]).await.expect(sql).get(0);
            let waits = async {
                let sql = "SELECT FROM pg_stat_activity WHERE pid = $1 AND wait_event = 'SyncRep'";
                while direct.query(sql, &[&pid]).await.expect(sql).is_empty() {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
            };
            tokio::select! {
                done = probe.batch_execute("SELECT pg_logical_emit_message(true, 'probe', '')") => done.expect("a commit"),
                () = waits => {
                    let sql = "SELECT pg_terminate_backend($1, 10000)";
                    direct.query_one(sql, &[&pid]).await.expect(sql);
                    return;
                }
            }
        }
    }

    /// Undoes [`Cluster::hold_commits`]; who waits is confirmed.
    pub(crate) async fn confirm_commits(&self, server: usize) {
        let direct = self.direct(server).await;
        for sql in [
            "ALTER SYSTEM SET synchronous_standby_names = ''",
            "SELECT pg_reload_conf()",
        ] {
            direct.batch_execute(sql).await.expect(sql);
        }
    }

    pub(crate) async fn raw(&self) -> TcpStream {
        TcpStream::connect(self.address).await.expect("connect")
    }

    pub(crate) fn stop_server(&mut self, server: usize) {
        self.servers[server].stop();
    }

    pub(crate) async fn start_server(&mut self, server: usize) {
        let process = Server::run(self.servers[server].directory.path());
        self.servers[server].process = process;
        until_ready(&self.servers[server]).await;
    }

    /// What psql says to a statement, or why it could not connect; its connection is as these options say.
    pub(crate) async fn psql_with(&self, options: &str, sql: &str) -> Result<String, String> {
        let port = self.address.port();
        let connection = format!("port={port} dbname=postgres connect_timeout=20 {options}");
        let mut command = tokio::process::Command::new(format!("{BIN}/psql"));
        let output = command
            .args(["-X", "-A", "-t", "-q", "-w", "-v", "ON_ERROR_STOP=1"])
            .args(["-d", &connection, "-c", sql])
            .env_clear()
            .env("LC_ALL", "C")
            .env("HOME", "/nonexistent")
            .kill_on_drop(true)
            .output();
        let output = output.await.expect("psql runs");
        if output.status.success() {
            Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
        } else {
            Err(String::from_utf8_lossy(&output.stderr).into_owned())
        }
    }

    /// A program of PostgreSQL's, connected to the proxy: its standard output, or its errors.
    pub(crate) async fn program(&self, program: &str, arguments: &[&str]) -> Result<String, String> {
        let mut command = tokio::process::Command::new(format!("{BIN}/{program}"));
        command
            .args([
                "-h",
                "127.0.0.1",
                "-p",
                &self.address.port().to_string(),
                "-U",
                "postgres",
            ])
            .args(arguments)
            .env("PGDATABASE", "postgres")
            .kill_on_drop(true);
        let output = command.output().await.expect("program runs");
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        if output.status.success() {
            Ok(String::from_utf8_lossy(&output.stdout).into_owned())
        } else {
            Err(errors)
        }
    }

    /// A program of PostgreSQL's, connected to one group's PostgreSQL itself.
    pub(crate) async fn program_direct(
        &self,
        server: usize,
        program: &str,
        arguments: &[&str],
    ) -> Result<String, String> {
        let output = tokio::process::Command::new(format!("{BIN}/{program}"))
            .arg("-h")
            .arg(self.servers[server].directory.path())
            .args(["-U", "postgres"])
            .args(arguments)
            .kill_on_drop(true)
            .output()
            .await
            .expect("program runs");
        if output.status.success() {
            Ok(String::from_utf8_lossy(&output.stdout).into_owned())
        } else {
            Err(String::from_utf8_lossy(&output.stderr).into_owned())
        }
    }

    pub(crate) async fn psql(&self, sql: &str) -> Result<String, String> {
        self.program(
            "psql",
            &["-X", "-A", "-t", "-q", "-v", "ON_ERROR_STOP=1", "-c", sql],
        )
        .await
    }

    /// Table `t` with a row on each group, made by this client: their keys.
    pub(crate) async fn rows_on_both(&self, client: &Client) -> [i64; 2] {
        let sql = "CREATE TABLE t (id bigint PRIMARY KEY, v bigint)";
        client.batch_execute(sql).await.expect(sql);
        let keys = [self.keys_of(0, 1)[0], self.keys_of(1, 1)[0]];
        for key in keys {
            let sql = format!("INSERT INTO t VALUES ({key}, 0)");
            client.batch_execute(&sql).await.expect(&sql);
        }
        keys
    }

    /// Waits until the console shows these reasons for the backends of the client with this application name, whose session must be
    /// at rest: while it is active they are those of its last rest, and it may still be asking what it has at home.
    pub(crate) async fn until_pinned(&self, name: &str, expected: &str) {
        let console = self.connect_as("dbname=howdah").await;
        let begun = Instant::now();
        loop {
            let rows = console.simple_query("SHOW CLIENTS").await.expect("clients");
            let pins = rows.iter().find_map(|message| match message {
                SimpleQueryMessage::Row(row)
                    if row.get("application_name") == Some(name) && row.get("state") != Some("active") =>
                {
                    Some(row.get("pins").unwrap_or_default().to_owned())
                }
                _ => None,
            });
            if pins.as_deref() == Some(expected) {
                return;
            }
            assert!(
                begun.elapsed() < Duration::from_secs(20),
                "{pins:?} instead of {expected:?}"
            );
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// `count` int8 keys of the group at this place, ascending.
    pub(crate) fn keys_of(&self, server: usize, count: usize) -> Vec<i64> {
        let group = GroupId(u32::try_from(server + 1).expect("it fits"));
        let column = coordinator::hash::KeyColumn {
            key_type: coordinator::hash::KeyType::Int8,
            type_modifier: -1,
        };
        (1..)
            .filter(|key: &i64| {
                let text = key.to_string();
                let source = coordinator::hash::KeySource::Number(&text);
                let slot = column
                    .slot(coordinator::hash::KeyUse::Comparison, source)
                    .expect("a plain number");
                self.slots.group(slot) == group
            })
            .take(count)
            .collect()
    }
}

async fn until_ready(server: &Server) {
    let host = server.directory.path().display().to_string();
    let config = format!("host={host} user=postgres dbname=postgres");
    let start = Instant::now();
    while let Err(error) = tokio_postgres::connect(&config, NoTls).await {
        assert!(
            start.elapsed() < Duration::from_secs(60),
            "PostgreSQL does not start: {error}"
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// The SQLSTATE of an error that PostgreSQL or the proxy reported.
pub(crate) fn code(error: &tokio_postgres::Error) -> &str {
    error
        .code()
        .map_or("no code", tokio_postgres::error::SqlState::code)
}

/// Runs statements that do not fail.
pub(crate) async fn run(client: &Client, sql: &str) {
    client.batch_execute(sql).await.expect(sql);
}

/// The rows that a client is given as text, or the SQLSTATE.
pub(crate) async fn asked(client: &Client, sql: &str) -> Result<Vec<Vec<Option<String>>>, String> {
    let messages = client
        .simple_query(sql)
        .await
        .map_err(|error| code(&error).to_owned())?;
    let rows = messages.into_iter().filter_map(|message| match message {
        SimpleQueryMessage::Row(row) => {
            Some((0..row.len()).map(|at| row.get(at).map(str::to_owned)).collect())
        }
        _ => None,
    });
    Ok(rows.collect())
}

pub(crate) fn hint(error: &tokio_postgres::Error) -> &str {
    let hint = error.as_db_error().and_then(|error| error.hint());
    hint.unwrap_or("no hint")
}

/// The protocol by hand.
pub(crate) mod raw {
    use super::*;

    pub(crate) struct Raw {
        stream: Box<dyn Backend>,
        out: Vec<u8>,
        input: Vec<u8>,
        /// What the CommandCompletes have said.
        pub(crate) completed: Vec<String>,
        /// Names and values of parameters.
        pub(crate) told: Vec<String>,
    }

    impl Raw {
        pub(crate) async fn start(cluster: &Cluster) -> Raw {
            Raw::start_in(cluster, "postgres").await
        }

        pub(crate) async fn start_in(cluster: &Cluster, database: &str) -> Raw {
            Raw::start_on(Box::new(cluster.raw().await), database).await
        }

        /// With one group's PostgreSQL itself.
        pub(crate) async fn start_direct(cluster: &Cluster, server: usize, database: &str) -> Raw {
            let stream = UnixStream::connect(cluster.servers[server].socket()).await;
            Raw::start_on(Box::new(stream.expect("connect")), database).await
        }

        async fn start_on(stream: Box<dyn Backend>, database: &str) -> Raw {
            let mut raw = Raw {
                stream,
                out: Vec::new(),
                input: Vec::new(),
                completed: Vec::new(),
                told: Vec::new(),
            };
            let mut body = b"\0\x03\0\0user\0postgres\0database\0".to_vec();
            body.extend(database.as_bytes());
            body.extend(b"\0\0");
            raw.out
                .extend(u32::try_from(body.len() + 4).expect("it fits").to_be_bytes());
            raw.out.extend(body);
            let (tags, errors) = raw.until_ready().await;
            assert!(errors.is_empty() && tags.ends_with("KZ"), "{tags} {errors:?}");
            raw
        }

        fn message(&mut self, tag: char, parts: &[&[u8]]) {
            let len: usize = parts.iter().map(|part| part.len()).sum();
            self.out.push(u8::try_from(tag).expect("it fits"));
            self.out
                .extend(u32::try_from(len + 4).expect("it fits").to_be_bytes());
            for part in parts {
                self.out.extend(*part);
            }
        }

        pub(crate) fn bytes(&mut self, bytes: &[u8]) {
            self.out.extend(bytes);
        }

        pub(crate) fn parse(&mut self, name: &str, sql: &str) {
            self.message('P', &[name.as_bytes(), b"\0", sql.as_bytes(), b"\0\0\0"]);
        }

        pub(crate) fn bind(&mut self, portal: &str, statement: &str) {
            self.message(
                'B',
                &[portal.as_bytes(), b"\0", statement.as_bytes(), b"\0\0\0\0\0\0\0"],
            );
        }

        pub(crate) fn describe(&mut self, kind: char, name: &str) {
            self.message(
                'D',
                &[&[u8::try_from(kind).expect("it fits")], name.as_bytes(), b"\0"],
            );
        }

        pub(crate) fn close(&mut self, kind: char, name: &str) {
            self.message(
                'C',
                &[&[u8::try_from(kind).expect("it fits")], name.as_bytes(), b"\0"],
            );
        }

        pub(crate) fn execute(&mut self, portal: &str, limit: i32) {
            self.message('E', &[portal.as_bytes(), b"\0", &limit.to_be_bytes()]);
        }

        /// FunctionCall of int4pl, without arguments.
        pub(crate) fn function_call(&mut self) {
            self.message('F', &[&177_u32.to_be_bytes(), &[0; 6]]);
        }

        pub(crate) fn query(&mut self, sql: &str) {
            self.message('Q', &[sql.as_bytes(), b"\0"]);
        }

        pub(crate) fn copy_data(&mut self, data: &[u8]) {
            self.message('d', &[data]);
        }

        pub(crate) fn sync(&mut self) {
            self.message('S', &[]);
        }

        pub(crate) async fn send(&mut self) {
            let out = std::mem::take(&mut self.out);
            // The proxy may have closed the connection already.
            let _ = self.stream.write_all(&out).await;
        }

        /// Sends what was put together and reads up to ReadyForQuery: the message types, and the errors' SQLSTATEs.
        pub(crate) async fn until_ready(&mut self) -> (String, Vec<String>) {
            self.send().await;
            let (mut tags, mut errors) = (String::new(), Vec::new());
            loop {
                if let Some(header) = self.input.first_chunk::<5>() {
                    let len = u32::from_be_bytes([header[1], header[2], header[3], header[4]]);
                    let len = usize::try_from(len).expect("it fits") + 1;
                    if self.input.len() >= len {
                        let message: Vec<u8> = self.input.drain(..len).collect();
                        tags.push(char::from(message[0]));
                        if message[0] == b'C' {
                            let text = String::from_utf8_lossy(&message[5..len - 1]);
                            self.completed.push(text.into_owned());
                        }
                        if message[0] == b'S' {
                            let text = String::from_utf8_lossy(&message[5..len - 1]);
                            self.told.push(text.replace('\0', "="));
                        }
                        if message[0] == b'E' {
                            let text = String::from_utf8_lossy(&message[5..]).into_owned();
                            let code = text.split('\0').find_map(|field| field.strip_prefix('C'));
                            errors.push(code.unwrap_or("?").to_owned());
                        }
                        if message[0] == b'Z' {
                            return (tags, errors);
                        }
                        continue;
                    }
                }
                let mut part = [0; 4096];
                let read = tokio::time::timeout(Duration::from_secs(20), self.stream.read(&mut part));
                let count = read.await.expect("an answer in time").expect("readable");
                assert!(count > 0, "closed after {tags} {errors:?}");
                self.input.extend(&part[..count]);
            }
        }

        /// Reads up to the end of the connection.
        pub(crate) async fn last_words(&mut self) -> String {
            let mut part = [0; 4096];
            loop {
                let read = tokio::time::timeout(Duration::from_secs(20), self.stream.read(&mut part));
                match read.await.expect("an end in time") {
                    Ok(count) if count > 0 => self.input.extend(&part[..count]),
                    _ => return String::from_utf8_lossy(&self.input).into_owned(),
                }
            }
        }

        /// Sends, and reads for as long as something comes within half a second.
        pub(crate) async fn rest(&mut self) -> String {
            self.send().await;
            let mut part = [0; 4096];
            while let Ok(Ok(count)) =
                tokio::time::timeout(Duration::from_millis(500), self.stream.read(&mut part)).await
            {
                if count == 0 {
                    break;
                }
                self.input.extend(&part[..count]);
            }
            String::from_utf8_lossy(&self.input).into_owned()
        }
    }
}
