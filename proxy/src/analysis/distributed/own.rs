//! Queries whose rows each group computes by itself, because all that a row is made of is in its group.
//!
//! *Claim:* the result is what the groups give together, if each runs the query on its own rows. Take one of the tables in FROM as the *root*, on no
//! side of an outer join that may be missing: so each row of FROM comes of one row of the root. Cut the root into the rows of each group, and leave all
//! other tables whole: the rows of FROM are cut as well. Now look at one group. The root's keys are all of that group, and what the proof's edges
//! reach from it ([`super::super::proof`], rules 3 and 5), wherever in the query it stands, needs no rows with other keys. So the group's own rows do.
//! Reference tables are whole in every group, and expressions have the same value in all of them ([`is_steady`]).
//!
//! What is made of the rows of FROM must not look at those of two groups at once:
//!
//! - GROUP BY, DISTINCT, DISTINCT ON, and PARTITION BY of each window function have a shard key: that of a table whose row is there
//!   ([`Block::key`]). A group finds in it only keys that are its own, NULL included, which has a slot, too; so rows with equal keys are in one group.
//!   GROUPING SETS have sets without it.
//! - LIMIT and ORDER BY are for the whole statement alone, which [`super::merge`] sees to.
//! - Aggregates are those of the query itself: one in a subquery whose arguments are all of a query around is that query's
//!   (`check_agg_arguments` in parse_agg.c).
//!
//! A subquery in FROM of which all this holds is a table by itself, and can be the root. So can what UNION ALL puts together; UNION, INTERSECT and EXCEPT
//! compare rows, which are in one group if both sides have a shard key in the same place.

use std::ops::ControlFlow;

use coordinator::hash::KeyType;
use sqlparser::ast::{
    Distinct, Expr, Function, FunctionArguments, GroupByExpr, NamedWindowExpr, Query, Select, SelectItem,
    SetExpr, SetOperator, SetQuantifier, Statement, TableFactor, Value, Visit, Visitor, WindowSpec,
    WindowType,
};

use super::super::check::Findings;
use super::super::functions::{self, FunctionKind};
use super::super::lexer::{Kind, Token};
use super::super::proof::Proof;
use super::super::relations::parts;
use super::filter::{Block, is_moment};

/// A column of what a query gives.
#[derive(Clone, Debug)]
pub(super) struct Output {
    /// What it is called; none where that is not known.
    pub(super) name: Option<String>,
    /// Whose shard key it is, of this type, without NULLs that no row has.
    pub(super) key: Option<KeyType>,
}

/// The SELECT that is the whole statement, if each group has all that the rows of its FROM are made of, and every expression has the same value in
/// all groups.
pub(super) fn of_own_rows<'s>(
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
    let roots = roots(select, proof)?;
    (is_steady(tokens, statement, proof, findings) && proof.bind_all(&roots)).then_some((query, select))
}

/// Whether what each group gives is all of the result together, in no order.
pub(in super::super) fn are_whole(
    tokens: &[Token],
    statement: &Statement,
    proof: &Proof<'_>,
    findings: &Findings,
) -> bool {
    let Statement::Query(query) = statement else {
        return false;
    };
    is_steady(tokens, statement, proof, findings)
        && own(query, proof).is_some_and(|own| proof.bind_all(&own.roots))
}

/// The tables that are cut so that the rows of this source of a MERGE, a table or a subquery, are; none where each group would have
/// others, or something in the statement has another value in each.
pub(in super::super) fn roots_of_source(
    tokens: &[Token],
    (statement, source): (&Statement, &TableFactor),
    proof: &Proof<'_>,
    findings: &Findings,
) -> Option<Vec<usize>> {
    if !is_steady(tokens, statement, proof, findings) {
        return None;
    }
    match source {
        TableFactor::Derived { subquery, .. } => own(subquery, proof).map(|own| own.roots),
        source => Some(vec![Block::of_factor(source, proof).instance(0)?]),
    }
}

/// The columns of a source of a MERGE that are shard keys of rows that are there, of these types.
pub(in super::super) fn keys_of_source(source: &TableFactor, proof: &Proof<'_>) -> Vec<(String, KeyType)> {
    let outputs = Block::of_factor(source, proof).all().unwrap_or_default();
    let keyed = |output: Output| Some((output.name?, output.key?));
    outputs.into_iter().filter_map(keyed).collect()
}

/// Whether a group that has all rows that a statement needs computes what any other would.
fn is_steady(tokens: &[Token], statement: &Statement, proof: &Proof<'_>, findings: &Findings) -> bool {
    let moment = |token: &Token| matches!(&token.kind, Kind::Text(text) if is_moment(text));
    let steady = findings.unsteady.is_none() && findings.local.is_none() && findings.multiplies.is_none();
    let mut looking = Looking {
        proof,
        blocks: Vec::new(),
    };
    steady
        && !proof.system
        && !proof.temporary
        && !tokens.iter().any(moment)
        && statement.visit(&mut looking).is_continue()
}

/// Looks for WITH, and for aggregates that may be of a query around theirs.
struct Looking<'w, 'a> {
    proof: &'w Proof<'a>,
    /// Of the queries around, the innermost last.
    blocks: Vec<Option<Block<'a>>>,
}

impl Looking<'_, '_> {
    /// Whether a call's arguments or its FILTER name a column of the innermost query, or none at all.
    fn is_here(&self, function: &Function) -> bool {
        let mut names = Names {
            block: self.blocks.last().and_then(Option::as_ref),
            any: false,
            here: false,
        };
        let _ = function.visit(&mut names);
        names.here || !names.any
    }
}

impl Visitor for Looking<'_, '_> {
    type Break = ();
    fn pre_visit_query(&mut self, query: &Query) -> ControlFlow<()> {
        self.blocks.push(match &*query.body {
            SetExpr::Select(select) => Some(Block::of(select, self.proof)),
            _ => None,
        });
        match query.with {
            Some(_) => ControlFlow::Break(()),
            None => ControlFlow::Continue(()),
        }
    }
    fn post_visit_query(&mut self, _: &Query) -> ControlFlow<()> {
        self.blocks.pop();
        ControlFlow::Continue(())
    }
    fn pre_visit_select(&mut self, select: &Select) -> ControlFlow<()> {
        self.blocks.push(Some(Block::of(select, self.proof)));
        ControlFlow::Continue(())
    }
    fn post_visit_select(&mut self, _: &Select) -> ControlFlow<()> {
        self.blocks.pop();
        ControlFlow::Continue(())
    }
    fn pre_visit_expr(&mut self, expr: &Expr) -> ControlFlow<()> {
        // A query and its SELECT are two.
        match expr {
            Expr::Function(function)
                if self.blocks.len() > 2
                    && function.over.is_none()
                    && kind_of(function) != FunctionKind::Normal
                    && !self.is_here(function) =>
            {
                ControlFlow::Break(())
            }
            _ => ControlFlow::Continue(()),
        }
    }
}

/// Looks whether columns are a query's own.
struct Names<'n, 'a> {
    block: Option<&'n Block<'a>>,
    any: bool,
    here: bool,
}

impl Visitor for Names<'_, '_> {
    type Break = ();
    fn pre_visit_expr(&mut self, expr: &Expr) -> ControlFlow<()> {
        if matches!(expr, Expr::Identifier(_) | Expr::CompoundIdentifier(_)) {
            self.any = true;
            self.here |= self.block.is_some_and(|block| block.names(expr));
        }
        // What is in it may be of another query.
        if matches!(
            expr,
            Expr::Subquery(_) | Expr::Exists { .. } | Expr::InSubquery { .. }
        ) {
            self.any = true;
        }
        ControlFlow::Continue(())
    }
}

fn kind_of(function: &Function) -> FunctionKind {
    let names = parts(&function.name).unwrap_or_default();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    functions::find(&names).map_or(FunctionKind::Aggregate, |found| found.kind)
}

/// A query that each group computes for its own rows.
struct Own {
    /// The tables that are cut.
    roots: Vec<usize>,
    outputs: Option<Vec<Output>>,
}

fn own(query: &Query, proof: &Proof<'_>) -> Option<Own> {
    let cut = query.limit_clause.is_some() || query.fetch.is_some() || query.order_by.is_some();
    if cut || query.with.is_some() || !query.locks.is_empty() {
        return None;
    }
    of_body(&query.body, proof)
}

fn of_body(body: &SetExpr, proof: &Proof<'_>) -> Option<Own> {
    match body {
        SetExpr::Select(select) if are_own(select, proof) => Some(Own {
            roots: roots(select, proof)?,
            outputs: outputs(select, proof),
        }),
        SetExpr::Query(query) => own(query, proof),
        SetExpr::SetOperation {
            op,
            set_quantifier,
            left,
            right,
        } => {
            let (left, right) = (of_body(left, proof)?, of_body(right, proof)?);
            let outputs = left
                .outputs
                .zip(right.outputs)
                .map(|(left, right)| both(left, right));
            let keyed = |outputs: &Vec<Output>| outputs.iter().any(|output| output.key.is_some());
            let whole = match (op, set_quantifier) {
                (SetOperator::Union, SetQuantifier::All) => true,
                (
                    SetOperator::Union | SetOperator::Intersect | SetOperator::Except,
                    SetQuantifier::All | SetQuantifier::Distinct | SetQuantifier::None,
                ) => outputs.as_ref().is_some_and(keyed),
                _ => false,
            };
            whole.then(|| Own {
                roots: [left.roots, right.roots].concat(),
                outputs,
            })
        }
        _ => None,
    }
}

/// What two sides of a set operation give, which is called as on the left. Keys of one type come in the same way to their groups.
fn both(left: Vec<Output>, right: Vec<Output>) -> Vec<Output> {
    let same = |(left, right): (Output, Output)| Output {
        key: left.key.filter(|_| left.key == right.key),
        ..left
    };
    if left.len() != right.len() {
        return Vec::new();
    }
    left.into_iter().zip(right).map(same).collect()
}

/// The tables that are cut so that the rows of a FROM are.
fn roots(select: &Select, proof: &Proof<'_>) -> Option<Vec<usize>> {
    let block = Block::of(select, proof);
    let factors = select
        .from
        .iter()
        .flat_map(|tree| std::iter::once(&tree.relation).chain(tree.joins.iter().map(|join| &join.relation)));
    let mut found: Vec<Vec<usize>> = Vec::new();
    for (at, factor) in factors.enumerate() {
        if block.is_missing(at) {
            continue;
        }
        match factor {
            TableFactor::Derived {
                lateral: false,
                subquery,
                sample: None,
                ..
            } => found.extend(own(subquery, proof).map(|own| own.roots)),
            _ => found.extend(block.instance(at).map(|instance| vec![instance])),
        }
    }
    found.into_iter().max_by_key(|roots| proof.count_bound(roots))
}

/// What a subquery in FROM gives, where that can be told.
pub(super) fn outputs_of(query: &Query, proof: &Proof<'_>) -> Option<Vec<Output>> {
    fn of_body(body: &SetExpr, proof: &Proof<'_>) -> Option<Vec<Output>> {
        match body {
            SetExpr::Select(select) => outputs(select, proof),
            SetExpr::Query(query) => outputs_of(query, proof),
            SetExpr::SetOperation { left, right, .. } => {
                Some(both(of_body(left, proof)?, of_body(right, proof)?))
            }
            _ => None,
        }
    }
    of_body(&query.body, proof)
}

fn outputs(select: &Select, proof: &Proof<'_>) -> Option<Vec<Output>> {
    let block = Block::of(select, proof);
    if let [SelectItem::Wildcard(options)] = select.projection.as_slice() {
        return block.all().filter(|_| *options == Default::default());
    }
    let each = select.projection.iter().map(|item| match item {
        SelectItem::ExprWithAlias { expr, alias } => Some(Output {
            name: Some(alias.value.clone()),
            key: block.key(expr),
        }),
        SelectItem::UnnamedExpr(expr) => Some(Output {
            name: match expr {
                Expr::Identifier(name) => Some(name.value.clone()),
                Expr::CompoundIdentifier(names) => names.last().map(|name| name.value.clone()),
                Expr::Function(function) => parts(&function.name).and_then(|mut parts| parts.pop()),
                _ => None,
            },
            key: block.key(expr),
        }),
        _ => None,
    });
    each.collect()
}

/// Whether nothing that is made of the rows of a FROM looks at those of two groups.
pub(super) fn are_own(select: &Select, proof: &Proof<'_>) -> bool {
    let GroupByExpr::Expressions(by, modifiers) = &select.group_by else {
        return false;
    };
    let block = Block::of(select, proof);
    let is_key = |expr: &Expr| block.key(expr).is_some();
    let result_is_key = |item: &SelectItem| match item {
        SelectItem::UnnamedExpr(expr) | SelectItem::ExprWithAlias { expr, .. } => is_key(expr),
        _ => false,
    };
    let distinct = match &select.distinct {
        None | Some(Distinct::All) => true,
        Some(Distinct::Distinct) => select.projection.iter().any(result_is_key),
        Some(Distinct::On(on)) => on.iter().any(|by| {
            let meant = meant(by, select, |name| has_alias(select, name));
            meant.is_some_and(is_key)
        }),
    };
    let grouped = !by.is_empty() && modifiers.is_empty() && {
        // A set without the key would be one of several groups.
        let set = |key: &Expr| matches!(key, Expr::GroupingSets(_) | Expr::Cube(_) | Expr::Rollup(_));
        let keyed = |by: &Expr| meant(by, select, |name| block.has_not(name)).is_some_and(is_key);
        !by.iter().any(set) && by.iter().any(keyed)
    };
    let mut calls = Calls {
        select,
        block: &block,
        depth: 0,
        aggregate: false,
    };
    let windows = select.visit(&mut calls).is_continue();
    let plain = by.is_empty() && modifiers.is_empty() && !calls.aggregate && select.having.is_none();
    windows && distinct && (plain || grouped)
}

/// Whether an ORDER BY has no aggregate and no window function but those of which [`are_own`] may hold.
pub(super) fn is_ordered_own(query: &Query, select: &Select, proof: &Proof<'_>) -> bool {
    let block = Block::of(select, proof);
    let mut calls = Calls {
        select,
        block: &block,
        depth: 0,
        aggregate: false,
    };
    let grouped = !matches!(&select.group_by, GroupByExpr::Expressions(by, _) if by.is_empty());
    query.order_by.visit(&mut calls).is_continue() && (grouped || !calls.aggregate)
}

/// What an item of GROUP BY or DISTINCT ON stands for: a number is that of a result, a name that of one where `is_result` says so
/// (`findTargetlistEntrySQL92` in parse_clause.c).
fn meant<'e>(by: &'e Expr, select: &'e Select, is_result: impl Fn(&str) -> bool) -> Option<&'e Expr> {
    let star = |item: &SelectItem| {
        !matches!(
            item,
            SelectItem::UnnamedExpr(_) | SelectItem::ExprWithAlias { .. }
        )
    };
    match by {
        Expr::Value(value) => {
            let Value::Number(number, _) = &value.value else {
                return None;
            };
            let item = select
                .projection
                .get(number.parse::<usize>().ok()?.checked_sub(1)?)?;
            match item {
                SelectItem::UnnamedExpr(expr) | SelectItem::ExprWithAlias { expr, .. }
                    if !select.projection.iter().any(star) =>
                {
                    Some(expr)
                }
                _ => None,
            }
        }
        Expr::Identifier(name) if is_result(&name.value) => {
            let mut found = select.projection.iter().filter_map(|item| match item {
                SelectItem::ExprWithAlias { expr, alias } if alias.value == name.value => Some(expr),
                _ => None,
            });
            found.next().filter(|_| found.next().is_none())
        }
        _ => Some(by),
    }
}

fn has_alias(select: &Select, name: &str) -> bool {
    let called =
        |item: &SelectItem| matches!(item, SelectItem::ExprWithAlias { alias, .. } if alias.value == name);
    select.projection.iter().any(called)
}

/// Looks at the calls of one SELECT, not at those in its subqueries: breaks at a window function that looks at rows of several groups.
struct Calls<'c, 'a> {
    select: &'c Select,
    block: &'c Block<'a>,
    depth: usize,
    aggregate: bool,
}

impl Calls<'_, '_> {
    fn is_cut(&self, window: &WindowType) -> bool {
        match window {
            WindowType::WindowSpec(spec) => self.is_cut_by(spec),
            WindowType::NamedWindow(name) => self.is_cut_as(&name.value, self.select.named_window.len()),
        }
    }

    fn is_cut_by(&self, spec: &WindowSpec) -> bool {
        let key = |by: &Expr| self.block.key(by).is_some();
        let more = self.select.named_window.len();
        spec.partition_by.iter().any(key)
            || spec
                .window_name
                .as_ref()
                .is_some_and(|name| self.is_cut_as(&name.value, more))
    }

    /// A window by its name: one may be made of another.
    fn is_cut_as(&self, name: &str, more: usize) -> bool {
        let mut named = self.select.named_window.iter();
        let (Some(found), Some(more)) = (named.find(|named| named.0.value == name), more.checked_sub(1))
        else {
            return false;
        };
        match &found.1 {
            NamedWindowExpr::NamedWindow(other) => self.is_cut_as(&other.value, more),
            NamedWindowExpr::WindowSpec(spec) => {
                let key = |by: &Expr| self.block.key(by).is_some();
                let other = spec.window_name.as_ref();
                spec.partition_by.iter().any(key)
                    || other.is_some_and(|name| self.is_cut_as(&name.value, more))
            }
        }
    }
}

impl Visitor for Calls<'_, '_> {
    type Break = ();
    fn pre_visit_query(&mut self, _: &Query) -> ControlFlow<()> {
        self.depth += 1;
        ControlFlow::Continue(())
    }
    fn post_visit_query(&mut self, _: &Query) -> ControlFlow<()> {
        self.depth -= 1;
        ControlFlow::Continue(())
    }
    fn pre_visit_expr(&mut self, expr: &Expr) -> ControlFlow<()> {
        let Expr::Function(function) = expr else {
            return ControlFlow::Continue(());
        };
        match &function.over {
            _ if self.depth > 0 => {}
            Some(window) if !self.is_cut(window) => return ControlFlow::Break(()),
            Some(_) => {}
            None => {
                let plain = kind_of(function) == FunctionKind::Normal && function.within_group.is_empty();
                let listed = matches!(
                    &function.args,
                    FunctionArguments::List(_) | FunctionArguments::None
                );
                self.aggregate |= !plain || !listed;
            }
        }
        ControlFlow::Continue(())
    }
}
