//! PostgreSQL's lexical rules (`src/backend/parser/scan.l`), so that a statement is cut and read here
//! as the server will read it.
//!
//! It assumes `standard_conforming_strings = on` and UTF-8; the analysis refuses to change them.

use std::ops::Range;

use super::Refusal;

/// One token, with its place in the text.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Token {
    /// What it is.
    pub(crate) kind: Kind,
    /// Its bytes in the text.
    pub(crate) range: Range<usize>,
}

/// What a token is. Values are decoded: folded, unquoted, unescaped.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Kind {
    /// A keyword or an identifier without quotes, in lower case.
    Word(String),
    /// A quoted identifier.
    Quoted(String),
    /// A string constant of any form.
    Text(String),
    /// A bit string, `B'...'` or `X'...'`, whole.
    Bits(String),
    /// A number, with whatever is glued to it.
    Number(String),
    /// `$n`.
    Parameter(usize),
    /// One of `( ) [ ] , ; .` or `:`.
    Punctuation(char),
    /// An operator, `::`, `:=` and `=>` too.
    Operator(String),
}

/// The most tokens of one query string. A statement of pipelined VALUES rows stays far below; what is
/// larger belongs into COPY, and the tree built from it would not be bounded otherwise.
const MAX_TOKENS: usize = 2_000_000;

/// The longest name that PostgreSQL keeps, in bytes (NAMEDATALEN - 1); it cuts longer ones.
const MAX_NAME: usize = 63;

/// Cuts a query string into tokens, without white space and comments.
pub(crate) fn tokens(text: &str) -> Result<Vec<Token>, Refusal> {
    let mut lexer = Lexer {
        text,
        bytes: text.as_bytes(),
        at: 0,
    };
    let mut all = Vec::new();
    while let Some(token) = lexer.next_token()? {
        if all.len() == MAX_TOKENS {
            return Err(
                Refusal::new("54001", format!("the statement has more than {MAX_TOKENS} words"))
                    .hint("Load many rows with COPY."),
            );
        }
        all.push(token);
    }
    Ok(all)
}

struct Lexer<'a> {
    text: &'a str,
    bytes: &'a [u8],
    at: usize,
}

/// An identifier as PostgreSQL reads it back unchanged.
pub(crate) fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

fn starts_word(byte: u8) -> bool {
    byte.is_ascii_alphabetic() || byte == b'_' || byte >= 0x80
}

fn goes_on_word(byte: u8) -> bool {
    starts_word(byte) || byte.is_ascii_digit() || byte == b'$'
}

fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n' | b'\r' | 0x0b | 0x0c)
}

fn is_operator(byte: u8) -> bool {
    b"~!@#^&|`?+-*/%<>=".contains(&byte)
}

fn cut_name(mut name: String) -> String {
    let mut end = MAX_NAME.min(name.len());
    while !name.is_char_boundary(end) {
        end -= 1;
    }
    name.truncate(end);
    name
}

impl Lexer<'_> {
    fn peek(&self, ahead: usize) -> u8 {
        self.bytes.get(self.at + ahead).copied().unwrap_or(0)
    }

    fn fail(&self, start: usize, what: &str) -> Refusal {
        let position = self
            .text
            .get(..start)
            .map_or(1, |before| before.chars().count() + 1);
        Refusal::new("42601", what).at(position)
    }

    /// Skips white space and comments; comments nest, as in PostgreSQL.
    fn skip_blank(&mut self) -> Result<(), Refusal> {
        loop {
            if self.at >= self.bytes.len() {
                return Ok(());
            }
            if is_space(self.peek(0)) {
                self.at += 1;
            } else if self.peek(0) == b'-' && self.peek(1) == b'-' {
                while self.at < self.bytes.len() && !matches!(self.peek(0), b'\n' | b'\r') {
                    self.at += 1;
                }
            } else if self.peek(0) == b'/' && self.peek(1) == b'*' {
                self.skip_comment()?;
            } else {
                return Ok(());
            }
        }
    }

    fn skip_comment(&mut self) -> Result<(), Refusal> {
        let start = self.at;
        let mut depth = 0usize;
        loop {
            if self.at >= self.bytes.len() {
                return Err(self.fail(start, "unterminated /* comment"));
            }
            match (self.peek(0), self.peek(1)) {
                (b'/', b'*') => {
                    depth += 1;
                    self.at += 2;
                }
                (b'*', b'/') => {
                    depth -= 1;
                    self.at += 2;
                    if depth == 0 {
                        return Ok(());
                    }
                }
                _ => self.at += 1,
            }
        }
    }

    fn next_token(&mut self) -> Result<Option<Token>, Refusal> {
        self.skip_blank()?;
        let start = self.at;
        if start >= self.bytes.len() {
            return Ok(None);
        }
        let first = self.peek(0);
        let kind = match (first, self.peek(1)) {
            (b'\'', _) => Kind::Text(self.plain_text()?),
            (b'"', _) => Kind::Quoted(self.quoted_name()?),
            (b'e' | b'E', b'\'') => {
                self.at += 1;
                Kind::Text(self.escaped_text()?)
            }
            (b'n' | b'N', b'\'') => {
                self.at += 1;
                Kind::Text(self.plain_text()?)
            }
            (b'b' | b'B' | b'x' | b'X', b'\'') => {
                self.at += 1;
                self.plain_text()?;
                Kind::Bits(self.text.get(start..self.at).unwrap_or_default().to_owned())
            }
            (b'u' | b'U', b'&') if matches!(self.peek(2), b'\'' | b'"') => {
                return Err(Refusal::unsupported("Unicode escapes U&'...' are not supported")
                    .hint("Write the characters themselves, or E'\\u....'."));
            }
            (b'$', next) if next.is_ascii_digit() => self.parameter()?,
            (b'$', _) => Kind::Text(self.dollar_text()?),
            (b'.', next) if next.is_ascii_digit() => self.number(),
            (b':', b':' | b'=') => {
                self.at += 2;
                Kind::Operator(self.text.get(start..self.at).unwrap_or_default().to_owned())
            }
            (b'(' | b')' | b'[' | b']' | b',' | b';' | b'.' | b':', _) => {
                self.at += 1;
                Kind::Punctuation(char::from(first))
            }
            _ if first.is_ascii_digit() => self.number(),
            _ if starts_word(first) => self.word(),
            _ if is_operator(first) => self.operator(),
            _ => return Err(self.fail(start, "syntax error: an unexpected character")),
        };
        Ok(Some(Token {
            kind,
            range: start..self.at,
        }))
    }

    fn word(&mut self) -> Kind {
        let start = self.at;
        while self.at < self.bytes.len() && goes_on_word(self.peek(0)) {
            self.at += 1;
        }
        let raw = self.text.get(start..self.at).unwrap_or_default();
        Kind::Word(cut_name(raw.to_ascii_lowercase()))
    }

    /// A number and any letters or digits glued to it: they make it no key (`0x1F`, `1_000` are of
    /// PostgreSQL 16, an error before).
    fn number(&mut self) -> Kind {
        let start = self.at;
        loop {
            let byte = self.peek(0);
            let signed = matches!(byte, b'+' | b'-')
                && matches!(self.bytes.get(self.at.wrapping_sub(1)), Some(b'e' | b'E'))
                && self.peek(1).is_ascii_digit();
            let range = byte == b'.' && self.peek(1) == b'.';
            if self.at < self.bytes.len() && !range && (byte == b'.' || goes_on_word(byte) || signed) {
                self.at += 1;
            } else {
                break;
            }
        }
        Kind::Number(self.text.get(start..self.at).unwrap_or_default().to_owned())
    }

    fn parameter(&mut self) -> Result<Kind, Refusal> {
        let start = self.at;
        self.at += 1;
        let digits = self.at;
        while self.peek(0).is_ascii_digit() {
            self.at += 1;
        }
        let number = self
            .text
            .get(digits..self.at)
            .and_then(|text| text.parse::<u16>().ok());
        match number {
            Some(number) if number > 0 => Ok(Kind::Parameter(usize::from(number))),
            _ => Err(Refusal::new("42P02", "there is no such parameter").at(start + 1)),
        }
    }

    /// The longest operator by PostgreSQL's rules: ends before a comment, and with `+` or `-` only if
    /// one of ``~!@#%^&|`?`` is in it.
    fn operator(&mut self) -> Kind {
        let start = self.at;
        let mut end = start;
        while end < self.bytes.len() && is_operator(self.bytes[end]) {
            let pair = (self.bytes[end], self.bytes.get(end + 1).copied().unwrap_or(0));
            if pair == (b'-', b'-') || pair == (b'/', b'*') {
                break;
            }
            end += 1;
        }
        let special = self.bytes[start..end]
            .iter()
            .any(|byte| b"~!@#%^&|`?".contains(byte));
        while !special && end - start > 1 && matches!(self.bytes[end - 1], b'+' | b'-') {
            end -= 1;
        }
        self.at = end;
        Kind::Operator(self.text.get(start..end).unwrap_or_default().to_owned())
    }

    fn quoted_name(&mut self) -> Result<String, Refusal> {
        let start = self.at;
        let name = self.until_quote(b'"', "unterminated quoted identifier")?;
        if name.is_empty() {
            return Err(self.fail(start, "zero-length delimited identifier"));
        }
        Ok(cut_name(name))
    }

    /// From a quote to its end, doubled quotes made single.
    fn until_quote(&mut self, quote: u8, unterminated: &str) -> Result<String, Refusal> {
        let start = self.at;
        self.at += 1;
        let mut value = String::new();
        let mut from = self.at;
        loop {
            if self.at >= self.bytes.len() {
                return Err(self.fail(start, unterminated));
            }
            if self.peek(0) == quote {
                value.push_str(self.text.get(from..self.at).unwrap_or_default());
                self.at += 1;
                if self.peek(0) != quote || self.at >= self.bytes.len() {
                    return Ok(value);
                }
                value.push(char::from(quote));
                from = self.at + 1;
            }
            self.at += 1;
        }
    }

    fn plain_text(&mut self) -> Result<String, Refusal> {
        let mut value = self.until_quote(b'\'', "unterminated quoted string")?;
        while self.continues() {
            value.push_str(&self.until_quote(b'\'', "unterminated quoted string")?);
        }
        Ok(value)
    }

    /// Whether another quoted piece follows after a line break: SQL's continued strings.
    fn continues(&mut self) -> bool {
        let mut at = self.at;
        let mut line_break = false;
        loop {
            match self.bytes.get(at) {
                Some(&byte) if is_space(byte) => {
                    line_break |= matches!(byte, b'\n' | b'\r');
                    at += 1;
                }
                Some(b'-') if self.bytes.get(at + 1) == Some(&b'-') => {
                    while self
                        .bytes
                        .get(at)
                        .is_some_and(|byte| !matches!(byte, b'\n' | b'\r'))
                    {
                        at += 1;
                    }
                }
                Some(b'\'') if line_break => {
                    self.at = at;
                    return true;
                }
                _ => return false,
            }
        }
    }

    fn escaped_text(&mut self) -> Result<String, Refusal> {
        let start = self.at;
        let mut value = Vec::new();
        self.at += 1;
        loop {
            if self.at >= self.bytes.len() {
                return Err(self.fail(start, "unterminated quoted string"));
            }
            let byte = self.peek(0);
            self.at += 1;
            match byte {
                b'\'' if self.peek(0) == b'\'' && self.at < self.bytes.len() => {
                    value.push(b'\'');
                    self.at += 1;
                }
                b'\'' if self.continues() => self.at += 1,
                b'\'' => {
                    let text = String::from_utf8(value).ok().filter(|text| !text.contains('\0'));
                    return text
                        .ok_or_else(|| Refusal::new("22021", "invalid byte sequence for encoding \"UTF8\""));
                }
                b'\\' => self.escape(start, &mut value)?,
                _ => value.push(byte),
            }
        }
    }

    fn escape(&mut self, start: usize, value: &mut Vec<u8>) -> Result<(), Refusal> {
        if self.at >= self.bytes.len() {
            return Err(self.fail(start, "unterminated quoted string"));
        }
        let byte = self.peek(0);
        self.at += 1;
        match byte {
            b'b' => value.push(0x08),
            b'f' => value.push(0x0c),
            b'n' => value.push(b'\n'),
            b'r' => value.push(b'\r'),
            b't' => value.push(b'\t'),
            b'0'..=b'7' => {
                self.at -= 1;
                let code = self.digits(8, 3).unwrap_or(0);
                value.push(u8::try_from(code & 0xff).unwrap_or(0));
            }
            b'x' => match self.digits(16, 2) {
                Some(code) => value.push(u8::try_from(code & 0xff).unwrap_or(0)),
                None => value.push(b'x'),
            },
            b'u' | b'U' => {
                let wanted = if byte == b'u' { 4 } else { 8 };
                let before = self.at;
                let code = self.digits(16, wanted).filter(|_| self.at - before == wanted);
                // Surrogate pairs are left out: a statement that needs them gets an error, not a guess.
                match code.and_then(char::from_u32) {
                    Some(char) => value.extend(char.encode_utf8(&mut [0; 4]).bytes()),
                    None => return Err(self.fail(start, "invalid Unicode escape")),
                }
            }
            _ => value.push(byte),
        }
        Ok(())
    }

    fn digits(&mut self, radix: u32, most: usize) -> Option<u32> {
        let start = self.at;
        while self.at - start < most && char::from(self.peek(0)).is_digit(radix) {
            self.at += 1;
        }
        u32::from_str_radix(self.text.get(start..self.at)?, radix).ok()
    }

    fn dollar_text(&mut self) -> Result<String, Refusal> {
        let start = self.at;
        self.at += 1;
        if starts_word(self.peek(0)) {
            while starts_word(self.peek(0)) || self.peek(0).is_ascii_digit() {
                self.at += 1;
            }
        }
        if self.peek(0) != b'$' {
            return Err(self.fail(start, "syntax error at or near \"$\""));
        }
        self.at += 1;
        let quote = self.text.get(start..self.at).unwrap_or("$$");
        let rest = self.text.get(self.at..).unwrap_or_default();
        match rest.find(quote) {
            Some(length) => {
                self.at += length + quote.len();
                Ok(rest.get(..length).unwrap_or_default().to_owned())
            }
            None => Err(self.fail(start, "unterminated dollar-quoted string")),
        }
    }
}
