//! What the two commands leave on disk, and what a node makes of it.

use std::os::unix::fs::PermissionsExt;

use tempfile::TempDir;

use super::*;
use crate::config::{ClusterConfig, NodeConfig, Overrides};

const CONFIG: &str = r#"cluster = "shop"
secret_file = "secret"
data_dir = "data"
[tls]
[[nodes]]
id = 1
address = "10.0.0.1:7432"
sql = "10.0.0.1:6432"
[[nodes]]
id = 2
address = "10.0.0.2:7432"
sql = "0.0.0.0:6432"
[[groups]]
id = 1
nodes = [1, 2]
"#;

fn folder() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("howdah.toml"), CONFIG).unwrap();
    write(&folder.path().join("secret"), "0123456789abcdef", 0o600).unwrap();
    folder
}

fn place(folder: &TempDir) -> Where {
    Where {
        config: folder.path().join("howdah.toml"),
        dir: None,
    }
}

fn cert(folder: &TempDir, node: u64, renew: bool) -> Result<ExitCode, CertificatesError> {
    issue(CertArgs {
        place: place(folder),
        node: Some(node).filter(|node| *node > 0),
        operator: node == 0,
        renew,
    })
}

fn load(folder: &TempDir, node: u64) -> Result<NodeConfig, ConfigError> {
    let overrides = Overrides {
        node: Some(NodeId(node)),
        ..Overrides::default()
    };
    NodeConfig::load(&folder.path().join("howdah.toml"), &overrides)
}

#[test]
fn init_gives_every_node_and_the_operator_what_a_configuration_finds() {
    let folder = folder();
    let missing = load(&folder, 1).unwrap_err().to_string();
    assert!(
        missing.contains("howdah.toml:4:1: ") && missing.contains("ca.crt: cannot be read"),
        "{missing}"
    );
    init(InitArgs {
        place: place(&folder),
    })
    .unwrap();
    for name in ["ca", "node1", "node2", "operator"] {
        let mode = |end| {
            let file = folder.path().join(format!("{name}.{end}"));
            fs::metadata(file).unwrap().permissions().mode() & 0o777
        };
        assert_eq!(mode("key"), 0o600, "{name}");
        assert_eq!(mode("crt"), 0o644, "{name}");
    }
    for node in [1, 2] {
        let tls = load(&folder, node).unwrap().shard.tls.unwrap();
        let days = tls.is_good_for().unwrap().as_secs() / 86_400;
        assert!((1824..=1825).contains(&days), "{days}");
    }
    // A machine without a node has the operator's.
    let path = folder.path().join("howdah.toml");
    let cluster = ClusterConfig::load(&path, &Overrides::default()).unwrap();
    assert!(cluster.tls.is_some());

    let left: Vec<_> = fs::read_dir(folder.path()).unwrap().flatten().collect();
    assert_eq!(left.len(), 10, "{left:?}");
}

#[test]
fn nothing_that_is_there_is_lost() {
    let folder = folder();
    let read = |name: &str| fs::read(folder.path().join(name)).unwrap();
    write(&folder.path().join("node2.key"), "mine", 0o600).unwrap();
    let refused = init(InitArgs {
        place: place(&folder),
    })
    .unwrap_err();
    assert!(
        refused
            .to_string()
            .ends_with("node2.key: is there already, and stays as it is"),
        "{refused}"
    );
    assert!(!folder.path().join("ca.key").exists(), "half of it was done");
    fs::remove_file(folder.path().join("node2.key")).unwrap();

    init(InitArgs {
        place: place(&folder),
    })
    .unwrap();
    let authority = read("ca.key");
    let again = init(InitArgs {
        place: place(&folder),
    });
    assert!(matches!(again, Err(CertificatesError::Exists(_))), "{again:?}");
    let two = read("node2.crt");
    let again = cert(&folder, 2, false);
    assert!(matches!(again, Err(CertificatesError::Exists(_))), "{again:?}");
    assert_eq!((authority, two), (read("ca.key"), read("node2.crt")));
}

#[test]
fn one_more_and_one_anew_are_of_the_same_authority() {
    let folder = folder();
    let early = cert(&folder, 1, false);
    assert!(
        matches!(early, Err(CertificatesError::Tls(TlsError::Read { .. }))),
        "{early:?}"
    );
    init(InitArgs {
        place: place(&folder),
    })
    .unwrap();
    let refused = cert(&folder, 3, false).unwrap_err();
    assert!(
        refused.to_string().contains("node 3 is not among the nodes"),
        "{refused}"
    );

    let path = folder.path().join("howdah.toml");
    let more = "[[nodes]]\nid = 3\naddress = \"[fd00::3]:7432\"\nsql = \"10.0.0.3:6432\"\n[[groups]]";
    fs::write(&path, CONFIG.replace("[[groups]]", more)).unwrap();
    cert(&folder, 3, false).unwrap();
    assert!(load(&folder, 3).unwrap().shard.tls.is_some());

    let before = fs::read(folder.path().join("node1.crt")).unwrap();
    cert(&folder, 1, true).unwrap();
    cert(&folder, 0, true).unwrap();
    assert_ne!(fs::read(folder.path().join("node1.crt")).unwrap(), before);
    assert!(load(&folder, 1).unwrap().shard.tls.is_some());
}

#[test]
fn what_would_be_refused_is_not_put_in_place() {
    let (folder, other) = (folder(), folder());
    for folder in [&folder, &other] {
        init(InitArgs { place: place(folder) }).unwrap();
    }
    let one = fs::read(folder.path().join("node1.crt")).unwrap();
    // The key of another authority.
    fs::copy(other.path().join("ca.key"), folder.path().join("ca.key")).unwrap();
    let refused = cert(&folder, 1, true);
    assert!(
        matches!(refused, Err(CertificatesError::Tls(TlsError::Content { .. }))),
        "{refused:?}"
    );
    assert_eq!(fs::read(folder.path().join("node1.crt")).unwrap(), one);
    // And one that others can read.
    let open = fs::Permissions::from_mode(0o644);
    fs::set_permissions(folder.path().join("ca.key"), open).unwrap();
    let refused = cert(&folder, 1, true);
    assert!(
        matches!(refused, Err(CertificatesError::Tls(TlsError::Exposed { .. }))),
        "{refused:?}"
    );

    let path = folder.path().join("howdah.toml");
    fs::write(&path, CONFIG.replace("\"shop\"", "\"my shop\"")).unwrap();
    let refused = cert(&folder, 1, true);
    assert!(matches!(refused, Err(CertificatesError::Name(_))), "{refused:?}");
}
