//! What goes wrong, and the one place that turns it into an SQLSTATE and words for the client:
//! what happened, why, what to do.

use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use shard::client::ConnectError;
use shard::id::GroupId;

use crate::analysis::Refusal;
use crate::cancel::Reason;
use crate::protocol::fields::Fields;
use crate::protocol::frame::{FrameError, HEADER};
use crate::protocol::{Body, Malformed, encode};

/// Why a statement, or a whole session, cannot go on.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// The analysis, or a rule about groups, does not allow it.
    #[error("{0}")]
    Refused(Box<Refusal>),
    /// PostgreSQL's own ErrorResponse, to be passed on as it is.
    #[error("PostgreSQL refused it")]
    Postgres(Bytes),
    /// No backend of the group can be had.
    #[error("{0}")]
    Connect(#[source] Box<ConnectError>),
    /// As many sessions have backends as may.
    #[error("no backend is free")]
    NoBackend,
    /// As many sessions keep backends as may.
    #[error("too many sessions of this node have something of their own in the home group")]
    TooManyStay,
    /// The connection to a backend ended outside a commit.
    #[error("the connection to group {group} ended: {why}")]
    Broken { group: GroupId, why: String },
    /// It ended while the session had something there that nothing brings back.
    #[error("terminating connection because {what} lost")]
    HomeLost {
        group: GroupId,
        what: &'static str,
        why: String,
    },
    /// A transaction is committed, but for its NOTIFY or LISTEN.
    #[error("the transaction is committed, but its NOTIFY, LISTEN and UNLISTEN may not be: {why}")]
    CommittedUntold { why: String },
    /// It ended while something was being committed there.
    #[error("the connection to group {group} ended during a commit: {why}")]
    CommitBroken { group: GroupId, why: String },
    /// PostgreSQL gave up waiting for replication: its success means nothing.
    #[error("group {group} did not confirm that the commit is replicated")]
    CommitUnconfirmed { group: GroupId },
    /// A transaction across groups is committed, and a group cannot be told yet.
    #[error("the transaction is committed, but group {group} does not answer")]
    CommittedBehind { group: GroupId },
    /// It waited for a transaction that waited for it, on another group.
    #[error("a deadlock across groups")]
    Deadlock,
    /// It took longer than `statement_timeout`.
    #[error("canceling statement due to statement timeout")]
    StatementTimeout,
    /// It waited longer for a lock than `lock_timeout`.
    #[error("canceling statement due to lock timeout")]
    LockTimeout,
    /// The client left a transaction open for longer than `idle_in_transaction_session_timeout`.
    #[error("terminating connection due to idle-in-transaction timeout")]
    IdleInTransaction,
    /// The client said nothing for longer than `idle_session_timeout`.
    #[error("terminating connection due to idle-session timeout")]
    IdleSession,
    /// Nothing keeps the transaction's snapshot of the group any more.
    #[error("the snapshot of group {group} is lost")]
    SnapshotLost { group: GroupId },
    /// A statement in a transaction that has failed.
    #[error("the transaction is aborted")]
    TransactionAborted,
    /// A group of the transaction was lost: nothing but a full ROLLBACK ends it.
    #[error("a part of the transaction is lost")]
    TransactionLost,
    /// A statement that each group runs for itself: some have done it, and one has not.
    #[error("a statement is done on some groups only")]
    Partly(Box<Partly>),
    /// The catalogue of distributed tables cannot be read.
    #[error("the catalogue cannot be read: {0}")]
    Catalogue(String),
    /// No such prepared statement.
    #[error("prepared statement \"{0}\" does not exist")]
    NoStatement(String),
    /// Its name is taken.
    #[error("prepared statement \"{0}\" already exists")]
    StatementExists(String),
    /// No such portal.
    #[error("portal \"{0}\" does not exist")]
    NoPortal(String),
    /// The session holds too many.
    #[error("more than {0} prepared statements")]
    TooManyStatements(usize),
    /// The node has as many clients as it may.
    #[error("more than {0} clients")]
    TooManyClients(usize),
    /// A message's length or type cannot be.
    #[error("{0}")]
    Frame(#[from] FrameError),
    /// A message's content cannot be.
    #[error("{0}")]
    Malformed(#[from] Malformed),
    /// The last places are kept.
    #[error("the last places are reserved for superusers")]
    PlacesReserved,
    /// It has as many sessions as it may.
    #[error("too many sessions of role \"{0}\"")]
    TooManyOfRole(String),
    /// It has as many sessions as it may.
    #[error("too many sessions in database \"{0}\"")]
    TooManyInDatabase(String),
    /// Too many clients have not said yet who they are.
    #[error("too many clients that are not authenticated")]
    TooManyGuests,
    /// It does not prove that the client is this role; or there is no such role.
    #[error("wrong password for role \"{0}\"")]
    WrongPassword(String),
    /// What is known of roles cannot be read.
    #[error("roles cannot be read: {0}")]
    Roles(String),
    /// Nothing was proved in time.
    #[error("no authentication in time")]
    AuthenticationTimeout,
    /// An operator ended it.
    #[error("an operator ended the session")]
    Killed,
    /// The node stops.
    #[error("the node is shutting down")]
    ShuttingDown,
}

/// See [`Failure::Partly`].
#[derive(Debug)]
pub(crate) struct Partly {
    /// Groups on which it is done.
    pub(crate) done: Vec<GroupId>,
    /// The group on which it failed.
    pub(crate) failed: GroupId,
    /// Groups on which it was not tried.
    pub(crate) untried: Vec<GroupId>,
    /// The error there.
    pub(crate) error: Failure,
    pub(crate) again: Again,
}

/// How a statement is repeated that some groups have done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Again {
    /// As it is.
    Same,
    /// So that it does nothing where it is done.
    IfNeeded,
    /// As it is; it does the rest.
    Rest,
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        Failure::Refused(Box::new(refusal))
    }
}

impl From<Reason> for Failure {
    fn from(reason: Reason) -> Self {
        match reason {
            Reason::Client => Refusal::new("57014", "canceling statement due to user request").into(),
            Reason::Deadlock => Failure::Deadlock,
            Reason::StatementTimeout => Failure::StatementTimeout,
            Reason::LockTimeout => Failure::LockTimeout,
        }
    }
}

impl From<ConnectError> for Failure {
    fn from(error: ConnectError) -> Self {
        Failure::Connect(Box::new(error))
    }
}

/// How bad it is for the session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Severity {
    /// The statement fails.
    Error,
    /// The session ends.
    Fatal,
}

impl Failure {
    /// What PostgreSQL has said elsewhere than to a session: SQLSTATE, message, detail and hint.
    pub(crate) fn said(fields: [Option<&str>; 4]) -> Failure {
        let mut message = BytesMut::new();
        encode::message(&mut message, b'E', |out| {
            field(out, b'S', "ERROR");
            field(out, b'V', "ERROR");
            for (kind, text) in [b'C', b'M', b'D', b'H'].into_iter().zip(fields) {
                if let Some(text) = text {
                    field(out, kind, text);
                }
            }
            out.put_u8(0);
        });
        Failure::Postgres(message.freeze())
    }

    /// The same where a leader was waited for so long, in parts.
    pub(crate) fn after_waiting(mut self, patience: Duration) -> Failure {
        if let Failure::Connect(error) = &mut self
            && let ConnectError::NoLeader { waited, .. } = &mut **error
        {
            *waited = patience;
        }
        self
    }

    /// The same with another context (field W), where PostgreSQL's error has one: of a statement of our own, it would say
    /// nothing to the client.
    pub(crate) fn with_context(self, context: impl Fn(&str) -> String) -> Failure {
        self.with_field(b'W', context)
    }

    /// The same where PostgreSQL was given another text than the client's: its position (field P), in characters from 1, is
    /// this one there.
    pub(crate) fn moved(self, place: impl Fn(usize) -> usize) -> Failure {
        self.with_field(b'P', |position| match position.parse::<usize>() {
            Ok(position) => place(position).to_string(),
            Err(_) => position.to_owned(),
        })
    }

    /// The same with another value of one field, where PostgreSQL's error has it.
    fn with_field(self, changes: u8, change: impl Fn(&str) -> String) -> Failure {
        let Failure::Postgres(message) = self else {
            return self;
        };
        let mut body = Body::new(message.get(HEADER..).unwrap_or_default());
        let mut changed = BytesMut::new();
        encode::message(&mut changed, b'E', |out| {
            while let Ok(kind @ 1..) = body.u8() {
                let Ok(value) = body.cstr() else { break };
                if kind == changes {
                    field(out, kind, &change(&String::from_utf8_lossy(value)));
                } else {
                    out.put_u8(kind);
                    encode::cstr(out, value);
                }
            }
            out.put_u8(0);
        });
        Failure::Postgres(changed.freeze())
    }

    /// Appends the ErrorResponse.
    pub(crate) fn encode(&self, severity: Severity, out: &mut BytesMut) {
        if let Failure::Postgres(message) = self {
            pass_on(message, severity, out);
            return;
        }
        let report = self.report();
        let severity = match severity {
            Severity::Error => "ERROR",
            Severity::Fatal => "FATAL",
        };
        encode::message(out, b'E', |out| {
            field(out, b'S', severity);
            field(out, b'V', severity);
            field(out, b'C', report.sqlstate);
            field(out, b'M', &report.message);
            for (kind, text) in [(b'D', &report.detail), (b'H', &report.hint)] {
                if let Some(text) = text {
                    field(out, kind, text);
                }
            }
            if let Some(position) = report.position {
                field(out, b'P', &position.to_string());
            }
            out.put_u8(0);
        });
    }

    /// Whether PostgreSQL says that the transaction could do at another time what it cannot do with its snapshot.
    pub(crate) fn is_of_serialization(&self) -> bool {
        let Failure::Postgres(message) = self else {
            return false;
        };
        Fields::read(message.get(HEADER..).unwrap_or_default()).code == "40001"
    }

    /// Whether it is of PostgreSQL's scanner or grammar (`scanner_yyerror` in scan.l, `base_yyparse` in gram.y).
    pub(crate) fn is_of_syntax(&self) -> bool {
        let Failure::Postgres(message) = self else {
            return false;
        };
        let fields = Fields::read(message.get(HEADER..).unwrap_or_default());
        fields.code == "42601"
            && ["scanner_", "base_yy"]
                .iter()
                .any(|of| fields.routine.starts_with(of))
    }

    /// Whether PostgreSQL was given a text to prepare, has read it, and objects to nothing but that it is several statements
    /// (`exec_parse_message` in postgres.c).
    pub(crate) fn is_of_several(&self) -> bool {
        let Failure::Postgres(message) = self else {
            return false;
        };
        let fields = Fields::read(message.get(HEADER..).unwrap_or_default());
        fields.code == "42601" && fields.routine == "exec_parse_message"
    }

    /// Whether it is what PostgreSQL says to CopyFail (`CopyGetData` in copyfromparse.c).
    pub(crate) fn is_copy_fail(&self) -> bool {
        let Failure::Postgres(message) = self else {
            return false;
        };
        let fields = Fields::read(message.get(HEADER..).unwrap_or_default());
        fields.code == "57014" && fields.routine == "CopyGetData"
    }

    /// Whether DROP DATABASE ... WITH (FORCE) met a backend that the user may not end (`procarray.c`).
    pub(crate) fn may_not_force(&self) -> bool {
        let Failure::Postgres(message) = self else {
            return false;
        };
        let fields = Fields::read(message.get(HEADER..).unwrap_or_default());
        fields.code == "42501" && fields.routine == "TerminateOtherDBBackends"
    }

    /// SQLSTATE and words. [`Failure::Postgres`] has its own and is summed up here.
    fn report(&self) -> Refusal {
        match self {
            Failure::Refused(refusal) => (**refusal).clone(),
            Failure::Postgres(message) => Refusal::new(
                "XX000",
                Fields::read(message.get(HEADER..).unwrap_or_default()).message,
            ),
            Failure::Connect(error) => connect_words(error),
            Failure::NoBackend => Refusal::new("53300", self.to_string())
                .detail("All that this node may have are in use, by statements and transactions that take long.")
                .hint("Nothing was done. Repeat the statement."),
            Failure::TooManyStay => Refusal::new("53300", self.to_string())
                .detail("Each has a backend to itself: half of those that the node may have.")
                .hint("Nothing was done. Drop temporary tables, release locks or stop to listen where it is no longer needed, or use another node."),
            Failure::HomeLost { group, why, .. } => Refusal::new("57P01", self.to_string())
                .detail(format!("The connection to group {group}, which had that, ended: {why}."))
                .hint("Connect again, and repeat what is needed of it."),
            Failure::CommittedUntold { .. } => Refusal::new("08007", self.to_string())
                .hint("Do not repeat the transaction. Repeat NOTIFY alone: listeners may hear it twice."),
            Failure::Broken { .. }
            | Failure::CommitBroken { .. }
            | Failure::CommitUnconfirmed { .. }
            | Failure::CommittedBehind { .. } => broken_words(self),
            Failure::Deadlock => Refusal::new("40P01", "deadlock detected")
                .detail("Transactions on several groups waited for each other in a circle; this one was the youngest.")
                .hint("Repeat the transaction."),
            Failure::StatementTimeout => Refusal::new("57014", self.to_string()),
            Failure::LockTimeout => Refusal::new("55P03", self.to_string()),
            Failure::IdleInTransaction => Refusal::new("25P03", self.to_string()),
            Failure::IdleSession => Refusal::new("57P05", self.to_string()),
            Failure::SnapshotLost { .. } => Refusal::new("40001", self.to_string())
                .detail("The group has another leader, or the connection that kept the snapshot was lost, since the transaction began.")
                .hint("Repeat the transaction."),
            Failure::TransactionAborted => Refusal::new(
                "25P02",
                "current transaction is aborted, commands ignored until end of transaction block",
            ),
            Failure::TransactionLost => {
                Refusal::new("25P02", "the connection to a group of this transaction was lost")
                    .detail("What the transaction did there is rolled back, its savepoints are gone.")
                    .hint("End the transaction with ROLLBACK.")
            }
            Failure::Partly(partly) => partly_words(partly),
            // It is read before the statement is sent anywhere.
            Failure::Catalogue(why) => {
                Refusal::new("57P03", "the catalogue of distributed tables cannot be read")
                    .detail(why)
                    .hint("Nothing was done. Repeat the statement when the groups have leaders.")
            }
            Failure::NoStatement(_) => Refusal::new("26000", self.to_string()),
            Failure::StatementExists(_) => Refusal::new("42P05", self.to_string()),
            Failure::NoPortal(_) => Refusal::new("34000", self.to_string()),
            Failure::TooManyStatements(max) => Refusal::new(
                "53400",
                format!("a session may hold {max} prepared statements and has them"),
            )
            .hint("Close (DEALLOCATE) those that are no longer used."),
            Failure::TooManyClients(max) => Refusal::new("53300", "sorry, too many clients already")
                .detail(format!("This node takes {max} clients.")),
            Failure::Frame(error) => Refusal::new("08P01", error.to_string()),
            Failure::Malformed(error) => Refusal::new("08P01", error.to_string()),
            Failure::PlacesReserved => Refusal::new(
                "53300",
                "remaining connection slots are reserved for non-replication superuser connections",
            ),
            Failure::TooManyOfRole(role) => {
                Refusal::new("53300", format!("too many connections for role \"{role}\""))
            }
            Failure::TooManyInDatabase(database) => {
                Refusal::new("53300", format!("too many connections for database \"{database}\""))
            }
            Failure::TooManyGuests => Refusal::new("53300", "sorry, too many clients already")
                .detail("Too many connections, or too many of this address, have not proved yet who they are."),
            Failure::WrongPassword(role) => {
                Refusal::new("28P01", format!("password authentication failed for user \"{role}\""))
            }
            Failure::Roles(why) => Refusal::new("57P03", "roles cannot be read")
                .detail(why.clone())
                .hint("Connect again when the groups have leaders."),
            Failure::AuthenticationTimeout => {
                Refusal::new("57014", "canceling authentication due to timeout")
            }
            Failure::Killed => {
                Refusal::new("57P01", "terminating connection due to administrator command")
                    .detail("An operator has ended the connections to this database (KILL).")
            }
            Failure::ShuttingDown => Refusal::new(
                "57P01",
                "terminating connection because the node is shutting down",
            )
            .hint("Connect to another node."),
        }
    }
}

fn connect_words(error: &ConnectError) -> Refusal {
    let refusal = Refusal::new("57P03", error.to_string());
    match error {
        ConnectError::NoLeader { .. } => refusal
            .detail("A leader is being elected, or most of the group's replicas are down.")
            .hint("Nothing was done. Repeat the statement when the group is back; other groups go on."),
        ConnectError::Unreachable { source, .. } => refusal
            .detail(source.to_string())
            .hint("Nothing was done. Repeat the statement."),
        ConnectError::UnknownGroup(_) => refusal,
    }
}

fn broken_words(failure: &Failure) -> Refusal {
    match failure {
        Failure::CommitBroken { group, why } => Refusal::new(
            "08007",
            format!("transaction resolution unknown: the connection to group {group} was lost"),
        )
        .detail(format!("It may be committed or rolled back: {why}"))
        .hint("Look whether its changes are there before you repeat it."),
        Failure::CommitUnconfirmed { group } => Refusal::new(
            "08007",
            format!("transaction resolution unknown: group {group} stopped waiting for replication"),
        )
        .detail("It may be kept or lost: a majority of the group's replicas has not confirmed it.")
        .hint("Look whether its changes are there before you repeat it."),
        Failure::Broken { group, why } => {
            Refusal::new("08006", format!("the connection to group {group} was lost"))
                .detail(why.clone())
                .hint("Nothing of it is committed. Repeat the transaction or statement.")
        }
        Failure::CommittedBehind { group } => Refusal::new(
            "08007",
            format!("the transaction is committed, but group {group} does not answer"),
        )
        .detail("Its part there is prepared, and is committed before the group shows anything again.")
        .hint("Do not repeat it."),
        other => Refusal::new("XX000", other.to_string()),
    }
}

fn partly_words(partly: &Partly) -> Refusal {
    let list = |groups: &[GroupId]| {
        let names: Vec<String> = groups.iter().map(ToString::to_string).collect();
        if names.is_empty() {
            "none".to_owned()
        } else {
            names.join(", ")
        }
    };
    let error = partly.error.report();
    let mut detail = format!(
        "Done on groups: {}. Failed on group {}: {}.",
        list(&partly.done),
        partly.failed,
        error.message
    );
    if !partly.untried.is_empty() {
        detail.push_str(&format!(" Not tried on groups: {}.", list(&partly.untried)));
    }
    let message = format!(
        "the statement is done on groups {} and failed on {}",
        list(&partly.done),
        partly.failed
    );
    Refusal::new("55000", message)
        .detail(detail)
        .hint(match partly.again {
            Again::Same => "Remove the cause and repeat it. Groups that have done it do it once more.",
            Again::Rest => "Remove the cause and repeat it: it goes on with the groups that have not done it.",
            Again::IfNeeded => {
                "Remove the cause and repeat it with IF NOT EXISTS or IF EXISTS, so that all groups are alike. \
                 An index that it has left invalid is made anew."
            }
        })
}

/// PostgreSQL's ErrorResponse. What ended a backend need not end the session: its severity is ours to say.
fn pass_on(message: &[u8], severity: Severity, out: &mut BytesMut) {
    let mut body = Body::new(message.get(HEADER..).unwrap_or_default());
    let fatal = Fields::read(message.get(HEADER..).unwrap_or_default()).ends_the_backend();
    if !fatal || severity == Severity::Fatal {
        out.extend_from_slice(message);
        return;
    }
    encode::message(out, b'E', |out| {
        while let Ok(kind @ 1..) = body.u8() {
            let Ok(value) = body.cstr() else { break };
            out.put_u8(kind);
            encode::cstr(
                out,
                if matches!(kind, b'S' | b'V') {
                    b"ERROR"
                } else {
                    value
                },
            );
        }
        out.put_u8(0);
    });
}

fn field(out: &mut BytesMut, kind: u8, text: &str) {
    out.put_u8(kind);
    encode::cstr(out, text.as_bytes());
}

/// Why the code that handles one client message stops.
#[derive(Debug)]
pub(crate) enum Halt {
    /// The statement fails; the session goes on.
    Fail(Failure),
    /// An earlier message of the pipeline failed: this one is skipped, as PostgreSQL does until Sync.
    Skip,
    /// The session ends.
    End(Ended),
}

impl Halt {
    /// See [`Failure::with_context`].
    pub(crate) fn with_context(self, context: impl Fn(&str) -> String) -> Halt {
        match self {
            Halt::Fail(failure) => Halt::Fail(failure.with_context(context)),
            halt => halt,
        }
    }
}

/// How a session ends.
#[derive(Debug)]
pub(crate) enum Ended {
    /// The client said goodbye or went away.
    ByClient,
    /// It is told why.
    Fatal(Failure),
}

impl<F: Into<Failure>> From<F> for Halt {
    fn from(failure: F) -> Self {
        Halt::Fail(failure.into())
    }
}

impl From<Ended> for Halt {
    fn from(ended: Ended) -> Self {
        Halt::End(ended)
    }
}
