//! Queries that shard keys bind: subqueries of the row around them, windows, groups and set operations by the key, and such as look like them.

use super::queries::Source;
use super::{Maker, Statement};
use crate::differential::exchange::Order;

/// What rows are drawn from, and their shard key, an integer.
const SOURCES: &[(&str, Source)] = &[
    (
        "x.k",
        Source {
            from: "kv x",
            numbers: &["x.k", "x.n"],
            texts: &["x.t"],
            key: "x.k",
        },
    ),
    (
        "y.a",
        Source {
            from: "pair y",
            numbers: &["y.a", "y.b"],
            texts: &["y.t"],
            key: "y.a, y.b",
        },
    ),
    (
        "x.k",
        Source {
            from: "kv x JOIN pair y ON y.a = x.k",
            numbers: &["x.k", "x.n", "y.b"],
            texts: &["x.t", "y.t"],
            key: "y.a, y.b",
        },
    ),
    (
        "y.a",
        Source {
            from: "kv x LEFT JOIN pair y ON y.a = x.k AND y.b > 0",
            numbers: &["x.k", "x.n", "y.b"],
            texts: &["x.t", "y.t"],
            key: "x.k, y.b",
        },
    ),
    (
        "x.k",
        Source {
            from: "kv x JOIN lands w ON w.k = x.n",
            numbers: &["x.k", "w.n"],
            texts: &["x.t", "w.t"],
            key: "x.k",
        },
    ),
    (
        "s.k",
        Source {
            from: "seen s",
            numbers: &["s.k", "s.n"],
            texts: &["s.t"],
            key: "s.k",
        },
    ),
    (
        "m.a",
        Source {
            from: "summed m JOIN seen s ON s.k = m.a",
            numbers: &["m.a", "m.n", "s.k"],
            texts: &["m.t", "s.t"],
            key: "m.a",
        },
    ),
    (
        "d.one",
        Source {
            from: "(SELECT a AS one, max(b) AS n, min(t) AS t FROM pair GROUP BY 1) d",
            numbers: &["d.one", "d.n"],
            texts: &["d.t"],
            key: "d.one",
        },
    ),
    (
        "q.k",
        Source {
            from: "parted q",
            numbers: &["q.k", "q.n"],
            texts: &["q.t"],
            key: "q.k, q.n",
        },
    ),
    (
        "y.b",
        Source {
            from: "pair y LEFT JOIN kv x ON x.n = y.b",
            numbers: &["y.a", "y.b"],
            texts: &["y.t", "x.t"],
            key: "y.a, y.b, x.k",
        },
    ),
];

/// Subqueries that give one column, of a row whose key is `{k}`, and whose text is `{t}`.
const BOUND: &[&str] = &[
    "SELECT p.b FROM pair p WHERE p.a = {k} AND p.b > 1",
    "SELECT i.n FROM kv i WHERE i.k = {k}",
    "SELECT i.n FROM kv i WHERE i.n = {k}",
    "SELECT o.n FROM seen o WHERE o.k = {k} AND o.t <> 'a'",
    "SELECT p.b FROM pair p JOIN kv i ON i.k = p.a WHERE p.a = {k}",
    "SELECT l.n FROM lands l WHERE l.k = {k}",
    "SELECT p.b FROM pair p WHERE p.t = {t} AND {k} = p.a",
    "SELECT p.b FROM pair p WHERE p.t = {t}",
    "SELECT p.b FROM pair p, lands l WHERE p.a = {k} AND l.k = p.b AND EXISTS (SELECT FROM kv i WHERE i.k = p.a)",
    "SELECT p.b FROM pair p WHERE p.a = {k} OR p.b = 1",
];

/// Lists of keys.
const LISTS: &[&str] = &[
    "SELECT a FROM pair WHERE b > 0",
    "SELECT a FROM pair GROUP BY a HAVING count(*) > 1",
    "SELECT p.a FROM pair p JOIN kv i ON i.k = p.a",
    "SELECT k FROM seen",
    "SELECT DISTINCT k FROM kv WHERE n IS NULL",
    "SELECT k FROM kv ORDER BY k LIMIT 2",
    "SELECT n FROM kv",
];

impl Maker {
    /// A query that may be computed where its rows are.
    pub(super) fn bound_by_key(&mut self) -> Statement {
        let at = self.below(SOURCES.len());
        let (shard, source) = &SOURCES[at];
        let (filter, mut values) = self.condition(source);
        let filter = match filter.strip_prefix(" WHERE ") {
            Some(condition) => format!(" WHERE ({condition})"),
            None => " WHERE true".to_owned(),
        };
        let (from, key) = (source.from, source.key);
        let (number, text) = (self.pick(source.numbers), self.pick(source.texts));
        let bound = self.pick(BOUND).replace("{k}", shard).replace("{t}", text);
        let not = self.pick(&["", "", "NOT "]);
        let mut order = Order::Any;
        let sql = match self.below(12) {
            0 => {
                let function = self.pick(&["count(*)", "sum(u.one)", "max(u.one)"]);
                format!(
                    "SELECT {shard}, {number}, (SELECT {function} FROM ({bound}) u (one)) FROM {from}{filter}"
                )
            }
            1 => {
                let sum = bound
                    .replacen("SELECT p.b", "SELECT sum(p.b)", 1)
                    .replacen("SELECT i.n", "SELECT max(i.n)", 1)
                    .replacen("SELECT o.n", "SELECT count(o.n)", 1)
                    .replacen("SELECT l.n", "SELECT min(l.n)", 1);
                format!("SELECT {shard}, ({sum}) AS found FROM {from}{filter}")
            }
            2 => format!("SELECT {number}, {text} FROM {from}{filter} AND {not}EXISTS ({bound})"),
            3 => format!("SELECT {number}, {text} FROM {from}{filter} AND {shard} {not}IN ({bound})"),
            4 => {
                let list = self.pick(LISTS);
                order = Order::Given;
                format!("SELECT {number} FROM {from}{filter} AND {shard} {not}IN ({list}) ORDER BY {number}")
            }
            5 => {
                let list = self.pick(LISTS);
                format!(
                    "SELECT {text}, count(*), sum({number}) FROM {from}{filter} AND ({shard} IN ({list})) GROUP BY {text}"
                )
            }
            6 => format!(
                "SELECT count(*), min({text}), avg({number}) FROM {from}{filter} AND {not}EXISTS ({bound})"
            ),
            7 => {
                let window = self.pick(&[
                    "rank() OVER (PARTITION BY {k} ORDER BY {n})",
                    "count(*) OVER w, max({t}) OVER (w ORDER BY {n})",
                    "sum({n}) OVER (PARTITION BY {t}, {k})",
                    "count({n}) OVER w, count(*) OVER (PARTITION BY {n})",
                ]);
                let window = window
                    .replace("{k}", shard)
                    .replace("{n}", number)
                    .replace("{t}", text);
                format!(
                    "SELECT {shard}, {text}, {window} FROM {from}{filter} WINDOW w AS (PARTITION BY {shard})"
                )
            }
            8 => {
                let by = self.pick(&["1", "g", "1, {t}"]).replace("{t}", text);
                order = Order::Given;
                format!(
                    "SELECT {shard} AS g, count(*), max({text}) FROM {from}{filter} GROUP BY {by} ORDER BY count(*) DESC, 1, 3 LIMIT 5"
                )
            }
            9 => {
                let (other, with) = &SOURCES[self.below(SOURCES.len())];
                let (more, given) = self.condition(with);
                values.extend(given);
                let operation = self.pick(&["UNION", "UNION ALL", "INTERSECT", "EXCEPT", "EXCEPT ALL"]);
                let column = self.pick(with.texts);
                format!(
                    "SELECT {shard}, {text} FROM {from}{filter} {operation} SELECT {other}, {column} FROM {}{more}",
                    with.from
                )
            }
            10 => {
                let inner = self.pick(&["DISTINCT ", ""]);
                format!(
                    "SELECT d.g, count(*), sum(i.n) FROM (SELECT {inner}{shard} AS g, {text} AS h FROM {from}{filter}) d \
                     LEFT JOIN kv i ON i.k = d.g GROUP BY d.g"
                )
            }
            _ => {
                order = Order::Given;
                format!(
                    "SELECT DISTINCT ON ({shard}) {shard}, {number} AS k FROM {from}{filter} ORDER BY {shard}, {number}, {key}"
                )
            }
        };
        Statement::new(sql, values, order)
    }
}
