//! Leases on what a node knows of the groups' catalogues.

use std::future::ready;
use std::sync::Arc;
use std::time::{Duration, Instant};

use coordinator::catalogue::cache::{CatalogueCache, LEASE, Stale, wait_until_seen};
use coordinator::catalogue::{Catalogue, CatalogueVersion, Resolved};

use crate::server::{FIRST, SECOND, TwoGroups};

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(10)
}

fn knows(catalogue: &Catalogue, name: &str) -> bool {
    matches!(catalogue.resolve(&["public"], None, name), Resolved::Relation(_))
}

#[tokio::test]
async fn a_group_is_known_within_its_lease_and_after_its_own_ddl() {
    let groups = Arc::new(TwoGroups::start().await);
    let cache = CatalogueCache::start(groups.clone());
    let database = cache.database("postgres");
    assert!(matches!(database.current(FIRST), Err(Stale::NotVerified { .. })));
    for (group, catalogue) in database.refresh_all(soon()).await {
        assert!(!knows(&catalogue.unwrap(), "t"));
        assert!(database.current(group).is_ok());
    }
    let before = database.versions();
    for group in [FIRST, SECOND] {
        let client = groups.connect_client(group, "postgres").await;
        client.batch_execute("CREATE TABLE t (a int)").await.unwrap();
    }
    for (group, catalogue) in database.refresh_all(soon()).await {
        assert!(knows(&catalogue.unwrap(), "t") && knows(&database.current(group).unwrap(), "t"));
    }
    let after = database.versions();
    assert!(
        before
            .iter()
            .zip(&after)
            .all(|(before, after)| before.1 < after.1)
    );

    // Without being asked, the lease is renewed: twice its length later it still holds.
    let end = Instant::now() + 2 * LEASE;
    while Instant::now() < end {
        assert!(database.current(FIRST).is_ok() && database.current(SECOND).is_ok());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn the_loss_of_one_group_ends_its_lease_and_no_other() {
    let groups = Arc::new(TwoGroups::start().await);
    let cache = CatalogueCache::start(groups.clone());
    let database = cache.database("postgres");
    database.refresh_all(soon()).await;
    groups.set_away(SECOND);
    let client = groups.connect_client(SECOND, "postgres").await;
    let lost = Instant::now();
    client
        .batch_execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'howdah%'",
        )
        .await
        .unwrap();
    while database.current(SECOND).is_ok() {
        assert!(
            lost.elapsed() < LEASE + Duration::from_millis(500),
            "the lease does not end"
        );
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    database.current(FIRST).unwrap();
    let refused = database
        .refresh(SECOND, Instant::now() + Duration::from_millis(600))
        .await;
    assert!(matches!(&refused, Err(Stale::Failed { .. })), "{refused:?}");
    database.refresh(FIRST, soon()).await.unwrap();
}

#[tokio::test]
async fn databases_are_known_apart_and_new_ones_bring_the_schema() {
    let groups = Arc::new(TwoGroups::start().await);
    let cache = CatalogueCache::start(groups.clone());
    let client = groups.connect_client(FIRST, "postgres").await;
    client.batch_execute("CREATE DATABASE app").await.unwrap();
    let app = groups.connect_client(FIRST, "app").await;
    app.batch_execute("CREATE TABLE t (a text PRIMARY KEY)")
        .await
        .unwrap();
    let database = cache.database("app");
    let first = database.refresh(FIRST, soon()).await.unwrap();
    assert!(knows(&first, "t"));
    // The second group has no such database, and says so at once.
    match database.refresh(SECOND, soon()).await {
        Err(Stale::Failed { sqlstate, .. }) => assert_eq!(sqlstate.as_deref(), Some("3D000")),
        other => panic!("{other:?}"),
    }
    assert!(!knows(
        &cache.database("postgres").refresh(FIRST, soon()).await.unwrap(),
        "t"
    ));

    drop(app);
    assert!(!cache.forget("app"), "a session uses it");
    drop(database);
    assert!(cache.forget("app"));
    let dropped = async { while client.batch_execute("DROP DATABASE app").await.is_err() {} };
    tokio::time::timeout(Duration::from_secs(10), dropped)
        .await
        .unwrap();
}

#[tokio::test]
async fn a_ddl_is_answered_when_all_have_seen_it_or_their_leases_are_over() {
    let groups = Arc::new(TwoGroups::start().await);
    let (ours, theirs) = (
        CatalogueCache::start(groups.clone()),
        CatalogueCache::start(groups.clone()),
    );
    let (mine, other) = (ours.database("postgres"), theirs.database("postgres"));
    other.refresh_all(soon()).await;
    let client = groups.connect_client(FIRST, "postgres").await;
    client.batch_execute("CREATE TABLE t (a int)").await.unwrap();
    let committed = Instant::now();
    mine.refresh_all(soon()).await;
    let versions = mine.versions();
    wait_until_seen(committed, [theirs.has_seen("postgres", &versions, soon())]).await;
    assert!(
        committed.elapsed() < LEASE,
        "waited although the other node has seen it"
    );
    assert!(knows(&other.current(FIRST).unwrap(), "t"));
    assert!(theirs.has_seen("not in use", &versions, soon()).await);

    // A node that did not see it, and one that never answers.
    let future = [(FIRST, CatalogueVersion(i64::MAX))];
    assert!(!theirs.has_seen("postgres", &future, soon()).await);
    wait_until_seen(committed, [ready(false)]).await;
    assert!(committed.elapsed() >= LEASE);
    let committed = Instant::now();
    wait_until_seen(committed, [std::future::pending()]).await;
    assert!(committed.elapsed() >= LEASE);
}
