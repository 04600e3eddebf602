//! Adya's G2: two transactions each look that neither table has a row of a key, and each inserts
//! one, into different tables. At SERIALIZABLE only one of them may commit.

use futures::future::BoxFuture;
use rand::Rng;
use rand::rngs::StdRng;
use tokio_postgres::Client;

use super::{Operation, Workload, each};
use crate::Result;
use crate::client::{Effect, Isolation, Session, Stop};
use crate::history::Edn;

const TABLES: [&str; 2] = ["skew_a", "skew_b"];

/// `[key [a b]]`: the identity that is inserted stands in its table's place.
#[derive(Clone, Copy, Debug)]
struct Insert {
    isolation: Isolation,
    key: i64,
    table: usize,
    id: i64,
}

#[derive(Debug)]
pub(super) struct WriteSkew {
    isolation: Isolation,
    next_key: i64,
    next_id: i64,
    /// The second of a pair that was begun.
    second: Option<Insert>,
}

impl WriteSkew {
    pub(super) fn new(isolation: Isolation) -> WriteSkew {
        WriteSkew {
            isolation,
            next_key: 1,
            next_id: 1,
            second: None,
        }
    }
}

impl Workload for WriteSkew {
    fn prepare<'a>(&'a self, client: &'a Client) -> BoxFuture<'a, Result<()>> {
        let table = |name: &str| format!("CREATE TABLE {name} (k bigint, id bigint, PRIMARY KEY (k, id))");
        Box::pin(each(client, TABLES.map(table)))
    }

    fn tables(&self) -> Vec<String> {
        TABLES.map(str::to_owned).to_vec()
    }

    fn sessions(&self) -> Isolation {
        self.isolation
    }

    fn next(&mut self, rng: &mut StdRng) -> Box<dyn Operation> {
        if let Some(second) = self.second.take() {
            return Box::new(second);
        }
        let first = Insert {
            isolation: self.isolation,
            key: self.next_key,
            table: usize::from(rng.random::<bool>()),
            id: self.next_id,
        };
        self.second = Some(Insert {
            table: 1 - first.table,
            id: first.id + 1,
            ..first
        });
        self.next_key += 1;
        self.next_id += 2;
        Box::new(first)
    }

    fn final_reads(&self) -> Vec<Box<dyn Operation>> {
        // Whether both of a pair were acknowledged is all that counts.
        Vec::new()
    }
}

impl Operation for Insert {
    fn f(&self) -> &'static str {
        "insert"
    }

    fn value(&self) -> Edn {
        let mut ids = vec![Edn::Nil, Edn::Nil];
        ids[self.table] = Edn::Int(self.id);
        Edn::Vector(vec![Edn::Int(self.key), Edn::Vector(ids)])
    }

    fn effect(&self) -> Effect {
        Effect::Writes
    }

    fn perform<'a>(&'a self, session: &'a mut Session) -> BoxFuture<'a, std::result::Result<Edn, Stop>> {
        Box::pin(async move {
            session.begin(self.isolation).await?;
            for table in TABLES {
                let sql = format!("SELECT id FROM {table} WHERE k = $1");
                if !session.numbers(&sql, &[&self.key]).await?.is_empty() {
                    return Err(session.decline("the other was first").await);
                }
            }
            let sql = format!("INSERT INTO {} VALUES ($1, $2)", TABLES[self.table]);
            session.change(&sql, &[&self.key, &self.id]).await?;
            session.commit().await?;
            Ok(self.value())
        })
    }
}
