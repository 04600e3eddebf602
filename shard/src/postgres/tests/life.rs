//! From nothing to a running server, and its ends.

use std::time::Instant;

use rustix::process::{Pid, Signal, kill_process};

use super::super::{ClusterState, Error, LastRole, StopMode, orphan};
use super::*;

#[tokio::test]
async fn what_was_written_survives_an_immediate_stop() {
    let home = Home::new();
    let server = home.server(1).await;
    assert_eq!(server.last_role(), LastRole::Empty);
    server.initdb().await.unwrap();
    assert_eq!(server.last_role(), LastRole::Primary);
    assert_eq!(server.control_data().await.unwrap().state, ClusterState::ShutDown);

    let running = server.start(&StartMode::Primary).await.unwrap();
    assert!(running.is_running());
    run(
        &running,
        "CREATE TABLE notes (text text); INSERT INTO notes VALUES ('kept')",
    )
    .await;
    let control = running.control().await.unwrap();
    assert_eq!(
        control.system_id().await.unwrap(),
        server.control_data().await.unwrap().system_id
    );
    assert!(!control.in_recovery().await.unwrap());
    assert!(control.flushed_lsn().await.unwrap() <= control.insert_lsn().await.unwrap());
    assert!(matches!(
        server.start(&StartMode::Primary).await,
        Err(Error::StillRunning { .. })
    ));

    let begin = Instant::now();
    running.stop(StopMode::Immediate).await.unwrap();
    assert!(begin.elapsed() < PATIENCE / 2);
    assert!(!running.is_running());
    assert_eq!(
        server.control_data().await.unwrap().state,
        ClusterState::InProduction
    );

    let running = server.start(&StartMode::Primary).await.unwrap();
    assert_eq!(notes(&running).await, ["kept"]);
    running.stop(StopMode::Fast).await.unwrap();
    assert_eq!(server.control_data().await.unwrap().state, ClusterState::ShutDown);
}

#[tokio::test]
async fn the_settings_that_promises_rest_on_hold_whatever_alter_system_says() {
    let home = Home::new();
    let server = home.fresh().await;
    let running = server.start(&StartMode::Primary).await.unwrap();
    run(&running, "ALTER SYSTEM SET fsync = off").await;
    run(&running, "ALTER SYSTEM SET synchronous_standby_names = ''").await;
    running.stop(StopMode::Fast).await.unwrap();
    let running = server.start(&StartMode::Primary).await.unwrap();
    let control = running.control().await.unwrap();
    for (name, expected) in [
        ("fsync", "on"),
        ("synchronous_standby_names", "howdah"),
        ("synchronous_commit", "on"),
        ("restart_after_crash", "off"),
        ("listen_addresses", ""),
        ("data_checksums", "on"),
        ("server_encoding", "UTF8"),
        ("shared_buffers", "16MB"),
        ("max_prepared_transactions", "200"),
    ] {
        let row = control
            .client()
            .query_one(&format!("SHOW {name}"), &[])
            .await
            .unwrap();
        assert_eq!(row.get::<_, String>(0), expected, "{name}");
    }
    let collation = "SELECT datcollate FROM pg_database WHERE datname = 'postgres'";
    let row = control.client().query_one(collation, &[]).await.unwrap();
    assert_eq!(row.get::<_, String>(0), "C.UTF-8");
    running.stop(StopMode::Immediate).await.unwrap();
}

#[tokio::test]
async fn an_unexpected_end_is_seen() {
    let home = Home::new();
    let server = home.fresh().await;
    let running = server.start(&StartMode::Primary).await.unwrap();
    let control = running.control().await.unwrap();
    let backend: i32 = control
        .client()
        .query_one("SELECT pg_backend_pid()", &[])
        .await
        .unwrap()
        .get(0);
    let mut exited = running.exited();
    assert!(exited.now().is_none());
    // restart_after_crash is off: one killed backend takes the server down.
    kill_process(Pid::from_raw(backend).unwrap(), Signal::KILL).unwrap();
    let status = exited.wait_at_most(PATIENCE).await.expect("the postmaster ends");
    assert!(!status.success());
    assert!(!running.is_running());
    let words = running.last_words().await;
    assert!(words.contains("terminat"), "{words}");
    assert!(matches!(running.promote().await, Err(Error::NotRunning { .. })));
}

#[tokio::test]
async fn a_start_that_fails_tells_postgresqls_last_words() {
    let home = Home::new();
    let server = home.fresh().await;
    let control_file = server.files().pgdata.join("global/pg_control");
    fs::write(&control_file, b"garbage").unwrap();
    let error = server.start(&StartMode::Primary).await.unwrap_err().to_string();
    assert!(
        error.contains("did not start") && error.contains("pg_control"),
        "{error}"
    );
}

#[tokio::test]
async fn the_node_opens_only_when_its_receiver_is_the_synchronous_standby() {
    let home = Home::new();
    let server = home.fresh().await;
    let running = server.start(&StartMode::Primary).await.unwrap();
    let control = running.control().await.unwrap();
    assert!(!control.receiver_is_synchronous().await.unwrap());
    let archive = home.0.path().join("archive");
    server.make_private(&archive).unwrap();
    let mut receiver = program(&server, "pg_receivewal");
    receiver
        .arg("-D")
        .arg(&archive)
        .arg("-d")
        .arg(running.endpoint().conninfo("howdah"));
    let mut receiver = receiver.args(["--synchronous", "--no-loop"]).spawn().unwrap();
    eventually("the receiver is synchronous", async || {
        control.receiver_is_synchronous().await.unwrap()
    })
    .await;
    receiver.kill().unwrap();
    receiver.wait().unwrap();
    eventually("the receiver is gone", async || {
        !control.receiver_is_synchronous().await.unwrap()
    })
    .await;
    running.stop(StopMode::Immediate).await.unwrap();
}

#[tokio::test]
async fn a_server_whose_handle_is_dropped_ends_and_can_be_started_again() {
    let home = Home::new();
    let server = home.fresh().await;
    let running = server.start(&StartMode::Primary).await.unwrap();
    let mut exited = running.exited();
    drop(running);
    let running = server.start(&StartMode::Primary).await.unwrap();
    assert!(exited.wait_at_most(PATIENCE).await.is_some());
    assert!(running.is_running());
    running.stop(StopMode::Immediate).await.unwrap();
}

/// A node that is stopped breaks off the start that it is about.
#[tokio::test]
async fn a_start_that_is_broken_off_leaves_nothing_once_the_server_is_ended() {
    let home = Home::new();
    let server = home.fresh().await;
    for moment in 0..40 {
        let start = server.start(&StartMode::Primary);
        // From before the first process to a server that runs: on a slow machine longer, on none shorter.
        drop(tokio::time::timeout(Duration::from_millis(3 * moment), start).await);
        server.end().await.unwrap();
        let left = orphan::attached(&server.files().pgdata).unwrap();
        assert!(left.is_empty(), "after {} ms: {left:?}", 3 * moment);
    }
}
