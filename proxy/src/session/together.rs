//! A read of several groups in a READ COMMITTED transaction: its snapshots are one cut (`coordinator::cut`).
//!
//! 1. Each group binds the statement. That plans and starts it, and so takes all its locks, which last as long as the transaction.
//! 2. While commits are held each group binds it again: `PortalStart` in pquery.c takes the snapshot of a query's portal,
//!    with the transaction's own writes. There is no lock to wait for.
//! 3. Commits go on, and the portals are executed.
//!
//! COPY and SQL's EXECUTE take their snapshots when they are executed, as all utility statements: not these. What COPY reads by a query is bound
//! as that, and written here ([`super::copy_out`]).

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::BytesMut;
use coordinator::cut::{CutError, Snapshot};
use shard::id::GroupId;

use super::Session;
use super::captured::{Captured, Line};
use super::conn::{Audience, Conn, Kind, Stake};
use super::enter::Style;
use super::extended::copies_out;
use super::transaction::{Transaction, View, no_cut};
use crate::analysis::Query;
use crate::failure::{Failure, Halt};
use crate::protocol::encode;

/// How many cuts are tried: each can be spoilt by a change of leader.
const ATTEMPTS: usize = 3;

/// What the group's transactions see now.
const SNAPSHOT: &str = "SELECT pg_catalog.pg_current_snapshot()";

/// The statement that a text is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Statement {
    /// As it was planned.
    Itself,
    /// An EXECUTE of what was planned.
    Execute,
}

/// A portal, and the Bind message that makes it.
pub(super) struct Binding<'a> {
    pub(super) portal: &'a [u8],
    pub(super) message: &'a [u8],
    /// By the simple protocol each step ends with a Sync.
    pub(super) style: Style,
}

impl Session {
    /// Whether each read of several groups has to take its own cut.
    pub(super) fn takes_cuts(&self, query: &Query) -> bool {
        !copies_out(&query.form) && self.has_a_view_of_each_statement()
    }

    /// Whether the transaction that is open has no snapshot for all of it.
    pub(super) fn has_a_view_of_each_statement(&self) -> bool {
        let view = self
            .transaction
            .as_ref()
            .and_then(|t: &Transaction| t.view.as_ref());
        matches!(view, Some(View::Statements))
    }

    /// Sends a Query's statement, bound in one cut, to these groups, which were entered.
    pub(super) async fn query_together(
        &mut self,
        places: &[usize],
        text: &str,
        query: &Query,
    ) -> Result<(), Halt> {
        let number = self.guest.number();
        let (mut parse, mut bind) = (BytesMut::new(), BytesMut::new());
        encode::parse(&mut parse, b"", text.as_bytes(), &[]);
        // No parameters, and all results as text.
        encode::bind_unnamed(&mut bind, b"", &[0; 6]);
        let binding = Binding {
            portal: b"",
            message: &bind,
            style: Style::Simple,
        };
        for place in places {
            if let Some(conn) = &mut self.slots[*place] {
                conn.captured = Captured::default();
                conn.parse(b"", number, &parse, Audience::Session);
                binding.send(conn);
            }
        }
        self.hear_all(places).await?;
        self.bind_together(places, std::slice::from_ref(&binding)).await?;
        for (index, place) in places.iter().enumerate() {
            let Some(conn) = &mut self.slots[*place] else {
                continue;
            };
            let audience = Audience::merging(index);
            conn.captured = Captured::merging(&query.form, Line::at(index, places.len()));
            encode::describe_and_execute(&mut conn.output, b"");
            conn.owes(Kind::Describe, audience, Stake::Nothing);
            conn.owes(Kind::Execute, audience, Stake::Nothing);
            binding.close(conn);
            conn.sync(Audience::Quiet, Stake::Nothing);
            conn.unnamed = None;
        }
        Ok(())
    }

    /// Binds portals on these groups, which have bound them before in this transaction, so that all of them see one state of the
    /// database.
    pub(super) async fn bind_together(
        &mut self,
        places: &[usize],
        bindings: &[Binding<'_>],
    ) -> Result<(), Halt> {
        let mut tried = 1;
        loop {
            match self.bind_once(places, bindings).await? {
                Ok(()) => return Ok(()),
                Err(error) if tried == ATTEMPTS => return Err(no_cut(&error).into()),
                Err(error) => tracing::debug!(%error, "a cut is tried again"),
            }
            tried += 1;
        }
    }

    async fn bind_once(
        &mut self,
        places: &[usize],
        bindings: &[Binding<'_>],
    ) -> Result<Result<(), CutError>, Halt> {
        let shared = Arc::clone(&self.shared);
        // Dropped on any error, it lets commits go on.
        let held = match shared.cuts.hold(&self.database_name()).await {
            Ok(held) => held,
            Err(error) => return Ok(Err(error)),
        };
        let mut before = BTreeMap::new();
        let mut again = places.to_vec();
        while !again.is_empty() {
            for place in &again {
                if let Some(conn) = &mut self.slots[*place] {
                    conn.captured = Captured::default();
                    conn.own(SNAPSHOT, None, Audience::Session);
                    for binding in bindings {
                        binding.close(conn);
                        binding.send(conn);
                    }
                }
            }
            before.extend(self.hear_all(&again).await?);
            match held.behind(&before).await {
                Ok(behind) => {
                    let behind = |place: &&usize| behind.contains(&self.group(**place));
                    again = places.iter().filter(behind).copied().collect();
                }
                Err(error) => return Ok(Err(error)),
            }
        }
        Ok(held.release().await)
    }

    /// Hears what these groups answer to the session itself: all of them, also when one fails. Gives the snapshots that they
    /// were asked for.
    pub(super) async fn hear_all(&mut self, places: &[usize]) -> Result<BTreeMap<GroupId, Snapshot>, Halt> {
        self.aim_at(places);
        let (mut snapshots, mut failed) = (BTreeMap::new(), None);
        for place in places {
            let group = self.group(*place);
            self.current = Some(*place);
            self.drain(*place).await?;
            match self.take_captured(*place, group, Stake::Nothing) {
                Ok(Captured { value: None, .. }) => {}
                Ok(Captured {
                    value: Some(text), ..
                }) => {
                    let snapshot = std::str::from_utf8(&text).ok().and_then(|text| text.parse().ok());
                    let why = || "its PostgreSQL does not say what it sees".to_owned();
                    let snapshot = snapshot.ok_or_else(|| Failure::Broken { group, why: why() })?;
                    snapshots.insert(group, snapshot);
                }
                Err(halt) => failed = failed.or(Some(halt)),
            }
        }
        self.aim();
        failed.map_or(Ok(snapshots), Err)
    }
}

impl Binding<'_> {
    pub(super) fn send(&self, conn: &mut Conn) {
        conn.output.extend_from_slice(self.message);
        conn.owes(Kind::Bind, Audience::Session, Stake::Nothing);
        match self.style {
            Style::Simple => conn.sync(Audience::Quiet, Stake::Nothing),
            Style::Extended => encode::empty(&mut conn.output, b'H'),
        }
    }

    pub(super) fn close(&self, conn: &mut Conn) {
        encode::close_portal(&mut conn.output, self.portal);
        conn.owes(Kind::Close, Audience::Session, Stake::Nothing);
    }
}
