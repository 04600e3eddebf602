//! The search for an order, depth first.

use std::collections::HashSet;

use super::operations::{Act, Event, Register};

/// How far an attempt at an order has come.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Configuration {
    /// The next event.
    event: usize,
    /// What the register holds.
    held: u32,
    /// What has taken effect and is not over, in order of place.
    done: Vec<u32>,
}

impl Configuration {
    fn has_done(&self, place: u32) -> bool {
        self.done.binary_search(&place).is_ok()
    }

    fn does(&mut self, place: u32) {
        if let Err(gap) = self.done.binary_search(&place) {
            self.done.insert(gap, place);
        }
    }
}

pub(super) enum Answer {
    Explained,
    Unexplained,
    GaveUp,
}

pub(super) struct Search<'a> {
    register: &'a Register<'a>,
    most: usize,
    pub(super) seen: HashSet<Configuration>,
    /// The last event that an attempt came to.
    pub(super) deepest: usize,
    /// What the register held in the attempts that came there.
    pub(super) held: Vec<u32>,
}

impl<'a> Search<'a> {
    pub(super) fn new(register: &'a Register<'a>, most: usize) -> Search<'a> {
        Search {
            register,
            most,
            seen: HashSet::new(),
            deepest: 0,
            held: Vec::new(),
        }
    }

    pub(super) fn run(&mut self) -> Answer {
        let mut open = vec![Configuration {
            event: 0,
            held: 0,
            done: Vec::new(),
        }];
        while let Some(mut configuration) = open.pop() {
            if self.advance(&mut configuration) {
                return Answer::Explained;
            }
            if self.seen.contains(&configuration) {
                continue;
            }
            if self.seen.len() >= self.most {
                return Answer::GaveUp;
            }
            self.remember_deepest(&configuration);
            self.branch(&configuration, &mut open);
            self.seen.insert(configuration);
        }
        Answer::Unexplained
    }

    /// Goes on to where something has to take effect. Whether that is the end.
    fn advance(&self, configuration: &mut Configuration) -> bool {
        while let Some(event) = self.register.events.get(configuration.event) {
            match event {
                Event::Begins(place) => {
                    let act = self.register.items[*place as usize].act;
                    if act == Act::Read(configuration.held) {
                        configuration.does(*place);
                    }
                }
                Event::Over(place, _) => match configuration.done.binary_search(place) {
                    Ok(at) => drop(configuration.done.remove(at)),
                    Err(_) => return false,
                },
            }
            configuration.event += 1;
        }
        true
    }

    fn remember_deepest(&mut self, configuration: &Configuration) {
        if configuration.event > self.deepest {
            self.deepest = configuration.event;
            self.held.clear();
        }
        if configuration.event == self.deepest && !self.held.contains(&configuration.held) {
            self.held.push(configuration.held);
        }
    }

    /// Lets each of the open operations take effect that can; the likeliest is put last, to be
    /// tried first.
    fn branch(&self, configuration: &Configuration, open: &mut Vec<Configuration>) {
        let Some(Event::Over(over, others)) = self.register.events.get(configuration.event) else {
            return;
        };
        let line = self.register.items[*over as usize]
            .operation
            .ended
            .unwrap_or(usize::MAX);
        let begun = |place: &&u32| self.register.items[**place as usize].operation.began < line;
        let endless = self.register.endless.iter().take_while(begun);
        for place in endless.chain(others).chain([over]) {
            if configuration.has_done(*place) {
                continue;
            }
            let act = self.register.items[*place as usize].act;
            let Some(held) = act.on(configuration.held) else {
                continue;
            };
            if held != configuration.held && self.must_stay(configuration, *place) {
                continue;
            }
            let mut next = configuration.clone();
            next.held = held;
            next.does(*place);
            let is_write = matches!(act, Act::Write(_));
            for other in others.iter().chain([over]) {
                let reads_it = self.register.items[*other as usize].act == Act::Read(held);
                if reads_it || is_write && self.register.is_unseen(*other) {
                    next.does(*other);
                }
            }
            open.push(next);
        }
    }

    /// Whether overwriting what is held, by this operation, leaves another one without the value that
    /// it needs.
    fn must_stay(&self, configuration: &Configuration, by: u32) -> bool {
        let uses = &self.register.uses[configuration.held as usize];
        let waits = |place: &u32| {
            *place != by
                && self.register.over[*place as usize] >= configuration.event
                && !configuration.has_done(*place)
        };
        uses.sources == 1 && uses.needed_by.iter().any(waits)
    }
}
