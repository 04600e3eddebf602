//! The session's prepared statements and portals.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use parking_lot::Mutex;

use super::conn::Columns;
use super::plans::{Planned, Tables};
use super::split::Parts;
use super::temporary::Does;
use crate::analysis::{Access, CopyIn, Plan, Query, Refusal};

/// A prepared statement. It is sent to a backend when it is first needed there.
#[derive(Debug)]
pub(super) struct Statement {
    /// Distinguishes statements of the same name.
    pub(super) number: u64,
    /// What a backend holds it as that got it under settings of this session, which are in its constants. Nobody else's.
    pub(super) own: u64,
    pub(super) name: Vec<u8>,
    /// The client's Parse message, or what backends get for it where the statement has holes.
    pub(super) message: Bytes,
    pub(super) text: String,
    /// Declared parameter types; 0 for none. Those of holes come last.
    pub(super) types: Vec<u32>,
    /// How many of its parameters are holes, which the client does not know.
    pub(super) holes: usize,
    /// By which tables it was first analysed.
    pub(super) tables: Option<Tables>,
    /// What the client may know of its result.
    pub(super) columns: Columns,
    /// How it was supplied last after tables had changed.
    pub(super) late: Mutex<Option<Arc<Late>>>,
    /// All of its parameters' types, once PostgreSQL was asked. As PostgreSQL does, it keeps them while tables change.
    pub(super) inferred: OnceLock<Vec<u32>>,
}

/// A statement as a backend gets it that is supplied when tables are others than at its Parse: it may give other columns.
#[derive(Debug)]
pub(super) struct Late {
    /// By which tables it is analysed now.
    pub(super) tables: Option<Tables>,
    /// Whether under settings of the session.
    pub(super) own: bool,
    pub(super) number: u64,
    /// Whether it gives what the client knows of it, once PostgreSQL was asked.
    pub(super) fits: OnceLock<bool>,
}

/// A statement that a backend holds as a [`Late`] one, which is to be looked at before it is executed.
pub(super) struct Check {
    pub(super) statement: Arc<Statement>,
    pub(super) late: Arc<Late>,
}

/// One prepared by SQL's PREPARE.
#[derive(Debug)]
pub(super) struct SqlPrepared {
    pub(super) number: u64,
    /// PREPARE and all.
    pub(super) text: String,
}

/// A portal: where it is, or what it will do.
#[derive(Clone, Debug)]
pub(super) enum Portal {
    /// On one group.
    At {
        place: usize,
        access: Access,
        does: Does,
    },
    /// On several, bound when it is executed.
    Many {
        places: Vec<usize>,
        bind: Bytes,
        statement: Arc<Statement>,
        planned: Arc<Planned>,
        bound: Vec<usize>,
        /// Of the places in their order, how many have given all their rows.
        read: usize,
        /// What it does, where it is an EXECUTE.
        executes: Option<Arc<Query>>,
        /// Whether it was bound in one cut, for a statement that takes its own.
        cut: bool,
        /// For an INSERT, what each of the places runs instead.
        parts: Option<Arc<Parts>>,
    },
    /// One that wrote on several groups: rows that it returned and that were not asked for yet, and its tag.
    Rows {
        place: usize,
        rows: VecDeque<Bytes>,
        /// Whether it returned any.
        returns: bool,
        tag: String,
    },
    /// DECLARE of a cursor over several groups, which opens it when it is executed.
    Declare {
        places: Vec<usize>,
        bind: Bytes,
        statement: Arc<Statement>,
        planned: Arc<Planned>,
    },
    /// FETCH, MOVE or CLOSE of such a cursor; bound on the group whose rows come next.
    Cursor {
        place: usize,
        bind: Bytes,
        planned: Arc<Planned>,
    },
    /// Answered by Howdah when it is executed.
    Own {
        statement: Arc<Statement>,
        planned: Arc<Planned>,
        /// It with the values of its parameters, where it may have any.
        bound: Option<Plan>,
        /// Of its columns, if it has any.
        format: i16,
    },
    /// A utility statement that fails when it is executed.
    Fails(Box<Refusal>),
    /// An own one that has been executed.
    Done,
}

impl Portal {
    /// The places whose backends may hold it.
    pub(super) fn bound_at(&self) -> &[usize] {
        match self {
            Portal::At { place, .. } | Portal::Rows { place, .. } | Portal::Cursor { place, .. } => {
                std::slice::from_ref(place)
            }
            Portal::Many { bound, .. } => bound,
            _ => &[],
        }
    }
}

/// Names of statements and portals.
#[derive(Debug, Default)]
pub(super) struct Statements {
    unnamed: Option<(Arc<Statement>, Arc<Planned>)>,
    named: HashMap<Vec<u8>, (Arc<Statement>, Arc<Planned>)>,
    pub(super) sql: HashMap<String, Arc<SqlPrepared>>,
    /// A Parse that no backend has seen: it goes where its Bind goes, or to any when something else comes.
    pub(super) held: Option<Arc<Statement>>,
    unnamed_portal: Option<Portal>,
    /// With how long the transaction's script was when each was bound.
    portals: HashMap<Vec<u8>, (Portal, usize)>,
}

impl Statements {
    /// How many there are with a name.
    pub(super) fn count(&self) -> usize {
        self.named.len() + self.sql.len()
    }

    pub(super) fn get(&self, name: &[u8]) -> Option<&(Arc<Statement>, Arc<Planned>)> {
        if name.is_empty() {
            self.unnamed.as_ref()
        } else {
            self.named.get(name)
        }
    }

    pub(super) fn put(&mut self, statement: Arc<Statement>, planned: Arc<Planned>) {
        if statement.name.is_empty() {
            self.unnamed = Some((statement, planned));
        } else {
            self.named.insert(statement.name.clone(), (statement, planned));
        }
    }

    /// Forgets one; whether there was one.
    pub(super) fn remove(&mut self, name: &[u8]) -> bool {
        if name.is_empty() {
            self.unnamed.take().is_some()
        } else {
            self.named.remove(name).is_some()
        }
    }

    pub(super) fn clear(&mut self) {
        self.unnamed = None;
        self.named.clear();
        self.sql.clear();
        self.clear_portals();
    }

    pub(super) fn names(&self) -> Vec<Vec<u8>> {
        self.named.keys().cloned().collect()
    }

    pub(super) fn portal(&self, name: &[u8]) -> Option<&Portal> {
        if name.is_empty() {
            self.unnamed_portal.as_ref()
        } else {
            self.portals.get(name).map(|(portal, _)| portal)
        }
    }

    pub(super) fn portal_mut(&mut self, name: &[u8]) -> Option<&mut Portal> {
        if name.is_empty() {
            self.unnamed_portal.as_mut()
        } else {
            self.portals.get_mut(name).map(|(portal, _)| portal)
        }
    }

    pub(super) fn has_portals(&self) -> bool {
        self.unnamed_portal.is_some() || !self.portals.is_empty()
    }

    /// Whether there is a portal of this name, which SQL's CLOSE could mean.
    pub(super) fn has_named_portal(&self, name: &[u8]) -> bool {
        self.portals.contains_key(name)
    }

    /// Puts a portal that is bound when the transaction's script is so long.
    pub(super) fn put_portal(&mut self, name: &[u8], portal: Portal, since: usize) {
        if name.is_empty() {
            self.unnamed_portal = Some(portal);
        } else {
            self.portals.insert(name.to_vec(), (portal, since));
        }
    }

    /// What becomes of a portal when it is executed.
    pub(super) fn replace_portal(&mut self, name: &[u8], now: Portal) {
        match self.portal_mut(name) {
            Some(portal) => *portal = now,
            None => self.put_portal(name, now, 0),
        }
    }

    /// A rollback to the savepoint at `position` of the script takes along what was bound after it.
    pub(super) fn clear_portals_since(&mut self, position: usize) {
        self.portals.retain(|_, (_, since)| *since <= position);
    }

    pub(super) fn remove_portal(&mut self, name: &[u8]) -> Option<Portal> {
        if name.is_empty() {
            self.unnamed_portal.take()
        } else {
            self.portals.remove(name).map(|(portal, _)| portal)
        }
    }

    /// A transaction's end takes its portals along.
    pub(super) fn clear_portals(&mut self) {
        self.unnamed_portal = None;
        self.portals.clear();
    }
}

/// Rows of this COPY are awaited from the client.
#[derive(Debug)]
pub(super) struct Copying {
    pub(super) text: String,
    pub(super) plan: CopyIn,
}
