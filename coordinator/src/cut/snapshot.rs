//! When snapshots of several groups are one snapshot of the database: pure.

use std::collections::BTreeMap;
use std::str::FromStr;

use shard::id::GroupId;

use crate::transaction::Xid;

/// What a group's PostgreSQL shows to a transaction (`pg_snapshot`: `xmin:xmax:xip_list`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    xmin: Xid,
    xmax: Xid,
    in_progress: Vec<Xid>,
}

impl Snapshot {
    /// Whether the transaction had ended when it was taken (`pg_visible_in_snapshot`).
    pub(super) fn sees(&self, xid: Xid) -> bool {
        xid < self.xmax && !self.in_progress.contains(&xid)
    }

    /// All transactions before this one had ended.
    pub(super) fn all_ended_before(&self) -> Xid {
        self.xmin
    }
}

/// A text that is no snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a snapshot")]
pub struct NotASnapshot;

impl FromStr for Snapshot {
    type Err = NotASnapshot;

    fn from_str(text: &str) -> Result<Snapshot, NotASnapshot> {
        let xid = |text: &str| text.parse().map(Xid).map_err(|_| NotASnapshot);
        let mut parts = text.splitn(3, ':');
        let mut part = || parts.next().ok_or(NotASnapshot);
        let (xmin, xmax, list) = (part()?, part()?, part()?);
        let in_progress = list.split(',').filter(|one| !one.is_empty()).map(xid);
        Ok(Snapshot {
            xmin: xid(xmin)?,
            xmax: xid(xmax)?,
            in_progress: in_progress.collect::<Result<_, _>>()?,
        })
    }
}

/// A transaction across groups that is committed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Decided {
    pub(super) gid: String,
    /// What wrote its decision on the anchor, as a rule its part there; and its parts that were prepared.
    pub(super) anchor: (GroupId, Xid),
    pub(super) parts: Vec<(GroupId, Xid)>,
}

/// A transaction of which the snapshots show some parts and lack others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Torn {
    pub(super) gid: String,
    /// The groups whose snapshots lack their part.
    pub(super) lacking: Vec<GroupId>,
}

/// The transactions of which these snapshots lack a part. Groups without a snapshot are not looked at.
pub(super) fn behind(snapshots: &BTreeMap<GroupId, Snapshot>, decided: &[Decided]) -> Vec<Torn> {
    let behind = decided.iter().map(|transaction| {
        let all = std::iter::once(&transaction.anchor).chain(&transaction.parts);
        let lacks = |(group, xid): &&(GroupId, Xid)| snapshots.get(group).is_some_and(|s| !s.sees(*xid));
        Torn {
            gid: transaction.gid.clone(),
            lacking: all.filter(lacks).map(|(group, _)| *group).collect(),
        }
    });
    behind.filter(|torn| !torn.lacking.is_empty()).collect()
}

/// The transactions that these snapshots show in part. Groups without a snapshot are not looked at.
pub(super) fn torn(snapshots: &BTreeMap<GroupId, Snapshot>, decided: &[Decided]) -> Vec<Torn> {
    let mut torn = Vec::new();
    for transaction in decided {
        let all = std::iter::once(&transaction.anchor).chain(&transaction.parts);
        let seen = all.filter_map(|(group, xid)| Some((*group, snapshots.get(group)?.sees(*xid))));
        let (shown, lacking): (Vec<_>, Vec<_>) = seen.partition(|(_, sees)| *sees);
        if !shown.is_empty() && !lacking.is_empty() {
            torn.push(Torn {
                gid: transaction.gid.clone(),
                lacking: lacking.into_iter().map(|(group, _)| group).collect(),
            });
        }
    }
    torn
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: GroupId = GroupId(1);
    const B: GroupId = GroupId(2);

    fn snapshots(a: &str, b: &str) -> BTreeMap<GroupId, Snapshot> {
        BTreeMap::from([(A, a.parse().unwrap()), (B, b.parse().unwrap())])
    }

    fn transaction() -> Vec<Decided> {
        vec![Decided {
            gid: "t".to_owned(),
            anchor: (A, Xid(10)),
            parts: vec![(B, Xid(20))],
        }]
    }

    #[test]
    fn a_snapshot_sees_what_had_ended() {
        let snapshot: Snapshot = "10:15:10,12".parse().unwrap();
        let seen: Vec<u64> = (8..18).filter(|xid| snapshot.sees(Xid(*xid))).collect();
        assert_eq!(seen, [8, 9, 11, 13, 14]);
        assert_eq!(snapshot.all_ended_before(), Xid(10));
        assert!("7:7:".parse::<Snapshot>().is_ok());
        for wrong in ["", "1", "1:2", "1:2:x", "a:2:"] {
            assert_eq!(wrong.parse::<Snapshot>(), Err(NotASnapshot), "{wrong}");
        }
    }

    #[test]
    fn every_part_of_what_is_decided_is_asked_for() {
        let lacking = |a: &str, b: &str| {
            let behind = behind(&snapshots(a, b), &transaction());
            behind
                .into_iter()
                .flat_map(|torn| torn.lacking)
                .collect::<Vec<_>>()
        };
        assert_eq!(lacking("11:11:", "21:21:"), [], "all");
        assert_eq!(lacking("10:11:10", "20:21:20"), [A, B], "none");
        assert_eq!(lacking("11:11:", "20:21:20"), [B]);
        let one = BTreeMap::from([(B, "20:21:20".parse().unwrap())]);
        assert_eq!(
            behind(&one, &transaction())[0].lacking,
            [B],
            "the anchor is not looked at"
        );
    }

    #[test]
    fn all_parts_or_none_are_in_a_cut() {
        let lacking = |a: &str, b: &str| torn(&snapshots(a, b), &transaction());
        assert_eq!(lacking("11:11:", "21:21:"), [], "all");
        assert_eq!(lacking("10:11:10", "20:21:20"), [], "none");
        let torn_at = |group| {
            vec![Torn {
                gid: "t".to_owned(),
                lacking: vec![group],
            }]
        };
        assert_eq!(
            lacking("11:11:", "20:21:20"),
            torn_at(B),
            "decided, not yet committed there"
        );
        assert_eq!(
            lacking("10:11:10", "21:21:"),
            torn_at(A),
            "the anchor's snapshot is the older"
        );
    }
}
