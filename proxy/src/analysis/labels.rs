//! What results are called that are calls: where a parameter takes a call's place they still have its name
//! (`FigureColname` in parse_target.c).

use std::ops::Range;

use super::draws::Edit;
use super::lexer::{Kind, Token};
use super::words::{Words, is_one_of};

/// What ends a list of results.
const AFTER_RESULTS: &[&str] = &[
    "from",
    "where",
    "group",
    "having",
    "order",
    "limit",
    "offset",
    "union",
    "intersect",
    "except",
    "into",
    "for",
    "window",
    "fetch",
];

/// A call, by its tokens, and its name.
pub(super) type Named = (Range<usize>, &'static str);

/// Names for all results, of SELECT and RETURNING, that have that of a call.
pub(super) fn edits(tokens: &[Token], calls: &[Named]) -> Vec<Edit> {
    let lists = (0..tokens.len()).filter(|at| is_one_of(&tokens[*at], &["select", "returning"]));
    lists
        .flat_map(|at| of_list(tokens, after_distinct(tokens, at + 1), calls))
        .collect()
}

/// Where the results begin behind SELECT.
fn after_distinct(tokens: &[Token], at: usize) -> usize {
    let mut words = Words::new(tokens.get(at..).unwrap_or_default());
    if words.take(&["distinct"]) && words.take(&["on"]) {
        words.parenthesised();
    }
    words.take(&["all"]);
    tokens.len() - words.rest().len()
}

fn of_list(tokens: &[Token], at: usize, calls: &[Named]) -> Vec<Edit> {
    let mut edits = Vec::new();
    let (mut depth, mut start) = (0usize, at);
    for index in at..=tokens.len() {
        let token = tokens.get(index);
        let closes = matches!(token.map(|token| &token.kind), Some(Kind::Punctuation(')' | ']')));
        let outside = depth == 0;
        match token.map(|token| &token.kind) {
            Some(Kind::Punctuation('(' | '[')) => depth += 1,
            _ if closes => depth = depth.saturating_sub(1),
            _ => {}
        }
        let ends = outside && (closes || token.is_none_or(|token| is_one_of(token, AFTER_RESULTS)));
        let next = outside && token.is_some_and(|token| token.kind == Kind::Punctuation(','));
        if !ends && !next {
            continue;
        }
        if let Some(name) = figure(tokens, start..index, calls)
            && let Some(last) = index.checked_sub(1).and_then(|last| tokens.get(last))
        {
            edits.push(Edit::text(last.range.end, format!(" AS {name}")));
        }
        if ends {
            break;
        }
        start = index + 1;
    }
    edits
}

/// The name that a result without one has from a call in it; none where it has another.
fn figure(tokens: &[Token], item: Range<usize>, calls: &[Named]) -> Option<&'static str> {
    if let Some((_, name)) = calls.iter().find(|(call, _)| *call == item) {
        return Some(name);
    }
    let inside = tokens.get(item.clone())?;
    let mut words = Words::new(inside);
    let place = |words: &Words<'_>| item.end - words.rest().len();
    if words.sees(&["case"]) {
        // It is called as what ELSE gives.
        let end = item.end.checked_sub(1)?;
        let last_else = (item.start..end)
            .rev()
            .find(|at| is_one_of(&tokens[*at], &["else"]))?;
        let is_end = is_one_of(&tokens[end], &["end"]);
        return is_end.then(|| figure(tokens, last_else + 1..end, calls))?;
    }
    if words.take(&["cast"]) {
        let arguments = words.parenthesised().filter(|_| words.is_empty())?;
        let start = item.end - 1 - arguments.len();
        let cast_as = arguments.iter().position(|token| is_one_of(token, &["as"]))?;
        return figure(tokens, start..start + cast_as, calls);
    }
    let head = match calls.iter().find(|(call, _)| call.start == item.start) {
        Some((call, _)) if call.end <= item.end => call.clone(),
        _ => {
            let inner = words.parenthesised()?;
            let start = item.start + 1;
            if inner.first().is_some_and(|first| is_one_of(first, &["select"])) {
                return None;
            }
            if words.is_empty() {
                return figure(tokens, start..start + inner.len(), calls);
            }
            item.start..place(&words)
        }
    };
    let casts = head.end < item.end && only_casts(tokens.get(head.end..item.end)?);
    casts.then(|| figure(tokens, head, calls))?
}

/// Whether nothing but casts follow.
fn only_casts(tokens: &[Token]) -> bool {
    let mut words = Words::new(tokens);
    while words.take_operator("::") {
        let Some(parts) = words.dotted_name() else {
            return false;
        };
        match parts.last().map(String::as_str) {
            Some("double") => _ = words.take(&["precision"]),
            Some("character" | "char" | "bit") => _ = words.take(&["varying"]),
            _ => {}
        }
        words.parenthesised();
        let _zone = words.take(&["with", "time", "zone"]) || words.take(&["without", "time", "zone"]);
        while words.take_mark('[') {
            if !words.take_mark(']') {
                return false;
            }
        }
    }
    words.is_empty()
}
