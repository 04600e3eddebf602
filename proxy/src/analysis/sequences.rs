//! Statements with values that the session supplies: of sequences, and of the time.
//!
//! An INSERT of VALUES names each column that is filled from a sequence and gives it a hole in every row; a call of `nextval()`,
//! `currval()` or `lastval()` becomes one where it stands. With parameters in its holes the statement is planned as any
//! other, so that a value from a sequence can be its shard key. What has no hole is refused: a PostgreSQL that counted for
//! itself would give numbers that others have given.

use std::sync::Arc;

use super::calls::{Call, argument, find_calls, find_sequence, replace};
use super::draws::{Draws, Edit, SequenceName, fill};
use super::functions::SEQUENCES;
use super::lexer::{self, Kind, Token};
use super::plan::{Access, Form, Given, HomeUse, Plan, Query, Spread, Tag, Target};
use super::relations::Names;
use super::words::{Words, is_one_of, split_commas};
use super::{Refusal, ValuesRows, insert, labels, query, times};

/// `SELECT setval(sequence, value, is_called)` alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SetSequence {
    /// The sequence.
    pub sequence: SequenceName,
    /// Its value.
    pub value: Given,
    /// Whether that was given already.
    pub is_called: Given,
    /// The name of the result's column.
    pub column: String,
    /// Whether the result is wanted in binary.
    pub binary: bool,
}

impl SetSequence {
    /// The types of its parameters, by their OIDs, in the order of their numbers; 0 for one that is not there.
    #[must_use]
    pub fn parameter_types(&self) -> Vec<u32> {
        let number = |given: &Given| match given {
            Given::Parameter(number) => Some(*number),
            Given::Constant(_) => None,
        };
        let (name, name_type) = match self.sequence {
            SequenceName::Parameter(number, of) => (Some(number), of),
            SequenceName::Known(_) => (None, 0),
        };
        let mut types = Vec::new();
        for (number, of) in [
            (name, name_type),
            (number(&self.value), 20),
            (number(&self.is_called), 16),
        ] {
            let Some(number) = number else { continue };
            types.resize(types.len().max(number), 0);
            if let Some(place) = number.checked_sub(1).and_then(|at| types.get_mut(at)) {
                *place = of;
            }
        }
        types
    }
}

impl Query {
    /// Looks where the rows of VALUES stand in another text of the same statement.
    pub fn find_rows(&mut self, text: &str) {
        if let Target::Keys(_, Spread::Rows(rows)) = &mut self.target
            && let Some(found) = lexer::tokens(text)
                .ok()
                .and_then(|tokens| ValuesRows::find(&tokens))
        {
            *rows = found;
        }
    }
}

/// Plans a statement on rows that has to do with sequences or the time; none if it has not.
pub(super) fn plan(tokens: &[Token], sql: &str, names: Names<'_>) -> Option<Result<Plan, Refusal>> {
    let mut calls = Vec::new();
    if tokens.iter().any(is_function) {
        if let Some(set) = set(tokens, names) {
            return Some(Ok(Plan::SetSequence(set)));
        }
        match find_calls(tokens, names) {
            Ok(found) => calls = found,
            Err(refusal) => return Some(Err(refusal)),
        }
    }
    let edits = match insert::edits(tokens, &calls, names) {
        Ok(Some(edits)) => edits,
        Ok(None) => elsewhere(tokens, &calls),
        Err(refusal) => return Some(Ok(Plan::Judge(refusal))),
    };
    let times = times::find(tokens);
    let ignored = |time: &Edit| {
        let holds = |edit: &Edit| edit.bytes.start <= time.bytes.start && time.bytes.end <= edit.bytes.end;
        edits.iter().any(holds)
    };
    let mut all = times::replace(tokens, &times);
    all.retain(|time| !ignored(time));
    all.extend(edits);
    if all.is_empty() {
        return state(tokens, names).or_else(|| overview(tokens, names));
    }
    let mut named: Vec<labels::Named> = calls
        .iter()
        .map(|call| (call.tokens.clone(), call.name))
        .collect();
    named.extend(times.iter().map(|call| (call.tokens.clone(), call.name)));
    all.extend(labels::edits(tokens, &named));
    let draws = fill(tokens, sql, all)?;
    Some(planned(draws, names))
}

/// Whether a word is the name of a function of sequences.
fn is_function(token: &Token) -> bool {
    matches!(&token.kind, Kind::Word(name) | Kind::Quoted(name) if SEQUENCES.contains(&name.as_str()))
}

fn planned(draws: Draws, names: Names<'_>) -> Result<Plan, Refusal> {
    let names = Names {
        text: &draws.text,
        ..names
    };
    match query::plan(&lexer::tokens(&draws.text)?, names)? {
        Plan::Query(query) => Ok(Plan::Query(Query {
            draws: Some(Arc::new(draws)),
            ..query
        })),
        other => Ok(other),
    }
}

/// Words that make it unsure how often, or in which order, the expressions of a SELECT are evaluated.
const MORE_THAN_A_ROW: &[&str] = &[
    "from",
    "where",
    "union",
    "intersect",
    "except",
    "with",
    "case",
    "coalesce",
    "nullif",
    "greatest",
    "least",
    "and",
    "or",
    "limit",
    "offset",
    "fetch",
    "group",
    "having",
    "order",
    "filter",
    "over",
    "values",
    "table",
    "for",
    "into",
    "distinct",
    "array",
];

/// The edits of a statement that is no INSERT of VALUES: `nextval()` only in a SELECT of one row, the others anywhere.
fn elsewhere(tokens: &[Token], calls: &[Call]) -> Vec<Edit> {
    let one_row = tokens.first().is_some_and(|first| is_one_of(first, &["select"]))
        && tokens
            .iter()
            .filter(|token| is_one_of(token, &["select"]))
            .count()
            == 1
        && !tokens.iter().any(|token| is_one_of(token, MORE_THAN_A_ROW));
    calls
        .iter()
        .filter(|call| one_row || !call.counts())
        .map(|call| replace(tokens, call, (0, 0, call.tokens.start)))
        .collect()
}

/// `SELECT setval('sequence', value [, is_called]) [AS name]`.
fn set(tokens: &[Token], names: Names<'_>) -> Option<SetSequence> {
    let mut words = Words::new(tokens);
    if !words.take(&["select"]) {
        return None;
    }
    let function = words.dotted_name()?;
    if !matches!(
        function.iter().map(String::as_str).collect::<Vec<_>>()[..],
        ["setval"] | ["pg_catalog", "setval"]
    ) {
        return None;
    }
    let arguments = split_commas(words.parenthesised()?);
    let column = if words.take(&["as"]) || !words.is_empty() {
        words.name()?
    } else {
        "setval".to_owned()
    };
    if !words.is_empty() {
        return None;
    }
    let (sequence, value, is_called) = match arguments.as_slice() {
        [sequence, value] => (sequence, value, Given::Constant(Some("true".to_owned()))),
        [sequence, value, is_called] => (sequence, value, constant(is_called)?),
        _ => return None,
    };
    Some(SetSequence {
        sequence: argument(sequence, names).ok()??,
        value: constant(value)?,
        is_called,
        column,
        binary: false,
    })
}

/// A constant that is not NULL, or a parameter, with a cast or without.
fn constant(tokens: &[Token]) -> Option<Given> {
    let mut words = Words::new(tokens);
    let sign = if words.take_operator("-") { "-" } else { "" };
    let given = match words.next()? {
        Kind::Number(text) => Given::Constant(Some(format!("{sign}{text}"))),
        Kind::Text(text) if sign.is_empty() => Given::Constant(Some(text.clone())),
        Kind::Word(word) if sign.is_empty() && (word == "true" || word == "false") => {
            Given::Constant(Some(word.clone()))
        }
        Kind::Parameter(number) if sign.is_empty() => Given::Parameter(*number),
        _ => return None,
    };
    if words.take_operator("::") {
        words.take_any(&["bigint", "int8", "integer", "int", "int4", "boolean", "bool"])?;
    }
    words.is_empty().then_some(given)
}

/// `SELECT last_value, is_called FROM sequence` and the like: the home group has it.
fn state(tokens: &[Token], names: Names<'_>) -> Option<Result<Plan, Refusal>> {
    let mut words = Words::new(tokens);
    if !words.take(&["select"]) {
        return None;
    }
    while !words.sees(&["from"]) {
        let plain = match words.next()? {
            Kind::Word(word) => !MORE_THAN_A_ROW.contains(&word.as_str()) && word != "select",
            Kind::Operator(operator) => operator == "*" || operator == "::",
            Kind::Punctuation(mark) => matches!(mark, ',' | '.'),
            _ => true,
        };
        if !plain {
            return None;
        }
    }
    words.take(&["from"]);
    words.take(&["only"]);
    let parts = words.dotted_name()?;
    if !words.take(&["as"]) && !words.is_empty() || !words.is_empty() {
        words.name()?;
    }
    if !words.is_empty() || names.facts.temporaries.has(&parts) {
        return None;
    }
    find_sequence(&parts, names).ok()??;
    Some(Ok(at_home(Tag::Select)))
}

/// The view `pg_sequences`, which shows where sequences stand.
fn overview(tokens: &[Token], names: Names<'_>) -> Option<Result<Plan, Refusal>> {
    if !tokens.iter().any(|token| is_one_of(token, &["pg_sequences"])) {
        return None;
    }
    Some(query::plan(tokens, names).map(|plan| match plan {
        Plan::Query(query) if query.target == Target::Any => Plan::Query(Query {
            target: Target::Home(HomeUse::Asks),
            ..query
        }),
        other => other,
    }))
}

fn at_home(tag: Tag) -> Plan {
    Plan::Query(Query {
        access: Access::Read,
        target: Target::Home(HomeUse::Asks),
        tag,
        form: Form::Plain,
        draws: None,
    })
}
