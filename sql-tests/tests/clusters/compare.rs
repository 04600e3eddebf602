//! The comparisons in small form: figures mean nothing here, what they check on the way does.

use std::time::Duration;

use sql_tests::cluster::Options;
use sql_tests::compare::{FightPlan, Rounds, cuts, deadlocks, transfers};

use crate::cluster;

const SHORT: Rounds = Rounds {
    time: Duration::from_millis(500),
    rounds: 1,
};

#[tokio::test(flavor = "multi_thread")]
async fn comparisons_keep_their_sums_hang_nowhere_and_have_victims_with_40p01() {
    let (_turn, cluster) = cluster(&Options::default()).await;
    let report = transfers(&cluster, SHORT).await.unwrap();
    for (way, figures) in report.figures {
        assert!(figures.iter().all(|one| one.per_second > 0.0), "{way:?}");
    }
    let report = cuts(&cluster, SHORT).await.unwrap();
    for (readers, figures, _) in report.writes {
        assert!(figures.per_second > 0.0, "{readers:?}");
    }
    let time = Duration::from_secs(5);
    let fights = deadlocks(&cluster, FightPlan { time }).await.unwrap();
    let (groups, plain) = (fights.groups, fights.plain);
    assert!(groups.commits > 0 && groups.victims > 0, "{groups:?}");
    // One server may let none through in that time: it chooses its victims without regard to their age.
    assert!(plain.victims > 0, "{plain:?}");
    cluster.shutdown(&[]).await.unwrap();
}
