//! What a command answers: typed columns and rows, in PostgreSQL's formats.

use std::sync::Arc;

use bytes::{BufMut, BytesMut};
use chrono::DateTime;

use crate::protocol::encode;

/// The type of a column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Type {
    Bool,
    Int8,
    Text,
    /// `timestamptz`.
    Time,
}

impl Type {
    /// The OID, and `pg_type.typlen`.
    fn oid(self) -> (u32, i16) {
        match self {
            Type::Bool => (16, 1),
            Type::Int8 => (20, 8),
            Type::Text => (25, -1),
            Type::Time => (1184, 8),
        }
    }
}

/// A value, of the type of its column or NULL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Value {
    Null,
    Bool(bool),
    Int8(i64),
    Text(String),
    /// Microseconds since 1970.
    Time(u64),
}

/// From 1970 to 2000, where PostgreSQL's binary times begin, in microseconds.
const EPOCH_2000: i64 = 946_684_800_000_000;

impl Value {
    pub(super) fn text(text: impl ToString) -> Value {
        Value::Text(text.to_string())
    }

    /// NULL for none.
    pub(super) fn or_null(text: Option<impl ToString>) -> Value {
        text.map_or(Value::Null, Value::text)
    }

    /// A count, or an id. What is larger than PostgreSQL's `int8` is shown as its largest.
    pub(super) fn int(number: impl TryInto<i64>) -> Value {
        Value::Int8(number.try_into().unwrap_or(i64::MAX))
    }

    /// NULL for none.
    pub(super) fn int_or_null(number: Option<impl TryInto<i64>>) -> Value {
        number.map_or(Value::Null, Value::int)
    }

    /// NULL for none.
    pub(super) fn time_or_null(time: Option<u64>) -> Value {
        time.map_or(Value::Null, Value::Time)
    }

    fn as_text(&self) -> Option<Vec<u8>> {
        Some(match self {
            Value::Null => return None,
            Value::Bool(value) => if *value { b"t" } else { b"f" }.to_vec(),
            Value::Int8(number) => number.to_string().into_bytes(),
            Value::Text(text) => text.clone().into_bytes(),
            Value::Time(time) => as_iso(*time).into_bytes(),
        })
    }

    fn as_binary(&self) -> Option<Vec<u8>> {
        Some(match self {
            Value::Null => return None,
            Value::Bool(value) => vec![u8::from(*value)],
            Value::Int8(number) => number.to_be_bytes().to_vec(),
            Value::Text(text) => text.clone().into_bytes(),
            Value::Time(time) => {
                let since_1970 = i64::try_from(*time).unwrap_or(i64::MAX);
                (since_1970 - EPOCH_2000).to_be_bytes().to_vec()
            }
        })
    }
}

/// As PostgreSQL writes a `timestamptz` with `DateStyle` ISO and `TimeZone` UTC.
fn as_iso(micros: u64) -> String {
    let time = i64::try_from(micros)
        .ok()
        .and_then(DateTime::from_timestamp_micros);
    let text = time
        .unwrap_or_default()
        .format("%Y-%m-%d %H:%M:%S%.6f")
        .to_string();
    let text = match text.split_once('.') {
        // PostgreSQL leaves out zeros at the end (`AppendTimestampSeconds`).
        Some((seconds, fraction)) => match fraction.trim_end_matches('0') {
            "" => seconds.to_owned(),
            fraction => format!("{seconds}.{fraction}"),
        },
        None => text,
    };
    format!("{text}+00")
}

/// Names and types of columns.
pub(super) type Columns = &'static [(&'static str, Type)];

/// Rows under their columns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Table {
    pub(super) columns: Columns,
    pub(super) rows: Vec<Vec<Value>>,
}

impl Table {
    pub(super) fn new(columns: Columns) -> Table {
        Table {
            columns,
            rows: Vec::new(),
        }
    }

    pub(super) fn push<const N: usize>(&mut self, row: [Value; N]) {
        debug_assert_eq!(N, self.columns.len(), "each column has its value");
        self.rows.push(row.into());
    }
}

/// In which formats a client wants its columns: none for all text, one for all, or one for each. From Bind.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Formats(pub(super) Arc<[i16]>);

impl Formats {
    /// Whether the column at this place is binary.
    fn is_binary(&self, column: usize) -> bool {
        match &self.0[..] {
            [] => false,
            [all] => *all == 1,
            each => each.get(column) == Some(&1),
        }
    }

    /// Whether there are as many as PostgreSQL takes for so many columns.
    pub(super) fn fit(&self, columns: usize) -> bool {
        self.0.len() <= 1 || self.0.len() == columns
    }
}

fn length(count: usize) -> i16 {
    i16::try_from(count).unwrap_or(i16::MAX)
}

/// RowDescription.
pub(super) fn describe(out: &mut BytesMut, columns: Columns, formats: &Formats) {
    encode::message(out, b'T', |out| {
        out.put_i16(length(columns.len()));
        for (place, (name, column_type)) in columns.iter().enumerate() {
            let (oid, size) = column_type.oid();
            encode::cstr(out, name.as_bytes());
            out.put_u32(0);
            out.put_i16(0);
            out.put_u32(oid);
            out.put_i16(size);
            out.put_i32(-1);
            out.put_i16(i16::from(formats.is_binary(place)));
        }
    });
}

/// DataRow.
pub(super) fn row(out: &mut BytesMut, values: &[Value], formats: &Formats) {
    encode::message(out, b'D', |out| {
        out.put_i16(length(values.len()));
        for (place, value) in values.iter().enumerate() {
            let value = if formats.is_binary(place) {
                value.as_binary()
            } else {
                value.as_text()
            };
            match value {
                Some(bytes) => {
                    out.put_i32(i32::try_from(bytes.len()).unwrap_or(0));
                    out.put_slice(&bytes);
                }
                None => out.put_i32(-1),
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_as_postgresql_writes_them() {
        assert_eq!(as_iso(951_782_400_000_000), "2000-02-29 00:00:00+00");
        assert_eq!(as_iso(1_700_000_000_120_000), "2023-11-14 22:13:20.12+00");
        assert_eq!(as_iso(1_700_000_000_000_001), "2023-11-14 22:13:20.000001+00");
    }

    #[test]
    fn a_row_is_in_the_formats_that_were_asked_for() {
        let values = [Value::Int8(7), Value::Null, Value::text("x")];
        let mut out = BytesMut::new();
        row(&mut out, &values, &Formats(Arc::from([1, 0, 0])));
        let expected = b"D\0\0\0\x1b\0\x03\0\0\0\x08\0\0\0\0\0\0\0\x07\xff\xff\xff\xff\0\0\0\x01x";
        assert_eq!(&out[..], expected);
        assert!(Formats(Arc::from([1])).fit(3) && !Formats(Arc::from([1, 0])).fit(3));
    }
}
