//! WITH whose queries are used once: the same statement with each of them where it is used.
//!
//! Such a text is planned in the place of the client's own where that lets the groups compute it for their own rows, which is only done where no expression
//! is volatile: so it is all one whether a query is computed once or each time. Used once, and not writing, it then gives the same wherever it
//! stands. Names in it that are no columns of its own FROM could find others around it there: but the client's own text is described first, or
//! is what the groups run, and is an error then.
//!
//! Before UPDATE, DELETE and MERGE they are written where they are used as well ([`inlined`]), so that rows of their tables can be brought; those before
//! INSERT ... SELECT become the SELECT's own ([`moved`]), and so may be used as often as one likes.

use std::ops::ControlFlow;

use sqlparser::ast::{Cte, FromTable, ObjectName, Query, SetExpr, Statement, TableFactor, Visit, Visitor};

use super::feed;
use super::lexer::{Kind, Token, quoted};
use super::moves::range_of;
use super::parse::{token_at, token_of};

/// The statement so, of these tokens of a text; none where it has no such WITH.
pub(super) fn inlined(tokens: &[Token], text: &str, statement: &Statement) -> Option<String> {
    let Statement::Query(query) = statement else {
        return None;
    };
    let with = query.with.as_ref().filter(|with| !with.recursive)?;
    // What is written to is the table, and no query of WITH.
    let written_to = match &*query.body {
        SetExpr::Update(Statement::Update(update)) => Some(&update.table.relation),
        SetExpr::Delete(Statement::Delete(delete)) => match &delete.from {
            FromTable::WithFromKeyword(from) => Some(&from.first()?.relation),
            FromTable::WithoutKeyword(_) => return None,
        },
        SetExpr::Merge(Statement::Merge(merge)) => Some(&merge.table),
        _ => None,
    };
    if let Some(TableFactor::Table { name, .. }) = written_to
        && with.cte_tables.iter().any(|cte| is_called(name, cte))
    {
        return None;
    }
    let mut uses = Uses {
        ctes: &with.cte_tables,
        found: Vec::new(),
        names: 0,
        depth: 0,
    };
    // One that is not used is not evaluated, and may be left out of a statement that writes.
    if statement.visit(&mut uses).is_break()
        || (written_to.is_none() && uses.found.len() != with.cte_tables.len())
        || uses.names != uses.found.len()
    {
        return None;
    }
    let byte = |at: usize| tokens.get(at).map(|token| token.range.clone());
    let body = |cte: &Cte| {
        let close = token_at(cte.closing_paren_token.0.span)?;
        let open = opening(tokens, close)?;
        Some((byte(open)?.start, byte(close)?.end))
    };
    // A piece of the text with the queries that it uses in their places. What is used is defined before.
    let written = |mut from: usize, to: usize, made: &[String]| {
        let mut piece = String::new();
        let mut here: Vec<&Use> = uses
            .found
            .iter()
            .filter(|used| (from..to).contains(&used.start(tokens)))
            .collect();
        here.sort_by_key(|used| used.at);
        for used in here {
            let range = byte(used.at)?;
            piece.push_str(text.get(from..range.start)?);
            piece.push_str(made.get(used.cte)?);
            if !used.aliased {
                piece.push_str(&format!(
                    " AS {}",
                    quoted(&with.cte_tables[used.cte].alias.name.value)
                ));
            }
            from = range.end;
        }
        piece.push_str(text.get(from..to)?);
        Some(piece)
    };
    let mut made: Vec<String> = Vec::new();
    for cte in &with.cte_tables {
        let (start, end) = body(cte)?;
        let piece = written(start, end, &made)?;
        let columns: Vec<String> = cte
            .alias
            .columns
            .iter()
            .map(|column| quoted(&column.name.value))
            .collect();
        made.push(match columns.as_slice() {
            [] => piece,
            columns => format!("(SELECT * FROM {piece} AS \"named\" ({}))", columns.join(", ")),
        });
    }
    let (_, end) = body(with.cte_tables.last()?)?;
    written(end, tokens.last()?.range.end, &made)
}

/// An INSERT ... SELECT of these tokens of a text, whose WITH is the SELECT's own; none where it is no such statement.
pub(super) fn moved(tokens: &[Token], text: &str, statement: &Statement) -> Option<String> {
    let Statement::Query(query) = statement else {
        return None;
    };
    let (with, SetExpr::Insert(Statement::Insert(insert))) = (query.with.as_ref()?, &*query.body) else {
        return None;
    };
    let source = insert.source.as_deref()?;
    if source.with.is_some() || matches!(&*source.body, SetExpr::Values(_)) {
        return None;
    }
    let close = token_at(with.cte_tables.last()?.closing_paren_token.0.span)?;
    let (head, select, tail) = feed::parts(tokens.get(close + 1..)?)?;
    let piece = |tokens: &[Token]| text.get(range_of(tokens));
    Some(format!(
        "{} {} {} {}",
        piece(head)?,
        piece(tokens.get(..=close)?)?,
        piece(select)?,
        piece(tail)?
    ))
}

fn is_called(name: &ObjectName, cte: &Cte) -> bool {
    let [only] = name.0.as_slice() else { return false };
    only.as_ident()
        .is_some_and(|ident| ident.value == cte.alias.name.value)
}

/// The parenthesis that the one at `close` closes.
fn opening(tokens: &[Token], close: usize) -> Option<usize> {
    let mut depth = 0usize;
    for at in (0..=close).rev() {
        match tokens.get(at)?.kind {
            Kind::Punctuation(')') => depth += 1,
            Kind::Punctuation('(') => {
                depth = depth.checked_sub(1)?;
                if depth == 0 {
                    return Some(at);
                }
            }
            _ => {}
        }
    }
    None
}

/// Where a query of WITH is used.
struct Use {
    cte: usize,
    /// The token of its name.
    at: usize,
    /// Whether it has another name there.
    aliased: bool,
}

impl Use {
    fn start(&self, tokens: &[Token]) -> usize {
        tokens.get(self.at).map_or(0, |token| token.range.start)
    }
}

/// Finds the uses; breaks at more than one of a query, and at what makes it unclear what a name means.
struct Uses<'s> {
    ctes: &'s [Cte],
    found: Vec<Use>,
    /// How many relations have their names.
    names: usize,
    depth: usize,
}

impl Uses<'_> {
    fn named(&self, name: &ObjectName) -> Option<(usize, usize)> {
        let cte = self.ctes.iter().position(|cte| is_called(name, cte))?;
        Some((cte, token_of(name.0.first()?.as_ident()?)?))
    }
}

impl Visitor for Uses<'_> {
    type Break = ();
    fn pre_visit_query(&mut self, query: &Query) -> ControlFlow<()> {
        self.depth += 1;
        let reads = matches!(
            &*query.body,
            SetExpr::Select(_) | SetExpr::SetOperation { .. } | SetExpr::Query(_) | SetExpr::Values(_)
        );
        let writes = matches!(
            &*query.body,
            SetExpr::Update(_) | SetExpr::Delete(_) | SetExpr::Merge(_)
        );
        let known = reads || (self.depth == 1 && writes);
        if (self.depth > 1 && query.with.is_some()) || !known || !query.locks.is_empty() {
            return ControlFlow::Break(());
        }
        ControlFlow::Continue(())
    }
    fn post_visit_query(&mut self, _: &Query) -> ControlFlow<()> {
        self.depth -= 1;
        ControlFlow::Continue(())
    }
    fn pre_visit_relation(&mut self, name: &ObjectName) -> ControlFlow<()> {
        self.names += usize::from(self.named(name).is_some());
        ControlFlow::Continue(())
    }
    fn pre_visit_table_factor(&mut self, factor: &TableFactor) -> ControlFlow<()> {
        let TableFactor::Table {
            name,
            alias,
            args: None,
            ..
        } = factor
        else {
            return ControlFlow::Continue(());
        };
        let Some((cte, at)) = self.named(name) else {
            return ControlFlow::Continue(());
        };
        if self.found.iter().any(|used| used.cte == cte) {
            return ControlFlow::Break(());
        }
        self.found.push(Use {
            cte,
            at,
            aliased: alias.is_some(),
        });
        ControlFlow::Continue(())
    }
}
