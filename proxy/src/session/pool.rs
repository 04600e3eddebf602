//! The backends that no session needs at the moment.
//!
//! A session takes a backend when a statement needs one and gives it back when nothing of the session is left in it. Those that it
//! gives back lie on a shelf for sessions of the same start-up message: the same user, database and settings; also those that the
//! role and the database begin with. So there are never more of them than sessions.
//!
//! A session that has any backend has a ticket, and there are `most` tickets, a few of them for superusers only. Who finds none
//! waits in line, and holds nothing that others wait for meanwhile; who has one never waits, since a session has one backend of
//! a group, and each group has room for `most`.
//!
//! Invariants:
//! - A backend on a shelf is idle and owes nothing. Of the session that had it, it keeps settings, which
//!   [`Conn::owner`] says are to be undone for another one, and prepared statements, whose numbers are the node's.
//! - Every backend has a [`Berth`], and `open` counts those of a group. While there are more than `most`, nobody who opens one
//!   leaves another one idle.

use std::collections::HashMap;
use std::fmt;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use coordinator::catalogue::CatalogueVersion;
use coordinator::roles::Role;
use lru::LruCache;
use parking_lot::Mutex;
use shard::id::GroupId;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::conn::{Conn, Parameters};
use crate::cancel::now;
use crate::registry::Which;

/// Texts whose numbers are remembered.
const REMEMBERED: NonZeroUsize = NonZeroUsize::new(4096).expect("it is not 0");

/// A backend that nobody has used for so long is closed (PgBouncer's `server_idle_timeout`).
const IDLE: Duration = Duration::from_secs(600);

/// One that is as old as this is closed when it is given back: what PostgreSQL caches in a backend only grows (PgBouncer's
/// `server_lifetime`).
const LIFETIME: Duration = Duration::from_secs(3600);

/// Between two looks for those that are idle.
const LOOK: Duration = Duration::from_secs(30);

/// What all backends of a shelf began with: their start-up message, and [`Role::begins_as`](coordinator::roles::Role).
type Beginning = (Parameters, i64);

/// All backends of a node.
#[derive(Debug)]
pub(crate) struct Pool {
    tickets: Arc<Semaphore>,
    /// Those for superusers only.
    reserved: Arc<Semaphore>,
    /// Half of all: who has one may keep a backend for as long as it likes, and the others still have the other half.
    stays: Arc<Semaphore>,
    /// By place.
    groups: Vec<Mutex<Group>>,
    most: usize,
    shelves: Mutex<HashMap<Beginning, (Arc<Shelf>, usize)>>,
    /// The numbers of Parse messages, by the shelf and the tables that they were analysed by.
    parsed: Mutex<LruCache<(u64, Bytes, usize, CatalogueVersion), u64>>,
    numbers: AtomicU64,
}

#[derive(Debug, Default)]
struct Group {
    /// Backends that there are, or that are being opened.
    open: usize,
    /// By the shelf's number, and since when; the one that was given back last is the last.
    idle: HashMap<u64, Vec<(Instant, Conn)>>,
}

/// The right to have backends, one of each group.
pub(super) type Ticket = OwnedSemaphorePermit;

/// The right to keep a backend beyond transactions, for as long as the client wants it.
pub(super) type Stay = OwnedSemaphorePermit;

/// What a session gets that wants a backend.
#[derive(Debug)]
pub(super) enum Given {
    /// One that was open; it may have died meanwhile.
    Kept(Box<Conn>),
    /// Room to open one.
    Room(Berth),
}

/// A place for one backend; free again when it is dropped.
pub(crate) struct Berth {
    pool: Arc<Pool>,
    place: usize,
    /// [`Shelf::age`] when it was opened.
    age: u64,
}

impl fmt::Debug for Berth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Berth")
            .field("place", &self.place)
            .finish_non_exhaustive()
    }
}

impl Drop for Berth {
    fn drop(&mut self) {
        self.pool.groups[self.place].lock().open -= 1;
    }
}

impl Group {
    /// A backend for this shelf: the session's own if it is there, else the one that was used last.
    fn pop(&mut self, shelf: u64, owner: u64) -> Option<Conn> {
        let idle = self.idle.get_mut(&shelf)?;
        let own = idle.iter().rposition(|(_, conn)| conn.owner == owner);
        let at = own.or(idle.len().checked_sub(1))?;
        Some(idle.remove(at).1)
    }

    /// One of another shelf, the one that has been idle for longest there.
    fn pop_other(&mut self, shelf: u64) -> Option<Conn> {
        let (_, idle) = self
            .idle
            .iter_mut()
            .find(|(other, idle)| **other != shelf && !idle.is_empty())?;
        Some(idle.remove(0).1)
    }

    /// Those that were given back at `until` or before.
    fn pop_unused(&mut self, until: Instant) -> Vec<Conn> {
        let mut unused = Vec::new();
        for idle in self.idle.values_mut() {
            let count = idle.partition_point(|(since, _)| *since <= until);
            unused.extend(idle.drain(..count).map(|(_, conn)| conn));
        }
        unused
    }
}

/// Where backends of one start-up message lie.
#[derive(Debug)]
struct Shelf {
    number: u64,
    user: String,
    database: String,
    /// Counted up when all backends that are open are to go: [`Pool::clear`].
    age: AtomicU64,
}

/// A backend that no session has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Idle {
    pub(crate) user: String,
    pub(crate) database: String,
    pub(crate) group: GroupId,
    /// Its process id in its group's PostgreSQL.
    pub(crate) process_id: i32,
    /// Since when it is there, microseconds since 1970.
    pub(crate) opened: u64,
}

impl Pool {
    /// For so many groups, and at most `most` sessions with backends, of which so many are kept for superusers, but not all.
    pub(crate) fn new(groups: usize, most: usize, reserved: usize) -> Arc<Pool> {
        let most = most.clamp(1, Semaphore::MAX_PERMITS);
        let reserved = reserved.min(most - 1);
        Arc::new(Pool {
            tickets: Arc::new(Semaphore::new(most - reserved)),
            reserved: Arc::new(Semaphore::new(reserved)),
            stays: Arc::new(Semaphore::new((most / 2).max(1))),
            groups: (0..groups).map(|_| Mutex::default()).collect(),
            most,
            shelves: Mutex::default(),
            parsed: Mutex::new(LruCache::new(REMEMBERED)),
            numbers: AtomicU64::new(1),
        })
    }

    /// A number that nothing else on this node has.
    fn number(&self) -> u64 {
        self.numbers.fetch_add(1, Ordering::Relaxed)
    }

    /// Closes backends that nobody uses, for as long as it is polled.
    pub(crate) async fn watch(&self) {
        loop {
            tokio::time::sleep(LOOK).await;
            if let Some(until) = Instant::now().checked_sub(IDLE) {
                self.close_unused(until);
            }
        }
    }

    /// Closes those that nobody has used since `until`.
    fn close_unused(&self, until: Instant) {
        for group in &self.groups {
            let unused = group.lock().pop_unused(until);
            // Their berths are free once the lock is.
            drop(unused);
        }
    }

    /// For a new session with this start-up message, of this role.
    pub(crate) fn enter(self: &Arc<Self>, startup: &Parameters, role: &Role) -> Guest {
        let beginning = (startup.clone(), role.begins_as);
        let mut shelves = self.shelves.lock();
        let (shelf, sessions) = shelves.entry(beginning.clone()).or_insert_with(|| {
            let value = |wanted: &[u8]| {
                let found = startup.iter().find(|(name, _)| name == wanted);
                found.map_or_else(String::new, |(_, value)| {
                    String::from_utf8_lossy(value).into_owned()
                })
            };
            let shelf = Shelf {
                number: self.number(),
                user: value(b"user"),
                database: value(b"database"),
                age: AtomicU64::new(0),
            };
            (Arc::new(shelf), 0)
        });
        *sessions += 1;
        Guest {
            pool: Arc::clone(self),
            beginning,
            shelf: Arc::clone(shelf),
            superuser: role.superuser,
            id: self.number(),
        }
    }

    /// Backends of these databases that are open now serve no other session: idle ones go, and the others when they are given
    /// back.
    pub(crate) fn clear(&self, which: &Which) {
        let shelves: Vec<Arc<Shelf>> = self
            .shelves
            .lock()
            .values()
            .map(|(shelf, _)| Arc::clone(shelf))
            .filter(|shelf| which.includes(&shelf.database))
            .collect();
        for shelf in &shelves {
            shelf.age.fetch_add(1, Ordering::Relaxed);
        }
        for group in &self.groups {
            let mut group = group.lock();
            let gone: Vec<_> = shelves
                .iter()
                .filter_map(|shelf| group.idle.remove(&shelf.number))
                .collect();
            // Their berths are free once the lock is.
            drop(group);
            drop(gone);
        }
    }

    /// The backends that no session has.
    pub(crate) fn idle(&self) -> Vec<Idle> {
        let shelves: HashMap<u64, Arc<Shelf>> = self
            .shelves
            .lock()
            .values()
            .map(|(shelf, _)| (shelf.number, Arc::clone(shelf)))
            .collect();
        let mut found = Vec::new();
        for group in &self.groups {
            let group = group.lock();
            for (number, idle) in &group.idle {
                let Some(shelf) = shelves.get(number) else {
                    continue;
                };
                found.extend(idle.iter().map(|(_, conn)| Idle {
                    user: shelf.user.clone(),
                    database: shelf.database.clone(),
                    group: conn.group,
                    process_id: conn.process_id,
                    opened: conn.opened,
                }));
            }
        }
        found
    }
}

/// A session among those that share backends; leaves when dropped.
#[derive(Debug)]
pub(crate) struct Guest {
    pool: Arc<Pool>,
    beginning: Beginning,
    shelf: Arc<Shelf>,
    superuser: bool,
    /// Of the session.
    pub(super) id: u64,
}

impl Guest {
    pub(super) fn number(&self) -> u64 {
        self.pool.number()
    }

    /// A statement's number: the same for all sessions whose Parse would mean the same to a backend, which therefore needs it
    /// once. `tables` is by which group's catalogue it was analysed, and that one's version.
    pub(super) fn number_of(&self, parse: &Bytes, tables: (usize, CatalogueVersion)) -> u64 {
        let key = (self.shelf.number, parse.clone(), tables.0, tables.1);
        *self.pool.parsed.lock().get_or_insert(key, || self.pool.number())
    }

    /// The right to have backends; `None` when nobody gives one back within `patience`. Not for a session that has one.
    pub(super) async fn ticket(&self, patience: Duration) -> Option<Ticket> {
        let any = Arc::clone(&self.pool.tickets).acquire_owned();
        let ticket = async {
            if !self.superuser {
                return any.await;
            }
            let reserved = Arc::clone(&self.pool.reserved).acquire_owned();
            tokio::select! {
                biased;
                ticket = any => ticket,
                ticket = reserved => ticket,
            }
        };
        tokio::time::timeout(patience, ticket).await.ok()?.ok()
    }

    /// The right to keep a backend, and with it a ticket, for as long as the client likes; `None` when half of all are kept so.
    pub(super) fn stay(&self) -> Option<Stay> {
        Arc::clone(&self.pool.stays).try_acquire_owned().ok()
    }

    /// A backend of the group at `place`, or room for one. For a session with a ticket.
    pub(super) fn take(&self, place: usize) -> Given {
        let mut group = self.pool.groups[place].lock();
        if let Some(conn) = group.pop(self.shelf.number, self.id) {
            return Given::Kept(Box::new(conn));
        }
        let surplus = if group.open >= self.pool.most {
            group.pop_other(self.shelf.number)
        } else {
            None
        };
        group.open += 1;
        let age = self.shelf.age.load(Ordering::Relaxed);
        // Its berth is free once the lock is.
        drop(group);
        drop(surplus);
        Given::Room(Berth {
            pool: Arc::clone(&self.pool),
            place,
            age,
        })
    }

    /// Gives back a backend in which nothing of the session is left but its settings.
    pub(super) fn give(&self, place: usize, mut conn: Conn) {
        // Until it is here it counts among the session's.
        let _held = conn.held.take();
        let lives = Duration::from_micros(now().saturating_sub(conn.opened));
        let mut group = self.pool.groups[place].lock();
        let age = self.shelf.age.load(Ordering::Relaxed);
        let stale = conn.berth.as_ref().is_some_and(|berth| berth.age < age);
        if stale || lives > LIFETIME {
            // Its berth is free once the lock is.
            drop(group);
            return;
        }
        group
            .idle
            .entry(self.shelf.number)
            .or_default()
            .push((Instant::now(), conn));
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        let left = {
            let mut shelves = self.pool.shelves.lock();
            let Some((_, sessions)) = shelves.get_mut(&self.beginning) else {
                return;
            };
            *sessions -= 1;
            let left = *sessions;
            if left == 0 {
                shelves.remove(&self.beginning);
            }
            left
        };
        for group in &self.pool.groups {
            let mut surplus = Vec::new();
            let mut group = group.lock();
            if let Some(idle) = group.idle.get_mut(&self.shelf.number) {
                let count = idle.len().saturating_sub(left);
                surplus.extend(idle.drain(..count).map(|(_, conn)| conn));
                if idle.is_empty() && left == 0 {
                    group.idle.remove(&self.shelf.number);
                }
            }
            // Their berths are free once the lock is.
            drop(group);
            drop(surplus);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;

    fn startup(user: &str) -> Parameters {
        vec![(b"user".to_vec(), user.as_bytes().to_vec())]
    }

    fn enter(pool: &Arc<Pool>, user: &str) -> Guest {
        let superuser = user == "postgres";
        pool.enter(
            &startup(user),
            &Role {
                superuser,
                ..Role::default()
            },
        )
    }

    fn open(guest: &Guest) -> Conn {
        let Given::Room(berth) = guest.take(0) else {
            panic!("there is one");
        };
        let mut conn = Conn::new(GroupId(1), Box::new(tokio::io::empty()));
        conn.berth = Some(berth);
        conn.owner = guest.id;
        conn
    }

    fn kept(guest: &Guest) -> u64 {
        match guest.take(0) {
            Given::Kept(conn) => conn.owner,
            Given::Room(_) => panic!("there is none"),
        }
    }

    #[test]
    fn whoever_clears_it_finds_no_backend_of_before_there_again() {
        let pool = Pool::new(1, 9, 0);
        let startup = |database: &str| vec![(b"database".to_vec(), database.as_bytes().to_vec())];
        let [one, other] = ["a", "b"].map(|database| pool.enter(&startup(database), &Role::default()));
        let (shelved, held) = (open(&one), open(&one));
        one.give(0, shelved);
        let elsewhere = open(&other);
        other.give(0, elsewhere);
        assert_eq!(pool.idle().len(), 2);
        pool.clear(&Which::Named("a".to_owned()));
        assert_eq!(pool.idle().len(), 1, "that of the other database");
        one.give(0, held);
        assert_eq!((pool.idle().len(), count(&pool)), (1, 1));
        let conn = open(&one);
        one.give(0, conn);
        assert_eq!(pool.idle().len(), 2, "what was opened since stays");
    }

    fn count(pool: &Pool) -> usize {
        pool.groups[0].lock().open
    }

    #[test]
    fn a_session_finds_its_own_backend_else_the_last_one() {
        let pool = Pool::new(1, 3, 0);
        let [one, two] = [(); 2].map(|()| enter(&pool, "a"));
        let (first, second) = (open(&one), open(&two));
        one.give(0, first);
        two.give(0, second);
        assert_eq!([kept(&one), kept(&one)], [one.id, two.id]);
        assert_eq!(count(&pool), 0, "what is dropped makes room");
    }

    #[test]
    fn an_idle_backend_of_another_shelf_makes_room() {
        let pool = Pool::new(1, 1, 3);
        let [one, two] = ["a", "b"].map(|user| enter(&pool, user));
        let conn = open(&one);
        one.give(0, conn);
        let conn = open(&two);
        assert_eq!(count(&pool), 1);
        two.give(0, conn);
        assert_eq!(kept(&two), two.id);
    }

    #[tokio::test]
    async fn who_finds_no_ticket_waits_in_line() {
        let pool = Pool::new(1, 1, 3);
        let guests = [(); 3].map(|()| enter(&pool, "a"));
        let long = Duration::from_secs(9);
        let first = guests[0].ticket(long).await.expect("it is free");
        assert!(
            guests[1].ticket(Duration::from_millis(20)).await.is_none(),
            "in vain"
        );
        let mut second = Box::pin(guests[1].ticket(long));
        let mut third = Box::pin(guests[2].ticket(long));
        assert!(second.as_mut().now_or_never().is_none() && third.as_mut().now_or_never().is_none());
        drop(first);
        assert!(
            guests[0].ticket(long).now_or_never().is_none(),
            "nobody comes in between"
        );
        drop(second.await.expect("it is his turn"));
        assert!(third.await.is_some());
    }

    #[tokio::test]
    async fn superusers_have_tickets_of_their_own() {
        let pool = Pool::new(1, 3, 1);
        let (ordinary, superuser) = (enter(&pool, "a"), enter(&pool, "postgres"));
        let mut taken = Vec::new();
        for _ in 0..2 {
            taken.push(ordinary.ticket(Duration::ZERO).await.expect("it is free"));
        }
        assert!(ordinary.ticket(Duration::ZERO).await.is_none());
        taken.push(
            superuser
                .ticket(Duration::ZERO)
                .await
                .expect("it is kept for him"),
        );
        assert!(superuser.ticket(Duration::ZERO).await.is_none());
        // What he has is not for the others when he gives it back, and he may have theirs.
        taken.pop();
        assert!(ordinary.ticket(Duration::ZERO).await.is_none());
        taken.clear();
        for _ in 0..3 {
            taken.push(superuser.ticket(Duration::ZERO).await.expect("all are free"));
        }
    }

    #[test]
    fn what_nobody_uses_is_closed() {
        let pool = Pool::new(1, 5, 0);
        let one = enter(&pool, "a");
        let (unused, used) = (open(&one), open(&one));
        one.give(0, unused);
        let between = Instant::now();
        std::thread::sleep(Duration::from_millis(1));
        one.give(0, used);
        pool.close_unused(between);
        assert_eq!(count(&pool), 1);
        pool.close_unused(Instant::now());
        assert_eq!(count(&pool), 0);
    }

    #[test]
    fn with_its_sessions_a_shelf_is_gone() {
        let pool = Pool::new(1, 5, 0);
        let [one, two, three] = [(); 3].map(|()| enter(&pool, "a"));
        for conn in [open(&one), open(&two), open(&three)] {
            one.give(0, conn);
        }
        drop(two);
        assert_eq!(count(&pool), 2);
        drop((one, three));
        assert_eq!(count(&pool), 0);
        assert!(pool.shelves.lock().is_empty() && pool.groups[0].lock().idle.is_empty());
    }

    #[test]
    fn a_statement_has_one_number_as_long_as_its_tables_are_the_same() {
        let pool = Pool::new(1, 1, 3);
        let [one, two, other] = ["a", "a", "b"].map(|user| enter(&pool, user));
        let parse = Bytes::from_static(b"s\0SELECT 1\0\0\0");
        let number = |guest: &Guest, version| guest.number_of(&parse, (0, CatalogueVersion(version)));
        assert_eq!(number(&one, 1), number(&two, 1));
        assert_ne!(number(&one, 1), number(&one, 2));
        assert_ne!(number(&one, 1), number(&other, 1));
        assert!(number(&one, 1) < one.number());
    }
}
