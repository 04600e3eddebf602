//! The settings that limit time. The session keeps them itself: PostgreSQL's own timers are cancels from within, which
//! can fall into a commit's wait (`shard::gate`), and see one backend instead of the session.

use std::time::Duration;

use super::Refusal;

/// One of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Timeout {
    /// `statement_timeout`.
    Statement,
    /// `lock_timeout`: of each wait for a lock.
    Lock,
    /// `idle_in_transaction_session_timeout`.
    IdleInTransaction,
    /// `idle_session_timeout`.
    IdleSession,
}

impl Timeout {
    /// All of them.
    pub const ALL: [Timeout; 4] = [
        Timeout::Statement,
        Timeout::Lock,
        Timeout::IdleInTransaction,
        Timeout::IdleSession,
    ];

    /// The setting's name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Timeout::Statement => "statement_timeout",
            Timeout::Lock => "lock_timeout",
            Timeout::IdleInTransaction => "idle_in_transaction_session_timeout",
            Timeout::IdleSession => "idle_session_timeout",
        }
    }

    /// The one of this name, in whatever case.
    #[must_use]
    pub fn named(name: &str) -> Option<Timeout> {
        Timeout::ALL
            .into_iter()
            .find(|timeout| timeout.name().eq_ignore_ascii_case(name))
    }

    /// Reads a value; `None` for DEFAULT. 0 is no limit.
    ///
    /// # Errors
    /// 22023 in PostgreSQL's words (`parse_and_validate_value` in guc.c).
    pub fn read(self, value: &[String]) -> Result<Option<Duration>, Refusal> {
        let name = self.name();
        let text = match value {
            [] => return Ok(None),
            [text] => text,
            _ => {
                return Err(Refusal::new(
                    "22023",
                    format!("SET {name} takes only one argument"),
                ));
            }
        };
        let invalid = |hint: Option<&str>| {
            let refusal = Refusal::new(
                "22023",
                format!("invalid value for parameter \"{name}\": \"{text}\""),
            );
            match hint {
                Some(hint) => refusal.hint(hint),
                None => refusal,
            }
        };
        let millis = milliseconds(text).map_err(|wrong| match wrong {
            Wrong::Number => invalid(None),
            Wrong::Unit => invalid(Some(
                "Valid units for this parameter are \"us\", \"ms\", \"s\", \"min\", \"h\", and \"d\".",
            )),
            Wrong::Range => invalid(Some("Value exceeds integer range.")),
        })?;
        match u64::try_from(millis) {
            Ok(millis) => Ok(Some(Duration::from_millis(millis))),
            Err(_) => Err(Refusal::new(
                "22023",
                format!(
                    "{millis} ms is outside the valid range for parameter \"{name}\" (0 .. {})",
                    i32::MAX
                ),
            )),
        }
    }
}

/// A value as SHOW gives it: in the largest unit that needs no fraction (`convert_int_from_base_unit`).
#[must_use]
pub fn shown(value: Duration) -> String {
    let millis = value.as_millis();
    if millis == 0 {
        return "0".to_owned();
    }
    let unit = UNITS.iter().find(|(_, unit)| millis.is_multiple_of(*unit));
    let (name, unit) = unit.copied().unwrap_or(("ms", 1));
    format!("{}{name}", millis / unit)
}

/// In milliseconds, the largest first.
const UNITS: [(&str, u128); 5] = [
    ("d", 86_400_000),
    ("h", 3_600_000),
    ("min", 60_000),
    ("s", 1000),
    ("ms", 1),
];

/// What is wrong with a value.
enum Wrong {
    Number,
    Unit,
    Range,
}

/// As `parse_int` in guc.c reads it.
fn milliseconds(text: &str) -> Result<i32, Wrong> {
    let text = text.trim_ascii();
    let (number, unit) = number(text)?;
    let unit = unit.trim_ascii();
    let value = match unit {
        "" | "ms" => number,
        "us" => number / 1000.0,
        unit => {
            let at = UNITS
                .iter()
                .position(|(name, _)| *name == unit)
                .ok_or(Wrong::Unit)?;
            // A fraction is rounded to whole numbers of the next smaller unit (`convert_to_base_unit`).
            let exact = number * as_float(UNITS[at].1);
            let smaller = as_float(UNITS.get(at + 1).map_or(1, |(_, unit)| *unit));
            if number.fract() == 0.0 {
                exact
            } else {
                (exact / smaller).round_ties_even() * smaller
            }
        }
    };
    let value = value.round_ties_even();
    if value.is_nan() || value > f64::from(i32::MAX) || value < f64::from(i32::MIN) {
        return Err(Wrong::Range);
    }
    // A whole number within these bounds is written without exponent or point.
    format!("{value:.0}").parse().map_err(|_| Wrong::Range)
}

fn as_float(unit: u128) -> f64 {
    u32::try_from(unit).map_or(f64::INFINITY, f64::from)
}

/// The number that a text begins with, as C's `strtol` with base 0 or else `strtod` take it, and the rest.
fn number(text: &str) -> Result<(f64, &str), Wrong> {
    let (sign, digits) = match text.as_bytes() {
        [b'-', ..] => (-1.0, &text[1..]),
        [b'+', ..] => (1.0, &text[1..]),
        _ => (1.0, text),
    };
    let until = |digits: &str, is_digit: fn(&u8) -> bool| digits.bytes().take_while(is_digit).count();
    if let Some(hex) = digits.strip_prefix("0x").or(digits.strip_prefix("0X")) {
        let len = until(hex, u8::is_ascii_hexdigit);
        let value = u32::from_str_radix(&hex[..len], 16);
        return value
            .map(|value| (sign * f64::from(value), &hex[len..]))
            .map_err(|_| Wrong::Number);
    }
    let whole = until(digits, u8::is_ascii_digit);
    let mut len = whole;
    if digits[len..].starts_with('.') {
        len += 1 + until(&digits[len + 1..], u8::is_ascii_digit);
    }
    let exponent = &digits[len..];
    if exponent.starts_with(['e', 'E']) {
        let signed = usize::from(exponent[1..].starts_with(['+', '-']));
        let count = until(&exponent[1 + signed..], u8::is_ascii_digit);
        if count > 0 {
            len += 1 + signed + count;
        }
    }
    if len == 0 {
        return Err(Wrong::Number);
    }
    let rest = &digits[len..];
    if len == whole && len > 1 && digits.starts_with('0') {
        let value = u32::from_str_radix(&digits[..len], 8);
        return value
            .map(|value| (sign * f64::from(value), rest))
            .map_err(|_| Wrong::Number);
    }
    let value: f64 = digits[..len].parse().map_err(|_| Wrong::Number)?;
    Ok((sign * value, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<u128, String> {
        let read = Timeout::Statement.read(&[text.to_owned()]);
        read.map(|value| value.unwrap_or_default().as_millis())
            .map_err(|refusal| refusal.message)
    }

    #[test]
    fn values_are_read_as_postgresql_reads_them() {
        let cases = [
            ("0", 0),
            ("250", 250),
            (" 2 s ", 2000),
            ("1.5s", 1500),
            ("1.5min", 90_000),
            ("1.0001min", 60_000),
            ("1h", 3_600_000),
            ("0.5d", 43_200_000),
            ("1500us", 2),
            ("500us", 0),
            ("1e3", 1000),
            ("0x10", 16),
            ("010", 8),
            ("2147483647", 2_147_483_647),
        ];
        for (text, expected) in cases {
            assert_eq!(read(text), Ok(expected), "{text}");
        }
    }

    #[test]
    fn what_is_no_value_is_refused_in_postgresqls_words() {
        let invalid = |text: &str| format!("invalid value for parameter \"statement_timeout\": \"{text}\"");
        for text in ["", "abc", "5 S", "5 minutes", "2147483648", "25d", ".", "1,5"] {
            assert_eq!(read(text), Err(invalid(text)));
        }
        let words = "-1 ms is outside the valid range for parameter \"statement_timeout\" (0 .. 2147483647)";
        assert_eq!(read("-1"), Err(words.to_owned()));
    }

    #[test]
    fn values_are_shown_in_the_largest_unit_that_fits() {
        let shows = |millis| shown(Duration::from_millis(millis));
        assert_eq!(
            [0, 1500, 2000, 90_000, 120_000, 86_400_000].map(shows),
            ["0", "1500ms", "2s", "90s", "2min", "1d"]
        );
    }
}
