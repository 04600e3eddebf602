//! SHOW SLOTS: which group has which hash slots.

use std::time::Instant;

use crate::Shared;
use crate::analysis::Refusal;
use crate::console::PATIENCE;
use crate::console::table::{Columns, Table, Type, Value};

pub(super) const SLOTS: Columns = &[
    ("epoch", Type::Int8),
    ("first", Type::Int8),
    ("last", Type::Int8),
    ("slots", Type::Int8),
    ("group", Type::Int8),
];

pub(super) async fn slots(shared: &Shared, table: &mut Table) -> Result<(), Refusal> {
    // The slot map is the same in every database and group.
    let database = shared.catalogues.database("postgres");
    let mut why = None;
    for group in shared.groups.groups() {
        let read = database.refresh(*group, Instant::now() + PATIENCE).await;
        let catalogue = match read {
            Ok(catalogue) => catalogue,
            Err(stale) => {
                why = Some(stale);
                continue;
            }
        };
        let map = catalogue.slots();
        let mut first = 0;
        for run in map.by_slot().chunk_by(|a, b| a == b) {
            table.push([
                Value::int(map.epoch().0),
                Value::int(first),
                Value::int(first + run.len() - 1),
                Value::int(run.len()),
                Value::int(run[0].0),
            ]);
            first += run.len();
        }
        return Ok(());
    }
    let refusal = Refusal::new("57P03", "the slot map cannot be read");
    Err(match why {
        Some(why) => refusal.detail(why.to_string()),
        None => refusal,
    })
}
