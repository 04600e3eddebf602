//! pgbench's own set-up and its TPC-B-like transactions, which mostly write on both groups.

use crate::harness::Cluster;

const SCRIPT: &str = "\\set aid random(1, 100000)
\\set tid random(1, 10)
\\set delta random(-5000, 5000)
BEGIN;
UPDATE pgbench_accounts SET abalance = abalance + :delta WHERE aid = :aid;
SELECT abalance FROM pgbench_accounts WHERE aid = :aid;
UPDATE pgbench_tellers SET tbalance = tbalance + :delta WHERE tid = :tid;
UPDATE pgbench_branches SET bbalance = bbalance + :delta WHERE bid = 1;
INSERT INTO pgbench_history (tid, bid, aid, delta, mtime) VALUES (:tid, 1, :aid, :delta, CURRENT_TIMESTAMP);
END;
";

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
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("tpcb.sql");
    std::fs::write(&file, SCRIPT).unwrap();
    let file = file.display().to_string();
    for mode in ["simple", "extended", "prepared"] {
        cluster
            .program("pgbench", &["-n", "-c", "4", "-t", "25", "-M", mode, "-f", &file])
            .await
            .unwrap();
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
