//! SHOW NODES and SHOW GROUPS: what `howdah status` shows.

use crate::Shared;
use crate::analysis::Refusal;
use crate::console::table::{Columns, Table, Type, Value};
use crate::status::{ClusterStatus, NodeState};

pub(super) const NODES: Columns = &[
    ("node", Type::Int8),
    ("state", Type::Text),
    ("sql_address", Type::Text),
    ("pid", Type::Int8),
    ("here", Type::Bool),
];

pub(super) const GROUPS: Columns = &[
    ("group", Type::Int8),
    ("leader", Type::Int8),
    ("term", Type::Int8),
    ("commit_index", Type::Int8),
    ("committed_lsn", Type::Text),
    ("node", Type::Int8),
    ("role", Type::Text),
    ("state", Type::Text),
    ("postgres_pid", Type::Int8),
    ("replay_lag_bytes", Type::Int8),
];

async fn status(shared: &Shared) -> Result<ClusterStatus, Refusal> {
    let status = shared.operations.status().await;
    status.map_err(|why| Refusal::new("55000", format!("the cluster's status is not known: {why}")))
}

pub(super) async fn nodes(shared: &Shared, table: &mut Table) -> Result<(), Refusal> {
    for node in status(shared).await?.nodes {
        let state = match node.state {
            NodeState::Up => "up",
            NodeState::Unreachable => "unreachable",
        };
        table.push([
            Value::int(node.id.0),
            Value::text(state),
            Value::text(node.sql_addr),
            Value::int_or_null(node.pid),
            Value::Bool(node.id == shared.transactions.node()),
        ]);
    }
    Ok(())
}

pub(super) async fn groups(shared: &Shared, table: &mut Table) -> Result<(), Refusal> {
    for group in status(shared).await?.groups {
        for replica in group.replicas {
            let role = replica.role.map(|role| format!("{role:?}").to_lowercase());
            table.push([
                Value::int(group.id.0),
                Value::int_or_null(group.leader.map(|node| node.0)),
                Value::int_or_null(group.term.map(|term| term.0)),
                Value::int_or_null(group.commit_index.map(|index| index.0)),
                Value::or_null(group.committed_lsn),
                Value::int(replica.node.0),
                Value::or_null(role),
                Value::Text(replica.state),
                Value::int_or_null(replica.postgres_pid),
                Value::int_or_null(replica.replay_lag_bytes),
            ]);
        }
    }
    Ok(())
}
