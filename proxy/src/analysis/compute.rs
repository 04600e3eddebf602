//! INSERT of VALUES whose shard keys are expressions: PostgreSQL computes them, once, and what they come to is put in their places, so that
//! the statement can be routed as one of constants. What is volatile so has one value, as on one server.
//!
//! A row of VALUES is read by itself, and its expressions are brought to the types of the columns after that (`transformInsertRow` in
//! analyze.c): so an expression alone is what it is in its row, if its parameters have the types that PostgreSQL gives them in the whole
//! statement. It is cast to the column's type without a length, by the function that an assignment calls; that the assignment may be
//! PostgreSQL says of the client's own text. Lengths are looked at when the value is stored.

use std::ops::Range;

use coordinator::hash::{KeyColumn, KeyType};
use postgres_protocol::escape::escape_literal;

use super::lexer::{Kind, Token};
use super::values::behind_values;
use super::words::split_commas;

/// What must be computed before a statement can run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Computed {
    /// Where the expressions stand in the statement's text, in their order.
    places: Vec<Range<usize>>,
    key_type: KeyType,
    /// The highest number of its parameters.
    pub given: usize,
}

impl Computed {
    /// The keys of these rows of an INSERT of VALUES, which stand at `key_at` in each.
    pub(super) fn find(
        tokens: &[Token],
        rows: &[usize],
        key_at: usize,
        column: KeyColumn,
    ) -> Option<Computed> {
        let mut words = behind_values(tokens)?;
        let (mut places, mut row) = (Vec::with_capacity(rows.len()), 0);
        loop {
            let elements = split_commas(words.parenthesised()?);
            if rows.contains(&row) {
                let element = elements.get(key_at)?;
                places.push(element.first()?.range.start..element.last()?.range.end);
            }
            row += 1;
            if !words.take_mark(',') {
                break;
            }
        }
        let given = tokens.iter().map(|token| match token.kind {
            Kind::Parameter(number) => number,
            _ => 0,
        });
        (places.len() == rows.len()).then_some(Computed {
            places,
            key_type: column.key_type,
            given: given.max().unwrap_or(0),
        })
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.places.len()
    }

    /// The type that they have in the end.
    #[must_use]
    pub fn type_oid(&self) -> u32 {
        self.key_type.oid()
    }

    /// The question for them, by the statement's text: one value, the hexadecimal form of an array in JSON, which is ASCII in every encoding
    /// of a client. In JSON times do not depend on settings; numbers are texts, for all their digits.
    #[must_use]
    pub fn question(&self, text: &str) -> String {
        let of = self.key_type.sql_name();
        let exact = match self.key_type {
            KeyType::Int2 | KeyType::Int4 | KeyType::Int8 | KeyType::Numeric | KeyType::Bool => {
                "::pg_catalog.text"
            }
            _ => "",
        };
        let value = |(number, place): (usize, &Range<usize>)| {
            let expression = text.get(place.clone()).unwrap_or_default();
            format!("({number}, pg_catalog.to_json(CAST(({expression}\n) AS {of}){exact}))")
        };
        let values: Vec<String> = self.places.iter().enumerate().map(value).collect();
        format!(
            "SELECT pg_catalog.encode(pg_catalog.convert_to( \
             pg_catalog.json_agg(howdah_keys.value ORDER BY howdah_keys.number)::pg_catalog.text, 'UTF8'), 'hex') \
             FROM (VALUES {}) AS howdah_keys (number, value)",
            values.join(", ")
        )
    }

    /// What PostgreSQL has answered; none where it is no such answer.
    #[must_use]
    pub fn read(&self, answer: &[u8]) -> Option<Vec<Option<String>>> {
        let digits = answer.chunks_exact(2);
        let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
        let bytes = digits.map(byte).collect::<Option<Vec<u8>>>()?;
        let values: Vec<Option<String>> = serde_json::from_slice(&bytes).ok()?;
        (values.len() == self.places.len()).then_some(values)
    }

    /// The statement's text with these values in it, as constants without a type.
    #[must_use]
    pub fn with_constants(&self, text: &str, values: &[Option<String>]) -> String {
        self.with(text, |number| match values.get(number) {
            Some(Some(value)) => format!(" {}", escape_literal(value)),
            _ => "NULL".to_owned(),
        })
    }

    /// The same with further parameters behind the client's, the first of which has the number `first`.
    #[must_use]
    pub fn with_parameters(&self, text: &str, first: usize) -> String {
        self.with(text, |number| format!("${}", first + number))
    }

    fn with(&self, text: &str, value: impl Fn(usize) -> String) -> String {
        let (mut made, mut at) = (String::with_capacity(text.len()), 0);
        for (number, place) in self.places.iter().enumerate() {
            made.push_str(text.get(at..place.start).unwrap_or_default());
            made.push_str(&value(number));
            at = place.end;
        }
        made.push_str(text.get(at..).unwrap_or_default());
        made
    }
}

#[cfg(test)]
mod tests {
    use super::super::lexer;
    use super::*;

    #[test]
    fn keys_are_found_in_their_rows_and_replaced_there() {
        let text = "INSERT INTO s.t AS x (v, id) VALUES ((1, 2), lower($2 || ')')), ('a', 'b'), (f(3, 4), $1 + -- one\n 1) RETURNING id";
        let tokens = lexer::tokens(text).expect("tokens");
        let column = KeyColumn {
            key_type: KeyType::Text,
            type_modifier: -1,
        };
        let computed = Computed::find(&tokens, &[0, 2], 1, column).expect("two keys");
        assert_eq!((computed.count(), computed.given), (2, 2));
        assert_eq!(
            computed.with_parameters(text, 3),
            "INSERT INTO s.t AS x (v, id) VALUES ((1, 2), $3), ('a', 'b'), (f(3, 4), $4) RETURNING id"
        );
        assert_eq!(
            computed.with_constants(text, &[Some("it's\\".to_owned()), None]),
            "INSERT INTO s.t AS x (v, id) VALUES ((1, 2),   E'it''s\\\\'), ('a', 'b'), (f(3, 4), NULL) RETURNING id"
        );
        assert_eq!(
            computed.read(b"5b2261222c6e756c6c5d"),
            Some(vec![Some("a".to_owned()), None])
        );
        assert_eq!(computed.read(b"5b5d"), None);
    }
}
