//! UPDATE, DELETE and MERGE that need rows of other tables than their own: FROM, USING, subqueries.
//!
//! What such a statement does to a row of its table is a function of that row and of the other tables. So a group does it right to its own
//! rows if it has, of each other table, all rows that can matter to them. It has them where that table's shard key equals the row's own
//! (the proof's edges lead from the target to it), and of reference tables. Of the others, all rows that fulfil the conditions on that table
//! alone are brought to each group, as [`super::distributed`] gathers them for one.

use sqlparser::ast::{Statement, TableFactor, TableWithJoins, UpdateTableFromKind};

use super::Refusal;
use super::check::{self, Findings};
use super::distributed::{self, Gathering};
use super::lexer::Token;
use super::plan::{Spread, Target};
use super::proof::Proof;
use super::upsert;

/// How an UPDATE or DELETE is run to which rows of other tables are brought.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bring {
    /// UPDATE or DELETE.
    pub verb: &'static str,
    /// What is gathered. Its text is the statement's own.
    pub gathering: Gathering,
    /// Where all rows that it needs are in one group, that one can run it as it is.
    pub alone: bool,
}

/// What an UPDATE or DELETE needs.
pub(super) enum Needs {
    /// Nothing but what each group has.
    Nothing,
    /// This.
    Rows(Box<Bring>),
}

/// Plans an UPDATE or DELETE with FROM, USING or subqueries, or a MERGE.
///
/// # Errors
/// When it cannot be run on several groups.
pub(super) fn plan(
    tokens: &[Token],
    statement: &Statement,
    proof: &Proof<'_>,
    findings: &Findings,
) -> Result<(Target, Needs), Refusal> {
    if let Statement::Merge(merge) = statement
        && upsert::inserts(merge)
    {
        return upsert::plan(tokens, statement, merge, (proof, findings));
    }
    let verb = match statement {
        Statement::Update(_) => "UPDATE",
        Statement::Merge(_) => "MERGE",
        _ => "DELETE",
    };
    let refused = |what: &str| {
        Refusal::unsupported(format!(
            "{verb} with {what} of rows of several groups is not supported"
        ))
        .hint("Add WHERE on the shard keys of all its tables, so that it runs on one group.")
    };
    let marked = |mut keys: Vec<_>| {
        check::mark_open_parameters(&mut keys, findings);
        keys
    };
    let all = proof.keys().map(marked);
    let own = proof.keys_of(0).map(marked);
    let spread = |keys: &Option<Vec<_>>| match keys {
        Some(keys) => Target::Keys(keys.clone(), Spread::Concatenate),
        None => Target::All,
    };
    let gathered = || {
        if let Some(local) = &findings.local {
            return Err(refused(&format!("\"{local}\"")));
        }
        if proof.system {
            return Err(refused("a system catalogue"));
        }
        // A subquery or a function in FROM may be computed once, for all rows.
        let more = findings.queries > 0
            || matches!(statement, Statement::Merge(_))
            || tables(statement).is_some_and(|(_, from)| !from.is_empty());
        if let Some(unsteady) = findings.unsteady.as_ref().filter(|_| more) {
            return Err(refused(&format!(
                "\"{unsteady}\" beside a subquery or another table"
            )));
        }
        let near = proof.reached_from(0);
        if near.iter().all(|near| *near) {
            return Ok(Needs::Nothing);
        }
        if !proof.locked.is_empty() {
            return Err(refused("FOR UPDATE or FOR SHARE"));
        }
        let gathering = distributed::brought(tokens, statement, proof, findings, |at| near[at])?;
        Ok(Needs::Rows(Box::new(Bring {
            verb,
            gathering,
            alone: all.is_some(),
        })))
    };
    match (gathered(), &all) {
        (Ok(Needs::Nothing), _) => Ok((spread(&own), Needs::Nothing)),
        (Ok(needs), Some(_)) => Ok((spread(&all), needs)),
        (Ok(needs), None) => Ok((spread(&own), needs)),
        (Err(refusal), Some(keys)) => Ok((
            Target::Keys(keys.clone(), Spread::Refuse(refusal)),
            Needs::Nothing,
        )),
        (Err(refusal), None) => Err(refusal),
    }
}

/// The table that a statement changes, and the others of its FROM or USING.
pub(super) fn tables(statement: &Statement) -> Option<(&TableFactor, &[TableWithJoins])> {
    match statement {
        Statement::Update(update) => {
            let from = match &update.from {
                Some(UpdateTableFromKind::AfterSet(from)) => from.as_slice(),
                _ => &[],
            };
            Some((&update.table.relation, from))
        }
        Statement::Delete(delete) => {
            let sqlparser::ast::FromTable::WithFromKeyword(from) = &delete.from else {
                return None;
            };
            Some((
                &from.first()?.relation,
                delete.using.as_deref().unwrap_or_default(),
            ))
        }
        _ => None,
    }
}
