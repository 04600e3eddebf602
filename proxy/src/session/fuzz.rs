//! How a session begins, the rows of a COPY, and what a backend answers.

use bytes::BytesMut;
use futures::FutureExt;
use shard::id::GroupId;

use super::conn::{Audience, Conn, Expect, Kind, Stake};
use super::login::check;
use super::relay::{Told, relay};
use super::rows::{End, Key, next};
use super::stranger::{LONGEST_STARTUP, read_packet, read_parameters};
use crate::analysis::CopyLayout;
use crate::protocol::{Body, encode};

/// The packets before a session.
pub fn startup(bytes: &[u8]) {
    let mut stream = std::io::Cursor::new(bytes.to_vec());
    let mut input = BytesMut::new();
    let mut taken = 0;
    while let Some(Ok(Some((packet, code)))) = read_packet(&mut stream, &mut input).now_or_never() {
        assert!(
            packet.len() + 8 <= LONGEST_STARTUP,
            "a packet of {} bytes",
            packet.len()
        );
        taken += packet.len() + 8;
        assert!(taken <= bytes.len(), "packets hold more than there was");
        let mut body = Body::new(&packet);
        if let Ok(parameters) = read_parameters(&mut body) {
            let _refused = check(&parameters);
            let mut out = BytesMut::new();
            encode::startup(&mut out, &parameters);
            let again = read_parameters(&mut Body::new(&out[8..]));
            assert_eq!(
                again.ok(),
                Some(parameters),
                "start-up packet {code} is not written as it was read"
            );
        }
    }
}

/// Rows of a COPY: the first bytes choose the format, the delimiter and the field. Which rows there are, and what
/// their keys are, does not depend on how they arrive.
pub fn copy_rows(bytes: &[u8]) {
    let [format, field, piece, data @ ..] = bytes else {
        return;
    };
    let csv = format & 1 != 0;
    let escape = if format & 2 != 0 { b'\\' } else { b'"' };
    let layout = CopyLayout {
        csv,
        delimiter: match (csv, format & 4) {
            (true, 0) => b',',
            (false, 0) => b'\t',
            _ => b'|',
        },
        null: if csv { String::new() } else { "\\N".to_owned() },
        header: false,
        quote: b'"',
        escape,
    };
    let field = usize::from(field % 4);
    let whole = rows(data, &layout, field);
    let mut arrived = Vec::new();
    let mut gathered = Vec::new();
    for piece in data.chunks(usize::from(*piece) + 1) {
        gathered.extend_from_slice(piece);
        while let Some(row) = next(&gathered, &layout, field, End::MoreComes) {
            assert!(
                (1..=gathered.len()).contains(&row.len),
                "a row of {} bytes",
                row.len
            );
            arrived.push((row.len, owned(&row.key)));
            gathered.drain(..arrived.last().map_or(0, |(len, _)| *len));
        }
    }
    arrived.extend(rows(&gathered, &layout, field));
    assert_eq!(arrived, whole, "the rows depend on how they arrive");
    let total: usize = whole.iter().map(|(len, _)| len).sum();
    assert_eq!(total, data.len(), "bytes between the rows");
}

/// A row's length and key; none where it is missing.
type Seen = (usize, Option<Option<Vec<u8>>>);

fn rows(mut data: &[u8], layout: &CopyLayout, field: usize) -> Vec<Seen> {
    let mut seen = Vec::new();
    while let Some(row) = next(data, layout, field, End::Here) {
        seen.push((row.len, owned(&row.key)));
        data = data.get(row.len..).expect("a row lies in the data");
    }
    seen
}

fn owned(key: &Key<'_>) -> Option<Option<Vec<u8>>> {
    match key {
        Key::Value(value) => Some(Some(value.to_vec())),
        Key::Null => Some(None),
        Key::Missing | Key::EndOfData => None,
    }
}

/// What a backend answers to the messages that the first bytes name; the rest arrives in pieces. Nothing of it grows
/// beyond what came, and the size of the pieces does not change what the client gets.
pub fn backend_messages(bytes: &[u8]) {
    let [count, piece, rest @ ..] = bytes else { return };
    let Some((asked, answer)) = rest.split_at_checked(usize::from(count % 8)) else {
        return;
    };
    let whole = answered(asked, answer.chunks(answer.len().max(1)));
    let pieces = answered(asked, answer.chunks(usize::from(*piece) + 1));
    assert_eq!(whole, pieces, "what a client gets depends on how it arrives");
}

/// What the client gets; none where the backend's words made no sense.
fn answered<'a>(asked: &[u8], pieces: impl Iterator<Item = &'a [u8]>) -> Option<Vec<u8>> {
    let mut conn = Conn::new(GroupId(1), Box::new(tokio::io::empty()));
    for asked in asked {
        let kinds = [
            Kind::Parse,
            Kind::Bind,
            Kind::Describe,
            Kind::Execute,
            Kind::Close,
            Kind::Sync,
            Kind::Query,
        ];
        let audiences = [
            Audience::Client,
            Audience::Statement,
            Audience::Silent,
            Audience::Session,
            Audience::Quiet,
            Audience::MergeFirst,
            Audience::MergeNext,
        ];
        let kind = kinds[usize::from(asked % 7)];
        conn.expect.push_back(Expect {
            kind,
            audience: audiences[usize::from(asked / 7) % 7],
            stake: Stake::Nothing,
        });
        if kind == Kind::Parse {
            conn.parsing.push_back((Vec::new(), 1));
        }
    }
    let (mut out, mut told) = (BytesMut::new(), Told::default());
    for piece in pieces {
        conn.input.extend_from_slice(piece);
        relay(&mut conn, &mut out, &mut told, 1 << 20).ok()?;
    }
    let parsing = conn.expect.iter().filter(|due| due.kind == Kind::Parse).count();
    assert!(
        conn.parsing.len() <= parsing.max(1) + asked.len(),
        "more is parsed than was asked"
    );
    Some(out.to_vec())
}
