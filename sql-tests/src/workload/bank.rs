//! Accounts whose total never changes.

use std::collections::BTreeMap;

use futures::future::BoxFuture;
use rand::Rng;
use rand::rngs::StdRng;
use tokio_postgres::Client;

use super::keys::Placement;
use super::{Operation, Workload, each, number};
use crate::Result;
use crate::client::{Effect, Isolation, Session, Stop};
use crate::history::Edn;

/// Enough keys for one group to have all accounts.
pub(super) const KEYS: i64 = 200;
const ACCOUNTS: usize = 10;
const BALANCE: i64 = 100;
const LARGEST: i64 = 5;

#[derive(Debug)]
pub(super) struct Bank {
    isolation: Isolation,
    accounts: Vec<i64>,
}

#[derive(Clone, Copy, Debug)]
struct Transfer {
    isolation: Isolation,
    from: i64,
    to: i64,
    amount: i64,
}

/// All balances, by one statement, alone or in a REPEATABLE READ transaction.
#[derive(Clone, Debug)]
struct Read {
    accounts: Vec<i64>,
    statements: Statements,
}

#[derive(Clone, Copy, Debug)]
enum Statements {
    /// One for all accounts, in a block.
    One,
    /// One for all accounts, alone.
    Alone,
    /// One for each.
    Each,
}

impl Bank {
    /// All accounts on one group.
    pub(super) fn on_one_group(isolation: Isolation, placement: &Placement) -> Result<Bank> {
        Bank::of(
            isolation,
            placement.fullest()?.iter().copied().take(ACCOUNTS).collect(),
        )
    }

    /// Accounts on all groups in turn.
    pub(super) fn on_all_groups(isolation: Isolation, placement: &Placement) -> Result<Bank> {
        let in_turn = (0..ACCOUNTS).flat_map(|at| placement.0.values().filter_map(move |keys| keys.get(at)));
        Bank::of(isolation, in_turn.copied().take(ACCOUNTS).collect())
    }

    fn of(isolation: Isolation, accounts: Vec<i64>) -> Result<Bank> {
        if accounts.len() < ACCOUNTS {
            return Err("there are not enough keys for all accounts".into());
        }
        Ok(Bank { isolation, accounts })
    }

    fn read(&self, statements: Statements) -> Box<dyn Operation> {
        Box::new(Read {
            accounts: self.accounts.clone(),
            statements,
        })
    }
}

impl Workload for Bank {
    fn prepare<'a>(&'a self, client: &'a Client) -> BoxFuture<'a, Result<()>> {
        let table = "CREATE TABLE account (id bigint PRIMARY KEY, balance bigint NOT NULL)".to_owned();
        let insert = |id: &i64| format!("INSERT INTO account VALUES ({id}, {BALANCE})");
        let rows: Vec<String> = self.accounts.iter().map(insert).collect();
        Box::pin(each(client, std::iter::once(table).chain(rows)))
    }

    fn tables(&self) -> Vec<String> {
        vec!["account".to_owned()]
    }

    fn sessions(&self) -> Isolation {
        self.isolation
    }

    fn next(&mut self, rng: &mut StdRng) -> Box<dyn Operation> {
        match rng.random_range(0..4) {
            0 => return self.read(Statements::One),
            1 if rng.random() => return self.read(Statements::Each),
            1 => return self.read(Statements::Alone),
            _ => {}
        }
        let from = rng.random_range(0..ACCOUNTS);
        let to = (from + rng.random_range(1..ACCOUNTS)) % ACCOUNTS;
        Box::new(Transfer {
            isolation: self.isolation,
            from: self.accounts[from],
            to: self.accounts[to],
            amount: rng.random_range(1..=LARGEST),
        })
    }

    fn final_reads(&self) -> Vec<Box<dyn Operation>> {
        vec![self.read(Statements::One), self.read(Statements::Each)]
    }
}

impl Operation for Transfer {
    fn f(&self) -> &'static str {
        "transfer"
    }

    fn value(&self) -> Edn {
        Edn::map([
            ("from", Edn::Int(self.from)),
            ("to", Edn::Int(self.to)),
            ("amount", Edn::Int(self.amount)),
        ])
    }

    fn effect(&self) -> Effect {
        Effect::Writes
    }

    fn perform<'a>(&'a self, session: &'a mut Session) -> BoxFuture<'a, std::result::Result<Edn, Stop>> {
        Box::pin(async move {
            let Transfer { from, to, amount, .. } = self;
            session.begin(self.isolation).await?;
            let take = format!(
                "UPDATE account SET balance = balance - {amount} WHERE id = {from} AND balance >= {amount}"
            );
            if session.ask(&take).await?.count == 0 {
                return Err(session.decline("not enough there").await);
            }
            let give = format!("UPDATE account SET balance = balance + {amount} WHERE id = {to}");
            let given = session.ask(&give).await?.count;
            if given != 1 {
                return Err(Stop::Wrong(format!("{give}: {given} rows")));
            }
            session.commit().await?;
            Ok(self.value())
        })
    }
}

impl Operation for Read {
    fn f(&self) -> &'static str {
        "read"
    }

    fn value(&self) -> Edn {
        Edn::Nil
    }

    fn effect(&self) -> Effect {
        Effect::Reads
    }

    fn perform<'a>(&'a self, session: &'a mut Session) -> BoxFuture<'a, std::result::Result<Edn, Stop>> {
        Box::pin(async move {
            let alone = matches!(self.statements, Statements::Alone);
            if !alone {
                session.begin(Isolation::RepeatableRead).await?;
            }
            let ids: Vec<String> = self.accounts.iter().map(ToString::to_string).collect();
            let sets = match self.statements {
                Statements::One | Statements::Alone => vec![ids.join(", ")],
                Statements::Each => ids,
            };
            let mut balances = BTreeMap::new();
            for set in sets {
                let sql = format!("SELECT id, balance FROM account WHERE id IN ({set})");
                for row in session.ask(&sql).await?.rows {
                    let cell = |place: usize| number(row.get(place).and_then(Option::as_ref));
                    balances.insert(Edn::Int(cell(0)?), Edn::Int(cell(1)?));
                }
            }
            if !alone {
                session.commit().await?;
            }
            Ok(Edn::Map(balances))
        })
    }
}
