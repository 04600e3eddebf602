//! The list of differences that are known and explained: `sql-tests/differential/allowed.tsv`.

use regex::Regex;

use super::wire::Message;
use crate::Result;

const LIST: &str = include_str!("../../differential/allowed.tsv");

/// A difference that may be.
#[derive(Debug)]
pub struct Allowed {
    pattern: Regex,
    sqlstate: Regex,
    /// What may differ.
    pub differs: Differs,
    /// Why.
    pub reason: String,
}

/// What may differ of an answer.
#[derive(Debug, PartialEq, Eq)]
pub enum Differs {
    /// These fields of errors and notices.
    Fields(Vec<u8>),
    /// All of it, where both answer with an error.
    Failure,
    /// All of it.
    Whole,
}

/// All of them.
#[derive(Debug)]
pub struct AllowedList(Vec<Allowed>);

impl AllowedList {
    /// Reads the list.
    ///
    /// # Errors
    /// Where a line is none.
    pub fn read() -> Result<AllowedList> {
        Self::parse(LIST)
    }

    fn parse(text: &str) -> Result<AllowedList> {
        let lines = text
            .lines()
            .filter(|line| !line.starts_with('#') && !line.is_empty());
        let parsed = lines.map(|line| -> Result<Allowed> {
            let fields: Vec<&str> = line.split('\t').collect();
            let [pattern, sqlstate, fields, reason] = fields[..] else {
                return Err(format!("not a pattern, an SQLSTATE, fields and a reason: {line}").into());
            };
            Ok(Allowed {
                pattern: Regex::new(pattern)?,
                sqlstate: Regex::new(&format!("^(?:{sqlstate})$"))?,
                differs: match fields {
                    "*" => Differs::Whole,
                    "!" => Differs::Failure,
                    fields => Differs::Fields(fields.bytes().collect()),
                },
                reason: reason.to_owned(),
            })
        });
        Ok(AllowedList(parsed.collect::<Result<_>>()?))
    }

    /// What may differ, and why, where Howdah answers so to what is shown so.
    pub fn of<'a>(&'a self, shown: &'a str, answered: &[Message]) -> impl Iterator<Item = &'a Allowed> {
        let sqlstate = answered.iter().find_map(Message::sqlstate);
        let sqlstate = sqlstate.unwrap_or_else(|| "00000".to_owned());
        let lines = self.0.iter();
        lines.filter(move |line| line.sqlstate.is_match(&sqlstate) && line.pattern.is_match(shown))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_is_one_and_a_line_is_for_its_sqlstate_alone() {
        AllowedList::read().unwrap();
        assert!(AllowedList::parse("only a pattern").is_err());
        let list = AllowedList::parse("# a comment\n^SELECT\t22012\t*\tbecause\n").unwrap();
        let count = |shown: &str, answered: &[Message]| list.of(shown, answered).count();
        let error = Message {
            tag: b'E',
            body: bytes::Bytes::from_static(b"C22012\0Mdivision by zero\0\0"),
        };
        assert_eq!(count("SELECT 1 / 0", std::slice::from_ref(&error)), 1);
        assert_eq!(count("UPDATE", &[error]), 0);
        assert_eq!(count("SELECT 1", &[]), 0);
    }
}
