//! What a client says in a session.

use bytes::{BufMut, BytesMut};

use super::encode;
use super::frame::{HEADER, peek_frontend};
use super::frontend::{Bind, Execute, Named, Parse, query_text};

/// The longest message that is let through, bytes.
const LIMIT: usize = 1 << 20;

/// Messages of a client, one after the other.
pub fn client_messages(bytes: &[u8]) {
    let mut rest = bytes;
    while let Ok(Some(frame)) = peek_frontend(rest, LIMIT) {
        assert!(
            (HEADER..=LIMIT).contains(&frame.len),
            "a length out of bounds: {}",
            frame.len
        );
        let Some((message, tail)) = rest.split_at_checked(frame.len) else {
            break;
        };
        rest = tail;
        client_message(frame.tag, &message[HEADER..]);
    }
}

fn client_message(tag: u8, body: &[u8]) {
    match tag {
        b'P' => {
            if let Ok(parse) = Parse::read(body) {
                let mut out = BytesMut::new();
                encode::cstr(&mut out, parse.name);
                encode::cstr(&mut out, parse.query);
                out.put_u16(u16::try_from(parse.types.len()).expect("it was counted in 16 bits"));
                parse.types.iter().for_each(|oid| out.put_u32(*oid));
                assert_eq!(out, body, "a Parse is not what was read");
            }
        }
        b'B' => {
            if let Ok(bind) = Bind::read(body) {
                let values: usize = bind.each().filter_map(|(_, value)| value).map(<[u8]>::len).sum();
                let names = bind.portal.len() + bind.statement.len();
                assert!(
                    names + values + bind.each().count() * 4 <= body.len(),
                    "more than there was"
                );
            }
        }
        b'D' | b'C' => {
            if let Ok(Named::Statement(name) | Named::Portal(name)) = Named::read(body) {
                assert_eq!(name.len() + 2, body.len());
            }
        }
        b'E' => {
            if let Ok(execute) = Execute::read(body) {
                let limit = execute.limit.to_be_bytes();
                assert_eq!([execute.portal, b"\0", &limit].concat(), body);
            }
        }
        _ => {
            if let Ok(text) = query_text(body) {
                assert_eq!([text, b"\0"].concat(), body);
            }
        }
    }
}
