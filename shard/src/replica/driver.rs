//! Carries out what [`decide`] says, one step at a time.
//!
//! A step is a future that is dropped as soon as the replica's part in Raft makes another step the
//! answer. Nothing here remembers what only memory knows: each step begins from the durable
//! [`Life`], the committed history and the server as it is.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::lead;
use super::life::{Facts, Feed, Life, Part, Server as ServerState, Step, decide};
use super::source::SourceRelay;
use super::turns::Turns;
use super::{ReplicaError, Shared};
use crate::causes::with_causes;
use crate::entry::{Command, Genesis, TimelineSwitch};
use crate::id::{NodeId, Term};
use crate::postgres::{Rewind, Running, SUPERUSER, Server, StartMode, StopMode};
use crate::transport::StreamError;
use crate::wal::{
    Applied, RebuildReason, Receiver, StandbyStatus, TimelineId, WalHistory, parse_history_file,
};

/// How long to wait before a step that failed is tried again: doubled from the first to the last.
const FIRST_RETRY: Duration = Duration::from_millis(50);
const LAST_RETRY: Duration = Duration::from_secs(5);
/// The last where only another replica's readiness is waited for.
const LAST_NOT_YET: Duration = Duration::from_millis(400);

/// The time between two resignations, at least. Where no replica that is heard of has a directory
/// to lead with, the leadership would else go round as fast as messages do.
const BETWEEN_RESIGNATIONS: Duration = Duration::from_secs(1);

/// A promotion replays what is left and starts a timeline; it writes no checkpoint first.
const PROMOTION_PATIENCE: Duration = Duration::from_secs(600);

/// How long a leader may take until its gate is open before it gives way to another replica.
const GIVE_WAY: Duration = Duration::from_secs(60);

/// How often the gate is looked at for that.
const LOOK_AT_GATE: Duration = Duration::from_millis(500);

/// How often a replica that waits looks at what is in the log and in the standby, at most.
const LOOK_AT_WAL: Duration = Duration::from_millis(5);

/// A PostgreSQL server that this replica runs.
struct Postgres {
    running: Running,
    /// The term in which it was begun as, or promoted to, a primary; none for a standby.
    primary_in: Option<Term>,
}

pub(super) struct Driver {
    shared: Arc<Shared>,
    server: Server,
    life: Life,
    postgres: Option<Postgres>,
    feed: watch::Receiver<StandbyStatus>,
    part: watch::Receiver<Part>,
    history: watch::Receiver<Arc<WalHistory>>,
    /// The newest timeline in the control file; forgotten whenever a server is started.
    reached: Option<TimelineId>,
    resigned: Option<Instant>,
    turns: Turns,
    /// Since when this replica leads without an open gate.
    closed_since: Option<Instant>,
}

impl Driver {
    pub(super) async fn open(
        shared: Arc<Shared>,
        server: Server,
        feed: watch::Receiver<StandbyStatus>,
    ) -> Result<Driver, ReplicaError> {
        let life = server.read_life().await?.unwrap_or_default();
        let part = shared.observed.part.clone();
        let history = shared.observed.history.clone();
        let mut driver = Driver {
            shared,
            server,
            life,
            postgres: None,
            feed,
            part,
            history,
            reached: None,
            resigned: None,
            turns: Turns::default(),
            closed_since: None,
        };
        // Unreadable where the directory is empty; where it matters the step that needs it asks again.
        let _unknown = driver.inspect().await;
        Ok(driver)
    }

    /// Runs until `stop`, then stops PostgreSQL.
    pub(super) async fn run(mut self, stop: CancellationToken) {
        let mut retry = FIRST_RETRY;
        let mut reported = Step::Wait("");
        let mut failed = None;
        while !stop.is_cancelled() {
            let step = self.decide();
            if step != reported {
                tracing::info!(group = %self.shared.group, state = state_of(&step), "{}", words_of(&step));
                reported = step.clone();
            }
            self.shared.publish_state(
                state_of(&step),
                self.postgres.as_ref().map(|server| server.running.pid()),
            );
            let closed_since = self.closed_since();
            let shared = self.shared.clone();
            let mut part = self.part.clone();
            let captured = self.captured();
            let outcome = tokio::select! {
                biased;
                () = stop.cancelled() => break,
                () = captured.answer_changes(&mut part, &step) => Ok(()),
                outcome = self.carry_out(&step) => outcome,
                () = closed_for_long(&shared, closed_since) => {
                    self.closed_since = None;
                    self.give_way(&step).await;
                    Ok(())
                }
            };
            match outcome {
                Ok(()) => {}
                Err(error) => {
                    self.report(&step, &error);
                    // A step that fails changes what is observed, too: only another one begins anew.
                    if failed.as_ref() != Some(&step) {
                        retry = FIRST_RETRY;
                    }
                    // Only what changes the step: in a busy group the commit index changes all the time.
                    let (captured, mut part) = (self.captured(), self.part.clone());
                    tokio::select! {
                        () = stop.cancelled() => break,
                        () = tokio::time::sleep(retry) => {}
                        () = captured.answer_changes(&mut part, &step) => {}
                    }
                    failed = Some(step);
                    retry = (retry * 2).min(if is_not_yet(&error) {
                        LAST_NOT_YET
                    } else {
                        LAST_RETRY
                    });
                }
            }
        }
        self.shared.publish_state("stopped", None);
        if let Err(error) = self.end().await {
            tracing::warn!(group = %self.shared.group, %error, "PostgreSQL could not be stopped");
        }
    }

    async fn end(&mut self) -> Result<(), ReplicaError> {
        self.stop_server().await?;
        Ok(self.server.end().await?)
    }

    fn report(&self, step: &Step, error: &ReplicaError) {
        let (group, step) = (self.shared.group, state_of(step));
        if is_not_yet(error) {
            tracing::info!(%group, step, "not yet: {}", with_causes(error));
        } else {
            tracing::warn!(%group, step, "failed, will be tried again: {}", with_causes(error));
        }
    }

    fn server_state(&self) -> ServerState {
        match &self.postgres {
            Some(postgres) if postgres.running.is_running() => match postgres.primary_in {
                Some(term) => ServerState::Primary { term },
                None => ServerState::Standby(self.feed_state()),
            },
            _ => ServerState::Stopped,
        }
    }

    fn feed_state(&self) -> Feed {
        let feed = self.feed.borrow();
        let history = self.history.borrow();
        let caught_up = |timeline| feed.connected && feed.has_all(timeline, history.end());
        let noticed =
            |reason| !(crate::broken::NO_REWIND && matches!(reason, RebuildReason::Diverged { .. }));
        if feed.rebuild.is_some_and(noticed) {
            Feed::Lost
        } else if history.timeline().is_some_and(caught_up) {
            Feed::CaughtUp
        } else {
            Feed::Behind
        }
    }

    fn captured(&self) -> Captured {
        Captured {
            shared: self.shared.clone(),
            history: self.history.clone(),
            life: self.life.clone(),
            server: self.server_state(),
            reached: self.reached,
        }
    }

    fn decide(&self) -> Step {
        let part = *self.part.borrow();
        self.captured().decide(part)
    }

    async fn carry_out(&mut self, step: &Step) -> Result<(), ReplicaError> {
        match step {
            Step::Wait(_) => self.wait_for_change().await,
            Step::Stop => self.stop_server().await,
            Step::Create => self.create().await,
            Step::AnnounceBirth { .. } => self.announce_birth().await,
            Step::Become(life) => self.become_(life.clone()).await,
            Step::StartStandby => self.start_standby().await,
            Step::StartPrimary { term } => self.start_primary(*term).await,
            Step::Promote { term } => self.promote(*term).await,
            Step::Inspect => self.inspect().await,
            Step::Unpromote { to } => self.unpromote(*to).await,
            Step::AnnounceSwitch { .. } => self.announce_switch().await,
            Step::Lead { term } => self.lead(*term).await,
            Step::Resign { .. } => self.resign().await,
            Step::Rewind { leader } => self.rewind(*leader).await,
            Step::Rebuild { leader } => self.rebuild(*leader).await,
        }
    }

    /// Until anything that a decision rests on changes.
    async fn wait_for_change(&mut self) -> Result<(), ReplicaError> {
        let exited = async {
            match self
                .postgres
                .as_ref()
                .filter(|postgres| postgres.running.is_running())
            {
                Some(postgres) => {
                    postgres.running.exited().wait().await;
                }
                None => std::future::pending().await,
            }
        };
        let wal = async {
            // These change with every entry.
            tokio::time::sleep(LOOK_AT_WAL).await;
            tokio::select! {
                changed = self.history.changed() => changed,
                changed = self.feed.changed() => changed,
            }
        };
        tokio::select! {
            changed = self.part.changed() => changed.map_err(|_| ReplicaError::RaftGone)?,
            changed = wal => changed.map_err(|_| ReplicaError::RaftGone)?,
            () = exited => self.report_exit().await,
        }
        Ok(())
    }

    async fn report_exit(&self) {
        if let Some(postgres) = &self.postgres {
            let words = postgres.running.last_words().await;
            tracing::warn!(group = %self.shared.group, "PostgreSQL ended by itself: {words}");
        }
    }

    async fn stop_server(&mut self) -> Result<(), ReplicaError> {
        if let Some(postgres) = &self.postgres {
            postgres.running.stop(StopMode::Immediate).await?;
            self.postgres = None;
        }
        Ok(())
    }

    /// Reads how far the stopped server got.
    async fn inspect(&mut self) -> Result<(), ReplicaError> {
        let data = self.server.control_data().await?;
        self.reached = Some(data.timeline.max(data.min_recovery_timeline));
        Ok(())
    }

    /// Since when this replica leads without serving; none where it does not, or has nobody to
    /// give way to.
    fn closed_since(&mut self) -> Option<Instant> {
        let closed = matches!(*self.part.borrow(), Part::Leader { ready: true, .. })
            && self.shared.gate.open_in().is_none()
            && self.shared.replicas > 1;
        self.closed_since = closed.then(|| self.closed_since.unwrap_or_else(Instant::now));
        self.closed_since
    }

    /// Hands the leadership on because this replica does not get to serve: its PostgreSQL does not
    /// start, its disk is full, its recovery takes long. Another may do better, and the group waits.
    async fn give_way(&mut self, step: &Step) {
        tracing::warn!(group = %self.shared.group, step = state_of(step), "leads without serving for too long, giving way");
        if let Err(error) = self.resign().await {
            self.report(step, &error);
        }
    }

    /// Writes down what the directory is from now on.
    ///
    /// A crash here leaves the old life, which led to the same decision; the next start takes it again.
    /// It does not wait asynchronously: a step that is dropped has written its life, or has not begun to.
    fn write_life(&mut self, life: Life) -> Result<(), ReplicaError> {
        tokio::task::block_in_place(|| self.server.write_life(&life))?;
        self.life = life;
        Ok(())
    }

    async fn become_(&mut self, life: Life) -> Result<(), ReplicaError> {
        if matches!(self.life, Life::Copied { .. }) && life == Life::Standby {
            // The log covers the copy, so it knows every timeline that the copy has WAL of.
            let history = self.history.borrow().clone();
            let left_at = move |timeline| history.successor(timeline).map(|(_, at)| at);
            self.server.drop_left_wal(left_at).await?;
            self.server.finish_rebuild().await?;
        }
        self.write_life(life)
    }

    async fn create(&mut self) -> Result<(), ReplicaError> {
        self.stop_server().await?;
        // A crash before the last line leaves a directory that nobody trusts, and that the next
        // attempt wipes.
        self.write_life(Life::Empty)?;
        self.server.wipe().await?;
        self.server.initdb().await?;
        let system_id = self.server.control_data().await?.system_id;
        self.write_life(Life::Born { system_id })
    }

    async fn announce_birth(&mut self) -> Result<(), ReplicaError> {
        let running = &self.running()?.running;
        let stream = running.endpoint().connect().await.map_err(ReplicaError::Socket)?;
        let identity = Receiver::connect(stream, SUPERUSER).await?.identify().await?;
        let genesis = Genesis {
            system_id: identity.system_id,
            start: identity.flushed.segment_start(),
            origin: self.shared.node,
        };
        let applied = self
            .shared
            .raft
            .propose(Command::Genesis(genesis))
            .await?
            .outcome()
            .await?;
        self.see(applied).await
    }

    /// Waits until decisions rest on a history that has `applied`: on an older one the next would be
    /// that the log went on without this replica.
    async fn see(&mut self, applied: Applied) -> Result<(), ReplicaError> {
        let seen = self
            .history
            .wait_for(|history| history.timeline() >= Some(applied.timeline))
            .await;
        seen.map(drop).map_err(|_| ReplicaError::RaftGone)
    }

    async fn start_standby(&mut self) -> Result<(), ReplicaError> {
        let mode = StartMode::Standby(self.server.feed_endpoint());
        self.reached = None;
        let mut feed = self.feed.clone();
        let started = tokio::select! {
            started = self.server.start(&mode) => Some(started?),
            // It is not ready before it is consistent, and needs WAL for that.
            _ = feed.wait_for(|feed| feed.rebuild.is_some()) => None,
        };
        match started {
            Some(running) => {
                self.postgres = Some(Postgres {
                    running,
                    primary_in: None,
                })
            }
            None => self.write_life(Life::Empty)?,
        }
        Ok(())
    }

    async fn start_primary(&mut self, term: Term) -> Result<(), ReplicaError> {
        self.reached = None;
        let running = self.server.start(&StartMode::Primary).await?;
        self.postgres = Some(Postgres {
            running,
            primary_in: Some(term),
        });
        Ok(())
    }

    async fn promote(&mut self, term: Term) -> Result<(), ReplicaError> {
        let (from, after) = {
            let history = self.history.borrow();
            (history.timeline().ok_or(ReplicaError::NotBorn)?, history.end())
        };
        // A crash from here on leaves a directory that may be on a timeline of its own; whoever
        // leads next goes on without it, or this node takes the promotion up again.
        self.write_life(Life::Promoted { from, after })?;
        self.reached = None;
        let postgres = self.postgres.as_mut().ok_or(ReplicaError::ServerGone)?;
        postgres.primary_in = Some(term);
        postgres.running.promote().await?;
        postgres.running.wait_promoted(PROMOTION_PATIENCE).await?;
        Ok(())
    }

    async fn unpromote(&mut self, to: TimelineId) -> Result<(), ReplicaError> {
        self.inspect().await?;
        if self.reached > Some(to) {
            return Ok(());
        }
        self.server.forget_timelines_after(to).await?;
        self.write_life(Life::Standby)
    }

    async fn announce_switch(&mut self) -> Result<(), ReplicaError> {
        let Life::Promoted { after, .. } = self.life else {
            return Err(ReplicaError::ServerGone);
        };
        let running = &self.running()?.running;
        let stream = running.endpoint().connect().await.map_err(ReplicaError::Socket)?;
        let mut receiver = Receiver::connect(stream, SUPERUSER).await?;
        let timeline = receiver.identify().await?.timeline;
        let history = receiver.history(timeline).await?;
        let at = parse_history_file(&history)?
            .last()
            .ok_or(ReplicaError::NotBorn)?
            .end;
        let switch = TimelineSwitch {
            timeline,
            at,
            after,
            origin: self.shared.node,
            history,
        };
        // A crash before it commits leaves the promotion open; after, the log knows it as ours.
        let applied = self
            .shared
            .raft
            .propose(Command::Switch(switch))
            .await?
            .outcome()
            .await?;
        self.see(applied).await?;
        self.write_life(Life::Primary { timeline })
    }

    async fn lead(&mut self, term: Term) -> Result<(), ReplicaError> {
        let Life::Primary { timeline } = self.life else {
            return Err(ReplicaError::ServerGone);
        };
        let running = &self.running()?.running;
        let mut exited = running.exited();
        let led = tokio::select! {
            outcome = lead::lead(&self.shared, term, timeline, running) => outcome.map(|never| match never {}),
            _ = exited.wait() => {
                self.report_exit().await;
                return Ok(());
            }
        };
        match led {
            Err(error @ ReplicaError::Silent { .. }) => self.leave_silent(&error).await,
            led => led,
        }
    }

    /// Hands the leadership on because PostgreSQL hangs, to the replica that has most of the log.
    ///
    /// The gate has closed, so nothing more that PostgreSQL says gets out, whenever it wakes; what it shows early when
    /// it is killed is shown to nobody. A crash here, or a leadership that is over before this is: the directory's
    /// life is that of a primary still, and its server is stopped, with SIGKILL in the end, before the next step.
    async fn leave_silent(&mut self, error: &ReplicaError) -> Result<(), ReplicaError> {
        tracing::warn!(group = %self.shared.group, "handing the leadership on: {}", with_causes(error));
        let others = self.shared.raft.others_by_progress();
        let handed = self.hand_on(others).await;
        // Nobody has taken it: a server that begins anew is worth more than one that says nothing.
        self.stop_server().await?;
        handed
    }

    async fn resign(&mut self) -> Result<(), ReplicaError> {
        if let Some(resigned) = self.resigned {
            tokio::time::sleep_until(resigned + BETWEEN_RESIGNATIONS).await;
        }
        self.resigned = Some(Instant::now());
        let others = self.turns.order(self.shared.raft.others_by_progress());
        self.hand_on(others).await
    }

    /// Asks `others` in turn to take the leadership, until one has it.
    async fn hand_on(&self, others: Vec<NodeId>) -> Result<(), ReplicaError> {
        for other in others {
            match self.shared.raft.transfer_to(other).await {
                Ok(()) => return Ok(()),
                Err(error) => {
                    tracing::info!(group = %self.shared.group, %other, %error, "it did not take the leadership")
                }
            }
        }
        Err(ReplicaError::NobodyElse)
    }

    async fn rewind(&mut self, leader: NodeId) -> Result<(), ReplicaError> {
        self.stop_server().await?;
        let source = SourceRelay::open(&self.shared, &self.server, leader).await?;
        // A new leader's gate is still closed for a moment; nothing is given up for a refusal.
        source.probe().await?;
        if crate::broken::NO_REWIND {
            return self.write_life(Life::Standby);
        }
        // A crash from here on leaves a directory of mixed pages: empty, to be copied whole.
        self.write_life(Life::Empty)?;
        match self.server.rewind(source.endpoint()).await? {
            Rewind::NotNeeded => self.write_life(Life::Standby)?,
            Rewind::Rewound(copied) => {
                self.write_life(Life::Copied {
                    timeline: copied.timeline,
                    until: copied.end,
                })?;
            }
        }
        Ok(())
    }

    async fn rebuild(&mut self, leader: NodeId) -> Result<(), ReplicaError> {
        let source = SourceRelay::open(&self.shared, &self.server, leader).await?;
        source.probe().await?;
        self.stop_server().await?;
        // A crash from here on leaves part of a copy: empty, to be copied again.
        self.write_life(Life::Empty)?;
        let copied = self.server.base_backup(source.endpoint()).await?;
        self.shared.feed_again();
        self.write_life(Life::Copied {
            timeline: copied.timeline,
            until: copied.end,
        })
    }

    fn running(&self) -> Result<&Postgres, ReplicaError> {
        self.postgres.as_ref().ok_or(ReplicaError::ServerGone)
    }
}

/// Returns when the gate of a leader has been closed for [`GIVE_WAY`]; never for one that is none.
async fn closed_for_long(shared: &Shared, since: Option<Instant>) {
    let Some(mut since) = since else {
        return std::future::pending().await;
    };
    while since.elapsed() < GIVE_WAY {
        tokio::time::sleep(LOOK_AT_GATE).await;
        if shared.gate.open_in().is_some() {
            since = Instant::now();
        }
    }
}

/// What a step was decided on, besides the part in Raft: the step itself changes these.
struct Captured {
    shared: Arc<Shared>,
    history: watch::Receiver<Arc<WalHistory>>,
    life: Life,
    server: ServerState,
    reached: Option<TimelineId>,
}

impl Captured {
    fn decide(&self, part: Part) -> Step {
        let history = self.history.borrow().clone();
        decide(&Facts {
            node: self.shared.node,
            part,
            history: &history,
            life: &self.life,
            server: self.server,
            reached: self.reached,
        })
    }

    /// Returns when the part in Raft has changed so that `step` is no longer the answer.
    async fn answer_changes(&self, part: &mut watch::Receiver<Part>, step: &Step) {
        if let Step::Wait(_) = step {
            return std::future::pending().await;
        }
        while part.changed().await.is_ok() {
            let now = *part.borrow_and_update();
            if same_part(step, now) && self.decide(now) == *step {
                continue;
            }
            return;
        }
        // The last part has been seen: nothing changes the answer any more.
        std::future::pending().await
    }
}

/// A step that a leader takes, in the same leadership still; or one that a follower takes.
fn same_part(step: &Step, part: Part) -> bool {
    match step {
        Step::AnnounceBirth { term }
        | Step::StartPrimary { term }
        | Step::Promote { term }
        | Step::AnnounceSwitch { term }
        | Step::Lead { term }
        | Step::Resign { term } => matches!(part, Part::Leader { term: now, .. } if now == *term),
        _ => true,
    }
}

/// A leader that is not ready yet, a leadership that ended meanwhile: part of a failover.
fn is_not_yet(error: &ReplicaError) -> bool {
    matches!(
        error,
        ReplicaError::Source(StreamError::Refused(_)) | ReplicaError::Propose(_)
    )
}

/// The state's short name, for status and logs.
fn state_of(step: &Step) -> &'static str {
    match step {
        Step::Wait(why) => why,
        Step::Stop => "stopping",
        Step::Create => "creating",
        Step::AnnounceBirth { .. } => "announcing birth",
        Step::Become(_) => "settling",
        Step::StartStandby => "starting as standby",
        Step::StartPrimary { .. } => "starting as primary",
        Step::Promote { .. } => "promoting",
        Step::Inspect => "inspecting",
        Step::Unpromote { .. } => "undoing a promotion",
        Step::AnnounceSwitch { .. } => "announcing timeline",
        Step::Lead { .. } => "leading",
        Step::Resign { .. } => "resigning",
        Step::Rewind { .. } => "rewinding",
        Step::Rebuild { .. } => "rebuilding",
    }
}

fn words_of(step: &Step) -> String {
    match step {
        Step::Become(life) => format!("the data directory is now: {life:?}"),
        other => format!("{other:?}"),
    }
}
