//! What PostgreSQL is told: the same on every replica of a group, and safe.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::path::Path;

use super::account::Owner;
use super::durable;
use super::error::Error;

/// `application_name` of the node's own WAL receiver, the primary's only synchronous standby.
pub const RECEIVER_NAME: &str = "howdah";

/// Settings on which acknowledged writes depend. They are in `postgresql.conf` and on the
/// command line too, where no `ALTER SYSTEM` reaches them.
pub(super) const SAFETY: [(&str, &str); 13] = [
    ("fsync", "on"),
    ("full_page_writes", "on"),
    ("wal_level", "replica"),
    ("wal_log_hints", "on"),
    // No commit is acknowledged, or visible, before our receiver reports it as flushed.
    ("synchronous_commit", "on"),
    ("synchronous_standby_names", RECEIVER_NAME),
    // After a crash, recovered commits may be ones that Raft never committed: the node decides.
    ("restart_after_crash", "off"),
    ("listen_addresses", ""),
    ("hot_standby", "on"),
    ("recovery_target_timeline", "latest"),
    ("archive_mode", "off"),
    ("data_sync_retry", "off"),
    // The warning that a cancelled wait left a commit without a majority must reach the node.
    ("client_min_messages", "notice"),
];

/// Unless the operator says another number.
pub(crate) const MAX_CONNECTIONS: &str = "300";

/// Defaults; the operator's settings come after them.
const DEFAULTS: [(&str, &str); 27] = [
    ("max_connections", MAX_CONNECTIONS),
    // Transactions across groups are prepared.
    ("max_prepared_transactions", "200"),
    ("max_wal_senders", "10"),
    // The WAL receiver's own, which go with its connection.
    ("max_replication_slots", "10"),
    // What pg_rewind must find in a former primary.
    ("wal_keep_size", "256MB"),
    ("max_wal_size", "512MB"),
    ("min_wal_size", "80MB"),
    ("checkpoint_timeout", "5min"),
    ("checkpoint_completion_target", "0.9"),
    ("shared_buffers", "128MB"),
    ("hot_standby_feedback", "off"),
    // A reader on a follower holds replay, and so a promotion, up by no more than this.
    ("max_standby_streaming_delay", "1s"),
    ("max_standby_archive_delay", "1s"),
    ("wal_retrieve_retry_interval", "100ms"),
    ("wal_receiver_status_interval", "1s"),
    ("wal_receiver_timeout", "10s"),
    ("wal_sender_timeout", "10s"),
    ("password_encryption", "scram-sha-256"),
    // Sharded statements are short; compiling them costs more than it saves.
    ("jit", "off"),
    ("timezone", "UTC"),
    ("log_timezone", "UTC"),
    ("lc_messages", "C"),
    ("log_destination", "stderr"),
    ("logging_collector", "off"),
    ("log_line_prefix", "%m [%p] "),
    ("log_checkpoints", "off"),
    ("unix_socket_permissions", "0700"),
];

const DURABILITY: &str = "acknowledged writes depend on it";
const PLACE: &str = "the node decides where PostgreSQL lives and listens";
const REPLICATION: &str = "replication is the node's";
const LOGGING: &str = "the node reads PostgreSQL's log from its error output";

/// What the operator may not set, besides [`SAFETY`]; a name that ends in `*` stands for all that begin so.
const REFUSED: [(&str, &str); 33] = [
    // It cancels from within, where no guard is raised: see the gate.
    ("statement_timeout", DURABILITY),
    ("ignore_checksum_failure", DURABILITY),
    ("zero_damaged_pages", DURABILITY),
    ("ignore_invalid_pages", DURABILITY),
    ("allow_system_table_mods", DURABILITY),
    ("wal_sync_method", DURABILITY),
    ("commit_delay", DURABILITY),
    ("exit_on_error", DURABILITY),
    ("port", PLACE),
    ("unix_socket_*", PLACE),
    ("data_directory", PLACE),
    ("config_file", PLACE),
    ("hba_file", PLACE),
    ("ident_file", PLACE),
    ("external_pid_file", PLACE),
    ("include*", PLACE),
    ("cluster_name", PLACE),
    ("primary_*", REPLICATION),
    ("recovery_*", REPLICATION),
    ("restore_command", REPLICATION),
    ("archive_*", REPLICATION),
    ("promote_trigger_file", REPLICATION),
    ("hot_standby_feedback", REPLICATION),
    ("max_replication_slots", REPLICATION),
    ("max_slot_wal_keep_size", REPLICATION),
    ("sync_replication_slots", REPLICATION),
    ("synchronized_standby_slots", REPLICATION),
    ("standby_slot_names", REPLICATION),
    ("wal_receiver_*", REPLICATION),
    ("wal_sender_timeout", REPLICATION),
    ("log_destination", LOGGING),
    ("logging_collector", LOGGING),
    ("lc_messages", LOGGING),
];

const BEGIN: &str = "# howdah: begin (rewritten at every start; set postgres.settings instead)\n";
const END: &str = "# howdah: end\n";

/// Nothing but the private sockets, whose folder only the node can enter.
const HBA: &str = "# Written by howdah. Reached through the node only.\n\
                   local all all trust\n\
                   local replication all trust\n";

/// Refuses what would break a promise of Howdah.
pub(super) fn check(settings: &BTreeMap<String, String>) -> Result<(), Error> {
    for name in settings.keys() {
        let refuse = |reason| {
            Err(Error::RefusedSetting {
                name: name.clone(),
                reason,
            })
        };
        let well_formed = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
            && name
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '.');
        if !well_formed {
            return refuse("it is no setting's name");
        }
        let lower = name.to_ascii_lowercase();
        if SAFETY.iter().any(|(safe, _)| *safe == lower) {
            return refuse(DURABILITY);
        }
        let refused = REFUSED
            .iter()
            .find(|(pattern, _)| match pattern.strip_suffix('*') {
                Some(prefix) => lower.starts_with(prefix),
                None => *pattern == lower,
            });
        if let Some((_, reason)) = refused {
            return refuse(reason);
        }
    }
    Ok(())
}

/// Brings the block of settings in `postgresql.conf`, and `pg_hba.conf`, up to date.
///
/// A crash here leaves old files or new ones; the next start finishes the work.
pub(super) fn write(pgdata: &Path, extra: &BTreeMap<String, String>, owner: Owner) -> Result<(), Error> {
    let conf = pgdata.join("postgresql.conf");
    let old = fs::read_to_string(&conf).map_err(Error::io("read", &conf))?;
    let new = with_block(&old, &block(extra));
    if new != old {
        durable::replace(&conf, new.as_bytes(), owner)?;
    }
    let hba = pgdata.join("pg_hba.conf");
    if durable::read(&hba)?.as_deref() != Some(HBA.as_bytes()) {
        durable::replace(&hba, HBA.as_bytes(), owner)?;
    }
    Ok(())
}

fn block(extra: &BTreeMap<String, String>) -> String {
    let mut text = String::from(BEGIN);
    let defaults = DEFAULTS.iter().copied().chain([sync_method()]);
    let extra = extra.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    // PostgreSQL takes the last of several.
    for (name, value) in defaults.chain(extra).chain(SAFETY.iter().copied()) {
        let value = value
            .replace('\\', r"\\")
            .replace('\'', "''")
            .replace('\n', r"\n");
        // Writing to a String does not fail.
        let _ = writeln!(text, "{name} = '{value}'");
    }
    text.push_str(END);
    text
}

/// How recovery makes the data directory durable before it begins: file by file takes seconds, for
/// which the group waits. `syncfs` tells of errors since Linux 5.8 (syncfs(2)).
fn sync_method() -> (&'static str, &'static str) {
    let system = rustix::system::uname();
    let release = system.release().to_string_lossy();
    let mut numbers = release.split(['.', '-']).map_while(|part| part.parse().ok());
    let version: (u32, u32) = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    let method = if version >= (5, 8) { "syncfs" } else { "fsync" };
    ("recovery_init_sync_method", method)
}

/// The block goes last, so that it wins over what `initdb` wrote.
fn with_block(conf: &str, block: &str) -> String {
    let kept = match (conf.find(BEGIN), conf.find(END)) {
        (Some(begin), Some(end)) if begin < end => {
            format!("{}{}", &conf[..begin], &conf[end + END.len()..])
        }
        _ => conf.to_owned(),
    };
    let gap = if kept.is_empty() || kept.ends_with('\n') {
        ""
    } else {
        "\n"
    };
    format!("{kept}{gap}{block}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect()
    }

    #[test]
    fn settings_that_break_a_promise_are_refused() {
        for name in [
            "synchronous_commit",
            "Synchronous_Standby_Names",
            "fsync",
            "full_page_writes",
            "listen_addresses",
            "wal_level",
            "restart_after_crash",
            "primary_conninfo",
            "archive_command",
            "recovery_min_apply_delay",
            "client_min_messages",
            "unix_socket_directories",
            "include_if_exists",
            "fsync = off\nwork_mem",
            "",
        ] {
            let error = check(&settings(&[(name, "off")])).unwrap_err();
            assert!(matches!(error, Error::RefusedSetting { .. }), "{name}");
        }
        check(&settings(&[
            ("work_mem", "8MB"),
            ("auto_explain.log_min_duration", "1s"),
        ]))
        .unwrap();
    }

    #[test]
    fn the_block_is_replaced_and_nothing_else() {
        let first = with_block("max_connections = 100\n", &block(&settings(&[])));
        let second = with_block(&first, &block(&settings(&[("work_mem", "it's \\ 8MB")])));
        assert!(second.starts_with("max_connections = 100\n# howdah: begin"));
        assert_eq!(second.matches(BEGIN).count(), 1);
        assert!(second.contains(r"work_mem = 'it''s \\ 8MB'"));
        assert_eq!(with_block(&second, &block(&settings(&[]))), first);
    }
}
