//! The forms of values that are certain: the same meaning under every session's settings.
//!
//! Each function reads a subset of what PostgreSQL's input function of the type takes, and none of what it refuses;
//! for all else it returns none, and PostgreSQL is asked. Dates are those of years 1 to 9999 in ISO form, which
//! `DateStyle` does not change (a field of four digits in front is a year: `DecodeNumber` in `datetime.c`).

use super::pg;

/// Longer numbers are left to PostgreSQL: nobody's key, and its limits need not be repeated here.
const MAX_NUMBER_LENGTH: usize = 200;

/// A finite number, exactly.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Numeric {
    /// A whole number.
    Integer(i64),
    /// As PostgreSQL holds a `numeric`.
    Decimal {
        /// The sign.
        negative: bool,
        /// In base 10000, most significant first; neither the first nor the last is 0.
        digits: Vec<u16>,
        /// The power of 10000 of the first digit.
        weight: i32,
    },
}

impl Numeric {
    /// PostgreSQL's hash of it as `numeric`.
    pub(super) fn hash(&self) -> u64 {
        match self {
            Numeric::Integer(value) => {
                let mut digits = [0u16; 5];
                let mut rest = value.unsigned_abs();
                for digit in digits.iter_mut().rev() {
                    *digit = u16::try_from(rest % 10_000).expect("a remainder of 10000 fits 16 bits");
                    rest /= 10_000;
                }
                pg::hash_numeric(&digits, 4)
            }
            Numeric::Decimal { digits, weight, .. } => pg::hash_numeric(digits, i64::from(*weight)),
        }
    }

    /// The decimal places that it needs.
    pub(super) fn scale(&self) -> i32 {
        let Numeric::Decimal { digits, weight, .. } = self else {
            return 0;
        };
        let Some(last) = digits.last() else { return 0 };
        let places = 4 * (i32::try_from(digits.len()).unwrap_or(i32::MAX / 8) - 1 - weight);
        let zeros = [10, 100, 1000]
            .into_iter()
            .take_while(|power| last % power == 0)
            .count();
        (places - i32::try_from(zeros).unwrap_or(0)).max(0)
    }

    /// The same as an integer, if it is one that fits `int8`.
    pub(super) fn to_integer(&self) -> Option<i64> {
        match self {
            Numeric::Integer(value) => Some(*value),
            Numeric::Decimal { digits, .. } if digits.is_empty() => Some(0),
            Numeric::Decimal {
                negative,
                digits,
                weight,
            } => {
                let count = i32::try_from(digits.len()).ok()?;
                if !(count - 1..=4).contains(weight) {
                    return None;
                }
                let value = (0..=*weight).try_fold(0i128, |value, place| {
                    let digit = usize::try_from(place).ok().and_then(|place| digits.get(place));
                    value
                        .checked_mul(10_000)?
                        .checked_add(i128::from(*digit.unwrap_or(&0)))
                })?;
                i64::try_from(if *negative { -value } else { value }).ok()
            }
        }
    }

    /// Takes the zeros off both ends.
    fn stripped(negative: bool, digits: &[u16], weight: i32) -> Numeric {
        let first = digits
            .iter()
            .position(|digit| *digit != 0)
            .unwrap_or(digits.len());
        let end = digits
            .iter()
            .rposition(|digit| *digit != 0)
            .map_or(first, |last| last + 1);
        let weight = weight.wrapping_sub(i32::try_from(first).unwrap_or(i32::MAX));
        Numeric::Decimal {
            negative,
            digits: digits[first..end].to_vec(),
            weight,
        }
    }
}

/// Sign and the rest of a number's text.
fn signed(text: &[u8]) -> (bool, &[u8]) {
    match text {
        [b'-', rest @ ..] => (true, rest),
        [b'+', rest @ ..] => (false, rest),
        _ => (false, text),
    }
}

/// `[+-]digits` within `int8`.
pub(super) fn integer(text: &[u8]) -> Option<i64> {
    let (negative, digits) = signed(text);
    if digits.is_empty() || digits.len() > MAX_NUMBER_LENGTH {
        return None;
    }
    digits.iter().try_fold(0i64, |value, byte| {
        let digit = i64::from(digit(*byte)?);
        let value = value.checked_mul(10)?;
        if negative {
            value.checked_sub(digit)
        } else {
            value.checked_add(digit)
        }
    })
}

/// `[+-]digits[.digits]`, with a digit on one side at least.
pub(super) fn number(text: &[u8]) -> Option<Numeric> {
    if let Some(value) = integer(text) {
        return Some(Numeric::Integer(value));
    }
    let (negative, text) = signed(text);
    if text.len() > MAX_NUMBER_LENGTH {
        return None;
    }
    let point = text.iter().position(|byte| *byte == b'.').unwrap_or(text.len());
    let (whole, fraction) = (&text[..point], text.get(point + 1..).unwrap_or(&[]));
    let plain = |digits: &[u8]| digits.iter().all(u8::is_ascii_digit);
    if whole.len() + fraction.len() == 0 || !plain(whole) || !plain(fraction) {
        return None;
    }
    // Groups of four are counted from the decimal point in both directions.
    let padding = (4 - whole.len() % 4) % 4;
    let places: Vec<u8> = std::iter::repeat_n(b'0', padding)
        .chain(whole.iter().copied())
        .chain(fraction.iter().copied())
        .chain(std::iter::repeat_n(b'0', (4 - fraction.len() % 4) % 4))
        .collect();
    let digits: Vec<u16> = places
        .chunks(4)
        .map(|group| {
            group
                .iter()
                .fold(0, |value, byte| value * 10 + u16::from(byte - b'0'))
        })
        .collect();
    let weight = i32::try_from((padding + whole.len()) / 4).ok()? - 1;
    Some(Numeric::stripped(negative, &digits, weight))
}

/// The binary form (`numeric_recv`): count, weight, sign, display scale, digits; none for NaN and the infinities,
/// for what it would refuse, and for what it would cut to the display scale.
pub(super) fn binary_numeric(bytes: &[u8]) -> Option<Numeric> {
    let mut words = bytes
        .chunks(2)
        .map(|pair| pair.try_into().ok().map(u16::from_be_bytes));
    let mut next = || words.next().flatten();
    let (count, weight, sign, scale) = (next()?, next()?, next()?, next()?);
    let weight = i32::from(i16::from_be_bytes(weight.to_be_bytes()));
    let digits: Vec<u16> = words.collect::<Option<_>>()?;
    let negative = match sign {
        0x0000 => false,
        0x4000 => true,
        _ => return None,
    };
    if digits.len() != usize::from(count)
        || digits.len() > MAX_NUMBER_LENGTH
        || digits.iter().any(|digit| *digit > 9999)
    {
        return None;
    }
    let value = Numeric::stripped(negative, &digits, weight);
    (value.scale() <= i32::from(scale)).then_some(value)
}

/// 32 hexadecimal digits, with hyphens as in `a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11` or with none.
pub(super) fn uuid(text: &[u8]) -> Option<[u8; 16]> {
    let digits: Vec<u8> = match text.len() {
        32 => text.to_vec(),
        36 if [8, 13, 18, 23].iter().all(|at| text[*at] == b'-') => text
            .iter()
            .enumerate()
            .filter(|(at, _)| ![8, 13, 18, 23].contains(at))
            .map(|(_, b)| *b)
            .collect(),
        _ => return None,
    };
    hexadecimal(&digits)?.try_into().ok()
}

fn hexadecimal(digits: &[u8]) -> Option<Vec<u8>> {
    let value = |digit: u8| match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        b'A'..=b'F' => Some(digit - b'A' + 10),
        _ => None,
    };
    let pairs = digits.chunks(2);
    pairs
        .map(|pair| {
            <[u8; 2]>::try_from(pair)
                .ok()
                .and_then(|[h, l]| Some(value(h)? << 4 | value(l)?))
        })
        .collect()
}

/// `\x` and pairs of hexadecimal digits, or bytes without any backslash.
pub(super) fn bytea(text: &[u8]) -> Option<Vec<u8>> {
    match text {
        [b'\\', b'x', digits @ ..] => hexadecimal(digits),
        _ if text.contains(&b'\\') => None,
        _ => Some(text.to_vec()),
    }
}

/// `YYYY-MM-DD` as days since 2000-01-01.
pub(super) fn date(text: &[u8]) -> Option<i32> {
    let [y @ .., b'-', m1, m2, b'-', d1, d2] = text else {
        return None;
    };
    if y.len() != 4 {
        return None;
    }
    let year = i32::try_from(fixed(y)?).ok()?;
    let (month, day) = (fixed(&[*m1, *m2])?, fixed(&[*d1, *d2])?);
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let lengths = [
        31,
        if leap { 29 } else { 28 },
        31,
        30,
        31,
        30,
        31,
        31,
        30,
        31,
        30,
        31,
    ];
    let month = usize::try_from(month).ok()?.checked_sub(1)?;
    if year == 0 || day == 0 || day > *lengths.get(month)? {
        return None;
    }
    let before = year - 1;
    let days_before_year = before * 365 + before / 4 - before / 100 + before / 400;
    let days = days_before_year + i32::try_from(lengths[..month].iter().sum::<u32>() + day).ok()? - 1;
    // 0001-01-01 is day 0 here; 2000-01-01 is day 730119.
    Some(days - 730_119)
}

/// A few digits, as a number.
fn fixed(digits: &[u8]) -> Option<u32> {
    digits
        .iter()
        .try_fold(0, |value, byte| Some(value * 10 + u32::from(digit(*byte)?)))
}

fn digit(byte: u8) -> Option<u8> {
    byte.is_ascii_digit().then(|| byte - b'0')
}

/// `YYYY-MM-DD[ HH:MM:SS[.ffffff]]` (or `T` between) as microseconds since 2000-01-01.
pub(super) fn timestamp(text: &[u8]) -> Option<i64> {
    const DAY: i64 = 86_400_000_000;
    let day = i64::from(date(text.get(..10)?)?) * DAY;
    let time = match &text[10..] {
        [] => return Some(day),
        [b' ' | b'T', time @ ..] => time,
        _ => return None,
    };
    let [h1, h2, b':', m1, m2, b':', s1, s2, fraction @ ..] = time else {
        return None;
    };
    let (hour, minute, second) = (fixed(&[*h1, *h2])?, fixed(&[*m1, *m2])?, fixed(&[*s1, *s2])?);
    if hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    let micros = match fraction {
        [] => 0,
        [b'.', places @ ..] if (1..=6).contains(&places.len()) => {
            let missing = u32::try_from(6 - places.len()).ok()?;
            fixed(places)? * 10u32.pow(missing)
        }
        _ => return None,
    };
    Some(day + i64::from((hour * 60 + minute) * 60 + second) * 1_000_000 + i64::from(micros))
}

/// A [`timestamp`] with a time of day and `Z`, `+HH` or `+HH:MM` behind; without a zone it depends on the session.
pub(super) fn timestamptz(text: &[u8]) -> Option<i64> {
    if let [local @ .., b'Z'] = text {
        return timestamp(local).filter(|_| local.len() > 10);
    }
    let at = text
        .iter()
        .rposition(|byte| matches!(byte, b'+' | b'-'))
        .filter(|at| *at > 10)?;
    let (hours, minutes) = match &text[at + 1..] {
        [h1, h2] => (fixed(&[*h1, *h2])?, 0),
        [h1, h2, b':', m1, m2] => (fixed(&[*h1, *h2])?, fixed(&[*m1, *m2])?),
        _ => return None,
    };
    if hours > 15 || minutes > 59 {
        return None;
    }
    let east = i64::from(hours * 60 + minutes) * 60_000_000;
    let local = timestamp(&text[..at])?;
    Some(if text[at] == b'+' {
        local - east
    } else {
        local + east
    })
}

/// The text without blanks at its end (`bcTruelen` in `varchar.c`).
pub(super) fn without_trailing_blanks(text: &[u8]) -> &[u8] {
    let end = text
        .iter()
        .rposition(|byte| *byte != b' ')
        .map_or(0, |last| last + 1);
    &text[..end]
}

/// The first `length` characters if all behind them are blanks (`varchar_input`), else the whole text.
pub(super) fn at_most_characters(text: &[u8], length: usize) -> &[u8] {
    let Ok(characters) = std::str::from_utf8(text) else {
        return text;
    };
    let Some((end, _)) = characters.char_indices().nth(length) else {
        return text;
    };
    if text[end..].iter().all(|byte| *byte == b' ') {
        &text[..end]
    } else {
        text
    }
}
