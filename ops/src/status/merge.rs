//! Puts the nodes' own views together.

use std::collections::BTreeMap;

use proxy::status::{ClusterStatus, GroupStatus, NodeState, NodeView, ReplicaView};
use shard::id::{GroupId, NodeId};
use shard::status::{NodeStatus, ReplicaStatus, Role};
use shard::wal::Lsn;

use crate::config::ClusterConfig;

/// Puts together what the nodes that answered say. Pure.
#[must_use]
pub fn merge(cluster: &ClusterConfig, answers: &BTreeMap<NodeId, NodeStatus>) -> ClusterStatus {
    let nodes = cluster.nodes.iter().map(|(id, addresses)| {
        let answer = answers.get(id);
        NodeView {
            id: *id,
            pid: answer.map(|answer| answer.pid),
            sql_addr: addresses.sql,
            state: if answer.is_some() {
                NodeState::Up
            } else {
                NodeState::Unreachable
            },
        }
    });
    let groups = cluster.groups.iter().map(|(group, members)| {
        let replicas = members.iter().map(|node| {
            let answer = answers.get(node);
            let replica = answer.and_then(|answer| answer.replicas.iter().find(|one| one.group == *group));
            (*node, replica)
        });
        merge_group(*group, &replicas.collect())
    });
    ClusterStatus {
        nodes: nodes.collect(),
        groups: groups.collect(),
    }
}

fn merge_group(id: GroupId, replicas: &BTreeMap<NodeId, Option<&ReplicaStatus>>) -> GroupStatus {
    let known = || {
        replicas
            .iter()
            .filter_map(|(node, replica)| Some((*node, (*replica)?)))
    };
    let leader = known()
        .filter(|(_, replica)| replica.role == Role::Leader)
        .max_by_key(|(_, replica)| replica.term)
        .map(|(node, _)| node);
    let committed = known().map(|(_, replica)| replica.committed_lsn).max();
    GroupStatus {
        id,
        leader,
        term: known().map(|(_, replica)| replica.term).max(),
        commit_index: known().filter_map(|(_, replica)| replica.commit_index).max(),
        committed_lsn: committed,
        replicas: replicas
            .iter()
            .map(|(node, replica)| view(*node, *replica, committed))
            .collect(),
    }
}

fn view(node: NodeId, replica: Option<&ReplicaStatus>, committed: Option<Lsn>) -> ReplicaView {
    ReplicaView {
        node,
        role: replica.map(|replica| replica.role),
        state: replica.map_or_else(|| "unreachable".to_owned(), |replica| replica.state.clone()),
        postgres_pid: replica.and_then(|replica| replica.postgres_pid),
        replay_lag_bytes: replica
            .and_then(|replica| committed.map(|committed| committed.since(replica.replayed_lsn))),
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use shard::id::{LogIndex, Term};

    use super::*;
    use crate::config::NodeAddresses;

    fn three_nodes_one_group() -> ClusterConfig {
        let node = |id: u16| {
            let at = |port: u16| SocketAddr::from(([127, 0, 0, 1], port));
            (
                NodeId(u64::from(id)),
                NodeAddresses {
                    peer: at(7000 + id),
                    sql: at(6431 + id),
                },
            )
        };
        ClusterConfig {
            cluster: "test".to_owned(),
            secret: "0123456789abcdef".to_owned(),
            tls: None,
            nodes: (1..=3).map(node).collect(),
            groups: [(GroupId(1), (1..=3).map(NodeId).collect())].into(),
        }
    }

    fn answer(node: u64, role: Role, term: u64, committed: u64, replayed: u64) -> (NodeId, NodeStatus) {
        let replica = ReplicaStatus {
            group: GroupId(1),
            role,
            state: if role == Role::Leader {
                "leading"
            } else {
                "following"
            }
            .to_owned(),
            leader: None,
            term: Term(term),
            commit_index: Some(LogIndex(committed / 10)),
            timeline: None,
            committed_lsn: Lsn(committed),
            replayed_lsn: Lsn(replayed),
            postgres_pid: Some(100),
        };
        (
            NodeId(node),
            NodeStatus {
                node: NodeId(node),
                pid: 42,
                replicas: vec![replica],
            },
        )
    }

    #[test]
    fn a_healthy_group_shows_its_leader_and_each_lag() {
        let answers = BTreeMap::from([
            answer(1, Role::Follower, 2, 900, 850),
            answer(2, Role::Leader, 2, 1000, 1000),
            answer(3, Role::Follower, 2, 1000, 1000),
        ]);
        let group = &merge(&three_nodes_one_group(), &answers).groups[0];
        assert_eq!((group.leader, group.term), (Some(NodeId(2)), Some(Term(2))));
        assert_eq!(group.commit_index, Some(LogIndex(100)));
        let lags: Vec<_> = group
            .replicas
            .iter()
            .map(|replica| replica.replay_lag_bytes)
            .collect();
        assert_eq!(lags, [Some(150), Some(0), Some(0)]);
    }

    #[test]
    fn the_leader_of_the_highest_term_wins_over_one_that_slept() {
        let answers = BTreeMap::from([
            answer(1, Role::Leader, 2, 900, 900),
            answer(2, Role::Leader, 3, 1000, 1000),
            answer(3, Role::Follower, 3, 1000, 1000),
        ]);
        assert_eq!(
            merge(&three_nodes_one_group(), &answers).groups[0].leader,
            Some(NodeId(2))
        );
    }

    #[test]
    fn a_node_that_does_not_answer_is_unreachable_and_so_are_its_replicas() {
        let answers = BTreeMap::from([answer(1, Role::Follower, 2, 900, 850)]);
        let status = merge(&three_nodes_one_group(), &answers);
        assert_eq!(status.nodes[0].state, NodeState::Up);
        assert_eq!(status.nodes[1].state, NodeState::Unreachable);
        assert_eq!(status.groups[0].leader, None);
        assert_eq!(status.groups[0].replicas[1].state, "unreachable");
        assert_eq!(status.groups[0].replicas[1].role, None);
    }

    #[test]
    fn the_json_form_is_the_promised_one() {
        let answers = BTreeMap::from([answer(1, Role::Leader, 2, 0x1_0000_0010, 0x1_0000_0000)]);
        let status = merge(&three_nodes_one_group(), &answers);
        let json = serde_json::to_string(&status).unwrap();
        assert!(json.starts_with(
            r#"{"nodes":[{"id":1,"pid":42,"sql_addr":"127.0.0.1:6432","state":"up"},{"id":2,"pid":null,"#
        ));
        assert!(json.contains(
            r#""groups":[{"id":1,"leader":1,"term":2,"commit_index":429496731,"committed_lsn":"1/10","#
        ));
        assert!(json.contains(
            r#""replicas":[{"node":1,"role":"leader","state":"leading","postgres_pid":100,"replay_lag_bytes":16}"#
        ));
        assert_eq!(serde_json::from_str::<ClusterStatus>(&json).unwrap(), status);
    }
}
