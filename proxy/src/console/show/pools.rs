//! SHOW POOLS: clients and backends of this node, by database and user.

use std::collections::BTreeMap;

use super::clients::seconds;
use crate::Shared;
use crate::console::DATABASE;
use crate::console::table::{Columns, Table, Type, Value};
use crate::registry::Activity;

pub(super) const POOLS: Columns = &[
    ("database", Type::Text),
    ("user", Type::Text),
    ("cl_active", Type::Int8),
    ("cl_waiting", Type::Int8),
    ("sv_active", Type::Int8),
    ("sv_idle", Type::Int8),
    ("maxwait", Type::Int8),
    ("maxwait_us", Type::Int8),
];

#[derive(Default)]
struct Pool {
    clients: u64,
    waiting: u64,
    active: usize,
    idle: u64,
    longest: u64,
}

pub(super) fn pools(shared: &Shared, table: &mut Table) {
    let clients = shared.registry.clients();
    let mut pools: BTreeMap<(String, String), Pool> = BTreeMap::new();
    for client in &clients {
        if client.identity.database == DATABASE {
            continue;
        }
        let name = (client.identity.database.clone(), client.identity.user.clone());
        let pool = pools.entry(name).or_default();
        if client.activity == Activity::Waiting {
            pool.waiting += 1;
        } else {
            pool.clients += 1;
        }
        pool.longest = pool.longest.max(client.waiting.unwrap_or(0));
        pool.active += client.servers.len();
    }
    for idle in shared.pool.idle() {
        pools.entry((idle.database, idle.user)).or_default().idle += 1;
    }
    for ((database, user), pool) in pools {
        let [maxwait, maxwait_us] = seconds(pool.longest);
        table.push([
            Value::Text(database),
            Value::Text(user),
            Value::int(pool.clients),
            Value::int(pool.waiting),
            Value::int(pool.active),
            Value::int(pool.idle),
            maxwait,
            maxwait_us,
        ]);
    }
}
