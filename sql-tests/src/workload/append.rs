//! Elle's list-append (Kingsbury and Alvaro, "Elle", VLDB 2020): each key holds a list, and a
//! transaction appends to some and reads others. The lists tell the order of all appends.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures::future::BoxFuture;
use rand::Rng;
use rand::rngs::StdRng;
use tokio::time::sleep;
use tokio_postgres::Client;

use super::keys::{Placement, Pool};
use super::{Operation, Plan, Workload, each, number};
use crate::Result;
use crate::client::{Effect, Isolation, Session, Stop};
use crate::history::Edn;

/// Appends to a key before a fresh one takes its place.
const USES: u32 = 32;
/// Two hold texts, the last an array.
const TABLES: [&str; 3] = ["append_0", "append_1", "append_2"];
/// Steps of a transaction, at the most.
const STEPS: usize = 6;
/// The longest pause between two of them.
const PAUSE: u64 = 10;
/// Half of the transactions are hurried, with no pause and so many steps at the most: of many commits at
/// a time some become visible in another order than that in which they were written.
const HURRIED_STEPS: usize = 2;
/// Of so many operations one is a [`Look`].
const ONE_LOOKS: u32 = 3;
/// How many keys it reads, at the most.
const LOOKS_AT: usize = 16;
/// Keys that one final read reads.
const READ_TOGETHER: usize = 16;
/// Elements that no transaction keeps begin here.
const DOOMED: i64 = 1_000_000_000;

/// Keys for a run of that many transactions: each appends to fewer than two keys on average.
pub(super) fn keys(plan: &Plan) -> i64 {
    let used = plan.operations * 2 / usize::try_from(USES).unwrap_or(1);
    // Groups get about as many each: with twice as many as are needed, and some, each has enough.
    i64::try_from(plan.keys * plan.groups * 2 + 64 + used).unwrap_or(i64::MAX)
}

/// Which keys a transaction uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reach {
    /// Those of one group.
    OneGroup,
    /// Those of any.
    AllGroups,
}

#[derive(Debug)]
pub(super) struct Append {
    isolation: Isolation,
    reach: Reach,
    pools: Vec<Pool>,
    /// The keys that were handed out, by pool.
    used: Vec<BTreeSet<i64>>,
    doomed: i64,
}

/// A step of a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Read(i64),
    Append {
        key: i64,
        element: i64,
        by: By,
    },
    /// An append that is rolled back to a savepoint: it is no part of the history, and no one may
    /// ever see its element.
    Doomed {
        key: i64,
        element: i64,
    },
    /// An append in a savepoint that is released.
    Released {
        key: i64,
        element: i64,
    },
}

/// The statement that appends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum By {
    Update,
    Upsert,
}

/// How a transaction ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// No block: its one statement commits by itself.
    Autocommit,
    Commit,
    Rollback,
}

#[derive(Clone, Debug)]
struct Transaction {
    isolation: Isolation,
    /// Each with the pause before it.
    steps: Vec<(Duration, Step)>,
    end: End,
    /// Reads look for the key in the column without an index that is not the shard key, too.
    by_other_column: bool,
    /// It says that it only reads.
    read_only: bool,
}

/// Many keys in one snapshot, a statement for each table: two servers that disagree about the order
/// of two commits are found out by who reads what both wrote.
#[derive(Clone, Debug)]
struct Look {
    isolation: Isolation,
    keys: Vec<i64>,
}

impl Append {
    pub(super) fn new(plan: &Plan, reach: Reach, placement: &Placement) -> Result<Append> {
        let pools: Result<Vec<Pool>> = placement
            .0
            .values()
            .map(|keys| Pool::new(keys, plan.keys, USES))
            .collect();
        let pools = pools?;
        Ok(Append {
            isolation: plan.isolation,
            reach,
            used: vec![BTreeSet::new(); pools.len()],
            pools,
            doomed: DOOMED,
        })
    }

    fn read(&mut self, pool: usize, rng: &mut StdRng) -> Step {
        let key = self.pools[pool].look(rng);
        self.used[pool].insert(key);
        Step::Read(key)
    }

    fn look(&mut self, pool: usize, rng: &mut StdRng) -> Look {
        let pools = match self.reach {
            Reach::OneGroup => pool..pool + 1,
            Reach::AllGroups => 0..self.pools.len(),
        };
        let mut keys = Vec::new();
        for pool in pools.clone() {
            let some = self.pools[pool].some(LOOKS_AT / pools.len(), rng);
            self.used[pool].extend(&some);
            keys.extend(some);
        }
        Look {
            isolation: self.isolation,
            keys,
        }
    }

    fn step(&mut self, pool: usize, rng: &mut StdRng) -> Step {
        if rng.random() {
            return self.read(pool, rng);
        }
        if rng.random_ratio(1, 20) {
            self.doomed += 1;
            let key = self.pools[pool].look(rng);
            self.used[pool].insert(key);
            let element = self.doomed;
            return Step::Doomed { key, element };
        }
        let (key, before) = self.pools[pool].take(rng);
        self.used[pool].insert(key);
        let element = i64::from(before) + 1;
        if rng.random_ratio(1, 10) {
            return Step::Released { key, element };
        }
        let by = if rng.random() { By::Update } else { By::Upsert };
        Step::Append { key, element, by }
    }
}

impl Workload for Append {
    fn prepare<'a>(&'a self, client: &'a Client) -> BoxFuture<'a, Result<()>> {
        let tables = TABLES.iter().map(|table| {
            let list = if holds_array(table) { "bigint[]" } else { "text" };
            format!(
                "CREATE TABLE {table} (id bigint PRIMARY KEY, other bigint NOT NULL, list {list} NOT NULL)"
            )
        });
        Box::pin(each(client, tables))
    }

    fn tables(&self) -> Vec<String> {
        TABLES.map(str::to_owned).to_vec()
    }

    fn sessions(&self) -> Isolation {
        self.isolation
    }

    fn next(&mut self, rng: &mut StdRng) -> Box<dyn Operation> {
        let one = rng.random_range(0..self.pools.len());
        if rng.random_ratio(1, ONE_LOOKS) {
            return Box::new(self.look(one, rng));
        }
        // What is promised across groups at this level is reading.
        let (reach, read_only) = match (self.reach, self.isolation) {
            (Reach::AllGroups, Isolation::Serializable) if rng.random() => (Reach::AllGroups, true),
            (Reach::AllGroups, Isolation::Serializable) => (Reach::OneGroup, false),
            (reach, _) => (reach, false),
        };
        let (most, longest) = match rng.random() {
            true => (HURRIED_STEPS, 0),
            false => (STEPS, PAUSE),
        };
        let steps: Vec<(Duration, Step)> = (0..rng.random_range(1..=most))
            .map(|_| {
                let pause = rng.random_range(0..=longest);
                let pool = match reach {
                    Reach::OneGroup => one,
                    Reach::AllGroups => rng.random_range(0..self.pools.len()),
                };
                let step = if read_only {
                    self.read(pool, rng)
                } else {
                    self.step(pool, rng)
                };
                (Duration::from_millis(pause), step)
            })
            .collect();
        let end = match rng.random_range(0..20) {
            0 => End::Rollback,
            1..=10 if matches!(steps[..], [(_, Step::Read(_) | Step::Append { .. })]) => End::Autocommit,
            _ => End::Commit,
        };
        Box::new(Transaction {
            isolation: self.isolation,
            steps,
            by_other_column: end != End::Autocommit || rng.random(),
            end,
            read_only,
        })
    }

    fn final_reads(&self) -> Vec<Box<dyn Operation>> {
        let mut reads: Vec<Box<dyn Operation>> = Vec::new();
        for keys in &self.used {
            let keys: Vec<i64> = keys.iter().copied().collect();
            for together in keys.chunks(READ_TOGETHER) {
                reads.push(Box::new(Look {
                    isolation: self.isolation,
                    keys: together.to_vec(),
                }));
            }
        }
        reads
    }
}

impl Operation for Transaction {
    fn f(&self) -> &'static str {
        "txn"
    }

    fn value(&self) -> Edn {
        let steps = self.steps.iter().filter_map(|(_, step)| step.value(Edn::Nil));
        Edn::Vector(steps.collect())
    }

    fn effect(&self) -> Effect {
        let only_reads = self.steps.iter().all(|(_, step)| matches!(step, Step::Read(_)));
        if only_reads { Effect::Reads } else { Effect::Writes }
    }

    fn perform<'a>(&'a self, session: &'a mut Session) -> BoxFuture<'a, std::result::Result<Edn, Stop>> {
        Box::pin(self.run(session))
    }
}

impl Operation for Look {
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
            session.begin_read_only(self.isolation).await?;
            let mut lists = BTreeMap::new();
            for table in TABLES {
                lists.extend(lists_of(session, table, &self.keys).await?);
            }
            session.commit().await?;
            let nothing = Edn::Vector(Vec::new());
            Ok(self.with(|key| lists.get(&key).unwrap_or(&nothing).clone()))
        })
    }
}

impl Look {
    fn with(&self, read: impl Fn(i64) -> Edn) -> Edn {
        let steps = self
            .keys
            .iter()
            .filter_map(|key| Step::Read(*key).value(read(*key)));
        Edn::Vector(steps.collect())
    }
}

impl Transaction {
    async fn run(&self, session: &mut Session) -> std::result::Result<Edn, Stop> {
        if self.end != End::Autocommit {
            match self.read_only {
                true => session.begin_read_only(self.isolation).await?,
                false => session.begin(self.isolation).await?,
            }
        }
        let mut done = Vec::new();
        for (pause, step) in &self.steps {
            sleep(*pause).await;
            let read = self.take(*step, session).await?;
            done.extend(step.value(read));
        }
        match self.end {
            End::Autocommit => {}
            End::Commit => session.commit().await?,
            End::Rollback => return Err(session.decline("rolled back on purpose").await),
        }
        Ok(Edn::Vector(done))
    }

    async fn take(&self, step: Step, session: &mut Session) -> std::result::Result<Edn, Stop> {
        match step {
            Step::Read(key) => read(session, key, self.by_other_column).await,
            Step::Append { key, element, by } => append(session, key, element, by).await,
            Step::Released { key, element } => {
                session.ask("SAVEPOINT kept").await?;
                append(session, key, element, By::Upsert).await?;
                session.ask("RELEASE SAVEPOINT kept").await?;
                Ok(Edn::Nil)
            }
            Step::Doomed { key, element } => {
                session.ask("SAVEPOINT doomed").await?;
                append(session, key, element, By::Upsert).await?;
                session.ask("ROLLBACK TO SAVEPOINT doomed").await?;
                Ok(Edn::Nil)
            }
        }
    }
}

impl Step {
    /// Its micro-operation; a doomed append is none.
    fn value(self, read: Edn) -> Option<Edn> {
        let (f, key, value) = match self {
            Step::Read(key) => ("r", key, read),
            Step::Append { key, element, .. } | Step::Released { key, element } => {
                ("append", key, Edn::Int(element))
            }
            Step::Doomed { .. } => return None,
        };
        Some(Edn::Vector(vec![Edn::keyword(f), Edn::Int(key), value]))
    }
}

fn table_of(key: i64) -> &'static str {
    TABLES[usize::try_from(key.rem_euclid(3)).unwrap_or(0)]
}

fn holds_array(table: &str) -> bool {
    table == TABLES[2]
}

async fn read(session: &mut Session, key: i64, by_other: bool) -> std::result::Result<Edn, Stop> {
    let table = table_of(key);
    let condition = if by_other {
        format!("id = {key} AND other = {key}")
    } else {
        format!("id = {key}")
    };
    let answer = session
        .ask(&format!("SELECT list FROM {table} WHERE {condition}"))
        .await?;
    match answer.rows.as_slice() {
        [] => Ok(Edn::Vector(Vec::new())),
        [row] => elements(row.first().and_then(Option::as_deref).unwrap_or_default()),
        rows => Err(Stop::Wrong(format!(
            "{} rows of key {key} in {table}",
            rows.len()
        ))),
    }
}

/// The lists of those of the keys that are in `table`.
async fn lists_of(
    session: &mut Session,
    table: &str,
    keys: &[i64],
) -> std::result::Result<Vec<(i64, Edn)>, Stop> {
    let keys = keys.iter().filter(|key| table_of(**key) == table);
    let keys: Vec<String> = keys.map(ToString::to_string).collect();
    if keys.is_empty() {
        return Ok(Vec::new());
    }
    let sql = format!("SELECT id, list FROM {table} WHERE id IN ({})", keys.join(", "));
    let rows = session.ask(&sql).await?.rows;
    let one = |row: &Vec<Option<String>>| {
        let cell = |place: usize| row.get(place).and_then(Option::as_ref);
        let list = elements(cell(1).map(String::as_str).unwrap_or_default())?;
        Ok((number(cell(0))?, list))
    };
    rows.iter().map(one).collect()
}

/// `1,2,3` or `{1,2,3}`.
pub(super) fn elements(list: &str) -> std::result::Result<Edn, Stop> {
    let list = list.trim_matches(['{', '}']);
    let element = |text: &str| text.parse().map(Edn::Int);
    let read: std::result::Result<Vec<Edn>, _> = list.split(',').map(element).collect();
    read.map(Edn::Vector)
        .map_err(|_| Stop::Wrong(format!("a list {list:?}")))
}

async fn append(session: &mut Session, key: i64, element: i64, by: By) -> std::result::Result<Edn, Stop> {
    let table = table_of(key);
    let array = holds_array(table);
    if by == By::Update {
        let longer = if array {
            format!("array_append(list, {element}::bigint)")
        } else {
            format!("CONCAT(list, ',', '{element}')")
        };
        let sql = format!("UPDATE {table} SET list = {longer} WHERE id = {key}");
        match session.ask(&sql).await?.count {
            0 => {}
            1 => return Ok(Edn::Nil),
            rows => return Err(Stop::Wrong(format!("{sql}: {rows} rows"))),
        }
    }
    let (first, longer) = if array {
        (format!("'{{{element}}}'"), "t.list || EXCLUDED.list")
    } else {
        (format!("'{element}'"), "CONCAT(t.list, ',', EXCLUDED.list)")
    };
    let sql = format!(
        "INSERT INTO {table} AS t (id, other, list) VALUES ({key}, {key}, {first}) \
         ON CONFLICT (id) DO UPDATE SET list = {longer}"
    );
    match session.ask(&sql).await?.count {
        1 => Ok(Edn::Nil),
        rows => Err(Stop::Wrong(format!("{sql}: {rows} rows"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_read_from_texts_and_arrays() {
        let list = Edn::Vector(vec![Edn::Int(1), Edn::Int(20)]);
        assert_eq!(elements("1,20"), Ok(list.clone()));
        assert_eq!(elements("{1,20}"), Ok(list));
        assert!(elements("1,,2").is_err() && elements("").is_err());
    }
}
