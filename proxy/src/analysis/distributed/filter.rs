//! Conditions that can be looked at where the rows are.
//!
//! A conjunct of a WHERE, or of an inner join's ON, that concerns one table alone and holds for every row of it that the query block
//! makes anything of, can as well be looked at before the rows are gathered: rows that do not fulfil it end in no result of the block. It must
//! be made of comparisons of columns of PostgreSQL's own types with constants and parameters, whose outcome is the same in all groups. The
//! side of an outer join that may be missing is left alone: without its rows the join would make others.

use std::fmt;
use std::ops::ControlFlow;

use coordinator::catalogue::{Column, Placement, Relation};
use coordinator::hash::KeyType;
use sqlparser::ast::{
    BinaryOperator, CastKind, DateTimeField, Expr, Interval, JoinConstraint, Select, Statement, TableFactor,
    TableWithJoins, UnaryOperator, Value, Visit, Visitor,
};

use super::super::bring;
use super::super::constants::type_oid;
use super::super::parse::token_of;
use super::super::pins::{JoinKind, constraint};
use super::super::proof::Proof;
use super::super::relations::misread_column;
use super::super::scope::Instance;
use super::super::upsert;
use super::own::{Output, outputs_of};
use super::quoted;

/// A condition on the rows of one table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Condition(pub(super) Vec<Piece>);

/// A piece of a text in which parameters have other numbers than in the client's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Piece {
    /// SQL.
    Text(String),
    /// A parameter of the client's statement, 0 for `$1`.
    Parameter(usize),
}

impl Piece {
    pub(super) fn text(text: impl Into<String>) -> Piece {
        Piece::Text(text.into())
    }
}

/// The client's parameters in a text.
pub(super) fn parameters(pieces: &[Piece]) -> impl Iterator<Item = usize> {
    pieces.iter().filter_map(|piece| match piece {
        Piece::Parameter(index) => Some(*index),
        Piece::Text(_) => None,
    })
}

/// A text with its parameters by these numbers.
pub(super) fn written(pieces: &[Piece], numbered: impl Fn(usize) -> usize) -> String {
    let mut text = String::new();
    for piece in pieces {
        match piece {
            Piece::Text(piece) => text.push_str(piece),
            Piece::Parameter(index) => text.push_str(&format!("${}", numbered(*index))),
        }
    }
    text
}

impl Condition {
    /// The client's parameters in it.
    pub(super) fn parameters(&self) -> impl Iterator<Item = usize> {
        parameters(&self.0)
    }
}

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&written(&self.0, |index| index + 1))
    }
}

/// The items of a query block's FROM.
pub(super) struct Block<'a> {
    items: Vec<Item<'a>>,
    /// There may be others.
    more: bool,
    /// Some are not tables.
    others: bool,
}

struct Item<'a> {
    name: String,
    /// Its number, if it is a distributed table.
    instance: Option<usize>,
    /// What is known of its columns.
    columns: Columns<'a>,
    /// An outer join may put NULLs in the place of its row.
    nullable: bool,
}

/// What is known of an item's columns.
enum Columns<'a> {
    /// They are those of this table, by the names that the table gives them.
    Table(&'a Relation),
    /// They are these of a subquery, by its alias' names.
    Results(Vec<Output>),
    /// Nothing.
    Unknown,
}

impl<'a> Item<'a> {
    /// Its column of this name.
    fn column(&self, name: &str) -> Option<&'a Column> {
        match &self.columns {
            Columns::Table(table) => table.column(name),
            _ => None,
        }
    }

    /// Whether it has a column of this name; none if that cannot be told.
    fn has(&self, name: &str) -> Option<bool> {
        match &self.columns {
            Columns::Table(table) => Some(table.column(name).is_some()),
            Columns::Results(outputs) => {
                let called = |output: &Output| output.name.as_deref() == Some(name);
                let all = outputs.iter().all(|output| output.name.is_some());
                (all || outputs.iter().any(called)).then(|| outputs.iter().any(called))
            }
            Columns::Unknown => None,
        }
    }
}

impl<'a> Block<'a> {
    pub(super) fn of(select: &Select, proof: &Proof<'a>) -> Block<'a> {
        Block::of_items(None, &select.from, proof)
    }

    /// Of this item alone.
    pub(super) fn of_factor(factor: &TableFactor, proof: &Proof<'a>) -> Block<'a> {
        Block::of_items(Some(factor), &[], proof)
    }

    /// Of an UPDATE or DELETE of `first`, with these others.
    fn of_items(first: Option<&TableFactor>, from: &[TableWithJoins], proof: &Proof<'a>) -> Block<'a> {
        let mut block = Block {
            items: Vec::new(),
            more: false,
            others: false,
        };
        if let Some(first) = first {
            block.add(first, proof);
        }
        for tree in from {
            let first = block.items.len();
            block.add(&tree.relation, proof);
            for join in &tree.joins {
                let right = block.items.len();
                block.add(&join.relation, proof);
                let (left, right) = match JoinKind::of(join) {
                    Ok(JoinKind::Inner) => continue,
                    Ok(JoinKind::Left) => (first..first, right..block.items.len()),
                    Ok(JoinKind::Right) => (first..right, right..right),
                    _ => (first..right, right..block.items.len()),
                };
                for at in left.chain(right) {
                    block.items[at].nullable = true;
                }
            }
        }
        block
    }

    fn add(&mut self, factor: &TableFactor, proof: &Proof<'a>) {
        let mut item = Item {
            name: String::new(),
            instance: None,
            columns: Columns::Unknown,
            nullable: false,
        };
        if let TableFactor::Derived { subquery, alias, .. } = factor {
            self.others = true;
            if let Some(alias) = alias {
                item.name.clone_from(&alias.name.value);
            }
            if let Some(mut outputs) = outputs_of(subquery, proof) {
                let names = alias.iter().flat_map(|alias| &alias.columns);
                for (output, column) in outputs.iter_mut().zip(names) {
                    output.name = Some(column.name.value.clone());
                }
                item.columns = Columns::Results(outputs);
            }
        } else if let TableFactor::Table {
            name,
            args: None,
            alias,
            ..
        } = factor
        {
            let at = name.0.first().and_then(|part| token_of(part.as_ident()?));
            let same = |instance: &Instance<'_>| at.is_some() && instance.at.map(|(from, _)| from) == at;
            if let Some(number) = proof.instances.iter().position(same) {
                let instance = &proof.instances[number];
                item.name.clone_from(&instance.called);
                item.instance = Some(number);
                if instance.has_own_names() {
                    item.columns = Columns::Table(instance.table);
                }
            } else if let Some(table) = at.and_then(|at| proof.reference_at(at)) {
                let called = alias.as_ref().map(|alias| &alias.name.value);
                item.name.clone_from(called.unwrap_or(&table.name));
                item.columns = Columns::Table(table);
            }
        } else {
            self.others = true;
        }
        self.more |= item.instance.is_none();
        self.items.push(item);
    }

    /// Whether it has no other items.
    pub(super) fn is_whole(&self) -> bool {
        !self.more
    }

    /// Whether all of them are tables.
    pub(super) fn has_only_tables(&self) -> bool {
        !self.others
    }

    /// Whether an outer join may put NULLs in the place of this distributed table's row.
    pub(super) fn is_nullable(&self, instance: usize) -> bool {
        self.items
            .iter()
            .any(|item| item.instance == Some(instance) && item.nullable)
    }

    /// The distributed tables among them.
    pub(super) fn instances(&self) -> impl Iterator<Item = usize> {
        self.items.iter().filter_map(|item| item.instance)
    }

    /// The distributed table that is the item of this number.
    pub(super) fn instance(&self, at: usize) -> Option<usize> {
        self.items.get(at)?.instance
    }

    /// Whether an outer join may put NULLs in the place of a row of the item of this number.
    pub(super) fn is_missing(&self, at: usize) -> bool {
        self.items.get(at).is_none_or(|item| item.nullable)
    }

    /// Whether it is certain that no item is called so.
    pub(super) fn calls_none(&self, name: &str) -> bool {
        let other = |item: &Item<'_>| !item.name.is_empty() && item.name != name;
        self.items.iter().all(other)
    }

    /// Whether it is certain that a column is one of these items'. What is one here is none of a query around.
    pub(super) fn names(&self, expr: &Expr) -> bool {
        match expr {
            Expr::Identifier(name) => {
                !misread_column(name) && self.items.iter().any(|item| item.has(&name.value) == Some(true))
            }
            Expr::CompoundIdentifier(names) => {
                let [table, _] = names.as_slice() else {
                    return false;
                };
                self.items.iter().any(|item| item.name == table.value)
            }
            _ => false,
        }
    }

    /// Whether a column of this name is certainly of none of them.
    pub(super) fn has_not(&self, name: &str) -> bool {
        self.items.iter().all(|item| item.has(name) == Some(false))
    }

    /// All columns in order, as `*` gives them; none where they are not known.
    pub(super) fn all(&self) -> Option<Vec<Output>> {
        let [item] = self.items.as_slice() else {
            return None;
        };
        match &item.columns {
            Columns::Table(table) => {
                let called = |column: &Column| Output {
                    name: Some(column.name.clone()),
                    key: self.key_in(item, &column.name),
                };
                Some(table.columns.iter().map(called).collect())
            }
            Columns::Results(outputs) => Some(outputs.clone()),
            Columns::Unknown => None,
        }
    }

    /// The type of the shard key that an expression is, of a table whose row is there. What is in a group's rows in its place is a key of that group.
    pub(super) fn key(&self, expr: &Expr) -> Option<KeyType> {
        let (item, name) = self.find(expr)?;
        self.key_in(item, name)
    }

    fn key_in(&self, item: &Item<'a>, name: &str) -> Option<KeyType> {
        if item.nullable {
            return None;
        }
        match &item.columns {
            Columns::Table(table) => {
                let key = table.key_column().filter(|_| item.instance.is_some())?;
                match &table.placement {
                    Some(Placement::Hash(hashed)) if key.name == name => Some(hashed.column.key_type),
                    _ => None,
                }
            }
            Columns::Results(outputs) => {
                let mut found = outputs
                    .iter()
                    .filter(|output| output.name.as_deref() == Some(name));
                found.next().filter(|_| found.next().is_none())?.key
            }
            Columns::Unknown => None,
        }
    }

    /// The column of one of the tables that an expression is, distributed or in every group.
    pub(super) fn any_column(&self, expr: &Expr) -> Option<&'a Column> {
        let (item, name) = self.find(expr)?;
        item.column(name)
    }

    /// The item that an expression is a column of, and that column's name.
    fn find<'e>(&self, expr: &'e Expr) -> Option<(&Item<'a>, &'e str)> {
        match expr {
            Expr::Nested(inner) => self.find(inner),
            Expr::Identifier(name) if !misread_column(name) => {
                let mut owners = Vec::new();
                for item in &self.items {
                    if item.has(&name.value)? {
                        owners.push(item);
                    }
                }
                match owners.as_slice() {
                    [item] => Some((item, &name.value)),
                    _ => None,
                }
            }
            Expr::CompoundIdentifier(names) => {
                let [table, name] = names.as_slice() else {
                    return None;
                };
                let mut found = self.items.iter().filter(|item| item.name == table.value);
                let item = found.next().filter(|_| found.next().is_none())?;
                Some((item, &name.value))
            }
            _ => None,
        }
    }

    /// The column of one of the distributed tables that an expression is.
    pub(super) fn column(&self, expr: &Expr) -> Option<(usize, &'a Column)> {
        let (item, name) = self.find(expr)?;
        Some((item.instance?, item.column(name)?))
    }
}

/// The conditions on each use of a distributed table.
pub(super) fn conditions(statement: &Statement, proof: &Proof<'_>) -> Vec<Vec<Condition>> {
    struct Walk<'w, 'a> {
        proof: &'w Proof<'a>,
        found: Vec<Vec<Condition>>,
    }
    impl Visitor for Walk<'_, '_> {
        type Break = ();
        fn pre_visit_select(&mut self, select: &Select) -> ControlFlow<()> {
            let block = Block::of(select, self.proof);
            self.find(&block, &select.from, select.selection.as_ref());
            ControlFlow::Continue(())
        }
    }
    impl Walk<'_, '_> {
        fn find(&mut self, block: &Block<'_>, from: &[TableWithJoins], selection: Option<&Expr>) {
            let inner = from.iter().flat_map(|tree| &tree.joins).filter_map(|join| {
                match (JoinKind::of(join), constraint(join)) {
                    (Ok(JoinKind::Inner), Some(JoinConstraint::On(condition))) => Some(condition),
                    _ => None,
                }
            });
            for condition in inner.chain(selection) {
                for conjunct in conjuncts(condition) {
                    self.conjunct(block, conjunct);
                }
            }
        }

        fn conjunct(&mut self, block: &Block<'_>, conjunct: &Expr) {
            let mut writing = Writing::of(block, None);
            if writing.condition(conjunct).is_some() {
                if let Some(about) = writing.about.filter(|about| !block.is_nullable(*about)) {
                    self.found[about].push(Condition(writing.pieces));
                }
                return;
            }
            if !matches!(
                without_parentheses(conjunct),
                Expr::BinaryOp {
                    op: BinaryOperator::Or,
                    ..
                }
            ) {
                return;
            }
            for about in block.instances().filter(|about| !block.is_nullable(*about)) {
                if let Some(pieces) = implied(block, about, conjunct) {
                    self.found[about].push(Condition(pieces));
                }
            }
        }
    }
    let mut walk = Walk {
        proof,
        found: vec![Vec::new(); proof.instances.len()],
    };
    let selection = match statement {
        Statement::Update(update) => update.selection.as_ref(),
        Statement::Delete(delete) => delete.selection.as_ref(),
        _ => None,
    };
    if let Some((table, from)) = bring::tables(statement) {
        let block = Block::of_items(Some(table), from, proof);
        walk.find(&block, from, selection);
    }
    if let Statement::Merge(merge) = statement
        && !upsert::inserts(merge)
    {
        // Without INSERT it is an inner join.
        let source = TableWithJoins {
            relation: merge.source.clone(),
            joins: Vec::new(),
        };
        let block = Block::of_items(Some(&merge.table), &[source], proof);
        walk.find(&block, &[], Some(&merge.on));
    }
    let _ = statement.visit(&mut walk);
    walk.found
}

/// What a condition that is true says of one table: of `a.x = 1 AND b.y = 2 OR a.x = 3` that `a.x` is 1 or 3. What AND joins is looked at one by one;
/// what OR joins must say something of the table each time.
fn implied(block: &Block<'_>, about: usize, condition: &Expr) -> Option<Vec<Piece>> {
    let joined = |left: Vec<Piece>, word: &str, right: Vec<Piece>| {
        let mut pieces = vec![Piece::text("(")];
        pieces.extend(left);
        pieces.push(Piece::text(word));
        pieces.extend(right);
        pieces.push(Piece::text(")"));
        pieces
    };
    match condition {
        Expr::Nested(inner) => implied(block, about, inner),
        Expr::BinaryOp {
            left,
            op: BinaryOperator::And,
            right,
        } => match (implied(block, about, left), implied(block, about, right)) {
            (Some(left), Some(right)) => Some(joined(left, " AND ", right)),
            (left, right) => left.or(right),
        },
        Expr::BinaryOp {
            left,
            op: BinaryOperator::Or,
            right,
        } => {
            let (left, right) = (implied(block, about, left)?, implied(block, about, right)?);
            Some(joined(left, " OR ", right))
        }
        _ => {
            let mut writing = Writing::of(block, Some(about));
            writing.condition(condition)?;
            Some(writing.pieces)
        }
    }
}

fn without_parentheses(expr: &Expr) -> &Expr {
    match expr {
        Expr::Nested(inner) => without_parentheses(inner),
        expr => expr,
    }
}

pub(in super::super) fn conjuncts(condition: &Expr) -> Vec<&Expr> {
    let (mut left, mut found) = (vec![condition], Vec::new());
    while let Some(expr) = left.pop() {
        match expr {
            Expr::Nested(inner) => left.push(inner),
            Expr::BinaryOp {
                left: one,
                op: BinaryOperator::And,
                right: other,
            } => left.extend([&**other, &**one]),
            _ => found.push(expr),
        }
    }
    found
}

/// Writes a condition down, as far as it is one of those that may be.
struct Writing<'w, 'a> {
    block: &'w Block<'a>,
    /// The table that it is about.
    about: Option<usize>,
    pieces: Vec<Piece>,
}

impl<'w, 'a> Writing<'w, 'a> {
    fn of(block: &'w Block<'a>, about: Option<usize>) -> Writing<'w, 'a> {
        Writing {
            block,
            about,
            pieces: Vec::new(),
        }
    }

    fn text(&mut self, text: &str) {
        match self.pieces.last_mut() {
            Some(Piece::Text(before)) => before.push_str(text),
            _ => self.pieces.push(Piece::Text(text.to_owned())),
        }
    }

    fn condition(&mut self, expr: &Expr) -> Option<()> {
        match expr {
            Expr::Nested(inner) => self.condition(inner),
            Expr::BinaryOp { left, op, right } => {
                self.text("(");
                match op {
                    BinaryOperator::And | BinaryOperator::Or => {
                        self.condition(left)?;
                        self.text(if *op == BinaryOperator::And {
                            " AND "
                        } else {
                            " OR "
                        });
                        self.condition(right)?;
                    }
                    _ => {
                        self.value(left)?;
                        self.text(comparison(op)?);
                        self.value(right)?;
                    }
                }
                self.text(")");
                Some(())
            }
            Expr::UnaryOp {
                op: UnaryOperator::Not,
                expr,
            } => {
                self.text("(NOT ");
                self.condition(expr)?;
                self.text(")");
                Some(())
            }
            Expr::IsNull(expr) => self.wrapped(expr, " IS NULL)"),
            Expr::IsNotNull(expr) => self.wrapped(expr, " IS NOT NULL)"),
            Expr::InList { expr, list, negated } => {
                self.text("(");
                self.value(expr)?;
                self.text(if *negated { " NOT IN (" } else { " IN (" });
                for (index, item) in list.iter().enumerate() {
                    self.text(if index == 0 { "" } else { ", " });
                    self.value(item)?;
                }
                self.text("))");
                Some(())
            }
            Expr::Between {
                expr,
                negated,
                low,
                high,
            } => {
                self.text("(");
                self.value(expr)?;
                self.text(if *negated { " NOT BETWEEN " } else { " BETWEEN " });
                self.value(low)?;
                self.text(" AND ");
                self.value(high)?;
                self.text(")");
                Some(())
            }
            Expr::Like {
                negated,
                any: false,
                expr,
                pattern,
                escape_char: None,
            } => self.like(expr, if *negated { " NOT LIKE " } else { " LIKE " }, pattern),
            Expr::ILike {
                negated,
                any: false,
                expr,
                pattern,
                escape_char: None,
            } => self.like(expr, if *negated { " NOT ILIKE " } else { " ILIKE " }, pattern),
            Expr::AnyOp {
                left,
                compare_op: BinaryOperator::Eq,
                right,
                ..
            } => {
                self.text("(");
                self.value(left)?;
                self.text(" = ANY (");
                self.fixed(right)?;
                self.text("))");
                Some(())
            }
            Expr::Identifier(_) | Expr::CompoundIdentifier(_) => {
                const BOOL: u32 = 16;
                let (_, column) = self.block.column(expr)?;
                (column.type_oid == BOOL).then(|| self.value(expr))?
            }
            _ => None,
        }
    }

    fn wrapped(&mut self, expr: &Expr, test: &str) -> Option<()> {
        self.text("(");
        self.value(expr)?;
        self.text(test);
        Some(())
    }

    fn like(&mut self, expr: &Expr, operator: &str, pattern: &Expr) -> Option<()> {
        self.text("(");
        self.value(expr)?;
        self.text(operator);
        self.value(pattern)?;
        self.text(")");
        Some(())
    }

    fn value(&mut self, expr: &Expr) -> Option<()> {
        /// The first OID that is not PostgreSQL's own.
        const FIRST_OF_USERS: u32 = 16_384;
        let Some((at, column)) = self.block.column(expr) else {
            return self.fixed(expr);
        };
        if *self.about.get_or_insert(at) != at || column.type_oid >= FIRST_OF_USERS {
            return None;
        }
        self.text(&quoted(&column.name));
        Some(())
    }

    fn fixed(&mut self, expr: &Expr) -> Option<()> {
        match expr {
            Expr::Nested(inner) => self.fixed(inner),
            Expr::Value(value) => self.plain(&value.value),
            Expr::UnaryOp {
                op: UnaryOperator::Minus,
                expr,
            } => match &**expr {
                Expr::Value(value) if matches!(value.value, Value::Number(..)) => {
                    self.text("-");
                    self.plain(&value.value)
                }
                _ => None,
            },
            Expr::Cast {
                kind: CastKind::Cast | CastKind::DoubleColon,
                expr,
                data_type,
                format: None,
            } => {
                type_oid(data_type)?;
                self.text("CAST(");
                self.fixed(expr)?;
                self.text(&format!(" AS {data_type})"));
                Some(())
            }
            Expr::TypedString(typed) => {
                type_oid(&typed.data_type)?;
                self.text("CAST(");
                self.plain(&typed.value.value)?;
                self.text(&format!(" AS {})", typed.data_type));
                Some(())
            }
            Expr::Interval(interval) => self.interval(interval),
            // Of constants it is computed once, and fails wherever the query is planned.
            Expr::BinaryOp { left, op, right } => {
                self.text("(");
                self.fixed(left)?;
                self.text(match op {
                    BinaryOperator::Plus => " + ",
                    BinaryOperator::Minus => " - ",
                    BinaryOperator::Multiply => " * ",
                    BinaryOperator::Divide => " / ",
                    _ => return None,
                });
                self.fixed(right)?;
                self.text(")");
                Some(())
            }
            _ => None,
        }
    }

    /// `INTERVAL '90' DAY`, or without a field.
    fn interval(&mut self, interval: &Interval) -> Option<()> {
        let Expr::Value(value) = &*interval.value else {
            return None;
        };
        let Value::SingleQuotedString(text) = &value.value else {
            return None;
        };
        let precise = interval.leading_precision.is_some() || interval.fractional_seconds_precision.is_some();
        let field = match (&interval.leading_field, &interval.last_field) {
            _ if precise => return None,
            (None, None) => "",
            (Some(DateTimeField::Year), None) => " YEAR",
            (Some(DateTimeField::Month), None) => " MONTH",
            (Some(DateTimeField::Day), None) => " DAY",
            (Some(DateTimeField::Hour), None) => " HOUR",
            (Some(DateTimeField::Minute), None) => " MINUTE",
            (Some(DateTimeField::Second), None) => " SECOND",
            _ => return None,
        };
        self.text(&format!("INTERVAL {}{field}", constant(text)));
        Some(())
    }

    fn plain(&mut self, value: &Value) -> Option<()> {
        match value {
            Value::Number(number, _) => self.text(number),
            Value::Boolean(value) => self.text(if *value { "true" } else { "false" }),
            Value::Null => self.text("NULL"),
            Value::SingleQuotedString(text) => {
                if is_moment(text) {
                    return None;
                }
                self.text(&constant(text));
            }
            Value::Placeholder(name) => {
                let number: usize = name.strip_prefix('$')?.parse().ok()?;
                self.pieces.push(Piece::Parameter(number.checked_sub(1)?));
            }
            _ => return None,
        }
        Some(())
    }
}

fn comparison(op: &BinaryOperator) -> Option<&'static str> {
    Some(match op {
        BinaryOperator::Eq => " = ",
        BinaryOperator::NotEq => " <> ",
        BinaryOperator::Lt => " < ",
        BinaryOperator::LtEq => " <= ",
        BinaryOperator::Gt => " > ",
        BinaryOperator::GtEq => " >= ",
        _ => return None,
    })
}

/// Whether it could be, as a time, the moment at which a group's transaction began.
pub(super) fn is_moment(constant: &str) -> bool {
    let lower = constant.to_ascii_lowercase();
    ["now", "today", "tomorrow", "yesterday"]
        .iter()
        .any(|word| lower.contains(word))
}

/// A text as a constant.
pub(super) fn constant(text: &str) -> String {
    let escaped = text.replace('\\', "\\\\").replace('\'', "''");
    format!("E'{escaped}'")
}
