//! What is wrong with a key's list as a whole: orders that disagree, appends that are lost, versions
//! built on aborted ones, updates that overwrite each other.

use std::collections::{HashMap, HashSet};

use super::super::pairs::Outcome;
use super::super::{Name, words};
use super::reads::Found;
use super::txn::{Key, Micro, Transactions, Txn};
use super::versions::{Order, Versions};

pub(super) fn check(transactions: &Transactions<'_>, versions: &Versions, found: &mut Found) {
    incompatible_orders(transactions, versions, found);
    lost_updates(transactions, found);
    for (key, order) in (0..).zip(&versions.orders) {
        lost_appends(transactions, versions, key, order, found);
        dirty_updates(transactions, versions, key, order, found);
    }
}

fn incompatible_orders(transactions: &Transactions<'_>, versions: &Versions, found: &mut Found) {
    for txn in &transactions.list {
        for (key, seen) in txn.reads() {
            let order = &versions.orders[key as usize];
            let longest = &transactions.list[order.reader as usize];
            if order.elements.starts_with(seen) || longest.reads().any(|read| read == (key, seen)) {
                continue;
            }
            let words = format!(
                "{} read key {} as {}, and {} read it as {}: neither is the beginning of the other.",
                words::operation(&txn.operation),
                transactions.keys[key as usize],
                words::list(seen),
                words::operation(&longest.operation),
                words::list(&order.elements),
            );
            let ops = vec![longest.operation.index(), txn.operation.index()];
            found.add(Name::IncompatibleOrder, ops, words);
        }
    }
}

fn lost_appends(
    transactions: &Transactions<'_>,
    versions: &Versions,
    key: Key,
    order: &Order,
    found: &mut Found,
) {
    let Some((seen, reader)) = &order.finally else {
        return;
    };
    let there: HashSet<i64> = seen.iter().copied().collect();
    let acknowledged = order.elements.iter().chain(&order.unread);
    for element in acknowledged.filter(|element| !there.contains(element)) {
        let Some(writer) = versions.writer(key, *element) else {
            continue;
        };
        if writer.outcome != Outcome::Ok {
            continue;
        }
        let writer = &transactions.list[writer.txn as usize].operation;
        let reader = &transactions.list[*reader as usize].operation;
        let words = format!(
            "{} was acknowledged, but {element} is in no final read of key {}; {} read {}.",
            words::operation(writer),
            transactions.keys[key as usize],
            words::operation(reader),
            words::list(seen),
        );
        found.add(Name::LostAppend, vec![writer.index(), reader.index()], words);
    }
}

fn dirty_updates(
    transactions: &Transactions<'_>,
    versions: &Versions,
    key: Key,
    order: &Order,
    found: &mut Found,
) {
    let mut aborted = None;
    for element in &order.elements {
        let Some(writer) = versions.writer(key, *element) else {
            continue;
        };
        let operation = &transactions.list[writer.txn as usize].operation;
        match (writer.outcome, aborted) {
            (Outcome::Fail, _) => aborted = Some((*element, operation)),
            (Outcome::Ok, Some((under, failed))) => {
                let words = format!(
                    "{} appended {element} to key {} on top of {under} by {}.",
                    words::operation(operation),
                    transactions.keys[key as usize],
                    words::operation(failed),
                );
                found.add(Name::DirtyUpdate, vec![failed.index(), operation.index()], words);
                aborted = None;
            }
            _ => {}
        }
    }
}

/// The version of each key that a transaction first read and then replaced, by its length and last
/// element; which two lists share only if they are the same or their orders are incompatible.
fn replaced(txn: &Txn<'_>) -> Vec<(Key, usize, Option<i64>)> {
    let mut read: HashMap<Key, Option<(usize, Option<i64>)>> = HashMap::new();
    let mut replaced = Vec::new();
    for micro in &txn.micros {
        match micro {
            Micro::Read {
                key,
                seen: Some(seen),
            } => {
                read.entry(*key)
                    .or_insert(Some((seen.len(), seen.last().copied())));
            }
            Micro::Append { key, .. } => {
                if let Some((length, last)) = read.insert(*key, None).flatten() {
                    replaced.push((*key, length, last));
                }
            }
            Micro::Read { seen: None, .. } => {}
        }
    }
    replaced
}

fn lost_updates(transactions: &Transactions<'_>, found: &mut Found) {
    let mut first: HashMap<(Key, usize, Option<i64>), &Txn<'_>> = HashMap::new();
    for txn in transactions.list.iter().filter(|txn| txn.operation.is_ok()) {
        for version in replaced(txn) {
            let Some(other) = first.insert(version, txn) else {
                continue;
            };
            let words = format!(
                "{} and {} both read the same version of key {} and both appended to it.",
                words::operation(&other.operation),
                words::operation(&txn.operation),
                transactions.keys[version.0 as usize],
            );
            let ops = vec![other.operation.index(), txn.operation.index()];
            found.add(Name::LostUpdate, ops, words);
        }
    }
}
