//! The beginning of a connection: who the client is, or that it only wants to cancel.

use std::sync::Arc;

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::conn::Parameters;
use super::io::Client;
use super::meter::Meter;
use super::{Pipeline, Session};
use crate::Shared;
use crate::analysis::{Refusal, check_setting};
use crate::console::{self, Console, Visitor};
use crate::failure::{Ended, Failure, Halt, Severity};
use crate::protocol::{Body, Malformed, encode};
use crate::registry::{Activity, Identity, Pins};

/// PostgreSQL's own limit (MAX_STARTUP_PACKET_LENGTH).
pub(super) const LONGEST_STARTUP: usize = 10_000;
const CANCEL_REQUEST: i32 = 80_877_102;
const SSL_REQUEST: i32 = 80_877_103;
const GSS_REQUEST: i32 = 80_877_104;

/// What a client wants.
enum Wish {
    Session { minor: i32, parameters: Parameters },
    Cancel { process_id: i32, secret_key: i32 },
    Nothing,
}

/// Whom a client talks to.
pub(crate) enum Begun {
    Session(Box<Session>),
    Console(Box<Console<TcpStream>>),
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

/// Reads what the client wants; makes its session if it wants one.
pub(crate) async fn begin(mut stream: TcpStream, shared: &Arc<Shared>) -> Option<Begun> {
    let mut input = BytesMut::with_capacity(16 << 10);
    let read = tokio::time::timeout(shared.limits.startup_timeout, read_wish(&mut stream, &mut input));
    let wish = read.await.unwrap_or(Err(Failure::StartupTimeout));
    let started = match wish {
        Ok(Wish::Nothing) => return None,
        Ok(Wish::Cancel {
            process_id,
            secret_key,
        }) => {
            cancel(shared, process_id, secret_key).await;
            return None;
        }
        Ok(Wish::Session { minor, parameters }) => {
            let client = Client {
                stream,
                input,
                output: BytesMut::with_capacity(16 << 10),
                entry: None,
            };
            start(client, shared, minor, parameters).await
        }
        Err(failure) => Err((stream, failure)),
    };
    match started {
        Ok(begun) => Some(begun),
        Err((mut stream, failure)) => {
            tracing::debug!(%failure, "a client was not let in");
            let mut out = BytesMut::new();
            failure.encode(Severity::Fatal, &mut out);
            // It may be gone already.
            let _ = stream.write_all(&out).await;
            let _ = stream.shutdown().await;
            None
        }
    }
}

async fn cancel(shared: &Shared, process_id: i32, secret_key: i32) {
    for target in shared.sessions.find(process_id, secret_key) {
        let asked = shared
            .groups
            .cancel(target.group, target.process_id, target.secret_key)
            .await;
        if let Err(error) = asked {
            tracing::debug!(%error, "a statement could not be cancelled");
        }
    }
}

async fn read_wish(stream: &mut TcpStream, input: &mut BytesMut) -> Result<Wish, Failure> {
    loop {
        let Some((packet, code)) = read_packet(stream, input).await? else {
            return Ok(Wish::Nothing);
        };
        let mut body = Body::new(&packet);
        match code {
            SSL_REQUEST | GSS_REQUEST => {
                if stream.write_all(b"N").await.is_err() {
                    return Ok(Wish::Nothing);
                }
            }
            CANCEL_REQUEST => {
                return Ok(Wish::Cancel {
                    process_id: body.i32()?,
                    secret_key: body.i32()?,
                });
            }
            _ if code >> 16 == 3 => {
                return Ok(Wish::Session {
                    minor: code & 0xffff,
                    parameters: read_parameters(&mut body)?,
                });
            }
            _ => {
                let (major, minor) = (code >> 16, code & 0xffff);
                let words = format!("unsupported frontend protocol {major}.{minor}: server supports 3.0");
                return Err(Refusal::unsupported(words).into());
            }
        }
    }
}

/// One packet without its length and code; `None` when the client goes before all of it came.
pub(super) async fn read_packet(
    stream: &mut (impl AsyncRead + Unpin),
    input: &mut BytesMut,
) -> Result<Option<(BytesMut, i32)>, Failure> {
    let mut length = None;
    loop {
        if length.is_none()
            && let Some((head, _)) = input.split_first_chunk::<4>()
        {
            let given = usize::try_from(i32::from_be_bytes(*head)).unwrap_or(0);
            if !(8..=LONGEST_STARTUP).contains(&given) {
                return Err(Malformed("invalid length of startup packet").into());
            }
            length = Some(given);
        }
        if let Some(length) = length.filter(|length| *length <= input.len()) {
            let mut packet = input.split_to(length);
            packet.advance(4);
            let code = packet.get_i32();
            return Ok(Some((packet, code)));
        }
        match stream.read_buf(input).await {
            Ok(0) | Err(_) => return Ok(None),
            Ok(_) => {}
        }
    }
}

pub(super) fn read_parameters(body: &mut Body<'_>) -> Result<Parameters, Malformed> {
    let mut parameters = Vec::new();
    loop {
        let name = body.cstr()?;
        if name.is_empty() {
            return Ok(parameters);
        }
        parameters.push((name.to_vec(), body.cstr()?.to_vec()));
    }
}

/// Refuses what a session may not begin with.
pub(super) fn check(parameters: &Parameters) -> Result<(), Failure> {
    for (name, value) in parameters {
        let name = String::from_utf8_lossy(name);
        let value = String::from_utf8_lossy(value);
        match &*name {
            "replication" => {
                let value = value.to_ascii_lowercase();
                if !matches!(&*value, "false" | "off" | "no" | "0" | "f" | "n") {
                    return Err(Refusal::unsupported("replication connections are not supported")
                        .hint("Howdah replicates by itself; read the data with SQL or COPY.")
                        .into());
                }
            }
            "user" | "database" => {}
            "options" => {
                for (name, value) in settings_in(&value) {
                    check_setting(&name, &[value])?;
                }
            }
            name => check_setting(name, &[value.into_owned()])?,
        }
    }
    Ok(())
}

/// The settings in command-line options as `-c name=value` or `--name=value` (`pg_split_opts`,
/// `process_postgres_switches`).
fn settings_in(options: &str) -> Vec<(String, String)> {
    let mut words = vec![String::new()];
    let mut letters = options.chars();
    while let Some(letter) = letters.next() {
        let word = words.last_mut().expect("there is always a last word");
        match letter {
            '\\' => word.extend(letters.next()),
            space if space.is_ascii_whitespace() => words.push(String::new()),
            other => word.push(other),
        }
    }
    let mut settings = Vec::new();
    let mut words = words.into_iter().filter(|word| !word.is_empty());
    while let Some(word) = words.next() {
        let setting = match (word.strip_prefix("--"), word.strip_prefix("-c")) {
            (Some(setting), _) => setting.to_owned(),
            (None, Some("")) => words.next().unwrap_or_default(),
            (None, Some(setting)) => setting.to_owned(),
            (None, None) => continue,
        };
        if let Some((name, value)) = setting.split_once('=') {
            settings.push((name.replace('-', "_"), value.to_owned()));
        }
    }
    settings
}

/// Connects to the home group as this client and greets it, or lets it into the console.
async fn start(
    mut client: Client,
    shared: &Arc<Shared>,
    minor: i32,
    parameters: Parameters,
) -> Result<Begun, (TcpStream, Failure)> {
    let (extensions, mut parameters): (Parameters, Parameters) = parameters
        .into_iter()
        .partition(|(name, _)| name.starts_with(b"_pq_."));
    if let Err(failure) = check(&parameters) {
        return Err((client.stream, failure));
    }
    let value = |wanted: &[u8]| {
        let found = parameters.iter().find(|(name, _)| name == wanted);
        found
            .map(|(_, value)| value.clone())
            .filter(|value| !value.is_empty())
    };
    let Some(user) = value(b"user") else {
        let words = "no PostgreSQL user name specified in startup packet";
        return Err((client.stream, Refusal::new("28000", words).into()));
    };
    let database = value(b"database").unwrap_or_else(|| user.clone());
    let entered = shared.sessions.enter();
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    let identity = Identity {
        process_id: entered.session.process_id,
        user: text(user),
        database: text(database.clone()),
        application_name: text(value(b"application_name").unwrap_or_default()),
        address: client.stream.peer_addr().ok(),
        local: client.stream.local_addr().ok(),
    };
    if identity.database == console::DATABASE {
        let visitor = Visitor {
            stream: client.stream,
            input: client.input,
            minor,
            extensions: extensions.into_iter().map(|(name, _)| name).collect(),
            identity,
            entered,
        };
        let console = Console::begin(shared, visitor).await?;
        return Ok(Begun::Console(Box::new(console)));
    }
    let registered = shared.registry.enter(identity);
    client.entry = Some(Arc::clone(&registered.client));
    parameters.retain(|(name, _)| name != b"replication" && name != b"database");
    parameters.push((b"database".to_vec(), database.clone()));
    let groups = shared.groups.groups();
    let home = groups
        .iter()
        .position(|group| shared.groups.leads(*group))
        .unwrap_or(0);
    let mut session = Session {
        client,
        slots: groups.iter().map(|_| None).collect(),
        current: None,
        home,
        startup: parameters,
        told: super::Told::default(),
        transaction: None,
        pipeline: Pipeline::default(),
        settings: super::Settings::default(),
        statements: super::Statements::default(),
        cursors: std::collections::HashMap::new(),
        lasting: std::collections::HashSet::new(),
        default_isolation: None,
        search_path: None,
        last_break: String::new(),
        copy: None,
        database: shared.catalogues.database(&String::from_utf8_lossy(&database)),
        unbroken: false,
        meter: Meter::new(registered),
        entered,
        shared: Arc::clone(shared),
    };
    let ready = match session.until_resumed().await {
        Ok(()) => session.any_place().await,
        Err(ended) => Err(ended.into()),
    };
    match ready {
        Ok(_) => {
            session.greet(minor, &extensions);
            Ok(Begun::Session(Box::new(session)))
        }
        Err(Halt::Fail(failure) | Halt::End(Ended::Fatal(failure))) => Err((session.client.stream, failure)),
        Err(_) => Err((session.client.stream, Failure::ShuttingDown)),
    }
}

impl Session {
    fn greet(&mut self, minor: i32, extensions: &[(Vec<u8>, Vec<u8>)]) {
        let out = &mut self.client.output;
        let names: Vec<&[u8]> = extensions.iter().map(|(name, _)| name.as_slice()).collect();
        encode::negotiate(out, minor, &names);
        encode::authentication_ok(out);
        for (name, value) in &self.told.parameters {
            encode::parameter_status(out, name, value);
        }
        let session = &self.entered.session;
        encode::backend_key_data(out, session.process_id, session.secret_key);
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

#[cfg(test)]
mod tests {
    use super::settings_in;

    #[test]
    fn settings_are_found_in_options() {
        let found = settings_in("-c a=1 -cb=2  --c-d=x\\ y -e 5");
        let expected = [("a", "1"), ("b", "2"), ("c_d", "x y")];
        assert_eq!(
            found,
            expected.map(|(name, value)| (name.to_owned(), value.to_owned()))
        );
    }
}
