//! What is wrong within a single transaction's reads: G1a, G1b, internal contradictions, elements
//! that are there twice or that nobody wrote.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::super::pairs::Outcome;
use super::super::{Anomaly, Name, words};
use super::txn::{Key, Micro, Transactions, Txn};
use super::versions::Versions;

/// So many anomalies of a name are told; more tell no more.
pub(super) const MOST_OF_A_NAME: usize = 20;

pub(super) fn check(transactions: &Transactions<'_>, versions: &Versions, found: &mut Found) {
    for (place, txn) in (0..).zip(&transactions.list) {
        for (key, seen) in txn.reads() {
            let name = transactions.keys[key as usize];
            let reader = words::operation(&txn.operation);
            let tell = |what: &str| format!("{reader} read key {name} as {}: {what}", words::list(seen));
            if let Some(twice) = first_twice(seen) {
                let words = tell(&format!("{twice} is in it twice."));
                found.add(Name::DuplicateElements, vec![txn.operation.index()], words);
            }
            for element in seen {
                let Some(writer) = versions.writer(key, *element) else {
                    let words = tell(&format!("nobody ever appended {element}."));
                    found.add(Name::GarbageRead, vec![txn.operation.index()], words);
                    continue;
                };
                if writer.outcome == Outcome::Fail {
                    let other = &transactions.list[writer.txn as usize].operation;
                    let ops = vec![other.index(), txn.operation.index()];
                    let what = format!("{element} was appended by {}.", words::operation(other));
                    found.add(Name::G1a, ops, tell(&what));
                }
            }
            let writer = seen.last().and_then(|element| versions.writer(key, *element));
            if let Some(writer) = writer.filter(|writer| !writer.last && writer.txn != place) {
                let other = &transactions.list[writer.txn as usize].operation;
                let ops = vec![other.index(), txn.operation.index()];
                let other = words::operation(other);
                let what = format!("it ends in the middle of what {other} appended.");
                found.add(Name::G1b, ops, tell(&what));
            }
        }
        internal(transactions, txn, found);
    }
}

/// What the transaction must see of a key, from what it saw and did before.
#[derive(Default)]
struct Expected {
    /// What it read before.
    read: Option<Vec<i64>>,
    /// What it appended since.
    own: Vec<i64>,
}

fn internal(transactions: &Transactions<'_>, txn: &Txn<'_>, found: &mut Found) {
    if !txn.operation.is_ok() {
        return;
    }
    let mut expected: HashMap<Key, Expected> = HashMap::new();
    let mut to_come: HashSet<(Key, i64)> = txn.appends().collect();
    for micro in &txn.micros {
        match micro {
            Micro::Append { key, element } => {
                to_come.remove(&(*key, *element));
                expected.entry(*key).or_default().own.push(*element);
            }
            Micro::Read {
                key,
                seen: Some(seen),
            } => {
                let before = expected.entry(*key).or_default();
                let early = seen.iter().find(|element| to_come.contains(&(*key, **element)));
                let early = early.map(|element| {
                    let what = format!("appended {element} itself only later");
                    (Name::Internal, what)
                });
                if let Some((name, what)) = early.or_else(|| contradiction(before, seen)) {
                    let key = transactions.keys[*key as usize];
                    let words = format!(
                        "{} read key {key} as {}, but {what}.",
                        words::operation(&txn.operation),
                        words::list(seen)
                    );
                    found.add(name, vec![txn.operation.index()], words);
                }
                // Nobody else appends to a row that this transaction has changed, so from here on
                // the whole list is its own.
                before.read = Some(seen.clone());
                if !before.own.is_empty() {
                    before.own = seen.clone();
                    before.read = Some(Vec::new());
                }
            }
            Micro::Read { seen: None, .. } => {}
        }
    }
}

fn contradiction(before: &Expected, seen: &[i64]) -> Option<(Name, String)> {
    if !seen.ends_with(&before.own) {
        let what = format!("had itself made it end in {}", words::list(&before.own));
        return Some((Name::Internal, what));
    }
    let others = &seen[..seen.len() - before.own.len()];
    let read = before.read.as_deref()?;
    if others == read {
        return None;
    }
    let what = format!("had read it before as {}", words::list(read));
    Some((Name::NonRepeatableRead, what))
}

fn first_twice(seen: &[i64]) -> Option<i64> {
    let mut once = HashSet::with_capacity(seen.len());
    seen.iter().copied().find(|element| !once.insert(*element))
}

/// Anomalies, some of each name.
#[derive(Default)]
pub(super) struct Found {
    pub(super) all: Vec<Anomaly>,
    /// How often each was found.
    pub(super) times: BTreeMap<Name, usize>,
}

impl Found {
    pub(super) fn add(&mut self, name: Name, ops: Vec<u64>, words: String) {
        let times = self.times.entry(name).or_default();
        *times += 1;
        if *times <= MOST_OF_A_NAME {
            self.all.push(Anomaly::new(name, ops, words));
        }
    }
}
