//! Unique inserts. At the end each that was acknowledged is there, once.

use futures::future::BoxFuture;
use rand::rngs::StdRng;
use tokio_postgres::Client;

use super::{Operation, Workload, each};
use crate::Result;
use crate::client::{Effect, Isolation, Session, Stop};
use crate::history::Edn;

#[derive(Debug, Default)]
pub(super) struct Inserts {
    last: i64,
}

#[derive(Clone, Copy, Debug)]
struct Add(i64);

/// All elements, from all groups.
#[derive(Clone, Copy, Debug)]
struct Read;

impl Workload for Inserts {
    fn prepare<'a>(&'a self, client: &'a Client) -> BoxFuture<'a, Result<()>> {
        // No unique constraint: an insert that was done twice shall show.
        Box::pin(each(
            client,
            ["CREATE TABLE element (id bigint NOT NULL)".to_owned()],
        ))
    }

    fn tables(&self) -> Vec<String> {
        vec!["element".to_owned()]
    }

    fn sessions(&self) -> Isolation {
        // The final read is one of all groups.
        Isolation::ReadCommitted
    }

    fn next(&mut self, _: &mut StdRng) -> Box<dyn Operation> {
        self.last += 1;
        Box::new(Add(self.last))
    }

    fn final_reads(&self) -> Vec<Box<dyn Operation>> {
        vec![Box::new(Read)]
    }
}

impl Operation for Add {
    fn f(&self) -> &'static str {
        "add"
    }

    fn value(&self) -> Edn {
        Edn::Int(self.0)
    }

    fn effect(&self) -> Effect {
        Effect::Writes
    }

    fn perform<'a>(&'a self, session: &'a mut Session) -> BoxFuture<'a, std::result::Result<Edn, Stop>> {
        Box::pin(async move {
            match session
                .change("INSERT INTO element VALUES ($1)", &[&self.0])
                .await?
            {
                1 => Ok(self.value()),
                rows => Err(Stop::Wrong(format!("{rows} rows inserted"))),
            }
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
            let found = session.numbers("SELECT id FROM element", &[]).await?;
            let mut found: Vec<i64> = found.into_iter().flatten().collect();
            found.sort_unstable();
            Ok(Edn::Vector(found.into_iter().map(Edn::Int).collect()))
        })
    }
}
