//! Writing messages, for the client (as a server) and for a backend (as a client).

use bytes::{BufMut, Bytes, BytesMut};

use super::frame::HEADER;
use super::{Body, Malformed};

/// The state byte of ReadyForQuery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TransactionStatus {
    /// Not in a transaction block.
    Idle,
    /// In one.
    InBlock,
    /// In one that has failed.
    Failed,
}

impl TransactionStatus {
    pub(crate) fn byte(self) -> u8 {
        match self {
            TransactionStatus::Idle => b'I',
            TransactionStatus::InBlock => b'T',
            TransactionStatus::Failed => b'E',
        }
    }

    pub(crate) fn read(byte: Option<&u8>) -> Option<Self> {
        match byte {
            Some(b'I') => Some(TransactionStatus::Idle),
            Some(b'T') => Some(TransactionStatus::InBlock),
            Some(b'E') => Some(TransactionStatus::Failed),
            _ => None,
        }
    }
}

/// Writes one message: `tag`, the length, then what `body` puts.
pub(crate) fn message(out: &mut BytesMut, tag: u8, body: impl FnOnce(&mut BytesMut)) {
    out.put_u8(tag);
    let start = out.len();
    out.put_u32(0);
    body(out);
    let len = u32::try_from(out.len() - start).unwrap_or(u32::MAX);
    out[start..start + 4].copy_from_slice(&len.to_be_bytes());
}

/// A zero-terminated string; a zero inside would end it early, so it is cut there.
pub(crate) fn cstr(out: &mut BytesMut, text: &[u8]) {
    let end = text.iter().position(|b| *b == 0).unwrap_or(text.len());
    out.put_slice(&text[..end]);
    out.put_u8(0);
}

/// A message without a body.
pub(crate) fn empty(out: &mut BytesMut, tag: u8) {
    out.put_u8(tag);
    out.put_u32(4);
}

pub(crate) fn ready(out: &mut BytesMut, status: TransactionStatus) {
    out.put_slice(&[b'Z', 0, 0, 0, 5, status.byte()]);
}

pub(crate) fn command_complete(out: &mut BytesMut, tag: &str) {
    message(out, b'C', |out| cstr(out, tag.as_bytes()));
}

pub(crate) fn parameter_status(out: &mut BytesMut, name: &[u8], value: &[u8]) {
    message(out, b'S', |out| {
        cstr(out, name);
        cstr(out, value);
    });
}

pub(crate) fn backend_key_data(out: &mut BytesMut, process_id: i32, secret_key: &[u8]) {
    message(out, b'K', |out| {
        out.put_i32(process_id);
        out.put_slice(secret_key);
    });
}

/// ParameterDescription: the parameters' types.
pub(crate) fn parameters(out: &mut BytesMut, types: &[u32]) {
    message(out, b't', |out| {
        out.put_u16(u16::try_from(types.len()).unwrap_or(u16::MAX));
        types.iter().for_each(|oid| out.put_u32(*oid));
    });
}

/// A type as RowDescription names it (pg_type.dat).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Type {
    oid: u32,
    length: i16,
}

/// `text`.
pub(crate) const TEXT: Type = Type {
    oid: crate::analysis::TEXT,
    length: -1,
};
/// `bigint`.
pub(crate) const INT8: Type = Type { oid: 20, length: 8 };
/// `void`, the result of functions that give none.
pub(crate) const VOID: Type = Type { oid: 2278, length: 4 };

/// RowDescription of columns, of each its name and its type; all of them in one format: 0 for text, 1 for binary.
pub(crate) fn columns(out: &mut BytesMut, columns: &[(&str, Type)], format: i16) {
    message(out, b'T', |out| {
        out.put_u16(u16::try_from(columns.len()).unwrap_or(u16::MAX));
        for (name, of) in columns {
            cstr(out, name.as_bytes());
            out.put_u32(0);
            out.put_i16(0);
            out.put_u32(of.oid);
            out.put_i16(of.length);
            out.put_i32(-1);
            out.put_i16(format);
        }
    });
}

/// DataRow with values as text.
pub(crate) fn row(out: &mut BytesMut, values: &[Option<&[u8]>]) {
    message(out, b'D', |out| {
        out.put_u16(u16::try_from(values.len()).unwrap_or(u16::MAX));
        for value in values {
            match value {
                Some(value) => {
                    out.put_u32(u32::try_from(value.len()).unwrap_or(0));
                    out.put_slice(value);
                }
                None => out.put_i32(-1),
            }
        }
    });
}

/// One DataRow with the sum of these DataRows of one `int8` each, in their format.
///
/// A count in text begins with a digit; in binary it is of 8 bytes, of which the first is zero.
///
/// # Errors
/// When one is no such row.
pub(crate) fn sum_of_counts(out: &mut BytesMut, rows: &[Bytes]) -> Result<(), Malformed> {
    let (mut sum, mut binary) = (0i64, false);
    for row in rows {
        let no_count = Malformed("a count is no number");
        let mut body = Body::new(row.get(HEADER..).ok_or(no_count)?);
        body.i16()?;
        let Ok(len) = usize::try_from(body.i32()?) else {
            // Of nothing there is no size, in any group.
            self::row(out, &[None]);
            return Ok(());
        };
        let value = body.bytes(len)?;
        binary = value.first() == Some(&0);
        let count = if binary {
            value.try_into().ok().map(i64::from_be_bytes)
        } else {
            std::str::from_utf8(value).ok().and_then(|text| text.parse().ok())
        };
        sum = count.and_then(|count| sum.checked_add(count)).ok_or(no_count)?;
    }
    if binary {
        row(out, &[Some(&sum.to_be_bytes())]);
    } else {
        row(out, &[Some(sum.to_string().as_bytes())]);
    }
    Ok(())
}

/// CopyInResponse for data of `columns` columns, all in this format: 0 for text, 1 for binary.
pub(crate) fn copy_in_response(out: &mut BytesMut, format: u8, columns: u16) {
    copy_response(out, b'G', format, columns);
}

fn copy_response(out: &mut BytesMut, tag: u8, format: u8, columns: u16) {
    message(out, tag, |out| {
        out.put_u8(format);
        out.put_u16(columns);
        for _ in 0..columns {
            out.put_u16(u16::from(format));
        }
    });
}

/// CopyOutResponse for data of `columns` columns, all in this format: 0 for text, 1 for binary.
pub(crate) fn copy_out_response(out: &mut BytesMut, format: u8, columns: u16) {
    copy_response(out, b'H', format, columns);
}

/// A Query, for a backend.
pub(crate) fn query(out: &mut BytesMut, sql: &str) {
    message(out, b'Q', |out| cstr(out, sql.as_bytes()));
}

/// CopyFail, for a backend.
pub(crate) fn copy_fail(out: &mut BytesMut, why: &str) {
    message(out, b'f', |out| cstr(out, why.as_bytes()));
}

/// Close of a prepared statement, for a backend.
pub(crate) fn close_statement(out: &mut BytesMut, name: &[u8]) {
    close(out, b'S', name);
}

/// Close of a portal, for a backend.
pub(crate) fn close_portal(out: &mut BytesMut, name: &[u8]) {
    close(out, b'P', name);
}

/// Describe and Execute, to its end, of a portal, for a backend.
pub(crate) fn describe_and_execute(out: &mut BytesMut, portal: &[u8]) {
    message(out, b'D', |out| {
        out.put_u8(b'P');
        cstr(out, portal);
    });
    message(out, b'E', |out| {
        cstr(out, portal);
        out.put_u32(0);
    });
}

/// Execute of a portal up to a limit of rows (0: all), for a backend.
pub(crate) fn execute(out: &mut BytesMut, portal: &[u8], limit: u64) {
    message(out, b'E', |out| {
        cstr(out, portal);
        out.put_u32(u32::try_from(limit).unwrap_or(0));
    });
}

fn close(out: &mut BytesMut, kind: u8, name: &[u8]) {
    message(out, b'C', |out| {
        out.put_u8(kind);
        cstr(out, name);
    });
}

/// The name of the prepared statement, and of the portal, that carry our own statements.
const OWN: &[u8] = b"_howdah";

/// A parameter to bind: its type (0: PostgreSQL infers it), whether it is binary, its value.
pub(crate) type Bound<'a> = (u32, bool, Option<&'a [u8]>);

/// Parse, Bind, Execute and two Closes of one statement, with one parameter where `bound` gives it.
/// Leaves the client's unnamed statement and portal alone, so it can stand in the middle of its
/// pipeline.
pub(crate) fn own_statement(out: &mut BytesMut, sql: &str, bound: Option<Bound<'_>>) {
    // One that failed was skipped before its end and is still there.
    close(out, b'S', OWN);
    message(out, b'P', |out| {
        cstr(out, OWN);
        cstr(out, sql.as_bytes());
        match bound {
            Some((oid, ..)) => {
                out.put_u16(1);
                out.put_u32(oid);
            }
            None => out.put_u16(0),
        }
    });
    message(out, b'B', |out| {
        cstr(out, OWN);
        cstr(out, OWN);
        match bound {
            Some((_, binary, value)) => {
                out.put_slice(&[0, 1, 0, u8::from(binary), 0, 1]);
                match value.map(|value| (value, i32::try_from(value.len()).unwrap_or(i32::MAX))) {
                    Some((value, len)) => {
                        out.put_i32(len);
                        out.put_slice(value);
                    }
                    None => out.put_i32(-1),
                }
            }
            None => out.put_slice(&[0, 0, 0, 0]),
        }
        out.put_u16(0);
    });
    message(out, b'E', |out| {
        cstr(out, OWN);
        out.put_u32(0);
    });
    close(out, b'P', OWN);
    close(out, b'S', OWN);
}

/// Parse of a statement with these declared types, for a backend.
pub(crate) fn parse(out: &mut BytesMut, name: &[u8], sql: &[u8], types: &[u32]) {
    message(out, b'P', |out| {
        cstr(out, name);
        cstr(out, sql);
        out.put_u16(u16::try_from(types.len()).unwrap_or(u16::MAX));
        for oid in types {
            out.put_u32(*oid);
        }
    });
}

/// Bind of the unnamed statement, for a backend; `rest` is [`Bind::rest`](super::frontend::Bind::rest).
pub(crate) fn bind_unnamed(out: &mut BytesMut, portal: &[u8], rest: &[u8]) {
    message(out, b'B', |out| {
        cstr(out, portal);
        cstr(out, b"");
        out.put_slice(rest);
    });
}

/// Bind of a statement with these parameters, of each whether it is binary, for a backend; `results` is
/// [`Bind::results`](super::frontend::Bind::results).
pub(crate) fn bind<'v>(
    out: &mut BytesMut,
    (portal, statement): (&[u8], &[u8]),
    parameters: impl ExactSizeIterator<Item = (bool, Option<&'v [u8]>)> + Clone,
    results: &[u8],
) {
    let count = u16::try_from(parameters.len()).unwrap_or(u16::MAX);
    message(out, b'B', |out| {
        cstr(out, portal);
        cstr(out, statement);
        out.put_u16(count);
        for (binary, _) in parameters.clone() {
            out.put_u16(u16::from(binary));
        }
        out.put_u16(count);
        for (_, value) in parameters {
            match value {
                Some(value) => {
                    out.put_u32(u32::try_from(value.len()).unwrap_or(0));
                    out.put_slice(value);
                }
                None => out.put_i32(-1),
            }
        }
        out.put_slice(results);
    });
}

/// Describe of a prepared statement, for a backend.
pub(crate) fn describe_statement(out: &mut BytesMut, name: &[u8]) {
    message(out, b'D', |out| {
        out.put_u8(b'S');
        cstr(out, name);
    });
}

/// Parse and Close of a statement only to have PostgreSQL's opinion on it.
pub(crate) fn judge(out: &mut BytesMut, sql: &[u8]) {
    // See `own_statement`.
    close_statement(out, OWN);
    parse(out, OWN, sql, &[]);
    close_statement(out, OWN);
}

/// StartupMessage of protocol 3.0, for a backend.
pub(crate) fn startup(out: &mut BytesMut, parameters: &[(Vec<u8>, Vec<u8>)]) {
    let start = out.len();
    out.put_u32(0);
    out.put_u32(196_608);
    for (name, value) in parameters {
        cstr(out, name);
        cstr(out, value);
    }
    out.put_u8(0);
    let len = u32::try_from(out.len() - start).unwrap_or(u32::MAX);
    out[start..start + 4].copy_from_slice(&len.to_be_bytes());
}

/// NoticeResponse with severity WARNING.
pub(crate) fn warning(out: &mut BytesMut, sqlstate: &str, text: &str) {
    notice_response(out, "WARNING", sqlstate, text);
}

/// NoticeResponse with severity INFO, which every client wants to see.
pub(crate) fn info(out: &mut BytesMut, text: &str) {
    notice_response(out, "INFO", "00000", text);
}

/// NoticeResponse with severity NOTICE.
pub(crate) fn notice(out: &mut BytesMut, text: &str) {
    notice_response(out, "NOTICE", "00000", text);
}

/// The same with an SQLSTATE.
pub(crate) fn notice_of(out: &mut BytesMut, sqlstate: &str, text: &str) {
    notice_response(out, "NOTICE", sqlstate, text);
}

fn notice_response(out: &mut BytesMut, severity: &str, sqlstate: &str, text: &str) {
    message(out, b'N', |out| {
        for (kind, value) in [(b'S', severity), (b'V', severity), (b'C', sqlstate), (b'M', text)] {
            out.put_u8(kind);
            cstr(out, value.as_bytes());
        }
        out.put_u8(0);
    });
}
