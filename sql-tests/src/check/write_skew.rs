//! Write skew, after Jepsen's test `g2`: of each key, two transactions look whether the other's row is
//! there and insert their own where it is not. Serially, only one of them finds nothing.

use std::collections::BTreeMap;

use super::pairs::{self, Operation};
use super::{Anomaly, Model, Name, Options, Verdict, append, words};
use crate::Result;
use crate::history::{Edn, History};

/// A history of `:txn` is one of lists, whose write skews are G2-item.
pub(super) fn check(history: &History, options: &Options) -> Result<Verdict> {
    let operations = pairs::operations(history)?;
    if operations.iter().any(|operation| operation.f() == "txn") {
        return append::check(history, options);
    }
    let mut inserts: BTreeMap<&Edn, Vec<&Operation<'_>>> = BTreeMap::new();
    for operation in &operations {
        if operation.f() != "insert" {
            return Err(format!("not an insert: {}", operation.invocation).into());
        }
        let (key, _) = pairs::keyed(operation)?;
        let of_key = inserts.entry(key).or_default();
        if operation.is_ok() {
            of_key.push(operation);
        }
    }
    let mut anomalies = Vec::new();
    if options.model >= Model::Serializable {
        for (key, both) in inserts.iter().filter(|(_, inserts)| inserts.len() > 1) {
            let told: Vec<String> = both.iter().map(|one| words::operation(one)).collect();
            let words = format!(
                "of key {key}, all of these found no other row: {}.",
                told.join("; ")
            );
            let ops = both.iter().map(|one| one.index()).collect();
            anomalies.push(Anomaly::new(Name::G2, ops, words));
        }
    }
    let mut verdict = Verdict::of(anomalies, Vec::new());
    verdict.counts = pairs::counts(&operations);
    verdict.counts.insert("keys", inserts.len());
    Ok(verdict)
}
