//! The lines of COPY's text and CSV formats, as far as finding one field needs.
//!
//! Source of the formats: PostgreSQL's documentation of COPY, `copyfromparse.c`.

use std::borrow::Cow;

use crate::analysis::CopyLayout;

/// One line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Row<'a> {
    /// Its bytes, line end included.
    pub(super) len: usize,
    /// The field that was asked for.
    pub(super) key: Key<'a>,
    pub(super) ending: Ending,
}

/// How a line ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ending {
    Newline,
    ReturnNewline,
    /// A carriage return alone.
    Return,
    /// Where the data end.
    Data,
}

/// A field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Key<'a> {
    Value(Cow<'a, [u8]>),
    Null,
    /// The line has no such field.
    Missing,
    /// The line is the end-of-data mark: PostgreSQL ignores what follows.
    EndOfData,
}

/// What follows the bytes at hand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    MoreComes,
    Here,
}

/// The first line of `data`; `None` if it is not whole.
pub(super) fn next<'a>(data: &'a [u8], layout: &CopyLayout, field: usize, end: End) -> Option<Row<'a>> {
    if data.is_empty() {
        return None;
    }
    let (line, ending) = if layout.csv {
        csv_line(data, layout, end)?
    } else {
        text_line(data, end)?
    };
    let len = line.len()
        + match ending {
            Ending::Newline | Ending::Return => 1,
            Ending::ReturnNewline => 2,
            Ending::Data => 0,
        };
    let key = if line == b"\\." && ending != Ending::Data {
        Key::EndOfData
    } else if layout.csv {
        csv_field(line, layout, field)
    } else {
        text_field(line, layout, field)
    };
    Some(Row { len, key, ending })
}

/// A line that ends at the newline or carriage return at `at`; `None` if what follows must be known first.
fn ended(data: &[u8], at: usize, end: End) -> Option<(&[u8], Ending)> {
    let ending = match (data[at], data.get(at + 1)) {
        (b'\n', _) => Ending::Newline,
        (_, Some(b'\n')) => Ending::ReturnNewline,
        (_, None) if end == End::MoreComes => return None,
        _ => Ending::Return,
    };
    Some((&data[..at], ending))
}

fn text_line(data: &[u8], end: End) -> Option<(&[u8], Ending)> {
    let mut at = 0;
    while let Some(byte) = data.get(at) {
        match byte {
            b'\n' | b'\r' => return ended(data, at, end),
            // A backslash takes the newline after it into the data.
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
    (end == End::Here).then_some((data, Ending::Data))
}

fn csv_line<'a>(data: &'a [u8], layout: &CopyLayout, end: End) -> Option<(&'a [u8], Ending)> {
    let mut quoted = false;
    let mut at = 0;
    while let Some(byte) = data.get(at) {
        if quoted && *byte == layout.escape && layout.escape != layout.quote {
            // Outside of quotes an escape is an ordinary byte.
            at += if data
                .get(at + 1)
                .is_some_and(|b| *b == layout.quote || *b == layout.escape)
            {
                2
            } else {
                1
            };
            continue;
        }
        if *byte == layout.quote {
            quoted = !quoted;
        } else if matches!(byte, b'\n' | b'\r') && !quoted {
            return ended(data, at, end);
        }
        at += 1;
    }
    (end == End::Here).then_some((data, Ending::Data))
}

fn text_field<'a>(line: &'a [u8], layout: &CopyLayout, field: usize) -> Key<'a> {
    let (mut start, mut at, mut number) = (0, 0, 0);
    loop {
        match line.get(at) {
            Some(b'\\') => at = (at + 2).min(line.len()),
            Some(byte) if *byte == layout.delimiter => {
                if number == field {
                    break;
                }
                number += 1;
                at += 1;
                start = at;
            }
            Some(_) => at += 1,
            None => break,
        }
    }
    if number != field {
        return Key::Missing;
    }
    let raw = &line[start..at];
    if raw == layout.null.as_bytes() {
        return Key::Null;
    }
    if raw.contains(&b'\\') {
        Key::Value(Cow::Owned(unescaped(raw)))
    } else {
        Key::Value(Cow::Borrowed(raw))
    }
}

/// The text format's backslash sequences (`CopyReadAttributesText`).
fn unescaped(raw: &[u8]) -> Vec<u8> {
    let mut value = Vec::with_capacity(raw.len());
    let mut bytes = raw.iter().copied().peekable();
    while let Some(byte) = bytes.next() {
        if byte != b'\\' {
            value.push(byte);
            continue;
        }
        let Some(escaped) = bytes.next() else {
            value.push(b'\\');
            break;
        };
        value.push(match escaped {
            b'b' => 8,
            b'f' => 12,
            b'n' => b'\n',
            b'r' => b'\r',
            b't' => b'\t',
            b'v' => 11,
            b'0'..=b'7' => {
                let mut number = u32::from(escaped - b'0');
                for _ in 0..2 {
                    let Some(digit) = bytes.next_if(|b| (b'0'..=b'7').contains(b)) else {
                        break;
                    };
                    number = number * 8 + u32::from(digit - b'0');
                }
                u8::try_from(number & 0xff).unwrap_or(0)
            }
            b'x' => {
                let hex = |b: u8| char::from(b).to_digit(16);
                let mut number = None;
                for _ in 0..2 {
                    let Some(digit) = bytes.peek().copied().and_then(hex) else {
                        break;
                    };
                    bytes.next();
                    number = Some(number.unwrap_or(0) * 16 + digit);
                }
                number.and_then(|n| u8::try_from(n).ok()).unwrap_or(b'x')
            }
            other => other,
        });
    }
    value
}

fn csv_field<'a>(line: &'a [u8], layout: &CopyLayout, field: usize) -> Key<'a> {
    let (mut value, mut number) = (Vec::new(), 0);
    let (mut quoted, mut was_quoted) = (false, false);
    let mut at = 0;
    while let Some(byte) = line.get(at).copied() {
        let next = line.get(at + 1).copied();
        at += 1;
        if quoted {
            let escapes =
                byte == layout.escape && next.is_some_and(|b| b == layout.quote || b == layout.escape);
            if escapes {
                value.push(next.unwrap_or(byte));
                at += 1;
            } else if byte == layout.quote {
                quoted = false;
            } else {
                value.push(byte);
            }
        } else if byte == layout.quote {
            quoted = true;
            was_quoted = true;
        } else if byte == layout.delimiter {
            if number == field {
                break;
            }
            number += 1;
            value.clear();
            was_quoted = false;
        } else {
            value.push(byte);
        }
    }
    if number != field {
        return Key::Missing;
    }
    if !was_quoted && value == layout.null.as_bytes() {
        Key::Null
    } else {
        Key::Value(Cow::Owned(value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text() -> CopyLayout {
        let null = "\\N".to_owned();
        CopyLayout {
            csv: false,
            delimiter: b'\t',
            null,
            header: false,
            quote: b'"',
            escape: b'"',
        }
    }

    fn csv() -> CopyLayout {
        CopyLayout {
            csv: true,
            delimiter: b',',
            null: String::new(),
            ..text()
        }
    }

    fn value(bytes: &[u8]) -> Key<'_> {
        Key::Value(Cow::Borrowed(bytes))
    }

    #[test]
    fn text_lines_with_escapes() {
        let data = b"a\\tb\tc\\\nd\t\\N\nrest";
        let row = |field| next(data, &text(), field, End::MoreComes).expect("whole");
        assert_eq!(row(0).key, value(b"a\tb"));
        assert_eq!(row(1).key, value(b"c\nd"));
        assert_eq!(row(2).key, Key::Null);
        assert_eq!(row(3).key, Key::Missing);
        assert_eq!(row(0).len, data.len() - 4);
        assert_eq!(next(b"rest", &text(), 0, End::MoreComes), None);
        assert_eq!(
            next(b"rest", &text(), 0, End::Here).expect("last").key,
            value(b"rest")
        );
        assert_eq!(
            next(b"\\x41\\102\\q\n", &text(), 0, End::Here)
                .expect("whole")
                .key,
            value(b"ABq")
        );
    }

    #[test]
    fn lines_end_in_one_of_three_ways_and_data_with_a_mark() {
        let ending = |data: &'static [u8], end| next(data, &text(), 0, end).map(|row| (row.ending, row.len));
        assert_eq!(ending(b"a\nb", End::MoreComes), Some((Ending::Newline, 2)));
        assert_eq!(
            ending(b"a\r\nb", End::MoreComes),
            Some((Ending::ReturnNewline, 3))
        );
        assert_eq!(ending(b"a\rb", End::MoreComes), Some((Ending::Return, 2)));
        assert_eq!(ending(b"a\r", End::MoreComes), None);
        assert_eq!(ending(b"a\r", End::Here), Some((Ending::Return, 2)));
        assert_eq!(ending(b"a", End::Here), Some((Ending::Data, 1)));
        // The return is escaped: it is data.
        let escaped = next(b"a\\\r\n", &text(), 0, End::MoreComes).expect("whole");
        assert_eq!((escaped.key, escaped.ending), (value(b"a\r"), Ending::Newline));
        let key =
            |data: &'static [u8], layout: &CopyLayout| next(data, layout, 0, End::Here).map(|row| row.key);
        assert_eq!(key(b"\\.\n1", &text()), Some(Key::EndOfData));
        assert_eq!(key(b"\\.\n1", &csv()), Some(Key::EndOfData));
        assert_eq!(key(b"\\.", &csv()), Some(value(b"\\.")));
        assert_eq!(key(b"\\.x\n", &text()), Some(value(b".x")));
        assert_eq!(key(b"\"a\rb\n\"\r\n", &csv()), Some(value(b"a\rb\n")));
    }

    #[test]
    fn csv_lines_with_quotes() {
        let data = b"\"a,\"\"b\nc\",,\"\"\r\nnext";
        let row = |field| next(data, &csv(), field, End::MoreComes).expect("whole");
        assert_eq!(row(0).key, value(b"a,\"b\nc"));
        assert_eq!(row(1).key, Key::Null);
        assert_eq!(row(2).key, value(b""));
        assert_eq!(row(0).len, data.len() - 4);
        assert_eq!(next(b"\"open\n", &csv(), 0, End::MoreComes), None);
    }
}
