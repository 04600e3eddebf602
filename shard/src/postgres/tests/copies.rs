//! Copies of a running server: base backup, standby, promotion, rewind.

use super::super::{Error, LastRole, Rebuild, Rewind, StopMode};
use super::*;

#[tokio::test]
async fn a_base_backup_follows_is_promoted_and_the_diverged_old_primary_is_rewound() {
    let home = Home::new();
    let (first, second) = (home.fresh().await, home.server(2).await);
    let old = first.start(&StartMode::Primary).await.unwrap();
    run(
        &old,
        "CREATE TABLE notes (text text); INSERT INTO notes VALUES ('common')",
    )
    .await;

    let copied = second.base_backup(&old.endpoint()).await.unwrap();
    assert!(copied.start < copied.end);
    assert_eq!(second.rebuild_state().unwrap(), Rebuild::Copied(copied));
    assert!(matches!(
        second.start(&feed(&old)).await,
        Err(Error::Unfinished { .. })
    ));
    second.finish_rebuild().await.unwrap();
    let new = second.start(&feed(&old)).await.unwrap();
    assert_eq!(second.last_role(), LastRole::Standby);
    let old_control = old.control().await.unwrap();
    run(&old, "INSERT INTO notes VALUES ('streamed')").await;
    caught_up(&new, &old_control).await;
    assert_eq!(notes(&new).await, ["common", "streamed"]);

    // A standby that is stopped and started goes on where it was.
    new.stop(StopMode::Immediate).await.unwrap();
    let new = second.start(&feed(&old)).await.unwrap();
    caught_up(&new, &old_control).await;

    new.promote().await.unwrap();
    let new_control = new.wait_promoted(PATIENCE).await.unwrap();
    assert_eq!(second.last_role(), LastRole::Primary);
    assert!(new_control.timeline().await.unwrap() > copied.timeline);
    run(&new, "INSERT INTO notes VALUES ('after the promotion')").await;
    run(&old, "INSERT INTO notes VALUES ('never committed')").await;
    drop(old_control);
    old.stop(StopMode::Immediate).await.unwrap();

    // A postmaster that was killed leaves this, and until somebody waits for it its pid is taken.
    let mut killed = std::process::Command::new("true").spawn().unwrap();
    let lock = first.files().pgdata.join("postmaster.pid");
    std::fs::write(lock, format!("{}\n", killed.id())).unwrap();

    let Rewind::Rewound(rewound) = first.rewind(&new.endpoint()).await.unwrap() else {
        panic!("the old primary wrote on after the new timeline began")
    };
    killed.wait().unwrap();
    assert_eq!(rewound.timeline, new_control.timeline().await.unwrap());
    assert_eq!(first.rebuild_state().unwrap(), Rebuild::Copied(rewound));
    assert!(matches!(
        first.start(&feed(&new)).await,
        Err(Error::Unfinished { .. })
    ));
    first.finish_rebuild().await.unwrap();
    let old = first.start(&feed(&new)).await.unwrap();
    caught_up(&old, &new_control).await;
    assert_eq!(notes(&old).await, ["after the promotion", "common", "streamed"]);
    old.stop(StopMode::Immediate).await.unwrap();
    new.stop(StopMode::Immediate).await.unwrap();
}

#[tokio::test]
async fn an_old_primary_that_wrote_nothing_alone_needs_no_rewind() {
    let home = Home::new();
    let (first, second) = (home.fresh().await, home.server(2).await);
    let old = first.start(&StartMode::Primary).await.unwrap();
    run(
        &old,
        "CREATE TABLE notes (text text); INSERT INTO notes VALUES ('common')",
    )
    .await;
    second.base_backup(&old.endpoint()).await.unwrap();
    second.finish_rebuild().await.unwrap();
    let new = second.start(&feed(&old)).await.unwrap();
    caught_up(&new, &old.control().await.unwrap()).await;
    // A fast stop waits until its standby has everything.
    old.stop(StopMode::Fast).await.unwrap();
    new.promote().await.unwrap();
    let new_control = new.wait_promoted(PATIENCE).await.unwrap();
    run(&new, "INSERT INTO notes VALUES ('new')").await;

    assert_eq!(first.rewind(&new.endpoint()).await.unwrap(), Rewind::NotNeeded);
    assert_eq!(first.rebuild_state().unwrap(), Rebuild::Settled);
    let old = first.start(&feed(&new)).await.unwrap();
    caught_up(&old, &new_control).await;
    assert_eq!(notes(&old).await, ["common", "new"]);
    old.stop(StopMode::Immediate).await.unwrap();
    new.stop(StopMode::Immediate).await.unwrap();
}

#[tokio::test]
async fn what_cannot_be_rewound_is_rebuilt() {
    let home = Home::new();
    let (first, second) = (home.fresh().await, home.server(2).await);
    let primary = first.start(&StartMode::Primary).await.unwrap();
    run(
        &primary,
        "CREATE TABLE notes (text text); INSERT INTO notes VALUES ('right')",
    )
    .await;

    // A database of its own: another system.
    second.initdb().await.unwrap();
    let error = second.rewind(&primary.endpoint()).await.unwrap_err();
    assert!(matches!(error, Error::CannotRewind { .. }), "{error}");
    assert_eq!(second.rebuild_state().unwrap(), Rebuild::Interrupted);

    // A copy that ran alone on the same timeline: pg_rewind would see nothing to do.
    second.base_backup(&primary.endpoint()).await.unwrap();
    second.finish_rebuild().await.unwrap();
    let standby = second.start(&feed(&primary)).await.unwrap();
    caught_up(&standby, &primary.control().await.unwrap()).await;
    standby.stop(StopMode::Fast).await.unwrap();
    let alone = second.start(&StartMode::Primary).await.unwrap();
    run(&alone, "INSERT INTO notes VALUES ('wrong')").await;
    alone.stop(StopMode::Immediate).await.unwrap();
    let error = second.rewind(&primary.endpoint()).await.unwrap_err();
    assert!(matches!(error, Error::CannotRewind { .. }), "{error}");
    assert!(matches!(
        second.start(&feed(&primary)).await,
        Err(Error::Unfinished { .. })
    ));

    second.base_backup(&primary.endpoint()).await.unwrap();
    second.finish_rebuild().await.unwrap();
    let standby = second.start(&feed(&primary)).await.unwrap();
    caught_up(&standby, &primary.control().await.unwrap()).await;
    assert_eq!(notes(&standby).await, ["right"]);
    standby.stop(StopMode::Immediate).await.unwrap();
    primary.stop(StopMode::Immediate).await.unwrap();
}

#[tokio::test]
async fn a_base_backup_that_is_given_up_is_marked_and_made_again() {
    let home = Home::new();
    let (first, second) = (home.fresh().await, home.server(2).await);
    let error = second.base_backup(&first.endpoint()).await.unwrap_err();
    assert!(error.to_string().contains("control connection"), "{error}");
    assert_eq!(
        second.rebuild_state().unwrap(),
        Rebuild::Settled,
        "nothing was touched"
    );

    let primary = first.start(&StartMode::Primary).await.unwrap();
    let source = primary.endpoint();
    tokio::select! {
        done = second.base_backup(&source) => panic!("{done:?}"),
        () = eventually("the copy begins", async || {
            second.files().pgdata.join("base").exists()
        }) => {}
    }
    assert_eq!(second.rebuild_state().unwrap(), Rebuild::Interrupted);
    let copied = second.base_backup(&source).await.unwrap();
    assert_eq!(second.rebuild_state().unwrap(), Rebuild::Copied(copied));
    primary.stop(StopMode::Immediate).await.unwrap();
}
