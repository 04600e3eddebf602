//! `howdah switchover`: hands the leadership of a group to another node.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use shard::call::{Answer, Question};
use shard::id::{GroupId, NodeId};
use shard::transport::CallError;

use crate::config::{ClusterConfig, ConfigError};
use crate::status::{GroupStatus, gather};
use crate::which::Which;

/// How long the leader may take: longer than the node's own patience with those whom it asks.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long the new leader may take until it serves, before the command says so and ends.
const UNTIL_SERVED: Duration = Duration::from_secs(30);
/// How often it is looked whether it serves.
const POLL: Duration = Duration::from_millis(100);

/// Arguments of `howdah switchover`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The group.
    #[arg(long)]
    group: GroupId,
    /// The node that is to lead it; without it, the follower that is furthest.
    #[arg(long)]
    to: Option<NodeId>,
    #[command(flatten)]
    which: Which,
}

/// Why the leadership was not handed over.
#[derive(Debug, thiserror::Error)]
pub enum SwitchoverError {
    /// The configuration cannot be read.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// No such group.
    #[error("there is no group {0} in this cluster")]
    UnknownGroup(GroupId),
    /// Nobody is there to hand it over.
    #[error("group {0} has no leader that could hand it over; `howdah status` shows how it is")]
    NoLeader(GroupId),
    /// The leader's node does not answer. Whether it handed over is not known.
    #[error("node {node} leads group {group}, but does not answer; `howdah status` shows who leads now")]
    Call {
        /// The leader.
        node: NodeId,
        /// The group.
        group: GroupId,
        /// What happened.
        source: CallError,
    },
    /// The leader says why not.
    #[error("{0}")]
    Refused(String),
    /// It was handed over, and the new leader does not serve yet.
    #[error("node {leader} leads group {group}, but does not serve after {}s; `howdah status` shows how it is", UNTIL_SERVED.as_secs())]
    NotServed {
        /// The group.
        group: GroupId,
        /// Its leader.
        leader: NodeId,
    },
}

/// Asks the leader of `group` to hand the leadership over; returns who led and who leads now.
///
/// # Errors
/// Where there is no leader, or it cannot, or nobody can take over.
pub async fn hand_over(
    cluster: &ClusterConfig,
    group: GroupId,
    to: Option<NodeId>,
) -> Result<(NodeId, NodeId), SwitchoverError> {
    if !cluster.groups.contains_key(&group) {
        return Err(SwitchoverError::UnknownGroup(group));
    }
    let status = gather(cluster).await;
    let led = status.groups.iter().find(|found| found.id == group);
    let node = led
        .and_then(|found| found.leader)
        .ok_or(SwitchoverError::NoLeader(group))?;
    let question = Question::Switchover { group, to }.encode();
    let answer = cluster.call(node, question, PATIENCE).await;
    let answer = answer.map_err(|source| SwitchoverError::Call { node, group, source })?;
    match Answer::decode(&answer) {
        Ok(Answer::SwitchedOver { leader }) => Ok((node, leader)),
        Ok(Answer::Refused(reason)) => Err(SwitchoverError::Refused(reason)),
        Ok(other) => Err(SwitchoverError::Refused(format!(
            "an unexpected answer: {other:?}"
        ))),
        Err(error) => Err(SwitchoverError::Refused(error.to_string())),
    }
}

/// Hands over, waits until the group serves, and says so.
#[expect(clippy::print_stdout, reason = "the command line's answer")]
pub(crate) async fn run(args: Args) -> Result<ExitCode, SwitchoverError> {
    let cluster = args.which.load()?;
    let began = Instant::now();
    let (before, leader) = hand_over(&cluster, args.group, args.to).await?;
    loop {
        let status = gather(&cluster).await;
        let group = status.groups.iter().find(|found| found.id == args.group);
        if let Some(now) = group
            .filter(|group| group.is_serving())
            .and_then(|now| now.leader)
        {
            let took = began.elapsed().as_secs_f64();
            println!(
                "group {}: led by node {now}, before by node {before}; serves after {took:.1} s",
                args.group
            );
            // An election may have come between.
            let as_asked = args.to.is_none_or(|to| to == now);
            return Ok(if as_asked {
                ExitCode::SUCCESS
            } else {
                ExitCode::FAILURE
            });
        }
        if began.elapsed() > UNTIL_SERVED {
            return Err(SwitchoverError::NotServed {
                group: args.group,
                leader: group
                    .and_then(|group: &GroupStatus| group.leader)
                    .unwrap_or(leader),
            });
        }
        tokio::time::sleep(POLL).await;
    }
}
