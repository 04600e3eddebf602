//! Deadlocks that run through several groups: each PostgreSQL sees a part of the circle only, and waits for good.
//!
//! A [`Watch`] asks every group's PostgreSQL who waits for whom, [`victims`] puts that together with which backends work for
//! the same transaction. What is seen of different groups is not of one moment; a deadlock lasts, though, so whoever breaks
//! one looks twice.

use std::collections::HashMap;
use std::time::Duration;

use futures::future::join_all;
use serde::{Deserialize, Serialize};
use shard::client::Groups;
use shard::id::GroupId;

use crate::connection::{Connection, OpenError};

/// A backend of a group, by its process id.
pub type BackendId = (GroupId, i32);

/// A session's transaction, as far as others need to know it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Transaction {
    /// When it began, microseconds since 1970 by its node's clock: the youngest is the victim.
    pub began: u64,
    /// Random: tells apart those that began at the same time.
    pub id: u64,
    /// The backends that work for it.
    pub backends: Vec<BackendId>,
}

impl Transaction {
    fn is_across(&self) -> bool {
        self.backends
            .iter()
            .any(|(group, _)| *group != self.backends[0].0)
    }
}

/// A backend that waits for a lock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wait {
    /// Who waits.
    pub waiting: BackendId,
    /// Who holds the lock, or stands before it in line (`pg_blocking_pids`).
    pub blocking: Vec<BackendId>,
}

/// Connections to ask all groups over, kept from one look to the next.
#[derive(Debug)]
pub struct Watch<'a> {
    groups: &'a dyn Groups,
    connections: HashMap<GroupId, Connection>,
}

impl<'a> Watch<'a> {
    /// Connects to nobody yet.
    #[must_use]
    pub fn new(groups: &'a dyn Groups) -> Watch<'a> {
        Watch {
            groups,
            connections: HashMap::new(),
        }
    }

    /// Who waits for whom now, in all groups that answer within `patience`.
    pub async fn waits(&mut self, patience: Duration) -> Vec<Wait> {
        let asked = self.groups.groups().iter().map(|&group| {
            let (kept, groups) = (self.connections.remove(&group), self.groups);
            async move {
                let asked = async {
                    let connection = match kept {
                        Some(connection) => connection,
                        None => Connection::open(groups, group, "postgres", patience).await?,
                    };
                    let waits = waits_of(&connection, group).await?;
                    Ok::<_, OpenError>((connection, waits))
                };
                // A group that cannot be asked now is asked the next time, over a connection of then.
                Some((group, tokio::time::timeout(patience, asked).await.ok()?.ok()?))
            }
        });
        let mut all = Vec::new();
        for (group, (connection, waits)) in join_all(asked).await.into_iter().flatten() {
            self.connections.insert(group, connection);
            all.extend(waits);
        }
        all
    }

    /// Lets go of the connections until the next look.
    pub fn rest(&mut self) {
        self.connections.clear();
    }
}

async fn waits_of(connection: &Connection, group: GroupId) -> Result<Vec<Wait>, tokio_postgres::Error> {
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
    rows.iter().map(wait).collect()
}

/// The transactions to be broken off: the youngest of those that wait in a circle, until no circle is left through a
/// transaction that works on several groups. The oldest of all is never one, so it gets through. Circles of transactions
/// that have used one group only are left to its PostgreSQL. Everyone who sees the same picture names the same.
#[must_use]
pub fn victims(transactions: &[Transaction], waits: &[Wait]) -> Vec<u64> {
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

/// Who waits for whom: a vertex is a transaction, or a backend that works for none that is known.
#[derive(Default)]
struct Graph<'a> {
    transactions: Vec<Option<&'a Transaction>>,
    edges: Vec<Vec<usize>>,
    of_backend: HashMap<BackendId, usize>,
}

impl<'a> Graph<'a> {
    fn vertex(&mut self, transaction: Option<&'a Transaction>) -> usize {
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
        let circle: Vec<_> = circle
            .filter_map(|other| Some((other, self.transactions[other]?)))
            .collect();
        if !circle.iter().any(|(_, transaction)| transaction.is_across()) {
            return None;
        }
        let youngest = circle
            .into_iter()
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

    fn transaction(id: u64, backends: &[BackendId]) -> Transaction {
        Transaction {
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
        let transactions = [
            transaction(1, &[(A, 10), (B, 20)]),
            transaction(2, &[(A, 11), (B, 21)]),
        ];
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
        let transactions = [
            transaction(1, &[(A, 10), (B, 20)]),
            transaction(2, &[(A, 11), (B, 21)]),
        ];
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
        let transactions: Vec<Transaction> = (0..6)
            .map(|n| {
                let pid = i32::try_from(n).unwrap();
                transaction(n, &[(A, pid), (B, 100 + pid)])
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
            transaction(1, &[(A, 1), (B, 101)]),
            transaction(2, &[(A, 2), (B, 102)]),
            transaction(3, &[(A, 3), (B, 103)]),
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
    fn the_youngest_goes_even_if_it_has_used_one_group_only() {
        let transactions = [
            transaction(1, &[(A, 10), (B, 20)]),
            transaction(2, &[(A, 11), (B, 21)]),
            transaction(3, &[(A, 12)]),
        ];
        // 1 waits on B for 2, that on A for 3, and that for 1.
        let waits = [
            wait((B, 20), (B, 21)),
            wait((A, 11), (A, 12)),
            wait((A, 12), (A, 10)),
        ];
        assert_eq!(victims(&transactions, &waits), [3]);
    }

    #[test]
    fn a_circle_within_one_group_is_left_to_postgresql() {
        let waits = [wait((A, 1), (A, 2)), wait((A, 2), (A, 1))];
        assert!(victims(&[], &waits).is_empty());
        let transactions = [transaction(1, &[(A, 1)]), transaction(2, &[(A, 2)])];
        assert!(victims(&transactions, &waits).is_empty());
    }
}
