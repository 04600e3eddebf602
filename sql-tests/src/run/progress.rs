//! What a person sees while a run goes on.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use tokio::task::JoinHandle;
use tokio::time::interval;

use super::Audience;
use super::clients::Counting;
use crate::history::{Process, Recorder};

/// How often the bar moves.
const FRAME: Duration = Duration::from_millis(250);
/// How often a log gets a line.
const LINE: Duration = Duration::from_secs(5);

/// Where progress is told.
#[derive(Clone, Debug)]
pub(super) struct Progress {
    audience: Audience,
    bar: Option<ProgressBar>,
    started: Instant,
}

impl Progress {
    pub(super) fn new(audience: Audience, time: Duration) -> Progress {
        let seen = audience == Audience::Terminal && std::io::stderr().is_terminal();
        let bar = seen.then(|| {
            let bar = ProgressBar::new(time.as_secs());
            let template = "  {spinner} [{bar:24}] {elapsed} {msg}";
            if let Ok(style) = ProgressStyle::with_template(template) {
                bar.set_style(style.progress_chars("=> "));
            }
            bar.enable_steady_tick(FRAME);
            bar
        });
        Progress {
            audience,
            bar,
            started: Instant::now(),
        }
    }

    /// A line that stays.
    #[expect(clippy::print_stderr, reason = "the command line's progress")]
    pub(super) fn say(&self, what: &str) {
        let line = format!("{:>6.1} s  {what}", self.started.elapsed().as_secs_f64());
        match (&self.bar, self.audience) {
            (Some(bar), _) => bar.suspend(|| eprintln!("{line}")),
            (None, Audience::Terminal) => eprintln!("{line}"),
            (None, Audience::Nobody) => {}
        }
    }

    /// Tells how it goes until it is aborted.
    pub(super) fn watch(&self, tally: Counting, recorder: Recorder) -> JoinHandle<()> {
        let progress = self.clone();
        tokio::spawn(async move {
            let began = Instant::now();
            let mut turn = interval(if progress.bar.is_some() { FRAME } else { LINE });
            let mut last = (Instant::now(), 0);
            loop {
                turn.tick().await;
                let now = tally.now();
                let span = last.0.elapsed().as_secs_f64().max(0.001);
                #[expect(clippy::cast_precision_loss, reason = "counts of a test")]
                let rate = (now.ok - last.1) as f64 / span;
                if span >= 1.0 {
                    last = (Instant::now(), now.ok);
                }
                let fault = last_fault(&recorder);
                let message = format!(
                    "{} ok, {} failed, {} unknown; {rate:.0} ok/s; {fault}",
                    now.ok, now.fail, now.info
                );
                match &progress.bar {
                    Some(bar) => {
                        bar.set_position(began.elapsed().as_secs());
                        bar.set_message(message);
                    }
                    None => progress.say(&message),
                }
            }
        })
    }
}

fn last_fault(recorder: &Recorder) -> String {
    let last = recorder.last_of(Process::Nemesis);
    last.map_or_else(
        || "no fault yet".to_owned(),
        |op| format!("last: {} {}", op.f, op.value),
    )
}
