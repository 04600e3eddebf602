//! Whoever breaks things. [`schedule`] decides from a seed what is struck when and for how long;
//! each kind of [`Fault`] knows how it begins and how it is healed; [`Nemesis`] carries the
//! schedule out, and heals everything at its end.

mod clients;
mod coordinator;
mod corrupt;
mod disk;
mod fault;
mod kill;
mod kinds;
mod partition;
mod pause;
mod schedule;
mod transfer;

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

pub use self::fault::{Fault, World};
pub use self::kinds::{KNOWN, Kind, Known, kinds};
pub use self::schedule::{Aim, Strike, schedule};
use crate::Result;
use crate::history::{Edn, Kind as OpKind, Process, Recorder};

/// How long faults that come apart wait for the cluster to become whole between them.
const WHOLE_WITHIN: Duration = Duration::from_secs(20);
/// How long the whole cluster then works undisturbed.
const BREATH: Duration = Duration::from_secs(1);

/// Whether faults may meet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    /// They begin when the schedule says so, also while others last.
    Overlapping,
    /// None begins before the one before it is healed and the cluster is whole again: each strikes a
    /// cluster that has everything to lose.
    Apart,
}

/// The schedule, while it is carried out.
#[derive(Debug)]
pub struct Nemesis {
    world: World,
    recorder: Recorder,
    pace: Pace,
    /// What is broken now, by when it is to be healed; the number keeps two apart.
    broken: BTreeMap<(Instant, u64), Box<dyn Fault>>,
    strikes: BTreeMap<&'static str, u64>,
    begun: u64,
}

impl Nemesis {
    /// One that has done nothing yet.
    #[must_use]
    pub fn new(world: World, recorder: Recorder, pace: Pace) -> Nemesis {
        Nemesis {
            world,
            recorder,
            pace,
            broken: BTreeMap::new(),
            strikes: BTreeMap::new(),
            begun: 0,
        }
    }

    /// Carries a schedule out until its end or until `stop`, and heals everything. Returns what it
    /// broke things in, and how often each fault struck.
    ///
    /// # Errors
    /// When a fault cannot be begun or healed, or a node has ended that nobody killed.
    pub async fn run(
        mut self,
        strikes: &[Strike],
        stop: CancellationToken,
    ) -> (World, BTreeMap<&'static str, u64>, Result<()>) {
        let done = self.follow(strikes, &stop).await;
        let healed = self.heal_all().await;
        (self.world, self.strikes, done.and(healed))
    }

    async fn follow(&mut self, strikes: &[Strike], stop: &CancellationToken) -> Result<()> {
        let began = Instant::now();
        for strike in strikes {
            if !self.until(began + strike.at, stop).await? {
                return Ok(());
            }
            if self.pace == Pace::Apart && self.begun > 0 && !self.until_whole(stop).await? {
                return Ok(());
            }
            self.world.cluster.complain_if_ended()?;
            self.strike(strike).await?;
        }
        self.until_healed(stop).await.map(drop)
    }

    /// Heals in its time what is still broken; false where the run was stopped.
    async fn until_healed(&mut self, stop: &CancellationToken) -> Result<bool> {
        while let Some(((due, _), _)) = self.broken.first_key_value() {
            let due = *due;
            if !self.until(due, stop).await? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// The same, and waits for a whole cluster; one that does not become whole is struck all the same.
    async fn until_whole(&mut self, stop: &CancellationToken) -> Result<bool> {
        if !self.until_healed(stop).await? {
            return Ok(false);
        }
        tokio::select! {
            _whole_or_not = self.world.cluster.wait_whole(WHOLE_WITHIN) => {}
            () = stop.cancelled() => return Ok(false),
        }
        self.until(Instant::now() + BREATH, stop).await
    }

    /// Heals what is due until then; false where the run was stopped.
    async fn until(&mut self, then: Instant, stop: &CancellationToken) -> Result<bool> {
        loop {
            let first = self.broken.first_key_value().map(|((due, _), _)| *due);
            let due = first.filter(|due| *due <= then);
            tokio::select! {
                () = sleep_until(due.unwrap_or(then)) => {}
                () = stop.cancelled() => return Ok(false),
            }
            match due.and_then(|_| self.broken.pop_first()) {
                Some((_, fault)) => self.heal(fault).await?,
                None => return Ok(true),
            }
        }
    }

    async fn strike(&mut self, strike: &Strike) -> Result<()> {
        let mut fault = strike.kind.fault();
        if fault.ends_others() {
            self.heal_all().await?;
        }
        let name = strike.kind.name();
        let aimed = Edn::map([("aim", Edn::Text(strike.aim.to_string()))]);
        self.record(name, aimed, None);
        let hit = match fault.start(&mut self.world, strike).await {
            Ok(hit) => hit,
            Err(error) if fault.lasts() => return Err(error),
            // What was to be hit ended in this very moment, or does not answer.
            Err(error) => {
                self.record(name, Edn::Nil, Some(error.to_string()));
                return Ok(());
            }
        };
        let Some(hit) = hit else {
            self.record(name, Edn::Nil, Some("there was nothing to hit".to_owned()));
            return Ok(());
        };
        self.record(name, hit, None);
        *self.strikes.entry(name).or_default() += 1;
        self.begun += 1;
        if fault.lasts() {
            self.broken
                .insert((Instant::now() + strike.lasts, self.begun), fault);
        }
        Ok(())
    }

    async fn heal(&mut self, mut fault: Box<dyn Fault>) -> Result<()> {
        let name = format!("heal-{}", fault.name());
        self.record(&name, Edn::Nil, None);
        let healed = fault.heal(&mut self.world).await?;
        self.record(&name, healed, None);
        Ok(())
    }

    async fn heal_all(&mut self) -> Result<()> {
        let mut outcome = Ok(());
        while let Some((_, fault)) = self.broken.pop_first() {
            outcome = outcome.and(self.heal(fault).await);
        }
        outcome
    }

    fn record(&self, f: &str, value: Edn, error: Option<String>) {
        self.recorder
            .record(Process::Nemesis, OpKind::Info, f, value, error);
    }
}
