//! The status as tables that a person can read.

use std::fmt::{Display, Write};

use proxy::status::{ClusterStatus, GroupStatus, NodeState};
use tabled::builder::Builder;
use tabled::settings::Style;

/// Nodes first, then each group's replicas.
#[must_use]
pub fn render(status: &ClusterStatus) -> String {
    let mut text = String::new();
    let mut nodes = Builder::default();
    nodes.push_record(["node", "pid", "sql", "state"]);
    for node in &status.nodes {
        let state = match node.state {
            NodeState::Up => "up",
            NodeState::Unreachable => "unreachable",
        };
        nodes.push_record([
            node.id.to_string(),
            or_dash(node.pid),
            node.sql_addr.to_string(),
            state.to_owned(),
        ]);
    }
    push_table(&mut text, nodes);
    for group in &status.groups {
        text.push('\n');
        push_group(&mut text, group);
    }
    text
}

fn push_group(text: &mut String, group: &GroupStatus) {
    let leader = match group.leader {
        Some(node) => format!("led by node {node}"),
        None => "WITHOUT A LEADER".to_owned(),
    };
    // Writing to a String cannot fail.
    let _ = writeln!(
        text,
        "group {}: {leader}, term {}, commit index {}, committed WAL {}",
        group.id,
        or_dash(group.term),
        or_dash(group.commit_index),
        or_dash(group.committed_lsn),
    );
    let mut replicas = Builder::default();
    replicas.push_record(["node", "role", "state", "postgres pid", "replay lag"]);
    for replica in &group.replicas {
        let role = replica.role.map(|role| format!("{role:?}").to_lowercase());
        replicas.push_record([
            replica.node.to_string(),
            or_dash(role),
            replica.state.clone(),
            or_dash(replica.postgres_pid),
            or_dash(replica.replay_lag_bytes.map(human_bytes)),
        ]);
    }
    push_table(text, replicas);
}

fn push_table(text: &mut String, rows: Builder) {
    let mut table = rows.build();
    table.with(Style::psql());
    for line in table.to_string().lines() {
        text.push_str(line.trim_end());
        text.push('\n');
    }
}

fn or_dash(value: Option<impl Display>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| value.to_string())
}

/// `1536` as `1.5 KiB`.
fn human_bytes(bytes: u64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut tenths = bytes.saturating_mul(10) / 1024;
    let mut unit = 0;
    while tenths >= 10_240 && unit + 1 < UNITS.len() {
        tenths /= 1024;
        unit += 1;
    }
    format!("{}.{} {}", tenths / 10, tenths % 10, UNITS[unit])
}

#[cfg(test)]
mod tests {
    use shard::id::{GroupId, LogIndex, NodeId, Term};
    use shard::status::Role;
    use shard::wal::Lsn;

    use super::*;
    use crate::status::{NodeView, ReplicaView};

    #[test]
    fn a_person_can_read_it() {
        let status = ClusterStatus {
            nodes: vec![
                NodeView {
                    id: NodeId(1),
                    pid: Some(77),
                    sql_addr: ([127, 0, 0, 1], 6432).into(),
                    state: NodeState::Up,
                },
                NodeView {
                    id: NodeId(2),
                    pid: None,
                    sql_addr: ([127, 0, 0, 1], 6433).into(),
                    state: NodeState::Unreachable,
                },
            ],
            groups: vec![GroupStatus {
                id: GroupId(1),
                leader: Some(NodeId(1)),
                term: Some(Term(3)),
                commit_index: Some(LogIndex(9)),
                committed_lsn: Some(Lsn(0x0300_0060)),
                replicas: vec![
                    ReplicaView {
                        node: NodeId(1),
                        role: Some(Role::Leader),
                        state: "leading".into(),
                        postgres_pid: Some(80),
                        replay_lag_bytes: Some(1536),
                    },
                    ReplicaView {
                        node: NodeId(2),
                        role: None,
                        state: "unreachable".into(),
                        postgres_pid: None,
                        replay_lag_bytes: None,
                    },
                ],
            }],
        };
        let expected = "
 node | pid | sql            | state
------+-----+----------------+-------------
 1    | 77  | 127.0.0.1:6432 | up
 2    | -   | 127.0.0.1:6433 | unreachable

group 1: led by node 1, term 3, commit index 9, committed WAL 0/3000060
 node | role   | state       | postgres pid | replay lag
------+--------+-------------+--------------+------------
 1    | leader | leading     | 80           | 1.5 KiB
 2    | -      | unreachable | -            | -
";
        let rendered = render(&status);
        assert_eq!(rendered.trim(), expected.trim(), "{rendered}");
    }

    #[test]
    fn sizes_are_short() {
        assert_eq!(human_bytes(0), "0 B");
        assert_eq!(human_bytes(16 << 20), "16.0 MiB");
        assert_eq!(human_bytes(u64::MAX / 20), "838860.7 TiB");
    }
}
