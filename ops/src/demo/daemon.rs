//! A demo in the background: `--detach`, and `howdah demo stop`.

use std::fs::OpenOptions;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use rustix::process::Signal;
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep};

use super::error::{DemoError, file};
use super::layout::Stop;
use super::lock::{Holder, Lock};
use super::process::ProcessId;
use super::progress::{self, Progress};
use super::{StartArgs, any_node_config, last_line, prepare};
use crate::config::{ClusterConfig, Overrides};
use crate::signals;

/// The supervisor gives its nodes 20 s, and then sweeps up after them.
const STOP_PATIENCE: Duration = Duration::from_secs(45);

/// Starts the background process and waits until the cluster is ready.
pub(super) async fn start(args: &StartArgs) -> Result<(), DemoError> {
    let stop = signals::stop_requested();
    let progress = Progress::terminal();
    let (lock, layout) = prepare(args, &progress)?;
    // The background process takes the lock; whoever comes in between is told of by its log.
    drop(lock);
    let data = args.data();
    let log = data.join("demo.log");
    let mut daemon = spawn(args, &data, &log)?;
    let cluster = ClusterConfig::load(&any_node_config(&data), &Overrides::default())?;
    let outcome = tokio::select! {
        ready = progress::wait_ready(&cluster, &progress) => ready,
        _ = daemon.wait() => Err(DemoError::DaemonEnded { last: last_line(&log), log }),
        () = stop.cancelled() => {
            progress.say("stopping");
            return self::stop(&data).await.map(drop);
        }
    };
    match outcome {
        Ok(()) => progress.say(&layout.welcome(Stop::Command)),
        Err(error) => {
            self::stop(&data).await?;
            return Err(error);
        }
    }
    Ok(())
}

fn spawn(args: &StartArgs, data: &Path, log: &Path) -> Result<Child, DemoError> {
    let mut options = OpenOptions::new();
    options.create(true).write(true).truncate(true);
    let output = options.open(log).map_err(file(log, "cannot be written"))?;
    let errors = output.try_clone().map_err(file(log, "cannot be written"))?;
    let program = std::env::current_exe().map_err(file("/proc/self/exe", "cannot be read"))?;
    let mut command = Command::new(&program);
    command.args(["demo", "--supervise", "--data"]).arg(data);
    if let Some(port) = args.port {
        command.arg("--port").arg(port.to_string());
    }
    command.stdin(Stdio::null()).stdout(output).stderr(errors);
    command.spawn().map_err(file(program, "cannot be started"))
}

/// Stops the demo that runs on this data, and says which process that was; none where none runs.
pub(super) async fn stop(data: &Path) -> Result<Option<ProcessId>, DemoError> {
    let deadline = Instant::now() + STOP_PATIENCE;
    let mut asked = None;
    loop {
        let pid = match Lock::holder(data) {
            Holder::Nobody => return Ok(asked),
            Holder::Process(process) => {
                if asked != Some(process) {
                    // An error means that it has ended already.
                    let _ = process.signal(Signal::TERM);
                    asked = Some(process);
                }
                process.pid().to_string()
            }
            Holder::Unknown => "unknown".to_owned(),
        };
        if Instant::now() > deadline {
            let seconds = STOP_PATIENCE.as_secs();
            return Err(DemoError::DoesNotStop {
                data: data.to_owned(),
                pid,
                seconds,
            });
        }
        sleep(Duration::from_millis(100)).await;
    }
}
