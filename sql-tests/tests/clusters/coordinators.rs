//! Coordinators that die at each step of a commit on two groups: all or none is kept, and soon nothing is in doubt. With
//! the feature `failpoints` only; ops/test runs them.

use std::time::{Duration, Instant};

use coordinator::failpoint::{Duty, Step};
use ops::in_doubt::gather;
use shard::id::NodeId;
use sql_tests::cluster::{Cluster, Options, PATIENCE};
use tokio::time::sleep;
use tokio_postgres::Client;

use crate::{FAULTS, cluster};

/// Each transaction writes all of these: rows of both groups.
const ROWS: i64 = 8;

async fn table(cluster: &Cluster) {
    let client = cluster.connect(NodeId(1)).await.unwrap();
    let sql = "CREATE TABLE written (step bigint, row bigint, PRIMARY KEY (row, step))";
    client.batch_execute(sql).await.unwrap();
    let sql = "SELECT create_distributed_table('written', 'row')";
    client.query(sql, &[]).await.unwrap();
}

/// By a session of that node, which may die of it.
async fn write(client: &Client, step: i64) -> Result<(), tokio_postgres::Error> {
    client.batch_execute("BEGIN").await?;
    for row in 1..=ROWS {
        let sql = format!("INSERT INTO written VALUES ({step}, {row})");
        client.batch_execute(&sql).await?;
    }
    client.batch_execute("COMMIT").await
}

async fn arm(cluster: &Cluster, nodes: &[NodeId], step: Step) {
    for node in nodes {
        assert!(cluster.arm(*node, Some(step)).await, "{node} at {}", step.name());
    }
}

/// Waits until one of these nodes has died; then none of the others dies any more.
async fn one_dies(cluster: &Cluster, nodes: &[NodeId], step: Step) -> Vec<NodeId> {
    let began = Instant::now();
    while !nodes.iter().any(|node| cluster.has_ended(*node)) {
        assert!(began.elapsed() < PATIENCE, "nobody comes to {}", step.name());
        sleep(Duration::from_millis(20)).await;
    }
    for node in nodes {
        cluster.arm(*node, None).await;
    }
    let mut dead = nodes.to_vec();
    dead.retain(|node| cluster.has_ended(*node));
    dead
}

/// Waits until every group says that nothing is in doubt there.
async fn nothing_in_doubt(cluster: &Cluster, step: Step) {
    let began = Instant::now();
    loop {
        let answers = gather(cluster.config()).await.unwrap_or_default();
        let settled = |answer: &Result<Vec<_>, String>| matches!(answer, Ok(parts) if parts.is_empty());
        if !answers.is_empty() && answers.iter().all(|(_, answer)| settled(answer)) {
            return;
        }
        assert!(began.elapsed() < PATIENCE, "after {}: {answers:?}", step.name());
        sleep(Duration::from_millis(200)).await;
    }
}

/// How many rows of each group each replica of it shows, by the groups' own servers.
async fn rows_of(cluster: &Cluster, step: i64) -> Vec<i64> {
    let mut rows = Vec::new();
    for group in cluster.groups() {
        let leader = cluster.leader_of(group).await.unwrap();
        let server = cluster.replica(leader, group).await.unwrap();
        let sql = "SELECT count(*) FROM written WHERE step = $1";
        rows.push(server.query_one(sql, &[&step]).await.unwrap().get(0));
    }
    rows
}

#[tokio::test(flavor = "multi_thread")]
async fn a_coordinator_that_dies_at_any_step_leaves_all_or_nothing() {
    let (_turn, mut cluster) = cluster(&Options::default()).await;
    table(&cluster).await;
    let before = cluster.connect(NodeId(1)).await.unwrap();
    write(&before, -1).await.unwrap();
    let whole = rows_of(&cluster, -1).await;
    assert!(
        whole.iter().all(|rows| *rows > 0),
        "rows on both groups: {whole:?}"
    );
    let nothing = vec![0; whole.len()];

    let steps = Step::ALL.into_iter().filter(|step| step.duty() == Duty::Commits);
    for (number, step) in (0_i64..).zip(steps) {
        // In turn, so that leaders and others die.
        let node = cluster.node_ids()[usize::try_from(number).unwrap() % 3];
        let client = cluster.connect(node).await.unwrap();
        arm(&cluster, &[node], step).await;
        let error = write(&client, number).await.unwrap_err();
        assert!(
            error.is_closed() || error.code().is_none(),
            "{}: {error}",
            step.name()
        );
        assert_eq!(one_dies(&cluster, &[node], step).await, [node]);
        // Its PostgreSQL servers die with it, or live until it starts again.
        if number % 2 == 0 {
            cluster.kill_node(node).unwrap();
        } else {
            cluster.bury_node(node).unwrap();
        }
        // Nobody waits for it: it stays down until all is settled.
        nothing_in_doubt(&cluster, step).await;
        let rows = rows_of(&cluster, number).await;
        match step {
            step if step < Step::DecisionSent => assert_eq!(rows, nothing, "{}", step.name()),
            Step::DecisionSent => assert!(rows == whole || rows == nothing, "{rows:?}"),
            _ => assert_eq!(rows, whole, "{}", step.name()),
        }
        cluster.restart_node(node).unwrap();
        cluster.wait_whole(PATIENCE).await.unwrap();
        assert_eq!(rows_of(&cluster, number).await, rows, "{}", step.name());
    }
    cluster.shutdown(&FAULTS).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_settles_and_cleans_may_die_of_it_too() {
    let (_turn, mut cluster) = cluster(&Options::default()).await;
    table(&cluster).await;
    let nodes = cluster.node_ids();
    let steps = Step::ALL.into_iter().filter(|step| step.duty() != Duty::Commits);
    for (number, step) in (0_i64..).zip(steps) {
        let client = cluster.connect(nodes[0]).await.unwrap();
        let mut dead = Vec::new();
        if step.duty() == Duty::Recovers {
            arm(&cluster, &nodes[..1], Step::AllPrepared).await;
            arm(&cluster, &nodes[1..], step).await;
            write(&client, number).await.unwrap_err();
            dead = one_dies(&cluster, &nodes[..1], Step::AllPrepared).await;
            dead.extend(one_dies(&cluster, &nodes[1..], step).await);
        } else {
            write(&client, number).await.unwrap();
            arm(&cluster, &nodes, step).await;
            dead.extend(one_dies(&cluster, &nodes, step).await);
        }
        for node in &dead {
            cluster.kill_node(*node).unwrap();
        }
        for node in dead {
            cluster.restart_node(node).unwrap();
        }
        nothing_in_doubt(&cluster, step).await;
        cluster.wait_whole(PATIENCE).await.unwrap();
        let rows = rows_of(&cluster, number).await;
        let committed = step.duty() == Duty::Cleans;
        assert_eq!(
            rows.iter().sum::<i64>(),
            if committed { ROWS } else { 0 },
            "{rows:?}"
        );
    }
    cluster.shutdown(&FAULTS).await.unwrap();
}
