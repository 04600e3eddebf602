//! As much of EDN (<https://github.com/edn-format/edn>) as Jepsen's histories need.

use std::collections::BTreeMap;
use std::fmt;
use std::iter::Peekable;
use std::str::Chars;

/// A value.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Edn {
    /// `nil`
    Nil,
    /// `true`, `false`
    Bool(bool),
    /// `-7`
    Int(i64),
    /// `:word`
    Keyword(String),
    /// `"text"`
    Text(String),
    /// `[a b]`; a list `(a b)` is read as one too.
    Vector(Vec<Edn>),
    /// `{:a 1}`
    Map(BTreeMap<Edn, Edn>),
}

/// Why a text is not EDN, or not the part of it that is read here.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not EDN: {0}")]
pub struct NotEdn(String);

impl Edn {
    /// A keyword.
    #[must_use]
    pub fn keyword(word: &str) -> Edn {
        Edn::Keyword(word.to_owned())
    }

    /// A map with keywords as keys.
    #[must_use]
    pub fn map<const N: usize>(entries: [(&str, Edn); N]) -> Edn {
        let entries = entries.into_iter().map(|(key, value)| (Edn::keyword(key), value));
        Edn::Map(entries.collect())
    }

    /// The entry of a map under a keyword.
    #[must_use]
    pub fn get(&self, keyword: &str) -> Option<&Edn> {
        match self {
            Edn::Map(entries) => entries.get(&Edn::keyword(keyword)),
            _ => None,
        }
    }

    /// The number, where it is one.
    #[must_use]
    pub fn int(&self) -> Option<i64> {
        match self {
            Edn::Int(number) => Some(*number),
            _ => None,
        }
    }

    /// The elements, where it is a vector.
    #[must_use]
    pub fn vector(&self) -> Option<&[Edn]> {
        match self {
            Edn::Vector(elements) => Some(elements),
            _ => None,
        }
    }

    /// The word without its colon, where it is a keyword.
    #[must_use]
    pub fn word(&self) -> Option<&str> {
        match self {
            Edn::Keyword(word) => Some(word),
            _ => None,
        }
    }

    /// Reads one value, which must be all of `text`.
    ///
    /// # Errors
    /// What is wrong with the text.
    pub fn read(text: &str) -> Result<Edn, NotEdn> {
        let mut reader = Reader {
            rest: text.chars().peekable(),
        };
        let value = reader.value(0)?;
        match reader.significant() {
            None => Ok(value),
            Some(more) => Err(NotEdn(format!("{more:?} after the value"))),
        }
    }
}

impl fmt::Display for Edn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Edn::Nil => write!(f, "nil"),
            Edn::Bool(value) => write!(f, "{value}"),
            Edn::Int(value) => write!(f, "{value}"),
            Edn::Keyword(word) => write!(f, ":{word}"),
            Edn::Text(text) => write!(f, "{text:?}"),
            Edn::Vector(elements) => {
                write!(f, "[")?;
                for (place, element) in elements.iter().enumerate() {
                    let gap = if place == 0 { "" } else { " " };
                    write!(f, "{gap}{element}")?;
                }
                write!(f, "]")
            }
            Edn::Map(entries) => {
                write!(f, "{{")?;
                for (place, (key, value)) in entries.iter().enumerate() {
                    let gap = if place == 0 { "" } else { ", " };
                    write!(f, "{gap}{key} {value}")?;
                }
                write!(f, "}}")
            }
        }
    }
}

/// Deeper nesting is refused.
const DEEPEST: usize = 64;

struct Reader<'a> {
    rest: Peekable<Chars<'a>>,
}

impl Reader<'_> {
    /// The next character that is not white space or a comment.
    fn significant(&mut self) -> Option<char> {
        loop {
            match self.rest.peek()? {
                c if c.is_whitespace() || *c == ',' => drop(self.rest.next()),
                ';' => while self.rest.next().is_some_and(|c| c != '\n') {},
                c => return Some(*c),
            }
        }
    }

    fn value(&mut self, depth: usize) -> Result<Edn, NotEdn> {
        if depth > DEEPEST {
            return Err(NotEdn("nested too deeply".to_owned()));
        }
        match self.significant() {
            None => Err(NotEdn("the text ends early".to_owned())),
            Some('[') => self.elements(']', depth).map(Edn::Vector),
            Some('(') => self.elements(')', depth).map(Edn::Vector),
            Some('{') => self.map(depth),
            Some('"') => self.text(),
            Some(':') => {
                self.rest.next();
                Ok(Edn::Keyword(self.word()))
            }
            Some(_) => self.atom(),
        }
    }

    fn elements(&mut self, end: char, depth: usize) -> Result<Vec<Edn>, NotEdn> {
        self.rest.next();
        let mut elements = Vec::new();
        while self.significant() != Some(end) {
            elements.push(self.value(depth + 1)?);
        }
        self.rest.next();
        Ok(elements)
    }

    fn map(&mut self, depth: usize) -> Result<Edn, NotEdn> {
        let mut elements = self.elements('}', depth)?.into_iter();
        let mut entries = BTreeMap::new();
        while let Some(key) = elements.next() {
            let value = elements
                .next()
                .ok_or_else(|| NotEdn(format!("{key} has no value")))?;
            entries.insert(key, value);
        }
        Ok(Edn::Map(entries))
    }

    fn text(&mut self) -> Result<Edn, NotEdn> {
        self.rest.next();
        let mut text = String::new();
        loop {
            let early = || NotEdn("a string without its end".to_owned());
            match self.rest.next().ok_or_else(early)? {
                '"' => return Ok(Edn::Text(text)),
                '\\' => text.push(match self.rest.next().ok_or_else(early)? {
                    'n' => '\n',
                    't' => '\t',
                    'r' => '\r',
                    other => other,
                }),
                other => text.push(other),
            }
        }
    }

    fn word(&mut self) -> String {
        let mut word = String::new();
        while let Some(c) = self
            .rest
            .next_if(|c| !c.is_whitespace() && !",[](){}\";".contains(*c))
        {
            word.push(c);
        }
        word
    }

    fn atom(&mut self) -> Result<Edn, NotEdn> {
        let word = self.word();
        match word.as_str() {
            "nil" => Ok(Edn::Nil),
            "true" => Ok(Edn::Bool(true)),
            "false" => Ok(Edn::Bool(false)),
            // Jepsen writes the end of a closed collection that was not opened only by mistake.
            "" => Err(NotEdn(format!("{:?} where a value should be", self.rest.peek()))),
            number => number
                .parse()
                .map(Edn::Int)
                .map_err(|_| NotEdn(format!("{number} is not a value"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_read_as_they_were_written() {
        let text =
            "{:f :txn, :process 3, :value [[:append 1 2] [:r 3 [4 -5]] [:r 6 nil]], :error \"a \\\"b\\\"\"}";
        let value = Edn::read(text).expect("it is EDN");
        assert_eq!(Edn::read(&value.to_string()), Ok(value.clone()));
        assert_eq!(value.get("process").and_then(Edn::int), Some(3));
        assert_eq!(value.get("f").and_then(Edn::word), Some("txn"));
    }

    #[test]
    fn what_is_not_edn_is_refused() {
        for text in ["", "[", "{:a}", "[1 2", "x", "1 2", "]", "\"a", &"[".repeat(1000)] {
            assert!(Edn::read(text).is_err(), "{text}");
        }
    }
}
