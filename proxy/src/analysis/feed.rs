//! INSERT ... SELECT into a distributed table.
//!
//! Where the shard key of each row is that of the row that it is made of, each group can insert what it selects of its own rows, in one snapshot of all
//! groups. Otherwise the SELECT is answered as any is, and its rows come to the session, which sends each where its key belongs:
//! `INSERT INTO table (columns) SELECT c1, ... FROM ROWS FROM (unnest($1::type[]), ...) AS rows (c1, ...)`. So values are brought to the types of the
//! target's columns as those of the client's own statement are. Constants and parameters of the SELECT's list stay where they are, as their
//! type may be that of the column that they go into (`transformInsertStmt` in analyze.c).

use std::ops::Range;
use std::sync::Arc;

use coordinator::catalogue::Placement;
use coordinator::hash::{KeyColumn, KeyUse};
use sqlparser::ast::{Expr, Query as Tree, Select, SelectItem, SetExpr};

use super::check::{self, Findings};
use super::constants;
use super::lexer::{Kind, Token};
use super::moves::range_of;
use super::pins::JoinKind;
use super::plan::{Access, Form, Key, KeyValue, Plan, Query, Spread, Tag, Target};
use super::proof::Proof;
use super::query;
use super::refusal::Refusal;
use super::relations::Names;
use super::scope::{Block, key_of};
use super::temporary::keyword_at;
use super::values::behind_target;
use super::words::{Words, split_commas};

/// What the proof has seen of an INSERT ... SELECT.
#[derive(Debug)]
pub(super) struct Fed {
    /// Where in a row of the SELECT the shard key is.
    key_at: usize,
    /// The key, where it is the same in all rows and known before.
    key: Option<Key>,
    /// Each row's key is that of a row that it is made of.
    follows: bool,
    /// What the SELECT has in it.
    findings: Findings,
    /// Nothing in it needs more than one row of one table.
    row_by_row: bool,
}

/// How an INSERT ... SELECT is run whose rows come to the session.
#[derive(Clone, Debug, PartialEq)]
pub struct Feed {
    /// The statement, taken apart.
    pub cut: Cut,
    /// Each group can run the statement for its own rows instead, if they are read in one snapshot of all groups.
    pub within_groups: bool,
    /// Where in its rows the shard key is.
    pub key_at: usize,
    /// How the key is hashed.
    pub column: KeyColumn,
    /// The key, where it is the same in all rows and known before.
    pub key: Option<Key>,
    /// The text that it was taken out of, where that is not the client's own.
    expanded: Option<String>,
}

/// An INSERT ... SELECT, taken apart.
#[derive(Clone, Debug, PartialEq)]
pub struct Cut {
    /// The SELECT.
    pub source: Query,
    /// A row may meet another of the same statement (`ON CONFLICT DO UPDATE`): all that go to a group must come at once.
    pub at_once: bool,
    /// It has RETURNING.
    pub returns: bool,
    /// The text of the SELECT in that of the statement, in bytes; of what stands before it; and of what follows.
    query: Range<usize>,
    head: Range<usize>,
    tail: Range<usize>,
    /// The constants of the SELECT's list.
    constants: Vec<Option<Range<usize>>>,
    /// The numbers of the parameters that the SELECT has, and those that the rest has, constants included.
    in_select: Vec<usize>,
    in_rest: Vec<usize>,
}

/// A column of the rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FeedColumn {
    /// Its type, as statements name it.
    pub type_name: String,
    /// How its values are sent.
    pub sent: Sent,
}

/// How values of a column go from one backend to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sent {
    /// In the type's binary form.
    Binary,
    /// The same, of an array: there is no array of these, so that each is a parameter by itself.
    Array,
    /// As text, of types that have another object id in each group.
    Text,
}

impl FeedColumn {
    /// Whether values come in the type's binary form.
    #[must_use]
    pub fn is_binary(&self) -> bool {
        self.sent != Sent::Text
    }
}

impl Fed {
    /// Looks at the SELECT, whose block this is. `at` is the target.
    pub(super) fn find(
        proof: &mut Proof<'_>,
        at: usize,
        key_at: usize,
        (source, block): (&Tree, &Block<'_>),
    ) -> Result<Fed, Refusal> {
        let column = proof.instances[at].key;
        let local = proof.instances[at].table.placement == Some(Placement::Local);
        let select = match &*source.body {
            SetExpr::Select(select) if source.with.is_none() => Some(&**select),
            _ => None,
        };
        let findings = check::look(source, proof.names.catalogue)?;
        // What a subquery computes once must be the same in all groups.
        let steady = findings.unsteady.is_none() || findings.queries == 1;
        let (mut key, mut follows) = (local.then(Key::local), false);
        match select
            .filter(|_| !local)
            .map(|select| key_item(select, key_at, block, proof))
        {
            Some(Item::Expression(expr)) => {
                key = constants::key(expr, column, KeyUse::Assignment);
                // Not through subqueries, which may give NULL in its place.
                let own = |at: usize| block.items.iter().any(|item| item.instance == Some(at));
                if let Some((0, from)) = key_of(expr, &[block], &proof.instances)
                    && own(from)
                    && steady
                {
                    follows = follow(proof, select, from, at);
                }
            }
            Some(Item::KeyOf(from)) if steady => follows = follow(proof, select, from, at),
            Some(Item::KeyOf(_) | Item::Other) | None => {}
        }
        if let Some(key) = key.as_ref().filter(|_| !local) {
            proof.pin(at, vec![key.clone()]);
        }
        let plain = |select: &Select| select.from.len() == 1 && select.from[0].joins.is_empty();
        Ok(Fed {
            key_at,
            key,
            follows,
            findings,
            row_by_row: select.is_some_and(plain) && query::plain_queries(source) == Ok(1),
        })
    }
}

enum Item<'e> {
    Expression(&'e Expr),
    /// The shard key of this instance.
    KeyOf(usize),
    Other,
}

/// What gives the key.
fn key_item<'e>(select: &'e Select, key_at: usize, block: &Block<'_>, proof: &Proof<'_>) -> Item<'e> {
    if let ([SelectItem::Wildcard(options)], [item]) = (select.projection.as_slice(), block.items.as_slice())
        && options.to_string().is_empty()
        && let Some(instance) = item.instance
        && proof.instances[instance].has_own_names()
    {
        let table = proof.instances[instance].table;
        let named = table.columns.get(key_at).map(|column| &column.name);
        return match table.key_column() {
            Some(key) if named == Some(&key.name) => Item::KeyOf(instance),
            _ => Item::Other,
        };
    }
    let before = select.projection.get(..=key_at).unwrap_or_default();
    match before.split_last() {
        Some((SelectItem::UnnamedExpr(expr) | SelectItem::ExprWithAlias { expr, .. }, others))
            if others.iter().all(is_one) =>
        {
            Item::Expression(expr)
        }
        _ => Item::Other,
    }
}

/// Whether it gives one column.
fn is_one(item: &SelectItem) -> bool {
    matches!(
        item,
        SelectItem::UnnamedExpr(_) | SelectItem::ExprWithAlias { .. }
    )
}

/// The target's rows are where those of another instance are, whose keys they have, unless these may be NULL for another one's rows.
fn follow(proof: &mut Proof<'_>, select: Option<&Select>, from: usize, at: usize) -> bool {
    let inner = select.is_some_and(|select| {
        let mut joins = select.from.iter().flat_map(|tree| &tree.joins);
        joins.all(|join| matches!(JoinKind::of(join), Ok(JoinKind::Inner)))
    });
    let grouped = select.is_some_and(|select| {
        matches!(&select.group_by, sqlparser::ast::GroupByExpr::Expressions(_, modifiers) if modifiers.is_empty())
            && !select.group_by.to_string().contains('(')
    });
    let (stored, read) = (proof.instances[at].key, proof.instances[from].key);
    // An assignment may round a value, or cut it.
    let same = stored.key_type == read.key_type && (stored.type_modifier == -1 || stored == read);
    let follows = inner && grouped && same;
    if follows {
        proof.edges.push((from, at));
    }
    follows
}

/// Plans an INSERT ... SELECT, which the proof has walked through.
///
/// # Errors
/// When its SELECT cannot be answered.
pub(super) fn plan(
    tokens: &[Token],
    names: Names<'_>,
    (proof, findings): (&Proof<'_>, &Findings),
    fed: &Fed,
) -> Result<Plan, Refusal> {
    let keys = proof.keys().map(|mut keys| {
        check::mark_open_parameters(&mut keys, findings);
        keys
    });
    let target = match &keys {
        Some(keys) => Target::Keys(keys.clone(), Spread::Concatenate),
        None => Target::All,
    };
    let planned = |form| {
        Ok(Plan::Query(Query {
            access: Access::Write,
            target: target.clone(),
            tag: Tag::AsIs,
            form,
            draws: None,
        }))
    };
    let own = |all: usize, of_source: usize| all - of_source.min(all);
    let beyond = own(findings.queries, fed.findings.queries) > 0
        || own(findings.relations, fed.findings.relations) > 1
        || (findings.local.is_some() && fed.findings.local.is_none());
    let simple = fed.row_by_row
        && fed.findings.queries == 1
        && fed.findings.relations == 1
        && fed.findings.aggregate.is_none()
        && findings.local.is_none();
    let feed = match beyond {
        true => Err(Refusal::unsupported(
            "INSERT ... SELECT of rows of several groups with a subquery or a system column in ON CONFLICT or RETURNING is not supported",
        )
        .hint("Leave it out, or let all rows have the same shard key.")),
        false => feed(tokens, names, (proof, findings), fed),
    };
    let feed = feed.map(|feed| Feed {
        within_groups: fed.follows && simple,
        ..feed
    });
    match (feed, keys) {
        (Ok(feed), _) => planned(Form::Feeds(Arc::new(feed))),
        (Err(refusal), None) => Ok(Plan::Judge(refusal)),
        (Err(refusal), Some(keys)) => Ok(Plan::Query(Query {
            access: Access::Write,
            target: Target::Keys(keys, Spread::Refuse(refusal)),
            tag: Tag::AsIs,
            form: Form::Plain,
            draws: None,
        })),
    }
}

fn feed(
    tokens: &[Token],
    names: Names<'_>,
    (proof, findings): (&Proof<'_>, &Findings),
    fed: &Fed,
) -> Result<Feed, Refusal> {
    let mut keys: Vec<Key> = fed.key.iter().cloned().collect();
    check::mark_open_parameters(&mut keys, findings);
    let column = proof.instances.first().ok_or_else(odd)?.key;
    let cut = Cut::of(tokens, names)?;
    Ok(Feed {
        cut,
        within_groups: false,
        key_at: fed.key_at,
        column,
        key: keys.pop(),
        expanded: None,
    })
}

fn odd() -> Refusal {
    Refusal::unsupported("INSERT ... SELECT in this form is not supported")
        .hint("Write INSERT INTO table (columns) SELECT ...")
}

impl Cut {
    fn of(tokens: &[Token], names: Names<'_>) -> Result<Cut, Refusal> {
        let (head, select, tail) = parts(tokens).ok_or_else(odd)?;
        let source = match query::plan(select, names)? {
            Plan::Query(planned) if planned.access == Access::Read => planned,
            Plan::Judge(refusal) => return Err(refusal),
            _ => return Err(odd()),
        };
        let conflict = Words::new(tail).sees(&["on", "conflict"]);
        let updates = (0..tail.len()).any(|at| Words::new(&tail[at..]).sees(&["do", "update"]));
        let constants = constants_of(select);
        let mut in_rest = numbers(tail);
        in_rest.extend(select.iter().filter_map(|token| {
            let constant = constants.iter().flatten().any(|range| *range == token.range);
            number(token).filter(|_| constant)
        }));
        Ok(Cut {
            source,
            query: range_of(select),
            at_once: conflict && updates,
            returns: keyword_at(tail, "returning").is_some(),
            head: range_of(head),
            tail: range_of(tail),
            constants,
            in_select: numbers(select),
            in_rest,
        })
    }
}

fn number(token: &Token) -> Option<usize> {
    match token.kind {
        Kind::Parameter(number) => Some(number),
        _ => None,
    }
}

fn numbers(tokens: &[Token]) -> Vec<usize> {
    tokens.iter().filter_map(number).collect()
}

/// `INSERT INTO name [AS alias] [(columns)] [OVERRIDING ...]`, the query, and what follows it.
pub(super) fn parts(tokens: &[Token]) -> Option<(&[Token], &[Token], &[Token])> {
    let mut words = behind_target(tokens)?;
    let mut after_columns = words;
    if let Some(list) = after_columns.parenthesised()
        && !begins_query(list)
    {
        words = after_columns;
    }
    let _ = words.take(&["overriding", "system", "value"]) || words.take(&["overriding", "user", "value"]);
    let rest = words.rest();
    if !begins_query(rest) {
        return None;
    }
    let head = tokens.get(..tokens.len() - rest.len())?;
    let returning = keyword_at(rest, "returning").unwrap_or(rest.len());
    let mut depth = 0usize;
    let conflict = (0..returning).find(|at| {
        match rest[*at].kind {
            Kind::Punctuation('(') => depth += 1,
            Kind::Punctuation(')') => depth = depth.saturating_sub(1),
            _ => {}
        }
        let mut words = Words::new(&rest[*at..]);
        depth == 0
            && words.take(&["on", "conflict"])
            && (words.sees(&["do"]) || words.sees(&["on"]) || words.peek() == Some(&Kind::Punctuation('(')))
    });
    let (source, tail) = rest.split_at(conflict.unwrap_or(returning));
    Some((head, source, tail))
}

fn begins_query(tokens: &[Token]) -> bool {
    let words = Words::new(tokens);
    match words.peek() {
        Some(Kind::Punctuation('(')) => begins_query(tokens.get(1..).unwrap_or_default()),
        _ => ["select", "with", "values", "table"]
            .iter()
            .any(|word| words.sees(&[word])),
    }
}

/// Which items of a plain SELECT's list are constants or parameters.
fn constants_of(source: &[Token]) -> Vec<Option<Range<usize>>> {
    // Queries of WITH are in parentheses.
    let select = match Words::new(source).sees(&["with"]) {
        true => keyword_at(source, "select").unwrap_or(0),
        false => 0,
    };
    let source = source.get(select..).unwrap_or_default();
    let mut words = Words::new(source);
    let set = ["union", "intersect", "except"];
    if !words.take(&["select"])
        || words.sees(&["distinct"])
        || set.iter().any(|word| keyword_at(source, word).is_some())
    {
        return Vec::new();
    }
    words.take(&["all"]);
    let ends = [
        "from", "where", "group", "having", "window", "order", "limit", "offset", "fetch", "for",
    ];
    let rest = words.rest();
    let end = ends.iter().filter_map(|word| keyword_at(rest, word)).min();
    let items = split_commas(&rest[..end.unwrap_or(rest.len())]);
    let constant = |item: &[Token]| match item {
        [token, ..] => {
            let plain = match &token.kind {
                Kind::Text(_) | Kind::Parameter(_) => true,
                Kind::Word(word) => word == "null",
                _ => false,
            };
            let alone = item.len() == 1 || Words::new(&item[1..]).sees(&["as"]);
            (plain && alone).then(|| token.range.clone())
        }
        [] => None,
    };
    // `*` gives other numbers of columns.
    let star = |item: &&[Token]| matches!(item.last().map(|token| &token.kind), Some(Kind::Operator(all)) if all == "*");
    if items.iter().any(star) {
        return Vec::new();
    }
    items.into_iter().map(constant).collect()
}

impl Feed {
    /// Says that it was planned for a statement of these tokens, which has views.
    pub(super) fn is_of(&mut self, tokens: &[Token], names: Names<'_>) -> Result<(), Refusal> {
        if self.expanded.is_none() {
            self.cut = Cut::of(tokens, names)?;
        }
        Ok(())
    }

    /// Says that it was planned for this text in the place of the client's own.
    pub(super) fn is_of_text(&mut self, text: &str) {
        self.expanded.get_or_insert_with(|| text.to_owned());
    }

    /// The text that it was taken out of, if the client's statement has this one.
    #[must_use]
    pub fn text<'t>(&'t self, text: &'t str) -> &'t str {
        self.expanded.as_deref().unwrap_or(text)
    }

    /// Whether the SELECT has this parameter.
    #[must_use]
    pub fn selects(&self, number: usize) -> bool {
        self.cut.in_select.contains(&number)
    }

    /// Whether the INSERT of its rows has this parameter.
    #[must_use]
    pub fn inserts(&self, number: usize) -> bool {
        self.cut.in_rest.contains(&number)
    }

    /// What stores a row: of the known key, or of one that is the first parameter.
    #[must_use]
    pub fn stored(&self) -> Query {
        let key = self.key.clone().unwrap_or(Key {
            column: self.column,
            used: KeyUse::Assignment,
            value: KeyValue::Parameter {
                index: 0,
                type_oid: 0,
                type_open: false,
            },
        });
        Query {
            access: Access::Write,
            target: Target::Keys(vec![key], Spread::Concatenate),
            tag: Tag::AsIs,
            form: Form::Plain,
            draws: None,
        }
    }

    /// The SELECT's text.
    #[must_use]
    pub fn select<'t>(&'t self, text: &'t str) -> &'t str {
        self.text(text).get(self.cut.query.clone()).unwrap_or_default()
    }

    /// The statement that inserts so many rows of these columns, of the client's statement's text. Behind so many parameters of the client's
    /// come the rows': the values of each column as an array, or the values of each row.
    #[must_use]
    pub fn insert(&self, text: &str, parameters: usize, columns: &[FeedColumn], rows: usize) -> String {
        let text = self.text(text);
        let part = |range: &Range<usize>| text.get(range.clone()).unwrap_or_default();
        let item = |(at, column): (usize, &FeedColumn)| match self.cut.constants.get(at) {
            Some(Some(constant)) => part(constant).to_owned(),
            _ if column.is_binary() => format!("howdah_rows.c{at}"),
            _ => format!("CAST(howdah_rows.c{at} AS {})", column.type_name),
        };
        let items: Vec<String> = columns.iter().enumerate().map(item).collect();
        let names: Vec<String> = (0..columns.len()).map(|at| format!("c{at}")).collect();
        let from = if goes_by_row(columns) {
            let value = |number: usize| format!("${number}");
            let row = |row: usize| {
                let first = parameters + row * columns.len() + 1;
                let values: Vec<String> = (first..first + columns.len()).map(value).collect();
                format!("({})", values.join(", "))
            };
            let rows: Vec<String> = (0..rows).map(row).collect();
            format!("(VALUES {})", rows.join(", "))
        } else {
            let array = |(at, column): (usize, &FeedColumn)| {
                let of = match column.is_binary() {
                    true => &column.type_name,
                    false => "pg_catalog.text",
                };
                format!("pg_catalog.unnest(${}::{of}[])", parameters + at + 1)
            };
            let arrays: Vec<String> = columns.iter().enumerate().map(array).collect();
            format!("ROWS FROM ({})", arrays.join(", "))
        };
        format!(
            "{} SELECT {} FROM {from} AS howdah_rows ({}) {}",
            part(&self.cut.head),
            items.join(", "),
            names.join(", "),
            part(&self.cut.tail)
        )
    }
}

/// Whether rows of these columns go as the values of each row, and not as those of each column.
#[must_use]
pub fn goes_by_row(columns: &[FeedColumn]) -> bool {
    columns.iter().any(|column| column.sent == Sent::Array)
}
