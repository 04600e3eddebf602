//! INSERT, UPDATE and DELETE, and by [`super::upsert`] MERGE: which rows they touch, and whether a row may change its group.

use coordinator::catalogue::{Column, FilledBy, Placement};
use coordinator::hash::KeyUse;
use sqlparser::ast::{
    Assignment, AssignmentTarget, Delete, Expr, FromTable, Insert, ObjectName, OnConflictAction, OnInsert,
    Query, SelectItem, SetExpr, Statement, TableAlias, TableFactor, TableObject, Update, UpdateTableFromKind,
};

use super::Refusal;
use super::constants;
use super::feed::Fed;
use super::moves::{self, Moved};
use super::plan::Key;
use super::proof::{Proof, not_understood, scope_of};
use super::relations::parts;
use super::scope::{Block, Instance};
use super::upsert;

/// Walks a writing statement, at the top or in a CTE.
pub(super) fn walk(proof: &mut Proof<'_>, statement: &Statement) -> Result<(), Refusal> {
    match statement {
        Statement::Insert(insert) => walk_insert(proof, insert),
        Statement::Update(update) => walk_update(proof, update),
        Statement::Delete(delete) => walk_delete(proof, delete),
        Statement::Merge(merge) => upsert::walk(proof, merge),
        _ => Err(not_understood("the statement")),
    }
}

fn walk_update(proof: &mut Proof<'_>, update: &Update) -> Result<(), Refusal> {
    let foreign = !update.optimizer_hints.is_empty()
        || update.output.is_some()
        || update.or.is_some()
        || !update.order_by.is_empty()
        || update.limit.is_some()
        || !update.table.joins.is_empty();
    let TableFactor::Table {
        name,
        alias,
        args: None,
        sample: None,
        ..
    } = &update.table.relation
    else {
        return Err(not_understood("UPDATE"));
    };
    if foreign {
        return Err(not_understood("UPDATE"));
    }
    let mut block = Block::default();
    let target = proof.target(name, alias.as_ref(), &mut block)?;
    let from = match &update.from {
        None => &[][..],
        Some(UpdateTableFromKind::AfterSet(from)) => from,
        Some(UpdateTableFromKind::BeforeSet(_)) => return Err(not_understood("UPDATE")),
    };
    keep_counts(proof, target, &update.assignments)?;
    let moved = Moved::find(proof, target, &update.assignments, &block)?;
    if let (Some(_), Some(moved)) = (&proof.moved, &moved) {
        return Err(moves::refusal(&proof.instances[moved.instance], "in this form"));
    }
    proof.moved = proof.moved.take().or(moved);
    finish(
        proof,
        block,
        from,
        update.selection.as_ref(),
        (&update.assignments, &update.returning),
    )
}

fn walk_delete(proof: &mut Proof<'_>, delete: &Delete) -> Result<(), Refusal> {
    let foreign = !delete.optimizer_hints.is_empty()
        || !delete.tables.is_empty()
        || delete.output.is_some()
        || !delete.order_by.is_empty()
        || delete.limit.is_some();
    let FromTable::WithFromKeyword(from) = &delete.from else {
        return Err(not_understood("DELETE"));
    };
    let [table] = from.as_slice() else {
        return Err(not_understood("DELETE"));
    };
    let TableFactor::Table {
        name,
        alias,
        args: None,
        sample: None,
        ..
    } = &table.relation
    else {
        return Err(not_understood("DELETE"));
    };
    if foreign || !table.joins.is_empty() {
        return Err(not_understood("DELETE"));
    }
    let mut block = Block::default();
    proof.target(name, alias.as_ref(), &mut block)?;
    let using = delete.using.as_deref().unwrap_or_default();
    finish(
        proof,
        block,
        using,
        delete.selection.as_ref(),
        (&delete.returning, &None::<Expr>),
    )
}

/// The FROM or USING, the WHERE and the expressions of an UPDATE or DELETE of the block's first item.
fn finish<'a, V: sqlparser::ast::Visit, W: sqlparser::ast::Visit>(
    proof: &mut Proof<'a>,
    mut block: Block<'a>,
    from: &[sqlparser::ast::TableWithJoins],
    selection: Option<&Expr>,
    (one, other): (&V, &W),
) -> Result<(), Refusal> {
    let more = proof.from(from)?;
    block.merges |= more.merges;
    {
        // ON conditions see the items of FROM only.
        let scope = [&more];
        proof.joins(from, &scope)?;
    }
    block.items.extend(more.items);
    let scope = scope_of(&block, &[]);
    proof.expressions(one, &scope)?;
    proof.expressions(other, &scope)?;
    proof.selection(selection, &scope)
}

/// What `SET column = DEFAULT` would take of a sequence.
pub(super) fn keep_counts(
    proof: &Proof<'_>,
    target: Option<usize>,
    assignments: &[Assignment],
) -> Result<(), Refusal> {
    let Some(instance) = target.map(|at| &proof.instances[at]) else {
        return Ok(());
    };
    let mut each = assignments.iter();
    each.try_for_each(|assignment| keep_counting(instance, assignment))
}

/// `SET column = DEFAULT` would have each group count for itself.
fn keep_counting(instance: &Instance<'_>, assignment: &Assignment) -> Result<(), Refusal> {
    let names = match &assignment.target {
        AssignmentTarget::ColumnName(name) => std::slice::from_ref(name),
        AssignmentTarget::Tuple(names) => names.as_slice(),
    };
    let values = match &assignment.value {
        Expr::Tuple(values) => values.as_slice(),
        value => std::slice::from_ref(value),
    };
    for (name, value) in names.iter().zip(values) {
        let column = parts(name).and_then(|parts| instance.table.column(parts.first()?));
        if let Some(column) = column.filter(|column| counts(column) && is_default(value)) {
            return Err(Refusal::unsupported(format!(
                "column \"{}\" of table \"{}\" cannot be set to its default, which is of a sequence",
                column.name, instance.table.name
            ))
            .hint("Take a value with SELECT nextval(...) first."));
        }
    }
    Ok(())
}

/// Whether a column that is given no value gets one of a sequence.
fn counts(column: &Column) -> bool {
    matches!(
        column.filled_by,
        FilledBy::Sequence(_) | FilledBy::Counting | FilledBy::Identity { .. }
    )
}

pub(super) fn is_default(expr: &Expr) -> bool {
    matches!(expr, Expr::Identifier(name) if name.quote_style.is_none() && name.value == "default")
}

/// How many columns a SELECT gives at least.
fn results(projection: &[SelectItem]) -> usize {
    let plain = |item: &&SelectItem| {
        matches!(
            item,
            SelectItem::UnnamedExpr(_) | SelectItem::ExprWithAlias { .. }
        )
    };
    projection.iter().take_while(plain).count()
}

/// A statement in which the session has supplied no values (`sequences.rs`) must give them itself.
fn supplied(instance: &Instance<'_>, columns: &[ObjectName], source: Option<&Query>) -> Result<(), Refusal> {
    let (rows, width) = match source.map(|source| &*source.body) {
        // Each row is looked at.
        Some(SetExpr::Values(values)) => (values.rows.as_slice(), usize::MAX),
        Some(SetExpr::Select(select)) => (&[][..], results(&select.projection)),
        _ => (&[][..], 0),
    };
    let rows: Vec<&[Expr]> = rows.iter().map(|row| row.content.as_slice()).collect();
    all_given(instance, columns, source.is_some(), (&rows, width))
}

/// That each of these rows, which are of at least this width, gives what sequences would fill.
pub(super) fn all_given(
    instance: &Instance<'_>,
    columns: &[ObjectName],
    is_given: bool,
    (rows, width): (&[&[Expr]], usize),
) -> Result<(), Refusal> {
    let named = |column: &Column| {
        let name = |name: &ObjectName| parts(name).is_some_and(|parts| parts.first() == Some(&column.name));
        columns.iter().position(name)
    };
    for (number, column) in instance
        .table
        .columns
        .iter()
        .enumerate()
        .filter(|(_, c)| counts(c))
    {
        let place = match columns {
            [] => Some(number).filter(|number| *number < width),
            _ => named(column),
        };
        let given = place.is_some_and(|place| {
            is_given
                && rows
                    .iter()
                    .all(|row| row.get(place).is_some_and(|value| !is_default(value)))
        });
        if !given {
            return Err(Refusal::unsupported(format!(
                "an INSERT of this form must give column \"{}\" of table \"{}\", which a sequence fills",
                column.name, instance.table.name
            ))
            .detail("The session takes values of the sequence for an INSERT of VALUES, at the top of a statement.")
            .hint("Name the column, and give it values."));
        }
    }
    Ok(())
}

fn walk_insert(proof: &mut Proof<'_>, insert: &Insert) -> Result<(), Refusal> {
    let foreign = !insert.optimizer_hints.is_empty()
        || insert.or.is_some()
        || insert.ignore
        || !insert.into
        || insert.overwrite
        || !insert.assignments.is_empty()
        || insert.partitioned.is_some()
        || !insert.after_columns.is_empty()
        || insert.has_table_keyword
        || insert.output.is_some()
        || insert.replace_into
        || insert.priority.is_some()
        || insert.insert_alias.is_some()
        || insert.settings.is_some()
        || insert.format_clause.is_some()
        || insert.multi_table_insert_type.is_some()
        || !insert.multi_table_into_clauses.is_empty()
        || !insert.multi_table_when_clauses.is_empty()
        || insert.multi_table_else_clause.is_some();
    let TableObject::TableName(name) = &insert.table else {
        return Err(not_understood("INSERT"));
    };
    if foreign {
        return Err(not_understood("INSERT"));
    }
    let alias = insert.table_alias.as_ref().map(|alias| TableAlias {
        explicit: true,
        name: alias.alias.clone(),
        columns: Vec::new(),
        at: None,
    });
    let mut block = Block::default();
    let target = proof.target(name, alias.as_ref(), &mut block)?;
    let scope = [&block];
    if let Some(on) = &insert.on {
        let OnInsert::OnConflict(conflict) = on else {
            return Err(not_understood("INSERT"));
        };
        if let OnConflictAction::DoUpdate(update) = &conflict.action {
            keep_counts(proof, target, &update.assignments)?;
        }
        if let OnConflictAction::DoUpdate(update) = &conflict.action
            && let Some(instance) = target.map(|at| &proof.instances[at])
            && !moves::stays_on_conflict(instance, &update.assignments)?
        {
            return Err(moves::refusal(instance, "by ON CONFLICT"));
        }
        proof.expressions(on, &scope)?;
    }
    proof.expressions(&insert.returning, &scope)?;
    let Some(at) = target else {
        // Into a temporary table, from anywhere; into a reference table, from what every group has.
        return insert
            .source
            .as_deref()
            .map_or(Ok(()), |source| proof.query(source, &[]).map(drop));
    };
    supplied(&proof.instances[at], &insert.columns, insert.source.as_deref())?;
    let local = proof.instances[at].table.placement == Some(Placement::Local);
    if let Some(source) = insert.source.as_deref()
        && !matches!(&*source.body, SetExpr::Values(_))
    {
        let key_at = match local {
            true => 0,
            false => key_place(&proof.instances[at], &insert.columns)?,
        };
        let block = proof.query(source, &[])?;
        proof.fed = Some(Fed::find(proof, at, key_at, (source, &block))?);
        return Ok(());
    }
    if local {
        return insert
            .source
            .as_deref()
            .map_or(Ok(()), |source| proof.query(source, &[]).map(drop));
    }
    let Some(source) = insert.source.as_deref() else {
        return Err(keyless(&proof.instances[at]).detail("INSERT ... DEFAULT VALUES gives no key."));
    };
    let keys = inserted_keys(&proof.instances[at], &insert.columns, source)?;
    proof.query(source, &[])?;
    match keys {
        Keys::Known(keys) => proof.pin(at, keys),
        Keys::Computed { rows, key_at } => proof.computes = Some((rows, key_at)),
    }
    Ok(())
}

/// The keys of rows of VALUES.
enum Keys {
    /// Of each row.
    Known(Vec<Key>),
    /// Of these rows it is an expression.
    Computed { rows: Vec<usize>, key_at: usize },
}

/// The key of each row of VALUES.
fn inserted_keys(instance: &Instance<'_>, columns: &[ObjectName], source: &Query) -> Result<Keys, Refusal> {
    let SetExpr::Values(values) = &*source.body else {
        return Err(not_understood("INSERT"));
    };
    let ordered = source.order_by.is_some() || source.limit_clause.is_some() || source.fetch.is_some();
    if source.with.is_some() || ordered || values.explicit_row || values.value_keyword {
        return Err(not_understood("INSERT"));
    }
    let place = key_place(instance, columns)?;
    let (mut keys, mut rows) = (Vec::with_capacity(values.rows.len()), Vec::new());
    for (row, given) in values.rows.iter().enumerate() {
        let expr = given.content.get(place).ok_or_else(|| keyless(instance))?;
        match constants::key(expr, instance.key, KeyUse::Assignment) {
            Some(key) => keys.push(key),
            None if is_default(expr) => {
                return Err(keyless(instance).detail("The column has no DEFAULT that could be computed."));
            }
            None => rows.push(row),
        }
    }
    Ok(match rows.is_empty() {
        true => Keys::Known(keys),
        false => Keys::Computed { rows, key_at: place },
    })
}

/// Where in a row of VALUES the key is.
pub(super) fn key_place(instance: &Instance<'_>, columns: &[ObjectName]) -> Result<usize, Refusal> {
    let key = instance
        .table
        .key_column()
        .map(|column| column.name.as_str())
        .unwrap_or_default();
    let place = if columns.is_empty() {
        instance
            .table
            .columns
            .iter()
            .position(|column| column.name == key)
    } else {
        columns
            .iter()
            .position(|column| parts(column).is_some_and(|parts| parts == [key]))
    };
    place.ok_or_else(|| keyless(instance))
}

pub(super) fn keyless(instance: &Instance<'_>) -> Refusal {
    let column = instance
        .table
        .key_column()
        .map(|column| column.name.as_str())
        .unwrap_or_default();
    Refusal::unsupported(format!(
        "INSERT into table \"{}\" must give its shard key \"{column}\"",
        instance.table.name
    ))
    .hint(format!(
        "Name column \"{column}\" and give it a constant or a parameter in every row."
    ))
}
