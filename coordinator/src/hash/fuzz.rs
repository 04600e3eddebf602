//! Values of shard keys as clients send them.

use super::{HashSlot, KeyColumn, KeyError, KeySource, KeyType, KeyUse};

/// A value for a column: bytes for the column's type, the declared type (0 to 12, else none), comparison or
/// assignment and text or binary (one byte), and the type's modifier (i16, 0 for none); the rest is the value.
pub fn shard_key(bytes: &[u8]) {
    let [column, declared, how, high, low, value @ ..] = bytes else {
        return;
    };
    let key_type = KeyType::ALL[usize::from(*column) % KeyType::ALL.len()];
    let type_modifier = match i16::from_be_bytes([*high, *low]) {
        0 => -1,
        modifier => i32::from(modifier),
    };
    let column = KeyColumn {
        key_type,
        type_modifier,
    };
    let declared = KeyType::ALL
        .get(usize::from(*declared))
        .map_or(0, |declared| declared.oid());
    let used = if how & 1 == 0 {
        KeyUse::Comparison
    } else {
        KeyUse::Assignment
    };
    let format = i16::from(how & 2 != 0);
    // A modifier of a catalogue is PostgreSQL's; of any other only the query is asked for.
    assert!(column.slot_query(used).contains("hash_record_extended"));
    let slot = column.from_parameter(used, declared, format, Some(value));
    assert_eq!(slot, column.from_parameter(used, declared, format, Some(value)));
    assert_eq!(
        column.from_parameter(used, declared, format, None),
        Ok(HashSlot::NULL)
    );
    if format == 0 {
        both_forms(column, used, value);
    }
}

/// The same value in text and in binary is in the same slot.
fn both_forms(column: KeyColumn, used: KeyUse, text: &[u8]) {
    let given = |source: KeySource<'_>| column.slot(used, source);
    let in_text = given(KeySource::Text { type_oid: 0, text });
    let in_binary = |bytes: &[u8]| given(KeySource::Binary { type_oid: 0, bytes });
    let agree = |binary: Result<HashSlot, KeyError>| {
        if let (Ok(text), Ok(binary)) = (in_text, binary) {
            assert_eq!(text, binary, "text and binary differ for {column:?}");
        }
    };
    let words = std::str::from_utf8(text).ok();
    let parsed = words.and_then(|text| text.parse::<i64>().ok());
    match (column.key_type, parsed) {
        (KeyType::Int2, Some(number)) => {
            if let Ok(number) = i16::try_from(number) {
                agree(in_binary(&number.to_be_bytes()));
            }
        }
        (KeyType::Int4, Some(number)) => {
            if let Ok(number) = i32::try_from(number) {
                agree(in_binary(&number.to_be_bytes()));
            }
        }
        (KeyType::Int8, Some(number)) => {
            agree(in_binary(&number.to_be_bytes()));
            let literal = words.map_or(in_text, |text| given(KeySource::Number(text)));
            assert_eq!(in_text, literal, "a literal and its text differ");
        }
        (KeyType::Text | KeyType::Varchar | KeyType::Bpchar, _) => agree(in_binary(text)),
        (KeyType::Numeric, _) => {
            // 1.5 and 1.50 are equal, so they are in one slot.
            let longer = [text, if text.contains(&b'.') { &b"0"[..] } else { b".0" }].concat();
            let same = given(KeySource::Text {
                type_oid: 0,
                text: &longer,
            });
            if let (Ok(one), Ok(other)) = (in_text, same) {
                assert_eq!(one, other, "equal numbers in two slots");
            }
        }
        _ => {}
    }
}
