//! The search for deadlocks across groups, in what several hundred waiting transactions show: the whole price, on the
//! processor, of a look: `cargo bench -p benches --bench deadlock`.

use std::hint::black_box;

use coordinator::deadlock::{Transaction, Wait, victims};
use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use shard::id::GroupId;

const GROUPS: [GroupId; 2] = [GroupId(1), GroupId(2)];

/// Transaction `n` has backend `n` on both groups.
fn transactions(count: i32) -> Vec<Transaction> {
    let one = |n: i32| Transaction {
        began: u64::from(n.unsigned_abs()),
        id: u64::from(n.unsigned_abs()),
        backends: GROUPS.map(|group| (group, n)).to_vec(),
    };
    (0..count).map(one).collect()
}

fn wait(group: GroupId, waiting: i32, blocking: impl IntoIterator<Item = i32>) -> Wait {
    Wait {
        waiting: (group, waiting),
        blocking: blocking.into_iter().map(|pid| (group, pid)).collect(),
    }
}

/// All wait in one line for one row: each for all before it, as `pg_blocking_pids` has it.
fn queue(count: i32) -> Vec<Wait> {
    (1..count).map(|n| wait(GROUPS[0], n, 0..n)).collect()
}

/// Each two wait for each other, on different groups.
fn pairs(count: i32) -> Vec<Wait> {
    (0..count)
        .map(|n| {
            let (group, other) = if n % 2 == 0 {
                (GROUPS[0], n + 1)
            } else {
                (GROUPS[1], n - 1)
            };
            wait(group, n, [other])
        })
        .collect()
}

fn deadlock(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("deadlock");
    for count in [100, 300] {
        let transactions = transactions(count);
        for (name, waits) in [("queue", queue(count)), ("pairs", pairs(count))] {
            group.bench_function(BenchmarkId::new(name, count), |bencher| {
                bencher.iter(|| victims(black_box(&transactions), black_box(&waits)));
            });
        }
    }
    group.finish();
}

criterion_group!(benches, deadlock);
criterion_main!(benches);
