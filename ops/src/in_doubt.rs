//! `howdah in-doubt`: the parts of transactions across groups that are prepared and not settled.

use std::process::ExitCode;
use std::time::Duration;

use serde::Serialize;
use shard::call::{Answer, Question};
use tabled::builder::Builder;
use tabled::settings::Style;

use crate::config::{ClusterConfig, ConfigError};
use crate::node::{Ask, InDoubtAnswer};
use crate::which::Which;

/// How long one node may take: longer than it waits for the groups.
const PATIENCE: Duration = Duration::from_secs(4);

/// Arguments of `howdah in-doubt`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    which: Which,
    /// Print JSON instead of a table.
    #[arg(long)]
    json: bool,
}

/// Why it is not known what is in doubt.
#[derive(Debug, thiserror::Error)]
pub enum InDoubtError {
    /// The configuration cannot be read.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// No node answers.
    #[error("no node of the cluster answers; `howdah status` shows how it is")]
    NoNode,
    /// It cannot be written as JSON.
    #[error("the answer cannot be printed")]
    Print(#[from] serde_json::Error),
}

/// One part, as it is printed.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Part {
    gid: String,
    group: u32,
    database: String,
    age_seconds: u64,
    /// The group that has the decision, or will.
    anchor: u32,
    /// The node whose session it is.
    node: u64,
}

/// What is in doubt in the whole cluster, by the first node that answers.
///
/// # Errors
/// Where none does.
pub async fn gather(cluster: &ClusterConfig) -> Result<InDoubtAnswer, InDoubtError> {
    let ask = postcard::to_stdvec(&Ask::InDoubt).expect("plain values can be encoded");
    for &node in cluster.nodes.keys() {
        let question = Question::Above(ask.clone().into()).encode();
        let answer = cluster.call(node, question, PATIENCE).await;
        let answer = answer.ok().and_then(|answer| Answer::decode(&answer).ok());
        if let Some(Answer::Above(body)) = answer
            && let Ok(answer) = postcard::from_bytes(&body)
        {
            return Ok(answer);
        }
    }
    Err(InDoubtError::NoNode)
}

/// Prints it. The exit code is 1 where a group could not be asked.
#[expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "the command line's answer"
)]
pub(crate) async fn run(args: Args) -> Result<ExitCode, InDoubtError> {
    let cluster = args.which.load()?;
    let (mut parts, mut exit) = (Vec::new(), ExitCode::SUCCESS);
    for (group, answer) in gather(&cluster).await? {
        match answer {
            Ok(found) => parts.extend(found.into_iter().map(|part| Part {
                gid: part.gid.to_string(),
                group: group.0,
                database: part.database,
                age_seconds: part.age.as_secs(),
                anchor: part.gid.anchor.0,
                node: part.gid.node.0,
            })),
            Err(why) => {
                eprintln!("group {group} cannot be asked: {why}");
                exit = ExitCode::FAILURE;
            }
        }
    }
    if args.json {
        println!("{}", serde_json::to_string(&parts)?);
    } else if parts.is_empty() {
        println!("no transaction is in doubt");
    } else {
        println!("{}", table(&parts));
    }
    Ok(exit)
}

fn table(parts: &[Part]) -> String {
    let mut table = Builder::default();
    table.push_record([
        "transaction",
        "prepared on group",
        "database",
        "for",
        "decided by group",
        "begun on node",
    ]);
    for part in parts {
        table.push_record([
            part.gid.clone(),
            part.group.to_string(),
            part.database.clone(),
            format!("{} s", part.age_seconds),
            part.anchor.to_string(),
            part.node.to_string(),
        ]);
    }
    table.build().with(Style::psql()).to_string()
}
