//! Directories that must not be used, and what they remember.

use super::super::{Error, Rebuild};
use super::*;

async fn open(home: &Home, identity: Identity, config: &PostgresConfig) -> Result<Server, Error> {
    Server::open(
        &home.replica(1),
        identity,
        Installation::find(None).unwrap(),
        config,
    )
    .await
}

#[tokio::test]
async fn the_directory_of_another_replica_is_refused() {
    let home = Home::new();
    drop(home.server(1).await);
    let others = [
        Identity {
            cluster: "other".to_owned(),
            ..identity(1)
        },
        Identity {
            node: NodeId(2),
            ..identity(1)
        },
        Identity {
            group: GroupId(2),
            ..identity(1)
        },
    ];
    for other in others {
        let error = open(&home, other.clone(), &config()).await.unwrap_err();
        let words = error.to_string();
        assert!(
            words.contains(&format!(
                "of group 1 on node 1 of cluster \"test\", not of {other}"
            )),
            "{words}"
        );
        assert!(!words.contains('\n'));
    }
    open(&home, identity(1), &config()).await.unwrap();
}

#[tokio::test]
async fn two_nodes_do_not_work_in_one_directory() {
    let home = Home::new();
    let first = home.server(1).await;
    assert!(matches!(
        open(&home, identity(1), &config()).await,
        Err(Error::InUse { .. })
    ));
    drop(first);
    open(&home, identity(1), &config()).await.unwrap();
}

#[tokio::test]
async fn unsafe_settings_are_refused_before_anything_is_made() {
    let home = Home::new();
    let mut config = config();
    config
        .settings
        .insert("synchronous_commit".to_owned(), "off".to_owned());
    let error = open(&home, identity(1), &config).await.unwrap_err();
    assert!(
        error
            .to_string()
            .starts_with("postgres.settings may not set synchronous_commit"),
        "{error}"
    );
    assert!(!home.replica(1).exists());
}

#[tokio::test]
async fn a_folder_or_user_that_stands_in_the_way_is_named() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let home = Home::new();
    let nobody = PostgresConfig {
        user: Some("no-such-user".to_owned()),
        ..config()
    };
    assert!(matches!(
        open(&home, identity(1), &nobody).await,
        Err(Error::NoUser { .. })
    ));
    fs::set_permissions(home.0.path(), fs::Permissions::from_mode(0o700)).unwrap();
    let error = open(&home, identity(1), &config()).await.unwrap_err().to_string();
    assert!(
        error.contains(&format!("chmod o+x {}", home.0.path().display())),
        "{error}"
    );
}

#[tokio::test]
async fn life_is_remembered() {
    let home = Home::new();
    let server = home.server(1).await;
    assert_eq!(server.read_life::<Vec<u64>>().await.unwrap(), None);
    server.write_life(&vec![1_u64, 2]).unwrap();
    server.write_life(&vec![3_u64]).unwrap();
    drop(server);
    let server = home.server(1).await;
    assert_eq!(server.read_life::<Vec<u64>>().await.unwrap(), Some(vec![3]));
    assert!(matches!(
        server.read_life::<String>().await,
        Err(Error::Damaged { .. })
    ));
}

#[tokio::test]
async fn an_unfinished_copy_is_not_started() {
    let home = Home::new();
    let server = home.fresh().await;
    assert_eq!(server.rebuild_state().unwrap(), Rebuild::Settled);
    server.files().begin_rebuild().unwrap();
    drop(server);
    // The next node process.
    let server = home.server(1).await;
    assert_eq!(server.rebuild_state().unwrap(), Rebuild::Interrupted);
    for mode in [StartMode::Primary, StartMode::Standby(nowhere(&server))] {
        assert!(matches!(server.start(&mode).await, Err(Error::Unfinished { .. })));
    }
    assert!(matches!(
        server.finish_rebuild().await,
        Err(Error::Unfinished { .. })
    ));
    fs::write(server.files().replica.join("rebuilding"), b"torn").unwrap();
    assert_eq!(server.rebuild_state().unwrap(), Rebuild::Interrupted);
}
