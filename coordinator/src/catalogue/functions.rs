//! The functions and procedures of users and extensions.
//!
//! **Invariant.** None of them reads or writes a row of any table, whoever calls it: the analysis lets none be made of which that is
//! not proved, and no extension that has others.

use serde::Deserialize;

/// All functions of one name in one schema, taken together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UserFunction {
    /// Its schema.
    pub schema: String,
    /// Its name.
    pub name: String,
    /// `pg_proc.prokind` of each: `f`, `p`, `a`, `w`.
    pub kinds: String,
    /// What the least steady of them promises.
    pub volatility: Steadiness,
    /// Some give several rows for one.
    pub returns_set: bool,
    /// Triggers call them.
    pub is_trigger: bool,
    /// PostgreSQL has functions of that name, too.
    pub is_shared: bool,
}

/// `pg_proc.provolatile`, from the least steady on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
pub enum Steadiness {
    /// Anything.
    #[serde(rename = "v")]
    Volatile,
    /// The same within a statement.
    #[serde(rename = "s")]
    Stable,
    /// A function of its arguments.
    #[serde(rename = "i")]
    Immutable,
}

/// What the statement that reads the catalogue answers of them.
#[derive(Debug, Deserialize)]
pub(super) struct StoredFunction {
    schema: String,
    name: String,
    kinds: String,
    volatility: Steadiness,
    sets: bool,
    triggers: bool,
    shared: bool,
}

impl From<StoredFunction> for UserFunction {
    fn from(stored: StoredFunction) -> UserFunction {
        UserFunction {
            schema: stored.schema,
            name: stored.name,
            kinds: stored.kinds,
            volatility: stored.volatility,
            returns_set: stored.sets,
            is_trigger: stored.triggers,
            is_shared: stored.shared,
        }
    }
}

/// Reads them, as a JSON array; `system` has the schemas of which nothing is said. 2279 is the type `trigger`.
pub(super) fn query(system: &str) -> String {
    format!(
        "(SELECT coalesce(pg_catalog.json_agg(pg_catalog.json_build_object( \
            'schema', n.nspname, 'name', p.proname, 'kinds', p.kinds, 'volatility', p.volatility, 'sets', p.sets, \
            'triggers', p.triggers, 'shared', EXISTS (SELECT FROM pg_catalog.pg_proc o \
                WHERE o.proname = p.proname AND o.pronamespace = 'pg_catalog'::pg_catalog.regnamespace))), '[]') \
        FROM (SELECT f.pronamespace, f.proname, pg_catalog.string_agg(DISTINCT f.prokind::text, '') AS kinds, \
                pg_catalog.max(f.provolatile::text) AS volatility, pg_catalog.bool_or(f.proretset) AS sets, \
                pg_catalog.bool_and(f.prorettype = 2279) AS triggers \
            FROM pg_catalog.pg_proc f WHERE f.pronamespace NOT IN \
                (SELECT s.oid FROM pg_catalog.pg_namespace s WHERE s.nspname IN {system}) \
            GROUP BY f.pronamespace, f.proname) p \
        JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace)"
    )
}
