//! A query that no group can answer alone (`analysis/distributed`): what it needs of the tables is read from all groups at the same time, in
//! one snapshot, and one of the backends that have done so runs the client's own query over it.
//!
//! 1. That backend describes the client's text, which so fails as on one server, and the text that takes gathered rows, which must give the
//!    same columns. It also says what the tables' rows are made of there: object ids of types differ from group to group.
//! 2. Each group binds what it reads, and executes it. Rows come in binary.
//! 3. They are bound to the query as parameters, an array of rows for each table.
//!
//! Memory: all that is gathered, at most [`Limits::max_gathered`](crate::Limits), and once more while it is sent.

use bytes::{Bytes, BytesMut};

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
use crate::analysis::{Access, Gathering, Part, Partial, Reading, Refusal, Values, parameters};
use crate::failure::{Failure, Halt};
use crate::protocol::fields::Fields;
use crate::protocol::frame::HEADER;
use crate::protocol::frontend::{Bind, Execute};
use crate::protocol::{Body, Malformed, encode};

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
    columns: Bytes,
    /// The types of the client's parameters.
    types: Vec<u32>,
    /// Of each part, how the rows of its table are made.
    rows: Vec<RowType>,
}

/// A part as the groups are asked for it.
struct Bound {
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
        let (place, columns) = self.bind_gathered(places, &asked).await?;
        self.out().extend_from_slice(&columns);
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
        let (place, columns) = self.bind_gathered(places, &asked).await?;
        if let Some(known) = statement.columns.get()
            && *known != columns_of(&columns)?
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

    /// Gathers the rows of a query, and binds it to its portal over them. Gives where, and its RowDescription.
    async fn bind_gathered(&mut self, places: &[usize], asked: &Asked<'_>) -> Result<(usize, Bytes), Halt> {
        for place in places {
            self.enter(*place, Access::Read, asked.style).await?;
            self.settle().await?;
        }
        let place = *places
            .iter()
            .find(|place| **place == self.nearest)
            .unwrap_or(&places[0]);
        let partial = match &asked.gathering.partial {
            Some(partial) => self.describe_partial(place, asked, partial).await?,
            None => None,
        };
        let (described, readings) = match partial {
            Some(known) => known,
            None => {
                let described = self.describe_gathered(place, asked).await?;
                let readings = readings(asked, &described);
                (described, readings)
            }
        };
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
        Ok((place, described.columns))
    }

    /// Has the backend at `place` describe statements, each of its text and the declared types of its parameters, and these tables. The last
    /// statement stays there. Gives what was described, and what came of it.
    async fn describe_on(
        &mut self,
        place: usize,
        style: Style,
        tables: &[Part],
        statements: &[(&str, &[u32])],
    ) -> Result<(Vec<Bytes>, Result<Captured, Halt>), Halt> {
        let number = self.guest.number();
        self.enter_bare(place).await?;
        let group = self.group(place);
        let mut described = Vec::new();
        if let Some(conn) = &mut self.slots[place] {
            conn.captured = Captured {
                described: Some(Vec::new()),
                ..Captured::default()
            };
            if !tables.is_empty() {
                conn.own(&RowType::query(tables), None, Audience::Session);
            }
            let mut parse = BytesMut::new();
            for (text, types) in statements {
                parse.clear();
                encode::parse(&mut parse, b"", text.as_bytes(), types);
                conn.parse(b"", number, &parse, Audience::Session);
                encode::describe_statement(&mut conn.output, b"");
                conn.owes(Kind::Describe, Audience::Session, Stake::Nothing);
            }
            end_batch(conn, style);
        }
        self.drain(place).await?;
        if let Some(conn) = &mut self.slots[place] {
            conn.unnamed = None;
            described = conn.captured.described.take().unwrap_or_default();
        }
        Ok((described, self.take_captured(place, group, Stake::Nothing)))
    }

    /// Has the backend at `place` describe the query, the same over gathered rows, and these.
    async fn describe_gathered(&mut self, place: usize, asked: &Asked<'_>) -> Result<Described, Halt> {
        let made = asked.gathering.final_text(asked.text, asked.parameters());
        let statements = [
            (asked.gathering.query(asked.text), asked.types),
            (&made, asked.types),
        ];
        let tables = &asked.gathering.parts;
        let (described, captured) = self.describe_on(place, asked.style, tables, &statements).await?;
        let captured = the_clients(captured, &described)?;
        let [types, columns, types_made, columns_made] = described.as_slice() else {
            return Err(not_the_same(None).into());
        };
        let types = parameter_types(types)?;
        if !is_same((&types, columns), (types_made, columns_made))? {
            return Err(not_the_same(None).into());
        }
        Ok(Described {
            columns: columns.clone(),
            types,
            rows: RowType::read(captured.value.as_deref().unwrap_or_default(), tables)?,
        })
    }

    /// Has the backend at `place` describe the query, what each group gives for it, and the query over that; none where its rows have to be
    /// gathered.
    async fn describe_partial(
        &mut self,
        place: usize,
        asked: &Asked<'_>,
        partial: &Partial,
    ) -> Result<Option<(Described, Vec<Bound>)>, Halt> {
        let read: Vec<&str> = partial.part.columns.iter().map(String::as_str).collect();
        let reading = partial.reading(&read);
        let declared = |at: &usize| asked.types.get(*at).copied().unwrap_or(0);
        let declared: Vec<u32> = reading.parameters.iter().map(declared).collect();
        let query = asked.gathering.query(asked.text);
        let statements = [(query, asked.types), (&reading.text, &declared)];
        let tables = std::slice::from_ref(&partial.part);
        let (described, captured) = self.describe_on(place, asked.style, tables, &statements).await?;
        let captured = the_clients(captured, &described)?;
        let [types, columns, types_read, columns_read] = described.as_slice() else {
            return Err(not_the_same(None).into());
        };
        let (types, types_read) = (parameter_types(types)?, parameter_types(types_read)?);
        let alike = |(at, oid): (&usize, &u32)| types.get(*at) == Some(oid) && *oid < FIRST_OF_USERS;
        let extras: Vec<u32> = results(columns_read)?
            .into_iter()
            .skip(read.len())
            .map(|(_, oid)| oid)
            .collect();
        let mut rows = RowType::read(captured.value.as_deref().unwrap_or_default(), tables)?;
        let Some(rows) = rows.pop().map(|rows| rows.and(extras.clone(), !read.is_empty())) else {
            return Ok(None);
        };
        let wants = |read: &[&str]| read.is_empty() || rows.read_columns() == read;
        if !reading.parameters.iter().zip(&types_read).all(alike) || !wants(&read) {
            return Ok(None);
        }
        let names: Vec<String> = results(columns)?.into_iter().map(|(name, _)| name).collect();
        let count = asked.parameters();
        let values = Values {
            types: &extras,
            own_collation: rows.has_own_collation(),
        };
        let made = asked
            .gathering
            .partial_text(asked.text, count, (&rows.columns(), values), &names);
        let Some(made) = made else { return Ok(None) };
        let (made, captured) = self
            .describe_on(place, asked.style, &[], &[(&made, &types)])
            .await?;
        match (captured, made.as_slice()) {
            // As where an expression of GROUP BY has a length or a scale, which values do not bring along.
            (Ok(_), [types_made, columns_made])
                if !is_same((&types, columns), (types_made, columns_made))? =>
            {
                return Ok(None);
            }
            (Ok(_), [_, _]) => {}
            (Err(Halt::Fail(Failure::Postgres(error))), _) => return Err(not_the_same(Some(&error)).into()),
            (Err(halt), _) => return Err(halt),
            (Ok(_), _) => return Err(not_the_same(None).into()),
        }
        let bound = Bound::of(0, reading, &asked.bind, &types);
        let described = Described {
            columns: columns.clone(),
            types,
            rows: vec![rows],
        };
        Ok(Some((described, vec![bound])))
    }

    /// Reads all parts from these groups.
    async fn read_parts(
        &mut self,
        places: &[usize],
        asked: &Asked<'_>,
        readings: &[Bound],
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
fn readings(asked: &Asked<'_>, described: &Described) -> Vec<Bound> {
    // A user's type has another object id in each group.
    let known = |at: usize| described.types.get(at).is_some_and(|oid| *oid < FIRST_OF_USERS);
    let parts = asked.gathering.parts.iter().zip(&described.rows).enumerate();
    parts
        .map(|(index, (part, rows))| {
            let reading = part.reading(&rows.read_columns(), known);
            Bound::of(index, reading, &asked.bind, &described.types)
        })
        .collect()
}

impl Bound {
    fn of(index: usize, reading: Reading, bind: &Bind<'_>, types: &[u32]) -> Bound {
        let values: Vec<_> = bind.each().collect();
        let name = format!("_howdah_{index}");
        let used = &reading.parameters;
        let bound = used
            .iter()
            .map(|at| values.get(*at).copied().unwrap_or((false, None)));
        let mut message = BytesMut::new();
        encode::bind(&mut message, (name.as_bytes(), name.as_bytes()), bound, &BINARY);
        Bound {
            types: used
                .iter()
                .map(|at| types.get(*at).copied().unwrap_or(0))
                .collect(),
            text: reading.text,
            name,
            bind: message,
        }
    }
}

impl Asked<'_> {
    /// How many parameters the client's statement has.
    fn parameters(&self) -> usize {
        parameters(self.text).max(self.types.len())
    }
}

/// What came of describing the client's text and then one of ours: what is wrong with ours is not the client's.
fn the_clients(captured: Result<Captured, Halt>, described: &[Bytes]) -> Result<Captured, Halt> {
    match captured {
        Err(Halt::Fail(Failure::Postgres(error))) if described.len() == 2 => {
            Err(not_the_same(Some(&error)).into())
        }
        captured => captured,
    }
}

/// Whether the text over gathered rows has the parameters and gives the columns of the client's own.
fn is_same(
    (types, columns): (&[u32], &[u8]),
    (types_made, columns_made): (&[u8], &[u8]),
) -> Result<bool, Malformed> {
    Ok(parameter_types(types_made)?.starts_with(types) && columns_of(columns)? == columns_of(columns_made)?)
}

/// The names and types of a RowDescription.
fn results(message: &[u8]) -> Result<Vec<(String, u32)>, Malformed> {
    let mut body = Body::new(message.get(HEADER..).unwrap_or_default());
    (0..body.i16()?)
        .map(|_| {
            let name = String::from_utf8_lossy(body.cstr()?).into_owned();
            let (_table, _column) = (body.i32()?, body.i16()?);
            let oid = u32::from_be_bytes(body.i32()?.to_be_bytes());
            let (_size, _modifier, _format) = (body.i16()?, body.i32()?, body.i16()?);
            Ok((name, oid))
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
        .flat_map(|(gathered, rows)| gathered.into_arrays(rows))
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
