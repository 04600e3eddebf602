//! Queries by a grammar: expressions, conditions, relations and queries are made of one another, down to a small depth.
//!
//! Every query has one right answer, whatever the plan: expressions do not fail, limits come with an order of all columns, and what depends on the
//! order of rows is given one that tells them apart.

use std::fmt::Write;

use super::types::{INT4, INT8, TEXT, TYPES, Type};
use super::{Maker, Statement, Value};
use crate::differential::exchange::Order;

/// What an expression is, as far as others can be made of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Integer,
    Numeric,
    Text,
    Bool,
    /// Of some other type: it is selected, and compared with its like.
    Other(&'static str),
}

/// What others are not made of.
const PLAIN: [Kind; 4] = [Kind::Integer, Kind::Numeric, Kind::Text, Kind::Bool];

impl Kind {
    fn of(name: &'static str) -> Kind {
        match name {
            "int8" | "int4" | "int2" => Kind::Integer,
            "numeric" => Kind::Numeric,
            "text" => Kind::Text,
            "bool" => Kind::Bool,
            name => Kind::Other(name),
        }
    }

    /// Whether its values can be told apart: `json` has no equality.
    fn compares(self) -> bool {
        self != Kind::Other("json")
    }
}

/// A column that is in sight.
#[derive(Clone, Debug)]
struct Column {
    name: String,
    kind: Kind,
    /// The type, for values that are compared with it.
    of: Option<&'static Type>,
}

/// A part of a text, with its values.
#[derive(Clone, Debug, Default)]
struct Part {
    text: String,
    values: Vec<Value>,
}

impl Part {
    fn of(text: impl Into<String>) -> Part {
        Part {
            text: text.into(),
            values: Vec::new(),
        }
    }

    /// The shape, with a part for each `#`.
    fn shaped(shape: &str, parts: impl IntoIterator<Item = Part>) -> Part {
        let mut made = Part::default();
        let mut parts = parts.into_iter();
        for (at, piece) in shape.split('#').enumerate() {
            if at > 0 {
                made.push(parts.next().unwrap_or_default());
            }
            made.text.push_str(piece);
        }
        made
    }

    fn push(&mut self, part: Part) {
        self.text.push_str(&part.text);
        self.values.extend(part.values);
    }

    fn joined(parts: Vec<Part>, between: &str) -> Part {
        let mut made = Part::default();
        for (at, part) in parts.into_iter().enumerate() {
            if at > 0 {
                made.text.push_str(between);
            }
            made.push(part);
        }
        made
    }
}

/// What rows come from.
struct Relation {
    from: Part,
    columns: Vec<Column>,
    /// Columns that tell its rows apart, or all of them.
    key: Vec<String>,
}

/// A table or view.
struct Table {
    name: &'static str,
    /// How many of the columns, the first ones, are its key.
    keys: usize,
    /// Names and types; of those without one it is drawn.
    columns: &'static [(&'static str, &'static str)],
}

const KEYED: &[(&str, &str)] = &[("k", "int8"), ("n", "int4"), ("t", "text")];
const TABLES: &[Table] = &[
    Table {
        name: "kv",
        keys: 1,
        columns: &[("k", "int8"), ("n", "int4"), ("t", "text"), ("v", "numeric")],
    },
    Table {
        name: "pair",
        keys: 2,
        columns: &[("a", "int8"), ("b", "int4"), ("t", "text")],
    },
    Table {
        name: "keyed",
        keys: 1,
        columns: &[("k", ""), ("n", "int4"), ("t", "text")],
    },
    Table {
        name: "wide",
        keys: 1,
        columns: &[
            ("k", "int8"),
            ("c0", ""),
            ("c1", ""),
            ("c2", ""),
            ("c3", ""),
            ("c4", ""),
        ],
    },
    Table {
        name: "lands",
        keys: 1,
        columns: &[("k", "int4"), ("n", "int4"), ("t", "text")],
    },
    Table {
        name: "alone",
        keys: 1,
        columns: KEYED,
    },
    Table {
        name: "parted",
        keys: 2,
        columns: KEYED,
    },
    Table {
        name: "seen",
        keys: 1,
        columns: KEYED,
    },
    Table {
        name: "summed",
        keys: 1,
        columns: &[("a", "int8"), ("n", "int8"), ("t", "text")],
    },
];

/// A query that is being made.
struct Grammar<'a> {
    maker: &'a mut Maker,
    aliases: usize,
}

impl Maker {
    /// A query by the grammar.
    pub(super) fn composed(&mut self) -> Statement {
        let count = 1 + self.below(3);
        let kinds: Vec<Kind> = (0..count).map(|_| self.pick(&PLAIN)).collect();
        let mut grammar = Grammar {
            maker: self,
            aliases: 0,
        };
        let mut query = grammar.query(&kinds, 2, &[]);
        let order = if grammar.maker.chance(40) {
            grammar.order_all(&mut query, kinds.len());
            Order::Given
        } else {
            Order::Any
        };
        Statement::new(query.text, query.values, order)
    }
}

impl Grammar<'_> {
    fn alias(&mut self) -> String {
        self.aliases += 1;
        format!("r{}", self.aliases)
    }

    /// Sorts a query by all that it gives, and may cut it short.
    fn order_all(&mut self, query: &mut Part, columns: usize) {
        let mut by: Vec<String> = (1..=columns).map(|column| column.to_string()).collect();
        let turn = self.maker.below(columns);
        by.rotate_left(turn);
        for column in &mut by {
            column.push_str(
                self.maker
                    .pick(&["", "", " DESC", " NULLS FIRST", " DESC NULLS LAST"]),
            );
        }
        let tail = self
            .maker
            .pick(&["", "", " LIMIT 1", " LIMIT 3", " OFFSET 1", " LIMIT 2 OFFSET 1"]);
        let _ = write!(query.text, " ORDER BY {}{tail}", by.join(", "));
    }

    /// A query that gives columns of these kinds, where columns of queries around it are in sight.
    fn query(&mut self, kinds: &[Kind], depth: usize, outer: &[Column]) -> Part {
        match self.maker.below(if depth == 0 { 5 } else { 10 }) {
            0..3 => self.rows(kinds, depth, outer),
            3 | 4 => self.grouped(kinds, depth, outer),
            5 => self.windowed(kinds, depth, outer),
            6 => {
                let one = self.query(kinds, depth - 1, outer);
                let other = self.query(kinds, depth - 1, outer);
                let operation = self.maker.pick(&[
                    "UNION",
                    "UNION ALL",
                    "INTERSECT",
                    "EXCEPT",
                    "INTERSECT ALL",
                    "EXCEPT ALL",
                ]);
                Part::shaped(&format!("(#) {operation} (#)"), [one, other])
            }
            7 => self.with(kinds, depth, outer),
            8 => self.totals(kinds, depth, outer),
            _ => self.rows(kinds, depth, outer),
        }
    }

    fn rows(&mut self, kinds: &[Kind], depth: usize, outer: &[Column]) -> Part {
        let relation = self.relation(depth);
        let seen = in_sight(&relation.columns, outer);
        let what = kinds.iter().map(|kind| self.expression(*kind, &seen, 2));
        let what = Part::joined(what.collect(), ", ");
        let filter = self.filter(&seen, depth);
        let distinct = self.maker.pick(&["", "", "", "DISTINCT "]);
        Part::shaped(
            &format!("SELECT {distinct}# FROM ##"),
            [what, relation.from, filter],
        )
    }

    /// Over all rows: there is always one.
    fn totals(&mut self, kinds: &[Kind], depth: usize, outer: &[Column]) -> Part {
        let relation = self.relation(depth);
        let seen = in_sight(&relation.columns, outer);
        let what = kinds.iter().map(|kind| self.aggregate(*kind, &relation));
        let what = Part::joined(what.collect(), ", ");
        let filter = self.filter(&seen, depth);
        Part::shaped("SELECT # FROM ##", [what, relation.from, filter])
    }

    fn grouped(&mut self, kinds: &[Kind], depth: usize, outer: &[Column]) -> Part {
        let relation = self.relation(depth);
        let seen = in_sight(&relation.columns, outer);
        let groups: Vec<Column> = (0..1 + self.maker.below(2))
            .filter_map(|_| self.column(|kind| kind.compares(), &relation.columns))
            .collect();
        let sets = self.maker.chance(15);
        let what = kinds.iter().map(|kind| {
            let of_group = groups.iter().find(|group| group.kind == *kind);
            match of_group {
                Some(group) if self.maker.chance(60) => Part::of(&group.name),
                _ => self.aggregate(*kind, &relation),
            }
        });
        let what = Part::joined(what.collect(), ", ");
        let filter = self.filter(&seen, depth);
        let names: Vec<&str> = groups.iter().map(|group| group.name.as_str()).collect();
        let names = names.join(", ");
        let by = if groups.is_empty() {
            String::new()
        } else if sets {
            let sets = self
                .maker
                .pick(&["ROLLUP (#)", "CUBE (#)", "GROUPING SETS ((#), ())"]);
            format!(" GROUP BY {}", sets.replace('#', &names))
        } else {
            format!(" GROUP BY {names}")
        };
        let having = if self.maker.chance(25) {
            let counted = self.aggregate(Kind::Integer, &relation);
            let least = self.maker.pick(&["> 1", "< 3", "IS NOT NULL", "<> 2"]);
            Part::shaped(&format!(" HAVING # {least}"), [counted])
        } else {
            Part::default()
        };
        Part::shaped(
            &format!("SELECT # FROM ##{by}#"),
            [what, relation.from, filter, having],
        )
    }

    fn windowed(&mut self, kinds: &[Kind], depth: usize, outer: &[Column]) -> Part {
        let relation = self.relation(depth);
        let seen = in_sight(&relation.columns, outer);
        let what = kinds.iter().map(|kind| {
            if self.maker.chance(30) {
                return self.expression(*kind, &seen, 1);
            }
            let part = match self.column(|kind| kind.compares(), &relation.columns) {
                Some(column) if self.maker.chance(70) => format!("PARTITION BY {}", column.name),
                _ => String::new(),
            };
            let all = relation.key.join(", ");
            let function = self.maker.pick(match kind {
                Kind::Integer => &["row_number()", "rank()", "count(*)", "dense_rank()"][..],
                Kind::Bool => &["count(*) > 1", "rank() = 1"],
                _ => &["lag", "first_value", "max", "last_value"],
            });
            let window = format!("OVER ({part} ORDER BY {all})");
            match kind {
                Kind::Integer => Part::of(format!("{function} {window}")),
                Kind::Bool => Part::of(
                    function
                        .replace("()", &format!("() {window}"))
                        .replace("(*)", &format!("(*) {window}")),
                ),
                Kind::Numeric | Kind::Text | Kind::Other(_) => {
                    let of = self.expression(*kind, &relation.columns, 1);
                    Part::shaped(&format!("{function}(#) {window}"), [of])
                }
            }
        });
        let what = Part::joined(what.collect(), ", ");
        let filter = self.filter(&seen, depth);
        Part::shaped("SELECT # FROM ##", [what, relation.from, filter])
    }

    /// WITH, and a query of what that gives.
    fn with(&mut self, kinds: &[Kind], depth: usize, outer: &[Column]) -> Part {
        let given = self.kinds();
        let first = self.query(&given, depth - 1, outer);
        let name = self.alias();
        let columns = named(&name, &given);
        let titles = titles(given.len());
        let how = self.maker.pick(&["", "", "MATERIALIZED ", "NOT MATERIALIZED "]);
        let (from, columns) = if self.maker.chance(40) {
            let table = self.table();
            let seen = in_sight(&columns, &table.columns);
            let on = self.condition(&seen, 0);
            (
                Part::shaped(&format!("{name} JOIN # ON #"), [table.from, on]),
                seen,
            )
        } else {
            (Part::of(name.as_str()), columns)
        };
        let seen = in_sight(&columns, outer);
        let what = kinds.iter().map(|kind| self.expression(*kind, &seen, 1));
        let what = Part::joined(what.collect(), ", ");
        let filter = self.filter(&seen, 0);
        let shape = format!("WITH {name} ({titles}) AS {how}(#) SELECT # FROM ##");
        Part::shaped(&shape, [first, what, from, filter])
    }

    fn kinds(&mut self) -> Vec<Kind> {
        (0..1 + self.maker.below(3))
            .map(|_| self.maker.pick(&PLAIN))
            .collect()
    }

    /// A table under a name of its own, with its columns.
    fn table(&mut self) -> Relation {
        let at = self.maker.below(TABLES.len());
        let table = &TABLES[at];
        let alias = self.alias();
        let columns = table.columns.iter().map(|(name, of)| {
            let of = match *of {
                "" if *name == "k" => self.maker.key,
                "" => self.maker.columns[usize::from(name.as_bytes()[1] - b'0')],
                of => TYPES
                    .iter()
                    .find(|found| found.name == of)
                    .expect("one of the types"),
            };
            Column {
                name: format!("{alias}.{name}"),
                kind: Kind::of(of.name),
                of: Some(of),
            }
        });
        let columns: Vec<Column> = columns.collect();
        Relation {
            from: Part::of(format!("{} {alias}", table.name)),
            key: columns[..table.keys]
                .iter()
                .map(|column| column.name.clone())
                .collect(),
            columns,
        }
    }

    fn relation(&mut self, depth: usize) -> Relation {
        match self.maker.below(if depth == 0 { 3 } else { 8 }) {
            0 | 1 => self.table(),
            2..5 => self.join(depth.saturating_sub(1)),
            5 | 6 => {
                let kinds = self.kinds();
                let mut query = self.query(&kinds, depth - 1, &[]);
                if self.maker.chance(20) {
                    self.order_all(&mut query, kinds.len());
                }
                let alias = self.alias();
                let columns = named(&alias, &kinds);
                let key = columns.iter().map(|column| column.name.clone()).collect();
                let titles = titles(kinds.len());
                let from = Part::shaped(&format!("(#) AS {alias} ({titles})"), [query]);
                Relation { from, columns, key }
            }
            _ => {
                let alias = self.alias();
                let from = format!("(VALUES (1, 'a'), (2, NULL), (NULL, 'b')) AS {alias} (x1, x2)");
                let columns = named(&alias, &[Kind::Integer, Kind::Text]);
                let key = columns.iter().map(|column| column.name.clone()).collect();
                let from = Part::of(from);
                Relation { from, columns, key }
            }
        }
    }

    fn join(&mut self, depth: usize) -> Relation {
        let (one, other) = (self.relation(depth), self.relation(depth));
        let seen: Vec<Column> = one.columns.iter().chain(&other.columns).cloned().collect();
        let equal = |grammar: &mut Self| {
            let left = grammar.column(|kind| kind == Kind::Integer, &one.columns)?;
            let right = grammar.column(|kind| kind == Kind::Integer, &other.columns)?;
            Some(format!("{} = {}", left.name, right.name))
        };
        let keys = match (one.columns.first(), other.columns.first()) {
            (Some(left), Some(right)) if left.kind == Kind::Integer && right.kind == Kind::Integer => {
                Some(format!("{} = {}", left.name, right.name))
            }
            _ => None,
        };
        let on = if self.maker.chance(60) { keys } else { equal(self) };
        let (how, on) = match on {
            None => ("CROSS JOIN", None),
            Some(on) => {
                let how = self.maker.pick(&[
                    "JOIN",
                    "JOIN",
                    "LEFT JOIN",
                    "LEFT JOIN",
                    "RIGHT JOIN",
                    "FULL JOIN",
                ]);
                let mut on = Part::of(on);
                if how != "FULL JOIN" && self.maker.chance(25) {
                    let more = self.condition(&seen, 0);
                    on = Part::shaped("# AND #", [on, more]);
                }
                (how, Some(on))
            }
        };
        let shape = if on.is_some() { " ON #" } else { "" };
        let from = Part::shaped(
            &format!("# {how} #{shape}"),
            [one.from, bracketed(other.from)].into_iter().chain(on),
        );
        Relation {
            from,
            columns: seen,
            key: one.key.into_iter().chain(other.key).collect(),
        }
    }

    /// One of the columns whose kind is wanted; near ones more often than far ones.
    fn column(&mut self, wanted: impl Fn(Kind) -> bool, seen: &[Column]) -> Option<Column> {
        let fit: Vec<&Column> = seen.iter().filter(|column| wanted(column.kind)).collect();
        if fit.is_empty() {
            return None;
        }
        let at = self.maker.below(fit.len());
        Some(fit[at].clone())
    }

    fn expression(&mut self, kind: Kind, seen: &[Column], depth: usize) -> Part {
        let column = self.column(|found| found == kind, seen);
        if let Some(column) = column
            && (depth == 0 || self.maker.chance(45))
        {
            return Part::of(column.name);
        }
        let lower = depth.saturating_sub(1);
        match kind {
            Kind::Integer if depth > 0 => match self.maker.below(4) {
                0 => Part::shaped("length(#)", [self.expression(Kind::Text, seen, lower)]),
                1 => Part::shaped("coalesce(#, 3)", [self.expression(kind, seen, lower)]),
                2 => Part::shaped("# % 3", [self.expression(kind, seen, 0)]),
                _ => self.case(kind, seen, lower),
            },
            Kind::Numeric if depth > 0 => match self.maker.below(3) {
                0 => Part::shaped("#::numeric + 1", [self.expression(Kind::Integer, seen, 0)]),
                1 => Part::shaped("coalesce(#, 0.50)", [self.expression(kind, seen, lower)]),
                _ => self.case(kind, seen, lower),
            },
            Kind::Text if depth > 0 => match self.maker.below(5) {
                0 => Part::shaped("upper(#)", [self.expression(kind, seen, lower)]),
                1 => Part::shaped("coalesce(#, 'none')", [self.expression(kind, seen, lower)]),
                2 => Part::shaped("#::text", [self.expression(Kind::Integer, seen, 0)]),
                3 => {
                    let (one, other) = (self.expression(kind, seen, lower), self.expression(kind, seen, 0));
                    Part::shaped("# || #", [one, other])
                }
                _ => match self.column(|_| true, seen) {
                    Some(column) => Part::of(format!("{}::text", column.name)),
                    None => Part::of("'text'::text"),
                },
            },
            Kind::Bool if depth > 0 => Part::shaped("(#)", [self.condition(seen, 0)]),
            Kind::Integer => Part::of("1"),
            Kind::Numeric => Part::of("1.5"),
            Kind::Text => Part::of("'text'::text"),
            Kind::Bool => Part::of("true"),
            Kind::Other(name) => Part::of(format!("NULL::{name}")),
        }
    }

    fn case(&mut self, kind: Kind, seen: &[Column], depth: usize) -> Part {
        let condition = self.condition(seen, 0);
        let (one, other) = (self.expression(kind, seen, depth), self.expression(kind, seen, 0));
        Part::shaped("CASE WHEN # THEN # ELSE # END", [condition, one, other])
    }

    fn aggregate(&mut self, kind: Kind, relation: &Relation) -> Part {
        let seen = &relation.columns;
        let all = relation.key.join(", ");
        let made = match (kind, self.maker.below(4)) {
            (Kind::Integer, 0) => Part::of("count(*)"),
            (Kind::Integer, 1) => match self.column(|kind| kind.compares(), seen) {
                Some(column) => Part::of(format!("count(DISTINCT {})", column.name)),
                None => Part::of("count(*)"),
            },
            (Kind::Integer, 2) => Part::shaped("count(#)", [self.expression(Kind::Text, seen, 1)]),
            (Kind::Integer, _) => Part::shaped("max(#)", [self.expression(kind, seen, 1)]),
            (Kind::Numeric, 0) => Part::shaped("sum(#)", [self.expression(Kind::Integer, seen, 1)]),
            (Kind::Numeric, 1) => Part::shaped("avg(#)", [self.expression(Kind::Integer, seen, 1)]),
            (Kind::Numeric, 2) => Part::shaped("variance(#)", [self.expression(Kind::Integer, seen, 0)]),
            (Kind::Numeric, _) => Part::shaped("sum(#)", [self.expression(kind, seen, 1)]),
            (Kind::Text, 0) => Part::shaped("min(#)", [self.expression(kind, seen, 1)]),
            (Kind::Text, 1) => {
                let of = self.expression(kind, seen, 0);
                Part::shaped(&format!("string_agg(#, '-' ORDER BY {all})"), [of])
            }
            (Kind::Text, 2) => {
                let of = self.expression(Kind::Integer, seen, 0);
                return Part::shaped(&format!("array_agg(# ORDER BY {all})::text"), [of]);
            }
            (Kind::Text, _) => Part::shaped("max(#)", [self.expression(kind, seen, 1)]),
            (Kind::Bool, 0) => Part::shaped("bool_or(#)", [self.condition(seen, 0)]),
            (Kind::Bool, 1) => Part::shaped("every(#)", [self.condition(seen, 0)]),
            (Kind::Bool, _) => return Part::of("count(*) > 2"),
            (Kind::Other(name), _) => return Part::of(format!("NULL::{name}")),
        };
        if self.maker.chance(15) {
            let filter = self.condition(seen, 0);
            return Part::shaped("# FILTER (WHERE #)", [made, filter]);
        }
        made
    }

    fn filter(&mut self, seen: &[Column], depth: usize) -> Part {
        if self.maker.chance(35) {
            return Part::default();
        }
        let condition = self.condition(seen, depth);
        Part::shaped(" WHERE #", [condition])
    }

    fn condition(&mut self, seen: &[Column], depth: usize) -> Part {
        let compare = self.maker.pick(&["=", "<>", "<", ">", "<=", ">="]);
        match self.maker.below(if depth == 0 { 11 } else { 16 }) {
            0..3 => match self.column(|kind| kind.compares(), seen) {
                Some(Column {
                    name, of: Some(of), ..
                }) => self.compared(&name, compare, of),
                Some(column) => Part::of(format!("{} IS NOT NULL", column.name)),
                None => Part::of("true"),
            },
            3 => {
                let (one, other) = (
                    self.expression(Kind::Integer, seen, 1),
                    self.expression(Kind::Integer, seen, 0),
                );
                Part::shaped(&format!("# {compare} #"), [one, other])
            }
            4 => {
                let (one, other) = (
                    self.expression(Kind::Text, seen, 1),
                    self.expression(Kind::Text, seen, 0),
                );
                Part::shaped(&format!("# {compare} #"), [one, other])
            }
            5 => Part::shaped("# IS NULL", [self.expression(Kind::Text, seen, 0)]),
            6 => {
                let (one, other) = (
                    self.expression(Kind::Integer, seen, 0),
                    self.expression(Kind::Integer, seen, 0),
                );
                Part::shaped("# IS DISTINCT FROM #", [one, other])
            }
            7 => Part::shaped("# IN (1, 2, 42)", [self.expression(Kind::Integer, seen, 0)]),
            8 => Part::shaped("# LIKE '%a%'", [self.expression(Kind::Text, seen, 0)]),
            9 => Part::shaped("NOT (#)", [self.condition(seen, depth)]),
            10 => {
                let (one, other) = (self.condition(seen, 0), self.condition(seen, depth));
                let word = self.maker.pick(&["AND", "OR"]);
                Part::shaped(&format!("(# {word} #)"), [one, other])
            }
            11 | 12 => {
                let inner = self.query(&[Kind::Integer], depth - 1, seen);
                let word = self.maker.pick(&["EXISTS", "NOT EXISTS"]);
                Part::shaped(&format!("{word} (#)"), [inner])
            }
            13 | 14 => {
                let kind = self.maker.pick(&[Kind::Integer, Kind::Text]);
                let (one, inner) = (
                    self.expression(kind, seen, 0),
                    self.query(&[kind], depth - 1, seen),
                );
                let word = self.maker.pick(&["IN", "NOT IN", "= ANY", ">= ALL"]);
                Part::shaped(&format!("# {word} (#)"), [one, inner])
            }
            _ => {
                let inner = self.totals(&[Kind::Integer], depth - 1, seen);
                let one = self.expression(Kind::Integer, seen, 0);
                Part::shaped(&format!("# {compare} (#)"), [one, inner])
            }
        }
    }

    /// A column beside a value of its type.
    fn compared(&mut self, name: &str, compare: &str, of: &'static Type) -> Part {
        let value = self.maker.value(of);
        let known = [INT8, INT4, TEXT].iter().any(|known| known.name == of.name);
        let text = if known || compare == "=" {
            format!("{name} {compare} {{}}")
        } else {
            format!("{name} = {{}}")
        };
        Part {
            text,
            values: vec![value],
        }
    }
}

/// What is near, and around it what is further away.
fn in_sight(columns: &[Column], outer: &[Column]) -> Vec<Column> {
    columns.iter().chain(outer).cloned().collect()
}

/// The columns of what is called so.
fn named(alias: &str, kinds: &[Kind]) -> Vec<Column> {
    let named = kinds.iter().enumerate().map(|(at, kind)| Column {
        name: format!("{alias}.x{}", at + 1),
        kind: *kind,
        of: None,
    });
    named.collect()
}

fn titles(count: usize) -> String {
    let titles: Vec<String> = (1..=count).map(|at| format!("x{at}")).collect();
    titles.join(", ")
}

/// A join within a join has brackets.
fn bracketed(from: Part) -> Part {
    if from.text.contains(" JOIN ") && !from.text.starts_with('(') {
        Part::shaped("(#)", [from])
    } else {
        from
    }
}
