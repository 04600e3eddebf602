//! pgbench's own set-up and its TPC-B-like transactions, which mostly write on both groups.

use crate::harness::Cluster;

#[tokio::test(flavor = "multi_thread")]
async fn pgbench_sets_up_and_its_books_balance() {
    let cluster = Cluster::start().await;
    for _ in 0..2 {
        // The second time there are tables to be dropped.
        cluster
            .program("pgbench", &["-i", "-s", "1", "-q"])
            .await
            .unwrap();
    }
    for (mode, and) in [("simple", "-r"), ("extended", "-n"), ("prepared", "-n")] {
        // Without -n it vacuums, and empties the history, first.
        let arguments = ["-c", "4", "-t", "25", "-M", mode, and];
        cluster.program("pgbench", &arguments).await.unwrap();
    }
    let mut sums = Vec::new();
    for sql in [
        "SELECT bbalance FROM pgbench_branches",
        "SELECT tbalance FROM pgbench_tellers",
        "SELECT abalance FROM pgbench_accounts",
        "SELECT delta FROM pgbench_history",
    ] {
        let lines = cluster.psql(sql).await.unwrap();
        let values: Vec<i64> = lines.lines().map(|line| line.parse().unwrap()).collect();
        sums.push((values.len(), values.iter().sum::<i64>()));
    }
    let sum = sums[0].1;
    assert_eq!(sums, [(1, sum), (10, sum), (100_000, sum), (300, sum)]);
}
