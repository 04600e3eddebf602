//! Cycles of dependencies, and their names.
//!
//! The graph is looked at in several views, each with more links than the one before, such that any
//! cycle in a view is one that the model forbids. So whether a history is valid is decided exactly
//! and in linear time, by components; only the choice of the cycle that is told is a search with
//! a bound.

use super::super::{Anomaly, Dependency, Edge, Name, Options, Order, Shape, words};
use super::components::{View, Walk, components};
use super::graph::{Graph, Link};
use super::reads::MOST_OF_A_NAME;
use super::search::Search;
use super::txn::Transactions;

/// So many links of a component are tried as the beginning of its shortest cycle.
const MOST_STARTS: usize = 500;
/// So many links are looked at for a shorter cycle, once there is one.
const MOST_WORK: usize = 2_000_000;

#[derive(Default)]
pub(super) struct Found {
    pub(super) anomalies: Vec<Anomaly>,
    pub(super) notes: Vec<String>,
}

use Dependency::{Process, Realtime, Rw, Wr, Ww};

/// The views, the strictest first: the worst anomaly that is looked for in each, its dependencies,
/// and the kinds of links that one of its cycles begins with.
const VIEWS: [(Shape, &[Dependency], Walk, Dependency); 4] = [
    (Shape::G0, &[Ww], Walk::Any, Ww),
    (Shape::G1c, &[Ww, Wr], Walk::Any, Wr),
    (Shape::GSingle, &[Ww, Wr, Rw], Walk::Apart, Rw),
    (Shape::G2Item, &[Ww, Wr, Rw], Walk::Any, Rw),
];

pub(super) fn check(transactions: &Transactions<'_>, graph: &Graph, options: &Options) -> Found {
    let mut orders: Vec<Vec<Dependency>> = vec![Vec::new()];
    if options.session_order {
        orders.push(vec![Process]);
    }
    if options.real_time {
        // Real time implies the order of each session.
        orders.push(vec![Process, Realtime]);
    }
    let mut found = Found::default();
    // A cycle of data is told alone. One of sessions does not hide one of real time, which is
    // often shorter.
    let mut told_by_data = vec![false; transactions.list.len()];
    let mut search = Search::new(graph.nodes() * 2);
    let mut untold = 0;
    for order in &orders {
        let mut told = told_by_data.clone();
        for (shape, data, walk, begins) in VIEWS {
            if !options.model.forbids_shape(shape) {
                continue;
            }
            let kinds = [data, order].concat();
            let view = View {
                graph,
                kinds: &kinds,
                walk,
            };
            for component in components(&view) {
                let is_told = |state: &u32| told.get(*state as usize / 2).is_some_and(|told| *told);
                if component.iter().any(is_told) {
                    continue;
                }
                search.enter(&component);
                let Some(cycle) = shortest(&mut search, &view, begins, &component) else {
                    continue;
                };
                cycle.iter().for_each(|link| told[link.from as usize] = true);
                let name = name(&cycle);
                if found
                    .anomalies
                    .iter()
                    .filter(|anomaly| anomaly.name == name)
                    .count()
                    < MOST_OF_A_NAME
                {
                    found.anomalies.push(tell(transactions, name, &cycle));
                } else {
                    untold += 1;
                }
            }
        }
        if order.is_empty() {
            told_by_data = told;
        }
    }
    if untold > 0 {
        found.notes.push(format!("{untold} more cycles are not told."));
    }
    found
}

/// The worst of the short cycles of a component, and of these the shortest.
fn shortest(
    search: &mut Search,
    view: &View<'_>,
    begins: Dependency,
    component: &[u32],
) -> Option<Vec<Link>> {
    let mut starts = starts(search, view, component, |kind| kind == begins);
    if starts.is_empty() {
        starts = self::starts(search, view, component, |kind| kind < Process);
    }
    let few = starts.len().div_ceil(MOST_STARTS).max(1);
    let without_rw: Vec<Dependency> = view.kinds.iter().copied().filter(|kind| *kind != Rw).collect();
    let single = View {
        kinds: &without_rw,
        ..*view
    };
    let mut best: Option<Vec<Link>> = None;
    search.work = 0;
    // First those with no rw beside the first link, then all.
    for view in [&single, view] {
        for (from, link, after) in starts.iter().step_by(few) {
            if best.is_some() && search.work > MOST_WORK {
                break;
            }
            if let Some(cycle) = search.cycle(view, *from, *link, *after)
                && best.as_ref().is_none_or(|best| rank(&cycle) < rank(best))
            {
                best = Some(cycle);
            }
        }
        if best.is_some() {
            break;
        }
    }
    best
}

/// The links of the component to begin with: the state before, the link, the state after.
fn starts(
    search: &Search,
    view: &View<'_>,
    component: &[u32],
    begins: impl Fn(Dependency) -> bool,
) -> Vec<(u32, usize, u32)> {
    let mut starts = Vec::new();
    for from in component {
        for place in view.graph.links_of(*from / 2) {
            let link = &view.graph.links[place];
            if !begins(link.kind) {
                continue;
            }
            if let Some(after) = view.step(*from, link).filter(|after| search.has(*after)) {
                starts.push((*from, place, after));
            }
        }
    }
    starts
}

fn rank(cycle: &[Link]) -> (Name, usize) {
    (name(cycle), cycle.len())
}

/// What a cycle is called, by the kinds of its links.
fn name(cycle: &[Link]) -> Name {
    let has = |kind| cycle.iter().any(|link| link.kind == kind);
    let after = cycle.iter().cycle().skip(1);
    let mut pairs = cycle.iter().zip(after);
    let shape = match cycle.iter().filter(|link| link.kind == Rw).count() {
        0 if has(Wr) => Shape::G1c,
        0 => Shape::G0,
        1 => Shape::GSingle,
        _ if pairs.any(|(one, next)| one.kind == Rw && next.kind == Rw) => Shape::G2Item,
        _ => Shape::GNonadjacent,
    };
    let order = match (has(Realtime), has(Process)) {
        (true, _) => Order::Realtime,
        (false, true) => Order::Process,
        (false, false) => Order::Data,
    };
    Name::Cycle(shape, order)
}

/// Begins at the transaction that began first.
fn tell(transactions: &Transactions<'_>, name: Name, cycle: &[Link]) -> Anomaly {
    let first = (0..cycle.len())
        .min_by_key(|place| cycle[*place].from)
        .unwrap_or(0);
    let links: Vec<Link> = [&cycle[first..], &cycle[..first]].concat();
    let operation = |node: u32| &transactions.list[node as usize].operation;
    let mut edges = Vec::new();
    for (place, link) in links.iter().enumerate() {
        let (from, to) = (operation(link.from), operation(link.to));
        let next = (place + 1) % links.len() + 1;
        let about = link.about;
        let key = about.map(|(key, _)| transactions.keys[key as usize]);
        let element = key.zip(about.map(|(_, element)| element));
        let (one, other) = (format!("T{}", place + 1), format!("T{next}"));
        edges.push(Edge {
            from: from.index(),
            to: to.index(),
            kind: link.kind,
            key: key.cloned(),
            words: words::reason(link.kind, &one, &other, from.process, element),
        });
    }
    let operations: Vec<_> = links.iter().map(|link| operation(link.from)).collect();
    Anomaly {
        name,
        words: words::cycle(&operations, &edges),
        ops: operations.iter().map(|operation| operation.index()).collect(),
        cycle: edges,
    }
}
