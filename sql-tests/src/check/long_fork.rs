//! Long forks, after Jepsen's test of that name: single writes, each to a key of its own, and reads
//! of groups of keys. Of any two reads of a group, one has seen all that the other has; otherwise the
//! two saw the writes in opposite orders, which snapshot isolation forbids and parallel snapshot
//! isolation allows.

use std::collections::BTreeMap;

use super::pairs::{self, Operation};
use super::{Anomaly, Name, Verdict, words};
use crate::Result;
use crate::history::{Edn, History};

/// The keys that are read together.
type Group<'a> = Vec<&'a Edn>;

struct Read<'a> {
    operation: Operation<'a>,
    /// For each key of the group, whether it was there.
    seen: Vec<bool>,
}

pub(super) fn check(history: &History) -> Result<Verdict> {
    let operations = pairs::operations(history)?;
    let mut groups: BTreeMap<Group<'_>, Vec<Read<'_>>> = BTreeMap::new();
    let mut values: BTreeMap<&Edn, &Edn> = BTreeMap::new();
    let mut reads = 0;
    for operation in operations.iter().filter(|operation| operation.is_ok()) {
        let Some(group) = group_read(operation, &mut values)? else {
            continue;
        };
        reads += 1;
        let (keys, seen) = group.into_iter().unzip();
        let operation = *operation;
        groups.entry(keys).or_default().push(Read { operation, seen });
    }
    let mut anomalies = Vec::new();
    for reads in groups.values_mut() {
        // Where each has seen what the one before has, all are comparable.
        reads.sort_by_key(|read| read.seen.iter().filter(|seen| **seen).count());
        let forks = reads.windows(2).filter(|pair| {
            let mut keys = pair[0].seen.iter().zip(&pair[1].seen);
            keys.any(|(less, more)| *less && !*more)
        });
        anomalies.extend(forks.map(|pair| fork(&pair[0].operation, &pair[1].operation)));
    }
    let unknown = if reads == 0 {
        vec!["Nobody read a group of keys.".to_owned()]
    } else {
        Vec::new()
    };
    let mut verdict = Verdict::of(anomalies, unknown);
    verdict.counts = pairs::counts(&operations);
    verdict.counts.insert("reads of groups", reads);
    verdict.counts.insert("groups", groups.len());
    Ok(verdict)
}

/// The keys of a read in order, with whether they were there; nothing for a write.
fn group_read<'a>(
    operation: &Operation<'a>,
    values: &mut BTreeMap<&'a Edn, &'a Edn>,
) -> Result<Option<Vec<(&'a Edn, bool)>>> {
    let malformed = || format!("not a write or a read of a group: {}", operation.invocation);
    let mut group = Vec::new();
    for step in operation.value().vector().ok_or_else(malformed)? {
        let Some([f, key, value]) = step.vector() else {
            return Err(malformed().into());
        };
        match f.word() {
            Some("r") => group.push((key, *value != Edn::Nil)),
            Some("w") => {}
            _ => return Err(malformed().into()),
        }
        if *value != Edn::Nil && values.insert(key, value).is_some_and(|other| other != value) {
            return Err(format!("key {key} has several values: a fault of the test").into());
        }
    }
    group.sort_unstable();
    Ok((group.len() > 1).then_some(group))
}

fn fork(one: &Operation<'_>, other: &Operation<'_>) -> Anomaly {
    let words = format!(
        "{} and {} each saw a write that the other did not.",
        words::operation(one),
        words::operation(other),
    );
    Anomaly::new(Name::LongFork, vec![one.index(), other.index()], words)
}
