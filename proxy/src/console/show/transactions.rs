//! SHOW TRANSACTIONS: transactions that are open on any node, and those that are prepared and not settled on any group.

use coordinator::transaction::in_doubt;

use crate::Shared;
use crate::cancel::now;
use crate::console::PATIENCE;
use crate::console::table::{Columns, Table, Type, Value};
use crate::registry::Shown;

pub(super) const TRANSACTIONS: Columns = &[
    ("state", Type::Text),
    ("id", Type::Text),
    ("group", Type::Int8),
    ("began", Type::Time),
    ("remote_pid", Type::Int8),
    ("link", Type::Int8),
    ("database", Type::Text),
    ("anchor", Type::Int8),
    ("node", Type::Int8),
];

pub(super) async fn transactions(shared: &Shared, table: &mut Table, notices: &mut Vec<String>) {
    let (others, doubts) = tokio::join!(
        shared.peers.transactions(PATIENCE),
        in_doubt(&*shared.groups, PATIENCE)
    );
    let mut open = shared.sessions.transactions();
    open.extend(others);
    open.sort_by_key(|transaction| (transaction.began, transaction.id));
    let clients = shared.registry.clients();
    for transaction in open {
        for (group, process_id) in transaction.backends {
            let works_for = |client: &&Shown| {
                let mut servers = client.servers.iter();
                servers.any(|server| (server.group, server.process_id) == (group, process_id))
            };
            // Those of other nodes tell no more than this.
            let client = clients.iter().find(works_for).map(|client| &client.identity);
            table.push([
                Value::text("open"),
                Value::Text(format!("{:016x}", transaction.id)),
                Value::int(group.0),
                Value::Time(transaction.began),
                Value::int(process_id),
                Value::int_or_null(client.map(|client| client.process_id)),
                Value::or_null(client.map(|client| &client.database)),
                Value::Null,
                Value::int_or_null(client.map(|_| shared.transactions.node().0)),
            ]);
        }
    }
    for (group, found) in doubts {
        let parts = match found {
            Ok(parts) => parts,
            Err(why) => {
                notices.push(format!(
                    "group {group} cannot be asked for prepared transactions: {why}"
                ));
                continue;
            }
        };
        for part in parts {
            let age = u64::try_from(part.age.as_micros()).unwrap_or(u64::MAX);
            table.push([
                Value::text("prepared"),
                Value::text(part.gid),
                Value::int(group.0),
                Value::Time(now().saturating_sub(age)),
                Value::Null,
                Value::Null,
                Value::Text(part.database),
                Value::int(part.gid.anchor.0),
                Value::int(part.gid.node.0),
            ]);
        }
    }
}
