//! How long each piece of work takes, and how many are done, by clients that work all the time.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::Barrier;
use tokio::task::JoinSet;

use crate::Result;
use crate::report::median;

/// Pieces that each client does before the clock runs: connections and plans are warm then.
const WARM_UP: usize = 5;

/// A client.
pub trait Worker: Send + 'static {
    /// Does one piece of work, whole. Fails where any of it does.
    fn work(&mut self) -> impl Future<Output = Result<()>> + Send;
}

/// What clients did in one turn.
#[derive(Clone, Debug, Default)]
pub(super) struct Turn {
    latencies: Vec<Duration>,
    took: Duration,
}

/// Figures of one variant: the medians over its turns.
#[derive(Clone, Copy, Debug)]
pub struct Figures {
    /// The middle of the latencies.
    pub median: Duration,
    /// 99 of 100 are at most this.
    pub p99: Duration,
    /// Pieces a second, of all clients together.
    pub per_second: f64,
}

/// Has all clients work for this time; fails as soon as one does.
pub(super) async fn turn<W: Worker>(workers: Vec<W>, time: Duration) -> Result<Turn> {
    let begin = Arc::new(Barrier::new(workers.len()));
    let mut tasks: JoinSet<Result<(Vec<Duration>, Duration)>> = JoinSet::new();
    for mut worker in workers {
        let begin = Arc::clone(&begin);
        tasks.spawn(async move {
            for _ in 0..WARM_UP {
                worker.work().await?;
            }
            begin.wait().await;
            let (began, mut latencies) = (Instant::now(), Vec::new());
            while began.elapsed() < time {
                let asked = Instant::now();
                worker.work().await?;
                latencies.push(asked.elapsed());
            }
            Ok((latencies, began.elapsed()))
        });
    }
    let mut turn = Turn::default();
    while let Some(ended) = tasks.join_next().await {
        let (latencies, took) = ended??;
        turn.latencies.extend(latencies);
        turn.took = turn.took.max(took);
    }
    turn.latencies.sort_unstable();
    Ok(turn)
}

impl Turn {
    fn at(&self, percent: usize) -> Duration {
        let place = (self.latencies.len() * percent / 100).min(self.latencies.len().saturating_sub(1));
        self.latencies.get(place).copied().unwrap_or_default()
    }

    #[expect(clippy::cast_precision_loss, reason = "counts of a test")]
    fn per_second(&self) -> f64 {
        self.latencies.len() as f64 / self.took.as_secs_f64()
    }
}

impl Figures {
    pub(super) fn of(turns: &[Turn]) -> Result<Figures> {
        let times = |of: fn(&Turn) -> Duration| {
            let each: Vec<Duration> = turns.iter().map(of).collect();
            median(&each).ok_or("nothing was measured")
        };
        let mut rates: Vec<f64> = turns.iter().map(Turn::per_second).collect();
        rates.sort_unstable_by(f64::total_cmp);
        Ok(Figures {
            median: times(|turn| turn.at(50))?,
            p99: times(|turn| turn.at(99))?,
            per_second: rates[rates.len() / 2],
        })
    }
}
