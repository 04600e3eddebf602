//! A set of elements that are added once: every acknowledged one is there once at the end.

use std::collections::{BTreeMap, BTreeSet};

use super::pairs::{self, Operation, Outcome};
use super::{Anomaly, Name, Verdict, words};
use crate::Result;
use crate::history::{Edn, History};

/// The last acknowledged read is the one that counts.
pub(super) fn check(history: &History) -> Result<Verdict> {
    let operations = pairs::operations(history)?;
    let mut added: BTreeMap<&Edn, &Operation<'_>> = BTreeMap::new();
    let mut last = None;
    for operation in &operations {
        match operation.f() {
            "add" => {
                if added.insert(&operation.invocation.value, operation).is_some() {
                    let words = words::operation(operation);
                    return Err(format!("{words} was added before: a fault of the test").into());
                }
            }
            "read" if operation.is_ok() => last = Some(operation),
            "read" => {}
            _ => return Err(format!("not an operation on a set: {}", operation.invocation).into()),
        }
    }
    let Some(last) = last else {
        let mut verdict = Verdict::of(Vec::new(), vec!["Nobody read the set.".to_owned()]);
        verdict.counts = pairs::counts(&operations);
        return Ok(verdict);
    };
    let elements = last
        .value()
        .vector()
        .ok_or_else(|| format!("not the elements of a set: {}", last.invocation))?;
    let (mut anomalies, there) = strange(elements, last, &added);
    let mut recovered = 0;
    for (element, adding) in &added {
        let in_time = adding.ended.is_some_and(|ended| ended < last.began);
        if there.contains(element) {
            recovered += usize::from(adding.outcome == Outcome::Info);
        } else if adding.is_ok() && in_time {
            let words = format!(
                "adding {} was acknowledged, but it is not in the last read, by process {} (index {}).",
                words::operation(adding),
                last.process,
                last.index(),
            );
            anomalies.push(Anomaly::new(
                Name::Lost,
                vec![adding.index(), last.index()],
                words,
            ));
        }
    }
    let mut verdict = Verdict::of(anomalies, Vec::new());
    verdict.counts = pairs::counts(&operations);
    verdict
        .counts
        .insert("recovered, whose outcome was not known", recovered);
    verdict.counts.insert("elements", there.len());
    Ok(verdict)
}

/// What is there twice or should not be there, and all that is there.
fn strange<'a>(
    elements: &'a [Edn],
    last: &Operation<'_>,
    added: &BTreeMap<&Edn, &Operation<'_>>,
) -> (Vec<Anomaly>, BTreeSet<&'a Edn>) {
    let mut anomalies = Vec::new();
    let mut there = BTreeSet::new();
    let whose = format!(
        "the last read, by process {} (index {}),",
        last.process,
        last.index()
    );
    for element in elements {
        if !there.insert(element) {
            let words = format!("{whose} has {element} twice.");
            anomalies.push(Anomaly::new(Name::Duplicated, vec![last.index()], words));
            continue;
        }
        let (ops, why) = match added.get(element) {
            None => (vec![last.index()], "nobody added".to_owned()),
            Some(adding) if adding.outcome == Outcome::Fail => {
                let ops = vec![adding.index(), last.index()];
                (ops, format!("was to be added by {}", words::operation(adding)))
            }
            Some(_) => continue,
        };
        let words = format!("{whose} has {element}, which {why}.");
        anomalies.push(Anomaly::new(Name::Unexpected, ops, words));
    }
    (anomalies, there)
}
