//! SHOW CLIENTS and SHOW SERVERS: the connections of this node, to both sides.

use crate::Shared;
use crate::console::table::{Columns, Table, Type, Value};

pub(super) const CLIENTS: Columns = &[
    ("type", Type::Text),
    ("user", Type::Text),
    ("database", Type::Text),
    ("state", Type::Text),
    ("addr", Type::Text),
    ("port", Type::Int8),
    ("local_addr", Type::Text),
    ("local_port", Type::Int8),
    ("connect_time", Type::Time),
    ("request_time", Type::Time),
    ("wait", Type::Int8),
    ("wait_us", Type::Int8),
    ("close_needed", Type::Int8),
    ("application_name", Type::Text),
    ("id", Type::Int8),
    ("pins", Type::Text),
    ("groups", Type::Text),
];

pub(super) const SERVERS: Columns = &[
    ("type", Type::Text),
    ("user", Type::Text),
    ("database", Type::Text),
    ("state", Type::Text),
    ("group", Type::Int8),
    ("connect_time", Type::Time),
    ("link", Type::Int8),
    ("remote_pid", Type::Int8),
    ("application_name", Type::Text),
];

/// Whole seconds, and what is beyond them in microseconds.
pub(super) fn seconds(micros: u64) -> [Value; 2] {
    [Value::int(micros / 1_000_000), Value::int(micros % 1_000_000)]
}

pub(super) fn clients(shared: &Shared, table: &mut Table) {
    for client in shared.registry.clients() {
        let identity = &client.identity;
        let mut groups: Vec<u32> = client.servers.iter().map(|server| server.group.0).collect();
        groups.sort_unstable();
        let groups: Vec<String> = groups.iter().map(ToString::to_string).collect();
        let [wait, wait_us] = seconds(client.waiting.unwrap_or(0));
        table.push([
            Value::text("C"),
            Value::text(&identity.user),
            Value::text(&identity.database),
            Value::text(client.activity.name()),
            Value::or_null(identity.address.map(|address| address.ip())),
            Value::int_or_null(identity.address.map(|address| address.port())),
            Value::or_null(identity.local.map(|address| address.ip())),
            Value::int_or_null(identity.local.map(|address| address.port())),
            Value::Time(client.connected),
            Value::time_or_null(client.requested),
            wait,
            wait_us,
            Value::int(i64::from(client.killed)),
            Value::text(&client.application_name),
            Value::int(identity.process_id),
            Value::text(client.pins.join(", ")),
            Value::text(groups.join(", ")),
        ]);
    }
}

pub(super) fn servers(shared: &Shared, table: &mut Table) {
    for client in &shared.registry.clients() {
        for server in &client.servers {
            table.push([
                Value::text("S"),
                Value::text(&client.identity.user),
                Value::text(&client.identity.database),
                Value::text("active"),
                Value::int(server.group.0),
                Value::Time(server.connected),
                Value::int(client.identity.process_id),
                Value::int(server.process_id),
                Value::text(&client.application_name),
            ]);
        }
    }
    for idle in shared.pool.idle() {
        table.push([
            Value::text("S"),
            Value::text(idle.user),
            Value::text(idle.database),
            Value::text("idle"),
            Value::int(idle.group.0),
            Value::Time(idle.opened),
            Value::Null,
            Value::int(idle.process_id),
            Value::Null,
        ]);
    }
}
