//! Subqueries that are computed again for each row around them, over gathered rows, which have no index.
//!
//! `(SELECT sum(x) FROM t WHERE t.a = o.a)` looks at all of `t` each time, and PostgreSQL knows no other way. But a hash join keeps the hash table of
//! its inner side from one time to the next if nothing in it depends on the row around (`ExecReScanHashJoin` in nodeHashjoin.c). So the values of that
//! row become a table of one row in the subquery's FROM, `h`, and what `t` is compared with are its columns:
//!
//! ```sql
//! (SELECT sum(x) FROM (SELECT o.a AS c ... OFFSET 0) AS h, t WHERE ((t.a = h.c) IS TRUE) AND hash(t.a) = hash(h.c))
//! ```
//!
//! Why that is the same: a cross join with one row changes no rows, and its columns have the values, types and collations of those that they stand
//! for. In a conjunct of WHERE `IS TRUE` changes nothing, and equal values have equal hashes. What else is written there is for the planner alone:
//! OFFSET 0 keeps it from putting `h` back into the subquery; two series of one row each, which it takes for a thousand, make
//! `h` the larger side, and so `t` the hashed one; and hashes are compared as `xid`, by an operator that no merge join can use.
//!
//! A hash table that does not fit into `work_mem` is made anew each time. So this is for few rows only ([`Gathering::probed_text`](super::Gathering)).

use std::ops::ControlFlow;

use sqlparser::ast::{
    BinaryOperator, Expr, Query, Select, SelectItem, SetExpr, Statement, TableFactor, Visit, Visitor,
};

use super::super::lexer::Token;
use super::super::parse::token_of;
use super::super::proof::Proof;
use super::super::relations::misread_column;
use super::clauses::{word_of, write};
use super::filter::{Block, Piece, conjuncts, written};
use super::{Splice, With, name_of};

/// Types whose equality is that of their hashes, and of two values of the same type: bool, bytea, text, oid, float8, bpchar, varchar, date,
/// time, timestamp, timestamptz, numeric, uuid.
const HASHED: [u32; 13] = [
    16, 17, 25, 26, 701, 1042, 1043, 1082, 1083, 1114, 1184, 1700, 2950,
];

/// Integers, whose hashes are equal whatever their sizes (`hashint8` in hashfunc.c): int8, int2, int4.
const INTEGERS: [u32; 3] = [20, 21, 23];

/// Words of our own. Queries that use them are left as they are.
const OWN: &str = "_howdah_";

/// What changes in a text so that its subqueries find rows by hashes.
pub(super) fn find(tokens: &[Token], statement: &Statement, proof: &Proof<'_>) -> Vec<Splice> {
    let own = |name: &str| name.starts_with(OWN);
    let columns = proof
        .instances
        .iter()
        .flat_map(|instance| &instance.table.columns);
    if tokens.iter().filter_map(name_of).any(own) || columns.into_iter().any(|column| own(&column.name)) {
        return Vec::new();
    }
    let mut blocks = Blocks {
        tokens,
        proof,
        found: Vec::new(),
    };
    let _ = statement.visit(&mut blocks);
    blocks.found
}

/// Visits each SELECT, which is around the subqueries in it.
struct Blocks<'b, 'a> {
    tokens: &'b [Token],
    proof: &'b Proof<'a>,
    found: Vec<Splice>,
}

impl Visitor for Blocks<'_, '_> {
    type Break = ();
    fn pre_visit_select(&mut self, select: &Select) -> ControlFlow<()> {
        let mut within = Within {
            tokens: self.tokens,
            proof: self.proof,
            around: &Block::of(select, self.proof),
            depth: 0,
            found: &mut self.found,
        };
        let _ = select.projection.visit(&mut within);
        let _ = select.selection.visit(&mut within);
        let _ = select.having.visit(&mut within);
        ControlFlow::Continue(())
    }
}

/// Visits the subqueries of one SELECT that give values, not those in them. EXISTS is a join for PostgreSQL.
struct Within<'w, 'a> {
    tokens: &'w [Token],
    proof: &'w Proof<'a>,
    around: &'w Block<'a>,
    depth: usize,
    found: &'w mut Vec<Splice>,
}

impl Visitor for Within<'_, '_> {
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
        if let Expr::Subquery(query) | Expr::InSubquery { subquery: query, .. } = expr
            && self.depth == 0
            && let SetExpr::Select(select) = &*query.body
        {
            let found = self.subquery(select);
            self.found.extend(found.into_iter().flatten());
        }
        ControlFlow::Continue(())
    }
}

/// `t.a = o.a`.
struct Pair {
    instance: usize,
    /// Tokens of both, and of that which is of the row around.
    all: (usize, usize),
    outer: (usize, usize),
    inner: (usize, usize),
}

impl Within<'_, '_> {
    fn subquery(&self, select: &Select) -> Option<Vec<Splice>> {
        let star =
            |item: &SelectItem| matches!(item, SelectItem::Wildcard(_) | SelectItem::QualifiedWildcard(..));
        let TableFactor::Table { name, args: None, .. } = &select.from.first()?.relation else {
            return None;
        };
        let first = token_of(name.0.first()?.as_ident()?)?;
        let from = word_of(self.tokens.get(first.checked_sub(1)?)?) == Some("from");
        if !from || select.projection.iter().any(star) {
            return None;
        }
        let block = Block::of(select, self.proof);
        let mut pairs: Vec<Pair> = Vec::new();
        for conjunct in conjuncts(select.selection.as_ref()?) {
            if let Expr::BinaryOp {
                left,
                op: BinaryOperator::Eq,
                right,
            } = conjunct
            {
                let pair = self
                    .pair(&block, left, right)
                    .or_else(|| self.pair(&block, right, left));
                pairs.extend(pair);
            }
        }
        let nullable = |text: String| format!("CASE WHEN {text} IS NULL THEN 1 ELSE 1 END");
        let one = nullable(self.text(pairs.first()?.outer)?);
        let mut values = Vec::new();
        for (number, pair) in pairs.iter().enumerate() {
            values.push(format!("{} AS \"{OWN}{number}\"", self.text(pair.outer)?));
        }
        let row = format!(
            "(SELECT {} FROM pg_catalog.generate_series(1, {one}) AS \"{OWN}s\", \
             pg_catalog.generate_series(1, {one}) AS \"{OWN}t\" OFFSET 0) AS \"{OWN}o\", ",
            values.join(", ")
        );
        let mut splices = vec![self.at((first, first), false, row)?];
        for (number, pair) in pairs.iter().enumerate() {
            splices.push(self.at(pair.all, false, "((".to_owned())?);
            splices.push(Splice {
                at: self.start(pair.outer.0)?..self.end(pair.outer.1)?,
                with: With::Text(format!("\"{OWN}o\".\"{OWN}{number}\"")),
            });
            let mut behind = ") IS TRUE)".to_owned();
            let same = |other: &Pair| other.instance == pair.instance;
            if !pairs[..number].iter().any(same) {
                let (mut inner, mut outer) = (Vec::new(), Vec::new());
                for (number, pair) in pairs.iter().enumerate().filter(|(_, other)| same(other)) {
                    inner.push(self.text(pair.inner)?);
                    outer.push(format!("\"{OWN}o\".\"{OWN}{number}\""));
                }
                behind.push_str(&format!(
                    " AND ({} OPERATOR(pg_catalog.=) {})",
                    hash(&inner),
                    hash(&outer)
                ));
            }
            splices.push(self.at(pair.all, true, behind)?);
        }
        Some(splices)
    }

    /// A comparison of a column of a gathered table with one of the row around.
    fn pair(&self, block: &Block<'_>, inner: &Expr, outer: &Expr) -> Option<Pair> {
        let (instance, column) = block.column(inner)?;
        let outside = match outer {
            Expr::Identifier(name) => !misread_column(name) && block.has_not(&name.value),
            Expr::CompoundIdentifier(names) => names.len() == 2 && block.calls_none(&names.first()?.value),
            _ => false,
        };
        let around = self.around.any_column(outer).filter(|_| outside)?;
        let alike = column.type_oid == around.type_oid && HASHED.contains(&column.type_oid);
        let integers = [column.type_oid, around.type_oid]
            .iter()
            .all(|oid| INTEGERS.contains(oid));
        let (inner, outer) = (tokens_of(inner)?, tokens_of(outer)?);
        let (first, last) = (inner.min(outer), inner.max(outer));
        // Nothing but the operator is between them.
        (first.1 + 2 == last.0 && (alike || integers)).then_some(Pair {
            instance,
            all: (first.0, last.1),
            outer,
            inner,
        })
    }

    fn start(&self, token: usize) -> Option<usize> {
        Some(self.tokens.get(token)?.range.start)
    }

    fn end(&self, token: usize) -> Option<usize> {
        Some(self.tokens.get(token)?.range.end)
    }

    /// This text before or behind these tokens.
    fn at(&self, (first, last): (usize, usize), behind: bool, text: String) -> Option<Splice> {
        let at = if behind {
            self.end(last)?
        } else {
            self.start(first)?
        };
        Some(Splice {
            at: at..at,
            with: With::Text(text),
        })
    }

    fn text(&self, (first, last): (usize, usize)) -> Option<String> {
        let mut pieces: Vec<Piece> = Vec::new();
        write(self.tokens.get(first..=last)?, &mut pieces);
        Some(written(&pieces, |index| index + 1).trim_end().to_owned())
    }
}

/// A hash of these values, NULLs included: `hash_record` is of PostgreSQL 14.
fn hash(values: &[String]) -> String {
    format!(
        "CAST(CAST(pg_catalog.int4and(pg_catalog.hash_record(ROW({})), 2147483647) AS pg_catalog.text) AS pg_catalog.xid)",
        values.join(", ")
    )
}

/// The first and the last token of a column.
fn tokens_of(expr: &Expr) -> Option<(usize, usize)> {
    match expr {
        Expr::Identifier(name) => Some((token_of(name)?, token_of(name)?)),
        Expr::CompoundIdentifier(names) => Some((token_of(names.first()?)?, token_of(names.last()?)?)),
        _ => None,
    }
}
