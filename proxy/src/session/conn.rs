//! A backend that a session holds: its connection, and what is still to come from it.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use shard::client::{Backend, Groups};
use shard::id::GroupId;
use tokio::io::AsyncWriteExt;
use tokio_util::io::poll_read_buf;

use crate::analysis::{Form, Refusal};
use crate::cancel::{Target, Victim};
use crate::failure::Failure;
use crate::protocol::encode::{self, TransactionStatus};
use crate::protocol::fields::Fields;
use crate::protocol::{Body, frame};
use crate::registry::Held;

/// Between two attempts to start a session on a server that goes down or comes up.
const RETRY_PAUSE: Duration = Duration::from_millis(50);

/// The names and values of a start-up message.
pub(crate) type Parameters = Vec<(Vec<u8>, Vec<u8>)>;

/// One answer that a backend still owes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Expect {
    pub(crate) kind: Kind,
    pub(crate) audience: Audience,
    pub(crate) stake: Stake,
}

/// Which message it answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Parse,
    Bind,
    Describe,
    Execute,
    /// An Execute that imports a snapshot of ours.
    Import,
    Close,
    Sync,
    Query,
}

/// Who gets the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Audience {
    /// The client, untouched.
    Client,
    /// The client, but for ReadyForQuery: the session says itself when it is ready.
    Statement,
    /// Nobody; an error goes to the client, whose own message cannot succeed then.
    Silent,
    /// The session itself ([`Captured`]); notices go to the client.
    Session,
    /// The session itself, notices included.
    Quiet,
    /// The client gets the rows of several groups as one answer: this is the first group.
    MergeFirst,
    /// As [`Audience::MergeFirst`]; a further group, whose descriptions are not repeated.
    MergeNext,
}

impl Audience {
    /// Of the group that comes at this place, from 0, in a merged answer.
    pub(crate) fn merging(index: usize) -> Audience {
        if index == 0 {
            Audience::MergeFirst
        } else {
            Audience::MergeNext
        }
    }
}

/// What it means if the connection breaks before the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Stake {
    /// Nothing is committed.
    Nothing,
    /// A commit is under way: its outcome is unknown.
    Commit,
}

/// What an answer to the session itself said.
#[derive(Debug, Default)]
pub(crate) struct Captured {
    /// The first error.
    pub(crate) error: Option<Failure>,
    /// The last command tag.
    pub(crate) tag: Option<String>,
    /// The first value of the last row.
    pub(crate) value: Option<Bytes>,
    /// Rows that merged statements counted.
    pub(crate) counted: u64,
    /// The types of a described statement's parameters.
    pub(crate) types: Vec<u32>,
    /// Where rows of merged statements are kept instead of passed on.
    pub(crate) kept: Option<Kept>,
}

/// More than the DataRow of a count has.
const LONGEST_COUNT: usize = 64;

/// DataRow messages that are kept for a while.
#[derive(Debug)]
pub(crate) struct Kept {
    pub(crate) rows: Vec<Bytes>,
    /// How many more bytes may be kept.
    pub(crate) room: usize,
}

impl Kept {
    pub(crate) fn new(room: usize) -> Self {
        Kept {
            rows: Vec::new(),
            room,
        }
    }

    fn keep(&mut self, message: &[u8]) -> Result<(), Failure> {
        let Some(room) = self.room.checked_sub(message.len()) else {
            let words = "the rows that this INSERT returns are too large to be put in order";
            return Err(Refusal::new("54000", words)
                .hint("Insert fewer rows at a time.")
                .into());
        };
        self.room = room;
        self.rows.push(Bytes::copy_from_slice(message));
        Ok(())
    }
}

impl Captured {
    /// For an answer that is merged with others of a statement of this form.
    pub(crate) fn merging(form: &Form) -> Self {
        Captured {
            kept: (*form == Form::Count).then(|| Kept::new(LONGEST_COUNT)),
            ..Captured::default()
        }
    }

    /// Keeps a row, if rows are kept.
    pub(crate) fn keep(&mut self, message: &[u8]) -> bool {
        let Some(kept) = &mut self.kept else {
            return false;
        };
        if let Err(failure) = kept.keep(message) {
            self.error.get_or_insert(failure);
        }
        true
    }
}

/// A connected backend.
///
/// Invariants: `expect` has one entry for each answer that is still to come, in order; `parsing` has
/// one for each `Kind::Parse` among them.
#[derive(Debug)]
pub(crate) struct Conn {
    pub(crate) group: GroupId,
    pub(crate) stream: Box<dyn Backend>,
    pub(crate) input: BytesMut,
    pub(crate) output: BytesMut,
    pub(crate) process_id: i32,
    pub(crate) secret_key: i32,
    pub(crate) expect: VecDeque<Expect>,
    /// Bytes of a message in passing that have not arrived yet, and whether the client gets them.
    pub(crate) passing: (usize, bool),
    /// The prepared statements that it holds: name and the session's number of the statement.
    pub(crate) prepared: HashMap<Vec<u8>, u64>,
    /// The number of the unnamed statement that it holds.
    pub(crate) unnamed: Option<u64>,
    /// Statements whose ParseComplete is still to come.
    pub(crate) parsing: VecDeque<(Vec<u8>, u64)>,
    /// Statements that the client has closed and this backend still holds.
    pub(crate) stale: Vec<Vec<u8>>,
    /// How many of the session's settings it has.
    pub(crate) settings_seen: u64,
    /// As its last ReadyForQuery said.
    pub(crate) status: TransactionStatus,
    /// A transaction was begun since, which that answer does not tell of.
    pub(crate) begun_since: bool,
    /// That answer was to a message of the client, not to one of our own.
    pub(crate) status_is_clients: bool,
    /// It was sent messages of the extended protocol since its last Sync.
    pub(crate) unsynced: bool,
    /// An error came since the last ReadyForQuery.
    pub(crate) errored: bool,
    /// It gave up waiting for replication since the last ReadyForQuery.
    pub(crate) commit_unconfirmed: bool,
    /// Its FATAL error, which is kept until the connection ends.
    pub(crate) last_words: Option<Fields>,
    pub(crate) captured: Captured,
    /// Its session was broken off to end a deadlock.
    pub(crate) victim: Arc<Victim>,
    /// Its place among the backends that the console shows.
    pub(crate) held: Option<Held>,
}

impl Conn {
    /// Connects to the group's leader and starts a PostgreSQL session there, within `patience`.
    ///
    /// Gives also the parameters that PostgreSQL reported. As no statement was sent, a server that goes
    /// down or comes up meanwhile is tried again.
    pub(crate) async fn open(
        groups: &dyn Groups,
        group: GroupId,
        startup: &[(Vec<u8>, Vec<u8>)],
        patience: Duration,
        max_message: usize,
    ) -> Result<(Conn, Vec<(Bytes, Bytes)>), Failure> {
        let deadline = Instant::now() + patience;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let failure = match Conn::open_once(groups, group, startup, left, max_message).await {
                Ok(opened) => return Ok(opened),
                Err(failure) => failure,
            };
            let passing = match &failure {
                Failure::Broken { .. } => true,
                Failure::Postgres(message) => {
                    let fields = Fields::read(message.get(frame::HEADER..).unwrap_or_default());
                    matches!(&*fields.code, "57P01" | "57P02" | "57P03")
                }
                _ => false,
            };
            if !passing || Instant::now() + RETRY_PAUSE >= deadline {
                return Err(failure);
            }
            tokio::time::sleep(RETRY_PAUSE).await;
        }
    }

    /// A connection over which nothing was said yet.
    pub(super) fn new(group: GroupId, stream: Box<dyn Backend>) -> Conn {
        Conn {
            group,
            stream,
            input: BytesMut::with_capacity(16 << 10),
            output: BytesMut::with_capacity(8 << 10),
            process_id: 0,
            secret_key: 0,
            expect: VecDeque::new(),
            passing: (0, false),
            prepared: HashMap::new(),
            unnamed: None,
            parsing: VecDeque::new(),
            stale: Vec::new(),
            settings_seen: 0,
            status: TransactionStatus::Idle,
            begun_since: false,
            status_is_clients: false,
            unsynced: false,
            errored: false,
            commit_unconfirmed: false,
            last_words: None,
            captured: Captured::default(),
            victim: Arc::default(),
            held: None,
        }
    }

    async fn open_once(
        groups: &dyn Groups,
        group: GroupId,
        startup: &[(Vec<u8>, Vec<u8>)],
        patience: Duration,
        max_message: usize,
    ) -> Result<(Conn, Vec<(Bytes, Bytes)>), Failure> {
        let stream = groups.connect(group, patience).await?;
        let mut conn = Conn::new(group, stream);
        let started = tokio::time::timeout(patience, conn.start(startup, max_message)).await;
        let parameters = started
            .unwrap_or_else(|_| Err(conn.broken("no answer to the start-up message in time".to_owned())))?;
        Ok((conn, parameters))
    }

    async fn start(
        &mut self,
        startup: &[(Vec<u8>, Vec<u8>)],
        max_message: usize,
    ) -> Result<Vec<(Bytes, Bytes)>, Failure> {
        let mut hello = BytesMut::new();
        encode::startup(&mut hello, startup);
        self.stream
            .write_all(&hello)
            .await
            .map_err(|e| self.broken(e.to_string()))?;
        self.stream
            .flush()
            .await
            .map_err(|e| self.broken(e.to_string()))?;
        let mut parameters = Vec::new();
        loop {
            let Some(found) = frame::peek(&self.input, max_message)?.filter(|f| f.len <= self.input.len())
            else {
                let stream = &mut self.stream;
                let input = &mut self.input;
                let read =
                    std::future::poll_fn(|cx| poll_read_buf(std::pin::Pin::new(&mut **stream), cx, input))
                        .await;
                match read {
                    Ok(0) => return Err(self.broken("it closed the connection".to_owned())),
                    Ok(_) => continue,
                    Err(error) => return Err(self.broken(error.to_string())),
                }
            };
            let message = self.input.split_to(found.len).freeze();
            let mut body = Body::new(&message[frame::HEADER..]);
            match found.tag {
                b'E' => return Err(Failure::Postgres(message)),
                b'R' if body.i32()? == 0 => {}
                b'R' => {
                    return Err(
                        self.broken("its PostgreSQL asks for a password, which nodes do not have".to_owned())
                    );
                }
                b'K' => {
                    self.process_id = body.i32()?;
                    self.secret_key = body.i32()?;
                }
                b'S' => {
                    let (name, value) = (body.cstr()?, body.cstr()?);
                    parameters.push((message.slice_ref(name), message.slice_ref(value)));
                }
                b'Z' => return Ok(parameters),
                _ => {}
            }
        }
    }

    /// What the end of this connection means outside a commit.
    pub(crate) fn broken(&self, why: String) -> Failure {
        Failure::Broken {
            group: self.group,
            why,
        }
    }

    /// How a cancel request reaches it.
    pub(crate) fn target(&self) -> Target {
        Target {
            group: self.group,
            process_id: self.process_id,
            secret_key: self.secret_key,
        }
    }

    /// Whether it is in no transaction, for certain.
    pub(crate) fn is_idle(&self) -> bool {
        self.status == TransactionStatus::Idle
            && !self.begun_since
            && !self.unsynced
            && self.expect.is_empty()
    }

    /// Adds an answer to those still to come.
    pub(crate) fn owes(&mut self, kind: Kind, audience: Audience, stake: Stake) {
        self.expect.push_back(Expect {
            kind,
            audience,
            stake,
        });
    }

    /// Sends a Query of our own.
    pub(crate) fn query(&mut self, sql: &str, audience: Audience, stake: Stake) {
        encode::query(&mut self.output, sql);
        self.owes(Kind::Query, audience, stake);
        self.unnamed = None;
    }

    /// Sends a statement of our own that may stand in the middle of the client's pipeline.
    pub(crate) fn own(&mut self, sql: &str, bound: Option<encode::Bound<'_>>, audience: Audience) {
        self.own_as(Kind::Execute, sql, bound, audience);
    }

    /// Sends one of the statements that import a snapshot into a transaction.
    pub(crate) fn import(&mut self, sql: &str) {
        self.own_as(Kind::Import, sql, None, Audience::Silent);
    }

    fn own_as(&mut self, execute: Kind, sql: &str, bound: Option<encode::Bound<'_>>, audience: Audience) {
        encode::own_statement(&mut self.output, sql, bound);
        let kinds = [
            Kind::Close,
            Kind::Parse,
            Kind::Bind,
            execute,
            Kind::Close,
            Kind::Close,
        ];
        for kind in kinds {
            self.owes(kind, audience, Stake::Nothing);
        }
        self.parsing.push_back((Vec::new(), 0));
    }

    /// Sends Sync.
    pub(crate) fn sync(&mut self, audience: Audience, stake: Stake) {
        encode::empty(&mut self.output, b'S');
        self.owes(Kind::Sync, audience, stake);
        self.unsynced = false;
    }

    /// Whether it holds this prepared statement.
    pub(crate) fn holds(&self, name: &[u8], number: u64) -> bool {
        if name.is_empty() {
            self.unnamed == Some(number)
        } else {
            self.prepared.get(name) == Some(&number)
        }
    }

    /// Sends the Parse message of a prepared statement.
    pub(crate) fn parse(&mut self, name: &[u8], number: u64, message: &[u8], audience: Audience) {
        if name.is_empty() {
            self.unnamed = Some(number);
        } else {
            if self.prepared.insert(name.to_vec(), number).is_some() {
                encode::close_statement(&mut self.output, name);
                self.owes(Kind::Close, Audience::Silent, Stake::Nothing);
            }
            self.stale.retain(|stale| stale != name);
        }
        self.output.extend_from_slice(message);
        self.parsing.push_back((name.to_vec(), number));
        self.owes(Kind::Parse, audience, Stake::Nothing);
    }

    /// Closes what the client has closed while another backend was in use.
    pub(crate) fn close_stale(&mut self) {
        for name in std::mem::take(&mut self.stale) {
            encode::close_statement(&mut self.output, &name);
            self.owes(Kind::Close, Audience::Silent, Stake::Nothing);
        }
    }

    /// A statement that PostgreSQL did not take.
    pub(crate) fn forget_parse(&mut self) {
        if let Some((name, number)) = self.parsing.pop_front() {
            if name.is_empty() {
                if self.unnamed == Some(number) {
                    self.unnamed = None;
                }
            } else if self.prepared.get(&name) == Some(&number) {
                self.prepared.remove(&name);
            }
        }
    }
}
