//! What is promised, and the names of what breaks it.

use std::fmt;

/// What the transactions of a history were promised.
///
/// | | ReadCommitted | RepeatableRead | Serializable |
/// |---|---|---|---|
/// | PostgreSQL's level | READ COMMITTED | REPEATABLE READ, which is snapshot isolation | SERIALIZABLE |
/// | G0, G1a, G1b, G1c, internal | forbidden | forbidden | forbidden |
/// | dirty-update, lost-append, duplicate-elements, incompatible-order, garbage-read | forbidden | forbidden | forbidden |
/// | G-single, G-nonadjacent-item, lost-update, non-repeatable-read | allowed | forbidden | forbidden |
/// | G2-item | allowed | allowed | forbidden |
///
/// `StrictSerializable` forbids what `Serializable` does, and the same cycles with edges of session
/// order (`-process`) and of real time (`-realtime`). The others forbid those of their own cycles
/// where the options ask for these orders: every level of a single PostgreSQL server keeps both.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Model {
    /// Adya's PL-2.
    ReadCommitted,
    /// PostgreSQL's REPEATABLE READ: snapshot isolation.
    RepeatableRead,
    /// Adya's PL-3.
    Serializable,
    /// Serializable in an order that agrees with real time.
    StrictSerializable,
}

/// The name of an anomaly, the worst first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Name {
    /// A read holds an element that nobody wrote.
    GarbageRead,
    /// A read holds an element twice.
    DuplicateElements,
    /// An acknowledged append is in no final read.
    LostAppend,
    /// Two reads of a key, neither of which is the beginning of the other.
    IncompatibleOrder,
    /// A committed version was built on an aborted one.
    DirtyUpdate,
    /// Aborted read: a read of what a failed transaction wrote.
    G1a,
    /// Intermediate read: a read of what its writer overwrote in the same transaction.
    G1b,
    /// A transaction does not see its own writes as it made them.
    Internal,
    /// A transaction read a key twice, and differently. Elle counts it as internal; it has its own
    /// name here since READ COMMITTED allows it.
    NonRepeatableRead,
    /// Two transactions read the same version and both replaced it.
    LostUpdate,
    /// A cycle.
    Cycle(Shape, Order),
    /// No order of a register's operations explains what they returned.
    NotLinearizable,
    /// An account that nobody opened was read, or one was missing.
    UnexpectedKey,
    /// The accounts together hold more or less than they should.
    WrongTotal,
    /// An account holds less than nothing.
    NegativeValue,
    /// An acknowledged element of a set is gone.
    Lost,
    /// An element of a set is there that nobody added, or whose addition failed.
    Unexpected,
    /// An element of a set is there twice.
    Duplicated,
    /// Two groups have different schemas.
    SchemasDiffer,
    /// An acknowledged change of the schema is not in effect.
    LostDefinition,
    /// Something is defined that was dropped, or whose making failed.
    UnexpectedDefinition,
    /// An acknowledged row is there, but not with its values.
    LostValue,
    /// Two reads saw two writes in opposite orders.
    LongFork,
    /// Write skew: both of two inserts happened that each must prevent the other.
    G2,
    /// A session's later read returned an earlier state.
    NonMonotonicRead,
}

/// What kinds of dependencies a cycle has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Shape {
    /// ww only.
    G0,
    /// ww and wr.
    G1c,
    /// Exactly one rw.
    GSingle,
    /// Several rw, no two of which follow each other.
    GNonadjacent,
    /// Two rw that follow each other.
    G2Item,
}

/// What orders a cycle needs beside the dependencies of data.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Order {
    /// None.
    Data,
    /// The order of a session.
    Process,
    /// The order of real time.
    Realtime,
}

impl Model {
    /// Whether it forbids this.
    #[must_use]
    pub fn forbids(self, name: Name) -> bool {
        match name {
            Name::Cycle(shape, _) => self.forbids_shape(shape),
            Name::LostUpdate | Name::NonRepeatableRead => self >= Model::RepeatableRead,
            _ => true,
        }
    }

    /// Whether it forbids cycles of this shape.
    #[must_use]
    pub fn forbids_shape(self, shape: Shape) -> bool {
        match shape {
            Shape::G0 | Shape::G1c => true,
            Shape::GSingle | Shape::GNonadjacent => self >= Model::RepeatableRead,
            Shape::G2Item => self >= Model::Serializable,
        }
    }
}

impl std::str::FromStr for Model {
    type Err = crate::Failure;

    fn from_str(word: &str) -> crate::Result<Model> {
        match word {
            "read-committed" => Ok(Model::ReadCommitted),
            "repeatable-read" => Ok(Model::RepeatableRead),
            "serializable" => Ok(Model::Serializable),
            "strict-serializable" => Ok(Model::StrictSerializable),
            other => Err(format!("{other} is no consistency model").into()),
        }
    }
}

impl fmt::Display for Model {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Model::ReadCommitted => "read-committed",
            Model::RepeatableRead => "repeatable-read",
            Model::Serializable => "serializable",
            Model::StrictSerializable => "strict-serializable",
        })
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Name::GarbageRead => "garbage-read",
            Name::DuplicateElements => "duplicate-elements",
            Name::LostAppend => "lost-append",
            Name::IncompatibleOrder => "incompatible-order",
            Name::DirtyUpdate => "dirty-update",
            Name::G1a => "G1a",
            Name::G1b => "G1b",
            Name::Internal => "internal",
            Name::NonRepeatableRead => "non-repeatable-read",
            Name::LostUpdate => "lost-update",
            Name::Cycle(shape, order) => return write!(f, "{shape}{order}"),
            Name::NotLinearizable => "not-linearizable",
            Name::UnexpectedKey => "unexpected-key",
            Name::WrongTotal => "wrong-total",
            Name::NegativeValue => "negative-value",
            Name::Lost => "lost",
            Name::Unexpected => "unexpected",
            Name::Duplicated => "duplicated",
            Name::SchemasDiffer => "schemas-differ",
            Name::LostDefinition => "lost-definition",
            Name::UnexpectedDefinition => "unexpected-definition",
            Name::LostValue => "lost-value",
            Name::LongFork => "long-fork",
            Name::G2 => "G2",
            Name::NonMonotonicRead => "non-monotonic-read",
        })
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Shape::G0 => "G0",
            Shape::G1c => "G1c",
            Shape::GSingle => "G-single",
            Shape::GNonadjacent => "G-nonadjacent-item",
            Shape::G2Item => "G2-item",
        })
    }
}

impl fmt::Display for Order {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Order::Data => "",
            Order::Process => "-process",
            Order::Realtime => "-realtime",
        })
    }
}
