//! Rows that are written once each, and read several at a time: if one reader sees the first row
//! without the second and another the second without the first, no order of the writes fits both.

use futures::future::BoxFuture;
use rand::Rng;
use rand::rngs::StdRng;
use tokio_postgres::Client;

use super::keys::Placement;
use super::{Operation, Workload, each, number};
use crate::Result;
use crate::client::{Effect, Isolation, Session, Stop};
use crate::history::Edn;

/// Rows that are read together.
const TOGETHER: usize = 3;
/// Sets of rows that are written at a time.
const LIVE: usize = 8;
/// Operations on each set: its writes, and the reads around them.
const OPERATIONS: usize = 30;

/// Keys for a run of that many operations.
pub(super) fn keys(operations: usize) -> i64 {
    let sets = operations / OPERATIONS + LIVE + 1;
    // Half as many again, since what is left over in each group makes no set.
    i64::try_from(sets * TOGETHER * 3 / 2 + 64).unwrap_or(i64::MAX)
}

#[derive(Debug)]
pub(super) struct LongFork {
    isolation: Isolation,
    fresh: Vec<Vec<i64>>,
    live: Vec<Set>,
    used: Vec<Vec<i64>>,
}

/// Rows of one group, and how many operations there were on them.
#[derive(Debug)]
struct Set {
    keys: Vec<i64>,
    operations: usize,
    written: usize,
}

#[derive(Clone, Copy, Debug)]
struct Write(i64);

#[derive(Clone, Debug)]
struct Read {
    isolation: Isolation,
    keys: Vec<i64>,
}

impl LongFork {
    pub(super) fn new(isolation: Isolation, placement: &Placement) -> Result<LongFork> {
        let sets = placement.0.values().flat_map(|keys| keys.chunks_exact(TOGETHER));
        let mut workload = LongFork {
            isolation,
            fresh: sets.map(<[i64]>::to_vec).collect(),
            live: Vec::new(),
            used: Vec::new(),
        };
        for _ in 0..LIVE {
            let set = workload.set().ok_or("too few keys")?;
            workload.live.push(set);
        }
        Ok(workload)
    }

    fn set(&mut self) -> Option<Set> {
        let keys = self.fresh.pop()?;
        self.used.push(keys.clone());
        Some(Set {
            keys,
            operations: 0,
            written: 0,
        })
    }

    fn read(&self, keys: &[i64]) -> Box<dyn Operation> {
        Box::new(Read {
            isolation: self.isolation,
            keys: keys.to_vec(),
        })
    }
}

impl Workload for LongFork {
    fn prepare<'a>(&'a self, client: &'a Client) -> BoxFuture<'a, Result<()>> {
        let table = "CREATE TABLE fork (k bigint PRIMARY KEY, v bigint NOT NULL)".to_owned();
        Box::pin(each(client, [table]))
    }

    fn tables(&self) -> Vec<String> {
        vec!["fork".to_owned()]
    }

    fn sessions(&self) -> Isolation {
        self.isolation
    }

    fn next(&mut self, rng: &mut StdRng) -> Box<dyn Operation> {
        let place = rng.random_range(0..LIVE);
        if self.live[place].operations >= OPERATIONS
            && let Some(fresh) = self.set()
        {
            self.live[place] = fresh;
        }
        let set = &mut self.live[place];
        set.operations += 1;
        // The writes come close together, in the middle.
        if set.operations > OPERATIONS / 3 && set.written < TOGETHER && rng.random() {
            set.written += 1;
            return Box::new(Write(set.keys[set.written - 1]));
        }
        let keys = set.keys.clone();
        self.read(&keys)
    }

    fn final_reads(&self) -> Vec<Box<dyn Operation>> {
        self.used.iter().map(|keys| self.read(keys)).collect()
    }
}

impl Operation for Write {
    fn f(&self) -> &'static str {
        "txn"
    }

    fn value(&self) -> Edn {
        micro("w", self.0, Edn::Int(1))
    }

    fn effect(&self) -> Effect {
        Effect::Writes
    }

    fn perform<'a>(&'a self, session: &'a mut Session) -> BoxFuture<'a, std::result::Result<Edn, Stop>> {
        Box::pin(async move {
            match session
                .change("INSERT INTO fork VALUES ($1, 1)", &[&self.0])
                .await?
            {
                1 => Ok(self.value()),
                rows => Err(Stop::Wrong(format!("{rows} rows inserted"))),
            }
        })
    }
}

fn micro(f: &str, key: i64, value: Edn) -> Edn {
    let one = Edn::Vector(vec![Edn::keyword(f), Edn::Int(key), value]);
    Edn::Vector(vec![one])
}

impl Operation for Read {
    fn f(&self) -> &'static str {
        "txn"
    }

    fn value(&self) -> Edn {
        self.with(|_| Edn::Nil)
    }

    fn effect(&self) -> Effect {
        Effect::Reads
    }

    fn perform<'a>(&'a self, session: &'a mut Session) -> BoxFuture<'a, std::result::Result<Edn, Stop>> {
        Box::pin(async move {
            session.begin(self.isolation).await?;
            let keys: Vec<String> = self.keys.iter().map(ToString::to_string).collect();
            let sql = format!("SELECT k FROM fork WHERE k IN ({})", keys.join(", "));
            let rows = session.ask(&sql).await?.rows;
            session.commit().await?;
            let cell = |row: &Vec<Option<String>>| number(row.first().and_then(Option::as_ref));
            let there: Vec<i64> = rows.iter().map(cell).collect::<std::result::Result<_, _>>()?;
            let shown = |key| {
                if there.contains(&key) {
                    Edn::Int(1)
                } else {
                    Edn::Nil
                }
            };
            Ok(self.with(shown))
        })
    }
}

impl Read {
    fn with(&self, value: impl Fn(i64) -> Edn) -> Edn {
        let one = |key: &i64| Edn::Vector(vec![Edn::keyword("r"), Edn::Int(*key), value(*key)]);
        Edn::Vector(self.keys.iter().map(one).collect())
    }
}
