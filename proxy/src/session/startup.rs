//! The beginning of a connection: who the client is, or that it only wants to cancel.

use std::sync::Arc;

use bytes::{Buf, BufMut, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::conn::Parameters;
use super::io::Client;
use super::timeouts::{Timeouts, Values};
use super::{Pipeline, Session};
use crate::Shared;
use crate::analysis::{Refusal, check_setting};
use crate::cancel::may_be_of;
use crate::failure::{Ended, Failure, Halt, Severity};
use crate::protocol::{Body, Malformed, encode};

/// PostgreSQL's own limit (MAX_STARTUP_PACKET_LENGTH).
pub(super) const LONGEST_STARTUP: usize = 10_000;
/// The newest minor version of protocol 3 that is spoken.
const LATEST_MINOR: i32 = 2;
const CANCEL_REQUEST: i32 = 80_877_102;
const SSL_REQUEST: i32 = 80_877_103;
const GSS_REQUEST: i32 = 80_877_104;

/// What a client wants.
enum Wish {
    Session { minor: i32, parameters: Parameters },
    Cancel { process_id: i32, secret_key: Vec<u8> },
    Nothing,
}

/// Reads what the client wants; makes its session if it wants one.
pub(crate) async fn begin(mut stream: TcpStream, shared: &Arc<Shared>) -> Option<Session> {
    let mut input = BytesMut::with_capacity(16 << 10);
    let read = tokio::time::timeout(shared.limits.startup_timeout, read_wish(&mut stream, &mut input));
    let wish = read.await.unwrap_or(Err(Failure::StartupTimeout));
    let started = match wish {
        Ok(Wish::Nothing) => return None,
        Ok(Wish::Cancel {
            process_id,
            secret_key,
        }) => {
            cancel(shared, process_id, &secret_key).await;
            return None;
        }
        Ok(Wish::Session { minor, parameters }) => {
            let client = Client {
                stream,
                input,
                output: BytesMut::with_capacity(16 << 10),
            };
            start(client, shared, minor, parameters).await
        }
        Err(failure) => Err((stream, failure)),
    };
    match started {
        Ok(session) => Some(session),
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

async fn cancel(shared: &Shared, process_id: i32, secret_key: &[u8]) {
    if may_be_of(process_id, shared.transactions.node()) {
        shared
            .sessions
            .cancel(&*shared.groups, process_id, secret_key)
            .await;
    } else {
        shared.peers.cancel(process_id, secret_key).await;
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
                    secret_key: cancel_key(&body)?,
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
                let words =
                    format!("unsupported frontend protocol {major}.{minor}: server supports 3.0 to 3.2");
                return Err(Refusal::unsupported(words).into());
            }
        }
    }
}

/// The key of a CancelRequest. Before protocol 3.2 it had 4 bytes.
fn cancel_key(body: &Body<'_>) -> Result<Vec<u8>, Malformed> {
    match body.rest() {
        key if (4..=256).contains(&key.len()) => Ok(key.to_vec()),
        _ => Err(Malformed("invalid length of query cancel packet")),
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
pub(super) fn settings_in(options: &str) -> Vec<(String, String)> {
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

/// Connects to the home group as this client and greets it.
async fn start(
    client: Client,
    shared: &Arc<Shared>,
    minor: i32,
    parameters: Parameters,
) -> Result<Session, (TcpStream, Failure)> {
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
    let database = value(b"database").unwrap_or(user);
    parameters.retain(|(name, _)| name != b"replication" && name != b"database");
    parameters.push((b"database".to_vec(), database.clone()));
    let timeouts = match Values::of_startup(&mut parameters) {
        Ok(values) => Timeouts::new(values),
        Err(failure) => return Err((client.stream, failure)),
    };
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
        told: super::Told::default(),
        transaction: None,
        pipeline: Pipeline::default(),
        settings: super::Settings::default(),
        timeouts,
        statements: super::Statements::default(),
        cursors: std::collections::HashMap::new(),
        declaring: Vec::new(),
        default_isolation: None,
        search_path: None,
        last_break: String::new(),
        copy: None,
        database: shared.catalogues.database(&String::from_utf8_lossy(&database)),
        ticket: None,
        guest: shared.pool.enter(&parameters),
        startup: parameters,
        entered: shared.sessions.enter(shared.transactions.node(), minor),
        shared: Arc::clone(shared),
    };
    match session.any_place().await {
        Ok(_) => {
            session.greet(minor, &extensions);
            Ok(session)
        }
        Err(Halt::Fail(failure) | Halt::End(Ended::Fatal(failure))) => Err((session.client.stream, failure)),
        Err(_) => Err((session.client.stream, Failure::ShuttingDown)),
    }
}

impl Session {
    fn greet(&mut self, minor: i32, extensions: &[(Vec<u8>, Vec<u8>)]) {
        let out = &mut self.client.output;
        // 3.1 was never used; a client that asks for it gets what 3.0 has, as from PostgreSQL 18.
        if minor > LATEST_MINOR || !extensions.is_empty() {
            encode::message(out, b'v', |out| {
                out.put_i32((3 << 16) | minor.min(LATEST_MINOR));
                out.put_u32(u32::try_from(extensions.len()).unwrap_or(0));
                for (name, _) in extensions {
                    encode::cstr(out, name);
                }
            });
        }
        encode::message(out, b'R', |out| out.put_u32(0));
        for (name, value) in &self.told.parameters {
            encode::parameter_status(out, name, value);
        }
        let session = &self.entered.session;
        encode::message(out, b'K', |out| {
            out.put_i32(session.process_id);
            out.put_slice(session.secret_key.bytes());
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
