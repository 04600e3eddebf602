//! Registers that are read, written, and compared and set: for each key, is there an order of the
//! operations that agrees with real time and explains what each returned?
//!
//! Linearizability is local, so each key is looked at alone. The search is Wing and Gong's ("Testing
//! and Verifying Concurrent Objects", 1993) with Lowe's two improvements ("Testing for
//! Linearizability", 2017): an operation takes effect only when one that is over has to have done
//! so, and no configuration is looked at twice. Beside these, a read takes effect as soon as it can,
//! since it changes nothing; a write of unknown outcome is left out where nothing needs its value, and
//! another such write takes effect just before the next one, where nobody sees it; and a value that
//! nothing can bring back is not overwritten before all that needs it has taken effect. Where each
//! write has a value of its own, this leaves few choices. The libraries at hand know no operations without an end and no bound on their memory.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::pairs::{self, Operation, Outcome};
use super::{Anomaly, Name, Options, Verdict, words};
use crate::Result;
use crate::history::{Edn, History};

pub(super) fn check(history: &History, options: &Options) -> Result<Verdict> {
    let operations = pairs::operations(history)?;
    let mut by_key: BTreeMap<&Edn, Vec<Operation<'_>>> = BTreeMap::new();
    for operation in &operations {
        by_key
            .entry(pairs::keyed(operation)?.0)
            .or_default()
            .push(*operation);
    }
    let (mut anomalies, mut unknown) = (Vec::new(), Vec::new());
    let mut most = 0;
    for (key, operations) in &by_key {
        let register = Register::of(operations)?;
        let mut search = Search::new(&register, options.most_configurations);
        match search.run() {
            Answer::Explained => {}
            Answer::GaveUp => unknown.push(format!(
                "Key {key}: gave up after {} configurations, at {}.",
                search.seen.len(),
                words::operation(&register.stuck(search.deepest).operation),
            )),
            Answer::Unexplained => anomalies.push(told(key, &register, &search)),
        }
        most = most.max(search.seen.len());
    }
    if !operations
        .iter()
        .any(|operation| operation.is_ok() && operation.f() != "write")
    {
        unknown.push("Nobody read anything.".to_owned());
    }
    let mut verdict = Verdict::of(anomalies, unknown);
    verdict.counts = pairs::counts(&operations);
    verdict.counts.insert("keys", by_key.len());
    verdict.counts.insert("configurations at most", most);
    Ok(verdict)
}

fn told(key: &Edn, register: &Register<'_>, search: &Search<'_>) -> Anomaly {
    let stuck = register.stuck(search.deepest);
    let held: Vec<String> = search
        .held
        .iter()
        .map(|value| register.values[*value as usize].to_string())
        .collect();
    let words = format!(
        "no order of the operations on key {key} explains them. All that was over before index {} has \
         an order; but {} {} has none, as the register can only hold {} then.",
        stuck.over,
        stuck.operation.f(),
        words::operation(&stuck.operation),
        held.join(" or "),
    );
    Anomaly::new(Name::NotLinearizable, vec![stuck.operation.index()], words)
}

/// What an operation does; values by their places in [`Register::values`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Act {
    Read(u32),
    Write(u32),
    Cas(u32, u32),
}

impl Act {
    /// What the register holds after it, where it can take effect.
    fn on(self, held: u32) -> Option<u32> {
        match self {
            Act::Read(value) => (value == held).then_some(held),
            Act::Write(value) => Some(value),
            Act::Cas(old, new) => (old == held).then_some(new),
        }
    }
}

struct Item<'a> {
    operation: Operation<'a>,
    act: Act,
}

enum Event {
    Begins(u32),
    /// This one is over, and these others are not, the first to be over last.
    Over(u32, Vec<u32>),
}

/// The operations on one key that may have taken place.
struct Register<'a> {
    values: Vec<&'a Edn>,
    items: Vec<Item<'a>>,
    events: Vec<Event>,
    /// Those of unknown outcome, in the order of their beginnings.
    endless: Vec<u32>,
    /// By value.
    uses: Vec<Uses>,
    /// The event where each operation is over.
    over: Vec<usize>,
}

/// What has to do with a value.
#[derive(Clone, Debug, Default)]
struct Uses {
    /// How many operations lead to it, counting the beginning.
    sources: usize,
    /// The operations that took place and need it.
    needed_by: Vec<u32>,
    /// Whether some operation may need it.
    is_needed: bool,
}

/// Where the search did not get any further.
struct Stuck<'a> {
    operation: Operation<'a>,
    over: u64,
}

impl<'a> Register<'a> {
    fn of(operations: &[Operation<'a>]) -> Result<Register<'a>> {
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
            let mut needed = HashMap::new();
            for item in &self.items {
                if let Act::Read(value) | Act::Cas(value, _) = item.act {
                    *needed.entry(value).or_insert(0) += 1;
                }
            }
            let before = self.items.len();
            self.items.retain(|item| {
                let (Act::Read(to) | Act::Write(to) | Act::Cas(_, to)) = item.act;
                item.operation.is_ok() || needed.contains_key(&to)
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

    /// Whether overwriting what is held, by this operation, leaves another one without the value that
    /// it needs.
    fn must_stay(&self, configuration: &Configuration, by: u32) -> bool {
        let uses = &self.uses[configuration.held as usize];
        let waits = |place: &u32| {
            *place != by
                && self.over[*place as usize] >= configuration.event
                && !configuration.has_done(*place)
        };
        uses.sources == 1 && uses.needed_by.iter().any(waits)
    }

    /// Whether this is a write whose value nothing needs.
    fn is_unseen(&self, place: u32) -> bool {
        match self.items[place as usize].act {
            Act::Write(value) => !self.uses[value as usize].is_needed,
            _ => false,
        }
    }

    fn stuck(&self, event: usize) -> Stuck<'a> {
        let (Event::Begins(place) | Event::Over(place, _)) = &self.events[event];
        let operation = self.items[*place as usize].operation;
        let over = operation.completion.map_or(operation.index(), |op| op.index);
        Stuck { operation, over }
    }
}

/// How far an attempt at an order has come.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Configuration {
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

enum Answer {
    Explained,
    Unexplained,
    GaveUp,
}

struct Search<'a> {
    register: &'a Register<'a>,
    most: usize,
    seen: HashSet<Configuration>,
    /// The last event that an attempt came to.
    deepest: usize,
    /// What the register held in the attempts that came there.
    held: Vec<u32>,
}

impl<'a> Search<'a> {
    fn new(register: &'a Register<'a>, most: usize) -> Search<'a> {
        Search {
            register,
            most,
            seen: HashSet::new(),
            deepest: 0,
            held: Vec::new(),
        }
    }

    fn run(&mut self) -> Answer {
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
            if held != configuration.held && self.register.must_stay(configuration, *place) {
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
}
