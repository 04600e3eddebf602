//! A comparison in small form: its figures mean nothing here, what it checks on the way does.

use std::time::Duration;

use sql_tests::cluster::Options;
use sql_tests::compare::{FightPlan, deadlocks};

use crate::cluster;

#[tokio::test(flavor = "multi_thread")]
async fn a_fight_over_six_rows_on_two_groups_never_hangs_and_victims_get_40p01() {
    let (_turn, cluster) = cluster(&Options::default()).await;
    let time = Duration::from_secs(5);
    let fights = deadlocks(&cluster, FightPlan { time }).await.unwrap();
    let (groups, plain) = (fights.groups, fights.plain);
    assert!(groups.commits > 0 && groups.victims > 0, "{groups:?}");
    // One server may let none through in that time: it chooses its victims without regard to their age.
    assert!(plain.victims > 0, "{plain:?}");
    cluster.shutdown(&[]).await.unwrap();
}
