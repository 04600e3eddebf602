//! Accounts on every group, and the same on plain servers.

use std::collections::BTreeMap;

use shard::id::GroupId;
use tokio_postgres::Client;

use crate::Result;
use crate::cluster::{Cluster, Plain};
use crate::load::ids_in;

/// Accounts on all groups together: with 16 clients two seldom want the same.
const ACCOUNTS: i64 = 2000;

/// Which accounts live where. All balances are 0 at first, so their sum always is.
#[derive(Clone, Debug)]
pub(super) struct Accounts(BTreeMap<GroupId, Vec<i64>>);

impl Accounts {
    /// Makes table `account` and looks where its rows are.
    pub(super) async fn make(cluster: &Cluster) -> Result<Accounts> {
        let client = entrance(cluster, 0).await?;
        let ids: Vec<i64> = (1..=ACCOUNTS).collect();
        fill(&client, &ids).await?;
        let mut accounts = Accounts(BTreeMap::new());
        for group in cluster.groups() {
            accounts.0.insert(group, ids_in(cluster, group, "account").await?);
        }
        let found: usize = accounts.0.values().map(Vec::len).sum();
        if found != ids.len() {
            return Err(format!("{found} accounts in the groups, {ACCOUNTS} were made").into());
        }
        Ok(accounts)
    }

    /// Makes the same on plain servers: each has one group's.
    pub(super) async fn make_beside(&self, servers: &[Plain]) -> Result<()> {
        for (server, ids) in servers.iter().zip(self.0.values()) {
            fill(&server.connect().await?, ids).await?;
        }
        Ok(())
    }

    /// By group.
    pub(super) fn by_group(&self) -> Vec<&[i64]> {
        self.0.values().map(Vec::as_slice).collect()
    }

    /// All of them.
    pub(super) fn all(&self) -> Vec<i64> {
        self.0.values().flatten().copied().collect()
    }
}

/// A client of the cluster; one after the other they go to each node in turn.
pub(super) async fn entrance(cluster: &Cluster, number: usize) -> Result<Client> {
    let nodes = cluster.node_ids();
    cluster.connect(nodes[number % nodes.len()]).await
}

async fn fill(client: &Client, ids: &[i64]) -> Result<()> {
    client
        .batch_execute(
            "DROP TABLE IF EXISTS account; \
             CREATE TABLE account (id bigint PRIMARY KEY, balance bigint NOT NULL)",
        )
        .await?;
    let rows: Vec<String> = ids.iter().map(|id| format!("({id}, 0)")).collect();
    let sql = format!("INSERT INTO account VALUES {}", rows.join(", "));
    client.batch_execute(&sql).await?;
    Ok(())
}

/// The sum of all balances that this client is shown.
pub(super) async fn sum(client: &Client) -> Result<i64> {
    let rows = client.query("SELECT balance FROM account", &[]).await?;
    Ok(rows.iter().map(|row| row.get::<_, i64>(0)).sum())
}
