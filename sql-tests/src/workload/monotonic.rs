//! Counters that are only ever counted up: nobody may see one go down.

use futures::future::BoxFuture;
use rand::Rng;
use rand::rngs::StdRng;
use tokio_postgres::Client;

use super::{Operation, Workload, each};
use crate::Result;
use crate::client::{Effect, Isolation, Session, Stop};
use crate::history::Edn;

const COUNTERS: i64 = 8;

#[derive(Debug)]
pub(super) struct Monotonic {
    isolation: Isolation,
}

#[derive(Clone, Copy, Debug)]
struct Access {
    key: i64,
    effect: Effect,
    block: Option<Isolation>,
}

impl Monotonic {
    pub(super) fn new(isolation: Isolation) -> Monotonic {
        Monotonic { isolation }
    }
}

impl Workload for Monotonic {
    fn prepare<'a>(&'a self, client: &'a Client) -> BoxFuture<'a, Result<()>> {
        let table = "CREATE TABLE rising (k bigint PRIMARY KEY, n bigint NOT NULL)".to_owned();
        let rows = (1..=COUNTERS).map(|key| format!("INSERT INTO rising VALUES ({key}, 0)"));
        Box::pin(each(client, std::iter::once(table).chain(rows)))
    }

    fn tables(&self) -> Vec<String> {
        vec!["rising".to_owned()]
    }

    fn sessions(&self) -> Isolation {
        self.isolation
    }

    fn next(&mut self, rng: &mut StdRng) -> Box<dyn Operation> {
        Box::new(Access {
            key: rng.random_range(1..=COUNTERS),
            effect: if rng.random_ratio(1, 3) {
                Effect::Writes
            } else {
                Effect::Reads
            },
            block: rng.random_ratio(1, 4).then_some(self.isolation),
        })
    }

    fn final_reads(&self) -> Vec<Box<dyn Operation>> {
        let read = |key| -> Box<dyn Operation> {
            Box::new(Access {
                key,
                effect: Effect::Reads,
                block: None,
            })
        };
        (1..=COUNTERS).map(read).collect()
    }
}

impl Operation for Access {
    fn f(&self) -> &'static str {
        match self.effect {
            Effect::Reads => "read",
            Effect::Writes => "inc",
        }
    }

    fn value(&self) -> Edn {
        Edn::Vector(vec![Edn::Int(self.key), Edn::Nil])
    }

    fn effect(&self) -> Effect {
        self.effect
    }

    fn perform<'a>(&'a self, session: &'a mut Session) -> BoxFuture<'a, std::result::Result<Edn, Stop>> {
        Box::pin(async move {
            let sql = match self.effect {
                Effect::Reads => "SELECT n FROM rising WHERE k = $1",
                Effect::Writes => "UPDATE rising SET n = n + 1 WHERE k = $1 RETURNING n",
            };
            if let Some(isolation) = self.block {
                session.begin(isolation).await?;
            }
            let found = session.numbers(sql, &[&self.key]).await?;
            let [Some(value)] = found[..] else {
                return Err(Stop::Wrong(format!("counter {}: {found:?}", self.key)));
            };
            if self.block.is_some() {
                session.commit().await?;
            }
            Ok(Edn::Vector(vec![Edn::Int(self.key), Edn::Int(value)]))
        })
    }
}
