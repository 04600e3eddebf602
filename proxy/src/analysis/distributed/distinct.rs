//! SELECT DISTINCT: of rows of a table that are alike, one is enough.

use coordinator::catalogue::Relation;
use sqlparser::ast::{Distinct, GroupByExpr, SetExpr, Statement};

use super::super::check::Findings;
use super::super::proof::Proof;
use super::filter::Block;

/// Types of which equal values are alike: bool, bytea, int8, int2, int4, date, time, timestamp, timestamptz, uuid.
const ALIKE: [u32; 10] = [16, 17, 20, 21, 23, 1082, 1083, 1114, 1184, 2950];

/// Texts are alike if they are equal by their bytes: text, varchar.
const TEXTS: [u32; 2] = [25, 1043];

/// The uses of tables whose rows are wanted once: those that a SELECT DISTINCT joins, if nothing counts rows before.
pub(super) fn instances(statement: &Statement, proof: &Proof<'_>, findings: &Findings) -> Vec<usize> {
    let Statement::Query(query) = statement else {
        return Vec::new();
    };
    let SetExpr::Select(select) = &*query.body else {
        return Vec::new();
    };
    let distinct = matches!(select.distinct, Some(Distinct::Distinct | Distinct::On(_)));
    let ungrouped = matches!(&select.group_by, GroupByExpr::Expressions(by, _) if by.is_empty());
    let plain = findings.aggregate.is_none() && findings.unsteady.is_none() && select.having.is_none();
    if !(distinct && ungrouped && plain) {
        return Vec::new();
    }
    Block::of(select, proof).instances().collect()
}

/// Whether these columns tell which rows are alike.
pub(super) fn can_be(table: &Relation, columns: &[String]) -> bool {
    let known = |name: &String| {
        table
            .column(name)
            .is_some_and(|column| ALIKE.contains(&column.type_oid) || TEXTS.contains(&column.type_oid))
    };
    !columns.is_empty() && columns.iter().all(known)
}

/// The columns of texts.
pub(super) fn texts(table: &Relation) -> Vec<String> {
    let texts = table
        .columns
        .iter()
        .filter(|column| TEXTS.contains(&column.type_oid));
    texts.map(|column| column.name.clone()).collect()
}

/// What rows that are alike have in common, for GROUP BY.
pub(super) fn keys(quoted: &[String], columns: &[&str], texts: &[String]) -> String {
    let bytes = quoted
        .iter()
        .zip(columns)
        .filter(|(_, name)| texts.iter().any(|text| text == *name))
        .map(|(quoted, _)| format!("{quoted} COLLATE \"C\""));
    quoted.iter().cloned().chain(bytes).collect::<Vec<_>>().join(", ")
}
