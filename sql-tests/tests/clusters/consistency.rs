//! A short consistency run. Longer ones are one command: see the README of this crate.

use std::time::Duration;

use sql_tests::client::Isolation;
use sql_tests::history::{Kind, Process};
use sql_tests::nemesis::{Pace, kinds};
use sql_tests::run::{Audience, Options, Place, run};

use crate::turn;

#[tokio::test(flavor = "multi_thread")]
async fn list_append_goes_on_through_kills_and_pauses() {
    let _turn = turn().await;
    let folder = tempfile::tempdir().unwrap();
    let options = Options {
        workload: "append".to_owned(),
        nemesis: kinds("kill-node,pause").unwrap(),
        pace: Pace::Overlapping,
        time: Duration::from_secs(20),
        whole_within: Duration::from_secs(60),
        seed: 1,
        concurrency: 20,
        rate: 150,
        keys: 100,
        isolation: Isolation::Serializable,
        place: Place::Cluster {
            program: env!("CARGO_BIN_EXE_sql-tests").into(),
            nodes: 3,
            groups: 2,
        },
        out: folder.path().join("run"),
        audience: Audience::Nobody,
    };
    let outcome = run(&options).await.unwrap();
    assert!(outcome.is_good(), "{}\n{:?}", outcome.verdict, outcome.troubles);
    assert!(outcome.tally.ok > 200, "{:?}", outcome.tally);
    let faults: u64 = outcome.faults.values().sum();
    assert!(faults >= 2, "{:?}", outcome.faults);
    // Nothing was refused that the workload is meant to be allowed.
    let refused = |error: &String| error.contains("0A000") || error.contains(" 42");
    let refusals: Vec<_> = outcome.tally.errors.keys().filter(|e| refused(e)).collect();
    assert!(refusals.is_empty(), "{refusals:?}");
    assert!(
        outcome
            .history
            .ops
            .iter()
            .any(|op| op.process == Process::Nemesis)
    );
    every_client_ends_what_it_began(&outcome.history.ops);
}

/// Each process does one operation at a time, and after one of unknown end no more.
fn every_client_ends_what_it_began(ops: &[sql_tests::history::Op]) {
    let mut last = std::collections::BTreeMap::new();
    for op in ops.iter().filter(|op| op.process != Process::Nemesis) {
        let before = last.insert(op.process, op.kind);
        let right = match op.kind {
            Kind::Invoke => matches!(before, None | Some(Kind::Ok | Kind::Fail)),
            Kind::Ok | Kind::Fail | Kind::Info => before == Some(Kind::Invoke),
        };
        assert!(right, "{before:?} before {op}");
    }
    assert!(last.values().all(|kind| *kind != Kind::Invoke));
}
