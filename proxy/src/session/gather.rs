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
use super::captured::Captured;
use super::commands::Rows;
use super::conn::{Audience, Conn, Kind, Stake};
use super::cursors::Cursor;
use super::enter::Style;
use super::holes::draws_of;
use super::merge::Giving;
use super::parts::{BINARY, Bound, Came, Sink, end_batch};
use super::relay::{columns_of, parameter_types};
use super::row_type::{Gathered, RowType};
use super::statements::Portal;
use super::temporary::Does;
use crate::analysis::{Access, Gathering, Part, Partial, Refusal, Values, parameters};
use crate::failure::{Failure, Halt};
use crate::protocol::fields::Fields;
use crate::protocol::frame::HEADER;
use crate::protocol::frontend::{Bind, Execute};
use crate::protocol::{Body, Malformed, encode};

/// The first OID that is not PostgreSQL's own (FirstNormalObjectId).
pub(super) const FIRST_OF_USERS: u32 = 16_384;

/// Bytes of gathered rows that are sure to fit into a hash table of PostgreSQL's own `work_mem`, which has less of each.
const MOST_HASHED: usize = 4 << 20;

/// A Bind of the unnamed portal and statement, without parameters, for results as text.
pub(super) const BARE_BIND: [u8; 8] = [0; 8];

/// A client's query whose rows are gathered.
pub(super) struct Asked<'a> {
    pub(super) gathering: &'a Gathering,
    /// The statement's text, which has the query in it.
    pub(super) text: &'a str,
    /// Declared types of its parameters; 0 for none.
    pub(super) types: &'a [u32],
    /// What it is bound to and with.
    pub(super) bind: Bind<'a>,
    pub(super) style: Style,
}

impl<'a> Asked<'a> {
    /// One of this text, without parameters, with all results as text.
    pub(super) fn bare(
        gathering: &'a Gathering,
        text: &'a str,
        style: Style,
    ) -> Result<Asked<'a>, Malformed> {
        Ok(Asked {
            gathering,
            text,
            types: &[],
            bind: Bind::read(&BARE_BIND)?,
            style,
        })
    }
}

/// A query that is bound over the rows that it needs.
pub(super) struct Ready {
    /// Where.
    pub(super) place: usize,
    /// The RowDescription of the client's own text.
    pub(super) columns: Bytes,
    /// What came of each group, by what was read of it.
    pub(super) came: Vec<Vec<Came>>,
}

/// What the backend that will run the query says of it.
pub(super) struct Described {
    /// The RowDescription of the client's own text.
    pub(super) columns: Bytes,
    /// The types of the client's parameters.
    types: Vec<u32>,
    /// Of each part, how the rows of its table are made.
    pub(super) rows: Vec<RowType>,
}

impl Session {
    /// Answers all but ReadyForQuery of a Query, as a transaction by itself where it is in none.
    pub(super) async fn gathered_query(
        &mut self,
        places: &[usize],
        text: &str,
        gathering: &Gathering,
    ) -> Result<(), Halt> {
        let begun = self.begin_read_of_several(true).await?;
        let answered = self.answer_gathered(places, text, gathering).await;
        self.close_transaction(begun, answered).await
    }

    async fn answer_gathered(
        &mut self,
        places: &[usize],
        text: &str,
        gathering: &Gathering,
    ) -> Result<(), Halt> {
        let asked = Asked::bare(gathering, text, Style::Simple)?;
        self.enter_all(places, asked.style).await?;
        let counted = if let Some(merged) = self.describe_merged(places, &asked).await? {
            self.merge(places, merged, &asked, Giving::Rows(Rows::Described))
                .await?
        } else {
            let ready = self.bind_gathered(places, &asked).await?;
            self.out().extend_from_slice(&ready.columns);
            let group = self.group(ready.place);
            if let Some(conn) = &mut self.slots[ready.place] {
                conn.captured = Captured::default();
                encode::execute(&mut conn.output, b"", 0);
                conn.owes(Kind::Execute, Audience::MergeNext, Stake::Nothing);
                conn.sync(Audience::Quiet, Stake::Nothing);
            }
            self.drain(ready.place).await?;
            self.take_captured(ready.place, group, Stake::Nothing)?.counted
        };
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
            planned,
            ..
        }) = self.statements.portal(execute.portal).cloned()
        else {
            return Err(Refusal::unsupported("this portal cannot be executed").into());
        };
        let draws = draws_of(planned.only()?);
        for place in bound {
            // Only to describe it.
            if let Some(conn) = &mut self.slots[place] {
                conn.stale_portals.push(execute.portal.to_vec());
            }
        }
        let asked = Asked {
            gathering,
            text: draws.map_or(&statement.text, |draws| &draws.text),
            types: &statement.types,
            bind: Bind::read(Self::body(&bind))?,
            style: Style::Extended,
        };
        self.enter_all(places, asked.style).await?;
        let same = |columns: &[u8]| match statement.columns.get() {
            Some(known) if *known != columns_of(columns)? => Err(Halt::from(Refusal::new(
                "0A000",
                "cached plan must not change result type",
            ))),
            _ => Ok(()),
        };
        if execute.limit <= 0
            && let Some(merged) = self.describe_merged(places, &asked).await?
        {
            same(&merged.columns)?;
            let counted = self
                .merge(places, merged, &asked, Giving::Rows(Rows::Alone))
                .await?;
            encode::command_complete(self.out(), &format!("SELECT {counted}"));
            self.statements.replace_portal(execute.portal, Portal::Done);
            return Ok(());
        }
        let Ready { place, columns, .. } = self.bind_gathered(places, &asked).await?;
        same(&columns)?;
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
        self.enter_all(places, asked.style).await?;
        let place = self.bind_gathered(places, &asked).await?.place;
        let (since, held) = (self.position(), false);
        self.cursors
            .insert(name.to_owned(), Cursor::One { place, since, held });
        encode::command_complete(self.out(), "DECLARE CURSOR");
        Ok(())
    }

    /// Enters all of these groups to read.
    pub(super) async fn enter_all(&mut self, places: &[usize], style: Style) -> Result<(), Halt> {
        for place in places {
            self.enter(*place, Access::Read, style).await?;
            self.settle().await?;
        }
        Ok(())
    }

    /// Which of them is asked what there is to ask of one.
    pub(super) fn one_of(&self, places: &[usize]) -> usize {
        let nearest = places.iter().find(|place| **place == self.nearest);
        nearest.or(places.first()).copied().unwrap_or_default()
    }

    /// Gathers the rows of a query from these groups, which were entered, and binds it to its portal over them.
    pub(super) async fn bind_gathered(&mut self, places: &[usize], asked: &Asked<'_>) -> Result<Ready, Halt> {
        let place = self.one_of(places);
        let partial = match &asked.gathering.partial {
            Some(partial) => self.describe_partial(place, asked, partial).await?,
            None => None,
        };
        let aggregated = partial.is_some();
        let (described, readings) = match partial {
            Some(known) => known,
            None => {
                let described = self.describe_gathered(place, asked).await?;
                let readings = readings(asked, &described);
                (described, readings)
            }
        };
        let mut gathered: Vec<Gathered> = described.rows.iter().map(|_| Gathered::default()).collect();
        self.bind_parts(places, &readings, asked.style).await?;
        let most = self.shared.limits.max_gathered;
        let (mut room, mut came) = (most, Vec::new());
        for ((reading, rows), into) in readings.iter().zip(&described.rows).zip(&mut gathered) {
            self.execute_part(places, reading, asked.style);
            let room = &mut room;
            came.push(
                self.take_parts(places, &mut Sink::Gathered { rows, into, room })
                    .await?,
            );
        }
        let probed = match most - room <= MOST_HASHED && !aggregated {
            true => asked.gathering.probed_text(asked.text, asked.parameters()),
            false => None,
        };
        self.enter_bare(place).await?;
        let (group, number) = (self.group(place), self.guest.number());
        if let Some(conn) = &mut self.slots[place] {
            conn.captured = Captured::default();
            conn.close_stale();
            if let Some(text) = probed {
                let mut parse = BytesMut::new();
                encode::parse(&mut parse, b"", text.as_bytes(), &described.types);
                conn.parse(b"", number, &parse, Audience::Session);
            }
            bind_final(conn, asked, &described.rows, gathered);
            conn.owes(Kind::Bind, Audience::Session, Stake::Nothing);
            end_batch(conn, asked.style);
            conn.unnamed = None;
        }
        self.drain(place).await?;
        self.take_captured(place, group, Stake::Nothing)?;
        Ok(Ready {
            place,
            columns: described.columns,
            came,
        })
    }

    /// Has the backend at `place` describe statements, each of its text and the declared types of its parameters, and answer a question with one
    /// value. The last statement stays there. Gives what was described, and what came of it.
    pub(super) async fn describe_on(
        &mut self,
        place: usize,
        style: Style,
        question: Option<&str>,
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
            if let Some(question) = question {
                conn.own(question, None, Audience::Session);
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
    pub(super) async fn describe_gathered(
        &mut self,
        place: usize,
        asked: &Asked<'_>,
    ) -> Result<Described, Halt> {
        let made = asked.gathering.final_text(asked.text, asked.parameters());
        let statements = [
            (asked.gathering.query(asked.text), asked.types),
            (&made, asked.types),
        ];
        let tables = &asked.gathering.parts;
        let question = RowType::query(tables);
        let (described, captured) = self
            .describe_on(place, asked.style, Some(&question), &statements)
            .await?;
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
        // The first is the one whose columns are given.
        let first = std::slice::from_ref(&partial.part);
        let tables: Vec<Part> = first
            .iter()
            .chain(partial.tables.iter().skip(1))
            .cloned()
            .collect();
        let question = RowType::query(&tables);
        let (described, captured) = self
            .describe_on(place, asked.style, Some(&question), &statements)
            .await?;
        let captured = the_clients(captured, &described)?;
        let [types, columns, types_read, columns_read] = described.as_slice() else {
            return Err(not_the_same(None).into());
        };
        let (types, types_read) = (parameter_types(types)?, parameter_types(types_read)?);
        let alike = |(at, oid): (&usize, &u32)| types.get(*at) == Some(oid) && *oid < FIRST_OF_USERS;
        let extras = results(columns_read)?.into_iter().skip(read.len());
        let (extras, modifiers): (Vec<u32>, Vec<i32>) =
            extras.map(|result| (result.oid, result.modifier)).unzip();
        let rows = RowType::read(captured.value.as_deref().unwrap_or_default(), &tables)?;
        let own_collation = rows.iter().all(RowType::has_own_collation);
        let Some(rows) = rows
            .into_iter()
            .next()
            .map(|rows| rows.and(extras.clone(), !read.is_empty()))
        else {
            return Ok(None);
        };
        let wants = |read: &[&str]| read.is_empty() || rows.read_columns() == read;
        if !reading.parameters.iter().zip(&types_read).all(alike) || !wants(&read) {
            return Ok(None);
        }
        let names: Vec<String> = results(columns)?.into_iter().map(|result| result.name).collect();
        let count = asked.parameters();
        let values = Values {
            types: &extras,
            modifiers: &modifiers,
            own_collation,
        };
        let made = asked
            .gathering
            .partial_text(asked.text, count, (&rows.columns(), values), &names);
        let Some(made) = made else { return Ok(None) };
        let (made, captured) = self
            .describe_on(place, asked.style, None, &[(&made, &types)])
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
        let bound = Bound::of(0, reading, (&asked.bind, &types), &BINARY);
        let described = Described {
            columns: columns.clone(),
            types,
            rows: vec![rows],
        };
        Ok(Some((described, vec![bound])))
    }
}

/// What is asked of each group.
pub(super) fn readings(asked: &Asked<'_>, described: &Described) -> Vec<Bound> {
    // A user's type has another object id in each group.
    let known = |at: usize| described.types.get(at).is_some_and(|oid| *oid < FIRST_OF_USERS);
    let parts = asked.gathering.parts.iter().zip(&described.rows).enumerate();
    parts
        .map(|(index, (part, rows))| {
            let reading = part.reading(&rows.read_columns(), known);
            Bound::of(index, reading, (&asked.bind, &described.types), &BINARY)
        })
        .collect()
}

impl Asked<'_> {
    /// How many parameters the client's statement has.
    pub(super) fn parameters(&self) -> usize {
        parameters(self.text).max(self.types.len())
    }
}

/// What came of describing the client's text and then one of ours: what is wrong with ours is not the client's.
pub(super) fn the_clients(captured: Result<Captured, Halt>, described: &[Bytes]) -> Result<Captured, Halt> {
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

/// A column of a result.
pub(super) struct Column {
    pub(super) name: String,
    pub(super) oid: u32,
    /// Of its type; -1 for none.
    pub(super) modifier: i32,
}

/// The columns of a RowDescription.
pub(super) fn results(message: &[u8]) -> Result<Vec<Column>, Malformed> {
    let mut body = Body::new(message.get(HEADER..).unwrap_or_default());
    (0..body.i16()?)
        .map(|_| {
            let name = String::from_utf8_lossy(body.cstr()?).into_owned();
            let (_table, _column) = (body.i32()?, body.i16()?);
            let oid = u32::from_be_bytes(body.i32()?.to_be_bytes());
            let (_size, modifier, _format) = (body.i16()?, body.i32()?, body.i16()?);
            Ok(Column { name, oid, modifier })
        })
        .collect()
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
