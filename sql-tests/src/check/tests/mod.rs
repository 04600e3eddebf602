//! The checkers, checked: on histories written by hand, and on random ones.

mod orders;
mod pictures;
mod random;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use super::{Options, Verdict, check};
use crate::Result;
use crate::history::History;

/// A history in a file `WORKLOAD.VERDICT.STORY.edn`, where the verdict is `valid`, `unknown`, or the
/// names of the anomalies with `+` between them. Lines that begin with `;` tell what is promised.
pub(super) struct Example {
    name: String,
    workload: String,
    expected: BTreeSet<String>,
    options: Options,
    pub(super) history: History,
}

impl Example {
    fn read(path: &Path) -> Result<Example> {
        let name = path
            .file_stem()
            .and_then(|name| name.to_str())
            .unwrap_or_default();
        let [workload, expected, _] = name.split('.').collect::<Vec<_>>()[..] else {
            return Err(format!("{name} is not WORKLOAD.VERDICT.STORY").into());
        };
        let text = fs::read_to_string(path)?;
        let (comments, lines): (Vec<&str>, Vec<&str>) = text.lines().partition(|line| line.starts_with(';'));
        let mut options = Options::default();
        for comment in comments {
            match comment.trim_start_matches([';', ' ']).split_once(": ") {
                Some(("model", model)) => options.model = model.parse()?,
                Some(("orders", "session")) => options.session_order = true,
                Some(("orders", "real-time")) => options.real_time = true,
                Some(("total", total)) => options.total = Some(total.parse()?),
                _ => {}
            }
        }
        Ok(Example {
            name: name.to_owned(),
            workload: workload.to_owned(),
            expected: expected.split('+').map(str::to_owned).collect(),
            options,
            history: History::read(lines.join("\n").as_bytes())?,
        })
    }

    /// The one of this name.
    pub(super) fn named(name: &str) -> Example {
        Example::read(&folder().join(name).with_added_extension("edn")).expect("it is an example")
    }

    pub(super) fn verdict(&self) -> Verdict {
        check(&self.workload, &self.history, &self.options).expect("it is a history of its workload")
    }
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src/check/histories")
}

fn examples() -> Vec<Example> {
    let files = fs::read_dir(folder()).expect("there are examples");
    let mut paths: Vec<PathBuf> = files.map(|file| file.expect("it can be read").path()).collect();
    paths.sort();
    let read = |path: &PathBuf| Example::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    paths.iter().map(read).collect()
}

#[test]
fn each_history_has_the_verdict_in_its_name() {
    let mut wrong = Vec::new();
    for example in examples() {
        let verdict = example.verdict();
        let found: BTreeSet<String> = match verdict.word() {
            "invalid" => verdict.names().keys().map(ToString::to_string).collect(),
            word => BTreeSet::from([word.to_owned()]),
        };
        if found != example.expected {
            wrong.push(format!("{}:\n{verdict}", example.name));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
}

#[test]
fn edges_of_a_cycle_follow_each_other() {
    let mut cycles = 0;
    for anomaly in examples().iter().flat_map(|example| example.verdict().anomalies) {
        let after = anomaly.cycle.iter().cycle().skip(1);
        assert!(
            anomaly
                .cycle
                .iter()
                .zip(after)
                .all(|(one, next)| one.to == next.from)
        );
        assert!(
            anomaly.cycle.iter().map(|edge| edge.from).eq(anomaly.ops.clone()) || anomaly.cycle.is_empty()
        );
        cycles += usize::from(!anomaly.cycle.is_empty());
    }
    assert!(cycles > 15, "{cycles}");
}

#[test]
fn a_cycle_is_told_with_its_operations_and_reasons() {
    let verdict = Example::named("append.G-single-realtime.a-stale-read").verdict();
    let told = "let
  T1 = [[:append 1 2]] by process 2 (index 3)
  T2 = [[:r 1 [1]]] by process 1 (index 6)
Then
  T1 was acknowledged before T2 began (realtime),
  T2 read key 1 without 2, which T1 appended (rw),
so each of them comes before itself: a cycle.";
    assert_eq!(verdict.anomalies[0].words, told);
}

#[test]
fn the_checker_of_registers_gives_up_at_its_bound() {
    let mut example = Example::named("register.valid.concurrent-and-unknown");
    example.options.most_configurations = 1;
    assert_eq!(example.verdict().word(), "unknown");
}

#[test]
fn a_fault_of_the_test_is_an_error() {
    let twice =
        "{:index 0, :type :invoke, :process 0, :f :txn, :value [[:append 1 1] [:append 1 1]], :time 0}";
    let alone = "{:index 0, :type :ok, :process 0, :f :txn, :value [], :time 0}";
    for line in [twice, alone] {
        let history = History::read(line.as_bytes()).expect("it is a history");
        assert!(check("append", &history, &Options::default()).is_err(), "{line}");
    }
    assert!(check("no-such", &History::default(), &Options::default()).is_err());
}
