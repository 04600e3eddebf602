//! ORDER BY and LIMIT of one table: as many rows of each group, in that order, are enough; of DISTINCT ON the first of each. The query itself runs over
//! what is left.

use std::fmt;

use coordinator::catalogue::Relation;
use sqlparser::ast::{
    Distinct, Expr, Fetch, GroupByExpr, LimitClause, Query, Select, SelectItem, SetExpr, Statement, Value,
};

use super::super::check::Findings;
use super::super::lexer::{Kind, Token};
use super::super::parse::token_of;
use super::super::proof::Proof;
use super::super::words::split_commas;
use super::clauses::{Clauses, word_of, write};
use super::filter::{Block, Piece, is_moment, parameters, written};
use super::{name_of, quoted};

/// What goes around `columns FROM table` so that the first rows are found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Top {
    /// DISTINCT ON.
    pub(super) distinct: Vec<Piece>,
    /// All that follows.
    pub(super) pieces: Vec<Piece>,
}

impl Top {
    /// The client's parameters in it.
    pub(super) fn parameters(&self) -> impl Iterator<Item = usize> {
        parameters(&self.distinct).chain(parameters(&self.pieces))
    }
}

impl fmt::Display for Top {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (distinct, pieces) = (&self.distinct, &self.pieces);
        let written = |pieces: &[Piece]| written(pieces, |index| index + 1);
        write!(f, "{}{}", written(distinct), written(pieces).trim_end())
    }
}

/// The SELECT that is the whole statement, of one table alone, without subqueries, and of which every expression has the same value in all
/// groups.
pub(super) fn of_one_table<'s>(
    tokens: &[Token],
    statement: &'s Statement,
    proof: &Proof<'_>,
    findings: &Findings,
) -> Option<(&'s Query, &'s Select)> {
    let Statement::Query(query) = statement else {
        return None;
    };
    let SetExpr::Select(select) = &*query.body else {
        return None;
    };
    let moment = |token: &Token| matches!(&token.kind, Kind::Text(text) if is_moment(text));
    let alone = findings.relations == 1 && findings.queries == 1 && proof.instances.len() == 1;
    let steady = findings.unsteady.is_none() && findings.local.is_none() && findings.multiplies.is_none();
    let block = Block::of(select, proof);
    let of_table = block.instances().eq([0]) && block.is_whole();
    (alone && steady && of_table && query.with.is_none() && !tokens.iter().any(moment))
        .then_some((query, select))
}

pub(super) fn find(
    tokens: &[Token],
    statement: &Statement,
    proof: &Proof<'_>,
    findings: &Findings,
) -> Option<Top> {
    let (query, select) = of_one_table(tokens, statement, proof, findings)?;
    let instance = proof.instances.first()?;
    let distinct = matches!(select.distinct, Some(Distinct::Distinct));
    let grouped = match &select.group_by {
        GroupByExpr::All(_) => true,
        GroupByExpr::Expressions(by, modifiers) => !by.is_empty() || !modifiers.is_empty(),
    };
    let plain = !distinct && !grouped && select.having.is_none() && findings.aggregate.is_none();
    if !plain || !instance.has_own_names() {
        return None;
    }
    let clauses = Clauses::of(tokens)?;
    let meaning = Meaning {
        tokens,
        clauses: &clauses,
        select,
        table: Some(instance.table),
    };
    let named = |token: &Token| name_of(token).is_some_and(|name| instance.table.column(name).is_some());
    let mut distinct = Vec::new();
    if let Some(on) = clauses.on {
        // It makes its rows' order, by which ORDER BY begins: so the first of the first ones are among each group's.
        distinct.push(Piece::text("DISTINCT ON ("));
        for (index, by) in split_commas(on).into_iter().enumerate() {
            distinct.push(Piece::text(if index == 0 { "" } else { ", " }));
            let by = meaning.of(by)?;
            by.iter().any(named).then_some(())?;
            distinct.push(Piece::text("("));
            write(by, &mut distinct);
            distinct.push(Piece::text(")"));
        }
        distinct.push(Piece::text(") "));
    }
    let limit = limit_of(query)?;
    if limit.is_none() && distinct.is_empty() {
        return None;
    }
    let mut pieces = Vec::new();
    if instance.alias_at.is_some() {
        pieces.push(Piece::text(format!(" AS {}", quoted(&instance.called))));
    }
    if let Some(filter) = clauses.filter {
        pieces.push(Piece::text(" WHERE "));
        write(filter, &mut pieces);
    }
    if let Some(order) = clauses.order {
        pieces.push(Piece::text(" ORDER BY "));
        for (index, item) in split_commas(order).into_iter().enumerate() {
            pieces.push(Piece::text(if index == 0 { "" } else { ", " }));
            let (by, how) = direction(item)?;
            let by = meaning.of(by)?;
            if !by.iter().any(named) {
                // A constant, which would be read as the number of a column.
                return None;
            }
            pieces.push(Piece::text("("));
            write(by, &mut pieces);
            pieces.push(Piece::text(") "));
            write(how, &mut pieces);
        }
    }
    if let Some((limit, offset)) = limit {
        write_limit(limit, offset, &mut pieces)?;
    }
    Some(Top { distinct, pieces })
}

/// How many rows are wanted, and how many are skipped before; nothing where all are. None where that cannot be said.
pub(super) fn limit_of(query: &Query) -> Option<Option<(&Expr, Option<&Expr>)>> {
    let (limit, offset) = match &query.limit_clause {
        None => (None, None),
        Some(LimitClause::LimitOffset {
            limit,
            offset,
            limit_by,
        }) if limit_by.is_empty() => (limit.as_ref(), offset.as_ref().map(|offset| &offset.value)),
        Some(_) => return None,
    };
    let fetched = match &query.fetch {
        None => None,
        Some(Fetch {
            with_ties: false,
            percent: false,
            quantity: Some(quantity),
        }) => Some(quantity),
        Some(_) => return None,
    };
    if limit.is_some() && fetched.is_some() {
        return None;
    }
    Some(limit.or(fetched).map(|limit| (limit, offset)))
}

/// As many rows as are skipped and given together; all of them where the limit is NULL.
fn write_limit(limit: &Expr, offset: Option<&Expr>, pieces: &mut Vec<Piece>) -> Option<()> {
    pieces.push(Piece::text(" LIMIT CAST(LEAST("));
    for (index, count) in std::iter::once(limit).chain(offset).enumerate() {
        let Expr::Value(value) = count else { return None };
        let piece = match &value.value {
            Value::Number(number, _) if number.bytes().all(|byte| byte.is_ascii_digit()) => {
                Piece::text(number)
            }
            Value::Placeholder(name) => {
                let number: usize = name.strip_prefix('$')?.parse().ok()?;
                Piece::Parameter(number.checked_sub(1)?)
            }
            _ => return None,
        };
        // NULL skips none.
        let (before, behind) = match index {
            0 => ("CAST(", " AS pg_catalog.numeric)"),
            _ => (" + COALESCE(CAST(", " AS pg_catalog.numeric), 0)"),
        };
        pieces.extend([Piece::text(before), piece, Piece::text(behind)]);
    }
    pieces.push(Piece::text(", 9223372036854775807) AS pg_catalog.int8)"));
    Some(())
}

/// An item of ORDER BY: by what, and how.
pub(super) fn direction(item: &[Token]) -> Option<(&[Token], &[Token])> {
    let mut end = item.len();
    let word = |at: usize| item.get(at).and_then(word_of);
    if end >= 2 && word(end - 2) == Some("nulls") {
        end -= 2;
    }
    if end >= 1 && matches!(word(end - 1), Some("asc" | "desc")) {
        end -= 1;
    }
    let (by, how) = item.split_at(end);
    let using = |token: &Token| word_of(token) == Some("using");
    (!by.is_empty() && !by.iter().any(using)).then_some((by, how))
}

/// What items of ORDER BY and DISTINCT ON stand for.
pub(super) struct Meaning<'m, 't> {
    pub(super) tokens: &'t [Token],
    pub(super) clauses: &'m Clauses<'t>,
    pub(super) select: &'m Select,
    /// The only table; none where there are several.
    pub(super) table: Option<&'m Relation>,
}

impl<'t> Meaning<'_, 't> {
    /// An item as an expression of the tables' columns: a number or a name may be that of a result (`findTargetlistEntrySQL92` in
    /// parse_clause.c).
    pub(super) fn of(&self, by: &'t [Token]) -> Option<&'t [Token]> {
        let [only] = by else { return Some(by) };
        let (items, parsed) = (self.clauses.items(), &self.select.projection);
        if items.len() != parsed.len() {
            return None;
        }
        let star = |item: &SelectItem| {
            !matches!(
                item,
                SelectItem::UnnamedExpr(_) | SelectItem::ExprWithAlias { .. }
            )
        };
        if let Kind::Number(number) = &only.kind {
            let at = number.parse::<usize>().ok()?.checked_sub(1)?;
            if parsed.iter().any(star) {
                return None;
            }
            return expression(items.get(at)?, self.tokens, parsed.get(at)?);
        }
        let Some(name) = name_of(only) else {
            return Some(by);
        };
        let (mut aliased, mut column) = (None, None);
        for (item, parsed) in items.iter().zip(parsed) {
            match parsed {
                SelectItem::ExprWithAlias { alias, .. } if alias.value == name => {
                    if aliased.is_some() {
                        return None;
                    }
                    aliased = Some(expression(item, self.tokens, parsed)?);
                }
                // A column is called as itself, and an operator's result has no name.
                SelectItem::UnnamedExpr(Expr::Identifier(_) | Expr::CompoundIdentifier(_))
                    if item.last().and_then(name_of) == Some(name) =>
                {
                    column = Some(*item);
                }
                SelectItem::UnnamedExpr(
                    Expr::Identifier(_) | Expr::CompoundIdentifier(_) | Expr::BinaryOp { .. },
                ) => {}
                SelectItem::UnnamedExpr(_) if may_be_called(item, name) => return None,
                _ => {}
            }
        }
        match (aliased, self.table) {
            (Some(expression), _) if column.is_none() => Some(expression),
            (Some(_), _) => None,
            (None, Some(table)) => table.column(name).map(|_| by),
            // Of several tables' columns of this name, only a result tells which.
            (None, None) => column,
        }
    }
}

/// An item of the list of results, without its alias.
pub(super) fn expression<'t>(
    item: &'t [Token],
    tokens: &'t [Token],
    parsed: &SelectItem,
) -> Option<&'t [Token]> {
    match parsed {
        SelectItem::UnnamedExpr(_) => Some(item),
        SelectItem::ExprWithAlias { alias, .. } => {
            let (last, rest) = item.split_last()?;
            let alias = tokens.get(token_of(alias)?)?;
            if alias.range != last.range {
                return None;
            }
            match rest.split_last() {
                Some((word, before)) if word_of(word) == Some("as") => Some(before),
                _ => Some(rest),
            }
        }
        _ => None,
    }
}

/// Whether PostgreSQL may give a result without an alias this name (`FigureColnameInternal` in parse_target.c): that of a column, a function or a
/// type in it, or of its kind.
fn may_be_called(item: &[Token], name: &str) -> bool {
    const KINDS: [&str; 22] = [
        "array",
        "bool",
        "bpchar",
        "case",
        "coalesce",
        "date",
        "exists",
        "float4",
        "float8",
        "greatest",
        "grouping",
        "int2",
        "int4",
        "int8",
        "interval",
        "least",
        "nullif",
        "numeric",
        "row",
        "timestamp",
        "timestamptz",
        "varchar",
    ];
    KINDS.contains(&name) || name.ends_with("tz") || item.iter().any(|token| name_of(token) == Some(name))
}
