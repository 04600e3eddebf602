//! The list of differences that are known and explained: `sql-tests/differential/allowed.tsv`.

use regex::Regex;

use super::wire::Message;
use crate::Result;

const LIST: &str = include_str!("../../differential/allowed.tsv");

/// A difference that may be.
#[derive(Debug)]
struct Allowed {
    pattern: Regex,
    sqlstate: String,
    reason: String,
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
            let mut parts = line.split('\t');
            let (Some(pattern), Some(sqlstate), Some(reason), None) =
                (parts.next(), parts.next(), parts.next(), parts.next())
            else {
                return Err(format!("not a pattern, an SQLSTATE and a reason: {line}").into());
            };
            Ok(Allowed {
                pattern: Regex::new(pattern)?,
                sqlstate: sqlstate.to_owned(),
                reason: reason.to_owned(),
            })
        });
        Ok(AllowedList(parsed.collect::<Result<_>>()?))
    }

    /// Why Howdah may answer so to what is shown so; none where it may not.
    #[must_use]
    pub fn reason(&self, shown: &str, answered: &[Message]) -> Option<&str> {
        let sqlstate = answered.iter().find_map(Message::sqlstate);
        let sqlstate = sqlstate.as_deref().unwrap_or("00000");
        let found = self
            .0
            .iter()
            .find(|allowed| allowed.sqlstate == sqlstate && allowed.pattern.is_match(shown));
        found.map(|allowed| allowed.reason.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_is_one_and_a_line_is_for_its_sqlstate_alone() {
        AllowedList::read().unwrap();
        assert!(AllowedList::parse("only a pattern").is_err());
        let list = AllowedList::parse("# a comment\n^SELECT\t22012\tbecause\n").unwrap();
        let error = Message {
            tag: b'E',
            body: bytes::Bytes::from_static(b"C22012\0Mdivision by zero\0\0"),
        };
        assert_eq!(
            list.reason("SELECT 1 / 0", std::slice::from_ref(&error)),
            Some("because")
        );
        assert_eq!(list.reason("UPDATE", &[error]), None);
        assert_eq!(list.reason("SELECT 1", &[]), None);
    }
}
