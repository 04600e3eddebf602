//! Durations and sizes as an operator writes them: `700ms`, `2s`, `128MiB`.

use std::time::Duration;

use serde::{Deserialize, Deserializer, de::Error};

/// A duration of the configuration file: a whole number and one of `ms`, `s`, `min`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Span(pub(super) Duration);

/// A size of the configuration file: a whole number and one of `B`, `KiB`, `MiB`, `GiB`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Size(pub(super) u64);

/// Splits `12ms` into 12 and `ms`.
fn split(text: &str) -> Option<(u64, &str)> {
    let digits = text.find(|letter: char| !letter.is_ascii_digit())?;
    let number = text.get(..digits)?.parse().ok()?;
    Some((number, text.get(digits..)?.trim()))
}

fn duration(text: &str) -> Option<Duration> {
    let (number, unit) = split(text)?;
    match unit {
        "ms" => Some(Duration::from_millis(number)),
        "s" => Some(Duration::from_secs(number)),
        "min" => number.checked_mul(60).map(Duration::from_secs),
        _ => None,
    }
}

fn size(text: &str) -> Option<u64> {
    let (number, unit) = split(text)?;
    let factor = match unit {
        "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        _ => return None,
    };
    number.checked_mul(factor)
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Span, D::Error> {
        let text = String::deserialize(from)?;
        duration(&text)
            .map(Span)
            .ok_or_else(|| D::Error::custom(format!("`{text}` is not a duration such as 700ms, 2s or 5min")))
    }
}

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Size, D::Error> {
        let text = String::deserialize(from)?;
        size(&text)
            .map(Size)
            .ok_or_else(|| D::Error::custom(format!("`{text}` is not a size such as 64KiB, 128MiB or 1GiB")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_read() {
        assert_eq!(duration("700ms"), Some(Duration::from_millis(700)));
        assert_eq!(duration("5min"), Some(Duration::from_secs(300)));
        assert_eq!(size("128MiB"), Some(128 << 20));
        assert_eq!(size("1 GiB"), Some(1 << 30));
    }

    #[test]
    fn nonsense_is_not() {
        for text in ["", "5", "ms", "-5s", "5 parsecs", "99999999999999999999s"] {
            assert_eq!(duration(text), None, "{text}");
        }
        assert_eq!(size("18446744073709551615GiB"), None);
    }
}
