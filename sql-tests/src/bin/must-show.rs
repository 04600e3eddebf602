//! The stories in full, with figures: `cargo run --release -p sql-tests --bin must-show -- kill`.
//!
//! Also acts as `howdah` itself, so that the tests and this program start what they were built with.

use std::process::ExitCode;
use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use shard::id::{GroupId, NodeId};
use sql_tests::cluster::{Cluster, Frozen, Guard, Network, Options, Plain, program};
use sql_tests::compare::{
    Autogroup, Fight, FightPlan, Figures, IdlePlan, ReadKind, Readers, Rounds, ScatterPlan, Way, cuts,
    deadlocks, idle, scatter, transfers,
};
use sql_tests::differential::{DifferentialPlan, Servers, differential};
use sql_tests::drivers::drivers;
use sql_tests::drivers::outcomes::Outcomes;
use sql_tests::report::{median, seconds};
use sql_tests::scenario::{
    GARBAGE, GarbagePlan, KillPlan, PausePlan, garbage, kill_leaders, load_rows, pause_leaders,
    uncommitted_wal,
};
use sql_tests::scripts::{record, scripts};
use sql_tests::tpch::{TpchPlan, tpch};
use sql_tests::{Failure, Result};
use tokio::signal::unix::{SignalKind, signal};

const USAGE: &str =
    "usage: must-show rows [ROWS] | kill [ROUNDS] | pause [ROUNDS] [SECONDS] | uncommitted | all
       must-show transfers [SECONDS] [ROUNDS] | cuts [SECONDS] [ROUNDS] | deadlocks [SECONDS]
       must-show differential [STATEMENTS] [SEED] | drivers [record] | scripts [NAME] | scripts record [NAME]
       must-show scatter [ROWS] [ROUNDS] | tpch [SCALE]
       must-show idle [CLIENTS] [BUSY] | fuzz-protocol [MINUTES] [SEED]
  rows         ROWS rows (100000) by pipelined INSERTs through one node, read back through the others
  kill         kill -9 of the leader with its PostgreSQL, ROUNDS times (10), with writers
  pause        SIGSTOP of the leader for SECONDS (20), ROUNDS times (4), with writers and readers
  uncommitted  a leader with WAL that Raft did not commit is failed over
  all          all of these
  transfers    transfers within a group and between two, and by hand with PREPARE TRANSACTION between plain servers;
               SECONDS (5) for each in each of ROUNDS (5)
  cuts         what a snapshot of all groups costs readers, and writers with 200 of them a second; SECONDS (5), ROUNDS (5)
  deadlocks    8 clients lock 6 rows on two groups in random order for SECONDS (120), and as long on a plain server
  differential STATEMENTS (2000) drawn from SEED (1) and the seeds after it, to a node of two groups and to one PostgreSQL;
               answers compared message by message
  drivers      psql and the drivers, each on a cluster of two groups and on one PostgreSQL; fails where something comes out otherwise than in
               sql-tests/drivers/outcomes.tsv. With the word record it writes that file, and README's table, anew
  scatter      queries over ROWS (10000000) rows of 4 groups, ROUNDS (3) times each, and the same on one plain server; fails where the node
               needs more than 100 MiB
  scripts      sql-tests/scripts, those in whose names NAME occurs, on two groups and on one PostgreSQL. With the word record
               what they expect is written anew
  tpch         the 22 queries of TPC-H at SCALE (0.01), on a node of two groups and on one PostgreSQL: answers, paths, times
  idle         what CLIENTS (5000) that do nothing cost one node, and BUSY (200) ones beside them
  fuzz-protocol  random and mutated bytes to a node for MINUTES (30), drawn from SEED (1), beside clients that must not notice
Run as root, transfers, cuts and deadlocks switch the kernel's autogroups off meanwhile (ops/bench says why). pgbench is compared by ops/bench.";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().collect();
    if arguments
        .get(1)
        .is_some_and(|first| ["node", "demo", "status", "init", "cert"].contains(&first.as_str()))
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

/// Ends in order when it is told to stop: servers that were started go away, and settings of the kernel come back.
#[tokio::main]
async fn run(arguments: &[String]) -> Result<()> {
    let mut told = signal(SignalKind::terminate())?;
    tokio::select! {
        done = tell(arguments) => done,
        _ = tokio::signal::ctrl_c() => Err("interrupted".into()),
        _ = told.recv() => Err("told to stop".into()),
    }
}

async fn tell(arguments: &[String]) -> Result<()> {
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
        Some("transfers") => compare_transfers(plan(number(1, 5)?, number(2, 5)?)?).await,
        Some("cuts") => compare_cuts(plan(number(1, 5)?, number(2, 5)?)?).await,
        Some("deadlocks") => fight(number(1, 120)?).await,
        Some("drivers") => match arguments.get(1).map(String::as_str) {
            None => all_drivers(Recorded::Compared).await,
            Some("record") => all_drivers(Recorded::Anew).await,
            Some(_) => Err(USAGE.into()),
        },
        Some("scatter") => compare_scatter(number(1, 10_000_000)?, number(2, 3)?).await,
        Some("scripts") => match (arguments.get(1).map(String::as_str), arguments.get(2)) {
            (Some("record"), name) => all_scripts(Recorded::Anew, name.map_or("", String::as_str)).await,
            (name, None) => all_scripts(Recorded::Compared, name.unwrap_or_default()).await,
            _ => Err(USAGE.into()),
        },
        Some("tpch") => match arguments.get(1).map(|text| text.parse()) {
            None => compare_tpch(0.01).await,
            Some(Ok(scale)) if (0.001..=1.0).contains(&scale) => compare_tpch(scale).await,
            Some(_) => Err(format!("a scale is from 0.001 to 1\n{USAGE}").into()),
        },
        Some("idle") => many_idle(number(1, 5000)?, number(2, 200)?).await,
        Some("fuzz-protocol") => fuzz_protocol(number(1, 30)?, number(2, 1)?).await,
        Some("differential") => same_answers(number(1, 2000)?, number(2, 1)?).await,
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

fn plan(seconds: usize, rounds: usize) -> Result<Rounds> {
    if seconds == 0 || rounds == 0 {
        return Err(USAGE.into());
    }
    let time = Duration::from_secs(u64::try_from(seconds)?);
    Ok(Rounds { time, rounds })
}

/// A table's head and foot, of what was measured.
fn say_conditions(plan: Rounds, autogroup: &Autogroup) {
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    say(&format!(
        "\n{:?} each, medians of {} alternating rounds; {cores} cores; 3 nodes, 2 groups; {}\n",
        plan.time,
        plan.rounds,
        autogroup.describe()
    ));
}

fn milliseconds(time: Duration) -> String {
    format!("{:.2} ms", time.as_secs_f64() * 1e3)
}

/// Which node leads which group: a client on that node has one hop less.
async fn say_leaders(cluster: &Cluster) -> Result<()> {
    for group in cluster.groups() {
        say(&format!(
            "group {group} is led by node {}",
            cluster.leader_of(group).await?
        ));
    }
    Ok(())
}

async fn compare_transfers(plan: Rounds) -> Result<()> {
    let autogroup = Autogroup::off();
    let cluster = Cluster::start(&program()?, &Options::default()).await?;
    let report = transfers(&cluster, plan).await?;
    say_conditions(plan, &autogroup);
    say(&format!(
        "{:<38} {:>16} {:>16} {:>20}",
        "a transfer", "1 client: median", "p99", "16 clients: a second"
    ));
    let mut two: Option<[Figures; 2]> = None;
    let mut ratios = Vec::new();
    for (way, figures) in &report.figures {
        let name = match way {
            Way::OneGroup => "on one group",
            Way::TwoGroups => "on two groups",
            Way::ByHand(Guard::Alone) => "by hand, two servers",
            Way::ByHand(Guard::Standbys) => "by hand, two servers with two standbys",
        };
        let [one, many] = figures;
        say(&format!(
            "{name:<38} {:>16} {:>16} {:>20.0}",
            milliseconds(one.median),
            milliseconds(one.p99),
            many.per_second
        ));
        if *way == Way::TwoGroups {
            two = Some(*figures);
        } else {
            ratios.push((name, *figures));
        }
    }
    let Some([alone, together]) = two else {
        return Err("nothing was measured on two groups".into());
    };
    say("");
    for (name, [one, many]) in ratios {
        say(&format!(
            "two groups against \"{name}\": latency x {:.2}, throughput x {:.2}",
            alone.median.as_secs_f64() / one.median.as_secs_f64(),
            together.per_second / many.per_second,
        ));
    }
    say_leaders(&cluster).await?;
    cluster.shutdown(&[]).await
}

async fn compare_cuts(plan: Rounds) -> Result<()> {
    let autogroup = Autogroup::off();
    let cluster = Cluster::start(&program()?, &Options::default()).await?;
    let report = cuts(&cluster, plan).await?;
    say_conditions(plan, &autogroup);
    say(&format!(
        "{:<44} {:>12} {:>12}",
        "1 client, READ ONLY, two SELECTs", "median", "p99"
    ));
    for (kind, figures) in &report.reads {
        let name = match kind {
            ReadKind::OneGroup => "REPEATABLE READ, one group",
            ReadKind::TwoGroups => "REPEATABLE READ, two groups",
            ReadKind::WithoutCut => "READ COMMITTED, two groups (no cut)",
        };
        say(&format!(
            "{name:<44} {:>12} {:>12}",
            milliseconds(figures.median),
            milliseconds(figures.p99)
        ));
    }
    say(&format!(
        "\n{:<44} {:>12} {:>12} {:>12} {:>8}",
        "16 clients, UPDATE by key, meanwhile", "a second", "median", "p99", "ratio"
    ));
    let alone = report
        .writes
        .first()
        .map_or(1.0, |(_, figures, _)| figures.per_second);
    for (readers, figures, rate) in &report.writes {
        let name = match readers {
            Readers::None => "nobody reads".to_owned(),
            Readers::WithoutCuts => format!("{rate:.0} reads a second without a cut"),
            Readers::Cuts => format!("{rate:.0} reads a second, each with a cut"),
        };
        say(&format!(
            "{name:<44} {:>12.0} {:>12} {:>12} {:>8.2}",
            figures.per_second,
            milliseconds(figures.median),
            milliseconds(figures.p99),
            figures.per_second / alone
        ));
    }
    say_leaders(&cluster).await?;
    cluster.shutdown(&[]).await
}

async fn fight(time: usize) -> Result<()> {
    let autogroup = Autogroup::off();
    let cluster = Cluster::start(&program()?, &Options::default()).await?;
    let time = Duration::from_secs(u64::try_from(time)?);
    let report = deadlocks(&cluster, FightPlan { time }).await?;
    let told = |fight: &Fight| {
        format!(
            "{} committed ({:.1} a second), {} victims, all with 40P01, longest wait {}",
            fight.commits,
            fight.per_second(),
            fight.victims,
            seconds(Some(fight.longest)),
        )
    };
    say(&format!(
        "deadlocks: 8 clients, 6 rows, {time:?} each, in turns; no hang; {}\n  two groups:       {}\n  a plain server:   {}",
        autogroup.describe(),
        told(&report.groups),
        told(&report.plain),
    ));
    cluster.shutdown(&[]).await
}

async fn same_answers(statements: usize, seed: usize) -> Result<()> {
    let options = Options {
        nodes: 1,
        ..Options::default()
    };
    let cluster = Cluster::start(&program()?, &options).await?;
    let plain = Plain::start(Guard::Alone).await?;
    let servers = Servers {
        howdah: cluster.sql_address(NodeId(1))?,
        plain: plain.address(),
    };
    let plan = DifferentialPlan {
        statements,
        seed: u64::try_from(seed)?,
    };
    let report = differential(servers, plan).await?;
    report.verdict()?;
    say(&report.describe());
    cluster.shutdown(&[]).await
}

async fn all_scripts(expected_is: Recorded, named: &str) -> Result<()> {
    let options = Options {
        nodes: 1,
        ..Options::default()
    };
    let cluster = Cluster::start(&program()?, &options).await?;
    let plain = Plain::start(Guard::Alone).await?;
    let servers = Servers {
        howdah: cluster.sql_address(NodeId(1))?,
        plain: plain.address(),
    };
    if expected_is == Recorded::Anew {
        record(servers, named).await?;
    }
    let report = scripts(servers, named).await?;
    report.verdict()?;
    say(&report.to_string());
    cluster.shutdown(&[]).await
}

async fn compare_tpch(scale: f64) -> Result<()> {
    let options = Options {
        nodes: 1,
        ..Options::default()
    };
    let cluster = Cluster::start(&program()?, &options).await?;
    let plain = Plain::start(Guard::Alone).await?;
    let (here, there) = (cluster.connect(NodeId(1)).await?, plain.connect().await?);
    let report = tpch(&here, &there, TpchPlan { scale, rounds: 3 }).await?;
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    say(&format!(
        "scale {scale}, medians of 3 alternating runs; {cores} cores; a node of 2 groups\n\n{report}"
    ));
    report.verdict()?;
    cluster.shutdown(&[]).await
}

/// What becomes of the outcomes that are recorded.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Recorded {
    Compared,
    Anew,
}

async fn all_drivers(recorded_are: Recorded) -> Result<()> {
    let cluster = Cluster::start(&program()?, &Options::default()).await?;
    let plain = Plain::start(Guard::Alone).await?;
    let mut outcomes = drivers(cluster.sql_address(NodeId(1))?, plain.address()).await?;
    let recorded = Outcomes::recorded()?;
    outcomes.explain_as(&recorded);
    let changes = outcomes.changes_since(&recorded);
    if recorded_are == Recorded::Anew {
        outcomes.record()?;
    }
    say(&outcomes.table());
    for line in changes.iter().chain(&outcomes.complaints()) {
        say(line);
    }
    cluster.shutdown(&[]).await?;
    if outcomes.complaints().is_empty() && (recorded_are == Recorded::Anew || changes.is_empty()) {
        return Ok(());
    }
    Err("not as it was recorded, or without a word on it: see above; `must-show drivers record` writes it down".into())
}

/// What a node may need for queries of any number of rows, bytes.
const NODE_MEMORY: u64 = 100 << 20;

async fn compare_scatter(rows: usize, rounds: usize) -> Result<()> {
    if rounds == 0 {
        return Err(USAGE.into());
    }
    let options = Options {
        nodes: 1,
        groups: 4,
        ..Options::default()
    };
    let cluster = Cluster::start(&program()?, &options).await?;
    let plain = Plain::start(Guard::Alone).await?;
    let plan = ScatterPlan { rows, rounds };
    let all = scatter(&cluster, &plain, NodeId(1), plan).await?;
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    say(&format!(
        "\n{rows} rows in 4 groups of one node; medians of {rounds} alternating rounds; {cores} cores\n\n\
         {:<22} {:>12} {:>12} {:>8} {:>18}",
        "", "Howdah", "PostgreSQL", "ratio", "node's most memory"
    ));
    for one in &all {
        say(&format!(
            "{:<22} {:>12} {:>12} {:>8.2} {:>14} MiB",
            one.name,
            seconds(Some(one.howdah)),
            seconds(Some(one.plain)),
            one.howdah.as_secs_f64() / one.plain.as_secs_f64(),
            one.peak >> 20,
        ));
    }
    cluster.shutdown(&[]).await?;
    match all.iter().find(|one| one.peak > NODE_MEMORY) {
        Some(one) => Err(format!("the node needed {} MiB for \"{}\"", one.peak >> 20, one.name).into()),
        None => Ok(()),
    }
}

async fn many_idle(clients: usize, busy: usize) -> Result<()> {
    let autogroup = Autogroup::off();
    more_files()?;
    let options = Options {
        nodes: 1,
        max_sessions: Some(clients + busy + 100),
        ..Options::default()
    };
    let cluster = Cluster::start(&program()?, &options).await?;
    let plan = IdlePlan {
        idle: clients,
        busy,
        time: Duration::from_secs(10),
    };
    let report = idle(&cluster, NodeId(1), plan).await?;
    let [before, after] = report.resident;
    say(&format!(
        "idle: {clients} idle clients: {:.1} KiB of the node each ({} MiB resident before, {} with them); {}",
        in_kib(report.for_each()),
        before >> 20,
        after >> 20,
        autogroup.describe(),
    ));
    for (name, figures) in ["alone", "beside them"].into_iter().zip(report.busy) {
        say(&format!(
            "  {busy} busy clients {name}: p50 {}, p99 {} ({:.1} times p50), {:.0} a second",
            milliseconds(figures.median),
            milliseconds(figures.p99),
            figures.p99.as_secs_f64() / figures.median.as_secs_f64(),
            figures.per_second,
        ));
    }
    cluster.shutdown(&[]).await
}

#[expect(clippy::cast_precision_loss, reason = "a figure for people")]
fn in_kib(bytes: u64) -> f64 {
    bytes as f64 / 1024.0
}

/// As many open files as the kernel allows: for each client one here and one in the node, which inherits the limit.
fn more_files() -> Result<()> {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        ..limit
    };
    Ok(setrlimit(Resource::Nofile, raised)?)
}

async fn fuzz_protocol(minutes: usize, seed: usize) -> Result<()> {
    let options = Options {
        nodes: 1,
        ..Options::default()
    };
    let cluster = Cluster::start(&program()?, &options).await?;
    let plan = GarbagePlan {
        time: Duration::from_secs(u64::try_from(minutes)? * 60),
        seed: u64::try_from(seed)?,
    };
    let report = garbage(&cluster, NodeId(1), plan).await?;
    let resident: Vec<String> = report
        .resident
        .iter()
        .map(|bytes| (bytes >> 20).to_string())
        .collect();
    say(&format!(
        "fuzz-protocol: {} connections sent {} bytes of garbage and were answered {}; no panic; resident MiB: {}; the bystander wrote \
         and read {} rows, waiting {} at most",
        report.connections,
        report.sent,
        report.answered,
        resident.join(", "),
        report.asked,
        seconds(Some(report.longest_wait)),
    ));
    cluster.shutdown(&GARBAGE).await
}
