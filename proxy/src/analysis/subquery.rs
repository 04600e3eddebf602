//! Subqueries in FROM, and so views: which of their columns are shard keys of the tables in them.
//!
//! Let a subquery select column `k`, which is the key of its table `t`, and let something outside keep no row but those with
//! `k = 5`. Rows of `t` with other keys make rows of the subquery whose `k` is another, which are dropped; so without these rows of `t` nothing
//! changes, unless they also had a say in rows with `k = 5`. They have in windows, in LIMIT and OFFSET, in DISTINCT ON, and in groups whose
//! rows do not have the same `k`. They have not where `t` is on the side of a join that gets NULLs: `k` is NULL then.

use sqlparser::ast::{Distinct, Expr, GroupByExpr, Query, Select, SelectItem, SetExpr, Visit, Visitor};
use std::ops::ControlFlow;

use super::scope::{Block, Instance, key_of};

/// The columns of a subquery that are shard keys, by their names, and the instances that they are of. `block` is its FROM.
pub(super) fn keys(query: &Query, block: &Block<'_>, instances: &[Instance<'_>]) -> Vec<(String, usize)> {
    let SetExpr::Select(select) = &*query.body else {
        return Vec::new();
    };
    let cut = query.limit_clause.is_some() || query.fetch.is_some();
    if cut || query.with.is_some() || matches!(select.distinct, Some(Distinct::On(_))) || has_window(select) {
        return Vec::new();
    }
    let scope = [block];
    let key = |expr: &Expr| key_of(expr, &scope, instances).map(|(_, at)| at);
    let grouped = grouped(select, key);
    let mut found = Vec::new();
    for item in &select.projection {
        let (name, expr) = match item {
            SelectItem::ExprWithAlias { expr, alias } => (alias.value.clone(), expr),
            SelectItem::UnnamedExpr(expr) => match expr {
                Expr::Identifier(name) => (name.value.clone(), expr),
                Expr::CompoundIdentifier(parts) => match parts.last() {
                    Some(name) => (name.value.clone(), expr),
                    None => continue,
                },
                _ => continue,
            },
            SelectItem::Wildcard(options) if options == &Default::default() => {
                return star(select, block, instances, found);
            }
            _ => return Vec::new(),
        };
        let known = grouped
            .as_ref()
            .is_none_or(|by| key(expr).is_some_and(|at| by.contains(&at)));
        // Of two columns of one name none can be meant.
        if let Some(at) = key(expr).filter(|_| known) {
            found.push((name, at));
        }
    }
    found
}

/// The instance whose key is all that a subquery gives.
pub(super) fn only_key(query: &Query, block: &Block<'_>, instances: &[Instance<'_>]) -> Option<usize> {
    let SetExpr::Select(select) = &*query.body else {
        return None;
    };
    let [SelectItem::UnnamedExpr(_) | SelectItem::ExprWithAlias { .. }] = select.projection.as_slice() else {
        return None;
    };
    match keys(query, block, instances).as_slice() {
        [(_, at)] => Some(*at),
        _ => None,
    }
}

/// `SELECT *`, and nothing else, of one table or subquery.
fn star(
    select: &Select,
    block: &Block<'_>,
    instances: &[Instance<'_>],
    found: Vec<(String, usize)>,
) -> Vec<(String, usize)> {
    let alone = select.projection.len() == 1 && found.is_empty() && block.items.len() == 1;
    let ungrouped = matches!(&select.group_by, GroupByExpr::Expressions(by, _) if by.is_empty());
    let Some(item) = block
        .items
        .first()
        .filter(|_| alone && ungrouped && select.having.is_none())
    else {
        return Vec::new();
    };
    let own = item
        .instance
        .and_then(|at| Some((instances[at].key_name?.to_owned(), at)));
    own.into_iter().chain(item.keys.iter().cloned()).collect()
}

/// The instances whose keys a SELECT is grouped by; none where it has no groups.
fn grouped(select: &Select, key: impl Fn(&Expr) -> Option<usize>) -> Option<Vec<usize>> {
    match &select.group_by {
        GroupByExpr::Expressions(by, modifiers) if by.is_empty() && modifiers.is_empty() => {
            // Without GROUP BY an aggregate makes one row of all.
            (select.having.is_some() || has_call(select)).then(Vec::new)
        }
        GroupByExpr::Expressions(by, modifiers) if modifiers.is_empty() => {
            let plain =
                |expr: &Expr| !matches!(expr, Expr::GroupingSets(_) | Expr::Cube(_) | Expr::Rollup(_));
            Some(if by.iter().all(plain) {
                by.iter().filter_map(key).collect()
            } else {
                Vec::new()
            })
        }
        _ => Some(Vec::new()),
    }
}

/// Whether its list may have an aggregate: it calls anything at all beside columns.
pub(super) fn has_call(select: &Select) -> bool {
    struct Calls;
    impl Visitor for Calls {
        type Break = ();
        fn pre_visit_expr(&mut self, expr: &Expr) -> ControlFlow<()> {
            match expr {
                Expr::Function(function) => {
                    let name = function.name.to_string();
                    let plain = super::functions::find(&[name.as_str()])
                        .is_ok_and(|found| found.kind == super::functions::FunctionKind::Normal);
                    if plain {
                        ControlFlow::Continue(())
                    } else {
                        ControlFlow::Break(())
                    }
                }
                _ => ControlFlow::Continue(()),
            }
        }
    }
    select.projection.visit(&mut Calls).is_break()
}

fn has_window(select: &Select) -> bool {
    struct Windows;
    impl Visitor for Windows {
        type Break = ();
        fn pre_visit_expr(&mut self, expr: &Expr) -> ControlFlow<()> {
            match expr {
                Expr::Function(function) if function.over.is_some() => ControlFlow::Break(()),
                _ => ControlFlow::Continue(()),
            }
        }
    }
    !select.named_window.is_empty() || select.visit(&mut Windows).is_break()
}
