//! Invocations and their completions, paired.

use std::collections::{BTreeMap, HashMap};

use crate::Result;
use crate::history::{Edn, History, Kind, Op, Process};

/// What became of an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// It took place.
    Ok,
    /// It did not.
    Fail,
    /// Nobody knows.
    Info,
}

/// A client's operation, from its invocation to its completion.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Operation<'a> {
    /// How it began.
    pub(crate) invocation: &'a Op,
    /// How it ended; none where the history ends before it.
    pub(crate) completion: Option<&'a Op>,
    /// What became of it.
    pub(crate) outcome: Outcome,
    /// Whose it is.
    pub(crate) process: u64,
    /// The line of its invocation.
    pub(crate) began: usize,
    /// The line where it was over; none where it is not known, since it may still take place.
    pub(crate) ended: Option<usize>,
}

impl<'a> Operation<'a> {
    /// What is done.
    pub(crate) fn f(&self) -> &'a str {
        &self.invocation.f
    }

    /// What it returned where it took place, otherwise what was asked.
    pub(crate) fn value(&self) -> &'a Edn {
        match (self.outcome, self.completion) {
            (Outcome::Ok, Some(completion)) => &completion.value,
            _ => &self.invocation.value,
        }
    }

    /// The `index` of its invocation.
    pub(crate) fn index(&self) -> u64 {
        self.invocation.index
    }

    /// Whether it took place.
    pub(crate) fn is_ok(&self) -> bool {
        self.outcome == Outcome::Ok
    }
}

/// The clients' operations of a history, in the order of their invocations.
///
/// # Errors
/// Where a process does two things at once, or ends what it did not begin.
pub(crate) fn operations(history: &History) -> Result<Vec<Operation<'_>>> {
    let mut all: Vec<Operation<'_>> = Vec::with_capacity(history.ops.len() / 2);
    let mut open: HashMap<u64, usize> = HashMap::new();
    for (line, op) in history.ops.iter().enumerate() {
        let Process::Client(process) = op.process else {
            continue;
        };
        let outcome = match op.kind {
            Kind::Invoke => {
                if open.insert(process, all.len()).is_some() {
                    return Err(format!("process {process} begins before it has ended: {op}").into());
                }
                all.push(Operation {
                    invocation: op,
                    completion: None,
                    outcome: Outcome::Info,
                    process,
                    began: line,
                    ended: None,
                });
                continue;
            }
            Kind::Ok => Outcome::Ok,
            Kind::Fail => Outcome::Fail,
            Kind::Info => Outcome::Info,
        };
        let place = open
            .remove(&process)
            .ok_or_else(|| format!("process {process} ends what it has not begun: {op}"))?;
        let operation = &mut all[place];
        operation.completion = Some(op);
        operation.outcome = outcome;
        operation.ended = (outcome != Outcome::Info).then_some(line);
    }
    Ok(all)
}

/// How many operations there are of each outcome, for a verdict.
pub(crate) fn counts<'a>(
    operations: impl IntoIterator<Item = &'a Operation<'a>>,
) -> BTreeMap<&'static str, usize> {
    let mut counts = BTreeMap::from([("ok", 0), ("failed", 0), ("of unknown outcome", 0)]);
    for operation in operations {
        let outcome = match operation.outcome {
            Outcome::Ok => "ok",
            Outcome::Fail => "failed",
            Outcome::Info => "of unknown outcome",
        };
        *counts.entry(outcome).or_default() += 1;
    }
    counts
}

/// A value of the form `[key value]`.
///
/// # Errors
/// Where it is of another form.
pub(crate) fn keyed<'a>(operation: &Operation<'a>) -> Result<(&'a Edn, &'a Edn)> {
    match operation.value().vector() {
        Some([key, value]) => Ok((key, value)),
        _ => Err(format!("not a value of the form [key value]: {}", operation.invocation).into()),
    }
}
