//! Queries over rows of all groups: joins, subqueries, aggregates, set operations, CTEs, windows.

use super::types::{INT4, INT8, TEXT, Type};
use super::{Maker, Statement, Value};
use crate::differential::exchange::Order;

/// What rows are drawn from, with its columns.
pub(super) struct Source {
    pub(super) from: &'static str,
    pub(super) numbers: &'static [&'static str],
    pub(super) texts: &'static [&'static str],
    /// Columns that tell all rows apart.
    pub(super) key: &'static str,
}

const SOURCES: &[Source] = &[
    Source {
        from: "kv x",
        numbers: &["x.k", "x.n", "x.v"],
        texts: &["x.t"],
        key: "x.k",
    },
    Source {
        from: "pair y",
        numbers: &["y.a", "y.b"],
        texts: &["y.t"],
        key: "y.a, y.b",
    },
    Source {
        from: "kv x JOIN pair y ON y.a = x.k",
        numbers: &["x.k", "x.n", "y.b"],
        texts: &["x.t", "y.t"],
        key: "y.a, y.b",
    },
    Source {
        from: "kv x LEFT JOIN pair y ON y.a = x.k AND y.b > 0",
        numbers: &["x.k", "x.n", "y.b"],
        texts: &["x.t", "y.t"],
        key: "x.k, y.b",
    },
    Source {
        from: "kv x RIGHT JOIN pair y ON y.b = x.n",
        numbers: &["x.k", "y.a", "y.b"],
        texts: &["y.t"],
        key: "y.a, y.b, x.k",
    },
    Source {
        from: "kv x FULL JOIN pair y ON y.b = x.n",
        numbers: &["x.k", "y.a", "y.b"],
        texts: &["x.t"],
        key: "y.a, y.b, x.k",
    },
    Source {
        from: "keyed z",
        numbers: &["z.n"],
        texts: &["z.t"],
        key: "z.k",
    },
    Source {
        from: "lands w",
        numbers: &["w.k", "w.n"],
        texts: &["w.t"],
        key: "w.k",
    },
    Source {
        from: "kv x JOIN lands w ON w.k = x.n",
        numbers: &["x.k", "w.n"],
        texts: &["x.t", "w.t"],
        key: "x.k",
    },
    Source {
        from: "lands w LEFT JOIN pair y ON y.b = w.k",
        numbers: &["w.k", "y.a", "y.b"],
        texts: &["w.t", "y.t"],
        key: "w.k, y.a, y.b",
    },
    Source {
        from: "parted q",
        numbers: &["q.k", "q.n"],
        texts: &["q.t"],
        key: "q.k, q.n",
    },
    Source {
        from: "alone v JOIN kv x ON x.k = v.k",
        numbers: &["x.k", "v.n"],
        texts: &["v.t", "x.t"],
        key: "x.k",
    },
    Source {
        from: "seen s",
        numbers: &["s.k", "s.n"],
        texts: &["s.t"],
        key: "s.k",
    },
    Source {
        from: "summed m JOIN seen s ON s.k = m.a",
        numbers: &["m.a", "m.n", "s.k"],
        texts: &["m.t", "s.t"],
        key: "m.a",
    },
    Source {
        from: "kv x CROSS JOIN (SELECT n, count(*) AS c FROM keyed GROUP BY n) z",
        numbers: &["x.k", "z.n", "z.c"],
        texts: &["x.t"],
        key: "x.k, z.n",
    },
    Source {
        from: "(SELECT k, n, t FROM kv WHERE n IS NOT NULL) x JOIN keyed z USING (n)",
        numbers: &["n", "x.k"],
        texts: &["x.t", "z.t"],
        key: "x.k, z.k",
    },
];

impl Maker {
    /// A query that all groups together answer.
    pub(super) fn over_all(&mut self) -> Statement {
        match self.below(28) {
            14.. => self.composed(),
            0..3 => self.rows_of(),
            3..6 => self.aggregates(),
            6..8 => self.nested(),
            8 => self.set_operation(),
            9 => self.windows(),
            _ => self.bound_by_key(),
        }
    }

    fn source(&mut self) -> &'static Source {
        let at = self.below(SOURCES.len());
        &SOURCES[at]
    }

    /// A condition, with its values.
    pub(super) fn condition(&mut self, source: &Source) -> (String, Vec<Value>) {
        let number = self.pick(source.numbers);
        let text = self.pick(source.texts);
        let of: &'static Type = if number.ends_with(".n") || number.ends_with(".b") {
            INT4
        } else {
            INT8
        };
        match self.below(11) {
            0..3 => (String::new(), Vec::new()),
            3 => (format!(" WHERE {number} > {{}}"), vec![self.value(of)]),
            4 => {
                let values = vec![self.value(of), self.value(of)];
                (
                    format!(" WHERE {number} BETWEEN {{}} AND {{}} OR {text} IS NULL"),
                    values,
                )
            }
            5 => (
                format!(" WHERE {number} IS NOT NULL AND NOT {text} = {{}}"),
                vec![self.value(TEXT)],
            ),
            6 => (
                format!(" WHERE {number} IN (1, 2, 3, {{}})"),
                vec![self.value(of)],
            ),
            7 => (format!(" WHERE {text} LIKE '%a%' AND {number} <> 7"), Vec::new()),
            8 => (format!(" WHERE coalesce({number}, 0) % 2 = 0"), Vec::new()),
            9 => (format!(" WHERE {number} IS NULL"), Vec::new()),
            _ => (
                format!(" WHERE length({text}) > 1 AND {number} < 100000"),
                Vec::new(),
            ),
        }
    }

    fn rows_of(&mut self) -> Statement {
        let source = self.source();
        let (filter, values) = self.condition(source);
        let (number, text) = (self.pick(source.numbers), self.pick(source.texts));
        let what = match self.below(5) {
            0 => "*".to_owned(),
            1 => format!("{number}, {text} AS named"),
            2 => format!("{text}, upper({text}), {number} IS NULL"),
            3 => format!("{number} AS one, {number} AS two"),
            _ => format!("row_to_json(({number}, {text}))"),
        };
        let (from, key) = (source.from, source.key);
        let (tail, order) = match self.below(6) {
            0 => (format!(" ORDER BY {key}"), Order::Given),
            1 => (
                format!(" ORDER BY {number} DESC NULLS LAST, {text}, {key} LIMIT 3"),
                Order::Given,
            ),
            2 => (format!(" ORDER BY {key} DESC OFFSET 1 LIMIT 2"), Order::Given),
            3 => (format!(" ORDER BY {key} FETCH FIRST 4 ROWS ONLY"), Order::Given),
            4 => (" LIMIT 1000".to_owned(), Order::Any),
            _ => (String::new(), Order::Any),
        };
        let distinct = order == Order::Any && self.chance(25);
        let what = if distinct {
            format!("DISTINCT {number}, {text}")
        } else {
            what
        };
        Statement::new(format!("SELECT {what} FROM {from}{filter}{tail}"), values, order)
    }

    fn aggregates(&mut self) -> Statement {
        let source = self.source();
        let (filter, values) = self.condition(source);
        let (number, text) = (self.pick(source.numbers), self.pick(source.texts));
        let mut what: Vec<String> = Vec::new();
        for _ in 0..1 + self.below(4) {
            what.push(match self.below(12) {
                0 => "count(*)".to_owned(),
                1 => format!("count({number})"),
                2 => format!("sum({number})"),
                3 => format!("avg({number})"),
                4 => format!("min({text}), max({number})"),
                5 => format!("count(DISTINCT {text})"),
                10 => format!("sum(DISTINCT {number}), string_agg(DISTINCT {text}, '+')"),
                11 => format!("count(DISTINCT {number}) FILTER (WHERE {text} IS NOT NULL)"),
                6 => format!("count(*) FILTER (WHERE {number} > 2) AS some"),
                7 => format!("string_agg({text}, ',' ORDER BY {text}, {})", source.key),
                8 => format!("bool_or({number} > 3), every({text} IS NOT NULL)"),
                _ => format!("sum({number}) + count(*)"),
            });
        }
        let (from, what) = (source.from, what.join(", "));
        let (group, key) = match self.below(6) {
            0 | 1 => (String::new(), String::new()),
            2 => (format!(" GROUP BY {text}"), format!("{text}, ")),
            3 => (" GROUP BY 1".to_owned(), format!("{number} % 3 AS third, ")),
            4 => (
                format!(" GROUP BY {text}, {number}"),
                format!("{text}, {number}, "),
            ),
            _ => (" GROUP BY ROLLUP (1)".to_owned(), format!("{text} AS g, ")),
        };
        let rolled = group.ends_with("(1)");
        let group = if rolled {
            format!(" GROUP BY ROLLUP ({text})")
        } else {
            group
        };
        let having = if group.is_empty() {
            ""
        } else {
            self.pick(&["", "", " HAVING count(*) > 1"])
        };
        let (tail, order) = match self.below(3) {
            0 if group.ends_with(text) => (format!(" ORDER BY {text} DESC"), Order::Given),
            1 if group.ends_with(" 1") => (" ORDER BY 1 LIMIT 2".to_owned(), Order::Given),
            _ => (String::new(), Order::Any),
        };
        let text = format!("SELECT {key}{what} FROM {from}{filter}{group}{having}{tail}");
        Statement::new(text, values, order)
    }

    fn nested(&mut self) -> Statement {
        let source = self.source();
        let (filter, values) = self.condition(source);
        let (from, key) = (source.from, source.key);
        let (number, text) = (self.pick(source.numbers), self.pick(source.texts));
        let and = if filter.is_empty() { " WHERE" } else { " AND" };
        let filter = filter.replacen(" WHERE ", " WHERE (", 1);
        let filter = if filter.is_empty() {
            filter
        } else {
            format!("{filter})")
        };
        let sql = match self.below(9) {
            0 => format!(
                "SELECT {number}, {text} FROM {from}{filter}{and} EXISTS (SELECT 1 FROM pair p WHERE p.a = {number} AND p.b > 1)"
            ),
            1 => format!("SELECT {number} FROM {from}{filter}{and} {number} IN (SELECT n FROM keyed)"),
            2 => format!("SELECT {number} FROM {from}{filter}{and} {number} NOT IN (SELECT a FROM pair)"),
            3 => format!(
                "SELECT {text}, (SELECT count(*) FROM kv i WHERE i.n = {number}) AS found FROM {from}{filter}"
            ),
            4 => format!("SELECT {number} FROM {from}{filter}{and} {number} >= (SELECT avg(n) FROM kv)"),
            5 => format!(
                "WITH c AS (SELECT {number} AS one, {text} AS two FROM {from}{filter}) SELECT c.two, count(*) FROM c LEFT JOIN kv ON kv.n = c.one GROUP BY c.two"
            ),
            6 => format!(
                "SELECT s.one, count(*) FROM (SELECT {number} AS one FROM {from}{filter}) s GROUP BY s.one"
            ),
            7 => format!(
                "WITH RECURSIVE r AS (SELECT k, 1 AS depth FROM kv WHERE k < 5 UNION ALL SELECT kv.k, depth + 1 FROM r JOIN kv ON kv.k = r.k + 1 WHERE depth < 5) \
                 SELECT r.k, depth FROM r, LATERAL (SELECT {number} FROM {from}{filter} ORDER BY {key} LIMIT 1) l"
            ),
            _ => format!(
                "SELECT {number}, l.c FROM {from} CROSS JOIN LATERAL (SELECT count(*) AS c FROM pair p WHERE p.b = {number}) l{filter}"
            ),
        };
        Statement::new(sql, values, Order::Any)
    }

    fn set_operation(&mut self) -> Statement {
        let (one, other) = (self.source(), self.source());
        let (filter, mut values) = self.condition(one);
        let (filter_other, more) = self.condition(other);
        values.extend(more);
        let operation = self.pick(&[
            "UNION",
            "UNION ALL",
            "INTERSECT",
            "EXCEPT",
            "INTERSECT ALL",
            "EXCEPT ALL",
        ]);
        let (a, b) = (self.pick(one.texts), self.pick(other.texts));
        let tail = self.pick(&["", " ORDER BY 1"]);
        let order = if tail.is_empty() { Order::Any } else { Order::Given };
        let text = format!(
            "SELECT {a} FROM {}{filter} {operation} SELECT {b} FROM {}{filter_other}{tail}",
            one.from, other.from
        );
        Statement::new(text, values, order)
    }

    fn windows(&mut self) -> Statement {
        let source = self.source();
        let (filter, values) = self.condition(source);
        let (from, key) = (source.from, source.key);
        let (number, text) = (self.pick(source.numbers), self.pick(source.texts));
        let window = match self.below(4) {
            0 => format!("row_number() OVER (ORDER BY {key})"),
            1 => format!("count(*) OVER (PARTITION BY {text})"),
            2 => format!("lag({text}) OVER w, sum({number}) OVER w"),
            _ => format!("rank() OVER (PARTITION BY {text} ORDER BY {number}, {key})"),
        };
        let named = if window.contains("OVER w") {
            format!(" WINDOW w AS (ORDER BY {key})")
        } else {
            String::new()
        };
        let text = format!("SELECT {number}, {window} FROM {from}{filter}{named}");
        Statement::new(text, values, Order::Any)
    }
}
