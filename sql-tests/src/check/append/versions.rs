//! Who appended what, and in what order the elements of each key came.

use std::collections::HashMap;

use super::super::pairs::Outcome;
use super::txn::{Key, Transactions, Txn};
use crate::Result;

/// Who appended an element.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Writer {
    /// The transaction, by its place.
    pub(super) txn: u32,
    /// What became of it.
    pub(super) outcome: Outcome,
    /// Whether it is the last element that the transaction appended to the key.
    pub(super) last: bool,
}

/// The versions of one key.
#[derive(Clone, Debug, Default)]
pub(super) struct Order {
    /// The elements of the longest read, each once.
    pub(super) elements: Vec<i64>,
    /// Who read them.
    pub(super) reader: u32,
    /// Where each element is in it.
    pub(super) places: HashMap<i64, usize>,
    /// The elements that no read holds, of transactions that surely took place, in the order of their
    /// invocations. They come after all others, or are lost.
    pub(super) unread: Vec<i64>,
    /// The longest final read, and who read it.
    pub(super) finally: Option<(Vec<i64>, u32)>,
}

/// The versions of all keys.
#[derive(Clone, Debug)]
pub(super) struct Versions {
    /// By key and element.
    pub(super) writers: HashMap<(Key, i64), Writer>,
    /// By key.
    pub(super) orders: Vec<Order>,
    /// Whether something was read after all appends.
    pub(super) has_final_reads: bool,
}

impl Versions {
    /// # Errors
    /// Where an element is appended twice: then reads tell nothing.
    pub(super) fn of(transactions: &Transactions<'_>) -> Result<Versions> {
        let mut versions = Versions {
            writers: writers(transactions)?,
            orders: vec![Order::default(); transactions.keys.len()],
            has_final_reads: false,
        };
        versions.read_longest(transactions);
        versions.read_finally(transactions);
        for order in &mut versions.orders {
            let mut once = Vec::with_capacity(order.elements.len());
            for element in std::mem::take(&mut order.elements) {
                if let std::collections::hash_map::Entry::Vacant(place) = order.places.entry(element) {
                    place.insert(once.len());
                    once.push(element);
                }
            }
            order.elements = once;
        }
        for txn in &transactions.list {
            if !versions.took_place(txn) {
                continue;
            }
            for (key, element) in txn.appends() {
                let order = &mut versions.orders[key as usize];
                if !order.places.contains_key(&element) {
                    order.unread.push(element);
                }
            }
        }
        Ok(versions)
    }

    /// Who appended an element.
    pub(super) fn writer(&self, key: Key, element: i64) -> Option<Writer> {
        self.writers.get(&(key, element)).copied()
    }

    /// Whether a transaction surely took place: one of unknown outcome did where something that it
    /// appended was read.
    fn took_place(&self, txn: &Txn<'_>) -> bool {
        let was_read = |(key, element): (Key, i64)| self.orders[key as usize].places.contains_key(&element);
        match txn.operation.outcome {
            Outcome::Ok => true,
            Outcome::Info => txn.appends().any(was_read),
            Outcome::Fail => false,
        }
    }

    fn read_longest(&mut self, transactions: &Transactions<'_>) {
        for (place, txn) in (0..).zip(&transactions.list) {
            for (key, seen) in txn.reads() {
                let order = &mut self.orders[key as usize];
                if seen.len() > order.elements.len() {
                    order.elements = seen.to_vec();
                    order.reader = place;
                }
            }
        }
    }

    /// The final reads are those that are called so; where none is, those that began after every
    /// append was over. An append that its client has given up on may still take place, so it need
    /// not be seen; one without any completion ended with the history.
    fn read_finally(&mut self, transactions: &Transactions<'_>) {
        let appending = transactions
            .list
            .iter()
            .filter(|txn| txn.appends().next().is_some());
        let over = appending
            .filter_map(|txn| txn.operation.completion)
            .map(|completion| completion.index)
            .max();
        let is_called_so = |txn: &Txn<'_>| txn.operation.f() == "final-read";
        let some_are_called_so = transactions.list.iter().any(is_called_so);
        let is_final = |txn: &Txn<'_>| match some_are_called_so {
            true => is_called_so(txn),
            false => over.is_some_and(|over| txn.operation.index() > over),
        };
        for (place, txn) in (0..).zip(&transactions.list) {
            if !is_final(txn) {
                continue;
            }
            for (key, seen) in txn.reads() {
                self.has_final_reads = true;
                let finally = &mut self.orders[key as usize].finally;
                if finally
                    .as_ref()
                    .is_none_or(|(longest, _)| longest.len() < seen.len())
                {
                    *finally = Some((seen.to_vec(), place));
                }
            }
        }
    }
}

fn writers(transactions: &Transactions<'_>) -> Result<HashMap<(Key, i64), Writer>> {
    let mut writers = HashMap::new();
    for (place, txn) in (0..).zip(&transactions.list) {
        let mut last: HashMap<Key, i64> = HashMap::new();
        for (key, element) in txn.appends() {
            let writer = Writer {
                txn: place,
                outcome: txn.operation.outcome,
                last: true,
            };
            if writers.insert((key, element), writer).is_some() {
                let name = transactions.keys[key as usize];
                return Err(
                    format!("{element} was appended to key {name} twice: a fault of the test").into(),
                );
            }
            if let Some(before) = last.insert(key, element)
                && let Some(writer) = writers.get_mut(&(key, before))
            {
                writer.last = false;
            }
        }
    }
    Ok(writers)
}
