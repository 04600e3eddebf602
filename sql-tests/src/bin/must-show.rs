//! The stories in full, with figures: `cargo run --release -p sql-tests --bin must-show -- kill`.
//!
//! Also acts as `howdah` itself, so that the tests and this program start what they were built with.

use std::process::ExitCode;
use std::time::Duration;

use shard::id::GroupId;
use sql_tests::cluster::{Cluster, Frozen, Network, Options, program};
use sql_tests::report::{median, seconds};
use sql_tests::scenario::{KillPlan, PausePlan, kill_leaders, load_rows, pause_leaders, uncommitted_wal};
use sql_tests::{Failure, Result};

const USAGE: &str =
    "usage: must-show rows [ROWS] | kill [ROUNDS] | pause [ROUNDS] [SECONDS] | uncommitted | all
  rows         ROWS rows (100000) by pipelined INSERTs through one node, read back through the others
  kill         kill -9 of the leader with its PostgreSQL, ROUNDS times (10), with writers
  pause        SIGSTOP of the leader for SECONDS (20), ROUNDS times (4), with writers and readers
  uncommitted  a leader with WAL that Raft did not commit is failed over
  all          all of them
pgbench is compared by ops/bench.";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().collect();
    if arguments
        .get(1)
        .is_some_and(|first| ["node", "demo", "status"].contains(&first.as_str()))
    {
        return ops::main_from(arguments);
    }
    match run(&arguments[1..]) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => complain(&error),
    }
}

#[expect(clippy::print_stderr, reason = "the command line's answer")]
fn complain(error: &Failure) -> ExitCode {
    eprintln!("{error}");
    let mut source = error.source();
    while let Some(cause) = source {
        eprintln!("  because: {cause}");
        source = cause.source();
    }
    ExitCode::FAILURE
}

#[tokio::main]
async fn run(arguments: &[String]) -> Result<()> {
    let number = |place: usize, default: usize| match arguments.get(place) {
        Some(text) => text
            .parse()
            .map_err(|_| format!("{text} is not a number\n{USAGE}")),
        None => Ok(default),
    };
    match arguments.first().map(String::as_str) {
        Some("rows") => rows(number(1, 100_000)?).await,
        Some("kill") => kill(number(1, 10)?).await,
        Some("pause") => pause(number(1, 4)?, number(2, 20)?).await,
        Some("uncommitted") => uncommitted().await,
        Some("all") => {
            rows(100_000).await?;
            kill(10).await?;
            pause(4, 20).await?;
            uncommitted().await
        }
        _ => Err(USAGE.into()),
    }
}

#[expect(clippy::print_stdout, reason = "the command line's answer")]
fn say(text: &str) {
    println!("{text}");
}

async fn rows(rows: usize) -> Result<()> {
    let cluster = Cluster::start(&program()?, &Options::default()).await?;
    let report = load_rows(&cluster, i64::try_from(rows)?).await?;
    let shares: Vec<String> = cluster
        .groups()
        .into_iter()
        .map(|group| {
            format!(
                "group {group}: {} rows ({:.1} %)",
                report.by_group[&group],
                report.percent(group)
            )
        })
        .collect();
    say(&format!(
        "rows: {rows} rows in {}, read back through the others; {}",
        seconds(Some(report.took)),
        shares.join(", ")
    ));
    cluster.shutdown(&[]).await
}

async fn kill(rounds: usize) -> Result<()> {
    let mut cluster = Cluster::start(&program()?, &Options::default()).await?;
    let plan = KillPlan {
        rounds,
        writers: 8,
        calm: Duration::from_secs(3),
    };
    let report = kill_leaders(&mut cluster, plan).await?;
    let each: Vec<String> = report.gaps.iter().map(|gap| seconds(Some(*gap))).collect();
    say(&format!(
        "kill: {rounds} kills; next acknowledged write after: median {}, worst {} ({}); node whole again: \
         median {}, worst {}; {} writes acknowledged, all there once; {} unknown; all replicas equal",
        seconds(median(&report.gaps)),
        seconds(report.gaps.iter().max().copied()),
        each.join(", "),
        seconds(median(&report.returns)),
        seconds(report.returns.iter().max().copied()),
        report.acknowledged,
        report.unknown,
    ));
    Ok(())
}

async fn pause(rounds: usize, asleep: usize) -> Result<()> {
    for frozen in [Frozen::NodeAndPostgres, Frozen::Node] {
        let mut cluster = Cluster::start(&program()?, &Options::default()).await?;
        let sleep = Duration::from_secs(u64::try_from(asleep)?);
        let report = pause_leaders(
            &mut cluster,
            PausePlan {
                rounds,
                sleep,
                frozen,
            },
        )
        .await?;
        say(&format!(
            "pause: {rounds} times {asleep} s of {frozen:?}; next acknowledged write after: median {}, worst {}; \
             {} reads answered by the paused nodes ({} of them asked while asleep), none old; all replicas equal",
            seconds(median(&report.gaps)),
            seconds(report.gaps.iter().max().copied()),
            report.answers,
            report.late_answers,
        ));
    }
    Ok(())
}

async fn uncommitted() -> Result<()> {
    let options = Options {
        network: Network::Relayed,
        ..Options::default()
    };
    let cluster = Cluster::start(&program()?, &options).await?;
    let report = uncommitted_wal(&cluster, GroupId(1)).await?;
    say(&format!(
        "uncommitted: the cut-off leader held {} commits that Raft had not; {} acknowledged; none seen in {} looks \
         at the followers, none left on the former leader",
        report.waiting, report.acknowledged, report.looks,
    ));
    Ok(())
}
