//! `ADD COLUMN ... DEFAULT now()`: the rows that are there get what PostgreSQL computes once (`ATExecAddColumn` in tablecmds.c). Each group would compute its
//! own, so they are given the session's time, and the column its default in the same statement, where that comes after (`AT_PASS_ADD_COL`).

use coordinator::catalogue::Relation;

use super::draws::{self, Draws, Edit};
use super::lexer::{self, Kind, Token, quoted};
use super::times;
use super::words::{Words, split_commas};

/// What ends a DEFAULT: another constraint of the column (`ColConstraintElem` in gram.y).
const CONSTRAINTS: [&str; 11] = [
    "not",
    "null",
    "check",
    "unique",
    "primary",
    "references",
    "constraint",
    "generated",
    "collate",
    "deferrable",
    "initially",
];

/// The statement with the time in place of what tells it; none where nothing does. `actions` are those of ALTER TABLE in it.
pub(super) fn with_one_time(
    tokens: &[Token],
    sql: &str,
    actions: &[Token],
    relation: &Relation,
) -> Option<Draws> {
    const BEFORE: &str = "SELECT ";
    let (mut edits, mut defaults) = (Vec::new(), String::new());
    for action in split_commas(actions) {
        let Some((column, default)) = added(action, relation) else {
            continue;
        };
        let (Some(first), Some(last)) = (default.first(), default.last()) else {
            continue;
        };
        let start = first.range.start;
        let default = sql.get(start..last.range.end)?;
        let text = format!("{BEFORE}{default}");
        let tokens = lexer::tokens(&text).ok()?;
        let calls = times::find(&tokens);
        if calls.is_empty() {
            continue;
        }
        let shift = |at: usize| at - BEFORE.len() + start;
        edits.extend(times::replace(&tokens, &calls).into_iter().map(|edit| Edit {
            bytes: shift(edit.bytes.start)..shift(edit.bytes.end),
            ..edit
        }));
        defaults.push_str(&format!(", ALTER COLUMN {column} SET DEFAULT {default}"));
    }
    if edits.is_empty() {
        return None;
    }
    edits.push(Edit::text(tokens.last()?.range.end, defaults));
    draws::fill(tokens, sql, edits)
}

/// The column that an action adds, as an identifier, and its DEFAULT.
fn added<'a>(action: &'a [Token], relation: &Relation) -> Option<(String, &'a [Token])> {
    let mut words = Words::new(action);
    if !words.take(&["add"]) {
        return None;
    }
    words.take(&["column"]);
    words.take(&["if", "not", "exists"]);
    let name = words.name()?;
    if relation.column(&name).is_some() {
        // It stays as it is, default and all.
        return None;
    }
    let rest = words.rest();
    let begins = outside(rest, &["default"])? + 1;
    let default = rest.get(begins..)?;
    let ends = outside(default, &CONSTRAINTS).unwrap_or(default.len());
    Some((quoted(&name), default.get(..ends)?))
}

/// Where the first of these keywords stands outside any parentheses.
fn outside(tokens: &[Token], keywords: &[&str]) -> Option<usize> {
    let mut depth = 0usize;
    tokens.iter().position(|token| {
        match &token.kind {
            Kind::Punctuation('(' | '[') => depth += 1,
            Kind::Punctuation(')' | ']') => depth = depth.saturating_sub(1),
            _ => {}
        }
        depth == 0 && matches!(&token.kind, Kind::Word(word) if keywords.contains(&word.as_str()))
    })
}
