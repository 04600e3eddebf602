//! Bytes that no client should send, to a node that lives: random, and near those of real conversations.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use replay::{Mutator, corpus};
use shard::id::NodeId;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_postgres::Client;

use crate::Result;
use crate::cluster::Cluster;
use crate::differential::generate::conversation;
use crate::differential::wire::Wire;

/// What a node may log of garbage, besides nothing.
pub const GARBAGE: [&str; 1] = ["client"];
/// Clients that send garbage at the same time.
const ATTACKERS: u64 = 4;
/// How long one of them listens for an answer before it hangs up.
const LISTEN: Duration = Duration::from_millis(40);
/// What the bystander may have to wait for an answer: groups are written on, and machines are busy.
const LONGEST_WAIT: Duration = Duration::from_secs(10);
/// How long the bystander rests between its questions. What it writes stays in the memory of the groups' logs, up to their bound
/// of 64 MiB, which nobody should take for a leak: 36,000 writes in half an hour.
const REST: Duration = Duration::from_millis(50);
/// How much larger the node may be at the end than when half of the time was over, bytes. It keeps the analysis of the last
/// 10,000 texts, each garbage its own, so it grows at first; later the bystander's writes are seen, and what the allocator does.
const MOST_GROWTH: u64 = 32 << 20;

/// How much of it.
#[derive(Clone, Copy, Debug)]
pub struct GarbagePlan {
    /// How long.
    pub time: Duration,
    /// Of the bytes.
    pub seed: u64,
}

/// What came of it.
#[derive(Clone, Debug, Default)]
pub struct GarbageReport {
    /// Connections that sent garbage.
    pub connections: u64,
    /// Bytes that they sent.
    pub sent: u64,
    /// Bytes that they were answered.
    pub answered: u64,
    /// What the bystander asked, and how long it waited at most.
    pub asked: i64,
    /// See there.
    pub longest_wait: Duration,
    /// Resident bytes of the node: at the start, after a quarter of the time, ..., at the end.
    pub resident: Vec<u64>,
}

/// Sends garbage to a node for a while. Beside it a client writes and reads back, and another does nothing.
///
/// # Errors
/// Where either is disturbed, the node panics or ends, or its memory goes on growing.
pub async fn garbage(cluster: &Cluster, node: NodeId, plan: GarbagePlan) -> Result<GarbageReport> {
    let address = cluster.sql_address(node)?;
    let silent = cluster.connect(node).await?;
    let bystander = cluster.connect(node).await?;
    let sql = "CREATE TABLE bystander (id bigint PRIMARY KEY, doubled bigint)";
    bystander.batch_execute(sql).await?;
    let until = Instant::now() + plan.time;
    let mut report = GarbageReport::default();
    let mut attackers = JoinSet::new();
    for number in 0..ATTACKERS {
        let seed = plan.seed.wrapping_mul(1000).wrapping_add(number);
        attackers.spawn(Attacker::new(address, seed).attack(until));
    }
    let watched = watch(cluster, node, plan.time);
    let (stood, watched) = tokio::join!(stand_by(&bystander, until), watched);
    (report.asked, report.longest_wait) = stood?;
    report.resident = watched?;
    while let Some(attacker) = attackers.join_next().await {
        let attacker = attacker??;
        report.connections += attacker.connections;
        report.sent += attacker.sent;
        report.answered += attacker.answered;
    }
    silent.query_one("SELECT 1", &[]).await?;
    if let Some(panic) = cluster
        .log_lines(node)?
        .iter()
        .find(|line| line.contains("panicked at"))
    {
        return Err(format!("the node panicked: {panic}").into());
    }
    let (half, end) = (report.resident[2], report.resident[4]);
    if end > half + MOST_GROWTH {
        return Err(format!("the node's memory grows: {:?} bytes", report.resident).into());
    }
    Ok(report)
}

async fn watch(cluster: &Cluster, node: NodeId, time: Duration) -> Result<Vec<u64>> {
    let mut resident = vec![cluster.resident(node)?];
    for _ in 0..4 {
        tokio::time::sleep(time / 4).await;
        cluster.complain_if_ended()?;
        resident.push(cluster.resident(node)?);
    }
    Ok(resident)
}

/// Writes rows and reads them back: how many, and the longest wait.
async fn stand_by(client: &Client, until: Instant) -> Result<(i64, Duration)> {
    let (mut id, mut longest) = (0_i64, Duration::ZERO);
    while Instant::now() < until {
        id += 1;
        let asked = Instant::now();
        let work = async {
            let written = client
                .execute("INSERT INTO bystander VALUES ($1, $2)", &[&id, &(id * 2)])
                .await?;
            let row = client
                .query_one("SELECT doubled FROM bystander WHERE id = $1", &[&id])
                .await?;
            Ok::<_, tokio_postgres::Error>((written, row.get::<_, i64>(0)))
        };
        let answer = timeout(LONGEST_WAIT, work).await;
        let answer = answer.map_err(|_| format!("the bystander waits for more than {LONGEST_WAIT:?}"))??;
        if answer != (1, id * 2) {
            return Err(format!("the bystander was answered {answer:?} for {id}").into());
        }
        longest = longest.max(asked.elapsed());
        tokio::time::sleep(REST).await;
    }
    let found: i64 = client
        .query_one("SELECT count(*) FROM bystander", &[])
        .await?
        .get(0);
    if found == id {
        Ok((id, longest))
    } else {
        Err(format!("{found} rows of the bystander's {id}").into())
    }
}

struct Attacker {
    address: SocketAddr,
    rng: StdRng,
    mutator: Mutator,
    /// What clients say first, and what they say later.
    first: Vec<Vec<u8>>,
    later: Vec<Vec<u8>>,
    connections: u64,
    sent: u64,
    answered: u64,
}

impl Attacker {
    fn new(address: SocketAddr, seed: u64) -> Attacker {
        let bytes = |target| {
            corpus(target)
                .into_iter()
                .map(|(_, bytes)| bytes)
                .collect::<Vec<_>>()
        };
        let mut later = bytes("client_messages");
        // Real exchanges of every kind, one input each.
        let conversations = (0..4).flat_map(|number| conversation(seed.wrapping_add(number)).exchanges);
        later.extend(conversations.map(|exchange| exchange.bytes().to_vec()));
        Attacker {
            address,
            rng: StdRng::seed_from_u64(seed),
            mutator: Mutator::new(&format!("protocol {seed}")),
            first: bytes("startup"),
            later,
            connections: 0,
            sent: 0,
            answered: 0,
        }
    }

    async fn attack(mut self, until: Instant) -> Result<Attacker> {
        while Instant::now() < until {
            self.connections += 1;
            match self.rng.random_range(0..10) {
                0 => {
                    let length = self.rng.random_range(1..2000);
                    let noise: Vec<u8> = (0..length).map(|_| self.rng.random()).collect();
                    let stream = TcpStream::connect(self.address).await?;
                    self.say(stream, &noise).await;
                }
                1..4 => {
                    let bytes = self.mutator.mutation(&self.first);
                    let stream = TcpStream::connect(self.address).await?;
                    self.say(stream, &bytes).await;
                }
                _ => self.session().await?,
            }
        }
        Ok(self)
    }

    /// A session that begins as it should.
    async fn session(&mut self) -> Result<()> {
        // The node may be full of those before it, which are still being closed.
        let Ok(wire) = Wire::connect(self.address).await else {
            return Ok(());
        };
        let mut bytes = Vec::new();
        for _ in 0..self.rng.random_range(1..4) {
            let input = self.mutator.mutation(&self.later);
            bytes.extend(if self.rng.random() { framed(&input) } else { input });
        }
        self.say(wire.into_stream(), &bytes).await;
        Ok(())
    }

    /// Sends bytes in pieces, listens for a moment, and hangs up, with words or without.
    async fn say(&mut self, mut stream: TcpStream, bytes: &[u8]) {
        let piece = [1, 7, 100, 1 << 20][self.rng.random_range(0..4)].max(bytes.len() / 50);
        for part in bytes.chunks(piece.max(1)) {
            if stream.write_all(part).await.is_err() {
                break;
            }
            self.sent += u64::try_from(part.len()).unwrap_or(0);
        }
        if self.rng.random() {
            let _ = stream.shutdown().await;
        }
        let mut answer = vec![0; 16 << 10];
        while let Ok(Ok(count)) = timeout(LISTEN, stream.read(&mut answer)).await {
            if count == 0 {
                break;
            }
            self.answered += u64::try_from(count).unwrap_or(0);
        }
    }
}

/// Gives a message of the right length the bytes of one that has not: so what lies behind the frame is reached.
fn framed(input: &[u8]) -> Vec<u8> {
    let (tag, body) = match input {
        [tag, _, _, _, _, body @ ..] => (*tag, body),
        _ => (b'Q', input),
    };
    let mut bytes = vec![tag];
    bytes.extend(u32::try_from(body.len() + 4).unwrap_or(4).to_be_bytes());
    bytes.extend(body);
    bytes
}
