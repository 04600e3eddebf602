//! The search for an order of a register's operations, compared with trying them all.

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::super::pairs::{self, Operation, Outcome};
use super::super::{Options, check};
use super::random::record;
use crate::history::{Edn, History, Kind};

const SEEDS: u64 = 4000;

/// Operations of a few clients on one register with few values, with results out of the air.
fn anything(seed: u64) -> History {
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
fn some_order(left: &[Operation<'_>], held: &Edn) -> bool {
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
            some_order(&rest, after)
        })
}

#[test]
fn the_search_agrees_with_trying_all_orders() {
    let (mut explained, mut unexplained) = (0, 0);
    for seed in 0..SEEDS {
        let history = anything(seed);
        let mut operations = pairs::operations(&history).expect("it is a history");
        operations.retain(|operation| operation.outcome != Outcome::Fail);
        let expected = some_order(&operations, &Edn::Nil);
        let verdict = check("register", &history, &Options::default()).expect("it is of registers");
        assert_eq!(verdict.valid, expected, "seed {seed}: {verdict}\n{history:?}");
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
