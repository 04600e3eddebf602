//! Registers: one value per key, read, written, and written where it was as expected.

use std::collections::BTreeSet;

use futures::future::BoxFuture;
use rand::Rng;
use rand::rngs::StdRng;
use tokio_postgres::Client;

use super::keys::Pool;
use super::{Operation, Workload, each};
use crate::Result;
use crate::client::{Effect, Isolation, Session, Stop};
use crate::history::Edn;

/// Registers in use at a time, and how often each is used before a fresh one takes its place.
const LIVE: usize = 32;
const USES: u32 = 128;
/// As many registers as no run uses up.
const KEYS: i64 = 20_000;
/// Values are below this: few, so that compare-and-set often finds what it expects.
const VALUES: i64 = 5;

#[derive(Debug)]
pub(super) struct Registers {
    isolation: Isolation,
    pool: Pool,
    used: BTreeSet<i64>,
}

#[derive(Clone, Copy, Debug)]
struct Access {
    key: i64,
    what: What,
    /// In a block of that level; `None`: by itself.
    block: Option<Isolation>,
}

#[derive(Clone, Copy, Debug)]
enum What {
    Read,
    /// `INSERT ... ON CONFLICT`, or `UPDATE` where there is something.
    Write(i64),
    Cas {
        old: i64,
        new: i64,
    },
}

impl Registers {
    pub(super) fn new(isolation: Isolation) -> Registers {
        let keys: Vec<i64> = (1..=KEYS).collect();
        Registers {
            isolation,
            pool: Pool::new(&keys, LIVE, USES).expect("more keys than are in use"),
            used: BTreeSet::new(),
        }
    }
}

impl Workload for Registers {
    fn prepare<'a>(&'a self, client: &'a Client) -> BoxFuture<'a, Result<()>> {
        let table = "CREATE TABLE register (k bigint PRIMARY KEY, v bigint NOT NULL)".to_owned();
        Box::pin(each(client, [table]))
    }

    fn tables(&self) -> Vec<String> {
        vec!["register".to_owned()]
    }

    fn sessions(&self) -> Isolation {
        self.isolation
    }

    fn next(&mut self, rng: &mut StdRng) -> Box<dyn Operation> {
        let (key, _) = self.pool.take(rng);
        self.used.insert(key);
        let mut value = || rng.random_range(0..VALUES);
        let (one, another) = (value(), value());
        let what = match rng.random_range(0..4) {
            0 | 1 => What::Read,
            2 => What::Write(one),
            _ => What::Cas {
                old: one,
                new: another,
            },
        };
        let block = rng.random_ratio(3, 10).then_some(self.isolation);
        Box::new(Access { key, what, block })
    }

    fn final_reads(&self) -> Vec<Box<dyn Operation>> {
        let read = |key: &i64| -> Box<dyn Operation> {
            Box::new(Access {
                key: *key,
                what: What::Read,
                block: None,
            })
        };
        self.used.iter().map(read).collect()
    }
}

impl Operation for Access {
    fn f(&self) -> &'static str {
        match self.what {
            What::Read => "read",
            What::Write(_) => "write",
            What::Cas { .. } => "cas",
        }
    }

    fn value(&self) -> Edn {
        self.with(match self.what {
            What::Read => Edn::Nil,
            What::Write(value) => Edn::Int(value),
            What::Cas { old, new } => Edn::Vector(vec![Edn::Int(old), Edn::Int(new)]),
        })
    }

    fn effect(&self) -> Effect {
        match self.what {
            What::Read => Effect::Reads,
            What::Write(_) | What::Cas { .. } => Effect::Writes,
        }
    }

    fn perform<'a>(&'a self, session: &'a mut Session) -> BoxFuture<'a, std::result::Result<Edn, Stop>> {
        Box::pin(async move {
            if let Some(isolation) = self.block {
                session.begin(isolation).await?;
            }
            let done = self.one(session).await?;
            if self.block.is_some() {
                match done {
                    Some(_) => session.commit().await?,
                    None => return Err(session.decline(ANOTHER_VALUE).await),
                }
            }
            done.ok_or(Stop::Declined(ANOTHER_VALUE))
        })
    }
}

const ANOTHER_VALUE: &str = "it holds another value";

impl Access {
    fn with(&self, value: Edn) -> Edn {
        Edn::Vector(vec![Edn::Int(self.key), value])
    }

    /// Its statement; `None` where a compare-and-set found another value.
    async fn one(&self, session: &mut Session) -> std::result::Result<Option<Edn>, Stop> {
        let changed = match self.what {
            What::Read => {
                let sql = "SELECT v FROM register WHERE k = $1";
                return match session.numbers(sql, &[&self.key]).await?.as_slice() {
                    [] => Ok(Some(self.with(Edn::Nil))),
                    [Some(value)] => Ok(Some(self.with(Edn::Int(*value)))),
                    other => Err(Stop::Wrong(format!("key {}: {other:?}", self.key))),
                };
            }
            What::Write(value) => {
                let sql = "INSERT INTO register VALUES ($1, $2) ON CONFLICT (k) DO UPDATE SET v = EXCLUDED.v";
                session.change(sql, &[&self.key, &value]).await?
            }
            What::Cas { old, new } => {
                let sql = "UPDATE register SET v = $3 WHERE k = $1 AND v = $2";
                session.change(sql, &[&self.key, &old, &new]).await?
            }
        };
        match (changed, self.what) {
            (1, _) => Ok(Some(self.value())),
            (0, What::Cas { .. }) => Ok(None),
            (rows, _) => Err(Stop::Wrong(format!(
                "{} of {}: {rows} rows",
                self.f(),
                self.value()
            ))),
        }
    }
}
