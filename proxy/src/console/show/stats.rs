//! SHOW STATS: what was counted since the node started, by database.

use crate::Shared;
use crate::console::table::{Columns, Table, Type, Value};

pub(super) const STATS: Columns = &[
    ("database", Type::Text),
    ("total_xact_count", Type::Int8),
    ("total_query_count", Type::Int8),
    ("total_received", Type::Int8),
    ("total_sent", Type::Int8),
    ("total_xact_time", Type::Int8),
    ("total_query_time", Type::Int8),
    ("total_wait_time", Type::Int8),
];

pub(super) fn stats(shared: &Shared, table: &mut Table) {
    for (database, totals) in shared.registry.totals() {
        table.push([
            Value::Text(database),
            Value::int(totals.transactions),
            Value::int(totals.queries),
            Value::int(totals.received),
            Value::int(totals.sent),
            Value::int(totals.transaction_time),
            Value::int(totals.query_time),
            Value::int(totals.wait_time),
        ]);
    }
}
