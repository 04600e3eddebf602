//! Short cycles in a component.

use std::collections::VecDeque;

use super::components::View;
use super::graph::{Graph, Link};

/// Looks for shortest paths; keeps its memory from one search to the next.
pub(super) struct Search {
    /// The component that each state is in, from 1.
    member_of: Vec<u32>,
    /// The search that each state was last reached in.
    reached: Vec<u32>,
    /// How far each state is from the start of that search.
    far: Vec<u32>,
    /// The state before, and the link from there.
    before: Vec<(u32, u32)>,
    searches: u32,
    components: u32,
    /// How many links were looked at, over all searches.
    pub(super) work: usize,
}

impl Search {
    pub(super) fn new(states: usize) -> Search {
        Search {
            member_of: vec![0; states],
            reached: vec![0; states],
            far: vec![0; states],
            before: vec![(0, 0); states],
            searches: 0,
            components: 0,
            work: 0,
        }
    }

    /// Takes up another component.
    pub(super) fn enter(&mut self, component: &[u32]) {
        self.components += 1;
        for state in component {
            self.member_of[*state as usize] = self.components;
        }
    }

    /// Whether a state is in the component.
    pub(super) fn has(&self, state: u32) -> bool {
        self.member_of[state as usize] == self.components
    }

    /// The shortest cycle through the component that begins with this link out of this state, as
    /// edges between transactions. Links of `view` only, but the first may be another.
    pub(super) fn cycle(
        &mut self,
        view: &View<'_>,
        from: u32,
        first: usize,
        after: u32,
    ) -> Option<Vec<Link>> {
        let mut path = self.path(view, after, from)?;
        path.insert(0, first);
        Some(through_moments(view.graph, &path))
    }

    /// The links of a shortest path, where the links between moments are for nothing.
    fn path(&mut self, view: &View<'_>, start: u32, goal: u32) -> Option<Vec<usize>> {
        self.searches += 1;
        self.reached[start as usize] = self.searches;
        self.far[start as usize] = 0;
        let mut next = VecDeque::from([(start, 0)]);
        while let Some((state, far)) = next.pop_front() {
            if state == goal {
                return Some(self.way_back(start, goal));
            }
            if far > self.far[state as usize] {
                continue;
            }
            for place in view.graph.links_of(state / 2) {
                self.work += 1;
                let link = &view.graph.links[place];
                let Some(to) = view.step(state, link).filter(|to| self.has(*to)) else {
                    continue;
                };
                let cost = u32::from(link.to < view.graph.transactions);
                let place_of = to as usize;
                if self.reached[place_of] == self.searches && self.far[place_of] <= far + cost {
                    continue;
                }
                self.reached[place_of] = self.searches;
                self.far[place_of] = far + cost;
                self.before[place_of] = (state, u32::try_from(place).unwrap_or(u32::MAX));
                if cost == 0 {
                    next.push_front((to, far));
                } else {
                    next.push_back((to, far + cost));
                }
            }
        }
        None
    }

    fn way_back(&self, start: u32, goal: u32) -> Vec<usize> {
        let mut links = Vec::new();
        let mut state = goal;
        while state != start {
            let (before, link) = self.before[state as usize];
            links.push(link as usize);
            state = before;
        }
        links.reverse();
        links
    }
}

/// Replaces each way through moments by one link of real time.
fn through_moments(graph: &Graph, path: &[usize]) -> Vec<Link> {
    let mut edges = Vec::new();
    let mut began = None;
    for place in path {
        let link = graph.links[*place];
        let began_at = began.unwrap_or(link.from);
        if link.to < graph.transactions {
            edges.push(Link {
                from: began_at,
                ..link
            });
            began = None;
        } else {
            began = Some(began_at);
        }
    }
    edges
}
