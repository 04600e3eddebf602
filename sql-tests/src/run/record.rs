//! What a run leaves behind: `history.edn`, `options.json`, `summary.txt`, a picture of each forbidden
//! cycle, the nodes' logs.

use std::fmt::Write;
use std::fs::{self, File};
use std::io::BufWriter;
use std::path::{Path, PathBuf};

use serde_json::json;

use super::{Options, Outcome, Place};
use crate::Result;
use crate::check::draw;
use crate::cluster::Cluster;
use crate::nemesis::Pace;

/// The most cycles that are drawn.
const MOST_PICTURES: usize = 10;

/// Makes the folder; it must not hold another run.
pub(super) fn folder(options: &Options) -> Result<PathBuf> {
    let out = options.out.clone();
    if out.join("history.edn").exists() {
        return Err(format!("{} holds another run", out.display()).into());
    }
    fs::create_dir_all(&out)?;
    Ok(out)
}

/// Writes everything down.
pub(super) fn write(
    out: &Path,
    options: &Options,
    outcome: &Outcome,
    cluster: Option<&Cluster>,
) -> Result<()> {
    let file = File::create(out.join("history.edn"))?;
    outcome.history.write(BufWriter::new(file))?;
    fs::write(out.join("options.json"), format!("{:#}\n", as_json(options)))?;
    fs::write(out.join("summary.txt"), summary(options, outcome))?;
    let cycles = outcome
        .verdict
        .anomalies
        .iter()
        .filter(|found| !found.cycle.is_empty());
    for (number, anomaly) in cycles.take(MOST_PICTURES).enumerate() {
        let picture = out.join(format!("{}-{}.svg", number + 1, anomaly.name));
        fs::write(picture, draw::svg(&outcome.history, anomaly)?)?;
    }
    if let Some(cluster) = cluster {
        for node in cluster.node_ids() {
            let lines = cluster.log_lines(node)?.join("\n");
            fs::write(out.join(format!("node-{node}.log")), lines + "\n")?;
        }
    }
    Ok(())
}

fn as_json(options: &Options) -> serde_json::Value {
    let place = match &options.place {
        Place::Cluster { nodes, groups, .. } => json!({"nodes": nodes, "groups": groups}),
        Place::Url { url, read_url } => json!({"url": url, "read_url": read_url}),
    };
    let faults: Vec<&str> = options.nemesis.iter().map(|kind| kind.name()).collect();
    json!({
        "workload": options.workload,
        "nemesis": faults,
        "apart": options.pace == Pace::Apart,
        "time": options.time.as_secs(),
        "seed": options.seed,
        "concurrency": options.concurrency,
        "rate": options.rate,
        "keys": options.keys,
        "isolation": options.isolation.to_string(),
        "place": place,
    })
}

/// The run in a few lines, for people.
pub(super) fn summary(options: &Options, outcome: &Outcome) -> String {
    let tally = &outcome.tally;
    let mut text = format!(
        "{}, {} s, seed {}, {}\n{} ok, {} failed, {} unknown\n",
        options.workload,
        options.time.as_secs(),
        options.seed,
        options.isolation,
        tally.ok,
        tally.fail,
        tally.info,
    );
    let struck: u64 = outcome.faults.values().sum();
    let kinds = outcome
        .faults
        .iter()
        .map(|(fault, times)| format!("{fault} {times}"));
    let kinds: Vec<String> = kinds.collect();
    line(&mut text, &format!("{struck} faults: {}", kinds.join(", ")));
    if let Some(doubt) = &outcome.doubt {
        line(&mut text, &doubt.to_string());
    }
    let mut errors: Vec<_> = tally.errors.iter().collect();
    errors.sort_by_key(|(_, times)| std::cmp::Reverse(**times));
    for (error, times) in errors {
        line(&mut text, &format!("{times:>7} {error}"));
    }
    for trouble in &outcome.troubles {
        line(&mut text, &format!("TROUBLE: {trouble}"));
    }
    line(&mut text, outcome.verdict.to_string().trim_end());
    if outcome.verdict.valid && !outcome.troubles.is_empty() {
        line(&mut text, "The history is valid, but there was trouble.");
    }
    text
}

fn line(text: &mut String, line: &str) {
    // Memory takes it.
    let _ = writeln!(text, "{line}");
}
