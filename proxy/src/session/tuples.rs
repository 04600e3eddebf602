//! The tuples of COPY's binary format, as far as finding one field needs.
//!
//! Source of the format: PostgreSQL's documentation of COPY, `ReceiveCopyBinaryHeader` and `NextCopyFrom` in
//! `copyfromparse.c`.
//!
//! ```text
//! "PGCOPY\n\377\r\n\0" | flags: u32 | length of an extension: u32 | extension
//! per row: number of fields: i16 | per field: length: i32, -1 for NULL | bytes
//! -1: i16
//! ```

use super::rows::{End, Key};
use crate::analysis::Refusal;
use crate::protocol::Body;

/// What stands before the rows of each group.
pub(super) const HEADER: &[u8; 19] = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0";

/// What stands after them.
pub(super) const TRAILER: &[u8; 2] = b"\xff\xff";

const SIGNATURE: usize = 11;

/// Bits of the flags that mean that a reader who does not know them must give up.
const CRITICAL: u32 = 0xffff_0000;

/// Rows with object ids, which no supported version writes.
const WITH_OIDS: u32 = 1 << 16;

/// The length of the header that the data begin with; `None` if it is not whole.
///
/// # Errors
/// 22P04 in PostgreSQL's words.
pub(super) fn header(data: &[u8], end: End) -> Result<Option<usize>, Refusal> {
    let wrong = |words: &str| Err(Refusal::new("22P04", words));
    let signature = &data[..data.len().min(SIGNATURE)];
    if !HEADER.starts_with(signature) || (signature.len() < SIGNATURE && end == End::Here) {
        return wrong("COPY file signature not recognized");
    }
    let Some((fields, _)) = data.get(SIGNATURE..).and_then(<[u8]>::split_first_chunk::<8>) else {
        return match end {
            End::MoreComes => Ok(None),
            End::Here => wrong("invalid COPY file header (missing flags)"),
        };
    };
    let [f1, f2, f3, f4, e1, e2, e3, e4] = *fields;
    let flags = u32::from_be_bytes([f1, f2, f3, f4]);
    if flags & WITH_OIDS != 0 {
        return wrong("invalid COPY file header (WITH OIDS)");
    }
    if flags & CRITICAL != 0 {
        return wrong("unrecognized critical flags in COPY file header");
    }
    let Ok(extension) = usize::try_from(i32::from_be_bytes([e1, e2, e3, e4])) else {
        return wrong("invalid COPY file header (missing length)");
    };
    let len = HEADER.len() + extension;
    match (data.len() >= len, end) {
        (true, _) => Ok(Some(len)),
        (false, End::MoreComes) => Ok(None),
        (false, End::Here) => wrong("invalid COPY file header (wrong length)"),
    }
}

/// One row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Tuple<'a> {
    /// Its bytes.
    pub(super) len: usize,
    /// The field that was asked for. It is missing also where the row makes no sense, which PostgreSQL says.
    pub(super) key: Key<'a>,
}

/// The first row of `data`, which are past the header; `None` if it is not whole.
pub(super) fn next(data: &[u8], field: usize) -> Option<Tuple<'_>> {
    let mut body = Body::new(data);
    let read = |body: &Body<'_>| data.len() - body.rest().len();
    let count = body.i16().ok()?;
    if count == -1 {
        return Some(Tuple {
            len: TRAILER.len(),
            key: Key::EndOfData,
        });
    }
    let mut key = Key::Missing;
    for number in 0..usize::try_from(count).unwrap_or(0) {
        let value = match usize::try_from(body.i32().ok()?) {
            Ok(len) => Key::Value(body.bytes(len).ok()?.into()),
            Err(_) => Key::Null,
        };
        if number == field {
            key = value;
        }
    }
    Some(Tuple {
        len: read(&body),
        key,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tuple(fields: &[Option<&[u8]>]) -> Vec<u8> {
        let mut bytes = i16::try_from(fields.len()).expect("few").to_be_bytes().to_vec();
        for field in fields {
            let len = field.map_or(-1, |field| i32::try_from(field.len()).expect("short"));
            bytes.extend(len.to_be_bytes());
            bytes.extend(field.unwrap_or_default());
        }
        bytes
    }

    #[test]
    fn a_row_is_found_when_it_is_whole() {
        let mut data = tuple(&[Some(b"one"), None, Some(b"")]);
        let len = data.len();
        data.extend(TRAILER);
        for end in 0..len {
            assert_eq!(next(&data[..end], 0), None, "{end}");
        }
        let key = |field| {
            let tuple = next(&data, field).expect("whole");
            assert_eq!(tuple.len, len);
            tuple.key
        };
        let value = |bytes: &'static [u8]| Key::Value(bytes.into());
        assert_eq!(
            [key(0), key(1), key(2), key(3)],
            [value(b"one"), Key::Null, value(b""), Key::Missing]
        );
        assert_eq!(next(&data[len..], 0).expect("the end").key, Key::EndOfData);
    }

    #[test]
    fn a_header_is_skipped_with_its_extension_or_refused() {
        let mut data = HEADER.to_vec();
        data[18] = 3;
        data.extend(b"abc");
        for end in 0..data.len() {
            assert_eq!(header(&data[..end], End::MoreComes), Ok(None), "{end}");
            assert!(header(&data[..end], End::Here).is_err(), "{end}");
        }
        assert_eq!(header(&data, End::Here), Ok(Some(22)));
        let with = |at: usize, byte: u8| {
            let mut data = data.clone();
            data[at] = byte;
            header(&data, End::MoreComes).map_err(|refusal| refusal.message)
        };
        assert_eq!(
            with(0, b'X'),
            Err("COPY file signature not recognized".to_owned())
        );
        assert_eq!(
            with(12, 1),
            Err("invalid COPY file header (WITH OIDS)".to_owned())
        );
        assert_eq!(
            with(11, 1),
            Err("unrecognized critical flags in COPY file header".to_owned())
        );
        assert_eq!(
            with(15, 0x80),
            Err("invalid COPY file header (missing length)".to_owned())
        );
    }
}
