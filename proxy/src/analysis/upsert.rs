//! MERGE: which rows it touches, and where those belong that it inserts.
//!
//! MERGE joins the source with the target: each row of the source meets the rows of the target for which ON is true. Without INSERT it is an inner
//! join, and what it does to a row of the target is a function of that row and of the source, as an UPDATE ... FROM ([`super::bring`]). With INSERT the
//! target is the right side of a LEFT JOIN: ON pins it (rule 2 of [`super::proof`]), but a row of the source that meets none makes a row. That row is
//! an [`Instance`] by itself, pinned to its shard key.
//!
//! *Claim:* several groups do together what one server would, if each runs the statement on its own rows, the rows of the source are cut by
//! the groups (`distributed/own.rs`), and whatever is cut so reaches the target and the rows that are inserted by the proof's edges. *Proof:* a row of
//! the source is in one group only. Rows of the target that it meets have keys of that group by their edge, which ON gave; so it
//! meets there all that it would meet, and is matched there if it would be. What it inserts has a key of that group, which stays, and a row of the
//! target is met by rows of its own group alone, so that "a row a second time" is found as well.
//!
//! Where that is not so, all groups can have the whole source: VALUES, a reference table, or a table that is brought. If ON says that a column of it is the
//! target's shard key, and each INSERT gives that column, a group inserts for those rows alone whose key is its own ([`own_rows`]): it has
//! all rows of the target that they meet. For the others it has none, which would look as if nothing matched.
//!
//! Else all rows that are changed or inserted must be in one group, which then sees the whole source.

use std::ops::Range;

use coordinator::catalogue::{Placement, Relation};
use coordinator::hash::{KeyColumn, KeyUse};
use sqlparser::ast::{
    Assignment, BinaryOperator, Expr, Merge, MergeAction, MergeClauseKind, MergeInsertExpr, MergeInsertKind,
    MergeUpdateKind, SelectItem, SetExpr, Statement, TableFactor,
};

use super::Refusal;
use super::bring::{Bring, Needs};
use super::check::{self, Findings};
use super::constants;
use super::distributed;
use super::lexer::{Token, quoted};
use super::moves;
use super::parse::token_at;
use super::pins::Pins;
use super::plan::{Key, KeyValue, Spread, Target};
use super::proof::{Proof, not_understood};
use super::relations::{Named, misread_column, parts};
use super::scope::{Block, Instance, Item, Scope, key_of};
use super::writes::{all_given, keep_counts, key_place};

/// What the proof has seen of a MERGE.
#[derive(Debug, Default)]
pub(super) struct Merged {
    /// The instances that are the rows of its INSERTs.
    inserted: Vec<usize>,
    /// What columns of the source are qualified with.
    source: String,
    /// The columns of the source that ON says are the target's shard key.
    joined: Vec<String>,
    /// The column of the source that each INSERT gives the shard key; none where it gives something else.
    given: Vec<Option<String>>,
}

/// Whether it has an INSERT.
pub(super) fn inserts(merge: &Merge) -> bool {
    let mut clauses = merge.clauses.iter();
    clauses.any(|clause| matches!(clause.action, MergeAction::Insert(_)))
}

/// The columns that every row has a value for that it inserts.
pub(super) fn given_columns(table: &Relation, merge: &Merge) -> Vec<String> {
    let of = |insert: &MergeInsertExpr| -> Vec<String> {
        let named = insert
            .columns
            .iter()
            .filter_map(parts)
            .filter_map(|mut parts| parts.pop());
        let width = match &insert.kind {
            MergeInsertKind::Values(values) => values.rows.first().map_or(0, |row| row.content.len()),
            _ => 0,
        };
        let first = table.columns.iter().take(width).map(|column| column.name.clone());
        match insert.columns.is_empty() {
            true => first.collect(),
            false => named.collect(),
        }
    };
    let mut all = merge.clauses.iter().filter_map(|clause| match &clause.action {
        MergeAction::Insert(insert) => Some(of(insert)),
        _ => None,
    });
    let mut given = all.next().unwrap_or_default();
    for other in all {
        given.retain(|column| other.contains(column));
    }
    given
}

/// Walks a MERGE.
pub(super) fn walk(proof: &mut Proof<'_>, merge: &Merge) -> Result<(), Refusal> {
    let odd = || not_understood("MERGE");
    let TableFactor::Table {
        name,
        alias,
        args: None,
        sample: None,
        ..
    } = &merge.table
    else {
        return Err(odd());
    };
    if !merge.into || !merge.optimizer_hints.is_empty() || merge.output.is_some() || merge.clauses.is_empty()
    {
        return Err(odd());
    }
    if matches!(merge.source, TableFactor::NestedJoin { .. }) {
        return Err(odd().hint("Write the join as a subquery: USING (SELECT ...) AS name."));
    }
    let mut both = Block::default();
    let target = proof.target(name, alias.as_ref(), &mut both)?;
    let mut source = Block::default();
    proof.factor(&merge.source, &mut source)?;
    both.items.append(&mut source.items);
    both.merges |= source.merges;
    {
        let scope = [&both];
        proof.expressions(&*merge.on, &scope)?;
        match (inserts(merge), target) {
            (false, _) => proof.condition(&merge.on, &scope, Pins::Block),
            (true, Some(at)) => proof.condition(&merge.on, &scope, Pins::Only(at)),
            (true, None) => {}
        }
        if let Some(at) = target {
            pin_to_constants(proof, at, merge, &both);
        }
        for clause in &merge.clauses {
            if clause.clause_kind != MergeClauseKind::Matched {
                continue;
            }
            match &clause.action {
                MergeAction::Update(update) => {
                    let MergeUpdateKind::Set(assignments) = &update.kind else {
                        return Err(odd());
                    };
                    if update.update_predicate.is_some() || update.delete_predicate.is_some() {
                        return Err(odd());
                    }
                    keep_counts(proof, target, assignments)?;
                    keep_place(proof, target, assignments, &scope)?;
                    proof.expressions(assignments, &scope)?;
                }
                MergeAction::Delete { .. } | MergeAction::DoNothing { .. } => {}
                MergeAction::Insert(_) => return Err(odd()),
            }
            proof.expressions(&clause.predicate, &scope)?;
        }
    }
    // Where nothing is matched, columns of the target have no names.
    source.items = both.items.split_off(1);
    let scope = [&source];
    for clause in &merge.clauses {
        match (&clause.clause_kind, &clause.action) {
            (MergeClauseKind::Matched, _) => continue,
            (MergeClauseKind::NotMatched, MergeAction::DoNothing { .. }) => {}
            (MergeClauseKind::NotMatched, MergeAction::Insert(insert)) => {
                walk_insert(proof, target, (merge, insert), &source)?;
            }
            _ => return Err(odd()),
        }
        proof.expressions(&clause.predicate, &scope)?;
    }
    Ok(())
}

/// That a row stays in its group: its shard key is not set, or to what it is by ON, which came before all other edges to the target.
fn keep_place(
    proof: &Proof<'_>,
    target: Option<usize>,
    assignments: &[Assignment],
    scope: &Scope<'_>,
) -> Result<(), Refusal> {
    let Some(at) = target else { return Ok(()) };
    let instance = &proof.instances[at];
    let stays = match moves::value_of_key(instance, assignments)? {
        None => true,
        Some(value) => match value.and_then(|value| key_of(value, scope, &proof.instances)) {
            Some((0, from)) => from == at || proof.edges.contains(&(from, at)),
            _ => false,
        },
    };
    match stays {
        true => Ok(()),
        false => Err(moves::refusal(instance, "by MERGE")),
    }
}

/// The row that an INSERT makes is an instance by itself.
fn walk_insert(
    proof: &mut Proof<'_>,
    target: Option<usize>,
    (merge, insert): (&Merge, &MergeInsertExpr),
    source: &Block<'_>,
) -> Result<(), Refusal> {
    let odd = || not_understood("MERGE");
    let MergeInsertKind::Values(values) = &insert.kind else {
        return Err(odd());
    };
    let ([row], None, false, false) = (
        values.rows.as_slice(),
        &insert.insert_predicate,
        values.explicit_row,
        values.value_keyword,
    ) else {
        return Err(odd());
    };
    proof.expressions(values, &[source])?;
    let Some(at) = target else { return Ok(()) };
    let table = &proof.instances[at];
    all_given(table, &insert.columns, true, (&[&row.content], usize::MAX))?;
    if table.table.placement == Some(Placement::Local) {
        return Ok(());
    }
    let keyless = || {
        let key = table.table.key_column().map(|column| column.name.as_str());
        let (name, key) = (&table.table.name, key.unwrap_or_default());
        Refusal::unsupported(format!(
            "the INSERT of a MERGE into table \"{name}\" must give its shard key \"{key}\""
        ))
        .hint(format!(
            "Name column \"{key}\" and give it what ON compares the shard key with."
        ))
    };
    let place = key_place(table, &insert.columns).map_err(|_| keyless())?;
    let expr = row.content.get(place).ok_or_else(keyless)?;
    let (relation, stored) = (table.table, table.key);
    let inserted = proof.instances.len();
    proof.instances.push(Instance {
        table: relation,
        key_name: None,
        key: stored,
        renamed: false,
        at: None,
        alias_at: None,
        called: String::new(),
    });
    let column = source.items.first().and_then(|item| column_of(expr, item, None));
    proof.merged.inserted.push(inserted);
    proof.merged.given.push(column.map(str::to_owned));
    if let Some(key) = constants::key(expr, stored, KeyUse::Assignment) {
        proof.pin(inserted, vec![key]);
        return Ok(());
    }
    let Some(column) = column else {
        return Ok(());
    };
    let keys = given(&merge.source, column).and_then(|values| keys_of(&values, stored, KeyUse::Assignment));
    if let Some(keys) = keys {
        proof.pin(inserted, keys);
    } else if let Some((0, from)) = key_of(expr, &[source], &proof.instances) {
        // The column of a subquery may be NULL where it has no row of its table.
        let is_there = |(name, of): &(String, _)| *of == stored.key_type && name == column;
        let read = proof.instances[from].key;
        // An assignment may round a value, or cut it.
        let same = stored.key_type == read.key_type && (stored.type_modifier == -1 || stored == read);
        let mut keys = distributed::keys_of_source(&merge.source, proof).into_iter();
        if same && keys.any(|key| is_there(&key)) {
            proof.edges.push((from, inserted));
        }
    }
    Ok(())
}

/// What ON says of the target's shard key and a column of the source that is constant.
fn pin_to_constants(proof: &mut Proof<'_>, at: usize, merge: &Merge, both: &Block<'_>) {
    let column = proof.instances[at].key;
    for conjunct in distributed::conjuncts(&merge.on) {
        let Expr::BinaryOp {
            left,
            op: BinaryOperator::Eq,
            right,
        } = conjunct
        else {
            continue;
        };
        for (key, other) in [(left, right), (right, left)] {
            if key_of(key, &[both], &proof.instances) != Some((0, at)) {
                continue;
            }
            let [target, source] = both.items.as_slice() else {
                return;
            };
            let Some(name) = column_of(other, source, Some(target)) else {
                continue;
            };
            proof.merged.source.clone_from(&source.name);
            proof.merged.joined.push(name.to_owned());
            let keys =
                given(&merge.source, name).and_then(|values| keys_of(&values, column, KeyUse::Comparison));
            if let Some(keys) = keys {
                proof.pin(at, keys);
            }
        }
    }
}

/// The column of the source that an expression is, where the target is visible besides or is not.
fn column_of<'e>(expr: &'e Expr, source: &Item<'_>, target: Option<&Item<'_>>) -> Option<&'e str> {
    match expr {
        Expr::Nested(inner) => column_of(inner, source, target),
        Expr::Identifier(name) if !misread_column(name) => {
            let other = |target: &Item<'_>| {
                target
                    .table
                    .is_some_and(|table| table.column(&name.value).is_none())
            };
            target.is_none_or(other).then_some(name.value.as_str())
        }
        Expr::CompoundIdentifier(parts) => match parts.as_slice() {
            [table, column]
                if table.value == source.name && target.is_none_or(|target| target.name != source.name) =>
            {
                Some(column.value.as_str())
            }
            _ => None,
        },
        _ => None,
    }
}

/// What a source of VALUES, or of a SELECT without FROM, has in this column.
fn given<'s>(source: &'s TableFactor, column: &str) -> Option<Vec<&'s Expr>> {
    let TableFactor::Derived {
        lateral: false,
        subquery,
        alias: Some(alias),
        sample: None,
    } = source
    else {
        return None;
    };
    // Its rows, and no others.
    let alone = subquery.with.is_none()
        && subquery.order_by.is_none()
        && subquery.limit_clause.is_none()
        && subquery.fetch.is_none();
    let mut names: Vec<String> = alias
        .columns
        .iter()
        .map(|column| column.name.value.clone())
        .collect();
    match &*subquery.body {
        SetExpr::Values(values) if alone => {
            let width = values.rows.first()?.content.len();
            names.extend((names.len()..width).map(|at| format!("column{}", at + 1)));
            let place = only(&names, column)?;
            values.rows.iter().map(|row| row.content.get(place)).collect()
        }
        SetExpr::Select(select) if alone && select.from.is_empty() => {
            let mut values = Vec::new();
            for (place, item) in select.projection.iter().enumerate() {
                let (expr, name) = match item {
                    SelectItem::ExprWithAlias { expr, alias } => (expr, alias.value.clone()),
                    // Whatever PostgreSQL calls it.
                    SelectItem::UnnamedExpr(expr) => (expr, String::new()),
                    _ => return None,
                };
                values.push(expr);
                if names.len() <= place {
                    names.push(name);
                }
            }
            // One that has no name in the text may be called so, too.
            let unnamed = names.iter().any(String::is_empty);
            let place = only(&names, column).filter(|_| !unnamed)?;
            Some(vec![*values.get(place)?])
        }
        _ => None,
    }
}

/// The place of a name that is there once.
fn only(names: &[String], name: &str) -> Option<usize> {
    let mut found = (0..names.len()).filter(|at| names[*at] == name);
    found.next().filter(|_| found.next().is_none())
}

/// The keys that these values are, all of which have one type.
fn keys_of(values: &[&Expr], column: KeyColumn, used: KeyUse) -> Option<Vec<Key>> {
    let keys: Option<Vec<Key>> = values
        .iter()
        .map(|value| constants::key(value, column, used))
        .collect();
    let mut keys = keys?;
    let typed = |key: &Key| match &key.value {
        KeyValue::Null => None,
        KeyValue::Number(_) => Some((0, 0)),
        KeyValue::Bool(_) => Some((1, 0)),
        KeyValue::Text { type_oid, .. } | KeyValue::Parameter { type_oid, .. } => Some((2, *type_oid)),
        KeyValue::Slot(_) => Some((3, 0)),
    };
    let mut types: Vec<_> = keys.iter().filter_map(typed).collect();
    types.dedup();
    if types.len() > 1 {
        return None;
    }
    for key in &mut keys {
        // Without a cast it is not the shard key that decides the parameter's type.
        if let KeyValue::Parameter {
            type_oid: 0,
            type_open,
            ..
        } = &mut key.value
        {
            *type_open = true;
        }
    }
    Some(keys)
}

/// Plans a MERGE with INSERT, which the proof has walked through.
///
/// # Errors
/// When it cannot be run on several groups, and nothing says that it needs one alone.
pub(super) fn plan(
    tokens: &[Token],
    statement: &Statement,
    merge: &Merge,
    (proof, findings): (&Proof<'_>, &Findings),
) -> Result<(Target, Needs), Refusal> {
    let marked = |mut keys: Vec<Key>| {
        check::mark_open_parameters(&mut keys, findings);
        keys
    };
    let all = proof.keys().map(marked);
    let roots = distributed::roots_of_source(tokens, (statement, &merge.source), proof, findings);
    if roots.is_some_and(|roots| proof.bind_all(&roots)) {
        let target = match all {
            Some(keys) => Target::Keys(keys, Spread::Concatenate),
            None => Target::All,
        };
        return Ok((target, Needs::Nothing));
    }
    let several = refusal(proof);
    let steady =
        findings.unsteady.is_none() && findings.local.is_none() && !proof.system && proof.locked.is_empty();
    let near = proof.reached_from(0);
    let near = |at: usize| near[at] || proof.merged.inserted.contains(&at);
    if let Some(texts) = own_rows(tokens, merge, proof).filter(|_| steady) {
        let mut gathering = distributed::brought(tokens, statement, proof, findings, near)?;
        gathering.replace(texts)?;
        let bring = Bring {
            verb: "MERGE",
            gathering,
            alone: all.is_some(),
        };
        let target = match all {
            Some(keys) => Target::Keys(keys, Spread::Concatenate),
            None => Target::All,
        };
        return Ok((target, Needs::Rows(Box::new(bring))));
    }
    if let Some(keys) = all {
        return Ok((Target::Keys(keys, Spread::Refuse(several)), Needs::Nothing));
    }
    // All that is changed or inserted is in one group, to which the source's rows are brought.
    let own = std::iter::once(0).chain(proof.merged.inserted.iter().copied());
    let own: Option<Vec<Vec<Key>>> = own.map(|at| proof.keys_of(at)).collect();
    let Some(own) = own.map(|own| marked(own.concat())) else {
        return Err(several);
    };
    if findings.local.is_some() || proof.system || !proof.locked.is_empty() {
        return Err(several);
    }
    let gathering = distributed::brought(tokens, statement, proof, findings, near)?;
    let bring = Bring {
        verb: "MERGE",
        gathering,
        alone: false,
    };
    Ok((
        Target::Keys(own, Spread::Refuse(several)),
        Needs::Rows(Box::new(bring)),
    ))
}

/// What to write where so that each group inserts only what belongs there, of a source that all of them have: see above. None where the column
/// that is the shard key could be of another type, and equal values of it be of different groups.
fn own_rows(tokens: &[Token], merge: &Merge, proof: &Proof<'_>) -> Option<Vec<(Range<usize>, String)>> {
    let stored = proof.instances.first()?.key;
    let merged = &proof.merged;
    let column = merged.given.first()?.as_ref()?;
    let same = |given: &Option<String>| given.as_ref() == Some(column);
    if merged.inserted.is_empty() || !merged.given.iter().all(same) || !merged.joined.contains(column) {
        return None;
    }
    let typed = match &merge.source {
        TableFactor::Table { name, alias, .. }
            if alias.as_ref().is_none_or(|alias| alias.columns.is_empty()) =>
        {
            let Ok(Named::Table(table)) = proof.names.find(&parts(name)?) else {
                return None;
            };
            let read = table.column(column)?;
            read.type_oid == stored.key_type.oid()
                && (stored.type_modifier == -1 || stored.type_modifier == read.type_modifier)
        }
        source => given(source, column)
            .filter(|values| values.len() > 1)
            .and_then(|values| keys_of(&values, stored, KeyUse::Assignment))
            .is_some(),
    };
    if !typed {
        return None;
    }
    let key = format!("{}.{}", quoted(&merged.source), quoted(column));
    let owns = format!(
        "howdah.owns(({}))",
        stored.slot_query_of(KeyUse::Assignment, &key)
    );
    let mut texts = Vec::new();
    for clause in &merge.clauses {
        let MergeAction::Insert(insert) = &clause.action else {
            continue;
        };
        // WHEN NOT MATCHED [AND condition] THEN INSERT
        let (when, action) = (
            token_at(clause.when_token.0.span)?,
            token_at(insert.insert_token.0.span)?,
        );
        let matched = tokens.get(when + 2)?.range.end;
        match (&clause.predicate, action.checked_sub(when)?) {
            (None, 4) => texts.push((matched..matched, format!(" AND {owns}"))),
            (Some(_), 6..) => {
                texts.push((
                    matched..tokens.get(when + 3)?.range.end,
                    format!(" AND {owns} AND ("),
                ));
                let then = tokens.get(action - 1)?.range.start;
                texts.push((then..then, ") ".to_owned()));
            }
            _ => return None,
        }
    }
    Some(texts)
}

fn refusal(proof: &Proof<'_>) -> Refusal {
    let table = proof.instances.first().map(|instance| instance.table);
    let name = table.map(|table| table.name.as_str()).unwrap_or_default();
    let key = table
        .and_then(|table| table.key_column())
        .map(|column| column.name.as_str());
    let key = key.unwrap_or_default();
    Refusal::unsupported(format!(
        "a MERGE that inserts rows of several groups into table \"{name}\" is not supported in this form"
    ))
    .detail(
        "Nothing in the statement proves that each row of the source is in one group alone, that of the rows that it meets and of the row that it \
         inserts.",
    )
    .hint(format!(
        "Let ON compare \"{key}\" with the shard key of the source, and INSERT give it the same; or with constants of one group; or use INSERT ... ON CONFLICT."
    ))
}
