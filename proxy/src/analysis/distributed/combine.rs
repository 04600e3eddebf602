//! What makes one value of those that several groups have computed.

/// What stands in the query for an expression or an aggregate, over the values that groups give, by their numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Combined {
    /// An expression of GROUP BY: the value itself.
    Key(usize),
    /// A sum of counts.
    Count(usize),
    /// A sum of sums.
    Sum(usize),
    /// The same aggregate of the aggregates.
    Same {
        /// Its name.
        function: String,
        value: usize,
    },
    /// All together by how many they are.
    Average { sum: usize, count: usize },
    /// Of the variance family: from how many values there are, their sum as `sum()` gives it, their sum as numeric, and that of their squares.
    Variance {
        count: usize,
        sum: usize,
        exact: usize,
        squares: usize,
        of: Deviation,
    },
}

/// Which one of the variance family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Deviation {
    /// Of a sample: by one less than there are.
    sample: bool,
    /// Its square root.
    root: bool,
}

impl Deviation {
    /// The aggregate of this name.
    pub(super) fn called(name: &str) -> Option<Deviation> {
        let (sample, root) = match name {
            "var_pop" => (false, false),
            "var_samp" | "variance" => (true, false),
            "stddev_pop" => (false, true),
            "stddev_samp" | "stddev" => (true, true),
            _ => return None,
        };
        Some(Deviation { sample, root })
    }

    /// As `numeric_stddev_internal` in numeric.c computes it.
    fn text(self, count: &str, sum: &str, squares: &str) -> String {
        let by = if self.sample {
            format!("({count} OPERATOR(pg_catalog.-) 1)")
        } else {
            count.to_owned()
        };
        let above = format!(
            "(({count} OPERATOR(pg_catalog.*) {squares}) OPERATOR(pg_catalog.-) ({sum} OPERATOR(pg_catalog.*) {sum}))"
        );
        let enough = if self.sample { 1 } else { 0 };
        let variance = format!(
            "(CASE WHEN {count} OPERATOR(pg_catalog.>) {enough} THEN \
             CASE WHEN {above} OPERATOR(pg_catalog.<=) 0 THEN CAST(0 AS pg_catalog.numeric) \
             ELSE {above} OPERATOR(pg_catalog./) ({count} OPERATOR(pg_catalog.*) {by}) END END)"
        );
        if !self.root {
            return variance;
        }
        // Its root has as many digits after the point as it has itself, where sqrt() may give more. Rounded from so many more it is what
        // is rounded once: a number of so few digits has no root as near to the middle of two others.
        let scale = format!("COALESCE(pg_catalog.scale({variance}), 0)");
        let length = format!("pg_catalog.length(CAST({variance} AS pg_catalog.text))");
        format!(
            "pg_catalog.round(pg_catalog.sqrt(pg_catalog.round({variance}, ((2 OPERATOR(pg_catalog.*) {scale}) \
             OPERATOR(pg_catalog.+) {length}) OPERATOR(pg_catalog.+) 10)), {scale})"
        )
    }
}

const INT8: u32 = 20;
const FLOAT8: u32 = 701;
const INTERVAL: u32 = 1186;
const NUMERIC: u32 = 1700;

/// Types whose order depends on a collation, which values do not bring along: text, bpchar, varchar.
const COLLATED: [u32; 3] = [25, 1042, 1043];

/// What `sum()` gives (`pg_aggregate.dat`): int8, float4, float8, money, interval, numeric.
const SUMS: [u32; 6] = [INT8, 700, FLOAT8, 790, INTERVAL, NUMERIC];

/// Types of PostgreSQL's own whose values come in arrays, with their names (`pg_type.dat`).
const TYPES: [(u32, &str); 25] = [
    (16, "bool"),
    (17, "bytea"),
    (INT8, "int8"),
    (21, "int2"),
    (23, "int4"),
    (25, "text"),
    (26, "oid"),
    (650, "cidr"),
    (700, "float4"),
    (FLOAT8, "float8"),
    (790, "money"),
    (829, "macaddr"),
    (869, "inet"),
    (1042, "bpchar"),
    (1043, "varchar"),
    (1082, "date"),
    (1083, "time"),
    (1114, "timestamp"),
    (1184, "timestamptz"),
    (INTERVAL, "interval"),
    (1266, "timetz"),
    (1560, "bit"),
    (1562, "varbit"),
    (NUMERIC, "numeric"),
    (2950, "uuid"),
];

/// The name of a type whose values are brought together.
pub(super) fn type_name(oid: u32) -> Option<&'static str> {
    TYPES
        .iter()
        .find(|(known, _)| *known == oid)
        .map(|(_, name)| *name)
}

/// A value of this type as one with this modifier, which it fits; none if there are others of that type.
fn modified(value: String, oid: u32, modifier: i32) -> Option<String> {
    /// `VARHDRSZ`, by which modifiers of lengths and of numeric are larger.
    const HEADER: i32 = 4;
    let given = modifier - HEADER;
    let name = type_name(oid)?;
    Some(match oid {
        _ if modifier < 0 => value,
        1042 | 1043 => format!("CAST({value} AS pg_catalog.{name}({given}))"),
        // `make_numeric_typmod` in numeric.c, whose scale may be negative.
        NUMERIC => {
            let scale = ((given & 0x7ff) ^ 1024) - 1024;
            format!(
                "CAST({value} AS pg_catalog.{name}({}, {scale}))",
                (given >> 16) & 0xffff
            )
        }
        _ => return None,
    })
}

/// What is known of the values that groups give.
#[derive(Clone, Copy, Debug)]
pub struct Values<'a> {
    /// Their types.
    pub types: &'a [u32],
    /// Their types' modifiers, -1 for none (`pg_attribute.atttypmod`).
    pub modifiers: &'a [i32],
    /// Texts among them have the database's own collation, as they have without saying so.
    pub own_collation: bool,
}

impl Combined {
    /// The expression; none if values of these types need their rows. `value` names one.
    pub(super) fn text(&self, values: Values<'_>, value: impl Fn(usize) -> String) -> Option<String> {
        let of = |at: usize| {
            let oid = values.types.get(at).copied()?;
            (values.own_collation || !COLLATED.contains(&oid)).then_some(oid)
        };
        let sum =
            |at: usize, number: &str| format!("CAST(pg_catalog.sum({}) AS pg_catalog.{number})", value(at));
        Some(match self {
            Combined::Key(at) => modified(
                value(*at),
                of(*at)?,
                values.modifiers.get(*at).copied().unwrap_or(-1),
            )?,
            // sum(int8) is numeric. Of no rows at all there is nothing to sum up where GROUPING SETS have an empty one.
            Combined::Count(at) => format!("COALESCE({}, 0)", sum(*at, "int8")),
            Combined::Sum(at) => match of(*at)? {
                INT8 => sum(*at, "int8"),
                oid if SUMS.contains(&oid) => format!("pg_catalog.sum({})", value(*at)),
                _ => return None,
            },
            Combined::Same { function, value: at } => {
                of(*at)?;
                format!("pg_catalog.{function}({})", value(*at))
            }
            // `numeric_avg` and `int8_avg` in numeric.c divide as numeric, `float8_avg` in float.c as float8, `interval_avg` in timestamp.c an
            // interval by one. Its sum of float4 is one of float8, which sum() does not give.
            Combined::Average { sum: all, count } => {
                let (number, by) = match of(*all)? {
                    INT8 | NUMERIC => ("numeric", "numeric"),
                    FLOAT8 => ("float8", "float8"),
                    INTERVAL => ("interval", "float8"),
                    _ => return None,
                };
                format!(
                    "({} OPERATOR(pg_catalog./) NULLIF({}, 0))",
                    sum(*all, number),
                    sum(*count, by)
                )
            }
            Combined::Variance {
                count,
                sum: all,
                exact,
                squares,
                of: deviation,
            } => match of(*all)? {
                INT8 | NUMERIC => {
                    let all = |at: usize| sum(at, "numeric");
                    deviation.text(&all(*count), &all(*exact), &all(*squares))
                }
                // Those of float8 are not computed from sums.
                _ => return None,
            },
        })
    }
}
