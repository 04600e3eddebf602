//! A look into every server when all is whole, for checkers that must know what each of them holds.

use super::feed::Feed;
use super::target::Target;
use crate::Result;
use crate::check::LOOK;
use crate::cluster::PATIENCE;
use crate::history::{Edn, Kind, Process, Recorder};

/// Records what the workload finds in each replica's own server, or in the only server that there is.
pub(super) async fn into_servers(feed: &Feed, target: &Target, recorder: &Recorder) -> Result<()> {
    let record = |group: i64, node: i64, found: Edn| {
        let mut value = Edn::map([("group", Edn::Int(group)), ("node", Edn::Int(node))]);
        if let (Edn::Map(value), Edn::Map(found)) = (&mut value, found) {
            value.extend(found);
        }
        recorder.record(Process::Nemesis, Kind::Info, LOOK, value, None);
    };
    let Some(look) = feed.look() else {
        return Ok(());
    };
    let Some(cluster) = target.cluster() else {
        record(1, 1, look(&target.client().await?).await?);
        return Ok(());
    };
    cluster.wait_level(PATIENCE).await?;
    for group in cluster.groups() {
        for node in cluster.node_ids() {
            let found = look(&cluster.replica(node, group).await?).await?;
            record(i64::from(group.0), i64::try_from(node.0)?, found);
        }
    }
    Ok(())
}
