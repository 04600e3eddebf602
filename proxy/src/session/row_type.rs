//! Rows of a table as PostgreSQL takes them in binary: an array of the table's row type.
//!
//! Source of the formats: `array_recv` in arrayfuncs.c, `record_recv` in rowtypes.c.
//!
//! ```text
//! array: dimensions: i32 (1, or 0 where it is empty) | has NULLs: i32 | type: u32 | length: i32 | first index: i32 | elements
//! element: length: i32, -1 for NULL | a value, or a record
//! record: number of columns: i32 | per column: type: u32 | length: i32, -1 for NULL | bytes
//! ```

use bytes::{BufMut, BytesMut};
use serde::Deserialize;

use crate::analysis::{Part, Refusal};
use crate::failure::{Failure, Halt};
use crate::protocol::{Body, Malformed};

/// The first OID that is not PostgreSQL's own (FirstNormalObjectId): such types have another one in each group.
const FIRST_OF_USERS: u32 = 16_384;

/// `regproc` and its like, whose binary form is an object id of one group (pg_type.dat).
pub(super) const OIDS_OF_OBJECTS: [u32; 11] =
    [24, 2202, 2203, 2204, 2205, 2206, 3734, 3769, 4089, 4096, 4191];

/// Where the type of an array's elements stands in its binary form.
const ELEMENT_TYPE: std::ops::Range<usize> = 8..12;

/// How the rows of a table are made, in one group.
#[derive(Debug)]
pub(super) struct RowType {
    oid: u32,
    columns: Vec<Column>,
    /// Whether there are rows of the table at all.
    given: bool,
    /// The types of values that come behind its columns, each in an array of its own.
    extras: Vec<u32>,
    /// No text in the table has a collation but the database's own.
    own_collation: bool,
}

#[derive(Debug)]
struct Column {
    name: String,
    oid: u32,
    read: bool,
    /// For an array of a user's type, that type.
    element: Option<u32>,
}

/// What PostgreSQL says of a column.
#[derive(Debug, Deserialize)]
struct Stored {
    name: String,
    #[serde(rename = "type")]
    oid: u32,
    domain: bool,
    /// Of the type itself, or of what a domain is made of: its OID, its kind (`pg_type.typtype`), its name.
    base: u32,
    kind: String,
    shown: String,
    /// It can be sent in binary.
    sent: bool,
    /// Of an array's elements.
    element: Option<u32>,
    element_kind: Option<String>,
    /// It has no collation but the database's own.
    own_collation: bool,
}

impl RowType {
    /// The statement that gives what [`RowType::read`] reads: one value.
    pub(super) fn query(parts: &[Part]) -> String {
        let tables: Vec<String> = parts
            .iter()
            .map(|part| {
                format!(
                    "'{}'::pg_catalog.regclass",
                    part.table.quoted().replace('\'', "''")
                )
            })
            .collect();
        format!(
            "SELECT coalesce(pg_catalog.json_agg(pg_catalog.json_build_array(c.reltype::int8, \
               (SELECT coalesce(pg_catalog.json_agg(pg_catalog.json_build_object('name', a.attname, 'type', t.oid::int8, \
                  'domain', t.typtype = 'd', 'base', b.oid::int8, 'kind', b.typtype, 'shown', b.typname, \
                  'sent', b.typsend <> 0 AND b.typreceive <> 0, 'element', e.oid::int8, 'element_kind', e.typtype, \
                  'own_collation', a.attcollation IN (0, 'pg_catalog.\"default\"'::pg_catalog.regcollation)) ORDER BY a.attnum), '[]') \
                FROM pg_catalog.pg_attribute a JOIN pg_catalog.pg_type t ON t.oid = a.atttypid \
                JOIN pg_catalog.pg_type b ON b.oid = CASE t.typtype WHEN 'd' THEN t.typbasetype ELSE t.oid END \
                LEFT JOIN pg_catalog.pg_type e ON e.oid = b.typelem AND b.typcategory = 'A' \
                WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped)) ORDER BY r.at), '[]')::text \
             FROM unnest(ARRAY[{}]::pg_catalog.regclass[]) WITH ORDINALITY r(oid, at) JOIN pg_catalog.pg_class c ON c.oid = r.oid",
            tables.join(", ")
        )
    }

    /// Reads its answer: the row types of these parts' tables.
    ///
    /// # Errors
    /// When a column that is read has a type whose values are no good in another group.
    pub(super) fn read(answer: &[u8], parts: &[Part]) -> Result<Vec<RowType>, Halt> {
        let stored: Vec<(u32, Vec<Stored>)> = serde_json::from_slice(answer)
            .map_err(|error| Failure::Catalogue(format!("the row types of tables: {error}")))?;
        if stored.len() != parts.len() {
            return Err(Failure::Catalogue("a table of the query is not there".to_owned()).into());
        }
        let rows = stored.into_iter().zip(parts).map(|((oid, columns), part)| {
            let own_collation = columns.iter().all(|column| column.own_collation);
            let columns = columns.into_iter().map(|column| column.of(part));
            Ok(RowType {
                own_collation,
                oid,
                columns: columns.collect::<Result<_, Refusal>>()?,
                given: true,
                extras: Vec::new(),
            })
        });
        Ok(rows.collect::<Result<_, Refusal>>().map_err(Failure::from)?)
    }

    /// The same with values of these types behind the columns that are read, if any are given.
    pub(super) fn and(mut self, extras: Vec<u32>, given: bool) -> RowType {
        self.given = given;
        self.extras = extras;
        self
    }

    /// Whether no text in the table has a collation but the database's own.
    pub(super) fn has_own_collation(&self) -> bool {
        self.own_collation
    }

    /// All columns, and whether they are read.
    pub(super) fn columns(&self) -> Vec<(&str, bool)> {
        let columns = self.columns.iter();
        columns
            .map(|column| (column.name.as_str(), column.read))
            .collect()
    }

    /// The columns that are read, in the table's order.
    pub(super) fn read_columns(&self) -> Vec<&str> {
        let read = self.columns.iter().filter(|column| column.read);
        read.map(|column| column.name.as_str()).collect()
    }
}

impl Stored {
    fn of(self, part: &Part) -> Result<Column, Refusal> {
        // A domain may not take NULL in the place of what is not read.
        let read = self.domain || part.columns.contains(&self.name);
        let users = |oid: u32| oid >= FIRST_OF_USERS;
        let fits = match (self.element, self.element_kind.as_deref()) {
            (Some(element), kind) => {
                !OIDS_OF_OBJECTS.contains(&element)
                    && (!users(element) || matches!(kind, Some("b" | "e" | "r")))
            }
            (None, _) => {
                matches!(&*self.kind, "b" | "e" | "r" | "m") && !OIDS_OF_OBJECTS.contains(&self.base)
            }
        };
        if read && !(fits && self.sent) {
            return Err(Refusal::unsupported(format!(
                "column \"{}\" of table \"{}\" in a query of rows of several groups is not supported",
                self.name, part.table.name
            ))
            .detail(format!(
                "Values of type {} cannot be brought from one group to another.",
                self.shown
            )));
        }
        Ok(Column {
            name: self.name,
            oid: self.oid,
            read,
            element: self.element.filter(|element| users(*element)),
        })
    }
}

/// Rows that have come.
#[derive(Clone, Debug, Default)]
pub(super) struct Gathered {
    rows: Elements,
    extras: Vec<Elements>,
}

/// Elements of an array.
#[derive(Clone, Debug, Default)]
struct Elements {
    bytes: BytesMut,
    count: u32,
    nulls: bool,
}

impl Gathered {
    /// Adds the row of a DataRow message's body, which has the columns that are read. Gives its size.
    pub(super) fn add(&mut self, rows: &RowType, row: &[u8]) -> Result<usize, Malformed> {
        let mut body = Body::new(row);
        body.i16()?;
        let mut size = 0;
        if rows.given {
            size += self.rows.record(rows, &mut body)?;
        }
        self.extras.resize_with(rows.extras.len(), Elements::default);
        for extra in &mut self.extras {
            let value = value(&mut body)?;
            size += extra.add(value);
        }
        Ok(size)
    }

    /// Gives its rows the object ids of another group, whose table has these columns.
    pub(super) fn adopt(&mut self, rows: &RowType) -> Result<(), Malformed> {
        let bytes = &mut self.rows.bytes;
        let mut at = 0;
        let word = |bytes: &BytesMut, at: usize| {
            let word = bytes.get(at..at + 4).and_then(|word| word.try_into().ok());
            word.map(i32::from_be_bytes).ok_or(Malformed("a row has no end"))
        };
        while at < bytes.len() {
            at += 8;
            for column in &rows.columns {
                let len = word(bytes, at + 4)?;
                bytes[at..at + 4].copy_from_slice(&column.oid.to_be_bytes());
                at += 8;
                let Ok(len) = usize::try_from(len) else { continue };
                if let Some(element) = column.element
                    && let Some(place) = bytes[at..].get_mut(ELEMENT_TYPE)
                {
                    place.copy_from_slice(&element.to_be_bytes());
                }
                at += len;
            }
        }
        Ok(())
    }

    /// All of them as arrays: of rows, and of what comes behind their columns.
    pub(super) fn into_arrays(mut self, rows: &RowType) -> Vec<BytesMut> {
        self.extras.resize_with(rows.extras.len(), Elements::default);
        let rows_alone = rows.given.then(|| self.rows.into_array(rows.oid));
        let extras = self.extras.into_iter().zip(&rows.extras);
        rows_alone
            .into_iter()
            .chain(extras.map(|(extra, oid)| extra.into_array(*oid)))
            .collect()
    }
}

/// The next value of a DataRow.
fn value<'a>(body: &mut Body<'a>) -> Result<Option<&'a [u8]>, Malformed> {
    match usize::try_from(body.i32()?) {
        Ok(len) => body.bytes(len).map(Some),
        Err(_) => Ok(None),
    }
}

impl Elements {
    fn put(&mut self, value: Option<&[u8]>) {
        match value {
            Some(value) => {
                self.bytes.put_u32(u32::try_from(value.len()).unwrap_or(u32::MAX));
                self.bytes.put_slice(value);
            }
            None => self.bytes.put_i32(-1),
        }
    }

    fn add(&mut self, value: Option<&[u8]>) -> usize {
        let before = self.bytes.len();
        self.put(value);
        self.nulls |= value.is_none();
        self.count += 1;
        self.bytes.len() - before
    }

    fn record(&mut self, rows: &RowType, body: &mut Body<'_>) -> Result<usize, Malformed> {
        let before = self.bytes.len();
        self.bytes.put_u32(0);
        self.bytes
            .put_u32(u32::try_from(rows.columns.len()).unwrap_or(u32::MAX));
        for column in &rows.columns {
            self.bytes.put_u32(column.oid);
            let start = self.bytes.len() + 4;
            self.put(if column.read { value(body)? } else { None });
            if let Some(element) = column.element
                && let Some(place) = self
                    .bytes
                    .get_mut(start..)
                    .and_then(|value| value.get_mut(ELEMENT_TYPE))
            {
                place.copy_from_slice(&element.to_be_bytes());
            }
        }
        let size = self.bytes.len() - before;
        let len = u32::try_from(size - 4).unwrap_or(u32::MAX);
        self.bytes[before..before + 4].copy_from_slice(&len.to_be_bytes());
        self.count += 1;
        Ok(size)
    }

    fn into_array(self, oid: u32) -> BytesMut {
        let mut array = BytesMut::with_capacity(20 + self.bytes.len());
        array.put_u32(u32::from(self.count > 0));
        array.put_u32(u32::from(self.nulls));
        array.put_u32(oid);
        if self.count > 0 {
            array.put_u32(self.count);
            array.put_u32(1);
        }
        array.extend_from_slice(&self.bytes);
        array
    }
}
