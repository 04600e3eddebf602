//! Deadlocks that run through several groups: each PostgreSQL sees a part of the circle only, and waits for good.
//!
//! [`waits`] asks every group's PostgreSQL who waits for whom, [`victims`] puts that together with which backends work for the
//! same transaction. What is seen of different groups is not of one moment; a deadlock lasts, though, so whoever breaks one
//! looks twice.

use std::collections::HashMap;
use std::time::Duration;

use futures::future::join_all;
use serde::{Deserialize, Serialize};
use shard::client::Groups;
use shard::id::GroupId;

use crate::connection::{Connection, OpenError};

/// A backend of a group, by its process id.
pub type BackendId = (GroupId, i32);

/// A transaction that works on several groups.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Across {
    /// When it began, microseconds since 1970 by its node's clock: the youngest is the victim.
    pub began: u64,
    /// Random: tells apart those that began at the same time.
    pub id: u64,
    /// The backends that work for it.
    pub backends: Vec<BackendId>,
}

/// A backend that waits for a lock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wait {
    /// Who waits.
    pub waiting: BackendId,
    /// Who holds the lock, or stands before it in line (`pg_blocking_pids`).
    pub blocking: Vec<BackendId>,
}

/// Who waits for whom now, in all groups that answer within `patience`.
pub async fn waits(groups: &dyn Groups, patience: Duration) -> Vec<Wait> {
    let of_group = |group: GroupId| async move {
        let asked = async {
            let connection = Connection::open(groups, group, "postgres", patience).await?;
            let rows = connection
                .client
                .query(
                    "SELECT pid, pg_blocking_pids(pid) FROM pg_stat_activity WHERE wait_event_type = 'Lock'",
                    &[],
                )
                .await?;
            let wait = |row: &tokio_postgres::Row| {
                let blocking: Vec<i32> = row.try_get(1)?;
                Ok(Wait {
                    waiting: (group, row.try_get(0)?),
                    // 0 is a prepared transaction: it waits for nobody and ends by itself.
                    blocking: blocking
                        .into_iter()
                        .filter(|pid| *pid != 0)
                        .map(|pid| (group, pid))
                        .collect(),
                })
            };
            rows.iter().map(wait).collect::<Result<Vec<_>, OpenError>>()
        };
        // A group that cannot be asked now is asked the next time.
        tokio::time::timeout(patience, asked).await.ok()?.ok()
    };
    let all = join_all(groups.groups().iter().copied().map(of_group)).await;
    all.into_iter().flatten().flatten().collect()
}

/// The transactions to be broken off: of circles of waiting transactions the youngest that works on several groups, until no
/// circle with such a one is left. Everyone who sees the same picture names the same.
#[must_use]
pub fn victims(transactions: &[Across], waits: &[Wait]) -> Vec<u64> {
    let mut graph = Graph::default();
    for transaction in transactions {
        let vertex = graph.vertex(Some(transaction));
        for backend in &transaction.backends {
            graph.of_backend.insert(*backend, vertex);
        }
    }
    for wait in waits {
        let from = graph.backend(wait.waiting);
        for blocking in &wait.blocking {
            let to = graph.backend(*blocking);
            graph.edges[from].push(to);
        }
    }
    let mut victims = Vec::new();
    // Circles can be entangled: without the victim there may be others left.
    for vertex in 0..graph.edges.len() {
        while let Some((victim, id)) = graph.youngest_in_a_circle_with(vertex) {
            graph.edges[victim].clear();
            victims.push(id);
        }
    }
    victims
}

/// Who waits for whom: a vertex is a transaction on several groups, or a backend of another.
#[derive(Default)]
struct Graph<'a> {
    transactions: Vec<Option<&'a Across>>,
    edges: Vec<Vec<usize>>,
    of_backend: HashMap<BackendId, usize>,
}

impl<'a> Graph<'a> {
    fn vertex(&mut self, transaction: Option<&'a Across>) -> usize {
        self.transactions.push(transaction);
        self.edges.push(Vec::new());
        self.edges.len() - 1
    }

    fn backend(&mut self, backend: BackendId) -> usize {
        match self.of_backend.get(&backend) {
            Some(vertex) => *vertex,
            None => {
                let vertex = self.vertex(None);
                self.of_backend.insert(backend, vertex);
                vertex
            }
        }
    }

    /// The victim of the circles through this vertex: among all that it reaches and that reach it.
    fn youngest_in_a_circle_with(&self, vertex: usize) -> Option<(usize, u64)> {
        let forth = self.reached_from(vertex);
        if !forth[vertex] {
            return None;
        }
        let circle = (0..self.edges.len()).filter(|other| forth[*other] && self.reached_from(*other)[vertex]);
        let youngest = circle
            .filter_map(|other| Some((other, self.transactions[other]?)))
            .max_by_key(|(_, transaction)| (transaction.began, transaction.id));
        youngest.map(|(vertex, transaction)| (vertex, transaction.id))
    }

    /// The vertices that a way of at least one edge leads to.
    fn reached_from(&self, start: usize) -> Vec<bool> {
        let mut reached = vec![false; self.edges.len()];
        let mut next = self.edges[start].clone();
        while let Some(vertex) = next.pop() {
            if !std::mem::replace(&mut reached[vertex], true) {
                next.extend(&self.edges[vertex]);
            }
        }
        reached
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: GroupId = GroupId(1);
    const B: GroupId = GroupId(2);

    fn across(id: u64, backends: &[BackendId]) -> Across {
        Across {
            began: 100 + id,
            id,
            backends: backends.to_vec(),
        }
    }

    fn wait(waiting: BackendId, blocking: BackendId) -> Wait {
        Wait {
            waiting,
            blocking: vec![blocking],
        }
    }

    #[test]
    fn two_that_wait_for_each_other_on_two_groups_lose_the_younger() {
        let transactions = [across(1, &[(A, 10), (B, 20)]), across(2, &[(A, 11), (B, 21)])];
        let waits = [wait((B, 20), (B, 21)), wait((A, 11), (A, 10))];
        assert_eq!(victims(&transactions, &waits), [2]);
        assert!(
            victims(&transactions, &waits[..1]).is_empty(),
            "a queue is no circle"
        );
        assert!(victims(&transactions, &[]).is_empty());
    }

    #[test]
    fn a_circle_may_run_through_a_transaction_of_one_group() {
        let transactions = [across(1, &[(A, 10), (B, 20)]), across(2, &[(A, 11), (B, 21)])];
        // 2 waits on A for a backend that waits for 1 there; 1 waits on B for 2.
        let waits = [
            wait((A, 11), (A, 99)),
            wait((A, 99), (A, 10)),
            wait((B, 20), (B, 21)),
        ];
        assert_eq!(victims(&transactions, &waits), [2]);
    }

    #[test]
    fn two_circles_have_two_victims_and_those_behind_them_none() {
        let transactions: Vec<Across> = (0..6)
            .map(|n| {
                let pid = i32::try_from(n).unwrap();
                across(n, &[(A, pid), (B, 100 + pid)])
            })
            .collect();
        let circle = |one: i32, two: i32| [wait((A, one), (A, two)), wait((B, 100 + two), (B, 100 + one))];
        let mut waits = [circle(0, 1), circle(2, 3)].concat();
        waits.push(wait((A, 4), (A, 0)));
        waits.push(wait((A, 5), (A, 4)));
        assert_eq!(victims(&transactions, &waits), [1, 3]);
    }

    #[test]
    fn entangled_circles_are_broken_all_at_once() {
        let transactions = [
            across(1, &[(A, 1), (B, 101)]),
            across(2, &[(A, 2), (B, 102)]),
            across(3, &[(A, 3), (B, 103)]),
        ];
        // 1 and 2 wait for each other, and so do 1 and 3.
        let waits = [
            wait((A, 1), (A, 2)),
            wait((A, 1), (A, 3)),
            wait((B, 102), (B, 101)),
            wait((B, 103), (B, 101)),
        ];
        assert_eq!(victims(&transactions, &waits), [3, 2]);
    }

    #[test]
    fn a_circle_within_one_group_of_others_is_left_to_postgresql() {
        let waits = [wait((A, 1), (A, 2)), wait((A, 2), (A, 1))];
        assert!(victims(&[], &waits).is_empty());
    }
}
