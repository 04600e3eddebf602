//! The names of a session's temporary relations.

use std::collections::HashSet;

use super::lexer::{Kind, Token};

/// A session's temporary relations: tables, and their indexes, sequences and views.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Temporaries {
    /// As `pg_temp_3`, which means the same to its own session as `pg_temp`.
    schema: String,
    names: HashSet<String>,
}

impl Temporaries {
    /// Asks the backend that has them: one value, for [`Temporaries::read`]. Names are in hexadecimal, so that no name and no
    /// client encoding can spoil it.
    pub const QUERY: &str = "SELECT pg_catalog.concat_ws(' ', pg_catalog.encode(pg_catalog.convert_to(n.nspname::text, 'UTF8'), 'hex'), \
        (SELECT pg_catalog.string_agg(pg_catalog.encode(pg_catalog.convert_to(c.relname::text, 'UTF8'), 'hex'), ' ') \
         FROM pg_catalog.pg_class c WHERE c.relnamespace = n.oid)) \
        FROM pg_catalog.pg_namespace n WHERE n.oid = pg_catalog.pg_my_temp_schema()";

    /// Those of these names, in this schema.
    #[must_use]
    pub fn new(schema: &str, names: impl IntoIterator<Item = String>) -> Temporaries {
        Temporaries {
            schema: schema.to_owned(),
            names: names.into_iter().collect(),
        }
    }

    /// Reads the answer to [`Temporaries::QUERY`]; an empty one stands for no row. None where it cannot be one.
    #[must_use]
    pub fn read(answer: &[u8]) -> Option<Temporaries> {
        let mut names = std::str::from_utf8(answer)
            .ok()?
            .split(' ')
            .filter(|name| !name.is_empty())
            .map(from_hex);
        let schema = names.next().unwrap_or_else(|| Some(String::new()))?;
        let names = names.collect::<Option<HashSet<_>>>()?;
        Some(Temporaries { schema, names })
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    /// Whether this name stands for one of them. They are found before all other relations (`RelnameGetRelid` in namespace.c);
    /// `search_path` never names their schema.
    pub(super) fn has(&self, parts: &[String]) -> bool {
        match parts {
            [name] => self.names.contains(name),
            [schema, name] => self.is_schema(schema) && self.names.contains(name),
            _ => false,
        }
    }

    pub(super) fn is_schema(&self, schema: &str) -> bool {
        schema == "pg_temp" || (!self.schema.is_empty() && schema == self.schema)
    }

    /// Whether a definition with this name is about one of them, or would be if it were there.
    pub(super) fn concerns(&self, parts: &[String]) -> bool {
        matches!(parts, [schema, _] if self.is_schema(schema)) || self.has(parts)
    }

    /// Whether any of these tokens could be such a name.
    pub(super) fn may_be_in(&self, tokens: &[Token]) -> bool {
        let named = |token: &Token| match &token.kind {
            Kind::Word(name) | Kind::Quoted(name) => self.names.contains(name),
            _ => false,
        };
        tokens.iter().any(named)
    }
}

fn from_hex(text: &str) -> Option<String> {
    if !text.len().is_multiple_of(2) {
        return None;
    }
    let digits = text.as_bytes().chunks(2);
    let bytes = digits.map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok());
    String::from_utf8(bytes.collect::<Option<_>>()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(parts: &[&str]) -> Vec<String> {
        parts.iter().map(|part| (*part).to_owned()).collect()
    }

    #[test]
    fn the_answer_is_read_whatever_the_names_are() {
        let hex = |text: &str| text.bytes().map(|byte| format!("{byte:02x}")).collect::<String>();
        let answer = ["pg_temp_3", "t", "With Space", "\u{e4}"].map(hex).join(" ");
        let read = Temporaries::read(answer.as_bytes()).expect("it can be read");
        for parts in [&["t"][..], &["pg_temp", "With Space"], &["pg_temp_3", "\u{e4}"]] {
            assert!(read.has(&name(parts)), "{parts:?}");
        }
        for parts in [
            &["pg_temp_4", "t"][..],
            &["public", "t"],
            &["T"],
            &["pg_temp_3", "u"],
        ] {
            assert!(!read.has(&name(parts)), "{parts:?}");
        }
        assert!(Temporaries::read(b"").expect("no row").is_empty());
        assert!(
            Temporaries::read(hex("pg_temp_3").as_bytes())
                .expect("an empty schema")
                .is_empty()
        );
        for damaged in [&b"7"[..], b"zz", b"ff", b"70 \xff"] {
            assert_eq!(Temporaries::read(damaged), None);
        }
    }
}
