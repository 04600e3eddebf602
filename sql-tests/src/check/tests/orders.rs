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

/// A few transactions on two lists, where some reads return what the list was or became at another
/// time.
fn any_lists(seed: u64) -> History {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut store = Lists::new(2);
    let mut history = run(&mut store, &mut rng, 5, ("txn", Vec::new()));
    for op in history.ops.iter_mut().filter(|op| op.kind == Kind::Ok) {
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
            let history = any_lists(seed);
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
