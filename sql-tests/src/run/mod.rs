//! A consistency run: clients that work, a nemesis that breaks things, and a history of both.
//!
//! [`run`] reads as the run goes: prepare, work and break, heal, read everything back through every
//! node, write down, judge.

mod cli;
mod clients;
mod doubt;
mod feed;
mod judge;
mod look;
mod progress;
mod record;
mod target;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

pub use self::cli::{main_from, program_is_node};
use self::clients::Crew;
pub use self::clients::Tally;
pub use self::doubt::Doubt;
use self::feed::Feed;
pub use self::judge::judge;
use self::progress::Progress;
use self::target::Target;
use crate::Result;
use crate::check::Verdict;
use crate::client::{Disturbance, Isolation};
use crate::history::{History, Recorder};
use crate::nemesis::{Kind, Nemesis, Pace, World, schedule};
use crate::verify::replicas_agree;
use crate::workload::{Plan, keys_wanted, workload};

/// How long everything is read back from a cluster that is not whole.
const READ_IN_PART: Duration = Duration::from_secs(15);

/// What kind of run.
#[derive(Clone, Debug)]
pub struct Options {
    /// The workload's name.
    pub workload: String,
    /// The faults.
    pub nemesis: Vec<Kind>,
    /// Whether they may meet.
    pub pace: Pace,
    /// How long clients work.
    pub time: Duration,
    /// How long the cluster may take to become whole when all faults are healed.
    pub whole_within: Duration,
    /// Of the operations and of the faults.
    pub seed: u64,
    /// Clients.
    pub concurrency: u64,
    /// Operations a second, of all clients together.
    pub rate: u32,
    /// Keys of each group that `append` uses at a time.
    pub keys: usize,
    /// Of transactions that name a level.
    pub isolation: Isolation,
    /// Where the clients go.
    pub place: Place,
    /// The folder for what is written down.
    pub out: PathBuf,
    /// Where it is told how the run goes.
    pub audience: Audience,
}

/// Where the clients go.
#[derive(Clone, Debug)]
pub enum Place {
    /// To a cluster that is started for the run.
    Cluster {
        /// The program that its nodes run.
        program: PathBuf,
        /// Nodes.
        nodes: u16,
        /// Groups.
        groups: u32,
    },
    /// To a PostgreSQL that is there.
    Url {
        /// For all operations, or for those that write.
        url: String,
        /// For half of those that only read.
        read_url: Option<String>,
    },
}

/// Where it is told how the run goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Audience {
    /// A person at a terminal, or a log.
    Terminal,
    /// Nobody.
    Nobody,
}

/// What came of a run.
#[derive(Debug)]
pub struct Outcome {
    /// All that was done and answered.
    pub history: History,
    /// How operations ended.
    pub tally: Tally,
    /// How often each fault struck.
    pub faults: BTreeMap<&'static str, u64>,
    /// What was in doubt after the last fault; none: there is no cluster of ours.
    pub doubt: Option<Doubt>,
    /// What went wrong with the run itself: transactions left in doubt, a cluster that did not become whole, a final read that
    /// failed, replicas that differ, a panic, an answer that no correct server gives.
    pub troubles: Vec<String>,
    /// What the checker says.
    pub verdict: Verdict,
}

impl Outcome {
    /// Whether the history was found valid and nothing else went wrong.
    #[must_use]
    pub fn is_good(&self) -> bool {
        self.troubles.is_empty() && self.verdict.valid
    }
}

/// Carries a run out and writes it down.
///
/// # Errors
/// When it could not begin: no such workload, no cluster, no tables; or when it could not be written
/// down. What goes wrong later is in [`Outcome::troubles`].
pub async fn run(options: &Options) -> Result<Outcome> {
    let plan = Plan {
        isolation: options.isolation,
        operations: operations(options)?,
        groups: match options.place {
            Place::Cluster { groups, .. } => usize::try_from(groups)?,
            Place::Url { .. } => 1,
        },
        keys: options.keys,
    };
    let keys = keys_wanted(&options.workload, &plan)?;
    let out = record::folder(options)?;
    let progress = Progress::new(options.audience, options.time);
    progress.say("starting");
    let mut target = Target::open(options).await?;
    progress.say("making tables");
    let placement = target.placement(keys).await?;
    let workload = workload(&options.workload, &plan, &placement)?;
    workload.prepare(&target.client().await?).await?;
    let tables = workload.tables();

    progress.say("working");
    let recorder = Recorder::default();
    let disturbance = Disturbance::default();
    let level = workload.sessions();
    let mut crew = Crew::new(options, level, &target, recorder.clone(), disturbance.clone());
    let feed = Feed::new(workload, options);
    let reporting = progress.watch(crew.tally(), recorder.clone());
    let (faults, mut troubles) = work(options, &mut crew, &feed, &mut target, disturbance).await;
    progress.say("healed; waiting until all is whole");
    let (whole, doubt) = tokio::join!(target.wait_whole(options.whole_within), target.doubt());
    troubles.extend(doubt.iter().filter_map(Doubt::trouble));
    progress.say("reading everything back through every node");
    let reads = feed.final_reads();
    let reading = crew.read_back(&reads);
    match &whole {
        Ok(()) => troubles.extend(reading.await),
        Err(error) => {
            troubles.push(format!("not whole after all faults were healed: {error}"));
            // What can be read still tells what is lost; what hangs is no news.
            let _in_part = timeout(READ_IN_PART, reading).await;
        }
    }
    reporting.abort();
    if let Some(cluster) = target.cluster().filter(|_| whole.is_ok()) {
        for table in &tables {
            if let Err(error) = replicas_agree(cluster, table).await {
                troubles.push(error.to_string());
            }
        }
    }
    if let Err(error) = look::into_servers(&feed, &target, &recorder).await {
        troubles.push(format!("the servers could not be looked into: {error}"));
    }
    if let Some(cluster) = target.cluster().filter(|_| whole.is_ok()) {
        troubles.extend(doubt::left(cluster.config()).await);
    }
    troubles.extend(target.panics()?);

    let history = recorder.history();
    let tally = crew.tally().now();
    troubles.extend(tally.wrong.iter().cloned());
    let verdict = judge(&history, options)?;
    let outcome = Outcome {
        history,
        tally,
        faults,
        doubt,
        troubles,
        verdict,
    };
    record::write(&out, options, &outcome, target.cluster())?;
    Ok(outcome)
}

/// Clients and nemesis side by side, until the time is over and all is healed.
async fn work(
    options: &Options,
    crew: &mut Crew,
    feed: &Arc<Feed>,
    target: &mut Target,
    disturbance: Disturbance,
) -> (BTreeMap<&'static str, u64>, Vec<String>) {
    let Some(cluster) = target.take_cluster() else {
        return (
            BTreeMap::new(),
            crew.work(feed)
                .await
                .err()
                .into_iter()
                .map(|e| e.to_string())
                .collect(),
        );
    };
    let stop = CancellationToken::new();
    let strikes = schedule(options.seed, &options.nemesis, options.time);
    let nemesis = Nemesis::new(World::new(cluster, disturbance), crew.recorder(), options.pace);
    let stopped = stop.clone();
    let breaking = async { nemesis.run(&strikes, stopped).await };
    let working = async {
        let worked = crew.work(feed).await;
        stop.cancel();
        worked
    };
    let ((world, faults, broken), worked) = tokio::join!(breaking, working);
    target.put_cluster(world.cluster);
    let failures = [broken.err(), worked.err()];
    let troubles = failures.into_iter().flatten().map(|error| error.to_string());
    (faults, troubles.collect())
}

fn operations(options: &Options) -> Result<usize> {
    let seconds = options.time.as_secs() + 1;
    Ok(usize::try_from(seconds * u64::from(options.rate))? + feed::LEFT)
}
