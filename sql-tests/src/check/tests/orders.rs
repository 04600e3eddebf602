//! Verdicts compared with trying all orders, on histories small enough for that.

use std::collections::HashMap;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::super::pairs::{self, Operation, Outcome};
use super::super::{Model, Name, Options, check};
use super::random::{Lists, record, run, steps};
use crate::history::{Edn, History, Kind};

const SEEDS: u64 = 4000;

/// Operations of a few clients on one register with few values, with results out of the air.
fn any_register(seed: u64) -> History {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut history = History::default();
    let mut open: [Option<(&str, Edn)>; 3] = [None, None, None];
    let mut processes = [0, 1, 2];
    // With few values they come back; with many, some are written once.
    let values = rng.random_range(2..8);
    let value = |rng: &mut StdRng| match rng.random_range(0..values) {
        0 => Edn::Nil,
        value => Edn::Int(value),
    };
    let keyed = |value| Edn::Vector(vec![Edn::Int(0), value]);
    for _ in 0..rng.random_range(4..15) {
        let slot = rng.random_range(0..open.len());
        if let Some((f, asked)) = open[slot].take() {
            let kind = [Kind::Ok, Kind::Ok, Kind::Ok, Kind::Fail, Kind::Info][rng.random_range(0..5)];
            let answer = if f == "read" {
                keyed(value(&mut rng))
            } else {
                asked
            };
            record(&mut history, processes[slot], kind, f, answer);
            if kind == Kind::Info {
                processes[slot] += 3;
            }
            continue;
        }
        let (f, asked) = match rng.random_range(0..3) {
            0 => ("read", Edn::Nil),
            1 => ("write", value(&mut rng)),
            _ => ("cas", Edn::Vector(vec![value(&mut rng), value(&mut rng)])),
        };
        record(
            &mut history,
            processes[slot],
            Kind::Invoke,
            f,
            keyed(asked.clone()),
        );
        open[slot] = Some((f, keyed(asked)));
    }
    history
}

/// Whether some order explains what is left, by its definition.
fn some_order_of_register(left: &[Operation<'_>], held: &Edn) -> bool {
    left.iter().all(|operation| !operation.is_ok())
        || (0..left.len()).any(|place| {
            let next = &left[place];
            let comes_too_early = left
                .iter()
                .any(|other| other.ended.is_some_and(|ended| ended < next.began));
            if comes_too_early {
                return false;
            }
            let (_, value) = pairs::keyed(next).expect("values have keys");
            let after = match (next.f(), value.vector()) {
                ("read", _) if next.is_ok() && value != held => return false,
                ("read", _) => held,
                ("cas", Some([old, _])) if old != held => return false,
                ("cas", Some([_, new])) => new,
                _ => value,
            };
            let mut rest = left.to_vec();
            rest.remove(place);
            some_order_of_register(&rest, after)
        })
}

#[test]
fn registers_agree_with_trying_all_orders() {
    let (mut explained, mut unexplained) = (0, 0);
    for seed in 0..SEEDS {
        let history = any_register(seed);
        let mut operations = pairs::operations(&history).expect("it is a history");
        operations.retain(|operation| operation.outcome != Outcome::Fail);
        let expected = some_order_of_register(&operations, &Edn::Nil);
        let verdict = check("register", &history, &Options::default()).expect("it is of registers");
        assert_eq!(
            verdict.anomalies.is_empty(),
            expected,
            "seed {seed}: {verdict}\n{history:?}"
        );
        if expected {
            explained += 1;
        } else {
            unexplained += 1;
        }
    }
    assert!(
        explained > SEEDS / 8 && unexplained > SEEDS / 8,
        "{explained}, {unexplained}"
    );
}

/// So many transactions on two lists, where some reads return what the list was or became at another
/// time; and at the end reads of both lists, which tell the order of all that happened.
fn any_lists(seed: u64, count: usize, ends_with_reads: bool) -> History {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut store = Lists::new(2);
    let read = |key| Edn::Vector(vec![Edn::keyword("r"), Edn::Int(key), Edn::Nil]);
    let last = Edn::Vector(vec![read(0), read(1)]);
    let last = if ends_with_reads { vec![last] } else { Vec::new() };
    let lines_of_last = 4 * last.len();
    let mut history = run(&mut store, &mut rng, count, ("txn", last));
    let others = history.ops.len() - lines_of_last;
    for op in history.ops[..others].iter_mut().filter(|op| op.kind == Kind::Ok) {
        for step in steps(&mut op.value) {
            let list = step[1].int().and_then(|key| store.lists.get(&key));
            if let Some(list) = list.filter(|_| step[0].word() == Some("r") && rng.random_bool(0.3)) {
                step[2] = Edn::Vector(list[..rng.random_range(0..=list.len())].to_vec());
            }
        }
    }
    history
}

/// Does a transaction, where what it read agrees.
fn does(txn: &Operation<'_>, lists: &mut HashMap<Edn, Vec<Edn>>) -> bool {
    steps(&mut txn.value().clone()).all(|step| {
        let list = lists.entry(step[1].clone()).or_default();
        if step[0].word() == Some("append") {
            list.push(step[2].clone());
            return true;
        }
        !txn.is_ok() || step[2].vector().unwrap_or_default() == list.as_slice()
    })
}

fn some_order_of_lists(left: &[Operation<'_>], lists: &HashMap<Edn, Vec<Edn>>, model: Model) -> bool {
    left.iter().all(|txn| !txn.is_ok())
        || (0..left.len()).any(|place| {
            let next = &left[place];
            let is_over = |other: &Operation<'_>| other.ended.is_some_and(|ended| ended < next.began);
            let mut after = lists.clone();
            if model == Model::StrictSerializable && left.iter().any(is_over) || !does(next, &mut after) {
                return false;
            }
            let mut rest = left.to_vec();
            rest.remove(place);
            some_order_of_lists(&rest, &after, model)
        })
}

#[test]
fn lists_agree_with_trying_all_orders() {
    for model in [Model::Serializable, Model::StrictSerializable] {
        let (mut explained, mut unexplained) = (0, 0);
        for seed in 0..SEEDS {
            let history = any_lists(seed, 5, false);
            let mut operations = pairs::operations(&history).expect("it is a history");
            operations.retain(|operation| operation.outcome != Outcome::Fail);
            let expected = some_order_of_lists(&operations, &HashMap::new(), model);
            let options = Options {
                model,
                ..Options::default()
            };
            let mut verdict = check("append", &history, &options).expect("it is of lists");
            // A read that began last may be an old one where real time is not promised.
            verdict
                .anomalies
                .retain(|anomaly| anomaly.name != Name::LostAppend);
            let found = !verdict.anomalies.is_empty();
            assert_eq!(found, !expected, "seed {seed}: {verdict}\n{history:?}");
            if expected {
                explained += 1;
            } else {
                unexplained += 1;
            }
        }
        assert!(
            explained > SEEDS / 8 && unexplained > SEEDS / 8,
            "{explained}, {unexplained}"
        );
    }
}

/// A transaction that is open under snapshot isolation: what it reads is what was there when it
/// began, and it commits only if nobody else has appended to its keys since.
#[derive(Clone, Copy)]
struct Snapshot<'a> {
    txn: &'a Operation<'a>,
    /// How many had committed when it began.
    commits: usize,
}

/// A database under snapshot isolation: its lists, and the keys of each commit.
#[derive(Clone, Default)]
struct Snapshots {
    lists: HashMap<Edn, Vec<Edn>>,
    commits: Vec<Vec<Edn>>,
}

impl Snapshots {
    /// Whether a transaction can commit; then it does.
    fn commit(&mut self, snapshot: Snapshot<'_>) -> bool {
        let mut value = snapshot.txn.value().clone();
        let appends = steps(&mut value).filter(|step| step[0].word() == Some("append"));
        let appends: Vec<(Edn, Edn)> = appends.map(|step| (step[1].clone(), step[2].clone())).collect();
        let keys: Vec<Edn> = appends.iter().map(|(key, _)| key.clone()).collect();
        let mut since = self.commits[snapshot.commits..].iter().flatten();
        if since.any(|key| keys.contains(key)) {
            return false;
        }
        for (key, element) in appends {
            self.lists.entry(key).or_default().push(element);
        }
        self.commits.push(keys);
        true
    }
}

/// What is left of some things without one of them.
fn without<T: Copy>(all: &[T], place: usize) -> Vec<T> {
    let mut rest = all.to_vec();
    rest.remove(place);
    rest
}

/// Whether some order of beginnings and commits explains what has not begun and what is open.
fn some_snapshots(waiting: &[&Operation<'_>], open: &[Snapshot<'_>], database: &Snapshots) -> bool {
    let mut left = waiting
        .iter()
        .copied()
        .chain(open.iter().map(|snapshot| snapshot.txn));
    if left.all(|txn| !txn.is_ok()) {
        return true;
    }
    let mut after = database.clone();
    let commits = (0..open.len()).any(|place| {
        after.clone_from(database);
        after.commit(open[place]) && some_snapshots(waiting, &without(open, place), &after)
    });
    commits
        || (0..waiting.len()).any(|place| {
            let (txn, commits) = (waiting[place], database.commits.len());
            let mut after = database.lists.clone();
            if !does(txn, &mut after) {
                return false;
            }
            let mut open = open.to_vec();
            if after.values().flatten().ne(database.lists.values().flatten()) {
                open.push(Snapshot { txn, commits });
            }
            some_snapshots(&without(waiting, place), &open, database)
        })
}

#[test]
fn lists_agree_with_trying_all_snapshots() {
    let (mut explained, mut unexplained) = (0, 0);
    for seed in 0..SEEDS {
        let history = any_lists(seed, 4, true);
        let mut operations = pairs::operations(&history).expect("it is a history");
        operations.retain(|operation| operation.outcome != Outcome::Fail);
        let waiting: Vec<&Operation<'_>> = operations.iter().collect();
        let expected = some_snapshots(&waiting, &[], &Snapshots::default());
        let options = Options {
            model: Model::RepeatableRead,
            ..Options::default()
        };
        let verdict = check("append", &history, &options).expect("it is of lists");
        assert_eq!(
            verdict.anomalies.is_empty(),
            expected,
            "seed {seed}: {verdict}\n{history:?}"
        );
        if expected {
            explained += 1;
        } else {
            unexplained += 1;
        }
    }
    assert!(
        explained > SEEDS / 8 && unexplained > SEEDS / 8,
        "{explained}, {unexplained}"
    );
}
