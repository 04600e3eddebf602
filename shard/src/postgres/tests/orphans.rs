//! What a node that was killed leaves behind.

use std::env;
use std::io::{self, BufRead, BufReader, Write};
use std::path::Path;

use rustix::process::{Pid, Signal, kill_process};
use tokio::task::JoinHandle;

use super::super::{StopMode, orphan};
use super::*;

/// Names the folder of [`node_process`], which is a test only to be started by one.
const FOLDER: &str = "HOWDAH_TEST_NODE_FOLDER";

#[tokio::test]
async fn postgresql_ends_with_a_node_that_is_killed_and_starts_again() {
    let home = Home::new();
    drop(home.fresh().await);
    let mut node = Command::new(env::current_exe().unwrap())
        .args([
            "--exact",
            "postgres::tests::orphans::node_process",
            "--ignored",
            "--nocapture",
        ])
        .env(FOLDER, home.0.path())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(node.stdout.take().unwrap()).lines();
    let postmaster: u32 = lines
        .map(Result::unwrap)
        .find_map(|line| line.strip_prefix("postmaster ")?.parse().ok())
        .unwrap();
    assert!(is_postgres(postmaster));
    node.kill().unwrap();
    node.wait().unwrap();
    eventually("PostgreSQL ends with its node", async || !is_postgres(postmaster)).await;

    let server = home.server(1).await;
    let running = server.start(&StartMode::Primary).await.unwrap();
    assert_eq!(notes(&running).await, ["from the killed node"]);
    running.stop(StopMode::Immediate).await.unwrap();
}

#[tokio::test]
#[ignore = "a node process for the test that kills it"]
async fn node_process() {
    let Some(folder) = env::var_os(FOLDER) else { return };
    let installation = Installation::find(None).unwrap();
    let replica = Path::new(&folder).join("n1");
    let server = Server::open(&replica, identity(1), installation, &config())
        .await
        .unwrap();
    let running = server.start(&StartMode::Primary).await.unwrap();
    run(
        &running,
        "CREATE TABLE notes (text text); INSERT INTO notes VALUES ('from the killed node')",
    )
    .await;
    writeln!(io::stdout(), "\npostmaster {}", running.pid()).unwrap();
    std::future::pending::<()>().await;
}

#[tokio::test]
async fn an_orphaned_postmaster_and_a_stray_backend_are_ended_and_strangers_are_not() {
    let home = Home::new();
    let server = home.fresh().await;
    let stranger_home = Home::new();
    let stranger = stranger_home
        .fresh()
        .await
        .start(&StartMode::Primary)
        .await
        .unwrap();

    // A server that nobody watches.
    let mut orphan = orphan_server(&server);
    let (backend, work) = busy_backend(&server).await;
    let running = server.start(&StartMode::Primary).await.unwrap();
    orphan.wait().unwrap();
    assert!(work.await.unwrap().is_err());
    assert!(!is_postgres(backend));
    running.stop(StopMode::Immediate).await.unwrap();

    // Its postmaster killed, a backend goes on.
    let mut orphan = orphan_server(&server);
    let (backend, work) = busy_backend(&server).await;
    orphan.kill().unwrap();
    orphan.wait().unwrap();
    assert!(is_postgres(backend));
    // And its pid has become another server's.
    let pid_file = server.files().pgdata.join("postmaster.pid");
    let text = fs::read_to_string(&pid_file).unwrap();
    let rest = text.split_once('\n').unwrap().1;
    fs::write(&pid_file, format!("{}\n{rest}", stranger.pid())).unwrap();
    assert_eq!(
        orphan::recorded_pid(&server.files().pgdata),
        i32::try_from(stranger.pid()).ok()
    );

    let running = server.start(&StartMode::Primary).await.unwrap();
    assert!(work.await.unwrap().is_err());
    assert!(!is_postgres(backend));
    assert!(stranger.is_running());
    stranger.control().await.unwrap();
    running.stop(StopMode::Immediate).await.unwrap();
    stranger.stop(StopMode::Immediate).await.unwrap();
}

#[tokio::test]
async fn a_stop_leaves_no_backend_even_of_a_killed_postmaster() {
    let home = Home::new();
    let server = home.fresh().await;
    let running = server.start(&StartMode::Primary).await.unwrap();
    let (backend, work) = busy_backend(&server).await;
    let postmaster = Pid::from_raw(i32::try_from(running.pid()).unwrap()).unwrap();
    kill_process(postmaster, Signal::KILL).unwrap();
    running
        .exited()
        .wait_at_most(PATIENCE)
        .await
        .expect("the postmaster ends");
    running.stop(StopMode::Immediate).await.unwrap();
    assert!(!is_postgres(backend));
    assert!(work.await.unwrap().is_err());
}

/// Started by nobody who would end it; ready when this returns.
fn orphan_server(server: &Server) -> std::process::Child {
    let endpoint = server.endpoint();
    let mut command = program(server, "postgres");
    command.arg("-D").arg(&server.files().pgdata);
    command
        .arg("-c")
        .arg(format!("unix_socket_directories={}", endpoint.dir.display()));
    let child = command.spawn().unwrap();
    let pid_file = server.files().pgdata.join("postmaster.pid");
    let deadline = Instant::now() + PATIENCE;
    while !fs::read_to_string(&pid_file).is_ok_and(|text| text.contains("\nready")) {
        assert!(Instant::now() < deadline, "the orphan starts");
        std::thread::sleep(Duration::from_millis(10));
    }
    child
}

/// A backend that does not look around while it computes.
async fn busy_backend(server: &Server) -> (u32, JoinHandle<Result<(), tokio_postgres::Error>>) {
    let busy = Control::connect(&server.endpoint()).await.unwrap();
    let backend: i32 = busy
        .client()
        .query_one("SELECT pg_backend_pid()", &[])
        .await
        .unwrap()
        .get(0);
    let work =
        tokio::spawn(async move { busy.client().batch_execute("DO 'BEGIN LOOP END LOOP; END'").await });
    let observer = Control::connect(&server.endpoint()).await.unwrap();
    eventually("the backend computes", async || {
        let question = "SELECT state = 'active' AND query LIKE 'DO%' FROM pg_stat_activity WHERE pid = $1";
        observer
            .client()
            .query_one(question, &[&backend])
            .await
            .unwrap()
            .get(0)
    })
    .await;
    (backend.unsigned_abs(), work)
}

fn is_postgres(pid: u32) -> bool {
    let program = fs::read_link(format!("/proc/{pid}/exe"));
    program.is_ok_and(|program| program.ends_with("postgres"))
}
