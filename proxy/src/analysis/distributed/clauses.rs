//! The clauses of a plain SELECT in its tokens.

use super::super::grammar::is_only;
use super::super::lexer::{Kind, Token};
use super::super::words::{Words, split_commas};
use super::filter::{Piece, constant};
use super::quoted;

/// Where the clauses of a SELECT are that has no set operation, WITH, or lock.
#[derive(Debug, Default)]
pub(super) struct Clauses<'t> {
    /// The list of DISTINCT ON.
    pub(super) on: Option<&'t [Token]>,
    /// The list of results.
    pub(super) items: &'t [Token],
    /// FROM and what follows.
    pub(super) from: Option<&'t [Token]>,
    /// What follows WHERE.
    pub(super) filter: Option<&'t [Token]>,
    /// WHERE and what follows.
    pub(super) whole_filter: Option<&'t [Token]>,
    /// What follows GROUP BY.
    pub(super) group: Option<&'t [Token]>,
    /// What follows ORDER BY.
    pub(super) order: Option<&'t [Token]>,
    /// LIMIT, OFFSET and FETCH, which come last.
    pub(super) limited: Option<&'t [Token]>,
}

impl<'t> Clauses<'t> {
    /// Of these tokens; none if they are of another kind of query.
    pub(super) fn of(tokens: &'t [Token]) -> Option<Clauses<'t>> {
        if (0..tokens.len()).any(|at| is_only(tokens, at)) {
            return None;
        }
        let starts = starts(tokens)?;
        let mut clauses = Clauses::default();
        for (number, (word, at)) in starts.iter().enumerate() {
            let end = starts.get(number + 1).map_or(tokens.len(), |(_, next)| *next);
            let clause = &tokens[*at..end];
            let after = |words: usize| clause.get(words..);
            match *word {
                "select" => {
                    let mut words = Words::new(after(1)?);
                    if words.take(&["distinct", "on"]) {
                        clauses.on = Some(words.parenthesised()?);
                    } else {
                        words.take_any(&["distinct", "all"]);
                    }
                    clauses.items = words.rest();
                }
                "from" => clauses.from = Some(clause),
                "where" => (clauses.filter, clauses.whole_filter) = (Some(after(1)?), Some(clause)),
                "group" => clauses.group = Some(after(2)?),
                "order" => clauses.order = Some(after(2)?),
                "limit" | "offset" | "fetch" => {
                    clauses.limited = clauses.limited.or(tokens.get(*at..));
                }
                _ => {}
            }
        }
        Some(clauses)
    }

    /// The results one by one.
    pub(super) fn items(&self) -> Vec<&'t [Token]> {
        split_commas(self.items)
    }
}

/// The words that clauses begin with, and where; all of them are reserved, so nothing else is called so.
fn starts(tokens: &[Token]) -> Option<Vec<(&'static str, usize)>> {
    const WORDS: [&str; 10] = [
        "select", "from", "where", "group", "having", "window", "order", "limit", "offset", "fetch",
    ];
    const OTHERS: [&str; 6] = ["union", "intersect", "except", "with", "for", "into"];
    let (mut depth, mut found) = (0usize, Vec::new());
    for (at, token) in tokens.iter().enumerate() {
        match &token.kind {
            Kind::Punctuation('(' | '[') => depth += 1,
            Kind::Punctuation(')' | ']') => depth = depth.checked_sub(1)?,
            Kind::Word(word) if depth == 0 => {
                let before = at.checked_sub(1).and_then(|before| word_of(&tokens[before]));
                let compares = word == "from" && before == Some("distinct");
                if OTHERS.contains(&word.as_str()) {
                    return None;
                }
                if let Some(word) = WORDS.iter().find(|known| *known == word)
                    && !compares
                {
                    found.push((*word, at));
                }
            }
            _ => {}
        }
    }
    // Each once, as it should be.
    let twice = (1..found.len()).any(|at| found[..at].iter().any(|(word, _)| *word == found[at].0));
    (found.first()? == &("select", 0) && !twice).then_some(found)
}

/// A word without quotes.
pub(super) fn word_of(token: &Token) -> Option<&str> {
    match &token.kind {
        Kind::Word(word) => Some(word),
        _ => None,
    }
}

/// These tokens as a text that reads as they do.
pub(super) fn write(tokens: &[Token], pieces: &mut Vec<Piece>) {
    for token in tokens {
        let text = match &token.kind {
            Kind::Word(word) => word.clone(),
            Kind::Quoted(name) => quoted(name),
            Kind::Text(text) => constant(text),
            Kind::Bits(text) | Kind::Number(text) | Kind::Operator(text) => text.clone(),
            Kind::Punctuation(mark) => mark.to_string(),
            Kind::Parameter(number) => {
                pieces.push(Piece::Parameter(number.saturating_sub(1)));
                String::new()
            }
        };
        pieces.push(Piece::text(format!("{text} ")));
    }
}
