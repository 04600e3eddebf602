//! ORDER BY, and LIMIT, of a query whose rows each group computes by itself: it gives them in order, and the node puts them together as they come,
//! without holding them.
//!
//! Each group runs the client's own text, with what it is ordered by behind its results. [`super::own`] says whose rows are computed so.

use std::ops::Range;

use sqlparser::ast::{Expr, LimitClause, Query, Statement, Value};

use super::super::check::Findings;
use super::super::lexer::Token;
use super::super::proof::Proof;
use super::super::words::split_commas;
use super::clauses::{Clauses, word_of};
use super::filter::Block;
use super::finding::is_collated;
use super::own::{are_own, is_ordered_own, of_own_rows};
use super::top::{Meaning, direction, limit_of};
use super::{Reading, RelationName, name_of, quoted};

/// How rows that come in order from each group are put together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Merge {
    /// By what they are ordered.
    pub order: Vec<OrderedBy>,
    /// How many are skipped.
    pub offset: u64,
    /// How many are given at most.
    pub limit: Option<u64>,
    /// The parameter, 0 for `$1`, that says so instead, which each group looks at, too.
    pub limit_from: Option<usize>,
    /// The tables, as a statement names them.
    pub tables: Vec<String>,
    /// A text in the statement may have a collation of its own.
    pub collated: bool,
    /// Behind which byte of the text the list of results ends.
    results_end: usize,
    /// LIMIT, OFFSET and FETCH, in bytes.
    limited: Option<Range<usize>>,
}

/// An item of ORDER BY.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OrderedBy {
    /// The expression, in bytes of the text.
    by: Range<usize>,
    /// DESC.
    pub descending: bool,
    /// NULLs come before all values.
    pub nulls_first: bool,
}

impl Merge {
    /// What the rows are ordered by, of the statement's text.
    #[must_use]
    pub fn shown(&self, text: &str) -> String {
        let shown = self.order.iter().map(|ordered| {
            let by = text.get(ordered.by.clone()).unwrap_or_default();
            let how = if ordered.descending { " DESC" } else { "" };
            let nulls = match (ordered.nulls_first, ordered.descending) {
                (true, false) => " NULLS FIRST",
                (false, true) => " NULLS LAST",
                _ => "",
            };
            format!("{by}{how}{nulls}")
        });
        shown.collect::<Vec<_>>().join(", ")
    }

    /// The statement for each group, of the client's query at these bytes of its text, which has so many parameters. What its rows are ordered by
    /// comes behind its results.
    pub(super) fn reading(&self, text: &str, query: &Range<usize>, parameters: usize) -> Reading {
        let slice = |range: Range<usize>| text.get(range).unwrap_or_default();
        let mut made = slice(query.start..self.results_end).to_owned();
        for (number, ordered) in self.order.iter().enumerate() {
            let by = slice(ordered.by.clone());
            made.push_str(&format!(", ({by}) AS {}", quoted(&format!("_howdah_{number}"))));
        }
        let end = query.end;
        let limited = self.limited.clone().unwrap_or(end..end);
        made.push_str(slice(self.results_end..limited.start));
        if let Some(limit) = self.limit {
            made.push_str(&format!(" LIMIT {}", limit.saturating_add(self.offset)));
        }
        made.push_str(slice(limited.end..end));
        Reading {
            text: made,
            parameters: (0..parameters).collect(),
        }
    }
}

/// Plans a query whose rows are put together in order; none where that is not how it can be answered.
pub(super) fn find(
    tokens: &[Token],
    statement: &Statement,
    proof: &Proof<'_>,
    findings: &Findings,
) -> Option<Merge> {
    let (limit, offset) = match statement {
        Statement::Query(query) => counts_of(query)?,
        _ => (None, 0),
    };
    Some(Merge {
        offset,
        limit,
        ..unlimited(tokens, statement, proof, findings)?
    })
}

/// The same of a query whose LIMIT is a parameter, and nothing else of the kind: it stays in the text.
pub(super) fn find_with_parameter(
    tokens: &[Token],
    statement: &Statement,
    proof: &Proof<'_>,
    findings: &Findings,
) -> Option<Merge> {
    let Statement::Query(query) = statement else {
        return None;
    };
    let Some((Expr::Value(limit), None)) = limit_of(query)? else {
        return None;
    };
    let Value::Placeholder(name) = &limit.value else {
        return None;
    };
    let number: usize = name.strip_prefix('$')?.parse().ok()?;
    Some(Merge {
        limit_from: Some(number.checked_sub(1)?),
        limited: None,
        ..unlimited(tokens, statement, proof, findings)?
    })
}

/// How many rows are given at most, and how many are skipped before.
fn counts_of(query: &Query) -> Option<(Option<u64>, u64)> {
    Some(match (limit_of(query)?, &query.limit_clause) {
        (Some((limit, offset)), _) => (Some(count_of(limit)?), offset.map_or(Some(0), count_of)?),
        // OFFSET alone.
        (
            None,
            Some(LimitClause::LimitOffset {
                offset: Some(offset), ..
            }),
        ) => (None, count_of(&offset.value)?),
        (None, _) => (None, 0),
    })
}

/// The same but for how many rows there are.
fn unlimited(
    tokens: &[Token],
    statement: &Statement,
    proof: &Proof<'_>,
    findings: &Findings,
) -> Option<Merge> {
    let (query, select) = of_own_rows(tokens, statement, proof, findings)?;
    if !are_own(select, proof) || !is_ordered_own(query, select, proof) {
        return None;
    }
    let clauses = Clauses::of(tokens)?;
    let table = match proof.instances.as_slice() {
        [only] if Block::of(select, proof).is_whole() && only.has_own_names() => Some(only.table),
        _ => None,
    };
    let meaning = Meaning {
        tokens,
        clauses: &clauses,
        select,
        table,
    };
    let mut order = Vec::new();
    for item in clauses.order.map(split_commas).unwrap_or_default() {
        let (by, how) = direction(item)?;
        let by = meaning.of(by)?;
        let words: Vec<&str> = how.iter().filter_map(word_of).collect();
        let descending = words.contains(&"desc");
        // A constant would be the number of a result.
        by.iter().any(|token| name_of(token).is_some()).then_some(())?;
        order.push(OrderedBy {
            by: by.first()?.range.start..by.last()?.range.end,
            descending,
            nulls_first: match words.last() {
                Some(&"first") => true,
                Some(&"last") => false,
                _ => descending,
            },
        });
    }
    let limited = match clauses.limited {
        Some(tokens) => Some(tokens.first()?.range.start..tokens.last()?.range.end),
        None => None,
    };
    Some(Merge {
        order,
        offset: 0,
        limit: None,
        limit_from: None,
        tables: {
            let distributed = proof.instances.iter().map(|instance| instance.table);
            let all = distributed.chain(proof.reference_tables.iter().copied());
            all.map(|table| RelationName::of(table).quoted()).collect()
        },
        collated: is_collated(tokens),
        results_end: clauses.items.last()?.range.end,
        limited,
    })
}

fn count_of(count: &Expr) -> Option<u64> {
    match count {
        Expr::Value(value) => match &value.value {
            // As many as PostgreSQL takes, an int8.
            Value::Number(number, _) => number.parse::<i64>().ok()?.try_into().ok(),
            _ => None,
        },
        _ => None,
    }
}
