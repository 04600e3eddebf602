//! How many clients there are, of whom, and how many more there may be.
//!
//! A client is a guest until it has said who it is and proved it; then it has a session. Guests have places of their own, so those
//! who only knock never take a session's place, and never all of them from one address.

use std::collections::HashMap;
use std::hash::Hash;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use coordinator::roles::Role;
use parking_lot::Mutex;

use crate::config::Limits;
use crate::failure::Failure;

/// The places of one node.
#[derive(Debug, Default)]
pub struct Places {
    taken: Mutex<Taken>,
    failed_logins: AtomicU64,
    refused_cancels: AtomicU64,
}

#[derive(Debug, Default)]
struct Taken {
    guests: usize,
    guests_from: HashMap<IpAddr, usize>,
    sessions: usize,
    sessions_of: HashMap<String, usize>,
    sessions_in: HashMap<String, usize>,
}

impl Places {
    /// Logins that failed for a wrong password or an unknown role, since the node started.
    #[must_use]
    pub fn failed_logins(&self) -> u64 {
        self.failed_logins.load(Ordering::Relaxed)
    }

    /// Cancel requests with a process id or a key that no session has, since the node started.
    #[must_use]
    pub fn refused_cancels(&self) -> u64 {
        self.refused_cancels.load(Ordering::Relaxed)
    }

    pub(crate) fn count_failed_login(&self) {
        self.failed_logins.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn count_refused_cancel(&self) {
        self.refused_cancels.fetch_add(1, Ordering::Relaxed);
    }

    /// A place for a client that has just connected; none when there are too many like it.
    pub(crate) fn guest(self: &Arc<Self>, address: IpAddr, limits: &Limits) -> Option<Guest> {
        let address = network(address);
        let mut taken = self.taken.lock();
        let from_there = taken.guests_from.get(&address).copied().unwrap_or(0);
        if taken.guests >= limits.max_unauthenticated || from_there >= limits.max_unauthenticated_per_address
        {
            return None;
        }
        taken.guests += 1;
        *taken.guests_from.entry(address).or_default() += 1;
        Some(Guest {
            places: Arc::clone(self),
            address,
        })
    }

    /// A place for a session of this role in this database.
    ///
    /// # Errors
    /// 53300 in PostgreSQL's words, by its rules (`InitPostgres`, `InitializeSessionUserId`, `CheckMyDatabase`): the last places are a superuser's,
    /// and limits of roles and databases do not hold for one.
    pub(crate) fn session(
        self: &Arc<Self>,
        user: &str,
        database: &str,
        role: &Role,
        limits: &Limits,
    ) -> Result<Place, Failure> {
        let mut taken = self.taken.lock();
        let max = limits.max_client_connections;
        if taken.sessions >= max {
            return Err(Failure::TooManyClients(max));
        }
        if !role.superuser {
            if taken.sessions >= max.saturating_sub(limits.superuser_reserved_connections) {
                return Err(Failure::PlacesReserved);
            }
            let full = |limit: Option<u32>, taken: &HashMap<String, usize>, name: &str| {
                let limit = limit.and_then(|limit| usize::try_from(limit).ok());
                limit.is_some_and(|limit| taken.get(name).copied().unwrap_or(0) >= limit)
            };
            if full(role.connection_limit, &taken.sessions_of, user) {
                return Err(Failure::TooManyOfRole(user.to_owned()));
            }
            if full(role.database_limit, &taken.sessions_in, database) {
                return Err(Failure::TooManyInDatabase(database.to_owned()));
            }
        }
        taken.sessions += 1;
        *taken.sessions_of.entry(user.to_owned()).or_default() += 1;
        *taken.sessions_in.entry(database.to_owned()).or_default() += 1;
        Ok(Place {
            places: Arc::clone(self),
            user: user.to_owned(),
            database: database.to_owned(),
        })
    }
}

/// Whoever has one IPv6 address has the 2^64 of its network.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() >> 64 << 64)),
        address => address,
    }
}

fn one_less<K: Hash + Eq>(counts: &mut HashMap<K, usize>, key: &K) {
    if let Some(count) = counts.get_mut(key) {
        *count -= 1;
        if *count == 0 {
            counts.remove(key);
        }
    }
}

/// The place of a client that has not proved who it is; free again when dropped.
#[derive(Debug)]
pub(crate) struct Guest {
    places: Arc<Places>,
    address: IpAddr,
}

impl Drop for Guest {
    fn drop(&mut self) {
        let mut taken = self.places.taken.lock();
        taken.guests -= 1;
        one_less(&mut taken.guests_from, &self.address);
    }
}

/// The place of a session; free again when dropped.
#[derive(Debug)]
pub(crate) struct Place {
    places: Arc<Places>,
    user: String,
    database: String,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.places.taken.lock();
        taken.sessions -= 1;
        one_less(&mut taken.sessions_of, &self.user);
        one_less(&mut taken.sessions_in, &self.database);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn role(superuser: bool, connection_limit: Option<u32>, database_limit: Option<u32>) -> Role {
        Role {
            superuser,
            connection_limit,
            database_limit,
            verifier: None,
            expired: false,
            member_of: Vec::new(),
            may_log_in: true,
            database: None,
            begins_as: 0,
            server_version: String::new(),
        }
    }

    fn code(result: Result<Place, Failure>) -> String {
        result.expect_err("refused").to_string()
    }

    #[test]
    fn the_last_places_are_a_superusers() {
        let places = Arc::new(Places::default());
        let limits = Limits {
            max_client_connections: 3,
            superuser_reserved_connections: 1,
            ..Limits::default()
        };
        let (anyone, superuser) = (role(false, None, None), role(true, Some(0), Some(0)));
        let enter = |role: &Role| places.session("ada", "shop", role, &limits);
        let _first = enter(&anyone).expect("a place");
        let second = enter(&anyone).expect("a place");
        assert!(code(enter(&anyone)).contains("reserved"));
        let _third = enter(&superuser).expect("a place");
        assert!(code(enter(&superuser)).contains("more than 3 clients"));
        drop(second);
        assert!(code(enter(&anyone)).contains("reserved"));
        enter(&superuser).expect("a place again");
    }

    #[test]
    fn a_role_and_a_database_have_limits_of_their_own() {
        let places = Arc::new(Places::default());
        let limits = Limits::default();
        let enter = |user: &str, database: &str, role: &Role| places.session(user, database, role, &limits);
        let one = role(false, Some(1), None);
        let first = enter("ada", "shop", &one).expect("a place");
        assert!(code(enter("ada", "books", &one)).contains("role \"ada\""));
        let small = role(false, None, Some(1));
        assert!(code(enter("bob", "shop", &small)).contains("database \"shop\""));
        drop(first);
        enter("bob", "shop", &small).expect("a place again");
        let none = role(false, Some(0), None);
        assert!(code(enter("eve", "shop", &none)).contains("role \"eve\""));
        assert!(places.taken.lock().sessions_of.is_empty());
    }

    #[test]
    fn one_address_does_not_take_every_guests_place() {
        let places = Arc::new(Places::default());
        let limits = Limits {
            max_unauthenticated: 3,
            max_unauthenticated_per_address: 2,
            ..Limits::default()
        };
        let knock = |address: &str| places.guest(address.parse().expect("an address"), &limits);
        let first = knock("2001:db8::1").expect("a place");
        let _second = knock("2001:db8::ffff:2").expect("a place");
        assert!(knock("2001:db8::3").is_none());
        let _third = knock("10.0.0.1").expect("a place");
        assert!(knock("10.0.0.2").is_none());
        drop(first);
        knock("::ffff:10.0.0.1").expect("a place again");
        assert_eq!(places.taken.lock().guests_from.len(), 2);
    }
}
