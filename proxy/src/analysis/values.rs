//! INSERT of several rows, cut into INSERTs of some of its rows.
//!
//! Every row of VALUES is read by PostgreSQL as if it stood alone: its expressions are coerced to the types of the
//! target's columns one row at a time (`transformInsertStmt` in `analyze.c`), are evaluated once for the row, and
//! see no other row. So the statement with some of its rows does to these what the whole statement does to them.
//! Rows that meet in ON CONFLICT have the same key, stay in one group and keep their order.

use std::ops::Range;

use super::lexer::{Kind, Token};
use super::words::Words;

/// What follows `INSERT INTO name [AS alias]`.
pub(super) fn behind_target(tokens: &[Token]) -> Option<Words<'_>> {
    let mut words = Words::new(tokens);
    if !words.take(&["insert", "into"]) {
        return None;
    }
    words.dotted_name()?;
    if words.take(&["as"]) {
        words.name()?;
    }
    Some(words)
}

/// What follows VALUES in `INSERT INTO name [AS alias] [(columns)] [OVERRIDING SYSTEM VALUE] VALUES ...`, if the statement has this form.
pub(super) fn behind_values(tokens: &[Token]) -> Option<Words<'_>> {
    let mut words = behind_target(tokens)?;
    words.parenthesised();
    words.take(&["overriding", "system", "value"]);
    words.take(&["values"]).then_some(words)
}

/// Where in a statement's text the rows of its VALUES stand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ValuesRows(Vec<Range<usize>>);

impl ValuesRows {
    /// The rows of `INSERT INTO name [AS alias] [(columns)] [OVERRIDING SYSTEM VALUE] VALUES (...), (...)`, if the statement has this form.
    pub(super) fn find(tokens: &[Token]) -> Option<ValuesRows> {
        let mut words = behind_values(tokens)?;
        let mut rows = Vec::new();
        loop {
            let before = words.rest();
            words.parenthesised()?;
            let row = before.get(..before.len() - words.rest().len())?;
            rows.push(row.first()?.range.start..row.last()?.range.end);
            if !words.take_mark(',') {
                break;
            }
        }
        let ends = matches!(words.peek(), None | Some(Kind::Punctuation(';')))
            || words.sees(&["on", "conflict"])
            || words.sees(&["returning"]);
        ends.then_some(ValuesRows(rows))
    }

    /// How many rows there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The statement `text` with these of its rows only. Its parameters keep their numbers.
    #[must_use]
    pub fn only(&self, text: &str, rows: &[usize]) -> String {
        let (Some(first), Some(last)) = (self.0.first(), self.0.last()) else {
            return text.to_owned();
        };
        let chosen: Vec<&str> = rows
            .iter()
            .filter_map(|row| text.get(self.0.get(*row)?.clone()))
            .collect();
        let (before, after) = (text.get(..first.start), text.get(last.end..));
        [
            before.unwrap_or_default(),
            &chosen.join(", "),
            after.unwrap_or_default(),
        ]
        .concat()
    }
}

#[cfg(test)]
mod tests {
    use super::super::lexer;
    use super::*;

    fn find(text: &str) -> Option<ValuesRows> {
        ValuesRows::find(&lexer::tokens(text).expect("tokens"))
    }

    #[test]
    fn rows_are_cut_out_with_all_that_is_around_them() {
        let text = "INSERT INTO a.\"values\" AS v (id, x) /* ( */ VALUES (1, ')('), -- two\n (2, f((3), $1)),($2,$$),($$)\n\
                    ON CONFLICT (id) DO UPDATE SET x = $3 RETURNING (id)";
        let rows = find(text).expect("rows");
        assert_eq!(rows.len(), 3);
        assert_eq!(
            rows.only(text, &[0, 2]),
            "INSERT INTO a.\"values\" AS v (id, x) /* ( */ VALUES (1, ')('), ($2,$$),($$)\nON CONFLICT (id) DO UPDATE \
             SET x = $3 RETURNING (id)"
        );
        assert_eq!(
            rows.only(text, &[1]),
            "INSERT INTO a.\"values\" AS v (id, x) /* ( */ VALUES (2, f((3), $1))\nON CONFLICT (id) DO UPDATE SET x = \
             $3 RETURNING (id)"
        );
    }

    #[test]
    fn other_forms_have_no_rows() {
        for text in [
            "INSERT INTO t SELECT 1",
            "INSERT INTO t DEFAULT VALUES",
            "INSERT INTO t VALUES (1) UNION VALUES (2)",
            "INSERT INTO t VALUES (1), (2) ORDER BY 1",
            "INSERT INTO t OVERRIDING USER VALUE VALUES (1)",
            "WITH x AS (SELECT 1) INSERT INTO t VALUES (1)",
        ] {
            assert_eq!(find(text), None, "{text}");
        }
    }
}
