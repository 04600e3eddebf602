//! Rows that each group gives in order, put together as they come (`analysis/distributed/merge.rs`).
//!
//! Each group runs the client's own statement, with what it is ordered by behind its results, in binary. The node compares those values, of types
//! whose order it knows for certain to be PostgreSQL's, takes the first row, and passes it on without them. A query that is ordered by
//! anything else is gathered, and a PostgreSQL sorts it.
//!
//! Memory: of each group what one read has brought, a buffer or one row; what the client does not take makes the groups wait.

use std::cmp::Ordering;
use std::collections::VecDeque;

use bytes::{BufMut, Bytes, BytesMut};

use super::Session;
use super::commands::Rows;
use super::copy_out::Writer;
use super::gather::{Asked, FIRST_OF_USERS, results, the_clients};
use super::parts::Bound;
use super::relay::{columns_of, parameter_types};
use crate::analysis::{Merge, OrderedBy, Refusal};
use crate::failure::Halt;
use crate::protocol::frame::HEADER;
use crate::protocol::{Body, Malformed, encode};

/// What groups are asked for, and how it is put together.
pub(super) struct Merged {
    /// The RowDescription of the client's own text.
    pub(super) columns: Bytes,
    pub(super) reading: Bound,
    order: Vec<Order>,
    /// How many results the client gets.
    results: usize,
}

/// How the client gets the rows.
pub(super) enum Giving<'w> {
    /// As they are.
    Rows(Rows),
    /// As COPY writes them.
    Copy(&'w mut Writer),
    /// Later: here they are kept.
    Kept(&'w mut Vec<Bytes>),
}

/// `int2`, `int4`, `int8`.
const INTEGERS: [u32; 3] = [21, 23, 20];

impl Giving<'_> {
    pub(super) fn begin(&self, description: &[u8], out: &mut BytesMut) {
        match self {
            Giving::Rows(Rows::Described) => out.extend_from_slice(description),
            Giving::Rows(Rows::Alone) | Giving::Kept(_) => {}
            Giving::Copy(writer) => writer.begin(out),
        }
    }

    /// Gives a DataRow of so many values, which follow each other as there.
    fn give(&mut self, results: usize, values: &[u8], out: &mut BytesMut) -> Result<(), Malformed> {
        let results = u16::try_from(results).unwrap_or(u16::MAX).to_be_bytes();
        let row = |out: &mut BytesMut| {
            encode::message(out, b'D', |out| {
                out.put_slice(&results);
                out.put_slice(values);
            });
        };
        match self {
            Giving::Rows(_) => row(out),
            Giving::Kept(kept) => {
                let mut message = BytesMut::new();
                row(&mut message);
                kept.push(message.freeze());
            }
            Giving::Copy(writer) => {
                let row = writer.row(&[&results, values].concat())?;
                encode::message(out, b'd', |out| out.put_slice(&row));
            }
        }
        Ok(())
    }
}

/// How rows are ordered by one value.
#[derive(Clone, Copy, Debug)]
struct Order {
    form: Form,
    descending: bool,
    nulls_first: bool,
}

/// The binary forms whose order is known, with the comparison that PostgreSQL has for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    /// Integers of any size, with a sign: int2, int4, int8, date, time, timestamp, timestamptz.
    Integer,
    /// Integers without: bool, oid.
    Unsigned,
    /// `float4_cmp_internal`, `float8_cmp_internal` in float.h: NaN is the greatest.
    Float,
    /// `memcmp`: bytea, uuid, and texts in the collation "C".
    Bytes,
    /// `cmp_numerics` in numeric.c.
    Numeric,
}

/// A value by which rows are ordered.
#[derive(Debug)]
enum Value {
    Null,
    Integer(i64),
    Float(f64),
    Bytes(Bytes),
    Numeric(Numeric),
}

/// A group's rows that have come and are not given yet.
#[derive(Debug, Default)]
pub(super) struct Head {
    rows: VecDeque<(Vec<Value>, Bytes)>,
    /// No more will come.
    over: bool,
}

impl Asked<'_> {
    /// What a parameter counts, which is of one of [`INTEGERS`]; none for NULL.
    fn count(&self, at: usize) -> Result<Option<u64>, Refusal> {
        let Some((binary, Some(value))) = self.bind.each().nth(at) else {
            return Ok(None);
        };
        let count = match (binary, value) {
            (true, [first, ..]) if value.len() <= 8 && first >> 7 == 0 => {
                Some(value.iter().fold(0u64, |all, byte| all << 8 | u64::from(*byte)))
            }
            (true, _) => None,
            (false, _) => std::str::from_utf8(value)
                .ok()
                .and_then(|text| text.trim().parse().ok()),
        };
        let unreadable = || {
            Refusal::unsupported("Howdah cannot read this value of LIMIT").hint("Write it in digits alone.")
        };
        count.map(Some).ok_or_else(unreadable)
    }
}

impl Head {
    /// One to which rows are added that have all come.
    pub(super) fn over() -> Head {
        Head {
            rows: VecDeque::new(),
            over: true,
        }
    }

    pub(super) fn add(&mut self, merged: &Merged, row: Bytes) -> Result<(), Malformed> {
        self.rows.push_back((merged.values(&row)?, row));
        Ok(())
    }
}

impl Form {
    /// Of a type; `c_texts`: texts are ordered by their bytes.
    fn of(oid: u32, c_texts: bool) -> Option<Form> {
        Some(match oid {
            20 | 21 | 23 | 1082 | 1083 | 1114 | 1184 => Form::Integer,
            16 | 26 => Form::Unsigned,
            700 | 701 => Form::Float,
            17 | 2950 => Form::Bytes,
            25 | 1043 if c_texts => Form::Bytes,
            1700 => Form::Numeric,
            _ => return None,
        })
    }

    fn value(self, bytes: &[u8], row: &Bytes) -> Result<Value, Malformed> {
        let unsigned = || match bytes.len() {
            0..=8 => Ok(bytes.iter().fold(0u64, |all, byte| all << 8 | u64::from(*byte))),
            _ => Err(Malformed("a number is too long")),
        };
        Ok(match self {
            Form::Unsigned => Value::Integer(unsigned()?.cast_signed()),
            Form::Integer => {
                let unused = 64 - 8 * u32::try_from(bytes.len().clamp(1, 8)).unwrap_or(8);
                Value::Integer((unsigned()? << unused).cast_signed() >> unused)
            }
            Form::Float => match <[u8; 4]>::try_from(bytes) {
                Ok(short) => Value::Float(f64::from(f32::from_be_bytes(short))),
                Err(_) => Value::Float(f64::from_bits(unsigned()?)),
            },
            Form::Bytes => Value::Bytes(row.slice_ref(bytes)),
            Form::Numeric => Value::Numeric(Numeric::read(bytes)?),
        })
    }
}

impl Value {
    fn compare(&self, other: &Value) -> Ordering {
        match (self, other) {
            (Value::Integer(one), Value::Integer(other)) => one.cmp(other),
            (Value::Float(one), Value::Float(other)) => one
                .partial_cmp(other)
                .unwrap_or_else(|| one.is_nan().cmp(&other.is_nan())),
            (Value::Bytes(one), Value::Bytes(other)) => one.cmp(other),
            (Value::Numeric(one), Value::Numeric(other)) => one.cmp(other),
            _ => Ordering::Equal,
        }
    }
}

impl Order {
    fn of(ordered: &OrderedBy, oid: u32, c_texts: bool) -> Option<Order> {
        Some(Order {
            form: Form::of(oid, c_texts)?,
            descending: ordered.descending,
            nulls_first: ordered.nulls_first,
        })
    }

    fn compare(self, one: &Value, other: &Value) -> Ordering {
        let null = |value: &Value| matches!(value, Value::Null);
        match (null(one), null(other)) {
            (true, true) => Ordering::Equal,
            (false, false) if self.descending => other.compare(one),
            (false, false) => one.compare(other),
            (one, _) if one == self.nulls_first => Ordering::Less,
            _ => Ordering::Greater,
        }
    }
}

/// A numeric as `numeric_send` in numeric.c gives it.
///
/// ```text
/// digits: u16 | weight of the first: i16 | sign: u16 | scale: u16 | digits of base 10000: u16 each
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
struct Numeric {
    sign: Sign,
    /// Of the first digit, which is not 0.
    weight: i16,
    /// Without those at the end that are 0.
    digits: Vec<u16>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Sign {
    NegativeInfinity,
    Negative,
    Zero,
    Positive,
    Infinity,
    NotANumber,
}

impl Numeric {
    fn read(bytes: &[u8]) -> Result<Numeric, Malformed> {
        let mut body = Body::new(bytes);
        let unsigned = |value: i16| value.cast_unsigned();
        let count = unsigned(body.i16()?);
        let mut weight = body.i16()?;
        let sign = match unsigned(body.i16()?) {
            0x0000 => Sign::Positive,
            0x4000 => Sign::Negative,
            0xC000 => Sign::NotANumber,
            0xD000 => Sign::Infinity,
            0xF000 => Sign::NegativeInfinity,
            _ => return Err(Malformed("a numeric has a sign that there is not")),
        };
        let _scale = body.i16()?;
        let mut digits: Vec<u16> = (0..count)
            .map(|_| body.i16().map(unsigned))
            .collect::<Result<_, _>>()?;
        let zeros = digits.iter().take_while(|digit| **digit == 0).count();
        digits.drain(..zeros);
        weight = weight.saturating_sub(i16::try_from(zeros).unwrap_or(i16::MAX));
        while digits.last() == Some(&0) {
            digits.pop();
        }
        let finite = matches!(sign, Sign::Positive | Sign::Negative);
        if finite && digits.is_empty() {
            return Ok(Numeric {
                sign: Sign::Zero,
                weight: 0,
                digits,
            });
        }
        Ok(Numeric { sign, weight, digits })
    }
}

impl Ord for Numeric {
    fn cmp(&self, other: &Self) -> Ordering {
        let size = || (self.weight, &self.digits).cmp(&(other.weight, &other.digits));
        self.sign.cmp(&other.sign).then_with(|| match self.sign {
            Sign::Positive => size(),
            Sign::Negative => size().reverse(),
            _ => Ordering::Equal,
        })
    }
}

impl PartialOrd for Numeric {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Session {
    /// Whether the rows of a query come in order from each of these groups, which were entered, and the node knows that order: what they
    /// are asked for then.
    pub(super) async fn describe_merged(
        &mut self,
        places: &[usize],
        asked: &Asked<'_>,
    ) -> Result<Option<Merged>, Halt> {
        let Some(merge) = &asked.gathering.merge else {
            return Ok(None);
        };
        let Some(reading) = asked.gathering.ordered(asked.text, asked.parameters()) else {
            return Ok(None);
        };
        let query = asked.gathering.query(asked.text);
        let statements = [(query, asked.types), (&*reading.text, asked.types)];
        let (place, question) = (self.one_of(places), c_texts(&merge.tables));
        let (described, captured) = self
            .describe_on(place, asked.style, Some(&question), &statements)
            .await?;
        let captured = the_clients(captured, &described)?;
        let [types, columns, types_read, columns_read] = described.as_slice() else {
            return Ok(None);
        };
        let types = parameter_types(types)?;
        let (given, read) = (columns_of(columns)?, columns_of(columns_read)?);
        let own = |oid: &u32| *oid < FIRST_OF_USERS;
        if let Some(at) = merge.limit_from
            && !types.get(at).is_some_and(|oid| INTEGERS.contains(oid))
        {
            return Ok(None);
        }
        if !types.iter().all(own) || parameter_types(types_read)? != types || !read.starts_with(&given) {
            return Ok(None);
        }
        let count = results(columns)?.len();
        let by = results(columns_read)?;
        let c_texts = captured.value.as_deref() == Some(b"t") && !merge.collated;
        let order: Option<Vec<Order>> = merge
            .order
            .iter()
            .zip(by.get(count..).unwrap_or_default())
            .map(|(ordered, result)| Order::of(ordered, result.oid, c_texts))
            .collect();
        let Some((order, formats)) = order.zip(formats(asked.bind.results, count, merge.order.len())) else {
            return Ok(None);
        };
        Ok(Some(Merged {
            columns: columns.clone(),
            reading: Bound::of(0, reading, (&asked.bind, &types), &formats),
            order,
            results: count,
        }))
    }

    /// Gives the client the rows of these groups in order, and how many there were.
    pub(super) async fn merge(
        &mut self,
        places: &[usize],
        merged: Merged,
        asked: &Asked<'_>,
        mut giving: Giving<'_>,
    ) -> Result<u64, Halt> {
        let readings = std::slice::from_ref(&merged.reading);
        self.bind_parts(places, readings, asked.style).await?;
        self.execute_part(places, &merged.reading, asked.style);
        giving.begin(&merged.columns, self.out());
        self.aim_at(places);
        let mut heads: Vec<Head> = places.iter().map(|_| Head::default()).collect();
        let given = self
            .give_in_order(places, &merged, asked, (&mut heads, &mut giving))
            .await;
        if given.is_err() {
            let left = places.iter().zip(&heads).filter(|(_, head)| !head.over);
            let left: Vec<usize> = left.map(|(place, _)| *place).collect();
            self.abandon(&left).await?;
        }
        self.aim();
        given
    }

    /// Gives the rows of these groups, whose first ones may have come already, and says how many there were.
    pub(super) async fn give_in_order(
        &mut self,
        places: &[usize],
        merged: &Merged,
        asked: &Asked<'_>,
        (heads, giving): (&mut [Head], &mut Giving<'_>),
    ) -> Result<u64, Halt> {
        let limits = asked.gathering.merge.as_ref();
        let mut skipped = limits.map_or(0, |merge: &Merge| merge.offset);
        let limit = match limits.and_then(|merge| merge.limit_from) {
            Some(at) => asked.count(at)?,
            None => limits.and_then(|merge| merge.limit),
        };
        let limit = limit.unwrap_or(u64::MAX);
        let mut given = 0;
        loop {
            for (head, place) in heads.iter_mut().zip(places) {
                while head.rows.is_empty() && !head.over {
                    match self.rows_from(*place).await? {
                        // What is left when there are enough is at most as many rows again of each group.
                        Some(_) if given == limit => {}
                        Some(rows) => {
                            for row in rows {
                                head.add(merged, row)?;
                            }
                        }
                        None => head.over = true,
                    }
                }
            }
            if given == limit {
                if heads.iter().all(|head| head.over) {
                    return Ok(given);
                }
                for head in heads.iter_mut() {
                    head.rows.clear();
                }
                continue;
            }
            let Some(first) = merged.first(heads) else {
                return Ok(given);
            };
            let Some((_, row)) = heads[first].rows.pop_front() else {
                return Ok(given);
            };
            if skipped > 0 {
                skipped -= 1;
                continue;
            }
            merged.give(&row, giving, self.out())?;
            given += 1;
        }
    }
}

impl Merged {
    /// The values that a row is ordered by.
    fn values(&self, row: &Bytes) -> Result<Vec<Value>, Malformed> {
        let mut body = Body::new(row.get(HEADER..).unwrap_or_default());
        body.i16()?;
        for _ in 0..self.results {
            field(&mut body)?;
        }
        let values = self.order.iter().map(|order| match field(&mut body)? {
            Some(value) => order.form.value(value, row),
            None => Ok(Value::Null),
        });
        values.collect()
    }

    /// Whose row comes next.
    fn first(&self, heads: &[Head]) -> Option<usize> {
        let next = heads
            .iter()
            .enumerate()
            .filter_map(|(at, head)| Some((at, &head.rows.front()?.0)));
        let before = |one: &[Value], other: &[Value]| {
            let each = self.order.iter().zip(one.iter().zip(other));
            each.map(|(order, (one, other))| order.compare(one, other))
                .find(|ordering| ordering.is_ne())
                .unwrap_or(Ordering::Equal)
        };
        next.min_by(|(_, one), (_, other)| before(one, other))
            .map(|(at, _)| at)
    }

    /// Passes a row on without what it is ordered by.
    fn give(&self, row: &Bytes, giving: &mut Giving<'_>, out: &mut BytesMut) -> Result<(), Malformed> {
        let mut body = Body::new(row.get(HEADER..).unwrap_or_default());
        body.i16()?;
        let all = body.rest();
        for _ in 0..self.results {
            field(&mut body)?;
        }
        let values = all.get(..all.len() - body.rest().len()).unwrap_or_default();
        giving.give(self.results, values, out)
    }
}

/// The next value of a DataRow.
fn field<'a>(body: &mut Body<'a>) -> Result<Option<&'a [u8]>, Malformed> {
    match usize::try_from(body.i32()?) {
        Ok(len) => body.bytes(len).map(Some),
        Err(_) => Ok(None),
    }
}

/// The formats of so many results as the client wants them ([`Bind::results`](crate::protocol::frontend::Bind::results)), and behind them so
/// many in binary. None if it wants them of another number of results, which is for PostgreSQL to say.
fn formats(wanted: &[u8], results: usize, more: usize) -> Option<Vec<u8>> {
    let (count, formats) = wanted.split_first_chunk::<2>()?;
    let each: Vec<[u8; 2]> = match usize::from(u16::from_be_bytes(*count)) {
        0 => vec![[0, 0]; results],
        1 => vec![formats.first_chunk().copied()?; results],
        count if count == results => formats.chunks_exact(2).map(|pair| [pair[0], pair[1]]).collect(),
        _ => return None,
    };
    let all = u16::try_from(results + more).ok()?;
    let mut made = all.to_be_bytes().to_vec();
    made.extend(each.into_iter().chain(vec![[0, 1]; more]).flatten());
    Some(made)
}

/// Whether all texts of these tables have the database's own collation, and that orders them by their bytes: "C", or C.UTF-8, by code points, which
/// is the same in UTF-8. A provider other than libc goes by another locale than `datcollate`; before PostgreSQL 15 there is none.
fn c_texts(tables: &[String]) -> String {
    let tables = tables.iter().map(|table| table.replace('\'', "''"));
    let tables = tables.map(|table| format!("'{table}'::pg_catalog.regclass"));
    format!(
        "SELECT NOT EXISTS (SELECT FROM pg_catalog.pg_attribute a WHERE a.attrelid IN ({}) AND a.attnum > 0 \
            AND NOT a.attisdropped AND a.attcollation NOT IN (0, 'pg_catalog.\"default\"'::pg_catalog.regcollation)) \
         AND coalesce(pg_catalog.to_jsonb(d) ->> 'datlocprovider', 'c') = 'c' \
         AND d.datcollate IN ('C', 'POSIX', 'C.UTF-8', 'C.utf8') \
         FROM pg_catalog.pg_database d WHERE d.datname = pg_catalog.current_database()",
        tables.collect::<Vec<_>>().join(", ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numeric(sign: u16, weight: i16, digits: &[u16]) -> Numeric {
        let count = u16::try_from(digits.len()).unwrap();
        let mut bytes = Vec::new();
        for number in [count, weight.cast_unsigned(), sign, 0].iter().chain(digits) {
            bytes.extend(number.to_be_bytes());
        }
        Numeric::read(&bytes).unwrap()
    }

    #[test]
    fn numerics_are_ordered_as_numbers() {
        let (plus, minus) = (0, 0x4000);
        let ordered = [
            numeric(0xF000, 0, &[]),
            numeric(minus, 1, &[1, 0, 5]),
            numeric(minus, 1, &[1]),
            numeric(minus, -1, &[1]),
            numeric(plus, 0, &[]),
            numeric(plus, -2, &[9999]),
            numeric(plus, 0, &[1]),
            numeric(plus, 0, &[1, 1]),
            numeric(plus, 0, &[2]),
            numeric(plus, 1, &[1]),
            numeric(0xD000, 0, &[]),
            numeric(0xC000, 0, &[]),
        ];
        for (at, one) in ordered.iter().enumerate() {
            for (other_at, other) in ordered.iter().enumerate() {
                assert_eq!(one.cmp(other), at.cmp(&other_at), "{one:?} {other:?}");
            }
        }
        assert_eq!(numeric(plus, 1, &[0, 5, 0]), numeric(plus, 0, &[5]));
        assert_eq!(numeric(minus, 3, &[0]), numeric(plus, 0, &[]));
    }

    #[test]
    fn values_are_read_with_their_signs() {
        let integer = |form: Form, bytes: &'static [u8]| {
            let row = Bytes::from_static(bytes);
            match form.value(&row.clone(), &row).unwrap() {
                Value::Integer(value) => value,
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(integer(Form::Integer, &[0xff, 0xff]), -1);
        assert_eq!(integer(Form::Integer, &[0x80, 0, 0, 0]), i64::from(i32::MIN));
        assert_eq!(
            integer(Form::Integer, &[0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]),
            i64::MAX
        );
        assert_eq!(
            integer(Form::Unsigned, &[0xff, 0xff, 0xff, 0xff]),
            i64::from(u32::MAX)
        );
        assert_eq!(integer(Form::Unsigned, &[1]), 1);
    }

    #[test]
    fn nulls_stand_where_they_are_wanted() {
        let order = |descending, nulls_first| Order {
            form: Form::Float,
            descending,
            nulls_first,
        };
        let (null, one, nan) = (Value::Null, Value::Float(1.0), Value::Float(f64::NAN));
        assert_eq!(order(false, false).compare(&null, &one), Ordering::Greater);
        assert_eq!(order(true, false).compare(&null, &one), Ordering::Greater);
        assert_eq!(order(true, true).compare(&null, &one), Ordering::Less);
        assert_eq!(order(false, true).compare(&one, &null), Ordering::Greater);
        assert_eq!(order(false, false).compare(&nan, &one), Ordering::Greater);
        assert_eq!(order(true, false).compare(&nan, &one), Ordering::Less);
        assert_eq!(order(false, false).compare(&nan, &nan), Ordering::Equal);
        let (zero, minus) = (Value::Float(0.0), Value::Float(-0.0));
        assert_eq!(order(false, false).compare(&zero, &minus), Ordering::Equal);
    }
}
