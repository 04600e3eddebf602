//! SIGSTOP of leaders: a leader that slept must not answer with old data when it wakes.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_postgres::Client;
use tokio_util::sync::CancellationToken;

use crate::Result;
use crate::cluster::{Cluster, Frozen, PATIENCE};
use crate::load::{self, Counter, Ledger, Writers};
use crate::verify::{nothing_lost, replicas_agree};

/// Readers on the paused node; each asks, waits for the answer, and asks again.
const READERS: usize = 8;
/// Readers that first ask while the node sleeps, spread over its sleep.
const LATE_READERS: u32 = 20;
/// Counters of each group that are counted up.
const COUNTED: usize = 4;

/// How much of it.
#[derive(Clone, Copy, Debug)]
pub struct PausePlan {
    /// How many leaders are paused, in turn of each group.
    pub rounds: usize,
    /// For how long.
    pub sleep: Duration,
    /// What is paused.
    pub frozen: Frozen,
}

/// What came of it.
#[derive(Clone, Debug)]
pub struct PauseReport {
    /// For each pause, the time to the next acknowledged write on that group.
    pub gaps: Vec<Duration>,
    /// Reads that the paused nodes answered, none of which was old.
    pub answers: usize,
    /// Of these, how many were asked while the node slept.
    pub late_answers: usize,
}

/// Pauses the leader's node, again and again, while others write and clients of that very node
/// read. Every answer must show at least what was acknowledged before its question was asked.
pub async fn pause_leaders(cluster: &mut Cluster, plan: PausePlan) -> Result<PauseReport> {
    let ledger = load::prepare(cluster).await?;
    let writers = Writers::start(cluster, &ledger, 2, COUNTED)?;
    let mut report = PauseReport {
        gaps: Vec::new(),
        answers: 0,
        late_answers: 0,
    };
    let groups = cluster.groups();
    for group in groups.iter().cycle().take(plan.rounds) {
        sleep(Duration::from_secs(1)).await;
        let leader = cluster.leader_of(*group).await?;
        // Those that are counted up, whichever node their writers use.
        let counters: Vec<Counter> = ledger.counters_of(*group).into_iter().take(COUNTED).collect();
        let mut counters = counters.into_iter().cycle();
        let mut next = || counters.next().ok_or("a group without counters");
        let answers = Arc::new(AtomicUsize::new(0));
        let late_answers = Arc::new(AtomicUsize::new(0));
        let stop = CancellationToken::new();
        let mut readers = JoinSet::new();
        for _ in 0..READERS {
            let (client, counter) = (cluster.connect(leader).await?, next()?);
            readers.spawn(read_on(
                client,
                counter,
                ledger.clone(),
                stop.clone(),
                Arc::clone(&answers),
            ));
        }
        let mut late = Vec::new();
        for _ in 0..LATE_READERS {
            late.push(cluster.connect(leader).await?);
        }
        let others = cluster.node_ids().into_iter().find(|node| *node != leader);
        let observer = cluster.connect(others.ok_or("a cluster of one node")?).await?;
        let observed = ledger.counters_of(*group).into_iter().nth(COUNTED);
        let observed = observed.ok_or("a group with too few counters")?;
        sleep(Duration::from_millis(200)).await;

        let paused = Instant::now();
        cluster.pause(leader, plan.frozen)?;
        let next_ack = tokio::spawn(next_write(observer, observed, ledger.clone(), paused));
        for client in late {
            let (ledger, answers) = (ledger.clone(), Arc::clone(&late_answers));
            let counter = next()?;
            readers.spawn(async move { read_once(&client, counter, &ledger, &answers).await.map(drop) });
            sleep(plan.sleep / LATE_READERS).await;
        }
        report.gaps.push(next_ack.await??);
        cluster.resume(leader)?;
        sleep(Duration::from_secs(2)).await;
        stop.cancel();
        while let Some(ended) = readers.join_next().await {
            ended??;
        }
        report.answers += answers.load(Ordering::Relaxed) + late_answers.load(Ordering::Relaxed);
        report.late_answers += late_answers.load(Ordering::Relaxed);
        cluster.wait_whole(PATIENCE).await?;
    }
    writers.stop().await?;
    nothing_lost(cluster, &ledger).await?;
    replicas_agree(cluster, "entry").await?;
    replicas_agree(cluster, "counter").await?;
    Ok(report)
}

/// Writes on through another node, in a session that was open before, until a write is acknowledged;
/// gives how long after `paused` that was.
async fn next_write(client: Client, counter: Counter, ledger: Ledger, paused: Instant) -> Result<Duration> {
    let text = format!("UPDATE counter SET n = n + 1 WHERE id = {}", counter.id);
    while paused.elapsed() < PATIENCE {
        let began = Instant::now();
        match timeout(PATIENCE, client.execute(&text, &[])).await? {
            Ok(_) => {
                ledger.counted(counter, began);
                return Ok(paused.elapsed());
            }
            Err(_) => ledger.maybe_counted(counter),
        }
        sleep(Duration::from_millis(10)).await;
    }
    Err(format!(
        "no write on group {} was acknowledged within {PATIENCE:?}",
        counter.group
    )
    .into())
}

async fn read_on(
    client: Client,
    counter: Counter,
    ledger: Ledger,
    stop: CancellationToken,
    answers: Arc<AtomicUsize>,
) -> Result<()> {
    // An error ends the session, as an application's pool would.
    while !stop.is_cancelled() && read_once(&client, counter, &ledger, &answers).await? == Answer::Given {
        sleep(Duration::from_millis(1)).await;
    }
    Ok(())
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answer {
    Given,
    Refused,
}

/// Fails only where the answer is older than what was acknowledged before the question.
async fn read_once(
    client: &Client,
    counter: Counter,
    ledger: &Ledger,
    answers: &AtomicUsize,
) -> Result<Answer> {
    let acknowledged = ledger.count(counter.id);
    let asked = Instant::now();
    let text = format!("SELECT n FROM counter WHERE id = {}", counter.id);
    let Ok(Ok(messages)) = timeout(PATIENCE, client.simple_query(&text)).await else {
        return Ok(Answer::Refused);
    };
    let shown = messages.iter().find_map(|message| match message {
        tokio_postgres::SimpleQueryMessage::Row(row) => row.get(0),
        _ => None,
    });
    let shown: i64 = shown.ok_or("a counter has no row")?.parse()?;
    if shown < acknowledged {
        return Err(format!(
            "old data: counter {} shown as {shown}, but {acknowledged} was acknowledged before the question, \
             which took {:?}",
            counter.id,
            asked.elapsed()
        )
        .into());
    }
    answers.fetch_add(1, Ordering::Relaxed);
    Ok(Answer::Given)
}
