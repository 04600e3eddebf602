//! Lists that are only appended to, after Elle (Kingsbury and Alvaro, "Elle: Inferring Isolation
//! Anomalies from Experimental Observations", VLDB 2020).
//!
//! Since every element is appended once and a read returns the whole list, the reads of a key tell
//! the order of its versions. From these come Adya's dependencies between transactions ([`graph`]),
//! and a cycle of dependencies is what an isolation level forbids ([`cycles`]). What is wrong in a
//! single read or a single list needs no cycle ([`reads`], [`lists`]).

mod components;
mod cycles;
mod graph;
mod lists;
mod reads;
mod search;
mod txn;
mod versions;

use self::graph::Graph;
use self::txn::Transactions;
use self::versions::Versions;
use super::{Model, Options, Verdict, pairs};
use crate::Result;
use crate::history::History;

pub(super) fn check(history: &History, options: &Options) -> Result<Verdict> {
    let options = Options {
        session_order: options.session_order || options.model == Model::StrictSerializable,
        real_time: options.real_time || options.model == Model::StrictSerializable,
        ..options.clone()
    };
    let transactions = Transactions::of(history)?;
    let versions = Versions::of(&transactions)?;
    let mut anomalies = reads::check(&transactions, &versions);
    anomalies.extend(lists::check(&transactions, &versions));
    anomalies.retain(|anomaly| options.model.forbids(anomaly.name));
    let graph = Graph::of(&transactions, &versions, &options);
    let dependencies = graph.dependencies();
    let found = cycles::check(&transactions, &graph, &options);
    anomalies.extend(found.anomalies);
    let mut verdict = Verdict::of(anomalies, Vec::new());
    verdict.counts = pairs::counts(transactions.list.iter().map(|txn| &txn.operation));
    verdict.counts.insert("keys", transactions.keys.len());
    verdict.counts.insert("dependencies", dependencies);
    verdict.notes = found.notes;
    if !versions.has_final_reads {
        let note = "No read began after the last append was over: lost appends were not looked for.";
        verdict.notes.push(note.to_owned());
    }
    Ok(verdict)
}
