//! Aggregates of one table, or of tables that are joined in each group ([`super::own`]): each group aggregates its own rows, and the query runs over what they give.
//!
//! A group gives, for each of its groups of GROUP BY, the columns in that list, the values of the expressions in it, and for each aggregate what
//! it comes to there. What DISTINCT aggregates look at is grouped by as well, so that each of its values comes once of each group: all that is
//! made of several can as well be made of smaller ones, and GROUPING SETS of the smallest. Where several of them look at different values, a group
//! would give each combination of these; it gives each by itself instead (GROUPING SETS), NULL for the others, and the aggregates without all of them.
//! That is for aggregates that pass over NULL: what one of them meets in rows that are not its own is NULL, is left out by its FILTER, which is NULL there, or
//! is a value that its own rows have, too. SELECT DISTINCT alone is nothing but groups.
//! Of several tables no columns are given, only values, and FROM is replaced as a whole.
//! The table in the text is replaced by these rows under the same name, with the same names and types of columns (as whole rows
//! are, [`super`]); aggregates are replaced by what makes one of several: a sum of counts, a sum of sums, the least of the least. What a
//! group does not give is called otherwise there, so that a text that still names it is refused by PostgreSQL and never computed from nothing.

use std::fmt;
use std::ops::{ControlFlow, Range};

use sqlparser::ast::{Distinct, GroupByExpr, Query, Select, SelectItem, Statement, Visit, Visitor};

use super::super::check::Findings;
use super::super::lexer::Token;
use super::super::plan::RelationName;
use super::super::proof::Proof;
use super::super::scope::Instance;
use super::clauses::{Clauses, write};
use super::combine::{Combined, Values, type_name};
use super::filter::{self, Piece};
use super::finding::{By, Calls, Finding, is_collated};
use super::own::of_own_rows;
use super::{Part, Reading, Splice, With, distinct, grouping, name_of, quoted, without_schemas};

/// How a SELECT of aggregates is answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Partial {
    /// The table, and its columns that groups give.
    pub part: Part,
    /// What the table's columns are qualified with.
    called: String,
    /// All of its tables, without columns.
    pub tables: Vec<Part>,
    /// FROM and what follows up to WHERE.
    from: Vec<Piece>,
    /// What else groups give: what they group by, of which there are so many, then aggregates.
    extras: Vec<Vec<Piece>>,
    keys: usize,
    /// What is grouped by apart ([`Finding::sets`]).
    sets: Vec<Vec<By>>,
    /// Its columns that are texts, where rows that are alike by their bytes are grouped.
    texts: Option<Vec<String>>,
    /// A text in it has a collation of its own.
    collated: bool,
    filter: Vec<Piece>,
    /// Where the table and its alias are in the text, in bytes; or all of them.
    table_at: Range<usize>,
    /// What stands for expressions and aggregates.
    combined: Vec<(Range<usize>, Combined)>,
    /// Behind which byte the name of which result is missing.
    unnamed: Vec<(usize, usize)>,
    splices: Vec<Splice>,
}

/// Words of our own. No table with such columns is aggregated so.
const OWN: &str = "_howdah_";

impl Partial {
    /// The statement that gives these columns of the table and all the rest in a group.
    #[must_use]
    pub fn reading(&self, columns: &[&str]) -> Reading {
        let quoted_columns: Vec<String> = columns.iter().map(|name| quoted(name)).collect();
        let plain = || quoted_columns.iter().map(|column| vec![Piece::text(column)]);
        let (keys, aggregates) = self.extras.split_at(self.keys);
        let aggregates = aggregates.iter().map(|aggregate| self.of_no_set(aggregate));
        let mut pieces = vec![Piece::text("SELECT")];
        pieces.extend(listed(plain().chain(keys.iter().cloned()).chain(aggregates)));
        pieces.extend_from_slice(&self.from);
        pieces.extend_from_slice(&self.filter);
        let by = match &self.texts {
            Some(texts) if !columns.is_empty() => {
                vec![Piece::text(format!(
                    " {}",
                    distinct::keys(&quoted_columns, columns, texts)
                ))]
            }
            _ if self.sets.is_empty() => listed(plain().chain(keys.iter().cloned())),
            _ => {
                let apart = |by: By| self.sets.iter().any(|set| set.contains(&by));
                let columns = columns.iter().zip(plain());
                let columns = columns.filter(|(name, _)| !apart(By::Column((**name).to_owned())));
                let keys = keys
                    .iter()
                    .enumerate()
                    .filter(|(number, _)| !apart(By::Value(*number)));
                let together = columns
                    .map(|(_, column)| column)
                    .chain(keys.map(|(_, key)| key.clone()));
                listed(together.chain([self.grouping_sets()]))
            }
        };
        if !by.is_empty() {
            pieces.push(Piece::text(" GROUP BY"));
            pieces.extend(by);
        }
        Reading::of(&pieces)
    }

    /// What is grouped by apart, and nothing of it.
    fn grouping_sets(&self) -> Vec<Piece> {
        let mut pieces = vec![Piece::text("GROUPING SETS (")];
        for set in &self.sets {
            pieces.push(Piece::text("("));
            pieces.extend(listed(set.iter().map(|by| self.by(by))));
            pieces.push(Piece::text("), "));
        }
        pieces.push(Piece::text("())"));
        pieces
    }

    /// What is grouped by, as groups say it.
    fn by(&self, by: &By) -> Vec<Piece> {
        match by {
            By::Column(name) => vec![Piece::text(quoted(name))],
            By::Value(number) => self.extras[*number].clone(),
        }
    }

    /// An aggregate where nothing is grouped by that is apart.
    fn of_no_set(&self, aggregate: &[Piece]) -> Vec<Piece> {
        if self.sets.is_empty() {
            return aggregate.to_vec();
        }
        let mut pieces = vec![Piece::text("CASE WHEN GROUPING(")];
        // The first of each set: only in the empty set is none of them grouped by.
        pieces.extend(listed(
            self.sets.iter().flat_map(|set| set.first()).map(|by| self.by(by)),
        ));
        let none = (1u64 << self.sets.len()) - 1;
        pieces.push(Piece::text(format!(") OPERATOR(pg_catalog.=) {none} THEN ")));
        pieces.extend_from_slice(aggregate);
        pieces.push(Piece::text("END"));
        pieces
    }

    /// How many values a group gives beside the table's columns.
    #[must_use]
    pub fn extras(&self) -> usize {
        self.extras.len()
    }

    /// The query over what groups give; none if values of these types are not brought together here. `columns` has the table's columns and
    /// whether they are given, `names` how the results are called.
    #[must_use]
    pub fn final_text(
        &self,
        text: &str,
        (query, parameters): (&Range<usize>, usize),
        (columns, values): (&[(&str, bool)], Values<'_>),
        names: &[String],
    ) -> Option<String> {
        let values = Values {
            own_collation: values.own_collation && !self.collated,
            ..values
        };
        let mut splices = self.splices.clone();
        let mut put = |at: Range<usize>, with: String| {
            splices.push(Splice {
                at,
                with: With::Text(with),
            })
        };
        let value = |extra: usize| format!("{}.\"{OWN}{extra}\"", quoted(&self.called));
        for (at, combined) in &self.combined {
            put(at.clone(), combined.text(values, value)?);
        }
        for (at, item) in &self.unnamed {
            put(*at..*at, format!(" AS {}", quoted(names.get(*item)?)));
        }
        let given = !self.part.columns.is_empty();
        let (mut number, mut arrays, mut called) = (parameters, Vec::new(), Vec::new());
        if given {
            number += 1;
            arrays.push(format!(
                "pg_catalog.unnest(${number}::{}[])",
                self.part.table.quoted()
            ));
            called.extend(columns.iter().enumerate().map(|(at, (name, given))| match given {
                true => quoted(name),
                false => format!("\"{OWN}without_{at}\""),
            }));
        }
        for (extra, oid) in values.types.iter().enumerate() {
            number += 1;
            arrays.push(format!(
                "pg_catalog.unnest(${number}::pg_catalog.{}[])",
                type_name(*oid)?
            ));
            called.push(format!("\"{OWN}{extra}\""));
        }
        let (arrays, called) = (arrays.join(", "), called.join(", "));
        put(
            self.table_at.clone(),
            format!("ROWS FROM ({arrays}) AS {} ({called})", quoted(&self.called)),
        );
        splices.sort_by_key(|splice| splice.at.start);
        let apart = |pair: &[Splice]| pair[0].at.end <= pair[1].at.start;
        splices
            .windows(2)
            .all(apart)
            .then(|| super::spliced(text, query, &splices, &[], 0))
    }

    /// What each group gives beside columns, and by which sets if there are some, as text.
    pub fn shown(&self) -> impl Iterator<Item = String> {
        let sets = (!self.sets.is_empty()).then(|| self.grouping_sets());
        self.extras.iter().cloned().chain(sets).map(|extra| {
            let text = filter::written(&extra, |index| index + 1);
            text.trim_end().to_owned()
        })
    }
}

/// These with commas between them.
fn listed(items: impl Iterator<Item = Vec<Piece>>) -> Vec<Piece> {
    let mut pieces = Vec::new();
    for (index, item) in items.enumerate() {
        pieces.push(Piece::text(if index == 0 { " " } else { ", " }));
        pieces.extend(item);
    }
    pieces
}

impl fmt::Display for Partial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let filter = filter::written(&self.filter, |index| index + 1);
        match self.tables.as_slice() {
            [_] => write!(f, "{}{}", self.part, filter.trim_end()),
            tables => {
                let names: Vec<&str> = tables.iter().map(|part| part.table.name.as_str()).collect();
                write!(f, "{}{}", names.join(", "), filter.trim_end())
            }
        }
    }
}

/// Plans a SELECT of aggregates, or DISTINCT, of one table; none where its rows have to be gathered.
pub(super) fn find(
    tokens: &[Token],
    statement: &Statement,
    proof: &Proof<'_>,
    findings: &Findings,
) -> Option<Partial> {
    let (query, select) = of_own_rows(tokens, statement, proof, findings)?;
    let instance = proof.instances.first()?;
    let GroupByExpr::Expressions(by, modifiers) = &select.group_by else {
        return None;
    };
    let star = |item: &SelectItem| {
        !matches!(
            item,
            SelectItem::UnnamedExpr(_) | SelectItem::ExprWithAlias { .. }
        )
    };
    let own = |name: &str| name.starts_with(OWN);
    // What is in WHERE is the groups' own.
    let mut outside = select.clone();
    outside.selection = None;
    if !modifiers.is_empty()
        || has_query(&outside)
        || has_query(&query.order_by)
        || has_query(&query.limit_clause)
        || !filter::Block::of(select, proof).has_only_tables()
        || select.projection.iter().any(star)
        || !select.named_window.is_empty()
        || tokens.iter().filter_map(name_of).any(own)
        || proof.instances.iter().any(|instance| !instance.has_own_names())
        || has_own_columns(proof)
    {
        return None;
    }
    let clauses = Clauses::of(tokens)?;
    let mut finding = Finding::of(tokens, &clauses, proof, select);
    let single = finding.single();
    let grouped = !by.is_empty() || findings.aggregate.is_some();
    let given = if grouped {
        let mut calls = Calls::default();
        if statement.visit(&mut calls).is_break() {
            return None;
        }
        finding.grouped(by, &calls.found, proof)?
    } else {
        alike(&finding, select, single?)?
    };
    let mut filter = Vec::new();
    if let Some(condition) = clauses.filter {
        filter.push(Piece::text(" WHERE "));
        write(condition, &mut filter);
    }
    let (mut splices, mut from) = (Vec::new(), Vec::new());
    let table_at = match single {
        Some(instance) => {
            splices = rest_of_one(tokens, statement, proof, &finding, &given)?;
            from.push(Piece::text(format!(
                " FROM {}",
                RelationName::of(instance.table).quoted()
            )));
            if instance.alias_at.is_some() {
                from.push(Piece::text(format!(" AS {}", quoted(&instance.called))));
            }
            let (from, to) = instance.at?;
            tokens.get(from)?.range.start..tokens.get(instance.alias_at.unwrap_or(to))?.range.end
        }
        None => {
            from.push(Piece::text(" "));
            write(clauses.from?, &mut from);
            // FROM itself stays.
            let done = finding.done.clone()?;
            clauses.from?.get(1)?.range.start..done.end
        }
    };
    let items = clauses.items();
    let unnamed = items
        .iter()
        .zip(&select.projection)
        .enumerate()
        .filter_map(|(at, (item, parsed))| {
            matches!(parsed, SelectItem::UnnamedExpr(_))
                .then(|| item.last().map(|last| (last.range.end, at)))?
        });
    Some(Partial {
        texts: (!grouped).then(|| distinct::texts(instance.table)),
        part: Part::of(RelationName::of(instance.table), given),
        tables: finding.parts(),
        called: single.map_or_else(|| OWN.to_owned(), |instance| instance.called.clone()),
        from,
        unnamed: unnamed.collect(),
        collated: is_collated(tokens),
        extras: finding.extras,
        keys: finding.keys,
        sets: finding.sets,
        combined: finding.combined,
        filter,
        table_at,
        splices,
    })
}

/// Whether there is a subquery.
fn has_query(node: &impl Visit) -> bool {
    struct Queries;
    impl Visitor for Queries {
        type Break = ();
        fn pre_visit_query(&mut self, _: &Query) -> ControlFlow<()> {
            ControlFlow::Break(())
        }
    }
    node.visit(&mut Queries).is_break()
}

/// Whether a table has a column that is called as ours are.
fn has_own_columns(proof: &Proof<'_>) -> bool {
    let distributed = proof.instances.iter().map(|instance| instance.table);
    distributed
        .chain(proof.reference_tables.iter().copied())
        .any(|table| table.columns.iter().any(|column| column.name.starts_with(OWN)))
}

/// What else changes in a text of one table: its WHERE is gone, and its schema.
fn rest_of_one(
    tokens: &[Token],
    statement: &Statement,
    proof: &Proof<'_>,
    finding: &Finding<'_>,
    given: &[String],
) -> Option<Vec<Splice>> {
    let mut splices = grouping::completed(tokens, statement, proof, |_| given.to_vec());
    let schemas = without_schemas(tokens, proof).ok()?;
    splices.extend(schemas.into_iter().filter(|splice| {
        let inside = |range: &Range<usize>| range.start <= splice.at.start && splice.at.end <= range.end;
        !finding.done.as_ref().is_some_and(inside) && !finding.combined.iter().any(|(range, _)| inside(range))
    }));
    splices.extend(finding.done.clone().map(|at| Splice {
        at,
        with: With::Text(String::new()),
    }));
    Some(splices)
}

/// The columns of SELECT DISTINCT, if they tell which rows are alike.
fn alike(finding: &Finding<'_>, select: &Select, instance: &Instance<'_>) -> Option<Vec<String>> {
    if !matches!(select.distinct, Some(Distinct::Distinct)) || select.having.is_some() {
        return None;
    }
    let given = finding.named();
    finding.checked(&given)?;
    distinct::can_be(instance.table, &given).then_some(given)
}
