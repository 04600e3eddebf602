//! The clients of a run.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};

use super::Options;
use super::feed::Feed;
use super::target::{Doors, Target};
use crate::Result;
use crate::client::{Disturbance, Effect, Isolation, Session, Stop, completion};
use crate::history::{Kind, Process, Recorder};
use crate::workload::Operation;

/// The pause before another server is tried.
const PAUSE: Duration = Duration::from_millis(50);
/// How often a final read is tried.
const TRIES: u32 = 5;
/// Sessions that read back through one node.
const READERS: u64 = 8;
/// One client of so many only reads: at a leader that was cut off the others soon wait for a write each, and would not
/// notice what it answers.
const ONE_READER_IN: u64 = 4;
/// Kinds of errors that are told apart.
const DISTINCT: usize = 200;

/// How operations ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// With success.
    pub ok: u64,
    /// Surely not.
    pub fail: u64,
    /// Nobody knows.
    pub info: u64,
    /// Why they failed or are not known, and how many of each.
    pub errors: BTreeMap<String, u64>,
    /// Answers that no correct server gives.
    pub wrong: Vec<String>,
}

/// A tally that is being made.
#[derive(Clone, Debug, Default)]
pub(super) struct Counting(Arc<Mutex<Tally>>);

impl Counting {
    pub(super) fn now(&self) -> Tally {
        self.0.lock().clone()
    }

    fn ok(&self) {
        self.0.lock().ok += 1;
    }

    fn stopped(&self, kind: Kind, stop: &Stop) {
        let mut tally = self.0.lock();
        match kind {
            Kind::Fail => tally.fail += 1,
            _ => tally.info += 1,
        }
        if let Stop::Wrong(what) = stop {
            tally.wrong.push(what.clone());
        }
        let text = format!("{kind:?} {}", without_numbers(&stop.to_string()));
        if tally.errors.len() < DISTINCT || tally.errors.contains_key(&text) {
            *tally.errors.entry(text).or_default() += 1;
        }
    }
}

/// The same words for the same error of different rows. SQLSTATEs, which come first, stay.
fn without_numbers(text: &str) -> String {
    let (code, words) = text.split_at_checked(5).unwrap_or(("", text));
    let mut short = code.to_owned();
    for c in words.chars() {
        let c = if c.is_ascii_digit() { '#' } else { c };
        if !(c == '#' && short.ends_with('#')) {
            short.push(c);
        }
    }
    short
}

/// All clients.
pub(super) struct Crew {
    doors: Doors,
    recorder: Recorder,
    disturbance: Disturbance,
    tally: Counting,
    concurrency: u64,
    seed: u64,
    isolation: Isolation,
    /// The next number that no process has.
    next_process: Arc<AtomicU64>,
}

impl Crew {
    pub(super) fn new(
        options: &Options,
        isolation: Isolation,
        target: &Target,
        recorder: Recorder,
        disturbance: Disturbance,
    ) -> Crew {
        Crew {
            doors: target.doors().clone(),
            recorder,
            disturbance,
            tally: Counting::default(),
            concurrency: options.concurrency,
            seed: options.seed,
            isolation,
            next_process: Arc::default(),
        }
    }

    pub(super) fn tally(&self) -> Counting {
        self.tally.clone()
    }

    pub(super) fn recorder(&self) -> Recorder {
        self.recorder.clone()
    }

    /// Lets the clients work until the feed ends.
    pub(super) async fn work(&mut self, feed: &Arc<Feed>) -> Result<()> {
        let mut clients = JoinSet::new();
        for number in 0..self.concurrency {
            let mut client = self.client(number, &self.doors.all, usize::try_from(number)?);
            client.reads = self.doors.reads.clone();
            client.only_reads = number % ONE_READER_IN == ONE_READER_IN - 1;
            clients.spawn(client.work(Arc::clone(feed)));
        }
        while let Some(ended) = clients.join_next().await {
            ended?;
        }
        Ok(())
    }

    fn client(&self, number: u64, doors: &[tokio_postgres::Config], first: usize) -> ClientTask {
        self.next_process.fetch_max(number + 1, Ordering::Relaxed);
        ClientTask {
            doors: doors.to_vec(),
            reads: Vec::new(),
            only_reads: false,
            next_door: first,
            session: None,
            read_session: None,
            process: number,
            step: self.concurrency.max(1),
            isolation: self.isolation,
            next_process: Arc::clone(&self.next_process),
            rng: StdRng::seed_from_u64(self.seed.wrapping_add(number).wrapping_mul(0x9e37_79b9_7f4a_7c15)),
            recorder: self.recorder.clone(),
            disturbance: self.disturbance.clone(),
            tally: self.tally.clone(),
        }
    }

    /// Carries `reads` out through every door; says which could not be carried out.
    pub(super) async fn read_back(&self, reads: &[Box<dyn Operation>]) -> Vec<String> {
        let mut troubles = Vec::new();
        let doors = self.doors.all.iter().chain(&self.doors.reads);
        for (place, door) in doors.enumerate() {
            let first = self
                .next_process
                .load(Ordering::Relaxed)
                .next_multiple_of(self.concurrency.max(1));
            let readers = (0..READERS).map(|reader| {
                let mut client = self.client(first + reader, std::slice::from_ref(door), 0);
                client.step = READERS;
                let every = usize::try_from(READERS).unwrap_or(1);
                let from = usize::try_from(reader).unwrap_or(0);
                let mine = reads.iter().skip(from).step_by(every);
                async move { client.read_all(mine.map(AsRef::as_ref)).await }
            });
            let failed: u64 = futures::future::join_all(readers).await.into_iter().sum();
            if failed > 0 {
                troubles.push(format!(
                    "{failed} of {} final reads failed through server {} although all is whole",
                    reads.len(),
                    place + 1
                ));
            }
        }
        troubles
    }
}

/// Which of a client's two connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// To what takes everything.
    All,
    /// To what only reads.
    Reads,
}

/// One client.
struct ClientTask {
    doors: Vec<tokio_postgres::Config>,
    /// For half of what only reads; empty where that is the same.
    reads: Vec<tokio_postgres::Config>,
    /// As long as there is something to be read.
    only_reads: bool,
    next_door: usize,
    session: Option<Session>,
    read_session: Option<Session>,
    process: u64,
    step: u64,
    isolation: Isolation,
    next_process: Arc<AtomicU64>,
    rng: StdRng,
    recorder: Recorder,
    disturbance: Disturbance,
    tally: Counting,
}

impl ClientTask {
    async fn work(mut self, feed: Arc<Feed>) {
        while let Some((at, operation)) = feed.next(self.only_reads) {
            sleep_until(at).await;
            let way = self.way(operation.effect());
            if !self.connect(way, feed.until).await {
                return;
            }
            self.perform(operation.as_ref(), way).await;
        }
    }

    /// Each read until it succeeds; returns how many did not.
    async fn read_all<'a>(mut self, reads: impl Iterator<Item = &'a dyn Operation>) -> u64 {
        let mut failed = 0;
        for read in reads {
            let mut tries = 0;
            let done = loop {
                tries += 1;
                let until = Instant::now() + Duration::from_secs(30);
                let done =
                    self.connect(Way::All, until).await && self.perform(read, Way::All).await == Kind::Ok;
                if done || tries == TRIES {
                    break done;
                }
                sleep(PAUSE).await;
            };
            failed += u64::from(!done);
        }
        failed
    }

    /// Readers of both servers are what shows that these disagree.
    fn way(&mut self, effect: Effect) -> Way {
        if effect == Effect::Reads && !self.reads.is_empty() && self.rng.random() {
            Way::Reads
        } else {
            Way::All
        }
    }

    /// A connection to any server that takes one; false where none did in time. Nothing is recorded:
    /// nothing was asked.
    async fn connect(&mut self, way: Way, until: Instant) -> bool {
        loop {
            let (doors, session) = match way {
                Way::All => (&self.doors, &mut self.session),
                Way::Reads => (&self.reads, &mut self.read_session),
            };
            if session.as_ref().is_some_and(Session::is_usable) {
                return true;
            }
            let Some(place) = self.next_door.checked_rem(doors.len()) else {
                return false;
            };
            *session = Session::open(&doors[place], self.isolation).await.ok();
            if session.is_none() {
                if Instant::now() >= until {
                    return false;
                }
                self.next_door += 1;
                sleep(PAUSE).await;
            }
        }
    }

    async fn perform(&mut self, operation: &dyn Operation, way: Way) -> Kind {
        let kept = match way {
            Way::All => &mut self.session,
            Way::Reads => &mut self.read_session,
        };
        let Some(mut session) = kept.take() else {
            return Kind::Fail;
        };
        session.prepare(&self.disturbance, &mut self.rng);
        let process = Process::Client(self.process);
        let record = |kind, value, error| {
            self.recorder.record(process, kind, operation.f(), value, error);
        };
        record(Kind::Invoke, operation.value(), None);
        let stop = match operation.perform(&mut session).await {
            Ok(value) => {
                record(Kind::Ok, value, None);
                self.tally.ok();
                *kept = Some(session);
                return Kind::Ok;
            }
            Err(stop) => stop,
        };
        let kind = completion(&stop, operation.effect());
        record(kind, operation.value(), Some(stop.to_string()));
        self.tally.stopped(kind, &stop);
        if kind == Kind::Info {
            self.process += self.step;
            self.next_process.fetch_max(self.process + 1, Ordering::Relaxed);
            self.next_door += 1;
        } else if !matches!(stop, Stop::Silent { .. }) && session.recover().await {
            *kept = Some(session);
        } else {
            self.next_door += 1;
        }
        if !matches!(stop, Stop::Declined(_)) {
            let pause = PAUSE.mul_f64(self.rng.random());
            sleep(pause).await;
        }
        kind
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_of_different_rows_are_counted_together() {
        assert_eq!(
            without_numbers("40001 (Open): key 123 of 7"),
            "40001 (Open): key # of #"
        );
    }
}
