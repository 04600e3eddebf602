//! What the conditions of WHERE and ON pin: rules 1 to 3 of [`super::proof`].

use coordinator::hash::KeyUse;
use sqlparser::ast::{
    BinaryOperator, Expr, Join, JoinConstraint, JoinOperator, Query, TableFactor, TableWithJoins,
};

use super::constants;
use super::plan::{Key, KeyValue};
use super::proof::{Proof, not_understood};
use super::refusal::Refusal;
use super::relations::parts;
use super::scope::{Scope, key_of};

/// Which instances a condition can pin.
#[derive(Clone, Copy)]
pub(super) enum Pins {
    /// All of its block.
    Block,
    /// This one.
    Only(usize),
}

impl Proof<'_> {
    /// The ON conditions of a FROM.
    pub(super) fn joins(&mut self, from: &[TableWithJoins], scope: &Scope<'_>) -> Result<(), Refusal> {
        let mut place = 0;
        for tree in from {
            place += items_of(&tree.relation);
            self.expressions_of_nested(&tree.relation, scope)?;
            for (number, join) in tree.joins.iter().enumerate() {
                let right = place;
                place += items_of(&join.relation);
                self.expressions_of_nested(&join.relation, scope)?;
                let later = tree.joins.get(number + 1..).unwrap_or_default();
                let extended = later
                    .iter()
                    .any(|join| matches!(JoinKind::of(join), Ok(JoinKind::Right | JoinKind::Full)));
                let right = match join.relation {
                    TableFactor::Table { .. } => {
                        scope.first().and_then(|block| block.items.get(right)?.instance)
                    }
                    _ => None,
                };
                let pins = match (JoinKind::of(join)?, right) {
                    (JoinKind::Inner, _) if !extended => Some(Pins::Block),
                    (JoinKind::Inner | JoinKind::Left, Some(right)) => Some(Pins::Only(right)),
                    _ => None,
                };
                self.join(join, scope, pins)?;
                self.merged_keys(join, scope, right, pins);
            }
        }
        Ok(())
    }

    /// JOIN ... USING (key), where both sides' shard keys have that name: an equality of the two.
    fn merged_keys(&mut self, join: &Join, scope: &Scope<'_>, right: Option<usize>, pins: Option<Pins>) {
        let (Some(JoinConstraint::Using(columns)), Some(right), Some(pins)) = (constraint(join), right, pins)
        else {
            return;
        };
        let Some(block) = scope.first() else { return };
        let name = self.instances[right].key_name;
        let named = columns
            .iter()
            .any(|column| parts(column).is_some_and(|parts| parts.last().map(String::as_str) == name));
        let same = |at: &usize| {
            *at < right
                && self.instances[*at].key_name == name
                && self.instances[*at].key.key_type == self.instances[right].key.key_type
        };
        let left = block.items.iter().filter_map(|item| item.instance).find(same);
        if let (true, Some(left)) = (named && name.is_some(), left) {
            self.edges.push((left, right));
            if matches!(pins, Pins::Block) {
                self.edges.push((right, left));
            }
        }
    }

    fn join(&mut self, join: &Join, scope: &Scope<'_>, pins: Option<Pins>) -> Result<(), Refusal> {
        let Some(JoinConstraint::On(condition)) = constraint(join) else {
            return Ok(());
        };
        self.expressions(condition, scope)?;
        if let Some(pins) = pins {
            self.condition(condition, scope, pins);
        }
        Ok(())
    }

    /// The ON conditions inside parentheses: their subqueries count, but they pin nothing.
    fn expressions_of_nested(&mut self, factor: &TableFactor, scope: &Scope<'_>) -> Result<(), Refusal> {
        if let TableFactor::NestedJoin { table_with_joins, .. } = factor {
            self.expressions_of_nested(&table_with_joins.relation, scope)?;
            for join in &table_with_joins.joins {
                self.expressions_of_nested(&join.relation, scope)?;
                self.join(join, scope, None)?;
            }
        }
        Ok(())
    }

    /// What the conjuncts of a condition pin.
    pub(super) fn condition(&mut self, condition: &Expr, scope: &Scope<'_>, pins: Pins) {
        let mut left = vec![condition];
        while let Some(expr) = left.pop() {
            match expr {
                Expr::Nested(inner) => left.push(inner),
                Expr::BinaryOp {
                    left: one,
                    op: BinaryOperator::And,
                    right: other,
                } => {
                    left.push(one);
                    left.push(other);
                }
                Expr::BinaryOp {
                    left: one,
                    op: BinaryOperator::Eq,
                    right: other,
                } => {
                    self.equality(one, other, scope, pins);
                    self.equality(other, one, scope, pins);
                }
                Expr::InList {
                    expr,
                    list,
                    negated: false,
                } => self.list(expr, list, scope, pins),
                Expr::InSubquery {
                    expr,
                    subquery,
                    negated: false,
                } => self.listed(expr, subquery, scope, pins),
                Expr::IsNull(inner) => {
                    // IS NULL is true of NULL-extended rows too: only where no join can extend.
                    let alone = match scope.first().map(|block| block.items.as_slice()) {
                        Some([only]) => only.instance,
                        _ => None,
                    };
                    let key = key_of(inner, scope, &self.instances);
                    if let (Pins::Block, Some((0, at))) = (pins, key)
                        && alone == Some(at)
                    {
                        let column = self.instances[at].key;
                        let value = KeyValue::Null;
                        self.pin(
                            at,
                            vec![Key {
                                column,
                                used: KeyUse::Assignment,
                                value,
                            }],
                        );
                    }
                }
                _ => {}
            }
        }
    }

    fn own_key(&self, expr: &Expr, scope: &Scope<'_>, pins: Pins) -> Option<usize> {
        match (key_of(expr, scope, &self.instances)?, pins) {
            ((0, at), Pins::Block) => Some(at),
            ((0, at), Pins::Only(only)) => (at == only).then_some(at),
            _ => None,
        }
    }

    fn equality(&mut self, key: &Expr, other: &Expr, scope: &Scope<'_>, pins: Pins) {
        let Some(at) = self.own_key(key, scope, pins) else {
            return;
        };
        let column = self.instances[at].key;
        if let Some(key) = constants::key(other, column, KeyUse::Comparison) {
            self.pin(at, vec![key]);
        } else if let Some((_, from)) = key_of(other, scope, &self.instances)
            && from != at
            && self.instances[from].key.key_type == column.key_type
        {
            self.edges.push((from, at));
        }
    }

    /// `u.key IN (SELECT t.key ...)`: what the subquery says of other keys, or of NULL, makes no row of `u` pass.
    fn listed(&mut self, key: &Expr, subquery: &Query, scope: &Scope<'_>, pins: Pins) {
        let here = |(query, _): &&(*const Query, usize)| std::ptr::eq(*query, subquery);
        let (Some((_, from)), Some((_, at))) = (
            key_of(key, scope, &self.instances),
            self.listed.iter().find(here).copied(),
        ) else {
            return;
        };
        if from == at || self.instances[from].key.key_type != self.instances[at].key.key_type {
            return;
        }
        self.edges.push((from, at));
        if self.own_key(key, scope, pins) == Some(from) {
            self.edges.push((at, from));
        }
    }

    fn list(&mut self, key: &Expr, list: &[Expr], scope: &Scope<'_>, pins: Pins) {
        let Some(at) = self.own_key(key, scope, pins) else {
            return;
        };
        let column = self.instances[at].key;
        let keys: Option<Vec<Key>> = list
            .iter()
            .map(|item| constants::key(item, column, KeyUse::Comparison))
            .collect();
        if let Some(keys) = keys {
            let keys = constants::with_common_type(keys);
            self.pin(at, keys);
        }
    }
}

fn items_of(factor: &TableFactor) -> usize {
    match factor {
        TableFactor::NestedJoin { table_with_joins, .. } => {
            let joins = table_with_joins.joins.iter().map(|join| items_of(&join.relation));
            items_of(&table_with_joins.relation) + joins.sum::<usize>()
        }
        _ => 1,
    }
}

/// The joins that PostgreSQL has.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum JoinKind {
    Inner,
    Left,
    Right,
    Full,
}

impl JoinKind {
    pub(super) fn of(join: &Join) -> Result<JoinKind, Refusal> {
        if join.global {
            return Err(not_understood("JOIN"));
        }
        match &join.join_operator {
            JoinOperator::Join(_)
            | JoinOperator::Inner(_)
            | JoinOperator::CrossJoin(JoinConstraint::None) => Ok(JoinKind::Inner),
            JoinOperator::Left(_) | JoinOperator::LeftOuter(_) => Ok(JoinKind::Left),
            JoinOperator::Right(_) | JoinOperator::RightOuter(_) => Ok(JoinKind::Right),
            JoinOperator::FullOuter(_) => Ok(JoinKind::Full),
            _ => Err(not_understood("JOIN")),
        }
    }
}

pub(super) fn constraint(join: &Join) -> Option<&JoinConstraint> {
    match &join.join_operator {
        JoinOperator::Join(constraint)
        | JoinOperator::Inner(constraint)
        | JoinOperator::Left(constraint)
        | JoinOperator::LeftOuter(constraint)
        | JoinOperator::Right(constraint)
        | JoinOperator::RightOuter(constraint)
        | JoinOperator::FullOuter(constraint) => Some(constraint),
        _ => None,
    }
}

pub(super) fn uses_names(join: &Join) -> bool {
    matches!(
        constraint(join),
        Some(JoinConstraint::Using(_) | JoinConstraint::Natural)
    )
}
