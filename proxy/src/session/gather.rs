//! A query that no group can answer alone (`analysis/distributed`): what it needs of the tables is read from all groups at the same time, in
//! one snapshot, and one of the backends that have done so runs the client's own query over it.
//!
//! 1. That backend describes the client's text, which so fails as on one server, and the text that takes gathered rows, which must give the
//!    same columns. It also says what the tables' rows are made of there: object ids of types differ from group to group.
//! 2. Each group binds what it reads, and executes it. Rows come in binary.
//! 3. They are bound to the query as parameters, an array of rows for each table.
//!
//! Memory: all that is gathered, at most [`Limits::max_gathered`](crate::Limits), and once more while it is sent.

use bytes::BytesMut;

use super::Session;
use super::captured::{Captured, Kept};
use super::conn::{Audience, Conn, Kind, Stake};
use super::cursors::Cursor;
use super::enter::Style;
use super::relay::{columns_of, parameter_types};
use super::row_type::{Gathered, RowType};
use super::statements::Portal;
use super::temporary::Does;
use super::together::Binding;
use super::transaction::View;
use crate::analysis::{Access, Condition, Gathering, Refusal, parameters};
use crate::failure::{Failure, Halt};
use crate::protocol::encode;
use crate::protocol::fields::Fields;
use crate::protocol::frame::HEADER;
use crate::protocol::frontend::{Bind, Execute};

/// The first OID that is not PostgreSQL's own (FirstNormalObjectId).
const FIRST_OF_USERS: u32 = 16_384;

/// A Bind of the unnamed portal and statement, without parameters, for results as text.
pub(super) const BARE_BIND: [u8; 8] = [0; 8];

/// A formats list of one: binary.
pub(super) const BINARY: [u8; 4] = [0, 1, 0, 1];

/// A client's query whose rows are gathered.
struct Asked<'a> {
    gathering: &'a Gathering,
    /// The statement's text, which has the query in it.
    text: &'a str,
    /// Declared types of its parameters; 0 for none.
    types: &'a [u32],
    /// What it is bound to and with.
    bind: Bind<'a>,
    style: Style,
}

/// What the backend that will run the query says of it.
struct Described {
    /// The RowDescription of the client's own text.
    columns: bytes::Bytes,
    /// The types of the client's parameters.
    types: Vec<u32>,
    /// Of each part, how the rows of its table are made.
    rows: Vec<RowType>,
}

/// A part as the groups are asked for it.
struct Reading {
    /// Its statement, and its portal.
    name: String,
    text: String,
    types: Vec<u32>,
    bind: BytesMut,
}

impl Session {
    /// Answers all but ReadyForQuery of a Query, as a transaction by itself where it is in none.
    pub(super) async fn gathered_query(
        &mut self,
        places: &[usize],
        text: &str,
        gathering: &Gathering,
    ) -> Result<(), Halt> {
        let begun = self.begin_read_of_several().await?;
        let answered = self.answer_gathered(places, text, gathering).await;
        self.close_transaction(begun, answered).await
    }

    async fn answer_gathered(
        &mut self,
        places: &[usize],
        text: &str,
        gathering: &Gathering,
    ) -> Result<(), Halt> {
        let asked = Asked {
            gathering,
            text,
            types: &[],
            bind: Bind::read(&BARE_BIND)?,
            style: Style::Simple,
        };
        let (place, described) = self.bind_gathered(places, &asked).await?;
        self.out().extend_from_slice(&described.columns);
        let group = self.group(place);
        if let Some(conn) = &mut self.slots[place] {
            conn.captured = Captured::default();
            encode::execute(&mut conn.output, b"", 0);
            conn.owes(Kind::Execute, Audience::MergeNext, Stake::Nothing);
            conn.sync(Audience::Quiet, Stake::Nothing);
        }
        self.drain(place).await?;
        let counted = self.take_captured(place, group, Stake::Nothing)?.counted;
        encode::command_complete(self.out(), &format!("SELECT {counted}"));
        Ok(())
    }

    /// Executes a portal for the first time; from then on it is one of the backend that runs the query.
    pub(super) async fn gathered_portal(
        &mut self,
        places: &[usize],
        gathering: &Gathering,
        execute: &Execute<'_>,
        message: &[u8],
    ) -> Result<(), Halt> {
        let Some(Portal::Many {
            bind,
            statement,
            bound,
            ..
        }) = self.statements.portal(execute.portal).cloned()
        else {
            return Err(Refusal::unsupported("this portal cannot be executed").into());
        };
        for place in bound {
            // Only to describe it.
            if let Some(conn) = &mut self.slots[place] {
                conn.stale_portals.push(execute.portal.to_vec());
            }
        }
        let asked = Asked {
            gathering,
            text: &statement.text,
            types: &statement.types,
            bind: Bind::read(Self::body(&bind))?,
            style: Style::Extended,
        };
        let (place, described) = self.bind_gathered(places, &asked).await?;
        if let Some(known) = statement.columns.get()
            && *known != columns_of(&described.columns)?
        {
            return Err(Refusal::new("0A000", "cached plan must not change result type").into());
        }
        let (access, does) = (Access::Read, Does::Nothing);
        self.statements
            .replace_portal(execute.portal, Portal::At { place, access, does });
        self.send_on(place, Kind::Execute, message);
        Ok(())
    }

    /// Opens a cursor, which is one of the backend that runs its query. `asked`: the statement's text, the declared types of its
    /// parameters, and what it is bound with ([`Bind::rest`]).
    pub(super) async fn declare_gathered(
        &mut self,
        places: &[usize],
        name: &str,
        (text, types, values): (&str, &[u32], &[u8]),
        gathering: &Gathering,
        style: Style,
    ) -> Result<(), Halt> {
        if self.cursors.contains_key(name) {
            return Err(Refusal::new("42P03", format!("cursor \"{name}\" already exists")).into());
        }
        let body = [name.as_bytes(), b"\0\0", values].concat();
        let asked = Asked {
            gathering,
            text,
            types,
            bind: Bind::read(&body)?,
            style,
        };
        let (place, _) = self.bind_gathered(places, &asked).await?;
        let (since, held) = (self.position(), false);
        self.cursors
            .insert(name.to_owned(), Cursor::One { place, since, held });
        encode::command_complete(self.out(), "DECLARE CURSOR");
        Ok(())
    }

    /// Gathers the rows of a query, and binds it to its portal over them. Gives where, and how it is described.
    async fn bind_gathered(
        &mut self,
        places: &[usize],
        asked: &Asked<'_>,
    ) -> Result<(usize, Described), Halt> {
        for place in places {
            self.enter(*place, Access::Read, asked.style).await?;
            self.settle().await?;
        }
        let place = *places
            .iter()
            .find(|place| **place == self.nearest)
            .unwrap_or(&places[0]);
        let described = self.describe_gathered(place, asked).await?;
        let readings = readings(asked, &described);
        let mut gathered: Vec<Gathered> = described.rows.iter().map(|_| Gathered::default()).collect();
        self.read_parts(places, asked, &readings, &described.rows, &mut gathered)
            .await?;
        self.enter_bare(place).await?;
        let group = self.group(place);
        if let Some(conn) = &mut self.slots[place] {
            conn.captured = Captured::default();
            conn.close_stale();
            bind_final(conn, asked, &described.rows, gathered);
            conn.owes(Kind::Bind, Audience::Session, Stake::Nothing);
            end_batch(conn, asked.style);
            conn.unnamed = None;
        }
        self.drain(place).await?;
        self.take_captured(place, group, Stake::Nothing)?;
        Ok((place, described))
    }

    /// Has the backend at `place` describe the query, the same over gathered rows, and these.
    async fn describe_gathered(&mut self, place: usize, asked: &Asked<'_>) -> Result<Described, Halt> {
        let count = parameters(asked.text).max(asked.types.len());
        let made = asked.gathering.final_text(asked.text, count);
        let number = self.guest.number();
        self.enter_bare(place).await?;
        let group = self.group(place);
        let mut described = Vec::new();
        if let Some(conn) = &mut self.slots[place] {
            conn.captured = Captured {
                described: Some(Vec::new()),
                ..Captured::default()
            };
            conn.own(&RowType::query(&asked.gathering.parts), None, Audience::Session);
            let mut parse = BytesMut::new();
            for text in [asked.gathering.query(asked.text), &made] {
                parse.clear();
                encode::parse(&mut parse, b"", text.as_bytes(), asked.types);
                conn.parse(b"", number, &parse, Audience::Session);
                encode::describe_statement(&mut conn.output, b"");
                conn.owes(Kind::Describe, Audience::Session, Stake::Nothing);
            }
            end_batch(conn, asked.style);
        }
        self.drain(place).await?;
        if let Some(conn) = &mut self.slots[place] {
            conn.unnamed = None;
            described = conn.captured.described.take().unwrap_or_default();
        }
        let captured = match self.take_captured(place, group, Stake::Nothing) {
            Ok(captured) => captured,
            // It took the client's text, and not the other.
            Err(Halt::Fail(Failure::Postgres(error))) if described.len() == 2 => {
                return Err(not_the_same(Some(&error)).into());
            }
            Err(halt) => return Err(halt),
        };
        let [types, columns, types_made, columns_made] = described.as_slice() else {
            return Err(not_the_same(None).into());
        };
        let (types, types_made) = (parameter_types(types)?, parameter_types(types_made)?);
        if !types_made.starts_with(&types) || columns_of(columns)? != columns_of(columns_made)? {
            return Err(not_the_same(None).into());
        }
        Ok(Described {
            columns: columns.clone(),
            types,
            rows: RowType::read(
                captured.value.as_deref().unwrap_or_default(),
                &asked.gathering.parts,
            )?,
        })
    }

    /// Reads all parts from these groups.
    async fn read_parts(
        &mut self,
        places: &[usize],
        asked: &Asked<'_>,
        readings: &[Reading],
        rows: &[RowType],
        gathered: &mut [Gathered],
    ) -> Result<(), Halt> {
        let number = self.guest.number();
        let bindings: Vec<Binding<'_>> = readings
            .iter()
            .map(|reading| Binding {
                portal: reading.name.as_bytes(),
                message: &reading.bind,
                style: asked.style,
            })
            .collect();
        let mut parse = BytesMut::new();
        for place in places {
            let Some(conn) = &mut self.slots[*place] else {
                continue;
            };
            conn.captured = Captured::default();
            for (reading, binding) in readings.iter().zip(&bindings) {
                let name = reading.name.as_bytes();
                // One that failed was skipped before its end and is still there.
                encode::close_statement(&mut conn.output, name);
                conn.owes(Kind::Close, Audience::Session, Stake::Nothing);
                parse.clear();
                encode::parse(&mut parse, name, reading.text.as_bytes(), &reading.types);
                conn.output.extend_from_slice(&parse);
                conn.parsing.push_back((name.to_vec(), number));
                conn.owes(Kind::Parse, Audience::Session, Stake::Nothing);
                binding.close(conn);
                binding.send(conn);
            }
        }
        let view = self.transaction.as_ref().and_then(|t| t.view.as_ref());
        if matches!(view, Some(View::Statements)) {
            self.hear_all(places).await?;
            self.bind_together(places, &bindings).await?;
        }
        let mut room = self.shared.limits.max_gathered;
        for ((binding, rows), gathered) in bindings.iter().zip(rows).zip(gathered) {
            for place in places {
                if let Some(conn) = &mut self.slots[*place] {
                    execute_part(conn, binding, asked.style);
                }
            }
            self.aim_at(places);
            for (index, place) in places.iter().enumerate() {
                if let Err(halt) = self.take_part(*place, rows, gathered, &mut room).await {
                    self.abandon(&places[index..]).await?;
                    self.aim();
                    return Err(halt);
                }
            }
            self.aim();
        }
        Ok(())
    }

    /// Takes the rows of a part from one group, as they come.
    async fn take_part(
        &mut self,
        place: usize,
        rows: &RowType,
        gathered: &mut Gathered,
        room: &mut usize,
    ) -> Result<(), Halt> {
        let group = self.group(place);
        self.current = Some(place);
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
                let size = gathered.add(rows, row.get(HEADER..).unwrap_or_default())?;
                *room = room
                    .checked_sub(size)
                    .ok_or_else(|| too_much(self.shared.limits.max_gathered))?;
            }
            if over {
                return self.take_captured(place, group, Stake::Nothing).map(drop);
            }
            self.answers(place).await?;
        }
    }
}

/// What follows is answered together with what came before.
pub(super) fn end_batch(conn: &mut Conn, style: Style) {
    match style {
        Style::Simple => conn.sync(Audience::Quiet, Stake::Nothing),
        Style::Extended => encode::empty(&mut conn.output, b'H'),
    }
}

/// What is asked of each group.
fn readings(asked: &Asked<'_>, described: &Described) -> Vec<Reading> {
    let values: Vec<_> = asked.bind.each().collect();
    let parts = asked.gathering.parts.iter().zip(&described.rows).enumerate();
    parts
        .map(|(index, (part, rows))| {
            // A user's type has another object id in each group.
            let known = |condition: &Condition| {
                condition
                    .parameters()
                    .all(|at| described.types.get(at).is_some_and(|oid| *oid < FIRST_OF_USERS))
            };
            let conditions: Vec<&Condition> = part
                .conditions
                .iter()
                .filter(|condition| known(condition))
                .collect();
            let mut used: Vec<usize> = conditions
                .iter()
                .flat_map(|condition| condition.parameters())
                .collect();
            used.sort_unstable();
            used.dedup();
            let numbered = |at: usize| used.iter().position(|known| *known == at).unwrap_or_default() + 1;
            let name = format!("_howdah_{index}");
            let mut bind = BytesMut::new();
            let bound = used
                .iter()
                .map(|at| values.get(*at).copied().unwrap_or((false, None)));
            encode::bind(&mut bind, (name.as_bytes(), name.as_bytes()), bound, &BINARY);
            Reading {
                text: part.text(&rows.read_columns(), &conditions, numbered),
                types: used.iter().map(|at| described.types[*at]).collect(),
                name,
                bind,
            }
        })
        .collect()
}

fn execute_part(conn: &mut Conn, binding: &Binding<'_>, style: Style) {
    conn.captured = Captured {
        // Its rows are taken out after each turn, which reads no more than a buffer, or one row.
        kept: Some(Kept::new(usize::MAX)),
        ..Captured::default()
    };
    encode::execute(&mut conn.output, binding.portal, 0);
    conn.owes(Kind::Execute, Audience::MergeNext, Stake::Nothing);
    binding.close(conn);
    encode::close_statement(&mut conn.output, binding.portal);
    conn.owes(Kind::Close, Audience::Session, Stake::Nothing);
    end_batch(conn, style);
}

/// The client's parameters, and behind them the gathered rows.
fn bind_final(conn: &mut Conn, asked: &Asked<'_>, rows: &[RowType], gathered: Vec<Gathered>) {
    let arrays: Vec<BytesMut> = gathered
        .into_iter()
        .zip(rows)
        .map(|(gathered, rows)| gathered.into_array(rows))
        .collect();
    let all: Vec<_> = asked
        .bind
        .each()
        .chain(arrays.iter().map(|array| (true, Some(&array[..]))))
        .collect();
    let portal = (asked.bind.portal, &b""[..]);
    encode::bind(&mut conn.output, portal, all.iter().copied(), asked.bind.results);
}

/// The text over gathered rows is not what the client's own is.
pub(super) fn not_the_same(error: Option<&[u8]>) -> Refusal {
    let refusal =
        Refusal::unsupported("this query cannot be run over rows that are gathered from several groups")
            .hint("Write it in another form, or add WHERE on the shard key, so that it runs on one group.");
    match error {
        Some(error) => refusal.detail(Fields::read(error.get(HEADER..).unwrap_or_default()).message),
        None => refusal.detail("It would give other columns."),
    }
}

pub(super) fn too_much(limit: usize) -> Refusal {
    let limit = limit >> 10;
    Refusal::new(
        "53400",
        format!("the rows that this query needs from several groups exceed sql.max_gathered ({limit} kB)"),
    )
    .detail("No group can answer it alone, so that rows are gathered in memory.")
    .hint("Narrow them down by WHERE, name fewer columns, or have sql.max_gathered raised.")
}
