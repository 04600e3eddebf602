//! The console: administration by SQL on the virtual database `howdah`, with PgBouncer's verbs and a few of our own.
//!
//! There is no PostgreSQL behind it. A command is read by `parse`, done by `show` and `verbs`, and answered in PostgreSQL's
//! protocol, simple or extended (`extended`), with real types. Roles are PostgreSQL's: superusers may do everything, members
//! of `pg_monitor` may SHOW; asked anew for each command.
//!
//! Invariants:
//! - It waits for no session and holds no lock while it waits: clients do not notice it, but for what a verb does to them.
//! - Verbs only ask ([`crate::registry`]); a session does what it is asked when nothing is cut in two by it.

mod extended;
mod help;
mod parse;
mod show;
mod table;
mod verbs;

use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, BytesMut};
use coordinator::roles::Role;
use shard::client::Backend;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::Shared;
use crate::analysis::{Refusal, split};
use crate::cancel::Entered;
use crate::failure::{Ended, Failure, Severity};
use crate::protocol::encode::{self, TransactionStatus};
use crate::protocol::frame::{self, HEADER};
use crate::protocol::frontend;
use crate::registry::{Activity, Identity, Pins, Registered};
use extended::Statements;
use parse::{Command, Courtesy};
use table::{Formats, Table};
use verbs::Stopped;

/// The virtual database. No real one can have its name.
pub(crate) const DATABASE: &str = "howdah";

/// How long a group, or the other nodes, may take to answer.
const PATIENCE: Duration = Duration::from_secs(2);

/// The longest message: commands are short.
const MAX_MESSAGE: usize = 64 << 10;

/// How much a client may send ahead while PAUSE waits.
const AHEAD: usize = 64 << 10;

/// One operator's connection.
#[derive(Debug)]
pub(crate) struct Console<S> {
    shared: Arc<Shared>,
    stream: S,
    input: BytesMut,
    output: BytesMut,
    /// As it was when the last group answered.
    role: Role,
    statements: Statements,
    /// Between BEGIN and its end, for drivers that must have it so.
    in_block: bool,
    /// An error came: messages are skipped until Sync.
    skip: bool,
    registered: Registered,
    /// Its process id is no other session's.
    entered: Entered,
}

/// What a command has to say.
#[derive(Debug, Default)]
struct Answer {
    notices: Vec<String>,
    table: Option<Table>,
}

/// Who wants to administer and has proved to be this role, and the connection over which.
pub(crate) struct Visitor<S> {
    pub(crate) stream: S,
    /// What was read of it already.
    pub(crate) input: BytesMut,
    /// What it is still to be told.
    pub(crate) output: BytesMut,
    pub(crate) identity: Identity,
    pub(crate) role: Role,
    pub(crate) entered: Entered,
}

impl<S: Backend> Console<S> {
    /// Greets a client whose role may administer ([`check`]).
    pub(crate) fn begin(shared: &Arc<Shared>, visitor: Visitor<S>) -> Console<S> {
        let mut console = Console {
            shared: Arc::clone(shared),
            stream: visitor.stream,
            input: visitor.input,
            output: visitor.output,
            role: visitor.role,
            statements: Statements::default(),
            in_block: false,
            skip: false,
            registered: shared.registry.enter_console(visitor.identity),
            entered: visitor.entered,
        };
        console.greet();
        console
    }

    fn greet(&mut self) {
        let identity = &self.registered.client.identity;
        let out = &mut self.output;
        let parameters = [
            // Tools look for what they can do at this version: it is the servers'.
            ("server_version", self.role.server_version.as_str()),
            ("server_encoding", "UTF8"),
            ("client_encoding", "UTF8"),
            ("DateStyle", "ISO, MDY"),
            ("IntervalStyle", "postgres"),
            ("TimeZone", "UTC"),
            ("integer_datetimes", "on"),
            ("standard_conforming_strings", "on"),
            ("default_transaction_read_only", "off"),
            ("in_hot_standby", "off"),
            ("is_superuser", if self.role.superuser { "on" } else { "off" }),
            ("session_authorization", &identity.user),
            ("application_name", &identity.application_name),
        ];
        for (name, value) in parameters {
            encode::parameter_status(out, name.as_bytes(), value.as_bytes());
        }
        // There is nothing to cancel; libpq wants a key.
        let session = &self.entered.session;
        encode::backend_key_data(out, session.process_id, session.secret_key.bytes());
        self.ready();
        self.registered.client.admit();
        self.registered.client.rests(Activity::Idle, Pins::default());
    }

    fn ready(&mut self) {
        let status = if self.in_block {
            TransactionStatus::InBlock
        } else {
            TransactionStatus::Idle
        };
        encode::ready(&mut self.output, status);
    }

    /// Serves the operator until he goes.
    pub(crate) async fn serve(&mut self) -> Ended {
        loop {
            if let Err(ended) = self.take_input().await {
                return ended;
            }
            if self.stream.write_all_buf(&mut self.output).await.is_err()
                || self.stream.flush().await.is_err()
            {
                return Ended::ByClient;
            }
            match self.stream.read_buf(&mut self.input).await {
                Ok(1..) => {}
                Ok(0) | Err(_) => return Ended::ByClient,
            }
        }
    }

    async fn take_input(&mut self) -> Result<(), Ended> {
        loop {
            let found =
                frame::peek_frontend(&self.input, MAX_MESSAGE).map_err(|error| Ended::Fatal(error.into()))?;
            let Some(found) = found.filter(|found| found.len <= self.input.len()) else {
                return Ok(());
            };
            let message = self.input.split_to(found.len);
            self.registered.client.requests();
            let body = message.get(HEADER..).unwrap_or_default();
            match found.tag {
                b'Q' if self.skip => {}
                b'Q' => self.simple(body).await?,
                b'X' => return Err(Ended::ByClient),
                tag => self.extended(tag, body).await?,
            }
            self.registered.client.rests(Activity::Idle, Pins::default());
        }
    }

    /// A Query: its commands in order, up to the first that fails.
    async fn simple(&mut self, body: &[u8]) -> Result<(), Ended> {
        let result = self.commands(body).await;
        self.tell(result)?;
        self.skip = false;
        self.ready();
        Ok(())
    }

    async fn commands(&mut self, body: &[u8]) -> Result<(), Halted> {
        let text = std::str::from_utf8(frontend::query_text(body)?)
            .map_err(|_| Refusal::new("22021", "invalid byte sequence for encoding \"UTF8\""))?;
        let ranges = split(text)?;
        if ranges.is_empty() {
            encode::empty(&mut self.output, b'I');
        }
        for range in ranges {
            let command = parse::parse(&text[range])?;
            let answer = self.run(&command).await?;
            self.notices(&answer);
            if let Some(table) = &answer.table {
                let formats = Formats::default();
                table::describe(&mut self.output, table.columns, &formats);
                for row in &table.rows {
                    table::row(&mut self.output, row, &formats);
                }
            }
            encode::command_complete(&mut self.output, command.tag());
        }
        Ok(())
    }

    fn notices(&mut self, answer: &Answer) {
        for notice in &answer.notices {
            encode::notice(&mut self.output, notice);
        }
    }

    /// Tells of an error; gives what ends the connection.
    fn tell(&mut self, result: Result<(), Halted>) -> Result<(), Ended> {
        match result {
            Ok(()) => Ok(()),
            Err(Halted::End(ended)) => Err(ended),
            Err(Halted::Fail(failure)) => {
                failure.encode(Severity::Error, &mut self.output);
                self.skip = true;
                Ok(())
            }
        }
    }

    /// Does what is said.
    async fn run(&mut self, command: &Command) -> Result<Answer, Halted> {
        self.may(command).await?;
        let mut answer = Answer::default();
        let shared = Arc::clone(&self.shared);
        match command {
            Command::Empty => {}
            Command::Show(subject) => answer.table = Some(subject.table(&shared, &mut answer.notices).await?),
            Command::Help => answer.notices.push(help::text()),
            Command::Pause(which) => {
                let gone = gone(&mut self.stream, &mut self.input);
                verbs::pause(&shared, which, gone).await?;
            }
            Command::Resume(which) => verbs::resume(&shared, which)?,
            Command::Reconnect(which) => verbs::reconnect(&shared, which).await?,
            Command::Kill(database) => verbs::kill(&shared, database).await?,
            Command::Reload => verbs::reload(&shared, &mut answer.notices).await?,
            Command::Courtesy(courtesy) => match courtesy {
                Courtesy::Begin => self.in_block = true,
                Courtesy::Commit | Courtesy::Rollback => self.in_block = false,
                Courtesy::Set => {}
            },
        }
        if !command.only_shows() {
            let user = &self.registered.client.identity.user;
            tracing::info!(user, ?command, "an operator's command is done");
        }
        Ok(answer)
    }

    /// Whether the role may do this, now. While no group answers, what it could do before.
    async fn may(&mut self, command: &Command) -> Result<(), Halted> {
        if matches!(command, Command::Courtesy(_) | Command::Empty | Command::Help) {
            return Ok(());
        }
        let user = &self.registered.client.identity.user;
        if let Ok(found) = self.shared.roles.look_up(user, DATABASE, PATIENCE).await {
            let gone = || Refusal::new("28000", format!("role \"{user}\" does not exist"));
            let role = found.ok_or_else(gone);
            let allowed = role.and_then(|role| check(&role).map(|()| role));
            self.role = allowed.map_err(|refusal| Halted::End(Ended::Fatal(refusal.into())))?;
        }
        if self.role.superuser || command.only_shows() {
            return Ok(());
        }
        let words = format!("permission denied: {} is for superusers", command.tag());
        Err(Refusal::new("42501", words)
            .hint("Members of pg_monitor may use SHOW.")
            .into())
    }

    /// Ends the connection with last words.
    pub(crate) async fn close(mut self, ended: Ended) {
        if let Ended::Fatal(failure) = ended {
            failure.encode(Severity::Fatal, &mut self.output);
        }
        let goodbye = async {
            // It may be gone already.
            let _ = self.stream.write_all_buf(&mut self.output).await;
            let _ = self.stream.shutdown().await;
        };
        let patience = Duration::from_secs(1);
        if tokio::time::timeout(patience, goodbye).await.is_err() {
            tracing::debug!("an operator did not take the last messages");
        }
    }
}

/// Whether a role may at least SHOW.
///
/// # Errors
/// 42501 where it may not.
pub(crate) fn check(role: &Role) -> Result<(), Refusal> {
    if role.superuser || role.member_of.iter().any(|of| of == "pg_monitor") {
        return Ok(());
    }
    let words = format!("permission denied for database \"{DATABASE}\"");
    Err(Refusal::new("42501", words)
        .detail("It is Howdah's console, for superusers; members of pg_monitor may use SHOW."))
}

/// Ready when the client has gone. What it sends meanwhile is kept, up to a bound.
async fn gone<S: Backend>(stream: &mut S, input: &mut BytesMut) {
    while input.remaining() < AHEAD {
        if let Ok(0) | Err(_) = stream.read_buf(input).await {
            return;
        }
    }
    std::future::pending::<()>().await;
}

/// Why a message is not done.
enum Halted {
    Fail(Failure),
    End(Ended),
}

impl<F: Into<Failure>> From<F> for Halted {
    fn from(failure: F) -> Self {
        Halted::Fail(failure.into())
    }
}

impl From<Stopped> for Halted {
    fn from(stopped: Stopped) -> Self {
        match stopped {
            Stopped::Refused(refusal) => Halted::Fail(refusal.into()),
            Stopped::Gone => Halted::End(Ended::ByClient),
        }
    }
}
