//! What clients do. A [`Workload`] makes its tables and hands out [`Operation`]s; each knows how
//! it is written into a history and how it is carried out on a [`Session`].
//!
//! The operations of a seed are always the same, in the same order. Which client carries out
//! which, and when, is not.

mod append;
mod bank;
mod ddl;
mod fractured_read;
mod keys;
mod long_fork;
mod monotonic;
mod register;
mod set;
mod write_skew;

use futures::future::BoxFuture;
use rand::rngs::StdRng;
use tokio_postgres::Client;

use crate::Result;
use crate::client::{Effect, Isolation, Session, Stop};
use crate::history::Edn;
use append::Reach;
pub use keys::Placement;

/// A kind of operations.
pub trait Workload: Send {
    /// Makes the tables and their first rows.
    fn prepare<'a>(&'a self, client: &'a Client) -> BoxFuture<'a, Result<()>>;

    /// The tables that it makes.
    fn tables(&self) -> Vec<String>;

    /// The level of statements outside a block.
    fn sessions(&self) -> Isolation;

    /// The next operation. None of them may wait for another.
    fn next(&mut self, rng: &mut StdRng) -> Box<dyn Operation>;

    /// Reads of everything that was handed out, for when all is whole again.
    fn final_reads(&self) -> Vec<Box<dyn Operation>>;

    /// What a checker must know of a server and no client can ask of a single one; `None` where there is nothing
    /// of that kind. Asked of every server when all is whole again.
    fn look(&self) -> Option<Look> {
        None
    }
}

/// See [`Workload::look`].
pub type Look = for<'a> fn(&'a Client) -> BoxFuture<'a, Result<Edn>>;

/// One operation.
pub trait Operation: Send + Sync {
    /// Its `:f`.
    fn f(&self) -> &'static str;

    /// Its `:value` when it begins; also when its end is not known.
    fn value(&self) -> Edn;

    /// Whether it writes.
    fn effect(&self) -> Effect;

    /// Does it, and returns its `:value` with what was read.
    fn perform<'a>(&'a self, session: &'a mut Session) -> BoxFuture<'a, std::result::Result<Edn, Stop>>;
}

/// What a workload is made from.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The level of transactions that name one.
    pub isolation: Isolation,
    /// Operations that the run will ask for, at the most.
    pub operations: usize,
    /// Groups that keys are spread over.
    pub groups: usize,
    /// Keys of each group that `append` uses at a time.
    pub keys: usize,
}

/// A name on the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Known {
    /// The name.
    pub name: &'static str,
    /// What it looks for.
    pub about: &'static str,
    /// What must be built first; `None` where nothing.
    pub pending: Option<&'static str>,
}

/// All workloads that there are or will be.
pub const KNOWN: [Known; 12] = [
    built(
        "append",
        "list-append transactions over several tables, each on the keys of one group",
    ),
    built("register", "one value per key: read, write, compare-and-set"),
    built("set", "unique inserts, all read at the end"),
    built(
        "bank",
        "transfers between accounts of one group, totals by one REPEATABLE READ transaction",
    ),
    built(
        "monotonic",
        "counters that are only counted up, read all the time",
    ),
    built(
        "long-fork",
        "rows written once, read together: two readers must not see them in opposite orders",
    ),
    built(
        "write-skew",
        "two transactions that each read what the other inserts (Adya's G2)",
    ),
    built(
        "append-groups",
        "append with the keys of several groups in one transaction",
    ),
    built("bank-groups", "bank with accounts on several groups"),
    built(
        "fractured-read",
        "rows of several groups that are always written together, read together",
    ),
    pending(
        "follower-reads",
        "reads from followers: monotonic, committed, bounded",
        "reads from followers",
    ),
    built(
        "ddl",
        "columns, indexes and tables that come and go under inserts; every group ends with the same schema",
    ),
];

const fn built(name: &'static str, about: &'static str) -> Known {
    Known {
        name,
        about,
        pending: None,
    }
}

const fn pending(name: &'static str, about: &'static str, needs: &'static str) -> Known {
    Known {
        name,
        about,
        pending: Some(needs),
    }
}

/// How many keys a workload wants to know the groups of.
///
/// # Errors
/// When there is no such workload, or it is pending.
pub fn keys_wanted(name: &str, plan: &Plan) -> Result<i64> {
    let known = KNOWN.iter().find(|known| known.name == name);
    let known = known.ok_or_else(|| format!("there is no workload {name}; `list` shows all"))?;
    if let Some(needs) = known.pending {
        return Err(format!("workload {name} is pending: it needs {needs}").into());
    }
    Ok(match name {
        "append" | "append-groups" => append::keys(plan),
        "bank" | "bank-groups" => bank::KEYS,
        "fractured-read" => fractured_read::keys(plan.groups),
        "long-fork" => long_fork::keys(plan.operations),
        _ => 0,
    })
}

/// Makes a workload by its name.
///
/// # Errors
/// When there is no such workload, it is pending, or the keys do not suffice.
pub fn workload(name: &str, plan: &Plan, placement: &Placement) -> Result<Box<dyn Workload>> {
    keys_wanted(name, plan)?;
    Ok(match name {
        "append" => Box::new(append::Append::new(plan, Reach::OneGroup, placement)?),
        "append-groups" => Box::new(append::Append::new(plan, Reach::AllGroups, placement)?),
        "bank" => Box::new(bank::Bank::on_one_group(plan.isolation, placement)?),
        "bank-groups" => Box::new(bank::Bank::on_all_groups(plan.isolation, placement)?),
        "fractured-read" => Box::new(fractured_read::FracturedRead::new(plan.isolation, placement)?),
        "ddl" => Box::new(ddl::Ddl::default()),
        "long-fork" => Box::new(long_fork::LongFork::new(plan.isolation, placement)?),
        "monotonic" => Box::new(monotonic::Monotonic::new(plan.isolation)),
        "register" => Box::new(register::Registers::new(plan.isolation)),
        "set" => Box::new(set::Inserts::default()),
        _ => Box::new(write_skew::WriteSkew::new(plan.isolation)),
    })
}

/// Statements one after the other, each by itself.
async fn each(client: &Client, statements: impl IntoIterator<Item = String>) -> Result<()> {
    for statement in statements {
        client.batch_execute(&statement).await?;
    }
    Ok(())
}

/// A column of numbers, as PostgreSQL writes them.
fn number(text: Option<&String>) -> std::result::Result<i64, Stop> {
    let text = text.ok_or_else(|| Stop::Wrong("NULL where a number should be".to_owned()))?;
    text.parse()
        .map_err(|_| Stop::Wrong(format!("{text} where a number should be")))
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;

    fn said(name: &str, seed: u64) -> Vec<String> {
        let plan = Plan {
            isolation: Isolation::Serializable,
            operations: 200,
            groups: 1,
            keys: 100,
        };
        let keys = keys_wanted(name, &plan).unwrap();
        let placement = Placement::single(keys);
        let mut workload = workload(name, &plan, &placement).unwrap();
        let mut rng = StdRng::seed_from_u64(seed);
        (0..plan.operations)
            .map(|_| {
                let operation = workload.next(&mut rng);
                format!("{} {}", operation.f(), operation.value())
            })
            .collect()
    }

    #[test]
    fn a_seed_gives_the_same_operations_again() {
        for known in KNOWN.iter().filter(|known| known.pending.is_none()) {
            assert_eq!(said(known.name, 7), said(known.name, 7), "{}", known.name);
            if known.name != "set" {
                assert_ne!(said(known.name, 7), said(known.name, 8), "{}", known.name);
            }
        }
    }

    #[test]
    fn what_is_pending_is_refused_and_says_why() {
        let plan = Plan {
            isolation: Isolation::Serializable,
            operations: 1,
            groups: 1,
            keys: 100,
        };
        let error = keys_wanted("follower-reads", &plan).unwrap_err().to_string();
        assert!(error.contains("followers"), "{error}");
        assert!(keys_wanted("bnak", &plan).is_err());
    }
}
