//! The Raft log on disk: our segments (`shard::log`) against the `raft-log` crate.
//!
//! One iteration makes one record durable. `depth` is how many records are on their way at once, over all groups
//! together. Ours is one log for all groups; `raft-log` is one log per group, as its API has it, once as it comes (it
//! waits 1 ms to gather a batch before each fsync) and once told not to wait. Figures: `benches/README.md`.

use std::collections::VecDeque;
use std::hint::black_box;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

use bytes::Bytes;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use raft_log::api::raft_log_writer::RaftLogWriter;
use raft_log::{Config, RaftLog, Types};
use shard::id::{GroupId, LogIndex, Term};
use shard::log::{GroupLog, LogOptions, NodeLog, Record};

type Told = Receiver<io::Result<()>>;

/// Something that makes records of groups durable.
trait Log {
    /// Adds the group's next record. It is durable when the answer comes.
    fn append(&mut self, group: usize) -> Told;
}

struct Ours {
    groups: Vec<(GroupLog, LogIndex)>,
    bytes: Bytes,
}

impl Ours {
    fn open(dir: &Path, groups: u32, size: usize) -> Ours {
        let log = NodeLog::open(dir, LogOptions::default()).expect("the bench's directory is writable");
        let groups = (0..groups)
            .map(|group| (log.group(GroupId(group)), LogIndex(0)))
            .collect();
        Ours {
            groups,
            bytes: vec![7; size].into(),
        }
    }
}

impl Log for Ours {
    fn append(&mut self, group: usize) -> Told {
        let (tell, told) = sync_channel(1);
        let (log, next) = &mut self.groups[group];
        let index = *next;
        let record = Record {
            index,
            term: Term(1),
            bytes: self.bytes.clone(),
        };
        *next = next.next();
        let done = move |result| tell.send(result).expect("the bench waits for every record");
        log.append(vec![record], Box::new(done)).expect("the log is open");
        if index.0 % 1000 == 999 {
            let upto = LogIndex(index.0 - 500);
            log.purge(upto, Term(1), Bytes::new(), Box::new(|_| {}))
                .expect("the log is open");
        }
        told
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Theirs;

impl Types for Theirs {
    type LogId = (u64, u64);
    type LogPayload = String;
    type Vote = (u64, u64);
    type Callback = SyncSender<io::Result<()>>;
    type UserData = String;

    fn log_index(log_id: &Self::LogId) -> u64 {
        log_id.1
    }

    fn payload_size(payload: &Self::LogPayload) -> u64 {
        payload.len() as u64
    }
}

struct PerGroup {
    groups: Vec<(RaftLog<Theirs>, u64)>,
    payload: String,
}

impl PerGroup {
    fn open(dir: &Path, groups: u32, size: usize, wait: Option<Duration>) -> PerGroup {
        let open = |group| {
            let dir = dir.join(format!("{group}"));
            std::fs::create_dir(&dir).expect("the bench's directory is writable");
            let mut config = Config::new(dir.display());
            config.wal.chunk_max_size = Some(64 * 1024 * 1024);
            config.wal.flush_batch_wait = wait;
            config.log_cache_capacity = Some(64 * 1024 * 1024);
            (RaftLog::open(Arc::new(config)).expect("a new log opens"), 0)
        };
        PerGroup {
            groups: (0..groups).map(open).collect(),
            payload: "7".repeat(size),
        }
    }
}

impl Log for PerGroup {
    fn append(&mut self, group: usize) -> Told {
        let (tell, told) = sync_channel(1);
        let (log, next) = &mut self.groups[group];
        let index = *next;
        log.append([((1, index), self.payload.clone())])
            .expect("the log is open");
        log.flush(true, Some(tell)).expect("the log is open");
        *next += 1;
        if index % 1000 == 999 {
            log.purge((1, index - 500)).expect("the log is open");
        }
        told
    }
}

/// Makes `records` records durable, never more than `depth` on their way.
fn run(log: &mut dyn Log, groups: usize, depth: usize, records: u64) {
    let mut waiting = VecDeque::with_capacity(depth);
    let wait = |told: Told| {
        black_box(told.recv())
            .expect("every record is answered")
            .expect("the disk takes it")
    };
    for record in 0..records {
        if waiting.len() == depth {
            waiting.pop_front().into_iter().for_each(wait);
        }
        let group = usize::try_from(record).expect("64 bits") % groups;
        waiting.push_back(log.append(group));
    }
    waiting.into_iter().for_each(wait);
}

fn durable_appends(c: &mut Criterion) {
    for size in [4 * 1024, 64 * 1024] {
        for (groups, depth) in [(1, 1), (1, 16), (2, 1), (2, 16)] {
            let mut bench =
                c.benchmark_group(format!("append/{}KiB/{groups}-groups/depth-{depth}", size / 1024));
            bench.throughput(Throughput::Bytes(size as u64));
            for name in ["own", "raft-log", "raft-log-nowait"] {
                // In the build's directory, not in /tmp, which may be memory.
                let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR"))
                    .expect("the build's directory is writable");
                let mut log: Box<dyn Log> = match name {
                    "own" => Box::new(Ours::open(dir.path(), groups, size)),
                    "raft-log" => Box::new(PerGroup::open(dir.path(), groups, size, None)),
                    _ => Box::new(PerGroup::open(dir.path(), groups, size, Some(Duration::ZERO))),
                };
                bench.bench_function(BenchmarkId::from_parameter(name), |b| {
                    b.iter_custom(|iterations| {
                        let start = std::time::Instant::now();
                        run(&mut *log, groups as usize, depth, iterations);
                        start.elapsed()
                    });
                });
            }
            bench.finish();
        }
    }
}

criterion_group! {
    name = log;
    config = Criterion::default().sample_size(20);
    targets = durable_appends
}
criterion_main!(log);
