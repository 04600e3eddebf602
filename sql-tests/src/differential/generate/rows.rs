//! Statements on the rows of tables.

use super::types::{INT4, INT8, TEXT, Type};
use super::{Maker, Statement, Value};
use crate::differential::exchange::Order;

/// A table, the type of its key, and its other columns.
struct Table {
    name: &'static str,
    key: &'static Type,
    columns: Vec<(String, &'static Type)>,
}

impl Maker {
    fn table(&mut self) -> Table {
        let column = |name: &str, of| (name.to_owned(), of);
        match self.below(14) {
            0..4 => Table {
                name: "kv",
                key: INT8,
                columns: vec![column("n", INT4), column("t", TEXT)],
            },
            4 | 5 => Table {
                name: "lands",
                key: INT4,
                columns: vec![column("n", INT4), column("t", TEXT)],
            },
            6 => Table {
                name: "alone",
                key: INT8,
                columns: vec![column("n", INT4), column("t", TEXT)],
            },
            7 => Table {
                name: "parted",
                key: INT8,
                columns: vec![column("n", INT4), column("t", TEXT)],
            },
            8..12 => Table {
                name: "keyed",
                key: self.key,
                columns: vec![column("n", INT4), column("t", TEXT)],
            },
            _ => {
                let named = self.columns.iter().enumerate();
                Table {
                    name: "wide",
                    key: INT8,
                    columns: named.map(|(at, of)| (format!("c{at}"), *of)).collect(),
                }
            }
        }
    }

    /// A statement that reads or writes rows.
    pub(super) fn on_rows(&mut self) -> Statement {
        match self.below(100) {
            0..18 => self.insert(),
            18..22 => self.insert_selected(),
            22..40 => self.select(),
            40..46 => self.update(),
            46..50 => self.move_rows(),
            50..53 => self.delete(),
            53..56 => self.joined_write(),
            56..68 => self.on_pairs(),
            68..74 => self.scatter(),
            74..98 => self.over_all(),
            _ => self.beyond(),
        }
    }

    fn insert(&mut self) -> Statement {
        let table = self.table();
        let kept = 1 + self.below(table.columns.len());
        let columns: Vec<_> = table.columns.iter().take(kept).collect();
        let names: Vec<&str> = columns.iter().map(|(name, _)| name.as_str()).collect();
        let rows = if self.chance(75) { 1 } else { 2 + self.below(4) };
        let (mut values, mut places) = (Vec::new(), Vec::new());
        // Some keys are expressions.
        let computed = self.chance(12);
        for _ in 0..rows {
            values.push(self.value(table.key));
            for (_, of) in &columns {
                values.push(self.value(of));
            }
            let key = match computed && self.chance(70) {
                true => format!("CASE WHEN 1 < 2 THEN CAST({{}} AS {}) END", table.key.name),
                false => "{}".to_owned(),
            };
            places.push(format!("({key}{})", ", {}".repeat(columns.len())));
        }
        let conflict = match self.below(6) {
            0 => " ON CONFLICT DO NOTHING".to_owned(),
            1 => " ON CONFLICT (k) DO NOTHING".to_owned(),
            2 => {
                let (name, _) = columns[0];
                format!(" ON CONFLICT (k) DO UPDATE SET {name} = excluded.{name}")
            }
            _ => String::new(),
        };
        let returning = self.pick(&["", "", "", " RETURNING k", " RETURNING *"]);
        let text = format!(
            "INSERT INTO {} (k, {}) VALUES {}{conflict}{returning}",
            table.name,
            names.join(", "),
            places.join(", ")
        );
        Statement::new(text, values, Order::Any)
    }

    fn insert_selected(&mut self) -> Statement {
        let texts: &[(&'static str, &'static [&'static Type])] = &[
            (
                "INSERT INTO kv (k, n) SELECT k + 1000007, n FROM kv WHERE n < {} ON CONFLICT DO NOTHING",
                &[INT4],
            ),
            (
                "INSERT INTO kv (k, t) SELECT a, string_agg(t, ',' ORDER BY b) FROM pair GROUP BY a \
                 ON CONFLICT (k) DO UPDATE SET t = excluded.t RETURNING k, t",
                &[],
            ),
            (
                "INSERT INTO pair (a, b, t) SELECT k, 5, t FROM kv WHERE n > {} ON CONFLICT (a, b) DO UPDATE SET t = excluded.t",
                &[INT4],
            ),
            (
                "INSERT INTO pair SELECT a, b + 1000, t FROM pair WHERE b < {} ON CONFLICT DO NOTHING RETURNING *",
                &[INT4],
            ),
            (
                "INSERT INTO kv (k, n) SELECT {}, count(*) FROM keyed ON CONFLICT DO NOTHING RETURNING n",
                &[INT8],
            ),
            (
                "INSERT INTO kv (n, k) SELECT g % 7, g FROM generate_series(2000, 2010) g ON CONFLICT (k) DO UPDATE SET n = kv.n + 1",
                &[],
            ),
            (
                "INSERT INTO wide SELECT * FROM wide ON CONFLICT (k) DO NOTHING",
                &[],
            ),
            (
                "INSERT INTO wide (c0, c1, k) SELECT c0, c1, k + 1000011 FROM wide WHERE k < 1000 ON CONFLICT DO NOTHING",
                &[],
            ),
            (
                "INSERT INTO kv (k, t) SELECT k, {} FROM kv UNION SELECT a, 'pair' FROM pair ON CONFLICT DO NOTHING",
                &[TEXT],
            ),
            (
                "INSERT INTO kv SELECT a, max(b), coalesce(min(t), {}) FROM pair WHERE a = {} GROUP BY a ON CONFLICT (k) DO NOTHING",
                &[TEXT, INT8],
            ),
        ];
        if self.chance(20) {
            let text = "INSERT INTO keyed SELECT k, 1, 'copied' FROM keyed WHERE k = {} ON CONFLICT (k) DO UPDATE SET t = keyed.t || excluded.t";
            let value = self.value(self.key);
            return Statement::new(text, vec![value], Order::Any);
        }
        let (text, types) = self.pick(texts);
        let values = types.iter().map(|of| self.value(of)).collect();
        Statement::new(text, values, Order::Any)
    }

    /// Updates and deletes that need rows of other tables.
    fn joined_write(&mut self) -> Statement {
        let texts: &[(&'static str, &'static [&'static Type])] = &[
            (
                "UPDATE kv SET n = p.b FROM pair p WHERE p.a = kv.k AND p.b = {} RETURNING k, n, p.t",
                &[INT4],
            ),
            (
                "UPDATE pair SET t = kv.t FROM kv WHERE kv.k = pair.a AND kv.n > {}",
                &[INT4],
            ),
            (
                "UPDATE kv SET n = (SELECT count(*) FROM keyed WHERE keyed.n = kv.n) WHERE k IN ({}, {})",
                &[INT8, INT8],
            ),
            (
                "UPDATE kv SET t = 'most' WHERE n = (SELECT max(n) FROM kv) RETURNING k",
                &[],
            ),
            (
                "UPDATE keyed SET t = 'seen' WHERE n IN (SELECT b FROM pair) RETURNING n, t",
                &[],
            ),
            (
                "DELETE FROM pair USING kv WHERE kv.n = pair.b RETURNING a, b",
                &[],
            ),
            ("DELETE FROM pair USING kv WHERE kv.k = a AND kv.t = {}", &[TEXT]),
            (
                "DELETE FROM kv WHERE k = {} AND NOT EXISTS (SELECT FROM pair WHERE a = k) RETURNING *",
                &[INT8],
            ),
            (
                "DELETE FROM keyed WHERE n < (SELECT min(b) FROM pair WHERE a = {})",
                &[INT8],
            ),
            (
                "MERGE INTO kv USING (VALUES ({}::int8, {}::int4)) AS s (id, n) ON kv.k = s.id \
                 WHEN MATCHED THEN UPDATE SET n = s.n WHEN NOT MATCHED THEN INSERT (k, n) VALUES (s.id, s.n)",
                &[INT8, INT4],
            ),
            (
                "MERGE INTO kv USING pair p ON p.a = kv.k AND p.b = {} WHEN MATCHED AND kv.n > 2 THEN DELETE \
                 WHEN MATCHED THEN UPDATE SET v = p.b WHEN NOT MATCHED AND p.b < 7 THEN INSERT (k, n) VALUES (p.a, p.b)",
                &[INT4],
            ),
            (
                "MERGE INTO kv x USING (SELECT a, count(*) AS n FROM pair GROUP BY a) s ON x.k = s.a \
                 WHEN MATCHED THEN UPDATE SET n = s.n WHEN NOT MATCHED AND s.n > 1 THEN INSERT VALUES (s.a, s.n, 'merged')",
                &[],
            ),
            (
                "MERGE INTO pair USING kv ON kv.n = pair.b AND kv.k > {} WHEN MATCHED THEN UPDATE SET t = kv.t",
                &[INT8],
            ),
            (
                "WITH few AS (SELECT a, min(t) AS t FROM pair GROUP BY a) UPDATE kv SET t = coalesce(few.t, '-') FROM few \
                 WHERE few.a = kv.k AND kv.n > {}",
                &[INT4],
            ),
            (
                "WITH most AS (SELECT max(n) AS n FROM kv) DELETE FROM kv USING most WHERE kv.n = most.n RETURNING k",
                &[],
            ),
            (
                "WITH s AS (SELECT k + 1000013 AS k, n FROM kv WHERE n < {}) INSERT INTO kv (k, n) SELECT k, n FROM s ON CONFLICT DO NOTHING",
                &[INT4],
            ),
        ];
        let (text, types) = self.pick(texts);
        let values = types.iter().map(|of| self.value(of)).collect();
        Statement::new(text, values, Order::Any)
    }

    /// Of rows by their key.
    fn select(&mut self) -> Statement {
        let table = self.table();
        let what = self.pick(&["*", "k", "count(*)", "*, k IS NULL AS none", "k, 1 + 1"]);
        let (key, values) = self.by_key(table.key);
        let filter = self.pick(&["", "", " AND k IS NOT NULL"]);
        Statement::new(
            format!("SELECT {what} FROM {} WHERE {key}{filter}", table.name),
            values,
            Order::Any,
        )
    }

    fn by_key(&mut self, key: &'static Type) -> (&'static str, Vec<Value>) {
        let (text, count) = self.pick(&[
            ("k = {}", 1),
            ("k = {}", 1),
            ("k = {}", 1),
            ("k IN ({}, {})", 2),
            ("{} = k", 1),
        ]);
        (text, (0..count).map(|_| self.value(key)).collect())
    }

    fn update(&mut self) -> Statement {
        let table = self.table();
        let place = self.below(table.columns.len());
        let (name, of) = &table.columns[place];
        let mut values = Vec::new();
        let set = if name == "n" && self.chance(60) {
            self.pick(&["n = n + 1", "n = -n", "n = coalesce(n, 0) * 2"])
                .to_owned()
        } else {
            values.push(self.value(of));
            format!("{name} = {{}}")
        };
        let filter = if self.chance(80) {
            let (key, more) = self.by_key(table.key);
            values.extend(more);
            format!(" WHERE {key}")
        } else {
            self.pick(&["", " WHERE k IS NOT NULL"]).to_owned()
        };
        let returning = self.pick(&["", "", " RETURNING *", " RETURNING k AS was"]);
        Statement::new(
            format!("UPDATE {} SET {set}{filter}{returning}", table.name),
            values,
            Order::Any,
        )
    }

    /// Updates of the shard key. No row becomes what another was before: whether these two meet depends on their order.
    fn move_rows(&mut self) -> Statement {
        let table = self.table();
        let (name, of) = {
            let place = self.below(table.columns.len());
            table.columns[place].clone()
        };
        let (key, value) = (self.value(table.key), self.value(of));
        let returning = self.pick(&["", "", " RETURNING *", " RETURNING k, k IS NULL AS none"]);
        let table_name = table.name;
        let (text, values) = match self.below(7) {
            0 => (
                format!("UPDATE {table_name} SET k = {{}} WHERE k = {{}}"),
                vec![key],
            ),
            1 => (
                format!("UPDATE {table_name} SET k = {{}}, {name} = {{}} WHERE k = {{}}"),
                vec![key, value],
            ),
            2 => (
                format!("UPDATE {table_name} x SET ({name}, k) = ({{}}, {{}}) WHERE x.k = {{}}"),
                vec![value, key],
            ),
            3 => (
                format!("UPDATE {table_name} SET k = k, {name} = DEFAULT WHERE k = {{}}"),
                Vec::new(),
            ),
            4 => {
                let text = "UPDATE kv SET k = k + 1000003, n = n + 1 WHERE k BETWEEN 0 AND 1000";
                return Statement::new(format!("{text}{returning}"), Vec::new(), Order::Any);
            }
            5 => {
                let text = "UPDATE pair SET a = a + 5000001, t = coalesce(t, '') || b WHERE a BETWEEN 0 AND 1000 AND b < {}";
                return Statement::new(text, vec![self.value(INT4)], Order::Any);
            }
            _ => {
                let text = "UPDATE pair SET b = 7, a = {} WHERE a = {} AND b = {} RETURNING a, b, t";
                let values = vec![self.value(INT8), self.value(INT8), self.value(INT4)];
                return Statement::new(text, values, Order::Any);
            }
        };
        let mut values = values;
        values.push(self.value(table.key));
        Statement::new(format!("{text}{returning}"), values, Order::Any)
    }

    fn delete(&mut self) -> Statement {
        let table = self.table();
        let returning = self.pick(&["", "", " RETURNING *"]);
        if self.chance(85) {
            let (key, values) = self.by_key(table.key);
            let text = format!("DELETE FROM {} WHERE {key}{returning}", table.name);
            return Statement::new(text, values, Order::Any);
        }
        let (name, of) = &table.columns[0];
        let text = format!("DELETE FROM {} WHERE {name} = {{}}{returning}", table.name);
        let value = self.value(of);
        Statement::new(text, vec![value], Order::Any)
    }

    /// Several rows with one shard key: what one group answers with everything that PostgreSQL can.
    fn on_pairs(&mut self) -> Statement {
        let key = self.value(INT8);
        let other = self.value(INT4);
        match self.below(9) {
            0..3 => {
                let text = "INSERT INTO pair VALUES ({}, {}, {}) ON CONFLICT (a, b) DO UPDATE SET t = excluded.t || pair.t";
                let name = self.value(TEXT);
                Statement::new(text, vec![key, other, name], Order::Given)
            }
            3 => Statement::new(
                "SELECT b, t FROM pair WHERE a = {} ORDER BY b LIMIT 3",
                vec![key],
                Order::Given,
            ),
            4 => Statement::new(
                "SELECT count(*), sum(b), max(t), array_agg(b ORDER BY b) FROM pair WHERE a = {}",
                vec![key],
                Order::Given,
            ),
            5 => Statement::new(
                "SELECT x.b, y.t, row_number() OVER (ORDER BY x.b, y.b) FROM pair x JOIN pair y ON y.a = x.a WHERE x.a = {} \
                 ORDER BY x.b, y.b",
                vec![key],
                Order::Given,
            ),
            6 => Statement::new(
                "WITH gone AS (DELETE FROM pair WHERE a = {} AND b = {} RETURNING b) SELECT count(*) FROM gone",
                vec![key, other],
                Order::Given,
            ),
            7 => Statement::new(
                "SELECT t, count(*) FROM pair WHERE a = {} GROUP BY t HAVING count(*) > 0 ORDER BY t",
                vec![key],
                Order::Given,
            ),
            _ => Statement::new(
                "UPDATE pair SET t = t || '+' WHERE a = {} AND b < {} RETURNING b, t",
                vec![key, other],
                Order::Any,
            ),
        }
    }

    /// Rows of all groups.
    fn scatter(&mut self) -> Statement {
        let table = self.table();
        let (name, of) = {
            let place = self.below(table.columns.len());
            table.columns[place].clone()
        };
        let text = match self.below(7) {
            0 => format!("SELECT * FROM {}", table.name),
            1 => format!("SELECT count(*) FROM {}", table.name),
            2 => format!("SELECT k, {name} FROM {} WHERE {name} IS NOT NULL", table.name),
            3 => format!("SELECT {name} IS NULL AS none, k FROM {}", table.name),
            4 => format!(
                "SELECT count(*) AS found FROM {} WHERE {name} IS NULL",
                table.name
            ),
            5 => format!("COPY {} TO STDOUT", table.name),
            _ => {
                let value = self.value(of);
                let text = format!("SELECT k FROM {} WHERE {name}::text = {{}}::text", table.name);
                return Statement::new(text, vec![value], Order::Any);
            }
        };
        Statement::new(text, Vec::new(), Order::Any)
    }

    /// What several groups cannot answer together yet, or not alone.
    fn beyond(&mut self) -> Statement {
        let text = self.pick(&[
            "SELECT k FROM kv ORDER BY k LIMIT 2 FOR UPDATE",
            "SELECT ctid FROM kv ORDER BY k",
        ]);
        Statement::new(text, Vec::new(), Order::Given)
    }
}
