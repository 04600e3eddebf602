//! The demo: started, stopped, and started again on the same data.

use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Output};

use ops::demo::postgres_below;

use crate::{howdah, turn};

/// Stops the demo when a test fails, too.
struct Demo<'a> {
    data: &'a Path,
    port: String,
}

impl Demo<'_> {
    fn run(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(howdah());
        command.args(arguments).arg("--data").arg(self.data);
        command.output().unwrap()
    }

    fn start(&self, more: &[&str]) {
        let output = self.run(&[&["demo", "--detach", "--port", &self.port], more].concat());
        assert!(output.status.success(), "{output:?}");
        assert!(
            String::from_utf8_lossy(&output.stdout).contains(&format!("psql -h 127.0.0.1 -p {}", self.port))
        );
    }

    fn psql(&self, text: &str) -> String {
        let output = Command::new("psql")
            .args([
                "-X",
                "-At",
                "-h",
                "127.0.0.1",
                "-p",
                &self.port,
                "-U",
                "postgres",
                "-c",
                text,
            ])
            .output()
            .unwrap();
        assert!(output.status.success(), "{text}: {output:?}");
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }
}

/// Below the ports that the system gives to outgoing connections: it must be free again later.
fn free_port() -> String {
    let free = |port: &u16| TcpListener::bind(("127.0.0.1", *port)).is_ok();
    let port = (16_932..32_000).find(free);
    port.expect("there is a free port").to_string()
}

impl Drop for Demo<'_> {
    fn drop(&mut self) {
        self.run(&["demo", "stop"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_demo_keeps_its_rows_and_leaves_nothing_running() {
    let _turn = turn().await;
    let data = tempfile::tempdir().unwrap();
    let opened = std::os::unix::fs::PermissionsExt::from_mode(0o711);
    std::fs::set_permissions(data.path(), opened).unwrap();
    let demo = Demo {
        data: data.path(),
        port: free_port(),
    };
    demo.start(&["--nodes", "1", "--shards", "2"]);
    demo.psql("CREATE TABLE t (id int PRIMARY KEY, v text)");
    demo.psql("INSERT INTO t VALUES (1, 'kept')");
    let status = demo.run(&["status", "--json"]);
    assert!(status.status.success(), "{status:?}");
    let status: serde_json::Value = serde_json::from_slice(&status.stdout).unwrap();
    assert_eq!(status["groups"].as_array().unwrap().len(), 2);

    let second = demo.run(&["demo", "--detach", "--nodes", "1"]);
    assert!(
        String::from_utf8_lossy(&second.stderr).contains("already runs"),
        "{second:?}"
    );
    assert!(demo.run(&["demo", "stop"]).status.success());
    assert_eq!(postgres_below(data.path()), []);
    let refused = demo.run(&["demo", "--detach", "--nodes", "3"]);
    assert!(
        String::from_utf8_lossy(&refused.stderr).contains("holds 1 nodes, not 3"),
        "{refused:?}"
    );

    demo.start(&[]);
    assert_eq!(demo.psql("SELECT v FROM t WHERE id = 1"), "kept");
    assert!(demo.run(&["demo", "stop"]).status.success());
    assert_eq!(postgres_below(data.path()), []);
}
