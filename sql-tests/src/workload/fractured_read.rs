//! Rows on all groups that are always written together, by one transaction, and read together: by one statement, alone or in
//! a READ COMMITTED block, or one after the other in a REPEATABLE READ transaction. In the form of list-append.

use futures::future::BoxFuture;
use rand::Rng;
use rand::rngs::StdRng;
use tokio_postgres::Client;

use super::keys::Placement;
use super::{Operation, Workload, each};
use crate::Result;
use crate::client::{Effect, Isolation, Session, Stop};
use crate::history::Edn;

/// Rows that are written together, on each group.
const ON_EACH: usize = 2;
/// Sets of such rows that are in use at a time.
const LIVE: usize = 4;
/// Writes of a set before a fresh one takes its place: what is read stays short.
const USES: i64 = 100;
/// Sets of a run.
const SETS: usize = 200;

/// Keys for a run.
pub(super) fn keys(groups: usize) -> i64 {
    i64::try_from(SETS * ON_EACH * groups * 2).unwrap_or(i64::MAX)
}

#[derive(Debug)]
pub(super) struct FracturedRead {
    isolation: Isolation,
    fresh: Vec<Vec<i64>>,
    /// The keys, and how often they were written.
    live: Vec<(Vec<i64>, i64)>,
    used: Vec<Vec<i64>>,
}

#[derive(Clone, Debug)]
struct Write {
    isolation: Isolation,
    keys: Vec<i64>,
    element: i64,
}

#[derive(Clone, Debug)]
struct Read {
    keys: Vec<i64>,
    way: Way,
}

/// How rows are read together.
#[derive(Clone, Copy, Debug)]
enum Way {
    /// By one statement alone.
    Alone,
    /// By one statement of a READ COMMITTED block, which has read on one group before.
    Within,
    /// By a statement for each, in a REPEATABLE READ block.
    OneByOne,
}

impl FracturedRead {
    pub(super) fn new(isolation: Isolation, placement: &Placement) -> Result<FracturedRead> {
        let sets = (0..SETS).filter_map(|set| {
            let of_group = |keys: &Vec<i64>| Some(keys.get(set * ON_EACH..(set + 1) * ON_EACH)?.to_vec());
            let of_groups: Option<Vec<Vec<i64>>> = placement.0.values().map(of_group).collect();
            Some(of_groups?.concat())
        });
        let mut fresh: Vec<Vec<i64>> = sets.collect();
        if fresh.len() < LIVE {
            return Err("too few keys".into());
        }
        let used = fresh.split_off(fresh.len() - LIVE);
        Ok(FracturedRead {
            isolation,
            fresh,
            live: used.iter().map(|keys| (keys.clone(), 0)).collect(),
            used,
        })
    }
}

impl Workload for FracturedRead {
    fn prepare<'a>(&'a self, client: &'a Client) -> BoxFuture<'a, Result<()>> {
        let table = "CREATE TABLE fractured (id bigint PRIMARY KEY, list text NOT NULL)".to_owned();
        Box::pin(each(client, [table]))
    }

    fn tables(&self) -> Vec<String> {
        vec!["fractured".to_owned()]
    }

    fn sessions(&self) -> Isolation {
        self.isolation
    }

    fn next(&mut self, rng: &mut StdRng) -> Box<dyn Operation> {
        let place = rng.random_range(0..LIVE);
        let (keys, written) = &mut self.live[place];
        let keys = keys.clone();
        if rng.random() {
            let way = match rng.random_range(0..3) {
                0 => Way::Alone,
                1 => Way::Within,
                _ => Way::OneByOne,
            };
            return Box::new(Read { keys, way });
        }
        *written += 1;
        let element = *written;
        if element >= USES
            && let Some(fresh) = self.fresh.pop()
        {
            self.used.push(fresh.clone());
            self.live[place] = (fresh, 0);
        }
        Box::new(Write {
            isolation: self.isolation,
            keys,
            element,
        })
    }

    fn final_reads(&self) -> Vec<Box<dyn Operation>> {
        let read = |keys: &Vec<i64>| -> Box<dyn Operation> {
            Box::new(Read {
                keys: keys.clone(),
                way: Way::Alone,
            })
        };
        self.used.iter().map(read).collect()
    }
}

fn micro(f: &str, key: i64, value: Edn) -> Edn {
    Edn::Vector(vec![Edn::keyword(f), Edn::Int(key), value])
}

impl Operation for Write {
    fn f(&self) -> &'static str {
        "txn"
    }

    fn value(&self) -> Edn {
        let append = |key: &i64| micro("append", *key, Edn::Int(self.element));
        Edn::Vector(self.keys.iter().map(append).collect())
    }

    fn effect(&self) -> Effect {
        Effect::Writes
    }

    fn perform<'a>(&'a self, session: &'a mut Session) -> BoxFuture<'a, std::result::Result<Edn, Stop>> {
        Box::pin(async move {
            session.begin(self.isolation).await?;
            for key in &self.keys {
                let sql = format!(
                    "INSERT INTO fractured AS t VALUES ({key}, '{}') \
                     ON CONFLICT (id) DO UPDATE SET list = CONCAT(t.list, ',', EXCLUDED.list)",
                    self.element
                );
                match session.ask(&sql).await?.count {
                    1 => {}
                    rows => return Err(Stop::Wrong(format!("{sql}: {rows} rows"))),
                }
            }
            session.commit().await?;
            Ok(self.value())
        })
    }
}

impl Operation for Read {
    fn f(&self) -> &'static str {
        "txn"
    }

    fn value(&self) -> Edn {
        let read = |key: &i64| micro("r", *key, Edn::Nil);
        Edn::Vector(self.keys.iter().map(read).collect())
    }

    fn effect(&self) -> Effect {
        Effect::Reads
    }

    fn perform<'a>(&'a self, session: &'a mut Session) -> BoxFuture<'a, std::result::Result<Edn, Stop>> {
        Box::pin(async move {
            let ids: Vec<String> = self.keys.iter().map(ToString::to_string).collect();
            let mut rows = Vec::new();
            let one = |id: &String| format!("SELECT id, list FROM fractured WHERE id = {id}");
            let all = format!("SELECT id, list FROM fractured WHERE id IN ({})", ids.join(", "));
            match self.way {
                Way::Alone => rows = session.ask(&all).await?.rows,
                Way::Within => {
                    session.begin(Isolation::ReadCommitted).await?;
                    if let Some(id) = ids.first() {
                        session.ask(&one(id)).await?;
                    }
                    rows = session.ask(&all).await?.rows;
                    session.commit().await?;
                }
                Way::OneByOne => {
                    session.begin(Isolation::RepeatableRead).await?;
                    for id in &ids {
                        rows.extend(session.ask(&one(id)).await?.rows);
                    }
                    session.commit().await?;
                }
            }
            let mut done = Vec::new();
            for (key, id) in self.keys.iter().zip(&ids) {
                let found = rows
                    .iter()
                    .find(|row| row.first().and_then(Option::as_ref) == Some(id));
                let list = found.and_then(|row| row.get(1)).and_then(Option::as_deref);
                let list = match list {
                    None => Edn::Vector(Vec::new()),
                    Some(list) => super::append::elements(list)?,
                };
                done.push(micro("r", *key, list));
            }
            Ok(Edn::Vector(done))
        })
    }
}
