//! Which columns of the tables a query can look at.

use std::collections::HashSet;
use std::ops::ControlFlow;

use coordinator::catalogue::Relation;
use sqlparser::ast::{Select, SelectItem, Statement, Visit, Visitor};

use super::super::lexer::{Kind, Token};
use super::super::scope::Instance;
use super::name_of;

/// The columns that a query's text names, wherever and for whatever.
pub(in super::super) struct Columns<'t> {
    /// All words that could be a column.
    named: HashSet<&'t str>,
    /// It takes all columns of some table, or of all.
    all: bool,
    /// The tables that are used as a whole row.
    whole: HashSet<(String, String)>,
}

impl<'t> Columns<'t> {
    /// Of a query of these tables.
    pub(in super::super) fn of(
        tokens: &'t [Token],
        statement: &Statement,
        instances: &[Instance<'_>],
    ) -> Columns<'t> {
        let names: HashSet<usize> = instances
            .iter()
            .flat_map(|instance| {
                instance
                    .at
                    .into_iter()
                    .flat_map(|(from, to)| from..=to)
                    .chain(instance.alias_at)
            })
            .collect();
        let point = |at: usize| {
            tokens
                .get(at)
                .is_some_and(|token| token.kind == Kind::Punctuation('.'))
        };
        let star = |at: usize| matches!(tokens.get(at).map(|token| &token.kind), Some(Kind::Operator(all)) if all == "*");
        let natural = |token: &Token| token.kind == Kind::Word("natural".to_owned());
        let qualified_star = (0..tokens.len()).any(|at| point(at) && star(at + 1));
        let all = takes_all(statement) || qualified_star || tokens.iter().any(natural);
        // A table's name that no point follows is the row, unless it is where the table gets that name.
        let rows: HashSet<&str> = (0..tokens.len())
            .filter(|at| !names.contains(at) && !point(at + 1))
            .filter_map(|at| name_of(&tokens[at]))
            .collect();
        // `t.f` where f is no column is the function f of the row.
        let calls = |instance: &Instance<'_>| {
            (0..tokens.len()).any(|at| {
                let of_it = name_of(&tokens[at]).is_some_and(|name| name == instance.called);
                let name = tokens
                    .get(at + 2)
                    .and_then(name_of)
                    .filter(|_| of_it && point(at + 1));
                name.is_some_and(|name| instance.table.column(name).is_none())
            })
        };
        let whole = instances
            .iter()
            .filter(|instance| {
                !instance.has_own_names() || rows.contains(instance.called.as_str()) || calls(instance)
            })
            .map(|instance| (instance.table.schema.clone(), instance.table.name.clone()))
            .collect();
        Columns {
            named: tokens.iter().filter_map(name_of).collect(),
            all,
            whole,
        }
    }

    /// Of a table, in its order.
    pub(super) fn of_table(&self, table: &Relation) -> Vec<String> {
        let all = self.all || self.whole.contains(&(table.schema.clone(), table.name.clone()));
        let columns = table
            .columns
            .iter()
            .filter(|column| all || self.named.contains(column.name.as_str()));
        columns.map(|column| column.name.clone()).collect()
    }
}

/// Whether a list of results, or of what is returned, is `*`.
fn takes_all(statement: &Statement) -> bool {
    struct Stars;
    impl Visitor for Stars {
        type Break = ();
        fn pre_visit_select(&mut self, select: &Select) -> ControlFlow<()> {
            let star = |item: &SelectItem| {
                matches!(item, SelectItem::Wildcard(_) | SelectItem::QualifiedWildcard(..))
            };
            if select.projection.iter().any(star) {
                return ControlFlow::Break(());
            }
            ControlFlow::Continue(())
        }
    }
    let star =
        |item: &SelectItem| matches!(item, SelectItem::Wildcard(_) | SelectItem::QualifiedWildcard(..));
    let returned = match statement {
        Statement::Update(update) => update.returning.as_deref(),
        Statement::Delete(delete) => delete.returning.as_deref(),
        _ => None,
    };
    returned.is_some_and(|items| items.iter().any(star)) || statement.visit(&mut Stars).is_break()
}
