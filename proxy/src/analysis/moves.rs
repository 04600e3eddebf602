//! UPDATE of the shard key: a row may belong to another group afterwards.
//!
//! As PostgreSQL moves a row from one partition to another (`ExecCrossPartitionUpdate` in nodeModifyTable.c), each group deletes the rows
//! that the statement finds, and they are inserted where their new keys belong. The new rows are computed by that INSERT, over the old ones:
//! `INSERT INTO table (columns) SELECT what they become FROM unnest($n::table[])`. So its values are brought to the columns' types by the
//! rules of assignment, as those of an UPDATE are (`transformInsertRow` and `transformUpdateTargetList`), also constants and parameters
//! without a type. The DELETE computes the new key only to tell its slot.

use std::ops::Range;

use sqlparser::ast::{Assignment, AssignmentTarget, Expr};

use coordinator::catalogue::FilledBy;
use coordinator::hash::{KeyColumn, KeyUse};
use coordinator::slots::SlotMap;
use shard::id::GroupId;

use super::check::{self, Findings};
use super::constants;
use super::distributed::Part;
use super::lexer::quoted;
use super::lexer::{Kind, Token};
use super::plan::{Access, Answers, Form, Key, Parameter, Query, RelationName, Route, Spread, Tag, Target};
use super::proof::{Proof, not_understood};
use super::refusal::Refusal;
use super::relations::parts;
use super::scope::{Block, Instance, key_of};
use super::temporary::keyword_at;
use super::words::{Words, split_commas};

/// What the proof has seen of an UPDATE that sets a shard key.
#[derive(Debug)]
pub(super) struct Moved {
    /// The table.
    pub(super) instance: usize,
    /// What the key becomes, where that is the same for all rows and can be known before.
    key: Option<Key>,
    /// What in it is not the same each time, or in each group.
    unsteady: Option<String>,
}

/// How an UPDATE of the shard key is run where rows may leave their group.
#[derive(Clone, Debug, PartialEq)]
pub struct Moves {
    /// What the key becomes, where that is the same for all rows and can be known before.
    pub key: Option<Key>,
    /// The rows as they were, all of their columns.
    pub part: Part,
    column: KeyColumn,
    /// What the statement calls the table, and whether that is an alias.
    called: (String, bool),
    /// The table as the statement names it, with its alias, in bytes of the text; and so on.
    table: Range<usize>,
    filter: Range<usize>,
    returning: Range<usize>,
    /// What the key becomes.
    new_key: Range<usize>,
    /// The columns that are stored, and what they become; none for what they were.
    becomes: Vec<(String, Option<Range<usize>>)>,
}

impl Moved {
    /// Looks whether these assignments give the shard key of the block's first item another value.
    ///
    /// # Errors
    /// When they cannot be read.
    pub(super) fn find(
        proof: &Proof<'_>,
        target: Option<usize>,
        assignments: &[Assignment],
        block: &Block<'_>,
    ) -> Result<Option<Moved>, Refusal> {
        let Some(instance) = target else {
            return Ok(None);
        };
        let Some(value) = value_of_key(&proof.instances[instance], assignments)? else {
            return Ok(None);
        };
        let column = proof.instances[instance].key;
        let Some(value) = value else {
            return Ok(Some(Moved {
                instance,
                key: None,
                unsteady: None,
            }));
        };
        if key_of(value, &[block], &proof.instances) == Some((0, instance)) {
            return Ok(None);
        }
        Ok(Some(Moved {
            instance,
            key: constants::key(value, column, KeyUse::Assignment),
            unsteady: check::look(value, proof.names.catalogue)?.unsteady,
        }))
    }
}

/// What the shard key is set to, if it is; the inner `None` where that has no expression of its own.
pub(super) fn value_of_key<'e>(
    instance: &Instance<'_>,
    assignments: &'e [Assignment],
) -> Result<Option<Option<&'e Expr>>, Refusal> {
    let key = instance.table.key_column().map(|column| column.name.as_str());
    for assignment in assignments {
        let names = match &assignment.target {
            AssignmentTarget::ColumnName(name) => std::slice::from_ref(name),
            AssignmentTarget::Tuple(names) => names.as_slice(),
        };
        for (place, name) in names.iter().enumerate() {
            // `SET a.b = ...` sets field b of column a.
            let column = parts(name).and_then(|parts| parts.first().cloned());
            let column = column.ok_or_else(|| not_understood("SET"))?;
            if key != Some(column.as_str()) {
                continue;
            }
            return Ok(Some(match (&assignment.target, &assignment.value) {
                (AssignmentTarget::ColumnName(_), value) => Some(value),
                (AssignmentTarget::Tuple(_), Expr::Tuple(values)) => values.get(place),
                _ => None,
            }));
        }
    }
    Ok(None)
}

/// Whether `ON CONFLICT DO UPDATE` leaves each row in its group: the shard key is not set, or to that of the row that was to be inserted,
/// which is in this group, too.
pub(super) fn stays_on_conflict(
    instance: &Instance<'_>,
    assignments: &[Assignment],
) -> Result<bool, Refusal> {
    let name = instance.key_name;
    Ok(match value_of_key(instance, assignments)? {
        None => true,
        Some(Some(Expr::CompoundIdentifier(names))) => {
            matches!(names.as_slice(), [table, column] if table.value == "excluded" && Some(column.value.as_str()) == name)
        }
        Some(_) => false,
    })
}

/// The words for a shard key that cannot be set.
pub(super) fn refusal(instance: &Instance<'_>, why: &str) -> Refusal {
    let column = instance.table.key_column().map(|column| column.name.as_str());
    Refusal::unsupported(format!(
        "column \"{}\" is the shard key of table \"{}\" and cannot be updated {why}",
        column.unwrap_or_default(),
        instance.table.name
    ))
    .detail("The row may belong to another group.")
    .hint("Delete the row and insert it again.")
}

/// Plans an UPDATE of one table that sets its shard key.
///
/// # Errors
/// When the statement has a form that cannot be taken apart.
pub(super) fn plan(
    tokens: &[Token],
    moved: &Moved,
    proof: &Proof<'_>,
    findings: &Findings,
) -> Result<Moves, Refusal> {
    let instance = &proof.instances[moved.instance];
    if let Some(function) = &moved.unsteady {
        return Err(refusal(instance, &format!("to what {function} gives")));
    }
    let odd = || refusal(instance, "in this form");
    let (_, last) = instance.at.ok_or_else(odd)?;
    let named = instance.alias_at.unwrap_or(last).max(last);
    let after = tokens.get(named + 1..).unwrap_or_default();
    let set = named + 1 + keyword_at(after, "set").ok_or_else(odd)?;
    let rest = tokens.get(set + 1..).unwrap_or_default();
    let returning = keyword_at(rest, "returning").unwrap_or(rest.len());
    let filter = keyword_at(rest, "where").unwrap_or(returning).min(returning);
    let mut becomes = Vec::new();
    for assigned in split_commas(&rest[..filter]) {
        assignments(assigned, &mut becomes).ok_or_else(odd)?;
    }
    let table = instance.table;
    let key = table.key_column().map(|column| column.name.as_str());
    let given = |name: &str| becomes.iter().find(|(column, _)| column == name);
    let new_key = match key.and_then(given) {
        Some((_, Some(value))) => range_of(value),
        _ => return Err(odd()),
    };
    let stored = table
        .columns
        .iter()
        .filter(|column| column.filled_by != FilledBy::Generated);
    let columns = stored.filter_map(|column| match given(&column.name) {
        None => Some((column.name.clone(), None)),
        Some((_, Some(value))) => Some((column.name.clone(), Some(range_of(value)))),
        // DEFAULT: what an INSERT gives a column that it does not name.
        Some((_, None)) => None,
    });
    let mut keys: Vec<Key> = proof.keys().unwrap_or_default();
    keys.extend(moved.key.clone());
    check::mark_open_parameters(&mut keys, findings);
    Ok(Moves {
        key: moved.key.as_ref().and_then(|_| keys.pop()),
        part: Part::of(
            RelationName::of(table),
            table.columns.iter().map(|column| column.name.clone()).collect(),
        ),
        column: instance.key,
        called: (instance.called.clone(), instance.alias_at.is_some()),
        // UPDATE stands before it.
        table: tokens.get(1).map_or(0, |token| token.range.start)
            ..tokens.get(set - 1).map_or(0, |token| token.range.end),
        filter: range_of(&rest[filter..returning]),
        returning: range_of(&rest[returning..]),
        new_key,
        becomes: columns.collect(),
    })
}

/// The bytes of a statement's text that these tokens are.
pub(super) fn range_of(tokens: &[Token]) -> Range<usize> {
    match (tokens.first(), tokens.last()) {
        (Some(first), Some(last)) => first.range.start..last.range.end,
        _ => 0..0,
    }
}

/// Reads `column = value` or `(columns) = [ROW] (values)`; a value is none for DEFAULT.
fn assignments<'t>(tokens: &'t [Token], found: &mut Vec<(String, Option<&'t [Token]>)>) -> Option<()> {
    fn value(tokens: &[Token]) -> Option<&[Token]> {
        match tokens {
            [
                Token {
                    kind: Kind::Word(word),
                    ..
                },
            ] if word == "default" => None,
            tokens => Some(tokens),
        }
    }
    let mut words = Words::new(tokens);
    let Some(names) = words.parenthesised() else {
        let name = words.name()?;
        if !words.take_operator("=") || words.is_empty() {
            return None;
        }
        found.push((name, value(words.rest())));
        return Some(());
    };
    if !words.take_operator("=") {
        return None;
    }
    words.take(&["row"]);
    let values = split_commas(words.parenthesised()?);
    let names = split_commas(names);
    if !words.is_empty() || names.len() != values.len() {
        return None;
    }
    for (name, tokens) in names.into_iter().zip(values) {
        let mut words = Words::new(name);
        let name = words.name().filter(|_| words.is_empty() && !tokens.is_empty())?;
        found.push((name, value(tokens)));
    }
    Some(())
}

impl Moves {
    /// The group that all rows belong to afterwards, where that is known before.
    #[must_use]
    pub fn group(&self, parameters: &[Parameter<'_>], slots: &SlotMap) -> Option<GroupId> {
        let stored = Query {
            access: Access::Write,
            target: Target::Keys(vec![self.key.clone()?], Spread::Concatenate),
            tag: Tag::AsIs,
            form: Form::Plain,
            draws: None,
        };
        match stored.route(parameters, slots, &Answers::new()) {
            Ok(Route::One(group)) => Some(group),
            _ => None,
        }
    }

    /// The statement that takes the rows away in a group, of the client's statement's text: it returns the slot of each one's new key, and
    /// these columns of what it was.
    #[must_use]
    pub fn take(&self, text: &str, columns: &[&str]) -> String {
        let part = |range: &Range<usize>| text.get(range.clone()).unwrap_or_default();
        let called = quoted(&self.called.0);
        let columns: Vec<String> = columns
            .iter()
            .map(|name| format!(", {called}.{}", quoted(name)))
            .collect();
        format!(
            "DELETE FROM {} {} RETURNING ({}){}",
            part(&self.table),
            part(&self.filter),
            self.column.slot_query_of(KeyUse::Assignment, part(&self.new_key)),
            columns.concat()
        )
    }

    /// The statement that stores what they become; the rows are the parameter after so many of the client's own.
    #[must_use]
    pub fn put(&self, text: &str, parameters: usize) -> String {
        let part = |range: &Range<usize>| text.get(range.clone()).unwrap_or_default();
        let (called, table) = (quoted(&self.called.0), self.part.table.quoted());
        let alias = if self.called.1 {
            format!(" AS {called}")
        } else {
            String::new()
        };
        let names: Vec<String> = self.becomes.iter().map(|(name, _)| quoted(name)).collect();
        let values: Vec<String> = self
            .becomes
            .iter()
            .map(|(name, value)| match value {
                Some(value) => part(value).to_owned(),
                None => format!("{called}.{}", quoted(name)),
            })
            .collect();
        format!(
            "INSERT INTO {table}{alias} ({}) OVERRIDING SYSTEM VALUE SELECT {} FROM pg_catalog.unnest(${}::{table}[]) AS {called} {}",
            names.join(", "),
            values.join(", "),
            parameters + 1,
            part(&self.returning)
        )
    }
}
