//! Counters that only grow: what a session reads of one never goes back.

use std::collections::HashMap;

use super::pairs::{self, Operation};
use super::{Anomaly, Name, Verdict, words};
use crate::Result;
use crate::history::History;

/// Operations other than `:read` are what makes the counters grow, and are not looked at.
pub(super) fn check(history: &History) -> Result<Verdict> {
    let operations = pairs::operations(history)?;
    let mut anomalies = Vec::new();
    let mut before: HashMap<(u64, String), (i64, &Operation<'_>)> = HashMap::new();
    let mut reads = 0;
    for operation in operations.iter().filter(|op| op.f() == "read" && op.is_ok()) {
        reads += 1;
        let (key, value) = pairs::keyed(operation)?;
        let value = value
            .int()
            .ok_or_else(|| format!("not a counter's value: {}", operation.invocation))?;
        let session = (operation.process, key.to_string());
        if let Some((more, earlier)) = before.insert(session, (value, operation))
            && value < more
        {
            let words = format!(
                "{} came after {}: counter {key} went back from {more} to {value}.",
                words::operation(operation),
                words::operation(earlier),
            );
            let ops = vec![earlier.index(), operation.index()];
            anomalies.push(Anomaly::new(Name::NonMonotonicRead, ops, words));
        }
    }
    let unknown = if reads == 0 {
        vec!["Nobody read a counter.".to_owned()]
    } else {
        Vec::new()
    };
    let mut verdict = Verdict::of(anomalies, unknown);
    verdict.counts = pairs::counts(&operations);
    verdict.counts.insert("reads", reads);
    Ok(verdict)
}
