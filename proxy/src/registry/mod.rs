//! The clients of this node: what the console shows of them, and what an operator asks of them.
//!
//! A session writes into its own entry, and nobody else does: plain stores to atomics, when a request begins and when the
//! session waits for its client again. So a request costs two readings of the clock and a dozen stores (below 100 ns; a
//! round trip to a PostgreSQL on the same machine takes a thousand times as long), and no lock is shared between sessions.
//! What changes rarely (the backends, the application's name) stands behind a lock of the entry's own. Whoever looks reads all
//! entries and sums up.

mod client;
mod counters;
mod words;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use parking_lot::Mutex;

pub(crate) use client::{Client, Held, Identity, Server};
pub(crate) use counters::Totals;
pub(crate) use words::{Activity, Pin, Pins};

use crate::cancel::now;

/// A client as it is at one moment.
#[derive(Clone, Debug)]
pub(crate) struct Shown {
    pub(crate) identity: Identity,
    pub(crate) application_name: String,
    pub(crate) activity: Activity,
    pub(crate) connected: u64,
    pub(crate) requested: Option<u64>,
    /// For how long it has been waiting, microseconds.
    pub(crate) waiting: Option<u64>,
    pub(crate) pins: Vec<&'static str>,
    pub(crate) servers: Vec<Server>,
    /// It is about to end.
    pub(crate) killed: bool,
    totals: Totals,
    admitted: bool,
}

impl Shown {
    fn of(client: &Client) -> Shown {
        let some = |time: u64| Some(time).filter(|time| *time > 0);
        let activity = client.activity.load(Relaxed);
        Shown {
            identity: client.identity.clone(),
            application_name: client.application_name.lock().clone(),
            activity: Activity::ALL[usize::from(activity).min(Activity::ALL.len() - 1)],
            connected: client.connected,
            requested: some(client.requested.load(Relaxed)),
            waiting: some(client.waiting.load(Relaxed)).map(|since| now().saturating_sub(since)),
            pins: Pins(client.pins.load(Relaxed)).names(),
            servers: client.servers.lock().clone(),
            killed: client.is_killed(),
            totals: client.counters.read(),
            admitted: client.admitted.load(Relaxed),
        }
    }
}

/// Some databases, or all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Which {
    All,
    Named(String),
}

impl Which {
    pub(crate) fn includes(&self, database: &str) -> bool {
        match self {
            Which::All => true,
            Which::Named(name) => name == database,
        }
    }
}

/// All clients of this node.
#[derive(Debug, Default)]
pub(crate) struct Registry(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    clients: HashMap<i32, Arc<Client>>,
    /// All databases are.
    paused_all: bool,
    paused: HashSet<String>,
    /// What the sessions that have ended have counted, by database: as many as there are databases that let clients in.
    ended: BTreeMap<String, Totals>,
}

impl Registry {
    /// A client that an operator's requests reach, until the answer is dropped.
    pub(crate) fn enter(self: &Arc<Self>, identity: Identity) -> Registered {
        let mut inner = self.0.lock();
        let paused = inner.paused_all || inner.paused.contains(&identity.database);
        Registered {
            client: inner.put(Client::new(identity, paused)),
            registry: Arc::clone(self),
        }
    }

    /// A client of the console, which nothing stops.
    pub(crate) fn enter_console(self: &Arc<Self>, identity: Identity) -> Registered {
        Registered {
            client: self.0.lock().put(Client::new(identity, false)),
            registry: Arc::clone(self),
        }
    }

    /// All clients, the oldest first.
    pub(crate) fn clients(&self) -> Vec<Shown> {
        let mut shown: Vec<Shown> = self
            .0
            .lock()
            .clients
            .values()
            .map(|client| Shown::of(client))
            .collect();
        shown.sort_by_key(|client| (client.connected, client.identity.process_id));
        shown
    }

    /// What was counted since the node started, by database.
    pub(crate) fn totals(&self) -> BTreeMap<String, Totals> {
        let inner = self.0.lock();
        let mut totals = inner.ended.clone();
        for client in inner
            .clients
            .values()
            .map(|client| Shown::of(client))
            .filter(|c| c.admitted)
        {
            totals
                .entry(client.identity.database)
                .or_default()
                .add(client.totals);
        }
        totals
    }

    /// Whether clients of a database wait for RESUME.
    pub(crate) fn is_paused(&self, database: &str) -> bool {
        let inner = self.0.lock();
        inner.paused_all || inner.paused.contains(database)
    }

    /// Clients of these databases begin nothing more. `except` is never paused.
    pub(crate) fn pause(&self, which: &Which, except: &str) {
        let mut inner = self.0.lock();
        match which {
            Which::All => inner.paused_all = true,
            Which::Named(database) => {
                inner.paused.insert(database.clone());
            }
        }
        inner.ask(which, except, |client| client.paused.store(true, Relaxed));
    }

    /// The end of [`Registry::pause`]; whether there was something to end.
    pub(crate) fn resume(&self, which: &Which) -> bool {
        let mut inner = self.0.lock();
        let was = match which {
            Which::All => {
                let was = inner.paused_all || !inner.paused.is_empty();
                inner.paused_all = false;
                inner.paused.clear();
                was
            }
            Which::Named(database) => !inner.paused_all && inner.paused.remove(database),
        };
        if was {
            inner.ask(which, "", |client| client.paused.store(false, Relaxed));
        }
        was
    }

    /// Whether all are paused, so that no single one can be resumed.
    pub(crate) fn all_paused(&self) -> bool {
        self.0.lock().paused_all
    }

    /// Clients of a database end, and new ones wait for RESUME.
    pub(crate) fn kill(&self, database: &str) {
        let mut inner = self.0.lock();
        inner.paused.insert(database.to_owned());
        inner.ask(&Which::Named(database.to_owned()), "", |client| {
            client.killed.store(true, Relaxed);
            client.paused.store(true, Relaxed);
        });
    }

    /// Whether a client of these databases holds a backend.
    pub(crate) fn holds_backends(&self, which: &Which) -> bool {
        let inner = self.0.lock();
        let mut clients = inner.clients.values();
        clients.any(|client| which.includes(&client.identity.database) && !client.servers.lock().is_empty())
    }
}

impl Inner {
    fn put(&mut self, client: Client) -> Arc<Client> {
        let client = Arc::new(client);
        self.clients
            .insert(client.identity.process_id, Arc::clone(&client));
        client
    }

    fn ask(&self, which: &Which, except: &str, ask: impl Fn(&Client)) {
        for client in self.clients.values() {
            let database = &client.identity.database;
            if which.includes(database) && database != except {
                ask(client);
                client.ring();
            }
        }
    }
}

/// A client's place in the registry; leaves it when dropped.
#[derive(Debug)]
pub(crate) struct Registered {
    pub(crate) client: Arc<Client>,
    registry: Arc<Registry>,
}

impl Drop for Registered {
    fn drop(&mut self) {
        let mut inner = self.registry.0.lock();
        let client = &self.client;
        inner.clients.remove(&client.identity.process_id);
        if client.admitted.load(Relaxed) {
            inner
                .ended
                .entry(client.identity.database.clone())
                .or_default()
                .add(client.counters.read());
        }
    }
}

#[cfg(test)]
mod tests {
    use shard::id::GroupId;

    use super::*;

    fn identity(process_id: i32, database: &str) -> Identity {
        Identity {
            process_id,
            user: "u".to_owned(),
            database: database.to_owned(),
            application_name: String::new(),
            address: None,
            local: None,
        }
    }

    #[test]
    fn what_ended_sessions_have_counted_stays_and_strangers_leave_nothing() {
        let registry = Arc::new(Registry::default());
        let (one, other) = (
            registry.enter(identity(1, "shop")),
            registry.enter(identity(2, "shop")),
        );
        let stranger = registry.enter(identity(3, "no such database"));
        for registered in [&one, &other] {
            registered.client.admit();
            registered.client.counters.queries.add(2);
        }
        stranger.client.counters.queries.add(1);
        drop((one, stranger));
        let totals = registry.totals();
        assert_eq!(totals.keys().collect::<Vec<_>>(), ["shop"]);
        assert_eq!(totals["shop"].queries, 4);
        drop(other);
        assert_eq!(registry.totals(), totals);
    }

    #[test]
    fn who_comes_while_a_database_is_paused_is_paused_until_it_is_resumed() {
        let registry = Arc::new(Registry::default());
        let before = registry.enter(identity(1, "shop"));
        let elsewhere = registry.enter(identity(2, "other"));
        let shop = Which::Named("shop".to_owned());
        registry.pause(&shop, "howdah");
        let after = registry.enter(identity(3, "shop"));
        assert!(before.client.is_paused() && after.client.is_paused());
        assert!(!elsewhere.client.is_asked());
        assert!(registry.resume(&shop) && !registry.resume(&shop));
        assert!(!before.client.is_paused() && !after.client.is_paused());
        registry.pause(&Which::All, "howdah");
        assert!(!registry.resume(&shop), "all are paused, not this one");
        assert!(elsewhere.client.is_paused() && registry.resume(&Which::All));
        assert!(!elsewhere.client.is_asked());
    }

    #[test]
    fn a_backend_is_held_until_it_is_dropped_and_reasons_are_named() {
        let registry = Arc::new(Registry::default());
        let one = registry.enter(identity(1, "shop"));
        let held = one.client.holds(GroupId(2), 42, 0);
        assert!(registry.holds_backends(&Which::All));
        let pins = Pins::default()
            .with(Pin::Cursor, true)
            .with(Pin::Copy, false)
            .with(Pin::Transaction, true);
        one.client.rests(Activity::IdleInTransaction, pins);
        assert_eq!(registry.clients()[0].pins, ["transaction", "cursor"]);
        drop(held);
        assert!(!registry.holds_backends(&Which::All));
    }
}
