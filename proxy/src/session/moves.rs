//! An UPDATE of the shard key, whose rows may belong to other groups afterwards (`analysis/moves.rs`).
//!
//! 1. Each group in turn, in ascending order, deletes the rows that the statement finds, and gives them with the slots of their new keys.
//! 2. Each group to which some belong, in ascending order, gets them as one array, computes what they become, and inserts that.
//!
//! All are deleted before the first is inserted, so that no row meets one that leaves. It is one transaction, as in [`super::split`].
//!
//! Memory: the rows, at most [`Limits::max_gathered`](crate::Limits), and once more while they are sent.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use coordinator::slots::SlotMap;

use super::Session;
use super::captured::{Captured, Kept};
use super::conn::{Audience, Conn, Kind, Stake};
use super::enter::Style;
use super::gather::{BARE_BIND, not_the_same};
use super::holes::draws_of;
use super::parts::{BINARY, end_batch, too_much};
use super::plans::Planned;
use super::relay::{columns_of, parameter_types};
use super::row_type::{Gathered, RowType};
use super::simple::read_slot;
use super::statements::{Portal, Statement};
use crate::analysis::{Access, Moves, Refusal};
use crate::failure::{Failure, Halt};
use crate::protocol::frame::HEADER;
use crate::protocol::frontend::{Bind, Execute};
use crate::protocol::{Body, Malformed, encode};

/// The name of the statements and portals of a move.
const NAME: &[u8] = b"_howdah_move";

/// A client's statement as it was given.
pub(super) struct Given<'a> {
    pub(super) text: &'a str,
    /// Declared types of its parameters; 0 for none.
    pub(super) types: &'a [u32],
    /// What it is bound to and with.
    pub(super) bind: Bind<'a>,
    pub(super) style: Style,
}

impl<'a> Given<'a> {
    /// One of a Query.
    pub(super) fn bare(text: &'a str) -> Result<Given<'a>, Malformed> {
        Ok(Given {
            text,
            types: &[],
            bind: Bind::read(&BARE_BIND)?,
            style: Style::Simple,
        })
    }
}

/// What a backend says of the client's statement.
struct Known {
    /// Its RowDescription, or NoData.
    columns: Bytes,
    /// The types of its parameters; a user's type has another object id in each group.
    types: Vec<u32>,
    /// How the table's rows are made.
    rows: RowType,
}

/// Rows on their way, of each group that they belong to, as bodies of DataRow messages.
type Moving = BTreeMap<usize, Vec<Bytes>>;

impl Session {
    /// Answers all but ReadyForQuery of a Query, as a transaction by itself where it is in none.
    pub(super) async fn moving_query(
        &mut self,
        places: &[usize],
        text: &str,
        moves: &Moves,
    ) -> Result<(), Halt> {
        let own = self.open_transaction(Style::Simple).await?;
        let given = Given::bare(text)?;
        let moved = self.move_all(places, &given, moves, None).await;
        let (counted, _) = self.close_transaction(own, moved).await?;
        encode::command_complete(self.out(), &format!("UPDATE {counted}"));
        Ok(())
    }

    /// Executes a portal for the first time.
    pub(super) async fn moving_portal(
        &mut self,
        places: &[usize],
        moves: &Moves,
        execute: &Execute<'_>,
    ) -> Result<(), Halt> {
        let (bind, statement, planned) = self.portal_alone(execute.portal)?;
        self.open_transaction(Style::Extended).await?;
        let given = Given {
            text: draws_of(planned.only()?).map_or(&statement.text, |draws| &draws.text),
            types: &statement.types,
            bind: Bind::read(Self::body(&bind))?,
            style: Style::Extended,
        };
        let known = statement.columns.get().map(Vec::as_slice);
        let check = (execute.limit > 0, known);
        let (counted, rows) = self.move_all(places, &given, moves, Some(check)).await?;
        self.written_portal(execute, places[0], format!("UPDATE {counted}"), rows);
        Ok(())
    }

    /// What a portal of several groups is made of, which others than itself will answer for.
    pub(super) fn portal_alone(
        &mut self,
        name: &[u8],
    ) -> Result<(Bytes, Arc<Statement>, Arc<Planned>), Refusal> {
        let Some(Portal::Many {
            bind,
            statement,
            planned,
            bound,
            ..
        }) = self.statements.portal(name).cloned()
        else {
            return Err(Refusal::unsupported("this portal cannot be executed"));
        };
        for place in bound {
            // Only to describe it.
            if let Some(conn) = &mut self.slots[place] {
                conn.stale_portals.push(name.to_vec());
            }
        }
        Ok((bind, statement, planned))
    }

    /// Answers an Execute of a portal that has written; what it returned is kept if the client asks for some of the rows at a time.
    pub(super) fn written_portal(
        &mut self,
        execute: &Execute<'_>,
        place: usize,
        tag: String,
        rows: Vec<Bytes>,
    ) {
        if execute.limit <= 0 {
            self.statements.replace_portal(execute.portal, Portal::Done);
            encode::command_complete(self.out(), &tag);
            return;
        }
        let portal = Portal::Rows {
            place,
            tag,
            returns: !rows.is_empty(),
            rows: rows.into(),
        };
        self.statements.replace_portal(execute.portal, portal);
        self.execute_rows(execute.portal, execute.limit);
    }

    /// Gives how many rows there were, and what they returned where that is kept. `check`: for a portal, whether it is, and what the
    /// client knows of the columns.
    async fn move_all(
        &mut self,
        places: &[usize],
        given: &Given<'_>,
        moves: &Moves,
        check: Option<(bool, Option<&[u8]>)>,
    ) -> Result<(u64, Vec<Bytes>), Halt> {
        let (_, catalogue) = self.catalogue().await?;
        let mut known: BTreeMap<usize, Known> = BTreeMap::new();
        for place in places {
            known.insert(*place, self.learn(*place, given, moves).await?);
        }
        let first = &known[&places[0]];
        if let Some((_, Some(columns))) = check
            && columns != columns_of(&first.columns)?
        {
            return Err(Refusal::new("0A000", "cached plan must not change result type").into());
        }
        self.check_moves(places[0], moves).await?;
        let description = first.columns.clone();
        let columns: Vec<String> = first.rows.read_columns().into_iter().map(str::to_owned).collect();
        let columns: Vec<&str> = columns.iter().map(String::as_str).collect();
        let take = moves.take(given.text, &columns);
        let (mut moving, mut room) = (Moving::new(), self.shared.limits.max_gathered);
        for place in places {
            let what = (take.as_str(), &known[place].types[..], &**catalogue.slots());
            self.take_away(*place, given, what, &mut moving, &mut room)
                .await?;
        }
        if given.style == Style::Simple && description.first() == Some(&b'T') {
            self.out().extend_from_slice(&description);
        }
        let (mut counted, mut returned) = (0, Vec::new());
        for (place, rows) in moving {
            let known = match known.remove(&place) {
                Some(known) => known,
                None => self.learn(place, given, moves).await?,
            };
            let kept = check.is_some_and(|(kept, _)| kept).then(|| self.room_for_rows());
            let captured = self.put_down(place, given, moves, &known, rows, kept).await?;
            counted += captured.counted;
            returned.extend(captured.kept.into_iter().flat_map(|kept| kept.rows));
        }
        Ok((counted, returned))
    }

    /// Enters a group and has its backend describe the statement.
    async fn learn(&mut self, place: usize, given: &Given<'_>, moves: &Moves) -> Result<Known, Halt> {
        self.enter(place, Access::Write, given.style).await?;
        self.settle().await?;
        let (group, number) = (self.group(place), self.guest.number());
        let parts = std::slice::from_ref(&moves.part);
        let mut described = Vec::new();
        if let Some(conn) = &mut self.slots[place] {
            conn.close_stale();
            conn.captured = Captured {
                described: Some(Vec::new()),
                ..Captured::default()
            };
            conn.own(&RowType::query(parts), None, Audience::Session);
            parse(conn, NAME, given.text, given.types, number);
            encode::describe_statement(&mut conn.output, NAME);
            conn.owes(Kind::Describe, Audience::Session, Stake::Nothing);
            close(conn, NAME);
            end_batch(conn, given.style);
        }
        self.drain(place).await?;
        if let Some(conn) = &mut self.slots[place] {
            described = conn.captured.described.take().unwrap_or_default();
        }
        let captured = self.take_captured(place, group, Stake::Nothing)?;
        let [types, columns] = described.as_slice() else {
            return Err(not_the_same(None).into());
        };
        let mut rows = RowType::read(captured.value.as_deref().unwrap_or_default(), parts)?;
        Ok(Known {
            columns: columns.clone(),
            types: parameter_types(types)?,
            rows: rows.pop().ok_or_else(|| not_the_same(None))?,
        })
    }

    /// Whether a row of the table can be deleted and inserted in the place of an update.
    async fn check_moves(&mut self, place: usize, moves: &Moves) -> Result<(), Halt> {
        self.enter(place, Access::Write, Style::Simple).await?;
        if self.is_read_only(place).await? {
            let words = "cannot execute UPDATE in a read-only transaction";
            return Err(Refusal::new("25006", words).into());
        }
        let table = moves.part.table.quoted().replace('\'', "''");
        let sql = format!(
            "SELECT CASE WHEN EXISTS (SELECT FROM pg_catalog.pg_constraint c WHERE c.contype = 'f' AND c.confrelid = r.oid \
               AND (c.confupdtype NOT IN ('a', 'r') OR c.confdeltype NOT IN ('a', 'r'))) \
               THEN 'Rows of other tables follow it by foreign keys with CASCADE, SET NULL or SET DEFAULT.' \
             WHEN EXISTS (SELECT FROM pg_catalog.pg_trigger t WHERE NOT t.tgisinternal AND (t.tgrelid = r.oid \
               OR t.tgrelid IN (SELECT p.relid FROM pg_catalog.pg_partition_tree(r.oid) p))) \
               THEN 'It has triggers, which would see a row deleted and inserted.' \
             WHEN EXISTS (SELECT FROM pg_catalog.pg_inherits i JOIN pg_catalog.pg_class c ON c.oid = i.inhparent \
               WHERE i.inhparent = r.oid AND c.relkind = 'r') \
               THEN 'Other tables inherit from it.' END \
             FROM (SELECT '{table}'::pg_catalog.regclass) r(oid)"
        );
        match self.ask(place, &sql, None).await? {
            None => Ok(()),
            Some(why) => {
                let table = &moves.part.table.name;
                let words = format!("UPDATE of the shard key of table \"{table}\" is not supported");
                Err(Refusal::unsupported(words)
                    .detail(String::from_utf8_lossy(&why).into_owned())
                    .hint("Delete the row and insert it again.")
                    .into())
            }
        }
    }

    /// Has a group delete its rows, and takes them.
    async fn take_away(
        &mut self,
        place: usize,
        given: &Given<'_>,
        (take, types, slots): (&str, &[u32], &SlotMap),
        moving: &mut Moving,
        room: &mut usize,
    ) -> Result<(), Halt> {
        self.enter(place, Access::Write, given.style).await?;
        self.settle().await?;
        let number = self.guest.number();
        if let Some(conn) = &mut self.slots[place] {
            parse(conn, NAME, take, types, number);
            let values: Vec<_> = given.bind.each().collect();
            encode::bind(&mut conn.output, (NAME, NAME), values.iter().copied(), &BINARY);
            conn.owes(Kind::Bind, Audience::Session, Stake::Nothing);
            execute(conn, Some(Kept::new(usize::MAX)), given.style);
        }
        let limit = self.shared.limits.max_gathered;
        let mut taken = Vec::new();
        let all = self
            .take_kept(place, |row| {
                let mut body = Body::new(row.get(HEADER..).unwrap_or_default());
                let columns = body.i16()?;
                let len = usize::try_from(body.i32()?).unwrap_or(0);
                let slot = <[u8; 8]>::try_from(body.bytes(len)?).map(i64::from_be_bytes).ok();
                let slot = read_slot(slot.map(|slot| slot.to_string()).as_deref().map(str::as_bytes))?;
                let columns = (columns - 1).to_be_bytes();
                let rest = Bytes::from([&columns, body.rest()].concat());
                *room = room
                    .checked_sub(rest.len() + size_of::<Bytes>())
                    .ok_or_else(|| too_much(limit))?;
                taken.push((slots.group(slot), rest));
                Ok(())
            })
            .await;
        if let Err(halt) = all {
            self.abandon(&[place]).await?;
            return Err(halt);
        }
        for (group, row) in taken {
            let to = self
                .place(group)
                .ok_or_else(|| Failure::from(shard::client::ConnectError::UnknownGroup(group)))?;
            moving.entry(to).or_default().push(row);
        }
        Ok(())
    }

    /// Takes the rows that a backend keeps, each as it comes: DataRow messages.
    pub(super) async fn take_kept(
        &mut self,
        place: usize,
        mut take: impl FnMut(Bytes) -> Result<(), Halt>,
    ) -> Result<Captured, Halt> {
        let group = self.group(place);
        if let Some(conn) = &mut self.slots[place]
            && !matches!(conn.expect.back(), Some(last) if last.kind == Kind::Sync)
        {
            encode::empty(&mut conn.output, b'H');
        }
        loop {
            let (mut taken, mut over) = (Vec::new(), true);
            if let Some(conn) = &mut self.slots[place] {
                over = conn.expect.is_empty();
                if let Some(kept) = &mut conn.captured.kept {
                    taken = std::mem::take(&mut kept.rows);
                    kept.room = usize::MAX;
                }
            }
            for row in taken {
                take(row)?;
            }
            if over {
                return self.take_captured(place, group, Stake::Nothing);
            }
            self.answers(place).await?;
        }
    }

    /// Has a group insert what the rows become that belong to it.
    async fn put_down(
        &mut self,
        place: usize,
        given: &Given<'_>,
        moves: &Moves,
        known: &Known,
        rows: Vec<Bytes>,
        kept: Option<Kept>,
    ) -> Result<Captured, Halt> {
        let mut gathered = Gathered::default();
        for row in rows {
            gathered.add(&known.rows, &row)?;
        }
        self.enter(place, Access::Write, given.style).await?;
        self.settle().await?;
        let (group, number) = (self.group(place), self.guest.number());
        if let Some(conn) = &mut self.slots[place] {
            let arrays = gathered.into_arrays(&known.rows);
            let values: Vec<_> = given
                .bind
                .each()
                .chain(arrays.iter().map(|array| (true, Some(&array[..]))))
                .collect();
            let put = moves.put(given.text, known.types.len());
            parse(conn, NAME, &put, &known.types, number);
            encode::bind(
                &mut conn.output,
                (NAME, NAME),
                values.iter().copied(),
                given.bind.results,
            );
            conn.owes(Kind::Bind, Audience::Session, Stake::Nothing);
            execute(conn, kept, given.style);
        }
        self.drain(place).await?;
        self.take_captured(place, group, Stake::Nothing)
    }
}

pub(super) fn parse(conn: &mut Conn, name: &[u8], text: &str, types: &[u32], number: u64) {
    // One that failed was skipped before its end and is still there.
    encode::close_statement(&mut conn.output, name);
    conn.owes(Kind::Close, Audience::Session, Stake::Nothing);
    encode::parse(&mut conn.output, name, text.as_bytes(), types);
    conn.parsing.push_back((name.to_vec(), number));
    conn.owes(Kind::Parse, Audience::Session, Stake::Nothing);
}

/// Executes what was bound. Its rows are kept, or go to the client.
fn execute(conn: &mut Conn, kept: Option<Kept>, style: Style) {
    conn.captured = Captured {
        kept,
        ..Captured::default()
    };
    encode::execute(&mut conn.output, NAME, 0);
    conn.owes(Kind::Execute, Audience::MergeNext, Stake::Nothing);
    encode::close_portal(&mut conn.output, NAME);
    conn.owes(Kind::Close, Audience::Session, Stake::Nothing);
    close(conn, NAME);
    end_batch(conn, style);
}

pub(super) fn close(conn: &mut Conn, name: &[u8]) {
    encode::close_statement(&mut conn.output, name);
    conn.owes(Kind::Close, Audience::Session, Stake::Nothing);
}
