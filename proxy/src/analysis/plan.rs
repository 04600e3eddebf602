//! The answer of the analysis: what a session must do with one statement.

use std::ops::Range;
use std::sync::Arc;

use coordinator::catalogue::Relation;
use coordinator::hash::{HashSlot, KeyColumn, KeyType, KeyUse};
use shard::id::GroupId;

use super::copy_plan::{CopyIn, CopyMade, CopyOut};
use super::distributed::Gathering;
use super::explain::Explained;
use super::timeouts::Timeout;
use super::{Bring, Computed, Draws, Feed, Moves, Refusal, SetSequence, ValuesRows};

/// What must be done with one statement. A statement that must not run is a [`Refusal`] instead.
#[derive(Clone, Debug, PartialEq)]
pub enum Plan {
    /// Nothing but white space and comments: answer EmptyQueryResponse.
    Empty,
    /// BEGIN, COMMIT, SAVEPOINT and the like: the session's transaction state decides.
    Transaction(TransactionControl),
    /// Changes or shows the session's own state, which every backend of the session must share.
    Session(SessionCommand),
    /// A statement that runs as it is on the groups that [`Query::route`] names.
    Query(Query),
    /// DDL: the same text on every group. Refused inside a transaction block if `outside_transaction`.
    Ddl(Ddl),
    /// Maintenance that each group does for itself, one after the other: VACUUM, ANALYZE, REINDEX,
    /// CLUSTER. Answer the tag once. Refused inside a transaction block if `outside_transaction`.
    EachGroup(EachGroup),
    /// LOCK TABLE: the same text on every group, one after the other in ascending order, inside a
    /// transaction block.
    Lock,
    /// `SELECT create_distributed_table('table', 'column')` or the like, alone: answered by Howdah with one row,
    /// one column of type `void` with the function's name, holding an empty string.
    Distribute(Distribute),
    /// `SELECT setval(...)`, alone: answered by Howdah with one row, one column of type `bigint`.
    SetSequence(SetSequence),
    /// `COPY table FROM STDIN`: rows come from the client, and each goes to its group.
    CopyIn(CopyIn),
    /// A temporary table gets what a query gives, from whatever groups.
    Fill(Fill),
    /// A permanent table is made of a query, and gets its rows.
    CreateAs(Box<CreateAs>),
    /// EXPLAIN (HOWDAH): answered by Howdah, with rows of one column of type `text`.
    Explained(Box<Explained>),
    /// SQL-level PREPARE, EXECUTE, DEALLOCATE.
    Prepared(PreparedCommand),
    /// Could not be analysed, or names a relation that the catalogue does not know: send the text as
    /// Parse only, to any group, and never execute it. If PostgreSQL objects, pass on its own error;
    /// if it does not, answer this refusal (after a look whether the catalogue was stale).
    Judge(Refusal),
    /// The same of a COPY, whose query, here in the text, PostgreSQL looks at when it runs.
    JudgeCopied(Refusal, Range<usize>),
}

/// A transaction control statement. The text can be sent as it is to backends in the transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TransactionControl {
    /// BEGIN or START TRANSACTION.
    Begin(TransactionModes),
    /// COMMIT or END; `chain`: AND CHAIN.
    Commit {
        /// A new transaction with the same modes follows at once.
        chain: bool,
    },
    /// ROLLBACK or ABORT; `chain`: AND CHAIN.
    Rollback {
        /// A new transaction with the same modes follows at once.
        chain: bool,
    },
    /// SAVEPOINT name.
    Savepoint(String),
    /// RELEASE name.
    Release(String),
    /// ROLLBACK TO name.
    RollbackTo(String),
    /// SET TRANSACTION modes: on the current transaction only.
    Set(TransactionModes),
}

/// The modes that a BEGIN or SET TRANSACTION names; what it does not name is `None`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TransactionModes {
    /// ISOLATION LEVEL.
    pub isolation: Option<Isolation>,
    /// READ ONLY (true) or READ WRITE (false).
    pub read_only: Option<bool>,
    /// DEFERRABLE (true) or NOT DEFERRABLE (false).
    pub deferrable: Option<bool>,
}

/// A transaction isolation level (PostgreSQL takes READ UNCOMMITTED as READ COMMITTED).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Isolation {
    /// READ COMMITTED or READ UNCOMMITTED.
    ReadCommitted,
    /// REPEATABLE READ.
    RepeatableRead,
    /// SERIALIZABLE.
    Serializable,
}

impl Isolation {
    /// The level that `SHOW transaction_isolation` answers with.
    #[must_use]
    pub fn shown(value: &str) -> Isolation {
        match value {
            "read committed" | "read uncommitted" => Isolation::ReadCommitted,
            "repeatable read" => Isolation::RepeatableRead,
            _ => Isolation::Serializable,
        }
    }
}

/// A statement on the session's own state. All of them passed the checks on forbidden settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SessionCommand {
    /// SET, also as SET LOCAL, SET TIME ZONE, SET NAMES, SET SESSION CHARACTERISTICS, SET ROLE.
    Set {
        /// The setting's name in lower case (`timezone` for SET TIME ZONE, `client_encoding` for SET
        /// NAMES, `session characteristics` for SET SESSION CHARACTERISTICS).
        name: String,
        /// The values as PostgreSQL would read them, unquoted; empty for DEFAULT.
        value: Vec<String>,
        /// SET LOCAL: until the end of the transaction only.
        local: bool,
    },
    /// SELECT of nothing but `set_config()` and `current_setting()`: a row of text.
    Configure(Vec<SettingColumn>),
    /// RESET name, or RESET ALL as `None`.
    Reset {
        /// The setting in lower case; `None` for ALL.
        name: Option<String>,
    },
    /// SHOW name or SHOW ALL: any backend that has the session's settings can answer.
    Show {
        /// The setting in lower case, `all` for ALL.
        name: String,
    },
    /// SHOW of a setting that the session keeps itself: a row of one column.
    ShowTimeout(Timeout),
    /// DISCARD ALL and its parts.
    Discard(Discard),
}

/// A column of [`SessionCommand::Configure`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SettingColumn {
    /// The column's name in the result.
    pub name: String,
    /// What is called.
    pub call: SettingCall,
}

/// One of the functions on settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SettingCall {
    /// `current_setting(name [, missing_ok])`.
    Current {
        /// The setting, as it is written.
        name: String,
        /// NULL for one that there is not, rather than an error.
        missing_ok: bool,
    },
    /// `set_config(name, value, local)`.
    Set {
        /// The setting, as it is written.
        name: Given,
        /// Its value; NULL for that of the start.
        value: Given,
        /// Until the end of the transaction only.
        local: Given,
        /// Called for a row of `pg_settings`: for none where there is no such setting.
        if_there: bool,
    },
}

/// An argument.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Given {
    /// A constant, or NULL.
    Constant(Option<String>),
    /// A parameter, by its number from 1.
    Parameter(usize),
}

/// What DISCARD throws away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Discard {
    /// ALL: prepared statements, settings, cursors, temporary tables, plans, sequences.
    All,
    /// PLANS.
    Plans,
    /// SEQUENCES.
    Sequences,
    /// TEMP or TEMPORARY.
    Temp,
}

/// Whether a statement can change rows, take row locks or otherwise needs the group as a writer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Reads only.
    Read,
    /// Writes or locks rows.
    Write,
    /// Changes no row, but takes what its transaction must keep until all of it is committed.
    Take,
    /// Changes no row, but tells others, or will be told, when the transaction is committed.
    Announce,
}

/// A statement that runs unchanged on one group, or on several with its rows concatenated.
#[derive(Clone, Debug, PartialEq)]
pub struct Query {
    /// Read or write.
    pub access: Access,
    /// Where the rows are that it can touch.
    pub target: Target,
    /// What its CommandComplete tag says, for the answer of several groups.
    pub tag: Tag,
    /// What the session must know besides where to run it.
    pub form: Form,
    /// Its holes, if it has any, into which the session puts values before it runs. All else is said of the text with parameters in them.
    pub draws: Option<Arc<Draws>>,
}

/// How a routed statement is conducted.
#[derive(Clone, Debug, PartialEq)]
pub enum Form {
    /// An ordinary statement.
    Plain,
    /// `SELECT count(*)` and nothing else: of several groups, one row with the sum.
    Count,
    /// A SELECT that no group can answer alone: of several groups, its rows are gathered and one PostgreSQL runs it.
    Gathered(Arc<Gathering>),
    /// A SELECT ... FOR UPDATE whose rows each group locks and gives in order.
    Locks(Arc<Gathering>),
    /// An UPDATE of the shard key, after which rows may belong to other groups.
    Moves(Arc<Moves>),
    /// An UPDATE or DELETE to which rows of other tables are brought.
    Brings(Arc<Bring>),
    /// An INSERT ... SELECT whose rows come to the session, unless each group may insert what it selects of its own.
    Feeds(Arc<Feed>),
    /// An INSERT of VALUES whose shard keys PostgreSQL has to compute before it is known where its rows belong.
    Computes(Arc<Computed>),
    /// COPY ... TO STDOUT: the answer is CopyOut; of several groups the rows are concatenated.
    CopyOut(CopyOut),
    /// The same of a query, whose rows the session may have to write itself.
    CopyMade(Arc<CopyMade>),
    /// DECLARE name CURSOR: lives on its group until the transaction ends (`hold`: the session).
    Declare {
        /// The cursor's name.
        name: String,
        /// WITH HOLD.
        hold: bool,
        /// Where its query begins in the statement's text, in bytes.
        query_at: usize,
        /// Over several groups, how its rows are gathered, where they do not just follow each other.
        gathering: Option<Arc<Gathering>>,
    },
    /// Defines temporary relations: the session may have others afterwards.
    Defines,
    /// COPY ... FROM STDIN into a temporary table: the group asks the client for the rows.
    CopyIn,
    /// FETCH, MOVE or CLOSE of a cursor: runs where the cursor was declared, the target is `Any`.
    Cursor {
        /// The cursor's name; `None` for CLOSE ALL.
        name: Option<String>,
        /// What is done with it.
        action: CursorAction,
    },
}

/// What a statement does with a cursor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CursorAction {
    /// FETCH.
    Fetch(Motion),
    /// MOVE.
    Move(Motion),
    /// CLOSE.
    Close,
}

/// Where to, on a cursor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Motion {
    /// Forward by so many rows, at least one.
    Forward(u64),
    /// Forward to the end.
    ForwardAll,
    /// Anything else: backward, or to a row by its number.
    Other,
}

/// Where the rows are that a statement can touch.
#[derive(Clone, Debug, PartialEq)]
pub enum Target {
    /// No distributed row is touched: any group gives the right answer.
    Any,
    /// No distributed row is touched, but what belongs to the session itself: its home group.
    Home(HomeUse),
    /// Every touched row has one of these keys.
    Keys(Vec<Key>, Spread),
    /// Rows of all groups: each can do with its own what the statement says, and the answers can be concatenated.
    All,
    /// Writes to this reference table: every group does all of it, with the same effect, and one answers.
    Copies(RelationName),
}

/// What a statement has to do with things that belong to no row, as advisory locks. Of several uses the greatest counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum HomeUse {
    /// Reads reference tables: any group has them, but not all show a commit in the same moment. So whoever works with no other
    /// group reads them here.
    Reference,
    /// Works with its temporary relations.
    Temporary,
    /// Looks at what is there, or lets go of it. Where the session has nothing there, any group gives the same answer.
    Looks,
    /// Asks for what only the home group knows.
    Asks,
    /// NOTIFY.
    Notifies,
    /// UNLISTEN. As for [`HomeUse::Looks`], any group can do it where the session does not listen.
    Unlistens,
    /// LISTEN.
    Listens,
    /// Takes locks that end with the transaction.
    LocksForTransaction,
    /// Takes locks that may outlive the transaction.
    LocksForSession,
}

impl HomeUse {
    /// What a statement without rows is to its transaction that has this to do.
    #[must_use]
    pub fn access(self) -> Access {
        match self {
            HomeUse::Reference | HomeUse::Temporary | HomeUse::Looks | HomeUse::Asks => Access::Read,
            HomeUse::Notifies | HomeUse::Unlistens | HomeUse::Listens => Access::Announce,
            HomeUse::LocksForTransaction | HomeUse::LocksForSession => Access::Take,
        }
    }
}

/// What happens when keys lie in several groups.
#[derive(Clone, Debug, PartialEq)]
pub enum Spread {
    /// Run it on each of them and concatenate the rows; what it writes, each group writes on its own rows.
    Concatenate,
    /// Run it on each of them with its own rows of VALUES only. Each row has one key, in this order.
    Rows(ValuesRows),
    /// Refuse with these words: concatenation would be wrong.
    Refuse(Refusal),
    /// Run it on the session's home group, and refuse with these words where they are not on that one.
    Home(Refusal),
}

impl Form {
    /// Whether no group can run the statement as it is, not even where it runs on one alone.
    pub(super) fn needs_session(&self) -> bool {
        match self {
            Form::Moves(_) | Form::Computes(_) => true,
            Form::Brings(bring) => !bring.alone,
            _ => false,
        }
    }
}

impl Query {
    /// The reference table that it writes to.
    #[must_use]
    pub fn copied(&self) -> Option<&RelationName> {
        match &self.target {
            Target::Copies(table) => Some(table),
            _ => None,
        }
    }

    /// As it is, but refused with these words where rows would have to be gathered, or moved.
    ///
    /// # Errors
    /// When they always have to be.
    pub fn ungathered(self, refusal: impl FnOnce() -> Refusal) -> Result<Query, Refusal> {
        match &self.form {
            Form::Brings(bring) if !bring.alone => Err(refusal()),
            Form::Gathered(_) | Form::Locks(_) | Form::Feeds(_) | Form::Brings(_) => Ok(Query {
                target: self.target.on_one_group(refusal)?,
                form: Form::Plain,
                ..self
            }),
            Form::Moves(_) | Form::Computes(_) => Err(refusal()),
            _ => Ok(self),
        }
    }
}

impl Target {
    /// As it is, but refused with these words where it would be several groups.
    ///
    /// # Errors
    /// When it is all groups.
    pub fn on_one_group(self, refusal: impl FnOnce() -> Refusal) -> Result<Target, Refusal> {
        match self {
            Target::All | Target::Copies(_) => Err(refusal()),
            Target::Keys(keys, Spread::Concatenate | Spread::Rows(_)) => {
                Ok(Target::Keys(keys, Spread::Refuse(refusal())))
            }
            other => Ok(other),
        }
    }
}

/// How the answers of several groups are counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tag {
    /// `SELECT n`: the sum.
    Select,
    /// `COPY n`: the sum.
    Copy,
    /// Passed on as the one group gave it.
    AsIs,
}

/// A shard key that a statement names.
#[derive(Clone, Debug, PartialEq)]
pub struct Key {
    /// The column that it is compared with or stored in.
    pub column: KeyColumn,
    /// Compared or stored: NULL matches nothing in a comparison and has a place when it is stored.
    pub used: KeyUse,
    /// Where its value comes from.
    pub value: KeyValue,
}

impl Key {
    /// That of every row of a local table.
    #[must_use]
    pub fn local() -> Key {
        Key {
            // Of no meaning: the slot is given.
            column: KeyColumn {
                key_type: KeyType::Int8,
                type_modifier: -1,
            },
            used: KeyUse::Assignment,
            value: KeyValue::Slot(HashSlot::LOCAL),
        }
    }
}

/// Where a key's value comes from.
#[derive(Clone, Debug, PartialEq)]
pub enum KeyValue {
    /// NULL in the text.
    Null,
    /// Wherever this slot is, as for a local table.
    Slot(HashSlot),
    /// An unquoted number, with its sign.
    Number(String),
    /// TRUE or FALSE.
    Bool(bool),
    /// A quoted constant.
    Text {
        /// The type of its cast; 0 where it has none.
        type_oid: u32,
        /// Its value.
        text: String,
    },
    /// A parameter.
    Parameter {
        /// 0 for `$1`.
        index: usize,
        /// The type of its cast; 0 where it has none.
        type_oid: u32,
        /// Whether something else in the statement may decide its type, if Parse declares none.
        type_open: bool,
    },
}

/// A parameter as Bind gives it.
#[derive(Clone, Copy, Debug)]
pub struct Parameter<'a> {
    /// `None` for NULL.
    pub value: Option<&'a [u8]>,
    /// Text or binary.
    pub format: Format,
    /// The type that Parse declared, if it was not 0 (PostgreSQL then infers it).
    pub type_oid: Option<u32>,
}

/// The two formats of values in the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// As text.
    Text,
    /// The type's binary form.
    Binary,
}

/// Where a statement runs, once its parameters are known.
#[derive(Clone, Debug, PartialEq)]
pub enum Route {
    /// Any group gives the right answer: the transaction's own, else the session's nearest one.
    Any,
    /// The session's home group.
    Home(HomeUse),
    /// Exactly this group.
    One(GroupId),
    /// This group; if it is not the session's home group, the statement is refused with these words.
    AtHome(GroupId, Refusal),
    /// Each of these (two or more, ascending), rows concatenated.
    Several(Vec<GroupId>),
    /// Each of these (two or more, ascending) with these rows of VALUES, of a [`Spread::Rows`].
    Rows(Vec<(GroupId, Vec<usize>)>),
    /// All groups, rows concatenated.
    All,
    /// All groups, each with the same answer.
    Copies,
    /// Only PostgreSQL can tell the slots of these keys: run the queries on any group, in the client's session
    /// state, and call [`Query::route`] again with their answers. If one fails, its error is the statement's.
    Ask(Vec<Question>),
}

/// A key whose slot PostgreSQL must compute.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// Which key, as an index of [`Answers`].
    pub key: usize,
    /// A query of one row with one `int8`: the slot's number.
    pub sql: String,
    /// The parameter (0 for `$1`) to bind to the query's own `$1`, with the client's type and format; `None`
    /// where the query needs none.
    pub parameter: Option<usize>,
}

/// Slots that PostgreSQL computed, by [`Question::key`].
pub type Answers = std::collections::HashMap<usize, HashSlot>;

/// A relation's full name, folded and unquoted as PostgreSQL stores it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RelationName {
    /// The schema.
    pub schema: String,
    /// The name in it.
    pub name: String,
}

impl RelationName {
    /// That of a relation.
    #[must_use]
    pub fn of(relation: &Relation) -> RelationName {
        RelationName {
            schema: relation.schema.clone(),
            name: relation.name.clone(),
        }
    }
}

/// DDL that runs with the same text on every group.
#[derive(Clone, Debug, PartialEq)]
pub struct Ddl {
    /// What the catalogue must learn from it. Look the rest up in PostgreSQL after it ran.
    pub effect: DdlEffect,
    /// Cannot run inside any transaction block, not even an implicit one (CREATE INDEX CONCURRENTLY).
    pub outside_transaction: bool,
    /// What it leaves behind, invalid, where it fails outside of transactions.
    pub leaves: Option<Index>,
}

/// An index that a statement names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Index {
    /// Its table, whose schema is its own.
    pub table: RelationName,
    /// Its name.
    pub name: String,
}

/// What a DDL statement changes in the catalogue of distributed tables.
#[derive(Clone, Debug, PartialEq)]
pub enum DdlEffect {
    /// A table is made; it is distributed by `key_column`.
    CreateTable {
        /// Schema as written, or the first of the search path.
        table: RelationName,
        /// IF NOT EXISTS.
        if_not_exists: bool,
        /// The shard key: first column of the primary key, else the first column; none where that cannot be one.
        key_column: Option<String>,
    },
    /// A table of ours is altered: what its constraints say may have given it another shard key.
    AlterTable(AlteredTable),
    /// This sequence is altered: its state, which the home group has, must be there before in the others.
    AlterSequence(RelationName),
    /// TRUNCATE ... RESTART IDENTITY: sequences are set without a definition.
    RestartIdentity,
    /// Tables or schemas may be gone, moved or renamed, or columns renamed or dropped: read the
    /// catalogue again.
    Reload,
    /// A whole database comes or goes.
    Database(DatabaseChange),
    /// Nothing about tables.
    None,
}

/// See [`DdlEffect::AlterTable`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AlteredTable {
    /// The table.
    pub table: RelationName,
    /// The first column of a primary key that it gets, where that is not its shard key.
    pub new_key: Option<String>,
    /// Whether a column is altered that a sequence fills.
    pub counted: bool,
    /// With the time in the place of what tells it, for the rows that are there when a column is added.
    pub one_time: Option<Box<Draws>>,
}

/// CREATE DATABASE or DROP DATABASE.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DatabaseChange {
    /// The database.
    pub name: String,
    /// What becomes of it.
    pub action: DatabaseAction,
}

/// What a [`DatabaseChange`] does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DatabaseAction {
    /// It is made.
    Create {
        /// The database that it is a copy of: one of PostgreSQL's own.
        template: String,
    },
    /// It is dropped.
    Drop,
}

/// See [`Plan::EachGroup`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EachGroup {
    /// PostgreSQL refuses it inside a transaction block (VACUUM).
    pub outside_transaction: bool,
    /// VERBOSE: each group reports what it has done.
    pub verbose: bool,
}

/// `create_distributed_table(table, column)` and the like.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Distribute {
    /// What was called.
    pub function: &'static str,
    /// The table, known to the catalogue.
    pub table: RelationName,
    /// Where its rows shall be.
    pub to: Distribution,
}

/// Where the rows of a table shall be (`coordinator::catalogue::Placement`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Distribution {
    /// Spread by the hash of this column.
    Hash(String),
    /// All of them in every group.
    Reference,
    /// All of them in one group.
    Local,
}

/// A statement that fills a temporary table with rows of distributed ones.
#[derive(Clone, Debug, PartialEq)]
pub struct Fill {
    /// Makes the table on the home group from the query there, which may name a table that it hides. `WITH NO DATA` may follow.
    pub create: String,
    /// The table, as statements name it.
    pub table: String,
    /// The plan of the query whose rows it gets.
    pub query: Box<Query>,
    /// The query's text.
    pub text: String,
    /// What then runs on the home group and is the statement's answer, where the table is only there to have the rows.
    pub insert: Option<String>,
}

/// A statement that makes a table of a query, on all groups, and fills it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CreateAs {
    /// The table.
    pub table: RelationName,
    /// IF NOT EXISTS.
    pub if_not_exists: bool,
    /// Makes it, without rows.
    pub create: String,
    /// Fills it.
    pub insert: String,
    /// It is SELECT INTO.
    pub selects_into: bool,
    /// Something in the query may be called as the table is, and be found otherwise when that is there.
    pub names_it: bool,
}

/// SQL-level prepared statements.
#[derive(Clone, Debug, PartialEq)]
pub enum PreparedCommand {
    /// PREPARE name (types) AS statement.
    Prepare {
        /// Its name.
        name: String,
        /// The plan of the statement inside.
        query: Box<Query>,
        /// The declared parameter types as OIDs; `None` where not declared or not a known name.
        types: Vec<Option<u32>>,
    },
    /// EXECUTE name (literals): route with these as text parameters; `None` is NULL.
    Execute {
        /// Its name.
        name: String,
        /// The parameters.
        parameters: Vec<Option<String>>,
    },
    /// DEALLOCATE name, or ALL as `None`.
    Deallocate {
        /// Its name.
        name: Option<String>,
    },
}
