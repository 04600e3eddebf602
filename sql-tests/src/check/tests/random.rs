//! Random executions that are serial in fact, however their operations overlap, are valid; what is
//! forged in them is found.

use std::collections::{HashMap, HashSet};

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};

use super::super::{Model, Name, Options, check};
use crate::history::{Edn, History, Kind, Op, Process};

const SLOTS: usize = 8;
const KEYS: i64 = 6;
const SEEDS: u64 = 25;

/// A database that does one operation at a time.
pub(super) trait Store {
    /// A new operation and its value.
    fn ask(&mut self, rng: &mut StdRng) -> (&'static str, Edn);
    /// Does it; nothing where it fails.
    fn answer(&mut self, f: &str, asked: &Edn) -> Option<Edn>;
}

#[derive(Clone)]
struct Open {
    process: u64,
    f: &'static str,
    asked: Edn,
    /// Nothing before it is done.
    answer: Option<Option<Edn>>,
}

/// Runs so many operations, then reads all that there is twice.
pub(super) fn run(
    store: &mut impl Store,
    rng: &mut StdRng,
    count: usize,
    last: (&'static str, Vec<Edn>),
) -> History {
    let mut history = History::default();
    let mut open: Vec<Option<Open>> = vec![None; SLOTS];
    let mut processes: Vec<u64> = (0..SLOTS as u64).collect();
    let mut begun = 0;
    while begun < count || open.iter().any(Option::is_some) {
        let slot = rng.random_range(0..SLOTS);
        let process = &mut processes[slot];
        let Some(operation) = &mut open[slot] else {
            if begun < count {
                begun += 1;
                let (f, asked) = store.ask(rng);
                record(&mut history, *process, Kind::Invoke, f, asked.clone());
                let (process, answer) = (*process, None);
                open[slot] = Some(Open {
                    process,
                    f,
                    asked,
                    answer,
                });
            }
            continue;
        };
        let luck = rng.random_range(0..100);
        let (f, asked) = (operation.f, operation.asked.clone());
        let (kind, value) = match &operation.answer {
            None if luck < 5 => (Kind::Fail, asked),
            None if luck < 8 => (Kind::Info, asked),
            None => {
                operation.answer = Some(store.answer(f, &asked));
                continue;
            }
            Some(None) => (Kind::Fail, asked),
            Some(Some(_)) if luck < 4 => (Kind::Info, asked),
            Some(Some(answer)) => (Kind::Ok, answer.clone()),
        };
        record(&mut history, operation.process, kind, f, value);
        if kind == Kind::Info {
            *process += SLOTS as u64;
        }
        open[slot] = None;
    }
    for asked in last.1.iter().chain(&last.1) {
        record(&mut history, processes[0], Kind::Invoke, last.0, asked.clone());
        let answer = store.answer(last.0, asked).expect("reads do not fail");
        record(&mut history, processes[0], Kind::Ok, last.0, answer);
    }
    history
}

/// Adds a line.
pub(super) fn record(history: &mut History, process: u64, kind: Kind, f: &str, value: Edn) {
    let index = history.ops.len() as u64;
    history.ops.push(Op {
        index,
        kind,
        process: Process::Client(process),
        f: f.to_owned(),
        value,
        time: index * 1_000_000,
        error: None,
    });
}

/// Lists under so many keys.
pub(super) struct Lists {
    keys: i64,
    pub(super) lists: HashMap<i64, Vec<Edn>>,
    elements: i64,
}

impl Lists {
    /// Without elements.
    pub(super) fn new(keys: i64) -> Lists {
        let (lists, elements) = (HashMap::new(), 0);
        Lists {
            keys,
            lists,
            elements,
        }
    }
}

impl Store for Lists {
    fn ask(&mut self, rng: &mut StdRng) -> (&'static str, Edn) {
        let steps = (0..rng.random_range(1..=4)).map(|_| {
            let key = Edn::Int(rng.random_range(0..self.keys));
            if rng.random_bool(0.5) {
                return Edn::Vector(vec![Edn::keyword("r"), key, Edn::Nil]);
            }
            self.elements += 1;
            Edn::Vector(vec![Edn::keyword("append"), key, Edn::Int(self.elements)])
        });
        ("txn", Edn::Vector(steps.collect()))
    }

    fn answer(&mut self, _: &str, asked: &Edn) -> Option<Edn> {
        let mut answer = asked.clone();
        for step in steps(&mut answer) {
            let key = step[1].int()?;
            let list = self.lists.entry(key).or_default();
            match step[0].word()? {
                "r" if list.is_empty() => {}
                "r" => step[2] = Edn::Vector(list.clone()),
                _ => list.push(step[2].clone()),
            }
        }
        Some(answer)
    }
}

/// The micro-operations of a transaction.
pub(super) fn steps(value: &mut Edn) -> impl Iterator<Item = &mut Vec<Edn>> {
    let Edn::Vector(steps) = value else {
        panic!("a transaction is a vector");
    };
    steps.iter_mut().map(|step| match step {
        Edn::Vector(step) => step,
        _ => panic!("a step is a vector"),
    })
}

fn lists(seed: u64) -> History {
    let read = |key| Edn::Vector(vec![Edn::keyword("r"), Edn::Int(key), Edn::Nil]);
    let last = vec![Edn::Vector((0..KEYS).map(read).collect())];
    let mut rng = StdRng::seed_from_u64(seed);
    run(&mut Lists::new(KEYS), &mut rng, 250, ("txn", last))
}

fn strict() -> Options {
    Options {
        model: Model::StrictSerializable,
        ..Options::default()
    }
}

fn names(workload: &str, history: &History) -> Vec<Name> {
    let verdict = check(workload, history, &strict()).expect("it is a history");
    assert!(verdict.unknown.is_empty(), "{verdict}");
    verdict.names().into_keys().collect()
}

#[test]
fn serial_executions_of_lists_are_valid() {
    for seed in 0..SEEDS {
        assert_eq!(names("append", &lists(seed)), [], "seed {seed}");
    }
}

/// Changes the list that the last transaction read of a key that has several elements.
fn forge_last_read(history: &History, forge: impl Fn(i64, &mut Vec<Edn>)) -> History {
    let mut forged = history.clone();
    let last = forged.ops.last_mut().expect("there are final reads");
    let is_long = |step: &&mut Vec<Edn>| step[2].vector().is_some_and(|list| list.len() > 1);
    let step = steps(&mut last.value)
        .find(is_long)
        .expect("some list has two elements");
    let key = step[1].int().expect("keys are numbers");
    if let Edn::Vector(list) = &mut step[2] {
        forge(key, list);
    }
    forged
}

#[test]
fn a_forged_list_is_found() {
    for seed in 0..SEEDS {
        let history = lists(seed);
        let shorter = forge_last_read(&history, |_, list| drop(list.pop()));
        assert_ne!(names("append", &shorter), [], "shorter, seed {seed}");
        let gap = forge_last_read(&history, |_, list| drop(list.remove(0)));
        assert!(
            names("append", &gap).contains(&Name::IncompatibleOrder),
            "gap, seed {seed}"
        );
        let swapped = forge_last_read(&history, |_, list| list.swap(0, 1));
        assert!(
            names("append", &swapped).contains(&Name::IncompatibleOrder),
            "swapped, seed {seed}"
        );
        let twice = forge_last_read(&history, |_, list| list.push(list[0].clone()));
        assert!(
            names("append", &twice).contains(&Name::DuplicateElements),
            "twice, seed {seed}"
        );
        let garbage = forge_last_read(&history, |_, list| list.push(Edn::Int(-1)));
        assert!(
            names("append", &garbage).contains(&Name::GarbageRead),
            "garbage, seed {seed}"
        );
    }
}

#[test]
fn a_forged_read_of_a_failed_append_is_found() {
    let mut forged_ones = 0;
    for seed in 0..SEEDS {
        let history = lists(seed);
        let mut failed = HashMap::new();
        for op in history.ops.iter().filter(|op| op.kind == Kind::Fail) {
            for step in steps(&mut op.value.clone()).filter(|step| step[0].word() == Some("append")) {
                failed.insert(step[1].int().expect("keys are numbers"), step[2].clone());
            }
        }
        let forged = forge_last_read(&history, |key, list| list.extend(failed.get(&key).cloned()));
        if forged != history {
            assert!(names("append", &forged).contains(&Name::G1a), "seed {seed}");
            forged_ones += 1;
        }
    }
    assert!(forged_ones > SEEDS / 2);
}

/// The places of acknowledged reads, each with its step, whose key had an acknowledged element
/// before they began.
fn reads_after_appends(history: &History) -> Vec<(usize, usize)> {
    let mut written: HashSet<Edn> = HashSet::new();
    let mut at_begin: HashMap<Process, HashSet<Edn>> = HashMap::new();
    let mut found = Vec::new();
    for (place, op) in history.ops.iter().enumerate() {
        if op.kind == Kind::Invoke {
            at_begin.insert(op.process, written.clone());
        }
        if op.kind != Kind::Ok {
            continue;
        }
        for (number, step) in steps(&mut op.value.clone()).enumerate() {
            match step[0].word() {
                Some("append") => drop(written.insert(step[1].clone())),
                _ if at_begin[&op.process].contains(&step[1]) => found.push((place, number)),
                _ => {}
            }
        }
    }
    found
}

#[test]
fn a_forged_stale_read_is_found() {
    for seed in 0..SEEDS {
        let mut history = lists(seed);
        let mut rng = StdRng::seed_from_u64(seed);
        let reads = reads_after_appends(&history);
        let (place, number) = *reads.choose(&mut rng).expect("there are such reads");
        let step = steps(&mut history.ops[place].value)
            .nth(number)
            .expect("it is a step");
        step[2] = Edn::Nil;
        assert_ne!(names("append", &history), [], "seed {seed}");
    }
}

#[derive(Default)]
struct Registers {
    held: HashMap<i64, Edn>,
    written: i64,
}

impl Store for Registers {
    fn ask(&mut self, rng: &mut StdRng) -> (&'static str, Edn) {
        let key = rng.random_range(0..KEYS);
        let held = self.held.get(&key).cloned().unwrap_or(Edn::Nil);
        self.written += 1;
        let new = Edn::Int(self.written);
        let (f, value) = match rng.random_range(0..3) {
            0 => ("read", Edn::Nil),
            1 => ("write", new),
            _ => ("cas", Edn::Vector(vec![held, new])),
        };
        (f, Edn::Vector(vec![Edn::Int(key), value]))
    }

    fn answer(&mut self, f: &str, asked: &Edn) -> Option<Edn> {
        let [key, value] = asked.vector()? else {
            return None;
        };
        let held = self.held.entry(key.int()?).or_insert(Edn::Nil);
        match (f, value.vector()) {
            ("read", _) => return Some(Edn::Vector(vec![key.clone(), held.clone()])),
            ("cas", Some([old, _])) if old != held => return None,
            ("cas", Some([_, new])) => *held = new.clone(),
            _ => *held = value.clone(),
        }
        Some(asked.clone())
    }
}

fn registers(seed: u64) -> History {
    let read = |key| Edn::Vector(vec![Edn::Int(key), Edn::Nil]);
    let mut rng = StdRng::seed_from_u64(seed);
    run(
        &mut Registers::default(),
        &mut rng,
        600,
        ("read", (0..KEYS).map(read).collect()),
    )
}

#[test]
fn serial_executions_of_registers_are_linearizable() {
    for seed in 0..SEEDS {
        assert_eq!(names("register", &registers(seed)), [], "seed {seed}");
    }
}

#[test]
fn a_forged_register_is_found() {
    for seed in 0..SEEDS {
        let history = registers(seed);
        for forged in [Edn::Nil, Edn::Int(-1)] {
            let mut history = history.clone();
            let last = history.ops.last_mut().expect("there are final reads");
            last.value = Edn::Vector(vec![Edn::Int(KEYS - 1), forged]);
            assert_eq!(
                names("register", &history),
                [Name::NotLinearizable],
                "seed {seed}"
            );
        }
    }
}
