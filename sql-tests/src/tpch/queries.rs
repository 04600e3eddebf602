//! The queries, from `sql-tests/tpch/queries.sql`.

use crate::Result;

const QUERIES: &str = include_str!("../../tpch/queries.sql");
/// What begins one.
const BEGIN: &str = "\n-- Q";

/// One of them.
#[derive(Debug)]
pub(super) struct Query {
    /// With its number.
    pub(super) name: String,
    /// Columns that decide the order of its rows, from 1.
    pub(super) order: Vec<usize>,
    pub(super) sql: String,
}

/// All 22, for data of this scale.
pub(super) fn queries(scale: f64) -> Result<Vec<Query>> {
    // The specification's 2.4.11.3: so that about as many parts are found at each scale.
    let fraction = format!("{:.10}", 0.0001 / scale);
    let texts = QUERIES.split(BEGIN).skip(1);
    texts.map(|text| query(text, &fraction)).collect()
}

fn query(text: &str, fraction: &str) -> Result<Query> {
    let (head, sql) = text.split_once('\n').ok_or("a query without a text")?;
    let (name, order) = head
        .split_once(", by")
        .ok_or_else(|| format!("Q{head}: not a name and columns"))?;
    let order: std::result::Result<_, _> = order.split_whitespace().map(str::parse).collect();
    Ok(Query {
        name: format!("Q{name}"),
        order: order?,
        sql: sql.trim().replace(":fraction", fraction),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_are_22_and_what_orders_is_known() {
        let all = queries(0.01).expect("queries");
        for (number, query) in (1..).zip(&all) {
            assert!(query.name.starts_with(&format!("Q{number} ")), "{}", query.name);
            assert_eq!(
                query.order.is_empty(),
                !query.sql.contains("ORDER BY"),
                "{}",
                query.name
            );
        }
        assert_eq!(all.len(), 22);
        assert!(all[10].sql.contains("* 0.0100000000 FROM"));
    }
}
