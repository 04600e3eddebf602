//! SHOW DATABASES: which groups have them, and who of this node is in them.

use std::collections::BTreeMap;

use coordinator::databases;

use crate::Shared;
use crate::console::table::{Columns, Table, Type, Value};
use crate::console::{DATABASE, PATIENCE};

pub(super) const DATABASES: Columns = &[
    ("name", Type::Text),
    ("groups", Type::Text),
    ("current_connections", Type::Int8),
    ("current_client_connections", Type::Int8),
    ("paused", Type::Int8),
];

pub(super) async fn databases(shared: &Shared, table: &mut Table, notices: &mut Vec<String>) {
    let mut having: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (group, databases) in databases::names_by_group(&*shared.groups, PATIENCE).await {
        match databases {
            None => notices.push(format!(
                "group {group} does not answer: its databases are not shown"
            )),
            Some(databases) => {
                for database in databases {
                    having.entry(database).or_default().push(group.to_string());
                }
            }
        }
    }
    having.insert(DATABASE.to_owned(), Vec::new());
    let (clients, idle) = (shared.registry.clients(), shared.pool.idle());
    for (name, groups) in having {
        let pooled = idle.iter().filter(|idle| idle.database == name).count();
        let inside = || clients.iter().filter(|client| client.identity.database == name);
        table.push([
            Value::text(&name),
            Value::text(groups.join(", ")),
            Value::int(inside().map(|client| client.servers.len()).sum::<usize>() + pooled),
            Value::int(inside().count()),
            Value::int(i64::from(name != DATABASE && shared.registry.is_paused(&name))),
        ]);
    }
}
