//! A configuration is one file; what is wrong with it is one line.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::Duration;

use shard::id::{GroupId, NodeId};
use tempfile::TempDir;

use super::{ClusterConfig, NodeConfig, Overrides};

const GOOD: &str = r#"node = 2
cluster = "test"
secret_file = "secret"
data_dir = "node2"
[[nodes]]
id = 1
address = "127.0.0.1:7001"
sql = "127.0.0.1:6432"
[[nodes]]
id = 2
address = "127.0.0.1:7002"
sql = "127.0.0.1:6433"
[[groups]]
id = 1
nodes = [1, 2]
"#;

struct Folder(TempDir);

impl Folder {
    fn with(text: &str) -> Folder {
        let folder = Folder(tempfile::tempdir().unwrap());
        folder.write("secret", "0123456789abcdef\n", 0o600);
        folder.write("howdah.toml", text, 0o644);
        folder
    }

    fn write(&self, name: &str, text: &str, mode: u32) {
        let path = self.0.path().join(name);
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
    }

    fn config(&self) -> PathBuf {
        self.0.path().join("howdah.toml")
    }

    fn load(&self) -> Result<NodeConfig, String> {
        NodeConfig::load(&self.config(), &Overrides::default()).map_err(|error| error.to_string())
    }

    /// The error, without the folder's name.
    fn error(&self) -> String {
        let error = self.load().unwrap_err();
        assert!(!error.contains('\n'), "one line: {error}");
        error.replace(&format!("{}/", self.0.path().display()), "")
    }
}

#[test]
fn a_whole_file_is_read() {
    let folder = Folder::with(GOOD);
    let config = folder.load().unwrap();
    assert_eq!(config.shard.node, NodeId(2));
    assert_eq!(config.shard.secret, "0123456789abcdef");
    assert_eq!(config.shard.data_dir, folder.0.path().join("node2"));
    assert_eq!(config.shard.groups[&GroupId(1)], [NodeId(1), NodeId(2)]);
    assert_eq!(config.sql.listen.port(), 6433);
    assert_eq!(config.log, "info");
}

#[test]
fn flags_and_environment_win_over_the_file() {
    let folder = Folder::with(GOOD);
    let overrides = Overrides {
        node: Some(NodeId(1)),
        data_dir: Some("/else/where".into()),
        sql_listen: Some("0.0.0.0:1".parse().unwrap()),
        secret_file: None,
        log: Some("debug".to_owned()),
    };
    let config = NodeConfig::load(&folder.config(), &overrides).unwrap();
    assert_eq!(config.shard.node, NodeId(1));
    assert_eq!(config.shard.data_dir, PathBuf::from("/else/where"));
    assert_eq!(config.sql.listen.port(), 1);
    assert_eq!(config.log, "debug");
}

#[test]
fn sections_set_what_they_name_and_leave_the_rest() {
    let more = "[timing]\nelection = \"2s\"\n[sql]\nmax_sessions = 7\n[wal]\nkeep = \"64MiB\"\n";
    let config = Folder::with(&format!("{GOOD}{more}")).load().unwrap();
    assert_eq!(config.shard.timing.election, Duration::from_secs(2));
    assert_eq!(config.shard.timing.heartbeat, Duration::from_millis(100));
    assert_eq!(config.sql.limits.max_client_connections, 7);
    assert_eq!(config.sql.limits.superuser_reserved_connections, 3);
    assert_eq!(config.shard.log.keep_bytes, 64 << 20);
}

#[test]
fn all_nodes_together_leave_postgres_connections() {
    let most = |settings: &str| {
        let config = Folder::with(&format!("{GOOD}[postgres.settings]\n{settings}\n"));
        config.load().unwrap().sql.limits.max_backends
    };
    assert_eq!(most(""), 80, "more help nobody");
    assert_eq!(most("max_connections = \"100\""), 30);
    assert_eq!(most("max_connections = \"20\""), 1);
}

#[test]
fn who_is_let_in_is_read_with_the_rest() {
    let trust = "host all all 127.0.0.1/32 trust\n";
    let with = |more: &str| {
        let folder = Folder::with(&format!("{GOOD}[sql]\n{more}\n"));
        folder.write("pg_hba.conf", trust, 0o644);
        folder
    };
    let default = with("").load().unwrap().sql;
    assert_eq!(default.hba, proxy::Hba::passwords_only());
    assert!(default.tls.is_none());
    let named = with("hba_file = \"pg_hba.conf\"\nssl = false\nauthentication_timeout = \"5s\"");
    let named = named.load().unwrap().sql;
    assert_ne!(named.hba, proxy::Hba::passwords_only());
    assert_eq!(named.limits.authentication_timeout, Duration::from_secs(5));
    // The same secret gives the same, on all nodes and at each start.
    assert_eq!(default.mock_authentication_nonce, named.mock_authentication_nonce);

    let broken = with("hba_file = \"pg_hba.conf\"");
    broken.write(
        "pg_hba.conf",
        &format!("{trust}host all all all password\n"),
        0o644,
    );
    let error = broken.error();
    assert!(
        error.starts_with("howdah.toml:17:12: pg_hba.conf:2: authentication method \"password\""),
        "{error}"
    );
    let error = with("ssl = true").error();
    assert!(
        error.starts_with("howdah.toml:17:7: server.crt: cannot be read"),
        "{error}"
    );
    for (line, expected) in [
        (
            "max_unauthenticated = 0",
            "max_unauthenticated must be at least 1",
        ),
        (
            "max_sessions = 3\nsuperuser_reserved_connections = 3",
            "must be less than max_sessions, which is 3",
        ),
        ("authentication_timeout = \"0s\"", "must be more than nothing"),
    ] {
        let error = with(line).error();
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn status_needs_no_node_of_its_own() {
    let text = GOOD
        .replace("node = 2\n", "")
        .replace("data_dir = \"node2\"\n", "");
    let folder = Folder::with(&text);
    let cluster = ClusterConfig::load(&folder.config(), &Overrides::default()).unwrap();
    assert_eq!(cluster.nodes.len(), 2);
    assert_eq!(
        folder.error(),
        "howdah.toml: `node` is missing: which of the nodes this is"
    );
}

#[test]
fn an_error_says_what_and_where() {
    for (good, bad, expected) in [
        (
            "node = 2",
            "node = 7",
            "howdah.toml:1:8: node 7 is not among the nodes of the cluster",
        ),
        ("node = 2", "node = x", "howdah.toml:1:8:"),
        (
            "id = 1\naddress",
            "id = 0\naddress",
            "howdah.toml:5:1: nodes are counted from 1",
        ),
        (
            "127.0.0.1:7002",
            "10.0.0.2:7002",
            "howdah.toml:9:1: nodes talk to each other over a network, which needs [tls]",
        ),
        (
            "[[groups]]",
            "[tls]\nca_file = \"gone\"\n[[groups]]",
            "howdah.toml:13:1: gone: cannot be read",
        ),
        (
            "[[groups]]",
            "[tls]\ncertificate = \"x\"\n[[groups]]",
            "howdah.toml:14:1: unknown field `certificate`",
        ),
        (
            "cluster = \"test\"",
            "cluster = \"test\"\ncolour = 1",
            "howdah.toml:3:1: unknown field `colour`",
        ),
        (
            "127.0.0.1:7002",
            "here",
            "howdah.toml:11:11: invalid socket address syntax",
        ),
        (
            "nodes = [1, 2]",
            "nodes = [1, 1]",
            "howdah.toml:13:1: group 1 must name each of its nodes once",
        ),
        ("id = 2", "id = 1", "howdah.toml:9:1: node 1 is named twice"),
        (
            "secret_file = \"secret\"",
            "secret_file = \"gone\"",
            "howdah.toml:3:15: gone: cannot be read",
        ),
        (
            "secret_file = \"secret\"",
            "secret = \"0123456789abcdef\"",
            "howdah.toml:3:10: holds the cluster's secret",
        ),
        (
            "[[groups]]",
            "[timing]\nelection = \"now\"\n[[groups]]",
            "howdah.toml:14:12: `now` is not a duration",
        ),
        (
            "[[groups]]",
            "[timing]\nelection = \"200ms\"\n[[groups]]",
            "howdah.toml:13:1: the election time",
        ),
    ] {
        let error = Folder::with(&GOOD.replace(good, bad)).error();
        assert!(error.starts_with(expected), "{bad}: {error}");
    }
}

#[test]
fn a_missing_file_and_a_short_or_public_secret_are_refused() {
    let folder = Folder::with(GOOD);
    folder.write("secret", "short", 0o600);
    assert_eq!(
        folder.error(),
        "howdah.toml:3:15: the cluster's secret must have at least 16 bytes"
    );
    folder.write("secret", "0123456789abcdef", 0o644);
    assert!(folder.error().contains("others may read it (mode 644)"));
    std::fs::remove_file(folder.config()).unwrap();
    assert!(
        folder
            .error()
            .starts_with("howdah.toml: cannot be read: No such file")
    );
}
