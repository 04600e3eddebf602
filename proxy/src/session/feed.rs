//! An INSERT ... SELECT whose rows come to the session, and go where their keys belong (`analysis/feed.rs`).
//!
//! 1. A backend describes the client's statement, which so fails as on one server, and the SELECT.
//! 2. The SELECT is bound where it runs: in several groups in one cut, or over gathered rows.
//! 3. A few rows at a time are taken. Each goes into the block of its group. When the blocks are full they are inserted, one group after the
//!    other in ascending order. Portals show what was there when they were bound, so none sees what is inserted.
//!
//! It is one transaction, as in [`super::split`]. Memory: what was taken last, and the blocks; all that goes to a group where a row may meet
//! another of the same statement, at most [`Limits::max_gathered`](crate::Limits).

use std::collections::BTreeMap;

use bytes::{BufMut, Bytes, BytesMut};

use super::Session;
use super::captured::{Captured, Kept};
use super::conn::{Audience, Kind, Stake};
use super::gather::{Asked, not_the_same, results};
use super::holes::draws_of;
use super::moves::{Given, close, parse};
use super::parts::{end_batch, too_much};
use super::plans::Planned;
use super::relay::{columns_of, parameter_types};
use super::row_type::OIDS_OF_OBJECTS;
use super::simple::Placed;
use super::together::Binding;
use crate::analysis::{
    Access, Answers, Feed, FeedColumn, Form, Format, Parameter, Query, Refusal, Route, Sent, goes_by_row,
};
use crate::failure::{Failure, Halt};
use crate::protocol::frame::HEADER;
use crate::protocol::frontend::{Bind, Execute};
use crate::protocol::{Body, Malformed, encode};

use super::enter::Style;

/// The names of the SELECT's statement and portals, and of the INSERT's.
const SELECT: &[u8] = b"_howdah_feed";
const INSERT: &[u8] = b"_howdah_fed";

/// How many rows are taken at a time.
const ROWS: u64 = 1000;

/// Blocks of together so many bytes are inserted.
const FULL: usize = 1 << 20;

/// The first OID that is not PostgreSQL's own (FirstNormalObjectId): such types have another one in each group.
const FIRST_OF_USERS: u32 = 16_384;

/// `text` (pg_type.dat).
const TEXT: u32 = 25;

/// As many parameters as the protocol counts.
const MOST_PARAMETERS: usize = 65_535;

/// Whether what is written as text is read as the same value: numbers with all their digits, dates and intervals in one way only.
const SAFE_TEXT: &str = "(pg_catalog.current_setting('extra_float_digits')::int >= 1 \
    AND pg_catalog.current_setting('DateStyle') LIKE 'ISO%' \
    AND pg_catalog.current_setting('IntervalStyle') IN ('postgres', 'iso_8601'))";

/// A parameter's value as it is bound: whether it is binary, and NULL for none.
type Value<'g> = (bool, Option<&'g [u8]>);

/// What is known of the statement.
struct Known {
    /// Its RowDescription, or NoData.
    returning: Bytes,
    /// The types of its parameters, where that backend is that has described them.
    types: Vec<u32>,
    /// The types of what is selected, and how they are sent.
    oids: Vec<u32>,
    columns: Vec<FeedColumn>,
}

/// Rows that go to a group: of each column an array, or the values of each row.
#[derive(Default)]
struct Block {
    columns: Vec<Column>,
    /// DataRow messages, where they are not taken apart.
    rows: Vec<Bytes>,
    count: u32,
}

/// Elements of an array, as `array_recv` in arrayfuncs.c takes them.
#[derive(Default)]
struct Column {
    elements: BytesMut,
    nulls: bool,
}

impl Block {
    /// Adds a row as it is. Gives its size.
    fn add_row(&mut self, row: Bytes) -> usize {
        let size = row.len();
        self.rows.push(row);
        self.count += 1;
        size
    }

    /// Adds a row. Gives its size.
    fn add(&mut self, row: &[Option<&[u8]>]) -> usize {
        self.columns.resize_with(row.len(), Column::default);
        let mut size = 0;
        for (column, value) in self.columns.iter_mut().zip(row) {
            match value {
                Some(value) => {
                    column
                        .elements
                        .put_u32(u32::try_from(value.len()).unwrap_or(u32::MAX));
                    column.elements.put_slice(value);
                    size += value.len();
                }
                None => {
                    column.nulls = true;
                    column.elements.put_i32(-1);
                }
            }
            size += 4;
        }
        self.count += 1;
        size
    }

    /// The arrays, of elements of these types.
    fn arrays(self, oids: impl Iterator<Item = u32>) -> Vec<BytesMut> {
        let array = |(column, oid): (Column, u32)| {
            let mut array = BytesMut::with_capacity(20 + column.elements.len());
            for word in [1, u32::from(column.nulls), oid, self.count, 1] {
                array.put_u32(word);
            }
            array.extend_from_slice(&column.elements);
            array
        };
        self.columns.into_iter().zip(oids).map(array).collect()
    }
}

impl Session {
    /// Answers all but ReadyForQuery of a Query, and ends the transaction that was opened for it alone.
    pub(super) async fn feed_alone(
        &mut self,
        own: bool,
        text: &str,
        feed: &Feed,
        planned: &Planned,
    ) -> Result<(), Halt> {
        let given = Given::bare(text)?;
        let fed = self.feed_all(&given, feed, planned, None).await;
        let (counted, _) = self.close_transaction(own, fed).await?;
        encode::command_complete(self.out(), &format!("INSERT 0 {counted}"));
        Ok(())
    }

    /// Executes a portal for the first time.
    pub(super) async fn feeding_portal(
        &mut self,
        places: &[usize],
        (query, feed): (&Query, &Feed),
        execute: &Execute<'_>,
    ) -> Result<(), Halt> {
        self.open_transaction(Style::Extended).await?;
        if self.inserts_within_groups(places, feed, Style::Extended).await? {
            return self.write_portal(places, None, query, execute).await;
        }
        let (bind, statement, planned) = self.portal_alone(execute.portal)?;
        let given = Given {
            text: draws_of(planned.only()?).map_or(&statement.text, |draws| &draws.text),
            types: &statement.types,
            bind: Bind::read(Self::body(&bind))?,
            style: Style::Extended,
        };
        let check = (execute.limit > 0, statement.columns.get().map(Vec::as_slice));
        let (counted, rows) = self.feed_all(&given, feed, &planned, Some(check)).await?;
        self.written_portal(execute, places[0], format!("INSERT 0 {counted}"), rows);
        Ok(())
    }

    /// Gives how many rows there were, and what they returned where that is kept. `check`: for a portal, whether it is, and what the
    /// client knows of the columns.
    pub(super) async fn feed_all(
        &mut self,
        given: &Given<'_>,
        feed: &Feed,
        planned: &Planned,
        check: Option<(bool, Option<&[u8]>)>,
    ) -> Result<(u64, Vec<Bytes>), Halt> {
        let known = self.learn_feed(given, feed).await?;
        if let Some((_, Some(columns))) = check
            && columns != columns_of(&known.returning)?
        {
            return Err(Refusal::new("0A000", "cached plan must not change result type").into());
        }
        if given.style == Style::Simple && known.returning.first() == Some(&b'T') {
            self.out().extend_from_slice(&known.returning);
        }
        let sources = self.bind_sources(given, feed, planned, &known).await?;
        let mut filling = Filling {
            blocks: BTreeMap::new(),
            size: 0,
            counted: 0,
            kept: check.is_some_and(|(kept, _)| kept),
            returned: Vec::new(),
            constant: None,
        };
        let mut counts = Vec::new();
        for source in sources {
            loop {
                let (rows, over) = self.take_some(source, given.style).await?;
                match feed.cut.source.form {
                    Form::Count => counts.extend(rows),
                    _ => {
                        self.fill_blocks(rows, given, feed, planned, &known, &mut filling)
                            .await?
                    }
                }
                if over {
                    break;
                }
            }
        }
        if feed.cut.source.form == Form::Count {
            let mut sum = BytesMut::new();
            encode::sum_of_counts(&mut sum, &counts)?;
            self.fill_blocks(vec![sum.freeze()], given, feed, planned, &known, &mut filling)
                .await?;
        }
        self.insert_blocks(given, feed, &known, &mut filling).await?;
        Ok((filling.counted, filling.returned))
    }

    /// Has a backend describe the statement.
    async fn learn_feed(&mut self, given: &Given<'_>, feed: &Feed) -> Result<Known, Halt> {
        let place = self.any_place().await?;
        self.enter(place, Access::Read, given.style).await?;
        self.settle().await?;
        let (described, captured) = self
            .describe_on(place, given.style, None, &[(given.text, given.types)])
            .await?;
        captured?;
        let [types, returning] = described.as_slice() else {
            return Err(not_the_same(None).into());
        };
        let types = parameter_types(types)?;
        if self.is_read_only(place).await? {
            let words = "cannot execute INSERT in a read-only transaction";
            return Err(Refusal::new("25006", words).into());
        }
        let (described, captured) = self
            .describe_on(place, given.style, None, &[(feed.select(given.text), &types)])
            .await?;
        if let Err(Halt::Fail(Failure::Postgres(error))) = &captured {
            return Err(not_the_same(Some(error)).into());
        }
        captured?;
        let oids: Vec<u32> = match described.as_slice() {
            [_, columns] => results(columns)?.into_iter().map(|column| column.oid).collect(),
            _ => return Err(not_the_same(None).into()),
        };
        let columns = self.feed_columns(place, &oids).await?;
        Ok(Known {
            returning: returning.clone(),
            types,
            oids,
            columns,
        })
    }

    /// How values of these types, of the backend at `place`, are sent.
    async fn feed_columns(&mut self, place: usize, oids: &[u32]) -> Result<Vec<FeedColumn>, Halt> {
        let list = |oids: &[u32]| oids.iter().map(u32::to_string).collect::<Vec<_>>().join(",");
        let sql = format!(
            "SELECT pg_catalog.json_agg(pg_catalog.json_build_array( \
               pg_catalog.quote_ident(n.nspname) || '.' || pg_catalog.quote_ident(t.typname), \
               CASE WHEN t.typsend = 0 OR t.typreceive = 0 OR t.oid >= {FIRST_OF_USERS} THEN '' \
                    WHEN t.typtype = 'b' AND t.typcategory <> 'A' AND t.typarray <> 0 AND t.oid <> ALL ('{{{objects}}}') THEN 'b' \
                    WHEN t.typtype = 'b' AND t.typsend = 'pg_catalog.array_send'::regproc AND e.typtype IN ('b', 'r', 'm') \
                        AND e.typsend <> 0 AND e.typreceive <> 0 AND e.oid <> ALL ('{{{objects}}}') THEN 'a' ELSE '' END, \
               t.typtype = 'e' OR coalesce(e.typtype = 'e', false) OR {SAFE_TEXT}) ORDER BY r.at)::text \
             FROM unnest('{{{}}}'::oid[]) WITH ORDINALITY r(oid, at) JOIN pg_catalog.pg_type t ON t.oid = r.oid \
             JOIN pg_catalog.pg_namespace n ON n.oid = t.typnamespace \
             LEFT JOIN pg_catalog.pg_type e ON e.oid = t.typelem AND t.typcategory = 'A'",
            list(oids),
            objects = list(&OIDS_OF_OBJECTS),
        );
        let answer = self.ask(place, &sql, None).await?.unwrap_or_default();
        let read: Vec<(String, String, bool)> = serde_json::from_slice(&answer)
            .map_err(|error| Failure::Catalogue(format!("the types of a SELECT: {error}")))?;
        if read.len() != oids.len() {
            return Err(Failure::Catalogue("a type of a SELECT is not there".to_owned()).into());
        }
        let column = |(type_name, sent, is_safe): (String, String, bool)| {
            let sent = match sent.as_str() {
                "b" => Sent::Binary,
                "a" => Sent::Array,
                _ if is_safe => Sent::Text,
                _ => return Err(unsafe_text(&type_name)),
            };
            Ok(FeedColumn { type_name, sent })
        };
        Ok(read.into_iter().map(column).collect::<Result<_, _>>()?)
    }

    /// Binds the SELECT where it runs. Gives the places of its portals.
    async fn bind_sources(
        &mut self,
        given: &Given<'_>,
        feed: &Feed,
        planned: &Planned,
        known: &Known,
    ) -> Result<Vec<usize>, Halt> {
        let (types, values) = known.parameters(given, |number| feed.selects(number));
        let parameters: Vec<Parameter<'_>> = values
            .iter()
            .zip(&types)
            .map(|((binary, value), oid)| Parameter {
                value: *value,
                format: if *binary { Format::Binary } else { Format::Text },
                type_oid: Some(*oid).filter(|oid| *oid != 0),
            })
            .collect();
        let mut formats = BytesMut::new();
        formats.put_u16(u16::try_from(known.columns.len()).unwrap_or(u16::MAX));
        for column in &known.columns {
            formats.put_u16(u16::from(column.is_binary()));
        }
        let mut bind = BytesMut::new();
        encode::bind(&mut bind, (SELECT, SELECT), values.iter().copied(), &formats);
        let places = match self.route(&feed.cut.source, &parameters, None, planned).await? {
            Placed::One(place) => vec![place],
            Placed::Many(places) if let Form::Gathered(gathering) = &feed.cut.source.form => {
                let asked = Asked {
                    gathering,
                    text: feed.text(given.text),
                    types: &types,
                    bind: Bind::read(Self::body(&bind))?,
                    style: given.style,
                };
                self.enter_all(&places, given.style).await?;
                let ready = Box::pin(self.bind_gathered(&places, &asked)).await?;
                return Ok(vec![ready.place]);
            }
            Placed::Many(places) => places,
            Placed::Rows(_) => return Err(not_the_same(None).into()),
        };
        let select = feed.select(given.text);
        let binding = Binding {
            portal: SELECT,
            message: &bind,
            style: given.style,
        };
        for place in &places {
            self.enter(*place, Access::Read, given.style).await?;
            self.settle().await?;
            let (group, number) = (self.group(*place), self.guest.number());
            if let Some(conn) = &mut self.slots[*place] {
                conn.captured = Captured::default();
                parse(conn, SELECT, select, &types, number);
                binding.send(conn);
            }
            self.drain(*place).await?;
            self.take_captured(*place, group, Stake::Nothing)?;
        }
        if places.len() > 1 && self.takes_cuts(&feed.cut.source) {
            self.bind_together(&places, &[binding]).await?;
        }
        Ok(places)
    }

    /// Takes some rows of a portal: DataRow messages, and whether they were the last.
    async fn take_some(&mut self, place: usize, style: Style) -> Result<(Vec<Bytes>, bool), Halt> {
        self.enter(place, Access::Read, style).await?;
        self.settle().await?;
        if let Some(conn) = &mut self.slots[place] {
            conn.captured = Captured {
                kept: Some(Kept::new(usize::MAX)),
                ..Captured::default()
            };
            encode::execute(&mut conn.output, SELECT, ROWS);
            conn.owes(Kind::Execute, Audience::MergeNext, Stake::Nothing);
            end_batch(conn, style);
        }
        let (mut rows, limit) = (Vec::new(), self.shared.limits.max_gathered);
        let mut room = limit;
        let taken = self
            .take_kept(place, |row| {
                room = room.checked_sub(row.len()).ok_or_else(|| too_much(limit))?;
                rows.push(row);
                Ok(())
            })
            .await;
        let captured = match taken {
            Ok(captured) => captured,
            Err(halt) => {
                self.abandon(&[place]).await?;
                return Err(halt);
            }
        };
        let over = captured.tag.is_some();
        if over && let Some(conn) = &mut self.slots[place] {
            encode::close_portal(&mut conn.output, SELECT);
            conn.owes(Kind::Close, Audience::Session, Stake::Nothing);
            close(conn, SELECT);
            end_batch(conn, style);
        }
        Ok((rows, over))
    }

    /// Puts rows into the blocks of their groups, and inserts these when they are full.
    async fn fill_blocks(
        &mut self,
        rows: Vec<Bytes>,
        given: &Given<'_>,
        feed: &Feed,
        planned: &Planned,
        known: &Known,
        filling: &mut Filling,
    ) -> Result<(), Halt> {
        let limit = self.shared.limits.max_gathered;
        let by_row = goes_by_row(&known.columns);
        let most = (MOST_PARAMETERS - known.types.len().min(MOST_PARAMETERS)) / known.columns.len().max(1);
        for row in rows {
            let values = values(&row)?;
            let key = values.get(feed.key_at).copied().flatten();
            let place = match filling.constant {
                Some(place) => place,
                None => self.place_of_key(key, given, feed, planned, known).await?,
            };
            if feed.key.is_some() {
                filling.constant = Some(place);
            }
            let block = filling.blocks.entry(place).or_default();
            filling.size += match by_row {
                true => block.add_row(row),
                false => block.add(&values),
            };
            if feed.cut.at_once && filling.size > limit {
                return Err(too_much(limit).into());
            }
            let full = block.rows.len();
            if feed.cut.at_once && full > most {
                return Err(too_many(most).into());
            }
            if !feed.cut.at_once && full >= most {
                self.insert_blocks(given, feed, known, filling).await?;
            }
        }
        if filling.size >= FULL && !feed.cut.at_once {
            self.insert_blocks(given, feed, known, filling).await?;
        }
        Ok(())
    }

    async fn place_of_key(
        &mut self,
        value: Option<&[u8]>,
        given: &Given<'_>,
        feed: &Feed,
        planned: &Planned,
        known: &Known,
    ) -> Result<usize, Halt> {
        let stored: Query = feed.stored();
        let parameters: Vec<Parameter<'_>> = match feed.key {
            Some(_) => given
                .bind
                .each()
                .zip(&known.types)
                .map(|((binary, value), oid)| Parameter {
                    value,
                    format: if binary { Format::Binary } else { Format::Text },
                    type_oid: Some(*oid),
                })
                .collect(),
            None => {
                let binary = known.columns.get(feed.key_at).is_some_and(FeedColumn::is_binary);
                vec![Parameter {
                    value,
                    format: if binary { Format::Binary } else { Format::Text },
                    type_oid: known.oids.get(feed.key_at).copied(),
                }]
            }
        };
        if let Ok(Route::One(group)) = stored.route(&parameters, &planned.slots, &Answers::new()) {
            return self
                .place(group)
                .ok_or_else(|| Failure::from(shard::client::ConnectError::UnknownGroup(group)).into());
        }
        match self.route(&stored, &parameters, None, planned).await? {
            Placed::One(place) => Ok(place),
            _ => Err(Failure::Catalogue("a key's slot is not to be had".to_owned()).into()),
        }
    }

    /// Has each group insert its block.
    async fn insert_blocks(
        &mut self,
        given: &Given<'_>,
        feed: &Feed,
        known: &Known,
        filling: &mut Filling,
    ) -> Result<(), Halt> {
        filling.size = 0;
        for (place, mut block) in std::mem::take(&mut filling.blocks) {
            self.enter(place, Access::Write, given.style).await?;
            self.settle().await?;
            let (group, number) = (self.group(place), self.guest.number());
            let (types, values) = known.parameters(given, |number| feed.inserts(number));
            let own = |(column, oid): (&FeedColumn, &u32)| if column.is_binary() { *oid } else { TEXT };
            let elements = known.columns.iter().zip(&known.oids).map(own);
            let (count, rows) = (types.len(), std::mem::take(&mut block.rows));
            let insert = feed.insert(given.text, count, &known.columns, rows.len());
            let mut types = types;
            let arrays = if rows.is_empty() {
                block.arrays(elements)
            } else {
                types.extend(elements.clone().cycle().take(rows.len() * known.columns.len()));
                Vec::new()
            };
            let mut of_rows = Vec::with_capacity(rows.len() * known.columns.len());
            for row in &rows {
                let binary = known.columns.iter().map(FeedColumn::is_binary);
                of_rows.extend(binary.zip(self::values(row)?));
            }
            let values: Vec<_> = values
                .into_iter()
                .chain(arrays.iter().map(|array| (true, Some(&array[..]))))
                .chain(of_rows)
                .collect();
            let kept = filling.kept.then(|| self.room_for_rows());
            if let Some(conn) = &mut self.slots[place] {
                conn.captured = Captured {
                    kept,
                    ..Captured::default()
                };
                parse(conn, INSERT, &insert, &types, number);
                let results = given.bind.results;
                encode::bind(
                    &mut conn.output,
                    (INSERT, INSERT),
                    values.iter().copied(),
                    results,
                );
                conn.owes(Kind::Bind, Audience::Session, Stake::Nothing);
                encode::execute(&mut conn.output, INSERT, 0);
                conn.owes(Kind::Execute, Audience::MergeNext, Stake::Nothing);
                encode::close_portal(&mut conn.output, INSERT);
                conn.owes(Kind::Close, Audience::Session, Stake::Nothing);
                close(conn, INSERT);
                end_batch(conn, given.style);
            }
            self.drain(place).await?;
            let captured = self.take_captured(place, group, Stake::Nothing)?;
            filling.counted += captured.counted;
            filling
                .returned
                .extend(captured.kept.into_iter().flat_map(|kept| kept.rows));
        }
        Ok(())
    }
}

/// Text of such a type depends on settings, and would not be read as what it was.
fn unsafe_text(type_name: &str) -> Refusal {
    Refusal::unsupported(format!(
        "INSERT ... SELECT of values of type {type_name} from several groups with these settings is not supported"
    ))
    .detail("They go from group to group as text, which may lose digits, or be read as another date.")
    .hint("SET extra_float_digits = 1; SET DateStyle = 'ISO'; SET IntervalStyle = 'postgres'.")
}

/// More rows than one statement can take.
fn too_many(most: usize) -> Refusal {
    let words = format!(
        "INSERT ... SELECT ... ON CONFLICT DO UPDATE of arrays takes at most {most} rows for each group"
    );
    Refusal::new("54000", words).hint("Insert fewer rows at a time.")
}

/// The blocks of the groups, and what came of those before.
struct Filling {
    blocks: BTreeMap<usize, Block>,
    size: usize,
    counted: u64,
    /// Whether what is returned is kept.
    kept: bool,
    returned: Vec<Bytes>,
    /// Where all rows go, once that is known.
    constant: Option<usize>,
}

impl Known {
    /// The client's parameters for a part of the statement, which uses some. Types of users are inferred in each group; what is not used is
    /// NULL.
    fn parameters<'g>(&self, given: &Given<'g>, uses: impl Fn(usize) -> bool) -> (Vec<u32>, Vec<Value<'g>>) {
        let used = |at: usize| uses(at + 1);
        let types = self.types.iter().enumerate().map(|(at, oid)| match *oid {
            _ if !used(at) => TEXT,
            FIRST_OF_USERS.. => 0,
            oid => oid,
        });
        let values = given.bind.each().enumerate();
        let values = values.map(|(at, value)| if used(at) { value } else { (false, None) });
        (types.collect(), values.collect())
    }
}

/// The values of a DataRow message.
fn values(row: &[u8]) -> Result<Vec<Option<&[u8]>>, Malformed> {
    let mut body = Body::new(row.get(HEADER..).unwrap_or_default());
    (0..body.i16()?)
        .map(|_| match usize::try_from(body.i32()?) {
            Ok(len) => body.bytes(len).map(Some),
            Err(_) => Ok(None),
        })
        .collect()
}
