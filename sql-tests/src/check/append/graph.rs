//! The dependencies between transactions.

use std::collections::HashMap;

use super::super::pairs::Outcome;
use super::super::{Dependency, Options};
use super::txn::{Key, Transactions};
use super::versions::{Order, Versions};

/// So many elements that nobody read, though they are surely there, are taken to come after a key's longest version.
/// Any of them would be right; all of them would be many where a key was hardly read.
const MOST_UNREAD: usize = 16;

/// A link between two nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Link {
    pub(super) from: u32,
    pub(super) kind: Dependency,
    pub(super) to: u32,
    /// For dependencies of data: the key, and the later element.
    pub(super) about: Option<(Key, i64)>,
}

/// Transactions as nodes, with their dependencies as links.
///
/// Real time would need a link for each pair of transactions that do not overlap. Instead there is
/// a chain of *moments*, one for each completion: a transaction leads to the moment where it was
/// acknowledged, and the last moment before its beginning leads to it. So there are as few links as
/// transactions, and a path through moments is one edge of real time.
#[derive(Clone, Debug)]
pub(super) struct Graph {
    /// So many nodes are transactions; those after them are moments.
    pub(super) transactions: u32,
    /// Sorted; see `starts`.
    pub(super) links: Vec<Link>,
    /// Where each node's links begin, and at last where all end.
    starts: Vec<u32>,
}

impl Graph {
    pub(super) fn of(transactions: &Transactions<'_>, versions: &Versions, options: &Options) -> Graph {
        let count = u32::try_from(transactions.list.len()).unwrap_or(u32::MAX);
        let mut links = Vec::new();
        let chains: Vec<Chain> = (0..)
            .zip(&versions.orders)
            .map(|(key, order)| Chain::of(key, order, versions))
            .collect();
        for chain in &chains {
            chain.writes(&mut links);
        }
        for (reader, txn) in (0..count).zip(&transactions.list) {
            for (key, seen) in txn.reads() {
                let order = &versions.orders[key as usize];
                chains[key as usize].read(reader, seen, order, versions, &mut links);
            }
        }
        if options.session_order {
            sessions(transactions, &mut links);
        }
        let mut nodes = count;
        if options.real_time {
            nodes = real_time(transactions, count, &mut links);
        }
        Graph::with(count, nodes, links)
    }

    fn with(transactions: u32, nodes: u32, mut links: Vec<Link>) -> Graph {
        links.sort_unstable();
        links.dedup_by(|a, b| (a.from, a.kind, a.to) == (b.from, b.kind, b.to));
        let mut starts = vec![0; nodes as usize + 1];
        for link in &links {
            starts[link.from as usize + 1] += 1;
        }
        for node in 0..nodes as usize {
            starts[node + 1] += starts[node];
        }
        Graph {
            transactions,
            links,
            starts,
        }
    }

    /// How many nodes there are.
    pub(super) fn nodes(&self) -> usize {
        self.starts.len() - 1
    }

    /// Where in `links` those of a node are.
    pub(super) fn links_of(&self, node: u32) -> std::ops::Range<usize> {
        let place = node as usize;
        self.starts[place] as usize..self.starts[place + 1] as usize
    }

    /// How many dependencies of data there are.
    pub(super) fn dependencies(&self) -> usize {
        let data = |link: &&Link| link.kind < Dependency::Process;
        self.links.iter().filter(data).count()
    }
}

/// The versions of a key whose writers are in the graph, in their order.
struct Chain {
    key: Key,
    /// Each version's place in the key's order, its element and its writer.
    versions: Vec<(usize, i64, u32)>,
    /// Elements that come after all of these, in no known order.
    unread: Vec<(i64, u32)>,
}

impl Chain {
    fn of(key: Key, order: &Order, versions: &Versions) -> Chain {
        let in_graph = |element: &i64| {
            let writer = versions.writer(key, *element)?;
            (writer.outcome != Outcome::Fail).then_some(writer.txn)
        };
        let places = order.elements.iter().enumerate();
        let unread = order.unread.iter().take(MOST_UNREAD);
        Chain {
            key,
            versions: places
                .filter_map(|(place, element)| Some((place, *element, in_graph(element)?)))
                .collect(),
            unread: unread
                .filter_map(|element| Some((*element, in_graph(element)?)))
                .collect(),
        }
    }

    fn link(&self, from: u32, kind: Dependency, to: u32, element: i64, links: &mut Vec<Link>) {
        if from != to {
            let about = Some((self.key, element));
            links.push(Link {
                from,
                kind,
                to,
                about,
            });
        }
    }

    /// Each version's writer comes before the next one's.
    fn writes(&self, links: &mut Vec<Link>) {
        for pair in self.versions.windows(2) {
            let ((_, _, from), (_, element, to)) = (pair[0], pair[1]);
            self.link(from, Dependency::Ww, to, element, links);
        }
        if let Some((_, _, from)) = self.versions.last() {
            for (element, to) in &self.unread {
                self.link(*from, Dependency::Ww, *to, *element, links);
            }
        }
    }

    /// Who wrote what was read comes before its reader, and its reader before the writer of what
    /// follows.
    fn read(&self, reader: u32, seen: &[i64], order: &Order, versions: &Versions, links: &mut Vec<Link>) {
        if let Some(element) = seen.last()
            && let Some(writer) = versions.writer(self.key, *element)
        {
            if writer.outcome != Outcome::Fail {
                self.link(writer.txn, Dependency::Wr, reader, *element, links);
            }
            if writer.txn == reader {
                // What follows its own append is already linked to it as a version.
                return;
            }
        }
        if !order.elements.starts_with(seen) {
            return;
        }
        let next = self.versions.partition_point(|(place, _, _)| *place < seen.len());
        if let Some((_, element, writer)) = self.versions.get(next) {
            self.link(reader, Dependency::Rw, *writer, *element, links);
            return;
        }
        for (element, writer) in &self.unread {
            self.link(reader, Dependency::Rw, *writer, *element, links);
        }
    }
}

/// Whether a transaction is in the graph: one that failed is not.
fn took_place(transactions: &Transactions<'_>) -> impl Iterator<Item = (u32, usize)> {
    let places = (0..).zip(transactions.list.iter().enumerate());
    places
        .filter_map(|(node, (place, txn))| (txn.operation.outcome != Outcome::Fail).then_some((node, place)))
}

fn sessions(transactions: &Transactions<'_>, links: &mut Vec<Link>) {
    let mut before: HashMap<u64, u32> = HashMap::new();
    for (to, place) in took_place(transactions) {
        let process = transactions.list[place].operation.process;
        if let Some(from) = before.insert(process, to) {
            let (kind, about) = (Dependency::Process, None);
            links.push(Link {
                from,
                kind,
                to,
                about,
            });
        }
    }
}

/// Adds the moments and returns how many nodes there are with them.
fn real_time(transactions: &Transactions<'_>, count: u32, links: &mut Vec<Link>) -> u32 {
    let mut events: Vec<(usize, bool, u32)> = Vec::new();
    for (node, place) in took_place(transactions) {
        let operation = &transactions.list[place].operation;
        events.push((operation.began, false, node));
        if let Some(ended) = operation.ended {
            events.push((ended, true, node));
        }
    }
    events.sort_unstable();
    let mut moment = count;
    let mut link = |from, to| {
        let (kind, about) = (Dependency::Realtime, None);
        links.push(Link {
            from,
            kind,
            to,
            about,
        });
    };
    for (_, ends, node) in events {
        if ends {
            if moment > count {
                link(moment - 1, moment);
            }
            link(node, moment);
            moment += 1;
        } else if moment > count {
            link(moment - 1, node);
        }
    }
    moment
}
