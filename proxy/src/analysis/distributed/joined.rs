//! Queries whose rows each group computes by itself, because all that a row is made of is in its group.
//!
//! Such a query joins distributed tables by their shard keys, and whatever reference tables, which every group has. One of its tables, the
//! *root*, is on no side of an outer join that may be missing: so each row of the result comes of one row of the root. The others are bound to its
//! shard key by equalities ([`super::super::proof`], rule 3): for the root's rows of one group, rows of other groups have no part in the result. So
//! the result is what the groups give together.

use sqlparser::ast::{Query, Select, SetExpr, Statement};

use super::super::check::Findings;
use super::super::lexer::{Kind, Token};
use super::super::proof::Proof;
use super::filter::{Block, is_moment};

/// The SELECT that is the whole statement, if it is such a query, without subqueries, and every expression of it has the same value in all groups.
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
    let moment = |token: &Token| matches!(&token.kind, Kind::Text(text) if is_moment(text));
    let steady = findings.unsteady.is_none() && findings.local.is_none() && findings.multiplies.is_none();
    let alone = findings.queries == 1 && query.with.is_none() && !proof.system && !proof.temporary;
    if !steady || !alone || tokens.iter().any(moment) {
        return None;
    }
    let block = Block::of(select, &proof.instances);
    // Reference tables are the only others that are left.
    let whole = block.has_only_tables()
        && block.len() == findings.relations
        && block.instances().count() == proof.instances.len();
    let root = |at: &usize| !block.is_nullable(*at) && proof.binds_all(*at);
    (whole && block.instances().any(|at| root(&at))).then_some((query, select))
}
