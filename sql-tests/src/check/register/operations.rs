//! What the operations on a register do, and in what order they began and were over.

use std::collections::{BTreeMap, HashSet};

use super::super::pairs::{self, Operation, Outcome};
use crate::Result;
use crate::history::Edn;

/// What an operation does; values by their places in [`Register::values`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Act {
    Read(u32),
    Write(u32),
    Cas(u32, u32),
}

impl Act {
    /// What the register holds after it, where it can take effect.
    pub(super) fn on(self, held: u32) -> Option<u32> {
        match self {
            Act::Read(value) => (value == held).then_some(held),
            Act::Write(value) => Some(value),
            Act::Cas(old, new) => (old == held).then_some(new),
        }
    }
}

pub(super) struct Item<'a> {
    pub(super) operation: Operation<'a>,
    pub(super) act: Act,
}

pub(super) enum Event {
    Begins(u32),
    /// This one is over, and these others are not, the first to be over last.
    Over(u32, Vec<u32>),
}

/// The operations on one key that may have taken place.
pub(super) struct Register<'a> {
    pub(super) values: Vec<&'a Edn>,
    pub(super) items: Vec<Item<'a>>,
    pub(super) events: Vec<Event>,
    /// Those of unknown outcome, in the order of their beginnings.
    pub(super) endless: Vec<u32>,
    /// By value.
    pub(super) uses: Vec<Uses>,
    /// The event where each operation is over.
    pub(super) over: Vec<usize>,
}

/// What has to do with a value.
#[derive(Clone, Debug, Default)]
pub(super) struct Uses {
    /// How many operations lead to it, counting the beginning.
    pub(super) sources: usize,
    /// The operations that took place and need it.
    pub(super) needed_by: Vec<u32>,
    /// Whether some operation may need it.
    is_needed: bool,
}

/// Where the search did not get any further.
pub(super) struct Stuck<'a> {
    pub(super) operation: Operation<'a>,
    pub(super) over: u64,
}

impl<'a> Register<'a> {
    pub(super) fn of(operations: &[Operation<'a>]) -> Result<Register<'a>> {
        let mut register = Register {
            values: vec![&Edn::Nil],
            items: Vec::new(),
            events: Vec::new(),
            endless: Vec::new(),
            uses: Vec::new(),
            over: Vec::new(),
        };
        let mut places = BTreeMap::from([(&Edn::Nil, 0)]);
        for operation in operations {
            let read_of_nothing = operation.f() == "read" && !operation.is_ok();
            if operation.outcome != Outcome::Fail && !read_of_nothing {
                let act = register.act(operation, &mut places)?;
                let operation = *operation;
                register.items.push(Item { operation, act });
            }
        }
        register.leave_out_the_needless();
        register.lay_out();
        register.count_uses();
        Ok(register)
    }

    fn act(&mut self, operation: &Operation<'a>, places: &mut BTreeMap<&'a Edn, u32>) -> Result<Act> {
        let (_, value) = pairs::keyed(operation)?;
        let mut place = |value: &'a Edn| {
            *places.entry(value).or_insert_with(|| {
                self.values.push(value);
                u32::try_from(self.values.len() - 1).unwrap_or(u32::MAX)
            })
        };
        match (operation.f(), value.vector()) {
            ("read", _) => Ok(Act::Read(place(value))),
            ("write", _) => Ok(Act::Write(place(value))),
            ("cas", Some([old, new])) => Ok(Act::Cas(place(old), place(new))),
            _ => Err(format!("not an operation on a register: {}", operation.invocation).into()),
        }
    }

    /// Leaves out what need not have taken place and leads to a value that nothing else needs.
    fn leave_out_the_needless(&mut self) {
        loop {
            let needs = self.items.iter().filter_map(|item| match item.act {
                Act::Read(value) | Act::Cas(value, _) => Some(value),
                Act::Write(_) => None,
            });
            let needed: HashSet<u32> = needs.collect();
            let before = self.items.len();
            self.items.retain(|item| {
                let (Act::Read(to) | Act::Write(to) | Act::Cas(_, to)) = item.act;
                item.operation.is_ok() || needed.contains(&to)
            });
            if self.items.len() == before {
                return;
            }
        }
    }

    fn lay_out(&mut self) {
        let mut lines = Vec::new();
        for (place, item) in (0_u32..).zip(&self.items) {
            lines.push((item.operation.began, place));
            match item.operation.ended {
                Some(ended) => lines.push((ended, place)),
                None => self.endless.push(place),
            }
        }
        lines.sort_unstable();
        let mut open: Vec<u32> = Vec::new();
        for (line, place) in lines {
            let operation = &self.items[place as usize].operation;
            if operation.ended != Some(line) {
                if operation.ended.is_some() {
                    open.push(place);
                }
                self.events.push(Event::Begins(place));
                continue;
            }
            open.retain(|other| *other != place);
            let mut others = open.clone();
            others.sort_by_key(|other| std::cmp::Reverse(self.items[*other as usize].operation.ended));
            self.events.push(Event::Over(place, others));
        }
    }

    fn count_uses(&mut self) {
        self.uses = vec![Uses::default(); self.values.len()];
        self.uses[0].sources = 1;
        for (place, item) in (0..).zip(&self.items) {
            if let Act::Read(value) | Act::Cas(value, _) = item.act {
                let uses = &mut self.uses[value as usize];
                uses.is_needed = true;
                if item.operation.is_ok() {
                    uses.needed_by.push(place);
                }
            }
            if let Act::Write(value) | Act::Cas(_, value) = item.act {
                self.uses[value as usize].sources += 1;
            }
        }
        self.over = vec![usize::MAX; self.items.len()];
        for (number, event) in self.events.iter().enumerate() {
            if let Event::Over(place, _) = event {
                self.over[*place as usize] = number;
            }
        }
    }

    /// Whether this is a write whose value nothing needs.
    pub(super) fn is_unseen(&self, place: u32) -> bool {
        match self.items[place as usize].act {
            Act::Write(value) => !self.uses[value as usize].is_needed,
            _ => false,
        }
    }

    pub(super) fn stuck(&self, event: usize) -> Stuck<'a> {
        let (Event::Begins(place) | Event::Over(place, _)) = &self.events[event];
        let operation = self.items[*place as usize].operation;
        let over = operation.completion.map_or(operation.index(), |op| op.index);
        Stuck { operation, over }
    }
}
