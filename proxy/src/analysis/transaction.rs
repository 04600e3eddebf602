//! BEGIN, COMMIT, SAVEPOINT and their like.

use super::Refusal;
use super::lexer::Token;
use super::plan::{Isolation, Plan, TransactionControl, TransactionModes};
use super::statement::syntax_for_postgres;
use super::words::Words;

/// Plans a transaction control statement; its first word is one of theirs.
pub(super) fn plan(tokens: &[Token]) -> Result<Plan, Refusal> {
    let mut words = Words::new(tokens);
    let Some(control) = read(&mut words)? else {
        return Ok(syntax_for_postgres());
    };
    if !words.is_empty() {
        return Ok(syntax_for_postgres());
    }
    Ok(Plan::Transaction(control))
}

fn read(words: &mut Words<'_>) -> Result<Option<TransactionControl>, Refusal> {
    let twophase = [
        &["prepare", "transaction"][..],
        &["commit", "prepared"],
        &["rollback", "prepared"],
    ];
    if twophase.iter().any(|keywords| words.sees(keywords)) {
        return Err(
            Refusal::unsupported("two-phase commit by the client is not supported")
                .detail("Prepared transactions belong to Howdah.")
                .hint("Use COMMIT."),
        );
    }
    if words.take(&["start", "transaction"]) {
        return Ok(modes(words).map(TransactionControl::Begin));
    }
    if words.take(&["set", "transaction"]) {
        if words.sees(&["snapshot"]) {
            return Err(Refusal::unsupported("SET TRANSACTION SNAPSHOT is not supported"));
        }
        let named = !words.is_empty();
        return Ok(modes(words).filter(|_| named).map(TransactionControl::Set));
    }
    if words.take(&["savepoint"]) {
        return Ok(words.name().map(TransactionControl::Savepoint));
    }
    if words.take(&["release"]) {
        words.take(&["savepoint"]);
        return Ok(words.name().map(TransactionControl::Release));
    }
    let first = words.take_any(&["begin", "commit", "end", "rollback", "abort"]);
    let _ = words.take_any(&["work", "transaction"]);
    Ok(match first {
        Some("begin") => modes(words).map(TransactionControl::Begin),
        Some("rollback") if words.take(&["to"]) => {
            words.take(&["savepoint"]);
            words.name().map(TransactionControl::RollbackTo)
        }
        Some("commit" | "end") => Some(TransactionControl::Commit { chain: chain(words) }),
        Some("rollback" | "abort") => Some(TransactionControl::Rollback { chain: chain(words) }),
        _ => None,
    })
}

fn chain(words: &mut Words<'_>) -> bool {
    if words.take(&["and", "no", "chain"]) {
        return false;
    }
    words.take(&["and", "chain"])
}

/// Reads modes up to the end.
fn modes(words: &mut Words<'_>) -> Option<TransactionModes> {
    let mut modes = TransactionModes::default();
    while !words.is_empty() {
        if words.take(&["isolation", "level"]) {
            modes.isolation = Some(isolation(words)?);
        } else if words.take(&["read", "only"]) {
            modes.read_only = Some(true);
        } else if words.take(&["read", "write"]) {
            modes.read_only = Some(false);
        } else if words.take(&["not", "deferrable"]) {
            modes.deferrable = Some(false);
        } else if words.take(&["deferrable"]) {
            modes.deferrable = Some(true);
        } else {
            return None;
        }
        if words.take_mark(',') && words.is_empty() {
            return None;
        }
    }
    Some(modes)
}

fn isolation(words: &mut Words<'_>) -> Option<Isolation> {
    if words.take(&["read", "committed"]) || words.take(&["read", "uncommitted"]) {
        Some(Isolation::ReadCommitted)
    } else if words.take(&["repeatable", "read"]) {
        Some(Isolation::RepeatableRead)
    } else if words.take(&["serializable"]) {
        Some(Isolation::Serializable)
    } else {
        None
    }
}
