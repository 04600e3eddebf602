//! Everything in SQL that is not about rows of tables: blocks, settings, cursors, SQL's own prepared statements, DDL, mistakes.

use super::types::{INT4, INT8, TEXT, TYPES};
use super::{Maker, Statement};
use crate::differential::exchange::Order;

/// Statements that fail, each in its own way.
const MISTAKES: &[&str] = &[
    "SELEC 1",
    "SELECT * FROM nosuch",
    "SELECT * FROM nosuch.kv",
    "SELECT nosuch FROM kv WHERE k = 1",
    "SELECT kv.nosuch FROM kv WHERE k = 1",
    "INSERT INTO kv (nosuch) VALUES (1)",
    "INSERT INTO kv (k, n) VALUES (1)",
    "INSERT INTO kv VALUES (1, 2, 'a', 3, 5)",
    "INSERT INTO kv (k, t) VALUES (1, NULL)",
    "INSERT INTO kv (k, t) VALUES (9000, DEFAULT), (9000, DEFAULT)",
    "INSERT INTO kv (n) VALUES (1)",
    "UPDATE kv SET n = 'x' WHERE k = 1",
    "UPDATE nosuch SET n = 1",
    "UPDATE kv SET nosuch = 1 WHERE k = 1",
    "DELETE FROM",
    "DELETE FROM nosuch WHERE k = 1",
    "SELECT 1 / 0",
    "SELECT 'a'::int4",
    "SELECT nosuch(1)",
    "SELECT length(1, 2)",
    "SELECT 99999999999999999999::int8",
    "SELECT (array[1, 2])[",
    "SELECT 'abc",
    "SELECT \"abc",
    "SELECT $1",
    "SELECT /* not ended",
    "SELECT 1 WHERE",
    "SELECT 'x' + 1",
    "SELECT k FROM kv WHERE k = 'x'",
    "SELECT k FROM kv WHERE k = 1 AND n",
    "SELECT date '2023-02-30'",
    "SELECT jsonb '{\"a\"' -> 'a'",
    "SELECT repeat('x', 3)::varchar(2), 'abc'::char(2), cast('5x' AS numeric)",
    "TABLE nosuch",
    "EXECUTE nosuch(1)",
    "FETCH 1 FROM nosuch",
    "CLOSE nosuch",
    "DEALLOCATE nosuch",
    "SAVEPOINT",
    "RELEASE SAVEPOINT nosuch",
    "ROLLBACK TO SAVEPOINT nosuch",
    "COPY nosuch TO STDOUT",
    "COPY kv (nosuch) TO STDOUT",
    "SET nosuch = 1",
    "SET work_mem = '-1'",
    "SHOW nosuch",
    "LOCK TABLE nosuch",
    "CREATE TABLE kv (k int8 PRIMARY KEY)",
    "CREATE TABLE extra (k nosuch PRIMARY KEY)",
    "CREATE TABLE extra (k int8, k int8)",
    "DROP TABLE nosuch",
    "ALTER TABLE kv ADD COLUMN n int4",
    "ALTER TABLE kv DROP COLUMN nosuch",
    "CREATE INDEX ON kv (nosuch)",
    "DROP INDEX nosuch",
];

/// What no grammar takes.
const NO_SQL: &[&str] = &[
    "SELEC 1",
    "SELECT 1 WHERE",
    "DELETE FROM",
    "SELECT 'abc",
    "SELECT \"abc",
    "SELECT $a$ abc $b$",
    "SELECT /* not ended",
    "SELECT 1)",
    "SELECT (1",
    "SELECT \"\"",
    "SELECT 1 ORDER BY 1 ORDER BY 2",
    "COPY kv FROM",
    "SAVEPOINT select",
    "BEGIN READ ONLY,",
    "SET TRANSACTION",
    "END nonsense",
    "RETURN 1",
    "CREATE FUNCTION nosuch() RETURNS int BEGIN ATOMIC SELECT 1",
];

/// Expressions without tables.
const EXPRESSIONS: &[&str] = &[
    "SELECT 1",
    "SELECT 1 AS one, 'two' AS two, NULL AS three, 4.0, true",
    "VALUES (1, 'a'), (2, 'b')",
    "SELECT g, g * g AS square FROM generate_series(1, 7) AS g",
    "SELECT g FROM generate_series(1, 20) AS g WHERE g % 3 = 0 ORDER BY g DESC LIMIT 4",
    "SELECT array[1, 2, NULL]::int4[], '{{a,b},{c,d}}'::text[], array_length('{1,2}'::int8[], 1)",
    "SELECT json_build_object('a', 1, 'b', json_build_array(1, NULL, 'x')), jsonb '{\"b\":1,\"a\":[2]}' -> 'a'",
    "SELECT sum(g), avg(g), string_agg(g::text, ',' ORDER BY g), count(*) FILTER (WHERE g > 2) FROM generate_series(1, 5) AS g",
    "SELECT upper('ärger'), length('日本'), encode('\\x00ff'::bytea, 'base64'), md5('a'), 'abc' ~ '^a'",
    "SELECT 1::float8 / 3, 1::numeric / 3, 'NaN'::float8, '-infinity'::timestamp, interval '1 day 02:03'",
    "SELECT date '2024-02-29' + 1, extract(dow FROM date '2024-02-29'), to_char(date '2024-02-29', 'DD Mon YYYY')",
    "SELECT timestamptz '2024-07-01 12:00+00', timestamptz '2024-01-01 12:00+00' AT TIME ZONE 'Asia/Kolkata'",
    "SELECT ROW(1, 'a', NULL), (ROW(1, 2) = ROW(1, 2)), coalesce(NULL, 3), nullif(1, 1), CASE WHEN true THEN 'y' END",
    "WITH RECURSIVE r(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM r WHERE n < 5) SELECT * FROM r",
    "SELECT current_setting('DateStyle'), current_setting('nosuch.setting', true) IS NULL",
    "SELECT 'x' AS \"Odd Name\", 'y' AS \"select\"",
    "SELECT",
    "SELECT 1 WHERE false",
    "SELECT * FROM (SELECT 1 AS a UNION SELECT 2 UNION SELECT 1) AS u ORDER BY a",
    "SELECT relname, relkind FROM pg_class WHERE relname IN ('pg_class', 'pg_type') ORDER BY relname",
    "SELECT typname, typlen FROM pg_type WHERE oid = 20",
    "SELECT column_name, data_type FROM information_schema.columns WHERE table_name = 'kv' ORDER BY ordinal_position",
];

/// Settings and their loss.
const SETTINGS: &[&str] = &[
    "SET DateStyle = 'German'",
    "SET DateStyle = 'ISO, DMY'",
    "SET datestyle TO DEFAULT",
    "SET TimeZone = 'Asia/Kolkata'",
    "SET TIME ZONE 'UTC'",
    "SET TIME ZONE -3",
    "SET extra_float_digits = 0",
    "SET bytea_output = 'escape'",
    "SET IntervalStyle = 'iso_8601'",
    "SET application_name = 'a differential test'",
    "SET LOCAL application_name = 'local'",
    "SET LOCAL DateStyle = 'SQL'",
    "SET search_path = nosuch, public",
    "SET work_mem = '5MB'",
    "SET lock_timeout = '3s'",
    "SET my.own = 'value'",
    "SET client_min_messages = 'warning'",
    "SET default_transaction_read_only = on",
    "SET default_transaction_read_only = off",
    "SELECT set_config('bytea_output', 'hex', false)",
    "RESET DateStyle",
    "RESET TimeZone",
    "RESET search_path",
    "RESET ALL",
    "SHOW DateStyle",
    "SHOW TIME ZONE",
    "SHOW search_path",
    "SHOW transaction_isolation",
    "SHOW application_name",
    "SHOW server_version_num",
    "SHOW my.own",
    "SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL READ COMMITTED",
    "DISCARD ALL",
    "DISCARD PLANS",
];

/// Cursors. Their rows come in an order, so that what is fetched is always the same.
const CURSORS: &[&str] = &[
    "DECLARE one CURSOR FOR SELECT g FROM generate_series(1, 10) AS g",
    "DECLARE two SCROLL CURSOR FOR SELECT b, t FROM pair WHERE a = 1 ORDER BY b",
    "DECLARE one NO SCROLL CURSOR WITH HOLD FOR SELECT g, 'x' FROM generate_series(1, 5) AS g",
    "FETCH 3 FROM one",
    "FETCH 3 FROM one",
    "FETCH NEXT FROM two",
    "FETCH ALL FROM one",
    "FETCH BACKWARD 2 FROM two",
    "FETCH FIRST FROM two",
    "MOVE 2 IN one",
    "MOVE FORWARD ALL IN two",
    "CLOSE one",
    "CLOSE two",
    "CLOSE ALL",
];

/// SQL's own prepared statements.
const PREPARED: &[&str] = &[
    "PREPARE q1 (int8) AS SELECT k, n, t FROM kv WHERE k = $1",
    "PREPARE q2 AS INSERT INTO kv (k, n, t) VALUES ($1, $2, $3) ON CONFLICT (k) DO UPDATE SET n = excluded.n",
    "PREPARE q3 AS SELECT $1::int4 + 1 AS more",
    "EXECUTE q1(1)",
    "EXECUTE q1(2)",
    "EXECUTE q1(NULL)",
    "EXECUTE q1",
    "EXECUTE q2(3, 4, 'five')",
    "EXECUTE q2(4, 4, NULL)",
    "EXECUTE q3(41)",
    "EXECUTE q3('x')",
    "DEALLOCATE q1",
    "DEALLOCATE PREPARE q2",
    "DEALLOCATE ALL",
];

/// Definitions, on tables that only they use.
const DEFINITIONS: &[&str] = &[
    "CREATE TABLE extra (k int8 PRIMARY KEY, a text NOT NULL DEFAULT 'x', CHECK (length(a) < 10))",
    "CREATE TABLE IF NOT EXISTS extra (k int8 PRIMARY KEY, a text DEFAULT 'y')",
    "CREATE TABLE other (k uuid PRIMARY KEY, at timestamptz, tags text[])",
    "CREATE TABLE extra AS SELECT k, max(t) AS a FROM kv GROUP BY k",
    "CREATE TABLE IF NOT EXISTS other (k, s) AS SELECT a, sum(b) FROM pair GROUP BY a",
    "SELECT k, n % 2 AS a INTO extra FROM kv",
    "DROP TABLE extra",
    "DROP TABLE IF EXISTS extra, other",
    "ALTER TABLE extra ADD COLUMN more int4 DEFAULT 7",
    "ALTER TABLE extra ADD COLUMN IF NOT EXISTS more int4",
    "ALTER TABLE extra DROP COLUMN more",
    "ALTER TABLE extra RENAME COLUMN a TO b",
    "ALTER TABLE extra ALTER COLUMN a TYPE varchar(20)",
    "ALTER TABLE extra RENAME TO other",
    "CREATE INDEX extra_a ON extra (a)",
    "CREATE INDEX IF NOT EXISTS extra_a ON extra (a)",
    "CREATE UNIQUE INDEX extra_ka ON extra (k, a)",
    "DROP INDEX IF EXISTS extra_a",
    "COMMENT ON TABLE extra IS 'a comment'",
    "TRUNCATE extra",
    "INSERT INTO extra (k) VALUES (1), (2), (3), (4) ON CONFLICT DO NOTHING",
    "INSERT INTO extra VALUES (5, 'a name that is too long')",
    "SELECT * FROM extra",
    "TRUNCATE kv, keyed",
    "ANALYZE kv",
];

impl Maker {
    pub(super) fn mistake(&mut self) -> Statement {
        Statement::plain(self.pick(MISTAKES))
    }

    pub(super) fn no_sql(&mut self) -> &'static str {
        self.pick(NO_SQL)
    }

    pub(super) fn setting(&mut self) -> Statement {
        Statement::plain(self.pick(SETTINGS))
    }

    pub(super) fn cursor(&mut self) -> Statement {
        Statement::plain(self.pick(CURSORS))
    }

    pub(super) fn sql_prepared(&mut self) -> Statement {
        Statement::plain(self.pick(PREPARED))
    }

    pub(super) fn definition(&mut self) -> Statement {
        let text = self.pick(DEFINITIONS);
        Statement::new(text, Vec::new(), Order::Any)
    }

    pub(super) fn expression(&mut self) -> Statement {
        match self.below(4) {
            0 => {
                let of = &TYPES[self.below(TYPES.len())];
                let value = self.value(of);
                Statement::new(
                    format!("SELECT {{}}::{} AS value", of.name),
                    vec![value],
                    Order::Given,
                )
            }
            1 => {
                let values = vec![self.value(INT4), self.value(INT8), self.value(TEXT)];
                let text =
                    "SELECT {}::int4 + 1 AS sum, {}::int8 % 7 AS rest, coalesce({}::text, 'none') AS name";
                Statement::new(text, values, Order::Given)
            }
            _ => Statement::plain(self.pick(EXPRESSIONS)),
        }
    }

    /// Opens or ends a block, or does what only a block has.
    pub(super) fn control(&mut self) -> Statement {
        if !self.in_block {
            let odd = self.chance(12);
            self.in_block = !odd;
            return Statement::plain(if odd {
                self.pick(&[
                    "COMMIT",
                    "ROLLBACK",
                    "SAVEPOINT s",
                    "COMMIT AND CHAIN",
                    "SET TRANSACTION READ ONLY",
                ])
            } else {
                self.pick(&[
                    "BEGIN",
                    "BEGIN",
                    "BEGIN",
                    "START TRANSACTION",
                    "BEGIN ISOLATION LEVEL REPEATABLE READ",
                    "BEGIN READ ONLY",
                    "BEGIN ISOLATION LEVEL SERIALIZABLE READ ONLY",
                    "BEGIN TRANSACTION READ WRITE, ISOLATION LEVEL READ COMMITTED",
                ])
            });
        }
        match self.below(10) {
            0..4 => {
                self.in_block = false;
                Statement::plain(self.pick(&["COMMIT", "COMMIT", "COMMIT WORK", "END"]))
            }
            4..6 => {
                self.in_block = false;
                Statement::plain(self.pick(&["ROLLBACK", "ABORT"]))
            }
            6 => Statement::plain(self.pick(&["COMMIT AND CHAIN", "ROLLBACK AND CHAIN", "BEGIN"])),
            _ => Statement::plain(self.pick(&[
                "SAVEPOINT s",
                "SAVEPOINT s",
                "SAVEPOINT t",
                "ROLLBACK TO SAVEPOINT s",
                "ROLLBACK TO t",
                "RELEASE SAVEPOINT s",
                "SET TRANSACTION READ ONLY",
                "SET LOCAL TimeZone = 'UTC'",
            ])),
        }
    }
}
