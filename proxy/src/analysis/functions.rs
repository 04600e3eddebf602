//! The functions that a statement may call: PostgreSQL's own, and those of users and extensions.
//!
//! `functions.txt` has the names of PostgreSQL 15's `pg_proc`, with kind and volatility, without those that change
//! something outside their transaction, run SQL given as text, or number things in one group only. Those of [`at_home`] are
//! for statements that have no rows. Of functions that users and extensions have made, any may be called: none is made that could
//! touch rows (`routines.rs`). Whatever else is not in the list is refused: it could read or write rows of other groups unseen.

use std::collections::HashMap;
use std::sync::LazyLock;

use coordinator::catalogue::{Catalogue, Steadiness};

use super::Refusal;
use super::plan::HomeUse;

/// What matters about a function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Function {
    /// How many rows it looks at.
    pub(super) kind: FunctionKind,
    /// Whether its result depends on more than arguments and session settings.
    pub(super) volatility: Volatility,
}

/// `pg_proc.prokind`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FunctionKind {
    /// Of one row.
    Normal,
    /// Of all rows of a group.
    Aggregate,
    /// Of neighbouring rows.
    Window,
}

/// `pg_proc.provolatile`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Volatility {
    /// Of its arguments only.
    Immutable,
    /// The same within a statement.
    Stable,
    /// Anything.
    Volatile,
}

/// Functions of PostgreSQL's grammar, and of versions after 15.
const MORE: &str = "\
any_value aggregate immutable\narray normal immutable\narray_reverse normal immutable\n\
array_sample normal volatile\narray_shuffle normal volatile\narray_sort normal immutable\n\
casefold normal immutable\ncoalesce normal immutable\ncrc32 normal immutable\ncrc32c normal immutable\n\
current_catalog normal stable\ncurrent_date normal stable\ncurrent_role normal stable\n\
current_time normal stable\ncurrent_timestamp normal stable\ndate_add normal stable\n\
date_subtract normal stable\nerf normal immutable\nerfc normal immutable\ngamma normal immutable\n\
greatest normal immutable\ngrouping aggregate immutable\njson_array normal stable\n\
json_arrayagg aggregate stable\njson_exists normal stable\njson_object normal stable\n\
json_objectagg aggregate stable\njson_query normal stable\njson_scalar normal stable\n\
json_serialize normal stable\njson_value normal stable\nleast normal immutable\nlgamma normal immutable\n\
localtime normal stable\nlocaltimestamp normal stable\nnullif normal immutable\n\
pg_input_error_info normal stable\npg_input_is_valid normal stable\nrandom_normal normal volatile\n\
row normal immutable\nsession_user normal stable\nsystem_user normal stable\nto_bin normal immutable\n\
to_oct normal immutable\ntreat normal immutable\nunicode_version normal immutable\nuser normal stable\n\
uuid_extract_timestamp normal immutable\nuuid_extract_version normal immutable\nuuidv4 normal volatile\n\
uuidv7 normal volatile\nvalues normal immutable\nxmlconcat normal immutable\nxmlelement normal immutable\n\
xmlexists normal immutable\nxmlforest normal immutable\nxmlparse normal stable\nxmlpi normal immutable\n\
xmlroot normal immutable\nxmlserialize normal immutable\n";

static FUNCTIONS: LazyLock<HashMap<&'static str, Function>> = LazyLock::new(|| {
    let lines = include_str!("functions.txt").lines().chain(MORE.lines());
    lines.filter_map(read_line).collect()
});

fn read_line(line: &'static str) -> Option<(&'static str, Function)> {
    let mut fields = line.split(' ');
    let name = fields.next()?;
    let kind = match fields.next()? {
        "aggregate" => FunctionKind::Aggregate,
        "window" => FunctionKind::Window,
        _ => FunctionKind::Normal,
    };
    let volatility = match fields.next()? {
        "immutable" => Volatility::Immutable,
        "stable" => Volatility::Stable,
        _ => Volatility::Volatile,
    };
    Some((name, Function { kind, volatility }))
}

/// What a name in a call stands for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Called {
    /// What is known of it. Where several have the name, what holds for all of them.
    pub(super) function: Function,
    /// It may be one of PostgreSQL's own.
    pub(super) is_own: bool,
    /// It may be one of a user or an extension.
    pub(super) is_users: bool,
    /// It is one of these that may give several rows for one.
    pub(super) returns_set: bool,
}

/// Functions of extensions that change something in the backend that they happen to run in.
const OF_BACKEND: [&str; 3] = ["isn_weak", "set_limit", "show_limit"];

/// Finds a function by the parts of its name, PostgreSQL's own and those of users alike. Which of several of a name is called depends
/// on arguments and the search path: it may be any.
///
/// # Errors
/// When there is none that may be called.
pub(super) fn find_any(parts: &[&str], catalogue: &Catalogue) -> Result<Called, Refusal> {
    let mut called = find(parts).ok().map(|function| Called {
        function,
        is_own: true,
        is_users: false,
        returns_set: false,
    });
    let (schema, name) = match parts {
        [name] => (None, *name),
        [schema, name] => (Some(*schema), *name),
        _ => return Err(refused(&parts.join("."))),
    };
    for found in catalogue.functions(schema, name) {
        if OF_BACKEND.contains(&name) || called.is_none() && schema.is_none() && found.is_shared {
            return Err(refused(name));
        }
        let kind = match found.kinds.as_str() {
            "a" => FunctionKind::Aggregate,
            "w" => FunctionKind::Window,
            "f" | "fp" | "p" => FunctionKind::Normal,
            _ => return Err(refused(name)),
        };
        let volatility = match found.volatility {
            Steadiness::Immutable => Volatility::Immutable,
            Steadiness::Stable => Volatility::Stable,
            Steadiness::Volatile => Volatility::Volatile,
        };
        let before = called.get_or_insert(Called {
            function: Function { kind, volatility },
            is_own: false,
            is_users: true,
            returns_set: found.returns_set,
        });
        if before.function.kind != kind {
            return Err(refused(name));
        }
        before.function.volatility = before.function.volatility.max(volatility);
        before.is_users = true;
        before.returns_set |= found.returns_set;
    }
    called.ok_or_else(|| refused(name))
}

/// They count for their server alone.
pub(super) const SEQUENCES: [&str; 4] = ["nextval", "currval", "lastval", "setval"];

/// Finds a function by the parts of its name.
///
/// # Errors
/// When it is not one of PostgreSQL's own, or one whose effect is not confined to the statement.
pub(super) fn find(parts: &[&str]) -> Result<Function, Refusal> {
    let name = match parts {
        [name] | ["pg_catalog", name] => *name,
        // An array's elements with their numbers: pgjdbc asks for the columns of keys with it.
        ["information_schema", "_pg_expandarray"] => {
            return Ok(Function {
                kind: FunctionKind::Normal,
                volatility: Volatility::Immutable,
            });
        }
        _ => return Err(refused(&parts.join("."))),
    };
    FUNCTIONS.get(name).copied().ok_or_else(|| refused(name))
}

/// What a function does that belongs to the session's home group; none for any other function.
pub(super) fn at_home(parts: &[&str]) -> Option<HomeUse> {
    let ([name] | ["pg_catalog", name]) = parts else {
        return None;
    };
    Some(match *name {
        "pg_advisory_lock"
        | "pg_advisory_lock_shared"
        | "pg_try_advisory_lock"
        | "pg_try_advisory_lock_shared" => HomeUse::LocksForSession,
        "pg_advisory_xact_lock"
        | "pg_advisory_xact_lock_shared"
        | "pg_try_advisory_xact_lock"
        | "pg_try_advisory_xact_lock_shared" => HomeUse::LocksForTransaction,
        "pg_advisory_unlock"
        | "pg_advisory_unlock_shared"
        | "pg_advisory_unlock_all"
        | "pg_listening_channels" => HomeUse::Looks,
        "pg_notification_queue_usage" => HomeUse::Asks,
        "pg_notify" => HomeUse::Notifies,
        _ => return None,
    })
}

fn refused(name: &str) -> Refusal {
    let refusal = Refusal::unsupported(format!("function {name}() is not supported"));
    if SEQUENCES.contains(&name) {
        let refusal = Refusal::unsupported(format!("function {name}() is not supported here"));
        return match name {
            "nextval" => refusal
                .detail("Its values are taken before the statement runs, and nothing says here how many it needs.")
                .hint(
                    "Call it with the sequence's name in the VALUES of an INSERT, in a SELECT without tables, or as a DEFAULT.",
                ),
            "setval" => refusal.hint("Call it alone, with constants or parameters: SELECT setval('sequence', 42)."),
            _ => refusal.hint("Read it before, and give the value as a constant or parameter."),
        };
    }
    if name.starts_with("pg_advisory") || name.starts_with("pg_try_advisory") {
        return refusal.hint("Call it in a SELECT of its own, without tables.");
    }
    if name == "setseed" {
        return refusal.detail(
            "Statements of a session run in several backends, each of which has random numbers of its own.",
        );
    }
    if name.starts_with("lo_") || matches!(name, "loread" | "lowrite") {
        return refusal
            .detail("Large objects have no shard key.")
            .hint("Store the data in a bytea column.");
    }
    if name == "set_config" {
        return refusal.hint(
            "Call it with constants or parameters and beside nothing but current_setting(), as SELECT set_config('name', 'value', \
             false), or use SET.",
        );
    }
    if matches!(
        name,
        "create_distributed_table"
            | "create_reference_table"
            | "undistribute_table"
            | "alter_distributed_table"
    ) {
        return refusal.hint(format!("Call it alone, as SELECT {name}('table', ...)."));
    }
    refusal.detail(
        "Howdah lets statements call functions that it knows, and of PostgreSQL's own not the ones that act \
         on one server: others could touch rows of other groups unseen.",
    )
}
