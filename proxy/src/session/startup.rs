//! The beginning of a connection: a session for who may have one, or a cancel passed on.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut, BytesMut};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};

use super::conn::Parameters;
use super::io::Client;
use super::login::Login;
use super::stranger::{Stranger, Wish};
use super::{Pipeline, Session};
use crate::Shared;
use crate::access::{Guest, Place};
use crate::failure::{Ended, Failure, Halt, Severity};
use crate::protocol::encode;
use crate::stream::ClientStream;

/// How long whoever guesses waits for the answer. Meanwhile it keeps a guest's place, of which an address has few: guessing is slow
/// however many connections are used, and costs this node a timer.
const WRONG_GUESS: Duration = Duration::from_secs(1);

/// Reads what the client wants; makes its session if it wants one and may have it.
pub(crate) async fn begin(
    stream: TcpStream,
    address: IpAddr,
    guest: Guest,
    shared: &Arc<Shared>,
) -> Option<(Session, Place)> {
    let mut stranger = Stranger {
        stream: Some(ClientStream::Plain(stream)),
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
                Ok((login, place)) => {
                    drop(guest);
                    let started = start(&mut stranger, shared, login).await;
                    started.map(|session| (session, place)).map_err(Ended::Fatal)
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
            cancel(shared, process_id, secret_key).await;
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

/// Passes a cancel on to what the session does now. A wrong key does nothing, and its sender waits.
async fn cancel(shared: &Shared, process_id: i32, secret_key: i32) {
    let Some(targets) = shared.sessions.find(process_id, secret_key) else {
        shared.places.count_refused_cancel();
        tracing::debug!(process_id, "wrong key in cancel request");
        tokio::time::sleep(WRONG_GUESS).await;
        return;
    };
    for target in targets {
        let asked = shared
            .groups
            .cancel(target.group, target.process_id, target.secret_key)
            .await;
        if let Err(error) = asked {
            tracing::debug!(%error, "a statement could not be cancelled");
        }
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
    ) -> Result<(Login, Place), Ended> {
        let login = Login::read(parameters).map_err(Ended::Fatal)?;
        if minor > 0 || !login.extensions.is_empty() {
            self.negotiate(&login.extensions);
        }
        let role = timeout_at(deadline, self.authenticate(&login, shared))
            .await
            .unwrap_or(Err(Ended::Fatal(Failure::AuthenticationTimeout)))?;
        let place = shared
            .places
            .session(
                &login.user_text(),
                &login.database_text(),
                role.as_ref(),
                &shared.limits,
            )
            .map_err(Ended::Fatal)?;
        Ok((login, place))
    }

    /// NegotiateProtocolVersion: 3.0 it is, without these extensions.
    fn negotiate(&mut self, extensions: &[Vec<u8>]) {
        encode::message(&mut self.output, b'v', |out| {
            out.put_i32(3 << 16);
            out.put_u32(u32::try_from(extensions.len()).unwrap_or(0));
            for name in extensions {
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

/// Connects to the home group as this client and greets it.
async fn start(stranger: &mut Stranger, shared: &Arc<Shared>, login: Login) -> Result<Session, Failure> {
    let Some(stream) = stranger.stream.take() else {
        return Err(Failure::ShuttingDown);
    };
    let groups = shared.groups.groups();
    let home = groups
        .iter()
        .position(|group| shared.groups.leads(*group))
        .unwrap_or(0);
    let database = shared.catalogues.database(&login.database_text());
    let mut session = Session {
        client: Client {
            stream,
            input: std::mem::take(&mut stranger.input),
            output: std::mem::take(&mut stranger.output),
        },
        slots: groups.iter().map(|_| None).collect(),
        current: None,
        home,
        startup: login.parameters,
        told: super::Told::default(),
        transaction: None,
        pipeline: Pipeline::default(),
        settings: super::Settings::default(),
        statements: super::Statements::default(),
        cursors: std::collections::HashMap::new(),
        default_isolation: None,
        search_path: None,
        last_break: String::new(),
        copy: None,
        database,
        entered: shared.sessions.enter(),
        shared: Arc::clone(shared),
    };
    let failure = match session.any_place().await {
        Ok(_) => {
            session.greet();
            return Ok(session);
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
        encode::message(out, b'K', |out| {
            out.put_i32(session.process_id);
            out.put_i32(session.secret_key);
        });
        self.ready();
    }

    /// The database that the client asked for.
    pub(super) fn database_name(&self) -> String {
        let found = self.startup.iter().find(|(name, _)| name == b"database");
        found
            .map(|(_, value)| String::from_utf8_lossy(value).into_owned())
            .unwrap_or_default()
    }
}
