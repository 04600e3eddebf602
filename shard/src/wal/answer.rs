//! What the WAL sender answers, as PostgreSQL's walsender would.

use bytes::{BufMut, BytesMut};

use super::frame::{put_frame, put_str};
use super::{Lsn, TimelineId};

/// SQLSTATEs, as in PostgreSQL's `errcodes.txt`.
pub(super) const NOT_SUPPORTED: &str = "0A000";
pub(super) const INVALID_PARAMETER: &str = "22023";
pub(super) const UNDEFINED_OBJECT: &str = "42704";
pub(super) const CANNOT_CONNECT_NOW: &str = "57P03";
pub(super) const NO_SUCH_FILE: &str = "58P01";

/// Type ids of PostgreSQL's catalogue: text, int8, int4, bytea.
const TEXT: u32 = 25;
const INT8: u32 = 20;
const INT4: u32 = 23;
const BYTEA: u32 = 17;

/// Authentication is done, some settings, and ready for a command.
pub(super) fn put_welcome(out: &mut BytesMut, server_version: &str) {
    put_frame(out, b'R', |out| out.put_u32(0));
    let settings = [
        ("server_version", server_version),
        ("server_encoding", "UTF8"),
        ("client_encoding", "UTF8"),
        ("integer_datetimes", "on"),
        ("standard_conforming_strings", "on"),
    ];
    for (name, value) in settings {
        put_frame(out, b'S', |out| {
            put_str(out, name);
            put_str(out, value);
        });
    }
    // A cancel key that cancels nothing: libpq wants one, a walreceiver never uses it.
    put_frame(out, b'K', |out| out.put_u64(0));
    put_ready(out);
}

/// Ready for a command, outside a transaction.
pub(super) fn put_ready(out: &mut BytesMut) {
    put_frame(out, b'Z', |out| out.put_u8(b'I'));
}

/// An error with its SQLSTATE.
pub(super) fn put_error(out: &mut BytesMut, code: &str, message: &str) {
    put_frame(out, b'E', |out| {
        for (field, text) in [(b'S', "ERROR"), (b'V', "ERROR"), (b'C', code), (b'M', message)] {
            out.put_u8(field);
            put_str(out, text);
        }
        out.put_u8(0);
    });
}

/// The row of IDENTIFY_SYSTEM.
pub(super) fn put_identity(out: &mut BytesMut, system_id: &str, timeline: TimelineId, end: Lsn) {
    put_columns(
        out,
        &[
            ("systemid", TEXT),
            ("timeline", INT4),
            ("xlogpos", TEXT),
            ("dbname", TEXT),
        ],
    );
    let (timeline, end) = (timeline.to_string(), end.to_string());
    put_row(
        out,
        &[
            Some(system_id.as_bytes()),
            Some(timeline.as_bytes()),
            Some(end.as_bytes()),
            None,
        ],
    );
    put_complete(out, "IDENTIFY_SYSTEM");
}

/// The row of TIMELINE_HISTORY.
pub(super) fn put_history(out: &mut BytesMut, timeline: TimelineId, content: &[u8]) {
    put_columns(out, &[("filename", TEXT), ("content", BYTEA)]);
    let name = timeline.history_file_name();
    put_row(out, &[Some(name.as_bytes()), Some(content)]);
    put_complete(out, "TIMELINE_HISTORY");
}

/// The row of SHOW, for the settings that PostgreSQL's own tools ask for.
pub(super) fn put_setting(out: &mut BytesMut, name: &str) {
    let value = match name {
        "wal_segment_size" => "16MB",
        "data_directory_mode" => "0700",
        _ => {
            let words = format!("unrecognized configuration parameter \"{name}\"");
            return put_error(out, UNDEFINED_OBJECT, &words);
        }
    };
    put_columns(out, &[(name, TEXT)]);
    put_row(out, &[Some(value.as_bytes())]);
    put_complete(out, "SHOW");
}

/// The server's side of the stream begins.
pub(super) fn put_copy_both(out: &mut BytesMut) {
    put_frame(out, b'W', |out| {
        out.put_u8(0);
        out.put_u16(0);
    });
}

/// The server's side of the stream ends.
pub(super) fn put_copy_done(out: &mut BytesMut) {
    put_frame(out, b'c', |_| {});
}

/// The row that names the next timeline and where it begins.
pub(super) fn put_next_timeline(out: &mut BytesMut, next: TimelineId, at: Lsn) {
    put_columns(out, &[("next_tli", INT8), ("next_tli_startpos", TEXT)]);
    let (next, at) = (next.to_string(), at.to_string());
    put_row(out, &[Some(next.as_bytes()), Some(at.as_bytes())]);
}

/// The two completions that end START_REPLICATION: "dupe, but necessary per libpqrcv_endstreaming"
/// (walsender.c).
pub(super) fn put_streaming_done(out: &mut BytesMut) {
    put_complete(out, "START_STREAMING");
    put_complete(out, "START_REPLICATION");
}

fn put_complete(out: &mut BytesMut, tag: &str) {
    put_frame(out, b'C', |out| put_str(out, tag));
}

fn put_columns(out: &mut BytesMut, columns: &[(&str, u32)]) {
    put_frame(out, b'T', |out| {
        out.put_u16(u16::try_from(columns.len()).expect("at most four columns"));
        for (name, kind) in columns {
            put_str(out, name);
            out.put_u32(0);
            out.put_u16(0);
            out.put_u32(*kind);
            out.put_i16(-1);
            out.put_i32(-1);
            out.put_u16(0);
        }
    });
}

fn put_row(out: &mut BytesMut, columns: &[Option<&[u8]>]) {
    put_frame(out, b'D', |out| {
        out.put_u16(u16::try_from(columns.len()).expect("at most four columns"));
        for column in columns {
            match column {
                None => out.put_i32(-1),
                Some(value) => {
                    out.put_i32(i32::try_from(value.len()).expect("history files are small"));
                    out.put_slice(value);
                }
            }
        }
    });
}
