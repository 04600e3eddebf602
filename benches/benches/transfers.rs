//! A transfer on a real cluster with three nodes: on one group, between two, and by hand with PREPARE TRANSACTION and COMMIT
//! PREPARED between plain servers. One client; all sync to disk: `cargo bench -p benches --bench transfers`.
//! `must-show transfers` has 16 clients too, and alternates.
//!
//! Also acts as `howdah` itself, so that the cluster is what this was built with.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use criterion::Criterion;
use sql_tests::cluster::{Cluster, Guard, Options};
use sql_tests::compare::{Autogroup, Bank, Way, Worker};
use tokio::runtime::Runtime;
use tokio::sync::Mutex;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().collect();
    if arguments.get(1).is_some_and(|first| first == "node") {
        return ops::main_from(arguments);
    }
    let mut criterion = Criterion::default()
        .sample_size(20)
        .measurement_time(Duration::from_secs(10))
        .configure_from_args();
    transfers(&mut criterion);
    criterion.final_summary();
    ExitCode::SUCCESS
}

fn transfers(criterion: &mut Criterion) {
    let _autogroup = Autogroup::off();
    let runtime = Runtime::new().expect("a runtime");
    let (cluster, bank) = runtime.block_on(async {
        let program = std::env::current_exe().expect("this program");
        let cluster = Cluster::start(&program, &Options::default()).await;
        let cluster = cluster.expect("a cluster starts");
        let bank = Bank::open(&cluster).await.expect("accounts are made");
        (cluster, bank)
    });
    let mut group = criterion.benchmark_group("transfer");
    for way in Way::ALL {
        let name = match way {
            Way::OneGroup => "one group",
            Way::TwoGroups => "two groups",
            Way::ByHand(Guard::Alone) => "by hand",
            Way::ByHand(Guard::Standbys) => "by hand, with standbys",
        };
        let client = runtime.block_on(bank.client(&cluster, way, 0));
        let client = Arc::new(Mutex::new(client.expect("a client connects")));
        group.bench_function(name, |bencher| {
            bencher.to_async(&runtime).iter_custom(|transfers| {
                let client = Arc::clone(&client);
                async move {
                    let mut client = client.lock().await;
                    let began = Instant::now();
                    for _ in 0..transfers {
                        client.work().await.expect("a transfer is made");
                    }
                    began.elapsed()
                }
            });
        });
    }
    group.finish();
    runtime.block_on(async {
        bank.check(&cluster).await.expect("no money is lost");
        cluster.shutdown(&[]).await.expect("the cluster stops");
    });
}
