//! SELECTs that no group can answer alone: rows are gathered from the groups, and one PostgreSQL runs the client's own query over them.
//!
//! Each use of a distributed table in the text becomes `unnest($n::table[])` under the name that it had, and nothing else of the text changes.
//! The parameter has the table's rows, of its own row type: so columns keep their names, types, modifiers and collations, and whatever SQL
//! can say of a table it can say of these rows. What is read of a table is a [`Part`]: the columns that the text names anywhere, and the rows
//! that fulfil the conditions which concern this table alone ([`filter`]). Those conditions stay in the text, too.
//!
//! What such rows do not have is a place (`ctid` and the other system columns, locks), and the table's constraints: a column that is
//! determined by a primary key in GROUP BY is added to that list ([`grouping`]).

mod clauses;
mod columns;
mod combine;
mod distinct;
mod filter;
mod finding;
mod grouping;
pub(super) mod locking;
mod merge;
mod own;
mod partial;
mod probe;
mod top;

use std::fmt;
use std::ops::Range;

use coordinator::catalogue::{Relation, RelationKind};
use sqlparser::ast::Statement;

use super::check::Findings;

use super::grammar::{is_only, is_table_query};
use super::lexer::{Kind, Token, quoted};
use super::plan::RelationName;
use super::proof::Proof;
use super::refusal::Refusal;

pub(super) use columns::Columns;
pub use combine::Values;
pub(super) use filter::conjuncts;
use filter::{Condition, Piece};
pub use merge::{Merge, OrderedBy};
pub(super) use own::{are_whole, keys_of_source, roots_of_source};
pub use partial::Partial;
use top::Top;

/// How a SELECT is answered whose rows are in several groups.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gathering {
    /// Where the client's own query is in the statement's text, in bytes.
    own: Range<usize>,
    /// The same with views replaced by what they stand for, where it has some.
    expanded: Option<String>,
    /// Where the query is in that, or in the statement's text.
    query: Range<usize>,
    /// What is read of the tables.
    pub parts: Vec<Part>,
    /// How each group aggregates its own rows, where that is enough.
    pub partial: Option<Partial>,
    /// How rows that each group gives in order are put together, where that is all.
    pub merge: Option<Merge>,
    /// What of the text is replaced, in order.
    splices: Vec<Splice>,
    /// What is replaced besides, in order, so that subqueries find rows by hashes ([`probe`]).
    probes: Vec<Splice>,
}

/// What is read of one table in each group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// The table.
    pub table: RelationName,
    /// The names of the columns that are read.
    pub columns: Vec<String>,
    /// The conditions that its rows fulfil.
    conditions: Vec<Condition>,
    /// The first rows in the query's order are enough: how they are found, the query's whole condition included.
    top: Option<Top>,
    /// Of rows that are alike one is enough.
    distinct: bool,
    /// Columns of texts, which can be equal and yet not alike.
    texts: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Splice {
    /// Bytes of the statement's text.
    at: Range<usize>,
    with: With,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum With {
    /// The rows of this part, and the name by which the query knows them, where the text does not go on with it.
    Rows { part: usize, name: Option<String> },
    /// This text.
    Text(String),
}

impl RelationName {
    /// As a statement names it whatever its search path is.
    #[must_use]
    pub fn quoted(&self) -> String {
        format!("{}.{}", quoted(&self.schema), quoted(&self.name))
    }
}

impl Gathering {
    /// The client's own query, of the statement's text.
    #[must_use]
    pub fn query<'t>(&self, text: &'t str) -> &'t str {
        text.get(self.own.clone()).unwrap_or_default()
    }

    /// Says that the query at `own` in the statement's text was planned as this one, which has no views.
    pub(super) fn is_of(&mut self, own: Range<usize>, expanded: &str) {
        self.own = own;
        self.expanded.get_or_insert_with(|| expanded.to_owned());
    }

    /// Puts these texts in the places of these bytes of the statement.
    ///
    /// # Errors
    /// When they are not apart from what else is replaced.
    pub(super) fn replace(&mut self, texts: Vec<(Range<usize>, String)>) -> Result<(), Refusal> {
        let splice = |(at, text)| Splice {
            at,
            with: With::Text(text),
        };
        self.splices.extend(texts.into_iter().map(splice));
        self.splices
            .sort_by_key(|splice| (splice.at.start, splice.at.end));
        let apart = |pair: &[Splice]| pair[0].at.end <= pair[1].at.start;
        match self.splices.windows(2).all(apart) {
            true => Ok(()),
            false => Err(Refusal::unsupported("Howdah cannot analyse this statement")),
        }
    }

    /// Whether it has to gather what it reads.
    pub(super) fn is_of_all_rows(&self) -> bool {
        self.merge.is_none() && self.partial.is_none()
    }

    fn text<'t>(&'t self, text: &'t str) -> &'t str {
        self.expanded.as_deref().unwrap_or(text)
    }

    /// The query over the gathered rows: those of the first part are the parameter after so many of the client's own.
    #[must_use]
    pub fn final_text(&self, text: &str, parameters: usize) -> String {
        spliced(
            self.text(text),
            &self.query,
            &self.splices,
            &self.parts,
            parameters,
        )
    }

    /// The same where there are few enough rows to be found by hashes, if it has subqueries for which that helps.
    #[must_use]
    pub fn probed_text(&self, text: &str, parameters: usize) -> Option<String> {
        let mut splices = [self.splices.as_slice(), &self.probes].concat();
        // What is put before a table comes before what replaces it.
        splices.sort_by_key(|splice| (splice.at.start, splice.at.end));
        let apart = |pair: &[Splice]| pair[0].at.end <= pair[1].at.start;
        (!self.probes.is_empty() && splices.windows(2).all(apart))
            .then(|| spliced(self.text(text), &self.query, &splices, &self.parts, parameters))
    }

    /// What each group gives in order, if that is all, of a query with so many parameters.
    #[must_use]
    pub fn ordered(&self, text: &str, parameters: usize) -> Option<Reading> {
        let merge = self.merge.as_ref()?;
        Some(merge.reading(self.text(text), &self.query, parameters))
    }

    /// The query over what groups have aggregated, as [`Partial::final_text`] has it.
    #[must_use]
    pub fn partial_text(
        &self,
        text: &str,
        parameters: usize,
        (columns, values): (&[(&str, bool)], Values<'_>),
        names: &[String],
    ) -> Option<String> {
        self.partial.as_ref()?.final_text(
            self.text(text),
            (&self.query, parameters),
            (columns, values),
            names,
        )
    }
}

fn spliced(
    text: &str,
    query: &Range<usize>,
    splices: &[Splice],
    parts: &[Part],
    parameters: usize,
) -> String {
    let mut made = String::with_capacity(query.len() + splices.len() * 64);
    let mut from = query.start;
    for splice in splices {
        made.push_str(text.get(from..splice.at.start).unwrap_or_default());
        match &splice.with {
            With::Rows { part, name } => {
                let (number, table) = (parameters + part + 1, parts[*part].table.quoted());
                made.push_str(&format!("pg_catalog.unnest(${number}::{table}[])"));
                if let Some(name) = name {
                    made.push_str(" AS ");
                    made.push_str(&quoted(name));
                }
            }
            With::Text(text) => made.push_str(text),
        }
        from = splice.at.end;
    }
    made.push_str(text.get(from..query.end).unwrap_or_default());
    made
}

/// A statement that reads in a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reading {
    /// Its text.
    pub text: String,
    /// Which parameters of the client's statement are its own, in order.
    pub parameters: Vec<usize>,
}

impl Part {
    /// All rows of these columns.
    pub(super) fn of(table: RelationName, columns: Vec<String>) -> Part {
        Part {
            table,
            columns,
            conditions: Vec::new(),
            top: None,
            distinct: false,
            texts: Vec::new(),
        }
    }

    /// The statement that reads these columns in a group. Conditions whose parameters are not `usable` there are left out.
    #[must_use]
    pub fn reading(&self, columns: &[&str], usable: impl Fn(usize) -> bool) -> Reading {
        let quoted_columns: Vec<String> = columns.iter().map(|name| quoted(name)).collect();
        let list = quoted_columns.join(", ");
        let from = Piece::text(format!("{list} FROM {}", self.table.quoted()));
        let mut pieces = vec![Piece::text("SELECT ")];
        match self.top.as_ref().filter(|top| top.parameters().all(&usable)) {
            Some(top) => {
                pieces.extend_from_slice(&top.distinct);
                pieces.push(from);
                pieces.extend_from_slice(&top.pieces);
            }
            None => {
                pieces.push(from);
                let usable = self
                    .conditions
                    .iter()
                    .filter(|condition| condition.parameters().all(&usable));
                for (index, condition) in usable.enumerate() {
                    pieces.push(Piece::text(if index == 0 { " WHERE " } else { " AND " }));
                    pieces.extend_from_slice(&condition.0);
                }
                if self.distinct && !columns.is_empty() {
                    pieces.push(Piece::text(format!(
                        " GROUP BY {}",
                        distinct::keys(&quoted_columns, columns, &self.texts)
                    )));
                }
            }
        }
        Reading::of(&pieces)
    }
}

impl Reading {
    fn of(pieces: &[Piece]) -> Reading {
        let mut parameters: Vec<usize> = filter::parameters(pieces).collect();
        parameters.sort_unstable();
        parameters.dedup();
        let numbered = |at: usize| {
            parameters
                .iter()
                .position(|known| *known == at)
                .unwrap_or_default()
                + 1
        };
        Reading {
            text: filter::written(pieces, numbered),
            parameters,
        }
    }
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.table.name, self.columns.join(", "))?;
        for (index, condition) in self.conditions.iter().enumerate() {
            write!(f, " {} {condition}", if index == 0 { "WHERE" } else { "AND" })?;
        }
        if let Some(top) = &self.top {
            write!(f, ", first of them: {}", top.to_string().trim_start())?;
        }
        if self.distinct {
            f.write_str(", each once")?;
        }
        Ok(())
    }
}

/// Plans a SELECT of several groups, which the proof has walked through.
///
/// # Errors
/// When gathered rows would not do.
pub(super) fn plan(
    tokens: &[Token],
    statement: &Statement,
    proof: &Proof<'_>,
    findings: &Findings,
) -> Result<Gathering, Refusal> {
    let gathering = brought(tokens, statement, proof, findings, |_| false)?;
    Ok(Gathering {
        probes: probe::find(tokens, statement, proof),
        ..gathering
    })
}

/// Plans a statement to which the rows of tables are brought, but for those that are `near`.
///
/// # Errors
/// When gathered rows would not do.
pub(super) fn brought(
    tokens: &[Token],
    statement: &Statement,
    proof: &Proof<'_>,
    findings: &Findings,
    near: impl Fn(usize) -> bool,
) -> Result<Gathering, Refusal> {
    if let Some(column) = &findings.system_column {
        return Err(Refusal::unsupported(format!(
            "the system column \"{column}\" in a query of rows of several groups is not supported"
        ))
        .detail("It says where a row is in one server, and such a query works on rows that are gathered from several."));
    }
    if let Some(function) = &findings.of_server {
        return Err(Refusal::unsupported(format!(
            "{function} in a query of rows of several groups is not supported"
        ))
        .detail("It tells of one server, and the tables are on several."));
    }
    let lost = || Refusal::unsupported("Howdah cannot analyse this form of FROM");
    let (Some(first), Some(last)) = (tokens.first(), tokens.last()) else {
        return Err(lost());
    };
    let columns = Columns::of(tokens, statement, &proof.instances);
    let conditions = filter::conditions(statement, proof);
    // Others than a SELECT alone may make something of each row.
    let (top, distinct) = match statement {
        Statement::Query(_) => (
            top::find(tokens, statement, proof, findings),
            distinct::instances(statement, proof, findings),
        ),
        _ => Default::default(),
    };
    let mut gathering = Gathering {
        own: first.range.start..last.range.end,
        expanded: None,
        query: first.range.start..last.range.end,
        parts: Vec::new(),
        partial: Some(())
            .filter(|()| matches!(statement, Statement::Query(_)))
            .and_then(|()| partial::find(tokens, statement, proof, findings)),
        merge: Some(())
            .filter(|()| matches!(statement, Statement::Query(_)))
            .and_then(|()| merge::find(tokens, statement, proof, findings)),
        splices: Vec::new(),
        probes: Vec::new(),
    };
    for (number, instance) in proof.instances.iter().enumerate() {
        if near(number) {
            continue;
        }
        let (from, to) = instance.at.ok_or_else(lost)?;
        let range = |at: usize| tokens.get(at).map(|token| token.range.clone());
        let (Some(start), Some(end)) = (range(from), range(to)) else {
            return Err(lost());
        };
        let read = columns.of_table(instance.table);
        let part = Part {
            distinct: distinct.contains(&number) && distinct::can_be(instance.table, &read),
            texts: distinct::texts(instance.table),
            table: RelationName::of(instance.table),
            columns: read,
            conditions: conditions.get(number).cloned().unwrap_or_default(),
            top: top.clone(),
        };
        let part = match gathering.parts.iter().position(|known| *known == part) {
            Some(known) => known,
            None => {
                gathering.parts.push(part);
                gathering.parts.len() - 1
            }
        };
        let name = instance.alias_at.is_none().then(|| instance.called.clone());
        gathering.splices.push(Splice {
            at: start.start..end.end,
            with: With::Rows { part, name },
        });
    }
    gathering
        .splices
        .extend(grouping::completed(tokens, statement, proof, |table| {
            columns.of_table(table)
        }));
    gathering.splices.extend(without_schemas(tokens, proof)?);
    gathering.splices.extend(of_tables(tokens, proof)?);
    gathering.splices.sort_by_key(|splice| splice.at.start);
    let apart = |pair: &[Splice]| pair[0].at.end <= pair[1].at.start;
    if !gathering.splices.windows(2).all(apart) {
        return Err(lost());
    }
    Ok(gathering)
}

/// Writes `TABLE name` as what it stands for, and takes ONLY away, which goes for tables alone.
fn of_tables(tokens: &[Token], proof: &Proof<'_>) -> Result<Vec<Splice>, Refusal> {
    let mut splices = Vec::new();
    for (at, token) in tokens.iter().enumerate() {
        let with = if is_table_query(tokens, at) {
            "SELECT * FROM"
        } else if is_only(tokens, at) {
            let partitioned = |relation: &Relation| relation.kind == RelationKind::PartitionedTable;
            if proof.instances.iter().any(|instance| partitioned(instance.table)) {
                return Err(Refusal::unsupported(
                    "ONLY together with partitioned tables in a query of rows of several groups is not supported",
                )
                .hint("A partitioned table has no rows of its own: leave it out."));
            }
            ""
        } else {
            continue;
        };
        splices.push(Splice {
            at: token.range.clone(),
            with: With::Text(with.to_owned()),
        });
    }
    Ok(splices)
}

/// Takes the schema out of `schema.table.column`: gathered rows are called by the table's name alone.
fn without_schemas(tokens: &[Token], proof: &Proof<'_>) -> Result<Vec<Splice>, Refusal> {
    let mut splices = Vec::new();
    for (at, window) in tokens.windows(4).enumerate() {
        let [schema, dot, table, second] = window else {
            continue;
        };
        let point = |token: &Token| token.kind == Kind::Punctuation('.');
        let after_point = at.checked_sub(1).is_some_and(|before| point(&tokens[before]));
        let (Some(schema_name), Some(name)) = (name_of(schema), name_of(table)) else {
            continue;
        };
        if !point(dot) || !point(second) || after_point {
            continue;
        }
        let bare = || {
            proof
                .instances
                .iter()
                .filter(|instance| instance.alias_at.is_none() && instance.called == name)
        };
        if !bare().any(|instance| instance.table.schema == schema_name) {
            continue;
        }
        if bare().any(|instance| instance.table.schema != schema_name) {
            return Err(Refusal::unsupported(format!(
                "two tables called \"{name}\" in a query of rows of several groups are not supported"
            ))
            .hint("Give them aliases."));
        }
        splices.push(Splice {
            at: schema.range.start..table.range.start,
            with: With::Text(String::new()),
        });
    }
    Ok(splices)
}

/// What a token is called, if it can be a name.
fn name_of(token: &Token) -> Option<&str> {
    match &token.kind {
        Kind::Word(name) | Kind::Quoted(name) => Some(name),
        _ => None,
    }
}
