//! The command line.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use clap::Parser;
use shard::causes::with_causes;

use super::{Audience, Options, Outcome, Place, record, run};
use crate::client::Isolation;
use crate::cluster::{self, program};
use crate::nemesis::Pace;
use crate::{Result, nemesis, workload};

/// Consistency tests: a workload on a real cluster, faults, and a verdict.
///
/// Exit status: 0 only where the history is valid and nothing else went wrong.
#[derive(Debug, Parser)]
#[command(name = "sql-tests", after_help = list(), args_override_self = true)]
struct Cli {
    /// What clients do; `list` shows all that there is.
    workload: String,
    /// Faults: names or families with commas between them, `all`, or `none` [default: all]
    #[arg(long, conflicts_with = "url")]
    nemesis: Option<String>,
    /// No fault begins before the one before it is healed and the cluster is whole again.
    #[arg(long, conflicts_with = "url")]
    apart: bool,
    /// How long clients work, in seconds.
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    time: u64,
    /// How long the cluster may take to become whole after the last fault, in seconds.
    #[arg(long, default_value_t = 120, value_parser = clap::value_parser!(u64).range(1..=3600))]
    whole_within: u64,
    /// Of the operations and the faults [default: the time of day]
    #[arg(long)]
    seed: Option<u64>,
    /// Nodes of the cluster.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=9))]
    nodes: u16,
    /// Groups of the cluster.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=8))]
    groups: u32,
    /// Clients.
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u64).range(1..=1000))]
    concurrency: u64,
    /// Operations a second, of all clients together.
    #[arg(long, default_value_t = 300, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    rate: u32,
    /// Keys of each group that `append` uses at a time: the fewer, the more they are fought over.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u16).range(2..=10_000))]
    keys: u16,
    /// read-committed, repeatable-read or serializable.
    #[arg(long, default_value_t = Isolation::Serializable)]
    isolation: Isolation,
    /// A PostgreSQL to test instead of a cluster of our own, without faults.
    #[arg(long)]
    url: Option<String>,
    /// Where half of the operations that only read go instead.
    #[arg(long, requires = "url")]
    read_url: Option<String>,
    /// A new folder for the history and the summary [default: below target/consistency]
    #[arg(long)]
    out: Option<PathBuf>,
}

/// Whether the arguments are those of `howdah`, as which this program then has to act: the nodes
/// that it starts are what it was built with.
#[must_use]
pub fn program_is_node(arguments: &[OsString]) -> bool {
    let first = arguments.get(1).and_then(|first| first.to_str());
    first.is_some_and(|first| ["node", "demo", "status", "switchover", "init", "cert"].contains(&first))
}

/// Does what the arguments say, the first of which is the program's name.
#[must_use]
pub fn main_from(arguments: Vec<OsString>) -> ExitCode {
    let cli = Cli::parse_from(arguments);
    if cli.workload == "list" {
        say(&list());
        return ExitCode::SUCCESS;
    }
    match carry_out(cli) {
        Ok(outcome) if outcome.is_good() => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(error) => complain(&with_causes(error.as_ref())),
    }
}

fn carry_out(cli: Cli) -> Result<Outcome> {
    let options = options(cli)?;
    let runtime = tokio::runtime::Runtime::new()?;
    let outcome = runtime.block_on(run(&options))?;
    say(&record::summary(&options, &outcome));
    say(&format!("written to {}", options.out.display()));
    Ok(outcome)
}

fn options(cli: Cli) -> Result<Options> {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?;
    let seed = cli.seed.unwrap_or(u64::from(now.subsec_nanos()));
    let place = match cli.url {
        Some(url) => Place::Url {
            url,
            read_url: cli.read_url,
        },
        None => Place::Cluster {
            program: program()?,
            nodes: cli.nodes,
            groups: cli.groups,
        },
    };
    // Faults are made to processes that are ours.
    let default = if matches!(place, Place::Url { .. }) {
        "none"
    } else {
        "all"
    };
    let new_folder = || {
        let name = format!("{}-{seed}-{}", cli.workload, now.as_secs());
        PathBuf::from("target/consistency").join(name)
    };
    Ok(Options {
        nemesis: faults(cli.nemesis.as_deref().unwrap_or(default))?,
        pace: if cli.apart { Pace::Apart } else { Pace::Overlapping },
        time: Duration::from_secs(cli.time),
        whole_within: Duration::from_secs(cli.whole_within),
        seed,
        concurrency: cli.concurrency,
        rate: cli.rate,
        keys: cli.keys.into(),
        isolation: cli.isolation,
        place,
        out: cli.out.unwrap_or_else(new_folder),
        workload: cli.workload,
        audience: Audience::Terminal,
    })
}

/// What is missing where a coordinator cannot be killed at a step.
const NO_FAILPOINTS: &str = "this program is built without failpoints (cargo run --features failpoints)";

/// The faults of a list. One that cannot be made here is refused where it was asked for by its name; `all` then
/// goes without it, and says so.
fn faults(list: &str) -> Result<Vec<nemesis::Kind>> {
    let mut kinds = nemesis::kinds(list)?;
    let all = list.split(',').any(|word| word.trim() == "all");
    let mut refuse = |what: &str, why: &str, is: fn(nemesis::Kind) -> bool| {
        if !kinds.iter().any(|kind| is(*kind)) {
            return Ok(());
        }
        if all {
            complain(&format!("WITHOUT {what}, which is one of all faults: {why}"));
            kinds.retain(|kind| !is(*kind));
            return Ok(());
        }
        Err(format!("nemesis {what} cannot be made: {why}"))
    };
    if let Err(error) = cluster::can_mount() {
        refuse("disk-full", &error.to_string(), |kind| {
            kind == nemesis::Kind::DiskFull
        })?;
    }
    if !cfg!(feature = "failpoints") {
        refuse("coordinator", NO_FAILPOINTS, nemesis::Kind::needs_failpoints)?;
    }
    Ok(kinds)
}

/// Workloads and faults, one a line.
fn list() -> String {
    let row = |name: &str, about: &str, pending: Option<&str>| match pending {
        None => format!("  {name:<16} {about}\n"),
        Some(needs) => format!("  {name:<16} PENDING: {about}; needs {needs}\n"),
    };
    let mut text = "Workloads:\n".to_owned();
    for known in workload::KNOWN {
        text += &row(known.name, known.about, known.pending);
    }
    text += "\nFaults (kill, pause, partition and coordinator name several):\n";
    for known in nemesis::KNOWN
        .iter()
        .filter(|known| !known.kind.needs_failpoints())
    {
        text += &row(known.name, known.about, None);
    }
    text += "\nFaults of the family coordinator:\n";
    if !cfg!(feature = "failpoints") {
        text += &format!("  NOT IN THIS PROGRAM: {NO_FAILPOINTS}\n");
    }
    for known in nemesis::KNOWN
        .iter()
        .filter(|known| known.kind.needs_failpoints())
    {
        text += &row(known.name, known.about, None);
    }
    text
}

#[expect(clippy::print_stdout, reason = "the command line's answer")]
fn say(text: &str) {
    println!("{}", text.trim_end());
}

#[expect(clippy::print_stderr, reason = "the command line's answer")]
fn complain(text: &str) -> ExitCode {
    eprintln!("sql-tests: {text}");
    ExitCode::from(2)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn what_is_pending_is_listed_as_such() {
        let text = list();
        assert!(text.contains("follower-reads   PENDING"), "{text}");
    }
}
