//! A reader over a statement's tokens, for the statements that are understood word by word.

use super::lexer::{Kind, Token};

/// Reads tokens from left to right.
#[derive(Clone, Copy)]
pub(crate) struct Words<'a> {
    tokens: &'a [Token],
}

impl<'a> Words<'a> {
    pub(crate) fn new(tokens: &'a [Token]) -> Words<'a> {
        Words { tokens }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.tokens.is_empty()
    }

    /// What is left.
    pub(crate) fn rest(&self) -> &'a [Token] {
        self.tokens
    }

    pub(crate) fn peek(&self) -> Option<&'a Kind> {
        self.tokens.first().map(|token| &token.kind)
    }

    pub(crate) fn next(&mut self) -> Option<&'a Kind> {
        let (first, rest) = self.tokens.split_first()?;
        self.tokens = rest;
        Some(&first.kind)
    }

    /// Whether these keywords come next, in this order.
    pub(crate) fn sees(&self, keywords: &[&str]) -> bool {
        keywords.iter().enumerate().all(|(at, keyword)| {
            matches!(self.tokens.get(at).map(|token| &token.kind), Some(Kind::Word(word)) if word == keyword)
        })
    }

    /// Takes these keywords if all of them come next.
    pub(crate) fn take(&mut self, keywords: &[&str]) -> bool {
        let seen = self.sees(keywords);
        if seen {
            self.tokens = self.tokens.get(keywords.len()..).unwrap_or_default();
        }
        seen
    }

    /// Takes the first of these keywords that comes next.
    pub(crate) fn take_any(&mut self, keywords: &[&'static str]) -> Option<&'static str> {
        keywords.iter().copied().find(|keyword| self.take(&[keyword]))
    }

    pub(crate) fn take_mark(&mut self, mark: char) -> bool {
        let seen = self.peek() == Some(&Kind::Punctuation(mark));
        if seen {
            self.next();
        }
        seen
    }

    pub(crate) fn take_operator(&mut self, operator: &str) -> bool {
        let seen = matches!(self.peek(), Some(Kind::Operator(found)) if found == operator);
        if seen {
            self.next();
        }
        seen
    }

    /// An identifier, quoted or not.
    pub(crate) fn name(&mut self) -> Option<String> {
        match self.peek()? {
            Kind::Word(name) | Kind::Quoted(name) => {
                let name = name.clone();
                self.next();
                Some(name)
            }
            _ => None,
        }
    }

    /// `a.b.c` as its parts.
    pub(crate) fn dotted_name(&mut self) -> Option<Vec<String>> {
        let mut parts = vec![self.name()?];
        while self.take_mark('.') {
            parts.push(self.name()?);
        }
        Some(parts)
    }

    /// The tokens inside the parentheses that open here.
    pub(crate) fn parenthesised(&mut self) -> Option<&'a [Token]> {
        if self.peek() != Some(&Kind::Punctuation('(')) {
            return None;
        }
        let mut depth = 0usize;
        for (at, token) in self.tokens.iter().enumerate() {
            match token.kind {
                Kind::Punctuation('(') => depth += 1,
                Kind::Punctuation(')') => depth -= 1,
                _ => {}
            }
            if depth == 0 {
                let inside = self.tokens.get(1..at)?;
                self.tokens = self.tokens.get(at + 1..)?;
                return Some(inside);
            }
        }
        None
    }
}

/// Whether a token is one of these keywords.
pub(crate) fn is_one_of(token: &Token, words: &[&str]) -> bool {
    matches!(&token.kind, Kind::Word(word) if words.contains(&word.as_str()))
}

/// Splits at the commas that stand outside any parentheses or brackets.
pub(crate) fn split_commas(tokens: &[Token]) -> Vec<&[Token]> {
    let mut depth = 0usize;
    tokens
        .split(|token| {
            match token.kind {
                Kind::Punctuation('(' | '[') => depth += 1,
                Kind::Punctuation(')' | ']') => depth = depth.saturating_sub(1),
                _ => {}
            }
            depth == 0 && token.kind == Kind::Punctuation(',')
        })
        .collect()
}

/// Whether this keyword stands outside any parentheses.
pub(crate) fn has_word(tokens: &[Token], keywords: &[&str]) -> bool {
    let mut depth = 0usize;
    (0..tokens.len()).any(|at| {
        match tokens[at].kind {
            Kind::Punctuation('(') => depth += 1,
            Kind::Punctuation(')') => depth = depth.saturating_sub(1),
            _ => {}
        }
        depth == 0 && Words::new(&tokens[at..]).sees(keywords)
    })
}
