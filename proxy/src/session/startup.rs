//! The beginning of a connection: a session for who may have one, or a cancel passed on.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut, BytesMut};
use coordinator::roles::Role;
use shard::tls::Stream;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};

use super::conn::Parameters;
use super::io::Client;
use super::login::Login;
use super::meter::Meter;
use super::stranger::{Stranger, Wish};
use super::timeouts::{Timeouts, Values};
use super::{Pipeline, Session};
use crate::Shared;
use crate::access::{Guest, Place};
use crate::cancel::may_be_of;
use crate::console::{self, Console, Visitor};
use crate::failure::{Ended, Failure, Halt, Severity};
use crate::protocol::encode;
use crate::registry::{Activity, Identity, Pins};

/// The newest minor version of protocol 3 that is spoken.
const LATEST_MINOR: i32 = 2;

/// How long whoever guesses waits for the answer. Meanwhile it keeps a guest's place, of which an address has few: guessing is slow
/// however many connections are used, and costs this node a timer.
const WRONG_GUESS: Duration = Duration::from_secs(1);

/// Whom a client talks to.
pub(crate) enum Begun {
    Session(Box<Session>),
    Console(Box<Console<Stream>>),
}

impl Begun {
    /// Serves the client until it goes.
    pub(crate) async fn serve(&mut self) -> Ended {
        match self {
            Begun::Session(session) => session.serve().await,
            Begun::Console(console) => console.serve().await,
        }
    }

    /// Ends it with last words.
    pub(crate) async fn close(self, ended: Ended) {
        match self {
            Begun::Session(session) => session.close(ended).await,
            Begun::Console(console) => console.close(ended).await,
        }
    }
}

/// Reads what the client wants; makes its session if it wants one and may have it.
pub(crate) async fn begin(
    stream: TcpStream,
    address: IpAddr,
    guest: Guest,
    shared: &Arc<Shared>,
) -> Option<(Begun, Place)> {
    let mut stranger = Stranger {
        stream: Some(Stream::Plain(stream)),
        input: BytesMut::with_capacity(1 << 10),
        output: BytesMut::new(),
        address,
    };
    let deadline = Instant::now() + shared.limits.authentication_timeout;
    // Who does not even say what it wants is not answered: as in PostgreSQL (`StartupPacketTimeoutHandler`).
    let wish = timeout_at(deadline, stranger.read_wish(shared.tls.as_ref()));
    let begun = match wish.await.ok()? {
        Ok(Wish::Session { minor, parameters }) => {
            match stranger.admit(shared, minor, parameters, deadline).await {
                Ok((login, role, place)) => {
                    drop(guest);
                    let started = start(&mut stranger, shared, login, role).await;
                    started.map(|begun| (begun, place)).map_err(Ended::Fatal)
                }
                Err(ended) => {
                    let ended = stranger.slow_down(ended, shared).await;
                    drop(guest);
                    Err(ended)
                }
            }
        }
        Ok(Wish::Cancel {
            process_id,
            secret_key,
        }) => {
            cancel(shared, process_id, &secret_key).await;
            Err(Ended::ByClient)
        }
        Ok(Wish::Nothing) => Err(Ended::ByClient),
        Err(failure) => Err(Ended::Fatal(failure)),
    };
    match begun {
        Ok(begun) => Some(begun),
        Err(Ended::ByClient) => None,
        Err(Ended::Fatal(failure)) => {
            stranger.turn_away(&failure).await;
            None
        }
    }
}

/// Passes a cancel on to what the session does now, on whichever node it is. A wrong key does nothing, and its sender waits.
async fn cancel(shared: &Shared, process_id: i32, secret_key: &[u8]) {
    let known = if may_be_of(process_id, shared.transactions.node()) {
        let groups = &*shared.groups;
        shared.sessions.cancel(groups, process_id, secret_key).await
    } else {
        shared.peers.cancel(process_id, secret_key).await
    };
    if !known {
        shared.places.count_refused_cancel();
        tracing::debug!(process_id, "wrong key in cancel request");
        tokio::time::sleep(WRONG_GUESS).await;
    }
}

impl Stranger {
    /// Has the client prove who it is, and takes a session's place for it.
    async fn admit(
        &mut self,
        shared: &Shared,
        minor: i32,
        parameters: Parameters,
        deadline: Instant,
    ) -> Result<(Login, Role, Place), Ended> {
        let login = Login::read(minor, parameters).map_err(Ended::Fatal)?;
        if minor > LATEST_MINOR || !login.extensions.is_empty() {
            self.negotiate(&login);
        }
        let role = timeout_at(deadline, self.authenticate(&login, shared))
            .await
            .unwrap_or(Err(Ended::Fatal(Failure::AuthenticationTimeout)))?;
        let (user, database) = (login.user_text(), login.database_text());
        let place = shared.places.session(&user, &database, &role, &shared.limits);
        let place = place.map_err(Ended::Fatal)?;
        Ok((login, role, place))
    }

    /// NegotiateProtocolVersion: what is spoken, without these extensions. 3.1 was never used; a client that asks for it gets
    /// what 3.0 has, as from PostgreSQL 18.
    fn negotiate(&mut self, login: &Login) {
        encode::message(&mut self.output, b'v', |out| {
            out.put_i32((3 << 16) | login.minor.min(LATEST_MINOR));
            out.put_u32(u32::try_from(login.extensions.len()).unwrap_or(0));
            for name in &login.extensions {
                encode::cstr(out, name);
            }
        });
    }

    /// Keeps whoever has guessed waiting, without its buffers.
    async fn slow_down(&mut self, ended: Ended, shared: &Shared) -> Ended {
        if let Ended::Fatal(Failure::WrongPassword(_)) = &ended {
            shared.places.count_failed_login();
            self.input = BytesMut::new();
            tokio::time::sleep(WRONG_GUESS).await;
        }
        ended
    }

    /// Tells the client why it is not let in. It may be gone already.
    async fn turn_away(&mut self, failure: &Failure) {
        tracing::debug!(%failure, "a client was not let in");
        let Some(stream) = &mut self.stream else { return };
        failure.encode(Severity::Fatal, &mut self.output);
        let told = async {
            let _ = stream.write_all_buf(&mut self.output).await;
            let _ = stream.shutdown().await;
        };
        if tokio::time::timeout(WRONG_GUESS, told).await.is_err() {
            tracing::debug!("a client did not take the reason why it was not let in");
        }
    }
}

/// Where a client is, and where it has reached the node; none once it is gone.
fn ends(stream: &Stream) -> (Option<SocketAddr>, Option<SocketAddr>) {
    let stream = stream.tcp();
    (stream.peer_addr().ok(), stream.local_addr().ok())
}

/// Connects to the home group as this client and greets it, or lets it into the console.
async fn start(
    stranger: &mut Stranger,
    shared: &Arc<Shared>,
    mut login: Login,
    role: Role,
) -> Result<Begun, Failure> {
    let entered = shared.sessions.enter(shared.transactions.node(), login.minor);
    let (address, local) = stranger.stream.as_ref().map(ends).unzip();
    let identity = Identity {
        process_id: entered.session.process_id,
        user: login.user_text().into_owned(),
        database: login.database_text().into_owned(),
        application_name: login.application_name(),
        address: address.flatten(),
        local: local.flatten(),
    };
    if identity.database == console::DATABASE {
        console::check(&role)?;
        let Some(stream) = stranger.stream.take() else {
            return Err(Failure::ShuttingDown);
        };
        let visitor = Visitor {
            stream,
            input: std::mem::take(&mut stranger.input),
            output: std::mem::take(&mut stranger.output),
            identity,
            role,
            entered,
        };
        return Ok(Begun::Console(Box::new(Console::begin(shared, visitor))));
    }
    let registered = shared.registry.enter(identity);
    let timeouts = Timeouts::new(Values::of_startup(&mut login.parameters)?);
    let Some(stream) = stranger.stream.take() else {
        return Err(Failure::ShuttingDown);
    };
    let groups = shared.groups.groups();
    let nearest = groups
        .iter()
        .position(|group| shared.groups.leads(*group))
        .unwrap_or(0);
    let database = shared.catalogues.database(&login.database_text());
    let mut session = Session {
        client: Client {
            stream,
            input: std::mem::take(&mut stranger.input),
            output: std::mem::take(&mut stranger.output),
            entry: Some(Arc::clone(&registered.client)),
        },
        slots: groups.iter().map(|_| None).collect(),
        current: None,
        nearest,
        told: super::Told::of(entered.session.process_id),
        transaction: None,
        pipeline: Pipeline::default(),
        settings: super::Settings::default(),
        timeouts,
        statements: super::Statements::default(),
        cursors: std::collections::HashMap::new(),
        temporary: super::Temporary::default(),
        at_home: super::AtHome::default(),
        sequences: super::sequences::Drawn::default(),
        declaring: Vec::new(),
        default_isolation: None,
        search_path: None,
        last_break: String::new(),
        copy: None,
        database,
        ticket: None,
        guest: shared.pool.enter(&login.parameters, &role),
        startup: login.parameters,
        unbroken: false,
        meter: Meter::new(registered),
        entered,
        shared: Arc::clone(shared),
    };
    let ready = match session.until_resumed().await {
        Ok(()) => session.any_place().await,
        Err(ended) => Err(ended.into()),
    };
    let failure = match ready {
        Ok(_) => {
            session.greet();
            return Ok(Begun::Session(Box::new(session)));
        }
        Err(Halt::Fail(failure) | Halt::End(Ended::Fatal(failure))) => failure,
        Err(_) => Failure::ShuttingDown,
    };
    stranger.stream = Some(session.client.stream);
    stranger.output = session.client.output;
    Err(failure)
}

impl Session {
    fn greet(&mut self) {
        let out = &mut self.client.output;
        for (name, value) in &self.told.parameters {
            encode::parameter_status(out, name, value);
        }
        let session = &self.entered.session;
        encode::backend_key_data(out, session.process_id, session.secret_key.bytes());
        self.ready();
        self.told.idle = 0;
        let client = self.meter.client();
        client.admit();
        client.rests(Activity::Idle, Pins::default());
    }

    /// The database that the client asked for.
    pub(super) fn database_name(&self) -> String {
        let found = self.startup.iter().find(|(name, _)| name == b"database");
        found
            .map(|(_, value)| String::from_utf8_lossy(value).into_owned())
            .unwrap_or_default()
    }
}
