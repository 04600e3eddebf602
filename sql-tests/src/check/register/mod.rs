//! Registers that are read, written, and compared and set: for each key, is there an order of the
//! operations that agrees with real time and explains what each returned?
//!
//! Linearizability is local, so each key is looked at alone. The search is Wing and Gong's ("Testing
//! and Verifying Concurrent Objects", 1993) with Lowe's two improvements ("Testing for
//! Linearizability", 2017): an operation takes effect only when one that is over has to have done
//! so, and no configuration is looked at twice. Beside these, a read takes effect as soon as it can,
//! since it changes nothing; a write of unknown outcome is left out where nothing needs its value, and
//! another such write takes effect just before the next one, where nobody sees it; and a value that
//! nothing can bring back is not overwritten before all that needs it has taken effect. Where each
//! write has a value of its own, this leaves few choices.
//!
//! The crate with this algorithm, `todc-utils`, had its last release in 2023, and answers yes or no
//! without a bound on its memory.

mod operations;
mod search;

use std::collections::BTreeMap;

use self::operations::Register;
use self::search::{Answer, Search};
use super::pairs::{self, Operation};
use super::{Anomaly, Name, Options, Verdict, words};
use crate::Result;
use crate::history::{Edn, History};

pub(super) fn check(history: &History, options: &Options) -> Result<Verdict> {
    let operations = pairs::operations(history)?;
    let mut by_key: BTreeMap<&Edn, Vec<Operation<'_>>> = BTreeMap::new();
    for operation in &operations {
        by_key
            .entry(pairs::keyed(operation)?.0)
            .or_default()
            .push(*operation);
    }
    let (mut anomalies, mut unknown) = (Vec::new(), Vec::new());
    let mut most = 0;
    for (key, operations) in &by_key {
        let register = Register::of(operations)?;
        let mut search = Search::new(&register, options.most_configurations);
        match search.run() {
            Answer::Explained => {}
            Answer::GaveUp => unknown.push(format!(
                "Key {key}: gave up after {} configurations, at {}.",
                search.seen.len(),
                words::operation(&register.stuck(search.deepest).operation),
            )),
            Answer::Unexplained => anomalies.push(told(key, &register, &search)),
        }
        most = most.max(search.seen.len());
    }
    if !operations
        .iter()
        .any(|operation| operation.is_ok() && operation.f() != "write")
    {
        unknown.push("Nobody read anything.".to_owned());
    }
    let mut verdict = Verdict::of(anomalies, unknown);
    verdict.counts = pairs::counts(&operations);
    verdict.counts.insert("keys", by_key.len());
    verdict.counts.insert("configurations at most", most);
    Ok(verdict)
}

fn told(key: &Edn, register: &Register<'_>, search: &Search<'_>) -> Anomaly {
    let stuck = register.stuck(search.deepest);
    let held: Vec<String> = search
        .held
        .iter()
        .map(|value| register.values[*value as usize].to_string())
        .collect();
    let words = format!(
        "no order of the operations on key {key} explains them. All that was over before index {} has \
         an order; but {} {} has none, as the register can only hold {} then.",
        stuck.over,
        stuck.operation.f(),
        words::operation(&stuck.operation),
        held.join(" or "),
    );
    Anomaly::new(Name::NotLinearizable, vec![stuck.operation.index()], words)
}
