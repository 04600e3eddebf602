//! FOR UPDATE and FOR SHARE of rows of one table, with ORDER BY or LIMIT.
//!
//! Each group locks its own rows, one group after the other, and gives them in order; the node puts them together ([`super::merge`]). A row is found and
//! locked by what is in it alone, so the groups lock together what one server would, and as there the order is that of the values which rows had
//! before they were locked.
//!
//! With LIMIT each group has to lock as many rows as are wanted in all, since it does not know the others'. Those that are not among the first of
//! all stay locked without having been given. So it is for those who pass locked rows by, for whom that is as if somebody else worked on these, and not for
//! those who wait, who would do so for nothing.

use sqlparser::ast::{NonBlock, Statement};

use super::super::check::Findings;
use super::super::lexer::Token;
use super::super::moves::range_of;
use super::super::proof::Proof;
use super::super::refusal::Refusal;
use super::super::temporary::keyword_at;
use super::{Gathering, merge};

/// Plans such a statement; none if it is another.
pub(in super::super) fn plan(
    tokens: &[Token],
    statement: &Statement,
    proof: &Proof<'_>,
    findings: &Findings,
) -> Option<Result<Gathering, Refusal>> {
    let Statement::Query(query) = statement else {
        return None;
    };
    let alone = findings.relations == 1 && findings.queries == 1 && proof.instances.len() == 1;
    let limited = query.limit_clause.is_some() || query.fetch.is_some();
    if !alone || query.locks.is_empty() || query.with.is_some() || !(limited || query.order_by.is_some()) {
        return None;
    }
    let at = keyword_at(tokens, "for")?;
    let (read, locks) = tokens.split_at(at);
    let late = ["order", "limit", "offset", "fetch"];
    if late.iter().any(|word| keyword_at(locks, word).is_some()) {
        return Some(Err(
            refusal("ORDER BY or LIMIT behind it").hint("Write ORDER BY and LIMIT before FOR UPDATE.")
        ));
    }
    let merge = merge::find(read, statement, proof, findings)
        .or_else(|| merge::find_with_parameter(read, statement, proof, findings))?;
    let passes = query
        .locks
        .iter()
        .all(|lock| lock.nonblock == Some(NonBlock::SkipLocked));
    if (merge.limit.is_some() || merge.limit_from.is_some()) && !passes {
        return Some(Err(refusal("LIMIT")
            .detail("Each group would lock as many rows, also those that are not among the first of all, and others would wait for these.")
            .hint("Add SKIP LOCKED, leave LIMIT out, or add WHERE on the shard key, so that it runs on one group.")));
    }
    let own = range_of(tokens);
    Some(Ok(Gathering {
        own: own.clone(),
        expanded: None,
        query: own,
        parts: Vec::new(),
        partial: None,
        merge: Some(merge),
        splices: Vec::new(),
        probes: Vec::new(),
    }))
}

fn refusal(what: &str) -> Refusal {
    Refusal::unsupported(format!(
        "FOR UPDATE or FOR SHARE with {what} on rows of several groups is not supported"
    ))
}
