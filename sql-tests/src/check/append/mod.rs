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
use self::reads::Found;
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
    let mut found = Found::default();
    reads::check(&transactions, &versions, &mut found);
    lists::check(&transactions, &versions, &mut found);
    found.all.retain(|anomaly| options.model.forbids(anomaly.name));
    let graph = Graph::of(&transactions, &versions, &options);
    let dependencies = graph.dependencies();
    let cycles = cycles::check(&transactions, &graph, &options);
    found.all.extend(cycles.anomalies);
    let mut unknown = Vec::new();
    if transactions.list.iter().all(|txn| txn.reads().next().is_none()) {
        unknown.push("Nobody read anything.".to_owned());
    }
    let mut verdict = Verdict::of(found.all, unknown);
    verdict.counts = pairs::counts(transactions.list.iter().map(|txn| &txn.operation));
    verdict.counts.insert("keys", transactions.keys.len());
    verdict.counts.insert("dependencies", dependencies);
    verdict.notes = cycles.notes;
    for (name, times) in found.times {
        if times > reads::MOST_OF_A_NAME && options.model.forbids(name) {
            verdict.notes.push(format!("{name} was found {times} times."));
        }
    }
    if !versions.has_final_reads {
        let note = "No read began after the last append was over: lost appends were not looked for.";
        verdict.notes.push(note.to_owned());
    }
    Ok(verdict)
}
