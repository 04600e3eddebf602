//! What is committed reaches every replica, whatever happens to it meanwhile.

use crate::entry::Command;
use crate::id::NodeId;
use crate::raft::{ProposeError, RaftGroup, WalReadError};
use crate::wal::{Lsn, TimelineId};

use super::cluster::{Cluster, START, chunk, switch, wal_byte};

const T1: TimelineId = TimelineId(1);
const T2: TimelineId = TimelineId(2);

/// Reads a replica's WAL from `from` to its end, and checks every byte against `written_on`.
pub(super) fn check_wal(
    replica: &RaftGroup,
    timeline: TimelineId,
    from: Lsn,
    written_on: impl Fn(Lsn) -> TimelineId,
) -> Lsn {
    let mut position = from;
    loop {
        match replica.wal().read(timeline, position, 300_000) {
            Ok(read) => {
                assert_eq!(read.start, position);
                assert_eq!(read.timeline, written_on(position));
                for byte in read.pieces.iter().flatten() {
                    assert_eq!(*byte, wal_byte(written_on(position), position), "at {position}");
                    position = position + 1;
                }
                assert_eq!(read.end(), position);
            }
            Err(WalReadError::NotYet) => return position,
            Err(error) => panic!("at {position}: {error}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn thousand_chunks_in_flight_reach_all_replicas() {
    let cluster = Cluster::start(3).await;
    let leader = cluster.leader(None).await;
    cluster.feed(leader, 1000, 1000).await;
    let history = cluster.agree_with(leader).await;
    assert_eq!(history.end(), START + 1_000_000);
    for (_, replica) in cluster.replicas() {
        assert_eq!(check_wal(replica, T1, START, |_| T1), history.end());
        assert_eq!(check_wal(replica, T1, START + 12_345, |_| T1), history.end());
        assert!(matches!(
            replica.wal().read(T1, START - 1, 10),
            Err(WalReadError::Purged { first: START })
        ));
    }
    let out_of_place = Command::Wal(chunk(T1, START, 10));
    let refused = cluster
        .replica(leader)
        .propose(out_of_place)
        .await
        .unwrap()
        .outcome()
        .await;
    assert!(matches!(refused, Err(ProposeError::Rejected(_))), "{refused:?}");
    let other = cluster
        .replicas()
        .map(|(node, _)| node)
        .find(|node| *node != leader)
        .unwrap();
    let refused = cluster
        .replica(other)
        .propose(Command::Wal(chunk(T1, history.end(), 10)))
        .await;
    let refused = refused.unwrap().outcome().await;
    assert_eq!(refused, Err(ProposeError::NotLeader { leader: Some(leader) }));
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_replicas_come_back_with_all_they_knew() {
    let mut cluster = Cluster::start(3).await;
    let first = cluster.leader(None).await;
    cluster.feed(first, 100, 1000).await;
    cluster.agree_with(first).await;

    cluster.kill(first);
    let second = cluster.leader(None).await;
    assert_eq!(
        cluster.replica(second).committed().borrow().history.end(),
        START + 100_000
    );
    cluster.feed(second, 100, 1000).await;
    cluster.start_node(first).await;
    let history = cluster.agree_with(second).await;
    assert_eq!(history.end(), START + 200_000);
    assert_eq!(
        check_wal(cluster.replica(first), T1, START, |_| T1),
        history.end()
    );

    let nodes: Vec<NodeId> = cluster.replicas().map(|(node, _)| node).collect();
    for node in &nodes {
        cluster.kill(*node);
    }
    for node in &nodes {
        cluster.start_node(*node).await;
    }
    let third = cluster.leader(None).await;
    cluster.feed(third, 1, 1000).await;
    assert_eq!(cluster.agree_with(third).await.end(), START + 201_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn replica_behind_the_purge_gets_the_snapshot() {
    let mut cluster = Cluster::start(3).await;
    let leader = cluster.leader(None).await;
    cluster.feed(leader, 10, 1 << 17).await;
    cluster.agree_with(leader).await;
    let behind = cluster
        .replicas()
        .map(|(node, _)| node)
        .find(|node| *node != leader)
        .unwrap();
    cluster.kill(behind);
    cluster.feed(leader, 300, 1 << 17).await;

    let end = cluster.replica(leader).committed().borrow().history.end();
    let boundary = end.segment_start();
    for (_, replica) in cluster.replicas() {
        assert_eq!(replica.purge_to(START).await.unwrap(), Some(START));
        assert_eq!(replica.purge_to(end).await.unwrap(), Some(boundary));
        assert_eq!(
            replica.purge_to(end).await.unwrap(),
            None,
            "nothing more to let go"
        );
    }
    while cluster.replica(leader).wal().first() < boundary {
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    let gone = cluster.replica(leader).wal().read(T1, START, 1);
    assert!(
        matches!(gone, Err(WalReadError::Purged { first }) if first == boundary),
        "{gone:?}"
    );

    cluster.start_node(behind).await;
    let history = cluster.agree_with(leader).await;
    let replica = cluster.replica(behind);
    assert_eq!(replica.wal().first(), boundary, "it came by snapshot");
    assert_eq!(check_wal(replica, T1, boundary, |_| T1), history.end());

    // And both kinds of replica start again from what they keep.
    for node in [behind, leader] {
        cluster.kill(node);
        cluster.start_node(node).await;
    }
    let leader = cluster.leader(None).await;
    cluster.feed(leader, 1, 1000).await;
    let history = cluster.agree_with(leader).await;
    for (_, replica) in cluster.replicas() {
        assert_eq!(replica.wal().first(), boundary);
        assert_eq!(check_wal(replica, T1, boundary, |_| T1), history.end());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn readers_of_two_timelines_see_each_its_own_line() {
    let cluster = Cluster::start(1).await;
    let leader = cluster.leader(None).await;
    cluster.feed(leader, 3, 1000).await;
    let replica = cluster.replica(leader);
    let at = START + 2500;
    let switched = replica
        .propose(switch(T2, at, START + 3000, leader))
        .await
        .unwrap()
        .outcome()
        .await
        .unwrap();
    assert_eq!((switched.end, switched.timeline), (at, T2));
    assert!(matches!(
        replica.wal().read(T2, at, 10),
        Err(WalReadError::NotYet)
    ));
    cluster.feed(leader, 20, 50_000).await;

    let line = |position| if position < at { T1 } else { T2 };
    let end = replica.committed().borrow().history.end();
    assert_eq!(check_wal(replica, T2, START, line), end);
    assert_eq!(
        check_wal(replica, T1, START, |_| T1),
        START + 3000,
        "with the dropped tail"
    );
    let unknown = replica.wal().read(TimelineId(3), START, 10);
    assert!(matches!(unknown, Err(WalReadError::UnknownTimeline(_))));
}
