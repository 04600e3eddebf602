//! A backend that a session holds: its connection, and what is still to come from it.

use std::collections::VecDeque;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use lru::LruCache;
use shard::client::{Backend, Groups};
use shard::id::GroupId;
use tokio::io::AsyncWriteExt;
use tokio_util::io::poll_read_buf;

use super::captured::Captured;
use super::pool::Berth;
use crate::cancel::{OwnCancels, Target, now};
use crate::failure::Failure;
use crate::protocol::encode::{self, TransactionStatus};
use crate::protocol::fields::Fields;
use crate::protocol::{Body, frame};
use crate::registry::Held;

/// Between two attempts to start a session on a server that goes down or comes up.
const RETRY_PAUSE: Duration = Duration::from_millis(50);

/// Prepared statements that a backend holds, of whatever sessions. One more, and the one that was used least goes.
const MOST_PREPARED: usize = 1000;

/// What columns a statement gives, as [`super::relay::columns_of`] has them, once that is known.
pub(crate) type Columns = Arc<OnceLock<Vec<u8>>>;

/// The names and values of a start-up message.
pub(crate) type Parameters = Vec<(Vec<u8>, Vec<u8>)>;

/// One answer that a backend still owes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Expect {
    pub(crate) kind: Kind,
    pub(crate) audience: Audience,
    pub(crate) stake: Stake,
}

impl Expect {
    /// How many parameters are kept from the client in it.
    pub(crate) fn but(self) -> Option<usize> {
        match self.kind {
            Kind::DescribeBut(holes) => Some(holes),
            _ => None,
        }
    }
}

/// Which message it answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Parse,
    Bind,
    Describe,
    /// The same of a prepared statement whose last parameters, so many, the client does not know.
    DescribeBut(usize),
    /// A Describe of a prepared statement by the session itself.
    Columns,
    Execute,
    /// An Execute that imports a snapshot of ours.
    Import,
    Close,
    /// A Close of a prepared statement whose name is known here.
    CloseStatement,
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
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Stake {
    /// Nothing is committed.
    #[default]
    Nothing,
    /// A commit is under way: its outcome is unknown.
    Commit,
}

/// A connected backend.
///
/// Invariants: `expect` has one entry for each answer that is still to come, in order; `parsing` has
/// one for each `Kind::Parse` among them, `closing` one for each `Kind::CloseStatement`, and `describing` one for
/// each `Kind::Columns`.
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
    /// The prepared statements that it holds: name and number of the statement, at most [`MOST_PREPARED`].
    pub(crate) prepared: LruCache<Vec<u8>, u64>,
    /// The number of the unnamed statement that it holds.
    pub(crate) unnamed: Option<u64>,
    /// Statements whose ParseComplete is still to come.
    pub(crate) parsing: VecDeque<(Vec<u8>, u64)>,
    /// Where descriptions go that are still to come.
    pub(crate) describing: VecDeque<Columns>,
    /// Statements whose CloseComplete is still to come.
    pub(crate) closing: VecDeque<Vec<u8>>,
    /// Statements that the client has closed and this backend still holds.
    pub(crate) stale: Vec<Vec<u8>>,
    /// Portals of that kind. They end with the transaction.
    pub(crate) stale_portals: Vec<Vec<u8>>,
    /// How many of the session's settings it has.
    pub(crate) settings_seen: u64,
    /// Those of this session.
    pub(crate) owner: u64,
    /// It may have settings or cursors of its session, however what set them has ended. Only a RESET that was answered
    /// takes this back.
    pub(crate) dirty: bool,
    /// It still has those of another session, which come off before it does anything.
    pub(crate) reset_due: bool,
    /// A cancel of it was not answered: it may meet whatever runs here next.
    pub(crate) unsure: bool,
    /// It has been told to listen. Then even an UNLISTEN that has nothing to do keeps its transaction from being prepared
    /// (`Async_UnlistenAll` in async.c), so nobody else gets it.
    pub(crate) listened: bool,
    /// How many cursors it has opened since anybody looked.
    pub(crate) declared: usize,
    /// What it reported when it began.
    pub(crate) parameters: Arc<[(Bytes, Bytes)]>,
    pub(crate) berth: Option<Berth>,
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
    /// Whether Howdah itself cancels what its session does.
    pub(crate) cancels: Arc<OwnCancels>,
    /// Since when it is there, microseconds since 1970.
    pub(crate) opened: u64,
    /// Its place among the backends that its session has, as the console shows them.
    pub(crate) held: Option<Held>,
}

impl Conn {
    /// Connects to the group's leader and starts a PostgreSQL session there, within `patience`, in which it waits at most
    /// `leader_wait` at a time for there to be a leader. As no statement was sent, a server that goes down or comes up meanwhile
    /// is tried again.
    pub(crate) async fn open(
        groups: &dyn Groups,
        group: GroupId,
        startup: &[(Vec<u8>, Vec<u8>)],
        patience: Duration,
        leader_wait: Duration,
        max_message: usize,
    ) -> Result<Conn, Failure> {
        let deadline = Instant::now() + patience;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let leader_wait = leader_wait.min(left);
            let failure = match Conn::open_once(groups, group, startup, left, leader_wait, max_message).await
            {
                Ok(opened) => return Ok(opened),
                Err(failure) => failure,
            };
            let passing = match &failure {
                Failure::Broken { .. } => true,
                Failure::Postgres(message) => {
                    let fields = Fields::read(message.get(frame::HEADER..).unwrap_or_default());
                    // The last: backends of other nodes, or of sessions that are ending, have all the places.
                    matches!(&*fields.code, "57P01" | "57P02" | "57P03" | "53300")
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
            prepared: LruCache::unbounded(),
            unnamed: None,
            parsing: VecDeque::new(),
            describing: VecDeque::new(),
            closing: VecDeque::new(),
            stale: Vec::new(),
            stale_portals: Vec::new(),
            settings_seen: 0,
            owner: 0,
            dirty: false,
            reset_due: false,
            unsure: false,
            listened: false,
            declared: 0,
            parameters: Arc::from([]),
            berth: None,
            status: TransactionStatus::Idle,
            begun_since: false,
            status_is_clients: false,
            unsynced: false,
            errored: false,
            commit_unconfirmed: false,
            last_words: None,
            captured: Captured::default(),
            cancels: Arc::default(),
            opened: now(),
            held: None,
        }
    }

    async fn open_once(
        groups: &dyn Groups,
        group: GroupId,
        startup: &[(Vec<u8>, Vec<u8>)],
        patience: Duration,
        leader_wait: Duration,
        max_message: usize,
    ) -> Result<Conn, Failure> {
        let stream = groups.connect(group, leader_wait).await?;
        let mut conn = Conn::new(group, stream);
        let started = tokio::time::timeout(patience, conn.start(startup, max_message)).await;
        let parameters = started
            .unwrap_or_else(|_| Err(conn.broken("no answer to the start-up message in time".to_owned())))?;
        conn.parameters = parameters.into();
        Ok(conn)
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

    /// Whether nothing of its session is under way there.
    pub(crate) fn is_at_rest(&self) -> bool {
        self.is_idle() && self.input.is_empty() && self.output.is_empty() && self.passing.0 == 0
    }

    /// Its session is this one now.
    pub(crate) fn belongs_to(&mut self, session: u64, cancels: Arc<OwnCancels>) {
        if self.owner != session {
            self.owner = session;
            self.reset_due |= self.dirty;
            self.settings_seen = 0;
        }
        self.cancels = cancels;
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
            self.prepared.peek(name) == Some(&number)
        }
    }

    /// Notes that it holds a prepared statement. What was used least makes way.
    pub(crate) fn hold(&mut self, name: &[u8], number: u64) {
        self.prepared.put(name.to_vec(), number);
        if self.prepared.len() > MOST_PREPARED
            && let Some((oldest, _)) = self.prepared.pop_lru()
        {
            self.stale.push(oldest);
        }
    }

    /// None of the prepared statements that it holds is used again.
    pub(crate) fn forget_prepared(&mut self) {
        while let Some((name, _)) = self.prepared.pop_lru() {
            self.stale.push(name);
        }
        self.unnamed = None;
    }

    /// Sees to it that it holds no prepared statement of this name.
    pub(crate) fn make_way(&mut self, name: &[u8]) {
        if self.prepared.pop(name).is_some() {
            self.stale.push(name.to_vec());
        }
        self.close_stale();
    }

    /// Sends the Parse message of a prepared statement.
    pub(crate) fn parse(&mut self, name: &[u8], number: u64, message: &[u8], audience: Audience) {
        if name.is_empty() {
            self.unnamed = Some(number);
        } else {
            self.make_way(name);
            self.hold(name, number);
        }
        self.output.extend_from_slice(message);
        self.parsing.push_back((name.to_vec(), number));
        self.owes(Kind::Parse, audience, Stake::Nothing);
    }

    /// Has a prepared statement described, for the session itself.
    pub(crate) fn describe_into(&mut self, name: &[u8], columns: &Columns) {
        encode::describe_statement(&mut self.output, name);
        self.owes(Kind::Columns, Audience::Quiet, Stake::Nothing);
        self.describing.push_back(Arc::clone(columns));
    }

    /// Closes what the client has closed while another backend was in use.
    pub(crate) fn close_stale(&mut self) {
        for name in std::mem::take(&mut self.stale) {
            encode::close_statement(&mut self.output, &name);
            self.owes(Kind::CloseStatement, Audience::Silent, Stake::Nothing);
            self.closing.push_back(name);
        }
        for name in std::mem::take(&mut self.stale_portals) {
            encode::close_portal(&mut self.output, &name);
            self.owes(Kind::Close, Audience::Silent, Stake::Nothing);
        }
    }

    /// A statement that PostgreSQL did not close, as it skipped the message.
    pub(crate) fn forget_close(&mut self) {
        if let Some(name) = self.closing.pop_front()
            && !name.is_empty()
        {
            self.stale.push(name);
        }
    }

    /// A statement that PostgreSQL did not take.
    pub(crate) fn forget_parse(&mut self) {
        if let Some((name, number)) = self.parsing.pop_front() {
            if name.is_empty() {
                if self.unnamed == Some(number) {
                    self.unnamed = None;
                }
            } else if self.prepared.peek(&name) == Some(&number) {
                self.prepared.pop(&name);
            }
        }
    }
}
