//! GROUP BY of a primary key: PostgreSQL then lets the table's other columns stand alone in the list of results
//! (`check_functional_grouping` in pg_constraint.c). Gathered rows have no primary key, so those columns are grouped by as well, which makes
//! the same groups.

use std::ops::ControlFlow;

use coordinator::catalogue::{Column, Relation};
use sqlparser::ast::{Expr, GroupByExpr, Select, SelectItem, Statement, Value, Visit, Visitor};

use super::super::lexer::Token;
use super::super::parse::{token_at, token_of};
use super::super::proof::Proof;
use super::filter::Block;
use super::{Splice, With, quoted};

/// Types whose values PostgreSQL cannot group: json, xml and the geometric ones.
pub(super) const UNGROUPED: [u32; 9] = [114, 142, 600, 601, 602, 603, 604, 628, 718];

/// What must be added to a query's GROUP BY lists, of these columns of a table.
pub(super) fn completed(
    tokens: &[Token],
    statement: &Statement,
    proof: &Proof<'_>,
    columns: impl Fn(&Relation) -> Vec<String>,
) -> Vec<Splice> {
    struct Groups<'g, 'a, F> {
        tokens: &'g [Token],
        proof: &'g Proof<'a>,
        columns: F,
        found: Vec<Splice>,
    }
    impl<F: Fn(&Relation) -> Vec<String>> Visitor for Groups<'_, '_, F> {
        type Break = ();
        fn pre_visit_select(&mut self, select: &Select) -> ControlFlow<()> {
            self.found
                .extend(completed_here(self.tokens, select, self.proof, &self.columns));
            ControlFlow::Continue(())
        }
    }
    let mut groups = Groups {
        tokens,
        proof,
        columns,
        found: Vec::new(),
    };
    let _ = statement.visit(&mut groups);
    groups.found
}

fn completed_here(
    tokens: &[Token],
    select: &Select,
    proof: &Proof<'_>,
    columns: &impl Fn(&Relation) -> Vec<String>,
) -> Option<Splice> {
    let GroupByExpr::Expressions(keys, modifiers) = &select.group_by else {
        return None;
    };
    let sets = |key: &Expr| matches!(key, Expr::GroupingSets(_) | Expr::Cube(_) | Expr::Rollup(_));
    if keys.is_empty() || !modifiers.is_empty() || keys.iter().any(sets) {
        return None;
    }
    let block = Block::of(select, proof);
    let grouped: Vec<(usize, &Column)> = keys
        .iter()
        .filter_map(|key| block.column(result_or_column(key, select)))
        .collect();
    // Behind the last key whose end is known.
    let last = keys.iter().rev().find_map(end_of)?;
    let end = tokens.get(last)?.range.end;
    let mut added = String::new();
    for item in block.instances() {
        let instance = &proof.instances[item];
        let has = |column: &Column| {
            grouped
                .iter()
                .any(|(at, known)| *at == item && known.name == column.name)
        };
        let whole = |key: Vec<&Column>| key.into_iter().all(has);
        if !instance.has_own_names() || !key_of(instance.table).is_some_and(whole) {
            continue;
        }
        let named = columns(instance.table);
        let others = instance.table.columns.iter().filter(|column| {
            named.contains(&column.name) && !UNGROUPED.contains(&column.type_oid) && !has(column)
        });
        for column in others {
            added.push_str(&format!(
                ", {}.{}",
                quoted(&instance.called),
                quoted(&column.name)
            ));
        }
    }
    (!added.is_empty()).then_some(Splice {
        at: end..end,
        with: With::Text(added),
    })
}

/// A table's primary key; none where there is none.
pub(super) fn key_of(table: &Relation) -> Option<Vec<&Column>> {
    let column = |number| table.columns.iter().find(|column| column.number == number);
    let key: Option<Vec<&Column>> = table.primary_key.iter().map(|number| column(*number)).collect();
    key.filter(|key| !key.is_empty())
}

/// What a number in GROUP BY stands for.
fn result_or_column<'e>(key: &'e Expr, select: &'e Select) -> &'e Expr {
    let Expr::Value(value) = key else { return key };
    let Value::Number(number, _) = &value.value else {
        return key;
    };
    let item = number
        .parse::<usize>()
        .ok()
        .and_then(|number| select.projection.get(number.checked_sub(1)?));
    match item {
        Some(SelectItem::UnnamedExpr(expr) | SelectItem::ExprWithAlias { expr, .. }) => expr,
        _ => key,
    }
}

/// The last token of a column's name or of a number.
fn end_of(key: &Expr) -> Option<usize> {
    match key {
        Expr::Identifier(name) => token_of(name),
        Expr::CompoundIdentifier(names) => token_of(names.last()?),
        Expr::Value(value) => token_at(value.span),
        _ => None,
    }
}
