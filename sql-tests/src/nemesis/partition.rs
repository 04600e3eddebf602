//! The links between the nodes.

use std::time::Duration;

use futures::future::BoxFuture;
use shard::id::NodeId;

use super::fault::{Fault, World, node_value};
use super::kinds::Kind;
use super::schedule::Strike;
use crate::Result;
use crate::cluster::{Link, LinkRule, RuleId};
use crate::history::Edn;

/// How late a slow link is, at the most.
const SLOWEST: u64 = 400;

/// What becomes of which links.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Pattern {
    /// One node and all others: cut both ways, with resets or in silence.
    Isolate,
    /// One node: what it sends, or what it is sent, is held back in silence.
    OneWay,
    /// One node and one other.
    Pair,
    /// About half of the nodes and the other half.
    Halves,
    /// Each node reaches a majority, but no two the same (as Jepsen's majorities-ring).
    Ring,
    /// One node, cut and not cut in turns.
    Flapping,
    /// One node: late.
    Slow,
    /// All links stutter.
    Lossy,
}

/// Links that are disturbed.
#[derive(Debug)]
pub(super) struct Disturb {
    kind: Kind,
    pattern: Pattern,
    rule: Option<RuleId>,
}

impl Disturb {
    pub(super) fn of(kind: Kind, pattern: Pattern) -> Disturb {
        Disturb {
            kind,
            pattern,
            rule: None,
        }
    }
}

/// The rule for a pattern around `node`; pure.
fn rule(pattern: Pattern, nodes: &[NodeId], node: NodeId, pick: u64) -> LinkRule {
    let others = || nodes.iter().copied().filter(|other| *other != node);
    let out: Vec<_> = others().map(|other| (node, other)).collect();
    let back: Vec<_> = others().map(|other| (other, node)).collect();
    let both = || [out.as_slice(), back.as_slice()].concat();
    let silent_or_not = if pick.is_multiple_of(2) {
        Link::Cut
    } else {
        Link::Held
    };
    let (directions, link) = match pattern {
        Pattern::Isolate => (both(), silent_or_not),
        Pattern::OneWay if pick.is_multiple_of(2) => (out, Link::Held),
        Pattern::OneWay => (back, Link::Held),
        Pattern::Pair => {
            let last = u64::try_from(out.len()).unwrap_or(1).max(1);
            let place = usize::try_from(pick / 2 % last).unwrap_or(0);
            let pair = [out.get(place), back.get(place)];
            (pair.into_iter().flatten().copied().collect(), silent_or_not)
        }
        Pattern::Halves => (across(&half(nodes, node), nodes), silent_or_not),
        Pattern::Ring => (beyond_neighbours(nodes), silent_or_not),
        Pattern::Flapping => (both(), Link::Flapping(Duration::from_millis(50 + pick % 500))),
        Pattern::Slow => (both(), Link::Slow(Duration::from_millis(20 + pick % SLOWEST))),
        Pattern::Lossy => {
            let pairs = nodes
                .iter()
                .flat_map(|from| nodes.iter().map(move |to| (*from, *to)));
            (pairs.filter(|(from, to)| from != to).collect(), Link::Lossy)
        }
    };
    LinkRule { directions, link }
}

/// `node` and those that follow it, less than half of all where that is possible.
fn half(nodes: &[NodeId], node: NodeId) -> Vec<NodeId> {
    let from = nodes.iter().position(|other| *other == node).unwrap_or(0);
    let in_turn = nodes.iter().cycle().skip(from);
    in_turn.take((nodes.len() / 2).max(1)).copied().collect()
}

/// All directions between those in `part` and those that are not.
fn across(part: &[NodeId], nodes: &[NodeId]) -> Vec<(NodeId, NodeId)> {
    let pairs = nodes
        .iter()
        .flat_map(|from| nodes.iter().map(move |to| (*from, *to)));
    let apart = |(from, to): &(NodeId, NodeId)| part.contains(from) != part.contains(to);
    pairs.filter(apart).collect()
}

/// All directions between nodes that are not neighbours on a ring on which each has so many
/// neighbours that it is in a majority with them.
fn beyond_neighbours(nodes: &[NodeId]) -> Vec<(NodeId, NodeId)> {
    let count = nodes.len();
    let reach = (count / 2).div_ceil(2);
    let mut ways = Vec::new();
    for (from, a) in nodes.iter().enumerate() {
        for (to, b) in nodes.iter().enumerate() {
            let apart = from.abs_diff(to);
            if apart.min(count - apart) > reach {
                ways.push((*a, *b));
            }
        }
    }
    ways
}

impl Fault for Disturb {
    fn name(&self) -> &'static str {
        self.kind.name()
    }

    fn lasts(&self) -> bool {
        true
    }

    fn start<'a>(
        &'a mut self,
        world: &'a mut World,
        strike: &'a Strike,
    ) -> BoxFuture<'a, Result<Option<Edn>>> {
        Box::pin(async move {
            let Some(node) = world.target(strike.aim).await else {
                return Ok(None);
            };
            let rule = rule(self.pattern, &world.cluster.node_ids(), node, strike.pick);
            if rule.directions.is_empty() {
                return Ok(None);
            }
            let link = Edn::Text(format!("{:?}", rule.link));
            let way = |(from, to): &(NodeId, NodeId)| Edn::Text(format!("n{from} to n{to}"));
            let ways = Edn::Vector(rule.directions.iter().map(way).collect());
            self.rule = Some(world.cluster.impose(rule)?);
            Ok(Some(Edn::map([
                ("node", node_value(node)),
                ("link", link),
                ("ways", ways),
            ])))
        })
    }

    fn heal<'a>(&'a mut self, world: &'a mut World) -> BoxFuture<'a, Result<Edn>> {
        Box::pin(async move {
            if let Some(rule) = self.rule.take() {
                world.cluster.lift(rule)?;
            }
            Ok(Edn::Nil)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NODES: [NodeId; 3] = [NodeId(1), NodeId(2), NodeId(3)];

    #[test]
    fn one_way_leaves_the_other_way_open() {
        let out = rule(Pattern::OneWay, &NODES, NODES[0], 0);
        assert_eq!(out.directions, [(NODES[0], NODES[1]), (NODES[0], NODES[2])]);
        let back = rule(Pattern::OneWay, &NODES, NODES[0], 1);
        assert_eq!(back.directions, [(NODES[1], NODES[0]), (NODES[2], NODES[0])]);
        assert_eq!((out.link, back.link), (Link::Held, Link::Held));
    }

    #[test]
    fn halves_are_apart_and_a_ring_leaves_each_a_majority() {
        let five: Vec<NodeId> = (1..=5).map(NodeId).collect();
        let halves = rule(Pattern::Halves, &five, NodeId(5), 0).directions;
        assert_eq!(halves.len(), 2 * 2 * 3);
        assert!(!halves.contains(&(NodeId(5), NodeId(1))));
        for count in [5, 7, 9] {
            let nodes: Vec<NodeId> = (1..=count).map(NodeId).collect();
            let ring = rule(Pattern::Ring, &nodes, NodeId(1), 0).directions;
            for node in &nodes {
                let cut = ring.iter().filter(|(from, _)| from == node).count();
                assert!(cut > 0 && 2 * (nodes.len() - cut) > nodes.len(), "{count}");
            }
        }
    }

    #[test]
    fn a_pair_is_cut_both_ways_and_no_more() {
        let pair = rule(Pattern::Pair, &NODES, NODES[1], 2);
        assert_eq!(pair.directions, [(NODES[1], NODES[2]), (NODES[2], NODES[1])]);
    }
}
