//! What the person at the terminal sees while a demo starts.

use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use tokio::net::TcpStream;
use tokio::time::sleep;

use super::error::DemoError;
use crate::config::ClusterConfig;
use crate::status::{ClusterStatus, NodeState, gather};

/// A cluster that is not ready by then will hardly be.
const PATIENCE: Duration = Duration::from_secs(180);
/// How often the nodes are asked.
const ROUND: Duration = Duration::from_millis(200);

/// Where progress is told.
#[derive(Clone, Debug)]
pub(super) struct Progress {
    bar: Option<ProgressBar>,
    started: Instant,
}

impl Progress {
    /// To a person: bars that move, and a line for each step that is done.
    pub(super) fn terminal() -> Progress {
        let bar = ProgressBar::no_length();
        if let Ok(style) = ProgressStyle::with_template("  {spinner} {msg} [{bar:24}] {pos}/{len}  {elapsed}")
        {
            bar.set_style(style.progress_chars("=> "));
        }
        Progress {
            bar: Some(bar),
            started: Instant::now(),
        }
    }

    /// To a log: lines only.
    pub(super) fn log() -> Progress {
        Progress {
            bar: None,
            started: Instant::now(),
        }
    }

    /// A step is done.
    pub(super) fn done(&self, what: &str) {
        self.say(&format!(
            "{:>6.1} s  {what}",
            self.started.elapsed().as_secs_f64()
        ));
    }

    /// A line that stays.
    #[expect(clippy::print_stdout, reason = "the command line's answer")]
    pub(super) fn say(&self, line: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| println!("{line}")),
            None => println!("{line}"),
        }
    }

    fn at(&self, what: &str, reached: usize, of: usize) {
        if let Some(bar) = &self.bar {
            bar.enable_steady_tick(Duration::from_millis(100));
            bar.set_message(what.to_owned());
            bar.set_length(of as u64);
            bar.set_position(reached as u64);
        }
    }

    fn clear(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// Waits for every node to answer, every group to be led, and every port to take clients.
pub(super) async fn wait_ready(cluster: &ClusterConfig, progress: &Progress) -> Result<(), DemoError> {
    wait_for(cluster, progress, "nodes answering", nodes_up).await?;
    wait_for(cluster, progress, "groups with a leader that serves", groups_led).await?;
    wait_for(
        cluster,
        progress,
        "replicas leading or following",
        replicas_settled,
    )
    .await?;
    for addresses in cluster.nodes.values() {
        while TcpStream::connect(addresses.sql).await.is_err() {
            patience(progress, "ports for clients", 0, cluster.nodes.len())?;
            sleep(ROUND).await;
        }
    }
    Ok(())
}

/// Asks the nodes again and again until `measure` reaches all.
async fn wait_for(
    cluster: &ClusterConfig,
    progress: &Progress,
    what: &str,
    measure: fn(&ClusterStatus) -> (usize, usize),
) -> Result<(), DemoError> {
    loop {
        let (reached, of) = measure(&gather(cluster).await);
        progress.at(what, reached, of);
        if reached == of {
            break;
        }
        patience(progress, what, reached, of)?;
        sleep(ROUND).await;
    }
    progress.clear();
    progress.done(&format!("all {what}"));
    Ok(())
}

fn patience(progress: &Progress, what: &str, reached: usize, of: usize) -> Result<(), DemoError> {
    if progress.started.elapsed() < PATIENCE {
        return Ok(());
    }
    progress.clear();
    let waited_for = format!("{what} ({reached} of {of})");
    Err(DemoError::NotReady {
        seconds: PATIENCE.as_secs(),
        waited_for,
    })
}

fn nodes_up(status: &ClusterStatus) -> (usize, usize) {
    let up = status
        .nodes
        .iter()
        .filter(|node| node.state == NodeState::Up)
        .count();
    (up, status.nodes.len())
}

/// A group serves when its leader's PostgreSQL has been promoted and the gate is open.
fn groups_led(status: &ClusterStatus) -> (usize, usize) {
    let led = status.groups.iter().filter(|group| group.is_serving()).count();
    (led, status.groups.len())
}

/// Until then the loss of a node may be the loss of a group's only copy.
fn replicas_settled(status: &ClusterStatus) -> (usize, usize) {
    let replicas: Vec<_> = status.groups.iter().flat_map(|group| &group.replicas).collect();
    (
        replicas.iter().filter(|replica| replica.is_settled()).count(),
        replicas.len(),
    )
}
