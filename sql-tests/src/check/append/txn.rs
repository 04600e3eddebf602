//! Transactions and their micro-operations.

use std::collections::BTreeMap;

use super::super::pairs::{self, Operation};
use crate::Result;
use crate::history::{Edn, History};

/// A key, by its place in [`Transactions::keys`].
pub(super) type Key = u32;

/// A step of a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Micro {
    /// `[:append key element]`
    Append { key: Key, element: i64 },
    /// `[:r key [element ...]]`; nothing is seen where the answer is not known.
    Read { key: Key, seen: Option<Vec<i64>> },
}

/// A transaction.
#[derive(Clone, Debug)]
pub(super) struct Txn<'a> {
    pub(super) operation: Operation<'a>,
    pub(super) micros: Vec<Micro>,
}

/// All transactions of a history.
#[derive(Clone, Debug)]
pub(super) struct Transactions<'a> {
    /// In the order of their invocations.
    pub(super) list: Vec<Txn<'a>>,
    /// What the keys are called.
    pub(super) keys: Vec<&'a Edn>,
}

impl Txn<'_> {
    /// What it read, where it took place.
    pub(super) fn reads(&self) -> impl Iterator<Item = (Key, &[i64])> {
        self.micros.iter().filter_map(|micro| match micro {
            Micro::Read {
                key,
                seen: Some(seen),
            } if self.operation.is_ok() => Some((*key, seen.as_slice())),
            _ => None,
        })
    }

    /// What it appended or meant to.
    pub(super) fn appends(&self) -> impl Iterator<Item = (Key, i64)> {
        self.micros.iter().filter_map(|micro| match micro {
            Micro::Append { key, element } => Some((*key, *element)),
            Micro::Read { .. } => None,
        })
    }
}

impl<'a> Transactions<'a> {
    /// Reads the transactions of a history; `:final-read` is a transaction too.
    pub(super) fn of(history: &'a History) -> Result<Transactions<'a>> {
        let mut keys = Keys::default();
        let mut list = Vec::new();
        for operation in pairs::operations(history)? {
            if !matches!(operation.f(), "txn" | "final-read") {
                return Err(format!("not a transaction: {}", operation.invocation).into());
            }
            let micros = operation
                .value()
                .vector()
                .and_then(|steps| steps.iter().map(|step| keys.micro(step, &operation)).collect())
                .ok_or_else(|| format!("not micro-operations on lists: {}", operation.invocation))?;
            list.push(Txn { operation, micros });
        }
        Ok(Transactions { list, keys: keys.all })
    }
}

#[derive(Default)]
struct Keys<'a> {
    places: BTreeMap<&'a Edn, Key>,
    all: Vec<&'a Edn>,
}

impl<'a> Keys<'a> {
    fn micro(&mut self, step: &'a Edn, operation: &Operation<'a>) -> Option<Micro> {
        let [f, key, value] = step.vector()? else {
            return None;
        };
        let key = self.place(key)?;
        match (f.word()?, value) {
            ("append", element) => Some(Micro::Append {
                key,
                element: element.int()?,
            }),
            ("r", Edn::Nil) => Some(Micro::Read {
                key,
                seen: operation.is_ok().then(Vec::new),
            }),
            ("r", list) => Some(Micro::Read {
                key,
                seen: Some(list.vector()?.iter().map(Edn::int).collect::<Option<_>>()?),
            }),
            _ => None,
        }
    }

    fn place(&mut self, key: &'a Edn) -> Option<Key> {
        if let Some(place) = self.places.get(key) {
            return Some(*place);
        }
        let place = Key::try_from(self.all.len()).ok()?;
        self.places.insert(key, place);
        self.all.push(key);
        Some(place)
    }
}
