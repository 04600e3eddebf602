//! SHOW: what there is to show, under which columns, and where it comes from.

mod clients;
mod cluster;
mod databases;
mod pools;
mod slots;
mod stats;
mod transactions;

use super::table::{Columns, Table, Type, Value};
use crate::Shared;
use crate::analysis::Refusal;

/// What SHOW can be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Subject {
    Clients,
    Config,
    Databases,
    Groups,
    Nodes,
    Pools,
    Servers,
    Slots,
    Stats,
    Transactions,
    Version,
}

impl Subject {
    /// By their names, PgBouncer's first.
    pub(super) const ALL: [(&'static str, Subject); 11] = [
        ("clients", Subject::Clients),
        ("config", Subject::Config),
        ("databases", Subject::Databases),
        ("pools", Subject::Pools),
        ("servers", Subject::Servers),
        ("stats", Subject::Stats),
        ("version", Subject::Version),
        ("groups", Subject::Groups),
        ("nodes", Subject::Nodes),
        ("slots", Subject::Slots),
        ("transactions", Subject::Transactions),
    ];

    pub(super) fn named(name: &str) -> Option<Subject> {
        let found = Subject::ALL.iter().find(|(known, _)| *known == name);
        found.map(|(_, subject)| *subject)
    }

    pub(super) fn columns(self) -> Columns {
        match self {
            Subject::Clients => clients::CLIENTS,
            Subject::Config => CONFIG,
            Subject::Databases => databases::DATABASES,
            Subject::Groups => cluster::GROUPS,
            Subject::Nodes => cluster::NODES,
            Subject::Pools => pools::POOLS,
            Subject::Servers => clients::SERVERS,
            Subject::Slots => slots::SLOTS,
            Subject::Stats => stats::STATS,
            Subject::Transactions => transactions::TRANSACTIONS,
            Subject::Version => VERSION,
        }
    }

    /// The rows of this moment. `notices` are for the operator's eyes.
    ///
    /// # Errors
    /// When what is asked for cannot be had from anywhere.
    pub(super) async fn table(self, shared: &Shared, notices: &mut Vec<String>) -> Result<Table, Refusal> {
        let mut table = Table::new(self.columns());
        match self {
            Subject::Clients => clients::clients(shared, &mut table),
            Subject::Config => config(shared, &mut table),
            Subject::Databases => databases::databases(shared, &mut table, notices).await,
            Subject::Groups => cluster::groups(shared, &mut table).await?,
            Subject::Nodes => cluster::nodes(shared, &mut table).await?,
            Subject::Pools => pools::pools(shared, &mut table),
            Subject::Servers => clients::servers(shared, &mut table),
            Subject::Slots => slots::slots(shared, &mut table).await?,
            Subject::Stats => stats::stats(shared, &mut table),
            Subject::Transactions => transactions::transactions(shared, &mut table, notices).await,
            Subject::Version => {
                table.push([Value::text(concat!("Howdah ", env!("CARGO_PKG_VERSION")))]);
            }
        }
        Ok(table)
    }
}

const VERSION: Columns = &[("version", Type::Text)];

const CONFIG: Columns = &[
    ("key", Type::Text),
    ("value", Type::Text),
    ("default", Type::Text),
    ("changeable", Type::Text),
];

fn config(shared: &Shared, table: &mut Table) {
    for setting in shared.operations.settings() {
        table.push([
            Value::text(setting.key),
            Value::Text(setting.value),
            Value::or_null(setting.default),
            Value::text(if setting.changeable { "yes" } else { "no" }),
        ]);
    }
}
