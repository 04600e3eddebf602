//! Conditions that can be looked at where the rows are.
//!
//! A conjunct of a WHERE, or of an inner join's ON, that concerns one table alone and holds for every row of it that the query block
//! makes anything of, can as well be looked at before the rows are gathered: rows that do not fulfil it end in no result of the block. It must
//! be made of comparisons of columns of PostgreSQL's own types with constants and parameters, whose outcome is the same in all groups. The
//! side of an outer join that may be missing is left alone: without its rows the join would make others.

use std::fmt;
use std::ops::ControlFlow;

use coordinator::catalogue::Column;
use sqlparser::ast::{
    BinaryOperator, CastKind, Expr, Ident, JoinConstraint, Select, Statement, TableFactor, TableWithJoins,
    UnaryOperator, Value, Visit, Visitor,
};

use super::super::bring;
use super::super::constants::type_oid;
use super::super::parse::token_of;
use super::super::pins::{JoinKind, constraint};
use super::super::relations::misread_column;
use super::super::scope::Instance;
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
pub(super) struct Block {
    items: Vec<Item>,
    /// There may be others.
    more: bool,
    /// Some are not tables.
    others: bool,
}

struct Item {
    name: String,
    /// Its number, if it is a distributed table.
    instance: Option<usize>,
    /// An outer join may put NULLs in the place of its row.
    nullable: bool,
}

impl Block {
    pub(super) fn of(select: &Select, instances: &[Instance<'_>]) -> Block {
        Block::of_items(None, &select.from, instances)
    }

    /// Of an UPDATE or DELETE of `first`, with these others.
    fn of_items(first: Option<&TableFactor>, from: &[TableWithJoins], instances: &[Instance<'_>]) -> Block {
        let mut block = Block {
            items: Vec::new(),
            more: false,
            others: false,
        };
        if let Some(first) = first {
            block.add(first, instances);
        }
        for tree in from {
            let first = block.items.len();
            block.add(&tree.relation, instances);
            for join in &tree.joins {
                let right = block.items.len();
                block.add(&join.relation, instances);
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

    fn add(&mut self, factor: &TableFactor, instances: &[Instance<'_>]) {
        let mut item = Item {
            name: String::new(),
            instance: None,
            nullable: false,
        };
        if let TableFactor::Table { name, args: None, .. } = factor {
            let at = name.0.first().and_then(|part| token_of(part.as_ident()?));
            let same = |instance: &Instance<'_>| at.is_some() && instance.at.map(|(from, _)| from) == at;
            if let Some(number) = instances.iter().position(same) {
                item.name.clone_from(&instances[number].called);
                item.instance = Some(number);
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

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.items.len()
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

    /// The column of one of them that an expression is.
    pub(super) fn column<'a>(&self, expr: &Expr, instances: &[Instance<'a>]) -> Option<(usize, &'a Column)> {
        let has = |at: usize, name: &Ident| {
            let instance = &instances[at];
            let column = instance.table.column(&name.value)?;
            instance.has_own_names().then_some((at, column))
        };
        match expr {
            Expr::Nested(inner) => self.column(inner, instances),
            Expr::Identifier(name) if !misread_column(name) => {
                let renamed = |at: usize| !instances[at].has_own_names();
                if self.more || self.instances().any(renamed) {
                    return None;
                }
                let mut found = self.instances().filter_map(|at| has(at, name));
                found.next().filter(|_| found.next().is_none())
            }
            Expr::CompoundIdentifier(names) => {
                let [table, name] = names.as_slice() else {
                    return None;
                };
                let mut found = self.items.iter().filter(|item| item.name == table.value);
                let item = found.next().filter(|_| found.next().is_none())?;
                has(item.instance?, name)
            }
            _ => None,
        }
    }
}

/// The conditions on each of these uses of tables.
pub(super) fn conditions(statement: &Statement, instances: &[Instance<'_>]) -> Vec<Vec<Condition>> {
    struct Walk<'w, 'a> {
        instances: &'w [Instance<'a>],
        found: Vec<Vec<Condition>>,
    }
    impl Visitor for Walk<'_, '_> {
        type Break = ();
        fn pre_visit_select(&mut self, select: &Select) -> ControlFlow<()> {
            let block = Block::of(select, self.instances);
            self.find(&block, &select.from, select.selection.as_ref());
            ControlFlow::Continue(())
        }
    }
    impl Walk<'_, '_> {
        fn find(&mut self, block: &Block, from: &[TableWithJoins], selection: Option<&Expr>) {
            let inner = from.iter().flat_map(|tree| &tree.joins).filter_map(|join| {
                match (JoinKind::of(join), constraint(join)) {
                    (Ok(JoinKind::Inner), Some(JoinConstraint::On(condition))) => Some(condition),
                    _ => None,
                }
            });
            for condition in inner.chain(selection) {
                for conjunct in conjuncts(condition) {
                    let mut writing = Writing {
                        block,
                        instances: self.instances,
                        about: None,
                        pieces: Vec::new(),
                    };
                    if writing.condition(conjunct).is_some()
                        && let Some(about) = writing.about
                        && !block.is_nullable(about)
                    {
                        self.found[about].push(Condition(writing.pieces));
                    }
                }
            }
        }
    }
    let mut walk = Walk {
        instances,
        found: vec![Vec::new(); instances.len()],
    };
    let selection = match statement {
        Statement::Update(update) => update.selection.as_ref(),
        Statement::Delete(delete) => delete.selection.as_ref(),
        _ => None,
    };
    if let Some((table, from)) = bring::tables(statement) {
        let block = Block::of_items(Some(table), from, instances);
        walk.find(&block, from, selection);
    }
    let _ = statement.visit(&mut walk);
    walk.found
}

fn conjuncts(condition: &Expr) -> Vec<&Expr> {
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
    block: &'w Block,
    instances: &'w [Instance<'a>],
    /// The table that it is about.
    about: Option<usize>,
    pieces: Vec<Piece>,
}

impl Writing<'_, '_> {
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
                let (_, column) = self.block.column(expr, self.instances)?;
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
        let Some((at, column)) = self.block.column(expr, self.instances) else {
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
            _ => None,
        }
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
