//! Strongly connected components: what has no component of two has no cycle.

use super::super::Dependency;
use super::graph::{Graph, Link};

/// What walks through the graph are looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Walk {
    /// All.
    Any,
    /// Those where no rw follows another one. Snapshot isolation is that none of them is closed
    /// (Cerone and Gotsman, "Analysing Snapshot Isolation", PODC 2016, theorem 10).
    Apart,
}

/// A part of the graph.
///
/// Its *states* are the nodes, each twice: state `2 n + 1` is node `n` after an rw, where
/// that matters, and state `2 n` is node `n` otherwise.
#[derive(Clone, Copy, Debug)]
pub(super) struct View<'a> {
    pub(super) graph: &'a Graph,
    /// The kinds of links in it.
    pub(super) kinds: &'a [Dependency],
    pub(super) walk: Walk,
}

impl View<'_> {
    /// How many states there are.
    pub(super) fn states(&self) -> usize {
        self.graph.nodes() * 2
    }

    /// Where a link leads from a state.
    pub(super) fn step(&self, state: u32, link: &Link) -> Option<u32> {
        if !self.kinds.contains(&link.kind) {
            return None;
        }
        let rw = self.walk == Walk::Apart && link.kind == Dependency::Rw;
        if rw && state % 2 == 1 {
            return None;
        }
        Some(link.to * 2 + u32::from(rw))
    }
}

/// The components of more than one state, in a stable order. Tarjan's algorithm ("Depth-first search
/// and linear graph algorithms", 1972), with its own stack, since histories are deep.
pub(super) fn components(view: &View<'_>) -> Vec<Vec<u32>> {
    let mut tarjan = Tarjan {
        view,
        next: 1,
        order: vec![0; view.states()],
        low: vec![0; view.states()],
        waiting: vec![false; view.states()],
        stack: Vec::new(),
        found: Vec::new(),
    };
    for node in 0..view.graph.transactions {
        if tarjan.order[node as usize * 2] == 0 {
            tarjan.visit(node * 2);
        }
    }
    for component in &mut tarjan.found {
        component.sort_unstable();
    }
    tarjan.found.sort_unstable();
    tarjan.found
}

struct Tarjan<'a> {
    view: &'a View<'a>,
    next: u32,
    /// When each state was first seen, from 1; 0 for never.
    order: Vec<u32>,
    /// The earliest state that is reached from each and still waits.
    low: Vec<u32>,
    waiting: Vec<bool>,
    stack: Vec<u32>,
    found: Vec<Vec<u32>>,
}

impl Tarjan<'_> {
    fn enter(&mut self, state: u32) -> (u32, std::ops::Range<usize>) {
        let place = state as usize;
        self.order[place] = self.next;
        self.low[place] = self.next;
        self.next += 1;
        self.waiting[place] = true;
        self.stack.push(state);
        (state, self.view.graph.links_of(state / 2))
    }

    fn visit(&mut self, root: u32) {
        let mut calls = vec![self.enter(root)];
        while let Some((state, links)) = calls.last_mut() {
            let state = *state;
            let Some(link) = links.next() else {
                calls.pop();
                if let Some((caller, _)) = calls.last() {
                    let low = self.low[state as usize];
                    let caller = &mut self.low[*caller as usize];
                    *caller = low.min(*caller);
                }
                self.leave(state);
                continue;
            };
            let Some(to) = self.view.step(state, &self.view.graph.links[link]) else {
                continue;
            };
            if self.order[to as usize] == 0 {
                calls.push(self.enter(to));
            } else if self.waiting[to as usize] {
                let low = &mut self.low[state as usize];
                *low = self.order[to as usize].min(*low);
            }
        }
    }

    fn leave(&mut self, state: u32) {
        if self.low[state as usize] != self.order[state as usize] {
            return;
        }
        let mut component = Vec::new();
        while let Some(member) = self.stack.pop() {
            self.waiting[member as usize] = false;
            component.push(member);
            if member == state {
                break;
            }
        }
        if component.len() > 1 {
            self.found.push(component);
        }
    }
}
