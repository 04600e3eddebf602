//! Two servers' answers, message by message.

use std::collections::BTreeSet;

use bytes::{BufMut, Bytes, BytesMut};

use super::exchange::Order;
use super::wire::Message;

/// Fields of errors and notices that say where in PostgreSQL's source they were raised.
const WHERE_RAISED: [u8; 3] = [b'F', b'L', b'R'];

/// What differs but for these fields of errors and notices, in words; none where nothing does.
#[must_use]
pub fn difference(howdah: &[Message], plain: &[Message], order: Order, but: &[u8]) -> Option<String> {
    let (howdah, plain) = (comparable(howdah, order, but), comparable(plain, order, but));
    if howdah == plain {
        return None;
    }
    let place = howdah
        .iter()
        .zip(&plain)
        .take_while(|(one, two)| one == two)
        .count();
    let tags = |messages: &[Message]| {
        messages
            .iter()
            .map(|message| char::from(message.tag))
            .collect::<String>()
    };
    let at = |messages: &[Message]| {
        messages
            .get(place)
            .map_or("nothing".to_owned(), |found| format!("{found:?}"))
    };
    Some(format!(
        "message {}: Howdah {}; PostgreSQL {} (of {} and {})",
        place + 1,
        at(&howdah),
        at(&plain),
        tags(&howdah),
        tags(&plain)
    ))
}

/// What differs in two greetings: the parameters, whatever their order, and the state.
#[must_use]
pub fn greetings(howdah: &[Message], plain: &[Message]) -> Option<String> {
    let told = |messages: &[Message]| -> BTreeSet<Message> {
        // The key for cancelling is each server's own.
        messages
            .iter()
            .filter(|message| message.tag != b'K')
            .cloned()
            .collect()
    };
    let (howdah, plain) = (told(howdah), told(plain));
    let of_one: Vec<_> = howdah.symmetric_difference(&plain).collect();
    (!of_one.is_empty()).then(|| format!("the greetings differ in {of_one:?}"))
}

fn comparable(messages: &[Message], order: Order, but: &[u8]) -> Vec<Message> {
    let kept = messages.iter().map(|message| without_accidents(message, but));
    let mut kept: Vec<Message> = kept.collect();
    if order == Order::Any {
        sort_rows(&mut kept);
    }
    kept
}

fn without_accidents(message: &Message, but: &[u8]) -> Message {
    let body = match message.tag {
        b'E' | b'N' => {
            let mut body = BytesMut::new();
            for (kind, text) in message.fields() {
                if !WHERE_RAISED.contains(&kind) && !but.contains(&kind) {
                    body.put_u8(kind);
                    body.put_slice(text.as_bytes());
                    body.put_u8(0);
                }
            }
            body.freeze()
        }
        b'T' => without_table_oids(&message.body).unwrap_or_else(|| message.body.clone()),
        _ => message.body.clone(),
    };
    Message {
        tag: message.tag,
        body,
    }
}

/// RowDescription: each column's name ends in a zero byte, and 18 bytes follow, of which the first four are the table's OID.
fn without_table_oids(body: &Bytes) -> Option<Bytes> {
    let mut kept = BytesMut::from(body.get(..2)?);
    let mut rest = body.get(2..)?;
    while !rest.is_empty() {
        let end = rest.iter().position(|byte| *byte == 0)? + 1;
        kept.put_slice(rest.get(..end)?);
        kept.put_u32(0);
        kept.put_slice(rest.get(end + 4..end + 18)?);
        rest = rest.get(end + 18..)?;
    }
    Some(kept.freeze())
}

fn is_row(message: &Message) -> bool {
    matches!(message.tag, b'D' | b'd')
}

/// Sorts the rows of each result where they stand; those of a portal that was suspended between belong together.
fn sort_rows(messages: &mut [Message]) {
    let mut from = 0;
    while from < messages.len() {
        let run = messages[from..]
            .iter()
            .take_while(|message| is_row(message) || message.tag == b's')
            .count();
        let places: Vec<usize> = (from..from + run)
            .filter(|place| is_row(&messages[*place]))
            .collect();
        let mut rows: Vec<Message> = places.iter().map(|place| messages[*place].clone()).collect();
        rows.sort();
        for (place, row) in places.into_iter().zip(rows) {
            messages[place] = row;
        }
        from += run + 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(tag: u8, body: &'static [u8]) -> Message {
        Message {
            tag,
            body: Bytes::from_static(body),
        }
    }

    #[test]
    fn order_counts_where_it_was_asked_for_and_across_a_suspended_portal() {
        let one = [
            message(b'D', b"a"),
            message(b's', b""),
            message(b'D', b"b"),
            message(b'C', b"x"),
        ];
        let two = [
            message(b'D', b"b"),
            message(b's', b""),
            message(b'D', b"a"),
            message(b'C', b"x"),
        ];
        assert_eq!(difference(&one, &two, Order::Any, &[]), None);
        assert!(difference(&one, &two, Order::Given, &[]).is_some());
        let results = [
            message(b'D', b"a"),
            message(b'C', b"x"),
            message(b'D', b"b"),
            message(b'C', b"x"),
        ];
        let swapped = [
            message(b'D', b"b"),
            message(b'C', b"x"),
            message(b'D', b"a"),
            message(b'C', b"x"),
        ];
        assert!(
            difference(&results, &swapped, Order::Any, &[]).is_some(),
            "rows of two results are not mixed"
        );
    }

    #[test]
    fn an_error_differs_in_its_words_but_not_in_where_it_was_raised() {
        let at_10 = [message(b'E', b"SERROR\0C42P01\0Mno\0L10\0\0")];
        let at_11 = [message(b'E', b"SERROR\0C42P01\0Mno\0L11\0\0")];
        let other = [message(b'E', b"SERROR\0C42P01\0Mnone\0L10\0\0")];
        assert_eq!(difference(&at_10, &at_11, Order::Given, &[]), None);
        assert!(difference(&at_10, &other, Order::Given, &[]).is_some());
        assert_eq!(difference(&at_10, &other, Order::Given, b"M"), None);
    }

    #[test]
    fn a_description_differs_in_types_but_not_in_the_tables_oid() {
        let described = |table: u8, kind: u8| {
            let mut body = vec![0, 1, b'k', 0, 0, 0, 0, table, 0, 1, 0, 0, 0, kind];
            body.extend([0, 8, 0, 0, 0, 0, 0, 0]);
            [Message {
                tag: b'T',
                body: body.into(),
            }]
        };
        assert_eq!(
            difference(&described(1, 20), &described(2, 20), Order::Given, &[]),
            None
        );
        assert!(difference(&described(1, 20), &described(1, 23), Order::Given, &[]).is_some());
    }
}
