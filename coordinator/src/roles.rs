//! What PostgreSQL knows of a role that wants to log in: asked anew at each login, and never kept.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use shard::causes::with_causes;
use shard::client::Groups;
use shard::id::GroupId;
use tokio_postgres::Statement;

use crate::connection::{Connection, OpenError};

/// Where it is asked: every group has it, and it cannot be dropped.
const HOME: &str = "postgres";

/// One row, or none where there is no such role. Memberships are those of roles in roles, however deep; that a superuser may do
/// everything does not make it a member (`is_member` in hba.c).
const LOOK_UP: &str = "\
    WITH RECURSIVE known AS (SELECT * FROM pg_catalog.pg_authid WHERE rolname = $1), \
    held (oid) AS (SELECT oid FROM known UNION SELECT m.roleid FROM pg_catalog.pg_auth_members m JOIN held ON m.member = held.oid) \
    SELECT rolsuper, rolconnlimit, rolpassword, coalesce(rolvaliduntil < pg_catalog.now(), false), \
    ARRAY(SELECT a.rolname::text FROM pg_catalog.pg_authid a JOIN held ON a.oid = held.oid), \
    datconnlimit, rolcanlogin, datallowconn, pg_catalog.has_database_privilege(known.oid, d.oid, 'CONNECT'), \
    coalesce((SELECT pg_catalog.hashtextextended(pg_catalog.string_agg(s::text, ' ' ORDER BY s::text), known.oid::int8) \
    FROM pg_catalog.pg_db_role_setting s WHERE setrole IN (0, known.oid) AND setdatabase IN (0, d.oid)), known.oid::int8), \
    pg_catalog.current_setting('server_version') \
    FROM known LEFT JOIN pg_catalog.pg_database d ON datname = $2";

/// A role, as of now. Its password's verifier is in no `Debug` output.
#[derive(Clone, Default)]
pub struct Role {
    /// Whether limits do not hold for it.
    pub superuser: bool,
    /// How many sessions it may have; none: as many as there are.
    pub connection_limit: Option<u32>,
    /// How many the database may have that it asks for.
    pub database_limit: Option<u32>,
    /// What its password is checked against, as `pg_authid` has it; none where it has no password.
    pub verifier: Option<String>,
    /// Whether its password is valid no more.
    pub expired: bool,
    /// The roles that it is a member of, itself included.
    pub member_of: Vec<String>,
    /// Whether a session may begin as it.
    pub may_log_in: bool,
    /// Whether it may begin in the database that it asks for; none where there is no such database.
    pub database: Option<Door>,
    /// Differs when this is another role of the same name, or its sessions begin with other settings (ALTER ROLE, ALTER DATABASE).
    pub begins_as: i64,
    /// The version of the PostgreSQL that was asked, as `server_version` has it.
    pub server_version: String,
}

/// Whether a role may use a database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Door {
    /// It may.
    Open,
    /// It lacks CONNECT.
    NotForIt,
    /// Nobody may.
    Shut,
}

impl std::fmt::Debug for Role {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Role").finish_non_exhaustive()
    }
}

/// No group could be asked.
#[derive(Debug, thiserror::Error)]
#[error("group {group} was asked for a role: {why}")]
pub struct RolesError {
    /// The group whose answer counts.
    pub group: GroupId,
    /// What is wrong with it, in words.
    pub why: String,
}

/// Asks for roles over a connection to a group that is kept.
///
/// All nodes ask the same group, the first: each has a verifier of its own making where the password itself came in CREATE
/// ROLE, so the salt that a client is shown depends on the group. Another group is asked only while the first has no leader.
#[derive(Debug)]
pub struct Roles {
    groups: Arc<dyn Groups>,
    asked: HashMap<GroupId, Asked>,
}

/// A group that may be asked.
#[derive(Debug, Default)]
struct Asked {
    kept: Mutex<Option<Arc<Kept>>>,
    opening: tokio::sync::Mutex<()>,
}

#[derive(Debug)]
struct Kept {
    connection: Connection,
    look_up: Statement,
}

impl Roles {
    /// Connects to nobody yet.
    #[must_use]
    pub fn new(groups: Arc<dyn Groups>) -> Roles {
        let asked = groups.groups().iter().map(|group| (*group, Asked::default()));
        Roles {
            asked: asked.collect(),
            groups,
        }
    }

    /// The role of this name, which wants to use this database; none where there is no such role.
    ///
    /// # Errors
    /// When no group answers within `patience`.
    pub async fn look_up(
        &self,
        user: &str,
        database: &str,
        patience: Duration,
    ) -> Result<Option<Role>, RolesError> {
        let deadline = Instant::now() + patience;
        let groups = self.groups.groups();
        let mut first = None;
        for (turn, &group) in groups.iter().chain(groups.first()).enumerate() {
            let patience = match turn {
                0 => patience / 4,
                turn if turn < groups.len() => patience / 10,
                _ => deadline.saturating_duration_since(Instant::now()),
            };
            match self.ask(group, user, database, patience).await {
                Ok(found) => return Ok(found),
                Err(why) => first = first.or(Some(RolesError { group, why })),
            }
        }
        Err(first.unwrap_or(RolesError {
            group: GroupId(0),
            why: "there are no groups".to_owned(),
        }))
    }

    async fn ask(
        &self,
        group: GroupId,
        user: &str,
        database: &str,
        patience: Duration,
    ) -> Result<Option<Role>, String> {
        let Some(asked) = self.asked.get(&group) else {
            return Err("there is no such group".to_owned());
        };
        let answer = async {
            let kept = self.connection(asked, group, patience).await?;
            match kept.ask(user, database).await {
                // It may have ended with its leader while nobody asked; nothing was changed over it.
                Err(_) if kept.connection.client.is_closed() => {
                    let kept = self.connection(asked, group, patience).await?;
                    Ok(kept.ask(user, database).await?)
                }
                answer => Ok(answer?),
            }
        };
        match tokio::time::timeout(patience, answer).await {
            Ok(answer) => answer.map_err(|error: OpenError| with_causes(&error)),
            Err(_) => {
                // Whatever is silent is not waited for by the next one.
                *asked.kept.lock() = None;
                Err(format!("no answer within {patience:?}"))
            }
        }
    }

    async fn connection(
        &self,
        asked: &Asked,
        group: GroupId,
        patience: Duration,
    ) -> Result<Arc<Kept>, OpenError> {
        let usable = || {
            let kept = asked.kept.lock();
            kept.as_ref()
                .filter(|kept| !kept.connection.client.is_closed())
                .cloned()
        };
        if let Some(kept) = usable() {
            return Ok(kept);
        }
        // However many log in: one connection is opened.
        let _turn = asked.opening.lock().await;
        if let Some(kept) = usable() {
            return Ok(kept);
        }
        let connection = Connection::open(&*self.groups, group, HOME, patience).await?;
        let look_up = connection.client.prepare(LOOK_UP).await?;
        let kept = Arc::new(Kept { connection, look_up });
        *asked.kept.lock() = Some(Arc::clone(&kept));
        Ok(kept)
    }
}

impl Kept {
    async fn ask(&self, user: &str, database: &str) -> Result<Option<Role>, tokio_postgres::Error> {
        let client = &self.connection.client;
        let Some(row) = client.query_opt(&self.look_up, &[&user, &database]).await? else {
            return Ok(None);
        };
        // -1 is no limit; -2 marks a database whose DROP was cut short, which PostgreSQL itself refuses.
        let limit = |limit: Option<i32>| limit.and_then(|limit| u32::try_from(limit).ok());
        Ok(Some(Role {
            superuser: row.try_get(0)?,
            connection_limit: limit(row.try_get(1)?),
            verifier: row.try_get(2)?,
            expired: row.try_get(3)?,
            member_of: row.try_get(4)?,
            database_limit: limit(row.try_get(5)?),
            may_log_in: row.try_get(6)?,
            database: match (row.try_get(7)?, row.try_get(8)?) {
                (Some(false), _) => Some(Door::Shut),
                (Some(true), Some(false)) => Some(Door::NotForIt),
                (Some(true), _) => Some(Door::Open),
                (None, _) => None,
            },
            begins_as: row.try_get(9)?,
            server_version: row.try_get(10)?,
        }))
    }
}
